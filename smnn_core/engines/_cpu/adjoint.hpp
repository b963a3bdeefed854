// The way back of an adjoint: multipliers of the rows from the tape, refined, and contracted into the gradients of all inputs.
//
// Two sets of multipliers, each of one number for a row (kernels/tape.hpp): v = (W A)^+^T g = Q R^-T g, and those of the
// residual at the minimum, W (A y - d), what elimination leaves of the right-hand side. Rounding leaves g - (W A)^T v; where
// that is not small beside its terms, entry by entry, Q R^-T of it is added to v, once. Where it is, v is that of rows and g
// that differ from the given ones by as little (componentwise backward error; Oettli, Prager, Numerische Mathematik 6 (1964)
// 405). Derivation: docs/theory/elimination.md and derivative.md.
#pragma once

#include "../kernels/gradient.hpp"
#include "../kernels/tape.hpp"
#include "lane_pass.hpp"

namespace smnn {
namespace SMNN_LEVEL {

template <class P, class Size, bool Chunked>
struct Adjoint : LanePass<P, Size, Chunked> {
    using Base = LanePass<P, Size, Chunked>;
    using Base::copy, Base::factor_at, Base::group, Base::job, Base::last_segment, Base::longest;
    using Base::memory, Base::passed, Base::points, Base::rest_at, Base::separator, Base::set_zero, Base::size, Base::spread;
    using Base::recomputed, Base::stager, Base::take, Base::tape_at, Base::workspace, Base::z, Base::z_at;
    using T = ScalarOf<P>;
    static constexpr int W = Lanes<P>::count;

    using Base::Base;

    static GroupMemory sizes(const Job& job, int phases) {
        const Segments<P, Size, Chunked> all(job);
        const Index n = job.n, points = all.points;
        const Index of_back = points + (points + 2 + 2 * MULTIPLIERS) * n;
        const Index of_contract = 2 * (points + 1) * n + n + GradientSet<P>::memory(job, job.gradient, true, int(points));
        return all.sizes(job.contracts && phases & (BACK | REFINE | CONTRACT) ? of_back + of_contract : 0);
    }

    // λ and both sets of multipliers, from w; the residual of v, and which are to be refined.
    SMNN_OUTLINE void find_multipliers() {
        P* const start = memory;
        multipliers_ = take(2 * MULTIPLIERS * job.n);
        P* const w_step = take(points);
        const RestTerms residual{take((points + 1) * job.n), take(job.n)};
        select_columns(0, 1);
        this->back([&](int k) { unwind_segment<true>(k, [&](const StagedRows<P>& rows, int t0, int t1) {
            set_residual(rows, t0, t1, w_step, residual);
        }); }, [](int) {});
        if (Chunked) {
            pass(residual.outside);
            for (int l = 0; l < W; ++l) {
                if (excess_.get(l) > 0) __atomic_store_n(job.rough + group.system[l], 1, __ATOMIC_RELAXED);
            }
        }
        memory = start;
    }

    // R^T w = residual, where that is not small.
    SMNN_OUTLINE void refine() {
        if (!any_rough()) return;
        select_columns(1, ADJOINT_COLUMNS);
        this->has_checkpoints = true;
        this->eliminate(FORWARD);
    }

    // Q w and R^-1 w of that, added to v and λ; gradients.
    SMNN_OUTLINE void contract() {
        multipliers_ = take(2 * MULTIPLIERS * job.n);
        GradientSet<P> gradients;
        gradients.set(job, group, job.gradient, true, 0, memory, points);
        const Block block{take(Index(points + 1) * job.n), take(Index(points + 1) * job.n), take(job.n)};
        const bool is_refined = any_rough();
        const auto contract_segment = [&](int k) {
            this->each_block_back(k, [&](int t0, int t1, bool) { contract_block(k, t0, t1, block, is_refined, gradients); });
        };
        if (is_refined) {
            select_columns(1, ADJOINT_COLUMNS);
            this->back([&](int k) { unwind_segment<false>(k, [](const StagedRows<P>&, int, int) {}); }, contract_segment);
        } else {
            for (int k = last_segment(); k >= 0; --k) contract_segment(k);
        }
        gradients.finish();
    }

