// Householder reflections that take rows into a triangle.
//
// A row (top) and the rows x below it hold a column (a, x). The reflection H = I + v v^T / h with
// v = (a + sign(a) |(a, x)|, x), h = -sign(a) |(a, x)| v_0 turns it into (b, 0), b = -sign(a) |(a, x)|.
// Source: Golub, Van Loan, Matrix Computations, section 5.1; the sign avoids cancellation.
//
// Rows differ by many orders of magnitude here (powers of small steps, weights). Then the row with the largest entry has
// to be the top, or the error of a large row spoils small ones: in single precision this is the difference between four
// digits and none. Source: Cox, Higham, Stability of Householder QR factorization for weighted least squares problems,
// 1998; Powell, Reid, 1969. Hence `raise`.
#pragma once

#include "pack.hpp"

namespace smnn {
namespace SMNN_LEVEL {

template <class P>
struct Reflection {
    P v0;        // first entry of v; the others are x
    P inverse;   // 1 / h, and 0 for a column of zeros
    P diagonal;  // b

    SMNN_INLINE P inverse_diagonal() const { return v0 * inverse; }
};

// Squares below the least normal number are lost: in a sum below SMALL_SQUARE, that number over the rounding error, this is
// no longer a rounding error. UPSCALE takes entries to where their squares count.
template <class T>
constexpr T LEAST = T(sizeof(T) == 8 ? 0x1p-1022 : 0x1p-126);
template <class T>
constexpr T SMALL_SQUARE = LEAST<T> * T(sizeof(T) == 8 ? 0x1p+52 : 0x1p+23);
template <class T>
constexpr T UPSCALE = T(sizeof(T) == 8 ? 0x1p+512 : 0x1p+64);

// |(a, x)|^2, as exact for what is left of a column that vanishes as for any other: of these rounding errors a reflection
// will be made, and one with a wrong norm is not orthogonal.
template <class P, class Rows>
SMNN_INLINE P squared_norm(const P& a, const P* x, Rows rows) {
    using T = typename Lanes<P>::Scalar;
    P sum = a * a;
    repeat(rows, [&](auto i) SMNN_LAMBDA { sum += x[i] * x[i]; });
    const auto small = sum < splat<P>(SMALL_SQUARE<T>);
    if (any(small)) {
        const P up = splat<P>(UPSCALE<T>), down = splat<P>(1 / UPSCALE<T>);
        P scaled = (a * up) * (a * up);
        repeat(rows, [&](auto i) SMNN_LAMBDA { scaled += (x[i] * up) * (x[i] * up); });
        sum = select(small, scaled * down * down, sum);
    }
    return sum;
}

// The reflection of a column (a, x), from |(a, x)|^2.
template <class P>
SMNN_INLINE Reflection<P> reflection(const P& a, const P& sum) {
    using T = typename Lanes<P>::Scalar;
    // (the shortest way from the column to the inverse: a sweep waits for little else)
    const P norm = root(sum), size = magnitude(a);
    const P h = sum + size * norm;
    const auto none = h < splat<P>(LEAST<T>);
    return {with_sign(size + norm, a), select(none, splat<P>(0), splat<P>(-1) / h), with_sign(norm, -a)};
}
template <class P, class Rows>
SMNN_INLINE Reflection<P> reflect(const P& a, const P* x, Rows rows) {
    return reflection(a, squared_norm(a, x, rows));
}

// An entry replaces the top where it is this much larger: nearly equal ones need no exchange.
constexpr double MUCH_LARGER = 4;

// Exchanges the top with each row below that is much larger in this column; exchange(i, mask) does so for row i, in all
// columns, in the lanes of the mask. Lanes and points of a problem tend to agree, so that few exchanges are needed.
template <class P, class Rows, class Exchange>
SMNN_INLINE void raise(P& a, P* x, Rows rows, Exchange exchange) {
    P largest = magnitude(a) * splat<P>(MUCH_LARGER);
    repeat(rows, [&](auto i) SMNN_LAMBDA {
        const P size = magnitude(x[i]);
        const auto mask = largest < size;
        if (any(mask)) {
            swap_lanes(mask, a, x[i]);
            largest = select(mask, size * splat<P>(MUCH_LARGER), largest);
            exchange(i, mask);
        }
    });
}

// H (top, rows) of another column, in place
template <class P, class Rows>
SMNN_INLINE void apply(const Reflection<P>& H, const P* x, Rows rows, P& top, P* w) {
    P dot = splat<P>(0);
    repeat(rows, [&](auto i) SMNN_LAMBDA { dot += x[i] * w[i]; });
    dot += H.v0 * top;  // last, as v0 waits for a root
    dot = dot * H.inverse;
    top += H.v0 * dot;
    repeat(rows, [&](auto i) SMNN_LAMBDA { w[i] += x[i] * dot; });
}

}  // namespace SMNN_LEVEL
}  // namespace smnn
