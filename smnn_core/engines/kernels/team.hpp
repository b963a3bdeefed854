// Who works on a lane: one thread, or pack, or the threads of a team, which divide rotations and columns among them.
//
// The members of a team work on the same memory, and all of them call all of these functions. What one writes, others see
// after `sync`; what all of them write, they write alike.
#pragma once

#include "rotate.hpp"

namespace smnn {
namespace SMNN_LEVEL {

struct Alone {
    static constexpr int size = 1;

    SMNN_INLINE void sync() const {}
    // f(begin) .. f(end-1), this member's part of them. Numbers may be known at compile time.
    template <class Begin, class End, class F>
    SMNN_INLINE void share(Begin begin, End end, F f) const {
        repeat_from(begin, end, f);
    }
    // whether this is the one, always the same, that does what is to be done once
    SMNN_INLINE bool leads() const { return true; }
    // make(i), a rotation, for i < count, by one member each, then apply(i, rotation) by all. Those of one call do not depend
    // on each other. Here and below, `room` is memory that teams use.
    template <class P, class Count, class Make, class Apply>
    SMNN_INLINE void rotate(P*, Count count, Make make, Apply apply) const {
        repeat(count, [&](auto i) SMNN_LAMBDA { apply(i, make(i)); });
    }
    // Rows first .. end-1 one after the other into the same row of a triangle; entry(i) is that of row i in its column.
    template <class P, class First, class End, class Entry, class Weights, class Apply>
    SMNN_INLINE void absorb(
        P*, First first, End end, Entry entry, P& pivot, P& inverse, Weights& weight, Weights& factor, Apply apply
    ) const {
        repeat_from(first, end, [&](auto i) SMNN_LAMBDA {
            apply(i, Rotation<P>(entry(i), pivot, inverse, weight[i], factor[i]));
        });
    }
};

}  // namespace SMNN_LEVEL
}  // namespace smnn
