// One lane: a chunk of a system, and its rows under the names that kernels/sweep.hpp and kernels/gradient.hpp use.
#pragma once

#include "../kernels/pack.hpp"
#include "../kernels/tape.hpp"
#include "../kernels/team.hpp"
#include "job.hpp"
#include "size.hpp"

namespace smnn {
namespace SMNN_LEVEL {

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
    template <class... I>
    SMNN_INLINE T operator()(int t, I... i) const {
        return at[offset(t, i...)];
    }
    SMNN_INLINE Index offset(int t) const { return Index(t) * in.time; }
    SMNN_INLINE Index offset(int t, int i) const { return Index(t) * in.time + i * in.inner[2]; }
    SMNN_INLINE Index offset(int t, int i, int j) const {
        return Index(t) * in.time + i * in.inner[1] + j * in.inner[2];
    }
    SMNN_INLINE Index offset(int t, int i, int j, int k) const {
        return Index(t) * in.time + i * in.inner[0] + j * in.inner[1] + k * in.inner[2];
    }
};

// Points are counted from the first of the lane. The step into point t is number t - 1.
template <class T, class D>
struct LaneRows {
    using Size = typename SizeOf<D::unrolled>::template type<D>;

    const PointJob<T, D::K>& job;
    const Lane& lane;
    const Size size;
    const Field_<T> c_, b_, w_equation_, s_, w_smoothness_, u_, w_initial_, smoothness_rhs_;

    SMNN_INLINE LaneRows(const PointJob<T, D::K>& job_, const Lane& lane_)
        : job(job_),
          lane(lane_),
          size(SizeOf<D::unrolled>::template make<D>(job_.V, job_.orders, job_.Q)),
          c_(job_.systems, job_.in[C], lane_),
          b_(job_.systems, job_.in[B], lane_),
          w_equation_(job_.systems, job_.in[W_EQUATION], lane_),
          s_(job_.systems, job_.in[S], lane_),
          w_smoothness_(job_.systems, job_.in[W_SMOOTHNESS], lane_),
          u_(job_.systems, job_.in[U], lane_),
          w_initial_(job_.systems, job_.in[W_INITIAL], lane_),
          smoothness_rhs_(job_.systems, job_.in[SMOOTHNESS_RHS], lane_) {}

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

// The tape of a sweep (kernels/tape.hpp), of which the numbers of every lane (or item) lie `stride` apart. All members of a team
// write the same numbers, each in its own time.
template <class T>
struct StridedTape {
    T* at;
    Index stride;

    // before its first number, or behind so many
    SMNN_INLINE void start(void* memory, Index first, Index stride_, int count = 0) {
        at = static_cast<T*>(memory) + first + count * stride_;
        stride = stride_;
    }
    SMNN_INLINE void put(int i, T x) { at[i * stride] = x; }
    SMNN_INLINE void push(T x) {
        *at = x;
        at += stride;
    }
    SMNN_INLINE void push(const Rotation<T>& rotation) {
        push(rotation.eb);
        push(rotation.g);
    }
    SMNN_INLINE void leave(int, T e, T z) { push(e * z); }
    SMNN_INLINE void skip(int count) { at += count * stride; }
    SMNN_INLINE T pop() { return *(at -= stride); }
};
struct NotRecorded : NoTape {
    SMNN_INLINE void start(void*, Index, Index) {}
};

template <class T>
SMNN_INLINE T not_a_number() {
    return root(T(-1));
}

}  // namespace SMNN_LEVEL
}  // namespace smnn
