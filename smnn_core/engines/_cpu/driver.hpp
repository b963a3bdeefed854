// The phases of a task: the lanes of a group through kernels, block of points by block of points.
#pragma once

#include "../kernels/contract.hpp"
#include "../kernels/reduced.hpp"
#include "../kernels/substitute.hpp"
#include "../kernels/sweep.hpp"
#include "gather.hpp"
#include "rows.hpp"

namespace smnn {
namespace SMNN_LEVEL {

template <class Size>
SMNN_INLINE Size size_of(const Job& job) {
    if constexpr (Size::fixed) {
        (void)job;
        return Size{};
    } else {
        const int extra = job.extra_rows ? job.n : 0;
        return Size{job.V, job.K, job.Q, job.n, job.n + extra + job.Q, extra};
    }
}

// As many points as keep a block's rows in the first level of cache, a multiple of 16 where possible.
template <class P>
SMNN_INLINE int block_points(const Job& job) {
    const Index point = Index(sizeof(P)) * (Index(job.Q) * job.n + 2 * job.Q + 2 * job.n + 4);
    const Index fit = 20000 / point;
    return fit >= 16 ? 16 : fit >= 8 ? 8 : fit >= 1 ? int(fit) : 1;
}

template <class P, class Size, bool Chunked>
struct Driver {
    using T = ScalarOf<P>;
    static constexpr int W = Lanes<P>::count;

    const Job& job;
    const Size size;
    const Group<P> group;
    const Index task;
    const int points;       // of a block
    const int rows_;        // points of the longest lane that leave rows: all, or in a chunk all but the last
    const int common_rows;  // those that all lanes have
    P* memory;
    RowStager<P> stager;
    P *factor, *z, *carried, *saved, *workspace;

    static int factor_entries(const Job& job) { return FactorLayout<Chunked>{job.n, job.K}.entries(); }
    static int carried_entries(const Job& job) { return CarriedLayout<Chunked>{job.n}.entries(); }
    static int longest(const Job& job) { return job.T / job.C + (job.T % job.C > 0); }

    static Sizes sizes(const Job& job, int phases) {
        const int points = block_points<P>(job), n = job.n;
        Index packs = RowStager<P>::memory(job, points) + 2 * carried_entries(job) + workspace_packs(job);
        if (!job.factor) packs += Index(longest(job)) * factor_entries(job);
        if (!job.z) packs += Index(longest(job)) * n;
        packs += Index(points) * n * 2 + 8 * n;
        if (phases & CONTRACT) {
            packs += Index(points) * n + GradientSink<P>::memory(job.Q * n, points) +
                     2 * GradientSink<P>::memory(job.Q, points) + 2 * GradientSink<P>::memory(1, points);
        }
        const size_t pack = sizeof(P);
        return {
            size_t(packs) * pack + 64,
            size_t(longest(job)) * factor_entries(job) * pack,
            size_t(longest(job)) * n * pack,
            size_t(CarriedLayout<true>{n}.entries()) * pack,
            size_t(2 * n) * pack,
        };
    }

    static int workspace_packs(const Job& job) {
        const int sweep = sweep_workspace(size_of<Size>(job));
        return sweep > 2 * job.n ? sweep : 2 * job.n;
    }

    Driver(const Job& job_, Index task_, Index group_, void* scratch)
        : job(job_),
          size(size_of<Size>(job_)),
          group(job_, group_),
          task(task_),
          points(block_points<P>(job_)),
          rows_(group.longest - Chunked),
          common_rows(group.shortest - Chunked),
          memory(static_cast<P*>(scratch)),
          stager(job_, group, memory, points) {
        const Index all = longest(job);
        factor = job.factor ? static_cast<P*>(job.factor) + group_ * all * factor_entries(job)
                            : take(all * factor_entries(job));
        z = job.z ? static_cast<P*>(job.z) + group_ * all * job.n : take(all * job.n);
        carried = Chunked ? static_cast<P*>(job.ends) + group_ * carried_entries(job) : take(carried_entries(job));
        saved = take(carried_entries(job));
        workspace = take(workspace_packs(job));
    }

