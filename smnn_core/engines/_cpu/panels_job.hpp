// Reflections of large blocks, as plain data that instruction-set builds (panels.hpp) and the code around them share.
#pragma once

#include "job.hpp"

namespace smnn {

// A matrix, or its transpose: strides in elements.
struct MatrixView {
    double* data = nullptr;
    Index rows = 0, columns = 0, row = 0, column = 1;
};

// R (n, n), rows `pivots` (n) of a matrix, upper triangular: what stands below its diagonal is not looked at. E (n, n),
// or null data: zero.
struct Triangle {
    const int* pivots;
    MatrixView R, E;
};

// A function of a strip of the columns of a matrix, `columns` of them from `first` on.
struct StripKernels {
    int columns;

    // c := Q^T c, or Q c (`back`), of those rows of c that `order` (rows) names, Q = 1 - V T V^T of `collect`: V (rows, WIDTH),
    // T (width, WIDTH).
    // scratch: ((rows + 2 WIDTH) columns), aligned, as all of these.
    void (*apply)(
        int rows, int width, const double* V, const double* T, bool back, const int* order, const MatrixView& c,
        Index first, double* scratch
    );

    // x := R^-1 (x - E next), of x and next (n, ...).  scratch: (2 n columns)
    void (*substitute)(
        const Triangle&, const MatrixView& x, const MatrixView& next, Index first, double* scratch
    );

    // x := R^-T x, then next -= E^T x.  scratch: (2 n columns)
    void (*substitute_transposed)(
        const Triangle&, const MatrixView& x, const MatrixView& next, Index first, double* scratch
    );

    // c := a b.  scratch: ((rows of a + rows of b) columns)
    void (*multiply)(const MatrixView& a, const MatrixView& b, const MatrixView& c, Index first, double* scratch);
};

struct PanelKernels {
    static constexpr int WIDTH = 24;  // columns of a panel

    // Triangularises a panel.
    //     x      (rows, WIDTH), aligned, zeros behind its `width` columns; becomes R on and above the diagonal, V below
    //     tau    (width)
    //     order  (rows): which rows these are, permuted with them
    void (*reflect)(int rows, int width, double* x, double* tau, int* order);

    // From x and tau of `reflect`: x (rows, WIDTH) becomes V with its ones and zeros, T (width, WIDTH) the triangle of
    // Q = 1 - V T V^T.
    void (*collect)(int rows, int width, double* x, const double* tau, double* T);

    StripKernels wide, narrow;
};

}  // namespace smnn
