// Kernels that search a volume for maxima: the difference of two Gaussians, and voxels that exceed their 18 nearest.
//
// Definition: tracing/candidates.py. Volumes are (Z, X, Y) of n voxels. Candidates are counted row by row of y (a block a
// row) before they are written, so that they come in the order of the voxels without atomics.

#define EVEN_STEP 32  // threads of a row

// As `blur_axis` of rotation.cu, with the values at the ends of the axis repeated outside.
extern "C" __global__ void blur_axis_nearest(const float* __restrict__ planes, const float* __restrict__ half, int reach,
                                             int n_axis, long long stride, long long n, float* __restrict__ out) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    const int at = (int)(i / stride % n_axis);
    const long long first = i - at * stride;
    float sum = half[0] * planes[i];
    for (int k = 1; k <= reach; ++k)
        sum += half[k] * (planes[first + max(at - k, 0) * stride] + planes[first + min(at + k, n_axis - 1) * stride]);
    out[i] = sum;
}

// Replace `narrow` by narrow - wide.
extern "C" __global__ void subtract(const float* __restrict__ wide, long long n, float* __restrict__ narrow) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) narrow[i] -= wide[i];
}

struct Maxima {
    const float* filtered;
    const float* block;
    float least_filtered, least_value, outside;
    int n_z, n_x, n_y;

    // The filtered value of voxel (z, x, y), or `outside` the volume.
    __device__ float at(int z, int x, int y) const {
        if (z < 0 || z >= n_z || x < 0 || x >= n_x || y < 0 || y >= n_y) return outside;
        return filtered[((long long)z * n_x + x) * n_y + y];
    }
    // Whether a voxel is above its neighbours; of equal ones the first is.
    __device__ bool has(int z, int x, int y) const {
        const long long here = ((long long)z * n_x + x) * n_y + y;
        const float value = filtered[here];
        if (!(value > least_filtered) || !(block[here] >= least_value)) return false;
        for (int dz = -1; dz <= 1; ++dz)
            for (int dx = -1; dx <= 1; ++dx)
                for (int dy = -1; dy <= 1; ++dy) {
                    const int n_steps = dz * dz + dx * dx + dy * dy;
                    if (n_steps == 0 || n_steps == 3) continue;
                    const float other = at(z + dz, x + dx, y + dy);
                    const bool earlier = dz < 0 || (dz == 0 && (dx < 0 || (dx == 0 && dy < 0)));
                    if (earlier ? !(value > other) : !(value >= other)) return false;
                }
        return true;
    }
};

// counts (Z · X) = the candidates of each row. `outside` is less than all filtered values.
extern "C" __global__ void count_maxima(const float* __restrict__ filtered, const float* __restrict__ block,
                                        float least_filtered, float least_value, float outside, int n_z, int n_x,
                                        int n_y, int* __restrict__ counts) {
    __shared__ double room[EVEN_STEP];
    const Maxima maxima = {filtered, block, least_filtered, least_value, outside, n_z, n_x, n_y};
    const int z = blockIdx.x / n_x, x = blockIdx.x % n_x;
    int own = 0;
    for (int y = threadIdx.x; y < n_y; y += blockDim.x) own += maxima.has(z, x, y);
    const double total = sum_over_block(own, room);
    if (threadIdx.x == 0) counts[blockIdx.x] = (int)total;
}

// For candidate number i, the first of a row being starts[row]: index[i] is its voxel, and around (N, 8) holds the filtered
// value, those before and behind it along z, x and y, and the value of `block`.
extern "C" __global__ void write_maxima(const float* __restrict__ filtered, const float* __restrict__ block,
                                        float least_filtered, float least_value, float outside, int n_z, int n_x,
                                        int n_y, const int* __restrict__ starts, const int* __restrict__ counts,
                                        long long* __restrict__ index, float* __restrict__ around) {
    __shared__ int before[EVEN_STEP];
    if (counts[blockIdx.x] == 0) return;
    const Maxima maxima = {filtered, block, least_filtered, least_value, outside, n_z, n_x, n_y};
    const int z = blockIdx.x / n_x, x = blockIdx.x % n_x;
    const int n_own = (n_y + blockDim.x - 1) / blockDim.x, first = threadIdx.x * n_own, end = min(n_y, first + n_own);
    int own = 0;
    for (int y = first; y < end; ++y) own += maxima.has(z, x, y);
    before[threadIdx.x] = own;
    __syncthreads();
    int place = starts[blockIdx.x];
    for (int t = 0; t < threadIdx.x; ++t) place += before[t];
    for (int y = first; y < end && own > 0; ++y) {
        if (!maxima.has(z, x, y)) continue;
        const long long here = ((long long)z * n_x + x) * n_y + y;
        index[place] = here;
        float* out = around + 8LL * place;
        out[0] = filtered[here];
        out[1] = maxima.at(z - 1, x, y);
        out[2] = maxima.at(z + 1, x, y);
        out[3] = maxima.at(z, x - 1, y);
        out[4] = maxima.at(z, x + 1, y);
        out[5] = maxima.at(z, x, y - 1);
        out[6] = maxima.at(z, x, y + 1);
        out[7] = block[here];
        ++place;
        --own;
    }
}
