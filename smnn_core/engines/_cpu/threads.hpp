// Loops over threads, which wait for work for microseconds only. Those of OpenMP spin for milliseconds, as a rule, and keep
// the cores from threads that have work.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <thread>

#include "job.hpp"

namespace smnn {

// As OMP_NUM_THREADS and, where the build has OpenMP, threadpoolctl say; 1 in a parallel region of OpenMP, and in a forked
// child, which has no other threads.
int max_threads();

// f(0) .. f(count-1), on up to `threads` threads; results below the smallest normal number are zero in it. Throws what
// one of them throws, once all are done.
void parallel_for(Index count, int threads, const std::function<void(Index)>& f);

// Thrown by `poll` where the call is to stop.
struct Interrupted {};

// A call that can be interrupted, while this lives: `poll` on the thread that made it asks from time to time whether to stop,
// and stops that thread and those that help it.
class Interruptible {
   public:
    explicit Interruptible(std::function<bool()> ask);
    ~Interruptible();
    Interruptible(const Interruptible&) = delete;
    Interruptible& operator=(const Interruptible&) = delete;

    // Asks where it is time to, on the thread that made this.
    bool is_over();

   private:
    const std::function<bool()> ask_;
    const std::thread::id caller_ = std::this_thread::get_id();
    std::chrono::steady_clock::time_point next_;
    std::atomic<bool> is_over_{false};
    Interruptible* const before_;
};

}  // namespace smnn
