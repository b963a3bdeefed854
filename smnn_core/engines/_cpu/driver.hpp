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

// F: entries of the factor, packs or, where all lanes share the left-hand side, numbers.
template <class P, class Size, bool Chunked, class F = P>
struct Driver {
    using T = ScalarOf<P>;
    static constexpr int W = Lanes<P>::count;
    static constexpr bool shared = sizeof(F) != sizeof(P);

    const Job& job;
    Size size;
    const Group<P> group;
    const Index task;
    const int points;       // of a block
    const int segment;      // points of a segment
    const int rows_;        // points of the longest lane that leave rows: all, or in a chunk all but the last
    const int common_rows;  // those that all lanes have
    P* memory;
    Ahead<P> ahead;
    RowStager<P> stager;
    F* kept;                // the factor from segment n_again on
    P* passing;             // the factor of the segment `present`, one of those before, and its z
    P* passing_z;
    int present = -1;
    bool on_the_way_back = false;  // the next segment is the one before
    P* z;                   // of the segments from n_again on
    P *carried, *saved, *workspace, *checkpoints;
    P *before, *left_sum;   // state of `forward`
    P* staged_g = nullptr;  // of the segment `present`, where it is contracted too
    P* block = nullptr;     // of the factor, before it is streamed to memory

    static int factor_entries(const Job& job) { return FactorLayout<Chunked>{job.n, job.K}.entries(); }
    static int carried_entries(const Job& job) { return CarriedLayout<Chunked>{job.n, job.m}.entries(); }
    static bool streams(const Job& job) { return job.streams && can_stream<P> && !shared; }
    static int longest(const Job& job) { return job.T / job.C + (job.T % job.C > 0); }
    static int segment_points(const Job& job) {
        const Index all = longest(job), point = Index(sizeof(P)) * factor_entries(job);
        if (job.tape || (!Chunked && all * point <= CACHED_BYTES)) return int(all);
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
    // Of a checkpoint: the state without the edge of a chunk, and `before`. That of the first segment of a chunk is behind
    // its first point.
    static int state_entries(const Job& job) {
        return Chunked ? CarriedLayout<true>{job.n, job.m}.edge() : carried_entries(job);
    }
    static Index checkpoint_packs(const Job& job) { return Index(job.n_again) * (state_entries(job) + job.n); }
    // Points of a segment, and the one before it.
    static Index passing_points(const Job& job) { return job.n_again > 0 ? segment_points(job) + 1 : 0; }
    // Points that rows are staged of.
    static int staged_points(const Job& job) {
        const int points = block_points<P>(job), all = segment_points(job);
        return job.contracts && job.n_again > 0 && all > points ? all : points;
    }

    static Sizes sizes(const Job& job, Index contraction_packs) {
        const int points = block_points<P>(job), n = job.n;
        Index packs = RowStager<P>::memory(job, points, staged_points(job)) + 2 * carried_entries(job) + workspace_packs(job);
        packs += passing_points(job) * (factor_entries(job) + n * job.m);
        if (streams(job)) packs += Index(points) * factor_entries(job);
        if (!job.checkpoints) packs += checkpoint_packs(job);
        if (!job.z) packs += points_kept(job) * n * job.m;
        if (job.contracts) packs += passing_points(job) * n;
        packs += (8 + 2 * job.m) * n + contraction_packs;
        const size_t pack = sizeof(P);
        return {
            size_t(packs) * pack + 64,
            size_t(points_kept(job)) * factor_entries(job) * pack,
            size_t(points_kept(job)) * n * job.m * pack,
            size_t(checkpoint_packs(job)) * pack,
            size_t(CarriedLayout<true>{n, job.m}.entries()) * pack,
            size_t(4 * n) * pack,
            n_segments(job),
            segment_points(job),
            longest(job),
            factor_entries(job),
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
          segment(segment_points(job_)),
          rows_(group.longest - Chunked),
          common_rows(group.shortest - Chunked),
          memory(static_cast<P*>(scratch)),
          stager(job_, group, ahead, memory, points, staged_points(job_)) {
        kept = static_cast<F*>(job.factor);
        if (kept) kept += (shared ? left_hand_side(group_) : group_) * points_kept(job) * factor_entries(job);
        passing = take(passing_points(job) * factor_entries(job));
        passing_z = take(passing_points(job) * job.n * job.m);
        const Index kept_z = points_kept(job) * job.n * job.m;
        z = job.z ? static_cast<P*>(job.z) + group_ * kept_z : take(kept_z);
        checkpoints = job.checkpoints ? static_cast<P*>(job.checkpoints) + group_ * checkpoint_packs(job)
                                      : take(checkpoint_packs(job));
        carried = Chunked ? static_cast<P*>(job.ends) + group_ * carried_entries(job) : take(carried_entries(job));
        saved = take(carried_entries(job));
        workspace = take(workspace_packs(job));
        before = take(job.n);
        left_sum = take(job.n);
        if (job.contracts) staged_g = take(passing_points(job) * job.n);
        if (streams(job)) block = take(Index(points) * factor_entries(job));
    }

    Index left_hand_side(Index group_) const { return group_ / (job.groups / job.n_lhs); }

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
    F* factor_at(int k, int t) const {
        if constexpr (!shared) {
            if (k < job.n_again) return passing + Index(t - first_row(k)) * entries_of(k);
        }
        return kept + Index(t - first_row(job.n_again)) * factor_entries(job);
    }
    int entries_of(int k) const {
        const bool is_plain = Chunked && on_the_way_back && k < job.n_again;
        return is_plain ? FactorLayout<false>{job.n, job.K}.entries() : factor_entries(job);
    }
    P* z_at(int k, int t, int c = 0) const {
        P* const first = k < job.n_again ? passing_z : z;
        return first + c * z_step(k) + Index(t - first_row(k < job.n_again ? k : job.n_again)) * job.n;
    }
    // from one right-hand side to the next
    Index z_step(int k) const { return (k < job.n_again ? passing_points(job) : points_kept(job)) * job.n; }
    // Whether rows of segment k stay where they are until it is contracted.
    bool keeps_rows(int k) const {
        return job.contracts && k < job.n_again && (on_the_way_back || (!Chunked && k == last_segment()));
    }

    SchemeRows<T> scheme() const {
        return {job.scheme_rows, job.scheme_norm2, job.tolerance2};
    }

    // Work on the points t0 .. t1-1 of a block, in parts where memory for the next one is to be asked for in between.
    template <class Work>
    SMNN_INLINE void in_parts(int t0, int t1, Work work) {
        const int some = ahead.any() ? Ahead<P>::SOME : points;
        for (int from = t0; from < t1; from += some) {
            const int to = from + some < t1 ? from + some : t1;
            ahead.fetch(from - t0, to - t0, t1 - t0);
            work(from, to);
        }
        ahead.clear();
    }

    // to := to where the lane has point t, from elsewhere
    SMNN_OUTLINE void keep_where_shorter(int t, P* to, const P* from, int count) const {
        for (int l = 0; l < W; ++l) {
            if (t < group.length[l]) continue;
            for (int i = 0; i < count; ++i) to[i].set(l, from[i].get(l));
        }
    }

    // Elimination, and R^T w = g -------------------------------------------------------------------------------------

    // All segments in their order, each through SWEEP and FORWARD where these are wanted.
    SMNN_OUTLINE void eliminate(int phases) {
        if (phases & FORWARD) start_forward();
        const int last = last_segment();
        const bool again = !(phases & SWEEP);
        for (int k = 0; k <= last; ++k) {
            if (k < job.n_again) {
                copy(checkpoint(k), carried, state_entries(job));
                if (phases & FORWARD) copy(checkpoint(k) + state_entries(job), before, job.n);
            }
            if (!again || k < job.n_again) {
                const bool keep = (phases & FORWARD) || k >= job.n_again || (!Chunked && k == last);
                sweep_segment<Chunked>(k, carried, job.has_rhs, keep, again);
            }
            if (phases & FORWARD) forward<Chunked>(k, first_row(k), end_row(k));
        }
        if (phases & FORWARD) end_forward();
    }

    // The factor of a segment that is gone, and its z or, where there are no right-hand sides, w. In a chunk, without the
    // columns at the left separator, whose x is known.
    SMNN_OUTLINE void eliminate_again(int k, const P* left) {
        const CarriedLayout<Chunked> at{job.n, job.m};
        P *const state = Chunked ? saved : carried, *const from = checkpoint(k);
        copy(state, from, state_entries(job));
        copy(before, from + state_entries(job), job.n);
        if constexpr (Chunked) {
            if (!job.has_rhs) join_to_before(from, left);
            for (int j = 0; j < job.n; ++j) {
                for (int c = 0; c < job.m; ++c) {
                    P& to = state[at.z() + j * job.m + c];
                    for (int i = 0; i < job.n; ++i) to -= from[at.left() + j * job.n + i] * left[c * job.n + i];
                }
            }
        }
        sweep_segment<false>(k, state, job.has_rhs, true, true);
        if (!job.has_rhs) forward<false>(k, first_row(k), end_row(k));
    }

    // With x at the left separator known, the rows (own, left) that a checkpoint holds add own^T left x to `before`.
    SMNN_OUTLINE void join_to_before(const P* state, const P* left) const {
        const CarriedLayout<true> at{job.n};
        const P zero = splat<P>(0), one = splat<P>(1);
        for (int j = 0; j < job.n; ++j) {
            const P* const own = state + at.own() + j * job.n;
            P x = zero, leading = own[j];
            for (int i = 0; i < job.n; ++i) x += state[at.left() + j * job.n + i] * left[i];
            if constexpr (is_weighted<Size>) {
                x *= select(leading < zero, -leading, one / leading);
                leading = select(leading < zero, zero, leading);
            }
            before[j] += leading * x;
            for (int i = j + 1; i < job.n; ++i) before[i] += own[i] * x;
        }
    }

    P* checkpoint(int k) const { return checkpoints + Index(k) * (state_entries(job) + job.n); }
    static void copy(P* to, const P* from, int count) {
        for (int i = 0; i < count; ++i) to[i] = from[i];
    }

    template <bool Rhs>
    StagedRows<P> staged(int k, int t0, int t1) const {
        const Course course{on_the_way_back ? -segment : points, false};
        StagedRows<P> rows = stager.rows(t0, t1, Rhs, course, keeps_rows(k) ? k * segment : t0);
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
        if constexpr (!Size::fixed && Size::rotations) size.z_step = z_step(k);
        const int end = end_of(k);
        for (int t0 = k * segment; t0 < end;) {
            int t1 = t0 + points < end ? t0 + points : end;
            const bool ragged = group.shortest < group.longest;
            if (ragged && t1 == group.longest && t0 < group.shortest) t1 = group.shortest;
            const bool partial = InChunk && t0 >= group.shortest;
            if (partial) copy(saved, state, carried_entries(job));
            StagedRows<P> rows = staged<Rhs>(k, t0, t1);
            if (!again) rows.mark_zero_steps(t1);
            if (on_the_way_back && job.x && job.arrays_are_far) ask_for_points(job, group, t0, t1, job.x, ahead);
            if (ahead.any()) rows.ahead = &ahead;
            rows.t1 = t1;
            const int before_ = t0 > 0 ? t0 - 1 : 0;
            // f of a block starts with the point before it
            const Index skip = t0 > 0 ? 0 : 1;
            const bool by_stream = InChunk == Chunked && block && k >= job.n_again;
            P* const f = (by_stream ? block : factor_at(k, before_)) - skip * entries;
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
            ahead.clear();
            if constexpr (can_stream<P>) {
                if (by_stream) stream(factor_at(k, before_), block, (t1 - t0 - skip) * entries);
            }
            if (partial) keep_where_shorter(t0, state, saved, carried_entries(job));
            if (InChunk && t1 == group.longest) end_chunk<P, Size>(size, state);
            if (!Chunked && t1 == group.longest) {
                finish<P, Size, Rhs>(size, constants, rows, t1 - 1, state, workspace, factor_at(k, t1 - 1), z_at(k, t1 - 1));
            }
            t0 = t1;
        }
    }

    // Right-hand sides through the reflections of the left-hand side that they share; the tape of one.
    SMNN_OUTLINE void replay_all(const T* tape) {
        P *z_now = carried, *x_z = workspace;
        for (int t0 = 0; t0 < group.longest;) {
            const int t1 = t0 + points < group.longest ? t0 + points : group.longest;
            const StagedRows<P> rows = staged<true>(0, t0, t1);
            in_parts(t0, t1, [&](int from, int to) {
                P* const f_z = from > 0 ? z_at(0, from - 1) : z_at(0, 0) - job.n;
                replay_points<P, Size>(size, rows, from, to, tape, z_now, x_z, f_z);
            });
            t0 = t1;
        }
        for (int j = 0; j < job.n; ++j) z_at(0, group.longest - 1)[j] = z_now[j];
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
            const StagedRows<P> rows = stager.rows(t0, t1, false, {points, false}, t0);
            rows.mark_zero_steps(t1);
            sweep<P, Size, Chunked, false, true>(
                size, constants, rows, t0, t1, carried, workspace, f - skip * entries, f_z - skip * job.n, &tape
            );
            ahead.clear();
            keep(t0 - 1 + skip, t1 - t0 - skip);
            if (t1 == group.longest) {
                finish<P, Size, false>(size, constants, rows, t1 - 1, carried, workspace, f, f_z);
                keep(t1 - 1, 1);
            }
            t0 = t1;
        }
    }

    void start_forward() {
        set_zero(before);
        set_zero(left_sum);
    }
    void set_zero(P* to) const {
        for (int j = 0; j < job.n; ++j) to[j] = splat<P>(0);
    }

    // w of the points t0 .. end-1 of segment k, in the place of z
    template <bool InChunk>
    SMNN_OUTLINE void forward(int k, int t0, int end) {
        const Input& in = job.in[G];
        const LanePointers<P> g(job, in, group);
        P* before_these = workspace;
        const bool keeps_g = keeps_rows(k);
        const Course course{on_the_way_back ? -segment : points, false};
        const auto stage_g = [&](int from, int to) {
            P* const g_now = keeps_g ? staged_g + Index(from - first_row(k)) * job.n : z_at(k, from);
            stage(job, in, g, from, to, g_now, course, &ahead);
            spread(in, to - from, g_now);
            return g_now;
        };
        while (t0 < end) {
            int t1 = t0 + points < end ? t0 + points : end;
            if (t0 < common_rows && t1 > common_rows) t1 = common_rows;
            const bool partial = InChunk && t0 >= common_rows;
            if (partial) {
                copy(before_these, before, job.n);
                copy(before_these + job.n, left_sum, job.n);
            }
            P* const g_now = stage_g(t0, t1);
            F* const f = factor_at(k, t0);
            const int entries = FactorLayout<InChunk>{job.n, job.K}.entries();
            if (job.factor_is_far && k >= job.n_again) touch(f, Index(t1 - t0) * entries, false);
            in_parts(t0, t1, [&](int from, int to) {
                const Index done = from - t0;
                substitute_forward<P, Size, InChunk, F>(
                    size, from, to, f + done * entries, g_now + done * job.n, before, left_sum, z_at(k, from)
                );
            });
            if (partial) {
                keep_where_shorter(t0 + 1, before, before_these, job.n);
                keep_where_shorter(t0 + 1, left_sum, before_these + job.n, job.n);
            }
            t0 = t1;
        }
        if (keeps_g && end < end_of(k)) stage_g(end, end + 1);
        ahead.clear();
    }

    void end_forward() {
        if (!Chunked) return;
        P* passed = static_cast<P*>(job.passed) + group_index() * 4 * job.n;
        for (int j = 0; j < job.n; ++j) {
            passed[j] = before[j];
            passed[job.n + j] = left_sum[j];
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
    SMNN_OUTLINE void separator(int which, P* x, int c = 0) const {
        const T* all = static_cast<const T*>(job.separators);
        for (int l = 0; l < W; ++l) {
            const Index k = group.chunk[l] + which;
            for (int j = 0; j < job.n; ++j) {
                x[j].set(l, k < 0 ? T(0) : all[((group.system[l] * job.m + c) * job.C + k) * job.n + j]);
            }
        }
    }

    // From the last segment to the first, `then` with each: x is in z_at then, for the points of the segment and for the one
    // before it. Written to job.x where that is wanted.
    template <class Then>
    SMNN_INLINE void back(Then then) {
        P* const after = take(job.m * job.n);
        P* const left = take(job.m * job.n);
        on_the_way_back = true;
        // (what the way forth left there is a chunk's, or of a segment whose rows and g are not staged)
        if (Chunked || present != last_segment()) present = -1;
        for (int c = 0; c < job.m; ++c) {
            set_zero(after + c * job.n);
            set_zero(left + c * job.n);
            if (Chunked) separator(-1, left + c * job.n, c);
        }
        for (int k = last_segment(); k >= 0; --k) {
            back_segment(k, left, after);
            then(k);
        }
    }

    SMNN_OUTLINE void back_segment(int k, const P* left, P* after) {
        if constexpr (!shared) {
            if (k < job.n_again && k != present) eliminate_again(k, left);
        }
        for (int c = 0; c < job.m; ++c) back_column(k, c, left + c * job.n, after + c * job.n);
    }

    // Right-hand side c of a segment.
    void back_column(int k, int c, const P* left, P* after) {
        int t1 = end_of(k);
        const bool is_last = k == last_segment();
        if (!is_last) {
            --t1;
            copy(z_at(k, t1, c), after, job.n);
        } else if (Chunked) {
            P* const end = workspace;
            separator(0, end, c);
            copy(z_at(k, --t1, c), end, job.n);
            copy(after, end, job.n);
            write(k, c, t1, t1 + 1);
            if (group.shortest < group.longest) {
                // here the shorter lanes have their separator
                back_block(k, c, t1 - 1, t1, left, after);
                keep_where_shorter(t1, after, end, job.n);
                copy(z_at(k, --t1, c), after, job.n);
                write(k, c, t1, t1 + 1);
            }
        }
        const int first = first_row(k);
        while (t1 > first) {
            const int t0 = t1 - points > first ? t1 - points : first;
            back_block(k, c, t0, t1, left, after);
            write(k, c, t0, t1);
            t1 = t0;
        }
    }

    void back_block(int k, int c, int t0, int t1, const P* left, P* after) {
        F* const f = factor_at(k, t0);
        P* const x = z_at(k, t0, c);
        if (job.factor_is_far && k >= job.n_again) {
            touch(f, Index(t1 - t0) * factor_entries(job), true);
            touch(x, Index(t1 - t0) * job.n, true);
        }
        if (Chunked && k >= job.n_again) {
            substitute_back<P, Size, Chunked, F>(size, t0, t1, f, x, left, after, x);
        } else {
            substitute_back<P, Size, false, F>(size, t0, t1, f, x, left, after, x);
        }
    }

    void write(int k, int c, int t0, int t1) const {
        if (!job.x) return;
        write_points(job, group, t0, t1, z_at(k, t0, c), job.x, c);
    }
};

}  // namespace SMNN_LEVEL
}  // namespace smnn
