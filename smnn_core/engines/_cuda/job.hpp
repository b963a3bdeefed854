// One launch, as plain data passed by value: the same memory as `host.py` lays out.
#pragma once

#include "../kernels/base.hpp"

namespace smnn {
namespace SMNN_LEVEL {

constexpr int MAX_AXES = 6;    // of the batch, once axes that lie in one line are merged
constexpr int MAX_K = 8;       // orders, as SMNN_MOST_ORDERS
constexpr int MAX_LEVELS = 8;  // of chains of separators

// The arrays of a problem, and of the adjoint: y, g, what refines y, λ with M λ = g, and what A is multiplied by.
enum Field { C, B, U, S, W_EQUATION, W_INITIAL, W_SMOOTHNESS, SMOOTHNESS_RHS, Y, G, CHANGE_OF_Y, LAMBDA, FACTOR, FIELDS };

// Of what `residual` says how large the products are.
enum Largest { EQUATIONS, STEPS, INITIAL, ADDED, LARGEST = ADDED + 2 };

// An array seen as (batch..., time, inner...), strides in elements, 0 where it is broadcast; no data: zeros.
struct Input {
    const void* data;
    Index staged;    // -1: lanes lie in one line each, and `time` and `inner` are strides in a tile; else 0
    Index time;
    Index inner[3];  // of the last three axes, in front zeros
    Index batch[MAX_AXES];
};

// x, or the gradient of a field: (batch, time, count), or summed over the points of each lane, (batch, chunks, count).
struct Output {
    void* data;
    Index over_time;
    Index staged;  // -1: through a tile; else 0
};

// How systems lie in the arrays that are shared by points and separators.
struct Systems {
    unsigned char* bad;           // (batch): some point is undetermined
    const unsigned char* idle;    // (batch), or none: nothing is to be done for these systems
    unsigned char* undetermined;  // bool, strides below
    Index flag_strides[MAX_AXES + 1];
    Index shape[MAX_AXES];
    Index axes;
    Index count;

    SMNN_INLINE Index offset(Index system, const Index* strides) const {
        Index result = 0;
        for (int axis = int(axes) - 1; axis > 0; --axis) {
            result += system % shape[axis] * strides[axis];
            system /= shape[axis];
        }
        return axes ? result + system * strides[0] : 0;
    }
    SMNN_INLINE bool is_idle(Index system) const { return idle && idle[system]; }
    SMNN_INLINE void mark(Index system, Index t) const {
        bad[system] = 1;
        undetermined[offset(system, flag_strides) + t * flag_strides[MAX_AXES]] = 1;
    }
};

// Points. A lane is a chunk of a system; lanes lie side by side in what is kept for them.
template <class T>
struct PointJob {
    Systems systems;
    Input in[FIELDS];
    Output gradient[SMOOTHNESS_RHS];
    Output x;          // (batch, T, n): solution of a solve or a normal solve, or right-hand side of one that refines
    void* factor;      // (points, entries, lanes)
    void* z;           // (points, n, lanes)
    void* ends;        // (CarriedLayout<true>, lanes)
    void* products[2]; // (points + 1, Q + rows of a step, lanes): A y - d and A λ, or one of them; of points and the steps
                       // into them, and of the step out of the last one
    void* largest;     // (LARGEST, lanes): the largest weighted products of each kind of rows, and of what was added last
    void* passed;      // (lanes, 2, n): g of the separator less what its chunk subtracts, what that subtracts on its left
    void* separators;  // (lanes, n)
    int V, K, Q;       // as compiled for: where they are not to be compile-time numbers
    int points, T_init, R_init, chunks;
    T tolerance2;
    T scheme_norm2[2 * MAX_K];
    T scheme_rows[4 * MAX_K * MAX_K];
};

// One chain of separators. A lane is a chunk of a system's chain, or all of it.
template <class T>
struct ChainJob {
    Systems systems;
    const void* ends;  // (CarriedLayout<true>, items)
    void* next_ends;   // (CarriedLayout<true>, lanes)
    const void* passed;
    void* next_passed;
    void* factor;      // (CHAIN_ENTRIES, items)
    void* z;           // (n, items)
    void* x;           // (items, n)
    const void* separators;  // (lanes, n)
    int sizes[MAX_LEVELS];   // T, chunks of points, chunks of those, ...
    int level;               // the chain has sizes[level] items
    int chunks;
    int n;                   // as compiled for
    T tolerance2;
};

// total things in chunks that are as long as possible alike; the longer ones come last.
struct Division {
    int total, chunks;
    SMNN_INLINE int start(int k) const {
        const int extra = k - (chunks - total % chunks);
        return k * (total / chunks) + (extra > 0 ? extra : 0);
    }
    SMNN_INLINE int length(int k) const { return total / chunks + (k >= chunks - total % chunks); }
    SMNN_INLINE int longest() const { return (total + chunks - 1) / chunks; }
};

}  // namespace SMNN_LEVEL
}  // namespace smnn
