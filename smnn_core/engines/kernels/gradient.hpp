// Products with the rows of a block of points, and the gradients of L with respect to what the rows are made of.
//
// Of a vector x, (points, n), the rows of a block are `Products`: c x of the equations, and F S x[t-1] + G S x[t] of the
// step into each point, S = diag(s^o), without weights. With a_λ = A λ and a_y = A y - d, where (W A)^T W A λ = g,
//
//     dL = w^2 a_λ . dd  -  w^2 a_λ . (dA y)  -  w^2 a_y . (dA λ)  -  2 w a_λ a_y . dw      (smnn_core/_augmented.py)
//
// row by row. The smoothness rows enter through their triangular form [S11 S12; 0 S22]: products with the rows, and with
// their transpose, are the same after an orthogonal transformation.
#pragma once

#include "factor.hpp"

namespace smnn {
namespace SMNN_LEVEL {

// Products with the rows of a block. `equation` (points, Q); `step` (points, n + extra), of the steps into the points.
template <class P>
struct Products {
    P *equation, *step;
};

// f(i, first) for the rows of the scheme, of which row i starts with column `first` in both halves.
template <class Size, class F>
SMNN_INLINE void each_scheme_row(const Size& size, F f) {
    if (size.extra == 0) {
        repeat(size.K, [&](auto i) SMNN_LAMBDA { f(i, i); });
    } else {
        for (int i = 0; i < 2 * size.K; ++i) f(i, Int<0>());
    }
}
template <class Size>
SMNN_INLINE int step_rows(const Size& size) {
    return size.n + int(size.extra);
}

// s^o for o = 0..R
template <class P, class Size>
struct Powers {
    P p[Size::fixed ? Capacity<Size>::K : SMNN_MOST_ORDERS];
    SMNN_INLINE Powers(const Size& size, const P& s) {
        p[0] = splat<P>(1);
        for (int o = 1; o < size.K; ++o) p[o] = p[o - 1] * s;
    }
    SMNN_INLINE const P& operator[](int o) const { return p[o]; }
};

// A vector, and the sum of the magnitudes of what was subtracted from each of its entries.
template <class P>
struct Difference {
    P *x, *terms;
    SMNN_INLINE Difference operator+(Index n) const { return {x + n, terms + n}; }
};
template <class P>
SMNN_INLINE void subtract(const Difference<P>& from, int j, const P& term) {
    from.x[j] -= term;
    from.terms[j] += magnitude(term);
}
// The same for a vector alone: from (n).
template <class P>
SMNN_INLINE void subtract(P* from, int j, const P& term) {
    from[j] -= term;
}

// Subtracts c^T w^2 a of the equations of point t from x (n), P* or Difference<P>; a (Q).
template <class P, class Size, class Rows, class To>
SMNN_INLINE void subtract_equations(const Size& size, const Rows& rows, int t, const P* a, To x) {
    repeat(size.Q, [&](auto q) SMNN_LAMBDA {
        const P w = rows.w_equation(t, q), w2a = w * w * a[q];
        repeat(size.n, [&](auto j) SMNN_LAMBDA { subtract<P>(x, int(j), rows.c(t, q, j) * w2a); });
    });
}

// Subtracts S F^T w^2 a and S G^T w^2 a of the step s from x0 (n) and x1 (n); a (n + extra).
template <class P, class Size, class To>
SMNN_INLINE void subtract_step(
    const Size& size, const typename Lanes<P>::Scalar* S, const P& s, const P& w, const P* a, To x0, To x1
) {
    const Powers<P, Size> p(size, s);
    const P w2 = w * w;
    for (int v = 0; v < size.V; ++v, x0 = x0 + size.K, x1 = x1 + size.K) {
        each_scheme_row(size, [&](auto i, auto first) SMNN_LAMBDA {
            const auto* const row = S + i * 2 * size.K;
            const P w2a = w2 * *a++;
            repeat_from(first, size.K, [&](auto o) SMNN_LAMBDA {
                const P pa = p[o] * w2a;
                subtract<P>(x0, int(o), splat<P>(row[o]) * pa);
                subtract<P>(x1, int(o), splat<P>(row[size.K + o]) * pa);
            });
        });
    }
}

// Subtracts A^T W^2 a from x (points, n), which starts at point t0, and from `before` (n) at the point before. w_step (points):
// the weights of the steps.
template <class P, class Size, class Rows>
SMNN_OUTLINE void subtract_transposed(
    const Size& size, const typename Lanes<P>::Scalar* S, const Rows& rows, int t0, int t1, const P* w_step, Products<P> a,
    Difference<P> before, Difference<P> x
) {
    for (int t = t0; t < t1; ++t, before = x, x = x + size.n) {
        subtract_equations<P>(size, rows, t, a.equation, x);
        subtract_step<P>(size, S, rows.s(t), w_step[t - t0], a.step, before, x);
        a.equation += size.Q;
        a.step += step_rows(size);
    }
}

// The place of the gradients of a block of points, and of the steps into them.
template <class P>
struct BlockGradients {
    P* c;             // (points, Q, n)
    P* b;             // (points, Q)
    P* w_equation;    // (points, Q)
    P* s;             // (points)
    P* w_smoothness;  // (points)
};

// The gradients, from y and λ with their products; y and lambda (points, n) start at point t0, and have the point before in
// front.
template <class P, class Size, class Rows>
SMNN_OUTLINE void contract(
    const Size& size, const typename Lanes<P>::Scalar* S, const Rows& rows, int t0, int t1, const P* y, const P* lambda,
    Products<P> a_y, Products<P> a_lambda, BlockGradients<P> out
) {
    const P zero = splat<P>(0), two = splat<P>(2);
    for (int t = t0; t < t1; ++t, y += size.n, lambda += size.n) {
        repeat(size.Q, [&](auto q) SMNN_LAMBDA {
            const P w = rows.w_equation(t, q), of_y = *a_y.equation++, of_lambda = *a_lambda.equation++;
            const P mu = w * w * of_lambda, rho = w * w * of_y;
            repeat(size.n, [&](auto j) SMNN_LAMBDA { *out.c++ = -(rho * lambda[j]) - mu * y[j]; });
            *out.b++ = mu;
            *out.w_equation++ = -(two * w * of_y * of_lambda);
        });
        const Powers<P, Size> p(size, rows.s(t));
        const P w = rows.w_smoothness(t);
        P ds = zero, dw = zero;
        for (int v = 0; v < size.V; ++v) {
            const P *const y1 = y + v * size.K, *const x1 = lambda + v * size.K, *const y0 = y1 - size.n, *const x0 = x1 - size.n;
            each_scheme_row(size, [&](auto i, auto first) SMNN_LAMBDA {
                const auto* const row = S + i * 2 * size.K;
                const P of_y = *a_y.step++, of_lambda = *a_lambda.step++;
                dw -= of_y * of_lambda;
                P sum = zero;  // a_λ d(a_y) / ds + a_y d(a_λ) / ds
                repeat_from(first, size.K, [&](auto o) SMNN_LAMBDA {
                    if (o == 0) return;
                    const P at0 = of_lambda * y0[o] + of_y * x0[o], at1 = of_lambda * y1[o] + of_y * x1[o];
                    sum += (splat<P>(double(int(o))) * p[o > 0 ? o - 1 : 0]) * (splat<P>(row[o]) * at0 + splat<P>(row[size.K + o]) * at1);
                });
                ds -= sum;
            });
        }
        *out.s++ = w * w * ds;
        *out.w_smoothness++ = two * w * dw;
    }
}

}  // namespace SMNN_LEVEL
}  // namespace smnn
