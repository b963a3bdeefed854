// Covariances of a group of systems, lane by lane or one by one: elimination through all points, and back.
//
// What elimination leaves of a step is larger than the rows it comes from. It exists for one segment of steps at a time, the
// last one first: the others are eliminated again from what was carried into them. Where nothing is wanted of points before
// the first own row that counts, and behind the last one, they are passed.
#pragma once

#include "../kernels/covariance.hpp"
#include "rows.hpp"

namespace smnn {
namespace SMNN_LEVEL {

// The number in the batch of right-hand side c of a system, -1 beyond the last one.
SMNN_INLINE Index number_of_result(const Job& job, Index system, int c) {
    if (job.column_lhs && system % job.splits * job.m + c >= job.n_repeats) return -1;
    return number_in_batch(job, system, c);
}

// The rows of one system, read where they lie; the names of StagedRows.
class StridedRows {
   public:
    StridedRows(const Job& job, Index system) : job_(job) {
        for (int f = 0; f < FIELDS; ++f) data_[f] = first(Field(f), number_in_batch(job, system, 0));
        for (int c = 0; c < job.m; ++c) {
            b_[c] = first(B, number_in_batch(job, system, c));
            u_[c] = first(U, number_in_batch(job, system, c));
        }
    }
    double c(int t, int q, int j) const { return at(C, data_[C], t, q * job_.n + j); }
    double b(int t, int q, int c = 0) const { return at(B, b_[c], t, q); }
    double w_equation(int t, int q) const { return at(W_EQUATION, data_[W_EQUATION], t, q); }
    double s(int t) const { return at(S, data_[S], t - 1, 0); }
    double w_smoothness(int t) const { return at(W_SMOOTHNESS, data_[W_SMOOTHNESS], t - 1, 0); }
    bool has_initial(int t) const { return t < job_.T_init; }
    int n_initial_orders() const { return job_.R_init; }
    double u(int t, int v, int r, int c = 0) const { return at(U, u_[c], t, v * job_.R_init + r); }
    double w_initial(int t, int v, int r) const { return at(W_INITIAL, data_[W_INITIAL], t, v * job_.R_init + r); }
    const double* data(Field f) const { return data_[f]; }

   private:
    const Job& job_;
    const double *data_[FIELDS], *b_[MOST_COLUMNS], *u_[MOST_COLUMNS];

    const double* first(Field f, Index number) const {
        const Input& in = job_.in[f];
        return in.data ? static_cast<const double*>(in.data) + offset_in_batch(job_, in, number) : nullptr;
    }
    double at(Field f, const double* data, int t, int e) const {
        return data[Index(t) * job_.in[f].time + job_.in[f].offsets[e]];
    }
};

// Whether a row of point t has a weight, of a system whose weights are at(field).
template <class At>
bool point_has_rows(const Job& job, int t, const At& at) {
    const auto any_of = [&](Field f) {
        const Input& in = job.in[f];
        for (int e = 0; e < in.count; ++e) {
            if (at(f)[Index(t) * in.time + in.offsets[e]] != 0) return true;
        }
        return false;
    };
    return any_of(W_EQUATION) || (t < job.T_init && any_of(W_INITIAL));
}

// How lanes get their rows, and where results go: packs by transposition, numbers as they lie.
template <class P>
class LaneIO {
   public:
    static Index memory(const Job& job) {
        const int points = block_points<P>(job);
        return RowStager<P>::memory(job, points, points);
    }
    LaneIO(const Job& job, Index g, P*& memory)
        : points(block_points<P>(job)), group_(job, g), stager_(job, group_, memory, points, points) {}

    const int points;  // that `rows` serves at once
    StagedRows<P> rows(int t0, int t1, bool with_rhs) const { return stager_.rows(t0, t1, with_rhs, t0); }
    // Whether a row of point t counts, in any lane.
    bool has_rows(const Job& job, int t) const {
        for (int l = 0; l < W; ++l) {
            if (point_has_rows(job, t, [&](Field f) { return stager_.first(f, l); })) return true;
        }
        return false;
    }

    // count numbers of point t and of a right-hand side, to an array (batch, T, count)
    void write(const P* from, int count, double* to, Index T, int t, int) const {
        double* at[W];
        for (int l = 0; l < W; ++l) at[l] = to + (group_.system[l] * T + t) * count;
        unstage_run(from, count, at, group_.valid);
    }