    P* take(Index packs) {
        P* at = memory;
        memory += packs;
        return at;
    }

    P* factor_at(int t) const { return factor + Index(t) * factor_entries(job); }
    P* z_at(int t) const { return z + Index(t) * job.n; }

    SchemeRows<T> scheme() const {
        return {static_cast<const T*>(job.scheme_rows), static_cast<const T*>(job.scheme_norm2), T(job.tolerance2)};
    }

    // to := to where the lane has point t, from elsewhere
    SMNN_OUTLINE void keep_where_shorter(int t, P* to, const P* from, int count) const {
        for (int l = 0; l < W; ++l) {
            if (t < group.length[l]) continue;
            for (int i = 0; i < count; ++i) to[i].set(l, from[i].get(l));
        }
    }

    // Elimination -----------------------------------------------------------------------------------------------------

    template <bool Rhs>
    SMNN_OUTLINE void sweep_all() {
        const SchemeRows<T> constants = scheme();
        for (int t0 = 0; t0 < group.longest;) {
            int t1 = t0 + points < group.longest ? t0 + points : group.longest;
            const bool ragged = group.shortest < group.longest;
            if (ragged && t1 == group.longest && t0 < group.shortest) t1 = group.shortest;
            const bool partial = t0 >= group.shortest;
            if (partial) {
                for (int i = 0; i < carried_entries(job); ++i) saved[i] = carried[i];
            }
            const StagedRows<P> rows = stager.rows(t0, t1, Rhs);
            const int before = t0 > 0 ? t0 - 1 : 0;
            // f of a block starts with the point before it
            P* f = t0 > 0 ? factor_at(before) : factor_at(0) - factor_entries(job);
            P* fz = t0 > 0 ? z_at(before) : z_at(0) - job.n;
            sweep<P, Size, Chunked, Rhs>(size, constants, rows, t0, t1, carried, workspace, f, fz);
            if (partial) keep_where_shorter(t0, carried, saved, carried_entries(job));
            if (!Chunked && t1 == group.longest) {
                finish<P, Size, Rhs>(size, constants, rows, t1 - 1, carried, workspace, factor_at(t1 - 1), z_at(t1 - 1));
            }
            t0 = t1;
        }
    }

    // R^T w = g, w in the place of z ---------------------------------------------------------------------------------

    SMNN_OUTLINE void forward() {
        const Input& in = job.in[G];
        const LanePointers<P> g(job, in, group);
        P* before = take(job.n);
        P* left = take(job.n);
        P* kept = take(2 * job.n);
        for (int j = 0; j < job.n; ++j) before[j] = left[j] = splat<P>(0);
        for (int t0 = 0; t0 < rows_;) {
            int t1 = t0 + points < rows_ ? t0 + points : rows_;
            if (t0 < common_rows && t1 > common_rows) t1 = common_rows;
            const bool partial = t0 >= common_rows;
            if (partial) {
                for (int j = 0; j < job.n; ++j) {
                    kept[j] = before[j];
                    kept[job.n + j] = left[j];
                }
            }
            stage(job, in, g, t0, t1, z_at(t0));
            spread(in, t1 - t0, z_at(t0));
            substitute_forward<P, Size, Chunked>(size, t0, t1, factor_at(t0), z_at(t0), before, left, z_at(t0));
            if (partial) {
                keep_where_shorter(t0 + 1, before, kept, job.n);
                keep_where_shorter(t0 + 1, left, kept + job.n, job.n);
            }
            t0 = t1;
        }
        if (Chunked) {
            P* passed = static_cast<P*>(job.passed) + (group_index()) * 2 * job.n;
            for (int j = 0; j < job.n; ++j) {
                passed[j] = before[j];
                passed[job.n + j] = left[j];
            }
        }
    }

    Index group_index() const { return (group.system[0] * job.C + group.chunk[0]) / W; }

    // An array that is constant in time is staged as one point: repeats it.
    SMNN_OUTLINE void spread(const Input& in, int count, P* block) const {
        if (in.time != 0) return;
        for (int t = 1; t < count; ++t) {
            for (int e = 0; e < in.count; ++e) block[t * in.count + e] = block[e];
        }
    }

