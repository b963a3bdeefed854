// The last phases of an adjoint: λ, and the products with λ and y, are refined, then contracted into the gradients of all inputs.
//
// λ = M^-1 g has lost so many digits that those of A λ, in which large terms cancel, may all be wrong; but (W A)^T W A λ = g
// says by how much: A λ + A M^-1 (g - (W A)^T W A λ) has them. So has d - A y, where (W A)^T W (d - A y) = 0. Derivation and
// figures: smnn_core/_gradient.py. Where that residual is small beside its terms, entry by entry, nothing is refined: W A λ
// and W (d - A y) are those of rows and g that differ from the given ones by as little (componentwise backward error; Oettli,
// Prager, Numerische Mathematik 6 (1964) 405).
#pragma once

#include "../kernels/gradient.hpp"
#include "lane_pass.hpp"

namespace smnn {
namespace SMNN_LEVEL {

// What is staged of an adjoint: y, and the products of the rows with λ and y; and the residuals of both.
template <class P, class Size, bool Chunked>
struct Residuals : LanePass<P, Size, Chunked> {
    using Base = LanePass<P, Size, Chunked>;
    using Base::copy, Base::group, Base::job, Base::lhs_is_there, Base::memory, Base::passed, Base::points, Base::rest_at;
    using Base::separator, Base::set_zero, Base::size, Base::spread, Base::stager, Base::stays, Base::take;
    using T = ScalarOf<P>;
    static constexpr int W = Lanes<P>::count;

    using Base::Base;

    // The residuals of λ and y, and which are to be refined.
    SMNN_OUTLINE void find_residuals() {
        take_staged();
        this->go(points);
        P* const w_step = take(points);
        const Residual of_lambda{take((points + 1) * job.n), take(job.n)}, of_y{take((points + 1) * job.n), take(job.n)};
        P* const border = take(job.n);
        for (int k = 0; k <= this->last_segment(); ++k) {
            const int end = this->end_of(k);
            for (int t0 = k * this->segment; t0 < end; t0 += points) {
                set_rest(t0, t0 + points < end ? t0 + points : end, w_step, of_lambda, of_y, border);
            }
        }
        lhs_is_there = rhs_is_there = stays();
        if (Chunked) {
            pass(1, of_lambda.outside);
            pass(2, of_y.outside);
            for (int l = 0; l < W; ++l) {
                if (excess_.get(l) > 0) __atomic_store_n(job.rough + group.system[l], 1, __ATOMIC_RELAXED);
            }
        }
        memory = w_step;
    }

    // R^T w = residuals, where they are not small.
    SMNN_OUTLINE void refine() {
        if (!any_rough()) return;
        select_columns(1, ADJOINT_COLUMNS);
        this->has_checkpoints = true;
        this->eliminate(FORWARD);
    }

    // Of g - (W A)^T W (A x - d), which is staged in `rest`: the terms of its entries of a block, with those of the point before
    // in front, and what it is at the left separator.
    struct Residual {
        P *terms, *outside;
    };
    // Of the sum of the terms.
    static constexpr double SMALL_RESIDUAL = 1e-12;

    // By how much residuals exceed what they may be, and which lanes are to be refined: 1, else 0. Those that are not stay as
    // they are, whatever the lanes beside them need.
    P excess_ = splat<P>(0), roughness_;
    static P larger(const P& a, const P& b) { return select(a < b, b, a); }
    bool any_rough() {
        for (int l = 0; l < W; ++l) {
            roughness_.set(l, Chunked ? job.rough[group.system[l]] : excess_.get(l) > 0);
        }
        return any(splat<P>(0) < roughness_);
    }

