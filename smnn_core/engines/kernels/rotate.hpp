// Elimination of single equations without square roots: the sweep of sweep.hpp by fast Givens rotations.
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
// Either row's new value is as accurate as that row, whichever is the larger: unlike reflections, rotations need no
// exchange of rows, which takes branches that depend on the data. Where a whole column is zero, the triangle's row keeps its
// other entries with a leading 0, and its weight stands, negative, in the place of d; for such rows, and for zeros at the top
// of a column, there are `exchange` and `find_top`. In a chunk, what arrival leaves goes into a triangle on its edge whose rows are empty at first:
// see `leave_to_edge`.
#pragma once

#include "factor.hpp"
#include "tape.hpp"

namespace smnn {
namespace SMNN_LEVEL {

template <class P, class Size, bool Chunked, bool Rhs>
struct Rotations {
    using T = typename Lanes<P>::Scalar;
    static constexpr int n = Capacity<Size>::n, R = Capacity<Size>::rows;
    static_assert(decltype(Size::V)::value == 1, "one variable");

    const Size& size;
    const SchemeRows<T>& scheme;
    NoTape tape;

    // carried from point to point: rows of the triangle, right-hand side, leading entries d (and 1 / d), and squared norms of
    // columns
    P own[n * n], z[n], weight[n], inverse[n], norm2[n];
    // the rows below it: at the current point, at the next one, right-hand side, weights
    P x_own[n * n], x_next[R * n], x_z[R], x_weight[R], x_factor[R];
    // in a chunk, the columns of either at the left separator, and the rows that touch nothing else
    static constexpr int SQUARE = Chunked ? n * n : 1;
    P left[SQUARE], x_left[Chunked ? R * n : 1];
    P edge[SQUARE], edge_z[n], edge_weight[n], edge_inverse[n], edge_norm2[n], edge_noise[n];
    // the triangle's columns at the next point
    P top_next[n * n];
    P p[n], norm2_next[n];
    bool degenerate = false;  // some row of the triangle has a leading 0

    SMNN_INLINE Rotations(const Size& size_, const SchemeRows<T>& scheme_, P*, P*, NoTape tape_ = {})
        : size(size_), scheme(scheme_), tape(tape_) {
        // (compilers do not see that `load` or `start` comes first)
        const P zero = splat<P>(0);
        repeat(size.n, [&](auto j) SMNN_LAMBDA {
            repeat(size.n, [&](auto k) SMNN_LAMBDA { own[j * n + k] = zero; });
            z[j] = weight[j] = inverse[j] = norm2[j] = zero;
            if constexpr (Chunked) {
                repeat(size.n, [&](auto k) SMNN_LAMBDA { left[j * n + k] = edge[j * n + k] = zero; });
                edge_z[j] = edge_weight[j] = edge_inverse[j] = edge_norm2[j] = edge_noise[j] = zero;
            }
        });
    }

    SMNN_INLINE void load(const P* memory) {
        const CarriedLayout<Chunked> at{n};
        repeat(size.n, [&](auto j) SMNN_LAMBDA {
            repeat(size.n, [&](auto k) SMNN_LAMBDA {
                if (k > j) own[j * n + k] = memory[at.own() + j * n + k];
            });
            weight[j] = memory[at.own() + j * n + j];
            inverse[j] = reciprocal(weight[j]);
            z[j] = memory[at.z() + j];
            norm2[j] = memory[at.norm2() + j];
            if constexpr (Chunked) {
                repeat(size.n, [&](auto k) SMNN_LAMBDA {
                    left[j * n + k] = memory[at.left() + j * n + k];
                    if (k > j) edge[j * n + k] = memory[at.edge() + j * n + k];
                });
                edge_weight[j] = memory[at.edge() + j * n + j];
                edge_inverse[j] = inverse_or_one(edge_weight[j]);
                edge_z[j] = memory[at.edge_z() + j];
                edge_norm2[j] = memory[at.edge_norm2() + j];
                edge_noise[j] = noise_in(edge_norm2[j]);
            }
        });
        auto negative = weight[0] < splat<P>(0);
        repeat(size.n, [&](auto j) SMNN_LAMBDA { negative = negative | (weight[j] < splat<P>(0)); });
        degenerate = any(negative);
    }
    SMNN_INLINE void save(P* memory) const {
        const CarriedLayout<Chunked> at{n};
        repeat(size.n, [&](auto j) SMNN_LAMBDA {
            repeat(size.n, [&](auto k) SMNN_LAMBDA {
                if (k > j) memory[at.own() + j * n + k] = own[j * n + k];
            });
            memory[at.own() + j * n + j] = weight[j];
            memory[at.z() + j] = z[j];
            memory[at.norm2() + j] = norm2[j];
            if constexpr (Chunked) {
                repeat(size.n, [&](auto k) SMNN_LAMBDA {
                    memory[at.left() + j * n + k] = left[j * n + k];
                    if (k > j) memory[at.edge() + j * n + k] = edge[j * n + k];
                });
                memory[at.edge() + j * n + j] = edge_weight[j];
                memory[at.edge_z() + j] = edge_z[j];
                memory[at.edge_norm2() + j] = edge_norm2[j];
            }
        });
    }

