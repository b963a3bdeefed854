// What one lane does with its points: elimination, the two substitutions, contraction into gradients.
#pragma once

#include "../kernels/contract.hpp"
#include "../kernels/substitute.hpp"
#include "../kernels/sweep.hpp"
#include "lane.hpp"

namespace smnn {
namespace SMNN_LEVEL {

template <class T, class D, bool Chunked>
struct Points {
    using Size = typename SizeOf<D::unrolled>::template type<D>;
    static constexpr int n = D::n, K = D::K;
    static constexpr int ENTRIES = FactorLayout<Chunked>{n, K}.entries();
    static constexpr int CARRIED = CarriedLayout<Chunked>{n}.entries();

    const PointJob<T>& job;
    const Lane lane;
    const Index lanes;
    const Size size;

    SMNN_INLINE Points(const PointJob<T>& job_, Index number)
        : job(job_),
          lane(number, job_.points, job_.chunks),
          lanes(job_.systems.count * job_.chunks),
          size(SizeOf<D::unrolled>::template make<D>(job_.V, job_.K, job_.Q)) {}

    // What is kept of a point, as the compiler knows it, or does not (see Dimensions).
    SMNN_INLINE int entries() const { return FactorLayout<Chunked>{size.n, size.K}.entries(); }
    SMNN_INLINE int carried_entries() const { return CarriedLayout<Chunked>{size.n}.entries(); }
    // Where a point of this lane lies in it.
    SMNN_INLINE Index at(int t, int count) const { return Index(t) * count * lanes + lane.number; }

    SMNN_INLINE void sweep() const {
        const SchemeRows<T> scheme{job.scheme_rows, job.scheme_norm2, job.tolerance2};
        const LaneRows<T, D> rows(job, lane);
        T carried[CARRIED], workspace[D::workspace];
        Sweep<T, Size, Chunked, true> state(size, scheme, carried, workspace);
        for (int t = 0; t < lane.length; ++t) {
            if (t == 0) {
                state.start(rows);
            } else {
                T f[ENTRIES], z[n];
                state.depart(rows, t, f, z);
                keep(t - 1, f, z);
            }
            state.arrive(rows, t);
            if (rows.has_initial(t)) {
                state.save(carried);
                for (int e = 0; e < size.V * job.R_init; ++e) {
                    const int v = e / job.R_init, r = e % job.R_init;
                    take_initial_row<T, Chunked, true>(
                        size.n, v * size.K + r, rows.w_initial(t, v, r), rows.u(t, v, r), carried, workspace
                    );
                }
                state.load(carried);
            }
        }
        if constexpr (Chunked) {
            state.save(carried);
            store(job.ends, lane.number, carried_entries(), lanes, carried);
        } else {
            T f[ENTRIES], z[n];
            state.finish(rows, lane.length - 1, f, z);
            keep(lane.length - 1, f, z);
        }
    }

    // R^T w = g, w in the place of z.
    SMNN_INLINE void forward() const {
        const Field_<T> g_(job.systems, job.in[G], lane);
        T before[n], left[n], g[n];
        for (int j = 0; j < size.n; ++j) before[j] = left[j] = T(0);
        const auto read = [&](int t) {
            for (int j = 0; j < size.n; ++j) g[j] = g_(t, j / size.K, j % size.K);
        };
        for (int t = 0; t < lane.length - Chunked; ++t) {
            T f[ENTRIES], w[n];
            read(t);
            load(job.factor, at(t, entries()), entries(), lanes, f);
            substitute_forward<T, Size, Chunked>(size, 0, 1, f, g, before, left, w);
            store(job.z, at(t, size.n), size.n, lanes, w);
        }
        if constexpr (Chunked) {
            read(lane.length - 1);
            T* passed = static_cast<T*>(job.passed) + lane.number * 2 * size.n;
            for (int j = 0; j < size.n; ++j) {
                passed[j] = g[j] - before[j];
                passed[size.n + j] = left[j];
            }
        }
    }

    // R x = z from the last point to the first: visit(t, x).
    template <class Visit>
    SMNN_INLINE void back(Visit visit) const {
        T next[n], left[n], x[n];
        separator(-1, left);
        int t = lane.length - 1;
        if constexpr (Chunked) {
            separator(0, next);
            visit(t, next);
            --t;
        } else {
            for (int j = 0; j < size.n; ++j) next[j] = T(0);
        }
        for (; t >= 0; --t) {
            T f[ENTRIES], z[n];
            load(job.factor, at(t, entries()), entries(), lanes, f);
            load(job.z, at(t, size.n), size.n, lanes, z);
            substitute_back<T, Size, Chunked>(size, 0, 1, f, z, left, next, x);
            visit(t, x);
        }
    }

    SMNN_INLINE void write_solution() const {
        const bool bad = job.systems.bad[lane.system] != 0;
        T* out = static_cast<T*>(job.x) + (lane.system * job.points + lane.start) * size.n;
        back([&](int t, const T* x) {
            for (int j = 0; j < size.n; ++j) out[Index(t) * size.n + j] = bad ? not_a_number<T>() : x[j];
        });
    }

