#include "engine.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>

#include "levels.hpp"
#include "threads.hpp"

namespace smnn {

namespace {

// A factor of a group of lanes up to this size stays in the second level of cache: the adjoint eliminates again rather than
// reading it back from memory.
constexpr size_t CACHED_BYTES = size_t(400) << 10;

// Chunks: the cost of a step relative to one of an undivided sweep, of a separator relative to a step of a pack, and the
// fewest points of a chunk. Measured, n = 3 and 9.
constexpr double CHUNKED_COST = 2.2, SEPARATOR_COST = 1.5;
constexpr int SHORTEST_CHUNK = 8;

// Below this many steps of packs, times n^2, threads cost more than they bring.
constexpr double WORTH_THREADS = 2500;

Index product(const std::vector<Index>& shape) {
    Index result = 1;
    for (Index size : shape) result *= size;
    return result;
}

struct Division {
    int C;
    int threads;
};

Division divide(Index batch, int T, int n, int W) {
    const int threads = max_threads();
    const double packs = std::ceil(double(batch) / W);
    if (packs * T * n * n < WORTH_THREADS && batch >= W) return {1, 1};
    Division best{1, threads};
    double least = std::ceil(packs / threads) * T;
    const Index most = std::min<Index>({T / SHORTEST_CHUNK, Index(2) * W * threads / std::max<Index>(batch, 1), 4096});
    for (int C = 2; C <= most; ++C) {
        const double rounds = std::ceil(std::ceil(double(batch) * C / W) / threads);
        const double systems = std::ceil(double(batch) / threads);
        const double cost = rounds * (T / C + 1) * CHUNKED_COST + systems * C * SEPARATOR_COST;
        if (cost < least) {
            least = cost;
            best.C = C;
        }
    }
    if (least * n * n < WORTH_THREADS) best.threads = 1;
    return best;
}

// A view seen as (batch..., time, inner...): strides, 0 where it is broadcast.
struct Layout {
    std::vector<Index> batch, offsets;
    Index time = 0;
    bool shared = true, contiguous = false;
    int inner = 1;
};

Layout lay_out(const View& view, const std::vector<Index>& batch, Index time, const std::vector<Index>& inner) {
    std::vector<Index> full = batch;
    full.push_back(time);
    full.insert(full.end(), inner.begin(), inner.end());
    if (view.shape.size() > full.size()) throw std::invalid_argument("an array has more axes than the problem");
    std::vector<Index> strides(full.size(), 0);
    const size_t missing = full.size() - view.shape.size();
    for (size_t i = 0; i < view.shape.size(); ++i) {
        const Index size = view.shape[i], wanted = full[i + missing];
        if (size != wanted && size != 1) throw std::invalid_argument("an array does not broadcast to the problem");
        strides[i + missing] = size == 1 ? 0 : view.strides[i];
    }
    Layout layout;
    layout.batch.assign(strides.begin(), strides.begin() + long(batch.size()));
    for (size_t i = 0; i < batch.size(); ++i) layout.shared = layout.shared && (layout.batch[i] == 0 || batch[i] == 1);
    layout.time = strides[batch.size()];
    layout.offsets = {0};
    for (size_t i = 0; i < inner.size(); ++i) {
        std::vector<Index> next;
        for (Index offset : layout.offsets) {
            for (Index k = 0; k < inner[i]; ++k) next.push_back(offset + k * strides[batch.size() + 1 + i]);
        }
        layout.offsets = std::move(next);
    }
    const Index count = Index(layout.offsets.size());
    layout.contiguous = layout.time == count || (layout.time == 0 && count > 0);
    for (Index e = 0; e < count; ++e) layout.contiguous = layout.contiguous && layout.offsets[size_t(e)] == e;
    return layout;
}

struct Axes {
    Index time;
    std::vector<Index> inner;
};

Axes axes(const Shape& s, Field field) {
    switch (field) {
        case C: return {s.T, {s.Q, s.V, s.K}};
        case B:
        case W_EQUATION: return {s.T, {s.Q}};
        case S:
        case W_SMOOTHNESS: return {s.T - 1, {}};
        case U:
        case W_INITIAL: return {s.T_init, {s.V, s.R_init}};
        case SMOOTHNESS_RHS: return {s.T - 1, {s.V, 2 * s.K}};
        default: return {s.T, {s.V, s.K}};
    }
}

// Everything that a job points to.
class Call {
   public:
    Job job{};
    Kernels kernels;
    int threads;

