// The gradients of L with respect to every input of y = solve(d), row by row, from y, λ = M^-1 g and g = dL/dy:
//
//     dL = μ . dd  -  μ . (dA y)  +  ρ . (dA λ)  +  2 (W A λ * r) . dW,    r = d - A y, μ = W (W A λ), ρ = W (W r)
//
// v = W A λ is much smaller than λ where steps are short: in the rows of the equations large terms cancel. But (W A)^T v = g
// says what v must be: at point t, with e for the equation rows and everything else on the right,
//
//     sum_q w[q] c[q,v,o] e[q] = g[v,o] - (smoothness and initial rows)[v,o],
//
// where smoothness rows enter with s^o: the columns of high order fix e, and hardly feel the errors of the other rows. So e is
// corrected by the least-squares solution of these n equations multiplied by s^(R-o) and divided by their norm per row q, by
// the Q x Q normal equations, damped by the root of the precision: rows may depend on each other. The same for W r, where
// (W A)^T W r = 0. (The CPU engine refines λ and y instead, see kernels/gradient.hpp, which takes two more solves.) Both steps
// around the point are needed: `Pull` holds what their rows give to the columns of a point.
//
// The smoothness rows enter through their triangular form [S11 S12; 0 S22]: products with the rows, and with their
// transpose, are the same after an orthogonal transformation.
#pragma once

#include "../kernels/factor.hpp"
#include "../kernels/sweep.hpp"

