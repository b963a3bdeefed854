// The calls of the compiled engine, for problems in arrays of any strides.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "buffers.hpp"
#include "job.hpp"

namespace smnn {

// An array; its shape and its strides, in elements, lie elsewhere.
struct View {
    void* data = nullptr;
    int rank = 0;
    const Index* shape = nullptr;
    const Index* strides = nullptr;
};

// A least-squares problem, or its left-hand side.
struct ProblemSpec {
    int T, V, K, Q, T_init, R_init;
    const double* scheme_rows;  // the smoothness rows of the scheme in triangular form, (2K, 2K)
    double tolerance;           // a pivot below this times the norm of its column is small
    std::vector<Index> batch;
    std::array<View, SMOOTHNESS_RHS + 1> arrays;  // by field, each broadcasts to the batch; no data: zero
};

// Of the fields of a problem: arrays of their shapes, contiguous. No data: not wanted.
using Gradients = std::array<View, SMOOTHNESS_RHS>;

// The factors of the systems of one batch, for later solves, whole.
struct Factor {
    std::vector<Index> batch;
    int C;
    Buffer factor, reduced;
    Index separator_entries;
    Buffer checkpoints;  // for an adjoint, of the right-hand side that it was made with
    size_t bytes;
};

struct Outcome {
    std::shared_ptr<Factor> factor;  // null where nothing is kept: recomputing is cheaper, or asked for
    bool any_small_pivot;
    double shortest_step, heaviest_equation;  // see `Extreme`; where a step is zero, the results are of no use
};

// y = argmin |W (A y - d)|, (batch, T, V, K) contiguous; without y: elimination alone, for a factor that is kept whole.
// `recompute`, here and below: as little memory as possible, that is to keep nothing of a factor.
Outcome solve(const ProblemSpec& problem, void* y, bool recompute);

// Marks the time points that rows leave undetermined, where pivots are nothing but rounding: bool, (batch, T) contiguous.
// Returns whether there are any. The other functions only say whether some pivot is small beside the norm of its column, which
// takes no time; this one takes several times as long as they do.
bool find_undetermined(const ProblemSpec& problem, unsigned char* undetermined);

// x = M^-1 g, (batch, T, V, K) contiguous. Returns whether some pivot is small, where it eliminates to find out.
bool normal_solve(const ProblemSpec& problem, const Factor* factor, const View& g, void* x);

// The result of an adjoint beside its gradients.
struct Found {
    bool any_small_pivot, any_nan;  // the former where it eliminates to find out
};

// The gradients of L, from y and g = dL/dy, and what a solve of the same problem has kept.
Found adjoint(const ProblemSpec& problem, const Factor* factor, const View& y, const View& g, const Gradients& gradients);

// Blocks of M^-1, log det M and the minimum, as far as they are wanted, and gradients by field, null where not wanted:
// they have all axes of the batch, and behind these those of their field or axes of length 1. Arrays are contiguous. y: the
// solution, where gradients of the minimum with respect to coefficients or steps are wanted. The scheme is upper triangular.
// There is no factor in what it returns.
Outcome moments(
    const ProblemSpec& problem, Moments wanted, const View& y, const Gradients& of_determinant, const Gradients& of_minimum
);

}  // namespace smnn
