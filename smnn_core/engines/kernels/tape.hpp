// The reflections of a sweep, in order, for right-hand sides that share its left-hand side: recorded once, from the first
// lane, and replayed for every other one.
//
// A reflection of a top and `rows` below it takes 2 + 2 rows numbers: v_0, 1/h, and for each row x, and 1 where it changed
// places with the top before.
#pragma once

#include "reflect.hpp"

namespace smnn {
namespace SMNN_LEVEL {

// What a sweep records on that nobody replays.
struct NoTape {
    SMNN_INLINE void open(int) const {}
    SMNN_INLINE void exchange(int) const {}
    template <class P>
    SMNN_INLINE void close(const Reflection<P>&, const P*, int) const {}
};

template <class T>
struct Tape {
    T* at;

    SMNN_INLINE void open(int rows) const {
        for (int i = 0; i < rows; ++i) at[3 + 2 * i] = 0;
    }
    SMNN_INLINE void exchange(int i) const { at[3 + 2 * i] = 1; }
    template <class P>
    SMNN_INLINE void close(const Reflection<P>& H, const P* x, int rows) {
        at[0] = H.v0.get(0);
        at[1] = H.inverse.get(0);
        for (int i = 0; i < rows; ++i) at[2 + 2 * i] = x[i].get(0);
        at += 2 + 2 * rows;
    }
};

// The numbers that a sweep of T points records, `initial` of its rows being initial ones.
SMNN_INLINE constexpr Index tape_entries(int n, int rows, Index T, Index initial) {
    return T * (n * (n + 3) + n * (2 * rows + 1 - n)) + initial * 4 * n;
}

// The next reflection, applied to (top, w) of all lanes.
template <class P, class Rows>
SMNN_INLINE void replay(const typename Lanes<P>::Scalar*& tape, Rows rows, P& top, P* w) {
    const P v0 = splat<P>(tape[0]);
    P dot = splat<P>(0);
    repeat(rows, [&](auto i) SMNN_LAMBDA {
        if (tape[3 + 2 * i] != 0) {
            const P kept = top;
            top = w[i];
            w[i] = kept;
        }
    });
    repeat(rows, [&](auto i) SMNN_LAMBDA { dot += splat<P>(tape[2 + 2 * i]) * w[i]; });
    dot += v0 * top;
    dot = dot * splat<P>(tape[1]);
    top += v0 * dot;
    repeat(rows, [&](auto i) SMNN_LAMBDA { w[i] += splat<P>(tape[2 + 2 * i]) * dot; });
    tape += 2 + 2 * rows;
}

// The right-hand sides of points t0 .. t1-1 through the reflections of their sweep. `z` (n) is carried from call to call,
// and x_z (rows) is workspace; the final right-hand sides of the points t0-1 .. t1-2 go to f_z, which starts at t0 - 1.
template <class P, class Size, class Rows>
SMNN_OUTLINE void replay_points(
    const Size& size, const Rows& rows, int t0, int t1, const typename Lanes<P>::Scalar*& tape, P* z, P* x_z, P* f_z
) {
    const P zero = splat<P>(0);
    for (int t = t0; t < t1; ++t) {
        for (int i = 0; i < size.rows; ++i) x_z[i] = zero;
        if (t == 0) {
            for (int j = 0; j < size.n; ++j) z[j] = zero;
        } else {
            if (rows.has_smoothness_rhs()) {
                const P w = rows.w_smoothness(t);
                for (int i = 0; i < size.n; ++i) x_z[i] = w * rows.smoothness_rhs(t, i / size.K, i % size.K);
                for (int i = 0; i < size.extra; ++i) {
                    x_z[size.n + i] = w * rows.smoothness_rhs(t, i / size.K, size.K + i % size.K);
                }
            }
            P* to = f_z + Index(t - t0) * size.n;
            repeat(size.n, [&](auto j) SMNN_LAMBDA {
                replay<P>(tape, next(j), z[j], x_z);
                to[j] = z[j];
            });
        }
        for (int q = 0; q < size.Q; ++q) x_z[size.n + size.extra + q] = rows.w_equation(t, q) * rows.b(t, q);
        repeat(size.n, [&](auto j) SMNN_LAMBDA {
            replay<P>(tape, rows_after(size, j), x_z[j], x_z + j + 1);
            z[j] = x_z[j];
        });
        if (!rows.has_initial(t)) continue;
        for (int e = 0; e < size.V * rows.n_initial_orders(); ++e) {
            const int v = e / rows.n_initial_orders(), r = e % rows.n_initial_orders();
            P rhs = rows.w_initial(t, v, r) * rows.u(t, v, r);
            for (int j = v * size.K + r; j < size.n; ++j) replay<P>(tape, Int<1>(), z[j], &rhs);
        }
    }
}

}  // namespace SMNN_LEVEL
}  // namespace smnn
