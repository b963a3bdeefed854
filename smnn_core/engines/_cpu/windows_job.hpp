// Windows of a march, as plain data that instruction-set builds (windows.hpp) and the code around them share.
#pragma once

#include <cstdint>

namespace smnn {

// Letters as in smnn_core/trajectory/_collocation.py: B members, N intervals, V variables of orders q[v] <= R, k points,
// M states, Q = V equations; a = max(R, 1) + k features of a variable: its states times s^o, its stages times s^q. Arrays
// are contiguous; results may not overlap what they are made of.
struct Window {
    int64_t B, N, V, k, M, R;
    const int* q;      // (V)
    const int* first;  // (V): the first state of a variable
    const double* s;   // (B, N)
    const double* W;   // (V, k, R+1, a): features -> values at the points
    const double* E;   // (V, a, R+1): features -> values at the end of the interval

    int64_t width() const { return R > 1 ? R : 1; }
    int64_t a() const { return width() + k; }
};

struct WindowKernels {
    static constexpr int MOST_ORDERS = 64, MOST_POINTS = 65;

    // y (B, N, k, V, R+1) at the points, and d (B, N, M), the jumps of the states x (B, N+1, M); z (B, N, V, k).
    void (*values)(const Window&, const double* x, const double* z, double* y, double* d);

    // Of each interval, from J (B, N, k, V, V, R+1): C_z = L U with rows scaled and exchanged, n = V k,
    //
    //     lu (B, N, n, n), scale (B, N, n), order (B, N, n),
    //
    // C_z^-1 C_x, HC (B, N, n, M), and how states at the end follow from those at the start, G (B, N, M, M). NaN where
    // C_z is singular.
    void (*eliminate)(const Window&, const double* J, double* lu, double* scale, int* order, double* HC, double* G);

    // The steps dx (B, N+1, M), whose first are given, and dz (B, N, V, k) for f (B, N, k, V) and jumps d (B, N, M).
    void (*advance)(
        const Window&, const double* lu, const double* scale, const int* order, const double* HC, const double* G,
        const double* f, const double* d, double* dx, double* dz
    );

    // Adds a step to x and z. `change` (B, N) becomes the relative change of each interval: of states in units of the
    // largest that they had in the last `window` intervals, at least `least` (B, M), plus `offset` (B); of variables of
    // order zero in units of their stages. Infinite where it is not finite.
    void (*accept)(
        const Window&, int64_t window, const double* least, const double* offset, const double* dx, const double* dz,
        double* x, double* z, double* change
    );
};

}  // namespace smnn
