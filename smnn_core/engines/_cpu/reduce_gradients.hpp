// From packs to arrays: solutions, and gradients, which are summed where a field is shared.
#pragma once

#include "stage.hpp"

namespace smnn {
namespace SMNN_LEVEL {

// Writes from (points, count), the points t0 .. t1-1 of every lane, up to its length (lanes), to the place `to` (lanes) of the
// lane's point t0.
template <class P>
SMNN_OUTLINE void write_lanes(const P* from, int count, int t0, int t1, const int* length, int valid, ScalarOf<P>* const* to) {
    int common = t1;
    for (int l = 0; l < valid; ++l) common = length[l] < common ? length[l] : common;
    if (common < t0) common = t0;
    unstage_run(from, Index(common - t0) * count, to, valid);
    for (int l = 0; l < valid; ++l) {
        const int end = length[l] < t1 ? length[l] : t1;
        for (Index i = Index(common - t0) * count; i < Index(end - t0) * count; ++i) to[l][i] = from[i].get(l);
    }
}

// Writes from (points, n), the points t0 .. t1-1, to data (batch, T, n), at right-hand side c of each left-hand side.
template <class P>
void write_points(const Job& job, const Group<P>& group, int t0, int t1, const P* from, void* data, int c = 0) {
    ScalarOf<P>* to[Lanes<P>::count];
    for (int l = 0; l < group.valid; ++l) {
        const Index system = number_in_batch(job, group.system[l], c);
        to[l] = static_cast<ScalarOf<P>*>(data) + (system * job.T + group.start[l] + t0) * job.n;
    }
    write_lanes(from, job.n, t0, t1, group.length, group.valid, to);
}

// The gradient of one field (of every point, or of every step): staged for a block of points, then written or summed.
template <class P>
struct GradientSink {
    using T = ScalarOf<P>;
    static constexpr int W = Lanes<P>::count;

    const Job* job;
    const Group<P>* group;
    Output out;
    int count;              // entries of a point
    int times;              // points (or steps) of a system
    P* sums;                // (count): over the points of each lane, where the field is constant in time
    P* block;               // (points, count)
    Index number[W];        // of each lane in the batch, with this right-hand side

    static Index memory(int count, int points) { return Index(points + 1) * count + 2 * GAP; }

    GradientSink() = default;  // (to be assigned)
    GradientSink(
        const Job& job_, const Group<P>& group_, const Output& out_, int count_, int times_, P*& memory, int points, int column = 0
    )
        : job(&job_), group(&group_), out(out_), count(count_), times(times_), sums(take_from(memory, count_)),
          block(take_from(memory, Index(points) * count_)) {
        for (int e = 0; e < count; ++e) sums[e] = splat<P>(0);
        for (int l = 0; l < W; ++l) number[l] = number_in_batch(job_, group_.system[l], column);
    }

    // Each lane's points t0 .. t1-1; it has length (W) of them.
    SMNN_OUTLINE void flush(int t0, int t1, const int* length) {
        if (out.gather == Gather::PER_SYSTEM) {
            T* to[W];
            for (int l = 0; l < group->valid; ++l) {
                to[l] = static_cast<T*>(out.data) + (number[l] * times + group->start[l] + t0) * count;
            }
            return write_lanes(block, count, t0, t1, length, group->valid, to);
        }
        for (int t = t0; out.gather != Gather::NONE && t < t1; ++t) {
            const P* const from = block + (t - t0) * count;
            bool is_common = out.gather == Gather::OVER_TIME;
            for (int l = 0; l < group->valid; ++l) is_common = is_common && t < length[l];
            for (int e = 0; is_common && e < count; ++e) sums[e] += from[e];
            for (int l = 0; !is_common && l < group->valid; ++l) {
                for (int e = 0; t < length[l] && e < count; ++e) add(l, t, e, from[e].get(l));
            }
        }
    }

