// Covariances of the unknowns of neighbouring points, by elimination forward and factors of the covariances backward.
//
// n unknowns y[t] = (v, r) per point, y[t+1] = Phi y[t] + δ, where Phi is the Taylor expansion over the step s. The rows of
// a point, own rows X y[t] = z (X upper triangular: all rows up to here, eliminated) and those of the step, w C S δ = 0 with
// S = diag(s^r), are written in u and y[t+1]:
//
//     y[t] = Phi^-1 (K y[t+1] - u),    δ = (1 - K) y[t+1] + u,    K diagonal, of ones and zeros,
//
//     [ X Phi^-1   -X Phi^-1 K ] [ u      ]   [ -z ]      reflections      [ R  E ] [ u      ]   [ ζ ]
//     [ w C S      w C S (1-K) ] [ y[t+1] ] = [  0 ]    --------------->   [ 0  X'] [ y[t+1] ] = [ z']
//
// X' and z' go on to the next point. u is what has the smaller rows, column by column: the increment δ (K = 1) where the
// step says more than the own rows, else -Phi y[t] (K = 0). So no small difference of large numbers is taken, neither over
// short steps nor where a step says next to nothing.
//
// Backward, with J = -R^-1 E and U^T U the covariance of y[t+1],
//
//     B = [ U (K - J)^T ] Phi^-T,    D = [ U (1 - K + J)^T ]
//         [ -R^-T       ]                [ R^-T            ]
//
// are factors of y[t] and of δ with the same rows: B^T B, D^T D and D^T B are their covariances, the first n rows of B give
// that of y[t] and y[t+1], and reflections make B a triangle, the U of y[t]. Nothing is subtracted from a variance.
//
// log det M = 2 sum log|R_ii|, and d log det M = 2 sum over rows a of <a Σ, da>, with rows a = w c of points, and of steps
// w C S δ, of which dδ = -Phi' y[t] ds.
//
// Source of the scheme: Bierman, Factorization Methods for Discrete Sequential Estimation, 1977, chapters VI and X
// (square-root information filter and smoother). Written for increments here; derivation: docs/theory/posterior.md.
#pragma once

#include "reflect.hpp"

