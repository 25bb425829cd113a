// Kernels that put atoms into the slices of a tilt, and gather the gradient of the slices at the atoms.
//
// Notation and tables: refinement/kernels_numba.py and tables.py. An atom is Σ_g w_g P_g(z) P_g(x) P_g(y), P_g the mean of
// a Gaussian over a voxel (along z: its sum over the layers of a slice), all positions in voxels. Both directions gather:
// a block sums all atoms that reach a tile of a slice, or all voxels that an atom reaches, in a fixed order.

#define GAUSSIANS 8
#define STEPS 32        // entries of a table per voxel
#define TILE_X 8        // rows of the tile of a block
#define TILE_Y 32       // voxels of these rows: the threads of a warp
#define BATCH 8         // atoms whose means a block holds at the same time
#define MOST_CELLS 64   // largest number of voxels of an atom along x or y
#define PADDED 9        // distance of the means of neighbouring cells: odd, so that a warp reads all banks

// Table of one element: Φ and its slope at the edges of voxels, for all Gaussians.
struct Table {
    const float* entries;  // (STEPS + 1, n_rows, 2, GAUSSIANS)
    int n_reach, n_rows;
};

// Edges along one axis, one voxel apart: they have the same fractional offset from the atom.
struct Edges {
    int step, below;  // entry of the table, and row of the edge in front of voxel 0
    float t;          // position between two entries

    __device__ Edges(double centre, int n_reach) {
        const double offset = -0.5 - centre, whole = floor(offset), fine = (offset - whole) * STEPS;
        step = min((int)fine, STEPS - 1);
        below = (int)whole + n_reach;
        t = (float)(fine - step);
    }
    // Φ of Gaussian g at the edge in front of `voxel`, and its derivative along the axis.
    __device__ float2 at(const Table& table, int voxel, int g) const {
        const int row = min(max(below + voxel, 0), table.n_rows - 1);
        const float* low = table.entries + (step * table.n_rows + row) * 2 * GAUSSIANS + g;
        const float* high = low + table.n_rows * 2 * GAUSSIANS;
        const float v0 = low[0], s0 = low[GAUSSIANS], v1 = high[0], s1 = high[GAUSSIANS];
        const float h01 = t * t * (3.0f - 2.0f * t), h00 = 1.0f - h01;
        const float h10 = t * (1.0f - t) * (1.0f - t), h11 = t * t * (t - 1.0f);
        const float d01 = 6.0f * t * (1.0f - t) * STEPS;
        const float d10 = (1.0f + t * (3.0f * t - 4.0f)) * STEPS, d11 = t * (3.0f * t - 2.0f) * STEPS;
        return make_float2(v0 * h00 + s0 * h10 + v1 * h01 + s1 * h11, (v1 - v0) * d01 + s0 * d10 + s1 * d11);
    }
    // Mean over the voxels from `first` to before `end`, and its derivative with respect to the atom.
    __device__ float2 mean(const Table& table, int first, int end, int g) const {
        const float2 left = at(table, first, g), right = at(table, end, g);
        return make_float2(right.x - left.x, left.y - right.y);
    }
};

// The voxels within reach of an atom: `n_cut` slices from `slice`, `n_wide` rows from `x`, and `n_high` voxels from `y`. No
// slice if it lies outside the volume. Along y they are a window, and along z all layers of the slices (refinement); a
// window of 0 stands for the voxels within reach alone, `n_deep` layers from `layer` (simulation, forward/potential.py).
struct Place {
    int layer, n_deep, slice, n_cut, x, n_wide, y, n_high;

    __device__ Place(const double* centre, double reach, int n_layers, int n_z, int n_x, int n_y, int window) {
        layer = max((int)ceil(centre[0] - reach), 0);
        n_deep = min((int)floor(centre[0] + reach) + 1, n_z) - layer;
        x = max((int)ceil(centre[1] - reach), 0);
        n_wide = min((int)floor(centre[1] + reach) + 1, n_x) - x;
        y = min(max((int)floor(centre[2]) - window / 2 + 1, 0), n_y - window);
        n_high = window;
        if (window == 0) {
            y = max((int)ceil(centre[2] - reach), 0);
            n_high = min((int)floor(centre[2] + reach) + 1, n_y) - y;
        }
        slice = layer / n_layers;
        n_cut = (layer + n_deep - 1) / n_layers - slice + 1;
        if (n_deep <= 0 || n_wide <= 0 || centre[2] < -reach || centre[2] > n_y - 1 + reach) n_cut = 0;
    }
};

