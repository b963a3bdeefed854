// Moments of the posterior (see kernels/covariance.hpp): a thread takes one system after the other through all points and
// back, in float64. What host.py launches by `moments.py`.
//
// Needs SMNN_V, SMNN_K, SMNN_Q, SMNN_BLOCK (threads) and SMNN_MOMENTS_JOB_BYTES, the size of the job as the host lays it out.
#include "../kernels/covariance.hpp"
#include "lane.hpp"

namespace smnn {
namespace SMNN_LEVEL {

// As PointJob. What elimination leaves of a step exists of `segment` steps at a time: those before the last segment are
// eliminated again from what was carried into them. Threads lie side by side in what is kept.
struct MomentsJob {
    Systems systems;  // those that are `bad` are NaN
    Input in[SMOOTHNESS_RHS];
    // what is wanted, null where it is not: see `Moments` of _moments.py
    double *covariance, *lag, *variance, *log_determinant, *minimum, *of_determinant[SMOOTHNESS_RHS], *of_minimum[SMOOTHNESS_RHS];
    double* factor;       // (segment, entries, threads)
    double* checkpoints;  // (segments, carried, threads)
    Index threads;
    int V, K, Q, points, T_init, R_init, segment;
    double increments[MAX_K * MAX_K];  // (K, K): the rows C of a step

    SMNN_INLINE static bool any_of(double* const* gradients) {
        bool found = false;
        for (int f = 0; f < SMOOTHNESS_RHS; ++f) found = found || gradients[f];
        return found;
    }
    SMNN_INLINE bool wants_means() const { return any_of(of_minimum); }
    SMNN_INLINE bool wants_covariances() const { return covariance || lag || variance || any_of(of_determinant); }
    SMNN_INLINE bool goes_back() const { return wants_covariances() || wants_means(); }
    SMNN_INLINE int segments() const { return points < 2 ? 1 : (points - 2) / segment + 1; }
};
static_assert(sizeof(MomentsJob) == SMNN_MOMENTS_JOB_BYTES, "host and device lay out moments differently");

// The rows of one system, read where they lie.
struct SystemRows {
    const MomentsJob& job;
    const Lane lane;
    const Field_<double> c_, b_, w_equation_, s_, w_smoothness_, u_, w_initial_;

    SMNN_INLINE SystemRows(const MomentsJob& job_, Index system)
        : job(job_),
          lane(system, job_.points, 1),
          c_(job_.systems, job_.in[C], lane),
          b_(job_.systems, job_.in[B], lane),
          w_equation_(job_.systems, job_.in[W_EQUATION], lane),
          s_(job_.systems, job_.in[S], lane),
          w_smoothness_(job_.systems, job_.in[W_SMOOTHNESS], lane),
          u_(job_.systems, job_.in[U], lane),
          w_initial_(job_.systems, job_.in[W_INITIAL], lane) {}
    SMNN_INLINE double c(int t, int q, int j) const { return c_(t, q, j / SMNN_K, j % SMNN_K); }
    SMNN_INLINE double b(int t, int q, int = 0) const { return b_.there() ? b_(t, q) : 0.0; }
    SMNN_INLINE double w_equation(int t, int q) const { return w_equation_(t, q); }
    SMNN_INLINE double s(int t) const { return s_(t - 1); }
    SMNN_INLINE double w_smoothness(int t) const { return w_smoothness_(t - 1); }
    SMNN_INLINE bool has_initial(int t) const { return t < job.T_init; }
    SMNN_INLINE int n_initial_orders() const { return job.R_init; }
    SMNN_INLINE double u(int t, int v, int r, int = 0) const { return u_.there() ? u_(t, v, r) : 0.0; }
    SMNN_INLINE double w_initial(int t, int v, int r) const { return w_initial_(t, v, r); }
};

// Loops are unrolled where they are short.
constexpr int V = SMNN_V, K = SMNN_K, Q = SMNN_Q, N = V * K;
using Known = Fixed<V, K, Q>;
using Size = SizeOf<(N <= 4)>::type<Dimensions<V, K, Q, false, (N <= 4)>>;
using KnownSizes = CovarianceSizes<double, Known>;
constexpr KnownSizes LARGEST_SIZES(Known{}, Q + N, 1);
constexpr int WORKSPACE = LARGEST_SIZES.workspace(), STEP_ENTRIES = LARGEST_SIZES.entries();
constexpr int ROWS = Q > N ? Q : N, RESULT = ROWS * N;

class MomentsOfSystem {
   public:
    SMNN_INLINE MomentsOfSystem(const MomentsJob& job, Index system, Index thread, double* workspace)
        : job_(job), system_(system), thread_(thread), rows_(job, system),
          sizes_(size_of(job), job.Q + (job.T_init > 0 ? job.V * job.R_init : 0), 1),
          sweep_(sizes_, job.increments, 0, workspace) {}