namespace smnn {
namespace SMNN_LEVEL {

// Rows ---------------------------------------------------------------------------------------------------------------

// Numbers of a row that are worked on at once: where a lane is a number and no pack, those of a vector. Rows that are
// written so have room behind their end; what is there, or is read from behind the end of others, does not matter, as no
// column depends on another one.
#if defined(SMNN_VECTOR_BYTES)
template <class P>
constexpr int AT_ONCE = Lanes<P>::count == 1 ? SMNN_VECTOR_BYTES / int(sizeof(double)) : 1;
template <class P, int N = AT_ONCE<P>>
struct Chunk {
    using V = typename Vector<double, N>::type;
    SMNN_INLINE static V load(const P* at) {
        V x;
        __builtin_memcpy(&x, at, sizeof(V));
        return x;
    }
    SMNN_INLINE static void store(P* at, V x) { __builtin_memcpy(at, &x, sizeof(V)); }
};
#else
template <class P>
constexpr int AT_ONCE = 1;
template <class P, int N = AT_ONCE<P>>
struct Chunk;
#endif
template <class P>
struct Chunk<P, 1> {
    using V = P;
    SMNN_INLINE static V load(const P* at) { return *at; }
    SMNN_INLINE static void store(P* at, V x) { *at = x; }
};

// From one row of so many numbers to the next, where rows are written from their start, or from anywhere.
template <class P>
constexpr int row_stride(int count, bool from_start) {
    constexpr int N = AT_ONCE<P>;
    return (count + (from_start ? 1 : 2) * (N - 1)) / N * N;
}

// Matrices are stored row by row.
template <class P>
struct Matrix {
    P* data;
    int stride;
    SMNN_INLINE P& operator()(int i, int j) const { return data[i * stride + j]; }
    SMNN_INLINE P* row(int i) const { return data + i * stride; }
};

// to[0 .. count-1] += a from
template <class P>
SMNN_INLINE void add_multiple(P* to, const P& a, const P* from, int count) {
    using C = Chunk<P>;
    for (int k = 0; k < count; k += AT_ONCE<P>) C::store(to + k, C::load(to + k) + a * C::load(from + k));
}

// H of Width chunks of columns.
template <int Width, class P>
SMNN_INLINE void apply_across(const Reflection<P>& H, const P* x, const Matrix<P>& A, int top, int first, int rows, int k) {
    using C = Chunk<P>;
    constexpr int N = AT_ONCE<P>;
    typename C::V dot[Width];
    P* const a = A.row(top) + k;
    for (int c = 0; c < Width; ++c) dot[c] = H.v0 * C::load(a + c * N);
    for (int i = 0; i < rows; ++i) {
        const P* const b = A.row(first + i) + k;
        for (int c = 0; c < Width; ++c) dot[c] += x[i] * C::load(b + c * N);
    }
    for (int c = 0; c < Width; ++c) {
        dot[c] = dot[c] * H.inverse;
        C::store(a + c * N, C::load(a + c * N) + H.v0 * dot[c]);
    }
    for (int i = 0; i < rows; ++i) {
        P* const b = A.row(first + i) + k;
        for (int c = 0; c < Width; ++c) C::store(b + c * N, C::load(b + c * N) + x[i] * dot[c]);
    }
}

// The reflection that takes the rows first .. first+rows-1 into row `top`, in one column; applied to columns begin .. end-1.
// Columns from `end` on, of which chunks may take some, are `column`, or zero in these rows, or do not matter. x: room for
// the column.
template <bool Exchange, class P>
SMNN_INLINE void reflect_rows_here(
    const Matrix<P>& A, int top, int first, int rows, int column, int begin, int end, P* x
) {
    for (int i = 0; i < rows; ++i) x[i] = A(first + i, column);
    P a = A(top, column);
    if constexpr (Exchange) {
        raise(a, x, rows, [&](int i, const auto& mask) SMNN_LAMBDA {
            for (int k = begin; k < end; ++k) swap_lanes(mask, A(top, k), A(first + i, k));
        });
    }
    const Reflection<P> H = reflect(a, x, rows);
    constexpr int N = AT_ONCE<P>, Width = 4;
    int k = begin;
    for (; k + Width * N <= end; k += Width * N) apply_across<Width>(H, x, A, top, first, rows, k);
    for (; k < end; k += N) apply_across<1>(H, x, A, top, first, rows, k);
    A(top, column) = H.diagonal;
    for (int i = 0; i < rows; ++i) A(first + i, column) = splat<P>(0);
}

// The same, of sizes known at compile time or not.
template <bool Exchange, class P>
SMNN_OUTLINE void reflect_rows_elsewhere(
    const Matrix<P>& A, int top, int first, int rows, int column, int begin, int end, P* x
) {
    reflect_rows_here<Exchange>(A, top, first, rows, column, begin, end, x);
}
template <class Size, bool Exchange, class P>
SMNN_INLINE void reflect_rows(
    const Matrix<P>& A, int top, int first, int rows, int column, int begin, int end, P* x
) {
    if constexpr (Size::fixed) {
        reflect_rows_here<Exchange>(A, top, first, rows, column, begin, end, x);
    } else {
        reflect_rows_elsewhere<Exchange>(A, top, first, rows, column, begin, end, x);
    }
}

// The logarithm of a product of many numbers.
template <class P>
class LogProduct {
   public:
    SMNN_INLINE void multiply(const P& x) {
        product_ *= magnitude(x);
        if (any(product_ < splat<P>(1e-60)) || any(splat<P>(1e60) < product_)) flush();
    }
    P sum() {
        flush();
        return sum_;
    }

   private:
    P product_ = splat<P>(1), sum_ = splat<P>(0);
    SMNN_OUTLINE void flush() {
        if constexpr (Lanes<P>::count == 1) {
            product_ = __builtin_log(product_);
        } else {
            for (int l = 0; l < Lanes<P>::count; ++l) product_.set(l, __builtin_log(product_.get(l)));
        }
        sum_ += product_;
        product_ = splat<P>(1);
    }
};

// Sizes and memory ---------------------------------------------------------------------------------------------------

// Size: a `Fixed` or `Sized`
template <class P, class Size>
struct CovarianceSizes {
    decltype(Size::V) V;
    decltype(Size::K) K;
    decltype(Size::n) n;
    int own;  // the most own rows of a point
    int m;    // right-hand sides

