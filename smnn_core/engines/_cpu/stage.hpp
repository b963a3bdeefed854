// Between arrays of any strides and packs: a block of points is transposed so that lanes lie side by side.
#pragma once

#include <utility>

#include "../kernels/pack.hpp"
#include "job.hpp"
#include "scratch.hpp"

namespace smnn {
namespace SMNN_LEVEL {

template <class P>
using ScalarOf = typename Lanes<P>::Scalar;

// The lanes of a group: which chunk of which system.
template <class P>
struct Group {
    static constexpr int W = Lanes<P>::count;
    const Index number;
    Index system[W];
    int chunk[W];
    int start[W];   // first point
    int length[W];  // points
    int valid;      // lanes beyond repeat the last one and are not written
    int longest, shortest, first_start;

    SMNN_OUTLINE Group(const Job& job, Index number_) : number(number_) {
        const Index first = number * W;
        valid = job.lanes - first < W ? int(job.lanes - first) : W;
        const int base = job.T / job.C, longer = job.T % job.C;
        longest = base + (longer > 0);
        shortest = base;
        first_start = job.T;
        for (int l = 0; l < W; ++l) {
            const Index lane = first + (l < valid ? l : valid - 1);
            system[l] = lane / job.C;
            chunk[l] = int(lane % job.C);
            // the longer chunks come last
            const int extra = chunk[l] - (job.C - longer);
            start[l] = chunk[l] * base + (extra > 0 ? extra : 0);
            length[l] = base + (extra >= 0);
            if (start[l] < first_start) first_start = start[l];
        }
    }
};

// The number in the batch of right-hand side c of a system.
SMNN_INLINE Index number_in_batch(const Job& job, Index system, int c) {
    if (!job.column_lhs) return system;
    const Index k = system / job.splits, r = system % job.splits * job.m + c;
    return job.column_lhs[k] + job.column_repeat[r < job.n_repeats ? r : job.n_repeats - 1];
}

// The address of the first number of a member of the batch.
SMNN_INLINE Index offset_in_batch(const Job& job, const Input& in, Index number) {
    Index offset = 0;
    for (int axis = in.shared ? -1 : job.n_batch_axes - 1; axis > 0; --axis) {
        offset += number % job.batch_shape[axis] * in.batch[axis];
        number /= job.batch_shape[axis];
    }
    return in.shared ? 0 : offset + number * in.batch[0];
}

// The address of an array for each lane: that of its first point.
template <class P>
struct LanePointers {
    static constexpr int W = Lanes<P>::count;
    const ScalarOf<P>* at[W];
    Index next_group = 0;  // from a lane to the same lane of the next group

    LanePointers() = default;
    SMNN_OUTLINE LanePointers(const Job& job, const Input& in, const Group<P>& group, int c = 0) {
        for (int l = 0; l < W; ++l) {
            const Index offset = offset_in_batch(job, in, number_in_batch(job, group.system[l], c));
            at[l] = static_cast<const ScalarOf<P>*>(in.data) + offset + Index(group.start[l]) * in.time;
        }
        if (job.C == 1 && !in.shared && !job.column_lhs) next_group = W * in.batch[job.n_batch_axes - 1];
    }
};

// The transpose of N vectors of N numbers, by log2(N) perfect shuffles.
template <class T, int N>
struct Transpose {
    using V = typename Vector<T, N>::type;
    SMNN_INLINE static void run(V* rows) {
        for (int step = 1; step < N; step *= 2) {
            V next[N];
            for (int i = 0; i < N / 2; ++i) {
                next[2 * i] = interleave<0>(rows[i], rows[i + N / 2], std::make_integer_sequence<int, N>());
                next[2 * i + 1] = interleave<N / 2>(rows[i], rows[i + N / 2], std::make_integer_sequence<int, N>());
            }
            for (int i = 0; i < N; ++i) rows[i] = next[i];
        }
    }

