// Elimination and substitution of a task: the lanes of a group through kernels, block of points by block of points.
//
// Lanes are divided into segments. Of the first ones the factor is not kept, but exists one segment at a time, small enough
// for the second level of cache: the sweep leaves its state where each of them starts, and on the way back they are
// eliminated again from there, the last one first. That is more arithmetic, and a small part of the memory. In a chunk the
// separator on the left is known by then: it goes to the right-hand side, and what is eliminated again is no chunk any more.
#pragma once

#include "../kernels/substitute.hpp"
#include "../kernels/sweep.hpp"
#include "gather.hpp"
#include "rows.hpp"

namespace smnn {
namespace SMNN_LEVEL {

template <class P, class Size, bool Chunked>
struct Driver {
    using T = ScalarOf<P>;
    static constexpr int W = Lanes<P>::count;

    const Job& job;
    Size size;
    const Group<P> group;
    const Index task;
    const int points;       // of a block
    const int segment;      // points of a segment
    const int rows_;        // points of the longest lane that leave rows: all, or in a chunk all but the last
    const int common_rows;  // those that all lanes have
    P* memory;
    RowStager<P> stager;
    P* kept;                // the factor from segment n_again on
    P* passing;             // the factor of the segment `present`, one of those before, and its z
    P* passing_z;
    int present = -1;
    bool has_checkpoints = false;
    bool lhs_is_there = false;  // left-hand sides of all points are staged
    bool on_the_way_back = false;  // the next segment is the one before
    P* z;                   // of the segments from n_again on
    P *carried, *saved, *workspace, *checkpoints;
    P *before, *left_sum;   // state of `forward`, of each column
    P *after, *left;        // state of `back`, and x at the left separator, of each column
    int first_column = 0, end_column;  // that `forward` and `back` work on

    static int factor_entries(const Job& job) { return FactorLayout<Chunked>{job.n, job.K}.entries(); }
    static int carried_entries(const Job& job) { return CarriedLayout<Chunked>{job.n, job.m}.entries(); }
    static int longest(const Job& job) { return job.T / job.C + (job.T % job.C > 0); }
    static int segment_points(const Job& job) {
        const Index all = longest(job), point = Index(sizeof(P)) * factor_entries(job);
        if (!Chunked && all * point <= CACHED_BYTES) return int(all);
        const Index block = block_points<P>(job), by_points = (SEGMENT_POINTS + block - 1) / block;
        const Index by_bytes = SEGMENT_BYTES / (point * block), some = block * (by_bytes > by_points ? by_bytes : by_points);
        return int(some < all ? some : all);
    }
    static int n_segments(const Job& job) { return (longest(job) - 1) / segment_points(job) + 1; }
    // Segment k has the final rows of the points before each of its own, and the last one those of the last point too.
    static int first_row(const Job& job, int k) { return k > 0 ? k * segment_points(job) - 1 : 0; }
    static Index points_kept(const Job& job) {
        return job.n_again < n_segments(job) ? longest(job) - first_row(job, job.n_again) : 0;
    }
    static int columns(const Job& job) { return job.contracts ? ADJOINT_COLUMNS : job.m; }
    // Points whose z is kept. An adjoint keeps λ, and the right-hand sides of its other columns.
    static Index points_of_z(const Job& job) { return job.contracts ? longest(job) : points_kept(job); }
    static Index z_packs(const Job& job) { return points_of_z(job) * columns(job) * job.n; }
    // Of a checkpoint: the state without the edge of a chunk, and `before`. That of the first segment of a chunk is behind
    // its first point.
    static int state_entries(const Job& job) {
        return Chunked ? CarriedLayout<true>{job.n, job.m}.edge() : carried_entries(job);
    }
    static Index checkpoint_packs(const Job& job) {
        return Index(job.n_again) * (state_entries(job) + columns(job) * job.n);
    }
    // Points of a segment, and the one before it.
    static Index passing_points(const Job& job) { return job.n_again > 0 ? segment_points(job) + 1 : 0; }
    // Whether what is staged of all points stays where it is.
    static bool stays(const Job& job) { return job.contracts && !Chunked && n_segments(job) == 1; }
    // Points that rows are staged of.
    static int staged_points(const Job& job) {
        const int points = block_points<P>(job), all = longest(job);
        return stays(job) && all > points ? all : points;
    }

