// Bounded fits of Gaussians to a volume minus the Gaussians of neighbouring sites, a block a site; in double precision.
//
// Notation and method: tracing/kernels_numba.py. A site (N, 5) is z, x, y, I, s in voxels and V. The sums over the voxels of a
// fit are those of the threads, added in a fixed order; one thread solves the normal equations, whose arrays lie in shared
// memory: local ones would be indexed by loops, and lie in slow memory.

#define MOST_BOX 512    // voxels of the cube about a site
#define PARAMETERS 5
#define SUMS 21         // cost, gradient (5), lower triangle of the normal equations (15)
#define EXPONENT_MAX 16.0
#define TOO_FEW_VOXELS 1
#define AT_BOUND 2
#define NOT_CONVERGED 4

struct Sums {
    double cost, gradient[PARAMETERS], normal[15];  // row j of the lower triangle begins at j (j + 1) / 2
};

struct Fit {
    double point[PARAMETERS], low[PARAMETERS], high[PARAMETERS], trial[PARAMETERS], step[PARAMETERS], given[PARAMETERS];
    double factor[15];
    int free[PARAMETERS];
    Sums now, then;
    double damping, change;
    int state;  // 0: goes on, 1: converged, 2: singular
};

__device__ double normal_of(const Sums& sums, int j, int k) {
    return j >= k ? sums.normal[j * (j + 1) / 2 + k] : sums.normal[k * (k + 1) / 2 + j];
}

// The cube of voxels about a site.
struct Box {
    int z, x, y, n_z, n_x, n_y;
    double centre[3];

    __device__ Box(const double* site, double radius, int most_z, int most_x, int most_y) {
        z = max(0, (int)ceil(site[0] - radius));
        x = max(0, (int)ceil(site[1] - radius));
        y = max(0, (int)ceil(site[2] - radius));
        n_z = max(0, min(most_z - 1, (int)floor(site[0] + radius)) + 1 - z);
        n_x = max(0, min(most_x - 1, (int)floor(site[1] + radius)) + 1 - x);
        n_y = max(0, min(most_y - 1, (int)floor(site[2] + radius)) + 1 - y);
        for (int axis = 0; axis < 3; ++axis) centre[axis] = site[axis];
    }
    __device__ int size() const { return n_z * n_x * n_y; }
    __device__ int layer(int item) const { return z + item / (n_x * n_y); }
    __device__ int row(int item) const { return x + item / n_y % n_x; }
    __device__ int column(int item) const { return y + item % n_y; }
};

// The value of a voxel of the box less the neighbours; NaN if the voxel does not count.
__device__ double value_of(const Box& box, int item, const float* __restrict__ volume, const double* __restrict__ sites,
                           const int* __restrict__ neighbours, int first, int end, double radius, int clip, int n_x,
                           int n_y) {
    const int z = box.layer(item), x = box.row(item), y = box.column(item);
    const double d_z = z - box.centre[0], d_x = x - box.centre[1], d_y = y - box.centre[2];
    double value = volume[((long long)z * n_x + x) * n_y + y];
    if (d_z * d_z + d_x * d_x + d_y * d_y > radius * radius || !isfinite(value)) return nan("");
    const double least = fmin(value, 0.0);
    for (int k = first; k < end; ++k) {
        const double* other = sites + (long long)neighbours[k] * PARAMETERS;
        const double e_z = z - other[0], e_x = x - other[1], e_y = y - other[2];
        const double exponent = 0.5 * (e_z * e_z + e_x * e_x + e_y * e_y) / (other[4] * other[4]);
        if (exponent < EXPONENT_MAX) value -= other[3] * exp(-exponent);
    }
    return clip && value < least ? least : value;
}

