// Covariances from the factor: of the unknowns of points, as squares of triangles, and of the rows, from the tape.
//
// Unknowns. Row j of a final point, R y[t] + N y[t+1] = e, is a normal variable e_j of variance d_j = R_jj, and independent of
// all later ones (rotate.hpp). Let ξ and ε be independent standard normal variables, n of each, and
//
//     y[t+1] = A ξ.    Then y[t] = R^-1 (D^1/2 ε - N y[t+1]) = U ε + B ξ,    U = R^-1 D^1/2,    B = -R^-1 N A,
//
// and reflections of the columns take [U B] into one triangle, the A of y[t]. Variances are sums of squares: nothing is
// subtracted from them.
//
// Rows. Every row is ρ = row y, a normal variable too. Of rows as they stand at a point of the elimination there are
//
//     Z = cov(ρ, y[t]),    G = cov(ρ, ρ),
//
// of rows of the triangle divided by their weights, as multipliers are (tape.hpp): they go back through the tape as these
// do, G from both sides, and beside them the residual, one column for each right-hand side. Of the final rows of a point
// they are R^-T and D^-1; all other rows depend on y[t+1] alone, so that from point t+1 to t
//
//     cov(ρ, y[t]) = -cov(ρ, y[t+1]) N^T R^-T.
//
// For the rows of the problem this gives d log det M = 2 sum over rows <cov(ρ, y), d row>. A row times a covariance of
// unknowns would be a small difference of large numbers where steps are short; G is none: Q Q^T, whose diagonal are the
// leverages of the rows.
//
// Given both neighbours of a point, R y[t] = e - N y[t+1] - L y[left], high derivatives are differences of values that are
// nearly the same. So chunks go back by the rows of an undivided elimination, which goes on from the triangle of the separator
// before them.
//
// Source of the first part: Bierman, Factorization Methods for Discrete Sequential Estimation, 1977, chapter X (square-root
// smoother). Derivation: docs/theory/posterior.md.
#pragma once

#include "tape.hpp"

namespace smnn {
namespace SMNN_LEVEL {

// Unknowns -----------------------------------------------------------------------------------------------------------

// Takes the columns of [U B], (n, n) upper triangular and (n, n), into U, the last row first; what B holds is overwritten.
//
// With (a, x) the entries of a row, a > 0 on the diagonal of U and x in B, the reflection I - v v^T / h of the columns,
// v = (a + |(a, x)|, x) and h = |(a, x)| (a + |(a, x)|), makes them (-|(a, x)|, 0). Source: Golub, Van Loan, Matrix Computations,
// section 5.1.
template <class P, class Count>
SMNN_INLINE void triangularise_columns(Count n, P* U, P* B) {
    repeat_down(n, [&](auto j) SMNN_LAMBDA {
        const P a = U[j * n + j], *const x = B + j * n;
        P sum = a * a;
        repeat(n, [&](auto k) SMNN_LAMBDA { sum += x[k] * x[k]; });
        const P norm = root(sum), v = a + norm, minus = -reciprocal(sum + a * norm);
        repeat(j, [&](auto i) SMNN_LAMBDA {
            P &top = U[i * n + j], *const row = B + i * n;
            P dot = splat<P>(0);
            repeat(n, [&](auto k) SMNN_LAMBDA { dot += x[k] * row[k]; });
            dot = (dot + v * top) * minus;  // (v last: it waits for a root)
            top += v * dot;
            repeat(n, [&](auto k) SMNN_LAMBDA { row[k] += x[k] * dot; });
        });
        U[j * n + j] = -norm;
    });
}

// The final rows of a point, as a sweep leaves them.
template <class P, class Size>
struct PointRows {
    const Size& size;
    const FactorLayout<false> at;
    const P* const f;
    // f_ (FactorLayout<false>::entries())
    SMNN_INLINE PointRows(const Size& size_, const P* f_) : size(size_), at{size_.n, size_.K}, f(f_) {}
    SMNN_INLINE const P& inverse(int j) const { return f[at.row(j)]; }  // 1 / R_jj
    SMNN_INLINE const P& R(int j, int l) const { return f[at.row(j) + l - j]; }
    SMNN_INLINE const P& N(int j, int l) const { return f[at.next(j) + l]; }
    // of row j of N
    template <class J>
    SMNN_INLINE auto columns(J j) const {
        return columns_through(size, j);
    }
};

// From A (n, n) of point t+1 to U (n, n) and B (n, n) of point t, which has these final rows; none in the place of another.
template <class P, class Count, class Rows>
SMNN_INLINE void roots_before(Count n, const Rows& rows, const P* A, P* U, P* B) {
    const P zero = splat<P>(0);
    const auto add = [&](P* sum, const P& a, const P* x, auto first) SMNN_LAMBDA {
        repeat_from(first, n, [&](auto k) SMNN_LAMBDA { sum[k] += a * x[k]; });
    };
    repeat_down(n, [&](auto j) SMNN_LAMBDA {
        P *const U_j = U + j * n, *const B_j = B + j * n;
        repeat(n, [&](auto k) SMNN_LAMBDA { U_j[k] = B_j[k] = zero; });
        repeat(rows.columns(j), [&](auto l) SMNN_LAMBDA { add(B_j, rows.N(j, l), A + l * n, l); });
        repeat_from(next(j), n, [&](auto l) SMNN_LAMBDA {
            const P R = rows.R(j, l);
            add(U_j, R, U + l * n, l);
            add(B_j, R, B + l * n, Int<0>());
        });
        const P inverse = rows.inverse(j), minus = -inverse;
        repeat(n, [&](auto k) SMNN_LAMBDA {
            U_j[k] *= minus;
            B_j[k] *= minus;
        });
        U_j[j] = root(inverse);
    });
}

// Rows ---------------------------------------------------------------------------------------------------------------

// to (n) = cov(ρ, y[t]), from of_next (n) = cov(ρ, y[t+1]), which it must not be, and the final rows of point t.
template <class P, class Count, class Rows>
SMNN_INLINE void columns_before(Count n, const Rows& rows, const P* of_next, P* to) {
    repeat_down(n, [&](auto j) SMNN_LAMBDA {
        P sum = splat<P>(0);
        repeat(rows.columns(j), [&](auto l) SMNN_LAMBDA { sum += rows.N(j, l) * of_next[l]; });
        repeat_from(next(j), n, [&](auto l) SMNN_LAMBDA { sum += rows.R(j, l) * to[l]; });
        to[j] = -(rows.inverse(j) * sum);
    });
}

// Covariances of the final rows of a point with its unknowns: Z[j] = column j of R^-1, from column `first` of Z on, and G = D^-1.
// (What they have with others is zero.)
template <class P, class Count, class Rows>
SMNN_INLINE void set_final_rows(Count n, const Rows& rows, int first, const RowCovariances<P>& to) {
    for (int j = 0; j < n; ++j) {
        if (to.G) to.product(j, j) = rows.inverse(j);
        if (first < 0) continue;
        P* const x = to.row(j) + first;
        x[j] = rows.inverse(j);
        for (int i = j - 1; i >= 0; --i) {
            P sum = splat<P>(0);
            for (int l = i + 1; l <= j; ++l) sum += rows.R(i, l) * x[l];
            x[i] = -(rows.inverse(i) * sum);
        }
    }
}

// The way back of one lane through the points of a block: the multipliers of the residual, and covariances of rows.
//
// The rows are those of the triangle of a point (n), and those below it. Columns of Z: the residual, for each right-hand side
// (m, or none where it is not wanted), then, if they are wanted, cov(ρ, y[t]) (n).
template <class P, class Size>
struct RowUnwinding {
    const Size& size;
    const int m;
    const bool with_unknowns;
    Tape<P> tape;
    const RowCovariances<P> all;
    P *const ea, *const room;  // (n), (n)

