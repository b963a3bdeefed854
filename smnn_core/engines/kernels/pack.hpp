// A pack: one number for each of several lanes, in SIMD registers. Scalars are packs of one lane (a GPU thread).
#pragma once

#include "base.hpp"

#if defined(__x86_64__) && !defined(__CUDACC_RTC__)
#include <immintrin.h>
#elif defined(__aarch64__) && !defined(__CUDACC_RTC__)
#include <arm_neon.h>
#endif

namespace smnn {
namespace SMNN_LEVEL {

// Scalars -----------------------------------------------------------------------------------------------------------

template <class P>
struct Lanes {
    using Scalar = P;
    static constexpr int count = 1;
};

template <class P>
SMNN_INLINE P splat(typename Lanes<P>::Scalar x) {
    if constexpr (Lanes<P>::count == 1) {
        return x;
    } else {
        return P::splat(x);
    }
}

SMNN_INLINE double root(double x) { return __builtin_sqrt(x); }
SMNN_INLINE float root(float x) { return __builtin_sqrtf(x); }
SMNN_INLINE double rounded(double x) { return x; }
SMNN_INLINE float rounded(float x) { return x; }
SMNN_INLINE double select(bool mask, double a, double b) { return mask ? a : b; }
SMNN_INLINE float select(bool mask, float a, float b) { return mask ? a : b; }
SMNN_INLINE double magnitude(double x) { return __builtin_fabs(x); }
SMNN_INLINE float magnitude(float x) { return __builtin_fabsf(x); }
SMNN_INLINE bool any(bool mask) { return mask; }
SMNN_INLINE bool lane(bool mask, int) { return mask; }

// a b + c: on a GPU rounded once, whatever the compiler makes of the code around it
#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
SMNN_INLINE double multiply_add(double a, double b, double c) { return __fma_rn(a, b, c); }
SMNN_INLINE float multiply_add(float a, float b, float c) { return __fmaf_rn(a, b, c); }
#else
template <class P>
SMNN_INLINE P multiply_add(const P& a, const P& b, const P& c) {
    return c + a * b;
}
#endif

// 1 / x. A GPU that divides tests for numbers near the ends of the range, which pivots never are, and calls a function for
// them. From its estimate of 20 bits, r = (1 - error) / x: 1 / x = r (1 + error + error^2 + ...), and once more.
#ifdef SMNN_RECIPROCAL_ESTIMATE
SMNN_INLINE double reciprocal(double x) {
    double r = SMNN_RECIPROCAL_ESTIMATE(x);
    const double error = multiply_add(-x, r, 1.0);
    r = multiply_add(r, multiply_add(error, error, error), r);
    return multiply_add(r, multiply_add(-x, r, 1.0), r);
}
SMNN_INLINE float reciprocal(float x) { return SMNN_RECIPROCAL_ESTIMATE(x); }  // (of all 24 bits, but for the last)
#else
SMNN_INLINE double reciprocal(double x) { return 1 / x; }
SMNN_INLINE float reciprocal(float x) { return 1 / x; }
#endif

// a and b change places in the lanes of the mask
template <class M, class P>
SMNN_INLINE void swap_lanes(const M& mask, P& a, P& b) {
    const P kept = a;
    a = select(mask, b, a);
    b = select(mask, kept, b);
}

#if !defined(__CUDACC__) && !defined(__CUDACC_RTC__)

// Hardware vectors --------------------------------------------------------------------------------------------------

template <class T, int N>
struct Vector {
    typedef T type __attribute__((vector_size(N * sizeof(T))));
};
template <class T>
struct Bits;
template <>
struct Bits<double> {
    using type = long long;
};

template <class T, int N>
SMNN_INLINE typename Vector<T, N>::type vector_root(typename Vector<T, N>::type x) {
    using V = typename Vector<T, N>::type;
#if defined(__AVX512F__)
    if constexpr (sizeof(V) == 64) return (V)_mm512_sqrt_pd((__m512d)x);
#endif
#if defined(__AVX__)
    if constexpr (sizeof(V) == 32) return (V)_mm256_sqrt_pd((__m256d)x);
#endif
#if defined(__SSE2__)
    if constexpr (sizeof(V) == 16) return (V)_mm_sqrt_pd((__m128d)x);
#elif defined(__aarch64__)
    if constexpr (sizeof(V) == 16) return (V)vsqrtq_f64((float64x2_t)x);
#endif
    V result;
    for (int i = 0; i < N; ++i) result[i] = root(x[i]);
    return result;
}

// U vectors of N numbers: several vectors in flight hide the latency of divisions and roots.
template <class T, int N, int U>
struct Pack {
    using V = typename Vector<T, N>::type;
    V v[U];

    SMNN_INLINE static Pack splat(T x) {
        Pack p;
        repeat(Int<U>(), [&](auto u) SMNN_LAMBDA { p.v[u] = x - V{}; });
        return p;
    }
    SMNN_INLINE T get(int i) const { return v[i / N][i % N]; }
    SMNN_INLINE void set(int i, T x) { v[i / N][i % N] = x; }

    SMNN_INLINE Pack& operator+=(const Pack& b) { return *this = *this + b; }
    SMNN_INLINE Pack& operator-=(const Pack& b) { return *this = *this - b; }
    SMNN_INLINE Pack& operator*=(const Pack& b) { return *this = *this * b; }
#define SMNN_OPERATOR(OP)                                               \
    SMNN_INLINE friend Pack operator OP(const Pack& a, const Pack& b) { \
        Pack p;                                                         \
        repeat(Int<U>(), [&](auto u) SMNN_LAMBDA { p.v[u] = a.v[u] OP b.v[u]; });          \
        return p;                                                       \
    }
    SMNN_OPERATOR(+)
    SMNN_OPERATOR(-)
    SMNN_OPERATOR(*)
    SMNN_OPERATOR(/)
#undef SMNN_OPERATOR
    SMNN_INLINE friend Pack operator-(const Pack& a) {
        Pack p;
        repeat(Int<U>(), [&](auto u) SMNN_LAMBDA { p.v[u] = -a.v[u]; });
        return p;
    }
};

template <class T, int N, int U>
struct Lanes<Pack<T, N, U>> {
    using Scalar = T;
    static constexpr int count = N * U;
};

// A mask: all bits of a lane or none.
template <class T, int N, int U>
struct Mask {
    typename Vector<typename Bits<T>::type, N>::type m[U];

