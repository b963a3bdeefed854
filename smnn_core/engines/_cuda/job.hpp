// One launch, as plain data passed by value: the same memory as `host.py` lays out.
#pragma once

#include "../kernels/base.hpp"

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define SMNN_COLD __device__ __noinline__
#else
#define SMNN_COLD
#endif

namespace smnn {
namespace SMNN_LEVEL {

constexpr int MAX_AXES = 6;    // of the batch, once axes that lie in one line are merged
constexpr int MAX_K = 8;       // orders, as SMNN_MOST_ORDERS
constexpr int MAX_LEVELS = 8;  // of chains of separators
constexpr int MAX_BYTES = 4096;  // of a job: all that older drivers pass to a kernel by value

// Sets of multipliers of the rows (kernels/tape.hpp): v, and those of the residual.
constexpr int MULTIPLIERS = 2;

// The arrays of a problem, y and g of an adjoint, or g of a normal solve.
enum Field { C, B, U, S, W_EQUATION, W_INITIAL, W_SMOOTHNESS, SMOOTHNESS_RHS, Y, G, FIELDS };

// An array seen as (batch..., time, inner...), strides in elements, 0 where it is broadcast; no data: zeros.
struct Input {
    const void* data;
    Index time;
    Index inner[3];  // of the axes after that, behind them zeros
    Index batch[MAX_AXES];
};

// The gradient of a field, (batch, time, count), or summed over the points of each lane, (batch, chunks, count). No data: not
// wanted; `over_time` then, too.
struct Output {
    void* data;
    Index over_time;
};

// How systems lie in the arrays that are shared by points and separators.
struct Systems {
    unsigned char* bad;           // (batch): some point is undetermined
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
    // (a call: it is long, and hardly ever made)
    SMNN_COLD void mark(Index system, Index t) const {
        bad[system] = 1;
        undetermined[offset(system, flag_strides) + t * flag_strides[MAX_AXES]] = 1;
    }
};

// One level of the chains of separators. An item is the separator of a chunk of the level below, or of points.
struct ChainLevel {
    void* ends;         // (CarriedLayout<true>, items)
    void* passed;       // (items, 2, n): g of the separator less what its chunk subtracts, what that subtracts on its left
    void* factor;       // (CHAIN_ENTRIES, items)
    void* z;            // (n, items)
    void* x;            // (items, n)
    void* tape;         // (chain_tape_entries, items): of the step from an item to the next
    void* multipliers;  // (items, 2 n, MULTIPLIERS), see Separators::unwind: none, but in an adjoint
};

// Points, for K orders. A lane is a chunk of a system; lanes lie side by side in what is kept for them.
template <class T, int K>
struct PointJob {
    Systems systems;
    Input in[FIELDS];
    Output gradient[SMOOTHNESS_RHS];
    void* x;            // (batch, T, n): the solution of a solve or a normal solve
    void* factor;       // (points, entries, lanes)
    void* z;            // (points, n, lanes)
    void* tape;         // (numbers, lanes): TapeLayout, point after point
    void* lambda;       // (points, n, lanes), as `unwind` leaves it
    void* products;     // (points, Q + rows of a step, lanes): v divided by weights, of points and the steps into them, likewise
    void* initial;      // (batch, T_init, V R_init): the same of the rows of initial values
    ChainLevel above;   // the first one, whose items are what lanes leave
    int V, Q;           // as compiled for: where they are not to be compile-time numbers
    int points, T_init, R_init, chunks;
    T tolerance2;
    T scheme_norm2[2 * K];
    T scheme_rows[4 * K * K];
};

// The chains of separators of each system. A lane is a chunk of one level of a system, or all of the last level.
template <class T>
struct ChainJob {
    Systems systems;
    ChainLevel level[MAX_LEVELS];  // from 1 on
    int sizes[MAX_LEVELS];         // T, chunks of points, chunks of those, ...: as many as there are levels
    int levels;
    int first_level, end_level;  // those that a launch sweeps
    int group;  // threads, or teams, of a system: where a launch has several levels, neighbours in a warp
    int back;   // whether `sweep` goes on to x
    int V, Q;   // as compiled for
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
};

}  // namespace SMNN_LEVEL
}  // namespace smnn
