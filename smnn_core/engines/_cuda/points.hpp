// The work of one lane on its points: elimination, the two substitutions, refinement, contraction into gradients.
#pragma once

#include "../kernels/gradient.hpp"
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

    const PointJob<T, D::K>& job;
    const Index lanes;
    Lane lane;
    const Size size;

    SMNN_INLINE Points(const PointJob<T, D::K>& job_, Index number)
        : job(job_),
          lanes(job_.systems.count * job_.chunks),
          lane(number, job_.points, job_.chunks, lanes, job_.first_side, job_.sides),
          size(SizeOf<D::unrolled>::template make<D>(job_.V, job_.orders, job_.Q)) {
        if (is_settled()) lane.length = 0;
    }

    // The part of a point that is kept, as the compiler knows it, or does not (see Dimensions).
    SMNN_INLINE int entries() const { return FactorLayout<Chunked>{size.n, size.K}.entries(); }
    SMNN_INLINE int carried_entries() const { return CarriedLayout<Chunked>{size.n}.entries(); }
    // The offset of a point of this lane in it, and in the arrays that each side has of its own.
    SMNN_INLINE Index at(int t, int count) const { return Index(t) * count * lanes + lane.number; }
    SMNN_INLINE Index slot() const { return lane.side * lanes + lane.number; }
    SMNN_INLINE Index of_slot(int t, int count) const { return Index(t) * count * job.slots + slot(); }
    SMNN_INLINE Index row() const { return lane.side * job.systems.count + lane.system; }
    SMNN_INLINE bool is_settled() const {
        const Systems& all = job.systems;
        return all.sizes && !exceeds<T>(all.sizes, all.count, lane.system, lane.side, SETTLED<T>);
    }

    // The memory that a lane is swept in. A thread has arrays of its own instead, a team this much of shared memory.
    static constexpr int WORKSPACE = D::unrolled ? 2 * n + 1 : State<T, Size, Chunked, Alone>::workspace(K, n, D::rows, 1);
    static constexpr int ROOM = CARRIED + WORKSPACE + ENTRIES + n;

    SMNN_INLINE void sweep() const { sweep(nullptr, Alone()); }
    template <class Team>
    SMNN_INLINE void sweep(T* room, Team team) const {
        if (lane.length == 0) return;
        constexpr bool own = Team::size == 1;
        const SchemeRows<T> scheme{job.scheme_rows, job.scheme_norm2, job.tolerance2};
        const LaneRows<T, D> rows(job, lane);
        Array<T, own ? CARRIED : 0> carried(room, CARRIED);
        Array<T, own ? WORKSPACE : 0> workspace(room, WORKSPACE);
        using Entries = Array<T, own ? ENTRIES : 0>;
        using Column = Array<T, own ? n : 0>;
        Elimination<T, Size, Chunked, true, Team> state(size, scheme, carried, workspace, team);
        // The first point, and those with initial rows: a loop of their own, which leaves the other one short.
        int t = 0;
        for (const int first = job.T_init < lane.length ? job.T_init : lane.length; t < first || t == 0; ++t) {
            if (t == 0) {
                state.start(rows);
            } else {
                T* at = room;
                Entries f(at, ENTRIES);
                Column z(at, n);
                state.eliminate_point(rows, t, f, z);
                keep(t - 1, f, z, team);
            }
            state.absorb_equations(rows, t);
            if (rows.has_initial(t) && (Chunked || t > 0)) absorb_initial_rows<true>(state, rows, t, &carried[0], &workspace[0]);
        }
        for (; t < lane.length; ++t) {
            T* at = room;
            Entries f(at, ENTRIES);
            Column z(at, n);
            state.eliminate_point(rows, t, f, z);
            keep(t - 1, f, z, team);
            state.absorb_equations(rows, t);
        }
        if constexpr (Chunked) {
            state.save(carried);
            store<T>(job.ends, lane.number, carried_entries(), lanes, carried, team);
        } else {
            T* at = room;
            Entries f(at, ENTRIES);
            Column z(at, n);
            state.finish(rows, lane.length - 1, f, z);
            keep(lane.length - 1, f, z, team);
        }
    }

    // R^T w = g, w in the place of z.
    SMNN_INLINE void forward() const {
        T left[n];
        for (int j = 0; j < size.n; ++j) left[j] = T(0);
        forward(job.in[G], left);
    }
    // `left`: what is subtracted from g of the separator on the left already.
    SMNN_INLINE void forward(const Input& of_g, T* left) const {
        const Field_<T> g_(job.systems, of_g, lane);
        T before[n], g[n];
        for (int j = 0; j < size.n; ++j) before[j] = T(0);
        for (int t = 0; t < lane.length; ++t) {
            for (int j = 0; j < size.n; ++j) g[j] = g_(t, j / size.K, j % size.K);
            if (Chunked && t == lane.length - 1) {
                T* passed = static_cast<T*>(job.passed) + slot() * 2 * size.n;
                for (int j = 0; j < size.n; ++j) {
                    passed[j] = g[j] - before[j];
                    passed[size.n + j] = left[j];
                }
            } else {
                T w[n];
                const Strided<T> f(job.factor, at(t, entries()), lanes);
                substitute_forward<T, Size, Chunked>(size, 0, 1, f, g, before, left, w);
                store(job.z, of_slot(t, size.n), size.n, job.slots, w);
            }
        }
    }

    // R x = z from the last point to the first.
    SMNN_INLINE void back() const {
        const bool bad = job.systems.bad[lane.system] != 0;
        if (lane.length == 0) return;
        const Place<T, decltype(size.n)> out(job.x, lane, row(), job.points, size.n);
        const auto write = [&](int t, const T* x) {
            for (int j = 0; j < size.n; ++j) out.put(t, j, bad ? not_a_number<T>() : x[j]);
        };
        T next[n], left[n], x[n];
        separator(-1, left);
        if constexpr (Chunked) {
            separator(0, next);
            write(lane.length - 1, next);
        } else {
            for (int j = 0; j < size.n; ++j) next[j] = T(0);
        }
        for (int t = lane.length - 1 - Chunked; t >= 0; --t) {
            substitute(t, left, next, x);
            write(t, x);
        }
    }

    SMNN_INLINE void refine() const;
    SMNN_INLINE void contract() const;

   private:
    static constexpr int Q = D::Q, STEP = n + D::extra;
    using Rows = LaneRows<T, D>;
    // f(j, v, r) for the columns j that initial values may fix, known to the compiler where sizes are
    template <class F>
    SMNN_INLINE void each_initial_row(F f) const {
        repeat(size.n, [&](auto j) {
            if (j % size.K < job.R_init) f(j, j / size.K, j % size.K);
        });
    }
    SMNN_INLINE int product_rows() const { return size.Q + step_rows(size); }
    template <class Team>
    SMNN_INLINE void keep(int t, const T* f, const T* z, Team team) const {
        store(job.factor, at(t, entries()), entries(), lanes, f, team);
        store(job.z, at(t, size.n), size.n, lanes, z, team);
    }

    // x of the separator at the end of the lane (0), or on its left (-1), zero where there is none
    SMNN_INLINE void separator(int which, T* x) const {
        const bool there = Chunked && lane.chunk + which >= 0;
        const T* from = static_cast<const T*>(job.separators) + (slot() + which) * size.n;
        for (int j = 0; j < size.n; ++j) x[j] = there ? from[j] : T(0);
    }
    // The parts that do not change with refinement, or of a side that is settled.
    SMNN_INLINE void keep_sizes() const {
        if (!job.systems.sizes || lane.chunk > 0) return;
        for (int i = 0; i < SIZES; ++i) {
            if (i == SOLUTION || (is_settled() && i < ADDED)) {
                const Index at = (lane.side * SIZES + i) * job.systems.count + lane.system;
                static_cast<T*>(job.sizes)[at] = static_cast<const T*>(job.systems.sizes)[at];
            }
        }
    }
    // x of point t, from that of the next point, which it takes the place of as well.
    SMNN_INLINE void substitute(int t, const T* left, T* next, T* x) const {
        T z[n];
        const Strided<T> f(job.factor, at(t, entries()), lanes);
        load(job.z, of_slot(t, size.n), size.n, job.slots, z);
        substitute_back<T, Size, Chunked>(size, 0, 1, f, z, left, next, x);
    }
};

