// Moments of a group of lanes: elimination, which finds log det M and the minimum, and the way back, which finds covariances
// and gradients (kernels/covariance.hpp).
//
// Where time is divided, chunks are swept twice: with columns at the left separator, and, once the separators are eliminated, as
// an undivided elimination sweeps them, which goes on from the triangle of the left separator. The way back starts from what
// the separators know of the last point.
#pragma once

#include "../kernels/covariance.hpp"
#include "run.hpp"

namespace smnn {
namespace SMNN_LEVEL {

SMNN_INLINE bool any_wanted(const Output (&gradients)[SMOOTHNESS_RHS]) {
    for (const Output& each : gradients) {
        if (each.data) return true;
    }
    return false;
}
SMNN_INLINE bool wants_roots(const Moments& wanted) { return wanted.covariance || wanted.lag || wanted.variance; }
// cov(ρ, y) of rows
SMNN_INLINE bool wants_unknowns(const Moments& wanted) { return wanted.of_determinant[C].data || wanted.of_determinant[S].data; }
SMNN_INLINE bool wants_y(const Moments& wanted) { return wanted.of_minimum[C].data || wanted.of_minimum[S].data; }

// The logarithm of a product of many numbers.
template <class P>
class LogProduct {
   public:
    SMNN_INLINE void multiply(const P& x) {
        product_ *= magnitude(x);
        if (any(product_ < splat<P>(1e-60)) || any(splat<P>(1e60) < product_)) flush();
    }
    P sum() {
        flush();
        return sum_;
    }

   private:
    P product_ = splat<P>(1), sum_ = splat<P>(0);
    SMNN_OUTLINE void flush() {
        if constexpr (Lanes<P>::count == 1) {
            product_ = __builtin_log(product_);
        } else {
            for (int l = 0; l < Lanes<P>::count; ++l) product_.set(l, __builtin_log(product_.get(l)));
        }
        sum_ += product_;
        product_ = splat<P>(1);
    }
};

// Z (rows, columns) and G of some rows, one behind the other; m: columns of residuals.
struct RowsLayout {
    int m, columns;
    bool with_unknowns, with_products;

    explicit RowsLayout(const Job& job)
        : m(any_wanted(job.moments->of_minimum) ? job.m : 0), columns(m + (wants_unknowns(*job.moments) ? job.n : 0)),
          with_unknowns(wants_unknowns(*job.moments)), with_products(any_wanted(job.moments->of_determinant)) {}
    int entries(int rows) const { return rows * columns + (with_products ? RowCovariances<double>::triangle(rows) : 0); }
    // memory (entries(rows)), with room for so many rows
    template <class P>
    RowCovariances<P> at(P* memory, int rows) const {
        return {columns, memory, with_products ? memory + rows * columns : nullptr};
    }
};

// Input of a chunk from the separators: the state of an elimination of all before it; A of its last point (n, n), and the
// rows of the triangle there. Behind those of the chunks of a system there is room to find them.
struct ItemLayout {
    const RowsLayout rows;
    const int n, root, triangle;

    explicit ItemLayout(const Job& job)
        : rows(job), n(job.n), root(CarriedLayout<false>{job.n, job.m}.entries()), triangle(root + job.n * job.n) {}
    Index entries() const { return triangle + rows.entries(n); }
    Index of_system(const Job& job) const { return job.C * entries() + rows.entries(2 * n) + n + 2 * n * n; }
    double* of_chunk(const Job& job, Index system, int k) const { return job.items + system * of_system(job) + k * entries(); }
};

// Elimination of all segments, and what it leaves: log det M and the minima.
template <class P, class Size, bool Chunked>
struct SummingSweep : LaneSweep<P, Size, Chunked> {
    using Base = LaneSweep<P, Size, Chunked>;
    using Base::copy, Base::end_row, Base::factor_at, Base::first_row, Base::go, Base::goes_on, Base::group, Base::job;
    using Base::last_segment, Base::points, Base::state_entries, Base::tape_at;
    static constexpr int W = Lanes<P>::count;
    P* const squares;

    static GroupMemory sizes(const Job& job) { return Segments<P, Size, Chunked>(job).sizes(job.m); }

    SummingSweep(const Job& job_, Index group_, void* scratch) : Base(job_, group_, scratch), squares(this->take(job_.m)) {}