    static Sizes sizes(const Job& job, Index contraction_packs) {
        const int points = block_points<P>(job), n = job.n;
        Index packs = RowStager<P>::memory(job, points, staged_points(job)) + 2 * carried_entries(job) + workspace_packs(job);
        packs += passing_points(job) * (factor_entries(job) + n * columns(job));
        if (!job.checkpoints) packs += checkpoint_packs(job);
        if (!job.z) packs += z_packs(job);
        packs += 4 * n * columns(job) + contraction_packs;
        const size_t pack = sizeof(P);
        return {
            size_t(packs) * pack + 64,
            size_t(points_kept(job)) * factor_entries(job) * pack,
            size_t(z_packs(job)) * pack,
            size_t(checkpoint_packs(job)) * pack,
            size_t(CarriedLayout<true>{n, job.m}.entries()) * pack,
            size_t(4 * n * columns(job)) * pack,
            n_segments(job),
            segment_points(job),
            longest(job),
            factor_entries(job),
        };
    }

    static int workspace_packs(const Job& job) {
        const int sweep = sweep_workspace(size_of<Size>(job));
        return sweep > 8 * job.n ? sweep : 8 * job.n;
    }

    Driver(const Job& job_, Index task_, Index group_, void* scratch)
        : job(job_),
          size(size_of<Size>(job_)),
          group(job_, group_),
          task(task_),
          points(block_points<P>(job_)),
          segment(segment_points(job_)),
          rows_(group.longest - Chunked),
          common_rows(group.shortest - Chunked),
          memory(static_cast<P*>(scratch)),
          stager(job_, group, memory, points, staged_points(job_)) {
        kept = static_cast<P*>(job.factor);
        if (kept) kept += group_ * points_kept(job) * factor_entries(job);
        passing = take(passing_points(job) * factor_entries(job));
        passing_z = take(passing_points(job) * job.n * columns(job));
        z = job.z ? static_cast<P*>(job.z) + group_ * z_packs(job) : take(z_packs(job));
        checkpoints = job.checkpoints ? static_cast<P*>(job.checkpoints) + group_ * checkpoint_packs(job)
                                      : take(checkpoint_packs(job));
        carried = Chunked ? static_cast<P*>(job.ends) + group_ * carried_entries(job) : take(carried_entries(job));
        saved = take(carried_entries(job));
        workspace = take(workspace_packs(job));
        end_column = job.m;
        before = take(job.n * columns(job));
        left_sum = take(job.n * columns(job));
        after = take(job.n * columns(job));
        left = take(job.n * columns(job));
    }

    P* take(Index packs) {
        P* at = memory;
        memory += packs;
        return at;
    }

    int last_segment() const { return (group.longest - 1) / segment; }
    int first_row(int k) const { return first_row(job, k); }
    int end_row(int k) const { return k < last_segment() ? first_row(k + 1) : rows_; }
    int end_of(int k) const { return k < last_segment() ? (k + 1) * segment : group.longest; }
    // where the factor of a point of segment k lies, and its z
    P* factor_at(int k, int t) const {
        if (k < job.n_again) return passing + Index(t - first_row(k)) * entries_of(k);
        return kept + Index(t - first_row(job.n_again)) * factor_entries(job);
    }
    int entries_of(int k) const {
        const bool is_plain = Chunked && on_the_way_back && k < job.n_again;
        return is_plain ? FactorLayout<false>{job.n, job.K}.entries() : factor_entries(job);
    }
    P* z_at(int k, int t, int c = 0) const {
        if (is_passing(k, c)) return passing_z + c * z_step(k, c) + Index(t - first_row(k)) * job.n;
        return z + c * z_step(k, c) + Index(t - (job.contracts ? 0 : first_row(job.n_again))) * job.n;
    }
    bool is_passing(int k, int c) const { return k < job.n_again && !(job.contracts && c == 0); }
    // from one column to the next
    Index z_step(int k, int c) const { return (is_passing(k, c) ? passing_points(job) : points_of_z(job)) * job.n; }
    // the right-hand sides of columns 1 and 2 of an adjoint
    P* rest_at(int c, int t) const { return z + (c * points_of_z(job) + t) * job.n; }