    SMNN_INLINE P* residual(int i) const { return all.row(size.n + i); }
    SMNN_INLINE P* of_unknowns(int i) const { return residual(i) + m; }
    SMNN_INLINE P& product(int i, int k) const { return all.product(size.n + i, size.n + k); }

    // An initial row of column `column`: row 0 below the triangle.
    SMNN_OUTLINE void unwind_initial_row(int column) {
        leave(0, 1);
        for (int j = size.n - 1; j >= column; --j) rotate_back(j, 0, 1);
        tape.skip(-2 * column);
    }

    // Equations: rows 0 .. Q-1.
    SMNN_OUTLINE void unwind_equations() {
        const int n = size.n, Q = size.Q;
        for (int q = Q - 1; q >= 0; --q) leave(q, Q);
        for (int j = n - 1; j >= 0; --j) {
            for (int q = Q - 1; q >= 0; --q) rotate_back(j, q, Q);
        }
        for (int j = n - 1; j >= 0; --j) ea[j] = tape.pop();
    }

    // The rows of the step into a point, 0 .. n-1: the triangle was made of them.
    SMNN_OUTLINE void take_step() {
        for (int i = 0; i < size.n; ++i) {
            for (int c = 0; c < all.columns; ++c) residual(i)[c] = ea[i] * all.row(i)[c];
            for (int k = 0; all.G && k <= i; ++k) product(i, k) = ea[i] * ea[k] * all.product(i, k);
        }
    }
    // Rotates them with the final rows f (FactorLayout<false>::entries()) of the point before.
    SMNN_OUTLINE void unwind_step(const P* f) {
        const int n = size.n;
        const PointRows<P, Size> before(size, f);
        for (int i = 0; with_unknowns && i < n; ++i) {
            P* const x = of_unknowns(i);
            columns_before(size.n, before, x, room);
            for (int j = 0; j < n; ++j) x[j] = room[j];
        }
        set_triangle(f, 2 * n);
        for (int round = n - 1; round >= 0; --round) {
            for (int i = n - 1 - round; i >= 0; --i) rotate_back(round + i, i, n);
        }
    }
    // The triangle of a point are its final rows, f (FactorLayout<false>::entries()), of so many rows.
    SMNN_INLINE void set_triangle(const P* f, int rows) const {
        for (int j = 0; j < size.n; ++j) all.clear(j, rows);
        set_final_rows(size.n, PointRows<P, Size>(size, f), with_unknowns ? m : -1, all);
    }

   private:
    SMNN_INLINE void leave(int i, int count) {
        all.clear(size.n + i, size.n + count);
        for (int c = size.m - 1; c >= 0; --c) {
            const P rest = tape.pop();
            if (c < m) residual(i)[c] = -rest;
        }
    }
    SMNN_INLINE void rotate_back(int a, int i, int count) {
        const P g = tape.pop(), eb = tape.pop();
        all.rotate_back(a, size.n + i, size.n + count, g, eb);
    }
};

}  // namespace SMNN_LEVEL
}  // namespace smnn
