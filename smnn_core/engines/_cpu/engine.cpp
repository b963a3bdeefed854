#include "engine.hpp"

#include <cstdint>
#include <cstring>

#include "gradients.hpp"
#include "plan.hpp"

namespace smnn {

namespace {

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
        const GroupMemory sizes = plan.kernels.sizes(plan.job, 0);
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
    plan.job.keeps_factor = true;
    plan.job.factor = factor.factor.data();
    plan.job.reduced = factor.reduced.data();
    plan.job.separator_entries = factor.separator_entries;
    if (!plan.job.taped) return;
    plan.job.checkpoints = factor.checkpoints.data();
}

// A factor is kept, whole, where a caller asks for it (ALWAYS); for the way back of a solve, and its adjoint, (IF_WORTH) where it
// stays in caches, or where elimination takes longer than memory and it is no more than seven times inputs that vary with batch
// and time. Undivided lanes of one segment have theirs in the second level of cache.
enum class Retain { ALWAYS, IF_WORTH, NEVER };
constexpr size_t CACHES = size_t(8) << 20;

bool is_worth_keeping(const Plan& plan, size_t bytes, Retain retain) {
    if (retain != Retain::IF_WORTH || is_short(plan)) return retain == Retain::ALWAYS;
    const Job& job = plan.job;
    const size_t inputs = size_t(job.batch) * size_t(job.T * (job.Q * job.n + job.Q + 1)) * plan.item();
    return bytes <= CACHES || (!plan.kernels.are_compiled && bytes <= 7 * inputs);
}

// Memory for the factor, of all groups; null where it is not kept.
std::shared_ptr<Factor> make_factor(Plan& plan, Retain retain) {
    plan.job.keeps_factor = true;
    const GroupMemory kept = plan.kernels.sizes(plan.job, 0);
    const size_t groups = size_t(plan.job.groups);
    plan.job.keeps_factor = is_worth_keeping(plan, groups * kept.factor, retain);
    if (!plan.job.keeps_factor) return nullptr;
    auto factor = std::make_shared<Factor>();
    factor->batch = plan.problem.batch;
    factor->C = plan.job.C;
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
        own = make_factor(plan, contract || is_short(plan) ? Retain::NEVER : Retain::IF_WORTH);
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

Outcome solve(const ProblemSpec& problem, void* y, bool recompute) {
    Plan plan(problem, 0, y != nullptr);
    if (plan.job.batch == 0) return plan.solved(nullptr);
    plan.job.has_rhs = y != nullptr;
    plan.job.x = y;
    set_taped(plan, y && !recompute && plan.job.m == 1);
    auto factor = make_factor(plan, !y ? Retain::ALWAYS : recompute ? Retain::NEVER : Retain::IF_WORTH);
    if (!factor) set_taped(plan, false);
    if (factor) use(plan, *factor);
    Work work(plan, factor != nullptr);
    plan.run(y && !plan.chunked() ? SWEEP | BACK : SWEEP);
    if (plan.chunked()) {
        plan.reduce();
        if (y) plan.run(BACK);
    }
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

Found adjoint(const ProblemSpec& problem, const Factor* factor, const View& y, const View& g, const Gradients& gradients) {
    factor = fitting(factor, problem);
    if (factor && !factor->checkpoints.data()) factor = nullptr;
    Plan plan(problem, factor ? factor->C : 0);
    plan.set_input(Y, y);
    plan.set_input(G, g);
    std::vector<GradientOf> out = gradients_of(plan, gradients, plan.job.gradient);
    solve_normal(plan, factor, true);
    for (GradientOf& gradient : out) gradient.finish();
    return {plan.any_undetermined(), plan.any_nan()};
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

Outcome moments(
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
    std::vector<double> sums(size_t((job.lanes + job.batch) * (1 + job.m)));
    job.sums = sums.data();
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