    void eliminate() {
        go(points);
        this->on_the_way_back = goes_on;  // (pivots have been judged)
        for (int c = 0; c < job.m; ++c) squares[c] = splat<P>(0);
        LogProduct<P> inverse;
        for (int k = 0; k <= last_segment(); ++k) {
            if (!Chunked) copy(this->checkpoint(k), this->carried, state_entries);
            // (the last segment of an undivided lane is there on the way back)
            const bool stays = !Chunked && k == last_segment();
            first() ? sum(k, this->carried, stays) : sweep(k, this->carried, stays, goes_on);
            for (int t = first_row(k); first() && t < end_row(k); ++t) multiply(inverse, t, factor_at(k, t));
        }
        const P log = -inverse.sum();
        for (int l = 0; first() && l < group.valid; ++l) {
            double* const to = job.sums + (group.number * W + l) * (1 + job.m);
            to[0] = log.get(l);
            for (int c = 0; c < job.m; ++c) to[1 + c] = squares[c].get(l);
        }
    }

    // Segment k, from and to state (CarriedLayout::entries()), whose rows and tape are to stay or not. again: it was eliminated
    // before, by this pass or another.
    void sweep(int k, P* state, bool stays, bool again) {
        this->template sweep_segment<Chunked>(k, state, job.unwinds, stays, job.unwinds, again);
    }

   private:
    // True if sums are wanted, and this elimination finds them.
    bool first() const { return (job.moments->log_determinant || job.moments->minimum) && !goes_on; }
    // The same, state (CarriedLayout::entries()), with sums.
    void sum(int k, P* state, bool stays) {
        this->sums = squares;
        const SummingTape<P> tape{stays && job.unwinds ? tape_at(k, k * this->segment) : nullptr, squares};
        this->template sweep_segment<Chunked, true, true>(k, state, false, tape);
        this->sums = nullptr;
    }

    // The inverses of the pivots of point t, whose final rows f (FactorLayout::entries()) are.
    void multiply(LogProduct<P>& product, int t, const P* f) const {
        const FactorLayout<Chunked> at{job.n, job.K};
        for (int j = 0; j < job.n; ++j) {
            P x = f[at.row(j)];
            for (int l = 0; t >= this->common_rows && l < W; ++l) {
                if (t >= group.length[l] - Chunked) x.set(l, 1);
            }
            product.multiply(x);
        }
    }
};

template <class P, class Size>
class MomentsPass : public SummingSweep<P, Size, false> {
    using Base = SummingSweep<P, Size, false>;
    using Base::copy, Base::end_row, Base::factor_at, Base::first_row, Base::go, Base::goes_on, Base::group;
    using Base::job, Base::last_segment, Base::points, Base::recomputed, Base::size, Base::state_entries, Base::stager;
    using Base::tape_at, Base::take;
    static constexpr int W = Lanes<P>::count;

   public:
    static GroupMemory sizes(const Job& job) {
        const Segments<P, Size, false> all(job);
        return all.sizes(job.m + of_roots(job, all.points) + of_rows(job) + of_y(job, all.points) + of_gradients(job, all.points));
    }

    MomentsPass(const Job& job_, Index group_, void* scratch)
        : Base(job_, group_, scratch), wanted(*job_.moments), item(job_), n(job_.n) {
        P* at = take(of_roots(job, points));
        for (P** each : {&A, &A_before, &B_before, &matrix}) *each = at, at += n * n;
        variances = at;
        at = take(of_rows(job));
        all = item.rows.at(at, most_rows(job));
        ends = at += item.rows.entries(most_rows(job));
        ea = at += item.rows.entries(n);
        y = take(of_y(job, points));
        at = take(of_gradients(job, points));
        for (int set = 0; job.unwinds && set <= item.rows.m; ++set) {
            gradients[set].set(job, group, set ? wanted.of_minimum : wanted.of_determinant, false, set ? set - 1 : 0, at, points);
        }
    }

    // From the triangle of the left separator; where there is none, from one of no rows.
    void start() {
        for (int e = 0; goes_on && e < state_entries; ++e) this->carried[e] = from_item(e);
    }

    // Covariances and gradients.
    void back() {
        for (int k = last_segment(); k >= 0; --k) {
            go(-this->segment);
            if (k != recomputed) {
                copy(this->carried, this->checkpoint(k), state_entries);
                this->sweep(k, this->carried, true, true);
            }
            if (wants_roots(wanted)) find_covariances(k);
            if (job.unwinds) unwind_segment(k);
            recomputed = -1;
        }
        for (int set = 0; job.unwinds && set <= item.rows.m; ++set) gradients[set].finish();
    }

