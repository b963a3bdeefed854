// How a call is divided over lanes, chunks and threads, and where its arrays lie. Included by engine.cpp alone, so that what is
// defined here is compiled once, for no particular instruction set.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <stdexcept>
#include <vector>

#include "buffers.hpp"
#include "engine.hpp"
#include "isa_dispatch.hpp"
#include "scratch.hpp"
#include "threads.hpp"

namespace smnn {
namespace {

// Chunks: the cost of a lane's step relative to one of an undivided sweep, of a separator relative to a step of a pack, and
// the fewest points of a chunk. Rough: they depend on n and the processor, and matter where a batch nearly fills the lanes.
constexpr double CHUNKED_COST = 2, SEPARATOR_COST = 1.5;
constexpr int SHORTEST_CHUNK = 8;

// A thread keeps its scratch memory up to this size; beyond, it comes from the pool.
constexpr size_t THREAD_SCRATCH = size_t(4) << 20;

// Systems of fewer points than this, times the right-hand sides of their left-hand side, fill packs of their own. (Measured.)
constexpr Index SHORT_FOR_COLUMNS = 16;

// Below this many steps of packs, times n^2, threads cost more than they bring.
constexpr double WORTH_THREADS = 2500;

// The number of elements of an array: shape (rank).
Index product(const Index* shape, size_t rank) {
    Index result = 1;
    for (size_t i = 0; i < rank; ++i) result *= shape[i];
    return result;
}

struct Division {
    int C;
    int threads;
};

Division divide(Index batch, int T, int n, int W, int W_in_chunks) {
    const int threads = max_threads();
    const double packs = std::ceil(double(batch) / W);
    if (packs * T * n * n < WORTH_THREADS && batch >= W) return {1, 1};
    Division best{1, threads};
    double least = std::ceil(packs / threads) * T;
    const double step = CHUNKED_COST * W_in_chunks / W;
    const Index filled = Index(2) * W_in_chunks * threads / std::max<Index>(batch, 1);
    const Index most = std::min<Index>({T / SHORTEST_CHUNK, filled, 4096});
    for (int C = 2; C <= most; ++C) {
        const double rounds = std::ceil(std::ceil(double(batch) * C / W_in_chunks) / threads);
        const double systems = std::ceil(double(batch) / threads);
        const double cost = rounds * (T / C + 1) * step + systems * C * SEPARATOR_COST;
        if (cost < least) {
            least = cost;
            best.C = C;
        }
    }
    if (least * n * n < WORTH_THREADS) best.threads = 1;
    return best;
}

// work(memory), of at least that many bytes that nobody else has.
template <class Work>
void with_scratch(size_t bytes, Work work) {
    bytes += SMNN_LEVEL::GAPS;
    if (bytes <= THREAD_SCRATCH) return work(thread_scratch(bytes));
    const Buffer room(bytes);
    work(room.data());
}

// The axes of a field behind those of the batch.
struct Axes {
    Index time;
    int n_inner;
    std::array<Index, 3> inner;
};

Axes axes(const ProblemSpec& s, Field field) {
    switch (field) {
        case C: return {s.T, 3, {s.Q, s.V, s.K}};
        case B:
        case W_EQUATION: return {s.T, 1, {s.Q}};
        case S:
        case W_SMOOTHNESS: return {s.T - 1, 0, {}};
        case U:
        case W_INITIAL: return {s.T_init, 2, {s.V, s.R_init}};
        case SMOOTHNESS_RHS: return {s.T - 1, 2, {s.V, 2 * s.K}};
        default: return {s.T, 2, {s.V, s.K}};
    }
}

// Arrays of numbers for the time of a call.
using Numbers = std::vector<std::vector<Index>>;
Index* take(Numbers& numbers, size_t count) { return numbers.emplace_back(count).data(); }

// An array of a problem as kernels take it.
Input lay_out(const View& view, const std::vector<Index>& batch, const Axes& axes, Numbers& numbers) {
    const int n_batch = int(batch.size()), missing = n_batch + 1 + axes.n_inner - view.rank;
    if (missing < 0) throw std::invalid_argument("an array has more axes than the problem");
    const auto stride = [&](int axis, Index wanted) -> Index {
        if (axis < missing) return 0;
        const Index size = view.shape[axis - missing];
        if (size != wanted && size != 1) throw std::invalid_argument("an array does not broadcast to the problem");
        return size == 1 ? 0 : view.strides[axis - missing];
    };
    Index* const strides = take(numbers, batch.size());
    bool shared = true;
    for (int i = 0; i < n_batch; ++i) {
        strides[i] = stride(i, batch[size_t(i)]);
        shared = shared && (strides[i] == 0 || batch[size_t(i)] == 1);
    }
    const Index time = stride(n_batch, axes.time), count = product(axes.inner.data(), size_t(axes.n_inner));
    Index* const offsets = take(numbers, size_t(std::max<Index>(count, 1)));
    Index filled = 1;
    for (int i = 0; count > 0 && i < axes.n_inner; ++i) {
        const Index size = axes.inner[size_t(i)], step = stride(n_batch + 1 + i, size);
        for (Index e = filled * size; e-- > 0;) offsets[e] = offsets[e / size] + e % size * step;
        filled *= size;
    }
    bool contiguous = time == count || (time == 0 && count > 0);
    for (Index e = 0; e < count; ++e) contiguous = contiguous && offsets[e] == e;
    return {view.data, strides, time, offsets, int(count), contiguous, shared};
}

// The job of a call, and what it points to.
class Plan {
   public:
    Job job{};
    Kernels kernels;
    MomentsKernels of_moments{};  // if they are what is wanted
    int threads;

