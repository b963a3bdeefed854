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
// w C S δ, of which dδ = -Phi' y[t] ds. The minimum |W r|^2, r = d - A y, has the derivative 2 W r (W dr + dW r) at fixed y,
// as y is stationary: for it the means of y[t] and δ are to a row what rows of B and D are for log det M.
//
// Steps before the first row of a point and behind the last one add 2 log|w C S| to log det M, and nothing to the minimum.
//
// M is singular where a diagonal entry of R or of the last X' is zero: those that are small beside the norm of their column
// are noticed.
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
    // a and |b|
    SMNN_INLINE static V larger(V a, V b) {
        const V size = b < V{} ? -b : b;
        return a < size ? size : a;
    }
    // (few additions that wait for one another)
    SMNN_INLINE static P sum(V x) {
        P part[N];
        store(part, x);
        for (int half = N / 2; half > 0; half /= 2) {
            for (int l = 0; l < half; ++l) part[l] += part[l + half];
        }
        return part[0];
    }
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
    SMNN_INLINE static P sum(V x) { return x; }
    SMNN_INLINE static V larger(const V& a, const V& b) {
        const V size = magnitude(b);
        return select(a < size, size, a);
    }
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

// to[0 .. count-1] = sum over k = first .. last-1 of weight(k) from(k)[0 .. count-1], of which `to` may be one.
template <int Width, class P, class Weight, class From>
SMNN_INLINE void combine_across(P* to, int at, int first, int last, const Weight& weight, const From& from) {
    using C = Chunk<P>;
    constexpr int N = AT_ONCE<P>;
    typename C::V sum[Width], other[Width];  // of every other k: sums wait for themselves
    for (int c = 0; c < Width; ++c) sum[c] = other[c] = typename C::V{};
    int k = first;
    for (; N > 1 && k + 1 < last; k += 2) {
        const P a = weight(k), b = weight(k + 1);
        const P *const x = from(k) + at, *const y = from(k + 1) + at;
        for (int c = 0; c < Width; ++c) sum[c] += a * C::load(x + c * N);
        for (int c = 0; c < Width; ++c) other[c] += b * C::load(y + c * N);
    }
    for (; k < last; ++k) {
        const P a = weight(k);
        const P* const x = from(k) + at;
        for (int c = 0; c < Width; ++c) sum[c] += a * C::load(x + c * N);
    }
    for (int c = 0; c < Width; ++c) C::store(to + at + c * N, N > 1 ? sum[c] + other[c] : sum[c]);
}
template <class P, class Weight, class From>
SMNN_INLINE void combine(P* to, int count, int first, int last, const Weight& weight, const From& from) {
    constexpr int N = AT_ONCE<P>;
    int at = 0;
    for (; at + 3 * N < count; at += 4 * N) combine_across<4>(to, at, first, last, weight, from);
    if (at + 2 * N < count) return combine_across<3>(to, at, first, last, weight, from);
    if (at + N < count) return combine_across<2>(to, at, first, last, weight, from);
    if (at < count) combine_across<1>(to, at, first, last, weight, from);
}

// H of Width chunks of columns.
template <int Width, class P>
SMNN_INLINE void apply_across(const Reflection<P>& H, const P* x, const Matrix<P>& A, int top, int first, int rows, int k) {
    using C = Chunk<P>;
    constexpr int N = AT_ONCE<P>;
    typename C::V dot[Width], other[Width];  // of every other row
    P* const a = A.row(top) + k;
    for (int c = 0; c < Width; ++c) dot[c] = other[c] = typename C::V{};
    int i = 0;
    for (; N > 1 && i + 1 < rows; i += 2) {
        const P *const b = A.row(first + i) + k, *const d = A.row(first + i + 1) + k;
        for (int c = 0; c < Width; ++c) dot[c] += x[i] * C::load(b + c * N);
        for (int c = 0; c < Width; ++c) other[c] += x[i + 1] * C::load(d + c * N);
    }
    for (; i < rows; ++i) {
        const P* const b = A.row(first + i) + k;
        for (int c = 0; c < Width; ++c) dot[c] += x[i] * C::load(b + c * N);
    }
    for (int c = 0; c < Width; ++c) {
        const typename C::V all = N > 1 ? dot[c] + other[c] : dot[c];
        dot[c] = (all + H.v0 * C::load(a + c * N)) * H.inverse;  // (v0 last: it waits for a root)
        C::store(a + c * N, C::load(a + c * N) + H.v0 * dot[c]);
    }
    for (i = 0; i < rows; ++i) {
        P* const b = A.row(first + i) + k;
        for (int c = 0; c < Width; ++c) C::store(b + c * N, C::load(b + c * N) + x[i] * dot[c]);
    }
}

