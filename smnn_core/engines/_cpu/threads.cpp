#include "threads.hpp"

#include <exception>

#if defined(_OPENMP)
#include <omp.h>
#include <pthread.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace smnn {

namespace {

// While it lives, the calling thread rounds results below the smallest normal number to zero. What reaches from a chunk
// to its left separator decays with every point, and some processors take over a hundred cycles for each operation that
// gives a subnormal number. Numbers that are subnormal to begin with are read as they are.
class SubnormalsToZero {
   public:
#if defined(__x86_64__)
    SubnormalsToZero() : before_(_mm_getcsr()) { _mm_setcsr(before_ | _MM_FLUSH_ZERO_ON); }
    ~SubnormalsToZero() { _mm_setcsr(before_); }
    SubnormalsToZero(const SubnormalsToZero&) = delete;
    SubnormalsToZero& operator=(const SubnormalsToZero&) = delete;

   private:
    unsigned before_;
#endif
};

void run_all(Index count, const std::function<void(Index)>& f) {
    [[maybe_unused]] const SubnormalsToZero guard{};
    for (Index i = 0; i < count; ++i) f(i);
}

}  // namespace

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
    if (threads <= 1) return run_all(count, f);
    std::exception_ptr error;  // one that leaves the region would end the process
#pragma omp parallel num_threads(threads)
    {
        [[maybe_unused]] const SubnormalsToZero guard{};
#pragma omp for schedule(dynamic, 1)
        for (Index i = 0; i < count; ++i) {
            try {
                f(i);
            } catch (...) {
#pragma omp critical(smnn_error)
                error = std::current_exception();
            }
        }
    }
    if (error) std::rethrow_exception(error);
}

#else

int max_threads() { return 1; }

void parallel_for(Index count, int, const std::function<void(Index)>& f) { run_all(count, f); }

#endif

}  // namespace smnn
