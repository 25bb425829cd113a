// Functions that the kernels of several files use; read_source puts this text in front of each.
#ifndef AETLAB_COMMON
#define AETLAB_COMMON

__device__ float2 product(float2 a, float2 b) { return make_float2(a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x); }

// a · conj(b)
__device__ float2 conjugate_product(float2 a, float2 b) {
    return make_float2(a.x * b.x + a.y * b.y, a.y * b.x - a.x * b.y);
}

__device__ float2 transmission(float phase, float slice_V) {
    // Of half turns: its argument needs no reduction by memory of a thread.
    float2 t;
    sincospif(phase * slice_V * 0.318309886183791f, &t.y, &t.x);
    return t;
}

// Sum one number of each thread of a block in a fixed order; thread 0 has the complete sum. `room` is shared memory.
__device__ double sum_over_block(double number, double* room) {
    room[threadIdx.x] = number;
    __syncthreads();
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) room[threadIdx.x] += room[threadIdx.x + half];
        __syncthreads();
    }
    return room[0];
}

// The weight of pixel y of a row of `weight` (rows, K): K is 0 (no weights: 1), 1 (one for the row) or n_y.
__device__ float weight_of(const float* __restrict__ weight, int n_weights, long long row, int y) {
    if (n_weights == 0) return 1.0f;
    return weight[row * n_weights + (n_weights == 1 ? 0 : y)];
}

// Add w (|ψ| - a)² to `total` and return w (ψ - a ψ/|ψ|), 0 where ψ is 0.
__device__ float2 amplitude_difference(float2 psi, float a, float w, double* total) {
    const float modulus = sqrtf(psi.x * psi.x + psi.y * psi.y);
    const float difference = modulus - a;
    const float weighted = w * difference;
    const float factor = modulus == 0.0f ? 0.0f : weighted / modulus;
    *total += (double)weighted * difference;
    return make_float2(factor * psi.x, factor * psi.y);
}

// Add w (m - I + I log(I/m)) with m = |ψ|² + background, I = a² to `total` and return the gradient of a quarter of it.
// In double precision: the terms nearly cancel.
__device__ float2 poisson_difference(float2 psi, float a, double w, float background, double* total) {
    const double model = (double)psi.x * psi.x + (double)psi.y * psi.y + background;
    const double measured = (double)a * a;
    *total += w * (model - measured + (measured > 0.0 ? measured * log(measured / model) : 0.0));
    const float factor = (float)(w * (model - measured) / (2.0 * model));
    return make_float2(factor * psi.x, factor * psi.y);
}

#endif
