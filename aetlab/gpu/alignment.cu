// Kernels of the alignment: images of a tilt at its unknowns, their derivatives, and sums of products of both.
//
// Notation: forward/alignment.py. Planes (X, Y) have n pixels, F images a tilt; transforms are not normalised. `pose` (F, 4)
// holds shift along x and y, defocus and brightness of each image. Images pass through these forms in one buffer: waves and
// their derivatives (6, F, n); two real quantities in a complex one, `pairs` (3, F, n); two columns of the equations in a
// complex one (5, F, n). All sums have a fixed order.

#define N_COLUMNS 9    // tilt, axis, shift along x and y, defocus, brightness, contrast, magnification, and the residual
#define N_PRODUCTS 45  // of the columns, each pair once
#define TILE 64        // pixels of a row that a block has in shared memory

// out (2, n) = the transform of -∂g along x and y, for that of the wave g
extern "C" __global__ void differentiate(const float2* __restrict__ spectrum, const float* __restrict__ ramp_x,
                                         const float* __restrict__ ramp_y, int n_x, int n_y, float2* __restrict__ out) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x, n = n_x * n_y;
    if (i >= n) return;
    const float2 s = spectrum[i];
    const float along_x = ramp_x[i / n_y], along_y = ramp_y[i % n_y];
    out[i] = make_float2(-along_x * s.y, along_x * s.x);
    out[n + i] = make_float2(-along_y * s.y, along_y * s.x);
}

// turned (n) = the derivative of the wave by a turn, by its `slopes` (2, n); `lever` is the displacement of the next pixel
extern "C" __global__ void turn_slopes(const float2* __restrict__ slopes, float lever, int n_x, int n_y,
                                       float2* __restrict__ turned) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x, n = n_x * n_y;
    if (i >= n) return;
    const float along_y = lever * (i / n_y - 0.5f * (n_x - 1)), along_x = lever * (i % n_y - 0.5f * (n_y - 1));
    const float2 by_x = slopes[i], by_y = slopes[n + i];
    turned[i] = make_float2(by_y.x * along_y - by_x.x * along_x, by_y.y * along_y - by_x.y * along_x);
}

// exp(iπ half_turns)
__device__ float2 turned_by(double half_turns) {
    float2 turned;
    sincospif((float)(half_turns - 2.0 * rint(0.5 * half_turns)), &turned.y, &turned.x);
    return turned;
}

// The phase factor of the shift and defocus of a `pose`, of their derivatives at a frequency.
__device__ float2 moved_by(const double* pose, float ramp_x, float ramp_y, float lift) {
    return turned_by((pose[0] * ramp_x + pose[1] * ramp_y + pose[2] * lift) * 0.318309886183790672);
}

// images (D, F, n) = transforms of the image waves and, for D = 6 directions, of their derivatives by axis, shift along x and
// y and defocus, and of the waves at the next tilt angle. `exits` (3, n) holds the transforms of the exit wave, of its
// derivative by a turn, and of the exit wave at the next angle, `transfer` (F, n) the nominal transfer functions.
extern "C" __global__ void pose_images(const float2* __restrict__ exits, const float2* __restrict__ transfer,
                                       const float* __restrict__ ramp_x, const float* __restrict__ ramp_y,
                                       const float* __restrict__ lift, const double* __restrict__ pose, int n_images,
                                       int n_directions, int n_x, int n_y, float2* __restrict__ images) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x, n = (long long)n_x * n_y, n_all = n * n_images;
    if (i >= n_all) return;
    const int f = (int)(i / n), q = (int)(i - f * n);
    const float along_x = ramp_x[q / n_y], along_y = ramp_y[q % n_y], up = lift[q];
    const float2 t = product(transfer[i], moved_by(pose + 4 * f, along_x, along_y, up)), wave = product(exits[q], t);
    images[i] = wave;
    if (n_directions == 1) return;
    images[n_all + i] = product(exits[n + q], t);
    images[2 * n_all + i] = make_float2(-along_x * wave.y, along_x * wave.x);
    images[3 * n_all + i] = make_float2(-along_y * wave.y, along_y * wave.x);
    images[4 * n_all + i] = make_float2(-up * wave.y, up * wave.x);
    images[5 * n_all + i] = product(exits[2 * n + q], t);
}