   private:
    // a[first], b[first], a[first+1], ..
    template <int First, int... I>
    SMNN_INLINE static V interleave(V a, V b, std::integer_sequence<int, I...>) {
#if defined(__clang__)
        return __builtin_shufflevector(a, b, (First + I / 2 + I % 2 * N)...);
#else
        using Index = typename Vector<typename Bits<T>::type, N>::type;
        return __builtin_shuffle(a, b, Index{(First + I / 2 + I % 2 * N)...});
#endif
    }
};

// to (count): numbers that follow one another, from (lanes) where those of each lane begin; those at a distance of `next` are
// prefetched
template <class T, int N, int U>
SMNN_OUTLINE void stage_run(const T* const* from, Index count, Index next, Pack<T, N, U>* to) {
    typename Vector<T, N>::type rows[N];
    Index i = 0;
    for (; i + N <= count; i += N) {
        for (int u = 0; u < U; ++u) {
            for (int l = 0; l < N; ++l) {
                __builtin_memcpy(&rows[l], from[u * N + l] + i, sizeof(rows[l]));
                __builtin_prefetch(from[u * N + l] + i + next, 0, 2);
            }
            Transpose<T, N>::run(rows);
            for (int l = 0; l < N; ++l) to[i + l].v[u] = rows[l];
        }
    }
    for (; i < count; ++i) {
        for (int l = 0; l < N * U; ++l) to[i].set(l, from[l][i]);
    }
}

// The inverse, for the lanes up to `valid`: from (count), to (lanes).
template <class T, int N, int U>
SMNN_OUTLINE void unstage_run(const Pack<T, N, U>* from, Index count, T* const* to, int valid) {
    typename Vector<T, N>::type rows[N];
    Index i = 0;
    for (; i + N <= count; i += N) {
        for (int u = 0; u < U; ++u) {
            for (int l = 0; l < N; ++l) rows[l] = from[i + l].v[u];
            Transpose<T, N>::run(rows);
            for (int l = 0; l < N && u * N + l < valid; ++l) __builtin_memcpy(to[u * N + l] + i, &rows[l], sizeof(rows[l]));
        }
    }
    for (; i < count; ++i) {
        for (int l = 0; l < valid; ++l) to[l][i] = from[i].get(l);
    }
}

// Reads one number of each cache line of a factor that is kept, from (count). Processors keep more reads of memory under way than they do
// beside the arithmetic on what is read.
template <class P>
SMNN_INLINE void touch(const P* from, Index count, bool down) {
    const auto* const at = reinterpret_cast<const volatile char*>(from);
    constexpr Index LINE = 64;
    const Index lines = (count * Index(sizeof(P)) + LINE - 1) / LINE;
    for (Index i = 0; i < lines; ++i) (void)at[(down ? lines - 1 - i : i) * LINE];
}

// The points t0 .. t1-1 of an array, to (points, in.count) packs; one point where it is constant in time. next: points from this block
// to the one that is staged next; 0 where that is of the next group.
template <class P>
SMNN_OUTLINE void stage(const Job& job, const Input& in, const LanePointers<P>& lanes, int t0, int t1, int next, P* to) {
    using T = ScalarOf<P>;
    constexpr int W = Lanes<P>::count;
    if (in.time == 0) t1 = t0 + 1;
    if (in.shared && (job.C == 1 || in.time == 0)) {
        for (int t = t0; t < t1; ++t) {
            const T* at = lanes.at[0] + Index(t) * in.time;
            for (int e = 0; e < in.count; ++e) *to++ = splat<P>(at[in.offsets[e]]);
        }
    } else if (in.contiguous) {
        const T* from[W];
        for (int l = 0; l < W; ++l) from[l] = lanes.at[l] + Index(t0) * in.time;
        stage_run(from, Index(t1 - t0) * in.count, next ? next * in.time : lanes.next_group, to);
    } else {
        for (int t = t0; t < t1; ++t) {
            for (int e = 0; e < in.count; ++e, ++to) {
                const Index offset = Index(t) * in.time + in.offsets[e];
                for (int l = 0; l < W; ++l) to->set(l, lanes.at[l][offset]);
            }
        }
    }
}

}  // namespace SMNN_LEVEL
}  // namespace smnn
