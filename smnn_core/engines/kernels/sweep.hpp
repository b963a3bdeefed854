// Elimination: one lane sweeps the points of one system, or of one chunk of it.
//
// Columns are the unknowns y[t, v, o] as they are. The scheme's smoothness rows of one variable, [F G] of shape (m, 2K),
// enter through the triangular factor of their QR decomposition (an orthogonal transformation of rows changes no least
// squares problem),
//
//     [ S11  S12 ]    K rows that touch y[t] and y[t+1]
//     [  0   S22 ]    K rows that touch y[t+1] alone
//
// computed once and for all; on the step into point t its columns are multiplied by w s^o. For schemes that are exact for
// polynomials of degree K-2, as TAYLOR and HERMITE are, S12 is upper triangular as S11 is, and there is no S22.
//
// The sweep carries a triangle of n rows that touch the current point. A step
//   eliminates the point: rotations take the rows [S11 S12] into the triangle, whose n rows are then final, the factor of
//     that point. Of the scheme's rows n are left that touch the next point. Row i of them starts in column i if S12 is
//     upper triangular, since rotations keep the zeros that both rows start with;
//   absorbs the equations of the next point: then these n rows are the triangle there, and rotations take the equations
//     into it. For other schemes all rows are taken into an empty triangle.
// In a chunk all rows have columns at the left separator too, the spike. The rows that are left below the triangle touch
// nothing else: they go into a triangle on the boundary of the chunk.
#pragma once

#include "initial.hpp"
#include "state.hpp"

namespace smnn {
namespace SMNN_LEVEL {

template <class P, class Size, bool Chunked, bool Rhs, class Team = Alone, class Tape = NoTape>
struct Elimination : State<P, Size, Chunked, Team> {
    using Base = State<P, Size, Chunked, Team>;
    using Base::boundary, Base::boundary_norm2, Base::boundary_z, Base::inverse, Base::norm2, Base::norm2_next, Base::own;
    using Base::p, Base::room, Base::size, Base::spike, Base::team, Base::top_next, Base::x_factor, Base::x_next;
    using Base::x_own, Base::x_spike, Base::x_weight, Base::x_z, Base::z;
    using T = typename Lanes<P>::Scalar;

    const SchemeRows<T>& scheme;
    Tape tape{};

    // carried (CarriedLayout::entries()), workspace (State::workspace())
    SMNN_INLINE Elimination(const Size& size_, const SchemeRows<T>& scheme_, P* carried, P* workspace, Team team_ = {})
        : Base(size_, carried, workspace, team_), scheme(scheme_) {}

    // Puts the sweep before its first point. A chunk starts with the step from the separator, whose weight is zero in a
    // lane that has none.
    template <class Rows>
    SMNN_INLINE void start(const Rows& rows) {
        const P zero = splat<P>(0);
        if constexpr (Chunked) {
            set_powers(rows, 0);
        } else {
            repeat(size.K, [&](auto o) SMNN_LAMBDA { p[o] = zero; });
        }
        team.share(Int<0>(), size.n, [&](auto i) SMNN_LAMBDA {
            set_step_row(rows, 0, i);
            if (!Chunked && rows.has_initial(0)) set_initial_row(rows, i);
            if constexpr (Chunked) {
                repeat(size.n, [&](auto k) SMNN_LAMBDA {
                    const bool coupled = i <= k && k < columns_through(size, i);
                    x_spike[i * size.n + k] = coupled ? x_own[i * size.n + k] : zero;
                    boundary[i * size.n + k] = i == k ? splat<P>(EMPTY<T>) : zero;
                });
                each_rhs([&](auto c) SMNN_LAMBDA { boundary_z[i * size.m + c] = zero; });
                boundary_norm2[i] = norm2_of_step(order_of(size, i));
            }
        });
        team.share(Int<0>(), size.extra, [&](auto i) SMNN_LAMBDA { set_extra_row(rows, 0, i); });
        team.sync();
    }

