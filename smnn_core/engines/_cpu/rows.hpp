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
    } else {
        static_assert(Size::LARGEST == LARGEST, "no column is beyond");
        Size size(job.V, job.K, job.Q, job.scheme_is_upper ? 0 : job.n);
        size.m = job.m;
        return size;
    }
}

// As many points as keep a block's rows in the first level of cache, a multiple of 16 where possible.
template <class P>
SMNN_INLINE int block_points(const Job& job) {
    const Index point = Index(sizeof(P)) * (Index(job.Q) * job.n + 2 * job.Q + 2 * job.n + 4);
    const Index fit = 20000 / point;
    return fit >= 16 ? 16 : fit >= 8 ? 8 : fit >= 1 ? int(fit) : 1;
}

// Fields of the rows of a problem, and their numbers of a time point (or a step, of one right-hand side).
constexpr int ROW_FIELDS = SMOOTHNESS_RHS + 1;
SMNN_INLINE int numbers_of(const Job& job, int field) {
    switch (field) {
        case C: return job.Q * job.n;
        case B:
        case W_EQUATION: return job.Q;
        case U:
        case W_INITIAL: return job.T_init ? job.V * job.R_init : 0;
        case SMOOTHNESS_RHS: return job.in[SMOOTHNESS_RHS].data ? 2 * job.n : 0;
        default: return 1;
    }
}

// The names that kernels/sweep.hpp and kernels/gradient.hpp use. The step into point t is number t - 1.
template <class P>
struct StagedRows {
    using T = ScalarOf<P>;
    static constexpr int W = Lanes<P>::count;

    const Job* job;
    const Group<P>* group;
    int t0;                        // first point of the block
    P* at[ROW_FIELDS];             // by field, (points, numbers)
    int step[ROW_FIELDS];          // from point to point, 0 where it is constant in time
    Index b_column, u_column;      // from one right-hand side to the next
    P s_first, w_first;            // the step from the left separator
    bool initial_;                 // some point of the block has initial rows
    bool marks = true;             // whether points that are undetermined are marked

    SMNN_INLINE const P& number(Field f, int t, int i) const { return at[f][(t - t0) * step[f] + i]; }
    SMNN_INLINE const P& c(int t, int q, int j) const { return number(C, t, q * job->n + j); }
    SMNN_INLINE const P& b(int t, int q, int c = 0) const { return at[B][c * b_column + (t - t0) * step[B] + q]; }
    SMNN_INLINE const P& w_equation(int t, int q) const { return number(W_EQUATION, t, q); }
    SMNN_INLINE P s(int t) const { return t == 0 ? s_first : number(S, t, 0); }
    SMNN_INLINE P w_smoothness(int t) const { return t == 0 ? w_first : number(W_SMOOTHNESS, t, 0); }
    SMNN_INLINE bool has_smoothness_rhs() const { return at[SMOOTHNESS_RHS] != nullptr; }
    SMNN_INLINE const P& smoothness_rhs(int t, int v, int i) const { return number(SMOOTHNESS_RHS, t, v * 2 * job->K + i); }
    SMNN_INLINE bool has_initial(int t) const { return initial_ && group->first_start + t < job->T_init; }
    SMNN_INLINE int n_initial_orders() const { return job->R_init; }
    SMNN_INLINE const P& u(int t, int v, int r, int c = 0) const {
        return at[U][c * u_column + (t - t0) * step[U] + v * job->R_init + r];
    }
    SMNN_INLINE const P& w_initial(int t, int v, int r) const { return number(W_INITIAL, t, v * job->R_init + r); }