    // The same as rows without weights.
    SMNN_OUTLINE static void to_plain(P* memory) {
        const CarriedLayout<Chunked> at{n};
        const P zero = splat<P>(0), one = splat<P>(1);
        for (int j = 0; j < n; ++j) {
            P& leading = memory[at.own() + j * n + j];
            const P weight = root(magnitude(leading)), factor = select(leading < zero, weight, one / weight);
            for (int k = j + 1; k < n; ++k) memory[at.own() + j * n + k] *= factor;
            memory[at.z() + j] *= factor;
            leading = select(leading < zero, zero, weight);
            if constexpr (Chunked) {
                for (int k = 0; k < n; ++k) memory[at.left() + j * n + k] *= factor;
                P& edge_leading = memory[at.edge() + j * n + j];
                edge_leading = root(edge_leading);
                const auto is_empty = edge_leading == zero;
                const P edge_factor = select(is_empty, zero, one / select(is_empty, one, edge_leading));
                for (int k = j + 1; k < n; ++k) memory[at.edge() + j * n + k] *= edge_factor;
                memory[at.edge_z() + j] *= edge_factor;
            }
        }
    }
    SMNN_OUTLINE static void to_weighted(P* memory) {
        const CarriedLayout<Chunked> at{n};
        const P one = splat<P>(1);
        for (int j = 0; j < n; ++j) {
            P& leading = memory[at.own() + j * n + j];
            const auto none = leading * leading <= noise_in(memory[at.norm2() + j]);
            const P factor = select(none, one, leading);
            for (int k = j + 1; k < n; ++k) memory[at.own() + j * n + k] *= factor;
            memory[at.z() + j] *= factor;
            leading = select(none, -one, leading * leading);
            if constexpr (Chunked) {
                for (int k = 0; k < n; ++k) memory[at.left() + j * n + k] *= factor;
                P& edge_leading = memory[at.edge() + j * n + j];
                // (what is nothing to its column may be raised to the noise in it, and then the row is as any other)
                const P square = edge_leading * edge_leading, noise = noise_in(memory[at.edge_norm2() + j]);
                const P raised = select(square <= noise, root(noise), edge_leading);
                for (int k = j + 1; k < n; ++k) memory[at.edge() + j * n + k] *= raised;
                memory[at.edge_z() + j] *= raised;
                edge_leading = raised * raised;
            }
        }
    }

    SMNN_INLINE static P inverse_or_one(const P& x) {
        const P one = splat<P>(1);
        return reciprocal(select(x == splat<P>(0), one, x));
    }

    SMNN_INLINE P S(int i, int j) const { return splat<P>(scheme.S[i * 2 * n + j]); }

    // Row i of [S11 S12] of the step into point t, times its powers p.
    template <class Rows>
    SMNN_INLINE void set_row(const Rows& rows, int t, int i) {
        repeat(size.n, [&](auto k) SMNN_LAMBDA {
            if (i > k) return;
            x_own[i * n + k] = S(i, k) * p[k];
            x_next[i * n + k] = S(i, n + k) * p[k];
        });
        x_z[i] = Rhs && rows.has_smoothness_rhs() ? p[0] * rows.smoothness_rhs(t, 0, i) : splat<P>(0);
        x_weight[i] = x_factor[i] = splat<P>(1);
    }

