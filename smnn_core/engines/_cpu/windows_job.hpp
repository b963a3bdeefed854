// Collocation on intervals, as plain data that instruction-set builds (windows.hpp) and the code around them share.
#pragma once

#include <cstdint>

namespace smnn {

// Letters as in smnn_core/trajectory/_collocation.py: B members, N intervals, V variables of orders q[v] <= R, k points,
// M states, Q = V equations, p constants; a = max(R, 1) + k features of a variable: its states times s^o, its stages times
// s^q. Arrays are contiguous; results may not overlap what they are made of.
struct Window {
    int64_t B, N, V, k, M, R, p;
    const int* q;      // (V)
    const int* first;  // (V): the first state of a variable
    const double* s;   // (B, N)
    const double* W;   // (V, k, R+1, a): features -> values at the points
    const double* E;   // (V, a, R+1): features -> values at the end of the interval

    int64_t width() const { return R > 1 ? R : 1; }
    int64_t a() const { return width() + k; }
};

// The rows that tie the points of a mesh together: those of continuity, and C = M + c in the states of one point and c
// constants, of which the first p are those of the equations.
struct Coupling {
    int64_t c;
    const int* at;       // (B, C): the points of the rows
    const double* rows;  // (B, C, M + c)
    const double* size;  // (B, M + c): units of the unknowns

    // Of a point: rows that are left from those before it, its own, and those of continuity with the next.
    int64_t most(int64_t M) const { return 2 * M + c; }
};

// Newton's method in a window. Members whose first N intervals are solved are not moved.
struct Iterates {
    int64_t window;        // intervals before and at one, in whose largest states changes are measured
    double rounding;       // changes below are rounding where a new left-hand side does not shorten them
    const double* least;   // (B, M): states count as at least as large
    const double* offset;  // (B): added to the sizes
    const double* limit;   // (B): relative changes that are small enough
    double* dx;            // (B, N+1, M): the last step, zero in the first states
    double* dz;            // (B, N, V, k)
    double* x;             // (B, N+1, M)
    double* z;             // (B, N, V, k)
    double* y;             // (B, N, k, V, R+1): values at the points
    double* d;             // (B, N, M): jumps
    double* change;        // (B, N): relative changes, of states in units of their sizes, of variables of order zero in
                           // units of their stages; infinite before the first step, and where they are not finite
    double* rate;          // (B): of the first interval that is not solved, the quotient of the last two changes
    int* solved;           // (B): how many of the first intervals are solved
};

// The error of an interval that is allowed.
struct Allowed {
    const double* leading;    // (k): weights of the stages in s^(k-1) times their derivative k - 1
    const double* constants;  // (V): C of the error C s^(k+q) |y^(k+q)|
    const double* tolerance;  // (B): relative to the largest value of each variable in the window
    double faintest;          // variables count as at least as large as this times the tolerance times the largest before
    double absolute;
};

// Members of a march, what the next window follows from.
struct Progress {
    double* x;          // (B, M): the last states
    double* top;        // (B, V): the highest derivative, of order q + k - 1, in the last interval; NaN where there is none
    double* width;      // (B): the length of that interval
    double* size;       // (B, M): the largest of each state in the last window
    double* largest_x;  // (B, M): of each state
    double* largest_y;  // (B, V): of each variable
};

struct WindowKernels {
    static constexpr int MOST_ORDERS = 64, MOST_POINTS = 65;

    // y (B, N, k, V, R+1) at the points, and d (B, N, M), the jumps of the states x (B, N+1, M); z (B, N, V, k).
    // Members that skip (B), here and below null or given, names are left out.
    void (*values)(const Window&, const int* skip, const double* x, const double* z, double* y, double* d);

    // Of each interval, from J (B, N, k, V, V, R+1) and P (B, N, k, V, p): C_z = L U with rows scaled and exchanged,
    // n = V k,
    //
    //     lu (B, N, n, n), scale (B, N, n), order (B, N, n),
    //
    // C_z^-1 (C_x, P), HC (B, N, n, M + p), and how states at the end follow from those at the start and from constants,
    // G (B, N, M, M + p). NaN where C_z is singular. Of each member the first done (B) intervals, where it
    // is given, stay as they are.
    void (*eliminate)(
        const Window&, const int* done, const double* J, const double* P, double* lu, double* scale, int* order, double* HC, double* G
    );

    // The steps dx (B, N+1, M), whose first are given, and dz (B, N, V, k) for f (B, N, k, V) and jumps d (B, N, M); zero
    // in members that skip (B) names.
    void (*advance)(
        const Window&, const int* skip, const double* lu, const double* scale, const int* order, const double* HC, const double* G,
        const double* f, const double* d, double* dx, double* dz
    );

    // The points of a mesh one after the other, by reflections: of each the unknowns that are eliminated there,
    //
    //     R (B, N+1, 2 M + c, 2 M + c), reflectors below the diagonal, tau (B, N+1, M + c), count (B, N+1), rows,
    //
    // and the factors of rows of continuity and of others, scale (B, N M + C). NaN where it is singular.
    void (*couple)(const Window&, const Coupling&, const double* G, double* R, double* tau, int* count, double* scale);

    // The steps dx (B, N+1, M), dz (B, N, V, k) and dc (B, c) for f and d as above and g (B, C) of the rows.
    void (*solve)(
        const Window&, const Coupling&, const double* lu, const double* scale, const int* order, const double* HC,
        const double* R, const double* tau, const int* count, const double* row_scale, const double* f, const double* d,
        const double* g, double* dx, double* dz, double* dc
    );

    // One step of Newton's method with J (B, N, k, V, V, R+1), or, where it is null and in intervals that are solved, with
    // the factor of before; f (B, N, k, V). y and d become those of the next iterate.
    void (*improve)(
        const Window&, const Iterates&, const double* J, const double* f, double* lu, double* scale, int* order, double* HC, double* G
    );

    // How many of the solved (B) first intervals are kept, those that add at most what is allowed: count (B); and
    // ratio (B, 2): error / allowed of the last of them and of the one that ends them, 0 where there is none. Errors follow
    // from jumps of the highest derivative. x (B, N+1, M), z (B, N, V, k).
    void (*keep)(const Window&, const Allowed&, const Progress&, const double* x, const double* z, const int* solved, int* count,
                 double* ratio);

    // y and its derivatives (B, n, V, R+1) at times (B, n), by the polynomials on intervals 0..last (B) of the meshes t
    // (B, N+1), the outer ones continued; `series` (V, a, R+1, k+R): features -> Legendre series.
    void (*at_times)(const Window&, const double* series, const double* t, const double* x, const double* z, int64_t n,
                     const double* times, const int* last, double* y);

    // States x (B, N+1, M) and stages z (B, N, V, k) on the next meshes (B, N+1), with their points (B, N, k), by the
    // polynomials on the solved (B) first intervals of the window before, as far as `further` times the last of these from
    // its start; else the states at the start (B, M), stages zero, or for variables of order zero the last ones.
    void (*predict)(const Window& before, const double* series, const double* t, const double* x, const double* z,
                    const int* solved, double further, const double* start, int64_t N, const double* mesh,
                    const double* points, double* new_x, double* new_z);
};

}  // namespace smnn