    // Looks at the points of the block, up to t1, and the steps into them, for `extremes`. (NaN is passed over; the step into
    // the first point of a system is staged as 1.)
    template <class Size>
    SMNN_OUTLINE void find_extremes(const Size& size, int t1) const {
        P shortest = splat<P>(1), heaviest2 = splat<P>(0);
        for (int t = t0; t < t1; ++t) {
            const P step = magnitude(s(t));
            shortest = select(step < shortest, step, shortest);
            repeat(size.Q, [&](auto q) SMNN_LAMBDA {
                const P *const entries = &c(t, q, 0), w = w_equation(t, q);
                P norm2 = splat<P>(0);
                repeat(size.n, [&](auto j) SMNN_LAMBDA { norm2 += entries[j] * entries[j]; });
                norm2 *= w * w;
                heaviest2 = select(heaviest2 < norm2, norm2, heaviest2);
            });
        }
        const P heaviest = root(heaviest2);
        double* const found = job->extremes + group->number * EXTREMES;
        for (int l = 0; l < W; ++l) {
            if (shortest.get(l) < found[SHORTEST_STEP]) found[SHORTEST_STEP] = shortest.get(l);
            if (heaviest.get(l) > found[HEAVIEST_EQUATION]) found[HEAVIEST_EQUATION] = heaviest.get(l);
        }
    }

