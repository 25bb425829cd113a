// Kernels that rotate the volume about y and sum it into slices, and the exact adjoint fused with the gradient step.
//
// Volumes are (Z, X, Y) with y contiguous, slices (S, X, Y); both directions gather. A rotated pixel (z', x') samples
// the volume at x = x' cos - z' sin, z = x' sin + z' cos about the centre. For one tilt, `build_rotation` stores where
// each rotated pixel samples the volume. For each voxel it stores the rows (slice, x') that the voxel contributes to,
// with their weights, summed over the layers of a slice. All values that depend on the angle are thus computed once, in
// double precision, and not for every y.

#define LANES 4  // y values per thread, blockDim.x apart

__device__ double interpolation_weight(double distance, int cubic) {
    const double d = fabs(distance);
    if (!cubic) return fmax(0.0, 1.0 - d);
    if (d < 1.0) return (1.5 * d - 2.5) * d * d + 1.0;  // Keys, a = -1/2
    if (d < 2.0) return ((-0.5 * d + 2.5) * d - 4.0) * d + 2.0;
    return 0.0;
}

// Store the values that differ between tilts on the device, so that one recording can be replayed for every tilt.
// `now` holds the index of the tilt and the index of its cost in `costs`, `scale` the factor of the gradient.
extern "C" __global__ void set_tilt(int i_tilt, int place, float factor, int* now, float* scale) {
    now[0] = i_tilt;
    now[1] = place;
    scale[0] = factor;
}

// For each rotated pixel (z, x): `corner` (Z·X, 2) is the first voxel (z, x) that it samples, and `fraction` (Z·X, 2) its
// distance beyond the first (linear) or second (cubic) of these voxels. For each voxel (z, x): `counts` (Z·X) is the
// number of its entries in `rows` and `weights` (Z·X, capacity). `cos_sin` is (T, 2).
extern "C" __global__ void build_rotation(const int* now, const double* cos_sin, int n_z, int n_x, int n_layers,
                                          int cubic, int capacity, int* corner, float* fraction, int* counts, int* rows,
                                          float* weights) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int z = blockIdx.y * blockDim.y + threadIdx.y;
    if (x >= n_x || z >= n_z) return;
    const int here = z * n_x + x;
    const double c = cos_sin[2 * now[0]], s = cos_sin[2 * now[0] + 1];
    const double mid_z = 0.5 * (n_z - 1), mid_x = 0.5 * (n_x - 1);

    const double at_x = (x - mid_x) * c - (z - mid_z) * s + mid_x;
    const double at_z = (x - mid_x) * s + (z - mid_z) * c + mid_z;
    corner[2 * here] = (int)floor(at_z) - cubic;
    corner[2 * here + 1] = (int)floor(at_x) - cubic;
    fraction[2 * here] = (float)(at_z - floor(at_z));
    fraction[2 * here + 1] = (float)(at_x - floor(at_x));

    const double centre_x = (x - mid_x) * c + (z - mid_z) * s + mid_x;
    const double centre_z = (z - mid_z) * c - (x - mid_x) * s + mid_z;
    const double reach = (1.0 + cubic) * (fabs(c) + fabs(s));
    const int first_z = max(0, (int)ceil(centre_z - reach)), last_z = min(n_z - 1, (int)floor(centre_z + reach));
    const int first_x = max(0, (int)ceil(centre_x - reach)), last_x = min(n_x - 1, (int)floor(centre_x + reach));
    int n = 0;
    for (int x_rotated = first_x; x_rotated <= last_x; ++x_rotated) {
        int z_rotated = first_z;
        while (z_rotated <= last_z) {
            const int i_slice = z_rotated / n_layers;
            const int end = min(last_z + 1, (i_slice + 1) * n_layers);
            double weight = 0.0;
            for (; z_rotated < end; ++z_rotated) {
                const double dx = (x_rotated - mid_x) * c - (z_rotated - mid_z) * s + mid_x - x;
                const double dz = (x_rotated - mid_x) * s + (z_rotated - mid_z) * c + mid_z - z;
                weight += interpolation_weight(dx, cubic) * interpolation_weight(dz, cubic);
            }
            if (fabs(weight) > 1e-12 && n < capacity) {
                rows[here * capacity + n] = i_slice * n_x + x_rotated;
                weights[here * capacity + n] = (float)weight;
                ++n;
            }
        }
    }
    counts[here] = n;
}

// Compute voxels and weights of the taps along one axis. A tap outside the volume gets weight 0 and a voxel inside it.
template <int TAPS>
__device__ void place_taps(int corner, float f, int n, int* voxels, float* weights) {
    if (TAPS == 2) {
        weights[0] = 1.0f - f;
        weights[TAPS - 1] = f;
    } else {
        weights[0] = ((-0.5f * f + 1.0f) * f - 0.5f) * f;
        weights[1] = (1.5f * f - 2.5f) * f * f + 1.0f;
        weights[TAPS - 2] = ((-1.5f * f + 2.0f) * f + 0.5f) * f;
        weights[TAPS - 1] = (0.5f * f - 0.5f) * f * f;
    }
#pragma unroll
    for (int i = 0; i < TAPS; ++i) {
        voxels[i] = min(max(corner + i, 0), n - 1);
        if (voxels[i] != corner + i) weights[i] = 0.0f;
    }
}

