// Fast Givens rotations, which take rows into a triangle without square roots.
//
// A row of the triangle is kept as (d, r): the entry d on its diagonal, its pivot, says that it counts with the weight 1/d.
// A row (b, x) of weight e goes into it with
//
//     d' = d + e b^2,   r' = r + e b x,   x' = x - (b / d) r,   e' = e d / d'
//
// which leaves the sum of squares what it was: r'^2 / d' + e' x'^2 = r^2 / d + e x^2. There is one division where a
// reflection has a root and then a division, and two multiplications for an entry of both rows where a rotation has four.
// Sources: Gentleman, J. Inst. Maths Applics 12, 1973; Golub, Van Loan, Matrix Computations, section 5.1.13.
//
// Rows may differ by many orders of magnitude. The new value of either row is as accurate as that row, whichever is the
// larger: rows need not be exchanged, which takes branches that depend on the data.
//
// A row of the triangle that is empty has zeros and the pivot EMPTY, as if there were a row sqrt(EMPTY) y = 0. That is
// nothing beside any row there may be, and needs no branch: the first row (b, x) to come becomes (e b^2, e b x), and the
// weight of what is left of it is EMPTY / b^2.
#pragma once

#include "pack.hpp"

namespace smnn {
namespace SMNN_LEVEL {

template <class T>
constexpr T EMPTY = T(sizeof(T) == 8 ? 1e-200 : 1e-30);
// The number that is added to the squared norm of a column: beside that of one without entries, a pivot of EMPTY is small.
template <class T>
constexpr T EMPTY_COLUMN = T(sizeof(T) == 8 ? 1e-160 : 1e-15);

// True where a pivot is small beside the squared norm of its column, times a tolerance.
template <class P>
SMNN_INLINE auto is_nothing(const P& pivot, const P& part_of_norm2) {
    return pivot <= part_of_norm2;
}

template <class P>
struct Rotation {
    P eb, g;  // e b and b / d

    // Takes d, 1 / d and e to what they are after it. e is a product whose second factor comes last: eb waits for that alone,
    // and what that is multiplied by is there before.
    SMNN_INLINE Rotation(const P& b, P& d, P& inverse, P& e, P& factor) : eb(rounded(e * b * factor)), g(b * inverse) {
        const P before = d;
        d += eb * b;
        inverse = reciprocal(d);
        e *= factor;
        factor = before * inverse;
    }

    SMNN_INLINE void operator()(P& r, P& x) const {
        const P kept = r;
        r += eb * x;
        x -= g * kept;
    }
};

}  // namespace SMNN_LEVEL
}  // namespace smnn
