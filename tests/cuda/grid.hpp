// A grid of threads on the CPU, one after the other, so that a C++ compiler can run kernels.cu as it is.
#pragma once

#include <cstring>
#include <string>

#define __global__
#define __grid_constant__
#define __launch_bounds__(...)

struct Coordinate {
    unsigned x;
};
static Coordinate threadIdx, blockIdx, blockDim;

template <class Job>
void run_grid(void (*kernel)(Job), unsigned blocks, unsigned threads, bool backwards, const void* memory) {
    std::remove_const_t<Job> job;
    std::memcpy(&job, memory, sizeof(job));
    blockDim.x = threads;
    const unsigned long long all = 1ull * blocks * threads;
    for (unsigned long long i = 0; i < all; ++i) {
        const unsigned long long thread = backwards ? all - 1 - i : i;
        blockIdx.x = unsigned(thread / threads);
        threadIdx.x = unsigned(thread % threads);
        kernel(job);
    }
}
