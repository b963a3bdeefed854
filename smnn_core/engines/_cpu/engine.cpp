#include "engine.hpp"

#include <cstdint>
#include <cstring>

#include "gradients.hpp"
#include "plan.hpp"

namespace smnn {

namespace {

// A factor up to this size is kept whole, whatever the size of the inputs.
constexpr size_t SMALL_BYTES = size_t(1) << 19;
// Memory of a call besides factor, solution and gradients, as a rule, with the pages of its code.
constexpr double OVERHEAD_BYTES = 400e3;

// True if undivided lanes are one segment, which stays in the second level of cache.
bool is_short(const Plan& plan) {
    return !plan.chunked() && plan.kernels.sizes(plan.job, 0).segments == 1;
}

// Says whether checkpoints of all segments and rotations of separators are kept.
void set_taped(Plan& plan, bool taped) {
    plan.job.taped = taped;
    plan.job.separator_entries = plan.kernels.separator_entries(plan.job);
}

// Bytes of what is kept of separators.
size_t reduced_bytes(const Plan& plan) {
    return size_t(plan.job.batch * plan.job.C * plan.job.separator_entries) * plan.item();
}

// The buffers of one call, beyond those of the factor.
struct Work {
    Buffer z, checkpoints, ends, passed, reduced, separators, multipliers, rough;

