// Elimination of separators, side by side: the chain of what chunks left, itself divided into chunks.
//
// Item k of a chain, in the form of CarriedLayout<true>, has rows that touch separator k (`own`, a triangle) with columns
// `spike` at separator k-1, and rows that touch separator k-1 alone (`boundary`, a triangle). Eliminating separators k, k+1,
// .. of a chunk but the last leaves one item of the same form, so that chains are divided again and again until one lane can
// sweep what is left. Separator k becomes
//
//     R y[k] + G y[k+1] + L y[left] = z
//
// with `left` the last separator of the chunk before, stored as R (n, n) with inverse diagonal, G (n, n) and, chunked,
// L (n, n). As everywhere, rows of triangles count with the inverse of their pivots (rotate.hpp).
#pragma once

#include "factor.hpp"
#include "tape.hpp"
#include "team.hpp"

namespace smnn {
namespace SMNN_LEVEL {

// Entries of the factor of one separator.
template <int N, bool Chunked>
constexpr int CHAIN_ENTRIES = (Chunked ? 3 : 2) * N * N;

// N: the capacity of arrays. n: the same number, as Int<N> where loops are to be unrolled, else as an int. A thread has
// arrays of its own or, N being 0, the memory that it is given: packs(n, m). A team shares that memory: ROOM and that of f and z.
// m: right-hand sides, Int<1> or, where N is 0, an int.
template <class P, class Count, int N, bool Chunked, class Team = Alone, class Tape = NoTape, class Rhs = Int<1>>
struct ChainSweep {
    static constexpr int rows_of(int n, int m = 1) { return n * ((Chunked ? 3 : 2) * n + m); }
    static constexpr int boundary_of(int n, int m = 1) { return Chunked ? n * (n + m) : 1; }
    static constexpr int packs(int n, int m = 1) { return 2 * rows_of(n, m) + boundary_of(n, m) + 4 * n; }
    static constexpr int ROWS = rows_of(N), BOUNDARY = boundary_of(N), ROOM = packs(N) + 3 * N;
    using T = typename Lanes<P>::Scalar;
    template <int Size>
    using Piece = Array<P, Team::size == 1 ? Size : 0>;

    const Count n;
    const Rhs m;
    const Team team;
    Piece<ROWS> triangle, below;
    Piece<BOUNDARY> boundary;
    Piece<N> norm2, boundary_norm2, weight, factor;
    P* const room;  // of teams, for rotations
    Tape tape{};

    // memory (packs(n, m), and 3 n more for a team): null where a thread has arrays of its own
    SMNN_INLINE explicit ChainSweep(Count n_, P* memory = nullptr, Team team_ = {}, Rhs m_ = {})
        : n(n_),
          m(m_),
          team(team_),
          triangle(memory, rows_of(N ? N : int(n), m_)),
          below(memory, rows_of(N ? N : int(n), m_)),
          boundary(memory, boundary_of(N ? N : int(n), m_)),
          norm2(memory, N ? N : int(n)),
          boundary_norm2(memory, N ? N : int(n)),
          weight(memory, N ? N : int(n)),
          factor(memory, N ? N : int(n)),
          room(memory) {}

    // At the first separator of the chunk; item(e): entry e of its item.
    template <class Item>
    SMNN_INLINE void start(Item item) {
        const CarriedLayout<true> at{n, m};
        const P zero = splat<P>(0);
        each_row([&](auto i) SMNN_LAMBDA {
            P* const row = triangle + i * columns();
            repeat(n, [&](auto j) SMNN_LAMBDA {
                row[j] = j >= i ? item(at.own() + i * n + j) : zero;
                row[n + j] = zero;
                if constexpr (Chunked) {
                    row[left() + j] = item(at.spike() + i * n + j);
                    boundary[i * boundary_columns() + j] = j >= i ? item(at.boundary() + i * n + j) : zero;
                }
            });
            each_rhs([&](auto c) SMNN_LAMBDA { row[rhs() + c] = item(at.z() + i * m + c); });
            norm2[i] = item(at.norm2() + i);
            if constexpr (Chunked) {
                each_rhs([&](auto c) SMNN_LAMBDA {
                    boundary[i * boundary_columns() + n + c] = item(at.boundary_z() + i * m + c);
                });
                boundary_norm2[i] = item(at.boundary_norm2() + i);
            }
        });
    }

