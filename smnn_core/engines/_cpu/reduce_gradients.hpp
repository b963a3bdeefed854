// Gradients on their way from packs to arrays.
#pragma once

#include "stage.hpp"

namespace smnn {
namespace SMNN_LEVEL {

// The gradient of one field (of every point, or of every step): staged for a block of points, then written or summed.
template <class P>
struct GradientSink {
    using T = ScalarOf<P>;
    static constexpr int W = Lanes<P>::count;

    const Job& job;
    const Group<P>& group;
    const Output& out;
    const int count;        // entries of a point
    const int times;        // points (or steps) of a system
    const Index task;
    P* block;               // (points, count)
    double* sums;           // (count, W): over the points of each lane, where the field is constant in time

    // packs of memory for a block; the sums lie in front
    static Index memory(int count, int points) { return Index(points) * count + Index(count) * sums_in_packs(); }
    static constexpr int sums_in_packs() { return sizeof(double) / sizeof(T); }

    GradientSink(
        const Job& job_, const Group<P>& group_, Field field, int count_, int times_, Index task_, P*& memory, int points
    )
        : job(job_), group(group_), out(job_.gradient[field]), count(count_), times(times_), task(task_) {
        sums = reinterpret_cast<double*>(memory);
        memory += Index(count) * sums_in_packs();
        block = memory;
        memory += Index(points) * count;
        for (int i = 0; i < count * W; ++i) sums[i] = 0;
    }

    // The lane's points t0 .. t1-1; it has `length` of them.
    SMNN_OUTLINE void flush(int t0, int t1, const int* length) {
        switch (out.gather) {
            case Gather::NONE: break;
            case Gather::PER_SYSTEM: write(t0, t1, length); break;
            case Gather::OVER_TIME: sum_over_time(t0, t1, length); break;
            case Gather::OVER_BATCH: sum_over_batch(t0, t1, length); break;
        }
    }

    // After the last block.
    SMNN_OUTLINE void finish() {
        if (out.gather != Gather::OVER_TIME) return;
        for (int l = 0; l < group.valid; ++l) {
            T* at = static_cast<T*>(out.data) + (group.system[l] * job.C + group.chunk[l]) * count;
            for (int e = 0; e < count; ++e) at[e] = sums[e * W + l];
        }
    }

    // One more number of a lane, outside of blocks (count is 1).
    SMNN_OUTLINE void put(int l, int t, T x) {
        const Index at = Index(group.start[l]) + t;
        T* data = static_cast<T*>(out.data);
        switch (out.gather) {
            case Gather::NONE: break;
            case Gather::PER_SYSTEM: data[group.system[l] * times + at] = x; break;
            case Gather::OVER_TIME: sums[l] += x; break;
            case Gather::OVER_BATCH: data[task * times + at] += x; break;
        }
    }

   private:
    SMNN_OUTLINE void write(int t0, int t1, const int* length) {
        T* to[W];
        int shortest = t1;
        for (int l = 0; l < group.valid; ++l) {
            to[l] = static_cast<T*>(out.data) + (group.system[l] * times + group.start[l] + t0) * count;
            if (length[l] < shortest) shortest = length[l];
        }
        if (shortest > t0) unstage_run(block, Index(shortest - t0) * count, to, group.valid);
        for (int l = 0; l < group.valid; ++l) {
            const int end = length[l] < t1 ? length[l] : t1;
            for (Index i = Index(shortest > t0 ? shortest - t0 : 0) * count; i < Index(end - t0) * count; ++i) {
                to[l][i] = block[i].get(l);
            }
        }
    }

    SMNN_OUTLINE void sum_over_time(int t0, int t1, const int* length) {
        for (int e = 0; e < count; ++e) {
            P total = splat<P>(0);
            int shortest = t1;
            for (int l = 0; l < group.valid; ++l) {
                if (length[l] < shortest) shortest = length[l];
            }
            for (int t = t0; t < shortest; ++t) total += block[(t - t0) * count + e];
            for (int l = 0; l < group.valid; ++l) {
                double sum = total.get(l);
                for (int t = shortest > t0 ? shortest : t0; t < t1 && t < length[l]; ++t) {
                    sum += block[(t - t0) * count + e].get(l);
                }
                sums[e * W + l] += sum;
            }
        }
    }

    SMNN_OUTLINE void sum_over_batch(int t0, int t1, const int* length) {
        T* data = static_cast<T*>(out.data) + task * times * count;
        for (int t = t0; t < t1; ++t) {
            for (int e = 0; e < count; ++e) {
                const P& x = block[(t - t0) * count + e];
                for (int l = 0; l < group.valid; ++l) {
                    if (t < length[l]) data[Index(group.start[l] + t) * count + e] += x.get(l);
                }
            }
        }
    }
};

// Where the point t of each lane lies in data (systems, T, n).
template <class P>
SMNN_INLINE void find_points(const Job& job, const Group<P>& group, int t, void* data, ScalarOf<P>** at, int c = 0) {
    for (int l = 0; l < group.valid; ++l) {
        at[l] = static_cast<ScalarOf<P>*>(data) + (number_in_batch(job, group.system[l], c) * job.T + group.start[l] + t) * job.n;
    }
}

// Writes a block of points of (systems, T, n), every lane up to its length.
template <class P>
SMNN_OUTLINE void write_points(const Job& job, const Group<P>& group, int t0, int t1, const P* from, void* data, int c = 0) {
    ScalarOf<P>* to[Lanes<P>::count];
    find_points(job, group, t0, data, to, c);
    const int common = t1 < group.shortest ? t1 : group.shortest;
    if (common > t0) unstage_run(from, Index(common - t0) * job.n, to, group.valid);
    for (int l = 0; l < group.valid; ++l) {
        const int end = group.length[l] < t1 ? group.length[l] : t1;
        for (Index i = Index(common > t0 ? common - t0 : 0) * job.n; i < Index(end - t0) * job.n; ++i) {
            to[l][i] = from[i].get(l);
        }
    }
}

}  // namespace SMNN_LEVEL
}  // namespace smnn
