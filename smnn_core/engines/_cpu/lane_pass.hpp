// Elimination and substitution of a group of lanes.
//
// When a segment of a chunk is recomputed, x at the left separator is known: it goes to the right-hand side, so that elimination
// has no columns at the separator.
#pragma once

#include "../kernels/substitute.hpp"
#include "lane_sweep.hpp"
#include "reduce_gradients.hpp"

namespace smnn {
namespace SMNN_LEVEL {

// The passes of a group of lanes: elimination with R^T w = g, and R x = z.
template <class P, class Size, bool Chunked>
struct LanePass : LaneSweep<P, Size, Chunked> {
    using Base = LaneSweep<P, Size, Chunked>;
    using Base::job, Base::size, Base::group, Base::columns, Base::points, Base::segment, Base::state_entries, Base::workspace;
    using Base::carried, Base::saved, Base::common_rows, Base::has_checkpoints, Base::on_the_way_back, Base::recomputed;
    using Base::checkpoint, Base::copy, Base::end_of, Base::end_row, Base::factor_at, Base::first_row, Base::last_segment;
    using Base::go, Base::keep_where_shorter, Base::rest_at, Base::set_zero, Base::stager, Base::z_at, Base::z_step;
    using T = ScalarOf<P>;
    static constexpr int W = Lanes<P>::count;

    P *before, *left_sum;   // state of `forward`, of each column
    P *after, *left;        // state of `back`, and x at the left separator, of each column
    int first_column = 0, end_column;  // that `forward` and `back` work on

    LanePass(const Job& job_, Index group_, void* scratch) : Base(job_, group_, scratch), end_column(job_.m) {
        for (P** state : {&before, &left_sum, &after, &left}) *state = this->take(job.n * columns);
    }

    // Elimination, and R^T w = g -------------------------------------------------------------------------------------

    // All segments in their order, each through SWEEP and FORWARD where these are wanted.
    SMNN_OUTLINE void eliminate(int phases) {
        go(points);
        if (phases & FORWARD) start_forward();
        const int last = last_segment();
        const bool again = !(phases & SWEEP);
        for (int k = 0; k <= last; ++k) {
            const bool is_here = again && (job.keeps_factor || (!Chunked && k == recomputed));
            if (this->writes_checkpoints()) {
                P *const at = checkpoint(k), *const from = has_checkpoints ? at : carried;
                if (!is_here) copy(has_checkpoints ? carried : at, from, state_entries);
                if ((phases & FORWARD) && !job.contracts) copy(checkpoint(k) + state_entries, before, job.n * columns);
            }
            const bool keep = (phases & FORWARD) || job.keeps_factor || (!Chunked && k == last);
            // (the last segment of an undivided lane is there on the way back)
            const bool taped = job.contracts && !Chunked && k == last && !job.keeps_factor;
            const bool with_rhs = job.has_rhs && (taped || !has_checkpoints);
            if (!is_here) this->template sweep_segment<Chunked>(k, carried, with_rhs, keep, taped, again);
            if (phases & FORWARD) forward<Chunked>(k, first_row(k), end_row(k));
        }
        if (phases & FORWARD) end_forward();
    }

    // The factor of a segment that was not kept, and z or, in a solve of M x = g, w; of an adjoint, the tape.
    SMNN_OUTLINE void recompute(int k) {
        go(-segment);
        if (job.contracts) {
            copy(Chunked ? saved : carried, checkpoint(k), state_entries);
            return this->template sweep_segment<Chunked>(k, Chunked ? saved : carried, true, true, true, true);
        }
        const CarriedLayout<Chunked> at{job.n, job.m};
        P *const state = Chunked ? saved : carried, *const from = checkpoint(k);
        copy(state, from, state_entries);
        if (!job.has_rhs) copy(before, from + state_entries, job.n * columns);
        if constexpr (Chunked) {
            for (int c = first_column; !job.has_rhs && c < end_column; ++c) {
                join_to_before(from, left + c * job.n, before + c * job.n);
            }
            for (int j = 0; j < job.n; ++j) {
                for (int c = 0; job.has_rhs && c < job.m; ++c) {
                    P& to = state[at.z() + j * job.m + c];
                    for (int i = 0; i < job.n; ++i) to -= from[at.spike() + j * job.n + i] * left[c * job.n + i];
                }
            }
        }
        this->template sweep_segment<false>(k, state, job.has_rhs, true, false, true);
        if (!job.has_rhs) forward<false>(k, first_row(k), end_row(k));
    }