__device__ Table table_of(const float* cumulative, int kind, int n_reach) {
    const int n_rows = 2 * n_reach + 1;
    return {cumulative + (long long)kind * (STEPS + 1) * n_rows * 2 * GAUSSIANS, n_reach, n_rows};
}

// slices (S, X, Y) = the potential of the atoms in V. Block b fills a tile: tiles of a slice by rows and columns, slice
// after slice. Its atoms are members[starts[l]] to before members[starts[l + 1]] with the list l of the tile, which
// `n_shared` slices share. `centres` (N, 3) are z, x, y.
extern "C" __global__ void deposit_atoms(const double* __restrict__ centres, const int* __restrict__ kinds,
                                         const float* __restrict__ occupancy, const int* __restrict__ starts,
                                         const int* __restrict__ members, const float* __restrict__ cumulative,
                                         const float* __restrict__ integrals, const double* __restrict__ reach,
                                         int n_reach, int window, int n_layers, int n_z, int n_x, int n_y,
                                         int n_shared, float* __restrict__ slices) {
    __shared__ float tile[TILE_X * TILE_Y];
    __shared__ float by_row[BATCH * TILE_X * GAUSSIANS], by_column[BATCH * TILE_Y * PADDED];
    const int columns = (n_y + TILE_Y - 1) / TILE_Y, rows = (n_x + TILE_X - 1) / TILE_X;
    const int first_y = blockIdx.x % columns * TILE_Y, first_x = blockIdx.x / columns % rows * TILE_X;
    const int i_slice = blockIdx.x / columns / rows;
    const int first_z = i_slice * n_layers, end_z = min(first_z + n_layers, n_z);
    for (int pixel = threadIdx.x; pixel < TILE_X * TILE_Y; pixel += blockDim.x) tile[pixel] = 0.0f;
    const int list = blockIdx.x - (i_slice - i_slice / n_shared) * columns * rows, end = starts[list + 1];
    for (int batch = starts[list]; batch < end; batch += BATCH) {
        const int n = min(BATCH, end - batch);
        __syncthreads();  // the means of the last batch have been used
        for (int item = threadIdx.x; item < n * TILE_Y * GAUSSIANS; item += blockDim.x) {
            const int g = item % GAUSSIANS, cell = item / GAUSSIANS % TILE_Y, k = item / GAUSSIANS / TILE_Y;
            const int atom = members[batch + k], kind = kinds[atom], y = first_y + cell;
            const Table table = table_of(cumulative, kind, n_reach);
            const Place place(centres + 3 * atom, reach[kind], n_layers, n_z, n_x, n_y, window);
            float mean = 0.0f;
            if (y >= place.y && y < place.y + place.n_high) {
                const Edges edges(centres[3 * atom + 2], n_reach);
                mean = edges.mean(table, y, y + 1, g).x * integrals[kind * GAUSSIANS + g] * occupancy[atom];
            }
            by_column[(k * TILE_Y + cell) * PADDED + g] = mean;
        }
        for (int item = threadIdx.x; item < n * TILE_X * GAUSSIANS; item += blockDim.x) {
            const int g = item % GAUSSIANS, cell = item / GAUSSIANS % TILE_X, k = item / GAUSSIANS / TILE_X;
            const int atom = members[batch + k], kind = kinds[atom], x = first_x + cell;
            const Table table = table_of(cumulative, kind, n_reach);
            const Place place(centres + 3 * atom, reach[kind], n_layers, n_z, n_x, n_y, window);
            float mean = 0.0f;
            if (x >= place.x && x < place.x + place.n_wide) {
                const Edges along_x(centres[3 * atom + 1], n_reach), along_z(centres[3 * atom], n_reach);
                const int first = window > 0 ? first_z : max(first_z, place.layer);
                const int stop = window > 0 ? end_z : min(end_z, place.layer + place.n_deep);
                if (stop > first) mean = along_x.mean(table, x, x + 1, g).x * along_z.mean(table, first, stop, g).x;
            }
            by_row[item] = mean;
        }
        __syncthreads();
        for (int pixel = threadIdx.x; pixel < TILE_X * TILE_Y; pixel += blockDim.x) {
            const float* column = by_column + pixel % TILE_Y * PADDED;
            const float* row = by_row + pixel / TILE_Y * GAUSSIANS;
            float sum = tile[pixel];
            for (int k = 0; k < n; ++k)
#pragma unroll
                for (int g = 0; g < GAUSSIANS; ++g)
                    sum += row[k * TILE_X * GAUSSIANS + g] * column[k * TILE_Y * PADDED + g];
            tile[pixel] = sum;
        }
    }
    for (int pixel = threadIdx.x; pixel < TILE_X * TILE_Y; pixel += blockDim.x) {
        const int x = first_x + pixel / TILE_Y, y = first_y + pixel % TILE_Y;
        if (x < n_x && y < n_y) slices[((long long)i_slice * n_x + x) * n_y + y] = tile[pixel];
    }
}

