// Elimination: one lane sweeps the points of one system, or of one chunk of it.
//
// Columns are the unknowns y[t, v, o] as they are. The scheme's smoothness rows of one variable, [F G] of shape (m, 2K),
// enter through the triangular factor of their QR decomposition (an orthogonal transformation of rows changes no least
// squares problem),
//
//     [ S11  S12 ]    K rows that touch y[t] and y[t+1]
//     [  0   S22 ]    K rows that touch y[t+1] alone
//
// computed once and for all; on the step into point t its columns are multiplied by w s^o. Where all rows vanish for
// polynomials of degree K-1 (TAYLOR) or m = K (HERMITE) there is no S22.
//
// The sweep carries a triangle of n rows that touch the current point. A step
//   departs: takes the rows [S11 S12] into the triangle, whose n rows are then final (the factor of that point), and
//            leaves n rows on the next point;
//   arrives: brings these, S22 and the equations of the next point into the form of a triangle.
// In a chunk all rows have columns at the left separator too, and the rows that arrival leaves touch nothing else: they go
// into a triangle on the edge of the chunk.
#pragma once

#include "factor.hpp"
#include "rotate.hpp"
#include "reflect.hpp"

namespace smnn {
namespace SMNN_LEVEL {

// Kernels whose sizes are compiled leave out what rotations do about rows that start with zero, and the first point of a lane:
// that is for the kernels with sizes at run time.
template <class Size>
constexpr bool has_rare_steps = Size::fixed && Size::rotations;

// What a sweep takes of its workspace, in packs, to bring the results of both together: a state, and the final rows of a point.
template <class Size>
struct RareSteps {
    const Size& size;
    SMNN_INLINE int state() const { return CarriedLayout<true>{size.n, size.m}.entries(); }
    SMNN_INLINE int factor() const { return FactorLayout<true>{size.n, size.K}.entries(); }
    SMNN_INLINE int room() const { return state() + factor() + size.n; }
};

// The workspace of a sweep, in packs.
template <class Size>
SMNN_INLINE int sweep_workspace(const Size& size) {
    if constexpr (has_rare_steps<Size>) {
        return RareSteps<Size>{size}.room() + rotations_workspace(size);
    } else if constexpr (is_weighted<Size>) {
        return rotations_workspace(size);
    } else {
        return size.K + size.n * size.n + 2 * size.n + 2 * size.n * size.rows + size.rows;
    }
}

// One initial row `weight y[column] = rhs` taken into the carried state, which lies in memory; rhs (m) is overwritten.
template <class P, bool Chunked, bool Rhs, class Team = Alone>
SMNN_OUTLINE void take_initial_row(
    int n, int m, int column, P weight, P* rhs, P* carried, P* row, const Team& team = {}
) {
    const CarriedLayout<Chunked> at{n, m};
    P* left_row = row + n;
    for (int j = team.first(0); j < 2 * n; j += team.size) row[j] = splat<P>(0);
    team.sync();
    if (team.leads()) row[column] = weight;
    team.sync();
    const Int<1> one_row{};
    for (int j = column; j < n; ++j) {
        P *top = carried + at.own() + j * n, *left = carried + at.left() + j * n, *z = carried + at.z() + j * m;
        auto pivot = team.pivot(top[j], row + j, one_row);
        raise(pivot.top, pivot.below, one_row, [&](int, const auto& mask) {
            for (int k = team.first(j + 1); k < n; k += team.size) swap_lanes(mask, top[k], row[k]);
            if constexpr (Chunked) {
                for (int k = team.first(0); k < n; k += team.size) swap_lanes(mask, left[k], left_row[k]);
            }
            for (int c = 0; Rhs && team.leads() && c < m; ++c) swap_lanes(mask, z[c], rhs[c]);
        });
        const auto H = reflect(pivot.top, pivot.below, one_row);
        for (int k = team.first(j + 1); k < n; k += team.size) apply(H, pivot.below, one_row, top[k], row + k);
        if constexpr (Chunked) {
            for (int k = team.first(0); k < n; k += team.size) apply(H, pivot.below, one_row, left[k], left_row + k);
        }
        for (int c = 0; Rhs && team.leads() && c < m; ++c) apply(H, pivot.below, one_row, z[c], rhs + c);
        team.sync();
        if (team.leads()) top[j] = H.diagonal;
    }
    if constexpr (Chunked) {
        for (int j = 0; j < n; ++j) {
            P *top = carried + at.edge() + j * n, *z = carried + at.edge_z() + j * m;
            auto pivot = team.pivot(top[j], left_row + j, one_row);
            raise(pivot.top, pivot.below, one_row, [&](int, const auto& mask) {
                for (int k = team.first(j + 1); k < n; k += team.size) swap_lanes(mask, top[k], left_row[k]);
                for (int c = 0; Rhs && team.leads() && c < m; ++c) swap_lanes(mask, z[c], rhs[c]);
            });
            const auto H = reflect(pivot.top, pivot.below, one_row);
            for (int k = team.first(j + 1); k < n; k += team.size) apply(H, pivot.below, one_row, top[k], left_row + k);
            for (int c = 0; Rhs && team.leads() && c < m; ++c) apply(H, pivot.below, one_row, z[c], rhs + c);
            team.sync();
            if (team.leads()) top[j] = H.diagonal;
        }
    }
    if (team.leads()) carried[at.norm2() + column] += weight * weight;
    team.sync();
}

template <class P, class Size, bool Chunked, bool Rhs, class Team = Alone>
struct Sweep : Carried<P, Size, Chunked> {
    using Base = Carried<P, Size, Chunked>;
    using typename Base::Cap, typename Base::T;
    template <int N>
    using Piece = Array<P, N>;