   private:
    const Moments& wanted;
    const ItemLayout item;
    const int n;

    // Packs of memory.
    static Index of_roots(const Job& job, int points) {
        return wants_roots(*job.moments) ? Index(4 * job.n + points) * job.n : 0;
    }
    static int most_rows(const Job& job) { return job.n + (job.n < job.Q ? job.Q : job.n); }
    static Index of_rows(const Job& job) {
        const RowsLayout rows(job);
        return job.unwinds ? rows.entries(most_rows(job)) + rows.entries(job.n) + 2 * job.n : 0;
    }
    static Index of_y(const Job& job, int points) { return wants_y(*job.moments) ? Index(points + 1) * job.n * job.m : 0; }
    static Index of_gradients(const Job& job, int points) {
        const Moments& wanted = *job.moments;
        return GradientSet<P>::memory(job, wanted.of_determinant, false, points) +
               RowsLayout(job).m * GradientSet<P>::memory(job, wanted.of_minimum, false, points);
    }

    // Number e of what the chunks take from the separators.
    P from_item(int e) const {
        P x;
        for (int l = 0; l < W; ++l) x.set(l, item.of_chunk(job, group.system[l], group.chunk[l])[e]);
        return x;
    }

    // Unknowns -------------------------------------------------------------------------------------------------------

    P *A, *A_before, *B_before;  // (n, n) each, see kernels/covariance.hpp
    P *matrix, *variances;       // results: (n, n), and (points, n)

    // Of the points whose final rows segment k has.
    void find_covariances(int k) {
        const int first = k > 0 ? first_row(k) : 0;
        int t1 = end_row(k);
        if (k == last_segment()) {
            for (int e = 0; e < n * n; ++e) A[e] = goes_on ? from_item(item.root + e) : splat<P>(0);
            if (goes_on) {
                t1 -= 1;
                write_point(t1, t1 + 1, t1);
            }
        }
        while (t1 > first) {
            const int t0 = t1 - points > first ? t1 - points : first;
            for (int t = t1 - 1; t >= t0; --t) {
                back_to(k, t);
                write_point(t, t1, t0);
            }
            t1 = t0;
        }
        if (k == 0 && goes_on && wanted.lag) {
            roots_before(size.n, PointRows<P, Size>(size, factor_at(k, -1)), A, A_before, B_before);
            write_first_lag();
        }
    }

    // From point t+1 to t.
    void back_to(int k, int t) {
        roots_before(size.n, PointRows<P, Size>(size, factor_at(k, t)), A, A_before, B_before);
        if (wanted.lag && t + 1 < group.longest) {
            set_products(B_before, false);
            int length[W];
            for (int l = 0; l < W; ++l) length[l] = group.length[l] - 1;
            write(matrix, n * n, t, t + 1, wanted.lag, job.T - 1, length);
        }
        triangularise_columns(size.n, A_before, B_before);
        if (goes_on && t == group.longest - 2) this->keep_where_shorter(t + 1, A_before, A, n * n);  // the end of those
        P* const kept = A;
        A = A_before;
        A_before = kept;
    }

    // x A^T, of all columns of x (n, n) or of an upper triangle
    void set_products(const P* x, bool is_triangle) const {
        for (int i = 0; i < n; ++i) {
            for (int j = 0; j < n; ++j) {
                P sum = splat<P>(0);
                for (int k = is_triangle && i > j ? i : j; k < n; ++k) sum += x[i * n + k] * A[j * n + k];
                matrix[i * n + j] = sum;
            }
        }
    }
    // Writes the blocks of point t that are wanted. Variances are written with the first one, t0, of a block that ends before t1.
    void write_point(int t, int t1, int t0) const {
        if (wanted.covariance) {
            set_products(A, true);
            write(matrix, n * n, t, t + 1, wanted.covariance, job.T, group.length);
        }
        if (!wanted.variance) return;
        for (int j = 0; j < n; ++j) {
            P sum = splat<P>(0);
            for (int k = j; k < n; ++k) sum += A[j * n + k] * A[j * n + k];
            variances[Index(t - t0) * n + j] = sum;
        }
        if (t == t0) write(variances, n, t0, t1, wanted.variance, job.T, group.length);
    }
    // Of the left separator with the first point.
    void write_first_lag() const {
        set_products(B_before, false);
        for (int l = 0; l < group.valid; ++l) {
            if (group.start[l] == 0) continue;
            double* const to = wanted.lag + (group.system[l] * (job.T - 1) + group.start[l] - 1) * n * n;
            for (int e = 0; e < n * n; ++e) to[e] = matrix[e].get(l);
        }
    }

