// Kernels of the multislice steps between Fourier transforms, of the images and of back-propagation.
//
// Notation: forward/multislice.py. Planes are complex (X, Y) of n pixels. Transforms are not normalised; the factors
// include 1/n.

// Pass the incident wave 1 through the first slice.
extern "C" __global__ void enter(float phase, const float* __restrict__ slice_V, int n, float2* __restrict__ wave) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) wave[i] = transmission(phase, slice_V[i]);
}

// wave = plane · exp(i phase slice_V)
extern "C" __global__ void transmit(float phase, const float* __restrict__ slice_V, const float2* __restrict__ plane,
                                    int n, float2* __restrict__ wave) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) wave[i] = product(plane[i], transmission(phase, slice_V[i]));
}

extern "C" __global__ void multiply(const float2* __restrict__ factor, int n, float2* __restrict__ plane) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) plane[i] = product(plane[i], factor[i]);
}

extern "C" __global__ void multiply_conjugate(const float2* __restrict__ factor, int n, float2* __restrict__ plane) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) plane[i] = conjugate_product(plane[i], factor[i]);
}

// images[f] = plane · transfer[f] for the F defoci. `transfer` (K, F, X, Y) holds K sets, `set_of` (T) is the set of
// each tilt.
extern "C" __global__ void to_images(const float2* __restrict__ plane, const float2* __restrict__ transfer,
                                     const int* __restrict__ set_of, const int* __restrict__ now, int n_images, int n,
                                     float2* __restrict__ images) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const float2 p = plane[i];
    const float2* own = transfer + (long long)set_of[now[0]] * n_images * n;
    for (int f = 0; f < n_images; ++f) {
        const long long at = (long long)f * n + i;
        images[at] = product(p, own[at]);
    }
}

// plane = Σ_f images[f] · conj(transfer[f]), the transfer functions as in `to_images`
extern "C" __global__ void from_images(const float2* __restrict__ images, const float2* __restrict__ transfer,
                                       const int* __restrict__ set_of, const int* __restrict__ now, int n_images, int n,
                                       float2* __restrict__ plane) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const float2* own = transfer + (long long)set_of[now[0]] * n_images * n;
    float2 sum = make_float2(0.0f, 0.0f);
    for (int f = 0; f < n_images; ++f) {
        const long long at = (long long)f * n + i;
        const float2 term = conjugate_product(images[at], own[at]);
        sum = make_float2(sum.x + term.x, sum.y + term.y);
    }
    plane[i] = sum;
}

// Replace ψ by w (ψ - a ψ/|ψ|) (0 where ψ is 0). `amplitude` (T, rows, Y) holds a of all tilts and `weight` (T, rows, K)
// w, as in `weight_of`. A block processes one row of the images and writes ½ Σ w |residual|² to `row_cost`.
extern "C" __global__ void residual(const float* __restrict__ amplitude, const float* __restrict__ weight, int n_weights,
                                    const int* __restrict__ now, int n_rows, int n_y, float2* __restrict__ images,
                                    double* __restrict__ row_cost) {
    __shared__ double room[128];
    const long long row = blockIdx.x, row_of_all = (long long)now[0] * n_rows + row;
    const float* measured = amplitude + row_of_all * n_y;
    float2* wave = images + row * n_y;
    double total = 0.0;
    for (int y = threadIdx.x; y < n_y; y += blockDim.x) {
        const float w = weight_of(weight, n_weights, row_of_all, y);
        wave[y] = amplitude_difference(wave[y], measured[y], w, &total);
    }
    total = sum_over_block(total, room);
    if (threadIdx.x == 0) row_cost[row] = 0.5 * total;
}

