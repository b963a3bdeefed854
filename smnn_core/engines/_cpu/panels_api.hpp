// Householder reflections and triangular solves for large blocks, on several threads.
#pragma once

#include "panels_job.hpp"

namespace smnn {

// A (M, n) becomes upper triangular by reflections of its rows, from the left; C (M, c; null data: none) is reflected along.
//
//     begins  (M): before this column row i of A is zero; of those below j + 24 there are at least j + 24, for j = 0, 24, ...
//     T       (panels, 24, 24), panels = n / 24 rounded up
//     order   (panels, M): the rows that a panel reflects, then -1. The first 24 are its pivots: column j of A has its pivot in
//             row order[j / 24, j % 24].
//
// In A row i of R then stands in the row of pivot i, and the reflectors in place of the zeros.
void triangularise(const MatrixView& A, const int* begins, const MatrixView& C, double* T, int* order, int threads);

// d := Q^T d, or Q d (`back`), of d (M, c).
void rotate(const MatrixView& A, const double* T, const int* order, const MatrixView& d, bool back, int threads);

// x := R^-1 (x - E next); or (`transposed`) x := R^-T x, then next -= E^T x. R (., n) has its rows at `pivots` (n); E (n, n) may
// have null data: zero. x and next: (n, c).
void substitute(
    const int* pivots, const MatrixView& R, const MatrixView& E, const MatrixView& x, const MatrixView& next, bool transposed, int threads
);

// c := a b
void multiply(const MatrixView& a, const MatrixView& b, const MatrixView& c, int threads);

}  // namespace smnn