    // From this separator to the next, whose item it is: the final rows of this one go to f (CHAIN_ENTRIES) and f_z (m, n), whose
    // right-hand sides are z_step apart. Returns where it is undetermined.
    template <class Item>
    SMNN_INLINE auto advance(Item item, T tolerance2, P* f, P* f_z, Index z_step = 0) {
        const CarriedLayout<true> at{n, m};
        const P zero = splat<P>(0);
        // the rows of the item that touch this separator alone,
        set_below(item, at.boundary(), at.boundary_z(), [&](auto i, auto j, P* row) SMNN_LAMBDA {
            row[j] = j >= i ? item(at.boundary() + i * n + j) : zero;
            row[n + j] = zero;
        });
        each_row([&](auto j) SMNN_LAMBDA { norm2[j] += item(at.boundary_norm2() + j); });
        absorb(triangle, columns(), below);
        absorb_into_boundary();
        leave_rows();
        // and those that couple it to the next one;
        set_below(item, at.own(), at.z(), [&](auto i, auto j, P* row) SMNN_LAMBDA {
            row[j] = item(at.spike() + i * n + j);
            row[n + j] = j >= i ? item(at.own() + i * n + j) : zero;
        });
        absorb(triangle, columns(), below);
        const auto bad = finish(tolerance2, f, f_z, z_step);
        // what is left of these becomes the triangle of the next separator.
        each_row([&](auto i) SMNN_LAMBDA {
            P *const row = triangle + i * columns(), *const x = below + i * columns();
            repeat(columns(), [&](auto k) SMNN_LAMBDA { row[k] = k == i ? splat<P>(EMPTY<T>) : zero; });
            repeat(n, [&](auto k) SMNN_LAMBDA {
                x[k] = x[n + k];
                x[n + k] = zero;
            });
            norm2[i] = item(at.norm2() + i);
        });
        absorb(triangle, columns(), below);
        absorb_into_boundary();
        leave_rows();
        return bad;
    }

    // The triangle as a sweep carries it: to (CarriedLayout<false>::entries()).
    SMNN_INLINE void state(P* to) const {
        const CarriedLayout<false> at{n, m};
        for (int i = 0; i < n; ++i) {
            const P* const row = triangle.data + i * columns();
            for (int j = 0; j < n; ++j) to[at.own() + i * n + j] = row[j];
            for (int c = 0; c < m; ++c) to[at.z() + i * m + c] = row[rhs() + c];
            to[at.norm2() + i] = norm2.data[i];
        }
    }

    // The final rows of this separator, f (CHAIN_ENTRIES) and f_z (m, n), right-hand sides z_step apart. Returns where it is
    // undetermined.
    SMNN_INLINE auto finish(T tolerance2, P* f, P* f_z, Index z_step = 0) {
        auto bad_any = splat<P>(1) < splat<P>(0);
        team.sync();  // (f may hold the rows before)
        repeat(n, [&](auto j) SMNN_LAMBDA {
            bad_any = bad_any | (triangle[j * columns() + j] <= splat<P>(tolerance2) * norm2[j]);
        });
        each_row([&](auto j) SMNN_LAMBDA {
            const P* const row = triangle + j * columns();
            repeat(n, [&](auto k) SMNN_LAMBDA {
                f[j * n + k] = k > j ? row[k] : splat<P>(0);
                f[n * n + j * n + k] = row[n + k];
                if constexpr (Chunked) f[2 * n * n + j * n + k] = row[left() + k];
            });
            f[j * n + j] = reciprocal(row[j]);
            each_rhs([&](auto c) SMNN_LAMBDA { f_z[c * z_step + j] = row[rhs() + c]; });
        });
        return bad_any;
    }

    // The rest of the chunk, an item of the next chain: put(e, x).
    template <class Put>
    SMNN_INLINE void leave(Put put) {
        static_assert(Chunked, "a chain that is not divided leaves nothing");
        const CarriedLayout<true> at{n, m};
        each_row([&](auto i) SMNN_LAMBDA {
            const P* const row = triangle + i * columns();
            repeat(n, [&](auto j) SMNN_LAMBDA {
                put(at.own() + i * n + j, row[j]);
                put(at.spike() + i * n + j, row[left() + j]);
                put(at.boundary() + i * n + j, boundary[i * boundary_columns() + j]);
            });
            each_rhs([&](auto c) SMNN_LAMBDA {
                put(at.z() + i * m + c, row[rhs() + c]);
                put(at.boundary_z() + i * m + c, boundary[i * boundary_columns() + n + c]);
            });
            put(at.norm2() + i, norm2[i]);
            put(at.boundary_norm2() + i, boundary_norm2[i]);
        });
    }