    Call(const Shape& shape, const Scheme& scheme, const Arrays& arrays, const View& undetermined, int C_of_factor)
        : kernels(level().find(shape.V, shape.K, shape.Q, scheme.extra_rows(), shape.is_double)), shape_(shape) {
        job.V = shape.V;
        job.K = shape.K;
        job.Q = shape.Q;
        job.n = shape.V * shape.K;
        job.T = shape.T;
        job.T_init = shape.R_init > 0 ? shape.T_init : 0;
        job.R_init = shape.R_init;
        job.batch = product(shape.batch);
        job.n_batch_axes = int(shape_.batch.size());
        job.batch_shape = shape_.batch.data();
        const Division division = divide(job.batch, shape.T, job.n, kernels.lanes);
        threads = division.threads;
        job.C = C_of_factor > 0 ? C_of_factor : division.C;
        job.lanes = job.batch * job.C;
        job.groups = (job.lanes + kernels.lanes - 1) / kernels.lanes;
        job.tasks = job.groups;
        set_scheme(scheme);
        for (int f = 0; f < FIELDS; ++f) set_input(Field(f), arrays[size_t(f)]);
        const Layout flags = lay_out(undetermined, shape_.batch, shape_.T, {});
        undetermined_ = flags.batch;
        undetermined_.push_back(flags.time);
        job.undetermined = static_cast<unsigned char*>(undetermined.data);
        job.undetermined_strides = undetermined_.data();
        job.any_undetermined = &any_undetermined_;
    }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

    // Whether all systems have the same left-hand side, and are enough to fill packs of their own.
    bool shares_lhs() const {
        if (chunked() || job.batch < kernels.lanes || job.batch < 2) return false;
        for (Field f : {C, W_EQUATION, S, W_SMOOTHNESS, W_INITIAL}) {
            if (!job.in[f].shared) return false;
        }
        return true;
    }

    bool any_undetermined() const { return any_undetermined_ != 0; }
    bool chunked() const { return job.C > 1; }

    void run(int phases) {
        const size_t scratch = kernels.sizes(job, phases).scratch;
        parallel_for(job.tasks, threads, [&](Index task) { kernels.run(job, phases, task, thread_scratch(scratch)); });
    }
    void reduce(bool normal) {
        const size_t scratch = size_t(5 * job.n * job.n + 5 * job.n) * 8;
        parallel_for(job.batch, threads, [&](Index system) {
            (normal ? kernels.reduce_normal : kernels.reduce)(job, system, thread_scratch(scratch));
        });
    }

    const Layout& layout(Field f) const { return layouts_[size_t(f)]; }
    const Shape& shape() const { return shape_; }
    size_t item() const { return shape_.is_double ? 8 : 4; }

   private:
    Shape shape_;
    std::array<Layout, FIELDS> layouts_;
    std::vector<Index> undetermined_;
    std::vector<char> constants_;
    int any_undetermined_ = 0;

    void set_input(Field f, const View& view) {
        if (!view.data) return;
        const Axes a = axes(shape_, f);
        Layout& layout = layouts_[size_t(f)] = lay_out(view, shape_.batch, a.time, a.inner);
        Input& in = job.in[f];
        in.data = view.data;
        in.batch = layout.batch.data();
        in.time = layout.time;
        in.offsets = layout.offsets.data();
        in.count = int(layout.offsets.size());
        in.contiguous = layout.contiguous;
        in.shared = layout.shared;
    }

    void set_scheme(const Scheme& scheme) {
        const size_t width = size_t(2 * shape_.K);
        std::vector<double> values = scheme.rows;
        if (values.size() != width * width) throw std::invalid_argument("the scheme has the wrong size");
        for (size_t j = 0; j < width; ++j) {
            double sum = 0;
            for (size_t i = 0; i < width; ++i) sum += values[i * width + j] * values[i * width + j];
            values.push_back(sum);
        }
        constants_.resize(values.size() * 8);
        for (size_t i = 0; i < values.size(); ++i) {
            if (shape_.is_double) {
                std::memcpy(&constants_[i * 8], &values[i], 8);
            } else {
                const float x = float(values[i]);
                std::memcpy(&constants_[i * 4], &x, 4);
            }
        }
        job.extra_rows = scheme.extra_rows();
        job.scheme_rows = constants_.data();
        job.scheme_norm2 = constants_.data() + width * width * item();
        job.tolerance2 = scheme.tolerance * scheme.tolerance;
    }
};

// The buffers of one call, beyond those of the factor.
struct Work {
    Buffer z, ends, passed, separators;