    // w s^o of the step into point t
    template <class Rows>
    SMNN_INLINE void set_powers(const Rows& rows, int t) {
        const P s = rows.s(t);
        p[0] = rows.w_smoothness(t);
        repeat(size.n, [&](auto o) SMNN_LAMBDA {
            if (o > 0) p[o] = p[o > 0 ? o - 1 : 0] * s;
        });
    }

    // Puts the sweep before its first point. A chunk starts with the step from the separator, whose weight is zero in a
    // lane that has none.
    template <class Rows>
    SMNN_INLINE void start(const Rows& rows) {
        const P zero = splat<P>(0);
        if constexpr (Chunked) {
            set_powers(rows, 0);
        } else {
            repeat(size.n, [&](auto o) SMNN_LAMBDA { p[o] = zero; });
        }
        repeat(size.n, [&](auto o) SMNN_LAMBDA { norm2_next[o] = splat<P>(scheme.norm2[n + o]) * p[o] * p[o]; });
        repeat(size.n, [&](auto i) SMNN_LAMBDA { set_row(rows, 0, i); });
        if constexpr (Chunked) {
            repeat(size.n, [&](auto i) SMNN_LAMBDA {
                repeat(size.n, [&](auto k) SMNN_LAMBDA {
                    x_left[i * n + k] = i <= k ? x_own[i * n + k] : zero;
                    edge[i * n + k] = zero;
                });
                edge_z[i] = zero;
                edge_weight[i] = zero;
                edge_inverse[i] = splat<P>(1);
                edge_norm2[i] = splat<P>(scheme.norm2[i]) * p[i] * p[i];
                edge_noise[i] = noise_in(edge_norm2[i]);
            });
        }
    }

    // From the point before t towards t: its final rows go to f and f_z, where they are kept.
    template <bool Keep = true, class Rows>
    SMNN_INLINE void depart(const Rows& rows, int t, P* SMNN_RESTRICT f, P* SMNN_RESTRICT f_z) {
        const P one = splat<P>(1), tolerance2 = splat<P>(scheme.tolerance2);
        set_powers(rows, t);
        const FactorLayout<Chunked> at{n, n};
        auto bad_any = one < one;
        // row j with the row below that starts in column j as well, then with the one that did so a column before, ...
        repeat(size.n, [&](auto final) SMNN_LAMBDA {
            constexpr int j = decltype(final)::value;
            repeat(Int<n - j>(), [&](auto i) SMNN_LAMBDA {
                if (j == 0) set_row(rows, t, i);
                rotate<j + decltype(i)::value, decltype(i)::value>();
            });
            const P square = p[j] * p[j], total = norm2[j] + splat<P>(scheme.norm2[j]) * square;
            norm2_next[j] = splat<P>(scheme.norm2[n + j]) * square;
            const auto bad = weight[j] <= tolerance2 * total;
            bad_any = bad_any | bad;
            if constexpr (!Keep) return;
            f[at.row(j)] = select(bad, one, inverse[j]);
            repeat(size.n, [&](auto k) SMNN_LAMBDA {
                if (k > j) f[at.row(j) + k - j] = own[j * n + k];
                f[at.next(j) + k] = top_next[j * n + k];
                if constexpr (Chunked) f[at.left(j) + k] = left[j * n + k];
            });
            if constexpr (Rhs) f_z[j] = z[j];
        });
        if (any(bad_any)) rows.mark_undetermined(t - 1, bad_any);
    }

