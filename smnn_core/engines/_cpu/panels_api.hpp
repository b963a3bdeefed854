// Householder reflections and triangular solves for large blocks, on several threads.
#pragma once

#include "panels_job.hpp"

namespace smnn {

// A (M, n) becomes R, upper triangular, by reflections from the left; C (M, c; null data: none) is reflected along.
//
//     begins  (M): before this column row i of A is zero. At least j + 24 of them are below j + 24, for j = 0, 24, ...
//     T       (panels, 24, 24), panels = n / 24 rounded up
//     order   (panels, M): the rows that a panel reflects, then -1; the first 24 are its pivots
//
// Row i of R stands in the row of A that is its pivot, order[i / 24, i % 24], the reflectors in place of zeros.
void triangularise(const MatrixView& A, const int* begins, const MatrixView& C, double* T, int* order, int threads);

// d := Q^T d, or Q d (`back`), of d (M, c).
void rotate(const MatrixView& A, const double* T, const int* order, const MatrixView& d, bool back, int threads);

// x := R^-1 (x - E next); or (`transposed`) x := R^-T x, then next -= E^T x. x and next: (n, c).
void substitute(const Triangle&, const MatrixView& x, const MatrixView& next, bool transposed, int threads);

// c := a b
void multiply(const MatrixView& a, const MatrixView& b, const MatrixView& c, int threads);

}  // namespace smnn