    // from (points, count), of the points t0 .. t1-1 of lanes that have length (W) points, to an array `to` (batch, times,
    // count).
    void write(const P* from, int count, int t0, int t1, double* to, int times, const int* length) const {
        double* lanes[W];
        for (int l = 0; l < group.valid; ++l) lanes[l] = to + (group.system[l] * times + group.start[l] + t0) * count;
        write_lanes(from, count, t0, t1, length, group.valid, lanes);
    }

    // Rows -----------------------------------------------------------------------------------------------------------

    RowCovariances<P> all{};  // see RowUnwinding
    P *ends, *ea, *y;
    GradientSet<P> gradients[1 + MOST_COLUMNS];  // of log det M, and of each minimum

    // The points of segment k.
    void unwind_segment(int k) {
        RowUnwinding<P, Size> way{size, item.rows.m, item.rows.with_unknowns, {nullptr}, all, ea, ea + n};
        if (k == last_segment()) start_rows(way);
        this->each_block_back(k, [&](int t0, int t1, bool is_end) {
            const StagedRows<P> rows = stager.rows(t0, t1, false, t0, false, false);
            if (wants_y(wanted)) stage_y(t0, t1);
            way.tape.at = tape_at(k, t1);
            for (int t = t1 - 1; t >= t0; --t) unwind_point(way, rows, k, t, t0);
            if (is_end) {
                const RowCovariances<P> end = item.rows.at(ends, n);
                this->keep_where_shorter(t0, all.Z, end.Z, n * all.columns);
                if (all.G) this->keep_where_shorter(t0, all.G, end.G, all.triangle(n));
            }
            for (int set = 0; set <= item.rows.m; ++set) gradients[set].flush(t0, t1, group.length);
        });
    }

    // The rows of the triangle at the end of the lane.
    void start_rows(const RowUnwinding<P, Size>& way) {
        const RowCovariances<P> end = item.rows.at(ends, n);
        if (goes_on) {
            for (int e = 0; e < item.rows.entries(n); ++e) ends[e] = from_item(item.triangle + e);
            copy(all.Z, end.Z, n * all.columns);
            if (all.G) copy(all.G, end.G, all.triangle(n));
        } else {
            way.set_triangle(factor_at(last_segment(), group.longest - 1), n);
        }
    }

    void unwind_point(RowUnwinding<P, Size>& way, const StagedRows<P>& rows, int k, int t, int t0) {
        const bool has_initial = rows.has_initial(t), is_first = t == 0 && !goes_on;
        for (int e = job.V * job.R_init - 1; has_initial && !is_first && e >= 0; --e) {
            way.unwind_initial_row(column_of(e));
            add_initial(way, rows, t, e, 0);
        }
        way.unwind_equations();
        each_set(way, t0, t, [&](GradientSet<P>& to, auto product, auto with_y, auto residual) {
            add_equations(to, rows, t, t - t0, product, with_y, residual);
        });
        way.take_step();
        for (int e = 0; has_initial && is_first && e < job.V * job.R_init; ++e) add_initial(way, rows, t, e, column_of(e));
        if (is_first) return;
        way.unwind_step(factor_at(k, t - 1));
        each_set(way, t0, t - 1, [&](GradientSet<P>& to, auto product, auto with_y, auto) {
            add_step(to, rows, t, t - t0, product, with_y);
        });
    }
    int column_of(int e) const { return e / job.R_init * job.K + e % job.R_init; }

    // f(gradients, product(i, k), with_y(i, j), residual(i)) of the rows below the triangle: their products with one another,
    // those with the unknowns of point t, and what they are at the minimum, whose products take the place of covariances.
    template <class F>
    void each_set(const RowUnwinding<P, Size>& way, int t0, int t, F f) {
        if (all.G) {
            f(gradients[0], [&](int i, int k) SMNN_LAMBDA { return way.product(i, k); },
              [&](int i, int j) SMNN_LAMBDA { return way.of_unknowns(i)[j]; }, [](int) SMNN_LAMBDA { return splat<P>(0); });
        }
        for (int c = 0; c < item.rows.m; ++c) {
            const P* const y_t = y + (Index(c) * (points + 1) + t - t0 + 1) * n;
            const auto residual = [&](int i) SMNN_LAMBDA { return way.residual(i)[c]; };
            f(gradients[1 + c], [&](int i, int k) SMNN_LAMBDA { return residual(i) * residual(k); },
              [&](int i, int j) SMNN_LAMBDA { return residual(i) * y_t[j]; }, residual);
        }
    }

