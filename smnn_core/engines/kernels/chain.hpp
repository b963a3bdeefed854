// Elimination of separators, side by side: the chain of what chunks left, itself divided into chunks.
//
// Item k of a chain, in the form of CarriedLayout<true>, has rows that touch separator k (`own`, a triangle) with columns
// `left` at separator k-1, and rows that touch separator k-1 alone (`edge`, a triangle). Eliminating separators k, k+1, ..
// of a chunk but the last leaves one item of the same form, so that chains are divided again and again until one lane can
// sweep what is left. Separator k becomes
//
//     R y[k] + G y[k+1] + L y[left] = z
//
// with `left` the last separator of the chunk before, stored as R (n, n) with inverse diagonal, G (n, n) and, chunked,
// L (n, n).
#pragma once

#include "factor.hpp"
#include "reflect.hpp"

namespace smnn {
namespace SMNN_LEVEL {

// Entries of the factor of one separator.
template <int N, bool Chunked>
constexpr int CHAIN_ENTRIES = (Chunked ? 3 : 2) * N * N;

// N: the capacity of arrays. n: the same number, as Int<N> where loops are to be unrolled, else as an int. A thread has
// arrays of its own, a team shares the memory that it is given: ROOM and that of f and z.
template <class P, class Count, int N, bool Chunked, class Team = Alone>
struct ChainSweep {
    static constexpr int SQUARE = Chunked ? N * N : 1;
    static constexpr int ROOM = 3 * N * N + 3 * SQUARE + 5 * N;
    using T = typename Lanes<P>::Scalar;
    template <int Size>
    using Piece = Array<P, Team::size == 1 ? Size : 0>;

    const Count n;
    const Team team;
    Piece<N * N> own;
    Piece<N> z, norm2;
    Piece<SQUARE> left, edge;
    Piece<N> edge_z, edge_norm2;
    // rows below the triangle, by columns: at this separator, at the next, at the left one, right-hand side
    Piece<N * N> below, beyond;
    Piece<SQUARE> x_left;
    Piece<N> rhs;

    SMNN_INLINE explicit ChainSweep(Count n_, P* room = nullptr, Team team_ = {})
        : n(n_),
          team(team_),
          own(room, N * N),
          z(room, N),
          norm2(room, N),
          left(room, SQUARE),
          edge(room, SQUARE),
          edge_z(room, N),
          edge_norm2(room, N),
          below(room, N * N),
          beyond(room, N * N),
          x_left(room, SQUARE),
          rhs(room, N) {}

    // At the first separator of the chunk; item(e): entry e of its item.
    template <class Item>
    SMNN_INLINE void start(Item item) {
        const CarriedLayout<true> at{n};
        for (int i = team.first(0); i < n; i += team.size) {
            for (int j = 0; j < n; ++j) {
                own[i * n + j] = j >= i ? item(at.own() + i * n + j) : splat<P>(0);
                if constexpr (Chunked) {
                    left[i * n + j] = item(at.left() + i * n + j);
                    edge[i * n + j] = j >= i ? item(at.edge() + i * n + j) : splat<P>(0);
                }
            }
            z[i] = item(at.z() + i);
            norm2[i] = item(at.norm2() + i);
            if constexpr (Chunked) {
                edge_z[i] = item(at.edge_z() + i);
                edge_norm2[i] = item(at.edge_norm2() + i);
            }
        }
        team.sync();
    }

    // From this separator to the next, whose item it is: the final rows of this one go to f (CHAIN_ENTRIES) and f_z (n).
    // Returns where it is undetermined.
    template <class Item>
    SMNN_INLINE auto advance(Item item, T tolerance2, P* f, P* f_z) {
        take_edge(item);
        const auto bad = depart(item, tolerance2, f, f_z);
        arrive();
        const CarriedLayout<true> at{n};
        for (int j = team.first(0); j < n; j += team.size) norm2[j] = item(at.norm2() + j);
        team.sync();
        return bad;
    }

    // The final rows of the last separator of a chain that is not divided.
    SMNN_INLINE auto finish(T tolerance2, P* f, P* f_z) {
        const P zero = splat<P>(0), one = splat<P>(1);
        auto bad_any = one == zero;
        team.sync();  // (f may hold the rows before)
        for (int j = team.first(0); j < n; j += team.size) {
            const P diagonal = own[j * n + j];
            const auto bad = diagonal * diagonal <= splat<P>(tolerance2) * norm2[j];
            bad_any = bad_any | bad;
            for (int l = 0; l < n; ++l) {
                f[j * n + l] = l > j ? own[j * n + l] : zero;
                f[n * n + j * n + l] = zero;
            }
            f[j * n + j] = one / select(diagonal == zero, one, diagonal);
            f_z[j] = z[j];
        }
        team.sync();
        return bad_any;
    }

