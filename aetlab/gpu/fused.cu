// Multislice steps in shared memory: FFT, factor and inverse FFT along y; inverse FFT, slice and FFT along x.
//
// Notation: forward/multislice.py. Planes are complex (X, Y). Between the kernels along x ("columns") and along y ("rows")
// the rows of a plane are frequencies along x, in scrambled order. Factors lie in scrambled order along both axes. The
// transforms are those of core/simd_fft.py: forward is decimation in frequency, natural to scrambled order; inverse is
// decimation in time, scrambled to natural order; neither is normalised. `radices` holds the radices of the forward stages,
// 4 bits each, the first in the lowest bits. `twiddle` (n) holds exp(-2πi k/n).

#define LONGEST 1440  // longest side; COLUMNS of them fill the shared memory of a block
#define COLUMNS 4     // neighbouring y of a block of the kernels along x: 32 bytes of a row

__device__ __forceinline__ float2 plus(float2 a, float2 b) { return make_float2(a.x + b.x, a.y + b.y); }
__device__ __forceinline__ float2 minus(float2 a, float2 b) { return make_float2(a.x - b.x, a.y - b.y); }
__device__ __forceinline__ float2 plus_i(float2 a, float2 b) { return make_float2(a.x - b.y, a.y + b.x); }
__device__ __forceinline__ float2 minus_i(float2 a, float2 b) { return make_float2(a.x + b.y, a.y - b.x); }
__device__ __forceinline__ float2 times(float2 a, float s) { return make_float2(a.x * s, a.y * s); }

// Transforms of 2, 3, 4, 5 or 8 values in place, kernel exp(-2πi jk/RADIX).
template <int RADIX>
__device__ __forceinline__ void butterfly(float2* v);

template <>
__device__ __forceinline__ void butterfly<2>(float2* v) {
    const float2 a = v[0];
    v[0] = plus(a, v[1]);
    v[1] = minus(a, v[1]);
}

template <>
__device__ __forceinline__ void butterfly<3>(float2* v) {
    const float2 sum = plus(v[1], v[2]), side = times(minus(v[1], v[2]), 0.866025403784439f);
    const float2 middle = minus(v[0], times(sum, 0.5f));
    v[0] = plus(v[0], sum);
    v[1] = minus_i(middle, side);
    v[2] = plus_i(middle, side);
}

__device__ __forceinline__ void butterfly_of(float2& a, float2& b, float2& c, float2& d) {
    const float2 e = plus(a, c), f = minus(a, c), g = plus(b, d), h = minus(b, d);
    a = plus(e, g);
    b = minus_i(f, h);
    c = minus(e, g);
    d = plus_i(f, h);
}

template <>
__device__ __forceinline__ void butterfly<4>(float2* v) {
    butterfly_of(v[0], v[1], v[2], v[3]);
}

template <>
__device__ __forceinline__ void butterfly<5>(float2* v) {
    const float cos_72 = 0.309016994374947f, sin_72 = 0.951056516295154f;
    const float cos_144 = -0.809016994374947f, sin_144 = 0.587785252292473f;
    const float2 p = plus(v[1], v[4]), q = minus(v[1], v[4]), r = plus(v[2], v[3]), s = minus(v[2], v[3]);
    const float2 m = plus(v[0], plus(times(p, cos_72), times(r, cos_144)));
    const float2 n = plus(v[0], plus(times(p, cos_144), times(r, cos_72)));
    const float2 u = plus(times(q, sin_72), times(s, sin_144)), w = minus(times(q, sin_144), times(s, sin_72));
    v[0] = plus(v[0], plus(p, r));
    v[1] = minus_i(m, u);
    v[2] = minus_i(n, w);
    v[3] = plus_i(n, w);
    v[4] = plus_i(m, u);
}

