// Covariances of a group of systems, lane by lane or one by one: elimination through all points, and back.
//
// What elimination leaves of a step is larger than the rows it comes from. It exists for one segment of steps at a time, the
// last one first: the others are eliminated again from what was carried into them.
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

   private:
    const Job& job_;
    const double *data_[FIELDS], *b_[MOST_COLUMNS], *u_[MOST_COLUMNS];

    const double* first(Field f, Index number) const {
        const Input& in = job_.in[f];
        if (!in.data) return nullptr;
        Index offset = 0;
        for (int axis = job_.n_batch_axes - 1; axis >= 0; --axis) {
            offset += number % job_.batch_shape[axis] * in.batch[axis];
            number /= job_.batch_shape[axis];
        }
        return static_cast<const double*>(in.data) + offset;
    }
    double at(Field f, const double* data, int t, int e) const {
        return data[Index(t) * job_.in[f].time + job_.in[f].offsets[e]];
    }
};

// How lanes get their rows, and where results go: packs by transposition, numbers as they lie.
template <class P>
class LaneIO {
   public:
    static Index memory(const Job& job) {
        const int points = block_points<P>(job);
        return RowStager<P>::memory(job, points, points);
    }
    LaneIO(const Job& job, Index g, P*& memory)
        : points(block_points<P>(job)), group_(job, g), stager_(job, group_, ahead_, memory, points, points) {}

    const int points;  // that `rows` serves at once
    StagedRows<P> rows(int t0, int t1, bool with_rhs) const { return stager_.rows(t0, t1, with_rhs, {points, false}, t0); }
    void end_block() { ahead_.clear(); }

    // count numbers of point t and of a right-hand side, to an array (batch, T, count)
    void write(const P* from, int count, double* to, Index T, int t, int) const {
        double* at[W];
        for (int l = 0; l < W; ++l) at[l] = to + (group_.system[l] * T + t) * count;
        unstage_run(from, count, false, at, group_.valid);
    }

   private:
    static constexpr int W = Lanes<P>::count;
    const Group<P> group_;
    Ahead<P> ahead_;
    const RowStager<P> stager_;
};
template <>
class LaneIO<double> {
   public:
    static Index memory(const Job&) { return 0; }
    LaneIO(const Job& job, Index g, double*&) : points(job.T), rows_(job, g) {
        for (int c = 0; c < job.m; ++c) numbers_[c] = number_of_result(job, g, c);
    }

    const int points;
    const StridedRows& rows(int, int, bool) const { return rows_; }
    void end_block() {}
    void write(const double* from, int count, double* to, Index T, int t, int c) const {
        if (numbers_[c] < 0) return;
        to += (numbers_[c] * T + t) * count;
        for (int i = 0; i < count; ++i) to[i] = from[i];
    }

   private:
    const StridedRows rows_;
    Index numbers_[MOST_COLUMNS];
};

// Whether covariances are wanted, or anything that takes the way back.
SMNN_INLINE bool wants_covariances(const Moments& wanted) {
    return wanted.covariance || wanted.lag || wanted.variance || wanted.gradient[0];
}
SMNN_INLINE bool goes_back(const Moments& wanted) { return wants_covariances(wanted) || wanted.residual[0]; }

template <class P, class Size>
class CovariancePass {
   public:
    static size_t scratch(const Job& job, const Moments& wanted) {
        const CovarianceSizes<P, Size> sizes = sizes_of(job);
        Index packs = LaneIO<P>::memory(job) + sizes.workspace() + result_packs(job);
        if (goes_back(wanted)) {
            packs += Index(segment(job)) * sizes.entries() + Index(segments(job)) * sizes.carried() + AT_ONCE<P>;
        }
        return size_t(packs) * sizeof(P);
    }

    CovariancePass(const Job& job, const Moments& wanted, Index g, void* scratch)
        : job_(job), wanted_(wanted), sizes_(sizes_of(job)), memory_(static_cast<P*>(scratch)), io_(job, g, memory_),
          sweep_(sizes_, wanted.increments, zeros(memory_, sizes_.workspace())) {
        memory_ += sizes_.workspace();
        residuals_ = {memory_, sizes_.rhs()};
        result_ = residuals_.row(most_residuals(job));
        factor_ = memory_ + result_packs(job);
        checkpoints_ = factor_ + Index(segment(job)) * sizes_.entries();
    }

    void run() {
        const bool back = goes_back(wanted_), has_rhs = wanted_.minimum || wanted_.residual[0];
        const int last = back ? segments(job_) - 1 : 0;
        start(has_rhs);
        for (int k = 0; k <= last; ++k) {
            if (k > 0) copy(checkpoint(k), sweep_.carried(), sizes_.carried());
            points(first_step(k) + 1, back ? end_step(k) + 1 : job_.T, back && k == last ? factor_ : nullptr, has_rhs);
        }
        sweep_.finish();
        write_sums();
        if (!back) return;
        sweep_.turn();
        write_point(job_.T - 1);
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
    }

   private:
    const Job& job_;
    const Moments& wanted_;
    const CovarianceSizes<P, Size> sizes_;
    P* memory_;
    LaneIO<P> io_;
    CovarianceSweep<P, Size> sweep_;
    Matrix<P> residuals_;
    P *result_, *factor_, *checkpoints_;