// The gradient of one field on its way out: entry e of point t, or its sum over the points of the lane.
template <class T, class D, int COUNT>
struct Sink {
    using Count = typename SizeOf<D::unrolled>::template number<COUNT>;

    const Place<T, Count> place;
    double sums[COUNT];

    SMNN_INLINE Sink(const Output& out, const Lane& lane, int times, int count)
        : place(out, lane, lane.system, times, number_of(Count(), count)) {
        for (int e = 0; e < place.count; ++e) sums[e] = 0;
    }
    SMNN_INLINE void put(int t, int e, T x) {
        if (place.out.over_time) {
            sums[e] += double(x);
        } else {
            place.put(t, e, x);
        }
    }
    SMNN_INLINE void put_all(int t, const T* x) {
        for (int e = 0; e < place.count; ++e) put(t, e, x[e]);
    }
    SMNN_INLINE void finish() const {
        if (!place.out.over_time || !place.out.data) return;
        for (int e = 0; e < place.count; ++e) place.at[e] = T(sums[e]);
    }
};

// (points, n) on the way back: at the current point and the one before it.
template <class T, int N, class Size>
struct Trailing {
    const Field_<T> field;
    const Size size;
    T both[2 * N];

    SMNN_INLINE Trailing(const Systems& systems, const Input& in, const Lane& lane, const Size& size_)
        : field(systems, in, lane), size(size_) {}
    SMNN_INLINE T* before() { return both; }
    SMNN_INLINE T* now() { return both + size.n; }
    SMNN_INLINE void read_now(int t) {
        for (int j = 0; j < size.n; ++j) both[size.n + j] = field(t, j / size.K, j % size.K);
    }
    SMNN_INLINE void read_before(int t, bool is_first) {
        for (int j = 0; j < size.n; ++j) both[j] = is_first ? T(0) : field(t - 1, j / size.K, j % size.K);
    }
    SMNN_INLINE void go_back() {
        for (int j = 0; j < size.n; ++j) both[size.n + j] = both[j];
    }
};