    // Row i below into row j of the triangle, in column j.
    template <int j, int i>
    SMNN_INLINE void rotate() {
        P b = x_own[i * n + j];
        // (before their first rotation row j has zeros at the next point, up to its column i, and row i at the left separator)
        constexpr bool first = i == j;
        constexpr auto is_new = [](int k) { return first || k == i; };
        if (degenerate) {
            repeat(size.n, [&](auto k) SMNN_LAMBDA {
                if (k >= i && is_new(k)) top_next[j * n + k] = splat<P>(0);
                if constexpr (Chunked && first) x_left[i * n + k] = splat<P>(0);
            });
            b = exchange<j, i>(b);
        }
        const Turn turn(b, weight[j], inverse[j], x_weight[i], x_factor[i]);
        repeat(Int<n - 1 - j>(), [&](auto k_) SMNN_LAMBDA {
            constexpr int k = j + 1 + decltype(k_)::value;
            turn(own[j * n + k], x_own[i * n + k]);
        });
        repeat(Int<n - i>(), [&](auto k_) SMNN_LAMBDA {
            constexpr int k = i + decltype(k_)::value;
            P &top = top_next[j * n + k], &x = x_next[i * n + k];
            if (is_new(k)) {
                const P entry = turn.eb * x;
                top = degenerate ? entry + top : entry;  // (one that was exchanged: x is 0)
            } else {
                turn(top, x);
            }
        });
        if constexpr (Chunked) {
            repeat(size.n, [&](auto k) SMNN_LAMBDA {
                P &top = left[j * n + k], &x = x_left[i * n + k];
                if (first && !degenerate) {
                    x = -(turn.g * top);
                } else {
                    turn(top, x);
                }
            });
        }
        if constexpr (Rhs) turn(z[j], x_z[i]);
        if (RESCALES && turn.small) {
            repeat(size.n, [&](auto k) SMNN_LAMBDA {
                if (k > j) x_own[i * n + k] *= turn.scale;
                if (k >= i) x_next[i * n + k] *= turn.scale;
                if constexpr (Chunked) x_left[i * n + k] *= turn.scale;
            });
            if constexpr (Rhs) x_z[i] *= turn.scale;
        }
    }

    // A rotation. Takes d, 1 / d and e to what they are after it.
    //
    // A sweep waits for little else than one weight after the other. Hence e is a product whose second factor comes last:
    // what that is multiplied by is there before.
    //
    // In single precision, where the row below is much the larger one (e' / e below SMALL_WEIGHT), it is given the weight 1,
    // and has to be multiplied by `scale` afterwards: else its weight might vanish in the n rotations that it goes through,
    // and its entries, which grow instead, over d might be more than there are numbers for.
    struct Turn {
        P eb, g, scale;
        bool small = false;

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
            if constexpr (RESCALES) {
                P c = d * inverse;
                if (MayBeEmpty) c = select(b == splat<P>(0), one, c);
                e *= factor;
                const auto mask = c < splat<P>(SMALL_WEIGHT);
                small = any(mask);
                if (small) {
                    scale = select(mask, root(d) * root(e * inverse), one);
                    e = select(mask, one, e);
                    c = select(mask, one, c);
                }
                factor = c;
            } else if (MayBeEmpty) {
                e *= select(b == splat<P>(0), one, d * inverse) * factor;
                factor = one;
            } else {
                e = e * d * factor;
                factor = inverse;
            }
            d = sum;
        }
    };

    // Where row j of the triangle has a leading 0, and the row below has not, they change places. Returns the leading entry
    // of the row below.
    template <int j, int i>
    SMNN_INLINE P exchange(const P& b) {
        const P zero = splat<P>(0), one = splat<P>(1), d = weight[j], e = x_weight[i] * x_factor[i], square = e * b * b;
        const P noise = noise_in(norm2[j] + splat<P>(scheme.norm2[j]) * p[j] * p[j]);
        const auto mask = select(d < zero, select(square <= noise, zero, one), zero) != zero;  // (not a number: one)
        const P factor = e * b;
        const auto swap = [&](P& top, P& x) SMNN_LAMBDA {
            const P kept = top;
            top = select(mask, x * factor, top);
            x = select(mask, kept, x);
        };
        repeat(size.n, [&](auto k) SMNN_LAMBDA {
            if (k > j) swap(own[j * n + k], x_own[i * n + k]);
            if (k >= i) swap(top_next[j * n + k], x_next[i * n + k]);
            if constexpr (Chunked) swap(left[j * n + k], x_left[i * n + k]);
        });
        if constexpr (Rhs) swap(z[j], x_z[i]);
        weight[j] = select(mask, square, d);
        x_weight[i] = select(mask, -d, x_weight[i]);
        if (i < j) x_factor[i] = select(mask, one, x_factor[i]);  // (1 before the first rotation)
        return select(d < zero, zero, b);
    }