// Fill `out` with half the sum of squares at `parameters`, JᵀJ and Jᵀ(data - model), for all threads of the block.
__device__ void linearise(const Box& box, const double* values, const double* parameters, double* room, Sums* out) {
    double sums[SUMS];
#pragma unroll
    for (int i = 0; i < SUMS; ++i) sums[i] = 0.0;
    const double intensity = parameters[3], width = parameters[4], inverse2 = 1.0 / (width * width);
    for (int item = threadIdx.x; item < box.size(); item += blockDim.x) {
        const double value = values[item];
        if (isnan(value)) continue;
        const double d_z = box.layer(item) - box.centre[0] - parameters[0];
        const double d_x = box.row(item) - box.centre[1] - parameters[1];
        const double d_y = box.column(item) - box.centre[2] - parameters[2];
        const double r2 = d_z * d_z + d_x * d_x + d_y * d_y, shape = exp(-0.5 * r2 * inverse2), model = intensity * shape;
        const double residual = value - model;
        const double jacobian[PARAMETERS] = {model * d_z * inverse2, model * d_x * inverse2, model * d_y * inverse2, shape,
                                             model * r2 * inverse2 / width};
        sums[0] += 0.5 * residual * residual;
#pragma unroll
        for (int j = 0; j < PARAMETERS; ++j) {
            sums[1 + j] += jacobian[j] * residual;
#pragma unroll
            for (int k = 0; k < PARAMETERS; ++k)
                if (k <= j) sums[1 + PARAMETERS + j * (j + 1) / 2 + k] += jacobian[j] * jacobian[k];
        }
    }
    double* target = &out->cost;  // the fields of Sums follow each other
#pragma unroll
    for (int i = 0; i < SUMS; ++i) {
        const double total = sum_over_block(sums[i], room);
        if (threadIdx.x == 0) target[i] = total;
        __syncthreads();
    }
}

// Solve the damped normal equations for the step in the free parameters, the other steps being given; false if singular.
__device__ bool solve_free(Fit& fit) {
    for (int j = 0; j < PARAMETERS; ++j)
        for (int k = 0; k <= j; ++k) {
            double value = fit.free[j] && fit.free[k] ? normal_of(fit.now, j, k) : 0.0;
            if (j == k) value = fit.free[j] ? value * (1.0 + fit.damping) : 1.0;
            for (int m = 0; m < k; ++m) value -= fit.factor[j * (j + 1) / 2 + m] * fit.factor[k * (k + 1) / 2 + m];
            if (j > k)
                fit.factor[j * (j + 1) / 2 + k] = value / fit.factor[k * (k + 1) / 2 + k];
            else if (value > 0.0)
                fit.factor[j * (j + 1) / 2 + j] = sqrt(value);
            else
                return false;
        }
    for (int j = 0; j < PARAMETERS; ++j) {
        double value = fit.step[j];
        if (fit.free[j]) {
            value = fit.now.gradient[j];
            for (int k = 0; k < PARAMETERS; ++k)
                if (!fit.free[k]) value -= normal_of(fit.now, j, k) * fit.step[k];
        }
        for (int m = 0; m < j; ++m) value -= fit.factor[j * (j + 1) / 2 + m] * fit.step[m];
        fit.step[j] = value / fit.factor[j * (j + 1) / 2 + j];
    }
    for (int j = PARAMETERS - 1; j >= 0; --j) {
        double value = fit.step[j];
        for (int m = j + 1; m < PARAMETERS; ++m) value -= fit.factor[m * (m + 1) / 2 + j] * fit.step[m];
        fit.step[j] = value / fit.factor[j * (j + 1) / 2 + j];
    }
    return true;
}

// Find the step inside the bounds: a parameter that would leave ends at its bound; false if the equations are singular.
__device__ bool bounded_step(Fit& fit) {
    for (int j = 0; j < PARAMETERS; ++j) {
        const double slope = fit.now.gradient[j];
        fit.free[j] = !((fit.point[j] <= fit.low[j] && slope < 0) || (fit.point[j] >= fit.high[j] && slope > 0));
        fit.given[j] = 0.0;
    }
    for (int attempt = 0; attempt <= PARAMETERS; ++attempt) {
        for (int j = 0; j < PARAMETERS; ++j) fit.step[j] = fit.given[j];
        if (!solve_free(fit)) return false;
        bool inside = true;
        for (int j = 0; j < PARAMETERS; ++j) {
            const double next = fit.point[j] + fit.step[j];
            if (fit.free[j] && !(fit.low[j] <= next && next <= fit.high[j])) {
                fit.given[j] = (fit.step[j] < 0 ? fit.low[j] : fit.high[j]) - fit.point[j];
                fit.free[j] = 0;
                inside = false;
            }
        }
        if (inside) break;
    }
    return true;
}

