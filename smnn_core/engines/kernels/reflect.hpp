// Householder reflections that take rows into a triangle.
//
// A triangle's row (top) and rows x below it hold a column (a, x). The reflection H = I + v v^T / h with
// v = (a + sign(a) |(a, x)|, x), h = -sign(a) |(a, x)| v_0 turns it into (b, 0), b = -sign(a) |(a, x)|.
// Source: Golub, Van Loan, Matrix Computations, section 5.1; the sign avoids cancellation.
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

template <class P, class Rows>
SMNN_INLINE Reflection<P> reflect(const P& a, const P* x, Rows rows) {
    P sum = a * a;
    repeat(rows, [&](auto i) SMNN_LAMBDA { sum += x[i] * x[i]; });
    const P norm = with_sign(root(sum), a);
    const P v0 = a + norm;
    const P h = -norm * v0;
    const P zero = splat<P>(0);
    const P one = splat<P>(1);
    const auto empty = h == zero;
    return {v0, select(empty, zero, one / select(empty, one, h)), -norm};
}

// H (top, rows) of another column, in place
template <class P, class Rows>
SMNN_INLINE void apply(const Reflection<P>& H, const P* x, Rows rows, P& top, P* w) {
    P dot = H.v0 * top;
    repeat(rows, [&](auto i) SMNN_LAMBDA { dot += x[i] * w[i]; });
    dot = dot * H.inverse;
    top += H.v0 * dot;
    repeat(rows, [&](auto i) SMNN_LAMBDA { w[i] += x[i] * dot; });
}

// The same where the top is zero; the new top
template <class P, class Rows>
SMNN_INLINE P apply_below(const Reflection<P>& H, const P* x, Rows rows, P* w) {
    P dot = splat<P>(0);
    repeat(rows, [&](auto i) SMNN_LAMBDA { dot += x[i] * w[i]; });
    dot = dot * H.inverse;
    repeat(rows, [&](auto i) SMNN_LAMBDA { w[i] += x[i] * dot; });
    return H.v0 * dot;
}

}  // namespace SMNN_LEVEL
}  // namespace smnn