    using Base::size, Base::scheme, Base::own, Base::z, Base::norm2, Base::left, Base::edge, Base::edge_z, Base::edge_norm2;
    using Base::p, Base::S, Base::set_powers;
    const Team team;
    // the rows below the triangle, by columns: at the current point, at the next one (and the triangle's there), at the
    // separator, right-hand side
    Piece<Cap::n> norm2_next;
    Piece<Cap::n * Cap::n> x_own;
    Piece<Cap::n> top_next;
    Piece<Cap::n * Cap::rows> x_next;
    Piece<Chunked ? Cap::n * Cap::rows : Cap::n> x_left;
    Piece<Cap::rows> x_z;

    SMNN_INLINE Sweep(const Size& size_, const SchemeRows<T>& scheme_, P* carried, P* workspace, Team team_ = {})
        : Base(size_, scheme_, carried, workspace),
          team(team_),
          norm2_next(workspace, size_.n),
          x_own(workspace, size_.n * size_.n),
          top_next(workspace, size_.n),
          x_next(workspace, size_.n * size_.rows),
          x_left(workspace, size_.n * size_.rows),
          x_z(workspace, size_.rows) {}

    SMNN_INLINE void load(const P* memory) {
        if constexpr (Size::fixed) {
            const CarriedLayout<Chunked> at{size.n};
            own.load(memory + at.own(), size.n * size.n);
            z.load(memory + at.z(), size.n);
            norm2.load(memory + at.norm2(), size.n);
            if constexpr (Chunked) {
                left.load(memory + at.left(), size.n * size.n);
                edge.load(memory + at.edge(), size.n * size.n);
                edge_z.load(memory + at.edge_z(), size.n);
                edge_norm2.load(memory + at.edge_norm2(), size.n);
            }
        }
    }

    SMNN_INLINE void save(P* memory) const {
        if constexpr (Size::fixed) {
            const CarriedLayout<Chunked> at{size.n};
            own.save(memory + at.own(), size.n * size.n);
            z.save(memory + at.z(), size.n);
            norm2.save(memory + at.norm2(), size.n);
            if constexpr (Chunked) {
                left.save(memory + at.left(), size.n * size.n);
                edge.save(memory + at.edge(), size.n * size.n);
                edge_z.save(memory + at.edge_z(), size.n);
                edge_norm2.save(memory + at.edge_norm2(), size.n);
            }
        }
    }