   private:
    // A row has columns at this separator, from n on at the next one, then at the left one, and its right-hand sides.
    SMNN_INLINE auto left() const { return plus(n, n); }
    SMNN_INLINE auto rhs() const {
        if constexpr (Chunked) {
            return plus(left(), n);
        } else {
            return left();
        }
    }
    SMNN_INLINE auto columns() const { return plus(rhs(), m); }
    SMNN_INLINE auto boundary_columns() const { return plus(n, m); }
    template <class F>
    SMNN_INLINE void each_rhs(F f) const {
        repeat(m, f);
    }

    template <class F>
    SMNN_INLINE void each_row(F f) const {
        team.share(Int<0>(), n, f);
        team.sync();
    }

    // Rows below the triangle, of a triangle in the item: its entries start at `pivots`, its right-hand sides at `z`.
    template <class Item, class Set>
    SMNN_INLINE void set_below(Item item, int pivots, int z, Set set) {
        each_row([&](auto i) SMNN_LAMBDA {
            P* const row = below + i * columns();
            repeat(n, [&](auto j) SMNN_LAMBDA {
                set(i, j, row);
                if constexpr (Chunked) row[left() + j] = splat<P>(0);
            });
            each_rhs([&](auto c) SMNN_LAMBDA { row[rhs() + c] = item(z + i * m + c); });
            weight[i] = reciprocal(item(pivots + i * n + i));
            factor[i] = splat<P>(1);
        });
    }

    // The rows below, or their last columns, x (n, count), into a triangle, rows (n, count). Those of x are columns() apart.
    template <class Columns>
    SMNN_INLINE void absorb(P* rows, Columns count, P* x) {
        repeat(n, [&](auto j) SMNN_LAMBDA {
            exchange_rows(j, count, x);
            P& pivot = rows[j * count + j];
            P inverse = reciprocal(pivot);
            team.absorb(
                room, Int<0>(), n, [&](auto i) SMNN_LAMBDA { return x[i * columns() + j]; }, pivot, inverse, weight, factor,
                [&](auto i, const Rotation<P>& rotation) SMNN_LAMBDA {
                    tape.push(rotation);
                    team.share(next(j), count, [&](auto k) SMNN_LAMBDA {
                        rotation(rows[j * count + k], x[i * columns() + k]);
                    });
                }
            );
        });
    }
    // Of the rows x (n, count), columns() apart, the one with the largest entry in column j, or one nearly as large, comes first.
    // Between rows that have nothing but rounding errors in that column, a rotation would mix large ones into small ones.
    template <class J, class Columns>
    SMNN_INLINE void exchange_rows(J j, Columns count, P* x) {
        const auto square = [&](auto i) SMNN_LAMBDA { return weight[i] * factor[i] * (x[i * columns() + j] * x[i * columns() + j]); };
        repeat_from(Int<1>(), n, [&](auto i) SMNN_LAMBDA {
            const auto mask = splat<P>(T(16)) * square(Int<0>()) < square(i);
            tape.push(select(mask, splat<P>(1), splat<P>(0)));
            if (!any(mask)) return;
            team.sync();
            team.share(j, count, [&](auto k) SMNN_LAMBDA { swap_lanes(mask, x[k], x[i * columns() + k]); });
            if (team.leads()) {
                swap_lanes(mask, weight[0], weight[i]);
                swap_lanes(mask, factor[0], factor[i]);
            }
            team.sync();
        });
    }
    SMNN_INLINE void absorb_into_boundary() {
        if constexpr (Chunked) absorb(boundary, boundary_columns(), below + left());
    }
    // Right-hand sides of rows that have no entries any more.
    SMNN_INLINE void leave_rows() {
        repeat(n, [&](auto i) SMNN_LAMBDA {
            each_rhs([&](auto c) SMNN_LAMBDA { tape.leave(c, weight[i] * factor[i], below[i * columns() + rhs() + c]); });
        });
        team.sync();  // (what comes next sets other rows)
    }
};

// Numbers on the tape of the step from a separator to the next.
SMNN_INLINE constexpr int chain_tape_entries(int n, int m, bool chunked = false) {
    return (chunked ? 5 : 3) * (n * (n - 1) + 2 * n * n) + 2 * n * m;
}

// The way back through the tape of a chain (see tape.hpp). Rows of `all`: the triangle of a separator (n), chunked that of the
// boundary (n), and those below them (n). The first `residuals` of the columns are those of the residual, of so many of the m
// right-hand sides.
template <class T, bool Chunked = false, class Count = int, class TapeOf = Tape<T>>
struct ChainUnwinding {
    const Count n;
    const int m;
    TapeOf tape;
    const RowCovariances<T> all;
    const int residuals;