    // What the chunk leaves, an item of the next chain: put(e, x).
    template <class Put>
    SMNN_INLINE void leave(Put put) {
        static_assert(Chunked, "a chain that is not divided leaves nothing");
        const CarriedLayout<true> at{n};
        team.sync();
        for (int i = team.first(0); i < n * n; i += team.size) {
            put(at.own() + i, own[i]);
            put(at.left() + i, left[i]);
            put(at.edge() + i, edge[i]);
        }
        for (int j = team.first(0); j < n; j += team.size) {
            put(at.z() + j, z[j]);
            put(at.norm2() + j, norm2[j]);
            put(at.edge_z() + j, edge_z[j]);
            put(at.edge_norm2() + j, edge_norm2[j]);
        }
    }

   private:
    // columns at the left separator
    SMNN_INLINE int m() const { return Chunked ? int(n) : 0; }

    // The rows of the next item that touch this separator alone go into the triangle.
    template <class Item>
    SMNN_INLINE void take_edge(Item item) {
        const CarriedLayout<true> at{n};
        const P zero = splat<P>(0);
        for (int j = team.first(0); j < n; j += team.size) {
            for (int i = 0; i < n; ++i) {
                below[j * n + i] = i <= j ? item(at.edge() + i * n + j) : zero;
                if constexpr (Chunked) x_left[j * n + i] = zero;
            }
            rhs[j] = item(at.edge_z() + j);
            norm2[j] += item(at.edge_norm2() + j);
        }
        team.sync();
        for (int j = 0; j < n; ++j) {
            auto pivot = team.pivot(own[j * n + j], below + j * n, n);
            P* const column = pivot.below;
            raise(pivot.top, column, n, [&](int i, const auto& mask) {
                for (int l = team.first(j + 1); l < n; l += team.size) swap_lanes(mask, own[j * n + l], below[l * n + i]);
                for (int l = team.first(0); l < m(); l += team.size) swap_lanes(mask, left[j * n + l], x_left[l * n + i]);
                if (team.leads()) swap_lanes(mask, z[j], rhs[i]);
            });
            const auto H = reflect(pivot.top, column, n);
            for (int l = team.first(j + 1); l < n; l += team.size) apply(H, column, n, own[j * n + l], below + l * n);
            for (int l = team.first(0); l < m(); l += team.size) apply(H, column, n, left[j * n + l], x_left + l * n);
            if (team.leads()) apply(H, column, n, z[j], rhs.data);
            team.sync();
            if (team.leads()) own[j * n + j] = H.diagonal;
        }
        if constexpr (Chunked) leave_to_edge();
        team.sync();
    }

    // The rows that couple this separator to the next one.
    template <class Item>
    SMNN_INLINE auto depart(Item item, T tolerance2, P* f, P* f_z) {
        const CarriedLayout<true> at{n};
        const P zero = splat<P>(0), one = splat<P>(1);
        P *R = f, *G = f + n * n, *L = f + 2 * n * n;
        for (int j = team.first(0); j < n; j += team.size) {
            for (int i = 0; i < n; ++i) {
                below[j * n + i] = item(at.left() + i * n + j);
                beyond[j * n + i] = i <= j ? item(at.own() + i * n + j) : zero;
                if constexpr (Chunked) x_left[j * n + i] = zero;
            }
            rhs[j] = item(at.z() + j);
        }
        team.sync();
        auto bad_any = one == zero;
        for (int j = 0; j < n; ++j) {
            auto pivot = team.pivot(own[j * n + j], below + j * n, n);
            P* const column = pivot.below;
            for (int l = team.first(0); l < n; l += team.size) G[j * n + l] = zero;
            raise(pivot.top, column, n, [&](int i, const auto& mask) {
                for (int l = team.first(j + 1); l < n; l += team.size) swap_lanes(mask, own[j * n + l], below[l * n + i]);
                for (int l = team.first(0); l < n; l += team.size) swap_lanes(mask, G[j * n + l], beyond[l * n + i]);
                for (int l = team.first(0); l < m(); l += team.size) swap_lanes(mask, left[j * n + l], x_left[l * n + i]);
                if (team.leads()) swap_lanes(mask, z[j], rhs[i]);
            });
            const auto H = reflect(pivot.top, column, n);
            for (int l = team.first(j + 1); l < n; l += team.size) apply(H, column, n, own[j * n + l], below + l * n);
            for (int l = team.first(0); l < n; l += team.size) apply(H, column, n, G[j * n + l], beyond + l * n);
            for (int l = team.first(0); l < m(); l += team.size) apply(H, column, n, left[j * n + l], x_left + l * n);
            if (team.leads()) apply(H, column, n, z[j], rhs.data);
            const auto bad = H.diagonal * H.diagonal <= splat<P>(tolerance2) * norm2[j];
            bad_any = bad_any | bad;
            team.sync();
            for (int l = team.first(0); l < n; l += team.size) R[j * n + l] = l > j ? own[j * n + l] : zero;
            for (int l = team.first(0); l < m(); l += team.size) L[j * n + l] = left[j * n + l];
            if (team.leads()) f_z[j] = z[j];
            if (team.first(0) == j % team.size) R[j * n + j] = one / select(H.diagonal == zero, one, H.diagonal);
        }
        team.sync();
        return bad_any;
    }

