// Threads of a warp that work on one lane together (see kernels/team.hpp).
#pragma once

#include "../kernels/team.hpp"
#include "job.hpp"

namespace smnn {
namespace SMNN_LEVEL {

constexpr int WARP = 32;

SMNN_INLINE int lane_of_warp() { return int(threadIdx.x % WARP); }

// `Size` threads, a power of two, side by side.
template <int Size>
struct Team {
    static constexpr int size = Size;

    const int rank;
    const unsigned members;

    SMNN_INLINE Team()
        : rank(lane_of_warp() % Size), members((~0u >> (WARP - Size)) << (lane_of_warp() / Size * Size)) {}

    SMNN_INLINE void sync() const { __syncwarp(members); }
    template <class F>
    SMNN_INLINE void share(int begin, int end, F f) const {
        for (int i = begin + rank; i < end; i += Size) f(i);
    }
    // (the last one has the fewest columns)
    SMNN_INLINE bool leads() const { return rank == Size - 1; }
    template <class P, class Make, class Apply>
    SMNN_INLINE void rotate(P* room, int count, Make make, Apply apply) const {
        Rotation<P>* const rotations = reinterpret_cast<Rotation<P>*>(room);
        share(0, count, [&](int i) { rotations[i] = make(i); });
        sync();
        for (int i = 0; i < count; ++i) apply(i, rotations[i]);
        sync();
    }
    // The pivot that row i meets is a sum over the rows before: all rotations are made at once.
    template <class P, class Entry, class Weights, class Apply>
    SMNN_INLINE void absorb(
        P* room, int first, int end, Entry entry, P& pivot, P& inverse, Weights& weight, Weights& factor, Apply apply
    ) const {
        Rotation<P>* const rotations = reinterpret_cast<Rotation<P>*>(room);
        P* const squares = room + 2 * (end - first);
        share(first, end, [&](int i) { squares[i - first] = weight[i] * factor[i] * entry(i) * entry(i); });
        sync();
        P sum = pivot;
        for (int i = first; i < end; ++i) {
            if ((i - first) % Size == rank) {
                P before = sum, inverse_before = reciprocal(before);
                rotations[i - first] = Rotation<P>(entry(i), before, inverse_before, weight[i], factor[i]);
            }
            sum += squares[i - first];
        }
        sync();
        if (leads()) {
            pivot = sum;
            inverse = reciprocal(sum);
        }
        for (int i = first; i < end; ++i) apply(i, rotations[i - first]);
        sync();
    }
};
template <int Size>
struct TeamOf {
    using type = Team<Size>;
};
template <>
struct TeamOf<1> {
    using type = Alone;
};

}  // namespace SMNN_LEVEL
}  // namespace smnn
