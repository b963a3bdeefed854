// Elimination without square roots: the sweep of sweep.hpp by fast Givens rotations.
//
// A row is kept as a multiple of itself and a weight, the square of that factor. The triangle's rows have a weight 1/d,
// where d is their leading entry. A row (b, x) of weight e goes into the row (d, r) of weight 1/d with
//
//     d' = d + e b^2,   r' = r + e b x,   x' = x - (b / d) r,   e' = e d / d'
//
// which leaves the sum of squares what it was: r'^2 / d' + e' x'^2 = r^2 / d + e x^2. There is one division where a
// reflection has a root and then a division, two multiplications for an entry of both rows where a rotation has four, and
// rotations of different rows do not wait for each other. Sources: Gentleman, J. Inst. Maths Applics 12, 1973; Golub, Van
// Loan, Matrix Computations, section 5.1.13.
//
// Rows that start with zeros keep them, where a reflection would fill them: this serves schemes whose S12 is upper triangular
// as S11 is (all that are exact for polynomials of degree K-2, as TAYLOR and HERMITE are), without S22. There
// departure leaves an upper triangle at the next point, and arrival takes nothing but the equations into it.
//
// Either row's new value is as accurate as that row, whichever is the larger: unlike reflections, rotations need no
// exchange of rows, which takes branches that depend on the data. Where a whole column is zero, the triangle's row keeps its
// other entries with a leading 0, and its weight stands, negative, in the place of d; for such rows, and for zeros at the top
// of a column, there are `exchange` and `find_top`, where sizes are known at run time. Where they are compiled, those lanes
// are left out, and come through the kernels with sizes at run time afterwards: see `sweep`. In a chunk, what arrival leaves
// goes into a triangle on its edge whose rows are empty at first: see `leave_to_edge`.
#pragma once

#include "factor.hpp"

namespace smnn {
namespace SMNN_LEVEL {

// The workspace, in packs, of rotations whose sizes are known at run time.
template <class Size>
SMNN_INLINE int rotations_workspace(const Size& size) {
    return size.K + 6 * size.n + 2 * size.n * size.n + size.rows * (2 * size.n + 2 + size.m);
}

template <class P, class Size, bool Chunked, bool Rhs>
struct Rotations : Carried<P, Size, Chunked> {
    using Base = Carried<P, Size, Chunked>;
    using typename Base::Cap, typename Base::T;
    template <int N>
    using Piece = Array<P, N>;
    static constexpr int BELOW = Chunked ? Cap::n * Cap::rows : Cap::n;
    using LaneMask = decltype(splat<P>(1) < splat<P>(0));

    using Base::size, Base::scheme, Base::own, Base::z, Base::norm2, Base::left, Base::edge, Base::edge_z, Base::edge_norm2;
    using Base::p, Base::S, Base::set_powers;
    // the leading entries d of `own` and `edge`, instead of those on their diagonals, and 1 / d
    Piece<Cap::n> weight, inverse, edge_weight, edge_inverse, edge_noise;
    // the rows below the triangle: at the current point, at the next one (and the triangle's there), at the left separator,
    // right-hand side, weights in two factors
    Piece<Cap::n> norm2_next;
    Piece<Cap::n * Cap::n> x_own, top_next;
    Piece<Cap::n * Cap::rows> x_next;
    Piece<BELOW> x_left;
    Piece<Cap::rows> x_z, x_weight, x_factor;
    bool degenerate = false;  // some row of the triangle has a leading 0 (sizes at run time)
    // where the results are of no use: a row of the triangle, or one that departure left, starts with zero (sizes compiled)
    LaneMask left_out = splat<P>(1) < splat<P>(0);

