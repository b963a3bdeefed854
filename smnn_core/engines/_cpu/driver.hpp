// The phases of a task: the lanes of a group through kernels, block of points by block of points.
#pragma once

#include "../kernels/contract.hpp"
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

// F: entries of the factor, packs or, where all lanes share the left-hand side, numbers.
template <class P, class Size, bool Chunked, class F = P>
struct Driver {
    using T = ScalarOf<P>;
    static constexpr int W = Lanes<P>::count;
    static constexpr bool shared = sizeof(F) != sizeof(P);

    const Job& job;
    const Size size;
    const Group<P> group;
    const Index task;
    const int points;       // of a block
    const int rows_;        // points of the longest lane that leave rows: all, or in a chunk all but the last
    const int common_rows;  // those that all lanes have
    P* memory;
    RowStager<P> stager;
    F* factor;
    P *z, *carried, *saved, *workspace;
    P* block = nullptr;     // of the factor, before it is streamed to memory

    static int factor_entries(const Job& job) { return FactorLayout<Chunked>{job.n, job.K}.entries(); }
    static int carried_entries(const Job& job) { return CarriedLayout<Chunked>{job.n}.entries(); }
    static bool streams(const Job& job) { return job.streams && can_stream<P> && !shared; }
    static int longest(const Job& job) { return job.T / job.C + (job.T % job.C > 0); }

