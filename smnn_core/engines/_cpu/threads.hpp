// Work over threads: those of OpenMP on Linux, whose pool frameworks share; new ones in every call elsewhere.
#pragma once

#include <functional>

#include "job.hpp"

namespace smnn {

// As OMP_NUM_THREADS and, with OpenMP, threadpoolctl say; 1 inside of a parallel region of OpenMP, and in a forked child,
// whose OpenMP runtime lost its threads.
int max_threads();

// f(0) .. f(count-1), on up to `threads` threads; results below the smallest normal number are zero in it. Throws what
// one of them throws, once all are done.
void parallel_for(Index count, int threads, const std::function<void(Index)>& f);

}  // namespace smnn