    // C_of_factor: the chunks of the factor that is used, 0 where there is none.
    Plan(const ProblemSpec& problem_, int C_of_factor, bool by_columns = false, bool moments = false) : problem(problem_) {
        job.V = problem.V;
        job.K = problem.K;
        job.Q = problem.Q;
        job.n = problem.V * problem.K;
        job.T = problem.T;
        job.T_init = problem.R_init > 0 ? problem.T_init : 0;
        job.R_init = problem.R_init;
        job.batch = product(problem.batch.data(), problem.batch.size());
        job.n_batch_axes = int(problem.batch.size());
        job.batch_shape = problem.batch.data();
        set_scheme();
        for (size_t f = 0; f < problem.arrays.size(); ++f) set_input(Field(f), problem.arrays[f]);
        const SharedLhs shared = find_shared_lhs();
        const bool columns = by_columns && (moments ? shared.n_repeats > 1 : is_worth_columns(shared));
        kernels = isa().find(problem.V, problem.K, problem.Q, job.scheme_is_upper, columns);
        if (moments) {
            of_moments = isa().moments(problem.V, problem.K, problem.Q, columns);
            kernels = of_moments.kernels;
        }
        job.m = 1;
        if (columns) {
            job.splits = (shared.n_repeats - 1) / MOST_COLUMNS + 1;
            job.n_repeats = shared.n_repeats;
            job.batch = shared.n_lhs * job.splits;
            job.m = int((shared.n_repeats - 1) / job.splits + 1);
            job.column_lhs = shared.lhs;
            job.column_repeat = shared.repeat;
        }
        const Division division = divide(job.batch, problem.T, job.n, kernels.lanes, kernels.lanes_in_chunks);
        threads = division.threads;
        job.C = C_of_factor > 0 ? C_of_factor : division.C;
        job.lanes = job.batch * job.C;
        const int lanes = chunked() ? kernels.lanes_in_chunks : kernels.lanes;
        job.groups = (job.lanes + lanes - 1) / lanes;
        job.any_undetermined = &any_undetermined_;
        job.any_nan = &any_nan_;
        extremes_.resize(size_t(job.groups * EXTREMES));
        for (Index i = 0; i < job.groups; ++i) extremes_[size_t(i * EXTREMES + SHORTEST_STEP)] = 1;
        job.extremes = extremes_.data();
    }
    Plan(const Plan&) = delete;
    Plan& operator=(const Plan&) = delete;

    Outcome solved(std::shared_ptr<Factor> factor) const {
        double shortest = 1, heaviest = 0;
        for (Index i = 0; i < job.groups; ++i) {
            shortest = std::min(shortest, job.extremes[i * EXTREMES + SHORTEST_STEP]);
            heaviest = std::max(heaviest, job.extremes[i * EXTREMES + HEAVIEST_EQUATION]);
        }
        return {std::move(factor), any_undetermined(), shortest, heaviest};
    }
    bool chunked() const { return job.C > 1; }
    bool any_undetermined() const { return any_undetermined_ != 0; }
    bool any_nan() const { return any_nan_ != 0; }