template <int TAPS>
__device__ void rotate_and_bin(const float* __restrict__ volume, const int* __restrict__ corner,
                               const float* __restrict__ fraction, int n_z, int n_x, int n_y, int n_layers,
                               float* __restrict__ slices) {
    const int x = blockIdx.y * blockDim.y + threadIdx.y;
    const int i_slice = blockIdx.z;
    const int first = blockIdx.x * blockDim.x * LANES + threadIdx.x;
    if (x >= n_x || first >= n_y) return;
    int y[LANES];
    float sum[LANES];
#pragma unroll
    for (int l = 0; l < LANES; ++l) {
        y[l] = min(first + l * (int)blockDim.x, n_y - 1);
        sum[l] = 0.0f;
    }
    const int end = min(n_z, (i_slice + 1) * n_layers);
    for (int z = i_slice * n_layers; z < end; ++z) {
        const int here = z * n_x + x;
        const int low_z = corner[2 * here], low_x = corner[2 * here + 1];
        if (low_z <= -TAPS || low_z >= n_z || low_x <= -TAPS || low_x >= n_x) continue;
        int at_z[TAPS], at_x[TAPS];
        float by_z[TAPS], by_x[TAPS];
        place_taps<TAPS>(low_z, fraction[2 * here], n_z, at_z, by_z);
        place_taps<TAPS>(low_x, fraction[2 * here + 1], n_x, at_x, by_x);
#pragma unroll
        for (int i = 0; i < TAPS; ++i) {
#pragma unroll
            for (int j = 0; j < TAPS; ++j) {
                const float weight = by_z[i] * by_x[j];
                const float* column = volume + (long long)(at_z[i] * n_x + at_x[j]) * n_y;
#pragma unroll
                for (int l = 0; l < LANES; ++l) sum[l] += weight * column[y[l]];
            }
        }
    }
    float* row = slices + (long long)(i_slice * n_x + x) * n_y;
#pragma unroll
    for (int l = 0; l < LANES; ++l)
        if (first + l * (int)blockDim.x < n_y) row[y[l]] = sum[l];
}

extern "C" __global__ void rotate_linear(const float* volume, const int* corner, const float* fraction, int n_z, int n_x,
                                         int n_y, int n_layers, float* slices) {
    rotate_and_bin<2>(volume, corner, fraction, n_z, n_x, n_y, n_layers, slices);
}

extern "C" __global__ void rotate_cubic(const float* volume, const int* corner, const float* fraction, int n_z, int n_x,
                                        int n_y, int n_layers, float* slices) {
    rotate_and_bin<4>(volume, corner, fraction, n_z, n_x, n_y, n_layers, slices);
}

template <bool WITH_METRIC>
__device__ void add_adjoint_of(const float* __restrict__ slices, const int* __restrict__ counts,
                               const int* __restrict__ rows, const float* __restrict__ weights, int capacity, float scale,
                               const float* __restrict__ metric, int n_x, int n_y, float* __restrict__ volume) {
    const int x = blockIdx.y * blockDim.y + threadIdx.y;
    const int first = blockIdx.x * blockDim.x * LANES + threadIdx.x;
    if (x >= n_x || first >= n_y) return;
    const int voxel = blockIdx.z * n_x + x;
    const long long column = (long long)voxel * n_y;
    int y[LANES];
    float sum[LANES], before[LANES], factor[LANES];
#pragma unroll
    for (int l = 0; l < LANES; ++l) {
        y[l] = min(first + l * (int)blockDim.x, n_y - 1);
        before[l] = volume[column + y[l]];
        factor[l] = WITH_METRIC ? scale * metric[column + y[l]] : scale;
        sum[l] = 0.0f;
    }
    const int begin = voxel * capacity, end = begin + counts[voxel];
#pragma unroll 2
    for (int k = begin; k < end; ++k) {
        const float weight = weights[k];
        const float* row = slices + (long long)rows[k] * n_y;
#pragma unroll
        for (int l = 0; l < LANES; ++l) sum[l] += weight * row[y[l]];
    }
#pragma unroll
    for (int l = 0; l < LANES; ++l)
        if (first + l * (int)blockDim.x < n_y) volume[column + y[l]] = before[l] + factor[l] * sum[l];
}

// volume[z, x, :] += scale · Σ_k weights[k] · slices[rows[k], :] over the entries k of voxel (z, x).
extern "C" __global__ void add_adjoint(const float* slices, const int* counts, const int* rows, const float* weights,
                                       int capacity, const float* scale, int n_x, int n_y, float* volume) {
    add_adjoint_of<false>(slices, counts, rows, weights, capacity, scale[0], scale, n_x, n_y, volume);
}

// As `add_adjoint`, with scale · metric[z, x, y] instead of scale.
extern "C" __global__ void add_adjoint_in_metric(const float* slices, const int* counts, const int* rows,
                                                 const float* weights, int capacity, const float* scale,
                                                 const float* metric, int n_x, int n_y, float* volume) {
    add_adjoint_of<true>(slices, counts, rows, weights, capacity, scale[0], metric, n_x, n_y, volume);
}

// Convolve `planes` with a symmetric kernel along the axis of length n_axis, whose neighbours are `stride` apart, and
// write `out`. `half` (reach + 1) holds half of the kernel, starting with its centre. Values outside are 0. `planes` and
// `out` have n values.
extern "C" __global__ void blur_axis(const float* __restrict__ planes, const float* __restrict__ half, int reach,
                                     int n_axis, long long stride, long long n, float* __restrict__ out) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const int at = (int)(i / stride % n_axis);
    float sum = half[0] * planes[i];
    for (int k = 1; k <= reach; ++k) {
        const float before = at >= k ? planes[i - k * stride] : 0.0f;
        const float after = at + k < n_axis ? planes[i + k * stride] : 0.0f;
        sum += half[k] * (before + after);
    }
    out[i] = sum;
}