    // The rows [S12; S22] of the step into point t, and their right-hand side.
    template <class Rows>
    SMNN_INLINE void set_next(const Rows& rows, int t) {
        const P zero = splat<P>(0);
        team.share(size.n, [&](auto j) SMNN_LAMBDA {
            const int v = j / size.K, o = j % size.K;
            repeat(size.n, [&](auto i) SMNN_LAMBDA {
                x_next[j * size.rows + i] = i / size.K == v ? S(i % size.K, size.K + o) * p[o] : zero;
            });
            repeat(size.extra, [&](auto i) SMNN_LAMBDA {
                x_next[j * size.rows + size.n + i] =
                    i / size.K == v ? S(size.K + i % size.K, size.K + o) * p[o] : zero;
            });
            norm2_next[j] = splat<P>(scheme.norm2[size.K + o]) * p[o] * p[o];
            if constexpr (Chunked) {
                repeat(size.rows, [&](auto i) SMNN_LAMBDA { x_left[j * size.rows + i] = zero; });
            }
        });
        if constexpr (Rhs) {
            if (team.leads()) {
                repeat(size.rows, [&](auto i) SMNN_LAMBDA { x_z[i] = zero; });
            }
            if (team.leads() && rows.has_smoothness_rhs()) {
                repeat(size.n, [&](auto i) SMNN_LAMBDA {
                    x_z[i] = p[0] * rows.smoothness_rhs(t, i / size.K, i % size.K);
                });
                repeat(size.extra, [&](auto i) SMNN_LAMBDA {
                    x_z[size.n + i] = p[0] * rows.smoothness_rhs(t, i / size.K, size.K + i % size.K);
                });
            }
        }
    }

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
        set_next(rows, 0);
        team.share(size.n, [&](auto j) SMNN_LAMBDA {
            repeat(size.n, [&](auto i) SMNN_LAMBDA { own[j * size.n + i] = zero; });
            z[j] = zero;
        });
        if constexpr (Chunked) {
            team.share(size.n, [&](auto j) SMNN_LAMBDA {
                const int v = j / size.K, o = j % size.K;
                repeat(size.n, [&](auto i) SMNN_LAMBDA {
                    const bool coupled = i / size.K == v && i <= j;
                    x_left[j * size.rows + i] = coupled ? S(i % size.K, o) * p[o] : zero;
                    edge[j * size.n + i] = zero;
                });
                edge_norm2[j] = splat<P>(scheme.norm2[o]) * p[o] * p[o];
                edge_z[j] = zero;
            });
        }
        team.sync();
    }