    SchemeRows<T> scheme() const {
        return {job.scheme_rows, job.scheme_norm2, job.tolerance2};
    }

    // to := to where the lane has point t, from elsewhere
    SMNN_OUTLINE void keep_where_shorter(int t, P* to, const P* from, int count) const {
        for (int l = 0; l < W; ++l) {
            if (t < group.length[l]) continue;
            for (int i = 0; i < count; ++i) to[i].set(l, from[i].get(l));
        }
    }

    // Elimination, and R^T w = g -------------------------------------------------------------------------------------

    // All segments in their order, each through SWEEP and FORWARD where these are wanted; `before_forward` with each.
    void eliminate(int phases) {
        eliminate(phases, [](int) {});
    }
    template <class Then>
    SMNN_OUTLINE void eliminate(int phases, Then before_forward) {
        on_the_way_back = false;
        if (phases & FORWARD) start_forward();
        const int last = last_segment();
        const bool again = !(phases & SWEEP);
        for (int k = 0; k <= last; ++k) {
            const bool is_here = again && (k >= job.n_again || (!Chunked && k == present));
            if (k < job.n_again) {
                P *const at = checkpoint(k), *const from = has_checkpoints ? at : carried;
                if (!is_here) copy(has_checkpoints ? carried : at, from, state_entries(job));
                if (phases & FORWARD) copy(checkpoint(k) + state_entries(job), before, job.n * columns(job));
            }
            const bool keep = (phases & FORWARD) || k >= job.n_again || (!Chunked && k == last);
            if (!is_here) sweep_segment<Chunked>(k, carried, job.has_rhs, keep, again);
            before_forward(k);
            if (phases & FORWARD) forward<Chunked>(k, first_row(k), end_row(k));
        }
        if (phases & FORWARD) end_forward();
    }

    // The factor of a segment that is gone, and its z or, where there are no right-hand sides, w. In a chunk, without the
    // columns at the left separator, whose x is known.
    SMNN_OUTLINE void eliminate_again(int k) {
        const CarriedLayout<Chunked> at{job.n, job.m};
        P *const state = Chunked ? saved : carried, *const from = checkpoint(k);
        copy(state, from, state_entries(job));
        copy(before, from + state_entries(job), job.n * columns(job));
        if constexpr (Chunked) {
            for (int c = first_column; !job.has_rhs && c < end_column; ++c) {
                join_to_before(from, left + c * job.n, before + c * job.n);
            }
            for (int j = 0; j < job.n; ++j) {
                for (int c = 0; job.has_rhs && c < job.m; ++c) {
                    P& to = state[at.z() + j * job.m + c];
                    for (int i = 0; i < job.n; ++i) to -= from[at.left() + j * job.n + i] * left[c * job.n + i];
                }
            }
        }
        sweep_segment<false>(k, state, job.has_rhs, true, true);
        if (!job.has_rhs) forward<false>(k, first_row(k), end_row(k));
    }

    // With x at the left separator known, the rows (own, left) that a checkpoint holds add own^T left x to `before`.
    SMNN_OUTLINE void join_to_before(const P* state, const P* left_x, P* to) const {
        const CarriedLayout<true> at{job.n};
        const P zero = splat<P>(0), one = splat<P>(1);
        for (int j = 0; j < job.n; ++j) {
            const P* const own = state + at.own() + j * job.n;
            P x = zero, leading = own[j];
            for (int i = 0; i < job.n; ++i) x += state[at.left() + j * job.n + i] * left_x[i];
            if constexpr (is_weighted<Size>) {
                x *= select(leading < zero, -leading, one / leading);
                leading = select(leading < zero, zero, leading);
            }
            to[j] += leading * x;
            for (int i = j + 1; i < job.n; ++i) to[i] += own[i] * x;
        }
    }

