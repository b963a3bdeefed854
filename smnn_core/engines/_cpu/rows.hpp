// The rows of a block of points as the kernels ask for them, staged as packs.
#pragma once

#include "stage.hpp"

namespace smnn {
namespace SMNN_LEVEL {

template <class Size>
SMNN_INLINE Size size_of(const Job& job) {
    if constexpr (Size::fixed) {
        (void)job;
        return Size{};
    } else if constexpr (Size::rotations) {
        static_assert(Size::LARGEST == LARGEST, "no column is beyond");
        Size size(job.V, job.K, job.Q);
        size.m = job.m;
        return size;
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

// The names that kernels/sweep.hpp and kernels/gradient.hpp use. The step into point t is number t - 1.
template <class P>
struct StagedRows {
    using T = ScalarOf<P>;
    static constexpr int W = Lanes<P>::count;

    const Job* job;
    const Group<P>* group;
    int t0;  // first point of the block
    P *c_, *b_, *w_equation_, *s_, *w_smoothness_, *u_, *w_initial_, *smoothness_rhs_;
    int c_step, b_step, w_equation_step, s_step, w_smoothness_step;  // 0 where constant in time
    Index b_column, u_column;  // from one right-hand side to the next
    P s_first, w_first;  // the step from the left separator
    bool initial_;  // some point of the block has initial rows
    bool marks = true;  // whether points that are undetermined are marked
    unsigned marked_lanes = ~0u;  // a bit for each lane: in which they are

    SMNN_INLINE const P& c(int t, int q, int j) const { return c_[(t - t0) * c_step + q * job->n + j]; }
    SMNN_INLINE const P& b(int t, int q, int c = 0) const { return b_[c * b_column + (t - t0) * b_step + q]; }
    SMNN_INLINE const P& w_equation(int t, int q) const { return w_equation_[(t - t0) * w_equation_step + q]; }
    SMNN_INLINE P s(int t) const { return t == 0 ? s_first : s_[(t - t0) * s_step]; }
    SMNN_INLINE P w_smoothness(int t) const {
        return t == 0 ? w_first : w_smoothness_[(t - t0) * w_smoothness_step];
    }
    SMNN_INLINE bool has_smoothness_rhs() const { return smoothness_rhs_ != nullptr; }
    SMNN_INLINE const P& smoothness_rhs(int t, int v, int i) const {
        return smoothness_rhs_[((t - t0) * job->V + v) * 2 * job->K + i];
    }
    SMNN_INLINE bool has_initial(int t) const { return initial_ && group->first_start + t < job->T_init; }
    SMNN_INLINE int n_initial_orders() const { return job->R_init; }
    SMNN_INLINE const P& u(int t, int v, int r, int c = 0) const {
        return u_[c * u_column + ((t - t0) * job->V + v) * job->R_init + r];
    }
    SMNN_INLINE const P& w_initial(int t, int v, int r) const {
        return w_initial_[((t - t0) * job->V + v) * job->R_init + r];
    }

    // Looks at the steps into the points of the block, up to t1. (That into the first point of a system is staged as any.)
    SMNN_OUTLINE void mark_zero_steps(int t1) const {
        const P zero = splat<P>(0);
        auto found = s(t0) == zero;
        for (int t = t0 + 1; t < t1; ++t) found = found | (s(t) == zero);
        if (any(found)) __atomic_store_n(job->any_zero_step, 1, __ATOMIC_RELAXED);
    }

    // These rows, for those lanes alone.
    template <class M>
    StagedRows of(const M& mask) const {
        StagedRows rows = *this;
        rows.marked_lanes = 0;
        for (int l = 0; l < W; ++l) rows.marked_lanes |= unsigned(lane(mask, l)) << l;
        return rows;
    }

    // In a chunk the last point is a separator: its pivots are tested in the reduced problem.
    template <class M>
    SMNN_OUTLINE void mark_undetermined(int t, const M& mask) const {
        if (!marks) return;
        for (int l = 0; l < group->valid; ++l) {
            if (!lane(mask, l) || !(marked_lanes >> l & 1) || t >= group->length[l] - (job->C > 1)) continue;
            mark(*job, group->system[l], group->start[l] + t);
        }
    }

    SMNN_OUTLINE static void mark(const Job& job, Index system, int t) {
        __atomic_store_n(job.any_undetermined, 1, __ATOMIC_RELAXED);
        if (job.undetermined) __atomic_store_n(job.undetermined + system * job.T + t, 1, __ATOMIC_RELAXED);
    }
};

// Stages the rows that a sweep needs.
template <class P>
struct RowStager {
    using T = ScalarOf<P>;
    static constexpr int W = Lanes<P>::count;

    const Job& job;
    const Group<P>& group;
    LanePointers<P> c, w_equation, s, w_smoothness, w_initial, smoothness_rhs;
    LanePointers<P> *b, *u;  // of each right-hand side
    const Index b_column, u_column;
    P *c_, *b_, *w_equation_, *s_, *w_smoothness_, *u_, *w_initial_, *smoothness_rhs_;

    // packs of memory for blocks of `points` points, and left-hand sides of `room` points
    static Index memory(const Job& job, int points, int room) {
        const int initial = job.V * job.R_init, smoothness = 2 * job.n;
        return 2 * pointers(job) + Index(room) * (job.Q * job.n + (1 + job.m) * job.Q + 2) +
               Index(points) * ((job.T_init ? (1 + job.m) * initial : 0) + (job.in[SMOOTHNESS_RHS].data ? smoothness : 0));
    }

    static Index pointers(const Job& job) { return (Index(sizeof(LanePointers<P>)) * job.m - 1) / Index(sizeof(P)) + 1; }

    SMNN_OUTLINE RowStager(const Job& job_, const Group<P>& group_, P*& memory, int points, int room)
        : job(job_),
          group(group_),
          b_column(Index(room) * job_.Q),
          u_column(job_.T_init ? Index(points) * job_.V * job_.R_init : 0) {
        c = LanePointers<P>(job, job.in[C], group);
        w_equation = LanePointers<P>(job, job.in[W_EQUATION], group);
        s = LanePointers<P>(job, job.in[S], group);
        w_smoothness = LanePointers<P>(job, job.in[W_SMOOTHNESS], group);
        if (job.T_init) w_initial = LanePointers<P>(job, job.in[W_INITIAL], group);
        if (job.in[SMOOTHNESS_RHS].data) smoothness_rhs = LanePointers<P>(job, job.in[SMOOTHNESS_RHS], group);
        const auto take = [&](Index packs) {
            P* at = memory;
            memory += packs;
            return at;
        };
        const Index all = room, initial = job.T_init ? job.V * job.R_init : 0;
        b = reinterpret_cast<LanePointers<P>*>(take(pointers(job)));
        u = reinterpret_cast<LanePointers<P>*>(take(pointers(job)));
        for (int i = 0; i < job.m; ++i) {
            if (job.in[B].data) b[i] = LanePointers<P>(job, job.in[B], group, i);
            if (job.T_init && job.in[U].data) u[i] = LanePointers<P>(job, job.in[U], group, i);
        }
        c_ = take(all * job.Q * job.n);
        b_ = take(job.m * b_column);
        w_equation_ = take(all * job.Q);
        s_ = take(all);
        w_smoothness_ = take(all);
        u_ = take(job.m * u_column);
        w_initial_ = take(points * initial);
        smoothness_rhs_ = job.in[SMOOTHNESS_RHS].data ? take(Index(points) * 2 * job.n) : nullptr;
    }

    // One number per lane of a step: that into the lane's first point (-1), where there is one.
    SMNN_OUTLINE P before_first(const LanePointers<P>& from, const Input& in) const {
        P x;
        for (int l = 0; l < W; ++l) x.set(l, group.start[l] > 0 ? from.at[l][-in.time] : from.at[l][0]);
        return x;
    }

    // Points t0 .. t1-1 with the steps into them, where those from `origin` on have room. `.._is_there`: staged by an earlier
    // call.
    SMNN_OUTLINE StagedRows<P> rows(
        int t0, int t1, bool with_rhs, int origin, bool lhs_is_there = false, bool rhs_is_there = false
    ) const {
        StagedRows<P> r;
        r.job = &job;
        r.group = &group;
        r.t0 = t0;
        const auto step = [&](Field f) { return job.in[f].time == 0 ? 0 : job.in[f].count; };
        r.c_step = step(C);
        r.b_step = job.in[B].data ? step(B) : job.Q;
        r.w_equation_step = step(W_EQUATION);
        r.s_step = step(S);
        r.w_smoothness_step = step(W_SMOOTHNESS);
        const Index before = t0 - origin;
        r.c_ = c_ + before * job.Q * job.n;
        r.b_ = b_ + before * job.Q;
        r.w_equation_ = w_equation_ + before * job.Q;
        r.u_ = u_;
        r.b_column = b_column;
        r.u_column = u_column;
        r.w_initial_ = w_initial_;
        r.smoothness_rhs_ = with_rhs && job.in[SMOOTHNESS_RHS].data ? smoothness_rhs_ : nullptr;
        if (!lhs_is_there) {
            stage(job, job.in[C], c, t0, t1, r.c_);
            stage(job, job.in[W_EQUATION], w_equation, t0, t1, r.w_equation_);
        }
        for (int i = 0; with_rhs && !rhs_is_there && i < job.m; ++i) {
            P* const to = r.b_ + i * b_column;
            if (job.in[B].data) {
                stage(job, job.in[B], b[i], t0, t1, to);
            } else {
                zero(to, Index(t1 - t0) * job.Q);
            }
        }
        r.s_first = r.w_first = splat<P>(0);
        // step number t - 1 leads into t; a block that starts at 0 has no step into its first point but the separator's
        const int skip = t0 == 0, first = t0 - 1 + skip, last = t1 - 1;
        r.s_ = s_ + before;
        r.w_smoothness_ = w_smoothness_ + before;
        if (last > first && !lhs_is_there) {
            const int skip_s = job.in[S].time == 0 ? 0 : skip, skip_w = job.in[W_SMOOTHNESS].time == 0 ? 0 : skip;
            stage(job, job.in[S], s, first, last, r.s_ + skip_s);
            stage(job, job.in[W_SMOOTHNESS], w_smoothness, first, last, r.w_smoothness_ + skip_w);
        }
        if (t0 == 0) {
            r.s_first = before_first(s, job.in[S]);
            r.w_first = before_first(w_smoothness, job.in[W_SMOOTHNESS]);
            for (int l = 0; l < W; ++l) {
                if (group.start[l] > 0) continue;
                r.w_first.set(l, 0);
                r.s_first.set(l, 1);
            }
        }
        if (r.smoothness_rhs_) stage_smoothness_rhs(t0, t1);
        r.initial_ = job.R_init > 0 && group.first_start + t0 < job.T_init;
        if (r.initial_) stage_initial(t0, t1, with_rhs);
        return r;
    }

   private:
    SMNN_OUTLINE static void zero(P* to, Index count) {
        for (Index i = 0; i < count; ++i) to[i] = splat<P>(0);
    }

    SMNN_OUTLINE void stage_smoothness_rhs(int t0, int t1) const {
        const Input& in = job.in[SMOOTHNESS_RHS];
        P* to = smoothness_rhs_;
        for (int t = t0; t < t1; ++t) {
            for (int e = 0; e < in.count; ++e, ++to) {
                for (int l = 0; l < W; ++l) {
                    const bool there = group.start[l] + t > 0;
                    to->set(l, there ? smoothness_rhs.at[l][Index(t - 1) * in.time + in.offsets[e]] : T(0));
                }
            }
        }
    }

    SMNN_OUTLINE void stage_initial(int t0, int t1, bool with_rhs) const {
        const Input &in_w = job.in[W_INITIAL], &in_u = job.in[U];
        P *to_w = w_initial_, *to_u = u_;
        // (of points after these, no lane has initial rows: see `has_initial`)
        const int end = job.T_init - group.first_start;
        for (int t = t0; t < t1 && t < end; ++t) {
            for (int e = 0; e < in_w.count; ++e, ++to_w, ++to_u) {
                for (int l = 0; l < W; ++l) {
                    const bool there = group.start[l] + t < job.T_init;
                    to_w->set(l, there ? w_initial.at[l][Index(t) * in_w.time + in_w.offsets[e]] : T(0));
                    for (int i = 0; with_rhs && i < job.m; ++i) {
                        const Index at = Index(t) * in_u.time + in_u.offsets[e];
                        to_u[i * u_column].set(l, there && in_u.data ? u[i].at[l][at] : T(0));
                    }
                }
            }
        }
    }
};

}  // namespace SMNN_LEVEL
}  // namespace smnn