// Replace ψ by the gradient of ¼ Σ w (m - I + I log(I/m)) with m = |ψ|² + background, I = a²; otherwise as `residual`.
extern "C" __global__ void poisson_residual(const float* __restrict__ amplitude, const float* __restrict__ weight,
                                            int n_weights, const int* __restrict__ now, float background, int n_rows,
                                            int n_y, float2* __restrict__ images, double* __restrict__ row_cost) {
    __shared__ double room[128];
    const long long row = blockIdx.x, row_of_all = (long long)now[0] * n_rows + row;
    const float* measured = amplitude + row_of_all * n_y;
    float2* wave = images + row * n_y;
    double total = 0.0;
    for (int y = threadIdx.x; y < n_y; y += blockDim.x) {
        const float w = weight_of(weight, n_weights, row_of_all, y);
        wave[y] = poisson_difference(wave[y], measured[y], w, background, &total);
    }
    total = sum_over_block(total, room);
    if (threadIdx.x == 0) row_cost[row] = 0.25 * total;
}

// planes = |images|², real, for n pixels of all images
extern "C" __global__ void intensities(const float2* __restrict__ images, int n, float2* __restrict__ planes) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) planes[i] = make_float2(images[i].x * images[i].x + images[i].y * images[i].y, 0.0f);
}

// images = images · planes, planes real
extern "C" __global__ void weigh(const float2* __restrict__ planes, int n, float2* __restrict__ images) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) images[i] = make_float2(images[i].x * planes[i].x, images[i].y * planes[i].x);
}

// Replace detected intensities m by f = 2 ∂c/∂m (forward/detector.py), c ½ w (√m - a)², or for a background above 0 that
// of `poisson_residual`; below `darkest` m counts as that. Otherwise as `residual`.
extern "C" __global__ void detected_residual(const float* __restrict__ amplitude, const float* __restrict__ weight,
                                             int n_weights, const int* __restrict__ now, float background,
                                             float darkest, int n_rows, int n_y, float2* __restrict__ planes,
                                             double* __restrict__ row_cost) {
    __shared__ double room[128];
    const long long row = blockIdx.x, row_of_all = (long long)now[0] * n_rows + row;
    const float* measured = amplitude + row_of_all * n_y;
    float2* plane = planes + row * n_y;
    double total = 0.0;
    for (int y = threadIdx.x; y < n_y; y += blockDim.x) {
        const double w = weight_of(weight, n_weights, row_of_all, y), a = measured[y];
        const double m = plane[y].x < darkest ? darkest : plane[y].x;
        double factor;
        if (background > 0.0f) {
            const double model = m + background;
            total += 0.5 * w * (model - a * a + (a > 0.0 ? a * a * log(a * a / model) : 0.0));
            factor = w * (model - a * a) / (2.0 * model);
        } else {
            const double modulus = sqrt(m);
            total += w * (modulus - a) * (modulus - a);
            factor = w * (1.0 - a / modulus);
        }
        plane[y] = make_float2(plane[y].x < darkest ? 0.0f : (float)factor, 0.0f);
    }
    total = sum_over_block(total, room);
    if (threadIdx.x == 0) row_cost[row] = 0.5 * total;
}

// costs[now[1]] = Σ row_cost, computed by one block
extern "C" __global__ void sum_cost(const double* __restrict__ row_cost, const int* __restrict__ now, int n_rows,
                                    double* __restrict__ costs) {
    __shared__ double room[256];
    double total = 0.0;
    for (int row = threadIdx.x; row < n_rows; row += blockDim.x) total += row_cost[row];
    total = sum_over_block(total, room);
    if (threadIdx.x == 0) costs[now[1]] = total;
}

// `adjoint` is φ and `wave` the wave behind the slice. Replace slice_V by the gradient phase · Im(φ wave*), and φ by
// φ · exp(-i phase slice_V).
extern "C" __global__ void back_transmit(float phase, const float2* __restrict__ wave, int n, float2* __restrict__ adjoint,
                                         float* __restrict__ slice_V) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const float2 phi = adjoint[i];
    const float2 t = transmission(phase, slice_V[i]);
    slice_V[i] = phase * conjugate_product(phi, wave[i]).y;
    adjoint[i] = conjugate_product(phi, t);
}
