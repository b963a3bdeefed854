// Separators: what one lane does with its chunk of a level, and what the threads of a system do with all levels.
#pragma once

#include "../kernels/chain.hpp"
#include "lane.hpp"

namespace smnn {
namespace SMNN_LEVEL {

template <class T, class Size, bool Chunked>
struct Separators {
    using Count = decltype(Size::n);
    static constexpr int N = Size::Most::n;
    static constexpr int ENTRIES = CHAIN_ENTRIES<N, Chunked>;
    static constexpr int ROOM = ENTRIES + N + ChainSweep<T, Count, N, Chunked>::ROOM;

    const ChainJob<T>& job;
    const int number;   // of the level
    const ChainLevel& level;
    const ChainLevel& above;
    const Count n;
    const int total;    // items of a system
    const Lane lane;
    const Index items, lanes;
    const Index first;  // item of the lane

    SMNN_INLINE Separators(const ChainJob<T>& job_, int number_, Index system, int chunk)
        : job(job_),
          number(number_),
          level(job_.level[number_]),
          above(job_.level[Chunked ? number_ + 1 : number_]),
          n(Size(job_.V, job_.Q).n),
          total(job_.sizes[number_]),
          lane(system * chunks() + chunk, total, chunks()),
          items(job_.systems.count * total),
          lanes(job_.systems.count * chunks()),
          first(lane.system * total + lane.start) {}
    SMNN_INLINE int chunks() const { return Chunked ? job.sizes[number + 1] : 1; }

    // room (ROOM): shared memory of a team, else null. The tape is StridedTape, or NoTape.
    template <class TapeOf, class Team>
    SMNN_INLINE void sweep(T* room, Team team) const {
        constexpr bool own = Team::size == 1;
        Array<T, own ? ENTRIES : 0> f(room, ENTRIES);
        Array<T, own ? N : 0> z(room, N);
        ChainSweep<T, Count, N, Chunked, Team, TapeOf> state(n, room, team);
        const auto keep = [&](int k, bool undetermined) {
            if (undetermined) mark(k);
            store<T>(level.factor, first + k, (Chunked ? 3 : 2) * n * n, items, f, team);
            store<T>(level.z, first + k, n, items, z, team);
        };
        state.start(item(0));
        for (int k = 0; k + 1 < lane.length; ++k) {
            start(state.tape, level.tape, first + k, items);
            keep(k, state.advance(item(k + 1), job.tolerance2, f, z));
        }
        if constexpr (Chunked) {
            T* to = static_cast<T*>(above.ends) + lane.number;
            state.leave([&](int e, T x) { to[e * lanes] = x; });
        } else {
            keep(lane.length - 1, state.finish(job.tolerance2, f, z));
        }
    }

    // R^T w = g, w in the place of z.
    SMNN_INLINE void forward() const {
        const T* passed = static_cast<const T*>(level.passed) + first * 2 * n;
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
            chain_forward<T, Chunked>(n, Strided<T>(level.factor, first + k, items), g, next, left);
            store(level.z, first + k, n, items, g);
            for (int j = 0; j < n; ++j) before[j] = next[j];
        }
        if constexpr (Chunked) {
            read(lane.length - 1);
            T* out = static_cast<T*>(above.passed) + lane.number * 2 * n;
            for (int j = 0; j < n; ++j) {
                out[j] = g[j];
                out[n + j] = left[j];
            }
        }
    }

