// What one lane does with its points: elimination, the two substitutions, contraction into gradients.
#pragma once

#include "contract.hpp"
#include "../kernels/substitute.hpp"
#include "../kernels/sweep.hpp"
#include "lane.hpp"

namespace smnn {
namespace SMNN_LEVEL {

template <class T, class D, bool Chunked, class Memory>
struct Points {
    using Size = typename SizeOf<D::unrolled>::template type<D>;
    static constexpr int n = D::n, K = D::K;
    static constexpr int ENTRIES = FactorLayout<Chunked>{n, K}.entries();
    static constexpr int CARRIED = CarriedLayout<Chunked>{n}.entries();

    const PointJob<T>& job;
    const Lane lane;
    const Index lanes;
    const Size size;
    const int longest;  // lane: all threads of a warp go on as long
    Memory& memory;

    SMNN_INLINE Points(const PointJob<T>& job_, Index number, Memory& memory_)
        : job(job_),
          lane(number, job_.points, job_.chunks, job_.systems.count * job_.chunks),
          lanes(job_.systems.count * job_.chunks),
          size(SizeOf<D::unrolled>::template make<D>(job_.V, job_.K, job_.Q)),
          longest(Division{job_.points, job_.chunks}.longest()),
          memory(memory_) {
        if constexpr (Memory::any) memory.lanes.enter(lane.system, lane.start, lane.length);
    }

    // What is kept of a point, as the compiler knows it, or does not (see Dimensions).
    SMNN_INLINE int entries() const { return FactorLayout<Chunked>{size.n, size.K}.entries(); }
    SMNN_INLINE int carried_entries() const { return CarriedLayout<Chunked>{size.n}.entries(); }
    // Where a point of this lane lies in it.
    SMNN_INLINE Index at(int t, int count) const { return Index(t) * count * lanes + lane.number; }

    // What a lane is swept in. A thread has arrays of its own instead, a team this much of shared memory.
    static constexpr int ROOM = CARRIED + D::workspace + ENTRIES + n;

    SMNN_INLINE void sweep() const { sweep(nullptr, Alone()); }
    template <class Team>
    SMNN_INLINE void sweep(T* room, Team team) const {
        constexpr bool own = Team::size == 1;
        const SchemeRows<T> scheme{job.scheme_rows, job.scheme_norm2, job.tolerance2};
        const LaneRows<T, D, Memory> rows(job, lane, memory);
        Array<T, own ? CARRIED : 0> carried(room, CARRIED);
        Array<T, own ? D::workspace : 0> workspace(room, D::workspace);
        using Entries = Array<T, own ? ENTRIES : 0>;
        using Column = Array<T, own ? n : 0>;
        Sweep<T, Size, Chunked, true, Team> state(size, scheme, carried, workspace, team);
        for (int t = 0; t < longest; ++t) {
            fetch(memory.lanes, t, t, rows.c_, rows.b_, rows.w_equation_, rows.s_);
            if (t >= lane.length) continue;
            if (t == 0) {
                state.start(rows);
            } else {
                T* at = room;
                Entries f(at, ENTRIES);
                Column z(at, n);
                state.depart(rows, t, f, z);
                keep(t - 1, f, z, team);
            }
            state.arrive(rows, t);
            if (rows.has_initial(t)) {
                state.save(carried);
                for (int e = 0; e < size.V * job.R_init; ++e) {
                    const int v = e / job.R_init, r = e % job.R_init;
                    const T w = rows.w_initial(t, v, r);
                    T rhs = w * rows.u(t, v, r);
                    take_initial_row<T, Chunked, true>(
                        size.n, 1, v * size.K + r, w, &rhs, carried, workspace, team
                    );
                }
                state.load(carried);
            }
        }
        if (lane.length == 0) return;
        if constexpr (Chunked) {
            state.save(carried);
            store<T>(job.ends, lane.number, carried_entries(), lanes, carried, team);
        } else {
            T* at = room;
            Entries f(at, ENTRIES);
            Column z(at, n);
            state.finish(rows, lane.length - 1, f, z);
            keep(lane.length - 1, f, z, team);
        }
    }

    // R^T w = g, w in the place of z.
    SMNN_INLINE void forward() const {
        const Staged<T, decltype(Memory::g)> g_(job.systems, job.in[G], lane, memory.g);
        T before[n], left[n], g[n];
        for (int j = 0; j < size.n; ++j) before[j] = left[j] = T(0);
        for (int t = 0; t < longest; ++t) {
            fetch(memory.lanes, t, t, g_);
            if (t >= lane.length) continue;
            for (int j = 0; j < size.n; ++j) g[j] = g_(t, j / size.K, j % size.K);
            if (Chunked && t == lane.length - 1) {
                T* passed = static_cast<T*>(job.passed) + lane.number * 2 * size.n;
                for (int j = 0; j < size.n; ++j) {
                    passed[j] = g[j] - before[j];
                    passed[size.n + j] = left[j];
                }
            } else {
                T f[ENTRIES], w[n];
                load(job.factor, at(t, entries()), entries(), lanes, f);
                substitute_forward<T, Size, Chunked>(size, 0, 1, f, g, before, left, w);
                store(job.z, at(t, size.n), size.n, lanes, w);
            }
        }
    }