    // At point t: the rows that departure left and the equations become the triangle.
    template <class Rows>
    SMNN_INLINE void arrive(const Rows& rows, int t) {
        degenerate = false;
        repeat(size.Q, [&](auto q) SMNN_LAMBDA {
            const P w = rows.w_equation(t, q);
            repeat(size.n, [&](auto k) SMNN_LAMBDA {
                const P x = w * rows.c(t, q, k);
                norm2_next[k] += x * x;
                x_next[(n + q) * n + k] = x;
                if constexpr (Chunked) x_left[(n + q) * n + k] = splat<P>(0);
            });
            if constexpr (Rhs) x_z[n + q] = w * rows.b(t, q);
            x_weight[n + q] = x_factor[n + q] = splat<P>(1);
        });
        repeat(size.n, [&](auto j_) SMNN_LAMBDA {
            constexpr int j = decltype(j_)::value;
            const P a_inverse = take_top<j>();
            repeat(size.Q, [&](auto q) SMNN_LAMBDA {
                constexpr int i = n + decltype(q)::value;
                const P b = x_next[i * n + j], b_d = q == 0 ? b * a_inverse : b * inverse[j];
                const Turn turn(b, b_d, weight[j], inverse[j], x_weight[i], x_factor[i]);
                const auto take = [&](P& top, const P& first, P& x) SMNN_LAMBDA {
                    if (q > 0) return turn(top, x);
                    top += turn.eb * x;
                    x -= turn.g * first;
                };
                repeat(Int<n - 1 - j>(), [&](auto k_) SMNN_LAMBDA {
                    constexpr int k = j + 1 + decltype(k_)::value;
                    take(own[j * n + k], x_next[j * n + k], x_next[i * n + k]);
                });
                if constexpr (Chunked) {
                    repeat(size.n, [&](auto k) SMNN_LAMBDA {
                        take(left[j * n + k], x_left[j * n + k], x_left[i * n + k]);
                    });
                }
                if constexpr (Rhs) take(z[j], x_z[j], x_z[i]);
                if (RESCALES && turn.small) {
                    repeat(Int<n - 1 - j>(), [&](auto k) SMNN_LAMBDA { x_next[i * n + j + 1 + k] *= turn.scale; });
                    if constexpr (Chunked) {
                        repeat(size.n, [&](auto k) SMNN_LAMBDA { x_left[i * n + k] *= turn.scale; });
                    }
                    if constexpr (Rhs) x_z[i] *= turn.scale;
                }
            });
            norm2[j] = norm2_next[j];
        });
        if constexpr (Chunked) leave_to_edge();
    }

    // The rows below the triangle touch the left separator alone. A row of the edge is empty until one arrives that does not
    // start with zero.
    SMNN_INLINE void leave_to_edge() {
        repeat(Int<R - n>(), [&](auto q) SMNN_LAMBDA {
            constexpr int i = n + decltype(q)::value;
            repeat(size.n, [&](auto j_) SMNN_LAMBDA {
                constexpr int j = decltype(j_)::value;
                // (what comes from the separator decays, as a rule, until it is nothing)
                const P b = x_left[i * n + j], zero = splat<P>(0);
                const P taken = select(x_weight[i] * x_factor[i] * b * b <= edge_noise[j], zero, b);
                if (!any(taken != zero)) return;
                const Turn turn = Turn::into_any(taken, edge_weight[j], edge_inverse[j], x_weight[i], x_factor[i]);
                repeat(Int<n - 1 - j>(), [&](auto k_) SMNN_LAMBDA {
                    constexpr int k = j + 1 + decltype(k_)::value;
                    turn(edge[j * n + k], x_left[i * n + k]);
                });
                if constexpr (Rhs) turn(edge_z[j], x_z[i]);
                if (RESCALES && turn.small) {
                    repeat(Int<n - 1 - j>(), [&](auto k) SMNN_LAMBDA { x_left[i * n + j + 1 + k] *= turn.scale; });
                    if constexpr (Rhs) x_z[i] *= turn.scale;
                }
            });
        });
    }