   private:
    static constexpr int W = Lanes<P>::count;
    const Group<P> group_;
    const RowStager<P> stager_;
};
template <>
class LaneIO<double> {
   public:
    static Index memory(const Job&) { return 0; }
    LaneIO(const Job& job, Index g, double*&) : points(64), rows_(job, g) {
        for (int c = 0; c < job.m; ++c) numbers_[c] = number_of_result(job, g, c);
    }

    const int points;
    const StridedRows& rows(int, int, bool) const {
        poll();
        return rows_;
    }
    bool has_rows(const Job& job, int t) const {
        return point_has_rows(job, t, [&](Field f) { return rows_.data(f); });
    }
    void write(const double* from, int count, double* to, Index T, int t, int c) const {
        if (numbers_[c] < 0) return;
        to += (numbers_[c] * T + t) * count;
        for (int i = 0; i < count; ++i) to[i] = from[i];
    }

   private:
    const StridedRows rows_;
    Index numbers_[MOST_COLUMNS];
};

// Whether something of these is wanted.
SMNN_INLINE bool any_wanted(const Gathered (&gradients)[SMOOTHNESS_RHS]) {
    for (const Gathered& g : gradients) {
        if (g.data) return true;
    }
    return false;
}
SMNN_INLINE bool wants_blocks(const Moments& wanted) { return wanted.covariance || wanted.lag || wanted.variance; }
SMNN_INLINE bool wants_covariances(const Moments& wanted) { return wants_blocks(wanted) || any_wanted(wanted.of_determinant); }
SMNN_INLINE bool wants_means(const Moments& wanted) { return any_wanted(wanted.of_minimum); }
SMNN_INLINE bool goes_back(const Moments& wanted) { return wants_covariances(wanted) || wants_means(wanted); }

// The gradients of log det M or of the minimum, by field: sums over what inputs share, (entries, columns).
template <class P>
class Gradient {
   public:
    static Index memory(const Gathered (&to)[SMOOTHNESS_RHS], int stride) {
        Index packs = 0;
        for (const Gathered& g : to) packs += g.data ? Index(g.entries) * stride : 0;
        return packs;
    }
    Gradient(const Gathered (&to)[SMOOTHNESS_RHS], int columns, int stride, P*& memory) : to_(to), columns_(columns) {
        for (int f = 0; f < SMOOTHNESS_RHS; ++f) {
            if (!wants(Field(f))) continue;
            const Index count = Index(to[f].entries) * stride;
            sums_[f] = {take_from(memory, count), stride};
            for (Index i = 0; i < count; ++i) sums_[f].data[i] = splat<P>(0);
        }
    }
    bool wants(Field f) const { return to_[f].data != nullptr; }
    // Where number e of a time point is summed, for each column.
    P* at(Field f, int e) const { return sums_[f].row(int(to_[f].entry[e])); }

    // Behind the last number of point t, of T.
    void end_point(const LaneIO<P>& io, Field f, Index T, int t, P* room) const {
        if (wants(f) && to_[f].of_time) write(io, f, T, t, room);
    }
    // Behind the last point.
    void finish(const LaneIO<P>& io, P* room) const {
        for (int f = 0; f < SMOOTHNESS_RHS; ++f) {
            if (wants(Field(f)) && !to_[f].of_time) write(io, Field(f), 1, 0, room);
        }
    }

   private:
    const Gathered (&to_)[SMOOTHNESS_RHS];
    const int columns_;
    Matrix<P> sums_[SMOOTHNESS_RHS] = {};

    void write(const LaneIO<P>& io, Field f, Index T, int t, P* room) const {
        const int entries = to_[f].entries;
        for (int c = 0; c < columns_; ++c) {
            for (int i = 0; i < entries; ++i) {
                room[i] = sums_[f](i, c);
                sums_[f](i, c) = splat<P>(0);
            }
            io.write(room, entries, to_[f].data, T, t, c);
        }
    }
};

template <class P, class Size>
class CovariancePass {
   public:
    static size_t scratch(const Job& job, const Moments& wanted) {
        const CovarianceSizes<P, Size> sizes = sizes_of(job);
        Index packs = LaneIO<P>::memory(job) + sizes.workspace() + result_packs(job) +
                      Gradient<P>::memory(wanted.of_determinant, 1) + Gradient<P>::memory(wanted.of_minimum, sizes.rhs());
        if (goes_back(wanted)) {
            packs += Index(segment(job)) * sizes.entries() + Index(segments(job, job.T - 1)) * sizes.carried() + AT_ONCE<P>;
        }
        return size_t(packs) * sizeof(P);
    }