__device__ float square(float2 a) { return a.x * a.x + a.y * a.y; }

// Replace image waves (D, F, n) by pairs: |ψ|² and that at the next angle, Re(ψ* ∂ψ) by axis and shift along x, and by shift
// along y and defocus; for D = 1 by |ψ|² alone. `n_all` is F n.
extern "C" __global__ void pair_products(int n_directions, long long n_all, float2* __restrict__ images) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n_all) return;
    const float2 psi = images[i];
    if (n_directions == 1) {
        images[i] = make_float2(square(psi), 0.0f);
        return;
    }
    const float by_axis = conjugate_product(images[n_all + i], psi).x;
    const float by_x = conjugate_product(images[2 * n_all + i], psi).x;
    const float by_y = conjugate_product(images[3 * n_all + i], psi).x;
    const float by_defocus = conjugate_product(images[4 * n_all + i], psi).x;
    images[i] = make_float2(square(psi), square(images[5 * n_all + i]));
    images[n_all + i] = make_float2(by_axis, by_x);
    images[2 * n_all + i] = make_float2(by_y, by_defocus);
}

// planes (n_all) = planes · factor (n), the same for each plane
extern "C" __global__ void multiply_real(const float* __restrict__ factor, int n, long long n_all,
                                         float2* __restrict__ planes) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n_all) return;
    const float by = factor[i % n];
    planes[i] = make_float2(by * planes[i].x, by * planes[i].y);
}

// The amplitude of a detected intensity of an image of brightness 1; `darkest` is the least intensity.
__device__ float detected(float intensity, float darkest) { return sqrtf(intensity < darkest ? darkest : intensity); }

// row_sums (F · X) = Σ a of each row of the images; a block processes one row.
extern "C" __global__ void sum_amplitudes(const float2* __restrict__ pairs, const double* __restrict__ pose,
                                          float darkest, int n_x, int n_y, double* __restrict__ row_sums) {
    __shared__ double room[128];
    const long long first = (long long)blockIdx.x * n_y;
    const float root = sqrtf((float)pose[4 * (blockIdx.x / n_x) + 3]);
    double total = 0.0;
    for (int y = threadIdx.x; y < n_y; y += blockDim.x) total += root * detected(pairs[first + y].x, darkest);
    total = sum_over_block(total, room);
    if (threadIdx.x == 0) row_sums[blockIdx.x] = total;
}

// out (G, V) = the sum of parts (G, R, V) over R; a block computes one number.
extern "C" __global__ void sum_groups(const double* __restrict__ parts, int n_parts, int n_values,
                                      double* __restrict__ out) {
    __shared__ double room[128];
    const long long first = (long long)(blockIdx.x / n_values) * n_parts * n_values + blockIdx.x % n_values;
    double total = 0.0;
    for (int r = threadIdx.x; r < n_parts; r += blockDim.x) total += parts[first + (long long)r * n_values];
    total = sum_over_block(total, room);
    if (threadIdx.x == 0) out[blockIdx.x] = total;
}

// The amplitude without the bias of noise: `offset` is 1/(4 n) for n electrons.
__device__ float centred(float amplitude, float offset) { return sqrtf(amplitude * amplitude + offset); }