    static Sizes sizes(const Job& job, int phases) {
        const int points = block_points<P>(job), n = job.n;
        Index packs = RowStager<P>::memory(job, points) + 2 * carried_entries(job) + workspace_packs(job);
        if (!job.factor && !job.tape) packs += Index(longest(job)) * factor_entries(job);
        if (!job.z) packs += Index(longest(job)) * n;
        if (streams(job)) packs += Index(points) * factor_entries(job);
        packs += 8 * n;
        if (phases & CONTRACT) {
            packs += Index(2 * points + 1) * n + 14 * n + contract_workspace(n, job.K, job.Q) +
                     GradientSink<P>::memory(job.Q * n, points) + 2 * GradientSink<P>::memory(job.Q, points) +
                     2 * GradientSink<P>::memory(1, points);
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
        return sweep > 4 * job.n ? sweep : 4 * job.n;
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
        if constexpr (shared) {
            factor = static_cast<F*>(job.factor);
        } else {
            factor = job.factor ? static_cast<P*>(job.factor) + group_ * all * factor_entries(job)
                                : take(all * factor_entries(job));
        }
        z = job.z ? static_cast<P*>(job.z) + group_ * all * job.n : take(all * job.n);
        carried = Chunked ? static_cast<P*>(job.ends) + group_ * carried_entries(job) : take(carried_entries(job));
        saved = take(carried_entries(job));
        workspace = take(workspace_packs(job));
        if (streams(job)) block = take(Index(points) * factor_entries(job));
    }

    P* take(Index packs) {
        P* at = memory;
        memory += packs;
        return at;
    }

    F* factor_at(int t) const { return factor + Index(t) * factor_entries(job); }
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
            const Index skip = t0 > 0 ? 0 : factor_entries(job);
            P* f = (block ? block : factor_at(before)) - skip;
            P* fz = t0 > 0 ? z_at(before) : z_at(0) - job.n;
            sweep<P, Size, Chunked, Rhs>(size, constants, rows, t0, t1, carried, workspace, f, fz);
            if constexpr (can_stream<P>) {
                if (block) stream(factor_at(before), block, Index(t1 - t0) * factor_entries(job) - skip);
            }
            if (partial) keep_where_shorter(t0, carried, saved, carried_entries(job));
            if (!Chunked && t1 == group.longest) {
                finish<P, Size, Rhs>(size, constants, rows, t1 - 1, carried, workspace, factor_at(t1 - 1), z_at(t1 - 1));
            }
            t0 = t1;
        }
    }

    // Right-hand sides through the reflections of a left-hand side that all share.
    SMNN_OUTLINE void replay_all() {
        const T* tape = static_cast<const T*>(job.tape);
        P *z_now = carried, *x_z = workspace;
        for (int t0 = 0; t0 < group.longest;) {
            const int t1 = t0 + points < group.longest ? t0 + points : group.longest;
            const StagedRows<P> rows = stager.rows(t0, t1, true);
            replay_points<P, Size>(size, rows, t0, t1, tape, z_now, x_z, t0 > 0 ? z_at(t0 - 1) : z_at(0) - job.n);
            t0 = t1;
        }
        for (int j = 0; j < job.n; ++j) z_at(group.longest - 1)[j] = z_now[j];
    }

    // Eliminates the left-hand side of the first lane: its factor and its reflections, as numbers.
    SMNN_OUTLINE void record(T* factor_, T* tape_) {
        const SchemeRows<T> constants = scheme();
        const int entries = factor_entries(job);
        Tape<T> tape{tape_};
        P* f = take(Index(points) * entries);
        P* f_z = take(Index(points) * job.n);
        const auto keep = [&](int t, int count) {
            for (Index e = 0; e < Index(count) * entries; ++e) factor_[Index(t) * entries + e] = f[e].get(0);
        };
        for (int t0 = 0; t0 < group.longest;) {
            const int t1 = t0 + points < group.longest ? t0 + points : group.longest, skip = t0 == 0;
            const StagedRows<P> rows = stager.rows(t0, t1, false);
            sweep<P, Size, Chunked, false>(
                size, constants, rows, t0, t1, carried, workspace, f - skip * entries, f_z - skip * job.n, &tape
            );
            keep(t0 - 1 + skip, t1 - t0 - skip);
            if (t1 == group.longest) {
                finish<P, Size, false>(size, constants, rows, t1 - 1, carried, workspace, f, f_z);
                keep(t1 - 1, 1);
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
            substitute_forward<P, Size, Chunked, F>(size, t0, t1, factor_at(t0), z_at(t0), before, left, z_at(t0));
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

    // R x = z, x in the place of z ------------------------------------------------------------------------------------

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

    // From the last block of points to the first; written to job.x where that is wanted.
    SMNN_OUTLINE void back() {
        const int n = job.n;
        P* after = take(n);
        P* left = take(n);
        for (int j = 0; j < n; ++j) after[j] = left[j] = splat<P>(0);
        int t1 = group.longest;
        if (Chunked) {
            P* end = take(n);
            separator(0, end);
            separator(-1, left);
            for (int j = 0; j < n; ++j) z_at(t1 - 1)[j] = after[j] = end[j];
            write(t1 - 1, t1);
            --t1;
            if (group.shortest < group.longest) {
                // here the shorter lanes have their separator
                back_block(t1 - 1, t1, left, after);
                keep_where_shorter(t1, after, end, n);
                for (int j = 0; j < n; ++j) z_at(t1 - 1)[j] = after[j];
                write(t1 - 1, t1);
                --t1;
            }
        }
        for (; t1 > 0;) {
            const int t0 = (t1 - 1) / points * points;
            back_block(t0, t1, left, after);
            write(t0, t1);
            t1 = t0;
        }
    }

    void back_block(int t0, int t1, const P* left, P* after) {
        substitute_back<P, Size, Chunked, F>(size, t0, t1, factor_at(t0), z_at(t0), left, after, z_at(t0));
    }

    void write(int t0, int t1) const {
        if (job.x) write_points(job, group, t0, t1, z_at(t0), job.x);
    }

    // Contraction of λ, which `back` left in the place of z, with y into all gradients --------------------------------

    // Neighbours in time of what lies in blocks: y and λ before the first point of every lane, and what the step out of
    // its last point gives to that point (zero where there is none).
    struct Border {
        P *y, *lambda;
        Pull<P> out, end;
    };

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
        const LanePointers<P> y_lanes(job, job.in[Y], group), g_lanes(job, job.in[G], group);
        P* y = take(Index(points + 1) * n);
        P* g = take(Index(points) * n);
        P* equations = take(contract_workspace(n, job.K, Q));
        Border border{take(n), take(n), {take(n), take(n)}, {take(n), take(n)}};
        set_border(border, y_lanes);
        for (int t1 = group.longest; t1 > 0;) {
            const int t0 = (t1 - 1) / points * points, before = t0 > 0;
            const StagedRows<P> rows = stager.rows(t0, t1, true);
            stage(job, job.in[Y], y_lanes, t0 - before, t1, y);
            spread(job.in[Y], t1 - t0 + before, y);
            stage(job, job.in[G], g_lanes, t0, t1, g);
            spread(job.in[G], t1 - t0, g);
            contract_block(rows, t0, t1, y + before * n, g, border, equations, dc, db, dw, ds, dws);
            if (rows.initial_) contract_initial(rows, t0, t1, y + before * n, z_at(t0));
            dc.flush(t0, t1, point_length);
            db.flush(t0, t1, point_length);
            dw.flush(t0, t1, point_length);
            if (t1 - 1 > t0 - before) {
                ds.flush(t0 - before, t1 - 1, step_length);
                dws.flush(t0 - before, t1 - 1, step_length);
            }
            t1 = t0;
        }
        dc.finish();
        db.finish();
        dw.finish();
        ds.finish();
        dws.finish();
    }

    // Points t0 .. t1-1 and the steps into them; y[0] is that of t0, y[-1] the one before where t0 > 0.
    SMNN_OUTLINE void contract_block(
        const StagedRows<P>& rows, int t0, int t1, const P* y, const P* g, Border& border, P* equations,
        GradientSink<P>& dc, GradientSink<P>& db, GradientSink<P>& dw, GradientSink<P>& ds, GradientSink<P>& dws
    ) {
        const int n = job.n, Q = job.Q;
        const T* S_rows = static_cast<const T*>(job.scheme_rows);
        P* room = workspace;
        Array<P, Capacity<Size>::n> in_lambda(room, n), in_y(room, n), next_lambda(room, n), next_y(room, n);
        for (int t = t1 - 1; t >= t0; --t) {
            const int i = t - t0;
            const State<P> at{y + i * n, z_at(t)};
            const Pull<P> in{in_lambda, in_y}, next{next_lambda, next_y};
            if (t > 0 || Chunked) {
                const State<P> from = t > 0 ? State<P>{at.y - n, z_at(t - 1)} : State<P>{border.y, border.lambda};
                const auto step = contract_step<P>(
                    size, S_rows, rows.s(t), rows.w_smoothness(t), from, at, next, in
                );
                if (t > 0) {
                    const int to = t0 > 0 ? i : i - 1;
                    ds.block[to] = step.s;
                    dws.block[to] = step.w_smoothness;
                } else {
                    put_first_step(step, ds, dws);
                }
            } else {
                repeat(size.n, [&](auto j) SMNN_LAMBDA {
                    in_lambda[j] = in_y[j] = next_lambda[j] = next_y[j] = splat<P>(0);
                });
            }
            repeat(size.n, [&](auto j) SMNN_LAMBDA {
                in_lambda[j] += border.out.lambda[j];
                in_y[j] += border.out.y[j];
                border.out.lambda[j] = next_lambda[j];
                border.out.y[j] = next_y[j];
            });
            if (Chunked && t >= group.shortest) {
                keep_where_shorter(t, border.out.lambda, border.end.lambda, n);
                keep_where_shorter(t, border.out.y, border.end.y, n);
            }
            if (rows.has_initial(t)) pull_initial<P>(size, rows, t, at, in);
            contract_equations<P>(
                size, rows, t, rows.s(t), at, g + i * n, in,
                PointGradients<P>{dc.block + i * Q * n, db.block + i * Q, dw.block + i * Q}, equations
            );
        }
    }

    // The gradients of the step from the left separator into a chunk.
    SMNN_OUTLINE void put_first_step(const StepGradients<P>& step, GradientSink<P>& ds, GradientSink<P>& dws) const {
        for (int l = 0; l < group.valid; ++l) {
            if (group.start[l] == 0) continue;
            ds.put(l, -1, step.s.get(l));
            dws.put(l, -1, step.w_smoothness.get(l));
        }
    }

    SMNN_OUTLINE void set_border(const Border& border, const LanePointers<P>& y_lanes) {
        const int n = job.n;
        const P zero = splat<P>(0);
        for (int j = 0; j < n; ++j) {
            border.y[j] = border.lambda[j] = border.out.lambda[j] = border.out.y[j] = zero;
            border.end.lambda[j] = border.end.y[j] = zero;
        }
        if (!Chunked) return;
        separator(-1, border.lambda);
        // the last point, and the one after it: the first of the next lane
        P *y0 = take(n), *lambda0 = take(n), *y1 = take(n), *lambda1 = take(n);
        P s = splat<P>(1), w = zero;
        const Input &in_y = job.in[Y], &in_s = job.in[S], &in_w = job.in[W_SMOOTHNESS];
        const Index group_packs = Index(longest(job)) * n;
        for (int l = 0; l < W; ++l) {
            const int last = group.length[l] - 1;
            const Index next = group.system[l] * job.C + group.chunk[l] + 1;
            const bool more = group.chunk[l] + 1 < job.C;
            const P* first = static_cast<const P*>(job.z) + next / W * group_packs;
            for (int j = 0; j < n; ++j) {
                const T* at = y_lanes.at[l] + in_y.offsets[j];
                if (group.start[l] > 0) border.y[j].set(l, at[-in_y.time]);
                y0[j].set(l, at[last * in_y.time]);
                y1[j].set(l, more ? at[(last + 1) * in_y.time] : T(0));
                lambda0[j].set(l, z_at(last)[j].get(l));
                lambda1[j].set(l, more ? first[j].get(int(next % W)) : T(0));
            }
            if (more) {
                s.set(l, stager.s.at[l][last * in_s.time]);
                w.set(l, stager.w_smoothness.at[l][last * in_w.time]);
            }
        }
        // (what it gives to the next point is the next lane's business)
        P *pull_lambda = take(n), *pull_y = take(n);
        contract_step<P>(
            size, static_cast<const T*>(job.scheme_rows), s, w, State<P>{y0, lambda0}, State<P>{y1, lambda1}, border.end,
            Pull<P>{pull_lambda, pull_y}
        );
        for (int j = 0; j < n; ++j) {
            border.out.lambda[j] = border.end.lambda[j];
            border.out.y[j] = border.end.y[j];
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

}  // namespace SMNN_LEVEL
}  // namespace smnn
