// The part of CUDA C++ that the kernels in aetlab/gpu use, for a processor. Blocks run one after another. So do the
// threads of a block; in kernels that synchronise them they are coroutines, each of which runs up to the barrier.
#define _XOPEN_SOURCE 700  // macOS declares coroutines with it only
#define _DARWIN_C_SOURCE
#include <math.h>
#include <ucontext.h>

struct float2 { float x, y; };
static inline float2 make_float2(float x, float y) { return {x, y}; }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline void sincospif(float x, float* sine, float* cosine) {
    const double angle = 3.14159265358979324 * (x - 2.0 * rint(0.5 * x));
    *sine = (float)sin(angle);
    *cosine = (float)cos(angle);
}

struct Index { unsigned x, y, z; };
static thread_local Index threadIdx, blockIdx, blockDim, gridDim;
static ucontext_t block, threads[256];
static char stacks[256][1 << 17];
static unsigned alive, thread;

// Let the other threads of the block run up to the same barrier.
static void wait_for_others() {
    const unsigned index = thread;
    swapcontext(&threads[index], &block);
    threadIdx = {index, 0, 0};
}

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __syncthreads() wait_for_others()

template <typename Work> static Work* work_of_threads;

template <typename Work>
static void run_thread() {
    (*work_of_threads<Work>)();
    --alive;
}

static void enter_block(const unsigned* layout, unsigned bx, unsigned by, unsigned bz) {
    gridDim = {layout[0], layout[1], layout[2]};
    blockDim = {layout[3], layout[4], layout[5]};
    blockIdx = {bx, by, bz};
}

// `layout`: blocks and threads per block along x, y, z, and whether threads synchronise (then all lie along x).
template <typename Work>
static void launch(const unsigned* layout, Work work) {
    if (layout[6]) {
        work_of_threads<Work> = &work;
        for (unsigned bx = 0; bx < layout[0]; ++bx) {
            enter_block(layout, bx, 0, 0);
            for (unsigned t = 0; t < layout[3]; ++t) {
                getcontext(&threads[t]);
                threads[t].uc_stack.ss_sp = stacks[t];
                threads[t].uc_stack.ss_size = sizeof stacks[t];
                threads[t].uc_link = &block;
                makecontext(&threads[t], run_thread<Work>, 0);
            }
            for (alive = layout[3]; alive;)  // every thread passes the same number of barriers
                for (thread = 0; thread < layout[3]; ++thread) {
                    threadIdx = {thread, 0, 0};
                    swapcontext(&block, &threads[thread]);
                }
        }
        return;
    }
    for (unsigned bz = 0; bz < layout[2]; ++bz)
        for (unsigned by = 0; by < layout[1]; ++by)
            for (unsigned bx = 0; bx < layout[0]; ++bx) {
                enter_block(layout, bx, by, bz);
                for (unsigned z = 0; z < layout[5]; ++z)
                    for (unsigned y = 0; y < layout[4]; ++y)
                        for (unsigned x = 0; x < layout[3]; ++x) {
                            threadIdx = {x, y, z};
                            work();
                        }
            }
}