    // From the point before t towards t: its final rows go to f (FactorLayout::entries()) and f_z (m, n), right-hand sides
    // size.z_step apart, where they are kept.
    template <bool Keep = true, class Rows>
    SMNN_INLINE void eliminate_point(const Rows& rows, int t, P* SMNN_RESTRICT f, P* SMNN_RESTRICT f_z) {
        set_powers(rows, t);
        const FactorLayout<Chunked> at{size.n, size.K};
        auto bad_any = splat<P>(1) < splat<P>(0);
        // Row i of the scheme goes into row i of the triangle, then into row i + 1, ..: one round after the other.
        repeat(size.n, [&](auto round) SMNN_LAMBDA {
            team.rotate(
                room, next(columns_after(size, round)),
                [&](auto i) SMNN_LAMBDA {
                    const auto j = plus(round, i);
                    if (round == 0) set_step_row(rows, t, i);
                    return Rotation<P>(x_own[i * size.n + j], own[j * size.n + j], inverse[j], x_weight[i], x_factor[i]);
                },
                [&](auto i, const Rotation<P>& rotation) SMNN_LAMBDA {
                    const auto j = plus(round, i);
                    tape.push(rotation);
                    team.share(next(j), size.n, [&](auto k) SMNN_LAMBDA {
                        rotation(own[j * size.n + k], x_own[i * size.n + k]);
                    });
                    team.share(first_next(size, i), columns_through(size, j), [&](auto k) SMNN_LAMBDA {
                        P &top = top_next[j * size.n + k], &x = x_next[i * size.n + k];
                        if (round > 0) return rotation(top, x);
                        top = rotation.eb * x;  // (the triangle's row has no columns there before)
                    });
                    rotate_rest(rotation, j, i);
                }
            );
            const auto j = round;  // the row of the triangle that is final by now
            const P norm2_of_column = norm2[j] + norm2_of_step(order_of(size, j));
            bad_any = bad_any | is_nothing(own[j * size.n + j], splat<P>(scheme.tolerance2) * norm2_of_column);
            if constexpr (!Keep) return;
            if (team.leads()) f[at.row(j)] = inverse[j];
            team.share(next(j), size.n, [&](auto k) SMNN_LAMBDA { f[at.row(j) + k - j] = own[j * size.n + k]; });
            team.share(Int<0>(), columns_through(size, j), [&](auto k) SMNN_LAMBDA {
                f[at.next(j) + k] = top_next[j * size.n + k];
            });
            if constexpr (Chunked) {
                team.share(Int<0>(), size.n, [&](auto k) SMNN_LAMBDA { f[at.left(j) + k] = spike[j * size.n + k]; });
            }
            each_rhs_once([&](auto c) SMNN_LAMBDA { f_z[c * size.z_step + j] = z[j * size.m + c]; });
        });
        team.share(Int<0>(), size.extra, [&](auto i) SMNN_LAMBDA { set_extra_row(rows, t, i); });
        if (any(bad_any)) rows.mark_undetermined(t - 1, bad_any);
        team.sync();
    }

    // At point t: the rows that are left of the scheme's, and the equations, become the triangle.
    template <class Rows>
    SMNN_INLINE void absorb_equations(const Rows& rows, int t) {
        repeat(size.Q, [&](auto q) SMNN_LAMBDA { set_equation(rows, t, q); });
        team.sync();
        team.share(Int<0>(), size.n, [&](auto j) SMNN_LAMBDA {
            first_absorbed(size) > 0 ? take_row(j) : clear_row(j);
            norm2[j] = norm2_next[j];
        });
        if (first_absorbed(size) > 0) tape.skip(size.n);
        team.sync();
        repeat(size.n, [&](auto j) SMNN_LAMBDA {
            team.absorb(
                room, first_absorbed(size), size.rows, [&](auto i) SMNN_LAMBDA { return x_next[i * size.n + j]; },
                own[j * size.n + j], inverse[j], x_weight, x_factor,
                [&](auto i, const Rotation<P>& rotation) SMNN_LAMBDA {
                    tape.push(rotation);
                    team.share(next(j), size.n, [&](auto k) SMNN_LAMBDA {
                        rotation(own[j * size.n + k], x_next[i * size.n + k]);
                    });
                    rotate_rest(rotation, j, i);
                }
            );
        });
        if constexpr (Chunked) absorb_into_boundary();
        if constexpr (Rhs) {
            repeat_from(first_absorbed(size), size.rows, [&](auto i) SMNN_LAMBDA {
                each_rhs([&](auto c) SMNN_LAMBDA { tape.leave(c, x_weight[i] * x_factor[i], x_z[i * size.m + c]); });
            });
        }
        team.sync();  // (what comes next sets other rows)
    }

