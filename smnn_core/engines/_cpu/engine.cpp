#include "engine.hpp"

#include <cstdint>
#include <cstring>

#include "call.hpp"
#include "gradients.hpp"

namespace smnn {

namespace {

// A factor up to this size is kept whole: memory of so few bytes is nobody's concern.
constexpr size_t SMALL_BYTES = size_t(1) << 19;
// Lanes that stay in the second level of cache are eliminated again faster than a factor larger than this is written and read
// back: it would not stay there from one call to the next.
constexpr size_t NEAR_BYTES = size_t(2) << 20;
// What a call needs beside factor, solution and gradients, as a rule; its code counts too, from the first time it runs.
constexpr double ELSE_BYTES = 400e3;
// A factor larger than this is written past the caches.
constexpr size_t STREAMED_BYTES = size_t(16) << 20;

// Whether undivided lanes are one segment, which stays in the second level of cache.
bool is_short(const Call& call) {
    return !call.chunked() && call.kernels.sizes(call.job, 0).segments == 1;
}

// The buffers of one call, beyond those of the factor.
struct Work {
    Buffer z, checkpoints, ends, passed, reduced, separators, rough;

    Work(Call& call, bool with_factor) {
        const Sizes sizes = call.kernels.sizes(call.job, 0);
        const size_t groups = size_t(call.job.groups);
        const Index columns = call.job.contracts ? ADJOINT_COLUMNS : call.job.m;
        if (call.chunked() || (with_factor && !call.job.contracts && !is_short(call))) {
            z = Buffer(groups * sizes.z);
            call.job.z = z.data();
        }
        if (!call.chunked()) return;
        checkpoints = Buffer(groups * sizes.checkpoints);
        ends = Buffer(groups * sizes.ends);
        passed = Buffer(groups * sizes.passed);
        const size_t column = size_t(call.job.batch) * size_t(call.job.C * call.job.n) * call.item();
        separators = Buffer(column * size_t(columns));
        if (call.job.contracts) std::memset(separators.data(), 0, column * size_t(columns));
        rough = Buffer(size_t(call.job.batch));
        std::memset(rough.data(), 0, size_t(call.job.batch));
        call.job.rough = static_cast<unsigned char*>(rough.data());
        if (!call.job.reduced) {
            reduced = Buffer(column * size_t(call.job.m * 2 * call.job.n));
            call.job.reduced = reduced.data();
        }
        call.job.checkpoints = checkpoints.data();
        call.job.ends = ends.data();
        call.job.passed = passed.data();
        call.job.separators = separators.data();
    }
};

void use(Call& call, const Factor& factor) {
    call.job.n_again = factor.n_again;
    call.job.factor = factor.factor.data();
    call.job.reduced = factor.reduced.data();
    call.job.factor_is_far = factor.bytes > FAR_BYTES;
}

// What of a factor is kept: all of it, where it is itself what is wanted; as much as the memory of a solve and its adjoint
// allows, at most six times that of inputs which vary with batch and time; nothing.
enum class Keep { ALL, SOME, NONE };

// Segments, the first ones, that are eliminated again rather than kept.
int segments_again(const Call& call, const Sizes& whole, Keep keep) {
    const Job& job = call.job;
    const size_t bytes = size_t(job.groups) * whole.factor;
    const size_t most_kept = is_short(call) ? NEAR_BYTES : call.kernels.are_fast ? FAR_BYTES : SIZE_MAX;
    if (keep == Keep::NONE || (keep == Keep::SOME && bytes > most_kept)) return whole.segments;
    if (keep == Keep::ALL || bytes <= SMALL_BYTES) return 0;
    // numbers per time point: six times the inputs, less the gradients, the solution, and what an adjoint keeps of chunks;
    // and some memory for all else
    const int inputs = job.Q * job.n + job.Q + 1, allowed = 5 * inputs - job.n - (call.chunked() ? ADJOINT_COLUMNS : 1) * job.n;
    const double all = double(job.groups) * double(whole.factor), most = all * allowed / whole.entries;
    // (lanes in several segments need room for one of them besides, and for the code that eliminates again)
    const double fraction = whole.segments > 1 ? 0.3 : 0.15;
    const double by_inputs = (most - std::min(fraction * most, ELSE_BYTES + 0.03 * most)) / all * whole.points;
    // and no more than a quarter of the machine's memory
    const double by_machine = 4 * double(pool_bytes()) / all * whole.points;
    const double points = std::min(by_inputs, by_machine);
    int again = 0;
    while (again < whole.segments && whole.points - again * whole.segment > points) ++again;
    return again;
}

// The factor's memory, for all tasks; null where nothing of it is kept.
std::shared_ptr<Factor> make_factor(Call& call, Keep keep) {
    const Sizes whole = call.kernels.sizes(call.job, 0);
    const int again = call.job.n_again = segments_again(call, whole, keep);
    if (again == whole.segments) return nullptr;
    auto factor = std::make_shared<Factor>();
    const size_t bytes = size_t(call.job.groups) * call.kernels.sizes(call.job, 0).factor;
    factor->batch = call.shape().batch;
    factor->C = call.job.C;
    factor->n_again = again;
    factor->factor = Buffer(bytes);
    factor->bytes = bytes;
    const bool is_far = bytes > FAR_BYTES;
    call.job.arrays_are_far = call.job.arrays_are_far || is_far;
    call.job.streams = bytes > STREAMED_BYTES;
    if (call.chunked()) {
        const size_t reduced = size_t(call.job.batch * call.job.m) * size_t(call.job.C * 2 * call.job.n * call.job.n) * call.item();
        factor->reduced = Buffer(reduced);
        factor->bytes += reduced;
    }
    return factor;
}

const Factor* fitting(const Factor* factor, const Shape& shape) {
    return factor && factor->batch == shape.batch ? factor : nullptr;
}

// λ = M^-1 g, written where job.x says and, for the adjoint, contracted into gradients.
void solve_normal(Call& call, const Factor* factor, bool contract, Keep keep) {
    if (call.job.batch == 0) return;
    std::shared_ptr<Factor> own;
    int phases = FORWARD | BACK | (contract ? RESIDUAL | REFINE | CONTRACT : 0);
    call.job.contracts = contract;
    if (!factor) {
        own = make_factor(call, is_short(call) ? Keep::NONE : keep);
        phases |= SWEEP;
    }
    if (!factor) factor = own.get();
    if (factor) use(call, *factor);
    Work work(call, factor);
    if (!call.chunked()) {
        call.run(phases);
        return;
    }
    call.run(phases & (SWEEP | FORWARD));
    if (phases & SWEEP) call.reduce();
    call.reduce_normal(0);
    call.run(phases & (BACK | RESIDUAL));
    if (!contract) return;
    call.run(REFINE);
    for (int c = 1; c < ADJOINT_COLUMNS; ++c) call.reduce_normal(c);
    call.run(CONTRACT);
}

// What refinement has changed, of each system; empty where that is little.
std::vector<double> changes_of(const Job& job) {
    std::vector<double> changes(size_t(job.batch));
    bool any_large = false;
    for (Index i = 0; i < job.batch; ++i) {
        double largest[SIZES] = {};
        for (Index k = 0; k < job.C * SIZES; ++k) {
            double& to = largest[k % SIZES];
            to = std::max(to, job.sizes[i * job.C * SIZES + k]);
        }
        const auto ratio = [&](SizeOf of) { return largest[SIZES_OF_CHANGES + of] / largest[of]; };
        const double of_rows = std::fmax(std::fmax(ratio(SIZE_IN_EQUATIONS), ratio(SIZE_IN_STEPS)), 1);
        changes[size_t(i)] = ratio(SIZE_OF_LAMBDA) * of_rows;  // (not a number where nothing was refined)
        any_large = any_large || changes[size_t(i)] > LARGEST_CHANGE;
    }
    if (!any_large) changes.clear();
    return changes;
}

}  // namespace

Solved solve(
    const Shape& shape, const Scheme& scheme, const Arrays& arrays, void* y, bool recompute
) {
    Call call(shape, scheme, arrays, 0, y != nullptr);
    if (call.job.batch == 0) return call.solved(nullptr);
    call.job.has_rhs = y != nullptr;
    call.job.x = y;
    auto factor = make_factor(call, !y ? Keep::ALL : recompute ? Keep::NONE : Keep::SOME);
    if (factor) use(call, *factor);
    Work work(call, factor != nullptr);
    const auto run = [&] {
        if (!call.chunked()) return call.run(y ? SWEEP | BACK : SWEEP);
        call.run(SWEEP);
        call.reduce();
        if (y) call.run(BACK);
    };
    run();
    // (what is laid out for many right-hand sides serves no other call)
    return call.solved(call.job.m > 1 ? nullptr : factor);
}

bool find_undetermined(const Shape& shape, const Scheme& scheme, const Arrays& arrays, const View& undetermined) {
    Call call(shape, scheme, arrays, 1);
    if (call.job.batch > 0) call.test_pivots(undetermined);
    return call.any_undetermined();
}

bool normal_solve(
    const Shape& shape, const Scheme& scheme, const Arrays& arrays, const Factor* factor, void* x
) {
    factor = fitting(factor, shape);
    Call call(shape, scheme, arrays, factor ? factor->C : 0);
    call.job.x = x;
    solve_normal(call, factor, false, Keep::SOME);
    return call.any_undetermined();
}

Pulled adjoint(
    const Shape& shape, const Scheme& scheme, const Arrays& arrays, const Factor* factor,
    const Arrays& gradients, bool recompute
) {
    factor = fitting(factor, shape);
    Call call(shape, scheme, arrays, factor ? factor->C : 0);
    std::vector<GradientOf> out;
    out.reserve(SMOOTHNESS_RHS);
    for (int f = C; f < SMOOTHNESS_RHS; ++f) {
        if (gradients[size_t(f)].data) out.emplace_back(call, Field(f), gradients[size_t(f)]);
    }
    for (GradientOf& gradient : out) gradient.allocate();
    std::vector<double> sizes(size_t(call.job.lanes) * SIZES);
    call.job.sizes = sizes.data();
    solve_normal(call, factor, true, recompute ? Keep::NONE : Keep::SOME);
    for (GradientOf& gradient : out) gradient.finish();
    return {call.any_undetermined(), changes_of(call.job)};
}

void covariance(const Shape& shape, const Scheme& scheme, const Arrays& arrays, const Moments& wanted) {
    const bool of_lhs = wanted.covariance || wanted.lag || wanted.variance || wanted.gradient[0];
    Call call(shape, scheme, arrays, 1, false, !of_lhs && (wanted.minimum || wanted.residual[0]));
    if (call.job.batch == 0) return;
    // Systems with many right-hand sides are taken one by one, and so are few systems: most of a pack would be empty.
    CovarianceKernels kernels = level().covariances(call.job, false);
    if (call.job.m > 1 || 2 * call.job.batch < kernels.lanes) kernels = level().covariances(call.job, true);
    const Index groups = call.job.groups = (call.job.batch + kernels.lanes - 1) / kernels.lanes;
    const size_t scratch = kernels.scratch(call.job, wanted);
    const bool is_small = double(groups) * shape.T * call.job.n * call.job.n < WORTH_THREADS;
    parallel_for(groups, is_small ? 1 : max_threads(), [&](Index group) {
        if (scratch <= THREAD_SCRATCH) return kernels.run(call.job, wanted, group, thread_scratch(scratch));
        const Buffer room(scratch);
        kernels.run(call.job, wanted, group, room.data());
    });
}

}  // namespace smnn