// columns (5, F, n) = the derivatives and the residual of the images times the root of the weights, of pairs (3, F, n).
// `measured` (F, n) are amplitudes, `offsets` (F) as in `centred`, `weights` (F · X, K) as in `weight_of`, `factors` (F) of the images, `totals` (F) the sums
// of the amplitudes. row_sums (F · X, 2) = Σ w r² and Σ w of each row, without `factors`; a block processes one row.
extern "C" __global__ void form_columns(const float2* __restrict__ pairs, const float* __restrict__ measured,
                                        const float* __restrict__ offsets, const float* __restrict__ weights, int n_weights,
                                        const float* __restrict__ factors, const double* __restrict__ totals,
                                        const double* __restrict__ pose, float dark, float darkest, float angle_step,
                                        float pixel, int n_images, int n_x, int n_y, float2* __restrict__ columns,
                                        double* __restrict__ row_sums) {
    __shared__ double room[128];
    const int f = blockIdx.x / n_x, x = blockIdx.x - f * n_x;
    const long long first = (long long)blockIdx.x * n_y, n_all = (long long)n_images * n_x * n_y;
    const float brightness = (float)pose[4 * f + 3], root = sqrtf(brightness), factor = factors[f];
    const float mean = (float)(totals[f] / ((double)n_x * n_y)), at_x = pixel * (x - 0.5f * (n_x - 1));
    double squares = 0.0, total = 0.0;
    for (int y = threadIdx.x; y < n_y; y += blockDim.x) {
        const long long i = first + y;
        const float2 both = pairs[i], second = pairs[n_all + i], third = pairs[2 * n_all + i];
        const float a = detected(both.x, darkest), ahead = detected(both.y, darkest);
        const float residual = root * a - centred(measured[i], offsets[f]), w = weight_of(weights, n_weights, blockIdx.x, y);
        squares += (double)w * residual * residual;
        total += w;
        const float by = sqrtf(w * factor), scale = by * root, slope = scale / (a < dark ? dark : a);
        const float by_x = slope * second.y, by_y = slope * third.x, at_y = pixel * (y - 0.5f * (n_y - 1));
        columns[i] = make_float2(scale * (ahead - a) / angle_step, slope * second.x);
        columns[n_all + i] = make_float2(by_x, by_y);
        columns[2 * n_all + i] = make_float2(slope * third.y, scale * a / (2.0f * brightness));
        columns[3 * n_all + i] = make_float2(by * (root * a - mean), at_x * by_x + at_y * by_y);
        columns[4 * n_all + i] = make_float2(by * residual, 0.0f);
    }
    squares = sum_over_block(squares, room);
    if (threadIdx.x == 0) row_sums[2 * blockIdx.x] = squares;
    __syncthreads();
    total = sum_over_block(total, room);
    if (threadIdx.x == 0) row_sums[2 * blockIdx.x + 1] = total;
}

// parts (F · X, N_PRODUCTS) = sums of the products of all columns over a row; a block processes one row.
extern "C" __global__ void sum_products(const float2* __restrict__ columns, int n_images, int n_x, int n_y,
                                        double* __restrict__ parts) {
    __shared__ float tile[TILE][N_COLUMNS + 1];
    __shared__ double totals[N_PRODUCTS];
    const long long first = (long long)blockIdx.x * n_y, n_all = (long long)n_images * n_x * n_y;
    for (int v = threadIdx.x; v < N_PRODUCTS; v += blockDim.x) totals[v] = 0.0;
    for (int begin = 0; begin < n_y; begin += TILE) {
        const int width = min(TILE, n_y - begin);
        __syncthreads();
        for (int y = threadIdx.x; y < width; y += blockDim.x)
            for (int pair = 0; pair < (N_COLUMNS + 1) / 2; ++pair) {
                const float2 value = columns[pair * n_all + first + begin + y];
                tile[y][2 * pair] = value.x;
                tile[y][2 * pair + 1] = value.y;
            }
        __syncthreads();
        for (int v = threadIdx.x; v < N_PRODUCTS; v += blockDim.x) {
            int a = 0, left = v;
            while (left >= N_COLUMNS - a) left -= N_COLUMNS - a++;
            double total = 0.0;
            for (int y = 0; y < width; ++y) total += (double)tile[y][a] * tile[y][a + left];
            totals[v] += total;
        }
    }
    for (int v = threadIdx.x; v < N_PRODUCTS; v += blockDim.x) parts[(long long)blockIdx.x * N_PRODUCTS + v] = totals[v];
}

