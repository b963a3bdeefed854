// The base of every kernel header: the namespace of this build, qualifiers, loops that unroll where sizes are known.
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

// A build with the address sanitizer checks what that does not see, too: the indices of pieces of one memory.
#if defined(__SANITIZE_ADDRESS__)
#define SMNN_CHECKED
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SMNN_CHECKED
#endif
#endif

#if defined(SMNN_CHECKED)
extern "C" void __sanitizer_print_stack_trace();
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

// The sizes of a problem: V variables, K orders, Q equations; n = V K unknowns per point; rows of the scheme that touch the
// next point alone (extra: 0, or n for schemes that are not upper triangular there); rows = n + extra + Q. Right-hand sides
// (m), and how far apart their final ones lie. Known at compile time ...
template <int V_, int K_, int Q_, bool Extra = false>
struct Fixed {
    static constexpr bool fixed = true;
    static constexpr Int<V_> V{};
    static constexpr Int<K_> K{};
    static constexpr Int<Q_> Q{};
    static constexpr Int<V_ * K_> n{};
    static constexpr Int<Extra ? V_ * K_ : 0> extra{};
    static constexpr Int<V_ * K_ * (Extra ? 2 : 1) + Q_> rows{};
    static constexpr Int<1> m{};
    static constexpr Int<0> z_step{};
};

// ... or at run time, with the order of each column and where the columns of its variable end: divisions take long.
struct Sized {
    static constexpr bool fixed = false;
    static constexpr int LARGEST = 64;
    int V, K, Q, extra, n, rows;
    int m = 1;
    Index z_step = 0;
    unsigned char order[LARGEST], end[LARGEST];

    SMNN_INLINE Sized(int V_, int K_, int Q_, int extra_)
        : V(V_), K(K_), Q(Q_), extra(extra_), n(V_ * K_), rows(V_ * K_ + extra_ + Q_) {
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
SMNN_INLINE int columns_through(const Sized& size, int j) { return size.end[j]; }

// The order of the derivative that is column j.
template <class Size>
SMNN_INLINE constexpr int order_of(const Size& size, int j) {
    return j % size.K;
}
SMNN_INLINE int order_of(const Sized& size, int j) { return size.order[j]; }

// The number of columns after column j.
template <class Size, int J>
SMNN_INLINE auto columns_after(const Size&, Int<J>) {
    return Int<decltype(Size::n)::value - 1 - J>();
}
template <class Size>
SMNN_INLINE int columns_after(const Size& size, int j) {
    return size.n - 1 - j;
}

// The first column at the next point of row i of the scheme.
template <class Size, int I>
SMNN_INLINE auto first_next(const Size&, Int<I>) {
    return Int<decltype(Size::extra)::value == 0 ? I : I - I % decltype(Size::K)::value>();
}
template <class Size>
SMNN_INLINE int first_next(const Size& size, int i) {
    return size.extra == 0 ? i : i - order_of(size, i);
}

// The first of the rows that are absorbed into the triangle at the next point: where the scheme's are upper triangular
// there, they are that triangle.
template <class Size>
SMNN_INLINE auto first_absorbed(const Size& size) {
    if constexpr (Size::fixed) {
        return Int<decltype(Size::extra)::value == 0 ? decltype(Size::n)::value : 0>();
    } else {
        return size.extra == 0 ? size.n : 0;
    }
}

// An array of N elements of its own, or (N = 0: sizes known at run time, or a team) a piece of a workspace.
template <class P, int N>
struct Array {
    P data[N];
    SMNN_INLINE Array(P*&, int) {}
    SMNN_INLINE P& operator[](int i) { return data[i]; }
    SMNN_INLINE operator P*() { return data; }
    // memory (N)
    SMNN_INLINE void load(const P* memory, int) {
        repeat(Int<N>(), [&](auto i) SMNN_LAMBDA { data[i] = memory[i]; });
    }
    // memory (N)
    SMNN_INLINE void save(P* memory, int) const {
        repeat(Int<N>(), [&](auto i) SMNN_LAMBDA { memory[i] = data[i]; });
    }
};
template <class P>
struct Array<P, 0> {
    P* data;
#if defined(SMNN_CHECKED)
    int size;
    SMNN_INLINE Array(P*& memory, int count) : data(memory), size(count) { memory += count; }
    SMNN_INLINE P& operator[](int i) {
        if (i < 0 || i >= size) {
            __sanitizer_print_stack_trace();
            __builtin_trap();
        }
        return data[i];
    }
#else
    SMNN_INLINE Array(P*& memory, int count) : data(memory) { memory += count; }
    SMNN_INLINE P& operator[](int i) { return data[i]; }
#endif
    SMNN_INLINE operator P*() { return data; }
    // memory (count), which may be that of the array
    SMNN_INLINE void load(const P* memory, int count) {
        for (int i = 0; i < count; ++i) data[i] = memory[i];
    }
    // memory (count), which may be that of the array
    SMNN_INLINE void save(P* memory, int count) const {
        for (int i = 0; i < count; ++i) memory[i] = data[i];
    }
};

// The capacity of arrays: 0 where sizes are known at run time.
template <class Size, bool = Size::fixed>
struct Capacity {
    static constexpr int n = 0, rows = 0, K = 0;
};
template <class Size>
struct Capacity<Size, true> {
    static constexpr int n = Size::n, rows = Size::rows, K = Size::K;
};

}  // namespace SMNN_LEVEL
}  // namespace smnn