    constexpr CovarianceSizes(const Size& size, int own_, int m_) : V(size.V), K(size.K), n(size.n), own(own_), m(m_) {}

    constexpr int row() const { return row_stride<P>(n, true); }
    constexpr int rhs() const { return row_stride<P>(m, true); }
    constexpr int row_and_rhs() const { return row_stride<P>(n + m, false); }
    constexpr int two_rows_and_rhs() const { return row_stride<P>(2 * n + m, false); }
    // What elimination leaves of a step: J^T and R^-T, the diagonal of K, s, w, and R^-1 ζ, without room behind rows.
    constexpr int entries() const { return 2 * n * n + n + 2 + n * m; }
    constexpr int carried() const { return n * row_and_rhs(); }
    constexpr int workspace() const {
        return (n + own) * row_and_rhs() + 2 * n * two_rows_and_rhs() + (4 * n + 2) * row() + 3 * n * rhs() + 2 * n + own +
               m + 3 * K;
    }
};

template <class P, class Size>
struct StepFactor {
    Matrix<P> JT, RT;  // J^T, R^-T (lower triangular)
    P* kept;           // the diagonal of K
    P &s, &w;
    Matrix<P> z;       // R^-1 ζ, (n, m)
    SMNN_INLINE StepFactor(const CovarianceSizes<P, Size>& size, P* at)
        : JT{at, size.n}, RT{JT.row(size.n), size.n}, kept(RT.row(size.n)), s(kept[size.n]), w(kept[size.n + 1]),
          z{kept + size.n + 2, size.m} {}
};

template <class P, class Size>
class CovarianceSweep {
    using T = typename Lanes<P>::Scalar;

   public:
    LogProduct<P> determinant;
    P* minimum;              // |W (A y - d)|^2, (m)
    Matrix<P> U, B, D;       // of the point that `back` is at (U), and of the step behind it: see above
    Matrix<P> y, increment;  // means of y[t] and δ, (n, m)

    // C: (K, K), upper triangular, row by row
    CovarianceSweep(const CovarianceSizes<P, Size>& sizes, const double* C, P* memory)
        : size(sizes), n(sizes.n), C_(C) {
        const auto take = [&](int count) {
            P* at = memory;
            memory += count;
            return at;
        };
        X = {take((n + size.own) * size.row_and_rhs()), size.row_and_rhs()};
        A = {take(2 * n * size.two_rows_and_rhs()), size.two_rows_and_rhs()};
        U = {take(n * size.row()), size.row()};
        inverse_ = {take(n * size.row()), size.row()};
        D = {take(2 * n * size.row()), size.row()};
        B = {A.data, size.row()};
        y = {take(n * size.rhs()), size.rhs()};
        increment = {take(n * size.rhs()), size.rhs()};
        u_ = {take(n * size.rhs()), size.rhs()};
        minimum = take(size.m);
        kept_ = take(size.row());
        room_ = take(size.row());
        column_ = take(2 * n + size.own);
        powers_ = take(size.K);
        taylor_ = take(size.K);
        derivatives_ = take(size.K);
    }

    // Elimination ----------------------------------------------------------------------------------------------------

    void start() {
        for (int i = 0; i < size.carried(); ++i) X.data[i] = splat<P>(0);
    }
    // The rows that go on to the next point: (n, row_and_rhs).
    P* carried() const { return X.data; }

    // Own rows of point t.
    template <class Rows>
    SMNN_OUTLINE void absorb(const Rows& rows, int t, int Q, bool with_rhs) {
        int m = n;
        for (int q = 0; q < Q; ++q, ++m) {
            const P w = rows.w_equation(t, q);
            for (int j = 0; j < n; ++j) X(m, j) = w * rows.c(t, q, j);
            for (int c = 0; c < size.m; ++c) X(m, n + c) = with_rhs ? w * rows.b(t, q, c) : splat<P>(0);
        }
        if (rows.has_initial(t)) {
            for (int v = 0; v < size.V; ++v) {
                for (int r = 0; r < rows.n_initial_orders(); ++r, ++m) {
                    const P w = rows.w_initial(t, v, r);
                    for (int j = 0; j < n; ++j) X(m, j) = splat<P>(0);
                    X(m, v * size.K + r) = w;
                    for (int c = 0; c < size.m; ++c) X(m, n + c) = with_rhs ? w * rows.u(t, v, r, c) : splat<P>(0);
                }
            }
        }
        for (int j = 0; j < n; ++j) reflect_rows<Size, true>(X, j, j + 1, m - 1 - j, j, j + 1, n + size.m, column_);
        for (int i = n; i < m; ++i) {
            for (int c = 0; c < size.m; ++c) minimum[c] += X(i, n + c) * X(i, n + c);
        }
    }