   private:
    void select_columns(int first, int end) {
        this->first_column = first;
        this->end_column = end;
    }

    // The points t0 .. t1-1 of segment k, without coefficients where it was not eliminated last.
    StagedRows<P> stage_rows(int k, int t0, int t1) {
        if (k != recomputed) recomputed = -1;  // (whose rows have the same place)
        return stager.rows(t0, t1, false, this->staged_from(t0), k == recomputed, false);
    }

    // The tape --------------------------------------------------------------------------------------------------------

    P* multipliers_;  // between blocks, see `Unwinding`

    // Multipliers divided by weights, of points from t0 on; both sets.
    RowProducts<P> products(int t0) const {
        const Index steps = step_rows(size), initial = Index(job.V) * job.R_init;
        P* const equation = z + this->points_of_z() * ADJOINT_COLUMNS * job.n;
        P *const step = equation + MULTIPLIERS * longest * job.Q, *const of_initial = step + MULTIPLIERS * longest * steps;
        return {
            equation + Index(t0) * job.Q, step + t0 * steps, of_initial + t0 * initial,
            Index(longest) * job.Q, longest * steps, this->initial_points() * initial,
        };
    }
    static Products<P> of_set(const RowProducts<P>& of, int c) {
        return {of.equation + c * of.equation_step, of.step + c * of.step_step};
    }

    // Q w of the points of a segment, which starts from its end: both sets of multipliers (Fresh), or what refines v.
    // then(rows, t0, t1) finds those of the points of a block.
    template <bool Fresh, class Then>
    void unwind_segment(int k, Then then) {
        constexpr int c = Fresh ? 0 : 1;
        if (k == last_segment()) start_multipliers<Fresh>(multipliers_);
        this->each_block_back(k, [&](int t0, int t1, bool is_end) {
            const int before = t0 > 0 ? t0 - 1 : 0;
            const Index skip = t0 > 0 ? 0 : 1;
            const StagedRows<P> rows = stage_rows(k, t0, t1);
            unwind<P, Size, Chunked, Fresh>(
                size, rows, t0, t1, tape_at(k, t1), factor_at(k, before) - skip * this->factor_entries,
                z_at(k, before, c) - skip * job.n, roughness_, multipliers_, workspace, products(t0)
            );
            if (is_end) {
                P* const ends = workspace;
                start_multipliers<Fresh>(ends);
                this->keep_where_shorter(t0, multipliers_, ends, 2 * MULTIPLIERS * job.n);
            }
            then(rows, t0, t1);
        });
    }

    // Multipliers of the rows that are left at the end of the lane: to (sets, n) of the triangle, then, chunked, (sets, n) of the
    // boundary, with two sets if fresh, else one.
    template <bool Fresh>
    void start_multipliers(P* to) const {
        constexpr int sets = Fresh ? MULTIPLIERS : 1;
        if constexpr (Chunked) {
            const T* const all = static_cast<const T*>(job.multipliers);
            for (int l = 0; l < W; ++l) {
                for (int c = 0; c < sets; ++c) {
                    const T* const from = all + ((group.system[l] * MULTIPLIERS + c) * job.C + group.chunk[l]) * 2 * job.n;
                    for (int j = 0; j < job.n; ++j) {
                        to[c * job.n + j].set(l, from[j]);
                        to[(sets + c) * job.n + j].set(l, from[job.n + j]);
                    }
                }
            }
        } else {
            const int k = last_segment(), t = longest - 1;
            const P* const f = factor_at(k, t);
            for (int j = 0; j < job.n; ++j) {
                to[j] = z_at(k, t, Fresh ? 0 : 1)[j] * f[FactorLayout<false>{job.n, job.K}.row(j)];
                if (Fresh) to[job.n + j] = splat<P>(0);
            }
        }
    }

    // Residuals -------------------------------------------------------------------------------------------------------