// Set the bounds and the start of the fit of a site, whose place stays inside the volume.
__device__ void start_fit(Fit& fit, const double* site, const double* bounds, int n_z, int n_x, int n_y) {
    for (int j = 0; j < 3; ++j) {
        const int n = j == 0 ? n_z : j == 1 ? n_x : n_y;
        fit.low[j] = fmin(fmax(-bounds[0], -0.5 - site[j]), 0.0);
        fit.high[j] = fmax(fmin(bounds[0], n - 0.5 - site[j]), 0.0);
        fit.point[j] = 0.0;
    }
    fit.low[3] = bounds[1] * site[3];
    fit.high[3] = bounds[2] * site[3];
    fit.low[4] = fmax(bounds[3] * site[4], bounds[5]);
    fit.high[4] = fmin(bounds[4] * site[4], bounds[6]);
    fit.point[3] = site[3];
    fit.point[4] = fmin(fmax(site[4], fit.low[4]), fit.high[4]);
    fit.damping = 1e-3;
    fit.state = 0;
}

// Fit the `movable` sites (N,), whose neighbours stay as given: neighbours[first_neighbour[i]] to before
// neighbours[first_neighbour[i + 1]]. `bounds` (7,) and `tolerance` are those of FitLimits. Fill `fitted` (N, 5) and
// `status` (N,) of these sites.
extern "C" __global__ void fit_gaussians(const float* __restrict__ volume, const double* __restrict__ sites,
                                         const int* __restrict__ first_neighbour, const int* __restrict__ neighbours,
                                         const int* __restrict__ movable, double radius, int clip,
                                         const double* __restrict__ bounds, double tolerance, int n_steps_max, int n_z,
                                         int n_x, int n_y, double* __restrict__ fitted, int* __restrict__ status) {
    __shared__ double values[MOST_BOX], room[32];
    __shared__ Fit fit;
    const int i_site = blockIdx.x;
    if (!movable[i_site]) return;
    const double* site = sites + (long long)i_site * PARAMETERS;
    const Box box(site, radius, n_z, n_x, n_y);
    int own = 0;
    for (int item = threadIdx.x; item < box.size(); item += blockDim.x) {
        values[item] = value_of(box, item, volume, sites, neighbours, first_neighbour[i_site], first_neighbour[i_site + 1],
                                radius, clip, n_x, n_y);
        own += !isnan(values[item]);
    }
    const int n_voxels = (int)sum_over_block(own, room);
    __syncthreads();
    if (n_voxels <= PARAMETERS) {
        if (threadIdx.x == 0) status[i_site] = TOO_FEW_VOXELS;
        return;
    }
    if (threadIdx.x == 0) start_fit(fit, site, bounds, n_z, n_x, n_y);
    __syncthreads();
    linearise(box, values, fit.point, room, &fit.now);
    for (int number = 0; number < n_steps_max; ++number) {
        if (threadIdx.x == 0) {
            if (!bounded_step(fit)) fit.state = 2;
            fit.change = 0.0;
            for (int j = 0; j < PARAMETERS && fit.state == 0; ++j) {
                fit.trial[j] = fmin(fmax(fit.point[j] + fit.step[j], fit.low[j]), fit.high[j]);
                const double scale = j == 3 ? fit.point[3] : 1.0;
                fit.change = fmax(fit.change, fabs(fit.trial[j] - fit.point[j]) / scale);
            }
        }
        __syncthreads();
        if (fit.state) break;
        linearise(box, values, fit.trial, room, &fit.then);
        if (threadIdx.x == 0) {
            if (fit.then.cost <= fit.now.cost) {
                fit.now = fit.then;
                for (int j = 0; j < PARAMETERS; ++j) fit.point[j] = fit.trial[j];
                fit.damping *= 0.1;
            } else {
                fit.damping *= 10.0;
            }
            if (fit.change < tolerance) fit.state = 1;
        }
        __syncthreads();
        if (fit.state) break;
    }
    if (threadIdx.x > 0) return;
    int found = fit.state == 1 ? 0 : NOT_CONVERGED;
    for (int j = 0; j < PARAMETERS; ++j) {
        fitted[(long long)i_site * PARAMETERS + j] = fit.point[j] + (j < 3 ? site[j] : 0.0);
        if (fit.point[j] <= fit.low[j] || fit.point[j] >= fit.high[j]) found |= AT_BOUND;
    }
    status[i_site] = found;
}