// planes (F, n) = (a - 1) of the measured amplitudes times weight and factor
extern "C" __global__ void weigh_measured(const float* __restrict__ measured, const float* __restrict__ offsets,
                                          const float* __restrict__ weights, int n_weights, const float* __restrict__ factors, int n_images, int n_x,
                                          int n_y, float2* __restrict__ planes) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (long long)n_images * n_x * n_y) return;
    const long long row = i / n_y;
    const int f = (int)(row / n_x);
    const float w = weight_of(weights, n_weights, row, (int)(i - row * n_y)) * factors[f];
    planes[i] = make_float2((centred(measured[i], offsets[f]) - 1.0f) * w, 0.0f);
}

// planes (n) = a - 1 of detected intensities
extern "C" __global__ void show_modulation(float darkest, long long n, float2* __restrict__ planes) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) planes[i] = make_float2(detected(planes[i].x, darkest) - 1.0f, 0.0f);
}

// correlation (n) = Σ_f measured · seen* · low_pass², and row_sums (X) = Σ_f share |seen|² low_pass² of each row, all of
// transforms; a block processes one row.
extern "C" __global__ void correlate(const float2* __restrict__ seen, const float2* __restrict__ measured,
                                     const float* __restrict__ low_pass, const float* __restrict__ shares, int n_images,
                                     int n_x, int n_y, float2* __restrict__ correlation, double* __restrict__ row_sums) {
    __shared__ double room[128];
    const long long first = (long long)blockIdx.x * n_y, n = (long long)n_x * n_y;
    double power = 0.0;
    for (int y = threadIdx.x; y < n_y; y += blockDim.x) {
        const long long q = first + y;
        const float w = low_pass[q] * low_pass[q];
        float2 sum = make_float2(0.0f, 0.0f);
        float squares = 0.0f;
        for (int f = 0; f < n_images; ++f) {
            const float2 s = seen[f * n + q], term = conjugate_product(measured[f * n + q], s);
            sum = make_float2(sum.x + term.x, sum.y + term.y);
            squares += shares[f] * square(s);
        }
        correlation[q] = make_float2(w * sum.x, w * sum.y);
        power += (double)w * squares;
    }
    power = sum_over_block(power, room);
    if (threadIdx.x == 0) row_sums[blockIdx.x] = power;
}

// found (3) = half the sum of row_sums (X), the largest correlation (n) of shifts up to `reach`, and its number among them,
// the first of equal ones, of 2 reach + 1 by 2 reach + 1; by one block.
extern "C" __global__ void find_best_shift(const float2* __restrict__ correlation, const double* __restrict__ row_sums,
                                           int reach, int n_x, int n_y, double* __restrict__ found) {
    __shared__ double room[256];
    __shared__ float best[256];
    __shared__ int where[256];
    double power = 0.0;
    for (int x = threadIdx.x; x < n_x; x += blockDim.x) power += row_sums[x];
    power = sum_over_block(power, room);
    const int side = 2 * reach + 1;
    float own = 0.0f;
    int at = -1;
    for (int k = threadIdx.x; k < side * side; k += blockDim.x) {
        const int x = (k / side - reach + n_x) % n_x, y = (k % side - reach + n_y) % n_y;
        const float value = correlation[(long long)x * n_y + y].x;
        if (at < 0 || value > own) {
            own = value;
            at = k;
        }
    }
    best[threadIdx.x] = own;
    where[threadIdx.x] = at;
    __syncthreads();
    if (threadIdx.x != 0) return;
    for (int t = 1; t < blockDim.x; ++t)
        if (where[t] >= 0 && (best[t] > own || (best[t] == own && where[t] < at))) {
            own = best[t];
            at = where[t];
        }
    found[0] = 0.5 * power;
    found[1] = own;
    found[2] = at;
}

// lines (L, 2 N) = L lines of N values of `planes`, each followed by its mirror image. Neighbouring lines are `next_line`
// apart in `planes`, neighbouring values of a line `next`.
extern "C" __global__ void mirror_lines(const float2* __restrict__ planes, int next_line, int next, int n_lines,
                                        int n, float2* __restrict__ lines) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= 2LL * n_lines * n) return;
    const int line = (int)(i / (2 * n)), u = (int)(i - 2LL * line * n);
    lines[i] = planes[(long long)line * next_line + (long long)(u < n ? u : 2 * n - 1 - u) * next];
}

