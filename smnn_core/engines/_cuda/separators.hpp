// What one lane does with the separators of its chunk of a chain.
#pragma once

#include "../kernels/chain.hpp"
#include "lane.hpp"

namespace smnn {
namespace SMNN_LEVEL {

template <class T, class Count, int N, bool Chunked>
struct Separators {
    static constexpr int ENTRIES = CHAIN_ENTRIES<N, Chunked>;
    static constexpr int ROOM = ENTRIES + N + ChainSweep<T, Count, N, Chunked>::ROOM;

    const ChainJob<T>& job;
    const Count n;
    const int total;    // items of a system
    const Lane lane;
    const Index items, lanes;
    const Index first;  // item of the lane

    SMNN_INLINE Separators(const ChainJob<T>& job_, Index number)
        : job(job_),
          n(number_of(Count(), job_.n)),
          total(job_.sizes[job_.level]),
          lane(number, total, job_.chunks),
          items(job_.systems.count * total),
          lanes(job_.systems.count * job_.chunks),
          first(lane.system * total + lane.start) {}

    // `room`: shared memory for a team, ROOM numbers.
    template <class Team>
    SMNN_INLINE void sweep(T* room, Team team) const {
        constexpr bool own = Team::size == 1;
        using Entries = Array<T, own ? ENTRIES : 0>;
        using Column = Array<T, own ? N : 0>;
        ChainSweep<T, Count, N, Chunked, Team> state(n, own ? nullptr : room + ENTRIES + N, team);
        state.start(item(0));
        for (int k = 0; k + 1 < lane.length; ++k) {
            T* at = room;
            Entries f(at, ENTRIES);
            Column z(at, N);
            if (state.advance(item(k + 1), job.tolerance2, f, z)) mark(k);
            keep(k, f, z, team);
        }
        if constexpr (Chunked) {
            T* to = static_cast<T*>(job.next_ends) + lane.number;
            state.leave([&](int e, T x) { to[e * lanes] = x; });
        } else {
            T* at = room;
            Entries f(at, ENTRIES);
            Column z(at, N);
            if (state.finish(job.tolerance2, f, z)) mark(lane.length - 1);
            keep(lane.length - 1, f, z, team);
        }
    }

    // R^T w = g, w in the place of z.
    SMNN_INLINE void forward() const {
        const T* passed = static_cast<const T*>(job.passed) + first * 2 * n;
        T g[N], left[N], next[N], before[N];
        for (int j = 0; j < n; ++j) left[j] = before[j] = T(0);
        const auto read = [&](int k) {
            const bool more = lane.start + k + 1 < total;
            for (int j = 0; j < n; ++j) {
                g[j] = passed[k * 2 * n + j] - (more ? passed[(k + 1) * 2 * n + n + j] : T(0)) - before[j];
            }
        };
        for (int k = 0; k < lane.length - Chunked; ++k) {
            read(k);
            chain_forward<T, Chunked>(n, Strided<T>(job.factor, first + k, items), g, next, left);
            store(job.z, first + k, n, items, g);
            for (int j = 0; j < n; ++j) before[j] = next[j];
        }
        if constexpr (Chunked) {
            read(lane.length - 1);
            T* out = static_cast<T*>(job.next_passed) + lane.number * 2 * n;
            for (int j = 0; j < n; ++j) {
                out[j] = g[j];
                out[n + j] = left[j];
            }
        }
    }

    // R x = z
    SMNN_INLINE void back() const {
        T next[N], left[N];
        T* x = static_cast<T*>(job.x) + first * n;
        const T* separators = static_cast<const T*>(job.separators) + lane.number * n;
        int k = lane.length - 1;
        for (int j = 0; j < n; ++j) {
            next[j] = Chunked ? separators[j] : T(0);
            left[j] = Chunked && lane.chunk > 0 ? separators[j - n] : T(0);
        }
        if constexpr (Chunked) {
            for (int j = 0; j < n; ++j) x[k * n + j] = next[j];
            --k;
        }
        for (; k >= 0; --k) {
            T z[N];
            load(job.z, first + k, n, items, z);
            chain_back<T, Chunked>(n, Strided<T>(job.factor, first + k, items), z, next, left, z);
            for (int j = 0; j < n; ++j) x[k * n + j] = next[j] = z[j];
        }
    }

   private:
    // ENTRIES, as the compiler knows it, or does not
    SMNN_INLINE int entries() const { return (Chunked ? 3 : 2) * n * n; }

    SMNN_INLINE auto item(int k) const {
        const T* from = static_cast<const T*>(job.ends) + first + k;
        const Index stride = items;
        return [from, stride](int e) { return from[e * stride]; };
    }

    template <class Team>
    SMNN_INLINE void keep(int k, const T* f, const T* z, Team team) const {
        store(job.factor, first + k, entries(), items, f, team);
        store(job.z, first + k, n, items, z, team);
    }

    // Item k of a level is the last of chunk k one level below.
    SMNN_INLINE void mark(int k) const {
        int t = lane.start + k;
        for (int level = job.level; level > 0; --level) {
            const Division division{job.sizes[level - 1], job.sizes[level]};
            t = division.start(t) + division.length(t) - 1;
        }
        job.systems.mark(lane.system, t);
    }
};

}  // namespace SMNN_LEVEL
}  // namespace smnn
