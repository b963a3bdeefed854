// Elimination of a group of lanes: how their points are divided into segments and blocks, and what is kept of them.
//
// A factor that is not kept is recomputed: it exists one segment at a time, small enough for the second level of cache. The sweep
// leaves its state where each segment starts (a checkpoint), and on the way back they are eliminated again from there, the last one
// first. That is more arithmetic, and a small part of the memory. Rows are staged block by block.
#pragma once

#include <type_traits>

#include "../kernels/sweep.hpp"
#include "rows.hpp"

namespace smnn {
namespace SMNN_LEVEL {

// The number of right-hand sides.
SMNN_INLINE int columns_of(const Job& job) { return job.contracts ? ADJOINT_COLUMNS : job.m; }

template <class P, class Size, bool Chunked>
struct Segments {
    const Job& job;
    Size size;
    const int columns;
    const int factor_entries, carried_entries;  // packs of the factor of a point, and of the state of a sweep
    const int tape_entries, initial_entries;    // packs of the tape of a point, and of its initial rows
    const int state_entries;                    // packs of that state in a checkpoint: of a solve, without a chunk's boundary
    const bool goes_on;                         // chunks that are swept as those of an undivided elimination
    const int points;                           // of a block
    const int longest;                          // points of the longest lane
    const int segment, n_segments;              // points of a segment

    explicit Segments(const Job& job_)
        : job(job_),
          size(size_of<Size>(job_)),
          columns(columns_of(job_)),
          factor_entries(FactorLayout<Chunked>{job_.n, job_.K}.entries()),
          carried_entries(CarriedLayout<Chunked>{job_.n, job_.m}.entries()),
          tape_entries(tape().point()),
          initial_entries(job_.V * job_.R_init * tape().initial_row()),
          state_entries(Chunked && !job_.taped ? CarriedLayout<true>{job_.n, job_.m}.boundary() : carried_entries),
          goes_on(!Chunked && job_.C > 1),
          points(block_points<P>(job_)),
          longest(job_.T / job_.C + (job_.T % job_.C > 0)),
          segment(points_of_segment()),
          n_segments((longest - 1) / segment + 1) {}

    // Segment k has the final rows of the points before each of its own, and the last one those of the last point too.
    int first_row(int k) const { return k > 0 || goes_on ? k * segment - 1 : 0; }
    Index points_kept() const { return job.keeps_factor ? longest : 0; }
    // True if right-hand sides of final rows are not wanted: an adjoint, and moments, take no solution from them.
    bool drops_z() const { return job.contracts || job.moments; }
    Index unused_z_packs() const { return drops_z() ? (Index(points + 1) * job.m + goes_on) * job.n : 0; }
    // Points whose z is kept. An adjoint keeps λ, and the right-hand sides of its other columns.
    Index points_of_z() const { return job.contracts ? longest : points_kept(); }
    // Points of a segment that is recomputed, and the one before it.
    Index recomputed_points() const { return job.contracts || !job.keeps_factor ? segment + 1 : 0; }
    // Packs of the multipliers of a row of each point, for both sets.
    Index products_packs() const {
        return MULTIPLIERS * (longest * (job.Q + step_rows(size)) + initial_points() * job.V * job.R_init);
    }
    Index z_packs() const { return points_of_z() * columns * job.n + (job.contracts ? products_packs() : 0); }
    // Points of a lane, the first ones, that may have initial rows.
    Index initial_points() const { return job.T_init < longest ? job.T_init : longest; }
    // Packs of the tape of as many points from the first one on, of which `initial` have initial rows. (Those of the first
    // point of an undivided lane are not on the tape.)
    Index tape_offset(Index count, Index initial) const {
        const Index of_rows = (count < initial ? count : initial) - (!Chunked && !goes_on);
        return count * tape_entries + (of_rows > 0 ? of_rows : 0) * initial_entries;
    }
    Index recomputed_tape_packs() const {
        const Index initial = initial_points() < segment ? initial_points() : segment;
        return job.unwinds ? segment * tape_entries + initial * initial_entries : 0;
    }
    // The state at the start of a segment (of the first one of a chunk: behind its first point), and `before`.
    bool writes_checkpoints() const { return job.taped || !job.keeps_factor; }
    int checkpoint_entries() const { return state_entries + (job.taped ? 0 : columns * job.n); }
    Index checkpoint_packs() const { return writes_checkpoints() ? Index(n_segments) * checkpoint_entries() : 0; }
    // Points whose rows stay staged: of an adjoint those of the segment that is eliminated.
    int staged_points() const { return job.contracts && segment > points ? segment : points; }
    int workspace_packs() const {
        const int sweep = State<P, Size, Chunked, Alone>::workspace(size.K, size.n, size.rows, size.m);
        return sweep > 8 * job.n ? sweep : 8 * job.n;
    }

