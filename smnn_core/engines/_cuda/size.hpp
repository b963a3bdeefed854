// The sizes of the one problem that a module is compiled for.
#pragma once

#include "../kernels/base.hpp"

namespace smnn {
namespace SMNN_LEVEL {

// The sizes that a module is compiled for. Unrolled code grows with n^3: where it does not stay in registers anyway, loops
// whose bounds the compiler does not know (Sized, from the numbers in the job) take its place, in arrays of the same
// capacity.
template <int V_, int K_, int Q_, bool Extra, bool Unrolled>
struct Dimensions {
    static constexpr int V = V_, K = K_, Q = Q_, n = V * K, extra = Extra ? n : 0, rows = n + extra + Q;
    static constexpr bool unrolled = Unrolled;
};

// Loops, over orders that the compiler knows: it divides by K without dividing.
template <int K_>
struct Looped {
    static constexpr bool fixed = false;
    static constexpr Int<K_> K{};
    static constexpr Int<1> m{};
    static constexpr Int<0> z_step{};
    int V, Q, extra, n, rows;
};

template <bool Unrolled>
struct SizeOf {
    template <class D>
    using type = Fixed<D::V, D::K, D::Q, (D::extra > 0)>;
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
        return {V, Q, extra, n, n + extra + Q};
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
