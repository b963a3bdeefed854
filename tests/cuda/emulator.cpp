// kernels.cu for the CPU: launch by name. Returns 0, 1 where there is no such kernel, 2 where threads of a
// warp wait for one that is done, or 3 where a thread comes to a barrier of others. Numbers in single precision that are
// too small are zero, as with -ftz=true.
#include <type_traits>

#include "grid.hpp"

#include "kernels.cu"
static constexpr bool single = sizeof(SMNN_SCALAR) == 4;

extern "C" int launch(const char* name, unsigned blocks, unsigned threads, int backwards, const void* job) {
#define KERNEL(NAME)                                                               \
    if (std::strcmp(name, #NAME) == 0) {                                           \
        const FlushToZero flush(single);                                           \
        return run_grid(NAME, blocks, threads, backwards != 0, job);               \
    }
    KERNEL(smnn_sweep)
    KERNEL(smnn_forward)
    KERNEL(smnn_back)
    KERNEL(smnn_record)
    KERNEL(smnn_unwind)
    KERNEL(smnn_contract)
#if SMNN_CHUNKED
    KERNEL(smnn_chains_sweep)
    KERNEL(smnn_chains_record)
    KERNEL(smnn_chains_solve)
#endif
    return 1;
}