    // R x = z from the last point to the first: into job.x, or in the place of z where there is none.
    SMNN_INLINE void back() const {
        const bool bad = job.systems.bad[lane.system] != 0;
        using Count = decltype(size.n);
        const Place<T, Count, decltype(Memory::x)> out(job.x, lane, job.points, size.n, memory.x);
        const auto write = [&](int t, const T* x) {
            for (int j = 0; j < size.n; ++j) out.put(t, j, bad ? not_a_number<T>() : x[j]);
        };
        T next[n], left[n], x[n];
        separator(-1, left);
        if constexpr (Chunked) {
            separator(0, next);
            // (its slot is free: a lane has no points in tiles beyond its last)
            if (job.x.data && lane.length > 0) write(lane.length - 1, next);
        } else {
            for (int j = 0; j < size.n; ++j) next[j] = T(0);
        }
        for (int t = longest - 1; t >= 0; --t) {
            if (t < lane.length - Chunked) {
                T f[ENTRIES], z[n];
                load(job.factor, at(t, entries()), entries(), lanes, f);
                load(job.z, at(t, size.n), size.n, lanes, z);
                substitute_back<T, Size, Chunked>(size, 0, 1, f, z, left, next, x);
                if (job.x.data) {
                    write(t, x);
                } else {
                    store(job.z, at(t, size.n), size.n, lanes, x);
                }
            }
            flush(memory.lanes, t, out);
        }
    }

    SMNN_INLINE void contract() const;

   private:
    template <class Team>
    SMNN_INLINE void keep(int t, const T* f, const T* z, Team team) const {
        store(job.factor, at(t, entries()), entries(), lanes, f, team);
        store(job.z, at(t, size.n), size.n, lanes, z, team);
    }

    // x, in the place of z, at point t of the lane, or at the one before its first or after its last
    SMNN_INLINE void solution(int t, T* x) const {
        const bool beyond = t == lane.length;
        if (Chunked && (t < 0 || t == lane.length - 1)) {
            separator(t < 0 ? -1 : 0, x);
        } else if (Chunked && beyond && Lane(lane.number + 1, job.points, job.chunks).length == 1) {
            separator(1, x);
        } else {
            load(job.z, at(beyond ? 0 : t, size.n) + beyond, size.n, lanes, x);
        }
    }

    // x of the separator at the end of the lane (0), on its left (-1), zero where there is none, or of the next lane (1)
    SMNN_INLINE void separator(int which, T* x) const {
        const bool there = Chunked && lane.chunk + which >= 0;
        const T* from = static_cast<const T*>(job.separators) + (lane.number + which) * size.n;
        for (int j = 0; j < size.n; ++j) x[j] = there ? from[j] : T(0);
    }
};

// The gradient of one field on its way out: entry e of point t, or its sum over the points of the lane.
template <class T, class D, int COUNT, class TileOf>
struct Sink {
    using Count = typename SizeOf<D::unrolled>::template number<COUNT>;

    static constexpr int points = TileOf::points;

    const Place<T, Count, TileOf> place;
    double sums[COUNT];