    // R x = z, and what is done with x --------------------------------------------------------------------------------

    // x of the separator at the end of every lane (0), or on its left (-1; zero where there is none)
    SMNN_OUTLINE void separator(int which, P* x) const {
        const T* all = static_cast<const T*>(job.separators);
        for (int l = 0; l < W; ++l) {
            const Index k = group.chunk[l] + which;
            for (int j = 0; j < job.n; ++j) {
                x[j].set(l, k < 0 ? T(0) : all[(group.system[l] * job.C + k) * job.n + j]);
            }
        }
    }

    // Calls visit(t0, t1, x) for blocks from the last to the first, x[t0 .. t1-1] in packs.
    template <class Visit>
    void back(Visit visit) {
        const int n = job.n;
        P* after = take(n);
        P* left = take(n);
        P* x = take(Index(points) * n);
        for (int j = 0; j < n; ++j) after[j] = left[j] = splat<P>(0);
        int t1 = group.longest;
        if (Chunked) {
            P* end = take(n);
            separator(0, end);
            separator(-1, left);
            for (int j = 0; j < n; ++j) x[j] = after[j] = end[j];
            visit(t1 - 1, t1, x);
            --t1;
            if (group.shortest < group.longest) {
                // here the shorter lanes have their separator
                back_block(t1 - 1, t1, left, after, x);
                keep_where_shorter(t1, after, end, n);
                for (int j = 0; j < n; ++j) x[j] = after[j];
                visit(t1 - 1, t1, x);
                --t1;
            }
        }
        for (; t1 > 0;) {
            const int t0 = (t1 - 1) / points * points;
            back_block(t0, t1, left, after, x);
            visit(t0, t1, x);
            t1 = t0;
        }
    }

    void back_block(int t0, int t1, const P* left, P* after, P* x) {
        substitute_back<P, Size, Chunked>(size, t0, t1, factor_at(t0), z_at(t0), left, after, x);
    }

    void write_solution() {
        back([&](int t0, int t1, const P* x) { write_points(job, group, t0, t1, x, job.x); });
    }

    // Contraction of λ with y into all gradients ---------------------------------------------------------------------

    SMNN_OUTLINE void contract() {
        const int n = job.n, Q = job.Q;
        int point_length[W], step_length[W];
        for (int l = 0; l < W; ++l) {
            point_length[l] = group.length[l];
            step_length[l] = group.length[l] - 1;
        }
        GradientSink<P> dc(job, group, C, Q * n, job.T, task, memory, points);
        GradientSink<P> db(job, group, B, Q, job.T, task, memory, points);
        GradientSink<P> dw(job, group, W_EQUATION, Q, job.T, task, memory, points);
        GradientSink<P> ds(job, group, S, 1, job.T - 1, task, memory, points);
        GradientSink<P> dws(job, group, W_SMOOTHNESS, 1, job.T - 1, task, memory, points);
        const Input& in_y = job.in[Y];
        const LanePointers<P> y_lanes(job, in_y, group);
        P* y = take(Index(points) * n);
        P* y_after = take(n);
        P* lambda_after = take(n);
        const T* S_rows = static_cast<const T*>(job.scheme_rows);
        back([&](int t0, int t1, const P* lambda) {
            const StagedRows<P> rows = stager.rows(t0, t1, true, true);
            stage(job, in_y, y_lanes, t0, t1, y);
            spread(in_y, t1 - t0, y);
            const bool ends = t1 == group.longest;
            contract_block(rows, t0, t1, ends, S_rows, y, lambda, y_after, lambda_after, dc, db, dw, ds, dws);
            if (rows.initial_) contract_initial(rows, t0, t1, y, lambda);
            for (int j = 0; j < n; ++j) {
                y_after[j] = y[j];
                lambda_after[j] = lambda[j];
            }
            dc.flush(t0, t1, point_length);
            db.flush(t0, t1, point_length);
            dw.flush(t0, t1, point_length);
            const int last = ends ? t1 - 1 : t1;
            if (last > t0) {
                ds.flush(t0, last, step_length);
                dws.flush(t0, last, step_length);
            }
        });
        if (Chunked) contract_first_step(S_rows, y_lanes, y_after, lambda_after, ds, dws);
        dc.finish();
        db.finish();
        dw.finish();
        ds.finish();
        dws.finish();
    }

