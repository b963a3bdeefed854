// The work of one lane on its points: elimination, the two substitutions, and the way back of an adjoint.
#pragma once

#include "../kernels/gradient.hpp"
#include "../kernels/substitute.hpp"
#include "../kernels/sweep.hpp"
#include "lane.hpp"

namespace smnn {
namespace SMNN_LEVEL {

// The gradient of one field on its way out: entry e of point t, or its sum over the points of the lane.
template <class T, bool IsKnown, int MOST>
struct Sink {
    const Output& out;
    const int count_;  // of entries, MOST where that is known
    T* const at;
    double sums[MOST];

    // times: points, or steps, of a system
    SMNN_INLINE Sink(const Output& out_, const Lane& lane, int times, int entries)
        : out(out_),
          count_(entries),
          at(static_cast<T*>(out_.data) + (out_.over_time ? lane.number : lane.system * times + lane.start) * count()) {
        for (int e = 0; e < count(); ++e) sums[e] = 0;
    }
    SMNN_INLINE int count() const { return IsKnown ? MOST : count_; }
    // x (count)
    SMNN_INLINE void put(int t, const T* x) {
        for (int e = 0; e < count(); ++e) {
            if (out.over_time) {
                sums[e] += double(x[e]);
            } else {
                at[Index(t) * count() + e] = x[e];
            }
        }
    }
    SMNN_INLINE void finish() const {
        if (!out.over_time || !out.data) return;
        for (int e = 0; e < count(); ++e) at[e] = T(sums[e]);
    }
};

template <class T, class Size, bool Chunked>
struct Points {
    using Most = typename Size::Most;
    using Rows = LaneRows<T, Size>;
    static constexpr int n = Most::n, K = Most::K, Q = Most::Q, STEP = n + Most::extra;
    static constexpr int ENTRIES = FactorLayout<Chunked>{n, K}.entries();
    static constexpr int CARRIED = CarriedLayout<Chunked>{n}.entries();

    const PointJob<T, K>& job;
    const Index lanes;
    const bool is_there;  // else a thread without a lane
    const Lane lane;
    const Size size;

    SMNN_INLINE Points(const PointJob<T, K>& job_, Index number)
        : job(job_),
          lanes(job_.systems.count * job_.chunks),
          is_there(number < lanes),
          lane(is_there ? number : 0, job_.points, job_.chunks),
          size(job_.V, job_.Q) {}

    // The part of a point that is kept, as the compiler knows it, or does not (see Known).
    SMNN_INLINE int entries() const { return FactorLayout<Chunked>{size.n, size.K}.entries(); }
    SMNN_INLINE int carried_entries() const { return CarriedLayout<Chunked>{size.n}.entries(); }
    // The place of a point of this lane in what has so many numbers for each.
    SMNN_INLINE Index at(int t, int count) const { return Index(t) * count * lanes + lane.number; }
    SMNN_INLINE Strided<T> factor_at(int t) const { return {job.factor, at(t, entries()), lanes}; }

    // The memory that a lane is swept in. A thread has arrays of its own instead, a team this much of shared memory.
    static constexpr int WORKSPACE = Size::fixed ? 2 * n + 1 : State<T, Size, Chunked, Alone>::workspace(K, n, Most::rows, 1);
    static constexpr int ROOM = CARRIED + WORKSPACE + ENTRIES + n;

    // room (ROOM): shared memory of a team, else null. The tape is StridedTape, or NoTape.
    template <class TapeOf, class Team>
    SMNN_INLINE void sweep(T* room, Team team) const {
        if (!is_there) return;
        constexpr bool own = Team::size == 1;
        const SchemeRows<T> scheme{job.scheme_rows, job.scheme_norm2, job.tolerance2};
        const Rows rows{job, lane, size};
        Array<T, own ? CARRIED : 0> carried(room, CARRIED);
        Array<T, own ? WORKSPACE : 0> workspace(room, WORKSPACE);
        Array<T, own ? ENTRIES : 0> f(room, ENTRIES);
        Array<T, own ? n : 0> z(room, n);
        Elimination<T, Size, Chunked, true, Team, TapeOf> state(size, scheme, carried, workspace, team);
        start(state.tape, job.tape, lane.number, lanes);
        const auto keep = [&](int t) {
            store<T>(job.factor, at(t, entries()), entries(), lanes, f, team);
            store<T>(job.z, at(t, size.n), size.n, lanes, z, team);
        };
        const auto advance_to = [&](int t) {
            state.eliminate_point(rows, t, f, z);
            keep(t - 1);
        };
        // The first point, and those with initial rows: a loop of their own, which leaves the other one short.
        int t = 0;
        for (const int first = job.T_init < lane.length ? job.T_init : lane.length; t < first || t == 0; ++t) {
            t == 0 ? state.start(rows) : advance_to(t);
            state.absorb_equations(rows, t);
            if (rows.has_initial(t) && (Chunked || t > 0)) {
                absorb_initial_rows<true>(state, rows, t, &carried[0], &workspace[0], state.tape);
            }
        }
        for (; t < lane.length; ++t) {
            advance_to(t);
            state.absorb_equations(rows, t);
        }
        if constexpr (Chunked) {
            state.save(carried);
            store<T>(job.above.ends, lane.number, carried_entries(), lanes, carried, team);
        } else {
            state.finish(rows, lane.length - 1, f, z);
            keep(lane.length - 1);
        }
    }