    SMNN_INLINE Rotations(const Size& size_, const SchemeRows<T>& scheme_, P* carried, P* workspace)
        : Base(size_, scheme_, carried, workspace),
          weight(workspace, size_.n),
          inverse(workspace, size_.n),
          edge_weight(workspace, size_.n),
          edge_inverse(workspace, size_.n),
          edge_noise(workspace, size_.n),
          norm2_next(workspace, size_.n),
          x_own(workspace, size_.n * size_.n),
          top_next(workspace, size_.n * size_.n),
          x_next(workspace, size_.n * size_.rows),
          x_left(workspace, size_.n * size_.rows),
          x_z(workspace, size_.rows * size_.m),
          x_weight(workspace, size_.rows),
          x_factor(workspace, size_.rows) {}

    SMNN_INLINE void load(const P* memory) {
        const CarriedLayout<Chunked> at{size.n, size.m};
        if constexpr (Size::fixed) {
            repeat(size.n, [&](auto j) SMNN_LAMBDA {
                repeat_from(next(j), size.n, [&](auto k) SMNN_LAMBDA {
                    own[j * size.n + k] = memory[at.own() + j * size.n + k];
                    if constexpr (Chunked) edge[j * size.n + k] = memory[at.edge() + j * size.n + k];
                });
                if constexpr (Chunked) {
                    repeat(size.n, [&](auto k) SMNN_LAMBDA {
                        left[j * size.n + k] = memory[at.left() + j * size.n + k];
                    });
                }
            });
            z.load(memory + at.z(), size.n * size.m);
            norm2.load(memory + at.norm2(), size.n);
            if constexpr (Chunked) {
                edge_z.load(memory + at.edge_z(), size.n * size.m);
                edge_norm2.load(memory + at.edge_norm2(), size.n);
            }
        }
        auto starts_with_zero = splat<P>(1) < splat<P>(0);
        repeat(size.n, [&](auto j) SMNN_LAMBDA {
            weight[j] = memory[at.own() + j * size.n + j];
            inverse[j] = reciprocal(weight[j]);
            starts_with_zero = starts_with_zero | (weight[j] < splat<P>(0));
            if constexpr (Chunked) {
                edge_weight[j] = memory[at.edge() + j * size.n + j];
                edge_inverse[j] = inverse_or_one(edge_weight[j]);
                edge_noise[j] = noise_in(edge_norm2[j]);
            }
        });
        if constexpr (Size::fixed) {
            left_out = left_out | starts_with_zero;
        } else {
            degenerate = any(starts_with_zero);
        }
    }
    SMNN_INLINE void save(P* memory) {
        const CarriedLayout<Chunked> at{size.n, size.m};
        if constexpr (Size::fixed) {
            repeat(size.n, [&](auto j) SMNN_LAMBDA {
                repeat_from(next(j), size.n, [&](auto k) SMNN_LAMBDA {
                    memory[at.own() + j * size.n + k] = own[j * size.n + k];
                    if constexpr (Chunked) memory[at.edge() + j * size.n + k] = edge[j * size.n + k];
                });
                if constexpr (Chunked) {
                    repeat(size.n, [&](auto k) SMNN_LAMBDA {
                        memory[at.left() + j * size.n + k] = left[j * size.n + k];
                    });
                }
            });
            z.save(memory + at.z(), size.n * size.m);
            norm2.save(memory + at.norm2(), size.n);
            if constexpr (Chunked) {
                edge_z.save(memory + at.edge_z(), size.n * size.m);
                edge_norm2.save(memory + at.edge_norm2(), size.n);
            }
        }
        repeat(size.n, [&](auto j) SMNN_LAMBDA {
            memory[at.own() + j * size.n + j] = weight[j];
            if constexpr (Chunked) memory[at.edge() + j * size.n + j] = edge_weight[j];
        });
    }