    SMNN_INLINE friend Mask operator|(const Mask& a, const Mask& b) {
        Mask r;
        repeat(Int<U>(), [&](auto u) SMNN_LAMBDA { r.m[u] = a.m[u] | b.m[u]; });
        return r;
    }
};

#define SMNN_COMPARISON(OP)                                                                     \
    template <class T, int N, int U>                                                            \
    SMNN_INLINE Mask<T, N, U> operator OP(const Pack<T, N, U>& a, const Pack<T, N, U>& b) {     \
        Mask<T, N, U> r;                                                                        \
        repeat(Int<U>(), [&](auto u) SMNN_LAMBDA { r.m[u] = a.v[u] OP b.v[u]; });               \
        return r;                                                                               \
    }
SMNN_COMPARISON(<)
SMNN_COMPARISON(<=)
SMNN_COMPARISON(==)
SMNN_COMPARISON(!=)
#undef SMNN_COMPARISON
template <class T, int N, int U>
SMNN_INLINE Pack<T, N, U> select(const Mask<T, N, U>& mask, const Pack<T, N, U>& a, const Pack<T, N, U>& b) {
    Pack<T, N, U> p;
    repeat(Int<U>(), [&](auto u) SMNN_LAMBDA { p.v[u] = mask.m[u] ? a.v[u] : b.v[u]; });
    return p;
}
template <class T, int N, int U>
SMNN_INLINE bool lane(const Mask<T, N, U>& mask, int i) {
    return mask.m[i / N][i % N] != 0;
}
template <class T, int N, int U>
SMNN_INLINE bool any(const Mask<T, N, U>& mask) {
    auto m = mask.m[0];
    for (int u = 1; u < U; ++u) m |= mask.m[u];
#if defined(__AVX512F__)
    if constexpr (sizeof(m) == 64) return _mm512_test_epi64_mask((__m512i)m, (__m512i)m) != 0;
#endif
#if defined(__AVX__)
    if constexpr (sizeof(m) == 32) return !_mm256_testz_si256((__m256i)m, (__m256i)m);
#endif
#if defined(__SSE2__)
    if constexpr (sizeof(m) == 16) return _mm_movemask_epi8((__m128i)m) != 0;
#endif
    typename Bits<T>::type result = 0;
    for (int i = 0; i < N; ++i) result |= m[i];
    return result != 0;
}
template <class T, int N, int U>
SMNN_INLINE Pack<T, N, U> root(const Pack<T, N, U>& x) {
    Pack<T, N, U> p;
    repeat(Int<U>(), [&](auto u) SMNN_LAMBDA { p.v[u] = vector_root<T, N>(x.v[u]); });
    return p;
}
// 1 / x, to within two units in the last place. From an estimate of 14 bits by Newton's method, where there is one: that
// takes no longer than a division, and the divider serves one after the other.
template <class T, int N>
SMNN_INLINE typename Vector<T, N>::type vector_reciprocal(typename Vector<T, N>::type x) {
    using V = typename Vector<T, N>::type;
    const V one = T(1) - V{};
#if defined(__AVX512F__)
    if constexpr (sizeof(V) == 64) {
        // r = (1 - error) / x: 1 / x = r (1 + error + error^2 + ...)
        V r = (V)_mm512_rcp14_pd((__m512d)x);
        const V error = one - x * r;
        r += r * error;
        r += r * (error * error);
        return r;
    }
#endif
    return one / x;
}
template <class T, int N, int U>
SMNN_INLINE Pack<T, N, U> reciprocal(const Pack<T, N, U>& x) {
    Pack<T, N, U> p;
    repeat(Int<U>(), [&](auto u) SMNN_LAMBDA { p.v[u] = vector_reciprocal<T, N>(x.v[u]); });
    return p;
}
// x, rounded: a product that compilers could fuse with one of several sums. Which of them they choose may depend on the
// branch, and branches on other lanes.
template <class V>
SMNN_INLINE V rounded_vector(V x) {
#if defined(__AVX512F__)
    __asm__("" : "+v"(x));
#elif defined(__x86_64__)
    __asm__("" : "+x"(x));
#elif defined(__aarch64__)
    __asm__("" : "+w"(x));
#endif
    return x;
}
template <class T, int N, int U>
SMNN_INLINE Pack<T, N, U> rounded(Pack<T, N, U> x) {
    repeat(Int<U>(), [&](auto u) SMNN_LAMBDA { x.v[u] = rounded_vector(x.v[u]); });
    return x;
}
template <class T, int N, int U>
SMNN_INLINE Pack<T, N, U> magnitude(const Pack<T, N, U>& x) {
    using I = typename Vector<typename Bits<T>::type, N>::type;
    const I low = typename Bits<T>::type(~0ULL >> 1) - I{};  // all bits but the sign
    Pack<T, N, U> p;
    repeat(Int<U>(), [&](auto u) SMNN_LAMBDA { p.v[u] = (typename Vector<T, N>::type)((I)x.v[u] & low); });
    return p;
}

#endif  // not CUDA

}  // namespace SMNN_LEVEL
}  // namespace smnn