    Work(Plan& plan, bool with_factor) {
        const Sizes sizes = plan.kernels.sizes(plan.job, 0);
        const size_t groups = size_t(plan.job.groups);
        const Index columns = plan.job.contracts ? ADJOINT_COLUMNS : plan.job.m;
        if (plan.chunked() || (with_factor && !plan.job.contracts && !is_short(plan))) {
            z = Buffer(groups * sizes.z);
            plan.job.z = z.data();
        }
        if (!plan.chunked()) return;
        if (!plan.job.checkpoints) {
            checkpoints = Buffer(groups * sizes.checkpoints);
            plan.job.checkpoints = checkpoints.data();
        }
        ends = Buffer(groups * sizes.ends);
        passed = Buffer(groups * sizes.passed);
        const size_t column = size_t(plan.job.batch) * size_t(plan.job.C * plan.job.n) * plan.item();
        separators = Buffer(column * size_t(columns));
        if (plan.job.contracts) {
            std::memset(separators.data(), 0, column * size_t(columns));
            multipliers = Buffer(column * size_t(2 * MULTIPLIERS));
            plan.job.multipliers = multipliers.data();
        }
        rough = Buffer(size_t(plan.job.batch));
        std::memset(rough.data(), 0, size_t(plan.job.batch));
        plan.job.rough = static_cast<unsigned char*>(rough.data());
        if (!plan.job.reduced) {
            reduced = Buffer(reduced_bytes(plan));
            plan.job.reduced = reduced.data();
        }
        plan.job.ends = ends.data();
        plan.job.passed = passed.data();
        plan.job.separators = separators.data();
    }
};

void use(Plan& plan, const Factor& factor) {
    plan.job.n_recomputed = factor.n_recomputed;
    plan.job.factor = factor.factor.data();
    plan.job.reduced = factor.reduced.data();
    plan.job.separator_entries = factor.separator_entries;
    if (!plan.job.taped) return;
    plan.job.checkpoints = factor.checkpoints.data();
}

// How much of a factor is kept. ALL: it is the result. SOME: of lanes in several segments, as much as leaves the memory of a
// solve and its adjoint below six times that of inputs which vary with batch and time. NONE: nothing.
enum class Keep { ALL, SOME, NONE };

// Segments, the first ones, that are recomputed rather than kept.
int segments_to_recompute(const Plan& plan, const Sizes& whole, Keep keep) {
    const Job& job = plan.job;
    const size_t bytes = size_t(job.groups) * whole.factor, most_kept = plan.kernels.are_fast ? FAR_BYTES : SIZE_MAX;
    if (keep == Keep::NONE || (keep == Keep::SOME && (is_short(plan) || bytes > most_kept))) return whole.segments;
    if (keep == Keep::ALL || bytes <= SMALL_BYTES) return 0;
    // numbers per time point: six times the inputs, less the gradients, the solution, and what an adjoint keeps of chunks;
    // and some memory for all else
    const int inputs = job.Q * job.n + job.Q + 1;
    const int of_adjoint = plan.chunked() ? ADJOINT_COLUMNS * job.n + MULTIPLIERS * (job.Q + job.n) : job.n;
    const int allowed = 5 * inputs - job.n - of_adjoint;
    const double all = double(bytes), most = all * allowed / whole.entries;
    // (lanes in several segments need room for one of them besides, and for the code that recomputes)
    const double fraction = whole.segments > 1 ? 0.3 : 0.15;
    const double by_inputs = (most - std::min(fraction * most, OVERHEAD_BYTES + 0.03 * most)) / all * whole.points;
    // and no more than a quarter of the machine's memory
    const double by_machine = 4 * double(pool_bytes()) / all * whole.points;
    const double points = std::min(by_inputs, by_machine);
    int recomputed = 0;
    while (recomputed < whole.segments && whole.points - recomputed * whole.segment > points) ++recomputed;
    return recomputed;
}

// The factor's memory, of all groups; null where nothing of it is kept.
std::shared_ptr<Factor> make_factor(Plan& plan, Keep keep) {
    const Sizes whole = plan.kernels.sizes(plan.job, 0);
    const int recomputed = plan.job.n_recomputed = segments_to_recompute(plan, whole, keep);
    if (recomputed == whole.segments) return nullptr;
    auto factor = std::make_shared<Factor>();
    const Sizes kept = plan.kernels.sizes(plan.job, 0);
    const size_t groups = size_t(plan.job.groups);
    factor->batch = plan.problem.batch;
    factor->C = plan.job.C;
    factor->n_recomputed = recomputed;
    factor->factor = Buffer(groups * kept.factor);
    factor->separator_entries = plan.job.separator_entries;
    if (plan.job.taped) factor->checkpoints = Buffer(groups * kept.checkpoints);
    factor->bytes = groups * (kept.factor + (plan.job.taped ? kept.checkpoints : 0));
    if (plan.chunked()) {
        factor->reduced = Buffer(reduced_bytes(plan));
        factor->bytes += reduced_bytes(plan);
    }
    return factor;
}

const Factor* fitting(const Factor* factor, const ProblemSpec& problem) {
    return factor && factor->batch == problem.batch ? factor : nullptr;
}

// λ = M^-1 g, written where job.x says and, for the adjoint, contracted into gradients.
void solve_normal(Plan& plan, const Factor* factor, bool contract) {
    if (plan.job.batch == 0) return;
    std::shared_ptr<Factor> own;
    int phases = FORWARD | BACK | (contract ? REFINE | CONTRACT : 0);
    plan.job.contracts = plan.job.unwinds = plan.job.has_rhs = contract;
    set_taped(plan, contract);
    plan.job.has_checkpoints = contract && factor;
    if (!factor) {
        own = make_factor(plan, contract || is_short(plan) ? Keep::NONE : Keep::SOME);
        phases |= SWEEP;
    }
    if (!factor) factor = own.get();
    if (factor) use(plan, *factor);
    Work work(plan, factor);
    if (!plan.chunked()) {
        plan.run(phases);
        return;
    }
    plan.run(phases & (SWEEP | FORWARD));
    if (phases & SWEEP) plan.reduce();
    plan.reduce_normal(0);
    plan.run(BACK);
    if (!contract) return;
    plan.run(REFINE);
    plan.reduce_normal(1);
    plan.run(CONTRACT);
}

}  // namespace

Solved solve(const ProblemSpec& problem, void* y, bool recompute) {
    Plan plan(problem, 0, y != nullptr);
    if (plan.job.batch == 0) return plan.solved(nullptr);
    plan.job.has_rhs = y != nullptr;
    plan.job.x = y;
    set_taped(plan, y && !recompute && plan.job.m == 1);
    auto factor = make_factor(plan, !y ? Keep::ALL : recompute ? Keep::NONE : Keep::SOME);
    if (!factor) set_taped(plan, false);
    if (factor) use(plan, *factor);
    Work work(plan, factor != nullptr);
    const auto run = [&] {
        if (!plan.chunked()) return plan.run(y ? SWEEP | BACK : SWEEP);
        plan.run(SWEEP);
        plan.reduce();
        if (y) plan.run(BACK);
    };
    run();
    // (a factor that is laid out for many right-hand sides serves no other call)
    return plan.solved(plan.job.m > 1 ? nullptr : factor);
}

bool find_undetermined(const ProblemSpec& problem, unsigned char* undetermined) {
    Plan plan(problem, 1);
    if (plan.job.batch > 0) plan.test_pivots(undetermined);
    return plan.any_undetermined();
}

bool normal_solve(const ProblemSpec& problem, const Factor* factor, const View& g, void* x) {
    factor = fitting(factor, problem);
    Plan plan(problem, factor ? factor->C : 0);
    plan.set_input(G, g);
    plan.job.x = x;
    solve_normal(plan, factor, false);
    return plan.any_undetermined();
}

bool adjoint(const ProblemSpec& problem, const Factor* factor, const View& y, const View& g, const Gradients& gradients) {
    factor = fitting(factor, problem);
    if (factor && !factor->checkpoints.data()) factor = nullptr;
    Plan plan(problem, factor ? factor->C : 0);
    plan.set_input(Y, y);
    plan.set_input(G, g);
    std::vector<GradientOf> out;
    out.reserve(SMOOTHNESS_RHS);
    for (int f = C; f < SMOOTHNESS_RHS; ++f) {
        if (gradients[size_t(f)].data) out.emplace_back(plan, Field(f), gradients[size_t(f)], plan.job.gradient[f]);
    }
    solve_normal(plan, factor, true);
    for (GradientOf& gradient : out) gradient.finish();
    return plan.any_undetermined();
}

namespace {

// How the rows of a step change with it, see `Moments`: with S11 and S12 of the scheme and D = diag(o),
//
//     ρ = w (S11 S y[t-1] + S12 S y[t]),    s dρ/ds = w (S11 D S y[t-1] + S12 D S y[t])
//                                                   = S12 D S12^-1 ρ + w (S11 D - S12 D S12^-1 S11) S y[t-1],
//
// both upper triangular; the first column of the latter is zero, as that of D is.
class StepDerivatives {
   public:
    std::vector<double> of_rows, of_unknowns;