    SMNN_INLINE void contract() const;

   private:
    SMNN_INLINE void keep(int t, const T* f, const T* z) const {
        store(job.factor, at(t, entries()), entries(), lanes, f);
        store(job.z, at(t, size.n), size.n, lanes, z);
    }

    // x of the separator at the end of the lane (0) or on its left (-1), zero where there is none
    SMNN_INLINE void separator(int which, T* x) const {
        const bool there = Chunked && lane.chunk + which >= 0;
        const T* from = static_cast<const T*>(job.separators) + (lane.number + which) * size.n;
        for (int j = 0; j < size.n; ++j) x[j] = there ? from[j] : T(0);
    }
};

// The gradient of one field on its way out: entry e of point t, or its sum over the points of the lane.
template <class T, class D, int COUNT>
struct Sink {
    using Count = typename SizeOf<D::unrolled>::template number<COUNT>;

    const Output& out;
    const Count count;
    T* at;
    double sums[COUNT];

    SMNN_INLINE Sink(const Output& out_, const Lane& lane, int times, int count_)
        : out(out_),
          count(number_of(Count(), count_)),
          at(static_cast<T*>(out_.data) +
             (out_.over_time ? lane.number : lane.system * Index(times) + lane.start) * count_) {
        for (int e = 0; e < count; ++e) sums[e] = 0;
    }
    SMNN_INLINE void put(int t, int e, T x) {
        if (out.over_time) {
            sums[e] += double(x);
        } else {
            at[Index(t) * count + e] = x;
        }
    }
    SMNN_INLINE void put_all(int t, const T* x) {
        for (int e = 0; e < count; ++e) put(t, e, x[e]);
    }
    SMNN_INLINE void finish() const {
        if (!out.over_time) return;
        for (int e = 0; e < count; ++e) at[e] = T(sums[e]);
    }
};

// λ, by substitution, with y into the gradients of all inputs.
template <class T, class D, bool Chunked>
SMNN_INLINE void Points<T, D, Chunked>::contract() const {
    constexpr int Q = D::Q;
    const LaneRows<T, D> rows(job, lane);
    const Field_<T> y_(job.systems, job.in[Y], lane);
    const bool bad = job.systems.bad[lane.system] != 0;
    Sink<T, D, Q * n> dc(job.gradient[C], lane, job.points, size.Q * size.n);
    Sink<T, D, Q> db(job.gradient[B], lane, job.points, size.Q), dw(job.gradient[W_EQUATION], lane, job.points, size.Q);
    const int steps = job.points - 1;
    Sink<T, D, 1> ds(job.gradient[S], lane, steps, 1), dws(job.gradient[W_SMOOTHNESS], lane, steps, 1);
    const int initial = size.V * job.R_init;
    T* du = static_cast<T*>(job.gradient[U].data) + lane.system * job.T_init * initial;
    T* dwi = static_cast<T*>(job.gradient[W_INITIAL].data) + lane.system * job.T_init * initial;
    T y0[n], y1[n], x0[n], x1[n];
    const auto read = [&](int t) {
        for (int j = 0; j < size.n; ++j) y0[j] = y_(t, j / size.K, j % size.K);
    };
    const auto step_out = [&](int t) {
        const T s = rows.s(t + 1), w = rows.w_smoothness(t + 1);
        const auto step = contract_step<T>(size, job.scheme_rows, s, w, y0, y1, x0, x1);
        ds.put(t, 0, step.s);
        dws.put(t, 0, step.w_smoothness);
    };
    const auto move_on = [&] {
        for (int j = 0; j < size.n; ++j) {
            y1[j] = y0[j];
            x1[j] = x0[j];
        }
    };
    back([&](int t, const T* x) {
        read(t);
        for (int j = 0; j < size.n; ++j) x0[j] = bad ? not_a_number<T>() : x[j];
        T c[Q * n], b[Q], w[Q];
        contract_equations<T>(size, rows, t, y0, x0, PointGradients<T>{c, b, w});
        dc.put_all(t, c);
        db.put_all(t, b);
        dw.put_all(t, w);
        if (t + 1 < lane.length) step_out(t);
        if (rows.has_initial(t)) {
            for (int e = 0; e < initial; ++e) {
                const int v = e / job.R_init, r = e % job.R_init, j = v * size.K + r;
                const T weight = rows.w_initial(t, v, r);
                const Index to = Index(lane.start + t) * initial + e;
                du[to] = weight * weight * x0[j];
                dwi[to] = 2 * weight * x0[j] * (rows.u(t, v, r) - y0[j]);
            }
        }
        move_on();
    });
    if (Chunked && lane.start > 0) {
        // the step from the left separator
        read(-1);
        separator(-1, x0);
        if (bad) x0[0] = not_a_number<T>();
        step_out(-1);
    }
    dc.finish();
    db.finish();
    dw.finish();
    ds.finish();
    dws.finish();
}

}  // namespace SMNN_LEVEL
}  // namespace smnn