    P* checkpoint(int k) const { return checkpoints + Index(k) * (state_entries(job) + columns(job) * job.n); }
    static void copy(P* to, const P* from, int count) {
        for (int i = 0; i < count; ++i) to[i] = from[i];
    }

    template <bool Rhs>
    StagedRows<P> staged(int t0, int t1) const {
        StagedRows<P> rows = stager.rows(t0, t1, Rhs, stays(job) ? 0 : t0);
        rows.marks = !on_the_way_back;
        return rows;
    }

    // Lanes as chunks, or not (any more). What is final is kept or, with right-hand sides, not.
    template <bool InChunk>
    void sweep_segment(int k, P* state, bool with_rhs, bool keep, bool again) {
        if constexpr (is_weighted<Size> && InChunk == Chunked) {
            if (!keep) return sweep_segment<InChunk, true, false>(k, state, again);
        }
        with_rhs ? sweep_segment<InChunk, true, true>(k, state, again) : sweep_segment<InChunk, false, true>(k, state, again);
    }

    template <bool InChunk, bool Rhs, bool Keep>
    SMNN_OUTLINE void sweep_segment(int k, P* state, bool again) {
        const SchemeRows<T> constants = scheme();
        const Index entries = FactorLayout<InChunk>{job.n, job.K}.entries();
        if (Keep && k < job.n_again) present = k;
        lhs_is_there = stays(job);
        if constexpr (!Size::fixed && Size::rotations) size.z_step = z_step(k, 0);
        const int end = end_of(k);
        for (int t0 = k * segment; t0 < end;) {
            int t1 = t0 + points < end ? t0 + points : end;
            const bool ragged = group.shortest < group.longest;
            if (ragged && t1 == group.longest && t0 < group.shortest) t1 = group.shortest;
            const bool partial = InChunk && t0 >= group.shortest;
            if (partial) copy(saved, state, carried_entries(job));
            StagedRows<P> rows = staged<Rhs>(t0, t1);
            if (!again) rows.mark_zero_steps(t1);
            const int before_ = t0 > 0 ? t0 - 1 : 0;
            // f of a block starts with the point before it
            const Index skip = t0 > 0 ? 0 : 1;
            P* const f = factor_at(k, before_) - skip * entries;
            P* const fz = z_at(k, before_) - skip * job.n;
            const auto part = [&](int from, int to) {
                const Index done = from - t0;
                sweep<P, Size, InChunk, Rhs, Keep>(
                    size, constants, rows, from, to, state, workspace, f + done * entries, fz + done * job.n
                );
            };
            const int from = Chunked && t0 == 0 ? 1 : t0;
            if (InChunk && t0 == 0) {
                // the checkpoint of the first segment of a chunk
                part(0, 1);
                if (k < job.n_again) copy(checkpoint(k), state, state_entries(job));
            }
            part(from, t1);
            if (partial) keep_where_shorter(t0, state, saved, carried_entries(job));
            if (InChunk && t1 == group.longest) end_chunk<P, Size>(size, state);
            if (!Chunked && t1 == group.longest) {
                finish<P, Size, Rhs>(size, constants, rows, t1 - 1, state, workspace, factor_at(k, t1 - 1), z_at(k, t1 - 1));
            }
            t0 = t1;
        }
    }

    void start_forward() {
        for (int c = first_column; c < end_column; ++c) {
            set_zero(before + c * job.n);
            set_zero(left_sum + c * job.n);
        }
    }
    void set_zero(P* to) const {
        for (int j = 0; j < job.n; ++j) to[j] = splat<P>(0);
    }