    SMNN_OUTLINE void contract_block(
        const StagedRows<P>& rows, int t0, int t1, bool ends, const T* S_rows, const P* y, const P* lambda,
        const P* y_after, const P* lambda_after, GradientSink<P>& dc, GradientSink<P>& db, GradientSink<P>& dw,
        GradientSink<P>& ds, GradientSink<P>& dws
    ) {
        const int n = job.n, Q = job.Q;
        for (int t = t0; t < t1; ++t) {
            const int i = t - t0;
            const P *yt = y + i * n, *lt = lambda + i * n;
            contract_equations<P>(
                size, rows, t, yt, lt, PointGradients<P>{dc.block + i * Q * n, db.block + i * Q, dw.block + i * Q}
            );
            if (ends && t + 1 == t1) continue;
            const bool inside = t + 1 < t1;
            const auto step = contract_step<P>(
                size, S_rows, rows.s_out(t), rows.w_out(t), yt, inside ? yt + n : y_after, lt,
                inside ? lt + n : lambda_after
            );
            ds.block[i] = step.s;
            dws.block[i] = step.w_smoothness;
        }
    }

    // The step from the left separator into a chunk.
    SMNN_OUTLINE void contract_first_step(
        const T* S_rows, const LanePointers<P>& y_lanes, const P* y0, const P* lambda0, GradientSink<P>& ds,
        GradientSink<P>& dws
    ) {
        const Input& in = job.in[Y];
        P* y = take(job.n);
        P* lambda = take(job.n);
        separator(-1, lambda);
        for (int j = 0; j < job.n; ++j) {
            for (int l = 0; l < W; ++l) {
                y[j].set(l, group.start[l] > 0 ? y_lanes.at[l][in.offsets[j] - in.time] : T(0));
            }
        }
        const P s = stager.before_first(stager.s, job.in[S]);
        const P w = stager.before_first(stager.w_smoothness, job.in[W_SMOOTHNESS]);
        const auto step = contract_step<P>(size, S_rows, s, w, y, y0, lambda, lambda0);
        for (int l = 0; l < group.valid; ++l) {
            if (group.start[l] == 0) continue;
            ds.put(l, -1, step.s.get(l));
            dws.put(l, -1, step.w_smoothness.get(l));
        }
    }