// out (N, 4) = d/dz, d/dx, d/dy per voxel and d/d occupancy of Σ gradient · slices, gradient (S, X, Y): the adjoint of the
// derivative of `deposit_atoms`. A block sums the voxels of one atom.
extern "C" __global__ void gather_atoms(const float* __restrict__ gradient, const double* __restrict__ centres,
                                        const int* __restrict__ kinds, const float* __restrict__ occupancy,
                                        const float* __restrict__ cumulative, const float* __restrict__ integrals,
                                        const double* __restrict__ reach, int n_reach, int window, int n_layers, int n_z,
                                        int n_x, int n_y, double* __restrict__ out) {
    __shared__ float2 by_x[MOST_CELLS * PADDED], by_y[MOST_CELLS * PADDED], by_z[GAUSSIANS];
    __shared__ double room[64];
    const int atom = blockIdx.x, kind = kinds[atom];
    const double* centre = centres + 3LL * atom;
    const Table table = table_of(cumulative, kind, n_reach);
    const Place place(centre, reach[kind], n_layers, n_z, n_x, n_y, window);
    if (place.n_cut > 0) {
        const Edges along_x(centre[1], n_reach), along_y(centre[2], n_reach);
        for (int item = threadIdx.x; item < place.n_wide * GAUSSIANS; item += blockDim.x) {
            const int g = item % GAUSSIANS, cell = item / GAUSSIANS;
            by_x[cell * PADDED + g] = along_x.mean(table, place.x + cell, place.x + cell + 1, g);
        }
        for (int item = threadIdx.x; item < window * GAUSSIANS; item += blockDim.x) {
            const int g = item % GAUSSIANS, cell = item / GAUSSIANS;
            by_y[cell * PADDED + g] = along_y.mean(table, place.y + cell, place.y + cell + 1, g);
        }
    }
    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (int m = place.slice; m < place.slice + place.n_cut; ++m) {
        __syncthreads();  // the means along z of the last slice have been used
        for (int g = threadIdx.x; g < GAUSSIANS; g += blockDim.x) {
            const float2 mean = Edges(centre[0], n_reach).mean(table, m * n_layers, min((m + 1) * n_layers, n_z), g);
            const float w = integrals[kind * GAUSSIANS + g];
            by_z[g] = make_float2(w * mean.x, w * mean.y);
        }
        __syncthreads();
        for (int item = threadIdx.x; item < place.n_wide * window; item += blockDim.x) {
            const int row = item / window, column = item % window;
            const float value = gradient[((long long)m * n_x + place.x + row) * n_y + place.y + column];
            float flat = 0.0f, by_depth = 0.0f, across = 0.0f, along = 0.0f;
#pragma unroll
            for (int g = 0; g < GAUSSIANS; ++g) {
                const float2 x = by_x[row * PADDED + g], y = by_y[column * PADDED + g], z = by_z[g];
                const float both = x.x * y.x;
                flat += both * z.x;
                by_depth += both * z.y;
                across += x.y * y.x * z.x;
                along += x.x * y.y * z.x;
            }
            sums[0] += value * by_depth;
            sums[1] += value * across;
            sums[2] += value * along;
            sums[3] += value * flat;
        }
    }
#pragma unroll
    for (int axis = 0; axis < 4; ++axis) {
        __syncthreads();
        const double total = sum_over_block(sums[axis], room);
        if (threadIdx.x == 0) out[4LL * atom + axis] = axis == 3 ? total : total * occupancy[atom];
    }
}
