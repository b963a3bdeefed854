// Work over the threads of OpenMP, where the build has it.
#pragma once

#include <functional>

#include "job.hpp"

namespace smnn {

// As OMP_NUM_THREADS and threadpoolctl say; 1 inside of a parallel region, in a forked child (whose OpenMP runtime lost
// its threads) and in a build without OpenMP.
int max_threads();

// f(0) .. f(count-1), on up to `threads` threads; results below the smallest normal number are zero in it. Throws what
// one of them throws, once all are done.
void parallel_for(Index count, int threads, const std::function<void(Index)>& f);

}  // namespace smnn