    CovariancePass(const Job& job, const Moments& wanted, Index g, void* scratch)
        : job_(job), wanted_(wanted), sizes_(sizes_of(job)), memory_(static_cast<P*>(scratch)), io_(job, g, memory_),
          sweep_(sizes_, wanted.increments, job.tolerance2 * MORE2, zeros(memory_, sizes_.workspace())),
          row_(take(sizes_.rhs())), of_s_(take(sizes_.rhs())), of_w_(take(sizes_.rhs())), result_(take(most_results(job))),
          of_determinant_(wanted.of_determinant, 1, 1, memory_),
          of_minimum_(wanted.of_minimum, job.m, sizes_.rhs(), memory_),
          factor_(take(goes_back(wanted) ? Index(segment(job)) * sizes_.entries() : 0)), checkpoints_(memory_) {
        if (!wants_blocks(wanted)) pass_ends();
    }

    void run() {
        const bool back = goes_back(wanted_), has_rhs = wanted_.minimum || wants_means(wanted_);
        const int last = back ? segments(job_, last_ - first_) - 1 : 0;
        pass(0, first_);
        pass(last_, job_.T - 1);
        start(has_rhs);
        for (int k = 0; k <= last; ++k) {
            if (k > 0) copy(checkpoint(k), sweep_.carried(), sizes_.carried());
            points(first_step(k) + 1, back ? end_step(k) + 1 : last_ + 1, back && k == last ? factor_ : nullptr, has_rhs);
        }
        sweep_.finish();
        if (sweep_.any_small) __atomic_store_n(job_.any_undetermined, 1, __ATOMIC_RELAXED);
        write_sums();
        if (!back) return;
        sweep_.turn();
        write_point(last_);
        for (int k = last; k >= 0; --k) {
            if (k < last) {
                if (k > 0) {
                    copy(sweep_.carried(), checkpoint(k), sizes_.carried());
                } else {
                    start(has_rhs);
                }
                points(first_step(k) + 1, end_step(k) + 1, factor_, has_rhs);
            }
            for (int t = end_step(k) - 1; t >= first_step(k); --t) {
                back_to(t, factor_ + Index(t - first_step(k)) * sizes_.entries());
            }
        }
        of_determinant_.finish(io_, result_);
        of_minimum_.finish(io_, result_);
    }

   private:
    // What a small pivot is, squared, beside what it is for a solve: over many steps, rounding leaves more of a pivot that is
    // zero.
    static constexpr double MORE2 = 1e8;
    const Job& job_;
    const Moments& wanted_;
    const CovarianceSizes<P, Size> sizes_;
    P* memory_;
    LaneIO<P> io_;
    CovarianceSweep<P, Size> sweep_;
    P *const row_, *const of_s_, *const of_w_;  // (m)
    P* const result_;
    const Gradient<P> of_determinant_, of_minimum_;
    P *const factor_, *const checkpoints_;
    int first_ = 0, last_ = job_.T - 1;  // the points that are eliminated

    P* take(Index packs) { return take_from(memory_, packs); }
    // (what lies behind rows is computed with: numbers like any others, no subnormal ones)
    static P* zeros(P*& memory, int count) {
        P* const at = take_from(memory, count);
        for (int i = 0; i < count; ++i) at[i] = splat<P>(0);
        return at;
    }
    static void copy(P* to, const P* from, int count) {
        for (int i = 0; i < count; ++i) to[i] = from[i];
    }

    static CovarianceSizes<P, Size> sizes_of(const Job& job) {
        return {size_of<Size>(job), job.Q + (job.T_init > 0 ? job.V * job.R_init : 0), job.m};
    }
    // The most numbers that are written at once, or of a row.
    static Index most_results(const Job& job) {
        const Index n = job.n, most = job.Q > n ? job.Q : n;
        return most * n + AT_ONCE<P>;
    }
    static Index result_packs(const Job& job) { return 3 * sizes_of(job).rhs() + most_results(job); }
    // Steps of a segment.
    static int segment(const Job& job) {
        const Index entry = Index(sizeof(P)) * sizes_of(job).entries(), some = COVARIANCE_SEGMENT_BYTES / entry;
        const Index steps = job.T - 1, least = some < 16 ? 16 : some;
        return int(steps < 1 ? 1 : steps < least ? steps : least);
    }
    static int segments(const Job& job, int steps) { return steps < 1 ? 1 : (steps - 1) / segment(job) + 1; }
    int first_step(int k) const { return first_ + k * segment(job_); }
    int end_step(int k) const { return k + 1 < segments(job_, last_ - first_) ? first_step(k + 1) : last_; }
    P* checkpoint(int k) const { return checkpoints_ + Index(k) * sizes_.carried(); }

