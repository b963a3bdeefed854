// Reflections of large blocks, as plain data: what the instruction-set builds (panels.hpp) and the code around them share.
#pragma once

#include "job.hpp"

namespace smnn {

// A matrix, or its transpose: strides in elements.
struct MatrixView {
    double* data = nullptr;
    Index rows = 0, columns = 0, row = 0, column = 1;
};

struct PanelKernels {
    static constexpr int WIDTH = 24;  // columns of a panel
    int strip;                        // columns of a strip

    // Triangularises a panel: x (rows, WIDTH), aligned, zeros behind its `width` columns, becomes R on and above the
    // diagonal, V below; order (rows), which rows these are, is permuted with them; tau (width).
    void (*reflect)(int rows, int width, double* x, double* tau, int* order);

    // From x and tau of `reflect`: x (rows, WIDTH) becomes V with its ones and zeros, T (width, WIDTH) the upper triangle of
    // Q = 1 - V T V^T.
    void (*collect)(int rows, int width, double* x, const double* tau, double* T);

    // c := Q^T c, or Q c (`back`), for columns first .. first + strip - 1 of those rows of c that `order` (rows) names.
    // scratch: ((rows + 2 WIDTH) strip), aligned.
    void (*apply)(
        int rows, int width, const double* V, const double* T, bool back, const int* order, const MatrixView& c, Index first,
        double* scratch
    );

    // x := R^-1 (x - E next), in columns first .. first + strip - 1 of x and next (both (n, columns)).  R (n, n) and E (n, n,
    // or null data: zero) are rows `pivots` (n) of matrices.  scratch: (2 n strip), aligned.
    void (*substitute)(
        const int* pivots, const MatrixView& R, const MatrixView& E, const MatrixView& x, const MatrixView& next, Index first, double* scratch
    );

    // The transpose: x := R^-T x, then next -= E^T x.
    void (*substitute_transposed)(
        const int* pivots, const MatrixView& R, const MatrixView& E, const MatrixView& x, const MatrixView& next, Index first, double* scratch
    );

    // c := a b in columns first .. first + strip - 1.  scratch: ((rows of a + rows of b) strip), aligned.
    void (*multiply)(const MatrixView& a, const MatrixView& b, const MatrixView& c, Index first, double* scratch);
};

}  // namespace smnn