    // The same as rows without weights.
    SMNN_OUTLINE static void to_plain(int n, int m, P* memory) {
        const CarriedLayout<Chunked> at{n, m};
        const P zero = splat<P>(0), one = splat<P>(1);
        for (int j = 0; j < n; ++j) {
            P& leading = memory[at.own() + j * n + j];
            const P weight = root(magnitude(leading)), factor = select(leading < zero, weight, one / weight);
            for (int k = j + 1; k < n; ++k) memory[at.own() + j * n + k] *= factor;
            for (int c = 0; c < m; ++c) memory[at.z() + j * m + c] *= factor;
            leading = select(leading < zero, zero, weight);
            if constexpr (Chunked) {
                for (int k = 0; k < n; ++k) memory[at.left() + j * n + k] *= factor;
                P& edge_leading = memory[at.edge() + j * n + j];
                edge_leading = root(edge_leading);
                const auto is_empty = edge_leading == zero;
                const P edge_factor = select(is_empty, zero, one / select(is_empty, one, edge_leading));
                for (int k = j + 1; k < n; ++k) memory[at.edge() + j * n + k] *= edge_factor;
                for (int c = 0; c < m; ++c) memory[at.edge_z() + j * m + c] *= edge_factor;
            }
        }
    }
    SMNN_OUTLINE static void to_weighted(int n, int m, P* memory) {
        const CarriedLayout<Chunked> at{n, m};
        const P one = splat<P>(1);
        for (int j = 0; j < n; ++j) {
            P& leading = memory[at.own() + j * n + j];
            const auto none = leading * leading <= noise_in(memory[at.norm2() + j]);
            const P factor = select(none, one, leading);
            for (int k = j + 1; k < n; ++k) memory[at.own() + j * n + k] *= factor;
            for (int c = 0; c < m; ++c) memory[at.z() + j * m + c] *= factor;
            leading = select(none, -one, leading * leading);
            if constexpr (Chunked) {
                for (int k = 0; k < n; ++k) memory[at.left() + j * n + k] *= factor;
                P& edge_leading = memory[at.edge() + j * n + j];
                // (what is nothing to its column may be raised to the noise in it, and then the row is as any other)
                const P square = edge_leading * edge_leading, noise = noise_in(memory[at.edge_norm2() + j]);
                const P raised = select(square <= noise, root(noise), edge_leading);
                for (int k = j + 1; k < n; ++k) memory[at.edge() + j * n + k] *= raised;
                for (int c = 0; c < m; ++c) memory[at.edge_z() + j * m + c] *= raised;
                edge_leading = raised * raised;
            }
        }
    }

    // f(c) for the columns c of right-hand sides
    template <class F>
    SMNN_INLINE void each_column(F f) const {
        repeat(size.m, f);
    }

    SMNN_INLINE static P inverse_or_one(const P& x) {
        const P one = splat<P>(1);
        return reciprocal(select(x == splat<P>(0), one, x));
    }

    // Row i of [S11 S12] of the step into point t, times its powers p: it starts in column i.
    template <class Rows, class I>
    SMNN_INLINE void set_row(const Rows& rows, int t, I i) {
        const int r = order_of(size, i);
        repeat_from(i, columns_through(size, i), [&](auto k) SMNN_LAMBDA {
            const int o = order_of(size, k);
            x_own[i * size.n + k] = S(r, o) * p[o];
            x_next[i * size.n + k] = S(r, size.K + o) * p[o];
        });
        const bool there = Rhs && rows.has_smoothness_rhs();  // (of one right-hand side)
        each_column([&](auto c) SMNN_LAMBDA {
            x_z[i * size.m + c] = there ? p[0] * rows.smoothness_rhs(t, i / size.K, r) : splat<P>(0);
        });
        x_weight[i] = x_factor[i] = splat<P>(1);
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
        repeat(size.n, [&](auto i) SMNN_LAMBDA {
            const int o = order_of(size, i);
            norm2_next[i] = splat<P>(scheme.norm2[size.K + o]) * p[o] * p[o];
            set_row(rows, 0, i);
            repeat_from(columns_through(size, i), size.n, [&](auto k) SMNN_LAMBDA { x_next[i * size.n + k] = zero; });
            if constexpr (Chunked) {
                repeat(size.n, [&](auto k) SMNN_LAMBDA {
                    const bool coupled = i <= k && k < columns_through(size, i);
                    x_left[i * size.n + k] = coupled ? x_own[i * size.n + k] : zero;
                    edge[i * size.n + k] = zero;
                });
                each_column([&](auto c) SMNN_LAMBDA { edge_z[i * size.m + c] = zero; });
                edge_weight[i] = zero;
                edge_inverse[i] = splat<P>(1);
                edge_norm2[i] = splat<P>(scheme.norm2[o]) * p[o] * p[o];
                edge_noise[i] = noise_in(edge_norm2[i]);
            }
        });
    }