    // From the triangle of a separator to that of the one before it, whose final rows `set_triangle` puts in its place. Then the
    // rows below are those that couple both, the item's own: own() sees them. At the end they are those of its boundary.
    template <class SetTriangle, class Own>
    void step(SetTriangle set_triangle, Own own) {
        leave_rows();
        absorb_back(0);
        set_triangle();
        absorb_back(0);
        own();
        leave_rows();
        absorb_back(0);
    }
    SMNN_INLINE int below() const { return Chunked ? 2 * n : int(n); }

   private:
    SMNN_INLINE int rows() const { return below() + n; }
    SMNN_INLINE void leave_rows() {
        repeat_down(n, [&](auto i) SMNN_LAMBDA {
            all.clear(below() + i, rows());
            for (int c = m - 1; c >= 0; --c) {
                const T rest = tape.pop();
                if (c < residuals) all.row(below() + i)[c] = -rest;
            }
        });
        if constexpr (Chunked) absorb_back(n);
    }
    // The last rows that were taken into a triangle, whose rows are those from `first` on.
    SMNN_INLINE void absorb_back(int first) {
        repeat_down(n, [&](auto j) SMNN_LAMBDA {
            repeat_down(n, [&](auto i) SMNN_LAMBDA {
                const T g = tape.pop(), eb = tape.pop();
                all.rotate_back(first + j, below() + i, rows(), g, eb);
            });
            repeat_down(n, [&](auto i) SMNN_LAMBDA {
                if (i > 0 && tape.pop() != T(0)) all.swap_rows(below(), below() + i, rows());
            });
        });
    }
};

// R x = z - G next - L left, for one separator, whose factor f (CHAIN_ENTRIES) is; z, next, left and x (n) each. x may be z.
template <class P, bool Chunked, class Count, class F>
SMNN_INLINE void chain_back(Count n, F f, const P* z, const P* next, const P* left, P* x) {
    const F R = f, G = f + n * n, L = f + 2 * n * n;
    for (int j = n - 1; j >= 0; --j) {
        P sum = z[j];
        for (int l = 0; l < n; ++l) sum -= G[j * n + l] * next[l];
        if constexpr (Chunked) {
            for (int l = 0; l < n; ++l) sum -= L[j * n + l] * left[l];
        }
        for (int l = j + 1; l < n; ++l) sum -= R[j * n + l] * x[l];
        x[j] = sum * R[j * n + j];
    }
}

// R^T D^-1 w = g for one separator, whose factor f (CHAIN_ENTRIES) is, in place: w (n) is g. What it subtracts from g at the
// next one is set in `next` (n), what it subtracts at the left one added to `left` (n).
template <class P, bool Chunked, class Count, class F>
SMNN_INLINE void chain_forward(Count n, F f, P* w, P* next, P* left) {
    const F R = f, G = f + n * n, L = f + 2 * n * n;
    for (int l = 0; l < n; ++l) next[l] = splat<P>(0);
    for (int j = 0; j < n; ++j) {
        const P x = w[j] * R[j * n + j];
        for (int l = j + 1; l < n; ++l) w[l] -= R[j * n + l] * x;
        for (int l = 0; l < n; ++l) next[l] += G[j * n + l] * x;
        if constexpr (Chunked) {
            for (int l = 0; l < n; ++l) left[l] += L[j * n + l] * x;
        }
    }
}

}  // namespace SMNN_LEVEL
}  // namespace smnn