    template <class Product, class WithY, class AtMinimum>
    void add_equations(
        GradientSet<P>& to, const StagedRows<P>& rows, int t, int i, Product product, WithY with_y, AtMinimum residual
    ) {
        for (int q = 0; q < job.Q; ++q) {
            const P twice = splat<P>(2) * rows.w_equation(t, q);
            for (int j = 0; to.wants(C) && j < n; ++j) to.at(C, i)[q * n + j] = twice * with_y(q, j);
            if (to.wants(B)) to.at(B, i)[q] = -twice * residual(q);
            if (to.wants(W_EQUATION)) {
                to.at(W_EQUATION, i)[q] = splat<P>(2) * inverse_weight(rows.w_equation(t, q)) * product(q, q);
            }
        }
    }

    // Of the step into point t, with the unknowns of the point before.
    template <class Product, class WithY>
    void add_step(GradientSet<P>& to, const StagedRows<P>& rows, int t, int i, Product product, WithY with_y) {
        const int K = job.K;
        const P w = rows.w_smoothness(t), s = rows.s(t), zero = splat<P>(0);
        if (to.wants(W_SMOOTHNESS)) {
            P sum = zero;
            for (int j = 0; j < n; ++j) sum += product(j, j);
            *to.at(W_SMOOTHNESS, i) = splat<P>(2) * inverse_weight(w) * sum;
        }
        if (!to.wants(S)) return;
        P sum = zero;
        for (int j = 0; j < n; ++j) {
            const int r = j % K, first = j - r;
            P power = w;
            for (int o = 0; o < K; ++o, power *= s) {
                if (o < r) continue;
                sum += splat<P>(wanted.of_rows[r * K + o]) * product(first + o, j);
                if (o > 0) sum += splat<P>(wanted.of_unknowns[r * K + o]) * power * with_y(j, first + o);
            }
        }
        *to.at(S, i) = splat<P>(2) * sum / s;
    }

    // Initial row e, which is row i below the triangle.
    void add_initial(const RowUnwinding<P, Size>& way, const StagedRows<P>& rows, int t, int e, int i) {
        const P w = rows.w_initial(t, e / job.R_init, e % job.R_init), inverse = inverse_weight(w);
        each_set(way, t, t, [&](GradientSet<P>& to, auto product, auto, auto residual) {
            const int count = job.V * job.R_init;
            for (int l = 0; l < group.valid; ++l) {
                const int point = group.start[l] + t;
                if (t >= group.length[l] || point >= job.T_init) continue;
                const Index at = (to.number[l] * job.T_init + point) * count + e;
                if (to.wants(U)) static_cast<double*>(to.to[U].data)[at] = -2 * w.get(l) * residual(i).get(l);
                if (to.wants(W_INITIAL)) static_cast<double*>(to.to[W_INITIAL].data)[at] = 2 * inverse.get(l) * product(i, i).get(l);
            }
        });
    }