    void run(int phases) {
        const size_t scratch = kernels.sizes(job, phases).scratch;
        parallel_for(job.groups, threads, [&](Index group) {
            with_scratch(scratch, [&](void* memory) { kernels.run(job, phases, group, memory); });
        });
    }
    // The problem of the separators: that of a solve, or of M x = g for column c.
    void reduce() {
        const size_t scratch = kernels.reduce_scratch(job);
        parallel_for(job.batch, threads, [&](Index i) {
            with_scratch(scratch, [&](void* memory) { kernels.reduce(job, i, memory); });
        });
    }
    void reduce_normal(int c) {
        parallel_for(job.batch, threads, [&](Index i) {
            if (c == 0 || job.rough[i]) kernels.reduce_normal(job, i, c);
        });
    }

    // Input of the chunks from the separators, for moments.
    void find_items() {
        parallel_for(job.batch, threads, [&](Index i) { of_moments.separators(job, i); });
    }

    // Marks undetermined points in `flags`, (batch, T); this is a call of undivided systems.
    void test_pivots(unsigned char* flags) {
        job.undetermined = flags;
        job.groups = (job.lanes + kernels.lanes_in_chunks - 1) / kernels.lanes_in_chunks;
        const size_t scratch = kernels.pivot_test_scratch(job);
        parallel_for(job.groups, max_threads(), [&](Index group) {
            with_scratch(scratch, [&](void* memory) { kernels.pivot_test(job, group, memory); });
        });
    }

    void set_input(Field f, const View& view) {
        if (view.data) job.in[f] = lay_out(view, problem.batch, axes(problem, f), numbers);
    }
    static constexpr size_t item() { return sizeof(double); }

    const ProblemSpec& problem;
    Numbers numbers;

   private:
    std::vector<double> scheme_norm2_, extremes_;
    int any_undetermined_ = 0, any_nan_ = 0;

    // Systems that share left-hand sides: system r of left-hand side k is number lhs[k] + repeat[r] of the batch.
    struct SharedLhs {
        Index n_lhs = 1, n_repeats = 1;
        Index *lhs, *repeat;
    };
    SharedLhs find_shared_lhs() {
        const size_t rank = problem.batch.size();
        SharedLhs shared;
        const auto differ = [&](size_t axis) {
            for (Field f : {C, W_EQUATION, S, W_SMOOTHNESS, W_INITIAL}) {
                if (job.in[f].data && job.in[f].batch[axis] != 0) return true;
            }
            return false;
        };
        for (size_t i = 0; i < rank; ++i) (differ(i) ? shared.n_lhs : shared.n_repeats) *= problem.batch[i];
        if (job.batch == 0 || shared.n_repeats < 2) return shared;
        shared.lhs = take(numbers, size_t(shared.n_lhs));
        shared.repeat = take(numbers, size_t(shared.n_repeats));
        shared.lhs[0] = shared.repeat[0] = 0;
        Index lhs_filled = 1, repeats_filled = 1, stride = job.batch;
        for (size_t i = 0; i < rank; ++i) {
            const bool own = differ(i);
            Index *to = own ? shared.lhs : shared.repeat, &filled = own ? lhs_filled : repeats_filled;
            const Index size = problem.batch[i];
            stride /= size;
            for (Index e = filled * size; e-- > 0;) to[e] = to[e / size] + e % size * stride;
            filled *= size;
        }
        return shared;
    }

    // True if left-hand sides are eliminated once, together with many of their right-hand sides: by kernels whose sizes are
    // not compiled. Where others are, many of one short left-hand side better fill packs of their own.
    bool is_worth_columns(const SharedLhs& shared) const {
        if (!job.in[B].data || job.in[SMOOTHNESS_RHS].data || job.batch == 0) return false;
        const Kernels compiled = isa().find(job.V, job.K, job.Q, job.scheme_is_upper, false);
        const bool fill_packs = shared.n_repeats >= compiled.lanes;
        if (compiled.are_compiled && fill_packs && job.T < SHORT_FOR_COLUMNS * shared.n_repeats) return false;
        return shared.n_repeats >= (compiled.are_compiled ? 4 : 2);
    }

    void set_scheme() {
        job.tolerance2 = problem.tolerance * problem.tolerance;
        job.scheme_rows = problem.scheme_rows;
        const size_t K = size_t(problem.K);
        scheme_norm2_.assign(2 * K, 0.0);
        job.scheme_is_upper = true;
        for (size_t i = 0; i < 2 * K; ++i) {
            for (size_t j = 0; j < 2 * K; ++j) {
                const double x = problem.scheme_rows[i * 2 * K + j];
                scheme_norm2_[j] += x * x;
                if (i > j % K && x != 0) job.scheme_is_upper = false;
            }
        }
        job.scheme_norm2 = scheme_norm2_.data();
    }
};

}  // namespace
}  // namespace smnn
