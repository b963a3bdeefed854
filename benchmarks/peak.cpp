// The most that this machine can do: a triad for memory bandwidth, a loop of independent multiply-adds for arithmetic.
// Compiled and called by roofline.py.
#include <cstddef>

namespace {
#if defined(__AVX512F__)
constexpr int lanes = 8;
#elif defined(__AVX__)
constexpr int lanes = 4;
#else
constexpr int lanes = 2;
#endif
constexpr int chains = 12;  // hide the latency of two multiply-adds a cycle, and fit into 16 registers
typedef double pack __attribute__((vector_size(8 * lanes)));
}  // namespace

// a = b + s * c, counted as 24 bytes an element; a store that reads its line first moves 32.
extern "C" void triad(double* a, const double* b, const double* c, double s, std::ptrdiff_t count, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (std::ptrdiff_t i = 0; i < count; ++i) a[i] = b[i] + s * c[i];
}

// Returns the number of floating-point operations done; `result` keeps the compiler from dropping them.
extern "C" double multiply_add(std::ptrdiff_t rounds, int threads, double* result) {
    double total = 0;
#pragma omp parallel for schedule(static, 1) num_threads(threads) reduction(+ : total)
    for (int thread = 0; thread < threads; ++thread) {
        pack x[chains];
        for (int k = 0; k < chains; ++k) x[k] = pack{} + 1e-3 * (k + thread);
        const pack a = pack{} + 0.999999, b = pack{} + 1e-6;
        for (std::ptrdiff_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
            for (int k = 0; k < chains; ++k) x[k] = x[k] * a + b;
        }
        for (int k = 0; k < chains; ++k) total += x[k][k % lanes];
    }
    *result = total;
    return 2.0 * lanes * chains * double(rounds) * threads;
}
