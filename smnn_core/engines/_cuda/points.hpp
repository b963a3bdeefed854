// What one lane does with its points: elimination, the two substitutions, residuals, contraction into gradients.
#pragma once

#include "../kernels/gradient.hpp"
#include "../kernels/substitute.hpp"
#include "../kernels/sweep.hpp"
#include "lane.hpp"

namespace smnn {
namespace SMNN_LEVEL {

template <class T, class D, bool Chunked, class Memory>
struct Points {
    using Size = typename SizeOf<D::unrolled>::template type<D>;
    static constexpr int n = D::n, K = D::K;
    static constexpr int ENTRIES = FactorLayout<Chunked>{n, K}.entries();
    static constexpr int CARRIED = CarriedLayout<Chunked>{n}.entries();

    const PointJob<T>& job;
    Lane lane;
    const Index lanes;
    const Size size;
    const int longest;  // lane: all threads of a warp go on as long
    Memory& memory;

    SMNN_INLINE Points(const PointJob<T>& job_, Index number, Memory& memory_)
        : job(job_),
          lane(number, job_.points, job_.chunks, job_.systems.count * job_.chunks),
          lanes(job_.systems.count * job_.chunks),
          size(SizeOf<D::unrolled>::template make<D>(job_.V, job_.K, job_.Q)),
          longest(Division{job_.points, job_.chunks}.longest()),
          memory(memory_) {
        if (job.systems.is_idle(lane.system)) lane.length = 0;
        if constexpr (Memory::any) memory.lanes.enter(lane.system, lane.start, lane.length);
    }

    // What is kept of a point, as the compiler knows it, or does not (see Dimensions).
    SMNN_INLINE int entries() const { return FactorLayout<Chunked>{size.n, size.K}.entries(); }
    SMNN_INLINE int carried_entries() const { return CarriedLayout<Chunked>{size.n}.entries(); }
    // Where a point of this lane lies in it.
    SMNN_INLINE Index at(int t, int count) const { return Index(t) * count * lanes + lane.number; }

    // What a lane is swept in. A thread has arrays of its own instead, a team this much of shared memory.
    static constexpr int ROOM = CARRIED + D::workspace + ENTRIES + n;

    SMNN_INLINE void sweep() const { sweep(nullptr, Alone()); }
    template <class Team>
    SMNN_INLINE void sweep(T* room, Team team) const {
        constexpr bool own = Team::size == 1;
        const SchemeRows<T> scheme{job.scheme_rows, job.scheme_norm2, job.tolerance2};
        const LaneRows<T, D, Memory> rows(job, lane, memory);
        Array<T, own ? CARRIED : 0> carried(room, CARRIED);
        Array<T, own ? D::workspace : 0> workspace(room, D::workspace);
        using Entries = Array<T, own ? ENTRIES : 0>;
        using Column = Array<T, own ? n : 0>;
        Sweep<T, Size, Chunked, true, Team> state(size, scheme, carried, workspace, team);
        for (int t = 0; t < longest; ++t) {
            fetch(memory.lanes, t, t, rows.c_, rows.b_, rows.w_equation_, rows.s_);
            if (t >= lane.length) continue;
            if (t == 0) {
                state.start(rows);
            } else {
                T* at = room;
                Entries f(at, ENTRIES);
                Column z(at, n);
                state.depart(rows, t, f, z);
                keep(t - 1, f, z, team);
            }
            state.arrive(rows, t);
            if (rows.has_initial(t)) {
                state.save(carried);
                for (int e = 0; e < size.V * job.R_init; ++e) {
                    const int v = e / job.R_init, r = e % job.R_init;
                    const T w = rows.w_initial(t, v, r);
                    T rhs = w * rows.u(t, v, r);
                    take_initial_row<T, Chunked, true>(
                        size.n, 1, v * size.K + r, w, &rhs, carried, workspace, team
                    );
                }
                state.load(carried);
            }
        }
        if (lane.length == 0) return;
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
        const Staged<T, decltype(Memory::g)> g_(job.systems, job.in[G], lane, memory.g);
        T before[n], left[n], g[n];
        for (int j = 0; j < size.n; ++j) before[j] = left[j] = T(0);
        for (int t = 0; t < longest; ++t) {
            fetch(memory.lanes, t, t, g_);
            if (t >= lane.length) continue;
            for (int j = 0; j < size.n; ++j) g[j] = g_(t, j / size.K, j % size.K);
            if (Chunked && t == lane.length - 1) {
                T* passed = static_cast<T*>(job.passed) + lane.number * 2 * size.n;
                for (int j = 0; j < size.n; ++j) {
                    passed[j] = g[j] - before[j];
                    passed[size.n + j] = left[j];
                }
            } else {
                T w[n];
                const Strided<T> f(job.factor, at(t, entries()), lanes);
                substitute_forward<T, Size, Chunked>(size, 0, 1, f, g, before, left, w);
                store(job.z, at(t, size.n), size.n, lanes, w);
            }
        }
    }

