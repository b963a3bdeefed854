// Lane-interleaved staging: the threads of a warp together copy runs of points between global memory, where each lane
// lies in one line, and tiles in shared memory, where a number of all lanes lies side by side.
//
// All threads of a warp take part in every copy, those without a lane as well: `fetch` and `flush` are barriers of the
// warp. A tile holds the points t of a lane in which t / points is the same, or (`before`) what belongs to the steps into
// those points, or to the points before them: what a lane has there lies at t - 1.
#pragma once

#include "job.hpp"

namespace smnn {
namespace SMNN_LEVEL {

constexpr int WARP = 32;

SMNN_INLINE int lane_of_warp() { return int(threadIdx.x % WARP); }

// The tiles of a kernel: see tiles.py.
struct TileSize {
    int points;  // 0: none
    int pitch;   // from one number of a lane to the next
};
struct TileSizes {
    TileSize c, b, w_equation, s, y, g, total, totals, given, x;
};

// The lanes of a warp, as all of its threads know them.
struct WarpLanes {
    Index row[WARP];  // see `Place`
    int start[WARP], length[WARP];  // length 0: no lane

    SMNN_INLINE void enter(Index row_, int start_, int length_) {
        const int me = lane_of_warp();
        row[me] = row_;
        start[me] = start_;
        length[me] = length_;
    }
};

// From global to shared memory, done when `copies_done` is: past the registers, where the device can do so.
template <class T>
SMNN_INLINE void copy_later(T* to, const T* from) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    const auto shared = static_cast<unsigned>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(shared), "l"(from), "n"(sizeof(T)) : "memory");
#else
    *to = *from;
#endif
}
SMNN_INLINE void copies_done() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

template <class T, int Points, int Pitch, int Count, bool Before = false>
struct Tile {
    static constexpr int points = Points, pitch = Pitch, count = Count, before = Before, run = Points * Count;
    static constexpr int together = WARP / run;  // lanes that are copied at a time
    static_assert((Points & (Points - 1)) == 0, "slots are points modulo a power of two");
    static_assert(run <= WARP, "a run is copied at once");

    T data[run * Pitch];
    const T* origin[WARP];  // of an input: its first point in each lane, less `before`

    SMNN_INLINE T* mine() { return data + lane_of_warp(); }

    // f(lane, e): number e of the run of `lane` that starts with point `first`, each by one thread; e is next to that of
    // the neighbouring thread. What the lane does not have is left out.
    template <class F>
    SMNN_INLINE static void each(const WarpLanes& lanes, int first, F f) {
        const int e = lane_of_warp() % run, one = lane_of_warp() / run, point = first + e / Count;
        if (one >= together) return;
        const bool opening = Before && point == 0;
#pragma unroll 2
        for (int i = 0; i < (WARP + together - 1) / together; ++i) {
            const int lane = one + i * together;
            if (WARP % together && lane >= WARP) break;
            if (point < lanes.length[lane] && !(opening && lanes.start[lane] == 0)) f(lane, e);
        }
    }
    SMNN_INLINE void fetch(const WarpLanes& lanes, int first) {
        each(lanes, first, [&](int lane, int e) {
            copy_later(data + e * Pitch + lane, origin[lane] + Index(first) * Count + e);
        });
    }
    // to (batch, times, count)
    SMNN_INLINE void flush(const WarpLanes& lanes, int first, T* to, int times) const {
        each(lanes, first, [&](int lane, int e) {
            const Index point = lanes.row[lane] * times + lanes.start[lane] + first - Before;
            to[point * Count + e] = data[e * Pitch + lane];
        });
    }
};

// No tile: what would be staged is always read or written in place.
template <class T, int Pitch, int Count, bool Before>
struct Tile<T, 0, Pitch, Count, Before> {
    static constexpr int points = 0;
};

using NoTile = Tile<void, 0, 0, 0>;

// The shared memory of one warp.
template <class T, class D, class Sizes>
struct WarpMemory {
    static constexpr TileSizes sizes = Sizes::sizes;
    static constexpr bool any = sizes.c.points || sizes.b.points || sizes.w_equation.points || sizes.s.points ||
                                sizes.y.points || sizes.g.points || sizes.total.points || sizes.totals.points ||
                                sizes.given.points || sizes.x.points;

    WarpLanes lanes;
    Tile<T, sizes.c.points, sizes.c.pitch, D::Q * D::n> c;
    Tile<T, sizes.b.points, sizes.b.pitch, D::Q> b;
    Tile<T, sizes.w_equation.points, sizes.w_equation.pitch, D::Q> w_equation;
    Tile<T, sizes.s.points, sizes.s.pitch, 1, true> s;
    Tile<T, sizes.y.points, sizes.y.pitch, D::n, true> y;
    Tile<T, sizes.g.points, sizes.g.pitch, D::n> g;
    Tile<T, sizes.total.points, sizes.total.pitch, D::n> total;
    Tile<T, sizes.totals.points, sizes.totals.pitch, D::n, true> change_of_y, lambda;
    Tile<T, sizes.given.points, sizes.given.pitch, D::n, true> given;
    Tile<T, sizes.x.points, sizes.x.pitch, D::n> x;
};

// The place of point t of this thread's lane: in the slot of a tile, or in place.
template <class TileOf>
SMNN_INLINE int slot_of(Index staged, int t) {
    if constexpr (TileOf::points > 0) {
        return (t + TileOf::before) & (~int(staged) | (TileOf::points - 1));
    } else {
        return t;
    }
}

// The smallest number of points of some tiles, 0 where there is none.
template <class... Staged>
constexpr int fewest_points() {
    int result = 0;
    for (int points : {Staged::points...}) result = points && (!result || points < result) ? points : result;
    return result;
}

// Brings point t into the tiles, from where it lies. All threads of a warp. `edge` is t on the way forwards; on the way
// back t + 1, and 0 at the point that all threads start from.
template <class... Staged>
SMNN_INLINE void fetch(const WarpLanes& lanes, int t, int edge, Staged&... fields) {
    constexpr int fewest = fewest_points<Staged...>();
    if constexpr (fewest > 0) {
        if (edge & (fewest - 1)) return;
        __syncwarp();
        (fields.fetch(lanes, t, edge), ...);
        copies_done();
        __syncwarp();
    }
}

// Takes the points from t on out of the tiles, on the way back. All threads of a warp.
template <class... Staged>
SMNN_INLINE void flush(const WarpLanes& lanes, int t, const Staged&... results) {
    constexpr int fewest = fewest_points<Staged...>();
    if constexpr (fewest > 0) {
        if (t & (fewest - 1)) return;
        __syncwarp();
        (results.flush(lanes, t), ...);
        __syncwarp();
    }
}

}  // namespace SMNN_LEVEL
}  // namespace smnn
