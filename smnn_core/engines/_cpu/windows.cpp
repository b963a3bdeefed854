// Python's view of windows_job.hpp: contiguous NumPy arrays, whose sizes are checked here.
#include "windows_job.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include "isa_dispatch.hpp"

namespace nb = nanobind;

namespace {

using Numbers = nb::ndarray<double, nb::c_contig, nb::device::cpu>;
using Constants = nb::ndarray<const double, nb::c_contig, nb::device::cpu>;
using Integers = nb::ndarray<int, nb::c_contig, nb::device::cpu>;

void require(const char* name, size_t found, int64_t expected) {
    if (found != size_t(expected)) throw nb::value_error(name);
}

void require_within(const char* name, const Integers& numbers, int64_t least, int64_t most) {
    for (size_t i = 0; i < numbers.size(); ++i) {
        if (numbers.data()[i] < least || numbers.data()[i] > most) throw nb::value_error(name);
    }
}

smnn::Window window(const Integers& q, const Integers& first, const Constants& s, const Constants& W, const Constants& E) {
    if (s.ndim() != 2 || W.ndim() != 4 || E.ndim() != 3) throw nb::value_error("another number of axes than is expected");
    const int64_t V = int64_t(W.shape(0)), k = int64_t(W.shape(1)), R = int64_t(W.shape(2)) - 1;
    smnn::Window w{int64_t(s.shape(0)), int64_t(s.shape(1)), V, k, 0, R, 0, q.data(), first.data(), s.data(), W.data(), E.data()};
    if (R > smnn::WindowKernels::MOST_ORDERS || k > smnn::WindowKernels::MOST_POINTS) throw nb::value_error("too many orders or points");
    require("q", q.size(), V);
    require("first", first.size(), V);
    require("W", W.size(), V * w.a() * k * (R + 1));
    require("E", E.size(), V * w.a() * (R + 1));
    for (int64_t v = 0; v < V; ++v) {
        if (q.data()[v] < 0 || q.data()[v] > R || first.data()[v] != w.M) throw nb::value_error("orders");
        w.M += q.data()[v];
    }
    return w;
}

// a factor, without G: lu (B, N, V k, V k), scale (B, N, V k), order (B, N, V k), HC (B, N, V k, M + p)
template <class Array>
void require_factor(const smnn::Window& w, const Array& lu, const Array& scale, const Integers& order, const Array& HC) {
    const int64_t n = w.V * w.k, count = w.B * w.N;
    require("lu", lu.size(), count * n * n);
    require("scale", scale.size(), count * n);
    require("order", order.size(), count * n);
    require("HC", HC.size(), count * n * (w.M + w.p));
}

// the same with G (B, N, M, M + p)
template <class Array>
void require_factor(
    const smnn::Window& w, const Array& lu, const Array& scale, const Integers& order, const Array& HC, const Array& G
) {
    require_factor(w, lu, scale, order, HC);
    require("G", G.size(), w.B * w.N * w.M * (w.M + w.p));
}

void values(Integers q, Integers first, Constants s, Constants W, Constants E, Constants x, Constants z, Numbers y, Numbers d) {
    const smnn::Window w = window(q, first, s, W, E);
    require("x", x.size(), w.B * (w.N + 1) * w.M);
    require("z", z.size(), w.B * w.N * w.V * w.k);
    require("y", y.size(), w.B * w.N * w.k * w.V * (w.R + 1));
    require("d", d.size(), w.B * w.N * w.M);
    nb::gil_scoped_release release;
    smnn::isa().windows.values(w, nullptr, x.data(), z.data(), y.data(), d.data());
}

void eliminate(
    Integers q, Integers first, Constants s, Constants W, Constants E, Constants J, Constants P, Numbers lu,
    Numbers scale, Integers order, Numbers HC, Numbers G
) {
    smnn::Window w = window(q, first, s, W, E);
    const int64_t n = w.V * w.k, count = w.B * w.N;
    if (P.ndim() < 1) throw nb::value_error("P");
    w.p = int64_t(P.shape(P.ndim() - 1));
    require("P", P.size(), count * n * w.p);
    require("J", J.size(), count * n * w.V * (w.R + 1));
    require_factor(w, lu, scale, order, HC, G);
    nb::gil_scoped_release release;
    smnn::isa().windows.eliminate(w, nullptr, J.data(), P.data(), lu.data(), scale.data(), order.data(), HC.data(), G.data());
}

void advance(
    Integers q, Integers first, Constants s, Constants W, Constants E, Constants lu, Constants scale, Integers order,
    Constants HC, Constants G, Constants f, Constants d, Numbers dx, Numbers dz
) {
    const smnn::Window w = window(q, first, s, W, E);
    const int64_t n = w.V * w.k, count = w.B * w.N;
    require_factor(w, lu, scale, order, HC, G);
    require("f", f.size(), count * n);
    require("d", d.size(), count * w.M);
    require("dx", dx.size(), w.B * (w.N + 1) * w.M);
    require("dz", dz.size(), count * n);
    require_within("order", order, 0, n - 1);
    nb::gil_scoped_release release;
    smnn::isa().windows.advance(
        w, nullptr, lu.data(), scale.data(), order.data(), HC.data(), G.data(), f.data(), d.data(), dx.data(), dz.data()
    );
}

// at (B, C), rows (B, C, M + c), size (B, M + c)
smnn::Coupling coupling(smnn::Window& w, int64_t p, const Integers& at, const Constants& rows, const Constants& size) {
    if (size.ndim() != 2) throw nb::value_error("size");
    const int64_t C = int64_t(size.shape(1));
    w.p = p;
    if (p < 0 || C < w.M + p) throw nb::value_error("constants");
    require("at", at.size(), w.B * C);
    require("rows", rows.size(), w.B * C * C);
    require("size", size.size(), w.B * C);
    return {C - w.M, at.data(), rows.data(), size.data()};
}

void couple(
    Integers q, Integers first, Constants s, Constants W, Constants E, int64_t p, Integers at, Constants rows, Constants size,
    Constants G, Numbers R, Numbers tau, Integers count, Numbers scale
) {
    smnn::Window w = window(q, first, s, W, E);
    const smnn::Coupling c = coupling(w, p, at, rows, size);
    const int64_t points = w.B * (w.N + 1), most = c.most(w.M);
    require("G", G.size(), w.B * w.N * w.M * (w.M + p));
    require("R", R.size(), points * most * most);
    require("tau", tau.size(), points * (w.M + c.c));
    require("count", count.size(), points);
    require("scale", scale.size(), w.B * (w.N * w.M + w.M + c.c));
    nb::gil_scoped_release release;
    smnn::isa().windows.couple(w, c, G.data(), R.data(), tau.data(), count.data(), scale.data());
}

void solve(
    Integers q, Integers first, Constants s, Constants W, Constants E, int64_t p, Integers at, Constants rows, Constants size,
    Constants lu, Constants scale, Integers order, Constants HC, Constants R, Constants tau, Integers count,
    Constants row_scale, Constants f, Constants d, Constants g, Numbers dx, Numbers dz, Numbers dc
) {
    smnn::Window w = window(q, first, s, W, E);
    const smnn::Coupling c = coupling(w, p, at, rows, size);
    const int64_t n = w.V * w.k, intervals = w.B * w.N, points = w.B * (w.N + 1), most = c.most(w.M);
    require_factor(w, lu, scale, order, HC);
    require("R", R.size(), points * most * most);
    require("tau", tau.size(), points * (w.M + c.c));
    require("count", count.size(), points);
    require("scale", row_scale.size(), w.B * (w.N * w.M + w.M + c.c));
    require("f", f.size(), intervals * n);
    require("d", d.size(), intervals * w.M);
    require("g", g.size(), w.B * (w.M + c.c));
    require("dx", dx.size(), points * w.M);
    require("dz", dz.size(), intervals * n);
    require("dc", dc.size(), w.B * c.c);
    require_within("order", order, 0, n - 1);
    require_within("count", count, 0, most);
    nb::gil_scoped_release release;
    smnn::isa().windows.solve(
        w, c, lu.data(), scale.data(), order.data(), HC.data(), R.data(), tau.data(), count.data(), row_scale.data(), f.data(),
        d.data(), g.data(), dx.data(), dz.data(), dc.data()
    );
}

void improve(
    Integers q, Integers first, Constants s, Constants W, Constants E, int64_t intervals, double rounding, Constants least,
    Constants offset, Constants limit, Numbers dx, Numbers dz, Numbers x, Numbers z, Numbers y, Numbers d, Numbers change,
    Numbers rate, Integers solved, Numbers lu, Numbers scale, Integers order, Numbers HC, Numbers G, Constants f, Constants J
) {
    const smnn::Window w = window(q, first, s, W, E);
    const int64_t n = w.V * w.k, count = w.B * w.N, states = w.B * (w.N + 1) * w.M;
    if (intervals < 1) throw nb::value_error("intervals");
    require("least", least.size(), w.B * w.M);
    require("offset", offset.size(), w.B);
    require("limit", limit.size(), w.B);
    require("dx", dx.size(), states);
    require("dz", dz.size(), count * n);
    require("x", x.size(), states);
    require("z", z.size(), count * n);
    require("y", y.size(), count * n * (w.R + 1));
    require("d", d.size(), count * w.M);
    require("change", change.size(), count);
    require("rate", rate.size(), w.B);
    require("solved", solved.size(), w.B);
    require_factor(w, lu, scale, order, HC, G);
    require("f", f.size(), count * n);
    if (J.size() != 0) require("J", J.size(), count * n * w.V * (w.R + 1));
    require_within("order", order, 0, n - 1);  // also with J: intervals that are solved keep theirs
    const smnn::Iterates u{
        intervals, rounding, least.data(), offset.data(), limit.data(), dx.data(), dz.data(), x.data(), z.data(), y.data(), d.data(),
        change.data(), rate.data(), solved.data()
    };
    nb::gil_scoped_release release;
    smnn::isa().windows.improve(
        w, u, J.size() != 0 ? J.data() : nullptr, f.data(), lu.data(), scale.data(), order.data(), HC.data(), G.data()
    );
}

void keep(
    Integers q, Integers first, Constants s, Constants W, Constants E, Constants leading, Constants constants,
    Constants tolerance, double faintest, double absolute, Constants x, Constants z, Integers solved, Numbers last, Numbers top,
    Numbers width, Numbers size, Numbers largest_x, Numbers largest_y, Integers count, Numbers ratio
) {
    const smnn::Window w = window(q, first, s, W, E);
    require("leading", leading.size(), w.k);
    require("constants", constants.size(), w.V);
    require("tolerance", tolerance.size(), w.B);
    require("x", x.size(), w.B * (w.N + 1) * w.M);
    require("z", z.size(), w.B * w.N * w.V * w.k);
    require("solved", solved.size(), w.B);
    require("last x", last.size(), w.B * w.M);
    require("top", top.size(), w.B * w.V);
    require("width", width.size(), w.B);
    require("size", size.size(), w.B * w.M);
    require("largest x", largest_x.size(), w.B * w.M);
    require("largest y", largest_y.size(), w.B * w.V);
    require("count", count.size(), w.B);
    require("ratio", ratio.size(), w.B * 2);
    require_within("solved", solved, 0, w.N);
    const smnn::Allowed allowed{leading.data(), constants.data(), tolerance.data(), faintest, absolute};
    const smnn::Progress progress{last.data(), top.data(), width.data(), size.data(), largest_x.data(), largest_y.data()};
    nb::gil_scoped_release release;
    smnn::isa().windows.keep(w, allowed, progress, x.data(), z.data(), solved.data(), count.data(), ratio.data());
}

void at_times(
    Integers q, Integers first, Constants s, Constants W, Constants E, Constants series, Constants t, Constants x, Constants z,
    Constants times, Integers last, Numbers y
) {
    const smnn::Window w = window(q, first, s, W, E);
    if (times.ndim() != 2) throw nb::value_error("times");
    const int64_t n = int64_t(times.shape(1));
    require("series", series.size(), w.V * w.a() * (w.R + 1) * (w.k + w.R));
    require("t", t.size(), w.B * (w.N + 1));
    require("x", x.size(), w.B * (w.N + 1) * w.M);
    require("z", z.size(), w.B * w.N * w.V * w.k);
    require("times", times.size(), w.B * n);
    require("last", last.size(), w.B);
    require("y", y.size(), w.B * n * w.V * (w.R + 1));
    require_within("last", last, 0, w.N - 1);
    nb::gil_scoped_release release;
    smnn::isa().windows.at_times(w, series.data(), t.data(), x.data(), z.data(), n, times.data(), last.data(), y.data());
}

void predict(
    Integers q, Integers first, Constants s, Constants W, Constants E, Constants series, Constants t, Constants x, Constants z,
    Integers solved, double further, Constants start, Constants mesh, Constants points, Numbers new_x, Numbers new_z
) {
    const smnn::Window before = window(q, first, s, W, E);
    if (mesh.ndim() != 2 || mesh.shape(1) < 2 || before.N < 1 || before.k < 1) throw nb::value_error("mesh");
    const int64_t N = int64_t(mesh.shape(1)) - 1, B = before.B, M = before.M, V = before.V, k = before.k;
    require("series", series.size(), V * before.a() * (before.R + 1) * (k + before.R));
    require("t", t.size(), B * (before.N + 1));
    require("x", x.size(), B * (before.N + 1) * M);
    require("z", z.size(), B * before.N * V * k);
    require("solved", solved.size(), B);
    require("start", start.size(), B * M);
    require("mesh", mesh.size(), B * (N + 1));
    require("points", points.size(), B * N * k);
    require("new x", new_x.size(), B * (N + 1) * M);
    require("new z", new_z.size(), B * N * V * k);
    require_within("solved", solved, 0, before.N);
    nb::gil_scoped_release release;
    smnn::isa().windows.predict(
        before, series.data(), t.data(), x.data(), z.data(), solved.data(), further, start.data(), N, mesh.data(), points.data(),
        new_x.data(), new_z.data()
    );
}

}  // namespace

void bind_windows(nb::module_& m) {
    m.def("window_values", &values);
    m.def("window_eliminate", &eliminate);
    m.def("window_advance", &advance);
    m.def("window_couple", &couple);
    m.def("window_solve", &solve);
    m.def("window_improve", &improve);
    m.def("window_keep", &keep);
    m.def("window_at_times", &at_times);
    m.def("window_predict", &predict);
}
