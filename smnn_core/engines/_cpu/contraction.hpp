// The last phase of an adjoint: λ, where `back` left it, with y into the gradients of all inputs.
#pragma once

#include "../kernels/contract.hpp"
#include "driver.hpp"

namespace smnn {
namespace SMNN_LEVEL {

template <class P, class Size, bool Chunked, class F = P>
struct Contraction : Driver<P, Size, Chunked, F> {
    using Base = Driver<P, Size, Chunked, F>;
    using Base::ahead, Base::group, Base::job, Base::memory, Base::points, Base::size, Base::stager, Base::task;
    using Base::keep_where_shorter, Base::longest, Base::separator, Base::spread, Base::staged_g, Base::take;
    using Base::workspace, Base::z_at;
    using T = ScalarOf<P>;
    static constexpr int W = Lanes<P>::count;

    using Base::Base;

    static Sizes sizes(const Job& job, int phases) { return Base::sizes(job, phases & CONTRACT ? packs(job) : 0); }
    static Index packs(const Job& job) {
        const int points = block_points<P>(job), n = job.n;
        return Index(2 * points + 1) * n + 14 * n + contract_workspace(n, job.K, job.Q) +
               GradientSink<P>::memory(job.Q * n, points) + 2 * GradientSink<P>::memory(job.Q, points) +
               2 * GradientSink<P>::memory(1, points);
    }

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
        P* const g_block = job.stages_once ? nullptr : take(Index(points) * n);
        P* equations = take(contract_workspace(n, job.K, Q));
        Border border{take(n), take(n), {take(n), take(n)}, {take(n), take(n)}};
        set_border(border, y_lanes);
        const bool initial_wanted = job.gradient[U].data || job.gradient[W_INITIAL].data;
        for (int t1 = group.longest; t1 > 0;) {
            const int t0 = (t1 - 1) / points * points, before = t0 > 0;
            const Course down{-points, job.arrays_are_far};
            const StagedRows<P> rows = stager.rows(t0, t1, true, down, job.stages_once);
            stage(job, job.in[Y], y_lanes, t0 - before, t1, y, down, &ahead);
            spread(job.in[Y], t1 - t0 + before, y);
            const P* g = staged_g + Index(t0) * n;
            if (!job.stages_once) {
                stage(job, job.in[G], g_lanes, t0, t1, g_block, down, &ahead);
                spread(job.in[G], t1 - t0, g_block);
                g = g_block;
            }
            contract_block(rows, t0, t1, y + before * n, g, border, equations, dc, db, dw, ds, dws);
            ahead.clear();
            if (rows.initial_ && initial_wanted) contract_initial(rows, t0, t1, y + before * n, z_at(t0));
            dc.flush(t0, t1, point_length, ahead);
            db.flush(t0, t1, point_length, ahead);
            dw.flush(t0, t1, point_length, ahead);
            if (t1 - 1 > t0 - before) {
                ds.flush(t0 - before, t1 - 1, step_length, ahead);
                dws.flush(t0 - before, t1 - 1, step_length, ahead);
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
            ahead.fetch(i, i + 1, t1 - t0);
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
            const P initial_norm2 = rows.has_initial(t) ? pull_initial<P>(size, rows, t, rows.s(t), at, in) : splat<P>(0);
            contract_equations<P>(
                size, rows, t, rows.s(t), rows.w_near(t), initial_norm2, at, g + i * n, in,
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
                T *du = static_cast<T*>(job.gradient[U].data), *dw = static_cast<T*>(job.gradient[W_INITIAL].data);
                for (int e = 0; e < initial; ++e) {
                    const int v = e / job.R_init, r = e % job.R_init, j = (t - t0) * job.n + v * job.K + r;
                    const T w = rows.w_initial(t, v, r).get(l), u = rows.u(t, v, r).get(l), x = lambda[j].get(l);
                    if (du) du[to + e] = w * w * x;
                    if (dw) dw[to + e] = 2 * w * x * (u - y[j].get(l));
                }
            }
        }
    }
};

}  // namespace SMNN_LEVEL
}  // namespace smnn
