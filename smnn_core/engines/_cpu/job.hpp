// One call of the engine, as plain data: what the instruction-set builds and the code around them share.
//
// Nothing here, or included by an instruction-set build, may define an inline function outside its namespace: the linker
// would keep one copy of it, perhaps the one with instructions that this processor does not have.
#pragma once

#include <cstddef>

namespace smnn {

using Index = long long;

// Kernels call it between blocks of points. Throws where the call is interrupted: see threads.hpp.
void poll();

// The arrays of a problem in the order of the public functions, right-hand sides of smoothness rows, and y and g of the adjoint.
enum Field { C, B, U, S, W_EQUATION, W_INITIAL, W_SMOOTHNESS, SMOOTHNESS_RHS, Y, G, FIELDS };

// An array seen as (batch..., time, inner...), strides in elements, 0 where it is broadcast.
struct Input {
    const void* data = nullptr;
    const Index* batch = nullptr;    // (Job::n_batch_axes)
    Index time = 0;
    const Index* offsets = nullptr;  // (count): where the entries of one time point lie
    int count = 0;
    bool contiguous = false;         // entries and time points follow one another
    bool shared = false;             // by all batch members
};

// The gathering of the gradient of a field.
enum class Gather {
    NONE,        // it is not wanted
    PER_SYSTEM,  // data: (batch, time, count)
    OVER_TIME,   // the field is constant in time; data: (batch, chunks, count), to be summed over the chunks
    OVER_BATCH,  // the field is shared by the batch; data: (groups, time, count), zero at first, to be summed over the groups
};
struct Output {
    void* data = nullptr;
    Gather gather = Gather::NONE;
};

// Phases of a group of lanes, in this order; chunks take those of an adjoint in separate runs.
//
//     SWEEP | FORWARD    elimination, R^T w = g
//     BACK               R x = z, or R λ = w; of an adjoint also v = Q w and its residual
//     REFINE             where that is not small: R^T w = residual
//     CONTRACT           and R x = w, Q w, which refine λ and v; gradients
enum Phase { SWEEP = 1, FORWARD = 2, BACK = 4, REFINE = 8, CONTRACT = 16 };

// The columns of an adjoint: λ, and what refines it.
constexpr int ADJOINT_COLUMNS = 2;
// Sets of multipliers of the rows (kernels/tape.hpp): v, and the residual.
constexpr int MULTIPLIERS = 2;

// The vectors (n) that a chunk passes to the problem of the separators for every column: the parts that its points subtract
// from g at its last point and at the left separator, and those of `rest` there.
enum Passed { BEFORE, LEFT, REST, REST_LEFT, PASSED };

// Of the rows of a group: the shortest step |s|, or 1 where none is shorter, and the largest norm of an equation, |w c|.
enum Extreme { SHORTEST_STEP, HEAVIEST_EQUATION, EXTREMES };

struct Job {
    // sizes
    int V, K, Q, n, T, T_init, R_init;
    Index batch;             // systems
    int n_batch_axes;
    const Index* batch_shape;
    int C;                   // chunks per system
    Index lanes;             // batch * C
    Index groups;            // of as many lanes as a pack has
    // Left-hand sides that systems share are eliminated together with m right-hand sides: the first m of left-hand
    // side k are those of system k * splits, the next m of system k * splits + 1, and so on, as far as there are any. Number
    // r of left-hand side k is column_lhs[k] + column_repeat[r] in the batch. Otherwise m = 1, and column_lhs is null.
    int m;
    Index splits, n_repeats;
    const Index* column_lhs;     // (batch / splits)
    const Index* column_repeat;  // (n_repeats)
    bool has_rhs;            // sweep with right-hand side
    bool contracts;          // this is an adjoint
    bool unwinds;            // the way back goes through the tape, of an adjoint or of gradients of moments
    bool taped;              // this is an adjoint, or one will follow: checkpoints of all segments, rotations of separators
    bool has_checkpoints;    // those of a solve before
    Index separator_entries; // numbers that are kept of a separator
    bool keeps_factor;       // else it is recomputed, segment by segment

    // the scheme's rows in triangular form, for V variables alike: (2K, 2K), and squared norms of its columns (2K)
    const double* scheme_rows;
    const double* scheme_norm2;
    bool scheme_is_upper;    // whether S12 is upper triangular too, and S22 is zero
    double tolerance2;       // squared