    Work(Call& call, bool with_z) {
        const Sizes sizes = call.kernels.sizes(call.job, 0);
        const size_t groups = size_t(call.job.groups);
        if (with_z) {
            z = Buffer(groups * sizes.z);
            call.job.z = z.data();
        }
        if (!call.chunked()) return;
        ends = Buffer(groups * sizes.ends);
        passed = Buffer(groups * sizes.passed);
        separators = Buffer(size_t(call.job.batch) * size_t(call.job.C * call.job.n) * call.item());
        call.job.ends = ends.data();
        call.job.passed = passed.data();
        call.job.separators = separators.data();
    }
};

void use(Call& call, const Factor& factor) {
    call.job.factor = factor.factor.data();
    call.job.reduced = factor.reduced.data();
    call.job.tape = factor.tape.data();
}

// Eliminates the left-hand side that all systems share.
std::shared_ptr<Factor> make_shared_factor(Call& call) {
    const SharedSizes sizes = call.kernels.shared_sizes(call.job);
    auto factor = std::make_shared<Factor>();
    factor->batch = call.shape().batch;
    factor->C = 1;
    factor->factor = Buffer(sizes.factor);
    factor->tape = Buffer(sizes.tape);
    factor->bytes = sizes.factor + sizes.tape;
    use(call, *factor);
    call.kernels.record(call.job, thread_scratch(sizes.scratch));
    return factor;
}

// The factor's memory where it is to be kept, null where every task eliminates in its own scratch.
std::shared_ptr<Factor> make_factor(Call& call) {
    const Sizes sizes = call.kernels.sizes(call.job, 0);
    if (!call.chunked() && sizes.factor <= CACHED_BYTES) return nullptr;
    auto factor = std::make_shared<Factor>();
    const size_t bytes = size_t(call.job.groups) * sizes.factor;
    factor->batch = call.shape().batch;
    factor->C = call.job.C;
    factor->factor = Buffer(bytes);
    factor->bytes = bytes;
    if (call.chunked()) {
        const size_t reduced = size_t(call.job.batch) * size_t(call.job.C * 2 * call.job.n * call.job.n) * call.item();
        factor->reduced = Buffer(reduced);
        factor->bytes += reduced;
    }
    return factor;
}

const Factor* fitting(const Factor* factor, const Shape& shape) {
    return factor && factor->batch == shape.batch ? factor : nullptr;
}

// λ = M^-1 g, written where job.x says and, for the adjoint, contracted into gradients.
void solve_normal(Call& call, const Factor* factor, bool contract) {
    if (call.job.batch == 0) return;
    std::shared_ptr<Factor> own;
    int phases = FORWARD | BACK | (contract ? CONTRACT : 0);
    if (!factor && call.shares_lhs()) {
        own = make_shared_factor(call);
    } else if (!factor) {
        own = make_factor(call);
        phases |= SWEEP;
    }
    if (!factor) factor = own.get();
    if (factor) use(call, *factor);
    Work work(call, factor && !factor->tape);
    if (!call.chunked()) {
        call.run(phases);
        return;
    }
    if (phases & SWEEP) {
        call.run(SWEEP);
        call.reduce(false);
    }
    call.run(FORWARD);
    call.reduce(true);
    call.run(BACK);
    if (contract) call.run(CONTRACT);  // which looks at the λ of neighbouring chunks
}

// The sum of a gradient over the axes along which its field is broadcast.
template <class T>
void sum_to_field(const Call& call, Field f, const T* from, Index systems, Index repeats, Index times, View to) {
    const Axes a = axes(call.shape(), f);
    const Layout layout = lay_out(to, call.shape().batch, a.time, a.inner);
    const Index count = Index(layout.offsets.size()), size = product(to.shape);
    const std::vector<Index>& batch = call.shape().batch;
    std::vector<double> sums(size_t(size), 0.0);
    for (Index b = 0; b < systems; ++b) {
        Index offset = 0, rest = b;
        for (size_t axis = batch.size(); axis-- > 0;) {
            offset += rest % batch[axis] * layout.batch[axis];
            rest /= batch[axis];
        }
        for (Index r = 0; r < repeats; ++r) {
            for (Index t = 0; t < times; ++t) {
                for (Index e = 0; e < count; ++e) {
                    sums[size_t(offset + t * layout.time + layout.offsets[size_t(e)])] += double(*from++);
                }
            }
        }
    }
    for (Index i = 0; i < size; ++i) static_cast<T*>(to.data)[i] = T(sums[size_t(i)]);
}

// How the gradient of a field is gathered, and its way into the array of the caller.
class GradientOf {
   public:
    GradientOf(Call& call, Field field, const View& to) : call_(call), field_(field), to_(to) {
        const Axes a = axes(call.shape(), field);
        const Layout layout = lay_out(to, call.shape().batch, a.time, a.inner);
        const Index count = Index(layout.offsets.size()), batch = call.job.batch;
        Output& out = call.job.gradient[field];
        const bool per_point = field != U && field != W_INITIAL;
        times_ = a.time;
        if (batch > 0 && product(to.shape) == batch * a.time * count) {
            out = {to.data, Gather::PER_SYSTEM};
            direct_ = true;
            return;
        }
        if (per_point && layout.time == 0 && a.time > 1) {
            out.gather = Gather::OVER_TIME;
            systems_ = batch;
            repeats_ = call.job.C;
            times_ = 1;
        } else if (per_point && layout.shared && batch > 1) {
            out.gather = Gather::OVER_BATCH;
            systems_ = 1;
            repeats_ = call.job.tasks = std::min<Index>(call.job.groups, MOST_TASKS);
            by_task_ = true;
        } else {
            out.gather = Gather::PER_SYSTEM;
            systems_ = batch;
        }
        count_ = count;
    }

