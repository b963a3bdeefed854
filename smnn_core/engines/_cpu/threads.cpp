#include "threads.hpp"

#include <atomic>
#include <exception>
#include <mutex>
#include <vector>

#if defined(_OPENMP)
#include <omp.h>
#include <pthread.h>
#else
#include <cstdlib>
#include <system_error>
#include <thread>
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

// work(0) .. work(threads - 1), side by side; OpenMP may give fewer threads.
void on_threads(int threads, const std::function<void(int)>& work) {
#pragma omp parallel num_threads(threads)
    work(omp_get_thread_num());
}

}  // namespace

int max_threads() {
    (void)registered;
    return forked || omp_in_parallel() ? 1 : omp_get_max_threads();
}

#else

namespace {

// work(0) .. work(threads - 1), side by side; fewer where the system gives no more threads.
void on_threads(int threads, const std::function<void(int)>& work) {
    std::vector<std::thread> others;
    others.reserve(size_t(threads));
    try {
        for (int k = 1; k < threads; ++k) others.emplace_back(work, k);
    } catch (const std::system_error&) {
    }
    work(0);
    for (std::thread& other : others) other.join();
}

}  // namespace

int max_threads() {
    static const int number = [] {
        const char* asked = std::getenv("OMP_NUM_THREADS");
        const int n = asked ? std::atoi(asked) : int(std::thread::hardware_concurrency());
        return n > 0 ? n : 1;
    }();
    return number;
}

#endif

namespace {

// What is left of the range of one thread; a cache line each.
struct alignas(64) Range {
    std::atomic<Index> next;
    Index end;
};

}  // namespace

// Every thread has its own part of the range, the same one in every call: what it wrote then, or read, may still lie in its
// cache. One that has nothing left helps the others.
void parallel_for(Index count, int threads, const std::function<void(Index)>& f) {
    if (threads > count) threads = int(count);
    if (threads <= 1) return run_all(count, f);
    std::vector<Range> ranges{size_t(threads)};
    for (int k = 0; k < threads; ++k) {
        ranges[size_t(k)].next = count * k / threads;
        ranges[size_t(k)].end = count * (k + 1) / threads;
    }
    std::exception_ptr error;  // one that leaves a thread would end the process
    std::mutex error_mutex;
    on_threads(threads, [&](int own) {
        [[maybe_unused]] const SubnormalsToZero guard{};
        for (int k = 0; k < threads; ++k) {
            Range& range = ranges[size_t((own + k) % threads)];
            for (Index i; (i = range.next.fetch_add(1, std::memory_order_relaxed)) < range.end;) {
                try {
                    f(i);
                } catch (...) {
                    const std::lock_guard<std::mutex> lock(error_mutex);
                    error = std::current_exception();
                }
            }
        }
    });
    if (error) std::rethrow_exception(error);
}

}  // namespace smnn
