// A grid on the CPU, so that a C++ compiler can run kernels.cu as it is: one warp after the other, the threads of a warp as
// coroutines that change places at its barriers.
#pragma once

#include <ucontext.h>

#ifdef __SSE__
#include <xmmintrin.h>
#endif

#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <vector>

#define __global__
#define __grid_constant__
#define __launch_bounds__(...)
// Shared memory of all kernels lies in one section, to be overwritten between blocks.
#define __shared__ alignas(16) __attribute__((section("smnn_shared"))) static
extern char __start_smnn_shared[], __stop_smnn_shared[];
__attribute__((used)) __shared__ char smnn_shared_is_there[16];  // (a section that is empty has no name)

struct Coordinate {
    unsigned x;
};
static Coordinate threadIdx, blockIdx, blockDim;

// The threads of a warp; each runs until it comes to a barrier, or to its end.
struct Warp {
    static constexpr unsigned SIZE = 32;
    static constexpr std::size_t STACK = 256 << 10;

    std::vector<char> stacks = std::vector<char>(SIZE * STACK);
    ucontext_t threads[SIZE], scheduler;
    bool done[SIZE];
    unsigned arrived[SIZE];  // how often each came to a barrier,
    std::map<unsigned, unsigned> of_members[SIZE];  // and to one of the same members
    unsigned current;
    bool of_others;  // a thread came to a barrier that it is no member of
    void (*kernel)(const void*);
    const void* job;

    static Warp& instance() {
        static Warp warp;
        return warp;
    }
    static void enter() {
        Warp& warp = instance();
        warp.kernel(warp.job);
        warp.done[warp.current] = true;
        swapcontext(&warp.threads[warp.current], &warp.scheduler);
    }
    // until all members have come to it
    void barrier(unsigned members) {
        const unsigned me = current, now = ++of_members[me][members];
        of_others = of_others || !(members >> me & 1);
        ++arrived[me];
        bool waits = true;
        while (waits) {
            swapcontext(&threads[me], &scheduler);
            waits = false;
            for (unsigned i = 0; i < SIZE; ++i) waits = waits || ((members >> i & 1) && of_members[i][members] < now);
        }
    }

    // Threads first to first + 31 of the block, in order or backwards. 2 where some wait at a barrier that others do not
    // come to, 3 where one comes to a barrier of others.
    int run(unsigned first, bool backwards) {
        of_others = false;
        for (unsigned i = 0; i < SIZE; ++i) {
            getcontext(&threads[i]);
            threads[i].uc_stack.ss_sp = stacks.data() + i * STACK;
            threads[i].uc_stack.ss_size = STACK;
            threads[i].uc_link = nullptr;
            makecontext(&threads[i], &Warp::enter, 0);
            done[i] = false;
            arrived[i] = 0;
            of_members[i].clear();
        }
        for (unsigned before = 0;;) {
            unsigned finished = 0, moved = 0;
            for (unsigned i = 0; i < SIZE; ++i) {
                current = backwards ? SIZE - 1 - i : i;
                threadIdx.x = first + current;
                if (!done[current]) swapcontext(&scheduler, &threads[current]);
                finished += done[current];
                moved += arrived[current] + done[current];
            }
            if (of_others) return 3;
            if (finished == SIZE) return 0;
            if (moved == before) return 2;
            before = moved;
        }
    }
};

inline void __syncwarp(unsigned members = ~0u) { Warp::instance().barrier(members); }

// As exact as the instructions of a device: 20 bits of 1 / x, and all but the last of 24. Numbers near the ends of the range
// are zero or infinite.
inline double reciprocal_estimate(double x) {
    const double r = 1 / x;
    if (std::fabs(r) < std::numeric_limits<double>::min()) return std::copysign(0., x);
    long long bits;
    std::memcpy(&bits, &r, sizeof(r));
    bits &= ~0ll << 32;
    double result;
    std::memcpy(&result, &bits, sizeof(bits));
    return std::fabs(x) < std::numeric_limits<double>::min() ? std::copysign(HUGE_VAL, x) : result;
}
inline float reciprocal_estimate(float x) { return 1 / x; }
#define SMNN_RECIPROCAL_ESTIMATE reciprocal_estimate

// Numbers that are too small for their type are zero while this lives, where the machine can do so: of both types, but
// kernels in single precision have few in double precision, and none that are small.
struct FlushToZero {
#ifdef __SSE__
    const unsigned before = _mm_getcsr();
    explicit FlushToZero(bool single) { _mm_setcsr(before | (single ? 0x8040u : 0u)); }
    ~FlushToZero() { _mm_setcsr(before); }
#else
    explicit FlushToZero(bool) {}
#endif
};

// 0, or what was wrong (see Warp::run).
template <class Job>
int run_grid(void (*kernel)(Job), unsigned blocks, unsigned threads, bool backwards, const void* memory) {
    static std::remove_const_t<Job> job;
    static void (*the_kernel)(Job);
    std::memcpy(&job, memory, sizeof(job));
    the_kernel = kernel;
    blockDim.x = threads;
    Warp& warp = Warp::instance();
    warp.kernel = [](const void* given) { the_kernel(*static_cast<const std::remove_const_t<Job>*>(given)); };
    warp.job = &job;
    const unsigned warps = threads / Warp::SIZE, all = blocks * warps;
    for (unsigned i = 0; i < all; ++i) {
        const unsigned one = backwards ? all - 1 - i : i;
        blockIdx.x = one / warps;
        // (NaN, as a number)
        std::memset(__start_smnn_shared, 0xff, __stop_smnn_shared - __start_smnn_shared);
        if (const int wrong = warp.run(one % warps * Warp::SIZE, backwards)) return wrong;
    }
    return 0;
}