    // (once the number of tasks is known)
    void allocate() {
        if (direct_) return;
        if (by_task_) repeats_ = call_.job.tasks;
        const size_t bytes = size_t(systems_ * repeats_ * times_ * count_) * call_.item();
        buffer_ = Buffer(bytes);
        if (bytes) std::memset(buffer_.data(), 0, bytes);
        call_.job.gradient[field_].data = buffer_.data();
    }

    void finish() {
        if (direct_) return;
        if (call_.shape().is_double) {
            sum_to_field(call_, field_, static_cast<const double*>(buffer_.data()), systems_, repeats_, times_, to_);
        } else {
            sum_to_field(call_, field_, static_cast<const float*>(buffer_.data()), systems_, repeats_, times_, to_);
        }
    }

   private:
    static constexpr Index MOST_TASKS = 16;
    Call& call_;
    Field field_;
    View to_;
    Index systems_ = 0, repeats_ = 1, times_ = 0, count_ = 0;
    bool direct_ = false, by_task_ = false;
    Buffer buffer_;
};

}  // namespace

Solved solve(const Shape& shape, const Scheme& scheme, const Arrays& arrays, const View& undetermined, void* y) {
    Call call(shape, scheme, arrays, undetermined, 0);
    if (call.job.batch == 0) return {nullptr, false};
    call.job.has_rhs = y != nullptr;
    call.job.x = y;
    const bool shared = call.shares_lhs();
    auto factor = shared ? make_shared_factor(call) : make_factor(call);
    if (factor) use(call, *factor);
    Work work(call, factor && !shared);
    if (shared && !y) return {factor, call.any_undetermined()};
    if (!call.chunked()) {
        call.run(y ? SWEEP | BACK : SWEEP);
    } else {
        call.run(SWEEP);
        call.reduce(false);
        if (y) call.run(BACK);
    }
    return {factor, call.any_undetermined()};
}

void normal_solve(
    const Shape& shape, const Scheme& scheme, const Arrays& arrays, const View& undetermined, const Factor* factor, void* x
) {
    factor = fitting(factor, shape);
    Call call(shape, scheme, arrays, undetermined, factor ? factor->C : 0);
    call.job.x = x;
    solve_normal(call, factor, false);
}

void adjoint(
    const Shape& shape, const Scheme& scheme, const Arrays& arrays, const View& undetermined, const Factor* factor,
    const Arrays& gradients
) {
    factor = fitting(factor, shape);
    Call call(shape, scheme, arrays, undetermined, factor ? factor->C : 0);
    std::vector<GradientOf> out;
    out.reserve(SMOOTHNESS_RHS);
    for (int f = C; f < SMOOTHNESS_RHS; ++f) out.emplace_back(call, Field(f), gradients[size_t(f)]);
    for (GradientOf& gradient : out) gradient.allocate();
    solve_normal(call, factor, true);
    for (GradientOf& gradient : out) gradient.finish();
}

Plan plan(const Shape& shape) {
    const Kernels kernels = level().find(shape.V, shape.K, shape.Q, false, shape.is_double);
    const Division division = divide(product(shape.batch), shape.T, shape.V * shape.K, kernels.lanes);
    return {division.C, kernels.lanes, division.threads, kernels.compiled_for_size};
}

}  // namespace smnn
