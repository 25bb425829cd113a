// Kernels over the whole volume: proximal operators (notation: solve/kernels_numba.py) and Nesterov's step.
//
// Volumes are (Z, X, Y) of n voxels, dual variables p and q (3, Z, X, Y) with components along z, x, y. Differences are
// periodic. One dual iteration is the projection of r + step · D u onto the unit ball with r = (1 + β) p - β q and
// u = max(0, b - λ Dᵀ r).

#define DEEP 8  // layers of a thread of tv_step

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
};

// u = max(0, b - λ Dᵀ p), λ the threshold; u may alias b.
extern "C" __global__ void tv_primal(const float* b, const float* __restrict__ p, float threshold, int n_z, int n_x, int n_y,
                                     float* u) {
    const Voxel v(n_z, n_x, n_y);
    if (v.x >= n_x || v.y >= n_y) return;
    const float* px = p + v.n;
    const float* py = px + v.n;
    const float sum = p[v.before_z(n_z)] - p[v.here] + px[v.before_x(n_x, n_y)] - px[v.here] + py[v.before_y(n_y)] -
                      py[v.here];
    u[v.here] = fmaxf(b[v.here] - sum * threshold, 0.0f);
}

// One component of r = (1 + β) p - β q.
struct Extrapolated {
    const float* p;
    const float* q;
    float gain, beta;
    __device__ float operator[](long long i) const { return p[i] * gain - q[i] * beta; }
};

// One dual iteration, in one pass: every thread computes u at its voxel and at the next voxels along z, x and y, and
// proceeds along z, where it keeps what the next layer needs. The new dual variables go to `next`, since other threads
// still read the old ones.
extern "C" __global__ void tv_step(const float* __restrict__ b, const float* __restrict__ p, const float* __restrict__ q,
                                   float beta, float threshold, float step, int n_z, int n_x, int n_y,
                                   float* __restrict__ next) {
    const int y = blockIdx.x * blockDim.x + threadIdx.x, x = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= n_x || y >= n_y) return;
    const long long plane = (long long)n_x * n_y, n = n_z * plane;
    const Extrapolated rz = {p, q, 1.0f + beta, beta}, rx = {p + n, q + n, 1.0f + beta, beta};
    const Extrapolated ry = {p + 2 * n, q + 2 * n, 1.0f + beta, beta};
    const long long row = (long long)x * n_y, row_before = (x > 0 ? x - 1 : n_x - 1) * (long long)n_y;
    const long long row_after = (x < n_x - 1 ? x + 1 : 0) * (long long)n_y;
    const int y_before = y > 0 ? y - 1 : n_y - 1, y_after = y < n_y - 1 ? y + 1 : 0;

    const int first = blockIdx.z * DEEP, end = min(n_z, first + DEEP);
    const long long above = (first > 0 ? first - 1 : n_z - 1) * plane;
    long long here = first * plane;
    // r along z of the layer before, at this column and its neighbours; r and u at this voxel.
    float before = rz[above + row + y], before_x = rz[above + row_after + y], before_y = rz[above + row + y_after];
    float z0 = rz[here + row + y], x0 = rx[here + row + y], y0 = ry[here + row + y];
    float u = before - z0 + rx[here + row_before + y] - x0 + ry[here + row + y_before] - y0;
    u = fmaxf(b[here + row + y] - threshold * u, 0.0f);
    for (int z = first; z < end; ++z) {
        const long long beside = here + row_after + y, behind = here + row + y_after;
        const float zx = rz[beside], zy = rz[behind];
        float ux = before_x - zx + x0 - rx[beside] + ry[here + row_after + y_before] - ry[beside];
        float uy = before_y - zy + rx[here + row_before + y_after] - rx[behind] + y0 - ry[behind];
        ux = fmaxf(b[beside] - threshold * ux, 0.0f);
        uy = fmaxf(b[behind] - threshold * uy, 0.0f);
        const long long below = z < n_z - 1 ? here + plane : 0;
        const float z1 = rz[below + row + y], x1 = rx[below + row + y], y1 = ry[below + row + y];
        float uz = z0 - z1 + rx[below + row_before + y] - x1 + ry[below + row + y_before] - y1;
        uz = fmaxf(b[below + row + y] - threshold * uz, 0.0f);

        const float az = z0 + (uz - u) * step, ax = x0 + (ux - u) * step, ay = y0 + (uy - u) * step;
        const float scale = 1.0f / fmaxf(sqrtf(az * az + ax * ax + ay * ay), 1.0f);
        const long long voxel = here + row + y;
        next[voxel] = az * scale;
        next[n + voxel] = ax * scale;
        next[2 * n + voxel] = ay * scale;
        before_x = zx;
        before_y = zy;
        z0 = z1;
        x0 = x1;
        y0 = y1;
        u = uz;
        here = below;
    }
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
