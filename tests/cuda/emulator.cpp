// kernels.cu, or moments.cu, for the CPU: launch by name. Returns 0, 1 where there is no such kernel, or 2 where threads of a warp wait
// for one that is done.
#include <type_traits>

#include "grid.hpp"

#ifdef SMNN_MOMENTS_JOB_BYTES
#include "moments.cu"
#else
#include "kernels.cu"
#endif

extern "C" int launch(const char* name, unsigned blocks, unsigned threads, int backwards, const void* job) {
#define KERNEL(NAME)                                                               \
    if (std::strcmp(name, #NAME) == 0) {                                           \
        return run_grid(NAME, blocks, threads, backwards != 0, job) ? 0 : 2;       \
    }
#ifdef SMNN_MOMENTS_JOB_BYTES
    KERNEL(smnn_moments)
#else
    KERNEL(smnn_sweep)
    KERNEL(smnn_forward)
    KERNEL(smnn_back)
    KERNEL(smnn_refine)
    KERNEL(smnn_contract)
#if SMNN_CHUNKED
    KERNEL(smnn_chains_sweep)
    KERNEL(smnn_chains_solve)
#endif
#endif
    return 1;
}