namespace smnn {
namespace SMNN_LEVEL {

// Where the gradients of one point, or of a step, go; one pack each.
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

// At one point: w S^T (w S λ) and w S^T (w S y), from one step or the sum of two.
template <class P>
struct Pull {
    P* lambda;  // (n)
    P* y;       // (n)
};

// y and λ at one point.
template <class P>
struct State {
    const P* y;       // (n)
    const P* lambda;  // (n)
};

// The workspace, in packs, of `contract_equations` where sizes are known at run time.
SMNN_INLINE constexpr int contract_workspace(int n, int K, int Q) { return 2 * n + K + Q * n + Q * Q + 7 * Q; }

// How much of the squared norm of a point's other rows damps the correction.
constexpr double OTHER_ROWS = 1e-2;
// The root of the precision. Of an error in a row that is H times larger than another one of its point, damping reaches that
// one H^2 times as large: hence a second pass.
template <class T>
constexpr T damping = sizeof(T) == 8 ? T(1.5e-8) : T(3.5e-4);
constexpr int PASSES = 2;

// The smoothness rows of a step s with weight w, from a point (0) to the next (1): gradients, and what the rows give to
// either point.
template <class P, class Size>
SMNN_INLINE StepGradients<P> contract_step(
    const Size& size, const typename Lanes<P>::Scalar* S, P s, P w, State<P> at0, State<P> at1, Pull<P> pull0, Pull<P> pull1
) {
    const P zero = splat<P>(0), one = splat<P>(1), w2 = w * w;
    P ds = zero, dw = zero;
    repeat(size.n, [&](auto j) SMNN_LAMBDA { pull0.lambda[j] = pull0.y[j] = pull1.lambda[j] = pull1.y[j] = zero; });
    // Row i of variable v; it starts with column `first` of the current point. Products a with y and λ, and S^T a, which
    // is the pull but for w^2 and the powers of s.
    const auto rows_of = [&](int v, auto i, auto first) SMNN_LAMBDA {
        P a_y = zero, a_lambda = zero, p = one;
        repeat(size.K, [&](auto o) SMNN_LAMBDA {
            const int j = v * size.K + o;
            const P S0 = splat<P>(S[i * 2 * size.K + o]), S1 = splat<P>(S[i * 2 * size.K + size.K + o]);
            a_y += S1 * (p * at1.y[j]);
            a_lambda += S1 * (p * at1.lambda[j]);
            if (first <= o) {
                a_y += S0 * (p * at0.y[j]);
                a_lambda += S0 * (p * at0.lambda[j]);
            }
            p = p * s;
        });
        dw -= a_lambda * a_y;
        repeat(size.K, [&](auto o) SMNN_LAMBDA {
            const int j = v * size.K + o;
            const P S0 = splat<P>(S[i * 2 * size.K + o]), S1 = splat<P>(S[i * 2 * size.K + size.K + o]);
            pull1.y[j] += S1 * a_y;
            pull1.lambda[j] += S1 * a_lambda;
            if (first <= o) {
                pull0.y[j] += S0 * a_y;
                pull0.lambda[j] += S0 * a_lambda;
            }
        });
    };
    for (int v = 0; v < size.V; ++v) {
        repeat(unroll_if_small<Size>(size.K), [&](auto i) SMNN_LAMBDA { rows_of(v, i, i); });
        if (size.extra > 0) {
            for (int i = size.K; i < 2 * size.K; ++i) rows_of(v, i, i);
        }
        P p = one, dp = zero;
        repeat(size.K, [&](auto o) SMNN_LAMBDA {
            const int j = v * size.K + o;
            if (o > 0) {
                ds -= dp * (at1.y[j] * pull1.lambda[j] + at1.lambda[j] * pull1.y[j] + at0.y[j] * pull0.lambda[j] +
                            at0.lambda[j] * pull0.y[j]);
            }
            const P scale = w2 * p;
            pull0.lambda[j] = scale * pull0.lambda[j];
            pull0.y[j] = scale * pull0.y[j];
            pull1.lambda[j] = scale * pull1.lambda[j];
            pull1.y[j] = scale * pull1.y[j];
            dp = splat<P>(o + 1) * p;
            p = p * s;
        });
    }
    return {w2 * ds, splat<P>(2) * w * dw};
}

// The squared norm from which on a single equation is corrected: one that has an inverse.
template <class T>
constexpr T least_norm2 = T(sizeof(T) == 8 ? 1e-300 : 1e-37);

// (C C^T with the diagonal 1 + damping) e = e for two right-hand sides in place, by Cholesky; C (Q, n). `gram` receives the
// factor, or holds it.
template <class P>
SMNN_OUTLINE void solve_damped(int n, int Q, const P* C, P* gram, bool is_factor, P* e0, P* e1) {
    const P one = splat<P>(1);
    for (int i = 0; i < Q; ++i) {
        for (int k = 0; !is_factor && k <= i; ++k) {
            P sum = splat<P>(i == k ? 1 + damping<typename Lanes<P>::Scalar> : 0);
            for (int j = 0; i != k && j < n; ++j) sum += C[i * n + j] * C[k * n + j];
            for (int l = 0; l < k; ++l) sum -= gram[i * Q + l] * gram[k * Q + l];
            // (the diagonal holds its inverse)
            gram[i * Q + k] = i == k ? one / root(sum) : sum * gram[k * Q + k];
        }
        for (int l = 0; l < i; ++l) {
            e0[i] -= gram[i * Q + l] * e0[l];
            e1[i] -= gram[i * Q + l] * e1[l];
        }
        e0[i] = e0[i] * gram[i * Q + i];
        e1[i] = e1[i] * gram[i * Q + i];
    }
    for (int i = Q - 1; i >= 0; --i) {
        for (int l = i + 1; l < Q; ++l) {
            e0[i] -= gram[l * Q + i] * e0[l];
            e1[i] -= gram[l * Q + i] * e1[l];
        }
        e0[i] = e0[i] * gram[i * Q + i];
        e1[i] = e1[i] * gram[i * Q + i];
    }
}

// The initial rows of point t, added to what the steps give to it. Returns their squared norm, multiplied by |s|^(K-1-o).
template <class P, class Size, class Rows>
SMNN_OUTLINE P pull_initial(const Size& size, const Rows& rows, int t, P s, State<P> at, Pull<P> pull) {
    P norm2 = splat<P>(0);
    for (int e = 0; e < size.V * rows.n_initial_orders(); ++e) {
        const int v = e / rows.n_initial_orders(), r = e % rows.n_initial_orders(), j = v * size.K + r;
        P w = rows.w_initial(t, v, r);
        pull.lambda[j] += w * w * at.lambda[j];
        pull.y[j] -= w * w * (rows.u(t, v, r) - at.y[j]);
        for (int o = r + 1; o < size.K; ++o) w *= s;
        norm2 += w * w;
    }
    return norm2;
}

// The equations of point t, where the steps around it and its initial rows give `pull`, g is dL/dy, s a step at the point
// and w_step its weight, and `initial_norm2` what `pull_initial` returns: gradients.
template <class P, class Size, class Rows>
SMNN_INLINE void contract_equations(
    const Size& size, const Rows& rows, int t, P s, P w_step, P initial_norm2, State<P> at, const P* g, Pull<P> pull,
    const PointGradients<P>& out, P* workspace
) {
    using Cap = Capacity<Size>;
    using T = typename Lanes<P>::Scalar;
    const P zero = splat<P>(0), one = splat<P>(1);
    const int n = size.n, Q = size.Q;
    Array<P, contract_workspace(Cap::n, Cap::K, Cap::rows - Cap::n)> memory(workspace, 0);
    // what is left of g, and of 0, when all rows are taken: of λ's and of r's
    P* rest_lambda = memory;
    P* rest_r = rest_lambda + n;
    P* p = rest_r + n;       // |s|^(K-1-o)
    P* C = p + size.K;       // (Q, n): rows of norm 1 at most; a single one as it is
    P* gram = C + Q * n;     // (Q, Q)
    P* inverse = gram + Q * Q;  // of norms; of a single one, of its square
    P* v = inverse + Q;      // W A λ ...
    P* rho = v + Q;          // ... and W r
    P* r = rho + Q;
    P* e_lambda = r + Q;     // their corrections
    P* e_r = e_lambda + Q;
    p[size.K - 1] = one;
    for (int o = size.K - 1; o > 0; --o) p[o - 1] = p[o] * magnitude(s);
    const P p2 = p[0] * p[0], others = w_step * w_step * p2 + initial_norm2;
    repeat(size.n, [&](auto j) SMNN_LAMBDA {
        rest_lambda[j] = g[j] - pull.lambda[j];
        rest_r[j] = pull.y[j];
    });
    repeat(unroll_if_small<Size>(size.Q), [&](auto q) SMNN_LAMBDA {
        const P w = rows.w_equation(t, q);
        P A_lambda = zero, residual = rows.b(t, q), norm2 = splat<P>(OTHER_ROWS) * (w * w * p2 + others);
        repeat(size.n, [&](auto j) SMNN_LAMBDA {
            const P c = rows.c(t, q, j);
            A_lambda += c * at.lambda[j];
            residual -= c * at.y[j];
            const P x = w * c * p[j % size.K];
            C[q * n + j] = x;
            norm2 += x * x;
        });
        v[q] = w * A_lambda;
        rho[q] = w * residual;
        r[q] = residual;
        const P w_v = w * v[q], w_rho = w * rho[q];
        repeat(size.n, [&](auto j) SMNN_LAMBDA {
            const P c = rows.c(t, q, j);
            rest_lambda[j] -= c * w_v;
            rest_r[j] -= c * w_rho;
        });
        const auto empty = norm2 <= splat<P>(Q == 1 ? least_norm2<T> : T(0));
        const P norm2_ = select(empty, one, norm2);
        inverse[q] = select(empty, zero, Q == 1 ? reciprocal(norm2_) : one / root(norm2_));
    });
    repeat(size.n, [&](auto j) SMNN_LAMBDA {
        rest_lambda[j] = rest_lambda[j] * p[j % size.K];
        rest_r[j] = rest_r[j] * p[j % size.K];
    });
    for (int pass = 0; pass < (Q > 1 ? PASSES : 1); ++pass) {
        repeat(unroll_if_small<Size>(size.Q), [&](auto q) SMNN_LAMBDA {
            P of_lambda = zero, of_r = zero;
            repeat(size.n, [&](auto j) SMNN_LAMBDA {
                if (Q > 1 && pass == 0) C[q * n + j] = C[q * n + j] * inverse[q];
                of_lambda += C[q * n + j] * rest_lambda[j];
                of_r += C[q * n + j] * rest_r[j];
            });
            e_lambda[q] = of_lambda;
            e_r[q] = of_r;
        });
        if (Q > 1) solve_damped(n, Q, C, gram, pass > 0, e_lambda, e_r);
        repeat(unroll_if_small<Size>(size.Q), [&](auto q) SMNN_LAMBDA {
            v[q] += e_lambda[q] * inverse[q];
            rho[q] += e_r[q] * inverse[q];
            repeat(size.n, [&](auto j) SMNN_LAMBDA {
                rest_lambda[j] -= C[q * n + j] * e_lambda[q];
                rest_r[j] -= C[q * n + j] * e_r[q];
            });
        });
    }
    repeat(unroll_if_small<Size>(size.Q), [&](auto q) SMNN_LAMBDA {
        const P w = rows.w_equation(t, q);
        const P mu = w * v[q], rho_w = w * rho[q];
        repeat(size.n, [&](auto j) SMNN_LAMBDA { out.c[q * n + j] = rho_w * at.lambda[j] - mu * at.y[j]; });
        out.b[q] = mu;
        out.w_equation[q] = splat<P>(2) * v[q] * r[q];
    });
}

}  // namespace SMNN_LEVEL
}  // namespace smnn