    // With x at the left separator known, left_x (n), the rows (own, left) of a checkpoint, state
    // (CarriedLayout<true>::entries()), add own^T left x to `to` (n).
    SMNN_OUTLINE void join_to_before(const P* state, const P* left_x, P* to) const {
        const CarriedLayout<true> at{job.n};
        const P zero = splat<P>(0);
        for (int j = 0; j < job.n; ++j) {
            const P* const own = state + at.own() + j * job.n;
            P x = zero;
            for (int i = 0; i < job.n; ++i) x += state[at.spike() + j * job.n + i] * left_x[i];
            to[j] += x;
            x *= reciprocal(own[j]);
            for (int i = j + 1; i < job.n; ++i) to[i] += own[i] * x;
        }
    }

    void start_forward() {
        for (int c = first_column; c < end_column; ++c) {
            set_zero(before + c * job.n);
            set_zero(left_sum + c * job.n);
        }
    }

    // f(c, m) for the columns, two at a time: m of them from c on
    template <class Work>
    void each_pair(Work work) {
        int c = first_column;
        for (; c + 1 < end_column; c += 2) work(c, Int<2>());
        if (c < end_column) work(c, Int<1>());
    }

    // R^T w = g for the points t0 .. end-1 of segment k; w is written over z.
    template <bool InChunk>
    void forward(int k, int t0, int end) {
        each_pair([&](int c, auto m) { forward<InChunk>(k, c, m, t0, end); });
    }
    template <bool InChunk, int M>
    SMNN_OUTLINE void forward(int k, int c, Int<M> m, int t0, int end) {
        P *const before_ = before + c * job.n, *const left_sum_ = left_sum + c * job.n, *const saved_ = workspace;
        const auto right_hand_side = [&](int from, int to) -> const P* {
            return c > 0 ? rest_at(from) : stage_g(from, to, job.contracts ? rest_at(from) : z_at(k, from));
        };
        while (t0 < end) {
            int t1 = t0 + points < end ? t0 + points : end;
            if (t0 < common_rows && t1 > common_rows) t1 = common_rows;
            const bool partial = InChunk && t0 >= common_rows;
            if (partial) {
                copy(saved_, before_, job.n * m);
                copy(saved_ + job.n * m, left_sum_, job.n * m);
            }
            const P* const g_now = right_hand_side(t0, t1);
            P* const f = factor_at(k, t0);
            if (this->is_kept()) touch(f, Index(t1 - t0) * this->factor_entries, false);
            substitute_forward<P, Size, InChunk>(
                size, t0, t1, f, g_now, before_, left_sum_, z_at(k, t0, c), this->points_of_z() * job.n, z_step(), m
            );
            if (partial) {
                keep_where_shorter(t0 + 1, before_, saved_, job.n * m);
                keep_where_shorter(t0 + 1, left_sum_, saved_ + job.n * m, job.n * m);
            }
            t0 = t1;
        }
    }

    // Stages g of the points from .. to-1: at (points, n). That of an adjoint becomes the residual of v in its place.
    P* stage_g(int from, int to, P* at) {
        const Input& in = job.in[G];
        stage(job, in, LanePointers<P>(job, in, group), from, to, stager.next_block, at);
        spread(in, to - from, at);
        return at;
    }

    void end_forward() {
        if (!Chunked) return;
        for (int c = first_column; c < end_column; ++c) {
            copy(passed(c, BEFORE), before + c * job.n, job.n);
            copy(passed(c, LEFT), left_sum + c * job.n, job.n);
        }
    }

    // The numbers that a lane passes to the separators (see `Passed`).
    P* passed(int c, int which) const {
        return static_cast<P*>(job.passed) + ((group.number * columns + c) * PASSED + which) * job.n;
    }