    // R x = z from the last point to the first.
    SMNN_INLINE void back() const {
        const bool bad = job.systems.bad[lane.system] != 0;
        using Count = decltype(size.n);
        const Place<T, Count, decltype(Memory::x)> out(job.x, lane, job.points, size.n, memory.x);
        const auto write = [&](int t, const T* x) {
            for (int j = 0; j < size.n; ++j) out.put(t, j, bad ? not_a_number<T>() : x[j]);
        };
        T next[n], left[n], x[n];
        separator(-1, left);
        if constexpr (Chunked) {
            separator(0, next);
            // (its slot is free: a lane has no points in tiles beyond its last)
            if (lane.length > 0) write(lane.length - 1, next);
        } else {
            for (int j = 0; j < size.n; ++j) next[j] = T(0);
        }
        for (int t = longest - 1; t >= 0; --t) {
            if (t < lane.length - Chunked) {
                T z[n];
                const Strided<T> f(job.factor, at(t, entries()), lanes);
                load(job.z, at(t, size.n), size.n, lanes, z);
                substitute_back<T, Size, Chunked>(size, 0, 1, f, z, left, next, x);
                write(t, x);
            }
            flush(memory.lanes, t, out);
        }
    }

    SMNN_INLINE void residual() const;
    SMNN_INLINE void contract() const;

   private:
    static constexpr int Q = D::Q, STEP = n + D::extra;
    using Rows = LaneRows<T, D, Memory>;
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
        const T* from = static_cast<const T*>(job.separators) + (lane.number + which) * size.n;
        for (int j = 0; j < size.n; ++j) x[j] = there ? from[j] : T(0);
    }
};

// The gradient of one field on its way out: entry e of point t, or its sum over the points of the lane.
template <class T, class D, int COUNT, class TileOf>
struct Sink {
    using Count = typename SizeOf<D::unrolled>::template number<COUNT>;

    static constexpr int points = TileOf::points;

    const Place<T, Count, TileOf> place;
    double sums[COUNT];

    SMNN_INLINE Sink(const Output& out, const Lane& lane, int times, int count, TileOf& tile)
        : place(out, lane, times, number_of(Count(), count), tile) {
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
        if (!place.out.over_time) return;
        for (int e = 0; e < place.count; ++e) place.at[e] = T(sums[e]);
    }
    SMNN_INLINE void flush(const WarpLanes& lanes, int t) const { place.flush(lanes, t); }
};

// (points, n) on the way back: at the current point and the one before it.
template <class T, int N, class Size, class TileOf>
struct Trailing {
    const Staged<T, TileOf> field;
    const Size size;
    T both[2 * N];