    // y of the points t0-1 .. t1-1, of each right-hand side.
    void stage_y(int t0, int t1) const {
        const Input& in = job.in[Y];
        const int before = t0 > 0;
        for (int c = 0; c < item.rows.m; ++c) {
            const LanePointers<P> lanes(job, in, group, c);
            P* const to = y + Index(c) * (points + 1) * n;
            for (int j = 0; !before && j < n; ++j) {
                for (int l = 0; l < W; ++l) to[j].set(l, group.start[l] > 0 ? lanes.at[l][in.offsets[j] - in.time] : 0);
            }
            stage(job, in, lanes, t0 - before, t1, stager.next_block, to + (1 - before) * n);
        }
    }
};

// The phases of a group: SWEEP, with BACK where time is not divided.
template <class P, class Size>
void run_moments(const Job& job, int phases, Index group, void* scratch) {
    if (phases & SWEEP && job.C > 1) return SummingSweep<P, Size, true>(job, group, scratch).eliminate();
    MomentsPass<P, Size> lanes(job, group, scratch);
    lanes.start();
    lanes.eliminate();
    if (phases & BACK) lanes.back();
}
template <class P, class Size>
GroupMemory sizes_of_moments(const Job& job, int phases) {
    return job.C > 1 && !(phases & BACK) ? SummingSweep<P, Size, true>::sizes(job) : MomentsPass<P, Size>::sizes(job);
}

// Separators ---------------------------------------------------------------------------------------------------------

// The final rows of a separator.
struct SeparatorRows {
    const int n;
    const double* const f;
    double inverse(int j) const { return f[j * n + j]; }
    double R(int j, int l) const { return f[j * n + l]; }
    double N(int j, int l) const { return f[n * n + j * n + l]; }
    int columns(int) const { return n; }
};
SMNN_INLINE SeparatorRows separator_rows(const Job& job, Index system, int k) {
    return {job.n, static_cast<const double*>(job.reduced) + (system * job.C + k) * job.separator_entries};
}

SMNN_INLINE Index item_entries(const Job& job) { return ItemLayout(job).of_system(job); }

// Elimination of separators, with what it adds to log det M and the minima, and its state at each.
template <class P>
void reduce_moments(const Job& job, Index system, void* scratch) {
    const int n = job.n;
    double* const sums = job.sums + (job.lanes + system) * (1 + job.m);
    for (int c = 0; c <= job.m; ++c) sums[c] = 0;
    const ItemLayout item(job);
    if (job.items) {  // (there is nothing before the first chunk)
        double* const first = item.of_chunk(job, system, 0);
        for (int e = 0; e < item.root; ++e) first[e] = 0;
        for (int j = 0; j < n; ++j) first[j * n + j] = EMPTY<double>;
    }
    reduce_system<P>(job, system, scratch, SummingTape<double>{nullptr, sums + 1}, [&](int k, const auto& sweep) {
        if (job.items && k + 1 < job.C) sweep.state(item.of_chunk(job, system, k + 1));
    });
    LogProduct<double> inverse;
    for (int k = 0; k < job.C; ++k) {
        for (int j = 0; j < n; ++j) inverse.multiply(separator_rows(job, system, k).inverse(j));
    }
    sums[0] = -inverse.sum();
}

// A of each separator. room (2 n n)
SMNN_INLINE void find_roots(const Job& job, Index system, const ItemLayout& item, double* room) {
    const int n = job.n;
    double *const zeros = room, *const B = room + n * n;
    for (int e = 0; e < n * n; ++e) zeros[e] = 0;
    const double* next = zeros;
    for (int k = job.C - 1; k >= 0; --k) {
        double* const A = item.of_chunk(job, system, k) + item.root;
        roots_before(n, separator_rows(job, system, k), next, A, B);
        triangularise_columns(n, A, B);
        next = A;
    }
}

// The rows of the triangle at each separator. room (item.rows.entries(2 n) + n)
SMNN_INLINE void find_triangles(const Job& job, Index system, const ItemLayout& item, double* room) {
    const int n = job.n, m = item.rows.m;
    const RowCovariances<double> all = item.rows.at(room, 2 * n);
    double* const before = room + item.rows.entries(2 * n);
    const auto set_triangle = [&](int k, int live) {
        const SeparatorRows rows = separator_rows(job, system, k);
        for (int i = n; item.rows.with_unknowns && i < live; ++i) {
            double* const x = all.row(i) + m;
            columns_before(n, rows, x, before);
            for (int j = 0; j < n; ++j) x[j] = before[j];
        }
        for (int j = 0; j < n; ++j) all.clear(j, live);
        set_final_rows(n, rows, item.rows.with_unknowns ? m : -1, all);
    };
    const auto put = [&](int k) {
        const RowCovariances<double> to = item.rows.at(item.of_chunk(job, system, k) + item.triangle, n);
        for (int e = 0; e < n * all.columns; ++e) to.Z[e] = all.Z[e];
        for (int e = 0; all.G && e < all.triangle(n); ++e) to.G[e] = all.G[e];
    };
    set_triangle(job.C - 1, n);
    put(job.C - 1);
    for (int k = job.C - 2; k >= 0; --k) {
        double* const end = const_cast<double*>(separator_rows(job, system, k + 1).f);
        ChainUnwinding<double>{n, job.m, {end}, all, m}.step([&] { set_triangle(k, 2 * n); }, [] {});
        put(k);
    }
}

// Input of the chunks of a system from the separators, but for the state there.
SMNN_INLINE void find_items(const Job& job, Index system) {
    const ItemLayout item(job);
    double* const room = item.of_chunk(job, system, job.C);
    if (wants_roots(*job.moments)) find_roots(job, system, item, room);
    if (job.unwinds) find_triangles(job, system, item, room);
}

}  // namespace SMNN_LEVEL
}  // namespace smnn