    // Of g - (W A)^T v, which takes the place of g in `rest`: the sums of the magnitudes of its terms, of the points of a block
    // and the one before, and what it is at the left separator.
    struct RestTerms {
        P *terms;    // (points + 1, n)
        P *outside;  // (n)
    };
    // Of the sum of the terms.
    static constexpr double SMALL_RESIDUAL = 1e-12;

    // By how much it exceeds what it may be, and which lanes are to be refined: 1, else 0. Those that are not stay as
    // they are, whatever the lanes beside them need.
    P excess_ = splat<P>(0), roughness_ = splat<P>(0);
    static P larger(const P& a, const P& b) { return select(a < b, b, a); }
    bool any_rough() {
        for (int l = 0; l < W; ++l) {
            roughness_.set(l, Chunked ? job.rough[group.system[l]] : excess_.get(l) > 0);
        }
        return any(splat<P>(0) < roughness_);
    }

    // That of the points t0 .. t1-1, but for what the step into the first one gives to the point before. Blocks come from the
    // last one to the first. w_step (points) becomes the weights of the steps.
    SMNN_OUTLINE void set_residual(const StagedRows<P>& rows, int t0, int t1, P* w_step, const RestTerms& residual) {
        if (Chunked && t1 == group.longest) this->stage_g(t1 - 1, t1, rest_at(t1 - 1));
        for (int t = t0; t < t1; ++t) w_step[t - t0] = has_point(t) * rows.w_smoothness(t);
        const RowProducts<P> v = products(t0);
        const Difference<P> first = start(residual, t0, t1);
        const Difference<P> before{t0 > 0 ? first.x - job.n : residual.outside, residual.terms};
        subtract_transposed(size, job.scheme_rows, rows, t0, t1, w_step, of_set(v, 0), before, first);
        for (int t = t0; t < t1 && rows.has_initial(t); ++t) {
            for (int e = 0; e < job.V * job.R_init; ++e) {
                const int i = e / job.R_init, r = e % job.R_init;
                const P w = rows.w_initial(t, i, r);
                subtract<P>(first, (t - t0) * job.n + i * job.K + r, w * w * v.initial[(t - t0) * job.V * job.R_init + e]);
            }
        }
        compare(t0, t1, first);
    }
    // Terms of the last point, of the step out of it, are there from the block behind.
    Difference<P> start(const RestTerms& residual, int t0, int t1) const {
        if (t0 == 0) set_zero(residual.outside);
        P* const last = residual.terms + (t1 - t0) * job.n;
        t1 < group.longest ? copy(last, residual.terms, job.n) : set_zero(last);
        for (P* at = residual.terms; at < last; ++at) *at = splat<P>(0);
        return {rest_at(t0), residual.terms + job.n};
    }
    // (The last points of chunks are not looked at.)
    void compare(int t0, int t1, const Difference<P>& first) {
        const int end = Chunked && t1 > group.shortest - 1 ? group.shortest - 1 : t1;
        const P largest = splat<P>(SMALL_RESIDUAL);
        for (int e = 0; e < (end - t0) * job.n; ++e) {
            excess_ = larger(excess_, magnitude(first.x[e]) - largest * first.terms[e]);
        }
    }

    // 1 in lanes that have point t, else 0.
    P has_point(int t) const {
        P there = splat<P>(1);
        for (int l = 0; t >= group.shortest && l < W; ++l) {
            if (t >= group.length[l]) there.set(l, 0);
        }
        return there;
    }

    // `rest` at the last point of each lane, and outside (n), what the step from the left separator has given to it, to the
    // separators.
    SMNN_OUTLINE void pass(const P* outside) const {
        copy(passed(1, Passed::REST_LEFT), outside, job.n);
        for (int l = 0; l < W; ++l) {
            const P* const last = rest_at(group.length[l] - 1);
            for (int j = 0; j < job.n; ++j) passed(1, Passed::REST)[j].set(l, last[j].get(l));
        }
    }

    // Gradients -------------------------------------------------------------------------------------------------------

    // λ (refined) and y of a block, with the point before in front; and a column before its first point.
    struct Block {
        P *lambda, *y;  // (points + 1, n)
        P *border;      // (n)
    };