    // Puts the sweep before the first point of a system that has as many equations as variables and all initial values but
    // those of the last derivatives: the rows of these values are in the place of what departure leaves.
    template <class Rows>
    SMNN_INLINE void start_with_values(const Rows& rows) {
        const P zero = splat<P>(0);
        repeat(size.n, [&](auto i) SMNN_LAMBDA {
            const int v = i / size.K, r = order_of(size, i);
            const P w = is_last(i) ? zero : rows.w_initial(0, v, r);
            norm2_next[i] = w * w;
            repeat_from(i, size.n, [&](auto k) SMNN_LAMBDA { x_next[i * size.n + k] = k == i ? w : zero; });
            x_z[i] = Rhs && !is_last(i) ? w * rows.u(0, v, r) : zero;
            z[i] = zero;  // (for good, where there are no right-hand sides)
            x_weight[i] = x_factor[i] = splat<P>(1);
        });
    }
    // whether a column is the last derivative of its variable
    template <class J>
    SMNN_INLINE bool is_last(J j) const {
        return order_of(size, j) == size.K - 1;
    }
    // Row j, of which there was none, is an equation.
    template <class J>
    SMNN_INLINE void take_equation(J j) {
        const auto i = size.n + j / size.K;
        repeat_from(j, size.n, [&](auto k) SMNN_LAMBDA {
            x_next[j * size.n + k] = x_next[i * size.n + k];
            x_next[i * size.n + k] = splat<P>(0);
        });
        x_weight[j] = x_weight[i];
        x_factor[j] = x_factor[i];
        x_weight[i] = x_factor[i] = splat<P>(1);
        if constexpr (Rhs) {
            x_z[j] = x_z[i];
            x_z[i] = splat<P>(0);
        }
    }

    // From the point before t towards t: its final rows go to f and f_z, where they are kept.
    template <bool Keep = true, class Rows>
    SMNN_INLINE void depart(const Rows& rows, int t, P* SMNN_RESTRICT f, P* SMNN_RESTRICT f_z) {
        const P one = splat<P>(1), tolerance2 = splat<P>(scheme.tolerance2);
        set_powers(rows, t);
        const FactorLayout<Chunked> at{size.n, size.K};
        auto bad_any = one < one;
        // row j with the row below that starts in column j as well, then with the one that did so a column before, ...
        repeat(size.n, [&](auto j) SMNN_LAMBDA {
            repeat(next(columns_after(size, j)), [&](auto i) SMNN_LAMBDA {
                if (j == 0) set_row(rows, t, i);
                rotate(plus(j, i), i, size.m == 1);
            });
            const int o = order_of(size, j);
            const P square = p[o] * p[o], total = norm2[j] + splat<P>(scheme.norm2[o]) * square;
            norm2_next[j] = splat<P>(scheme.norm2[size.K + o]) * square;
            const auto bad = weight[j] <= tolerance2 * total;
            bad_any = bad_any | bad;
            if constexpr (!Keep) return;
            f[at.row(j)] = select(weight[j] <= splat<P>(0), one, inverse[j]);
            repeat_from(next(j), size.n, [&](auto k) SMNN_LAMBDA { f[at.row(j) + k - j] = own[j * size.n + k]; });
            repeat(columns_through(size, j), [&](auto k) SMNN_LAMBDA { f[at.next(j) + k] = top_next[j * size.n + k]; });
            if constexpr (Chunked) {
                repeat(size.n, [&](auto k) SMNN_LAMBDA { f[at.left(j) + k] = left[j * size.n + k]; });
            }
            if constexpr (Rhs) each_column([&](auto c) SMNN_LAMBDA { f_z[c * size.z_step + j] = z[j * size.m + c]; });
        });
        if constexpr (Size::fixed) bad_any = without(bad_any, left_out);
        if (any(bad_any)) rows.mark_undetermined(t - 1, bad_any);
    }

