// What elimination leaves of a point, and how its pieces lie in memory.
//
// Point t of a chunk becomes n rows
//
//     R y[t] + N y[t+1] + L y[left] = z
//
// with R upper triangular, N the coupling to the next point and L (where time is divided into chunks) the one to the
// last point of the chunk before. Row j is stored as 1 / R[j,j], R[j,j+1..], N[j,0..], L[j,0..], where N has the columns
// of the variables up to that of column j: the smoothness rows couple each variable to itself, and elimination in the
// order of the variables fills no others.
//
// By rotations (rotate.hpp) row j has the weight 1/d of its leading entry d: R^T D^-1 R in the place of R^T R.
#pragma once

#include "pack.hpp"

namespace smnn {
namespace SMNN_LEVEL {

template <class Size>
constexpr bool is_weighted = Size::rotations;

template <bool Chunked>
struct FactorLayout {
    int n, K;

    // where row j starts; row n: the size of the whole
    SMNN_INLINE constexpr int row(int j) const {
        const int v = j / K, o = j % K;
        return j * n - j * (j - 1) / 2 + K * (K * (v * (v + 1) / 2) + o * (v + 1)) + (Chunked ? j * n : 0);
    }
    SMNN_INLINE constexpr int next(int j) const { return row(j) + n - j; }
    SMNN_INLINE constexpr int left(int j) const { return next(j) + K * (j / K + 1); }
    SMNN_INLINE constexpr int entries() const { return row(n); }
};

// The constants of a scheme for K orders.
template <class T>
struct SchemeRows {
    const T* S;       // (2K, 2K) upper triangular: [S11 S12; 0 S22]
    const T* norm2;   // (2K) squared norms of its columns
    T tolerance2;     // a pivot is zero where its square is below this times the squared norm of its column
};

// The state that a sweep carries from point to point, as it lies in memory between blocks of points.
//
//     own    (n, n)  triangle of the rows that touch the current point
//     z      (n, m)  their right-hand sides
//     norm2  (n)     squared norms of the point's columns, without the coupling to the next point
// and, chunked,
//     left   (n, n)  the columns of those rows at the left separator
//     edge   (n, n)  triangle of the rows that touch the left separator alone
//     edge_z (n, m)  their right-hand sides
//     edge_norm2 (n) squared norms of the separator's columns in the coupling to this chunk
template <bool Chunked>
struct CarriedLayout {
    int n, m = 1;
    SMNN_INLINE constexpr int own() const { return 0; }
    SMNN_INLINE constexpr int z() const { return n * n; }
    SMNN_INLINE constexpr int norm2() const { return n * n + n * m; }
    SMNN_INLINE constexpr int left() const { return n * n + n * m + n; }
    SMNN_INLINE constexpr int edge() const { return 2 * n * n + n * m + n; }
    SMNN_INLINE constexpr int edge_z() const { return 3 * n * n + n * m + n; }
    SMNN_INLINE constexpr int edge_norm2() const { return 3 * n * n + 2 * n * m + n; }
    SMNN_INLINE constexpr int entries() const { return Chunked ? 3 * n * n + 2 * n * m + 2 * n : n * n + n * m + n; }
};

// That state, and the powers of the step that a sweep is on: what both ways to eliminate have.
template <class P, class Size, bool Chunked>
struct Carried {
    using T = typename Lanes<P>::Scalar;
    using Cap = Capacity<Size>;
    template <int N>
    using Piece = Array<P, N>;
    static constexpr int SQUARE = Chunked ? Cap::n * Cap::n : Cap::n;

    const Size& size;
    const SchemeRows<T>& scheme;
    Piece<Cap::n * Cap::n> own;
    Piece<Cap::n> z, norm2;
    Piece<SQUARE> left, edge;
    Piece<Cap::n> edge_z, edge_norm2;
    Piece<Cap::K> p;

    SMNN_INLINE Carried(const Size& size_, const SchemeRows<T>& scheme_, P* carried, P*& workspace)
        : size(size_),
          scheme(scheme_),
          own(carried, size_.n * size_.n),
          z(carried, size_.n * size_.m),
          norm2(carried, size_.n),
          left(carried, Chunked ? size_.n * size_.n : 0),
          edge(carried, Chunked ? size_.n * size_.n : 0),
          edge_z(carried, Chunked ? size_.n * size_.m : 0),
          edge_norm2(carried, Chunked ? size_.n : 0),
          p(workspace, size_.K) {}

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
};

}  // namespace SMNN_LEVEL
}  // namespace smnn
