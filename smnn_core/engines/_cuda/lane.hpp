// One lane: a chunk of a system, and its rows under the names that kernels/sweep.hpp and kernels/gradient.hpp use.
#pragma once

#include "../kernels/pack.hpp"
#include "../kernels/tape.hpp"
#include "../kernels/team.hpp"
#include "job.hpp"

namespace smnn {
namespace SMNN_LEVEL {

// The sizes that a module is compiled for, as numbers that the compiler knows ...
template <int V_, int K_, int Q_, bool Extra>
struct Known : Fixed<V_, K_, Q_, Extra> {
    using Most = Fixed<V_, K_, Q_, Extra>;
    SMNN_INLINE Known(int, int) {}
};
// ... or does not, but for the orders: it divides by K without dividing. Unrolled code grows with n^3: where it does not stay in
// registers anyway, loops take its place, in arrays of the same capacity.
template <int V_, int K_, int Q_, bool Extra>
struct Looped {
    using Most = Fixed<V_, K_, Q_, Extra>;
    static constexpr bool fixed = false;
    static constexpr Int<K_> K{};
    static constexpr Int<1> m{};
    static constexpr Int<0> z_step{};
    int V, Q, n, extra, rows;
    SMNN_INLINE Looped(int V_now, int Q_now) : V(V_now), Q(Q_now), n(V * K_), extra(Extra ? n : 0), rows(n + extra + Q) {}
};

struct Lane {
    Index number, system;
    int chunk, start, length;

    SMNN_INLINE Lane(Index number_, int total, int chunks)
        : number(number_), system(number_ / chunks), chunk(int(number_ % chunks)) {
        const Division division{total, chunks};
        start = division.start(chunk);
        length = division.length(chunk);
    }
};

// An array from the first point of a lane on.
template <class T>
struct Field_ {
    const T* at;
    const Input& in;

    SMNN_INLINE Field_(const Systems& systems, const Input& in_, const Lane& lane)
        : at(static_cast<const T*>(in_.data) + systems.offset(lane.system, in_.batch) + lane.start * in_.time), in(in_) {}
    SMNN_INLINE bool there() const { return in.data != nullptr; }
    SMNN_INLINE T operator()(int t, int i = 0, int j = 0, int k = 0) const {
        return at[Index(t) * in.time + i * in.inner[0] + j * in.inner[1] + k * in.inner[2]];
    }
};

// Points are counted from the first of the lane. The step into point t is number t - 1.
template <class T, class Size>
struct LaneRows {
    const PointJob<T, Size::Most::K>& job;
    const Lane& lane;
    const Size& size;
    const Field_<T> c_{job.systems, job.in[C], lane}, b_{job.systems, job.in[B], lane}, u_{job.systems, job.in[U], lane},
        s_{job.systems, job.in[S], lane}, w_equation_{job.systems, job.in[W_EQUATION], lane},
        w_initial_{job.systems, job.in[W_INITIAL], lane}, w_smoothness_{job.systems, job.in[W_SMOOTHNESS], lane},
        smoothness_rhs_{job.systems, job.in[SMOOTHNESS_RHS], lane};

    SMNN_INLINE T c(int t, int q, int j) const { return c_(t, q, j / size.K, j % size.K); }
    SMNN_INLINE T b(int t, int q, int = 0) const { return b_.there() ? b_(t, q) : T(0); }
    SMNN_INLINE T w_equation(int t, int q) const { return w_equation_(t, q); }
    SMNN_INLINE bool is_first(int t) const { return lane.start + t == 0; }
    SMNN_INLINE T s(int t) const { return is_first(t) ? T(0) : s_(t - 1); }
    SMNN_INLINE T w_smoothness(int t) const { return is_first(t) ? T(0) : w_smoothness_(t - 1); }
    SMNN_INLINE bool has_smoothness_rhs() const { return smoothness_rhs_.there(); }
    SMNN_INLINE T smoothness_rhs(int t, int v, int i) const {
        return is_first(t) ? T(0) : smoothness_rhs_(t - 1, v, i);
    }
    SMNN_INLINE bool has_initial(int t) const { return lane.start + t < job.T_init; }
    SMNN_INLINE int n_initial_orders() const { return job.R_init; }
    SMNN_INLINE T u(int t, int v, int r, int = 0) const { return u_.there() ? u_(t, v, r) : T(0); }
    SMNN_INLINE T w_initial(int t, int v, int r) const { return w_initial_(t, v, r); }
    SMNN_INLINE void mark_undetermined(int t, bool mask) const {
        if (mask) job.systems.mark(lane.system, lane.start + t);
    }
};

// The numbers of every lane (or item) lie `stride` apart, so that neighbours read neighbours.
template <class T>
struct Strided {
    const T* at;
    Index stride;
    SMNN_INLINE Strided(const void* from, Index first, Index stride_)
        : at(static_cast<const T*>(from) + first), stride(stride_) {}
    SMNN_INLINE T operator[](int i) const { return at[i * stride]; }
    SMNN_INLINE Strided operator+(Index i) const { return {at, i * stride, stride}; }
};
template <class T>
SMNN_INLINE void load(const void* from, Index first, int count, Index stride, T* to) {
    const T* at = static_cast<const T*>(from) + first;
    for (int e = 0; e < count; ++e) to[e] = at[e * stride];
}
template <class T, class Team = Alone>
SMNN_INLINE void store(void* to, Index first, int count, Index stride, const T* from, Team team = {}) {
    T* at = static_cast<T*>(to) + first;
    team.share(0, count, [&](int e) { at[e * stride] = from[e]; });
}

// The tape of a sweep (kernels/tape.hpp), behind so many numbers of lane (or item) `first`. All members of a team write the same
// numbers, each in its own time.
template <class T>
using StridedTape = Tape<T, Index>;
template <class T>
SMNN_INLINE void start(StridedTape<T>& tape, void* memory, Index first, Index stride, Index count = 0) {
    tape = {static_cast<T*>(memory) + first + count * stride, stride};
}
SMNN_INLINE void start(NoTape&, void*, Index, Index) {}

template <class T>
SMNN_INLINE T not_a_number() {
    return root(T(-1));
}

}  // namespace SMNN_LEVEL
}  // namespace smnn