    // Row i below into row j of the triangle, in column j. At the next point row i has columns from i on. The triangle's row
    // has none before its first rotation, then those from i + 1 on; what is new in either is no sum. Columns at the current
    // point beyond those of its variable row i has from its first rotation on, as those at the left separator; and at the
    // next point, those of each variable from the rotation in its first column on.
    template <class J, class I>
    SMNN_INLINE void rotate(J j, I i, bool rows_have_rhs) {
        const bool first = i == j, next_variable = !first && order_of(size, j) == 0;
        P b = x_own[i * size.n + j];
        if constexpr (!Size::fixed) {
            if (degenerate) b = exchange(j, i, b);
        }
        const Turn turn(b, weight[j], inverse[j], x_weight[i], x_factor[i]);
        // (where rows were exchanged, what is new is not zero either)
        const auto fill_top = [&](P& top, P& x) SMNN_LAMBDA {
            const P entry = turn.eb * x;
            top = is_degenerate() ? entry + top : entry;  // (x is 0 there)
        };
        const auto fill_below = [&](P& top, P& x) SMNN_LAMBDA {
            if (is_degenerate()) return turn(top, x);
            x = -(turn.g * top);
        };
        const auto turn_own = [&](auto k) SMNN_LAMBDA { turn(own[j * size.n + k], x_own[i * size.n + k]); };
        const auto turn_next = [&](auto k) SMNN_LAMBDA { turn(top_next[j * size.n + k], x_next[i * size.n + k]); };
        if (first) {
            repeat_from(next(j), columns_through(size, j), turn_own);
            repeat_from(columns_through(size, j), size.n, [&](auto k) SMNN_LAMBDA {
                fill_below(own[j * size.n + k], x_own[i * size.n + k]);
            });
            repeat_from(i, columns_through(size, j), [&](auto k) SMNN_LAMBDA {
                fill_top(top_next[j * size.n + k], x_next[i * size.n + k]);
            });
        } else {
            repeat_from(next(j), size.n, turn_own);
            fill_top(top_next[j * size.n + i], x_next[i * size.n + i]);
            if (next_variable) {
                repeat_from(next(i), j, turn_next);
                repeat_from(j, columns_through(size, j), [&](auto k) SMNN_LAMBDA {
                    fill_below(top_next[j * size.n + k], x_next[i * size.n + k]);
                });
            } else {
                repeat_from(next(i), columns_through(size, j), turn_next);
            }
        }
        if constexpr (Chunked) {
            repeat(size.n, [&](auto k) SMNN_LAMBDA {
                P &top = left[j * size.n + k], &x = x_left[i * size.n + k];
                first ? fill_below(top, x) : turn(top, x);
            });
        }
        if constexpr (Rhs) {
            if (first && !rows_have_rhs && !is_degenerate()) {
                each_column([&](auto c) SMNN_LAMBDA { x_z[i * size.m + c] = -(turn.g * z[j * size.m + c]); });
            } else {
                each_column([&](auto c) SMNN_LAMBDA { turn(z[j * size.m + c], x_z[i * size.m + c]); });
            }
        }
    }

    // A rotation. Takes d, 1 / d and e to what they are after it.
    //
    // A sweep waits for little else than one weight after the other. Hence e is a product whose second factor comes last:
    // what that is multiplied by is there before.
    //
    struct Turn {
        P eb, g;

        SMNN_INLINE Turn(const P& b, P& d, P& inverse, P& e, P& factor) : g(b * inverse) {
            set<false>(b, d, inverse, e, factor);
        }
        // b_d: b / d
        SMNN_INLINE Turn(const P& b, const P& b_d, P& d, P& inverse, P& e, P& factor) : g(b_d) {
            set<false>(b, d, inverse, e, factor);
        }