    // From the point before t towards t: its final rows go to f and f_z, kept or not.
    template <bool Keep = true, class Rows>
    SMNN_INLINE void depart(const Rows& rows, int t, P* SMNN_RESTRICT f, P* SMNN_RESTRICT f_z) {
        const P zero = splat<P>(0), one = splat<P>(1), tolerance2 = splat<P>(scheme.tolerance2);
        set_powers(rows, t);
        set_next(rows, t);
        team.share(size.n, [&](auto j) SMNN_LAMBDA {
            const int v = j / size.K, o = j % size.K;
            repeat(next(j), [&](auto i) SMNN_LAMBDA {
                x_own[j * size.n + i] = i / size.K == v ? S(i % size.K, o) * p[o] : zero;
            });
        });
        team.sync();
        const FactorLayout<Chunked> at{size.n, size.K};
        auto bad_any = one == zero;
        repeat(size.n, [&](auto j) SMNN_LAMBDA {
            const int o = j % size.K;
            const auto below = next(j);
            const auto after = unroll_if_small<Size>(columns_after(size, j));
            const auto through = unroll_if_small<Size>(columns_through(size, j));
            auto pivot = team.pivot(own[j * size.n + j], x_own + j * size.n, below);
            P* const column = pivot.below;
            team.share(through, [&](auto k) SMNN_LAMBDA { top_next[k] = zero; });
            raise(pivot.top, column, unroll_if_small<Size>(below), [&](auto i, const auto& mask) SMNN_LAMBDA {
                team.share(after, [&](auto k) SMNN_LAMBDA {
                    swap_lanes(mask, own[j * size.n + j + 1 + k], x_own[(j + 1 + k) * size.n + i]);
                });
                team.share(through, [&](auto k) SMNN_LAMBDA {
                    swap_lanes(mask, top_next[k], x_next[k * size.rows + i]);
                });
                if constexpr (Chunked) {
                    team.share(unroll_if_small<Size>(size.n), [&](auto k) SMNN_LAMBDA {
                        swap_lanes(mask, left[j * size.n + k], x_left[k * size.rows + i]);
                    });
                }
                if (Rhs && team.leads()) swap_lanes(mask, z[j], x_z[i]);
            });
            const auto H = reflect(pivot.top, column, below);
            const P total = norm2[j] + splat<P>(scheme.norm2[o]) * p[o] * p[o];
            const auto bad = H.diagonal * H.diagonal <= tolerance2 * total;
            bad_any = bad_any | bad;
            if (team.leads()) f[at.row(j)] = select(H.diagonal == zero, one, H.inverse_diagonal());
            apply_to(team, H, column, below, after, [&](auto i) SMNN_LAMBDA {
                const int k = j + 1 + i;
                return Column<P>{&own[j * size.n + k], x_own + k * size.n, &f[at.row(j) + 1 + i]};
            });
            apply_to(team, H, column, below, through, [&](auto k) SMNN_LAMBDA {
                return Column<P>{&top_next[k], x_next + k * size.rows, &f[at.next(j) + k]};
            });
            if constexpr (Chunked) {
                apply_to(team, H, column, below, unroll_if_small<Size>(size.n), [&](auto k) SMNN_LAMBDA {
                    return Column<P>{&left[j * size.n + k], x_left + k * size.rows, &f[at.left(j) + k]};
                });
            }
            if (Rhs && team.leads()) {
                apply(H, column, below, z[j], x_z.data);
                f_z[j] = z[j];
            }
            team.sync();
        });
        if (any(bad_any)) rows.mark_undetermined(t - 1, bad_any);
    }

    // At point t: the rows that departure left and the equations become the triangle.
    template <class Rows>
    SMNN_INLINE void arrive(const Rows& rows, int t) {
        const int first = size.n + size.extra;
        repeat(size.Q, [&](auto q) SMNN_LAMBDA {
            const P w = rows.w_equation(t, q);
            team.share(size.n, [&](auto j) SMNN_LAMBDA {
                const P x = w * rows.c(t, q, j);
                norm2_next[j] += x * x;
                x_next[j * size.rows + first + q] = x;
            });
            if (Rhs && team.leads()) x_z[first + q] = w * rows.b(t, q);
        });
        team.sync();
        repeat(size.n, [&](auto j) SMNN_LAMBDA {
            const auto below = rows_after(size, j);
            const auto after = unroll_if_small<Size>(columns_after(size, j));
            P* const top = x_next + j * size.rows + j;
            auto pivot = team.pivot(*top, top + 1, below);
            P* const column = pivot.below;
            raise(pivot.top, column, unroll_if_small<Size>(below), [&](auto i, const auto& mask) SMNN_LAMBDA {
                team.share(after, [&](auto k) SMNN_LAMBDA {
                    P* other = x_next + (j + 1 + k) * size.rows + j;
                    swap_lanes(mask, other[0], other[1 + i]);
                });
                if constexpr (Chunked) {
                    team.share(unroll_if_small<Size>(size.n), [&](auto k) SMNN_LAMBDA {
                        P* other = x_left + k * size.rows + j;
                        swap_lanes(mask, other[0], other[1 + i]);
                    });
                }
                if (Rhs && team.leads()) swap_lanes(mask, x_z[j], x_z[j + 1 + i]);
            });
            const auto H = reflect(pivot.top, column, below);
            apply_to(team, H, column, below, after, [&](auto i) SMNN_LAMBDA {
                const int k = j + 1 + i;
                P* const other = x_next + k * size.rows + j;
                return Column<P>{other, other + 1, &own[j * size.n + k]};
            });
            if constexpr (Chunked) {
                apply_to(team, H, column, below, unroll_if_small<Size>(size.n), [&](auto k) SMNN_LAMBDA {
                    P* const other = x_left + k * size.rows + j;
                    return Column<P>{other, other + 1, &left[j * size.n + k]};
                });
            }
            if (team.leads()) {
                own[j * size.n + j] = H.diagonal;
                if constexpr (Rhs) {
                    P* other = x_z + j;
                    apply(H, column, below, other[0], other + 1);
                    z[j] = other[0];
                }
                norm2[j] = norm2_next[j];
            }
            team.sync();
        });
        if constexpr (Chunked) leave_to_edge();
    }