    SMNN_INLINE Trailing(const Systems& systems, const Input& in, const Lane& lane, const Size& size_, TileOf& tile)
        : field(systems, in, lane, tile), size(size_) {}
    SMNN_INLINE T* before() { return both; }
    SMNN_INLINE T* now() { return both + size.n; }
    // at a point that no tile holds
    SMNN_INLINE void outside(int t, T* to) const {
        for (int j = 0; j < size.n; ++j) to[j] = field.outside(t, j / size.K, j % size.K);
    }
    SMNN_INLINE void read_before(int t, bool is_first) {
        for (int j = 0; j < size.n; ++j) both[j] = is_first ? T(0) : field(t - 1, j / size.K, j % size.K);
    }
    SMNN_INLINE void go_back() {
        for (int j = 0; j < size.n; ++j) both[size.n + j] = both[j];
    }
};

// Adds A x - d to the products that are kept, a; then x = g - A^T W^2 a, the right-hand side of what refines y, or λ where
// d = 0 and M λ = g. In the rows of initial values a is y + its change - u.
template <class T, class D, bool Chunked, class Memory>
SMNN_INLINE void Points<T, D, Chunked, Memory>::residual() const {
    const Rows rows(job, lane, memory);
    Trailing<T, n, Size, decltype(Memory::factor)> x(job.systems, job.in[FACTOR], lane, size, memory.factor);
    const Field_<T> y(job.systems, job.in[Y], lane), change(job.systems, job.in[CHANGE_OF_Y], lane);
    const Staged<T, decltype(Memory::g)> g_(job.systems, job.in[G], lane, memory.g);
    const Place<T, decltype(size.n), decltype(Memory::x)> out(job.x, lane, job.points, size.n, memory.x);
    T rest[n], next[n], equations[Q], step[STEP];  // next: what is left of the point before, for now
    for (int j = 0; j < size.n; ++j) next[j] = T(0);
    T largest[LARGEST] = {};
    const auto take_largest = [&](int i, T a) { largest[i] = magnitude(a) > largest[i] ? magnitude(a) : largest[i]; };
    const auto add_kept = [&](int t, int of, auto w, T* a) {
        const int first = of == STEPS ? size.Q : 0, count = of == STEPS ? step_rows(size) : int(size.Q);
        T* const kept = static_cast<T*>(job.products[0]) + at(t, product_rows()) + first * lanes;
        for (int i = 0; i < count; ++i) {
            take_largest(ADDED + of, w(i) * a[i]);
            a[i] = kept[i * lanes] += a[i];
            take_largest(of, w(i) * a[i]);
        }
    };
    const auto take_step = [&](int t, T s) {
        multiply_step<T>(size, job.scheme_rows, s, x.before(), x.now(), step);
        const T w = rows.w_smoothness(t);
        add_kept(t, STEPS, [&](int) { return w; }, step);
        subtract_step<T>(size, job.scheme_rows, s, w, step, next, rest);
    };
    const auto take_point = [&](int t) {
        x.read_before(t, rows.is_first(t));
        for (int j = 0; j < size.n; ++j) {
            rest[j] = next[j] + (g_.there() ? g_(t, j / size.K, j % size.K) : T(0));
            next[j] = T(0);
        }
        multiply_equations<T>(size, rows, t, x.now(), equations);
        for (int q = 0; q < size.Q; ++q) equations[q] -= rows.b(t, q);
        add_kept(t, EQUATIONS, [&](int q) { return rows.w_equation(t, q); }, equations);
        subtract_equations<T>(size, rows, t, equations, rest);
        take_step(t, rows.s(t));
        if (rows.has_initial(t)) {
            each_initial_row([&](auto j, int v, int r) {
                const T w = rows.w_initial(t, v, r);
                const T a = (y.there() ? y(t, v, r) : T(0)) - rows.u(t, v, r) + change(t, v, r);
                rest[j] -= w * w * a;
                take_largest(INITIAL, w * a);
            });
        }
        for (int j = 0; j < size.n; ++j) out.put(t, j, rest[j]);
        x.go_back();
    };
    if (lane.length > 0) {
        const int last = lane.length - 1;
        x.outside(last, x.before());
        if (Chunked && lane.chunk + 1 < job.chunks) {
            // the step out of the last point; what it gives to the next point is the next lane's
            x.outside(lane.length, x.now());
            take_step(lane.length, rows.s_.outside(last));
        }
        x.go_back();
    }
    for (int t = longest - 1; t >= 0; --t) {
        const int edge = t < longest - 1 ? t + 1 : 0;
        fetch(memory.lanes, t, edge, rows.c_, rows.b_, rows.w_equation_, rows.s_, x.field, g_);
        if (t < lane.length) take_point(t);
        flush(memory.lanes, t, out);
    }
    if (lane.length > 0) store(job.largest, lane.number, LARGEST, lanes, largest);
}

// y + its change and λ, with the products that are kept of them, into the gradients of all inputs.
template <class T, class D, bool Chunked, class Memory>
SMNN_INLINE void Points<T, D, Chunked, Memory>::contract() const {
    const Rows rows(job, lane, memory);
    Trailing<T, n, Size, decltype(Memory::y)> y(job.systems, job.in[Y], lane, size, memory.y);
    Trailing<T, n, Size, decltype(Memory::change_of_y)> change(
        job.systems, job.in[CHANGE_OF_Y], lane, size, memory.change_of_y
    );
    Trailing<T, n, Size, decltype(Memory::lambda)> x(job.systems, job.in[LAMBDA], lane, size, memory.lambda);
    const bool bad = job.systems.bad[lane.system] != 0;
    const int steps = job.points - 1, initial = size.V * job.R_init;
    // (gradients take the places in tiles of what they are gradients of)
    Sink<T, D, Q * n, decltype(Memory::c)> dc(job.gradient[C], lane, job.points, size.Q * size.n, memory.c);
    Sink<T, D, Q, decltype(Memory::b)> db(job.gradient[B], lane, job.points, size.Q, memory.b);
    Sink<T, D, 1, decltype(Memory::s)> ds(job.gradient[S], lane, steps, 1, memory.s);
    NoTile none;
    Sink<T, D, Q, NoTile> dw(job.gradient[W_EQUATION], lane, job.points, size.Q, none);
    Sink<T, D, 1, NoTile> dws(job.gradient[W_SMOOTHNESS], lane, steps, 1, none);
    T* du = static_cast<T*>(job.gradient[U].data) + lane.system * job.T_init * initial;
    T* dwi = static_cast<T*>(job.gradient[W_INITIAL].data) + lane.system * job.T_init * initial;
    T c[Q * n], b[Q], w[Q], s, ws, refined[2 * n], of_y[Q + STEP], of_x[Q + STEP];
    const auto contract_point = [&](int t) {
        const bool is_first = rows.is_first(t);
        y.read_before(t, is_first);
        change.read_before(t, is_first);
        x.read_before(t, is_first);
        load(job.products[0], at(t, product_rows()), product_rows(), lanes, of_y);
        load(job.products[1], at(t, product_rows()), product_rows(), lanes, of_x);
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
                du[to] = weight * weight * x.now()[j];
                dwi[to] = 2 * weight * x.now()[j] * (rows.u(t, v, r) - y.now()[j] - change.now()[j]);
            });
        }
        y.go_back();
        change.go_back();
        x.go_back();
    };
    if (lane.length > 0) {
        y.outside(lane.length - 1, y.now());
        change.outside(lane.length - 1, change.now());
        x.outside(lane.length - 1, x.now());
    }
    for (int t = longest - 1; t >= 0; --t) {
        const int edge = t < longest - 1 ? t + 1 : 0;
        fetch(memory.lanes, t, edge, rows.c_, rows.b_, rows.s_, y.field, change.field, x.field);
        if (t < lane.length) contract_point(t);
        flush(memory.lanes, t, dc, db, ds);
    }
    if (lane.length == 0) return;
    dc.finish();
    db.finish();
    dw.finish();
    ds.finish();
    dws.finish();
}

}  // namespace SMNN_LEVEL
}  // namespace smnn
