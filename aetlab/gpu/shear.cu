// Kernels of the rotation by three shears in Fourier space, and of its adjoint.
//
// Notation: methods/fourier_rotation.py; the passes are those of methods/simd_shear.py. A block shifts the lines of 2 COLUMNS
// neighbouring y in shared memory: the first COLUMNS are real parts, the next imaginary parts, since real rows stay real. The
// first shear visits the rows that hold the volume, the second keeps the rows that stay, the third is cut. `work`
// (rows, n, width) holds `width` of the n_y rows of y, from `first_y` on. `quarters` (T) and `shears` (T, 2), -tan(θ/2) and
// sin θ, are those of all tilts.

// The padded square of side n, of which the volume fills the middle n_z by n_x.
struct Square {
    int n, n_z, n_x, quarter;

    __device__ Square(int n, int n_z, int n_x, int quarter) : n(n), n_z(n_z), n_x(n_x), quarter(quarter) {}
    // Rows and columns of the volume after its quarter turns (turned) or in place.
    __device__ int rows(bool turned) const { return turned && quarter % 2 ? n_x : n_z; }
    __device__ int columns(bool turned) const { return turned && quarter % 2 ? n_z : n_x; }
    __device__ int first_row(bool turned) const { return (n - rows(turned)) / 2; }
    __device__ int first_column(bool turned) const { return (n - columns(turned)) / 2; }
    // The column (z, x) of the volume at row z and column x of the turned square; -1 outside.
    __device__ long long voxel(int z, int x) const {
        int of_z = z, of_x = x;
        if (quarter == 1) { of_z = x; of_x = n - 1 - z; }
        if (quarter == 2) { of_z = n - 1 - z; of_x = n - 1 - x; }
        if (quarter == 3) { of_z = n - 1 - x; of_x = z; }
        of_z -= (n - n_z) / 2;
        of_x -= (n - n_x) / 2;
        return of_z < 0 || of_z >= n_z || of_x < 0 || of_x >= n_x ? -1 : (long long)of_z * n_x + of_x;
    }
};

// The line of a block and its two sets of y within `width`.
struct Lines {
    int line, first, width;

    __device__ Lines(int width) : width(width) {
        const int groups = (width + 2 * COLUMNS - 1) / (2 * COLUMNS);
        line = blockIdx.x / groups;
        first = (blockIdx.x - line * groups) * 2 * COLUMNS;
    }
    __device__ int real(int item) const { return first + item % COLUMNS; }
    __device__ int imaginary(int item) const { return first + COLUMNS + item % COLUMNS; }
    // Read from and write to the rows of y at `row`.
    __device__ float2 read(const float* row, int item) const {
        const int a = real(item), b = imaginary(item);
        return make_float2(a < width ? row[a] : 0.0f, b < width ? row[b] : 0.0f);
    }
    __device__ void write(float2 value, int item, float* row) const {
        const int a = real(item), b = imaginary(item);
        if (a < width) row[a] = value.x;
        if (b < width) row[b] = value.y;
    }
};

// Replace lines f(u), u < n, by f(u + distance). The threads of the block wait for each other before and after.
__device__ void shift_lines(float2* room, double distance, int n, int radices, const float2* __restrict__ twiddle,
                            const int* __restrict__ order) {
    __syncthreads();
    transform<COLUMNS, false>(room, n, radices, twiddle);
    for (int item = threadIdx.x; item < n * COLUMNS; item += blockDim.x) {
        const int k = order[item / COLUMNS];
        const double turns = (2 * k < n ? k : k - n) * distance / n;
        float2 ramp;
        sincospif(2.0f * (float)(turns - rint(turns)), &ramp.y, &ramp.x);
        if (2 * k == n) ramp.y = 0.0f;  // the Nyquist frequency of a real row has no sine
        room[item] = times(product(room[item], ramp), 1.0f / n);
    }
    __syncthreads();
    transform<COLUMNS, true>(room, n, radices, twiddle);
}

__device__ double centred(int i, int n) { return i - 0.5 * (n - 1); }

// work = the first shear of the turned volume (Z, X, Y), or with `back` of `slices`, each the value of its layers.
extern "C" __global__ void shear_in(const float* __restrict__ volume, const float* __restrict__ slices, int back,
                                    const int* __restrict__ now, const int* __restrict__ quarters,
                                    const double* __restrict__ shears, int n_z, int n_x, int n_y, int n_layers, int n,
                                    int first_y, int width, int radices, const float2* __restrict__ twiddle,
                                    const int* __restrict__ order, float* __restrict__ work) {
    __shared__ float2 room[COLUMNS * LONGEST];
    const Square square(n, n_z, n_x, quarters[now[0]]);
    const Lines lines(width);
    if (lines.line >= square.rows(!back)) return;
    const int z = square.first_row(!back) + lines.line;
    for (int item = threadIdx.x; item < n * COLUMNS; item += blockDim.x) {
        const int x = item / COLUMNS, of_x = x - square.first_column(false);
        float2 value = make_float2(0.0f, 0.0f);
        if (back) {
            const long long at = (long long)(lines.line / n_layers) * n_x + of_x;
            if (of_x >= 0 && of_x < n_x) value = lines.read(slices + at * n_y + first_y, item);
        } else {
            const long long at = square.voxel(z, x);
            if (at >= 0) value = lines.read(volume + at * n_y + first_y, item);
        }
        room[item] = value;
    }
    const double shear = shears[2 * now[0]];
    if (shear != 0.0) shift_lines(room, (back ? -shear : shear) * centred(z, n), n, radices, twiddle, order);
    __syncthreads();
    for (int item = threadIdx.x; item < n * COLUMNS; item += blockDim.x)
        lines.write(room[item], item, work + ((long long)lines.line * n + item / COLUMNS) * width);
}