    SMNN_OUTLINE void contract_initial(const StagedRows<P>& rows, int t0, int t1, const P* y, const P* lambda) {
        const int initial = job.V * job.R_init;
        for (int l = 0; l < group.valid; ++l) {
            const int end = t1 < group.length[l] ? t1 : group.length[l];
            for (int t = t0; t < end; ++t) {
                const int at = group.start[l] + t;
                if (at >= job.T_init) break;
                const Index to = (group.system[l] * job.T_init + at) * initial;
                T* du = static_cast<T*>(job.gradient[U].data) + to;
                T* dw = static_cast<T*>(job.gradient[W_INITIAL].data) + to;
                for (int e = 0; e < initial; ++e) {
                    const int v = e / job.R_init, r = e % job.R_init, j = (t - t0) * job.n + v * job.K + r;
                    const T w = rows.w_initial(t, v, r).get(l), u = rows.u(t, v, r).get(l), x = lambda[j].get(l);
                    du[e] = w * w * x;
                    dw[e] = 2 * w * x * (u - y[j].get(l));
                }
            }
        }
    }
};

template <class P, class Size, bool Chunked>
void run_groups(const Job& job, int phases, Index task, void* scratch) {
    const Index first = job.groups * task / job.tasks, last = job.groups * (task + 1) / job.tasks;
    for (Index g = first; g < last; ++g) {
        Driver<P, Size, Chunked> driver(job, task, g, scratch);
        if (phases & SWEEP) {
            // (chunks are swept with a right-hand side always, of zeros where there is none: less to compile)
            if constexpr (Chunked) {
                driver.template sweep_all<true>();
            } else {
                job.has_rhs ? driver.template sweep_all<true>() : driver.template sweep_all<false>();
            }
        }
        if (phases & FORWARD) driver.forward();
        if (phases & BACK) driver.write_solution();
        if (phases & CONTRACT) driver.contract();
    }
}

// Chunks of larger problems are swept by the kernels for any size: they gain little there, and take long to compile.
template <bool Small, class Size>
struct IfSmall {
    using type = Sized;
};
template <class Size>
struct IfSmall<true, Size> {
    using type = Size;
};
template <class Size>
using SizeInChunks = typename IfSmall<Size::small, Size>::type;

template <class P, class Size>
void run(const Job& job, int phases, Index task, void* scratch) {
    if (job.C > 1) {
        run_groups<P, SizeInChunks<Size>, true>(job, phases, task, scratch);
    } else {
        run_groups<P, Size, false>(job, phases, task, scratch);
    }
}

template <class P, class Size>
Sizes sizes(const Job& job, int phases) {
    return job.C > 1 ? Driver<P, SizeInChunks<Size>, true>::sizes(job, phases)
                     : Driver<P, Size, false>::sizes(job, phases);
}

// The reduced problem of a system: one lane.
template <class P>
void reduce_system(const Job& job, Index system, void* scratch) {
    using T = ScalarOf<P>;
    constexpr int W = Lanes<P>::count;
    const int n = job.n, C = job.C;
    const int entries = CarriedLayout<true>{n}.entries();
    const P* ends = static_cast<const P*>(job.ends);
    const auto chunk = [&](int k, int e) {
        const Index lane_ = system * C + k;
        return ends[lane_ / W * entries + e].get(int(lane_ % W));
    };
    const auto mark = [&](int k, bool) {
        const int longer = job.T % C, extra = k + 1 - (C - longer);
        StagedRows<P>::mark(job, system, (k + 1) * (job.T / C) + (extra > 0 ? extra : 0) - 1);
    };
    T* factor = static_cast<T*>(job.reduced) + system * C * 2 * n * n;
    T* x = static_cast<T*>(job.separators) + system * C * n;
    reduce(Reduction<T>{n, C, T(job.tolerance2), factor, x}, chunk, mark, static_cast<T*>(scratch));
    reduced_back(n, C, factor, x, x);
}

template <class P>
void reduce_system_normal(const Job& job, Index system, void*) {
    using T = ScalarOf<P>;
    constexpr int W = Lanes<P>::count;
    const int n = job.n, C = job.C;
    const P* passed = static_cast<const P*>(job.passed);
    const T* factor = static_cast<const T*>(job.reduced) + system * C * 2 * n * n;
    T* x = static_cast<T*>(job.separators) + system * C * n;
    const Input& in = job.in[G];
    Index offset = 0, rest = system;
    for (int axis = job.n_batch_axes - 1; axis >= 0; --axis) {
        offset += rest % job.batch_shape[axis] * in.batch[axis];
        rest /= job.batch_shape[axis];
    }
    const T* g = static_cast<const T*>(in.data) + offset;
    const int base = job.T / C, longer = job.T % C;
    for (int k = 0; k < C; ++k) {
        const int extra = k + 1 - (C - longer);
        const Index t = (k + 1) * Index(base) + (extra > 0 ? extra : 0) - 1;
        const Index lane_ = system * C + k;
        for (int j = 0; j < n; ++j) {
            T sum = g[t * in.time + in.offsets[j]] - passed[lane_ / W * 2 * n + j].get(int(lane_ % W));
            if (k + 1 < C) sum -= passed[(lane_ + 1) / W * 2 * n + n + j].get(int((lane_ + 1) % W));
            x[k * n + j] = sum;
        }
    }
    reduced_forward(n, C, factor, x);
    reduced_back(n, C, factor, x, x);
}

}  // namespace SMNN_LEVEL
}  // namespace smnn