    SMNN_INLINE void run() {
        const bool back = job_.goes_back();
        const int last = back ? job_.segments() - 1 : 0;
        sweep_.minimum[0] = 0;
        sweep_.start();
        sweep_.absorb(rows_, 0, job_.Q, has_rhs());
        for (int k = 0; k <= last; ++k) {
            if (back) save(job_.checkpoints, k, sizes_.carried(), sweep_.carried());
            eliminate(k * job_.segment, back ? end(k) : job_.points - 1, back && k == last);
        }
        sweep_.finish();
        write_sums();
        if (!back) return;
        sweep_.turn();
        write_point(job_.points - 1);
        for (int k = last; k >= 0; --k) {
            if (k < last) {
                load(job_.checkpoints, k, sizes_.carried(), sweep_.carried());
                eliminate(k * job_.segment, end(k), true);
            }
            for (int t = end(k) - 1; t >= k * job_.segment; --t) back_to(t, t - k * job_.segment);
        }
    }

   private:
    using Sizes = CovarianceSizes<double, Size>;

    const MomentsJob& job_;
    const Index system_, thread_;
    const SystemRows rows_;
    const Sizes sizes_;
    CovarianceSweep<double, Size> sweep_;
    double left_[STEP_ENTRIES], result_[RESULT], of_weights_[ROWS], of_rhs_[ROWS];

    SMNN_INLINE static Size size_of(const MomentsJob& job) {
        return SizeOf<Size::fixed>::template make<Dimensions<V, K, Q, false, Size::fixed>>(job.V, job.K, job.Q);
    }
    SMNN_INLINE bool has_rhs() const { return job_.minimum || job_.wants_means(); }
    // Behind the last step of a segment.
    SMNN_INLINE int end(int k) const {
        return k + 1 < job_.segments() ? (k + 1) * job_.segment : job_.points - 1;
    }

    // From the point `from`, eliminated, through the point `to`; what steps leave is kept, from the first place on.
    SMNN_OUTLINE void eliminate(int from, int to, bool keep) {
        for (int t = from + 1; t <= to; ++t) {
            sweep_.advance(rows_.s(t), rows_.w_smoothness(t), keep ? left_ : nullptr);
            if (keep) save(job_.factor, t - 1 - from, sizes_.entries(), left_);
            sweep_.absorb(rows_, t, job_.Q, has_rhs());
        }
    }

    // From point t+1 to t, over the step in this place.
    SMNN_INLINE void back_to(int t, int place) {
        const int n = sizes_.n, steps = job_.points - 1;
        load(job_.factor, place, sizes_.entries(), left_);
        double of_s, of_w;
        if (job_.wants_means()) {
            sweep_.back_mean(left_);
            if (job_.of_minimum[S] || job_.of_minimum[W_SMOOTHNESS]) {
                sweep_.minimum_of_step(left_, &of_s, &of_w);
                write(&of_s, 1, job_.of_minimum[S], steps, t);
                write(&of_w, 1, job_.of_minimum[W_SMOOTHNESS], steps, t);
            }
        }
        if (job_.wants_covariances()) {
            const bool of_step = job_.of_determinant[S] || job_.of_determinant[W_SMOOTHNESS];
            sweep_.back(left_, of_step);
            if (job_.lag) {
                sweep_.lag_covariance(result_);
                write(result_, n * n, job_.lag, steps, t);
            }
            if (of_step) {
                sweep_.of_step(left_, of_s, of_w);
                write(&of_s, 1, job_.of_determinant[S], steps, t);
                write(&of_w, 1, job_.of_determinant[W_SMOOTHNESS], steps, t);
            }
            sweep_.reduce();
        }
        write_point(t);
    }

    // What is wanted of point t.
    SMNN_OUTLINE void write_point(int t) {
        const int n = sizes_.n;
        if (job_.covariance) {
            sweep_.covariance(result_);
            write(result_, n * n, job_.covariance, job_.points, t);
        }
        if (job_.variance) {
            sweep_.variance(result_);
            write(result_, n, job_.variance, job_.points, t);
        }
        if (job_.wants_means()) write_of_minimum(t);
        if (job_.any_of(job_.of_determinant)) write_of_determinant(t);
    }

