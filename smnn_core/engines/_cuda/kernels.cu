// The kernels of one problem size and dtype: what host.py launches. Lanes beyond the last have nothing to do.
//
// Needs SMNN_SCALAR, SMNN_V, SMNN_K, SMNN_Q, SMNN_EXTRA (rows of the scheme on the next point alone), SMNN_CHUNKED (time
// is divided), and the sizes of both jobs as the host lays them out.
#include "points.hpp"
#include "separators.hpp"

namespace smnn {
namespace SMNN_LEVEL {

using Scalar = SMNN_SCALAR;
// Unrolled where most of it stays in registers: up to n = 5, and n = 9 where nothing is carried to a left separator.
constexpr bool UNROLLED = SMNN_V * SMNN_K <= (SMNN_CHUNKED || SMNN_EXTRA ? 5 : 9);
using D = Dimensions<SMNN_V, SMNN_K, SMNN_Q, SMNN_EXTRA, UNROLLED>;
using PointsOf = Points<Scalar, D, SMNN_CHUNKED>;
template <bool Chunked>
using SeparatorsOf = Separators<Scalar, SizeOf<UNROLLED>::number<D::n>, D::n, Chunked>;

static_assert(SMNN_K <= MAX_K, "the job has no room for so many orders");
static_assert(sizeof(PointJob<Scalar>) == SMNN_POINT_JOB_BYTES, "host and device lay out points differently");
static_assert(sizeof(ChainJob<Scalar>) == SMNN_CHAIN_JOB_BYTES, "host and device lay out separators differently");

SMNN_INLINE Index this_thread() { return Index(blockIdx.x) * blockDim.x + threadIdx.x; }

}  // namespace SMNN_LEVEL
}  // namespace smnn

#define SMNN_KERNEL(NAME, JOB, LANES, BODY)                                                                     \
    extern "C" __global__ void __launch_bounds__(SMNN_BLOCK)                                                    \
        NAME(const __grid_constant__ smnn::SMNN_LEVEL::JOB<smnn::SMNN_LEVEL::Scalar> job) {                     \
        using namespace smnn::SMNN_LEVEL;                                                                       \
        const Index number = this_thread();                                                                     \
        if (number < job.systems.count * (LANES)) {                                                             \
            BODY;                                                                                               \
        }                                                                                                       \
    }

SMNN_KERNEL(smnn_sweep, PointJob, job.chunks, PointsOf(job, number).sweep())
SMNN_KERNEL(smnn_forward, PointJob, job.chunks, PointsOf(job, number).forward())
SMNN_KERNEL(smnn_back, PointJob, job.chunks, PointsOf(job, number).back())
SMNN_KERNEL(smnn_contract, PointJob, job.chunks, PointsOf(job, number).contract())

#if SMNN_CHUNKED
SMNN_KERNEL(smnn_chain_sweep, ChainJob, job.chunks, SeparatorsOf<true>(job, number).sweep())
SMNN_KERNEL(smnn_chain_forward, ChainJob, job.chunks, SeparatorsOf<true>(job, number).forward())
SMNN_KERNEL(smnn_chain_back, ChainJob, job.chunks, SeparatorsOf<true>(job, number).back())
SMNN_KERNEL(smnn_last_sweep, ChainJob, 1, SeparatorsOf<false>(job, number).sweep())
SMNN_KERNEL(smnn_last_forward, ChainJob, 1, SeparatorsOf<false>(job, number).forward())
SMNN_KERNEL(smnn_last_back, ChainJob, 1, SeparatorsOf<false>(job, number).back())
#endif