    // R^T w = g, w in the place of z.
    SMNN_INLINE void forward() const {
        if (!is_there) return;
        const Field_<T> g_(job.systems, job.in[G], lane);
        T left[n];
        for (int j = 0; j < size.n; ++j) left[j] = T(0);
        forward([&](int t, int j) { return g_(t, j / size.K, j % size.K); }, left);
    }
    // g(t, j); left (n): what is subtracted from g of the separator on the left already.
    template <class Of>
    SMNN_INLINE void forward(Of g_, T* left) const {
        T before[n], g[n];
        for (int j = 0; j < size.n; ++j) before[j] = T(0);
        for (int t = 0; t < lane.length; ++t) {
            for (int j = 0; j < size.n; ++j) g[j] = g_(t, j);
            if (Chunked && t == lane.length - 1) {
                T* passed = static_cast<T*>(job.above.passed) + lane.number * 2 * size.n;
                for (int j = 0; j < size.n; ++j) {
                    passed[j] = g[j] - before[j];
                    passed[size.n + j] = left[j];
                }
            } else {
                T w[n];
                substitute_forward<T, Size, Chunked>(size, 0, 1, factor_at(t), g, before, left, w);
                store(job.z, at(t, size.n), size.n, lanes, w);
            }
        }
    }

    // R x = z from the last point to the first.
    SMNN_INLINE void back() const {
        if (!is_there) return;
        const bool bad = job.systems.bad[lane.system] != 0;
        T* const to = static_cast<T*>(job.x) + (lane.system * job.points + lane.start) * size.n;
        Substitution x(*this);
        for (int t = lane.length - 1; t >= 0; --t) {
            for (int j = 0; j < size.n; ++j) to[t * size.n + j] = bad ? not_a_number<T>() : x.now[j];
            x.go_back(t);
        }
    }

    // The way back of an adjoint. Its first pass, `unwind`, finds the multipliers v = Q R^-T g of the rows and λ = R^-1 R^-T g,
    // and goes on with the residual g - (W A)^T v in the place of g; the second, `contract`, adds what that leads to, and turns
    // both into gradients of all inputs, with the multipliers W (A y - d) of the residual at the minimum. See
    // docs/theory/derivative.md.
    SMNN_INLINE void unwind() const {
        if (!is_there) return;
        const Rows rows{job, lane, size};
        const Field_<T> g(job.systems, job.in[G], lane);
        T room[Way::ROOM];
        Way way(*this, room);
        T rest[n], earlier[n];  // of the residual: at the point, and so far at the one before
        for (int j = 0; j < size.n; ++j) earlier[j] = T(0);
        for (int t = lane.length - 1; t >= 0; --t) {
            store(job.lambda, at(t, size.n), size.n, lanes, way.x.now);
            way.go_back(rows, t);
            store(job.products, at(t, product_rows()), size.Q, lanes, way.equation);
            store(job.products, at(t, product_rows()) + size.Q * lanes, step_rows(size), lanes, way.step);
            for (int j = 0; j < size.n; ++j) {
                rest[j] = earlier[j] + g(t, j / size.K, j % size.K);
                earlier[j] = T(0);
            }
            subtract_equations<T>(size, rows, t, way.equation, rest);
            subtract_step<T>(size, job.scheme_rows, rows.s(t), rows.w_smoothness(t), way.step, earlier, rest);
            each_initial_row(rows, t, [&](int j, T w, int e) {
                rest[j] -= w * w * way.initial[e];
                static_cast<T*>(job.initial)[initial_at(t) + e] = way.initial[e];
            });
            store(job.z, at(t, size.n), size.n, lanes, rest);  // (w of this point is not needed any more)
        }
        // (the separator on the left has not had its part)
        for (int j = 0; j < size.n; ++j) earlier[j] = -earlier[j];
        const Index stride = size.n * lanes;
        const T* const of_first = static_cast<const T*>(job.z) + lane.number;
        forward([&](int t, int j) { return of_first[t * stride + j * lanes]; }, earlier);
    }

