// The sizes of the one problem that a module is compiled for.
#pragma once

#include "../kernels/base.hpp"

namespace smnn {
namespace SMNN_LEVEL {

// As Fixed, and with the rows that a scheme may have on the next point alone.
template <int V_, int K_, int Q_, bool Extra>
struct Exact {
    static constexpr bool fixed = true;
    static constexpr Int<Extra ? V_ * K_ : 0> extra{};
    static constexpr Int<V_> V{};
    static constexpr Int<K_> K{};
    static constexpr Int<Q_> Q{};
    static constexpr Int<V_ * K_> n{};
    static constexpr Int<V_ * K_ + (Extra ? V_ * K_ : 0) + Q_> rows{};
    static constexpr bool small = V_ * K_ <= 5;
    static constexpr bool rotations = false;
    static constexpr Int<1> m{};
};

template <int V, int K, int Q, bool Extra>
SMNN_INLINE Int<V * K - 1> last_column(const Exact<V, K, Q, Extra>&) {
    return {};
}

template <int V, int K_, int Q_, bool Extra>
struct Capacity<Exact<V, K_, Q_, Extra>> {
    static constexpr int n = V * K_, rows = V * K_ + (Extra ? V * K_ : 0) + Q_, K = K_;
};
// What a module is compiled for. Unrolled code grows with n^3: where it does not stay in registers anyway, loops whose
// bounds the compiler does not know (Sized, from the numbers in the job) take its place, in arrays of the same
// capacity.
template <int V_, int K_, int Q_, bool Extra, bool Unrolled>
struct Dimensions {
    static constexpr int V = V_, K = K_, Q = Q_, n = V * K, extra = Extra ? n : 0, rows = n + extra + Q;
    static constexpr bool unrolled = Unrolled;
    // of a sweep, and of an initial row
    static constexpr int workspace = Unrolled ? 2 * n : K + n * n + 2 * n + 2 * n * rows + rows;
};

// Loops, over orders that the compiler knows: it divides by K without dividing.
template <int K_>
struct Looped : Sized {
    static constexpr Int<K_> K{};
};

template <bool Unrolled>
struct SizeOf {
    template <class D>
    using type = Exact<D::V, D::K, D::Q, (D::extra > 0)>;
    template <int N>
    using number = Int<N>;
    template <class D>
    SMNN_INLINE static type<D> make(int, int, int) {
        return {};
    }
};
template <>
struct SizeOf<false> {
    template <class D>
    using type = Looped<D::K>;
    template <int N>
    using number = int;
    template <class D>
    SMNN_INLINE static type<D> make(int V, int K, int Q) {
        const int n = V * K, extra = D::extra ? n : 0;
        return {{V, K, Q, n, n + extra + Q, extra}};
    }
};

// A number of such a type: what the compiler knows, or what it is told at run time.
template <int N>
SMNN_INLINE Int<N> number_of(Int<N>, int) {
    return {};
}
SMNN_INLINE int number_of(int, int n) { return n; }

}  // namespace SMNN_LEVEL
}  // namespace smnn