    // The rows below the triangle touch the left separator alone.
    SMNN_INLINE void leave_to_edge() {
        const auto below = rows_after(size, last_column(size));
        repeat(size.n, [&](auto j) SMNN_LAMBDA {
            const auto after = unroll_if_small<Size>(columns_after(size, j));
            auto pivot = team.pivot(edge[j * size.n + j], x_left + j * size.rows + size.n, below);
            P* const column = pivot.below;
            raise(pivot.top, column, unroll_if_small<Size>(below), [&](auto i, const auto& mask) SMNN_LAMBDA {
                team.share(after, [&](auto k) SMNN_LAMBDA {
                    swap_lanes(mask, edge[j * size.n + j + 1 + k], x_left[(j + 1 + k) * size.rows + size.n + i]);
                });
                if (Rhs && team.leads()) swap_lanes(mask, edge_z[j], x_z[size.n + i]);
            });
            const auto H = reflect(pivot.top, column, below);
            apply_to(team, H, column, below, after, [&](auto i) SMNN_LAMBDA {
                const int k = j + 1 + i;
                P* const top = &edge[j * size.n + k];
                return Column<P>{top, x_left + k * size.rows + size.n, top};
            });
            if (Rhs && team.leads()) apply(H, column, below, edge_z[j], x_z + size.n);
            team.sync();
            if (team.leads()) edge[j * size.n + j] = H.diagonal;
        });
        team.sync();
    }