// The second shear, along z, in place: from the rows of the turned volume to those of the layers, or back.
extern "C" __global__ void shear_columns(int back, const int* __restrict__ now, const int* __restrict__ quarters,
                                         const double* __restrict__ shears, int n_z, int n_x, int n, int width,
                                         int radices, const float2* __restrict__ twiddle,
                                         const int* __restrict__ order, float* __restrict__ work) {
    __shared__ float2 room[COLUMNS * LONGEST];
    const Square square(n, n_z, n_x, quarters[now[0]]);
    const Lines lines(width);
    for (int item = threadIdx.x; item < n * COLUMNS; item += blockDim.x) {
        const int row = item / COLUMNS - square.first_row(!back);
        const bool inside = row >= 0 && row < square.rows(!back);
        room[item] = inside ? lines.read(work + ((long long)row * n + lines.line) * width, item) : make_float2(0.0f, 0.0f);
    }
    const double shear = shears[2 * now[0] + 1];
    if (shear != 0.0) shift_lines(room, (back ? -shear : shear) * centred(lines.line, n), n, radices, twiddle, order);
    __syncthreads();
    for (int item = threadIdx.x; item < n * COLUMNS; item += blockDim.x) {
        const int row = item / COLUMNS - square.first_row(back);
        if (row >= 0 && row < square.rows(back))
            lines.write(room[item], item, work + ((long long)row * n + lines.line) * width);
    }
}

// The third shear in place.
extern "C" __global__ void shear_rows(const int* __restrict__ now, const double* __restrict__ shears, int n_z, int n,
                                      int width, int radices, const float2* __restrict__ twiddle,
                                      const int* __restrict__ order, float* __restrict__ work) {
    __shared__ float2 room[COLUMNS * LONGEST];
    const double shear = shears[2 * now[0]];
    if (shear == 0.0) return;
    const Lines lines(width);
    float* row = work + (long long)lines.line * n * width;
    for (int item = threadIdx.x; item < n * COLUMNS; item += blockDim.x)
        room[item] = lines.read(row + item / COLUMNS * width, item);
    shift_lines(room, shear * centred((n - n_z) / 2 + lines.line, n), n, radices, twiddle, order);
    for (int item = threadIdx.x; item < n * COLUMNS; item += blockDim.x)
        lines.write(room[item], item, row + item / COLUMNS * width);
}

// slices (S, X, Y) = sums of the layers in `work`, for `width` rows of y.
extern "C" __global__ void bin_layers(const float* __restrict__ work, int n_z, int n_x, int n_y, int n_layers, int n,
                                      int first_y, int width, float* __restrict__ slices) {
    const int y = blockIdx.x * blockDim.x + threadIdx.x, x = blockIdx.y * blockDim.y + threadIdx.y;
    if (y >= width || x >= n_x) return;
    const int i_slice = blockIdx.z, end = min((i_slice + 1) * n_layers, n_z);
    float sum = 0.0f;
    for (int z = i_slice * n_layers; z < end; ++z) sum += work[((long long)z * n + (n - n_x) / 2 + x) * width + y];
    slices[((long long)i_slice * n_x + x) * n_y + first_y + y] = sum;
}

// volume += scale · the third shear back, turned back; with scale · metric (Z, X, Y) if has_metric is not 0.
extern "C" __global__ void shear_out(const int* __restrict__ now, const int* __restrict__ quarters,
                                     const double* __restrict__ shears, const float* __restrict__ scale,
                                     const float* __restrict__ metric, int has_metric, int n_z, int n_x, int n_y, int n,
                                     int first_y, int width, int radices, const float2* __restrict__ twiddle,
                                     const int* __restrict__ order, const float* __restrict__ work, float* volume) {
    __shared__ float2 room[COLUMNS * LONGEST];
    const Square square(n, n_z, n_x, quarters[now[0]]);
    const Lines lines(width);
    if (lines.line >= square.rows(true)) return;
    const int z = square.first_row(true) + lines.line;
    const float* row = work + (long long)lines.line * n * width;
    for (int item = threadIdx.x; item < n * COLUMNS; item += blockDim.x)
        room[item] = lines.read(row + item / COLUMNS * width, item);
    const double shear = shears[2 * now[0]];
    if (shear != 0.0) shift_lines(room, -shear * centred(z, n), n, radices, twiddle, order);
    __syncthreads();
    for (int item = threadIdx.x; item < n * COLUMNS; item += blockDim.x) {
        const long long voxel = square.voxel(z, item / COLUMNS);
        if (voxel < 0) continue;
        const long long at = voxel * n_y + first_y;
        const float2 before = lines.read(volume + at, item), added = times(room[item], scale[0]);
        const float2 by = has_metric ? lines.read(metric + at, item) : make_float2(1.0f, 1.0f);
        lines.write(make_float2(before.x + by.x * added.x, before.y + by.y * added.y), item, volume + at);
    }
}