        // Into a row that may be empty, 0 with d = 0 (and anything for 1 / d).
        SMNN_INLINE static Turn into_any(const P& b, P& d, P& inverse, P& e, P& factor) {
            Turn turn;
            turn.g = b * inverse;
            turn.set<true>(b, d, inverse, e, factor);
            return turn;
        }

        SMNN_INLINE void operator()(P& r, P& x) const {
            const P kept = r;
            r += eb * x;
            x -= g * kept;
        }

       private:
        Turn() = default;

        template <bool MayBeEmpty>
        SMNN_INLINE void set(const P& b, P& d, P& inverse, P& e, P& factor) {
            const P one = splat<P>(1);
            eb = rounded(e * b * factor);
            const P sum = d + eb * b;
            inverse = MayBeEmpty ? inverse_or_one(sum) : reciprocal(sum);
            if (MayBeEmpty) {
                e *= select(b == splat<P>(0), one, d * inverse) * factor;
                factor = one;
            } else {
                e = e * d * factor;
                factor = inverse;
            }
            d = sum;
        }
    };

    SMNN_INLINE bool is_degenerate() const {
        if constexpr (Size::fixed) {
            return false;
        } else {
            return degenerate;
        }
    }

    // Where row j of the triangle has a leading 0, and the row below has not, they change places. Returns the leading entry
    // of the row below. What is new in a row is set to zero first.
    SMNN_INLINE P exchange(int j, int i, const P& b) {
        const P zero = splat<P>(0), one = splat<P>(1), d = weight[j], e = x_weight[i] * x_factor[i], square = e * b * b;
        const bool first = i == j, next_variable = !first && order_of(size, j) == 0;
        repeat_from(i, columns_through(size, j), [&](auto k) SMNN_LAMBDA {
            if (first || k == i) top_next[j * size.n + k] = zero;
            if (next_variable && k >= j) x_next[i * size.n + k] = zero;
        });
        if (first) {
            repeat_from(columns_through(size, j), size.n, [&](auto k) SMNN_LAMBDA { x_own[i * size.n + k] = zero; });
            if constexpr (Chunked) {
                repeat(size.n, [&](auto k) SMNN_LAMBDA { x_left[i * size.n + k] = zero; });
            }
        }
        const int o = order_of(size, j);
        const P noise = noise_in(norm2[j] + splat<P>(scheme.norm2[o]) * p[o] * p[o]);
        const auto mask = select(d < zero, select(square <= noise, zero, one), zero) != zero;  // (not a number: one)
        const P factor = e * b;
        const auto swap = [&](P& top, P& x) SMNN_LAMBDA {
            const P kept = top;
            top = select(mask, x * factor, top);
            x = select(mask, kept, x);
        };
        repeat_from(next(j), size.n, [&](auto k) SMNN_LAMBDA { swap(own[j * size.n + k], x_own[i * size.n + k]); });
        repeat_from(i, columns_through(size, j), [&](auto k) SMNN_LAMBDA {
            swap(top_next[j * size.n + k], x_next[i * size.n + k]);
        });
        if constexpr (Chunked) {
            repeat(size.n, [&](auto k) SMNN_LAMBDA { swap(left[j * size.n + k], x_left[i * size.n + k]); });
        }
        if constexpr (Rhs) each_column([&](auto c) SMNN_LAMBDA { swap(z[j * size.m + c], x_z[i * size.m + c]); });
        weight[j] = select(mask, square, d);
        x_weight[i] = select(mask, -d, x_weight[i]);
        if (i < j) x_factor[i] = select(mask, one, x_factor[i]);  // (1 before the first rotation)
        return select(d < zero, zero, b);
    }

