// The part of CUDA C++ that the kernels in aetlab/gpu use, for a processor. Blocks run one after another. So do the
// threads of a block, except in kernels that synchronise them: there they are system threads.
#include <math.h>
#include <pthread.h>

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
static pthread_barrier_t barrier;

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __syncthreads() pthread_barrier_wait(&barrier)

template <typename Work>
struct Thread {
    Work* work;
    const unsigned* layout;
    unsigned index;
    pthread_t id;

    void run_block(unsigned bx, unsigned by, unsigned bz) {
        gridDim = {layout[0], layout[1], layout[2]};
        blockDim = {layout[3], layout[4], layout[5]};
        blockIdx = {bx, by, bz};
    }
    static void* run(void* self) {
        Thread* thread = (Thread*)self;
        for (unsigned b = 0; b < thread->layout[0]; ++b) {
            thread->run_block(b, 0, 0);
            threadIdx = {thread->index, 0, 0};
            (*thread->work)();
            pthread_barrier_wait(&barrier);
        }
        return 0;
    }
};

// `layout`: blocks and threads per block along x, y, z, and whether threads synchronise (then all lie along x).
template <typename Work>
static void launch(const unsigned* layout, Work work) {
    if (layout[6]) {
        Thread<Work> threads[256];
        pthread_barrier_init(&barrier, 0, layout[3]);
        for (unsigned t = 0; t < layout[3]; ++t) {
            threads[t] = {&work, layout, t, pthread_t()};
            pthread_create(&threads[t].id, 0, Thread<Work>::run, &threads[t]);
        }
        for (unsigned t = 0; t < layout[3]; ++t) pthread_join(threads[t].id, 0);
        pthread_barrier_destroy(&barrier);
        return;
    }
    Thread<Work> one = {&work, layout, 0, pthread_t()};
    for (unsigned bz = 0; bz < layout[2]; ++bz)
        for (unsigned by = 0; by < layout[1]; ++by)
            for (unsigned bx = 0; bx < layout[0]; ++bx) {
                one.run_block(bx, by, bz);
                for (unsigned z = 0; z < layout[5]; ++z)
                    for (unsigned y = 0; y < layout[4]; ++y)
                        for (unsigned x = 0; x < layout[3]; ++x) {
                            threadIdx = {x, y, z};
                            work();
                        }
            }
}