    // From a point to the next, over a step s of weight w; `left`: what it leaves, if that is wanted.
    SMNN_OUTLINE void advance(const P& s, const P& w, P* left) {
        step_rows(s, w);
        for (int j = 0; j < n; ++j) reflect_rows<Size, true>(A, j, n, j + 1, j, j + 1, 2 * n + size.m, column_);
        for (int j = 0; j < n; ++j) determinant.multiply(A(j, j));
        if (left) {
            StepFactor<P, Size> f(size, left);
            f.s = s;
            f.w = w;
            for (int j = 0; j < n; ++j) f.kept[j] = kept_[j];
            invert(A, f.RT);
            solve(f);
        }
        for (int i = 0; i < n; ++i) {
            for (int j = 0; j < n + size.m; ++j) X(i, j) = A(n + i, n + j);
        }
    }

    // Behind the last point.
    SMNN_OUTLINE void finish() {
        for (int j = 0; j < n; ++j) determinant.multiply(X(j, j));
    }

    // And back -------------------------------------------------------------------------------------------------------

    // The last point: U = X^-T, y = X^-1 z.
    SMNN_OUTLINE void turn() {
        invert(X, U);
        for (int i = 0; i < n; ++i) {
            for (int c = 0; c < size.m; ++c) y(i, c) = splat<P>(0);
            for (int k = i; k < n; ++k) add_multiple(y.row(i), inverse_(i, k), X.row(k) + n, size.m);
        }
    }

    // From point t+1 to t, means.
    SMNN_OUTLINE void back_mean(P* left) {
        const StepFactor<P, Size> f(size, left);
        taylor(-f.s);
        for (int i = 0; i < n; ++i) {
            for (int c = 0; c < size.m; ++c) u_(i, c) = f.z(i, c);
            for (int k = 0; k < n; ++k) add_multiple(u_.row(i), f.JT(k, i), y.row(k), size.m);
        }
        for (int i = 0; i < n; ++i) {
            for (int c = 0; c < size.m; ++c) {
                increment(i, c) = y(i, c) - f.kept[i] * y(i, c) + u_(i, c);
                y(i, c) = f.kept[i] * y(i, c) - u_(i, c);
            }
        }
        for (int first = 0; first < n; first += size.K) {
            for (int r = 0; r < size.K; ++r) {
                for (int o = r + 1; o < size.K; ++o) {
                    add_multiple(y.row(first + r), taylor_[o - r], y.row(first + o), size.m);
                }
            }
        }
    }

    // From point t+1 to t: B, still with the U of t+1, and D if that is wanted. `reduce` follows.
    SMNN_OUTLINE void back(P* left, bool with_increments) {
        const StepFactor<P, Size> f(size, left);
        taylor(-f.s);
        for (int i = 0; i < n; ++i) {
            P *const b = B.row(i), *const c = B.row(n + i), *const d = D.row(i), *const u = U.row(i);
            for (int j = 0; j < size.row(); ++j) room_[j] = splat<P>(0);
            for (int k = 0; k <= i; ++k) add_multiple(room_, u[k], f.JT.row(k), n);
            for (int j = 0; j < n; ++j) {
                b[j] = f.kept[j] * u[j] - room_[j];
                c[j] = -f.RT(i, j);
            }
            if (with_increments) {
                for (int j = 0; j < n; ++j) {
                    d[j] = u[j] - f.kept[j] * u[j] + room_[j];
                    D(n + i, j) = f.RT(i, j);
                }
            }
            to_earlier(b);
            to_earlier(c);
        }
    }

    // U of the point that `back` has come to.
    SMNN_OUTLINE void reduce() {
        for (int j = n - 1; j >= 0; --j) reflect_rows<Size, false>(B, n + j, 0, n, j, 0, j, column_);
        for (int i = 0; i < n; ++i) {
            for (int j = 0; j < n; ++j) U(i, j) = j > i ? splat<P>(0) : B(n + i, j);
        }
    }