    // An array that is constant in time is staged as one point: repeats it in block (count, in.count).
    SMNN_OUTLINE void spread(const Input& in, int count, P* block) const {
        if (in.time != 0) return;
        for (int t = 1; t < count; ++t) {
            for (int e = 0; e < in.count; ++e) block[t * in.count + e] = block[e];
        }
    }

    // R x = z, x is written over z ------------------------------------------------------------------------------------

    // x (n) of the separator at the end of every lane (which = 0), or on its left (which = -1; zero where there is none)
    SMNN_OUTLINE void separator(int which, P* x, int c = 0) const {
        const T* all = static_cast<const T*>(job.separators);
        for (int l = 0; l < W; ++l) {
            const Index k = group.chunk[l] + which;
            for (int j = 0; j < job.n; ++j) {
                x[j].set(l, k < 0 ? T(0) : all[((group.system[l] * columns + c) * job.C + k) * job.n + j]);
            }
        }
    }

    // From the last segment to the first. first(k) finds the factor of segment k, then(k) x in the place of z, for the points
    // of segment k and the one before it. x is written to job.x, if that is not null.
    template <class First, class Then>
    SMNN_OUTLINE void back(First first, Then then) {
        go(-segment);
        // (that of a chunk has columns at the separator)
        if (Chunked || recomputed != last_segment() || (job.contracts && !this->has_tape)) recomputed = -1;
        for (int c = first_column; c < end_column; ++c) {
            set_zero(after + c * job.n);
            set_zero(left + c * job.n);
            if (Chunked) separator(-1, left + c * job.n, c);
        }
        for (int k = last_segment(); k >= 0; --k) {
            if (!this->is_kept() && k != recomputed) recompute(k);
            first(k);
            each_pair([&](int c, auto m) { back_columns(k, c, m, left + c * job.n, after + c * job.n); });
            then(k);
        }
    }

    // Columns c .. c+m-1 of a segment. left_x (m, n): at the left separator; after_x (m, n): at the point behind the segment,
    // then at its first one.
    template <int M>
    void back_columns(int k, int c, Int<M> m, const P* left_x, P* after_x) {
        int t1 = end_of(k);
        const auto put = [&](int t, const P* x) {
            for (int i = 0; i < M; ++i) copy(z_at(k, t, c + i), x + i * job.n, job.n);
        };
        const auto write = [&](int from, int to) {
            for (int i = 0; job.x && i < M; ++i) write_points(job, group, from, to, z_at(k, from, c + i), job.x, c + i);
        };
        const bool is_last = k == last_segment();
        if (!is_last) {
            put(--t1, after_x);
        } else if (Chunked) {
            P* const end = workspace;
            for (int i = 0; i < M; ++i) separator(0, end + i * job.n, c + i);
            put(--t1, end);
            copy(after_x, end, job.n * m);
            write(t1, t1 + 1);
            if (group.shortest < group.longest) {
                // here the shorter lanes have their separator
                back_block(k, c, m, t1 - 1, t1, left_x, after_x);
                keep_where_shorter(t1, after_x, end, job.n * m);
                put(--t1, after_x);
                write(t1, t1 + 1);
            }
        }
        const int first = first_row(k);
        while (t1 > first) {
            const int t0 = t1 - points > first ? t1 - points : first;
            back_block(k, c, m, t0, t1, left_x, after_x);
            write(t0, t1);
            t1 = t0;
        }
    }

    // The points t0 .. t1-1 of it, with left_x (m, n) and after_x (m, n) as above.
    template <int M>
    void back_block(int k, int c, Int<M> m, int t0, int t1, const P* left_x, P* after_x) {
        P* const f = factor_at(k, t0);
        P* const x = z_at(k, t0, c);
        if (this->is_kept()) touch(f, Index(t1 - t0) * this->factor_entries, true);
        if (Chunked && (job.contracts || job.keeps_factor)) {
            substitute_back<P, Size, Chunked>(size, t0, t1, f, x, left_x, after_x, x, z_step(), m);
        } else {
            substitute_back<P, Size, false>(size, t0, t1, f, x, left_x, after_x, x, z_step(), m);
        }
    }
};

}  // namespace SMNN_LEVEL
}  // namespace smnn