// Shift lines by `tangent` times their distance from the middle line, of transforms (L, 2 N) of mirrored lines, in place.
extern "C" __global__ void shift_lines(double tangent, int n_lines, int n, float2* __restrict__ lines) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= 2LL * n_lines * n) return;
    const int line = (int)(i / (2 * n)), k = (int)(i - 2LL * line * n);
    const float2 value = product(lines[i], turned_by(tangent * (line - 0.5 * (n_lines - 1)) * (k < n ? k : k - 2 * n) / n));
    lines[i] = make_float2(value.x / (2 * n), value.y / (2 * n));
}

// plane (X, Y) = the values of lines (Y, 2 X) that are no mirror images
extern "C" __global__ void take_lines(const float2* __restrict__ lines, int n_x, int n_y, float2* __restrict__ plane) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < (long long)n_x * n_y) plane[i] = lines[i % n_y * 2 * n_x + i / n_y];
}

// out (F, n) = transfer functions at `pose`, of the nominal ones in `transfer` (F, n), with frequencies in the orders of a
// model: order_x (X), order_y (Y)
extern "C" __global__ void pose_transfer(const float2* __restrict__ transfer, const float* __restrict__ ramp_x,
                                         const float* __restrict__ ramp_y, const float* __restrict__ lift,
                                         const double* __restrict__ pose, const int* __restrict__ order_x,
                                         const int* __restrict__ order_y, int n_images, int n_x, int n_y,
                                         float2* __restrict__ out) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x, n = (long long)n_x * n_y;
    if (i >= n * n_images) return;
    const int f = (int)(i / n), place = (int)(i - f * n), x = order_x[place / n_y], y = order_y[place % n_y];
    out[i] = product(transfer[f * n + (long long)x * n_y + y],
                     moved_by(pose + 4 * f, ramp_x[x], ramp_y[y], lift[(long long)x * n_y + y]));
}

// planes (⌈F/2⌉, n) = two images of `measured` (F, n) in each
extern "C" __global__ void pack_amplitudes(const float* __restrict__ measured, int n_images, int n,
                                           float2* __restrict__ planes) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (long long)(n_images + 1) / 2 * n) return;
    const int pair = (int)(i / n);
    const long long q = i - (long long)pair * n, first = 2LL * pair * n + q;
    planes[i] = make_float2(measured[first], 2 * pair + 1 < n_images ? measured[first + n] : 0.0f);
}

// amplitude (F, n) = the images in `planes` over the roots of their brightness
extern "C" __global__ void place_amplitudes(const float2* __restrict__ planes, const double* __restrict__ pose,
                                            int n_images, int n, float* __restrict__ amplitude) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (long long)n_images * n) return;
    const int f = (int)(i / n);
    const float2 both = planes[f / 2 * (long long)n + i - (long long)f * n];
    amplitude[i] = (f % 2 ? both.y : both.x) / sqrtf((float)pose[4 * f + 3]);
}

// planes (F, n) = whether a pixel is bad, and its weight times the factor of the image
extern "C" __global__ void pack_weights(const float* __restrict__ weights, int n_weights,
                                        const float* __restrict__ factors, int n_images, int n_x, int n_y,
                                        float2* __restrict__ planes) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= (long long)n_images * n_x * n_y) return;
    const long long row = i / n_y;
    const float w = weight_of(weights, n_weights, row, (int)(i - row * n_y)) * factors[row / n_x];
    planes[i] = make_float2(w == 0.0f ? 1.0f : 0.0f, w);
}

// weight (n_all) = that in `planes`, 0 where more than `most` of a bad pixel contributes
extern "C" __global__ void place_weights(const float2* __restrict__ planes, float most, long long n_all,
                                         float* __restrict__ weight) {
    const long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n_all) return;
    const float2 both = planes[i];
    weight[i] = both.x > most || both.x < -most || both.y < 0.0f ? 0.0f : both.y;
}