    SMNN_INLINE void contract() const {
        if (!is_there) return;
        const Rows rows{job, lane, size};
        const Field_<T> y_(job.systems, job.in[Y], lane);
        const bool bad = job.systems.bad[lane.system] != 0;
        const int steps = job.points - 1;
        Sink<T, Size::fixed, Q * n> dc(job.gradient[C], lane, job.points, size.Q * size.n);
        Sink<T, Size::fixed, Q> db(job.gradient[B], lane, job.points, size.Q);
        Sink<T, Size::fixed, Q> dw(job.gradient[W_EQUATION], lane, job.points, size.Q);
        Sink<T, true, 1> ds(job.gradient[S], lane, steps, 1), dws(job.gradient[W_SMOOTHNESS], lane, steps, 1);
        T *const du = static_cast<T*>(job.gradient[U].data), *const dwi = static_cast<T*>(job.gradient[W_INITIAL].data);
        T room[Way::ROOM];
        Way way(*this, room);
        // of both passes: y and λ at the point before, and at the point; products with λ
        T y[2 * n], lambda[2 * n], equation[Q], step[STEP];
        const auto read = [&](int t, T* y_to, T* lambda_to) {
            first_lambda(t, lambda_to);
            for (int j = 0; j < size.n; ++j) {
                lambda_to[j] += way.x.now[j];
                y_to[j] = rows.is_first(t + 1) ? T(0) : y_(t, j / size.K, j % size.K);
            }
        };
        read(lane.length - 1, y + size.n, lambda + size.n);
        T c[Q * n], b[Q], w[Q], s, ws;
        for (int t = lane.length - 1; t >= 0; --t) {
            way.go_back(rows, t);
            read(t - 1, y, lambda);
            load(job.products, at(t, product_rows()), size.Q, lanes, equation);
            load(job.products, at(t, product_rows()) + size.Q * lanes, step_rows(size), lanes, step);
            for (int q = 0; q < size.Q; ++q) equation[q] = bad ? not_a_number<T>() : equation[q] + way.equation[q];
            for (int i = 0; i < step_rows(size); ++i) step[i] = bad ? not_a_number<T>() : step[i] + way.step[i];
            smnn::SMNN_LEVEL::contract<T>(
                size, job.scheme_rows, rows, t, t + 1, y + size.n, lambda + size.n,
                Products<T>{way.equation + Q, way.step + STEP}, Products<T>{equation, step}, BlockGradients<T>{c, b, w, &s, &ws}
            );
            dc.put(t, c);
            db.put(t, b);
            dw.put(t, w);
            if (!rows.is_first(t)) {
                ds.put(t - 1, &s);
                dws.put(t - 1, &ws);
            }
            each_initial_row(rows, t, [&](int, T weight, int e) {
                const T first = static_cast<const T*>(job.initial)[initial_at(t) + e];
                const T of_lambda = bad ? not_a_number<T>() : first + way.initial[e];
                if (du) du[initial_at(t) + e] = weight * weight * of_lambda;
                if (dwi) dwi[initial_at(t) + e] = T(-2) * weight * of_lambda * way.initial[n + e];
            });
            for (int j = 0; j < size.n; ++j) {
                y[size.n + j] = y[j];
                lambda[size.n + j] = lambda[j];
            }
        }
        dc.finish();
        db.finish();
        dw.finish();
        ds.finish();
        dws.finish();
    }

   private:
    // x of the separator at the end of the lane (0), or on its left (-1), zero where there is none
    SMNN_INLINE void separator(int which, T* x) const {
        const bool there = Chunked && lane.chunk + which >= 0;
        const T* from = static_cast<const T*>(job.above.x) + (lane.number + which) * size.n;
        for (int j = 0; j < size.n; ++j) x[j] = there ? from[j] : T(0);
    }

    // R x = z: x at the current point, from the last one on.
    struct Substitution {
        const Points& lane;
        T now[n], left[n], z[n];  // z: of that point

        SMNN_INLINE explicit Substitution(const Points& lane_) : lane(lane_) {
            lane.separator(-1, left);
            if constexpr (Chunked) {
                lane.separator(0, now);
            } else {
                for (int j = 0; j < lane.size.n; ++j) now[j] = T(0);
                go_back(lane.lane.length);
            }
        }
        // From point t to the one before, which may be the separator on the left.
        SMNN_INLINE void go_back(int t) {
            const int count = lane.size.n;
            if (t == 0) {
                for (int j = 0; j < count; ++j) now[j] = left[j];
                return;
            }
            T next[n];
            for (int j = 0; j < count; ++j) next[j] = now[j];
            load(lane.job.z, lane.at(t - 1, count), count, lane.lanes, z);
            substitute_back<T, Size, Chunked>(lane.size, 0, 1, lane.factor_at(t - 1), z, left, next, now);
        }
    };

