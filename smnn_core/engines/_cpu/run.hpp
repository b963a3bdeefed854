// The functions that the engine calls of one instruction set: groups of lanes through the phases of a job, and the
// reduced problem of the separators.
#pragma once

#include <type_traits>

#include "../kernels/chain.hpp"
#include "../kernels/pivots.hpp"
#include "adjoint.hpp"

namespace smnn {
namespace SMNN_LEVEL {

template <class P, class Size, bool Chunked>
void run_group(const Job& job, int phases, Index group, void* scratch) {
    Adjoint<P, Size, Chunked> lanes(job, group, scratch);
    if (phases & (SWEEP | FORWARD)) lanes.eliminate(phases);
    if (phases & BACK) job.contracts ? lanes.find_multipliers() : lanes.back([](int) {}, [](int) {});
    if (phases & REFINE) lanes.refine();
    if (phases & CONTRACT) lanes.contract();
}

// Numbers of the state of a sweep of undivided systems, of its workspace, and of the factor of a point, for its last one.
template <class P>
struct PivotTestLayout {
    const Sized size;
    const int state, workspace, factor;
    explicit PivotTestLayout(const Job& job)
        : size(size_of<Sized>(job)),
          state(CarriedLayout<false>{job.n}.entries()),
          workspace(State<Noisy<P>, Sized, false, Alone>::workspace(job.K, job.n, size.rows, 1)),
          factor(FactorLayout<false>{job.n, job.K}.entries()) {}
    Index packs() const { return Index(state + workspace + factor) * Noisy<P>::RUNS; }
};

template <class P>
size_t pivot_test_scratch(const Job& job) {
    const int points = block_points<P>(job);
    return size_t(RowStager<P>::memory(job, points, points) + PivotTestLayout<P>(job).packs()) * sizeof(P);
}

// The points of a group of undivided systems whose pivots are nothing but rounding.
template <class P>
void pivot_test(const Job& job, Index g, void* scratch) {
    const Group<P> group(job, g);
    const int points = block_points<P>(job);
    P* memory = static_cast<P*>(scratch);
    const RowStager<P> stager(job, group, memory, points, points);
    const SchemeRows<ScalarOf<P>> scheme{job.scheme_rows, job.scheme_norm2, job.tolerance2};
    const PivotTestLayout<P> layout(job);
    auto* const state = reinterpret_cast<Noisy<P>*>(take_from(memory, layout.packs()));
    Noisy<P> *const workspace = state + layout.state, *const f = workspace + layout.workspace;
    Noisy<P>::restart();
    for (int t0 = 0; t0 < job.T; t0 += points) {
        const int t1 = t0 + points < job.T ? t0 + points : job.T;
        const StagedRows<P> staged = stager.rows(t0, t1, false, t0);
        const NoisyRows<StagedRows<P>, P> rows{staged};
        sweep<Noisy<P>, Sized, false, false, false>(layout.size, scheme, rows, t0, t1, state, workspace, f, f, NoTape());
        if (t1 == job.T) finish<Noisy<P>, Sized, false>(layout.size, scheme, rows, t1 - 1, state, workspace, f, f);
    }
}

// P: the packs of undivided time, Chunks: those of chunks.
template <class P, class Chunks, class Size>
void run(const Job& job, int phases, Index group, void* scratch) {
    return job.C > 1 ? run_group<Chunks, Size, true>(job, phases, group, scratch)
                     : run_group<P, Size, false>(job, phases, group, scratch);
}

template <class P, class Chunks, class Size>
GroupMemory sizes(const Job& job, int phases) {
    return job.C > 1 ? Adjoint<Chunks, Size, true>::sizes(job, phases)
                     : Adjoint<P, Size, false>::sizes(job, phases);
}

// The separators of a system are a chain, which one lane sweeps in numbers.

// The last point of chunk k.
SMNN_INLINE Index separator_point(const Job& job, int k) {
    const int longer = job.T % job.C, extra = k + 1 - (job.C - longer);
    return (k + 1) * Index(job.T / job.C) + (extra > 0 ? extra : 0) - 1;
}

// Numbers of what is kept of a separator: its factor and, behind it, the tape of the step to the next one.
inline Index separator_entries(const Job& job) {
    return 2 * Index(job.n) * job.n + (job.taped ? chain_tape_entries(job.n, job.m) : 0);
}

// x (C, n) := R^-1 x; factor (C, separator_entries)
template <class T>
void separators_back(const Job& job, const T* factor, T* x) {
    const int n = job.n;
    const T none[LARGEST] = {};
    for (int k = job.C - 1; k >= 0; --k) {
        const T* next = k + 1 < job.C ? x + (k + 1) * n : none;
        chain_back<T, false>(n, factor + k * job.separator_entries, x + k * n, next, nullptr, x + k * n);
    }
}

template <class T, class Tape>
using Chain = ChainSweep<T, int, 0, false, Alone, Tape, int>;

template <class P>
size_t reduce_scratch(const Job& job) {
    return size_t(Chain<ScalarOf<P>, NoTape>::packs(job.n, job.m)) * sizeof(ScalarOf<P>);
}

// rotations: with the tape of each separator in its place, if there is any. visit(k, sweep): at each separator.
template <class P, class Tape, class Visit>
void reduce_system(const Job& job, Index system, void* scratch, Tape rotations, Visit visit) {
    using T = ScalarOf<P>;
    constexpr int W = Lanes<P>::count;
    const int n = job.n, C = job.C;
    const Index entries = CarriedLayout<true>{n, job.m}.entries();
    const auto item = [&](int k) {
        const Index lane_ = system * C + k;
        // entry e of what the chunk has left
        return [at = static_cast<const P*>(job.ends) + lane_ / W * entries, l = int(lane_ % W)](int e) { return at[e].get(l); };
    };
    T* const factor = static_cast<T*>(job.reduced) + system * C * job.separator_entries;
    T* const x = static_cast<T*>(job.separators) + system * columns_of(job) * C * n;
    const Index column = Index(C) * n;
    Chain<T, Tape> sweep(n, static_cast<T*>(scratch), {}, job.m);
    sweep.tape = rotations;
    sweep.start(item(0));
    for (int k = 0; k < C; ++k) {
        poll();
        visit(k, sweep);
        T *f = factor + k * job.separator_entries, *z = x + k * n;
        if constexpr (!std::is_same_v<Tape, NoTape>) sweep.tape.at = job.taped ? f + 2 * n * n : nullptr;
        const T tolerance2 = T(job.tolerance2);
        const bool bad = k + 1 < C ? sweep.advance(item(k + 1), tolerance2, f, z, column) : sweep.finish(tolerance2, f, z, column);
        if (bad) StagedRows<P>::mark(job, system, int(separator_point(job, k)));
    }
    for (int c = 0; c < job.m; ++c) separators_back(job, factor, x + c * column);
}
template <class P>
void reduce_system(const Job& job, Index system, void* scratch) {
    const auto none = [](int, const auto&) {};
    if (job.taped) return reduce_system<P>(job, system, scratch, Tape<ScalarOf<P>>{}, none);
    reduce_system<P>(job, system, scratch, NoTape(), none);
}

// Multipliers of the rows that chunks have left: Q R^-T g, from w (C, n) of R^T D^-1 w = g, or (null w) those of the residual.
// factor (C, separator_entries)
template <class T>
void unwind_separators(const Job& job, Index system, int set, const T* factor, const T* w) {
    const int n = job.n, C = job.C;
    const Index entries = job.separator_entries;
    T* const to = static_cast<T*>(job.multipliers) + (system * MULTIPLIERS + set) * C * 2 * n;
    T v[2 * LARGEST];
    const auto set_triangle = [&](int k) {
        for (int j = 0; j < n; ++j) v[j] = w ? w[k * n + j] * factor[k * entries + j * n + j] : T(0);
    };
    const auto put = [&](int k, int boundary, const T* from) {
        for (int j = 0; j < n; ++j) to[(2 * k + boundary) * n + j] = from[j];
    };
    set_triangle(C - 1);
    for (int k = C - 1; k > 0; --k) {
        ChainUnwinding<T> way{n, 1, {const_cast<T*>(factor) + k * entries}, {1, v, nullptr}, w == nullptr};
        way.step([&] { set_triangle(k - 1); }, [&] { put(k, 0, v + n); });
        put(k, 1, v + n);
    }
    put(0, 0, v);
    for (int j = 0; j < n; ++j) to[n + j] = T(0);
}

template <class P>
void reduce_system_normal(const Job& job, Index system, int c) {
    using T = ScalarOf<P>;
    constexpr int W = Lanes<P>::count;
    const int n = job.n, C = job.C, columns = columns_of(job);
    // number j of what chunk k passes
    const auto passed = [&](int k, int which, int j) {
        const Index lane_ = system * C + k;
        return static_cast<const P*>(job.passed)[((lane_ / W * columns + c) * PASSED + which) * n + j].get(int(lane_ % W));
    };
    const T* factor = static_cast<const T*>(job.reduced) + system * C * job.separator_entries;
    T* x = static_cast<T*>(job.separators) + (system * columns + c) * C * n;
    const Input& in = job.in[G];
    const T* const g = static_cast<const T*>(in.data) + offset_in_batch(job, in, system);
    T before[LARGEST] = {};
    for (int k = 0; k < C; ++k) {
        const Index t = separator_point(job, k);
        const bool more = k + 1 < C;
        for (int j = 0; j < n; ++j) {
            T sum = c == 0 ? g[t * in.time + in.offsets[j]] : passed(k, REST, j) + (more ? passed(k + 1, REST_LEFT, j) : 0);
            sum -= passed(k, BEFORE, j) + (more ? passed(k + 1, LEFT, j) : 0);
            x[k * n + j] = sum - before[j];
        }
        chain_forward<T, false>(n, factor + k * job.separator_entries, x + k * n, before, nullptr);
    }
    if (job.contracts) unwind_separators<T>(job, system, 0, factor, x);
    if (job.contracts && c == 0) unwind_separators<T>(job, system, 1, factor, nullptr);
    separators_back(job, factor, x);
}

}  // namespace SMNN_LEVEL
}  // namespace smnn