// The sizes of the products of one side of a lane, as far as they are known.
template <class T>
struct Sizes {
    T largest[SIZES] = {};

    SMNN_INLINE void take(int i, T x) { largest[i] = magnitude(x) > largest[i] ? magnitude(x) : largest[i]; }
    // Numbers from zero on are in the order of their bits.
    SMNN_INLINE void add_to(void* sizes, Index count, Index system, int side) const {
        for (int i = 0; i < SIZES; ++i) {
            if (largest[i] == 0) continue;
            T* const to = static_cast<T*>(sizes) + (side * SIZES + i) * count + system;
            if constexpr (sizeof(T) == 8) {
                using Bits = unsigned long long;
                atomicMax(reinterpret_cast<Bits*>(to), Bits(__double_as_longlong(largest[i])));
            } else {
                atomicMax(reinterpret_cast<unsigned*>(to), __float_as_uint(largest[i]));
            }
        }
    }
};

// Takes what a side has solved for, x, into what it knows; x = y for the side of y, at first. On the way back
//
//     total += x,     a += A x - d,     rest = g - A^T W^2 a,
//
// where a are the products that are kept, d and g are there for y and for λ, and rest is the right-hand side of what refines.
// The part that the step into a chunk adds to `rest` at the separator on its left is not in it: it goes into the next solve.
// The rows of initial values are a = y + its change - u. At first, total and a are zero, and total stays so for y.
template <class T, class D, bool Chunked>
SMNN_INLINE void Points<T, D, Chunked>::refine() const {
    const Rows rows(job, lane);
    const bool of_y = lane.side == OF_Y, is_first = !job.systems.sizes, bad = job.systems.bad[lane.system] != 0;
    const Field_<T> given(job.systems, job.in[GIVEN], lane);
    const Field_<T> g_(job.systems, job.in[G], lane);
    const Field_<T> total_(job.systems, job.in[TOTAL], lane);
    const Field_<T> y(job.systems, job.in[Y], lane);
    using Numbers = decltype(size.n);
    const Place<T, Numbers> total(job.total, lane, row(), job.points, size.n);
    const Place<T, Numbers> out(job.x, lane, row(), job.points, size.n);
    const bool is_given = is_first && of_y;
    // x at the current point and the one before it, x as it was solved for, and rest: at the point, and before it, for now
    T both[2 * n], solved[n], left[n], rest[n], earlier[n], equations[Q], step[STEP];
    T *const before = both, *const now = both + size.n;
    Sizes<T> sizes;
    const auto add_kept = [&](int t, int of, auto w, T* a) {
        const int first = of == STEPS ? size.Q : 0, count = of == STEPS ? step_rows(size) : int(size.Q);
        T* const kept = static_cast<T*>(job.products) + of_slot(t, product_rows()) + first * job.slots;
        for (int i = 0; i < count; ++i) {
            sizes.take(ADDED + of, w(i) * a[i]);
            if (!is_first) a[i] += kept[i * job.slots];
            kept[i * job.slots] = a[i];
            sizes.take(of, w(i) * a[i]);
        }
    };
    // x at point t, -1 for that before the lane
    const auto read = [&](int t, T* to) {
        if (is_given) {
            for (int j = 0; j < size.n; ++j) to[j] = rows.is_first(t + 1) ? T(0) : given(t, j / size.K, j % size.K);
            return;
        }
        if (t < 0) {
            for (int j = 0; j < size.n; ++j) to[j] = left[j];
        } else if (Chunked && t == lane.length - 1) {
            for (int j = 0; j < size.n; ++j) to[j] = solved[j];
        } else {
            substitute(t, left, solved, to);
        }
        for (int j = 0; j < size.n; ++j) to[j] = bad ? not_a_number<T>() : to[j];
    };
    const auto take_point = [&](int t) {
        read(t - 1, before);
        T sum[n];
        for (int j = 0; j < size.n; ++j) {
            rest[j] = earlier[j] + (of_y ? T(0) : g_(t, j / size.K, j % size.K));
            earlier[j] = T(0);
            sum[j] = is_given ? T(0) : now[j] + (is_first ? T(0) : total_(t, j / size.K, j % size.K));
            total.put(t, j, sum[j]);
            if (is_first) sizes.take(SOLUTION, now[j]);
        }
        multiply_equations<T>(size, rows, t, now, equations);
        for (int q = 0; q < size.Q; ++q) equations[q] -= is_given ? rows.b(t, q) : T(0);
        add_kept(t, EQUATIONS, [&](int q) { return rows.w_equation(t, q); }, equations);
        subtract_equations<T>(size, rows, t, equations, rest);
        const T s = rows.s(t), w_step = rows.w_smoothness(t);
        multiply_step<T>(size, job.scheme_rows, s, before, now, step);
        add_kept(t, STEPS, [&](int) { return w_step; }, step);
        subtract_step<T>(size, job.scheme_rows, s, w_step, step, earlier, rest);
        if (rows.has_initial(t)) {
            each_initial_row([&](auto j, int v, int r) {
                const T w = rows.w_initial(t, v, r), a = (of_y ? y(t, v, r) - rows.u(t, v, r) : T(0)) + sum[j];
                rest[j] -= w * w * a;
                sizes.take(INITIAL, w * a);
            });
        }
        for (int j = 0; j < size.n; ++j) {
            out.put(t, j, rest[j]);
            now[j] = before[j];
        }
    };
    for (int j = 0; j < size.n; ++j) solved[j] = earlier[j] = T(0);
    if (lane.length > 0) {
        if (is_given) {
            for (int j = 0; j < size.n; ++j) now[j] = given(lane.length - 1, j / size.K, j % size.K);
        } else {
            separator(-1, left);
            if constexpr (Chunked) separator(0, solved);
            read(lane.length - 1, now);
        }
    }
    for (int t = lane.length - 1; t >= 0; --t) take_point(t);
    const Index count = job.systems.count;
    if (lane.length > 0) sizes.add_to(job.sizes, count, lane.system, lane.side);
    keep_sizes();
    if constexpr (Chunked) {
        // on to the next solve, which some systems will not need
        if (!job.passed) return;
        for (int j = 0; j < size.n; ++j) left[j] = -earlier[j];
        forward(job.in[REST], left);
    }
}

