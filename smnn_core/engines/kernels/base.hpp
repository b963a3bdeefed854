// What every kernel header builds on: the namespace of this build, qualifiers, loops that unroll where sizes are known.
//
// The headers here include nothing but each other, so that a C++ compiler and NVRTC read the same source. They are
// compiled several times over, once per instruction set: SMNN_LEVEL names the namespace of one such build, so that code
// of one instruction set is never linked into another.
#pragma once

#ifndef SMNN_LEVEL
#define SMNN_LEVEL plain
#endif

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define SMNN_INLINE __device__ __forceinline__
#define SMNN_LAMBDA
#define SMNN_OUTLINE __device__ inline  // a call would take what lies in registers through memory
#define SMNN_RESTRICT __restrict__
#define SMNN_MOST_ORDERS 8
#else
#define SMNN_INLINE inline __attribute__((always_inline))
#define SMNN_LAMBDA __attribute__((always_inline))
#define SMNN_OUTLINE __attribute__((noinline))
#define SMNN_RESTRICT __restrict__
#define SMNN_MOST_ORDERS 64
#endif

namespace smnn {
namespace SMNN_LEVEL {

using Index = long long;

// A number known at compile time, in the place of an int.
template <int N>
struct Int {
    static constexpr int value = N;
    SMNN_INLINE constexpr operator int() const { return N; }
};

template <int I, int N>
struct Unrolled {
    template <class F>
    SMNN_INLINE static void run(F& f) {
        f(Int<I>());
        Unrolled<I + 1, N>::run(f);
    }
};
template <int N>
struct Unrolled<N, N> {
    template <class F>
    SMNN_INLINE static void run(F&) {}
};

// f(0) .. f(N-1); f sees compile-time numbers where N is one.
template <int N, class F>
SMNN_INLINE void repeat(Int<N>, F f) {
    Unrolled<0, N>::run(f);
}
template <class F>
SMNN_INLINE void repeat(int N, F f) {
    for (int i = 0; i < N; ++i) f(i);
}

// f(N-1) .. f(0)
template <int N, class F>
SMNN_INLINE void repeat_down(Int<N>, F f) {
    auto g = [&](auto i) SMNN_LAMBDA { f(Int<N - 1 - decltype(i)::value>()); };
    Unrolled<0, N>::run(g);
}
template <class F>
SMNN_INLINE void repeat_down(int N, F f) {
    for (int i = N - 1; i >= 0; --i) f(i);
}

// i + 1 of the same kind as i
template <int N>
SMNN_INLINE constexpr Int<N + 1> next(Int<N>) {
    return {};
}
SMNN_INLINE int next(int i) { return i + 1; }

// i + k of the same kind as both
template <int N, int M>
SMNN_INLINE constexpr Int<N + M> plus(Int<N>, Int<M>) {
    return {};
}
SMNN_INLINE int plus(int i, int k) { return i + k; }

// f(begin) .. f(end-1); f sees compile-time numbers where both are.
template <int A, int B, class F>
SMNN_INLINE void repeat_from(Int<A>, Int<B>, F f) {
    auto g = [&](auto i) SMNN_LAMBDA { f(i); };
    Unrolled<A, (A < B ? B : A)>::run(g);
}
template <class F>
SMNN_INLINE void repeat_from(int begin, int end, F f) {
    for (int i = begin; i < end; ++i) f(i);
}

// The sizes of a problem: V variables, K orders, Q equations; n = V K unknowns per point, rows = n + extra + Q. Known at
// compile time ...
template <int V_, int K_, int Q_>
struct Fixed {
    static constexpr bool fixed = true;
    // rows of the scheme that touch the next point alone; those compiled for their size have none
    static constexpr Int<0> extra{};
    static constexpr Int<V_> V{};
    static constexpr Int<K_> K{};
    static constexpr Int<Q_> Q{};
    static constexpr Int<V_ * K_> n{};
    static constexpr Int<V_ * K_ + Q_> rows{};
    // right-hand sides, and how far apart their final ones lie
    static constexpr Int<1> m{};
    static constexpr Int<0> z_step{};
    // Loops over columns are unrolled where everything fits the registers.
    static constexpr bool small = V_ * K_ <= 4;
    static constexpr bool rotations = true;
};

// ... or at run time.
struct Sized {
    static constexpr bool fixed = false;
    static constexpr bool small = false;
    static constexpr bool rotations = false;
    static constexpr Int<1> m{};
    int V, K, Q, n, rows;
    int extra;  // rows of the scheme that touch the next point alone, all variables: 0 or n
};

// ... and with what rotations ask of columns: their order, and where those of their variable end. (Divisions take long.)
struct SizedForRotations : Sized {
    static constexpr bool rotations = true;
    static constexpr int LARGEST = 64;
    int m = 1;         // right-hand sides ..
    Index z_step = 0;  // .. and how far apart their final ones lie
    unsigned char order[LARGEST], end[LARGEST];