    // The final rows of the last point, which has no next one: f (FactorLayout::entries()), f_z (m, n) as above.
    template <class Rows>
    SMNN_INLINE void finish(const Rows& rows, int t, P* f, P* f_z) {
        const FactorLayout<Chunked> at{size.n, size.K};
        auto bad_any = splat<P>(1) < splat<P>(0);
        team.share(0, at.entries(), [&](int i) { f[i] = splat<P>(0); });
        team.sync();
        team.share(0, int(size.n), [&](int j) {
            bad_any = bad_any | is_nothing(own[j * size.n + j], splat<P>(scheme.tolerance2) * norm2[j]);
            f[at.row(j)] = inverse[j];
            for (int k = j + 1; k < size.n; ++k) f[at.row(j) + k - j] = own[j * size.n + k];
            for (int c = 0; Rhs && c < size.m; ++c) f_z[c * size.z_step + j] = z[j * size.m + c];
        });
        team.sync();
        if (any(bad_any)) rows.mark_undetermined(t, bad_any);
    }

   private:
    // f(c) for the columns c of right-hand sides, where there are any; the second by one member of a team
    template <class F>
    SMNN_INLINE void each_rhs(F f) const {
        if constexpr (Rhs) repeat(size.m, f);
    }
    template <class F>
    SMNN_INLINE void each_rhs_once(F f) const {
        if (team.leads()) each_rhs(f);
    }

    SMNN_INLINE P S(int i, int j) const { return splat<P>(scheme.S[i * 2 * size.K + j]); }

    // w s^o of the step into point t
    template <class Rows>
    SMNN_INLINE void set_powers(const Rows& rows, int t) {
        const P s = rows.s(t);
        p[0] = rows.w_smoothness(t);
        repeat(size.K, [&](auto o) SMNN_LAMBDA {
            if (o > 0) p[o] = p[o > 0 ? o - 1 : 0] * s;
        });
    }
    // the squared norm of column j of the scheme's rows
    SMNN_INLINE P norm2_of_step(int j) {
        const int o = j < size.K ? j : j - size.K;
        return splat<P>(scheme.norm2[j]) * (p[o] * p[o]) + splat<P>(EMPTY_COLUMN<T>);
    }

    // Row i of [S11 S12] of the step into point t. It starts in column i, in S12 as well if that is upper triangular.
    template <class Rows, class I>
    SMNN_INLINE void set_step_row(const Rows& rows, int t, I i) {
        const P zero = splat<P>(0);
        const int r = order_of(size, i);
        const auto first = first_next(size, i);
        const auto end = columns_through(size, i);
        repeat_from(i, end, [&](auto k) SMNN_LAMBDA { x_own[i * size.n + k] = S(r, order_of(size, k)) * p[order_of(size, k)]; });
        repeat_from(first, end, [&](auto k) SMNN_LAMBDA {
            x_next[i * size.n + k] = S(r, size.K + order_of(size, k)) * p[order_of(size, k)];
        });
        repeat_from(end, size.n, [&](auto k) SMNN_LAMBDA { x_own[i * size.n + k] = x_next[i * size.n + k] = zero; });
        repeat(end, [&](auto k) SMNN_LAMBDA { top_next[i * size.n + k] = zero; });
        for (int k = 0; first_absorbed(size) == 0 && k < first; ++k) x_next[i * size.n + k] = zero;
        norm2_next[i] = norm2_of_step(size.K + r);
        set_rest(rows, t, i, r);
    }
    // The initial value of column i, in the place of a row of the scheme: there are none before the first point.
    template <class Rows, class I>
    SMNN_INLINE void set_initial_row(const Rows& rows, I i) {
        const int v = i / size.K, r = order_of(size, i);
        if (r >= rows.n_initial_orders()) return;
        const P w = rows.w_initial(0, v, r);
        x_next[i * size.n + i] = w;
        norm2_next[i] += w * w;
        each_rhs([&](auto c) SMNN_LAMBDA { x_z[i * size.m + c] = w * rows.u(0, v, r, c); });
    }
    // Row i of S22, of all variables.
    template <class Rows, class I>
    SMNN_INLINE void set_extra_row(const Rows& rows, int t, I i) {
        const int r = order_of(size, i);
        const auto below = plus(size.n, i);
        repeat(size.n, [&](auto k) SMNN_LAMBDA {
            const bool there = i - r <= k && k < columns_through(size, i);
            const P entry = S(size.K + r, size.K + order_of(size, k)) * p[order_of(size, k)];
            x_next[below * size.n + k] = there ? entry : splat<P>(0);
        });
        set_rest(rows, t, below, size.K + r);
    }
    template <class Rows, class I>
    SMNN_INLINE void set_rest(const Rows& rows, int t, I i, int r) {
        if constexpr (Chunked) {
            repeat(size.n, [&](auto k) SMNN_LAMBDA { x_spike[i * size.n + k] = splat<P>(0); });
        }
        const bool there = rows.has_smoothness_rhs();  // (of one right-hand side)
        each_rhs([&](auto c) SMNN_LAMBDA {
            x_z[i * size.m + c] = there ? p[0] * rows.smoothness_rhs(t, i % size.n / size.K, r) : splat<P>(0);
        });
        x_weight[i] = x_factor[i] = splat<P>(1);
    }
    template <class Rows, class Q>
    SMNN_INLINE void set_equation(const Rows& rows, int t, Q q) {
        const auto i = plus(plus(size.n, size.extra), q);
        const P w = rows.w_equation(t, q);
        team.share(Int<0>(), size.n, [&](auto k) SMNN_LAMBDA {
            const P x = w * rows.c(t, q, k);
            norm2_next[k] += x * x;
            x_next[i * size.n + k] = x;
            if constexpr (Chunked) x_spike[i * size.n + k] = splat<P>(0);
        });
        each_rhs_once([&](auto c) SMNN_LAMBDA { x_z[i * size.m + c] = w * rows.b(t, q, c); });
        x_weight[i] = x_factor[i] = splat<P>(1);
    }

