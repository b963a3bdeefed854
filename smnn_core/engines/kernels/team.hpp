// Who works on a lane. Between two reflections, the columns of an elimination are independent of each other: one thread, or
// pack, takes all of them, or a team of threads divides them.
//
// The members of a team work on the same memory, and all of them call all of these functions. What one writes, others see
// after `sync`; what all of them write, they write alike.
#pragma once

#include "base.hpp"

namespace smnn {
namespace SMNN_LEVEL {

// The column that a reflection is made of, where it lies.
template <class P>
struct InPlace {
    P& top;
    P* const below;
};

struct Alone {
    static constexpr int size = 1;

    SMNN_INLINE void sync() const {}
    // The loop `for (i = first(a); i < b; i += size)` goes over this member's part of a .. b-1 ..
    SMNN_INLINE int first(int begin) const { return begin; }
    // .. as does this one over 0 .. count-1, of numbers that may be known at compile time.
    template <class Count, class F>
    SMNN_INLINE void share(Count count, F f) const {
        repeat(count, f);
    }
    // whether this is the one, always the same, that does what is to be done once
    SMNN_INLINE bool leads() const { return true; }
    // A column to make a reflection of: every member has its own.
    template <class P, class Rows>
    SMNN_INLINE InPlace<P> pivot(P& top, P* below, Rows) const {
        return {top, below};
    }
};

}  // namespace SMNN_LEVEL
}  // namespace smnn