    SMNN_INLINE SizedForRotations(int V_, int K_, int Q_) : Sized{V_, K_, Q_, V_ * K_, V_ * K_ + Q_, 0} {
        for (int j = 0; j < n; ++j) {
            order[j] = static_cast<unsigned char>(j % K);
            end[j] = static_cast<unsigned char>((j / K + 1) * K);
        }
    }
};

// The number of columns that belong to the variable of column j and those before it.
template <class Size, int J>
SMNN_INLINE auto columns_through(const Size&, Int<J>) {
    constexpr int K = decltype(Size::K)::value;
    return Int<(J / K + 1) * K>();
}
template <class Size>
SMNN_INLINE int columns_through(const Size& size, int j) {
    return (j / size.K + 1) * size.K;
}
SMNN_INLINE int columns_through(const SizedForRotations& size, int j) { return size.end[j]; }

// The order of the derivative that is column j.
template <class Size, int J>
SMNN_INLINE constexpr int order_of(const Size&, Int<J>) {
    return J % decltype(Size::K)::value;
}
SMNN_INLINE int order_of(const SizedForRotations& size, int j) { return size.order[j]; }

// The number of columns after column j.
template <class Size, int J>
SMNN_INLINE auto columns_after(const Size&, Int<J>) {
    return Int<decltype(Size::n)::value - 1 - J>();
}
template <class Size>
SMNN_INLINE int columns_after(const Size& size, int j) {
    return size.n - 1 - j;
}

template <int V, int K, int Q>
SMNN_INLINE Int<V * K - 1> last_column(const Fixed<V, K, Q>&) {
    return {};
}
SMNN_INLINE int last_column(const Sized& size) { return size.n - 1; }

// The number of rows after row j.
template <class Size, int J>
SMNN_INLINE auto rows_after(const Size&, Int<J>) {
    return Int<decltype(Size::rows)::value - 1 - J>();
}
template <class Size>
SMNN_INLINE int rows_after(const Size& size, int j) {
    return size.rows - 1 - j;
}

// A loop count as a compile-time number where loops over columns are to be unrolled, else as an int.
template <class Size, int N>
SMNN_INLINE auto unroll_if_small(Int<N> count) {
    if constexpr (Size::small) {
        return count;
    } else {
        return static_cast<int>(count);
    }
}
template <class Size>
SMNN_INLINE int unroll_if_small(int count) {
    return count;
}

// An array of N elements of its own, or (N = 0: sizes known at run time, or a team) a piece of a workspace.
template <class P, int N>
struct Array {
    P data[N];
    SMNN_INLINE Array(P*&, int) {}
    SMNN_INLINE P& operator[](int i) { return data[i]; }
    SMNN_INLINE operator P*() { return data; }
    SMNN_INLINE void load(const P* memory, int) {
        repeat(Int<N>(), [&](auto i) SMNN_LAMBDA { data[i] = memory[i]; });
    }
    SMNN_INLINE void save(P* memory, int) const {
        repeat(Int<N>(), [&](auto i) SMNN_LAMBDA { memory[i] = data[i]; });
    }
};
template <class P>
struct Array<P, 0> {
    P* data;
    SMNN_INLINE Array(P*& memory, int count) : data(memory) { memory += count; }
    SMNN_INLINE P& operator[](int i) { return data[i]; }
    SMNN_INLINE operator P*() { return data; }
    SMNN_INLINE void load(const P* memory, int count) {
        for (int i = 0; i < count; ++i) data[i] = memory[i];
    }
    SMNN_INLINE void save(P* memory, int count) const {
        for (int i = 0; i < count; ++i) memory[i] = data[i];
    }
};

// The capacity of arrays: 0 where sizes are known at run time.
template <class Size>
struct Capacity {
    static constexpr int n = 0, rows = 0, K = 0;
};
template <int V_, int K_, int Q_>
struct Capacity<Fixed<V_, K_, Q_>> {
    static constexpr int n = V_ * K_, rows = V_ * K_ + Q_, K = K_;
};

}  // namespace SMNN_LEVEL
}  // namespace smnn