template <>
__device__ __forceinline__ void butterfly<8>(float2* v) {
    const float half_root = 0.707106781186548f;
    butterfly_of(v[0], v[2], v[4], v[6]);
    butterfly_of(v[1], v[3], v[5], v[7]);
    const float2 b = v[1], f = v[5];
    const float2 d = make_float2((v[3].x + v[3].y) * half_root, (v[3].y - v[3].x) * half_root);
    const float2 h = make_float2((v[7].x - v[7].y) * half_root, (v[7].x + v[7].y) * half_root);
    const float2 a = v[0], c = v[2], e = v[4], g = v[6];
    v[0] = plus(a, b);
    v[1] = plus(c, d);
    v[2] = minus_i(e, f);
    v[3] = minus(g, h);
    v[4] = minus(a, b);
    v[5] = minus(c, d);
    v[6] = plus_i(e, f);
    v[7] = plus(g, h);
}

// One stage of LINES interleaved transforms of length n. `part` is the distance of the values of a butterfly. The inverse
// exchanges real and imaginary parts, which turns the kernel into its conjugate.
template <int LINES, int RADIX, bool INVERSE>
__device__ __forceinline__ void stage(float2* room, int n, int part, const float2* __restrict__ twiddle) {
    const int step = n / (part * RADIX);
    for (int item = threadIdx.x; item < n / RADIX * LINES; item += blockDim.x) {
        const int line = item % LINES, number = item / LINES;
        const int group = number / part, j = number - group * part;
        float2* first = room + (group * part * RADIX + j) * LINES + line;
        float2 v[RADIX];
#pragma unroll
        for (int m = 0; m < RADIX; ++m) {
            const float2 value = first[m * part * LINES];
            v[m] = INVERSE ? make_float2(value.y, value.x) : value;
            if (INVERSE && m > 0) v[m] = product(v[m], twiddle[j * m * step]);
        }
        butterfly<RADIX>(v);
#pragma unroll
        for (int m = 0; m < RADIX; ++m) {
            if (!INVERSE && m > 0) v[m] = product(v[m], twiddle[j * m * step]);
            first[m * part * LINES] = INVERSE ? make_float2(v[m].y, v[m].x) : v[m];
        }
    }
}

// Transform LINES interleaved lines of length n in place; the threads of the block wait for each other after each stage.
template <int LINES, bool INVERSE>
__device__ __forceinline__ void transform(float2* room, int n, int radices, const float2* __restrict__ twiddle) {
    int n_stages = 0;
    while (radices >> (4 * n_stages)) ++n_stages;
    int part = INVERSE ? 1 : n;
    for (int s = 0; s < n_stages; ++s) {
        const int radix = (radices >> (4 * (INVERSE ? n_stages - 1 - s : s))) & 15;
        if (!INVERSE) part /= radix;
        if (radix == 8) stage<LINES, 8, INVERSE>(room, n, part, twiddle);
        if (radix == 5) stage<LINES, 5, INVERSE>(room, n, part, twiddle);
        if (radix == 4) stage<LINES, 4, INVERSE>(room, n, part, twiddle);
        if (radix == 3) stage<LINES, 3, INVERSE>(room, n, part, twiddle);
        if (radix == 2) stage<LINES, 2, INVERSE>(room, n, part, twiddle);
        if (INVERSE) part *= radix;
        __syncthreads();
    }
}

// The COLUMNS neighbouring y of a block in a stack of planes.
struct Columns {
    int plane, first_y, n_x, n_y;

    __device__ Columns(int n_x, int n_y) : n_x(n_x), n_y(n_y) {
        const int n_blocks = (n_y + COLUMNS - 1) / COLUMNS;
        plane = blockIdx.x / n_blocks;
        first_y = (blockIdx.x - plane * n_blocks) * COLUMNS;
    }
    // Whether item (x, column) lies inside the plane, and its index there.
    __device__ bool has(int item) const { return first_y + item % COLUMNS < n_y; }
    __device__ int at(int item) const { return item / COLUMNS * n_y + first_y + item % COLUMNS; }

    __device__ void load(const float2* planes, float2* room) const {
        const float2* own = planes + (long long)plane * n_x * n_y;
        for (int item = threadIdx.x; item < n_x * COLUMNS; item += blockDim.x)
            room[item] = has(item) ? own[at(item)] : make_float2(0.0f, 0.0f);
        __syncthreads();
    }
    __device__ void store(const float2* room, float2* planes) const {
        float2* own = planes + (long long)plane * n_x * n_y;
        for (int item = threadIdx.x; item < n_x * COLUMNS; item += blockDim.x)
            if (has(item)) own[at(item)] = room[item];
    }
};