    // Multipliers of the rows of items, (own (n), boundary (n)) by sets, the residual's first: from those of what the lane has
    // left, or from its final rows.
    SMNN_INLINE void unwind() const {
        T v[(Chunked ? 3 : 2) * N * MULTIPLIERS];
        const auto set_triangle = [&](int k) {
            const Strided<T> f(level.factor, first + k, items), w(level.z, first + k, items);
            for (int j = 0; j < n; ++j) {
                v[j * MULTIPLIERS] = T(0);
                v[j * MULTIPLIERS + 1] = w[j] * f[j * n + j];
            }
        };
        const auto put = [&](int k, int rows, const T* from) {
            T* const to = static_cast<T*>(level.multipliers) + ((first + k) * 2 + rows) * n * MULTIPLIERS;
            for (int e = 0; e < n * MULTIPLIERS; ++e) to[e] = from ? from[e] : T(0);
        };
        if constexpr (Chunked) {
            load(above.multipliers, lane.number * 2 * n * MULTIPLIERS, 2 * n * MULTIPLIERS, 1, v);
        } else {
            set_triangle(lane.length - 1);
        }
        ChainUnwinding<T, Chunked, Count, StridedTape<T>> way{n, 1, {}, {MULTIPLIERS, v, nullptr}, 1};
        const T* const below = v + way.below() * MULTIPLIERS;
        for (int k = lane.length - 1; k > 0; --k) {
            start(way.tape, level.tape, first + k - 1, items, chain_tape_entries(n, 1, Chunked));
            way.step([&] { set_triangle(k - 1); }, [&] { put(k, 0, below); });
            put(k, 1, below);
        }
        put(0, 0, v);
        put(0, 1, Chunked ? v + n * MULTIPLIERS : nullptr);
    }

    // R x = z
    SMNN_INLINE void back() const {
        T next[N], left[N];
        T* x = static_cast<T*>(level.x) + first * n;
        const T* separators = static_cast<const T*>(above.x) + lane.number * n;
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
            load(level.z, first + k, n, items, z);
            chain_back<T, Chunked>(n, Strided<T>(level.factor, first + k, items), z, next, left, z);
            for (int j = 0; j < n; ++j) x[k * n + j] = next[j] = z[j];
        }
    }

   private:
    SMNN_INLINE auto item(int k) const {
        const T* from = static_cast<const T*>(level.ends) + first + k;
        const Index stride = items;
        return [from, stride](int e) { return from[e * stride]; };
    }

    // Item k of a level is the last of chunk k one level below.
    SMNN_INLINE void mark(int k) const {
        int t = lane.start + k;
        for (int below = number - 1; below >= 0; --below) {
            const Division division{job.sizes[below], job.sizes[below + 1]};
            t = division.start(t) + division.length(t) - 1;
        }
        job.systems.mark(lane.system, t);
    }
};

// Levels of a system, by threads of one warp, which wait for each other between levels, or one level by any threads, of
// which each takes one lane. All threads of a warp go to the end.
template <class T, class Size>
struct Chains {
    using Divided = Separators<T, Size, true>;
    using Last = Separators<T, Size, false>;
    static constexpr int ROOM = Divided::ROOM > Last::ROOM ? Divided::ROOM : Last::ROOM;

    const ChainJob<T>& job;
    const Index system;
    const int rank, width;  // of the threads, or teams, of the system
    const bool takes_part;

    SMNN_INLINE Chains(const ChainJob<T>& job_, Index thread, int width_)
        : job(job_),
          system(thread / width_),
          rank(int(thread % width_)),
          width(width_),
          takes_part(system < job_.systems.count) {}

    template <class TapeOf, class Team>
    SMNN_INLINE void sweep(T* room, Team team) const {
        for (int level = job.first_level; level < job.end_level; ++level) {
            each(level, [&](auto lane) {
                lane.template sweep<TapeOf>(room, team);
                team.sync();  // the next lane takes the same room
            });
        }
    }
    SMNN_INLINE void forward() const {
        for (int level = 1; level < job.levels; ++level) {
            each(level, [](auto lane) { lane.forward(); });
        }
    }
    SMNN_INLINE void back() const {
        for (int level = job.levels - 1; level > 0; --level) {
            each(level, [&](auto lane) {
                if (job.level[1].multipliers) lane.unwind();
                lane.back();
            });
        }
    }

   private:
    // f of the lanes of a level
    template <class F>
    SMNN_INLINE void each(int level, F f) const {
        if (level + 1 == job.levels) {
            if (takes_part && rank == 0) f(Last(job, level, system, 0));
        } else if (takes_part) {
            for (int chunk = rank; chunk < job.sizes[level + 1]; chunk += width) f(Divided(job, level, system, chunk));
        }
        __syncwarp();
    }
};

}  // namespace SMNN_LEVEL
}  // namespace smnn