    explicit StepDerivatives(const ProblemSpec& problem)
        : of_rows(size_t(problem.K * problem.K)), of_unknowns(of_rows.size()) {
        const int K = problem.K;
        const auto S = [&](int i, int j) { return problem.scheme_rows[i * 2 * K + j]; };
        const auto E = [&](int i, int j) -> double& { return of_rows[size_t(i * K + j)]; };
        for (int i = 0; i < K; ++i) {
            for (int j = i; j < K; ++j) {
                double x = S(i, K + j) * j;
                for (int k = i; k < j; ++k) x -= E(i, k) * S(k, K + j);
                E(i, j) = x / S(j, K + j);
            }
            for (int j = 1; j < K; ++j) {
                double x = S(i, j) * j;
                for (int k = i; k <= j; ++k) x -= E(i, k) * S(k, j);
                of_unknowns[size_t(i * K + j)] = x;
            }
        }
    }
};

std::vector<GradientOf> gradients_of(Plan& plan, const Gradients& to, Output* out) {
    std::vector<GradientOf> all;
    all.reserve(SMOOTHNESS_RHS);
    for (int f = C; f < SMOOTHNESS_RHS; ++f) {
        const View& view = to[size_t(f)];
        if (view.data && product(view.shape, size_t(view.rank)) > 0) all.emplace_back(plan, Field(f), view, out[f]);
    }
    return all;
}

// log det M and the minima: sums over chunks and separators.
void sum_moments(const Plan& plan, const Moments& wanted) {
    const Job& job = plan.job;
    const Index stride = 1 + job.m;
    for (Index system = 0; system < job.batch; ++system) {
        for (int c = 0; c < job.m; ++c) {
            if (job.column_lhs && system % job.splits * job.m + c >= job.n_repeats) continue;
            double log = 0, minimum = 0;
            const auto add = [&](Index from) {
                log += job.sums[from * stride];
                minimum += job.sums[from * stride + 1 + c];
            };
            for (int k = 0; k < job.C; ++k) add(system * job.C + k);
            if (plan.chunked()) add(job.lanes + system);
            const Index number =
                job.column_lhs ? job.column_lhs[system / job.splits] + job.column_repeat[system % job.splits * job.m + c] : system;
            if (wanted.log_determinant) wanted.log_determinant[number] = log;
            if (wanted.minimum) wanted.minimum[number] = minimum;
        }
    }
}

}  // namespace

Solved moments(
    const ProblemSpec& problem, Moments wanted, const View& y, const Gradients& of_determinant, const Gradients& of_minimum
) {
    const bool of_unknowns = wanted.covariance || wanted.lag || wanted.variance;
    Plan plan(problem, 0, !of_unknowns, true);
    Job& job = plan.job;
    if (job.batch == 0) return plan.solved(nullptr);
    const StepDerivatives derivatives(problem);
    wanted.of_rows = derivatives.of_rows.data();
    wanted.of_unknowns = derivatives.of_unknowns.data();
    std::vector<GradientOf> gradients[] = {
        gradients_of(plan, of_determinant, wanted.of_determinant), gradients_of(plan, of_minimum, wanted.of_minimum),
    };
    plan.set_input(Y, y);
    job.moments = &wanted;
    job.unwinds = !gradients[0].empty() || !gradients[1].empty();
    job.has_rhs = problem.arrays[B].data;
    const bool goes_back = of_unknowns || job.unwinds;
    set_taped(plan, goes_back);
    const auto keep_nothing = [&](int phases) { job.n_recomputed = plan.kernels.sizes(job, phases).segments; };
    std::vector<double> sums(size_t((job.lanes + job.batch) * (1 + job.m)));
    job.sums = sums.data();
    keep_nothing(0);
    Work work(plan, false);
    if (!plan.chunked()) {
        plan.run(goes_back ? SWEEP | BACK : SWEEP);
    } else {
        const Buffer items(goes_back ? size_t(job.batch * plan.of_moments.item_entries(job)) * plan.item() : 0);
        job.items = static_cast<double*>(items.data());
        plan.run(SWEEP);
        plan.reduce();
        if (goes_back) {
            plan.find_items();
            job.checkpoints = nullptr;  // (those on the way back are others)
            keep_nothing(BACK);
            plan.run(BACK);
        }
    }
    sum_moments(plan, wanted);
    for (std::vector<GradientOf>& each : gradients) {
        for (GradientOf& gradient : each) gradient.finish();
    }
    return plan.solved(nullptr);
}

}  // namespace smnn