    // `rest` of the points t0 .. t1-1, but for what the step out of the last one gives to it.
    SMNN_OUTLINE void set_rest(
        int t0, int t1, P* w_step, const Residual& residual_of_lambda, const Residual& residual_of_y, P* border
    ) {
        const int n = job.n;
        const StagedRows<P> rows = stage_rows(t0, t1);
        stage_y(t0, t1);
        const Difference<P> of_lambda = start(residual_of_lambda, t0, rest_at(1, t0)), of_y = start(residual_of_y, t0, rest_at(2, t0));
        if (Chunked && t1 == group.longest) this->stage_g(t1 - 1, t1);
        for (Index e = 0; e < Index(t1 - t0) * n; ++e) of_y.x[e] = splat<P>(0);
        for (int t = t0; t < t1; ++t) w_step[t - t0] = has_point(t) * rows.w_smoothness(t);
        const Products<P> a = products(LAMBDA, t0), b = products(SOLUTION, t0);
        const P *const lambda = column(0, 0, t0, border), *const y = y_at(t0);
        multiply(size, job.scheme_rows, rows, t0, t1, t0 > 0 ? lambda - n : border, lambda, a);
        subtract_transposed(size, job.scheme_rows, rows, t0, t1, w_step, a, before(residual_of_lambda, t0, of_lambda), of_lambda);
        multiply_y(rows, t0, t1, y, b);
        subtract_transposed(size, job.scheme_rows, rows, t0, t1, w_step, b, before(residual_of_y, t0, of_y), of_y);
        for (int t = t0; t < t1 && rows.has_initial(t); ++t) subtract_initial(rows, t, t - t0, lambda, y, of_lambda, of_y);
        compare(t0, t1, of_lambda);
        compare(t0, t1, of_y);
    }
    // The terms of the last point of the block before go in front.
    Difference<P> start(const Residual& residual, int t0, P* rest) const {
        P* const terms = residual.terms + job.n;
        if (t0 == 0) set_zero(residual.outside);
        copy(residual.terms, terms + ((t0 > 0 ? points : 0) - 1) * job.n, job.n);
        for (int e = 0; e < points * job.n; ++e) terms[e] = splat<P>(0);
        return {rest, terms};
    }
    Difference<P> before(const Residual& residual, int t0, const Difference<P>& first) const {
        return {t0 > 0 ? first.x - job.n : residual.outside, residual.terms};
    }
    // Of the points that are complete: t0-1 .. t1-2, and the last one. (The last points of chunks are not looked at.)
    void compare(int t0, int t1, const Difference<P>& first) {
        const int all = Chunked ? group.shortest - 1 : group.longest, end = t1 == group.longest ? t1 : t1 - 1;
        const P largest = splat<P>(SMALL_RESIDUAL);
        for (int e = t0 > 0 ? -job.n : 0; e < ((end < all ? end : all) - t0) * job.n; ++e) {
            excess_ = larger(excess_, magnitude(first.x[e]) - largest * first.terms[e]);
        }
    }

    enum { LAMBDA, SOLUTION };
    P *y_ = nullptr, *products_;  // what of y and of products is staged: of a block, or where rows stay, of all points
    bool rhs_is_there = false;

    static Index staged_packs(const Segments<P, Size, Chunked>& all) {
        const Index numbers = all.staged_points(), n = all.job.n;
        return (numbers + 1) * n + 2 * numbers * (all.job.Q + 2 * n);
    }
    void take_staged() {
        if (y_) return;
        y_ = take((this->staged_points() + 1) * job.n);
        products_ = take(2 * this->staged_points() * (job.Q + 2 * job.n));
    }
    // y at point t0; the point before lies in front
    P* y_at(int t0) const { return y_ + Index(stays() ? t0 + 1 : 1) * job.n; }
    Products<P> products(int of, int t0) const {
        const Index all = this->staged_points(), from = stays() ? t0 : 0;
        P* const first = products_ + of * all * (job.Q + 2 * job.n);
        return {first + from * job.Q, first + all * job.Q + from * step_rows(size)};
    }
    void select_columns(int first, int end) {
        this->first_column = first;
        this->end_column = end;
    }