    // At point t: the rows that departure left, or initial values, and the equations become the triangle.
    template <bool FromValues = false, class Rows>
    SMNN_INLINE void arrive(const Rows& rows, int t) {
        degenerate = false;
        repeat(size.Q, [&](auto q) SMNN_LAMBDA {
            const auto i = plus(size.n, q);
            const P w = rows.w_equation(t, q);
            repeat(size.n, [&](auto k) SMNN_LAMBDA {
                const P x = w * rows.c(t, q, k);
                norm2_next[k] += x * x;
                x_next[i * size.n + k] = x;
                if constexpr (Chunked) x_left[i * size.n + k] = splat<P>(0);
            });
            if constexpr (Rhs) each_column([&](auto c) SMNN_LAMBDA { x_z[i * size.m + c] = w * rows.b(t, q, c); });
            x_weight[i] = x_factor[i] = splat<P>(1);
        });
        repeat(size.n, [&](auto j) SMNN_LAMBDA {
            P factor, a_inverse;
            if (FromValues && is_last(j)) take_equation(j);
            take_top(j, factor, a_inverse);
            repeat(size.Q, [&](auto q) SMNN_LAMBDA {
                const auto i = plus(size.n, q);
                const P b = x_next[i * size.n + j], b_d = q == 0 ? b * a_inverse : b * inverse[j];
                const Turn turn(b, b_d, weight[j], inverse[j], x_weight[i], x_factor[i]);
                const auto take = [&](P& top, const P& first, P& x) SMNN_LAMBDA {
                    if (q > 0) return turn(top, x);
                    top = rounded(first * factor) + turn.eb * x;
                    x -= turn.g * first;
                };
                repeat_from(next(j), size.n, [&](auto k) SMNN_LAMBDA {
                    take(own[j * size.n + k], x_next[j * size.n + k], x_next[i * size.n + k]);
                });
                if constexpr (Chunked) {
                    repeat(size.n, [&](auto k) SMNN_LAMBDA {
                        take(left[j * size.n + k], x_left[j * size.n + k], x_left[i * size.n + k]);
                    });
                }
                if constexpr (Rhs) {
                    each_column([&](auto c) SMNN_LAMBDA {
                        take(z[j * size.m + c], x_z[j * size.m + c], x_z[i * size.m + c]);
                    });
                }
            });
            norm2[j] = norm2_next[j];
        });
        if constexpr (Chunked) leave_to_edge();
    }

    // The rows below the triangle touch the left separator alone. A row of the edge is empty until one arrives that does not
    // start with zero.
    SMNN_INLINE void leave_to_edge() {
        repeat(size.Q, [&](auto q) SMNN_LAMBDA {
            const auto i = plus(size.n, q);
            repeat(size.n, [&](auto j) SMNN_LAMBDA {
                // (what comes from the separator decays, as a rule, until it is nothing)
                const P b = x_left[i * size.n + j], zero = splat<P>(0);
                const P taken = select(x_weight[i] * x_factor[i] * b * b <= edge_noise[j], zero, b);
                if (!any(taken != zero)) return;
                const Turn turn = Turn::into_any(taken, edge_weight[j], edge_inverse[j], x_weight[i], x_factor[i]);
                repeat_from(next(j), size.n, [&](auto k) SMNN_LAMBDA {
                    turn(edge[j * size.n + k], x_left[i * size.n + k]);
                });
                if constexpr (Rhs) each_column([&](auto c) SMNN_LAMBDA { turn(edge_z[j * size.m + c], x_z[i * size.m + c]); });
            });
        });
    }

    // Row j of the triangle is row j of those that departure left, times `factor`. `a_inverse`: 1 over its leading entry there.
    template <class J>
    SMNN_INLINE void take_top(J j, P& factor, P& a_inverse) {
        const P a = x_next[j * size.n + j];
        a_inverse = reciprocal(a);
        factor = x_weight[j] * a * x_factor[j];
        weight[j] = x_weight[j] * (a * a) * x_factor[j];
        const auto is_noise = weight[j] <= splat<P>(NOISE2) * norm2_next[j];
        if constexpr (Size::fixed) {
            left_out = left_out | is_noise;
        } else {
            if (any(is_noise)) find_top(j, factor, a_inverse);
        }
        if (size.Q > 0) return;  // (else it is there after the first equation)
        inverse[j] = reciprocal(weight[j]);
        repeat_from(next(j), size.n, [&](auto k) SMNN_LAMBDA { own[j * size.n + k] = x_next[j * size.n + k] * factor; });
        if constexpr (Chunked) {
            repeat(size.n, [&](auto k) SMNN_LAMBDA { left[j * size.n + k] = x_left[j * size.n + k] * factor; });
        }
        if constexpr (Rhs) each_column([&](auto c) SMNN_LAMBDA { z[j * size.m + c] = x_z[j * size.m + c] * factor; });
    }