// Copies the rows of a column to x, and returns |(a, x)|^2; and whether an entry may be much larger than the top a.
struct Measured {
    double sum;
    bool exchange;
};
template <class P>
SMNN_INLINE Measured measure(const Matrix<P>& A, P a, int first, int rows, int column, P* x) {
    constexpr int PARTS = 4;  // sums that do not wait for one another
    P sum[PARTS] = {a * a, 0, 0, 0}, largest[PARTS] = {};
    const P* from = A.row(first) + column;
    const auto add = [&](int part, int i) SMNN_LAMBDA {
        const P one = x[i] = from[i * A.stride], square = one * one;
        sum[part] += square;
        largest[part] = largest[part] < square ? square : largest[part];
    };
    int i = 0;
    for (; i + PARTS <= rows; i += PARTS) {
        for (int part = 0; part < PARTS; ++part) add(part, i + part);
    }
    for (; i < rows; ++i) add(0, i);
    const P most = MUCH_LARGER * MUCH_LARGER * a * a;
    Measured m{(sum[0] + sum[1]) + (sum[2] + sum[3]), false};
    for (const P& square : largest) m.exchange = m.exchange || most < square;
    if (!(m.sum >= SMALL_SQUARE<double>)) {  // (squares that say nothing)
        m.sum = squared_norm(a, x, rows);
        m.exchange = true;
    }
    return m;
}

// The reflection that takes the rows first .. first+rows-1 into row `top`, in one column; applied to columns begin .. end-1.
// Columns from `end` on, of which chunks may take some, are `column`, or zero in these rows, or do not matter. x: room for
// the column. Long: whole vectors of the columns before `begin`, too, so that what is left in these rows, of `column` and of
// those before it, is not zero but does not matter.
template <bool Exchange, bool Long, class P>
SMNN_INLINE void reflect_rows_here(
    const Matrix<P>& A, int top, int first, int rows, int column, int begin, int end, P* x
) {
    constexpr int N = AT_ONCE<P>;
    P a = A(top, column);
    [[maybe_unused]] const auto exchange = [&](int i, const auto& mask) SMNN_LAMBDA {
        for (int k = begin; k < end; ++k) swap_lanes(mask, A(top, k), A(first + i, k));
    };
    Reflection<P> H;
    if constexpr (Long && N > 1) {
        const Measured m = measure(A, a, first, rows, column, x);
        if (Exchange && m.exchange) raise(a, x, rows, exchange);
        H = reflection(a, m.sum);
        begin = begin / N * N;
    } else {
        for (int i = 0; i < rows; ++i) x[i] = A(first + i, column);
        if constexpr (Exchange) raise(a, x, rows, exchange);
        H = reflect(a, x, rows);
    }
    int k = begin;
    for (; k + 3 * N < end; k += 4 * N) apply_across<4>(H, x, A, top, first, rows, k);
    if (k + 2 * N < end) {
        apply_across<3>(H, x, A, top, first, rows, k);
    } else if (k + N < end) {
        apply_across<2>(H, x, A, top, first, rows, k);
    } else if (k < end) {
        apply_across<1>(H, x, A, top, first, rows, k);
    }
    A(top, column) = H.diagonal;
    for (int i = 0; !(Long && N > 1) && i < rows; ++i) A(first + i, column) = splat<P>(0);
}