    Input in[FIELDS];
    Output gradient[FIELDS];
    void* x;                 // (batch, T, n): solution of a solve or a normal solve; null: not wanted
    unsigned char* undetermined;  // bool, (batch, T); null: it is enough to know whether there are any
    int* any_undetermined;
    int* any_nan;            // an adjoint is not a number
    double* extremes;        // (groups, EXTREMES): of the rows that a sweep reads

    // Buffers that outlive a run of a group; null: its scratch memory. In packs, group after group.
    void* factor;            // (groups, points kept, entries)
    void* checkpoints;       // (groups, segments, ...): what the sweep carries into those that are eliminated again
    void* z;                 // (groups, ..): z, then w, then x; see LaneSweep::z_at. Of an adjoint: multipliers, too
    void* ends;              // (groups, CarriedLayout<true>{n, m})
    void* passed;            // (groups, columns, PASSED, n)
    unsigned char* rough;    // (batch): set where chunks find that multipliers of a system are to be refined
    void* reduced;           // (batch, C, separator_entries)
    void* separators;        // (batch, columns, C, n); columns: m, or those of an adjoint
    void* multipliers;       // (batch, MULTIPLIERS, C, 2, n): of the rows that chunks leave, their own and the boundary's

    const struct Moments* moments;  // that are wanted, null: none
    double* sums;            // (lanes, 1 + m), then (batch, 1 + m) of separators: log det M and the minima
    double* items;           // (batch, ItemLayout): of moments, what chunks take from the separators
};

// An undivided system whose factor, with those of the other lanes of its group, is no larger than this (in bytes, it stays
// in the second level of cache) is one segment. Others have segments of about the second size, but of as many points that
// what a sweep carries into each of them is small beside its factor.
constexpr Index CACHED_BYTES = 400 * 1024, SEGMENT_BYTES = 64 * 1024, SEGMENT_POINTS = 16;

struct GroupMemory {
    size_t scratch;          // bytes, of a run of a group
    size_t factor, z, checkpoints, ends, passed;  // bytes of a group
    int segments;            // of the longest lane
};

// Results of the inverse of M and of the minimum: arrays, null where they are not wanted.
struct Moments {
    double *covariance, *lag;           // (batch, T, n, n), and (batch, T-1, n, n) of each point with the next
    double* variance;                   // (batch, T, n)
    double *log_determinant, *minimum;  // (batch): log det M, and |W (A y - d)|^2 of the right-hand side
    // The gradients of both with respect to the fields C .. W_INITIAL. Of right-hand sides that share their left-hand side the
    // first has that of log det M. For those of the minimum in C and S, y is an input.
    Output of_determinant[SMOOTHNESS_RHS], of_minimum[SMOOTHNESS_RHS];
    // How the rows ρ of a step s to y[t], of weight w, change with it: dρ = (of_rows ρ + w of_unknowns diag(s^o) y[t-1]) ds / s,
    // (K, K) each, upper triangular.
    const double *of_rows, *of_unknowns;
};

// The kernels of one instruction set and problem size.
struct Kernels {
    int lanes, lanes_in_chunks;  // of a pack
    bool are_compiled;           // for these very sizes
    GroupMemory (*sizes)(const Job&, int phases);
    void (*run)(const Job&, int phases, Index group, void* scratch);
    Index (*separator_entries)(const Job&);  // numbers that are kept of a separator
    size_t (*pivot_test_scratch)(const Job&);
    void (*pivot_test)(const Job&, Index group, void* scratch);  // marks undetermined points, of lanes_in_chunks systems
    size_t (*reduce_scratch)(const Job&);
    void (*reduce)(const Job&, Index system, void* scratch);  // separators := R^-1 z
    void (*reduce_normal)(const Job&, Index system, int c);  // separators := M^-1 g, of column c, and multipliers
};

// Kernels of moments. The phases of a group are SWEEP, which finds log det M and the minima, and BACK.
struct MomentsKernels {
    Kernels kernels;
    Index (*item_entries)(const Job&);                  // numbers that `items` has for a system
    void (*separators)(const Job&, Index system);       // sets them
};

// The most right-hand sides that are eliminated together.
constexpr int MOST_COLUMNS = 64;

// The largest n that kernels with sizes known at run time serve.
constexpr int LARGEST = 64;

struct PanelKernels;
struct WindowKernels;

struct Isa {
    const char* name;
    // by_columns: with any number of right-hand sides
    Kernels (*find)(int V, int K, int Q, bool scheme_is_upper, bool by_columns);
    MomentsKernels (*moments)(int V, int K, int Q, bool by_columns);
    const PanelKernels& panels;
    const WindowKernels& windows;
};

}  // namespace smnn