    StagedRows<P> stage_rows(int t0, int t1) const {
        return stager.rows(t0, t1, true, stays() ? 0 : t0, lhs_is_there, rhs_is_there);
    }

    // y of the points t0-1 .. t1-1 (that before the first point of a system is zero)
    void stage_y(int t0, int t1) {
        if (rhs_is_there) return;
        const Input& in = job.in[Y];
        const LanePointers<P> lanes(job, in, group);
        P* const y = y_at(t0);
        const int before = t0 > 0 && !stays();
        if (t0 == 0) {
            set_zero(y - job.n);
            for (int l = 0; Chunked && l < W; ++l) {
                for (int j = 0; group.start[l] > 0 && j < job.n; ++j) (y - job.n)[j].set(l, lanes.at[l][in.offsets[j] - in.time]);
            }
        }
        stage(job, in, lanes, t0 - before, t1, stager.next_block, y - before * job.n);
        spread(in, t1 - t0 + before, y - before * job.n);
    }

    // Column c from point t0 of segment k on; where that is the first point, `border` receives what is before it.
    const P* column(int k, int c, int t0, P* border) const {
        if (t0 == 0) Chunked ? separator(-1, border, c) : set_zero(border);
        return this->z_at(k, t0, c);
    }

    // A y - d
    void multiply_y(const StagedRows<P>& rows, int t0, int t1, const P* y, Products<P> a) {
        multiply(size, job.scheme_rows, rows, t0, t1, y - job.n, y, a);
        for (int t = t0; t < t1; ++t) {
            for (int q = 0; q < job.Q; ++q) a.equation[(t - t0) * job.Q + q] -= rows.b(t, q);
        }
    }