    // What departure left becomes the triangle of the next separator.
    SMNN_INLINE void arrive() {
        for (int j = 0; j < n; ++j) {
            const int rows = n - 1 - j;
            P* const top = beyond + j * n + j;
            auto pivot = team.pivot(*top, top + 1, rows);
            P* const column = pivot.below;
            raise(pivot.top, column, rows, [&](int i, const auto& mask) {
                for (int l = team.first(j + 1); l < n; l += team.size) {
                    swap_lanes(mask, beyond[l * n + j], beyond[l * n + j + 1 + i]);
                }
                for (int l = team.first(0); l < m(); l += team.size) {
                    swap_lanes(mask, x_left[l * n + j], x_left[l * n + j + 1 + i]);
                }
                if (team.leads()) swap_lanes(mask, rhs[j], rhs[j + 1 + i]);
            });
            const auto H = reflect(pivot.top, column, rows);
            for (int l = team.first(j + 1); l < n; l += team.size) {
                apply(H, column, rows, beyond[l * n + j], beyond + l * n + j + 1);
                own[j * n + l] = beyond[l * n + j];
            }
            for (int l = team.first(0); l < m(); l += team.size) {
                apply(H, column, rows, x_left[l * n + j], x_left + l * n + j + 1);
                left[j * n + l] = x_left[l * n + j];
            }
            if (team.leads()) {
                own[j * n + j] = H.diagonal;
                apply(H, column, rows, rhs[j], rhs + j + 1);
                z[j] = rhs[j];
            }
            team.sync();
        }
    }

    // The rows below touch the left separator alone by now.
    SMNN_INLINE void leave_to_edge() {
        for (int j = 0; j < n; ++j) {
            auto pivot = team.pivot(edge[j * n + j], x_left + j * n, n);
            P* const column = pivot.below;
            raise(pivot.top, column, n, [&](int i, const auto& mask) {
                for (int l = team.first(j + 1); l < n; l += team.size) swap_lanes(mask, edge[j * n + l], x_left[l * n + i]);
                if (team.leads()) swap_lanes(mask, edge_z[j], rhs[i]);
            });
            const auto H = reflect(pivot.top, column, n);
            for (int l = team.first(j + 1); l < n; l += team.size) apply(H, column, n, edge[j * n + l], x_left + l * n);
            if (team.leads()) apply(H, column, n, edge_z[j], rhs.data);
            team.sync();
            if (team.leads()) edge[j * n + j] = H.diagonal;
        }
    }
};

// R x = z - G next - L left, for one separator; x may be z.
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

// R^T w = g for one separator, in place; what it subtracts from g at the next one is set in `next`, what it subtracts at
// the left one added to `left`.
template <class P, bool Chunked, class Count, class F>
SMNN_INLINE void chain_forward(Count n, F f, P* w, P* next, P* left) {
    const F R = f, G = f + n * n, L = f + 2 * n * n;
    for (int l = 0; l < n; ++l) next[l] = splat<P>(0);
    for (int j = 0; j < n; ++j) {
        const P x = w[j] * R[j * n + j];
        w[j] = x;
        for (int l = j + 1; l < n; ++l) w[l] -= R[j * n + l] * x;
        for (int l = 0; l < n; ++l) next[l] += G[j * n + l] * x;
        if constexpr (Chunked) {
            for (int l = 0; l < n; ++l) left[l] += L[j * n + l] * x;
        }
    }
}

}  // namespace SMNN_LEVEL
}  // namespace smnn