    static CovarianceSizes<P, Size> sizes_of(const Job& job) {
        return {size_of<Size>(job), job.Q + (job.T_init > 0 ? job.V * job.R_init : 0), job.m};
    }
    static int most_residuals(const Job& job) { return job.Q > job.n ? job.Q : job.n; }
    static Index result_packs(const Job& job) {
        return Index(job.n) * job.n + Index(job.Q) * (job.n + 1) + 2 + most_residuals(job) * sizes_of(job).rhs();
    }
    // Steps of a segment.
    static int segment(const Job& job) {
        const Index entry = Index(sizeof(P)) * sizes_of(job).entries(), some = COVARIANCE_SEGMENT_BYTES / entry;
        const Index steps = job.T - 1, least = some < 16 ? 16 : some;
        return int(steps < 1 ? 1 : steps < least ? steps : least);
    }
    static int segments(const Job& job) { return job.T < 2 ? 1 : (job.T - 2) / segment(job) + 1; }
    int first_step(int k) const { return k * segment(job_); }
    int end_step(int k) const { return k + 1 < segments(job_) ? first_step(k + 1) : job_.T - 1; }
    P* checkpoint(int k) const { return checkpoints_ + Index(k) * sizes_.carried(); }
    static void copy(P* to, const P* from, int count) {
        for (int i = 0; i < count; ++i) to[i] = from[i];
    }

    // (what lies behind rows is computed with: numbers like any others, no subnormal ones)
    static P* zeros(P* to, int count) {
        for (int i = 0; i < count; ++i) to[i] = splat<P>(0);
        return to;
    }

    void start(bool has_rhs) {
        sweep_.start();
        points(0, 1, nullptr, has_rhs);
    }

    // Elimination through the points t0 .. t1-1, with the steps into them, which leave what is wanted in `left`.
    void points(int t0, int t1, P* left, bool has_rhs) {
        for (int from = t0; from < t1; from += io_.points) {
            const int to = from + io_.points < t1 ? from + io_.points : t1;
            const auto& rows = io_.rows(from, to, has_rhs);
            for (int t = from; t < to; ++t) {
                if (t > 0) {
                    sweep_.advance(rows.s(t), rows.w_smoothness(t), left);
                    if (left) left += sizes_.entries();
                }
                sweep_.absorb(rows, t, job_.Q, has_rhs);
            }
            io_.end_block();
        }
    }

    // From point t+1 to t.
    void back_to(int t, P* left) {
        const int n = job_.n, steps = job_.T - 1;
        if (wanted_.residual[0]) {
            sweep_.back_mean(left);
            sweep_.step_residuals(left, residuals_);
            write_columns(n, wanted_.residual[2], steps, t);
        }
        if (wants_covariances(wanted_)) {
            sweep_.back(left, wanted_.gradient[0]);
            if (wanted_.lag) {
                sweep_.lag_covariance(result_);
                io_.write(result_, n * n, wanted_.lag, steps, t, 0);
            }
            if (wanted_.gradient[0]) {
                sweep_.of_step(left, result_[0], result_[1]);
                io_.write(result_, 1, wanted_.gradient[3], steps, t, 0);
                io_.write(result_ + 1, 1, wanted_.gradient[4], steps, t, 0);
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
        if (wanted_.gradient[0] || wanted_.residual[0]) {
            const auto& rows = io_.rows(t, t + 1, wanted_.residual[0]);
            if (wanted_.residual[0]) write_residuals(rows, t);
            if (wanted_.gradient[0]) write_gradient(rows, t);
            io_.end_block();
        }
    }

    template <class Rows>
    void write_residuals(const Rows& rows, int t) {
        const Matrix<P>& r = residuals_;
        for (int q = 0; q < job_.Q; ++q) {
            const P w = rows.w_equation(t, q);
            for (int c = 0; c < job_.m; ++c) r(q, c) = w * rows.b(t, q, c);
            for (int j = 0; j < job_.n; ++j) add_multiple(r.row(q), -w * rows.c(t, q, j), sweep_.y.row(j), job_.m);
        }
        write_columns(job_.Q, wanted_.residual[0], job_.T, t);
        if (t >= job_.T_init) return;
        for (int v = 0, i = 0; v < job_.V; ++v) {
            for (int o = 0; o < job_.R_init; ++o, ++i) {
                const P w = rows.w_initial(t, v, o);
                for (int c = 0; c < job_.m; ++c) r(i, c) = w * (rows.u(t, v, o, c) - sweep_.y(v * job_.K + o, c));
            }
        }
        write_columns(job_.V * job_.R_init, wanted_.residual[1], job_.T_init, t);
    }

    // Residuals (count, m) of each right-hand side.
    void write_columns(int count, double* to, Index T, int t) {
        for (int c = 0; c < job_.m; ++c) {
            for (int i = 0; i < count; ++i) result_[i] = residuals_(i, c);
            io_.write(result_, count, to, T, t, c);
        }
    }

    // Halves of the derivatives of log det M in the own rows of a point.
    template <class Rows>
    void write_gradient(const Rows& rows, int t) {
        const int n = job_.n;
        P* const of_w = result_ + job_.Q * n;
        for (int q = 0; q < job_.Q; ++q) {
            P *const of_c = result_ + q * n, w = rows.w_equation(t, q);
            of_w[q] = w * sweep_.times_covariance([&](int j) SMNN_LAMBDA { return rows.c(t, q, j); }, of_c);
            for (int j = 0; j < n; ++j) of_c[j] *= w * w;
        }
        io_.write(result_, job_.Q * n, wanted_.gradient[0], job_.T, t, 0);
        io_.write(of_w, job_.Q, wanted_.gradient[1], job_.T, t, 0);
        if (t >= job_.T_init) return;
        sweep_.variance(result_);
        P* const of_initial = result_ + n;
        for (int v = 0, i = 0; v < job_.V; ++v) {
            for (int r = 0; r < job_.R_init; ++r, ++i) of_initial[i] = rows.w_initial(t, v, r) * result_[v * job_.K + r];
        }
        io_.write(of_initial, job_.V * job_.R_init, wanted_.gradient[2], job_.T_init, t, 0);
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
