// FFTs of lines in shared memory, for the kernels of several files; read_source puts this text in front of each.
//
// The transforms are those of core/simd_fft.py: forward is decimation in frequency, natural to scrambled order; inverse is
// decimation in time, scrambled to natural order; neither is normalised. `radices` holds the radices of the forward stages,
// 4 bits each, the first in the lowest bits. `twiddle` (n) holds exp(-2πi k/n).
#ifndef AETLAB_FFT
#define AETLAB_FFT

#define LONGEST 1440  // longest line; COLUMNS of them fill the shared memory of a block
#define COLUMNS 4     // lines of a block that are interleaved: neighbouring y, 32 bytes of a complex row

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

#endif
