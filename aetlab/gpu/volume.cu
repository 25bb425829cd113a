// Kernels over the whole volume: proximal operators (notation: solve/fista.py) and Nesterov's step.
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
};

// One component of r = (1 + β) p - β q.
struct Extrapolated {
    const float* p;
    const float* q;
    float gain, beta;
    __device__ float operator[](long long i) const { return p[i] * gain - q[i] * beta; }
};

// Values on rows of y, of which `behind` (Z, X) and `before` (Z, X) hold those next to the last and the first one of a
// slab. In a volume that is not a slab the rows are periodic. `row` is the index of the first value of a row.
template <bool SLAB, typename Values>
struct Rows {
    Values inside, behind, before;
    int n_y;
    __device__ float at(long long row, int y) const { return inside[row + y]; }
    __device__ float after(long long row, int y) const {
        if (SLAB && y == n_y - 1) return behind[row / n_y];
        return inside[row + (y < n_y - 1 ? y + 1 : 0)];
    }
    __device__ float preceding(long long row, int y) const {
        if (SLAB && y == 0) return before[row / n_y];
        return inside[row + (y > 0 ? y - 1 : n_y - 1)];
    }
};

// u = max(0, b - λ Dᵀ p), λ the threshold; u may alias b.
template <bool SLAB>
__device__ void tv_primal_of(const float* b, const float* __restrict__ p, const float* __restrict__ p_halo, float threshold,
                             int n_z, int n_x, int n_y, float* u) {
    const Voxel v(n_z, n_x, n_y);
    if (v.x >= n_x || v.y >= n_y) return;
    const float* px = p + v.n;
    const long long columns = (long long)n_z * n_x;
    const Rows<SLAB, const float*> py = {px + v.n, p_halo + 2 * columns, p_halo + 3 * columns, n_y};
    const float sum = p[v.before_z(n_z)] - p[v.here] + px[v.before_x(n_x, n_y)] - px[v.here] +
                      py.preceding(v.here - v.y, v.y) - py.at(v.here - v.y, v.y);
    u[v.here] = fmaxf(b[v.here] - sum * threshold, 0.0f);
}

extern "C" __global__ void tv_primal(const float* b, const float* __restrict__ p, float threshold, int n_z, int n_x, int n_y,
                                     float* u) {
    tv_primal_of<false>(b, p, p, threshold, n_z, n_x, n_y, u);
}

// As `tv_primal` for a slab, with the halo of p as for `tv_step_in_slab`.
extern "C" __global__ void tv_primal_in_slab(const float* b, const float* __restrict__ p, const float* __restrict__ p_halo,
                                             float threshold, int n_z, int n_x, int n_y, float* u) {
    tv_primal_of<true>(b, p, p_halo, threshold, n_z, n_x, n_y, u);
}