    // The derivatives of the minimum in the rows of a point: 2 W r (W dr + dW r) with r = d - A y.
    SMNN_INLINE void write_of_minimum(int t) {
        const int n = sizes_.n;
        for (int q = 0; q < job_.Q; ++q) {
            double r = rows_.b(t, q);
            for (int j = 0; j < n; ++j) r -= rows_.c(t, q, j) * sweep_.y(j, 0);
            of_row(r, rows_.w_equation(t, q), q);
            for (int j = 0; j < n; ++j) result_[q * n + j] = -of_rhs_[q] * sweep_.y(j, 0);
        }
        write(result_, job_.Q * n, job_.of_minimum[C], job_.points, t);
        write(of_rhs_, job_.Q, job_.of_minimum[B], job_.points, t);
        write(of_weights_, job_.Q, job_.of_minimum[W_EQUATION], job_.points, t);
        if (!rows_.has_initial(t)) return;
        const int initial = job_.V * job_.R_init;
        for (int i = 0; i < initial; ++i) {
            const int v = i / job_.R_init, r = i % job_.R_init;
            of_row(rows_.u(t, v, r) - sweep_.y(v * K + r, 0), rows_.w_initial(t, v, r), i);
        }
        write(of_rhs_, initial, job_.of_minimum[U], job_.T_init, t);
        write(of_weights_, initial, job_.of_minimum[W_INITIAL], job_.T_init, t);
    }
    SMNN_INLINE void of_row(double r, double w, int i) {
        of_weights_[i] = 2 * w * r * r;
        of_rhs_[i] = 2 * w * w * r;
    }

    // Those of log det M.
    SMNN_INLINE void write_of_determinant(int t) {
        const int n = sizes_.n;
        for (int q = 0; q < job_.Q; ++q) {
            double *const of_c = result_ + q * n, w = rows_.w_equation(t, q);
            of_weights_[q] = 2 * w * sweep_.times_covariance([&](int j) SMNN_LAMBDA { return rows_.c(t, q, j); }, of_c);
            for (int j = 0; j < n; ++j) of_c[j] *= 2 * w * w;
        }
        write(result_, job_.Q * n, job_.of_determinant[C], job_.points, t);
        write(of_weights_, job_.Q, job_.of_determinant[W_EQUATION], job_.points, t);
        if (!rows_.has_initial(t)) return;
        sweep_.variance(result_);
        for (int i = 0; i < job_.V * job_.R_init; ++i) {
            const int v = i / job_.R_init, r = i % job_.R_init;
            of_weights_[i] = 2 * rows_.w_initial(t, v, r) * result_[v * K + r];
        }
        write(of_weights_, job_.V * job_.R_init, job_.of_determinant[W_INITIAL], job_.T_init, t);
    }

    SMNN_INLINE void write_sums() {
        const double log = 2 * sweep_.determinant.sum();
        write(&log, 1, job_.log_determinant, 1, 0);
        write(sweep_.minimum, 1, job_.minimum, 1, 0);
    }

    // count numbers of point t, to an array (batch, times, count), where it is wanted
    SMNN_INLINE void write(const double* from, int count, double* to, int times, int t) const {
        if (!to) return;
        const bool bad = job_.systems.bad[system_] != 0;
        to += (system_ * times + t) * count;
        for (int i = 0; i < count; ++i) to[i] = bad ? not_a_number<double>() : from[i];
    }
    // Numbers of this thread, to and from the k-th place of an array (places, count, threads).
    SMNN_INLINE void save(double* to, int k, int count, const double* from) const {
        store(to, Index(k) * count * job_.threads + thread_, count, job_.threads, from);
    }
    SMNN_INLINE void load(const double* from, int k, int count, double* to) const {
        smnn::SMNN_LEVEL::load(from, Index(k) * count * job_.threads + thread_, count, job_.threads, to);
    }
};

}  // namespace SMNN_LEVEL
}  // namespace smnn

extern "C" __global__ void __launch_bounds__(SMNN_BLOCK)
    smnn_moments(const __grid_constant__ smnn::SMNN_LEVEL::MomentsJob job) {
    using namespace smnn::SMNN_LEVEL;
    double workspace[WORKSPACE];
    const Index thread = Index(blockIdx.x) * blockDim.x + threadIdx.x;
    if (thread >= job.threads) return;
    for (Index system = thread; system < job.systems.count; system += job.threads) {
        MomentsOfSystem(job, system, thread, workspace).run();
    }
}