    // Row j of the triangle from row j of those that departure left. Returns 1 over the leading entry of the latter.
    template <int j>
    SMNN_INLINE P take_top() {
        P a = x_next[j * n + j], a_inverse = reciprocal(a), factor = x_weight[j] * a * x_factor[j];
        weight[j] = x_weight[j] * (a * a) * x_factor[j];
        if (any(weight[j] <= splat<P>(NOISE2) * norm2_next[j])) find_top<j>(factor, a_inverse);
        if (size.Q == 0) inverse[j] = reciprocal(weight[j]);
        repeat(Int<n - 1 - j>(), [&](auto k_) SMNN_LAMBDA {
            constexpr int k = j + 1 + decltype(k_)::value;
            own[j * n + k] = x_next[j * n + k] * factor;
        });
        if constexpr (Chunked) {
            repeat(size.n, [&](auto k) SMNN_LAMBDA { left[j * n + k] = x_left[j * n + k] * factor; });
        }
        if constexpr (Rhs) z[j] = x_z[j] * factor;
        return a_inverse;
    }

    // Where that starts with zero, from an equation that does not. (In other lanes nothing changes, to the last bit.)
    template <int j>
    SMNN_INLINE void find_top(P& factor, P& a_inverse) {
        const P zero = splat<P>(0), one = splat<P>(1), noise = noise_in(norm2_next[j]);
        repeat(size.Q, [&](auto q) SMNN_LAMBDA {
            constexpr int i = n + decltype(q)::value;
            const P b = x_next[i * n + j], b_factor = x_weight[i] * b * x_factor[i], square = b_factor * b;
            const auto mask = select(weight[j] <= noise, select(square <= noise, zero, one), zero) != zero;
            repeat(Int<n - j>(), [&](auto k) SMNN_LAMBDA {
                swap_lanes(mask, x_next[j * n + j + k], x_next[i * n + j + k]);
            });
            if constexpr (Chunked) {
                repeat(size.n, [&](auto k) SMNN_LAMBDA { swap_lanes(mask, x_left[j * n + k], x_left[i * n + k]); });
            }
            if constexpr (Rhs) swap_lanes(mask, x_z[j], x_z[i]);
            swap_lanes(mask, x_weight[j], x_weight[i]);
            swap_lanes(mask, x_factor[j], x_factor[i]);
            weight[j] = select(mask, square, weight[j]);
            factor = select(mask, b_factor, factor);
        });
        const auto none = weight[j] <= noise;
        degenerate = degenerate || any(none);
        // (never zero itself: then a rotation by a row that starts with zero changes nothing)
        weight[j] = select(none, -(x_weight[j] * x_factor[j]) - splat<P>(SMALLEST), weight[j]);
        factor = select(none, one, factor);
        a_inverse = reciprocal(select(none, one, x_next[j * n + j]));
        repeat(size.Q, [&](auto q) SMNN_LAMBDA {
            P& below = x_next[(n + q) * n + j];
            below = select(none, zero, below);
        });
    }
    // The square of a leading entry that is a zero, not computed exactly, in a column of this squared norm; in one that is
    // infinite, none is.
    SMNN_INLINE static P noise_in(const P& column_norm2) {
        const P zero = splat<P>(0), noise = splat<P>(NOISE2) * column_norm2;
        return select(noise - noise == zero, noise, zero);
    }
    static constexpr T NOISE2 = sizeof(T) == 8 ? T(1e-50) : T(1e-20);
    static constexpr bool RESCALES = sizeof(T) == 4;
    static constexpr T SMALL_WEIGHT = T(1e-7);
    static constexpr T SMALLEST = sizeof(T) == 8 ? T(1e-300) : T(1e-37);

    // The final rows of the last point, which has no next one.
    template <class Rows>
    SMNN_INLINE void finish(const Rows& rows, int t, P* f, P* f_z) {
        const P zero = splat<P>(0), one = splat<P>(1), tolerance2 = splat<P>(scheme.tolerance2);
        const FactorLayout<Chunked> at{n, n};
        auto bad_any = one < one;
        for (int i = 0; i < at.entries(); ++i) f[i] = zero;
        for (int j = 0; j < n; ++j) {
            const auto bad = weight[j] <= tolerance2 * norm2[j];
            bad_any = bad_any | bad;
            f[at.row(j)] = one / select(bad, one, weight[j]);
            for (int k = j + 1; k < n; ++k) f[at.row(j) + k - j] = own[j * n + k];
            if constexpr (Rhs) f_z[j] = z[j];
        }
        if (any(bad_any)) rows.mark_undetermined(t, bad_any);
    }
};

}  // namespace SMNN_LEVEL
}  // namespace smnn