    // Of the steps into points t0 .. t1-1. That into the first point of a chunk is one of its steps, too.
    SMNN_OUTLINE void flush_steps(int t0, int t1) {
        int length[W];
        for (int l = 0; l < W; ++l) length[l] = group->length[l] - 1;
        if (t0 > 0) return flush(t0 - 1, t1 - 1, length);
        for (int l = 0; l < group->valid; ++l) {
            if (group->start[l] > 0) add(l, -1, 0, block[0].get(l));
        }
        if (t1 == 1) return;
        P* const kept = block;
        block = kept + 1;
        flush(0, t1 - 1, length);
        block = kept;
    }

    // After the last block.
    SMNN_OUTLINE void finish() {
        for (int l = 0; out.gather == Gather::OVER_TIME && l < group->valid; ++l) {
            T* const to = static_cast<T*>(out.data) + (number[l] * job->C + group->chunk[l]) * count;
            for (int e = 0; e < count; ++e) to[e] = sums[e].get(l);
        }
    }

    // One number of point t of a lane, which may be the step (-1) from the left separator.
    SMNN_INLINE void add(int l, int t, int e, T x) {
        const Index at = (Index(group->start[l]) + t) * count + e;
        T* const data = static_cast<T*>(out.data);
        switch (out.gather) {
            case Gather::NONE: break;
            case Gather::PER_SYSTEM: data[number[l] * times * count + at] = x; break;
            case Gather::OVER_TIME: sums[e].set(l, sums[e].get(l) + x); break;
            case Gather::OVER_BATCH: data[group->number * times * count + at] += x; break;
        }
    }
};

// The gradients of L, of log det M, or of the minimum of one right-hand side.
template <class P>
struct GradientSet {
    static constexpr int W = Lanes<P>::count;
    const Output* to;
    GradientSink<P> sinks[SMOOTHNESS_RHS];  // but for U and W_INITIAL, which have no blocks
    Index number[W];

    static int count(const Job& job, int field) {
        return field == C ? job.Q * job.n : field == B || field == W_EQUATION ? job.Q : field == S || field == W_SMOOTHNESS;
    }
    // Packs of `set`; to (SMOOTHNESS_RHS): by field, null data: not wanted. all: with room for those that are not, too.
    static Index memory(const Job& job, const Output* to, bool all, int points) {
        Index packs = 0;
        for (int f = 0; f < SMOOTHNESS_RHS; ++f) packs += all || to[f].data ? GradientSink<P>::memory(count(job, f), points) : 0;
        return packs;
    }
    // to_ (SMOOTHNESS_RHS): as above; memory (memory(..)): moves on behind what is taken of it.
    void set(const Job& job, const Group<P>& group, const Output* to_, bool all, int column, P*& memory, int points) {
        to = to_;
        for (int l = 0; l < W; ++l) number[l] = number_in_batch(job, group.system[l], column);
        for (int f = 0; f < SMOOTHNESS_RHS; ++f) {
            const int times = is_of_step(f) ? job.T - 1 : job.T;
            if (all || to[f].data) sinks[f] = {job, group, to[f], count(job, f), times, memory, points, column};
        }
    }
    bool wants(Field f) const { return to[f].data != nullptr; }
    // The numbers of point i of a block, or of the step into it.
    P* at(Field f, int i) const { return sinks[f].block + Index(i) * sinks[f].count; }

    // The points t0 .. t1-1; length (W): of each lane.
    void flush(int t0, int t1, const int* length) {
        for (int f = 0; f < SMOOTHNESS_RHS; ++f) {
            if (to[f].data) is_of_step(f) ? sinks[f].flush_steps(t0, t1) : sinks[f].flush(t0, t1, length);
        }
    }
    void finish() {
        for (int f = 0; f < SMOOTHNESS_RHS; ++f) {
            if (to[f].data) sinks[f].finish();
        }
    }

   private:
    static bool is_of_step(int f) { return f == S || f == W_SMOOTHNESS; }
};

}  // namespace SMNN_LEVEL
}  // namespace smnn