    // The way back through the tape, and R λ = w beside it.
    struct Way {
        using Multipliers = Unwinding<T, Size, Chunked, true, StridedTape<T>>;

        static constexpr int CARRIED = Multipliers::carried_entries(n), BELOW = Multipliers::workspace(Most::rows);
        static constexpr int ROOM = CARRIED + BELOW + MULTIPLIERS * n;

        const Points& lane;
        T *const carried, *const initial;
        Substitution x;
        Multipliers way;
        // multipliers divided by weights, of the current point; both sets: v, and those of the residual. Those of initial rows are
        // in `initial`.
        T equation[MULTIPLIERS * Q], step[MULTIPLIERS * STEP];

        // room (ROOM): apart from the numbers here, which so can be in registers
        SMNN_INLINE Way(const Points& lane_, T* room)
            : lane(lane_),
              carried(room),
              initial(room + CARRIED + BELOW),
              x(lane_),
              way(lane_.size, lane_.end_of_tape(), room, room + CARRIED) {
            const int count = lane.size.n, last = lane.lane.length - 1;
            if constexpr (Chunked) {
                const T* const from = static_cast<const T*>(lane.job.above.multipliers) + lane.lane.number * 2 * count * MULTIPLIERS;
                for (int row = 0; row < 2 * count; ++row) {
                    T* const to = carried + row / count * MULTIPLIERS * count + row % count;
                    to[0] = from[row * MULTIPLIERS + 1];
                    to[count] = from[row * MULTIPLIERS];
                }
            } else {
                const Strided<T> f = lane.factor_at(last);
                for (int j = 0; j < count; ++j) {
                    carried[j] = x.z[j] * f[FactorLayout<false>{count, lane.size.K}.row(j)];
                    carried[count + j] = T(0);
                }
            }
            way.load(carried);
        }
        // Multipliers of point t, which x is at; then x is at the point before, and before (n) is that.
        SMNN_INLINE void go_back(const Rows& rows, int t) {
            x.go_back(t);
            const RowProducts<T> to{equation, step, initial, Q, STEP, n};
            unwind_point<Chunked>(way, rows, t, lane.factor_at(t - 1), x.z, carried, to, [](T& at, T v) { at = v; });
        }
    };

    SMNN_INLINE StridedTape<T> end_of_tape() const {
        const TapeLayout<Chunked> layout{size.n, absorbed_rows(size), first_absorbed(size) > 0};
        const int left = job.T_init - lane.start, initial = left < 0 ? 0 : left < lane.length ? left : lane.length;
        StridedTape<T> tape;
        start(
            tape, job.tape, lane.number, lanes,
            lane.length * layout.point() - size.n * (size.n + 1) +
                (initial - (!Chunked && initial > 0)) * size.V * job.R_init * layout.initial_row()
        );
        return tape;
    }

    // f(v, r, w, e) for the rows of initial values of point t, of weight w; e is the number of each.
    template <class F>
    SMNN_INLINE void each_initial_row(const Rows& rows, int t, F f) const {
        for (int e = 0; rows.has_initial(t) && e < size.V * job.R_init; ++e) {
            const int v = e / job.R_init, r = e % job.R_init;
            f(v * size.K + r, rows.w_initial(t, v, r), e);
        }
    }
    // The place of row 0 of initial values of point t, of all systems.
    SMNN_INLINE Index initial_at(int t) const {
        return (lane.system * job.T_init + lane.start + t) * size.V * job.R_init;
    }
    SMNN_INLINE int product_rows() const { return size.Q + step_rows(size); }
    // λ of the first pass at point t, -1: at the separator on the left, zero where there is none
    SMNN_INLINE void first_lambda(int t, T* to) const {
        const int points = Division{job.points, job.chunks}.length(lane.chunk > 0 ? lane.chunk - 1 : 0);
        const bool outside = t < 0, there = !outside || lane.chunk > 0;
        const Strided<T> from(job.lambda, there && outside ? at(points - 1, size.n) - 1 : at(outside ? 0 : t, size.n), lanes);
        for (int j = 0; j < size.n; ++j) to[j] = there ? from[j] : T(0);
    }
};

}  // namespace SMNN_LEVEL
}  // namespace smnn