    // more: packs of scratch beside those of a LanePass.
    GroupMemory sizes(Index more) const {
        Index packs = RowStager<P>::memory(job, points, staged_points()) + 2 * carried_entries + job.m + workspace_packs() + more;
        packs += recomputed_points() * (factor_entries + (drops_z() ? 0 : job.n * columns)) + 4 * job.n * columns;
        packs += recomputed_tape_packs() + unused_z_packs();
        if (!job.checkpoints) packs += checkpoint_packs();
        if (!job.z) packs += z_packs();
        const size_t pack = sizeof(P);
        return {
            size_t(packs) * pack + 64,
            size_t(points_kept()) * factor_entries * pack,
            size_t(z_packs()) * pack,
            size_t(checkpoint_packs()) * pack,
            size_t(CarriedLayout<true>{job.n, job.m}.entries()) * pack,
            size_t(PASSED * job.n * columns) * pack,
            n_segments,
        };
    }

   private:
    TapeLayout<Chunked> tape() const {
        return {job.n, int(absorbed_rows(size)), first_absorbed(size) > 0, job.m};
    }
    int points_of_segment() const {
        const Index point = Index(sizeof(P)) * factor_entries;
        if (!Chunked && longest * point <= CACHED_BYTES) return longest;
        const Index by_points = (SEGMENT_POINTS + points - 1) / points, by_bytes = SEGMENT_BYTES / (point * points);
        const Index some = points * (by_bytes > by_points ? by_bytes : by_points);
        return int(some < longest ? some : longest);
    }
};

// The memory of a group of lanes, and elimination segment by segment.
template <class P, class Size, bool Chunked>
struct LaneSweep : Segments<P, Size, Chunked> {
    using Base = Segments<P, Size, Chunked>;
    using Base::job, Base::size, Base::columns, Base::carried_entries, Base::state_entries, Base::points, Base::segment;
    using Base::first_row, Base::goes_on;
    using T = ScalarOf<P>;
    static constexpr int W = Lanes<P>::count;

    const Group<P> group;
    const int rows_;        // points of the longest lane that have rows of the factor: all, or in a chunk all but the last
    const int common_rows;  // the same for the shortest lane
    P* memory;
    RowStager<P> stager;
    P *factor, *z;          // of the segments that are kept
    P *recomputed_factor, *recomputed_tape, *recomputed_z;  // of segment `recomputed`, -1: none
    P* unused_z;            // where they are not wanted: of a block
    int recomputed = -1;
    bool has_tape = false;  // of that segment
    P *carried, *saved, *workspace, *checkpoints;
    P* sums = nullptr;      // those of a SummingTape, (m)
    bool has_checkpoints;
    bool on_the_way_back = false;  // the next segment is the one before

    LaneSweep(const Job& job_, Index group_, void* scratch)
        : Base(job_),
          group(job_, group_),
          rows_(group.longest - Chunked),
          common_rows(group.shortest - Chunked),
          memory(static_cast<P*>(scratch)),
          stager(job_, group, memory, points, this->staged_points()),
          has_checkpoints(job_.has_checkpoints) {
        factor = static_cast<P*>(job.factor);
        if (factor) factor += group_ * this->points_kept() * this->factor_entries;
        recomputed_factor = take(this->recomputed_points() * this->factor_entries);
        recomputed_tape = job.unwinds ? take(this->recomputed_tape_packs()) : nullptr;
        // (the first row of all is that of the point before)
        unused_z = this->drops_z() ? take(this->unused_z_packs()) + (goes_on ? job.n : 0) : nullptr;
        recomputed_z = this->drops_z() ? nullptr : take(this->recomputed_points() * job.n * columns);
        z = job.z ? static_cast<P*>(job.z) + group_ * this->z_packs() : take(this->z_packs());
        checkpoints = job.checkpoints ? static_cast<P*>(job.checkpoints) + group_ * this->checkpoint_packs()
                                      : take(this->checkpoint_packs());
        carried = Chunked ? static_cast<P*>(job.ends) + group_ * carried_entries : take(carried_entries);
        saved = take(carried_entries + job.m);
        workspace = take(this->workspace_packs());
    }

