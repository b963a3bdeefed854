// The kernels of one problem size and dtype: what host.py launches. Lanes beyond the last have nothing to do.
//
// Needs SMNN_SCALAR, SMNN_V, SMNN_K, SMNN_Q, SMNN_EXTRA (rows of the scheme on the next point alone), SMNN_CHUNKED (time
// is divided), SMNN_BLOCK (threads), SMNN_TEAM (threads that sweep a lane) and SMNN_TEAMS (of a block that sweeps),
// SMNN_SHARED (bytes), and the sizes of both jobs as the host lays them out.
// SMNN_PARTS chooses kernels: 1 those of solves, 2 those that only derivatives and normal solves take, 3 both.
#ifndef SMNN_PARTS
#define SMNN_PARTS 3
#endif
#include "points.hpp"
#include "separators.hpp"
#include "team.hpp"

namespace smnn {
namespace SMNN_LEVEL {

using Scalar = SMNN_SCALAR;
template <bool>
struct SizeOf {
    using type = Known<SMNN_V, SMNN_K, SMNN_Q, SMNN_EXTRA>;
};
template <>
struct SizeOf<false> {
    using type = Looped<SMNN_V, SMNN_K, SMNN_Q, SMNN_EXTRA>;
};
// Unrolled where most of it stays in registers: up to n = 5, and n = 9 where nothing is carried to a left separator.
constexpr bool UNROLLED = SMNN_V * SMNN_K <= (SMNN_CHUNKED || SMNN_EXTRA ? 5 : 9);
using Size = SizeOf<UNROLLED>::type;
using PointsOf = Points<Scalar, Size, SMNN_CHUNKED>;
using SweepPoints = Points<Scalar, SizeOf<UNROLLED && SMNN_TEAM == 1>::type, SMNN_CHUNKED>;
using ChainsOf = Chains<Scalar, Size>;
using SweepTeam = TeamOf<SMNN_TEAM>::type;

static_assert(SMNN_K <= MAX_K, "the job has no room for so many orders");
using JobOfPoints = PointJob<Scalar, SMNN_K>;
using JobOfChains = ChainJob<Scalar>;
static_assert(sizeof(JobOfPoints) == SMNN_POINT_JOB_BYTES, "host and device lay out points differently");
static_assert(sizeof(JobOfPoints) <= MAX_BYTES && sizeof(JobOfChains) <= MAX_BYTES, "a job is too large to be passed");
static_assert(sizeof(JobOfChains) == SMNN_CHAIN_JOB_BYTES, "host and device lay out separators differently");

SMNN_INLINE Index this_thread() { return Index(blockIdx.x) * blockDim.x + threadIdx.x; }

}  // namespace SMNN_LEVEL
}  // namespace smnn

#define SMNN_KERNEL(NAME, JOB, ...)                                                                             \
    extern "C" __global__ void __launch_bounds__(__VA_ARGS__)                                                   \
        smnn_##NAME(const __grid_constant__ smnn::SMNN_LEVEL::JOB job) {                                        \
        using namespace smnn::SMNN_LEVEL;

// Of points by single threads.
#define SMNN_POINTS_KERNEL(NAME)                                                                                \
    SMNN_KERNEL(NAME, JobOfPoints, SMNN_BLOCK)                                                                  \
        PointsOf(job, this_thread()).NAME();                                                                    \
    }

// A lane that takes more than a thread has registers for is swept by a team in shared memory, `room`.
#if SMNN_TEAM > 1
#define SMNN_ROOM(NUMBERS)                                                                                      \
    __shared__ Scalar rooms[SMNN_TEAMS][NUMBERS];                                                               \
    static_assert(sizeof(rooms) <= SMNN_SHARED, "teams take more shared memory than a block has");              \
    Scalar* const room = rooms[threadIdx.x / SMNN_TEAM];
#else
#define SMNN_ROOM(NUMBERS) Scalar* const room = nullptr;
#endif
#define SMNN_SWEEP_KERNEL(NAME, TAPE)                                                                           \
    SMNN_KERNEL(NAME, JobOfPoints, SMNN_TEAM* SMNN_TEAMS, 1)                                                    \
        SMNN_ROOM(SweepPoints::ROOM)                                                                            \
        SweepPoints(job, this_thread() / SMNN_TEAM).sweep<TAPE>(room, SweepTeam());                             \
    }

// Elimination of separators likewise; then, where `back` is set, the way back by each of their threads.
#define SMNN_CHAINS_KERNEL(NAME, TAPE)                                                                          \
    SMNN_KERNEL(chains_##NAME, JobOfChains, SMNN_TEAM* SMNN_TEAMS, 1)                                           \
        SMNN_ROOM(ChainsOf::ROOM)                                                                               \
        ChainsOf(job, this_thread() / SMNN_TEAM, job.group).sweep<TAPE>(room, SweepTeam());                     \
        if (job.back && job.end_level == job.levels) ChainsOf(job, this_thread(), job.group * SMNN_TEAM).back(); \
    }

#if SMNN_PARTS & 1
SMNN_SWEEP_KERNEL(sweep, NoTape)
SMNN_POINTS_KERNEL(back)
#if SMNN_CHUNKED
SMNN_CHAINS_KERNEL(sweep, NoTape)
#endif
#endif

#if SMNN_PARTS & 2
SMNN_SWEEP_KERNEL(record, StridedTape<Scalar>)
SMNN_POINTS_KERNEL(forward)
SMNN_POINTS_KERNEL(unwind)
SMNN_POINTS_KERNEL(contract)
#if SMNN_CHUNKED
SMNN_CHAINS_KERNEL(record, StridedTape<Scalar>)
SMNN_KERNEL(chains_solve, JobOfChains, SMNN_BLOCK)
    const ChainsOf chains(job, this_thread(), job.group);
    chains.forward();
    chains.back();
}
#endif
#endif
