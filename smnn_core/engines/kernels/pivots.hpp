// Which pivots are nothing but rounding: Monte Carlo arithmetic.
//
// Rows may differ by any factor, so that no norm of a column says how large the error of a pivot is. The same elimination
// runs several times side by side, with random relative errors that are much larger than those of rounding, and small: in
// the entries of all rows, and in the products of all rotations. A pivot that is nothing but error becomes another one,
// about PERTURBATION / eps times larger. Any other keeps its leading digits, if the rows determine it at all.
// Source: Parker, Monte Carlo Arithmetic, UCLA CSD-970002, 1997.
//
// This takes several times as long as the elimination that solves. It is asked only where that met a pivot that is small
// beside the norm of its column: see `find_undetermined`.
#pragma once

#include "factor.hpp"

namespace smnn {
namespace SMNN_LEVEL {

constexpr double PERTURBATION = 1e-14;
// A pivot that changes by more than this part of itself is an error.
constexpr double LARGEST_CHANGE = 0.5;

template <class P>
class PivotTest {
    using T = typename Lanes<P>::Scalar;
    // elimination 0 is that of the rows as they are
    static constexpr int RUNS = 4;

   public:
    SMNN_INLINE static int workspace(const Sized& size) { return RUNS * (size.n + size.rows) * 2 * size.n; }

    // room_ (workspace(size))
    SMNN_INLINE PivotTest(const Sized& size_, const SchemeRows<T>& scheme_, P* room_)
        : size(size_), scheme(scheme_), n(size_.n), room(room_) {
        for (int e = 0; e < workspace(size); ++e) room[e] = splat<P>(0);
    }

    // Points t0 .. t1-1; 0 is the first one.
    template <class Rows>
    SMNN_OUTLINE void sweep(const Rows& rows, int t0, int t1) {
        for (int t = t0; t < t1; ++t) {
            if (t > 0) step(rows, t);
            for (int run = 0; run < RUNS; ++run) {
                P* const x = below(run, 0);
                for (int q = 0; q < size.Q; ++q) {
                    for (int k = 0; k < n; ++k) x[k] = changed(run, rows.w_equation(t, q) * rows.c(t, q, k));
                    absorb(run, x, 0, n);
                }
                for (int e = 0; rows.has_initial(t) && e < size.V * rows.n_initial_orders(); ++e) {
                    const int v = e / rows.n_initial_orders(), r = e % rows.n_initial_orders(), j = v * size.K + r;
                    for (int k = j; k < n; ++k) x[k] = splat<P>(0);
                    x[j] = rows.w_initial(t, v, r);
                    absorb(run, x, j, n);
                }
            }
        }
    }

    // Marks point t where the rows so far leave an unknown of it undetermined.
    template <class Rows>
    SMNN_OUTLINE void test(const Rows& rows, int t) const {
        const P zero = splat<P>(0);
        auto bad = zero < zero;
        for (int j = 0; j < n; ++j) {
            const P d = magnitude(triangle(0, j)[j]);
            for (int run = 1; run < RUNS; ++run) {
                const P change = magnitude(magnitude(triangle(run, j)[j]) - d);
                bad = bad | (splat<P>(T(LARGEST_CHANGE)) * d < change);
            }
            bad = bad | (d == zero);
        }
        if (any(bad)) rows.mark_undetermined(t, bad);
    }

   private:
    const Sized size;
    const SchemeRows<T> scheme;
    const int n;
    P* const room;
    unsigned long long state = 1;

    // Rows have 2 n entries, columns of the current point and of the next one: those of the triangle, and those below it.
    SMNN_INLINE P* triangle(int run, int j) const { return room + (run * (n + size.rows) + j) * 2 * n; }
    SMNN_INLINE P* below(int run, int i) const { return triangle(run, n + i); }

    SMNN_INLINE P changed(int run, const P& x) {
        if (run == 0) return x;
        // Knuth, The Art of Computer Programming, volume 2, section 3.3.4
        state = state * 6364136223846793005ULL + 1442695040888963407ULL;
        const T uniform = T(static_cast<long long>(state)) * T(0x1p-63);
        return x * splat<P>(1 + PERTURBATION * uniform);
    }

    // The row x (end), zero before column `first`, into the triangle: Givens rotations.
    SMNN_INLINE void absorb(int run, P* x, int first, int end) {
        const P zero = splat<P>(0), one = splat<P>(1);
        for (int j = first; j < n; ++j) {
            if (!any(x[j] != zero)) continue;
            P* const r = triangle(run, j);
            const P a = magnitude(r[j]), b = magnitude(x[j]), largest = select(a < b, b, a);
            const auto none = largest == zero;
            const P scale = reciprocal(select(none, one, largest)), a1 = r[j] * scale, b1 = x[j] * scale;
            const P inverse = reciprocal(select(none, one, root(a1 * a1 + b1 * b1)));
            const P c = select(none, one, a1 * inverse), s = b1 * inverse;
            for (int k = j; k < end; ++k) {
                const P kept = r[k];
                r[k] = changed(run, c * kept) + s * x[k];
                x[k] = changed(run, c * x[k]) - s * kept;
            }
            x[j] = zero;
        }
    }

    // From the point before t to t: its pivots are tested; the rows of the scheme, and what they become, are absorbed.
    template <class Rows>
    SMNN_INLINE void step(const Rows& rows, int t) {
        const int K = size.K, scheme_rows = n + size.extra;
        for (int run = 0; run < RUNS; ++run) {
            for (int i = 0; i < scheme_rows; ++i) {
                P* const x = below(run, i);
                for (int k = 0; k < 2 * n; ++k) x[k] = splat<P>(0);
                const int first = i % n / K * K, r = i % K + (i < n ? 0 : K);
                P p = rows.w_smoothness(t);
                for (int o = 0; o < K; ++o, p = p * rows.s(t)) {
                    x[first + o] = changed(run, splat<P>(scheme.S[r * 2 * K + o]) * p);
                    x[n + first + o] = changed(run, splat<P>(scheme.S[r * 2 * K + K + o]) * p);
                }
                if (i < n) absorb(run, x, i, 2 * n);
            }
        }
        test(rows, t - 1);
        for (int run = 0; run < RUNS; ++run) {
            for (int e = 0; e < 2 * n * n; ++e) triangle(run, 0)[e] = splat<P>(0);
            for (int i = 0; i < scheme_rows; ++i) absorb(run, below(run, i) + n, 0, n);
        }
    }
};

}  // namespace SMNN_LEVEL
}  // namespace smnn