    void pass_ends() {
        int first = 0, last = job_.T - 1;
        while (first < last && !io_.has_rows(job_, first)) ++first;
        while (last > first && !io_.has_rows(job_, last)) --last;
        first_ = first;
        last_ = last;
    }

    // The steps t0 .. t1-1, before the first point that is eliminated or behind the last.
    void pass(int t0, int t1) {
        const int steps = job_.T - 1;
        for (int from = t0; from < t1; from += io_.points) {
            const int to = from + io_.points < t1 ? from + io_.points : t1;
            const auto& rows = io_.rows(from + 1, to + 1, false);
            for (int t = from; t < to; ++t) {
                sweep_.pass(rows.s(t + 1), rows.w_smoothness(t + 1), *of_s_, *of_w_);
                add_of_step(of_determinant_, 1);
                end_step_of(of_determinant_, steps, t);
                end_step_of(of_minimum_, steps, t);
                end_point(t0 < first_ ? t : t + 1);
            }
        }
    }
    void add_of_step(const Gradient<P>& gradient, int columns) {
        if (gradient.wants(S)) add_multiple_of(gradient.at(S, 0), of_s_, columns);
        if (gradient.wants(W_SMOOTHNESS)) add_multiple_of(gradient.at(W_SMOOTHNESS, 0), of_w_, columns);
    }
    static void add_multiple_of(P* to, const P* from, int columns) {
        for (int c = 0; c < columns; ++c) to[c] += from[c];
    }
    void end_step_of(const Gradient<P>& gradient, int steps, int t) {
        gradient.end_point(io_, S, steps, t, result_);
        gradient.end_point(io_, W_SMOOTHNESS, steps, t, result_);
    }
    void end_point(int t) {
        for (const Gradient<P>* gradient : {&of_determinant_, &of_minimum_}) {
            for (Field f : {C, B, W_EQUATION}) gradient->end_point(io_, f, job_.T, t, result_);
            if (t >= job_.T_init) continue;
            for (Field f : {U, W_INITIAL}) gradient->end_point(io_, f, job_.T_init, t, result_);
        }
    }

    void start(bool has_rhs) {
        sweep_.start();
        points(first_, first_ + 1, nullptr, has_rhs);
    }

    // Elimination through the points t0 .. t1-1, with the steps into them, which leave what is wanted in `left`.
    void points(int t0, int t1, P* left, bool has_rhs) {
        for (int from = t0; from < t1; from += io_.points) {
            const int to = from + io_.points < t1 ? from + io_.points : t1;
            const auto& rows = io_.rows(from, to, has_rhs);
            for (int t = from; t < to; ++t) {
                if (t > first_) {
                    sweep_.advance(rows.s(t), rows.w_smoothness(t), left);
                    if (left) left += sizes_.entries();
                }
                sweep_.absorb(rows, t, job_.Q, has_rhs);
            }
        }
    }

    // From point t+1 to t.
    void back_to(int t, P* left) {
        const int n = job_.n, steps = job_.T - 1;
        poll();
        if (wants_means(wanted_)) {
            sweep_.back_mean(left);
            if (of_minimum_.wants(S) || of_minimum_.wants(W_SMOOTHNESS)) {
                sweep_.minimum_of_step(left, of_s_, of_w_);
                add_of_step(of_minimum_, job_.m);
                end_step_of(of_minimum_, steps, t);
            }
        }
        if (wants_covariances(wanted_)) {
            const bool of_step = of_determinant_.wants(S) || of_determinant_.wants(W_SMOOTHNESS);
            sweep_.back(left, of_step);
            if (wanted_.lag) {
                sweep_.lag_covariance(result_);
                io_.write(result_, n * n, wanted_.lag, steps, t, 0);
            }
            if (of_step) {
                sweep_.of_step(left, *of_s_, *of_w_);
                add_of_step(of_determinant_, 1);
                end_step_of(of_determinant_, steps, t);
            }
            sweep_.reduce();
        }
        write_point(t);
    }

    // What is wanted of point t.
    void write_point(int t) {
        const int n = job_.n;
        if (wanted_.covariance) {
            sweep_.covariance(result_);
            io_.write(result_, n * n, wanted_.covariance, job_.T, t, 0);
        }
        if (wanted_.variance) {
            sweep_.variance(result_);
            io_.write(result_, n, wanted_.variance, job_.T, t, 0);
        }
        if (wants_means(wanted_) || any_wanted(wanted_.of_determinant)) {
            const auto& rows = io_.rows(t, t + 1, wants_means(wanted_));
            if (any_wanted(wanted_.of_determinant)) add_of_determinant(rows, t);
            if (wants_means(wanted_)) add_of_minimum(rows, t);
            end_point(t);
        }
    }