// y + its change and λ, with the products that are kept of them, into the gradients of all inputs: NaN where refinement does
// not find them.
template <class T, class D, bool Chunked>
SMNN_INLINE void Points<T, D, Chunked>::contract() const {
    const Rows rows(job, lane);
    Trailing<T, n, Size> y(job.systems, job.in[Y], lane, size);
    Trailing<T, n, Size> change(job.systems, job.in[TOTAL], lane, size);
    Lane of_lambda = lane;
    of_lambda.side = OF_LAMBDA;
    Trailing<T, n, Size> x(job.systems, job.in[TOTAL], of_lambda, size);
    bool bad = job.systems.bad[lane.system] != 0;
    for (int side = 0; side < SIDES; ++side) {
        bad = bad || exceeds<T>(job.sizes, job.systems.count, lane.system, side, T(LOST));
    }
    const int steps = job.points - 1, initial = size.V * job.R_init;
    Sink<T, D, Q * n> dc(job.gradient[C], lane, job.points, size.Q * size.n);
    Sink<T, D, Q> db(job.gradient[B], lane, job.points, size.Q);
    Sink<T, D, 1> ds(job.gradient[S], lane, steps, 1);
    Sink<T, D, Q> dw(job.gradient[W_EQUATION], lane, job.points, size.Q);
    Sink<T, D, 1> dws(job.gradient[W_SMOOTHNESS], lane, steps, 1);
    T* du = static_cast<T*>(job.gradient[U].data) + lane.system * job.T_init * initial;
    T* dwi = static_cast<T*>(job.gradient[W_INITIAL].data) + lane.system * job.T_init * initial;
    T c[Q * n], b[Q], w[Q], s, ws, refined[2 * n], of_y[Q + STEP], of_x[Q + STEP];
    const auto contract_point = [&](int t) {
        const bool is_first = rows.is_first(t);
        y.read_before(t, is_first);
        change.read_before(t, is_first);
        x.read_before(t, is_first);
        load(job.products, of_slot(t, product_rows()), product_rows(), job.slots, of_y);
        load(job.products, of_slot(t, product_rows()) + lanes, product_rows(), job.slots, of_x);
        for (int j = 0; j < 2 * size.n; ++j) refined[j] = y.both[j] + change.both[j];
        if (bad) {
            for (int i = 0; i < product_rows(); ++i) of_y[i] = of_x[i] = not_a_number<T>();
            for (int j = 0; j < 2 * size.n; ++j) x.both[j] = not_a_number<T>();
        }
        smnn::SMNN_LEVEL::contract<T>(
            size, job.scheme_rows, rows, t, t + 1, refined + size.n, x.now(), Products<T>{of_y, of_y + size.Q},
            Products<T>{of_x, of_x + size.Q}, BlockGradients<T>{c, b, w, &s, &ws}
        );
        dc.put_all(t, c);
        db.put_all(t, b);
        dw.put_all(t, w);
        if (!is_first) {
            ds.put(t - 1, 0, s);
            dws.put(t - 1, 0, ws);
        }
        if (rows.has_initial(t)) {
            each_initial_row([&](auto j, int v, int r) {
                const T weight = rows.w_initial(t, v, r);
                const Index to = Index(lane.start + t) * initial + v * job.R_init + r;
                if (job.gradient[U].data) du[to] = weight * weight * x.now()[j];
                if (!job.gradient[W_INITIAL].data) return;
                dwi[to] = 2 * weight * x.now()[j] * (rows.u(t, v, r) - y.now()[j] - change.now()[j]);
            });
        }
        y.go_back();
        change.go_back();
        x.go_back();
    };
    if (lane.length == 0) return;
    for (Trailing<T, n, Size>* each : {&y, &change, &x}) each->read_now(lane.length - 1);
    for (int t = lane.length - 1; t >= 0; --t) contract_point(t);
    dc.finish();
    db.finish();
    dw.finish();
    ds.finish();
    dws.finish();
}

}  // namespace SMNN_LEVEL
}  // namespace smnn
