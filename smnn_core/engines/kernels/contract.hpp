// The gradients of L with respect to every input of y = solve(d), row by row, from y and λ = M^-1 dL/dy:
//
//     dL = μ . dd  -  μ . (dA y)  +  ρ . (dA λ)  +  (A λ * r) . d(W^2),    r = d - A y, μ = W^2 A λ, ρ = W^2 r
//
// (derivation: smnn_core/_gradient.py). The smoothness rows enter through their triangular form [S11 S12; 0 S22]: the
// products of rows are the same after an orthogonal transformation.
#pragma once

#include "factor.hpp"
#include "sweep.hpp"

namespace smnn {
namespace SMNN_LEVEL {

// Where the gradients of one point, or of the step out of it, go; one pack each.
template <class P>
struct PointGradients {
    P* c;           // (Q, n)
    P* b;           // (Q)
    P* w_equation;  // (Q)
};
template <class P>
struct StepGradients {
    P s, w_smoothness;
};

// The equations of point t.
template <class P, class Size, class Rows>
SMNN_INLINE void contract_equations(
    const Size& size, const Rows& rows, int t, const P* y, const P* lambda, const PointGradients<P>& out
) {
    repeat(unroll_if_small<Size>(size.Q), [&](auto q) SMNN_LAMBDA {
        P A_lambda = splat<P>(0), r = rows.b(t, q);
        repeat(size.n, [&](auto j) SMNN_LAMBDA {
            const P c = rows.c(t, q, j);
            A_lambda += c * lambda[j];
            r -= c * y[j];
        });
        const P w = rows.w_equation(t, q);
        const P mu = w * w * A_lambda, rho = w * w * r;
        repeat(size.n, [&](auto j) SMNN_LAMBDA { out.c[q * size.n + j] = rho * lambda[j] - mu * y[j]; });
        out.b[q] = mu;
        out.w_equation[q] = splat<P>(2) * w * A_lambda * r;
    });
}

// The smoothness rows of a step s with weight w, from a point (0) to the next (1).
template <class P, class Size>
SMNN_INLINE StepGradients<P> contract_step(
    const Size& size, const typename Lanes<P>::Scalar* S, P s, P w, const P* y0, const P* y1, const P* lambda0,
    const P* lambda1
) {
    const P zero = splat<P>(0);
    P ds = zero, dw = zero;
    for (int v = 0; v < size.V; ++v) {
        repeat(unroll_if_small<Size>(size.K + size.K), [&](auto i) SMNN_LAMBDA {
            // products of row i with y and λ, and of its derivative in s
            P a_y = zero, a_lambda = zero, d_y = zero, d_lambda = zero;
            P p = splat<P>(1), dp = zero;
            repeat(size.K, [&](auto o) SMNN_LAMBDA {
                const int j = v * size.K + o;
                const P S0 = splat<P>(S[i * 2 * size.K + o]), S1 = splat<P>(S[i * 2 * size.K + size.K + o]);
                P row_y = S1 * y1[j], row_lambda = S1 * lambda1[j];
                if (i <= o) {
                    row_y += S0 * y0[j];
                    row_lambda += S0 * lambda0[j];
                }
                a_y += p * row_y;
                a_lambda += p * row_lambda;
                d_y += dp * row_y;
                d_lambda += dp * row_lambda;
                dp = splat<P>(o + 1) * p;
                p = p * s;
            });
            ds -= a_y * d_lambda + a_lambda * d_y;
            dw -= a_lambda * a_y;
        });
    }
    return {w * w * ds, splat<P>(2) * w * dw};
}

}  // namespace SMNN_LEVEL
}  // namespace smnn
