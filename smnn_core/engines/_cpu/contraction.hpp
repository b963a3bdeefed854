// The last phase of an adjoint: λ, where `back` left it, with y into the gradients of all inputs, segment by segment.
//
// What is gathered at a point takes the steps on either side. Of the last point of a chunk the one behind it is the next
// lane's: both leave what they give to it in `passed`, and it comes last.
#pragma once

#include "../kernels/contract.hpp"
#include "driver.hpp"

namespace smnn {
namespace SMNN_LEVEL {

template <class P, class Size, bool Chunked, class F = P>
struct Contraction : Driver<P, Size, Chunked, F> {
    using Base = Driver<P, Size, Chunked, F>;
    using Base::ahead, Base::group, Base::job, Base::memory, Base::points, Base::segment, Base::size, Base::stager;
    using Base::end_of, Base::first_row, Base::group_index, Base::last_segment, Base::separator, Base::set_zero;
    using Base::spread, Base::staged_g, Base::take, Base::task, Base::workspace, Base::z_at;
    using T = ScalarOf<P>;
    static constexpr int W = Lanes<P>::count;

    using Base::Base;

    static Sizes sizes(const Job& job, int phases) { return Base::sizes(job, phases & (CONTRACT | ENDS) ? packs(job) : 0); }
    static Index packs(const Job& job) {
        const int points = block_points<P>(job), n = job.n;
        return Index(2 * points + 1) * n + 10 * n + contract_workspace(n, job.K, job.Q) +
               GradientSink<P>::memory(job.Q * n, points) + 2 * GradientSink<P>::memory(job.Q, points) +
               2 * GradientSink<P>::memory(1, points);
    }

    // Where the gradients of points go, and those of steps.
    struct PointSinks {
        GradientSink<P> c, b, w;

        explicit PointSinks(Contraction& self)
            : c(self.job, self.group, C, self.job.Q * self.job.n, self.job.T, self.task, self.memory, self.points),
              b(self.job, self.group, B, self.job.Q, self.job.T, self.task, self.memory, self.points),
              w(self.job, self.group, W_EQUATION, self.job.Q, self.job.T, self.task, self.memory, self.points) {}

        PointGradients<P> at(int i) const { return {c.block + i * c.count, b.block + i * b.count, w.block + i * w.count}; }
        void flush(int t0, int t1, const int* length, Ahead<P>& ahead) {
            c.flush(t0, t1, length, ahead);
            b.flush(t0, t1, length, ahead);
            w.flush(t0, t1, length, ahead);
        }
        void finish(bool add) {
            c.finish(add);
            b.finish(add);
            w.finish(add);
        }
    };
    struct StepSinks {
        GradientSink<P> s, w;

        explicit StepSinks(Contraction& self)
            : s(self.job, self.group, S, 1, self.job.T - 1, self.task, self.memory, self.points),
              w(self.job, self.group, W_SMOOTHNESS, 1, self.job.T - 1, self.task, self.memory, self.points) {}
    };

    // `back`, and the gradients of each segment.
    SMNN_OUTLINE void back_and_contract() {
        const int n = job.n;
        int length[W];
        for (int l = 0; l < W; ++l) length[l] = group.length[l] - 1;
        const int* const length_of_points = Chunked ? length : group.length;
        PointSinks at_points(*this);
        StepSinks at_steps(*this);
        const LanePointers<P> y_lanes(job, job.in[Y], group), g_lanes(job, job.in[G], group);
        P* const y = take(Index(points + 1) * n);
        P* const g_block = take(Index(points) * n);
        P* const equations = take(contract_workspace(n, job.K, job.Q));
        const Border border{take(n), take(n), {take(n), take(n)}};
        set_border(border, y_lanes);
        const bool initial_wanted = job.gradient[U].data || job.gradient[W_INITIAL].data;
        Base::back([&](int k) {
            const int start = k * segment;
            const bool are_there = k < job.n_again;  // rows and g
            for (int t1 = end_of(k); t1 > start;) {
                const int t0 = start + (t1 - 1 - start) / points * points, before = t0 > 0;
                const Course down{-points, job.arrays_are_far};
                const StagedRows<P> rows = stager.rows(t0, t1, true, down, are_there ? start : t0, are_there);
                stage(job, job.in[Y], y_lanes, t0 - before, t1, y, down, &ahead);
                spread(job.in[Y], t1 - t0 + before, y);
                const P* g = staged_g + Index(t0 - first_row(k)) * n;
                if (!are_there) {
                    stage(job, job.in[G], g_lanes, t0, t1, g_block, down, &ahead);
                    spread(job.in[G], t1 - t0, g_block);
                    g = g_block;
                }
                contract_block(rows, t0, t1, y + before * n, g, z_at(k, t0), border, equations, at_points, at_steps);
                ahead.clear();
                if (rows.initial_ && initial_wanted) contract_initial(rows, t0, t1, y + before * n, z_at(k, t0));
                at_points.flush(t0, t1, length_of_points, ahead);
                if (t1 - 1 > t0 - before) {
                    at_steps.s.flush(t0 - before, t1 - 1, length, ahead);
                    at_steps.w.flush(t0 - before, t1 - 1, length, ahead);
                }
                t1 = t0;
            }
        });
        at_points.finish(false);
        at_steps.s.finish(false);
        at_steps.w.finish(false);
    }

