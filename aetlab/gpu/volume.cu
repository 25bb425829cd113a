// Kernels over the whole volume: proximal operators (notation: solve/kernels_numba.py) and Nesterov's step.
//
// Volumes are (Z, X, Y) of n voxels, dual variables p and q (3, Z, X, Y) with components along z, x, y. Differences are
// periodic. One dual iteration takes two passes: u = max(0, b - λ Dᵀ r) with r = (1 + β) p - β q, then the projection of
// r + step · D u onto the unit ball, which overwrites q.

struct Voxel {
    int y, x, z;
    long long here, plane, n;  // index of voxel (z, x, y), size of one z plane, size of the volume

    __device__ Voxel(int n_z, int n_x, int n_y)
        : y(blockIdx.x * blockDim.x + threadIdx.x), x(blockIdx.y * blockDim.y + threadIdx.y), z(blockIdx.z) {
        plane = (long long)n_x * n_y;
        n = n_z * plane;
        here = z * plane + (long long)x * n_y + y;
    }
    __device__ long long before_z(int n_z) const { return z > 0 ? here - plane : here + (n_z - 1) * plane; }
    __device__ long long before_x(int n_x, int n_y) const { return x > 0 ? here - n_y : here + plane - n_y; }
    __device__ long long before_y(int n_y) const { return y > 0 ? here - 1 : here + n_y - 1; }
    __device__ long long after_z(int n_z) const { return z < n_z - 1 ? here + plane : here - (n_z - 1) * plane; }
    __device__ long long after_x(int n_x, int n_y) const { return x < n_x - 1 ? here + n_y : here - plane + n_y; }
    __device__ long long after_y(int n_y) const { return y < n_y - 1 ? here + 1 : here - n_y + 1; }
};

// u may alias b.
extern "C" __global__ void tv_primal(const float* b, const float* __restrict__ p, const float* __restrict__ q, float beta,
                                     float threshold, int n_z, int n_x, int n_y, float* u) {
    const Voxel v(n_z, n_x, n_y);
    if (v.x >= n_x || v.y >= n_y) return;
    const float gain = 1.0f + beta;
    const long long z = v.before_z(n_z), x = v.n + v.before_x(n_x, n_y), y = 2 * v.n + v.before_y(n_y);
    const long long z0 = v.here, x0 = v.n + v.here, y0 = 2 * v.n + v.here;
    const float sum = (p[z] - p[z0]) * gain - (q[z] - q[z0]) * beta + (p[x] - p[x0]) * gain - (q[x] - q[x0]) * beta +
                      (p[y] - p[y0]) * gain - (q[y] - q[y0]) * beta;
    u[v.here] = fmaxf(b[v.here] - sum * threshold, 0.0f);
}

extern "C" __global__ void tv_dual(const float* __restrict__ u, const float* __restrict__ p, float beta, float step,
                                   int n_z, int n_x, int n_y, float* __restrict__ q) {
    const Voxel v(n_z, n_x, n_y);
    if (v.x >= n_x || v.y >= n_y) return;
    const float gain = 1.0f + beta, here = u[v.here];
    const long long z0 = v.here, x0 = v.n + v.here, y0 = 2 * v.n + v.here;
    const float a = p[z0] * gain - q[z0] * beta + (u[v.after_z(n_z)] - here) * step;
    const float b = p[x0] * gain - q[x0] * beta + (u[v.after_x(n_x, n_y)] - here) * step;
    const float c = p[y0] * gain - q[y0] * beta + (u[v.after_y(n_y)] - here) * step;
    const float scale = 1.0f / fmaxf(sqrtf(a * a + b * b + c * c), 1.0f);
    q[z0] = a * scale;
    q[x0] = b * scale;
    q[y0] = c * scale;
}

// Move every voxel towards 0 by `threshold`.
extern "C" __global__ void soft_threshold(float threshold, long long n, float* __restrict__ volume) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) volume[i] = fmaxf(volume[i] - threshold, fminf(volume[i] + threshold, 0.0f));
}

// Replace every voxel v by max(0, v - threshold · metric · weights). If per_metric or per_weights is 0, the first value
// of that array holds for all voxels.
extern "C" __global__ void sparsify(float threshold, const float* __restrict__ metric, int per_metric,
                                    const float* __restrict__ weights, int per_weights, long long n,
                                    float* __restrict__ volume) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) volume[i] = fmaxf(volume[i] - threshold * metric[i * per_metric] * weights[i * per_weights], 0.0f);
}

extern "C" __global__ void clip_negative(long long n, float* __restrict__ volume) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) volume[i] = fmaxf(volume[i], 0.0f);
}

// Replace volume by volume + beta · (volume - previous), and previous by the old volume.
extern "C" __global__ void extrapolate(float beta, long long n, float* __restrict__ volume,
                                       float* __restrict__ previous) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const float v = volume[i];
    volume[i] = v + beta * (v - previous[i]);
    previous[i] = v;
}
