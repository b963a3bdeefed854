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

// An adjoint has two sides: Y refines y, LAMBDA finds λ with M λ = g, and refines it. Each has solves, totals and products
// of its own; a launch has the lanes of one or both.
enum Side { OF_Y, OF_LAMBDA, SIDES };

// The arrays of a problem, and of the adjoint: y, g (of a normal solve), the change of y and λ, y as what is multiplied, and
// the right-hand sides of what refines.
enum Field { C, B, U, S, W_EQUATION, W_INITIAL, W_SMOOTHNESS, SMOOTHNESS_RHS, Y, G, TOTAL, GIVEN, REST, FIELDS };

// The report of `refine` on a side of each system: how large its weighted products are by kind of rows, what was added to the
// first two last, and how large y or λ is.
enum SizeOfSide { EQUATIONS, STEPS, INITIAL, ADDED, SOLUTION = ADDED + 2, SIZES };

// An array seen as (batch..., time, inner...), strides in elements, 0 where it is broadcast; no data: zeros.
struct Input {
    const void* data;
    Index time;
    Index side;      // from that of y to that of λ
    Index inner[3];  // of the last three axes, in front zeros
    Index batch[MAX_AXES];
};

// x, of one side or both, (sides, batch, time, count); or the gradient of a field, (batch, time, count), or summed over the
// points of each lane, (batch, chunks, count). No data: not wanted; `over_time` then, too.
struct Output {
    void* data;
    Index over_time;
};

// How systems lie in the arrays that are shared by points and separators.
struct Systems {
    unsigned char* bad;           // (batch): some point is undetermined
    const void* sizes;            // (SIDES, SIZES, batch) of the last `refine`, or none: what is small is left as it is
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

// Limits on what was added to the products of a side last, beside the largest of their kind: above the first they are
// refined again, above the second they are lost.
template <class T>
constexpr T UNIT = T(sizeof(T) == 8 ? 0x1p-52 : 0x1p-23);
template <class T>
constexpr T SETTLED = T(sizeof(T) == 8 ? 0x1p-26 : 0x1.6a09e6p-12);
constexpr double LOST = 1e-2;

// True where the last change of the products of a side is above a limit.
template <class T>
SMNN_INLINE bool exceeds(const void* sizes, Index count, Index system, int side, T limit) {
    const auto size = [&](int of, int i) { return static_cast<const T*>(sizes)[(of * SIZES + i) * count + system]; };
    // what an error of d - A y is to be compared with, where that is all rounding: that of A λ has the weight of y
    const T of_lambda = size(OF_LAMBDA, SOLUTION);
    const T ratio = side == OF_Y ? size(OF_Y, SOLUTION) / (of_lambda == 0 ? T(1) : of_lambda) : T(0);
    T total[ADDED], largest = 0;
    for (int i = 0; i < ADDED; ++i) {
        total[i] = size(side, i) + (side == OF_Y ? ratio * size(OF_LAMBDA, i) : T(0));
        largest = largest < total[i] ? total[i] : largest;
    }
    // (products that are zero but for rounding shrink with each refinement, and never settle)
    const T zero = UNIT<T> * UNIT<T> * largest;
    bool result = false;
    for (int i = 0; i < 2; ++i) result = result || size(side, ADDED + i) > limit * total[i] + zero;
    return result;
}

// Points, for K orders. A lane is a chunk of a system; lanes lie side by side in what is kept for them.
template <class T, int K>
struct PointJob {
    Systems systems;
    Input in[FIELDS];
    Output gradient[SMOOTHNESS_RHS];
    Output x;          // (batch, T, n): solution of a solve or a normal solve; of `refine`, the right-hand sides of the next
    Output total;      // (SIDES, batch, T, n): change of y, and λ
    void* factor;      // (points, entries, lanes)
    void* z;           // (points, n, slots); a slot is a lane of a side
    void* ends;        // (CarriedLayout<true>, lanes)
    void* products;    // (points, Q + rows of a step, slots): A (y + its change) - d and A λ, of points and the steps into them
    void* sizes;       // (SIDES, SIZES, batch), zeros at first: of this `refine`
    void* passed;      // (slots, 2, n): g of the separator less what its chunk subtracts, what that subtracts on its left;
                       // none: `refine` does not go on to R^T w = rest
    void* separators;  // (slots, n)
    Index slots;
    int first_side, sides;
    int V, orders, Q;  // as compiled for: where they are not to be compile-time numbers
    int points, T_init, R_init, chunks;
    T tolerance2;
    T scheme_norm2[2 * K];
    T scheme_rows[4 * K * K];
};

// One level of the chains of separators. An item is the separator of a chunk of the level below, or of points.
struct ChainLevel {
    void* ends;    // (CarriedLayout<true>, items)
    void* passed;  // (slots, 2, n); a slot is an item of a side
    void* factor;  // (CHAIN_ENTRIES, items)
    void* z;       // (n, slots)
    void* x;       // (slots, n)
};

// The chains of separators of each system. A lane is a chunk of one level of a system, or all of the last level.
template <class T>
struct ChainJob {
    Systems systems;
    ChainLevel level[MAX_LEVELS];  // from 1 on
    int sizes[MAX_LEVELS];         // T, chunks of points, chunks of those, ...: as many as there are levels
    int levels;
    int first_level, end_level;  // those that a launch sweeps
    int group;  // threads, or teams, of a system and side: where a launch has several levels, neighbours in a warp
    int back;   // whether `sweep` goes on to x
    int first_side, sides, all_sides;  // of the launch, and those that there is memory for
    int n;      // as compiled for
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