    // Results --------------------------------------------------------------------------------------------------------

    // The covariance of y[t] (rows) with y[t+1], between `back` and `reduce`: (n, n)
    SMNN_OUTLINE void lag_covariance(P* result) { product(B, result); }
    // That of y[t]: (n, n)
    SMNN_OUTLINE void covariance(P* result) { product(U, result); }
    SMNN_OUTLINE void variance(P* result) const {
        for (int a = 0; a < n; ++a) {
            P sum = splat<P>(0);
            for (int i = a; i < n; ++i) sum += U(i, a) * U(i, a);
            result[a] = sum;
        }
    }

    // Σ a of a row a at the point t, into `result` (n); returns a^T Σ a.
    template <class Row>
    SMNN_INLINE P times_covariance(Row row, P* result) const {
        P sum = splat<P>(0);
        for (int j = 0; j < n; ++j) result[j] = splat<P>(0);
        for (int i = 0; i < n; ++i) {
            P x = splat<P>(0);
            for (int j = 0; j <= i; ++j) x += U(i, j) * row(j);
            for (int j = 0; j <= i; ++j) result[j] += x * U(i, j);
            sum += x * x;
        }
        return sum;
    }

    // Halves of the derivatives of log det M in the s and w of the step, between `back` with increments and `reduce`.
    SMNN_OUTLINE void of_step(P* left, P& of_s, P& of_w) {
        const StepFactor<P, Size> f(size, left);
        const auto K = size.K;
        P s_sum = splat<P>(0), w_sum = splat<P>(0);
        taylor(f.s);
        powers_[0] = splat<P>(1);
        for (int o = 1; o < K; ++o) powers_[o] = powers_[o - 1] * f.s;
        for (int o = 0; o < K; ++o) derivatives_[o] = o > 0 ? splat<P>(T(o)) * powers_[o - 1] : splat<P>(0);
        for (int i = 0; i < 2 * n; ++i) {
            for (int first = 0; first < n; first += K) {
                const P *const d = D.row(i) + first, *const b = B.row(i) + first;
                // C S' δ - C S Phi' y: of each order what C multiplies
                for (int o = 0; o < K; ++o) {
                    P moved = splat<P>(0);
                    for (int k = o + 1; k < K; ++k) moved += taylor_[k - o - 1] * b[k];
                    room_[o] = derivatives_[o] * d[o] - powers_[o] * moved;
                }
                for (int r = 0; r < K; ++r) {
                    P row = splat<P>(0), of_row = splat<P>(0);
                    for (int o = r; o < K; ++o) {
                        const P c = splat<P>(T(C_[r * K + o]));
                        row += c * powers_[o] * d[o];
                        of_row += c * room_[o];
                    }
                    w_sum += row * row;
                    s_sum += row * of_row;
                }
            }
        }
        of_s = f.w * f.w * s_sum;
        of_w = f.w * w_sum;
    }

    // The residuals of the step, -w C S δ at the means, into rows (n, m), behind `back_mean`.
    SMNN_OUTLINE void step_residuals(P* left, const Matrix<P>& result) {
        const StepFactor<P, Size> f(size, left);
        const auto K = size.K;
        powers_[0] = f.w;
        for (int o = 1; o < K; ++o) powers_[o] = powers_[o - 1] * f.s;
        for (int i = 0; i < n; ++i) {
            const int r = i % K;
            for (int c = 0; c < size.m; ++c) result(i, c) = splat<P>(0);
            for (int o = r; o < K; ++o) {
                add_multiple(result.row(i), splat<P>(T(-C_[r * K + o])) * powers_[o], increment.row(i - r + o), size.m);
            }
        }
    }

   private:
    const CovarianceSizes<P, Size> size;
    const decltype(Size::n) n;
    const double* C_;
    Matrix<P> X, A, inverse_, u_;
    P *kept_, *room_, *column_, *powers_, *taylor_, *derivatives_;

    // s^k / k!
    SMNN_INLINE void taylor(const P& s) {
        taylor_[0] = splat<P>(1);
        for (int k = 1; k < size.K; ++k) taylor_[k] = taylor_[k - 1] * s * splat<P>(T(1) / T(k));
    }