    P* take(Index packs) { return take_from(memory, packs); }

    int last_segment() const { return (group.longest - 1) / segment; }
    int end_row(int k) const { return k < last_segment() ? first_row(k + 1) : rows_; }
    int end_of(int k) const { return k < last_segment() ? (k + 1) * segment : group.longest; }
    // The factor of point t, which is in segment k, and z of column c.
    P* factor_at(int k, int t) const {
        if (!is_kept()) return recomputed_factor + Index(t - first_row(k)) * entries();
        return factor + Index(t) * this->factor_entries;
    }
    // The tape of segment k, which is recomputed, up to point t.
    P* tape_at(int k, int t) const {
        const Index left = job.T_init - group.first_start, initial = left < 0 ? 0 : left < this->longest ? left : this->longest;
        return recomputed_tape + this->tape_offset(t, initial) - this->tape_offset(k * segment, initial);
    }
    int entries() const {
        const bool is_plain = Chunked && on_the_way_back && !job.contracts && !job.keeps_factor;
        return is_plain ? FactorLayout<false>{job.n, job.K}.entries() : this->factor_entries;
    }
    P* z_at(int k, int t, int c = 0) const {
        return keeps_z() ? z + c * z_step() + Index(t) * job.n : recomputed_z + c * z_step() + Index(t - first_row(k)) * job.n;
    }
    // True if the factor is there all the time. (On its way back an adjoint eliminates all segments again.)
    bool is_kept() const { return job.keeps_factor && !(job.contracts && on_the_way_back); }
    bool keeps_z() const { return job.keeps_factor || job.contracts; }
    // The distance from z of one column to that of the next.
    Index z_step() const { return (keeps_z() ? this->points_of_z() : this->recomputed_points()) * job.n; }
    // g of an adjoint, then its residual.
    P* rest_at(int t) const { return z + (this->points_of_z() + t) * job.n; }

    SchemeRows<T> scheme() const {
        return {job.scheme_rows, job.scheme_norm2, job.tolerance2};
    }

    // to (count) := from (count) in lanes that end before point t
    SMNN_OUTLINE void keep_where_shorter(int t, P* to, const P* from, int count) const {
        for (int l = 0; l < W; ++l) {
            if (t < group.length[l]) continue;
            for (int i = 0; i < count; ++i) to[i].set(l, from[i].get(l));
        }
    }

    // The direction of a pass: points from a block to the next one.
    void go(int next) {
        on_the_way_back = next < 0;
        stager.next_block = this->longest > points ? next : 0;
    }

    // f(t0, t1, is_end) for the blocks of points of segment k, from the last one to the first. Where lanes end at different
    // points, the last point of the longer ones is a block of its own (is_end): before it the shorter ones begin.
    template <class F>
    void each_block_back(int k, F f) {
        go(-points);
        const int start = k * segment;
        for (int t1 = end_of(k); t1 > start;) {
            const bool is_end = t1 == group.longest && group.shortest < group.longest;
            const int t0 = is_end ? t1 - 1 : start + (t1 - 1 - start) / points * points;
            f(t0, t1, is_end);
            t1 = t0;
        }
    }

    P* checkpoint(int k) const { return checkpoints + Index(k) * this->checkpoint_entries(); }
    // to (count) := from (count)
    static void copy(P* to, const P* from, int count) {
        for (int i = 0; i < count; ++i) to[i] = from[i];
    }

