// Loops over threads, which wait for work for microseconds only. Those of OpenMP spin for milliseconds, as a rule, and keep
// the cores from threads that have work.
#pragma once

#include <functional>

#include "job.hpp"

namespace smnn {

// As OMP_NUM_THREADS and, where the build has OpenMP, threadpoolctl say; 1 in a parallel region of OpenMP, and in a forked
// child, which has no other threads.
int max_threads();

// f(0) .. f(count-1), on up to `threads` threads; results below the smallest normal number are zero in it. Throws what
// one of them throws, once all are done.
void parallel_for(Index count, int threads, const std::function<void(Index)>& f);

}  // namespace smnn