    // Columns of row i below and row j of the triangle at the left separator, and right-hand sides.
    template <class J, class I>
    SMNN_INLINE void rotate_rest(const Rotation<P>& rotation, J j, I i) {
        if constexpr (Chunked) {
            team.share(Int<0>(), size.n, [&](auto k) SMNN_LAMBDA { rotation(spike[j * size.n + k], x_spike[i * size.n + k]); });
        }
        each_rhs_once([&](auto c) SMNN_LAMBDA { rotation(z[j * size.m + c], x_z[i * size.m + c]); });
    }

    // Row j of the triangle is row j of those that are left of the scheme's ...
    template <class J>
    SMNN_INLINE void take_row(J j) {
        const P a = x_next[j * size.n + j], ea = rounded(x_weight[j] * a * x_factor[j]);
        tape.put(j, ea);
        own[j * size.n + j] = ea * a + splat<P>(EMPTY<T>);
        inverse[j] = reciprocal(own[j * size.n + j]);
        repeat_from(next(j), size.n, [&](auto k) SMNN_LAMBDA { own[j * size.n + k] = ea * x_next[j * size.n + k]; });
        if constexpr (Chunked) {
            repeat(size.n, [&](auto k) SMNN_LAMBDA { spike[j * size.n + k] = ea * x_spike[j * size.n + k]; });
        }
        each_rhs([&](auto c) SMNN_LAMBDA { z[j * size.m + c] = ea * x_z[j * size.m + c]; });
    }
    // ... or empty.
    template <class J>
    SMNN_INLINE void clear_row(J j) {
        const P zero = splat<P>(0);
        repeat_from(j, size.n, [&](auto k) SMNN_LAMBDA { own[j * size.n + k] = j == k ? splat<P>(EMPTY<T>) : zero; });
        inverse[j] = reciprocal(splat<P>(EMPTY<T>));
        if constexpr (Chunked) {
            repeat(size.n, [&](auto k) SMNN_LAMBDA { spike[j * size.n + k] = zero; });
        }
        each_rhs([&](auto c) SMNN_LAMBDA { z[j * size.m + c] = zero; });
    }