    // f(c, m) for the columns, two at a time: m of them from c on
    template <class Work>
    void each_pair(Work work) {
        int c = first_column;
        for (; c + 1 < end_column; c += 2) work(c, Int<2>());
        if (c < end_column) work(c, Int<1>());
    }

    // w of the points t0 .. end-1 of segment k, in the place of z
    template <bool InChunk>
    void forward(int k, int t0, int end) {
        each_pair([&](int c, auto m) { forward<InChunk>(k, c, m, t0, end); });
    }
    template <bool InChunk, int M>
    SMNN_OUTLINE void forward(int k, int c, Int<M> m, int t0, int end) {
        P *const before_ = before + c * job.n, *const left_sum_ = left_sum + c * job.n, *const saved_ = workspace;
        const auto right_hand_side = [&](int from, int to) -> const P* {
            if (c > 0) return rest_at(c, from);
            if (!job.contracts) return stage_g(from, to, z_at(k, from));
            return on_the_way_back ? rest_at(1, from) : stage_g(from, to);
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
            substitute_forward<P, Size, InChunk>(
                size, t0, t1, factor_at(k, t0), g_now, before_, left_sum_, z_at(k, t0, c), points_of_z(job) * job.n, z_step(k, c), m
            );
            if (partial) {
                keep_where_shorter(t0 + 1, before_, saved_, job.n * m);
                keep_where_shorter(t0 + 1, left_sum_, saved_ + job.n * m, job.n * m);
            }
            t0 = t1;
        }
    }

    // g of points from .. to-1: of an adjoint, where what is left of it will be
    P* stage_g(int from, int to, P* at = nullptr) {
        const Input& in = job.in[G];
        at = at ? at : rest_at(1, from);
        stage(job, in, LanePointers<P>(job, in, group), from, to, at);
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

    // What a lane passes to the separators (see `Passed`).
    P* passed(int c, int which) const {
        return static_cast<P*>(job.passed) + ((group_index() * columns(job) + c) * PASSED + which) * job.n;
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
    SMNN_OUTLINE void separator(int which, P* x, int c = 0) const {
        const T* all = static_cast<const T*>(job.separators);
        for (int l = 0; l < W; ++l) {
            const Index k = group.chunk[l] + which;
            for (int j = 0; j < job.n; ++j) {
                x[j].set(l, k < 0 ? T(0) : all[((group.system[l] * columns(job) + c) * job.C + k) * job.n + j]);
            }
        }
    }

    // From the last segment to the first, `then` with each: x is in the place of z then, for the points of the segment and
    // the one before it. Written to job.x where that is wanted.
    template <class Then>
    SMNN_OUTLINE void back(Then then) {
        on_the_way_back = true;
        if (Chunked || present != last_segment()) present = -1;  // (what is there of a chunk has columns at the separator)
        for (int c = first_column; c < end_column; ++c) {
            set_zero(after + c * job.n);
            set_zero(left + c * job.n);
            if (Chunked) separator(-1, left + c * job.n, c);
        }
        for (int k = last_segment(); k >= 0; --k) {
            if (k < job.n_again && k != present) eliminate_again(k);
            each_pair([&](int c, auto m) { back_columns(k, c, m, left + c * job.n, after + c * job.n); });
            then(k);
        }
    }

    // Columns c .. c+m-1 of a segment.
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

    template <int M>
    void back_block(int k, int c, Int<M> m, int t0, int t1, const P* left_x, P* after_x) {
        P* const f = factor_at(k, t0);
        P* const x = z_at(k, t0, c);
        if (Chunked && k >= job.n_again) {
            substitute_back<P, Size, Chunked>(size, t0, t1, f, x, left_x, after_x, x, z_step(k, c), m);
        } else {
            substitute_back<P, Size, false>(size, t0, t1, f, x, left_x, after_x, x, z_step(k, c), m);
        }
    }
};

}  // namespace SMNN_LEVEL
}  // namespace smnn