    // The last points of chunks.
    SMNN_OUTLINE void contract_ends() {
        const int n = job.n;
        PointSinks sinks(*this);
        const LanePointers<P> y_lanes(job, job.in[Y], group), g_lanes(job, job.in[G], group);
        P *const y = take(n), *const g = take(n), *const lambda = take(n);
        P* const equations = take(contract_workspace(n, job.K, job.Q));
        const Pull<P> in{take(n), take(n)};
        separator(0, lambda);
        for (int t = group.shortest - 1; t < group.longest; ++t) {
            int length[W];
            for (int l = 0; l < W; ++l) length[l] = group.length[l] == t + 1 ? t + 1 : 0;
            const Course none{0, false};
            const StagedRows<P> rows = stager.rows(t, t + 1, true, none, t);
            stage(job, job.in[Y], y_lanes, t, t + 1, y, none);
            stage(job, job.in[G], g_lanes, t, t + 1, g, none);
            sum_passed(in);
            const State<P> at{y, lambda};
            const P initial_norm2 = rows.has_initial(t) ? pull_initial<P>(size, rows, t, rows.s(t), at, in) : splat<P>(0);
            contract_equations<P>(
                size, rows, t, rows.s(t), rows.w_near(t), initial_norm2, at, g, in, sinks.at(0), equations
            );
            ahead.clear();
            sinks.flush(t, t + 1, length, ahead);
            ahead.clear();
        }
        sinks.finish(true);
    }

 private:
    // Neighbours in time of what lies in blocks: y and λ before the first point of every lane, and what the step out of
    // its last point gives to that point.
    struct Border {
        P *y, *lambda;
        Pull<P> out;
    };

    // Of `passed`: what the steps into and out of the last point of a lane give to it.
    P* passed(Index group_, int which) const { return static_cast<P*>(job.passed) + (group_ * 4 + which) * job.n; }
    static constexpr int IN = 0, OUT = 2;

    void sum_passed(const Pull<P>& sum) const {
        for (int j = 0; j < 2 * job.n; ++j) {
            P& to = j < job.n ? sum.lambda[j] : sum.y[j - job.n];
            to = passed(group_index(), IN)[j];
            for (int l = 0; l < W; ++l) {
                const Index next = group.system[l] * job.C + group.chunk[l] + 1;
                if (group.chunk[l] + 1 < job.C) to.set(l, to.get(l) + passed(next / W, OUT)[j].get(int(next % W)));
            }
        }
    }

    // Points t0 .. t1-1 and the steps into them; y[0] is that of t0, y[-1] the one before where t0 > 0, and so for lambda.
    SMNN_OUTLINE void contract_block(
        const StagedRows<P>& rows, int t0, int t1, const P* y, const P* g, const P* lambda, const Border& border, P* equations,
        PointSinks& at_points, StepSinks& at_steps
    ) {
        const int n = job.n;
        const T* S_rows = job.scheme_rows;
        P* room = workspace;
        Array<P, Capacity<Size>::n> in_lambda(room, n), in_y(room, n), next_lambda(room, n), next_y(room, n);
        for (int t = t1 - 1; t >= t0; --t) {
            const int i = t - t0;
            ahead.fetch(i, i + 1, t1 - t0);
            const State<P> at{y + i * n, lambda + i * n};
            const Pull<P> in{in_lambda, in_y}, next{next_lambda, next_y};
            if (t > 0 || Chunked) {
                const State<P> from = t > 0 ? State<P>{at.y - n, at.lambda - n} : State<P>{border.y, border.lambda};
                const auto step = contract_step<P>(
                    size, S_rows, rows.s(t), rows.w_smoothness(t), from, at, next, in
                );
                if (t > 0) {
                    const int to = t0 > 0 ? i : i - 1;
                    at_steps.s.block[to] = step.s;
                    at_steps.w.block[to] = step.w_smoothness;
                } else {
                    put_first_step(step, at_steps);
                    pass(OUT, next, [&](int) { return true; });
                }
                if (Chunked && t >= group.shortest - 1) {
                    pass(IN, in, [&](int l) { return t == group.length[l] - 1; });
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
            const P initial_norm2 = rows.has_initial(t) ? pull_initial<P>(size, rows, t, rows.s(t), at, in) : splat<P>(0);
            contract_equations<P>(
                size, rows, t, rows.s(t), rows.w_near(t), initial_norm2, at, g + i * n, in, at_points.at(i), equations
            );
        }
    }

    template <class Of>
    SMNN_OUTLINE void pass(int which, const Pull<P>& pull, Of of) const {
        P* const to = passed(group_index(), which);
        for (int l = 0; l < W; ++l) {
            for (int j = 0; of(l) && j < job.n; ++j) {
                to[j].set(l, pull.lambda[j].get(l));
                to[job.n + j].set(l, pull.y[j].get(l));
            }
        }
    }

    // The gradients of the step from the left separator into a chunk.
    SMNN_OUTLINE void put_first_step(const StepGradients<P>& step, StepSinks& sinks) const {
        for (int l = 0; l < group.valid; ++l) {
            if (group.start[l] == 0) continue;
            sinks.s.put(l, -1, step.s.get(l));
            sinks.w.put(l, -1, step.w_smoothness.get(l));
        }
    }

    SMNN_OUTLINE void set_border(const Border& border, const LanePointers<P>& y_lanes) const {
        set_zero(border.y);
        set_zero(border.lambda);
        set_zero(border.out.y);
        set_zero(border.out.lambda);
        if (!Chunked) return;
        separator(-1, border.lambda);
        const Input& in = job.in[Y];
        for (int l = 0; l < W; ++l) {
            for (int j = 0; group.start[l] > 0 && j < job.n; ++j) border.y[j].set(l, y_lanes.at[l][in.offsets[j] - in.time]);
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
