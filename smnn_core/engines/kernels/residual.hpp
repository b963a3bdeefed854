// Iterative refinement: what a solution in float leaves of the right-hand sides, computed in double.
//
// Elimination mixes rows, so that rows of higher order, small by s^o, are perturbed by the rounding of larger ones. The
// residual is computed row by row, in twice the precision: the system solved again with it on the right gives a correction
// that takes the solution to the precision of float, as long as the first one has a correct digit.
// Source: Higham, Accuracy and Stability of Numerical Algorithms, SIAM 2002, chapters 12 and 20.5.
#pragma once

#include "base.hpp"
#include "pack.hpp"

namespace smnn {
namespace SMNN_LEVEL {

// b - C y at point t, (Q).
template <class P, class Size, class Rows>
SMNN_INLINE void residual_of_equations(const Size& size, const Rows& rows, int t, const WideOf<P>* y, P* out) {
    repeat(unroll_if_small<Size>(size.Q), [&](auto q) SMNN_LAMBDA {
        WideOf<P> r = widen(rows.b(t, q));
        repeat(size.n, [&](auto j) SMNN_LAMBDA { r -= widen(rows.c(t, q, j)) * y[j]; });
        out[q] = narrow(r);
    });
}

// The same of the smoothness rows, without their weight, of the step into point t, (V, 2K); S in double.
template <class P, class Size, class Rows>
SMNN_INLINE void residual_of_step(
    const Size& size, const double* S, const Rows& rows, int t, const WideOf<P>* y_before, const WideOf<P>* y, P* out
) {
    using Wide = WideOf<P>;
    const Wide s = widen(rows.s(t));
    const auto residual = [&](int v, auto i, auto first) SMNN_LAMBDA {
        Wide r = rows.has_smoothness_rhs() ? widen(rows.smoothness_rhs(t, v, i)) : splat<Wide>(0);
        Wide p = splat<Wide>(1);
        repeat(size.K, [&](auto o) SMNN_LAMBDA {
            const int j = v * size.K + o;
            Wide x = splat<Wide>(S[i * 2 * size.K + size.K + o]) * y[j];
            if (first <= o) x += splat<Wide>(S[i * 2 * size.K + o]) * y_before[j];
            r -= p * x;
            p = p * s;
        });
        out[v * 2 * size.K + i] = narrow(r);
    };
    for (int v = 0; v < size.V; ++v) {
        repeat(unroll_if_small<Size>(size.K), [&](auto i) SMNN_LAMBDA { residual(v, i, i); });
        for (int i = size.K; size.extra > 0 && i < 2 * size.K; ++i) residual(v, i, i);
    }
}

}  // namespace SMNN_LEVEL
}  // namespace smnn
