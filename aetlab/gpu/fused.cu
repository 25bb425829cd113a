// Multislice steps in shared memory: FFT, factor and inverse FFT along y; inverse FFT, slice and FFT along x.
//
// Notation: forward/multislice.py. Planes are complex (X, Y). Between the kernels along x ("columns") and along y ("rows")
// the rows of a plane are frequencies along x, in scrambled order. Factors lie in scrambled order along both axes.

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

// plane = `factor` (X, Y) · plane, for `plane` in frequencies along x.
extern "C" __global__ void multiply_columns(const float2* __restrict__ factor, int n_x, int n_y, int radices,
                                            const float2* __restrict__ twiddle, float2* __restrict__ plane) {
    __shared__ float2 room[COLUMNS * LONGEST];
    const Columns columns(n_x, n_y);
    columns.load(plane, room);
    transform<COLUMNS, true>(room, n_x, radices, twiddle);
    for (int item = threadIdx.x; item < n_x * COLUMNS; item += blockDim.x)
        if (columns.has(item)) room[item] = product(room[item], factor[columns.at(item)]);
    __syncthreads();
    transform<COLUMNS, false>(room, n_x, radices, twiddle);
    columns.store(room, plane);
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
