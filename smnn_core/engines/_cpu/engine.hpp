// Calls of the engine on arrays of any strides: lays out the job, divides it over lanes, chunks and threads.
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

struct Shape {
    int T, V, K, Q, T_init, R_init;
    std::vector<Index> batch;
};

// The smoothness rows of a scheme in triangular form: (2K, 2K), row by row.
struct Scheme {
    const double* rows;
    double tolerance;  // a pivot below this times the norm of its column is zero
};

// What elimination leaves for later solves, of the systems of one batch.
struct Factor {
    std::vector<Index> batch;
    int C, n_again;
    Buffer factor, reduced;
    size_t bytes;
};

// Arrays by field; a field that is not there has no data.
using Arrays = std::array<View, FIELDS>;

struct Solved {
    std::shared_ptr<Factor> factor;  // null where nothing is kept: eliminating again is cheaper, or `recompute`
    bool any_small_pivot;
    bool any_zero_step;              // of which nothing else is said
};

// y = argmin |W (A y - d)|, (batch, T, V, K) contiguous; without y: elimination alone, for a factor that is kept whole.
// `recompute`, here and below: with as little memory as
// possible, that is to keep nothing of a factor.
Solved solve(
    const Shape& shape, const Scheme& scheme, const Arrays& arrays, void* y, bool recompute
);

// Marks the time points that rows leave undetermined: where pivots are nothing but rounding. Returns whether there are any.
// The functions here only say whether some pivot is small beside the norm of its column, which takes no time; this one
// takes several times as long as they do.
bool find_undetermined(const Shape& shape, const Scheme& scheme, const Arrays& arrays, const View& undetermined);

// x = M^-1 g with arrays[G] = g. Returns whether some pivot is small: where it eliminates to find out.
bool normal_solve(
    const Shape& shape, const Scheme& scheme, const Arrays& arrays, const Factor* factor, void* x
);

// The gradients of L with respect to those of the fields C .. W_INITIAL that are wanted, into `gradients`, contiguous and
// of the shape of their fields, from arrays[Y] = y and arrays[G] = dL/dy.
//
// `changes`, (batch): what one step of refinement leaves of an error of λ, times that of the products with the rows, where it
// is above their size. Where it is more than LARGEST_CHANGE, as with equations in units in which they are 1e8 times larger than
// the other rows, one step is not enough: gradients may be wrong in all digits. Empty where all are below.
constexpr double LARGEST_CHANGE = 1e-8;
struct Pulled {
    bool any_small_pivot;  // as `normal_solve` returns it
    std::vector<double> changes;
};
Pulled adjoint(
    const Shape& shape, const Scheme& scheme, const Arrays& arrays, const Factor* factor,
    const Arrays& gradients, bool recompute
);

// Blocks of M^-1, log det M and the minimum, as far as they are wanted; arrays are contiguous.
void covariance(const Shape& shape, const Scheme& scheme, const Arrays& arrays, const Moments& wanted);

}  // namespace smnn