// Pass `plane`, frequencies along x, through a slice: `wave` behind it, and its frequencies along x. The incident wave 1
// takes the place of `plane` if `enters` is not 0.
extern "C" __global__ void transmit_columns(float phase, const float* __restrict__ slice_V, int enters, int n_x, int n_y,
                                            int radices, const float2* __restrict__ twiddle, float2* __restrict__ wave,
                                            float2* __restrict__ plane) {
    __shared__ float2 room[COLUMNS * LONGEST];
    const Columns columns(n_x, n_y);
    columns.load(plane, room);
    if (!enters) transform<COLUMNS, true>(room, n_x, radices, twiddle);
    for (int item = threadIdx.x; item < n_x * COLUMNS; item += blockDim.x) {
        if (!columns.has(item)) continue;
        const float2 before = enters ? make_float2(1.0f, 0.0f) : room[item];
        room[item] = product(before, transmission(phase, slice_V[columns.at(item)]));
        wave[columns.at(item)] = room[item];
    }
    __syncthreads();
    transform<COLUMNS, false>(room, n_x, radices, twiddle);
    columns.store(room, plane);
}

// As `back_transmit`, for φ in frequencies along x; `goes_on` is 0 at the first slice, behind which φ is not used.
extern "C" __global__ void back_columns(float phase, const float2* __restrict__ wave, int goes_on, int n_x, int n_y,
                                        int radices, const float2* __restrict__ twiddle, float2* __restrict__ plane,
                                        float* __restrict__ slice_V) {
    __shared__ float2 room[COLUMNS * LONGEST];
    const Columns columns(n_x, n_y);
    columns.load(plane, room);
    transform<COLUMNS, true>(room, n_x, radices, twiddle);
    for (int item = threadIdx.x; item < n_x * COLUMNS; item += blockDim.x) {
        if (!columns.has(item)) continue;
        const int at = columns.at(item);
        const float2 phi = room[item], t = transmission(phase, slice_V[at]);
        slice_V[at] = phase * conjugate_product(phi, wave[at]).y;
        room[item] = conjugate_product(phi, t);
    }
    if (!goes_on) return;
    __syncthreads();
    transform<COLUMNS, false>(room, n_x, radices, twiddle);
    columns.store(room, plane);
}

// As `residual`, or for a background above 0 as `poisson_residual`, for images (F, X, Y) in frequencies along x; a block
// writes its sum to `cost`.
extern "C" __global__ void compare_columns(const float* __restrict__ amplitude, const float* __restrict__ weight,
                                           int n_weights, const int* __restrict__ now, float background, int n_images,
                                           int n_x, int n_y, int radices, const float2* __restrict__ twiddle,
                                           float2* __restrict__ images, double* __restrict__ cost) {
    __shared__ float2 room[COLUMNS * LONGEST];
    __shared__ double sums[256];
    const Columns columns(n_x, n_y);
    columns.load(images, room);
    transform<COLUMNS, true>(room, n_x, radices, twiddle);
    const long long first_row = ((long long)now[0] * n_images + columns.plane) * n_x;
    const bool poisson = background > 0.0f;
    double total = 0.0;
    for (int item = threadIdx.x; item < n_x * COLUMNS; item += blockDim.x) {
        if (!columns.has(item)) continue;
        const long long row = first_row + item / COLUMNS;
        const int y = columns.first_y + item % COLUMNS;
        const float w = weight_of(weight, n_weights, row, y), a = amplitude[row * n_y + y];
        room[item] = poisson ? poisson_difference(room[item], a, w, background, &total)
                             : amplitude_difference(room[item], a, w, &total);
    }
    total = sum_over_block(total, sums);
    if (threadIdx.x == 0) cost[blockIdx.x] = (poisson ? 0.25 : 0.5) * total;
    transform<COLUMNS, false>(room, n_x, radices, twiddle);
    columns.store(room, images);
}

