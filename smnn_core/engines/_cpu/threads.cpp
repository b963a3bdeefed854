#include "threads.hpp"

#if defined(_OPENMP)
#include <omp.h>
#include <pthread.h>
#endif

namespace smnn {

#if defined(_OPENMP)

namespace {
bool forked = false;
const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });
}  // namespace

int max_threads() {
    (void)registered;
    return forked || omp_in_parallel() ? 1 : omp_get_max_threads();
}

void parallel_for(Index count, int threads, const std::function<void(Index)>& f) {
    if (threads > count) threads = int(count);
    if (threads <= 1) {
        for (Index i = 0; i < count; ++i) f(i);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (Index i = 0; i < count; ++i) f(i);
}

#else

int max_threads() { return 1; }

void parallel_for(Index count, int, const std::function<void(Index)>& f) {
    for (Index i = 0; i < count; ++i) f(i);
}

#endif

}  // namespace smnn
