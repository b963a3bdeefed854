#include "threads.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#if defined(_OPENMP)
#include <omp.h>
#endif
#if !defined(_WIN32)
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

// The call that the thread works for.
thread_local Interruptible* current = nullptr;

// How long a thread without work waits awake. Calls that follow one another closely find the others awake; a thread that
// waits longer sleeps, and leaves its core to others.
constexpr auto AWAKE = std::chrono::microseconds(50);
// How often a call asks whether to stop.
constexpr auto BETWEEN_QUESTIONS = std::chrono::milliseconds(50);

void relax() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// True if `done` within that time.
template <class Done>
bool wait_awake(Done done) {
    const auto end = std::chrono::steady_clock::now() + AWAKE;
    do {
        for (int i = 0; i < 32; ++i) {
            if (done()) return true;
            relax();
        }
    } while (std::chrono::steady_clock::now() < end);
    return done();
}

// f(0) .. f(count-1), by several threads. Each has its own part of the range, the same one in every call: what it wrote then,
// or read, may still lie in its cache. One that has nothing left helps the others.
class Loop {
   public:
    const int threads;
    int joined = 1;               // threads that take part, the caller being the first; under the pool's mutex
    std::atomic<int> working{0};  // of these, but for the caller, that are not done

    Loop(Index count, int threads_, const std::function<void(Index)>& f)
        : threads(threads_), f_(f), call_(current), parts_{size_t(threads_)} {
        for (int k = 0; k < threads; ++k) {
            parts_[size_t(k)].next = count * k / threads;
            parts_[size_t(k)].end = count * (k + 1) / threads;
        }
    }

    // The items that are left for the thread of this number.
    void run(int number) {
        [[maybe_unused]] const SubnormalsToZero guard{};
        current = call_;
        for (int k = 0; k < threads; ++k) {
            Part& part = parts_[size_t((number + k) % threads)];
            for (Index i; (i = part.next.fetch_add(1, std::memory_order_relaxed)) < part.end;) {
                try {
                    poll();
                    f_(i);
                } catch (...) {
                    const std::lock_guard<std::mutex> lock(mutex_);
                    error_ = std::current_exception();
                }
            }
        }
    }

    void rethrow() const {
        if (error_) std::rethrow_exception(error_);
    }

   private:
    struct alignas(64) Part {  // a cache line each
        std::atomic<Index> next;
        Index end;
    };
    const std::function<void(Index)>& f_;
    Interruptible* const call_;
    std::vector<Part> parts_;
    std::mutex mutex_;
    std::exception_ptr error_;
};

// Threads that take part in one loop after another. The caller waits for none that has not begun: on busy cores it does all
// of the work itself.
class Pool {
   public:
    // False, with nothing done, while another thread's loop is under way.
    bool run(Loop& loop) {
        const std::unique_lock<std::mutex> alone(one_loop_, std::try_to_lock);
        if (!alone) return false;
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            add_threads(loop.threads - 1);
            loop_ = &loop;
            ++n_loops_;
        }
        wake_.notify_all();
        loop.run(0);
        std::unique_lock<std::mutex> lock(mutex_);
        loop_ = nullptr;
        lock.unlock();
        const auto done = [&] { return loop.working == 0; };
        if (!wait_awake(done)) {
            lock.lock();
            while (!done_.wait_for(lock, BETWEEN_QUESTIONS, done)) {
                lock.unlock();
                if (current) (void)current->is_over();
                lock.lock();
            }
        }
        return true;
    }

   private:
    std::mutex one_loop_, mutex_;
    std::condition_variable wake_, done_;
    std::atomic<unsigned> n_loops_{0};
    Loop* loop_ = nullptr;  // while threads may join it
    int n_threads_ = 0;

    // Up to `wanted` threads, or as many as the system gives.
    void add_threads(int wanted) {
        try {
            for (; n_threads_ < wanted; ++n_threads_) std::thread([this] { serve(); }).detach();
        } catch (const std::system_error&) {
        }
    }

    void serve() {
        for (unsigned seen = 0;;) {
            const auto is_next = [&] { return n_loops_ != seen; };
            wait_awake(is_next);
            std::unique_lock<std::mutex> lock(mutex_);
            wake_.wait(lock, is_next);
            seen = n_loops_;
            Loop* const loop = loop_;
            if (!loop || loop->joined == loop->threads) continue;
            const int number = loop->joined++;
            ++loop->working;
            lock.unlock();
            loop->run(number);
            lock.lock();
            --loop->working;  // (from here on the loop may be gone)
            done_.notify_one();
        }
    }
};

// Never destroyed: its threads wait in it until the process ends.
Pool& pool() {
    static auto* const one = new Pool;
    return *one;
}

bool forked = false;
#if !defined(_WIN32)
const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });
#endif

}  // namespace

Interruptible::Interruptible(std::function<bool()> ask)
    : ask_(std::move(ask)), next_(std::chrono::steady_clock::now() + BETWEEN_QUESTIONS), before_(current) {
    current = this;
}
Interruptible::~Interruptible() { current = before_; }

bool Interruptible::is_over() {
    if (is_over_) return true;
    if (std::this_thread::get_id() != caller_) return false;
    const auto now = std::chrono::steady_clock::now();
    if (now < next_) return false;
    is_over_ = ask_();
    next_ = now + BETWEEN_QUESTIONS;
    return is_over_;
}

void poll() {
    if (current && current->is_over()) throw Interrupted{};
}

int max_threads() {
#if !defined(_WIN32)
    (void)registered;
#endif
    if (forked) return 1;
#if defined(_OPENMP)
    return omp_in_parallel() ? 1 : omp_get_max_threads();
#else
    const char* const wanted = std::getenv("OMP_NUM_THREADS");
    const int number = wanted ? std::atoi(wanted) : 0;
    return number > 0 ? number : std::max(1, int(std::thread::hardware_concurrency()));
#endif
}

void parallel_for(Index count, int threads, const std::function<void(Index)>& f) {
    threads = int(std::min<Index>(threads, count));
    if (threads <= 1) return run_all(count, f);
    Loop loop(count, threads, f);
    if (!pool().run(loop)) return run_all(count, f);
    loop.rethrow();
}

}  // namespace smnn