// The same, of sizes known at compile time or not.
template <bool Exchange, class P>
SMNN_OUTLINE void reflect_rows_elsewhere(
    const Matrix<P>& A, int top, int first, int rows, int column, int begin, int end, P* x
) {
    reflect_rows_here<Exchange, true>(A, top, first, rows, column, begin, end, x);
}
template <class Size, bool Exchange, class P>
SMNN_INLINE void reflect_rows(
    const Matrix<P>& A, int top, int first, int rows, int column, int begin, int end, P* x
) {
    if constexpr (Size::fixed) {
        reflect_rows_here<Exchange, false>(A, top, first, rows, column, begin, end, x);
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
    // Of what lies in front of rows, as many numbers are read.
    constexpr int front() const { return AT_ONCE<P> == 1 ? 0 : row_stride<P>(K, true); }
    // Of what `CovarianceSweep` knows of a step, from one row to the next.
    constexpr int table() const { return AT_ONCE<P> == 1 ? int(K) : row(); }
    constexpr int workspace() const {
        return front() + (n + own) * row_and_rhs() + 2 * n * two_rows_and_rhs() + (4 * n + 4) * row() +
               (AT_ONCE<P> == 1 ? 3 : 5) * K * table() + 3 * n * rhs() + 2 * n + own + 2 * AT_ONCE<P> + m + 3 * K;
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
    bool any_small = false;  // pivot
    Matrix<P> U, B, D;       // of the point that `back` is at (U), and of the step behind it: see above
    Matrix<P> y, increment;  // means of y[t] and δ, (n, m)

    // C: (K, K), upper triangular, row by row. A pivot is small below the root of tolerance2 times the norm of its column.
    CovarianceSweep(const CovarianceSizes<P, Size>& sizes, const double* C, double tolerance2, P* memory)
        : size(sizes), n(sizes.n), C_(C), tolerance2_(T(tolerance2)) {
        const auto take = [&](int count) {
            P* at = memory;
            memory += count;
            return at;
        };
        take(size.front());
        X = {take((n + size.own) * size.row_and_rhs()), size.row_and_rhs()};
        A = {take(2 * n * size.two_rows_and_rhs()), size.two_rows_and_rhs()};
        U = {take(n * size.row()), size.row()};
        inverse_ = {take(n * size.row()), size.row()};
        D = {take(2 * n * size.row()), size.row()};
        B = {A.data, size.row()};
        y = {take(n * size.rhs()), size.rhs()};
        increment = {take(n * size.rhs()), size.rhs()};
        u_ = {take(n * size.rhs()), size.rhs()};
        norm2_ = take(size.row());
        kept_ = take(size.row());
        room_ = take(size.row());
        row_ = take(size.row());
        const auto table = [&] { return Matrix<P>{take(K() * size.table()), size.table()}; };
        step_ = table();
        of_increment_ = table();
        of_state_ = table();
        if constexpr (AT_ONCE<P> > 1) {
            to_earlier_ = table();
            from_earlier_ = table();
        }
        column_ = take(2 * n + size.own + 2 * AT_ONCE<P>);
        minimum = take(size.m);
        powers_ = take(K());
        taylor_ = take(K());
        derivatives_ = take(K());
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
        for (int i = 1; AT_ONCE<P> > 1 && i < n; ++i) {
            for (int j = 0; j < i; ++j) X(i, j) = splat<P>(0);
        }
        for (int i = n; i < m; ++i) {
            for (int c = 0; c < size.m; ++c) minimum[c] += X(i, n + c) * X(i, n + c);
        }
    }

    // From a point to the next, over a step s of weight w; `left`: what it leaves, if that is wanted.
    SMNN_OUTLINE void advance(const P& s, const P& w, P* left) {
        step_rows(s, w);
        measure_columns(A, 2 * n);
        for (int j = 0; j < n; ++j) reflect_rows<Size, true>(A, j, n, j + 1, j, j + 1, 2 * n + size.m, column_);
        judge(A);
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

    // What a step before all rows of points, or behind them, adds to log det M, and its derivatives in s and w.
    SMNN_OUTLINE void pass(const P& s, const P& w, P& of_s, P& of_w) {
        P c = w;
        for (int o = 0; o < K(); ++o, c *= s) {
            for (int v = 0; v < size.V; ++v) determinant.multiply(splat<P>(T(C_[o * K() + o])) * c);
        }
        any_small = any_small || any(s == splat<P>(0)) || any(w == splat<P>(0));
        of_s = splat<P>(T(n * (K() - 1))) / s;
        of_w = splat<P>(T(2 * n)) / w;
    }

    // Behind the last point.
    SMNN_OUTLINE void finish() {
        measure_columns(X, n);
        judge(X);
        for (int j = 0; j < n; ++j) determinant.multiply(X(j, j));
    }

    // And back -------------------------------------------------------------------------------------------------------

    // The last point: U = X^-T, y = X^-1 z.
    SMNN_OUTLINE void turn() {
        invert(X, U);
        for (int i = 0; i < n; ++i) {
            combine(y.row(i), size.m, i, n, in_row(inverse_, i), [&](int k) SMNN_LAMBDA { return X.row(k) + n; });
        }
    }

    // From point t+1 to t, means.
    SMNN_OUTLINE void back_mean(P* left) {
        const StepFactor<P, Size> f(size, left);
        if (size.m < AT_ONCE<P>) return back_few_means(f);
        taylor(-f.s);
        for (int i = 0; i < n; ++i) {
            combine(u_.row(i), size.m, 0, n, [&](int k) SMNN_LAMBDA { return f.JT(k, i); }, rows_of(y));
            for (int c = 0; c < size.m; ++c) u_(i, c) += f.z(i, c);
        }
        for (int i = 0; i < n; ++i) {
            for (int c = 0; c < size.m; ++c) {
                increment(i, c) = y(i, c) - f.kept[i] * y(i, c) + u_(i, c);
                y(i, c) = f.kept[i] * y(i, c) - u_(i, c);
            }
        }
        for (int i = 0; i < n; ++i) {
            const int r = i % K();
            combine(y.row(i), size.m, i, i + K() - r, [&](int k) SMNN_LAMBDA { return taylor_[k - i]; }, rows_of(y));
        }
    }

    // From point t+1 to t: B, still with the U of t+1, and D if that is wanted. `reduce` follows.
    SMNN_OUTLINE void back(P* left, bool with_increments) {
        const StepFactor<P, Size> f(size, left);
        set_shifts(f.s);
        for (int i = 0; i < n; ++i) {
            P *const b = B.row(i), *const c = B.row(n + i), *const d = D.row(i), *const u = U.row(i);
            combine(room_, n, 0, i + 1, in_row(U, i), rows_of(f.JT));
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
        using C = Chunk<P>;
        for (int k = 0; k < n; k += AT_ONCE<P>) {
            typename C::V sum{};
            for (int i = k; i < n; ++i) sum += C::load(U.row(i) + k) * C::load(U.row(i) + k);
            C::store(room_ + k, sum);
        }
        for (int j = 0; j < n; ++j) result[j] = room_[j];
    }

    // a^T Σ a of a row a at the point t; and Σ a (n), with room behind its end, if that is wanted.
    template <class Row>
    SMNN_INLINE P times_covariance(Row row, P* result) const {
        using C = Chunk<P>;
        for (int j = 0; j < n; ++j) row_[j] = row(j);
        if (result) {
            for (int j = 0; j < n; ++j) result[j] = splat<P>(0);
        }
        P sum = splat<P>(0);
        for (int i = 0; i < n; ++i) {
            typename C::V product{};
            for (int j = 0; j <= i; j += AT_ONCE<P>) product += C::load(U.row(i) + j) * C::load(row_ + j);
            const P x = C::sum(product);
            if (result) add_multiple(result, x, U.row(i), i + 1);
            sum += x * x;
        }
        return sum;
    }

    // The derivatives of log det M in the s and w of the step, between `back` with increments and `reduce`.
    SMNN_OUTLINE void of_step(P* left, P& of_s, P& of_w) {
        using C = Chunk<P>;
        const StepFactor<P, Size> f(size, left);
        set_step(f.s);
        typename C::V s_sum{}, w_sum{};
        constexpr int ROWS = AT_ONCE<P> == 1 ? 1 : 4;
        int i = 0;
        for (; i + ROWS <= 2 * n; i += ROWS) add_of_step<ROWS>(D.row(i), B.row(i), D.stride, s_sum, w_sum);
        for (; i < 2 * n; ++i) add_of_step<1>(D.row(i), B.row(i), D.stride, s_sum, w_sum);
        of_s = splat<P>(2) * f.w * f.w * C::sum(s_sum);
        of_w = splat<P>(2) * f.w * C::sum(w_sum);
    }

    // Those of the minimum, (m) each, with room behind them; behind `back_mean`.
    SMNN_OUTLINE void minimum_of_step(P* left, P* of_s, P* of_w) {
        using C = Chunk<P>;
        const StepFactor<P, Size> f(size, left);
        set_step(f.s);
        const P of_w_row = splat<P>(2) * f.w, of_s_row = of_w_row * f.w;
        for (int c = 0; size.m < AT_ONCE<P> && c < size.m; ++c) {
            typename C::V s_sum{}, w_sum{};
            for (int i = 0; i < n; ++i) {
                row_[i] = increment(i, c);
                room_[i] = y(i, c);
            }
            add_of_step<1>(row_, room_, 0, s_sum, w_sum);
            of_s[c] = of_s_row * C::sum(s_sum);
            of_w[c] = of_w_row * C::sum(w_sum);
        }
        if (size.m < AT_ONCE<P>) return;
        for (int c = 0; c < size.m; c += AT_ONCE<P>) {
            typename C::V s_sum{}, w_sum{};
            for (int i = 0; i < n; ++i) {
                typename C::V row{}, of_row{};
                for (int k = 0; k < K() - i % K(); ++k) {
                    const typename C::V x = C::load(increment.row(i + k) + c);
                    const int at = place(i);
                    row += step_(k, at) * x;
                    of_row += of_increment_(k, at) * x - of_state_(k, at) * C::load(y.row(i + k) + c);
                }
                w_sum += row * row;
                s_sum += row * of_row;
            }
            C::store(of_s + c, of_s_row * s_sum);
            C::store(of_w + c, of_w_row * w_sum);
        }
    }

   private:
    const CovarianceSizes<P, Size> size;
    const decltype(Size::n) n;
    const double* C_;
    Matrix<P> X, A, inverse_, u_;
    const T tolerance2_;
    P *kept_, *room_, *row_, *norm2_, *column_, *powers_, *taylor_, *derivatives_;
    // What the number k places further on, or before, in a row counts in a product with a matrix of K rows for each variable:
    // of C S δ, and of C S' δ and C S Phi' y, its derivative; and of x Phi^-T and x Phi^-1. Where vectors take several numbers of
    // a row, for all of it, else for one variable.
    Matrix<P> step_, of_increment_, of_state_, to_earlier_{}, from_earlier_{};
    P step_s_ = splat<P>(0), shifts_s_ = splat<P>(0);  // which they are for, once there are any
    bool has_step_ = false, has_shifts_ = false;
    SMNN_INLINE int place(int j) const { return AT_ONCE<P> == 1 ? j % K() : j; }

    SMNN_INLINE decltype(Size::K) K() const { return size.K; }
    static SMNN_INLINE auto in_row(const Matrix<P>& M, int i) {
        return [row = M.row(i)](int k) SMNN_LAMBDA { return row[k]; };
    }
    static SMNN_INLINE auto rows_of(const Matrix<P>& M) {
        return [M](int k) SMNN_LAMBDA { return M.row(k); };
    }

    // s^k / k!
    SMNN_INLINE void taylor(const P& s) {
        taylor_[0] = splat<P>(1);
        for (int k = 1; k < size.K; ++k) taylor_[k] = taylor_[k - 1] * s * splat<P>(T(1) / T(k));
    }

    // From point t+1 to t, means of few right-hand sides, one by one.
    SMNN_INLINE void back_few_means(const StepFactor<P, Size>& f) {
        set_shifts(f.s);
        for (int c = 0; c < size.m; ++c) {
            combine(room_, n, 0, n, [&](int k) SMNN_LAMBDA { return y(k, c); }, rows_of(f.JT));
            for (int i = 0; i < n; ++i) {
                const P u = room_[i] + f.z(i, c), kept = f.kept[i] * y(i, c);
                increment(i, c) = y(i, c) - kept + u;
                row_[i] = kept - u;
            }
            to_earlier(row_);
            for (int i = 0; i < n; ++i) y(i, c) = row_[i];
        }
    }

    // Of rows d and b, `stride` apart, what counts in the derivatives of the step.
    template <int Rows, class Sum>
    SMNN_INLINE void add_of_step(const P* d, const P* b, int stride, Sum& s_sum, Sum& w_sum) const {
        using C = Chunk<P>;
        for (int j = 0; j < n; j += AT_ONCE<P>) {
            const int at = place(j);
            Sum row[Rows], of_row[Rows];
            for (int i = 0; i < Rows; ++i) row[i] = of_row[i] = Sum{};
            for (int k = 0; k < (AT_ONCE<P> == 1 ? K() - at : K()); ++k) {
                const Sum of_d = C::load(step_.row(k) + at), of_increment = C::load(of_increment_.row(k) + at);
                const Sum of_state = C::load(of_state_.row(k) + at);
                for (int i = 0; i < Rows; ++i) {
                    const Sum x = C::load(d + i * stride + j + k);
                    row[i] += of_d * x;
                    of_row[i] += of_increment * x - of_state * C::load(b + i * stride + j + k);
                }
            }
            for (int i = 0; i < Rows; ++i) {
                w_sum += row[i] * row[i];
                s_sum += row[i] * of_row[i];
            }
        }
    }

    // The squared norms of the columns of R, from the rows that reflections take into it; and its pivots beside them.
    SMNN_INLINE void measure_columns(const Matrix<P>& M, int rows) {
        using C = Chunk<P>;
        for (int k = 0; k < n; k += AT_ONCE<P>) {
            typename C::V sum{};
            for (int i = 0; i < rows; ++i) sum += C::load(M.row(i) + k) * C::load(M.row(i) + k);
            C::store(norm2_ + k, sum);
        }
    }
    SMNN_INLINE void judge(const Matrix<P>& M) {
        for (int j = 0; j < n; ++j) {
            any_small = any_small || any(M(j, j) * M(j, j) <= splat<P>(tolerance2_) * norm2_[j]);
        }
    }

    // (one number at a time, x Phi^-1 and x Phi^-T count what is in taylor_)
    SMNN_INLINE void set_shifts(const P& s) {
        if (has_shifts_ && !any(shifts_s_ != s)) return;
        has_shifts_ = AT_ONCE<P> > 1;
        shifts_s_ = s;
        taylor(-s);
        if (AT_ONCE<P> == 1) return;
        for (int k = 0; k < K(); ++k) {
            for (int j = 0; j < n; ++j) {
                const int r = j % K();
                to_earlier_(k, j) = r + k < K() ? taylor_[k] : splat<P>(0);
                from_earlier_(k, j) = r >= k ? taylor_[k] : splat<P>(0);
            }
        }
    }
    SMNN_OUTLINE void set_step(const P& s) {
        if (has_step_ && !any(step_s_ != s)) return;
        has_step_ = true;
        step_s_ = s;
        taylor(s);
        powers_[0] = splat<P>(1);
        for (int o = 1; o < K(); ++o) powers_[o] = powers_[o - 1] * s;
        for (int o = 0; o < K(); ++o) derivatives_[o] = o > 0 ? splat<P>(T(o)) * powers_[o - 1] : splat<P>(0);
        for (int j = 0; j < size.table() && j < n; ++j) {
            const int r = j % K();
            for (int k = 0; k < K(); ++k) {
                const int o = r + k;
                P state = splat<P>(0);
                const auto c = [&](int i) SMNN_LAMBDA { return splat<P>(T(C_[r * K() + i])); };
                for (int i = r; i < o && o < K(); ++i) state += c(i) * powers_[i] * taylor_[o - i - 1];
                step_(k, j) = o < K() ? c(o) * powers_[o] : splat<P>(0);
                of_increment_(k, j) = o < K() ? c(o) * derivatives_[o] : splat<P>(0);
                of_state_(k, j) = state;
            }
        }
    }

    SMNN_INLINE typename Chunk<P>::V shift(const Matrix<P>& table, int k, int j) const {
        if constexpr (AT_ONCE<P> == 1) {
            return taylor_[k];
        } else {
            return Chunk<P>::load(table.row(k) + j);
        }
    }
    // x := x Phi^-T, of a row: y[t] from Phi y[t]
    SMNN_INLINE void to_earlier(P* x) const {
        using C = Chunk<P>;
        for (int j = 0; j < n; j += AT_ONCE<P>) {
            typename C::V sum = C::load(x + j);
            for (int k = 1; k < (AT_ONCE<P> == 1 ? K() - j % K() : K()); ++k) {
                sum += shift(to_earlier_, k, j) * C::load(x + j + k);
            }
            C::store(x + j, sum);
        }
    }
    // to := x Phi^-1, of a row with room in front
    SMNN_INLINE void from_earlier(const P* x, P* to) const {
        using C = Chunk<P>;
        for (int j = 0; j < n; j += AT_ONCE<P>) {
            typename C::V sum = C::load(x + j);
            for (int k = 1; k < (AT_ONCE<P> == 1 ? j % K() + 1 : K()); ++k) {
                sum += shift(from_earlier_, k, j) * C::load(x + j - k);
            }
            C::store(to + j, sum);
        }
    }

    // The rows of u and y[t+1] above, in A; and the diagonal of K.
    SMNN_INLINE void step_rows(const P& s, const P& w) {
        const auto K = size.K;
        set_shifts(s);
        powers_[0] = w;
        for (int o = 1; o < K; ++o) powers_[o] = powers_[o - 1] * s;
        for (int i = 0; i < n; ++i) {
            from_earlier(X.row(i), A.row(i));
            for (int c = 0; c < size.m; ++c) A(i, 2 * n + c) = -X(i, n + c);
            for (int j = 0; j < 2 * n + size.m; ++j) A(n + i, j) = splat<P>(0);
        }
        using Part = Chunk<P>;
        for (int k = 0; k < n; k += AT_ONCE<P>) {
            typename Part::V largest{};
            for (int i = 0; i < n && i < k + AT_ONCE<P>; ++i) largest = Part::larger(largest, Part::load(A.row(i) + k));
            Part::store(room_ + k, largest);
        }
        for (int j = 0; j < n; ++j) {
            const int o = j % K, first = j - o;
            P of_step = splat<P>(0);
            for (int r = 0; r <= o; ++r) {
                A(n + first + r, j) = splat<P>(T(C_[r * K + o])) * powers_[o];
                of_step = Chunk<P, 1>::larger(of_step, A(n + first + r, j));
            }
            const P kept = kept_[j] = select(of_step < room_[j], splat<P>(0), splat<P>(1));
            for (int r = 0; r <= o; ++r) A(n + first + r, n + j) = (splat<P>(1) - kept) * A(n + first + r, j);
        }
        for (int i = 0; i < n; ++i) {
            for (int j = 0; j < n; ++j) A(i, n + j) = -kept_[j] * A(i, j);
        }
    }

    // inverse_ := R^-1 of an upper triangle, which is one, too; and its transpose.
    SMNN_INLINE void invert(const Matrix<P>& R, const Matrix<P>& transposed) {
        for (int i = n - 1; i >= 0; --i) {
            const P one = splat<P>(1) / R(i, i);
            P* const to = inverse_.row(i);
            const int zeros = i / AT_ONCE<P> * AT_ONCE<P>;  // (in all rows from here on)
            for (int j = 0; j < zeros; ++j) to[j] = splat<P>(0);
            combine(to + zeros, n - zeros, i + 1, n, in_row(R, i), [&](int k) SMNN_LAMBDA { return inverse_.row(k) + zeros; });
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
            combine(top, n + size.m, i, n, in_row(inverse_, i), [&](int k) SMNN_LAMBDA { return A.row(k) + n; });
            for (int c = 0; c < size.m; ++c) f.z(i, c) = top[n + c];
        }
        for (int j = 0; j < n; ++j) {
            for (int i = 0; i < n; ++i) f.JT(j, i) = -A(i, n + j);
        }
    }

    // F^T U of the first n rows of F: (n, n) without room behind the rows
    SMNN_INLINE void product(const Matrix<P>& F, P* result) {
        for (int a = 0; a < n; ++a) {
            combine(room_, n, 0, n, [&](int i) SMNN_LAMBDA { return F(i, a); }, rows_of(U));
            for (int b = 0; b < n; ++b) result[a * n + b] = room_[b];
        }
    }
};

}  // namespace SMNN_LEVEL
}  // namespace smnn