    // The derivatives of log det M in the own rows of a point.
    template <class Rows>
    void add_of_determinant(const Rows& rows, int t) {
        const int n = job_.n;
        const P two = splat<P>(2);
        const Gradient<P>& gradient = of_determinant_;
        for (int q = 0; (gradient.wants(C) || gradient.wants(W_EQUATION)) && q < job_.Q; ++q) {
            const P w = rows.w_equation(t, q);
            if (!any(w != splat<P>(0))) continue;
            P* const product = gradient.wants(C) ? result_ : nullptr;
            const P square = sweep_.times_covariance([&](int j) SMNN_LAMBDA { return rows.c(t, q, j); }, product);
            if (gradient.wants(W_EQUATION)) *gradient.at(W_EQUATION, q) += two * w * square;
            for (int j = 0; product && j < n; ++j) *gradient.at(C, q * n + j) += two * w * w * product[j];
        }
        if (t >= job_.T_init || !gradient.wants(W_INITIAL)) return;
        sweep_.variance(result_);
        for (int v = 0, i = 0; v < job_.V; ++v) {
            for (int r = 0; r < job_.R_init; ++r, ++i) {
                *gradient.at(W_INITIAL, i) += two * rows.w_initial(t, v, r) * result_[v * job_.K + r];
            }
        }
    }

    // Those of the minimum.
    template <class Rows>
    void add_of_minimum(const Rows& rows, int t) {
        const int n = job_.n;
        const Gradient<P>& gradient = of_minimum_;
        const bool of_equations = gradient.wants(C) || gradient.wants(B) || gradient.wants(W_EQUATION);
        for (int q = 0; of_equations && q < job_.Q; ++q) {
            const P w = rows.w_equation(t, q);
            if (!any(w != splat<P>(0))) continue;
            const auto weight = [&](int j) SMNN_LAMBDA { return rows.c(t, q, j); };
            combine(row_, job_.m, 0, n, weight, [&](int j) SMNN_LAMBDA { return sweep_.y.row(j); });
            for (int c = 0; c < job_.m; ++c) row_[c] = rows.b(t, q, c) - row_[c];
            add_of_row(w, B, W_EQUATION, q);
            for (int j = 0; gradient.wants(C) && j < n; ++j) add_product(gradient.at(C, q * n + j), row_, sweep_.y.row(j));
        }
        if (t >= job_.T_init || !(gradient.wants(U) || gradient.wants(W_INITIAL))) return;
        for (int v = 0, i = 0; v < job_.V; ++v) {
            for (int r = 0; r < job_.R_init; ++r, ++i) {
                const P w = rows.w_initial(t, v, r);
                const P* const y = sweep_.y.row(v * job_.K + r);
                for (int c = 0; c < job_.m; ++c) row_[c] = rows.u(t, v, r, c) - y[c];
                add_of_row(w, U, W_INITIAL, i);
            }
        }
    }
    // Those in right-hand side and weight of a row, whose residual without weight is in row_; there is -2 w^2 of it then.
    void add_of_row(const P& w, Field rhs, Field weight, int e) {
        const P twice = splat<P>(2) * w, minus = -twice * w;
        if (of_minimum_.wants(weight)) {
            P* const to = of_minimum_.at(weight, e);
            for (int c = 0; c < job_.m; ++c) to[c] += twice * row_[c] * row_[c];
        }
        for (int c = 0; c < job_.m; ++c) row_[c] *= minus;
        if (!of_minimum_.wants(rhs)) return;
        P* const to = of_minimum_.at(rhs, e);
        for (int c = 0; c < job_.m; ++c) to[c] -= row_[c];
    }
    void add_product(P* to, const P* a, const P* b) const {
        for (int c = 0; c < job_.m; ++c) to[c] += a[c] * b[c];
    }

    void write_sums() {
        const P log = sweep_.determinant.sum() * splat<P>(2);
        for (int c = 0; c < job_.m; ++c) {
            if (wanted_.log_determinant) io_.write(&log, 1, wanted_.log_determinant, 1, 0, c);
            if (wanted_.minimum) io_.write(sweep_.minimum + c, 1, wanted_.minimum, 1, 0, c);
        }
    }
};

template <class P, class Size>
void covariance(const Job& job, const Moments& wanted, Index group, void* scratch) {
    CovariancePass<P, Size>(job, wanted, group, scratch).run();
}

}  // namespace SMNN_LEVEL
}  // namespace smnn