    // Where that starts with zero, from an equation that does not. (In other lanes nothing changes, to the last bit.)
    SMNN_INLINE void find_top(int j, P& factor, P& a_inverse) {
        const P zero = splat<P>(0), one = splat<P>(1), noise = noise_in(norm2_next[j]);
        repeat(size.Q, [&](auto q) SMNN_LAMBDA {
            const auto i = plus(size.n, q);
            const P b = x_next[i * size.n + j], b_factor = x_weight[i] * b * x_factor[i], square = b_factor * b;
            const auto mask = select(weight[j] <= noise, select(square <= noise, zero, one), zero) != zero;
            repeat_from(j, size.n, [&](auto k) SMNN_LAMBDA {
                swap_lanes(mask, x_next[j * size.n + k], x_next[i * size.n + k]);
            });
            if constexpr (Chunked) {
                repeat(size.n, [&](auto k) SMNN_LAMBDA {
                    swap_lanes(mask, x_left[j * size.n + k], x_left[i * size.n + k]);
                });
            }
            if constexpr (Rhs) each_column([&](auto c) SMNN_LAMBDA { swap_lanes(mask, x_z[j * size.m + c], x_z[i * size.m + c]); });
            swap_lanes(mask, x_weight[j], x_weight[i]);
            swap_lanes(mask, x_factor[j], x_factor[i]);
            weight[j] = select(mask, square, weight[j]);
            factor = select(mask, b_factor, factor);
        });
        const auto none = weight[j] <= noise;
        degenerate = degenerate | any(none);  // (GCC 12 fails to compile a "||" here)
        // (never zero itself: then a rotation by a row that starts with zero changes nothing)
        weight[j] = select(none, -(x_weight[j] * x_factor[j]) - splat<P>(SMALLEST), weight[j]);
        factor = select(none, one, factor);
        a_inverse = reciprocal(select(none, one, x_next[j * size.n + j]));
        repeat(size.Q, [&](auto q) SMNN_LAMBDA {
            P& below = x_next[(size.n + q) * size.n + j];
            below = select(none, zero, below);
        });
    }
    // The square of a leading entry that is a zero, not computed exactly, in a column of this squared norm; in one that is
    // infinite, none is.
    SMNN_INLINE static P noise_in(const P& column_norm2) {
        const P zero = splat<P>(0), noise = splat<P>(NOISE2) * column_norm2;
        return select(noise - noise == zero, noise, zero);
    }
    static constexpr T NOISE2 = 1e-150, SMALLEST = 1e-300;

    // The final rows of the last point, which has no next one.
    template <class Rows>
    SMNN_INLINE void finish(const Rows& rows, int t, P* f, P* f_z) {
        const P zero = splat<P>(0), one = splat<P>(1), tolerance2 = splat<P>(scheme.tolerance2);
        const FactorLayout<Chunked> at{size.n, size.K};
        auto bad_any = one < one;
        for (int i = 0; i < at.entries(); ++i) f[i] = zero;
        for (int j = 0; j < size.n; ++j) {
            const auto bad = weight[j] <= tolerance2 * norm2[j];
            bad_any = bad_any | bad;
            f[at.row(j)] = one / select(weight[j] <= zero, one, weight[j]);
            for (int k = j + 1; k < size.n; ++k) f[at.row(j) + k - j] = own[j * size.n + k];
            if constexpr (Rhs) each_column([&](auto c) SMNN_LAMBDA { f_z[c * size.z_step + j] = z[j * size.m + c]; });
        }
        if (any(bad_any)) rows.mark_undetermined(t, bad_any);
    }
};

}  // namespace SMNN_LEVEL
}  // namespace smnn