    SMNN_INLINE Sink(const Output& out, const Lane& lane, int times, int count, TileOf& tile)
        : place(out, lane, times, number_of(Count(), count), tile) {
        for (int e = 0; e < place.count; ++e) sums[e] = 0;
    }
    SMNN_INLINE void put(int t, int e, T x) {
        if (place.out.over_time) {
            sums[e] += double(x);
        } else {
            place.put(t, e, x);
        }
    }
    SMNN_INLINE void put_all(int t, const T* x) {
        for (int e = 0; e < place.count; ++e) put(t, e, x[e]);
    }
    SMNN_INLINE void finish() const {
        if (!place.out.over_time) return;
        for (int e = 0; e < place.count; ++e) place.at[e] = T(sums[e]);
    }
    SMNN_INLINE void flush(const WarpLanes& lanes, int t) const { place.flush(lanes, t); }
};

// λ, which `back` left in the place of z, with y into the gradients of all inputs.
template <class T, class D, bool Chunked, class Memory>
SMNN_INLINE void Points<T, D, Chunked, Memory>::contract() const {
    constexpr int Q = D::Q;
    const LaneRows<T, D, Memory> rows(job, lane, memory);
    const Staged<T, decltype(Memory::y)> y_(job.systems, job.in[Y], lane, memory.y);
    const Staged<T, decltype(Memory::g)> g_(job.systems, job.in[G], lane, memory.g);
    const bool bad = job.systems.bad[lane.system] != 0;
    const int steps = job.points - 1;
    // (gradients take the places in tiles of what they are gradients of)
    Sink<T, D, Q * n, decltype(Memory::c)> dc(job.gradient[C], lane, job.points, size.Q * size.n, memory.c);
    Sink<T, D, Q, decltype(Memory::b)> db(job.gradient[B], lane, job.points, size.Q, memory.b);
    Sink<T, D, 1, decltype(Memory::s)> ds(job.gradient[S], lane, steps, 1, memory.s);
    NoTile none;
    Sink<T, D, Q, NoTile> dw(job.gradient[W_EQUATION], lane, job.points, size.Q, none);
    Sink<T, D, 1, NoTile> dws(job.gradient[W_SMOOTHNESS], lane, steps, 1, none);
    const int initial = size.V * job.R_init;
    T* du = static_cast<T*>(job.gradient[U].data) + lane.system * job.T_init * initial;
    T* dwi = static_cast<T*>(job.gradient[W_INITIAL].data) + lane.system * job.T_init * initial;
    // at the current point, and at the one before; what the steps out of and into a point give to it
    T y[n], x[n], y_before[n], x_before[n], out_x[n], out_y[n], in_x[n], in_y[n], pull_x[n], pull_y[n];
    T c[Q * n], b[Q], w[Q], g[n], workspace[contract_workspace(n, D::K, Q)];
    const auto solution_at = [&](int t, T* x_at) {
        solution(t, x_at);
        if (bad) {
            for (int j = 0; j < size.n; ++j) x_at[j] = not_a_number<T>();
        }
    };
    const auto read = [&](int t, T* y_at, T* x_at) {
        for (int j = 0; j < size.n; ++j) y_at[j] = y_(t, j / size.K, j % size.K);
        solution_at(t, x_at);
    };
    const auto read_outside = [&](int t, T* y_at, T* x_at) {
        for (int j = 0; j < size.n; ++j) y_at[j] = y_.outside(t, j / size.K, j % size.K);
        solution_at(t, x_at);
    };
    const auto step_into = [&](int t, T s) {
        return contract_step<T>(
            size, job.scheme_rows, s, rows.w_smoothness(t), State<T>{y_before, x_before}, State<T>{y, x},
            Pull<T>{pull_x, pull_y}, Pull<T>{in_x, in_y}
        );
    };
    for (int j = 0; j < size.n; ++j) pull_x[j] = pull_y[j] = T(0);
    const auto contract_point = [&](int t) {
        for (int j = 0; j < size.n; ++j) {
            out_x[j] = pull_x[j];
            out_y[j] = pull_y[j];
            g[j] = g_(t, j / size.K, j % size.K);
        }
        const T near = rows.near(t), w_near = rows.w_near(t);  // (before the gradient of the step takes its place)
        if (lane.start + t > 0) {
            read(t - 1, y_before, x_before);
            const auto step = step_into(t, rows.s(t));
            ds.put(t - 1, 0, step.s);
            dws.put(t - 1, 0, step.w_smoothness);
            for (int j = 0; j < size.n; ++j) {
                out_x[j] += in_x[j];
                out_y[j] += in_y[j];
            }
        }
        const State<T> at{y, x};
        const Pull<T> pull{out_x, out_y};
        const T initial_norm2 = rows.has_initial(t) ? pull_initial<T>(size, rows, t, near, at, pull) : T(0);
        contract_equations<T>(
            size, rows, t, near, w_near, initial_norm2, at, g, pull, PointGradients<T>{c, b, w}, workspace
        );
        dc.put_all(t, c);
        db.put_all(t, b);
        dw.put_all(t, w);
        if (rows.has_initial(t)) {
            for (int e = 0; e < initial; ++e) {
                const int v = e / job.R_init, r = e % job.R_init, j = v * size.K + r;
                const T weight = rows.w_initial(t, v, r);
                const Index to = Index(lane.start + t) * initial + e;
                du[to] = weight * weight * x[j];
                dwi[to] = 2 * weight * x[j] * (rows.u(t, v, r) - y[j]);
            }
        }
        for (int j = 0; j < size.n; ++j) {
            y[j] = y_before[j];
            x[j] = x_before[j];
        }
    };
    if (lane.length > 0) {
        if (Chunked && lane.chunk + 1 < job.chunks) {
            // the step out of the last point; its gradients, and what it gives to the next point, are the next lane's
            read_outside(lane.length, y, x);
            read_outside(lane.length - 1, y_before, x_before);
            step_into(lane.length, rows.s_.outside(lane.length - 1));
        }
        read_outside(lane.length - 1, y, x);
    }
    for (int t = longest - 1; t >= 0; --t) {
        fetch(memory.lanes, t, t < longest - 1 ? t + 1 : 0, rows.c_, rows.b_, rows.s_, y_, g_);
        if (t < lane.length) contract_point(t);
        flush(memory.lanes, t, dc, db, ds);
    }
    if (lane.length == 0) return;
    dc.finish();
    db.finish();
    dw.finish();
    ds.finish();
    dws.finish();
}

}  // namespace SMNN_LEVEL
}  // namespace smnn
