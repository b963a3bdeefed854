// Threads of a warp that work on one lane together (see kernels/team.hpp).
#pragma once

#include "../kernels/team.hpp"
#include "tile.hpp"

namespace smnn {
namespace SMNN_LEVEL {

// Its own copy of a column, since a reflection that exchanges rows begins there.
template <class P, int Rows>
struct Copied {
    P top, below[Rows];
};

// `Size` threads, a power of two, side by side; columns have up to `Rows` rows.
template <int Size, int Rows>
struct Team {
    static constexpr int size = Size;

    const int rank;
    const unsigned members;

    SMNN_INLINE Team()
        : rank(lane_of_warp() % Size), members((~0u >> (WARP - Size)) << (lane_of_warp() / Size * Size)) {}

    SMNN_INLINE void sync() const { __syncwarp(members); }
    SMNN_INLINE int first(int begin) const { return begin + rank; }
    template <class F>
    SMNN_INLINE void share(int count, F f) const {
        for (int i = rank; i < count; i += Size) f(i);
    }
    // (the last one has the fewest columns)
    SMNN_INLINE bool leads() const { return rank == Size - 1; }
    template <class P>
    SMNN_INLINE Copied<P, Rows> pivot(const P& top, const P* below, int rows) const {
        Copied<P, Rows> copy;
        copy.top = top;
        for (int i = 0; i < rows; ++i) copy.below[i] = below[i];
        return copy;
    }
};

}  // namespace SMNN_LEVEL
}  // namespace smnn