    // In a chunk the last point is a separator: its pivots are tested in the reduced problem.
    template <class M>
    SMNN_OUTLINE void mark_undetermined(int t, const M& mask) const {
        if (!marks) return;
        for (int l = 0; l < group->valid; ++l) {
            if (!lane(mask, l) || t >= group->length[l] - (job->C > 1)) continue;
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
class RowStager {
   public:
    int next_block = 0;  // see `stage`

    // Packs of memory for blocks of `points` points, where what stays has room for `room` points.
    static Index memory(const Job& job, int points, int room) {
        Index packs = 2 * pointers(job);
        for (int f = 0; f < ROW_FIELDS; ++f) packs += size_of_field(job, f, points, room);
        return packs;
    }

    SMNN_OUTLINE RowStager(const Job& job, const Group<P>& group, P*& memory, int points, int room)
        : job_(job), group_(group), b_column_(Index(room) * job.Q), u_column_(Index(points) * numbers_of(job, U)) {
        const auto take = [&](Index packs) { return take_from(memory, packs); };
        for (int k = 0; k < 2; ++k) rhs_lanes_[k] = reinterpret_cast<LanePointers<P>*>(take(pointers(job)));
        for (int f = 0; f < ROW_FIELDS; ++f) {
            const Index size = size_of_field(job, f, points, room);
            at_[f] = size > 0 ? take(size) : nullptr;
            if (job.in[f].data) lanes_[f] = LanePointers<P>(job, job.in[f], group);
            for (int i = 0; (f == B || f == U) && job.in[f].data && i < job.m; ++i) {
                rhs_lanes_[f == U][i] = LanePointers<P>(job, job.in[f], group, i);
            }
        }
    }

    // The first number of a field, of a lane.
    const ScalarOf<P>* first(Field f, int l) const { return lanes_[f].at[l]; }

    // Points t0 .. t1-1 with the steps into them, where those from `origin` on have room. lhs_is_there: staged by an
    // earlier call.
    SMNN_OUTLINE StagedRows<P> rows(
        int t0, int t1, bool with_rhs, int origin, bool lhs_is_there = false, bool with_coefficients = true
    ) const {
        poll();
        StagedRows<P> r;
        r.job = &job_;
        r.group = &group_;
        r.t0 = t0;
        for (int f = 0; f < ROW_FIELDS; ++f) {
            const bool is_constant = stays(f) && job_.in[f].data && job_.in[f].time == 0;
            r.step[f] = is_constant ? 0 : numbers_of(job_, f);
            r.at[f] = at_[f] + (stays(f) ? Index(t0 - origin) * numbers_of(job_, f) : 0);
        }
        r.b_column = b_column_;
        r.u_column = u_column_;
        if (!with_rhs || !job_.in[SMOOTHNESS_RHS].data) r.at[SMOOTHNESS_RHS] = nullptr;
        if (!lhs_is_there) {
            if (with_coefficients) stage(job_, job_.in[C], lanes_[C], t0, t1, next_block, r.at[C]);
            stage(job_, job_.in[W_EQUATION], lanes_[W_EQUATION], t0, t1, next_block, r.at[W_EQUATION]);
            // step number t - 1 leads into t; a block that starts at 0 has no step into its first point but the separator's
            const int skip = t0 == 0, first = t0 - 1 + skip, last = t1 - 1;
            for (Field f : {S, W_SMOOTHNESS}) {
                if (last > first) stage(job_, job_.in[f], lanes_[f], first, last, next_block, r.at[f] + skip * r.step[f]);
            }
        }
        for (int i = 0; with_rhs && i < job_.m; ++i) {
            P* const to = r.at[B] + i * b_column_;
            if (job_.in[B].data) {
                stage(job_, job_.in[B], rhs_lanes_[0][i], t0, t1, next_block, to);
            } else {
                for (Index e = 0; e < Index(t1 - t0) * job_.Q; ++e) to[e] = splat<P>(0);
            }
        }
        r.s_first = t0 == 0 ? first_step(S, 1) : splat<P>(0);
        r.w_first = t0 == 0 ? first_step(W_SMOOTHNESS, 0) : splat<P>(0);
        if (r.at[SMOOTHNESS_RHS]) stage_smoothness_rhs(t0, t1);
        r.initial_ = job_.R_init > 0 && group_.first_start + t0 < job_.T_init;
        if (r.initial_) stage_initial(t0, t1, with_rhs);
        return r;
    }

   private:
    using T = ScalarOf<P>;
    static constexpr int W = Lanes<P>::count;

    const Job& job_;
    const Group<P>& group_;
    LanePointers<P> lanes_[ROW_FIELDS];
    LanePointers<P>* rhs_lanes_[2];  // of B and U, of each right-hand side
    const Index b_column_, u_column_;
    P* at_[ROW_FIELDS];

    static Index pointers(const Job& job) { return (Index(sizeof(LanePointers<P>)) * job.m - 1) / Index(sizeof(P)) + 1; }
    // True if the field has room for all points that stay where they are.
    static bool stays(int f) { return f != U && f != W_INITIAL && f != SMOOTHNESS_RHS; }
    static Index size_of_field(const Job& job, int f, int points, int room) {
        return Index(stays(f) ? room : points) * numbers_of(job, f) * (f == B || f == U ? job.m : 1);
    }

    // A number of the step into the first point of each lane; `none` in those that start a system.
    SMNN_OUTLINE P first_step(Field f, T none) const {
        P x;
        for (int l = 0; l < W; ++l) x.set(l, group_.start[l] > 0 ? lanes_[f].at[l][-job_.in[f].time] : none);
        return x;
    }

    SMNN_OUTLINE void stage_smoothness_rhs(int t0, int t1) const {
        const Input& in = job_.in[SMOOTHNESS_RHS];
        P* to = at_[SMOOTHNESS_RHS];
        for (int t = t0; t < t1; ++t) {
            for (int e = 0; e < in.count; ++e, ++to) {
                for (int l = 0; l < W; ++l) {
                    const bool there = group_.start[l] + t > 0;
                    to->set(l, there ? lanes_[SMOOTHNESS_RHS].at[l][Index(t - 1) * in.time + in.offsets[e]] : T(0));
                }
            }
        }
    }

    SMNN_OUTLINE void stage_initial(int t0, int t1, bool with_rhs) const {
        const Input &in_w = job_.in[W_INITIAL], &in_u = job_.in[U];
        P *to_w = at_[W_INITIAL], *to_u = at_[U];
        // (of points after these, no lane has initial rows: see `has_initial`)
        const int end = job_.T_init - group_.first_start;
        for (int t = t0; t < t1 && t < end; ++t) {
            for (int e = 0; e < in_w.count; ++e, ++to_w, ++to_u) {
                for (int l = 0; l < W; ++l) {
                    const bool there = group_.start[l] + t < job_.T_init;
                    to_w->set(l, there ? lanes_[W_INITIAL].at[l][Index(t) * in_w.time + in_w.offsets[e]] : T(0));
                    for (int i = 0; with_rhs && i < job_.m; ++i) {
                        const bool is_given = there && in_u.data;
                        to_u[i * u_column_].set(l, is_given ? rhs_lanes_[1][i].at[l][Index(t) * in_u.time + in_u.offsets[e]] : T(0));
                    }
                }
            }
        }
    }
};

}  // namespace SMNN_LEVEL
}  // namespace smnn