    // The first point whose rows stay staged beside those of point t0.
    int staged_from(int t0) const { return job.contracts ? t0 / segment * segment : t0; }
    template <bool Rhs>
    StagedRows<P> staged(int t0, int t1) const {
        StagedRows<P> rows = stager.rows(t0, t1, Rhs, staged_from(t0));
        rows.marks = !on_the_way_back;
        return rows;
    }

    // Elimination of segment k, from and to state (CarriedLayout<InChunk>::entries()). InChunk: with columns at the left
    // separator. keep: final rows go to the factor (without
    // right-hand sides they always do); taped: and rotations to the tape. again: the segment was eliminated before.
    template <bool InChunk>
    void sweep_segment(int k, P* state, bool with_rhs, bool keep, bool taped, bool again) {
        if constexpr (InChunk == Chunked) {
            if (!keep) return sweep_segment<InChunk, true, false>(k, state, again, NoTape());
            if (taped) return sweep_segment<InChunk, true, true>(k, state, again, Tape<P>{tape_at(k, k * segment)});
        }
        with_rhs ? sweep_segment<InChunk, true, true>(k, state, again, NoTape())
                 : sweep_segment<InChunk, false, true>(k, state, again, NoTape());
    }

    // The same, state (CarriedLayout<InChunk>::entries()), with rotations to a tape of this kind.
    template <bool InChunk, bool Rhs, bool Keep, class TapeOf>
    SMNN_OUTLINE void sweep_segment(int k, P* state, bool again, TapeOf rotations) {
        const SchemeRows<T> constants = scheme();
        const Index entries = FactorLayout<InChunk>{job.n, job.K}.entries();
        if (Keep && !is_kept()) {
            recomputed = k;
            has_tape = !std::is_same_v<TapeOf, NoTape>;
        }
        if constexpr (!Size::fixed) size.z_step = this->drops_z() ? Index(points + 1) * job.n : z_step();
        const int end = end_of(k);
        for (int t0 = k * segment; t0 < end;) {
            int t1 = t0 + points < end ? t0 + points : end;
            const bool ragged = group.shortest < group.longest;
            if (ragged && t1 == group.longest && t0 < group.shortest) t1 = group.shortest;
            const bool partial = InChunk && t0 >= group.shortest;
            if (partial) copy(saved, state, carried_entries);
            if (partial && sums) copy(saved + carried_entries, sums, job.m);
            StagedRows<P> rows = staged<Rhs>(t0, t1);
            if (!again && !job.contracts) rows.find_extremes(size, t1);
            const int before_ = t0 > 0 ? t0 - 1 : 0;
            // the first rows that a block makes final are those of the point before it
            const Index skip = t0 > 0 ? 0 : 1;
            P* const f = factor_at(k, before_) - skip * entries;
            P* const fz = z_of_rows(k, before_) - skip * job.n;
            const auto part = [&](int from, int to) {
                const Index done = from - t0;
                rotations = sweep<P, Size, InChunk, Rhs, Keep>(
                    size, constants, rows, from, to, state, workspace, f + done * entries, fz + done * job.n, rotations, goes_on
                );
            };
            const int from = Chunked && t0 == 0 ? 1 : t0;
            if (InChunk && t0 == 0) {
                // the checkpoint of the first segment of a chunk is behind its first point
                part(0, 1);
                if (this->writes_checkpoints() && !has_checkpoints) copy(checkpoint(k), state, state_entries);
            }
            part(from, t1);
            if (partial) keep_where_shorter(t0, state, saved, carried_entries);
            if (partial && sums) keep_where_shorter(t0, sums, saved + carried_entries, job.m);
            if (!Chunked && t1 == group.longest && !goes_on) {
                P *const last_f = factor_at(k, t1 - 1), *const last_z = z_of_rows(k, t1 - 1);
                finish<P, Size, Rhs>(size, constants, rows, t1 - 1, state, workspace, last_f, last_z);
            }
            t0 = t1;
        }
    }
    // The place of the right-hand sides of final rows, of point t on.
    P* z_of_rows(int k, int t) const { return this->drops_z() ? unused_z : z_at(k, t); }
    // to (n) := 0
    void set_zero(P* to) const {
        for (int j = 0; j < job.n; ++j) to[j] = splat<P>(0);
    }
};

}  // namespace SMNN_LEVEL
}  // namespace smnn