    // The rows that are left touch the left separator alone. What comes from there decays, as a rule, until it is nothing.
    SMNN_INLINE void absorb_into_boundary() {
        const P zero = splat<P>(0);
        team.share(first_absorbed(size), size.rows, [&](auto i) SMNN_LAMBDA {
            P norm2_of_row = zero;
            repeat(size.n, [&](auto k) SMNN_LAMBDA { norm2_of_row += x_spike[i * size.n + k] * x_spike[i * size.n + k]; });
            const auto is_nothing = x_weight[i] * x_factor[i] * norm2_of_row <= splat<P>(EMPTY<T>);
            repeat(size.n, [&](auto k) SMNN_LAMBDA {
                x_spike[i * size.n + k] = select(is_nothing, zero, x_spike[i * size.n + k]);
            });
        });
        team.sync();
        P norm2_of_rows = zero;
        repeat_from(first_absorbed(size), size.rows, [&](auto i) SMNN_LAMBDA {
            repeat(size.n, [&](auto k) SMNN_LAMBDA { norm2_of_rows += x_spike[i * size.n + k] * x_spike[i * size.n + k]; });
        });
        if (!any(norm2_of_rows != zero)) {
            tape.skip(2 * size.n * absorbed_rows(size));
            return tape.push(zero);
        }
        repeat(size.n, [&](auto j) SMNN_LAMBDA {
            P& pivot = boundary[j * size.n + j];
            P inverse_of_pivot = reciprocal(pivot);
            team.absorb(
                room, first_absorbed(size), size.rows, [&](auto i) SMNN_LAMBDA { return x_spike[i * size.n + j]; }, pivot,
                inverse_of_pivot, x_weight, x_factor,
                [&](auto i, const Rotation<P>& rotation) SMNN_LAMBDA {
                    tape.push(rotation);
                    team.share(next(j), size.n, [&](auto k) SMNN_LAMBDA {
                        rotation(boundary[j * size.n + k], x_spike[i * size.n + k]);
                    });
                    each_rhs_once([&](auto c) SMNN_LAMBDA { rotation(boundary_z[j * size.m + c], x_z[i * size.m + c]); });
                }
            );
        });
        tape.push(splat<P>(1));
    }
};

// Sweeps points t0 .. t1-1 (0: the first point of the lane). carried (CarriedLayout::entries()) holds the state between calls,
// workspace (State::workspace()) nothing; the final rows of the points t0-1 .. t1-2 go to f (points, FactorLayout::entries())
// and f_z (m, points, n), right-hand sides size.z_step apart, which start at point t0 - 1; what lies there is undefined where
// they are not to be kept. No two of them overlap. Rotations go to the tape, whose new end is returned. goes_on: what is carried
// into the first point is the triangle of one before it, whose final rows f and f_z start with.
template <class P, class Size, bool Chunked, bool Rhs, bool Keep, class Rows, class Tape>
SMNN_OUTLINE Tape sweep(
    const Size& size, const SchemeRows<typename Lanes<P>::Scalar>& scheme, const Rows& rows, int t0, int t1, P* carried,
    P* workspace, P* f, P* f_z, Tape tape, bool goes_on = false
) {
    Elimination<P, Size, Chunked, Rhs, Alone, Tape> state(size, scheme, carried, workspace);
    state.tape = tape;
    const FactorLayout<Chunked> at{size.n, size.K};
    state.load(carried);  // (before the first point, whatever there is)
    for (int t = t0; t < t1; ++t) {
        if (t == 0 && !goes_on) {
            state.start(rows);
            state.tape.skip(size.n * (size.n + 1));  // (there is no step)
        } else {
            state.template eliminate_point<Keep>(rows, t, f + Index(t - t0) * at.entries(), f_z + Index(t - t0) * size.n);
        }
        state.absorb_equations(rows, t);
        if (rows.has_initial(t) && (Chunked || t > 0 || goes_on)) {  // (else they are among the rows that the sweep starts with)
            absorb_initial_rows<Rhs>(state, rows, t, carried, workspace, state.tape);
        }
    }
    state.save(carried);
    return state.tape;
}

// The final rows of the last point of a system that is not divided into chunks: f (FactorLayout<false>::entries()) and
// f_z (m, n), from carried (CarriedLayout<false>::entries()); workspace (State::workspace()).
template <class P, class Size, bool Rhs, class Rows>
SMNN_OUTLINE void finish(
    const Size& size, const SchemeRows<typename Lanes<P>::Scalar>& scheme, const Rows& rows, int t, P* carried,
    P* workspace, P* f, P* f_z
) {
    Elimination<P, Size, false, Rhs> state(size, scheme, carried, workspace);
    state.load(carried);
    state.finish(rows, t, f, f_z);
}

}  // namespace SMNN_LEVEL
}  // namespace smnn
