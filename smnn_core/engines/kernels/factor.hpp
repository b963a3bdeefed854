// The factor of a point, and how its pieces lie in memory.
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
// Row j counts with the weight 1 / R[j,j] (rotate.hpp): M is R^T D^-1 R, where D is the diagonal of R.
#pragma once

#include "pack.hpp"

namespace smnn {
namespace SMNN_LEVEL {

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
//     own    (n, n)  triangle of the rows that touch the current point, with pivots on its diagonal (rotate.hpp)
//     z      (n, m)  their right-hand sides
//     norm2  (n)     squared norms of the point's columns, without the coupling to the next point
// and, chunked,
//     spike      (n, n)   the columns of those rows at the left separator
//     boundary   (n, n)   triangle of the rows that touch the left separator alone
//     boundary_z (n, m)   their right-hand sides
//     boundary_norm2 (n)  squared norms of the separator's columns in the coupling to this chunk
template <bool Chunked>
struct CarriedLayout {
    int n, m = 1;
    SMNN_INLINE constexpr int own() const { return 0; }
    SMNN_INLINE constexpr int z() const { return n * n; }
    SMNN_INLINE constexpr int norm2() const { return n * n + n * m; }
    SMNN_INLINE constexpr int spike() const { return n * n + n * m + n; }
    SMNN_INLINE constexpr int boundary() const { return 2 * n * n + n * m + n; }
    SMNN_INLINE constexpr int boundary_z() const { return 3 * n * n + n * m + n; }
    SMNN_INLINE constexpr int boundary_norm2() const { return 3 * n * n + 2 * n * m + n; }
    SMNN_INLINE constexpr int entries() const { return Chunked ? 3 * n * n + 2 * n * m + 2 * n : n * n + n * m + n; }
};

}  // namespace SMNN_LEVEL
}  // namespace smnn