// Transform planes (F, X, Y) from frequencies along x to x in place, or back if `forward` is not 0.
extern "C" __global__ void transform_columns(int forward, int n_x, int n_y, int radices,
                                             const float2* __restrict__ twiddle, float2* __restrict__ planes) {
    __shared__ float2 room[COLUMNS * LONGEST];
    const Columns columns(n_x, n_y);
    columns.load(planes, room);
    if (forward)
        transform<COLUMNS, false>(room, n_x, radices, twiddle);
    else
        transform<COLUMNS, true>(room, n_x, radices, twiddle);
    columns.store(room, planes);
}

// plane = F⁻¹ factor F plane along y, or its adjoint if `back` is not 0; a block processes one row.
extern "C" __global__ void propagate_rows(const float2* __restrict__ factor, int back, int n_y, int radices,
                                          const float2* __restrict__ twiddle, float2* __restrict__ plane) {
    __shared__ float2 room[LONGEST];
    const long long first = (long long)blockIdx.x * n_y;
    for (int y = threadIdx.x; y < n_y; y += blockDim.x) room[y] = plane[first + y];
    __syncthreads();
    transform<1, false>(room, n_y, radices, twiddle);
    for (int y = threadIdx.x; y < n_y; y += blockDim.x) {
        const float2 f = factor[first + y];
        room[y] = product(room[y], back ? make_float2(f.x, -f.y) : f);
    }
    __syncthreads();
    transform<1, true>(room, n_y, radices, twiddle);
    for (int y = threadIdx.x; y < n_y; y += blockDim.x) plane[first + y] = room[y];
}

// images[f] = F⁻¹ transfer[f] F plane along y; the transfer functions as in `to_images`, a block processes one row.
extern "C" __global__ void rows_to_images(const float2* __restrict__ plane, const float2* __restrict__ transfer,
                                          const int* __restrict__ set_of, const int* __restrict__ now, int n_images,
                                          int n_x, int n_y, int radices, const float2* __restrict__ twiddle,
                                          float2* __restrict__ images) {
    __shared__ float2 spectrum[LONGEST], room[LONGEST];
    const long long first = (long long)blockIdx.x * n_y, n = (long long)n_x * n_y;
    const float2* own = transfer + set_of[now[0]] * n_images * n + first;
    for (int y = threadIdx.x; y < n_y; y += blockDim.x) spectrum[y] = plane[first + y];
    __syncthreads();
    transform<1, false>(spectrum, n_y, radices, twiddle);
    for (int f = 0; f < n_images; ++f) {
        for (int y = threadIdx.x; y < n_y; y += blockDim.x) room[y] = product(spectrum[y], own[f * n + y]);
        __syncthreads();
        transform<1, true>(room, n_y, radices, twiddle);
        for (int y = threadIdx.x; y < n_y; y += blockDim.x) images[f * n + first + y] = room[y];
        __syncthreads();
    }
}

// plane = F⁻¹ Σ_f conj(transfer[f]) F images[f] along y.
extern "C" __global__ void rows_from_images(const float2* __restrict__ images, const float2* __restrict__ transfer,
                                            const int* __restrict__ set_of, const int* __restrict__ now, int n_images,
                                            int n_x, int n_y, int radices, const float2* __restrict__ twiddle,
                                            float2* __restrict__ plane) {
    __shared__ float2 sum[LONGEST], room[LONGEST];
    const long long first = (long long)blockIdx.x * n_y, n = (long long)n_x * n_y;
    const float2* own = transfer + set_of[now[0]] * n_images * n + first;
    for (int f = 0; f < n_images; ++f) {
        for (int y = threadIdx.x; y < n_y; y += blockDim.x) room[y] = images[f * n + first + y];
        __syncthreads();
        transform<1, false>(room, n_y, radices, twiddle);
        for (int y = threadIdx.x; y < n_y; y += blockDim.x) {
            const float2 term = conjugate_product(room[y], own[f * n + y]);
            sum[y] = f == 0 ? term : plus(sum[y], term);
        }
        __syncthreads();
    }
    transform<1, true>(sum, n_y, radices, twiddle);
    for (int y = threadIdx.x; y < n_y; y += blockDim.x) plane[first + y] = sum[y];
}