    // Initial rows of point t, which is point i of the block.
    SMNN_OUTLINE void subtract_initial(
        const StagedRows<P>& rows, int t, int i, const P* lambda, const P* y, Difference<P> of_lambda, Difference<P> of_y
    ) const {
        for (int e = 0; e < job.V * job.R_init; ++e) {
            const int v = e / job.R_init, r = e % job.R_init, j = i * job.n + v * job.K + r;
            const P w = rows.w_initial(t, v, r), w2 = w * w;
            subtract<P>(of_lambda, j, w2 * lambda[j]);
            subtract<P>(of_y, j, w2 * (y[j] - rows.u(t, v, r)));
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

    // `rest` at the last point of each lane, and what the step from the left separator has given to it, to the separators.
    SMNN_OUTLINE void pass(int c, const P* outside) const {
        copy(passed(c, REST_LEFT), outside, job.n);
        for (int l = 0; l < W; ++l) {
            const P* const last = rest_at(c, group.length[l] - 1);
            for (int j = 0; j < job.n; ++j) passed(c, REST)[j].set(l, last[j].get(l));
        }
    }
};

// The gradients.
template <class P, class Size, bool Chunked>
struct Adjoint : Residuals<P, Size, Chunked> {
    using Base = Residuals<P, Size, Chunked>;
    using Base::any_rough, Base::column, Base::copy, Base::group, Base::has_point, Base::job, Base::larger, Base::memory;
    using Base::multiply_y, Base::points, Base::products, Base::roughness_, Base::select_columns, Base::size, Base::stage_rows;
    using Base::stage_y, Base::stays, Base::take, Base::take_staged, Base::y_at;
    using Base::LAMBDA, Base::SOLUTION;
    using T = ScalarOf<P>;
    static constexpr int W = Lanes<P>::count;

    using Base::Base;

    static Sizes sizes(const Job& job, int phases) {
        const Segments<P, Size, Chunked> all(job);
        return all.sizes(phases & (RESIDUAL | REFINE | CONTRACT) ? Base::staged_packs(all) + block_packs(all) : 0);
    }

    // x of these, added to λ, and A x to the products of both; gradients.
    SMNN_OUTLINE void contract() {
        take_staged();
        PointSinks to_points{sink(C, job.Q * job.n, job.T), sink(B, job.Q, job.T), sink(W_EQUATION, job.Q, job.T)};
        StepSinks to_steps{sink(S, 1, job.T - 1), sink(W_SMOOTHNESS, 1, job.T - 1)};
        const Block block{
            take(Index(points + 1) * job.n), take(Index(points + 1) * job.n), take(job.n),
            {take(Index(points) * job.Q), take(Index(points) * 2 * job.n)},
        };
        const auto contract_segment = [&](int k) {
            this->go(-points);
            const int start = k * this->segment;
            for (int t1 = this->end_of(k); t1 > start;) {
                const int t0 = start + (t1 - 1 - start) / points * points;
                contract_block(k, t0, t1, block, to_points, to_steps);
                t1 = t0;
            }
        };
        is_refined_ = any_rough();
        if (is_refined_) {
            select_columns(1, ADJOINT_COLUMNS);
            this->back(contract_segment);
            write_sizes();
        } else {
            for (int k = this->last_segment(); k >= 0; --k) contract_segment(k);
        }
        for (GradientSink<P>& each : to_points) each.finish();
        for (GradientSink<P>& each : to_steps) each.finish();
    }

   private:
    using PointSinks = GradientSink<P>[3];
    using StepSinks = GradientSink<P>[2];
    // λ (refined) and y of a block, and of the point before it; and what is needed on the way.
    struct Block {
        P *lambda, *y, *border;
        Products<P> more;
    };

    bool is_refined_ = false;
    P sizes_[SIZES] = {};  // as those of the job
    // Of point t, in lanes that have it.
    void measure(SizeOf of, int t, const P& x, const P& added) {
        const P there = has_point(t);
        sizes_[of] = larger(sizes_[of], there * magnitude(x));
        sizes_[SIZES_OF_CHANGES + of] = larger(sizes_[SIZES_OF_CHANGES + of], there * magnitude(added));
    }
    void write_sizes() const {
        for (int l = 0; l < group.valid; ++l) {
            double* const to = job.sizes + (group.system[l] * job.C + group.chunk[l]) * SIZES;
            for (int i = 0; i < SIZES; ++i) to[i] = sizes_[i].get(l);
        }
    }

    // The gradients of the points t0 .. t1-1 of segment k, and of the steps into them.
    SMNN_OUTLINE void contract_block(int k, int t0, int t1, const Block& block, PointSinks& to_points, StepSinks& to_steps) {
        const int n = job.n;
        const StagedRows<P> rows = stage_rows(t0, t1);
        stage_y(t0, t1);
        const Products<P> a_lambda = products(LAMBDA, t0), a_y = products(SOLUTION, t0);
        P *const y = block.y + n, *const lambda = block.lambda + n;
        const P* const x = column(k, 0, t0, block.border);
        copy(block.lambda, t0 > 0 ? x - n : block.border, n);
        copy(lambda, x, (t1 - t0) * n);
        copy(block.y, y_at(t0) - n, (t1 - t0 + 1) * n);
        if (!stays()) {
            multiply(size, job.scheme_rows, rows, t0, t1, block.lambda, lambda, a_lambda);
            multiply_y(rows, t0, t1, y, a_y);
        }
        if (is_refined_) {
            add(k, 1, rows, t0, t1, block, a_lambda, lambda);
            add(k, 2, rows, t0, t1, block, a_y, nullptr);
        }
        auto& [c, b, w_equation] = to_points;
        auto& [s, w_smoothness] = to_steps;
        const BlockGradients<P> to{c.block, b.block, w_equation.block, s.block, w_smoothness.block};
        smnn::SMNN_LEVEL::contract(size, job.scheme_rows, rows, t0, t1, y, lambda, a_y, a_lambda, to);
        if (rows.initial_ && (job.gradient[U].data || job.gradient[W_INITIAL].data)) {
            contract_initial(rows, t0, t1, y_at(t0), is_refined_ ? column(k, 2, t0, block.border) : nullptr, lambda);
        }
        for (GradientSink<P>& each : to_points) each.flush(t0, t1, group.length);
        for (GradientSink<P>& each : to_steps) flush_steps(each, t0, t1);
    }

    static Index block_packs(const Segments<P, Size, Chunked>& all) {
        const Job& job = all.job;
        const Index points = all.points, n = job.n;
        const Index of_contract = 2 * (points + 1) * n + n + points * (job.Q + 2 * n) +
                                  GradientSink<P>::memory(job.Q * job.n, int(points)) +
                                  2 * GradientSink<P>::memory(job.Q, int(points)) + 2 * GradientSink<P>::memory(1, int(points));
        return of_contract + points + (2 * (points + 1) + 3) * n;
    }
    GradientSink<P> sink(Field field, int count, int times) {
        return GradientSink<P>(job, group, field, count, times, memory, points);
    }

    // Adds the products of column c to a, and the column to x, which has the point before in front, if it is given: y has more
    // digits than what refines its products.
    void add(
        int k, int c, const StagedRows<P>& rows, int t0, int t1, const Block& block, Products<P> a, P* x
    ) {
        const int n = job.n;
        const P* const column_c = column(k, c, t0, block.border);
        const P* const before = t0 > 0 ? column_c - n : block.border;
        multiply(size, job.scheme_rows, rows, t0, t1, before, column_c, block.more);
        for (int e = 0; e < (t1 - t0) * job.Q; ++e) {
            const int t = t0 + e / job.Q;
            const P change = roughness_ * block.more.equation[e], w = rows.w_equation(t, e % job.Q);
            a.equation[e] += change;
            if (c == 1) measure(SIZE_IN_EQUATIONS, t, w * a.equation[e], w * change);
        }
        for (int e = 0; e < (t1 - t0) * step_rows(size); ++e) {
            const int t = t0 + e / step_rows(size);
            const P change = roughness_ * block.more.step[e], w = rows.w_smoothness(t);
            a.step[e] += change;
            if (c == 1) measure(SIZE_IN_STEPS, t, w * a.step[e], w * change);
        }
        if (!x) return;
        for (int j = 0; j < n; ++j) (x - n)[j] += roughness_ * before[j];
        for (int e = 0; e < (t1 - t0) * n; ++e) {
            const P change = roughness_ * column_c[e];
            measure(SIZE_OF_LAMBDA, t0 + e / n, x[e], change);
            x[e] += change;
        }
    }

    // The gradients of the steps into points t0 .. t1-1. That into the first point of a chunk is one of its steps, too.
    SMNN_OUTLINE void flush_steps(GradientSink<P>& to, int t0, int t1) {
        int length[W];
        for (int l = 0; l < W; ++l) length[l] = group.length[l] - 1;
        if (t0 > 0) return to.flush(t0 - 1, t1 - 1, length);
        for (int l = 0; l < group.valid; ++l) {
            if (group.start[l] > 0) to.add(l, -1, 0, to.block[0].get(l));
        }
        if (t1 == 1) return;
        P* const block = to.block;
        to.block = block + 1;
        to.flush(0, t1 - 1, length);
        to.block = block;
    }

    // (u - y as it was given, then what refines it: the sum of y and that would be rounded)
    SMNN_OUTLINE void contract_initial(
        const StagedRows<P>& rows, int t0, int t1, const P* y, const P* change, const P* lambda
    ) {
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
                    const P change_of_y = change ? roughness_ * change[j] : splat<P>(0);
                    if (du) du[to + e] = w * w * x;
                    if (dw) dw[to + e] = 2 * w * x * (u - y[j].get(l) - change_of_y.get(l));
                }
            }
        }
    }
};

}  // namespace SMNN_LEVEL
}  // namespace smnn