    // x := x Phi^-T, of a row: y[t] from Phi y[t]
    SMNN_INLINE void to_earlier(P* x) const {
        for (int v = 0; v < size.V; ++v, x += size.K) {
            for (int r = 0; r < size.K; ++r) {
                for (int o = r + 1; o < size.K; ++o) x[r] += taylor_[o - r] * x[o];
            }
        }
    }
    // x := x Phi^-1, of a row
    SMNN_INLINE void times_earlier(P* x) const {
        for (int v = 0; v < size.V; ++v, x += size.K) {
            for (int o = size.K - 1; o > 0; --o) {
                for (int r = 0; r < o; ++r) x[o] += taylor_[o - r] * x[r];
            }
        }
    }

    // The rows of u and y[t+1] above, in A; and the diagonal of K.
    SMNN_INLINE void step_rows(const P& s, const P& w) {
        const auto K = size.K;
        taylor(-s);
        powers_[0] = w;
        for (int o = 1; o < K; ++o) powers_[o] = powers_[o - 1] * s;
        for (int i = 0; i < n; ++i) {
            for (int j = 0; j < n; ++j) A(i, j) = X(i, j);
            times_earlier(A.row(i));
            for (int c = 0; c < size.m; ++c) A(i, 2 * n + c) = -X(i, n + c);
            for (int j = 0; j < 2 * n + size.m; ++j) A(n + i, j) = splat<P>(0);
        }
        for (int j = 0; j < n; ++j) {
            const int o = j % K, first = j - o;
            P of_own = splat<P>(0), of_step = splat<P>(0);
            for (int i = 0; i <= j; ++i) of_own = larger(of_own, magnitude(A(i, j)));
            for (int r = 0; r <= o; ++r) {
                A(n + first + r, j) = splat<P>(T(C_[r * K + o])) * powers_[o];
                of_step = larger(of_step, magnitude(A(n + first + r, j)));
            }
            const P kept = kept_[j] = select(of_step < of_own, splat<P>(0), splat<P>(1));
            for (int i = 0; i < n; ++i) A(i, n + j) = -kept * A(i, j);
            for (int r = 0; r <= o; ++r) A(n + first + r, n + j) = (splat<P>(1) - kept) * A(n + first + r, j);
        }
    }
    static SMNN_INLINE P larger(const P& a, const P& b) { return select(a < b, b, a); }

    // inverse_ := R^-1 of an upper triangle, which is one, too; and its transpose.
    SMNN_INLINE void invert(const Matrix<P>& R, const Matrix<P>& transposed) {
        for (int i = n - 1; i >= 0; --i) {
            const P one = splat<P>(1) / R(i, i);
            P* const to = inverse_.row(i);
            for (int j = 0; j < size.row(); ++j) to[j] = splat<P>(0);
            for (int k = i + 1; k < n; ++k) add_multiple(to, R(i, k), inverse_.row(k), n);
            for (int j = i; j < n; ++j) to[j] *= -one;
            to[i] = one;
        }
        for (int i = 0; i < n; ++i) {
            for (int j = 0; j < n; ++j) transposed(i, j) = j > i ? splat<P>(0) : inverse_(j, i);
        }
    }

    // J^T = -(R^-1 E)^T and R^-1 ζ, of the rows of A
    SMNN_INLINE void solve(StepFactor<P, Size>& f) const {
        for (int i = 0; i < n; ++i) {
            P* const top = A.row(i) + n;
            const P own = inverse_(i, i);
            for (int j = 0; j < n + size.m; ++j) top[j] *= own;
            for (int k = i + 1; k < n; ++k) add_multiple(top, inverse_(i, k), A.row(k) + n, n + size.m);
            for (int c = 0; c < size.m; ++c) f.z(i, c) = top[n + c];
        }
        for (int i = 0; i < n; ++i) {
            for (int j = 0; j < n; ++j) f.JT(j, i) = -A(i, n + j);
        }
    }

    // F^T U of the first n rows of F: (n, n) without room behind the rows
    SMNN_INLINE void product(const Matrix<P>& F, P* result) {
        for (int a = 0; a < n; ++a) {
            for (int j = 0; j < size.row(); ++j) room_[j] = splat<P>(0);
            for (int i = 0; i < n; ++i) add_multiple(room_, F(i, a), U.row(i), n);
            for (int b = 0; b < n; ++b) result[a * n + b] = room_[b];
        }
    }
};

}  // namespace SMNN_LEVEL
}  // namespace smnn