    // The final rows of the last point, which has no next one.
    template <class Rows>
    SMNN_INLINE void finish(const Rows& rows, int t, P* f, P* f_z) {
        const P zero = splat<P>(0), one = splat<P>(1), tolerance2 = splat<P>(scheme.tolerance2);
        const FactorLayout<Chunked> at{size.n, size.K};
        auto bad_any = one == zero;
        team.share(at.entries(), [&](int i) { f[i] = zero; });
        team.sync();
        team.share(int(size.n), [&](int j) {
            const P diagonal = own[j * size.n + j];
            const auto bad = diagonal * diagonal <= tolerance2 * norm2[j];
            bad_any = bad_any | bad;
            f[at.row(j)] = one / select(diagonal == zero, one, diagonal);
            for (int k = j + 1; k < size.n; ++k) f[at.row(j) + k - j] = own[j * size.n + k];
            if constexpr (Rhs) f_z[j] = z[j];
        });
        team.sync();
        if (any(bad_any)) rows.mark_undetermined(t, bad_any);
    }
};

// How a sweep eliminates: by reflections, as above, or by rotations where its size says so (see rotate.hpp).
template <bool ByRotations>
struct Elimination {
    template <class P, class Size, bool Chunked, bool Rhs>
    using State = Sweep<P, Size, Chunked, Rhs>;
};
template <>
struct Elimination<true> {
    template <class P, class Size, bool Chunked, bool Rhs>
    using State = Rotations<P, Size, Chunked, Rhs>;
};

// Sweeps points t0 .. t1-1, from the state that lies in `from` to that in `to`: where sizes are known at run time they are the
// same memory, and t0 may be 0, the first point of the lane. Returns the state as it is at the end.
template <class P, class Size, bool Chunked, bool Rhs, bool Keep, class Rows>
SMNN_INLINE auto sweep_points(
    const Size& size, const SchemeRows<typename Lanes<P>::Scalar>& scheme, const Rows& rows, int t0, int t1, const P* from,
    P* to, P* workspace, P* f, P* f_z
) {
    constexpr bool by_rotations = is_weighted<Size>;
    using State = typename Elimination<by_rotations>::template State<P, Size, Chunked, Rhs>;
    State state(size, scheme, to, workspace);
    const FactorLayout<Chunked> at{size.n, size.K};
    if (has_rare_steps<Size> || t0 > 0) state.load(from);
    for (int t = t0; t < t1; ++t) {
        if (!has_rare_steps<Size> && t == 0) {
            state.start(rows);
        } else {
            state.template depart<Keep>(rows, t, f + Index(t - t0) * at.entries(), f_z + Index(t - t0) * size.n);
        }
        state.arrive(rows, t);
        if (rows.has_initial(t)) {
            state.save(to);
            if constexpr (by_rotations) State::to_plain(size.n, size.m, to);
            for (int v = 0; v < size.V; ++v) {
                for (int r = 0; r < rows.n_initial_orders(); ++r) {
                    const P w = rows.w_initial(t, v, r);
                    P* const rhs = workspace + 2 * size.n;
                    repeat(size.m, [&](auto c) SMNN_LAMBDA {
                        if constexpr (Rhs) rhs[c] = w * rows.u(t, v, r, c);
                    });
                    take_initial_row<P, Chunked, Rhs>(size.n, size.m, v * size.K + r, w, rhs, to, workspace);
                }
            }
            if constexpr (by_rotations) State::to_weighted(size.n, size.m, to);
            state.load(to);
        }
    }
    state.save(to);
    return state;
}

// `sweep_points` where sizes are compiled. Returns the lanes that it leaves out.
template <class P, class Size, bool Chunked, bool Rhs, bool Keep, class Rows>
SMNN_OUTLINE auto sweep_most_lanes(
    const Size& size, const SchemeRows<typename Lanes<P>::Scalar>& scheme, const Rows& rows, int t0, int t1, const P* from,
    P* to, P* workspace, P* f, P* f_z
) {
    return sweep_points<P, Size, Chunked, Rhs, Keep>(size, scheme, rows, t0, t1, from, to, workspace, f, f_z).left_out;
}

// The state at the first point of a system with initial values, see `Rotations::start_with_values`. Returns the lanes that it
// leaves out.
template <class P, class Size, bool Rhs, class Rows>
SMNN_OUTLINE auto sweep_first_point(
    const Size& size, const SchemeRows<typename Lanes<P>::Scalar>& scheme, const Rows& rows, P* to, P* workspace
) {
    Rotations<P, Size, false, Rhs> state(size, scheme, to, workspace);
    state.start_with_values(rows);
    state.template arrive<true>(rows, 0);
    state.save(to);
    return state.left_out;
}

// What a sweep has done, once more, for lanes that it left out, by the kernels with sizes at run time. `carried` holds the
// state that it began with, `workspace` the one that it ended with, which goes to `carried` for all other lanes.
template <class P, class Size, bool Chunked, bool Rhs, bool Keep, class Rows, class LaneMask>
SMNN_OUTLINE void sweep_again(
    const Size& size, const SchemeRows<typename Lanes<P>::Scalar>& scheme, const Rows& rows, int t0, int t1,
    const LaneMask& lanes, P* carried, P* workspace, P* f, P* f_z
);

// Sweeps points t0 .. t1-1 (0: the first point of the lane). `carried` holds the state between calls; the final rows of
// the points t0-1 .. t1-2 go to f and f_z, which start at point t0 - 1; what lies there is undefined where they are not to
// be kept.
template <class P, class Size, bool Chunked, bool Rhs, bool Keep, class Rows>
SMNN_OUTLINE void sweep(
    const Size& size, const SchemeRows<typename Lanes<P>::Scalar>& scheme, const Rows& rows, int t0, int t1, P* carried,
    P* workspace, P* f, P* f_z
) {
    if constexpr (has_rare_steps<Size>) {
        const RareSteps<Size> rare{size};
        P *const after = workspace, *const room = workspace + rare.room();
        const P zero = splat<P>(0), one = splat<P>(1);
        for (int t = t0, end = t1; t < t1; t = end) {
            P* const f_t = f + Index(t - t0) * FactorLayout<Chunked>{size.n, size.K}.entries();
            P* const z_t = f_z + Index(t - t0) * size.n;
            auto left_out = zero < one;
            if (t == 0) {
                end = 1;
                if constexpr (!Chunked && Size::V == Size::Q && Size::K > 1) {
                    if (rows.has_initial(0) && rows.n_initial_orders() == size.K - 1) {
                        left_out = sweep_first_point<P, Size, Rhs>(size, scheme, rows, after, room);
                    }
                }
            } else {
                // (lanes that are left out from the start may not be so at the next point)
                auto from_start = one < zero;
                for (int j = 0; j < size.n; ++j) from_start = from_start | (carried[j * size.n + j] < zero);
                end = any(from_start) ? t + 1 : t1;
                left_out =
                    sweep_most_lanes<P, Size, Chunked, Rhs, Keep>(size, scheme, rows, t, end, carried, after, room, f_t, z_t);
            }
            if (any(left_out)) {
                sweep_again<P, Size, Chunked, Rhs, Keep>(size, scheme, rows, t, end, left_out, carried, workspace, f_t, z_t);
            } else {
                for (int e = 0; e < CarriedLayout<Chunked>{size.n, size.m}.entries(); ++e) carried[e] = after[e];
            }
        }
    } else {
        sweep_points<P, Size, Chunked, Rhs, Keep>(size, scheme, rows, t0, t1, carried, carried, workspace, f, f_z);
    }
}

template <class P, class Size, bool Chunked, bool Rhs, bool Keep, class Rows, class LaneMask>
SMNN_OUTLINE void sweep_again(
    const Size& size, const SchemeRows<typename Lanes<P>::Scalar>& scheme, const Rows& rows, int t0, int t1,
    const LaneMask& lanes, P* carried, P* workspace, P* f, P* f_z
) {
    const SizedForRotations sized(size.V, size.K, size.Q);
    const RareSteps<Size> rare{size};
    const int entries = FactorLayout<Chunked>{size.n, size.K}.entries();
    const P* const after = workspace;
    P *const f_again = workspace + rare.state(), *const z_again = f_again + rare.factor();
    const auto put = [&](P* to, const P* from, int count) {
        for (int e = 0; e < count; ++e) to[e] = select(lanes, from[e], to[e]);
    };
    const Rows of_lanes = rows.of(lanes);
    for (int t = t0; t < t1; ++t, f += entries, f_z += size.n) {
        sweep<P, SizedForRotations, Chunked, Rhs, Keep>(
            sized, scheme, of_lanes, t, t + 1, carried, workspace + rare.room(), f_again, z_again
        );
        if (t == 0 || !Keep) continue;
        put(f, f_again, entries);
        if (Rhs) put(f_z, z_again, size.n);
    }
    for (int e = 0; e < CarriedLayout<Chunked>{size.n, size.m}.entries(); ++e) carried[e] = select(lanes, carried[e], after[e]);
}

// What a sweep has left at the end of a chunk becomes rows without weights, for the problem of the separators.
template <class P, class Size>
SMNN_INLINE void end_chunk(const Size& size, P* carried) {
    if constexpr (is_weighted<Size>) Rotations<P, Size, true, true>::to_plain(size.n, size.m, carried);
}

// The final rows of the last point of a system that is not divided into chunks.
template <class P, class Size, bool Rhs, class Rows>
SMNN_OUTLINE void finish(
    const Size& size, const SchemeRows<typename Lanes<P>::Scalar>& scheme, const Rows& rows, int t, P* carried,
    P* workspace, P* f, P* f_z
) {
    typename Elimination<is_weighted<Size>>::template State<P, Size, false, Rhs> state(
        size, scheme, carried, workspace
    );
    state.load(carried);
    state.finish(rows, t, f, f_z);
}

}  // namespace SMNN_LEVEL
}  // namespace smnn