    // y (points + 1, n) of the points t0-1 .. t1-1 (that before the first point of a system is zero)
    void stage_y(int t0, int t1, P* y) const {
        const Input& in = job.in[Y];
        const LanePointers<P> lanes(job, in, group);
        const int before = t0 > 0;
        if (t0 == 0) {
            set_zero(y);
            for (int l = 0; Chunked && l < W; ++l) {
                for (int j = 0; group.start[l] > 0 && j < job.n; ++j) y[j].set(l, lanes.at[l][in.offsets[j] - in.time]);
            }
        }
        P* const to = y + (1 - before) * job.n;
        stage(job, in, lanes, t0 - before, t1, stager.next_block, to);
        spread(in, t1 - t0 + before, to);
    }

    // Column c of the points t0-1 .. t1-1, times `factor`, added to `to` (points + 1, n); border (n): room.
    void add_column(int k, int c, int t0, int t1, const P& factor, P* border, P* to) const {
        const P *const x = z_at(k, t0, c), *before = x - job.n;
        if (t0 == 0) {
            Chunked ? separator(-1, border, c) : set_zero(border);
            before = border;
        }
        for (int j = 0; j < job.n; ++j) to[j] += factor * before[j];
        for (int e = 0; e < (t1 - t0) * job.n; ++e) to[job.n + e] += factor * x[e];
    }

    // The gradients of the points t0 .. t1-1 of segment k, and of the steps into them.
    SMNN_OUTLINE void contract_block(int k, int t0, int t1, const Block& block, bool is_refined, GradientSet<P>& gradients) {
        const StagedRows<P> rows = stage_rows(k, t0, t1);
        stage_y(t0, t1, block.y);
        for (int e = 0; e < (t1 - t0 + 1) * job.n; ++e) block.lambda[e] = splat<P>(0);
        add_column(k, 0, t0, t1, splat<P>(1), block.border, block.lambda);
        if (is_refined) add_column(k, 1, t0, t1, roughness_, block.border, block.lambda);
        const BlockGradients<P> to{
            gradients.at(C, 0), gradients.at(B, 0), gradients.at(W_EQUATION, 0), gradients.at(S, 0), gradients.at(W_SMOOTHNESS, 0),
        };
        const RowProducts<P> both = products(t0);
        smnn::SMNN_LEVEL::contract(
            size, job.scheme_rows, rows, t0, t1, block.y + job.n, block.lambda + job.n, of_set(both, 1), of_set(both, 0), to
        );
        if (t0 == 0) {  // (all numbers of a system are NaN, or none is)
            const P sum = block.lambda[job.n] + both.equation[0] + both.equation[both.equation_step];
            if (any(sum != sum)) __atomic_store_n(job.any_nan, 1, __ATOMIC_RELAXED);
        }
        if (rows.initial_ && (job.gradient[U].data || job.gradient[W_INITIAL].data)) contract_initial(rows, t0, t1, both);
        gradients.flush(t0, t1, group.length);
    }

    SMNN_OUTLINE void contract_initial(const StagedRows<P>& rows, int t0, int t1, const RowProducts<P>& both) const {
        const int initial = job.V * job.R_init;
        for (int l = 0; l < group.valid; ++l) {
            const int end = t1 < group.length[l] ? t1 : group.length[l];
            for (int t = t0; t < end; ++t) {
                const int at = group.start[l] + t;
                if (at >= job.T_init) break;
                const Index to = (group.system[l] * job.T_init + at) * initial;
                T *du = static_cast<T*>(job.gradient[U].data), *dw = static_cast<T*>(job.gradient[W_INITIAL].data);
                for (int e = 0; e < initial; ++e) {
                    const P* const a = both.initial + (t - t0) * initial + e;
                    const T w = rows.w_initial(t, e / job.R_init, e % job.R_init).get(l), of_lambda = a[0].get(l);
                    if (du) du[to + e] = w * w * of_lambda;
                    if (dw) dw[to + e] = -2 * w * of_lambda * a[both.initial_step].get(l);
                }
            }
        }
    }
};

}  // namespace SMNN_LEVEL
}  // namespace smnn
