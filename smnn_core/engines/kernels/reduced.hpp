// The reduced problem of one system: its separators, the last points of its C chunks.
//
// Chunk k leaves rows in the form of CarriedLayout<true>: `own` (n, n) triangle on separator k with columns `left` at
// separator k-1, and `edge` (n, n) triangle on separator k-1 alone: a chain like the one of the points, swept the same way.
// One lane sweeps it; separator k becomes rows R y[k] + G y[k+1] = z, stored as R (n, n) with inverse diagonal, then G (n, n).
#pragma once

#include "factor.hpp"
#include "reflect.hpp"

namespace smnn {
namespace SMNN_LEVEL {

// The workspace of `reduce`.
SMNN_INLINE constexpr int reduced_workspace(int n) { return 4 * n * n + 3 * n; }

template <class P>
struct Reduction {
    int n, C;
    typename Lanes<P>::Scalar tolerance2;
    P* factor;  // (C, 2, n, n)
    P* z;       // (C, n)
};

// chunk(k, e): entry e of what chunk k left. Returns, as mark(k, mask), the separators that are undetermined.
template <class P, class Chunk, class Mark>
SMNN_OUTLINE void reduce(const Reduction<P>& to, Chunk chunk, Mark mark, P* workspace) {
    const int n = to.n, C = to.C;
    const CarriedLayout<true> at{n};
    const P zero = splat<P>(0), one = splat<P>(1);
    P* triangle = workspace;
    P* below = triangle + n * n;  // rows below the triangle, by columns: at this separator ...
    P* beyond = below + n * n;    // ... and at the next
    P* rhs = beyond + n * n;      // their right-hand side
    P* z = rhs + n;
    P* norm2 = z + n;
    for (int i = 0; i < n; ++i) {
        for (int j = 0; j < n; ++j) triangle[i * n + j] = j >= i ? chunk(0, at.own() + i * n + j) : zero;
        z[i] = chunk(0, at.z() + i);
        norm2[i] = chunk(0, at.norm2() + i);
    }
    for (int k = 0; k < C; ++k) {
        P* R = to.factor + Index(k) * 2 * n * n;
        P* G = R + n * n;
        const bool more = k + 1 < C;
        if (more) {
            // the rows of chunk k+1 that touch this separator alone
            for (int j = 0; j < n; ++j) {
                for (int i = 0; i < n; ++i) below[j * n + i] = i <= j ? chunk(k + 1, at.edge() + i * n + j) : zero;
                rhs[j] = chunk(k + 1, at.edge_z() + j);
                norm2[j] += chunk(k + 1, at.edge_norm2() + j);
            }
            for (int j = 0; j < n; ++j) {
                raise(triangle[j * n + j], below + j * n, j + 1, [&](int i, const auto& mask) {
                    for (int l = j + 1; l < n; ++l) swap_lanes(mask, triangle[j * n + l], below[l * n + i]);
                    swap_lanes(mask, z[j], rhs[i]);
                });
                const auto H = reflect(triangle[j * n + j], below + j * n, j + 1);
                triangle[j * n + j] = H.diagonal;
                for (int l = j + 1; l < n; ++l) apply(H, below + j * n, j + 1, triangle[j * n + l], below + l * n);
                apply(H, below + j * n, j + 1, z[j], rhs);
            }
            // and those that couple it to the next
            for (int j = 0; j < n; ++j) {
                for (int i = 0; i < n; ++i) {
                    below[j * n + i] = chunk(k + 1, at.left() + i * n + j);
                    beyond[j * n + i] = i <= j ? chunk(k + 1, at.own() + i * n + j) : zero;
                }
                rhs[j] = chunk(k + 1, at.z() + j);
            }
        }
        auto bad_any = one == zero;
        for (int j = 0; j < n; ++j) {
            P diagonal = triangle[j * n + j];
            if (more) {
                for (int l = 0; l < n; ++l) G[j * n + l] = zero;
                raise(diagonal, below + j * n, n, [&](int i, const auto& mask) {
                    for (int l = j + 1; l < n; ++l) swap_lanes(mask, triangle[j * n + l], below[l * n + i]);
                    for (int l = 0; l < n; ++l) swap_lanes(mask, G[j * n + l], beyond[l * n + i]);
                    swap_lanes(mask, z[j], rhs[i]);
                });
                const auto H = reflect(diagonal, below + j * n, n);
                diagonal = H.diagonal;
                for (int l = j + 1; l < n; ++l) apply(H, below + j * n, n, triangle[j * n + l], below + l * n);
                for (int l = 0; l < n; ++l) apply(H, below + j * n, n, G[j * n + l], beyond + l * n);
                apply(H, below + j * n, n, z[j], rhs);
            } else {
                for (int l = 0; l < n; ++l) G[j * n + l] = zero;
            }
            const auto bad = diagonal * diagonal <= splat<P>(to.tolerance2) * norm2[j];
            bad_any = bad_any | bad;
            for (int l = 0; l < n; ++l) R[j * n + l] = l > j ? triangle[j * n + l] : zero;
            R[j * n + j] = one / select(bad, one, diagonal);
            to.z[k * n + j] = z[j];
        }
        if (any(bad_any)) mark(k, bad_any);
        if (!more) break;
        // what is left becomes the triangle of the next separator
        for (int j = 0; j < n; ++j) {
            P *top = beyond + j * n + j, *column = top + 1;
            const int rows = n - 1 - j;
            raise(*top, column, rows, [&](int i, const auto& mask) {
                for (int l = j + 1; l < n; ++l) swap_lanes(mask, beyond[l * n + j], beyond[l * n + j + 1 + i]);
                swap_lanes(mask, rhs[j], rhs[j + 1 + i]);
            });
            const auto H = reflect(*top, column, rows);
            triangle[j * n + j] = H.diagonal;
            for (int l = j + 1; l < n; ++l) {
                apply(H, column, rows, beyond[l * n + j], beyond + l * n + j + 1);
                triangle[j * n + l] = beyond[l * n + j];
            }
            apply(H, column, rows, rhs[j], rhs + j + 1);
            z[j] = rhs[j];
            norm2[j] = chunk(k + 1, at.norm2() + j);
        }
    }
}

// R x = z on the separators; x (C, n) may be z.
template <class P>
SMNN_OUTLINE void reduced_back(int n, int C, const P* factor, const P* z, P* x) {
    for (int k = C - 1; k >= 0; --k) {
        const P* R = factor + Index(k) * 2 * n * n;
        const P* G = R + n * n;
        for (int j = n - 1; j >= 0; --j) {
            P sum = z[k * n + j];
            if (k + 1 < C) {
                for (int l = 0; l < n; ++l) sum -= G[j * n + l] * x[(k + 1) * n + l];
            }
            for (int l = j + 1; l < n; ++l) sum -= R[j * n + l] * x[k * n + l];
            x[k * n + j] = sum * R[j * n + j];
        }
    }
}

// R^T w = g on the separators, in place.
template <class P>
SMNN_OUTLINE void reduced_forward(int n, int C, const P* factor, P* w) {
    for (int k = 0; k < C; ++k) {
        const P* R = factor + Index(k) * 2 * n * n;
        const P* G = R + n * n;
        for (int j = 0; j < n; ++j) {
            const P x = w[k * n + j] * R[j * n + j];
            w[k * n + j] = x;
            for (int l = j + 1; l < n; ++l) w[k * n + l] -= R[j * n + l] * x;
            if (k + 1 < C) {
                for (int l = 0; l < n; ++l) w[(k + 1) * n + l] -= G[j * n + l] * x;
            }
        }
    }
}

}  // namespace SMNN_LEVEL
}  // namespace smnn