// One dual iteration, in one pass: every thread computes u at its voxel and at the next voxels along z, x and y, and
// proceeds along z, where it keeps what the next layer needs. The new dual variables go to `next`, since other threads
// still read the old ones.
template <bool SLAB>
__device__ __forceinline__ void tv_step_of(const float* __restrict__ b, const float* __restrict__ b_halo,
                                           const float* __restrict__ p, const float* __restrict__ p_halo,
                                           const float* __restrict__ q, const float* __restrict__ q_halo, float beta,
                                           float threshold, float step, int n_z, int n_x, int n_y,
                                           float* __restrict__ next, float* __restrict__ edges) {
    const int y = blockIdx.x * blockDim.x + threadIdx.x, x = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= n_x || y >= n_y) return;
    const long long plane = (long long)n_x * n_y, n = n_z * plane, columns = (long long)n_z * n_x;
    const float gain = 1.0f + beta;
    const Extrapolated of_z = {p, q, gain, beta}, of_x = {p + n, q + n, gain, beta}, of_y = {p + 2 * n, q + 2 * n, gain, beta};
    const Extrapolated halo_z = {p_halo, q_halo, gain, beta}, halo_x = {p_halo + columns, q_halo + columns, gain, beta};
    const Extrapolated halo_y = {p_halo + 2 * columns, q_halo + 2 * columns, gain, beta};
    const Extrapolated front = {p_halo + 3 * columns, q_halo + 3 * columns, gain, beta};
    const Rows<SLAB, Extrapolated> rz = {of_z, halo_z, front, n_y}, rx = {of_x, halo_x, front, n_y};
    const Rows<SLAB, Extrapolated> ry = {of_y, halo_y, front, n_y};
    const Rows<SLAB, const float*> rows = {b, b_halo, b_halo, n_y};
    const long long row = (long long)x * n_y, row_before = (x > 0 ? x - 1 : n_x - 1) * (long long)n_y;
    const long long row_after = (x < n_x - 1 ? x + 1 : 0) * (long long)n_y;

    const int first = blockIdx.z * DEEP, end = min(n_z, first + DEEP);
    const long long above = (first > 0 ? first - 1 : n_z - 1) * plane;
    long long here = first * plane;
    // r along z of the layer before, at this column and its neighbours; r and u at this voxel.
    float before = rz.at(above + row, y), before_x = rz.at(above + row_after, y), before_y = rz.after(above + row, y);
    float z0 = rz.at(here + row, y), x0 = rx.at(here + row, y), y0 = ry.at(here + row, y);
    float u = before - z0 + rx.at(here + row_before, y) - x0 + ry.preceding(here + row, y) - y0;
    u = fmaxf(b[here + row + y] - threshold * u, 0.0f);
    for (int z = first; z < end; ++z) {
        const float zx = rz.at(here + row_after, y), zy = rz.after(here + row, y);
        float ux = before_x - zx + x0 - rx.at(here + row_after, y) + ry.preceding(here + row_after, y) -
                   ry.at(here + row_after, y);
        float uy = before_y - zy + rx.after(here + row_before, y) - rx.after(here + row, y) + y0 - ry.after(here + row, y);
        ux = fmaxf(b[here + row_after + y] - threshold * ux, 0.0f);
        uy = fmaxf(rows.after(here + row, y) - threshold * uy, 0.0f);
        const long long below = z < n_z - 1 ? here + plane : 0;
        const float z1 = rz.at(below + row, y), x1 = rx.at(below + row, y), y1 = ry.at(below + row, y);
        float uz = z0 - z1 + rx.at(below + row_before, y) - x1 + ry.preceding(below + row, y) - y1;
        uz = fmaxf(b[below + row + y] - threshold * uz, 0.0f);

        const float az = z0 + (uz - u) * step, ax = x0 + (ux - u) * step, ay = y0 + (uy - u) * step;
        const float scale = 1.0f / fmaxf(sqrtf(az * az + ax * ax + ay * ay), 1.0f);
        const long long voxel = here + row + y;
        next[voxel] = az * scale;
        next[n + voxel] = ax * scale;
        next[2 * n + voxel] = ay * scale;
        if (SLAB && y == 0) {
            const long long column = (long long)z * n_x + x;
            edges[column] = az * scale;
            edges[columns + column] = ax * scale;
            edges[2 * columns + column] = ay * scale;
        }
        if (SLAB && y == n_y - 1) edges[3 * columns + (long long)z * n_x + x] = ay * scale;
        before_x = zx;
        before_y = zy;
        z0 = z1;
        x0 = x1;
        y0 = y1;
        u = uz;
        here = below;
    }
}

extern "C" __global__ void tv_step(const float* __restrict__ b, const float* __restrict__ p, const float* __restrict__ q,
                                   float beta, float threshold, float step, int n_z, int n_x, int n_y,
                                   float* __restrict__ next) {
    tv_step_of<false>(b, b, p, p, q, q, beta, threshold, step, n_z, n_x, n_y, next, next);
}

// As `tv_step` for a slab. `b_halo` (Z, X) holds b on the row of y behind the slab. The halos of p and q (4, Z, X) hold the
// components along z, x, y on that row, and the component along y on the row in front. `edges` (4, Z, X) receives the
// components along z, x, y of the new dual variables on the first row, which the slab in front needs as its halo, and the
// component along y on the last row, for the slab behind.
extern "C" __global__ void tv_step_in_slab(const float* __restrict__ b, const float* __restrict__ b_halo,
                                           const float* __restrict__ p, const float* __restrict__ p_halo,
                                           const float* __restrict__ q, const float* __restrict__ q_halo, float beta,
                                           float threshold, float step, int n_z, int n_x, int n_y,
                                           float* __restrict__ next, float* __restrict__ edges) {
    tv_step_of<true>(b, b_halo, p, p_halo, q, q_halo, beta, threshold, step, n_z, n_x, n_y, next, edges);
}

// Copy `width` values of each row, from column `from` of rows of n_source values to column `to` of rows of n_target. The
// copied values are n.
extern "C" __global__ void copy_columns(const float* __restrict__ source, int n_source, int from, int width, int n_target,
                                        int to, long long n, float* __restrict__ target) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const long long row = i / width;
    const int column = (int)(i - row * width);
    target[row * n_target + to + column] = source[row * n_source + from + column];
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
