// The Python module. Arrays come as objects with the buffer protocol, which gives any strides and asks for no copy. Arguments
// are in the order of the public functions; what is written comes last.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <optional>
#include <string>
#include <thread>

#if !defined(_WIN32)
#include <pthread.h>
#endif

#include "engine.hpp"
#include "isa_dispatch.hpp"
#include "panels_api.hpp"
#include "threads.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using smnn::Factor;
using smnn::Index;
using smnn::View;

// The thread of the interpreter that receives signals.
unsigned long main_thread = 0;

// Calls that are under way without the interpreter's lock, and whether the interpreter is about to end. Both change with the
// lock held.
std::atomic<int> calls_without_lock{0};
bool is_ending = false;

// Gives the interpreter's lock up while it lives. A thread that asks for it again when there is no interpreter any more is
// ended then and there, and with it, in the middle of C++, the process: an interpreter that ends waits for such calls, and
// later ones, of threads that nobody joins, keep the lock.
class WithoutLock {
   public:
    WithoutLock() {
        if (is_ending) return;
        if (PyThread_get_thread_ident() == main_thread) call_.emplace([this] { return is_interrupted(); });
        ++calls_without_lock;
        state_ = PyEval_SaveThread();
    }
    ~WithoutLock() {
        if (!state_) return;
        PyEval_RestoreThread(state_);
        --calls_without_lock;
    }
    WithoutLock(const WithoutLock&) = delete;
    WithoutLock& operator=(const WithoutLock&) = delete;

   private:
    PyThreadState* state_ = nullptr;
    std::optional<smnn::Interruptible> call_;

    // True if a handler of a signal, such as that of Ctrl-C, has raised an exception: it is that of the interpreter then.
    bool is_interrupted() {
        PyEval_RestoreThread(state_);
        const bool raised = PyErr_CheckSignals() != 0;
        state_ = PyEval_SaveThread();
        return raised;
    }
};

// The result of f, which runs without the lock.
template <class F>
auto without_lock(F f) {
    try {
        const WithoutLock guard;
        return f();
    } catch (const smnn::Interrupted&) {
        throw nb::python_error();
    }
}

void wait_for_calls() {
    is_ending = true;
    while (calls_without_lock > 0) {
        nb::gil_scoped_release release;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
}

// Stands in for the null pointer of an array without elements.
double nowhere;

// An array whose buffer is held as long as this lives.
class Held {
   public:
    Held() = default;
    Held(const Held&) = delete;
    Held& operator=(const Held&) = delete;
    ~Held() {
        if (held_) PyBuffer_Release(&buffer_);
    }

    // `type` as in the format of the buffer.
    void hold(nb::handle object, bool writable, char type = 'd') {
        const int flags = PyBUF_STRIDES | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0);
        if (PyObject_GetBuffer(object.ptr(), &buffer_, flags) != 0) throw nb::python_error();
        held_ = true;
        const char* format = buffer_.format;
        if (!format || format[0] != type || format[1] != 0) {
            throw nb::type_error((std::string("expected a buffer of format ") + type).c_str());
        }
        const bool is_empty = buffer_.len == 0;
        if (!is_empty && Index(reinterpret_cast<size_t>(buffer_.buf)) % buffer_.itemsize != 0) {
            fail("elements that are not aligned");
        }
        for (int i = 0; i < buffer_.ndim; ++i) {
            shape_.push_back(buffer_.shape[i]);
            const Index step = is_empty || buffer_.shape[i] == 1 ? 0 : buffer_.strides[i];
            if (step % buffer_.itemsize != 0) fail("strides that are no multiple of the item size");
            strides_.push_back(step / buffer_.itemsize);
        }
        view = {buffer_.buf ? buffer_.buf : &nowhere, buffer_.ndim, shape_.data(), strides_.data()};
    }

    // An array to write, of this shape and with its elements one after another. None: null.
    void* hold_result(nb::handle object, const std::vector<Index>& shape, char type = 'd') {
        if (object.is_none()) return nullptr;
        hold(object, true, type);
        require(shape);
        return view.data;
    }
    void require(const std::vector<Index>& shape) const {
        Index stride = 1;
        bool dense = true;
        for (size_t i = shape_.size(); i-- > 0; stride *= shape_[i]) dense = dense && (shape_[i] == 1 || strides_[i] == stride);
        if (shape_ != shape || (!dense && stride != 0)) fail("another shape or layout than is expected");
    }

    View view;

   private:
    Py_buffer buffer_{};
    bool held_ = false;
    std::vector<Index> shape_, strides_;
    [[noreturn]] static void fail(const char* what) {
        throw nb::value_error((std::string("a buffer has ") + what).c_str());
    }
};

// A problem as Python hands it over. It holds the buffers of its arrays, for all calls.
class Problem {
   public:
    smnn::ProblemSpec spec;

    // sizes: T, V, K, Q, T_init, R_init; scheme_rows: (2K, 2K); arrays: in the order of smnn::Field, None where there is none.
    Problem(
        const std::array<int, 6>& sizes, std::vector<Index> batch, nb::handle scheme_rows, double tolerance, nb::tuple arrays
    ) {
        const auto [T, V, K, Q, T_init, R_init] = sizes;
        scheme_.hold(scheme_rows, false);
        scheme_.require({2 * K, 2 * K});
        if (arrays.size() > arrays_.size()) throw nb::value_error("too many arrays");
        spec = {T, V, K, Q, T_init, R_init, static_cast<const double*>(scheme_.view.data), tolerance, std::move(batch), {}};
        for (size_t f = 0; f < arrays.size(); ++f) {
            if (arrays[f].is_none()) continue;
            arrays_[f].hold(arrays[f], false);
            spec.arrays[f] = arrays_[f].view;
        }
    }

    // (batch..., axes...)
    std::vector<Index> shape(std::initializer_list<int> axes) const {
        std::vector<Index> result = spec.batch;
        result.insert(result.end(), axes.begin(), axes.end());
        return result;
    }
    std::vector<Index> shape_of_solution() const { return shape({spec.T, spec.V, spec.K}); }

   private:
    Held scheme_;
    std::array<Held, smnn::SMOOTHNESS_RHS + 1> arrays_;
};

// An array whose memory comes from the engine's pool, and goes back there.
nb::ndarray<nb::numpy> empty(const std::vector<size_t>& shape, bool is_double) {
    size_t bytes = is_double ? 8 : 4;
    for (size_t size : shape) bytes *= size;
    auto buffer = std::make_unique<smnn::Buffer>(bytes);
    void* data = buffer->data();
    nb::capsule owner(buffer.get(), [](void* p) noexcept { delete static_cast<smnn::Buffer*>(p); });
    (void)buffer.release();
    const nb::dlpack::dtype dtype = is_double ? nb::dtype<double>() : nb::dtype<float>();
    return nb::ndarray<nb::numpy>(data, shape.size(), shape.data(), owner, nullptr, dtype);
}

nb::tuple solve(const Problem& problem, nb::handle y, bool recompute) {
    Held out;
    void* const to = out.hold_result(y, problem.shape_of_solution());
    const smnn::Outcome solved = without_lock([&] { return smnn::solve(problem.spec, to, recompute); });
    return nb::make_tuple(solved.factor, solved.any_small_pivot, solved.shortest_step, solved.heaviest_equation);
}

bool find_undetermined(const Problem& problem, nb::handle undetermined) {
    Held flags;
    void* const to = flags.hold_result(undetermined, problem.shape({problem.spec.T}), '?');
    return without_lock([&] { return smnn::find_undetermined(problem.spec, static_cast<unsigned char*>(to)); });
}

bool normal_solve(const Problem& problem, std::shared_ptr<Factor> factor, nb::handle g, nb::handle x) {
    Held in, out;
    in.hold(g, false);
    void* const to = out.hold_result(x, problem.shape_of_solution());
    return without_lock([&] { return smnn::normal_solve(problem.spec, factor.get(), in.view, to); });
}

nb::tuple adjoint(const Problem& problem, std::shared_ptr<Factor> factor, nb::handle y, nb::handle g, nb::tuple gradients) {
    Held in_y, in_g;
    in_y.hold(y, false);
    in_g.hold(g, false);
    smnn::Gradients out;
    if (gradients.size() != out.size()) throw nb::value_error("expected a gradient for each input");
    std::array<Held, smnn::SMOOTHNESS_RHS> held;
    for (size_t f = 0; f < out.size(); ++f) {
        const View& like = problem.spec.arrays[f];
        if (held[f].hold_result(gradients[f], {like.shape, like.shape + like.rank})) out[f] = held[f].view;
    }
    const smnn::Found found = without_lock([&] { return smnn::adjoint(problem.spec, factor.get(), in_y.view, in_g.view, out); });
    return nb::make_tuple(found.any_small_pivot, found.any_nan);
}

// The gradients to write, by field, None where they are not wanted: (batch..., as many numbers as the field has, or fewer).
class HeldGradients {
   public:
    smnn::Gradients views;

    HeldGradients(const Problem& problem, nb::tuple gradients) {
        if (gradients.size() != views.size()) throw nb::value_error("expected a gradient for each input");
        const std::vector<Index>& batch = problem.spec.batch;
        for (size_t f = 0; f < views.size(); ++f) {
            if (gradients[f].is_none()) continue;
            held_[f].hold(gradients[f], true);
            const View& view = views[f] = held_[f].view;
            const size_t rank = size_t(view.rank);
            if (rank != batch.size() + RANKS[f]) throw nb::value_error("a gradient has other axes than its field");
            std::vector<Index> expected(view.shape, view.shape + rank);
            std::copy(batch.begin(), batch.end(), expected.begin());
            held_[f].require(expected);
        }
    }
    bool wants(smnn::Field field) const { return views[size_t(field)].data != nullptr; }
    bool wants_any() const {
        return std::any_of(views.begin(), views.end(), [](const View& view) { return view.data != nullptr; });
    }

   private:
    static constexpr size_t RANKS[] = {4, 2, 3, 1, 2, 3, 1};
    std::array<Held, smnn::SMOOTHNESS_RHS> held_;
};

nb::tuple moments(const Problem& problem, nb::tuple results, nb::handle y, nb::tuple of_determinant, nb::tuple of_minimum) {
    const smnn::ProblemSpec& spec = problem.spec;
    constexpr size_t RESULTS = 5;
    if (results.size() != RESULTS) throw nb::value_error("another number of results");
    std::array<Held, RESULTS> held;
    size_t i = 0;
    const auto result = [&](std::initializer_list<int> axes) {
        void* const to = held[i].hold_result(results[i], problem.shape(axes));
        ++i;
        return static_cast<double*>(to);
    };
    const int n = spec.V * spec.K, T = spec.T;
    smnn::Moments wanted{};
    wanted.covariance = result({T, n, n});
    wanted.lag = result({T - 1, n, n});
    wanted.variance = result({T, n});
    wanted.log_determinant = result({});
    wanted.minimum = result({});
    const HeldGradients determinant(problem, of_determinant), minimum(problem, of_minimum);
    if (determinant.wants(smnn::B) || determinant.wants(smnn::U)) {
        throw nb::value_error("log det M depends on no right-hand side");
    }
    const bool has_rhs = spec.arrays[smnn::B].data && (spec.arrays[smnn::U].data || spec.T_init * spec.R_init == 0);
    if ((wanted.minimum || minimum.wants_any()) && !has_rhs) throw nb::value_error("there is no right-hand side");
    Held solution;
    if (minimum.wants(smnn::C) || minimum.wants(smnn::S)) solution.hold(y, false);
    for (int k = 0; k < spec.K; ++k) {
        const double* const row = spec.scheme_rows + k * 2 * spec.K;
        if (row[spec.K + k] == 0) throw nb::value_error("a scheme that is not upper triangular");
    }
    const smnn::Outcome solved =
        without_lock([&] { return smnn::moments(spec, wanted, solution.view, determinant.views, minimum.views); });
    return nb::make_tuple(solved.any_small_pivot, solved.shortest_step);
}

// A matrix of any strides, or None: none.
class HeldMatrix {
   public:
    smnn::MatrixView matrix;

    HeldMatrix(nb::handle object, bool writable) {
        if (object.is_none()) return;
        held_.hold(object, writable);
        const View& view = held_.view;
        if (view.rank != 2) throw nb::value_error("expected a matrix");
        matrix = {static_cast<double*>(view.data), view.shape[0], view.shape[1], view.strides[0], view.strides[1]};
    }
    void require(Index rows, Index columns) const {
        if (matrix.data && (matrix.rows != rows || matrix.columns != columns)) {
            throw nb::value_error("another shape than is expected");
        }
    }

   private:
    Held held_;
};

// Indices of rows or columns.
class HeldIndices {
   public:
    int* data;

    HeldIndices(nb::handle object, bool writable, const std::vector<Index>& shape) {
        held_.hold(object, writable, 'i');
        held_.require(shape);
        data = static_cast<int*>(held_.view.data);
        for (Index size : shape) size_ *= size;
    }
    void require(int least, Index end) const {
        const auto fits = [&](int i) { return i >= least && i < end; };
        if (!std::all_of(data, data + size_, fits)) throw nb::value_error("an index is out of range");
    }

   private:
    Held held_;
    Index size_ = 1;
};

Index panels_of(const smnn::MatrixView& A) {
    constexpr int WIDTH = smnn::PanelKernels::WIDTH;
    return (A.columns + WIDTH - 1) / WIDTH;
}

void triangularise(nb::handle A, nb::handle begins, nb::handle C, nb::handle T, nb::handle order, int threads) {
    constexpr int WIDTH = smnn::PanelKernels::WIDTH;
    const HeldMatrix a(A, true), c(C, true);
    const Index panels = panels_of(a.matrix), rows = a.matrix.rows;
    c.require(rows, c.matrix.columns);
    Held t;
    double* const to = static_cast<double*>(t.hold_result(T, {panels, WIDTH, WIDTH}));
    const HeldIndices first(begins, false, {rows}), sorted(order, true, {panels, rows});
    for (Index panel = 0; panel < panels; ++panel) {
        const Index end = std::min<Index>((panel + 1) * WIDTH, a.matrix.columns);
        if (std::count_if(first.data, first.data + rows, [&](int begin) { return begin < end; }) < end) {
            throw nb::value_error("fewer rows than columns");
        }
    }
    without_lock([&] { smnn::triangularise(a.matrix, first.data, c.matrix, to, sorted.data, threads); });
}

void rotate(nb::handle A, nb::handle T, nb::handle order, nb::handle d, bool back, int threads) {
    constexpr int WIDTH = smnn::PanelKernels::WIDTH;
    const HeldMatrix a(A, false), x(d, true);
    x.require(a.matrix.rows, x.matrix.columns);
    Held t;
    t.hold(T, false);
    t.require({panels_of(a.matrix), WIDTH, WIDTH});
    const HeldIndices sorted(order, false, {panels_of(a.matrix), a.matrix.rows});
    sorted.require(-1, a.matrix.rows);
    without_lock([&] { smnn::rotate(a.matrix, static_cast<const double*>(t.view.data), sorted.data, x.matrix, back, threads); });
}

void substitute(
    nb::handle pivots, nb::handle R, nb::handle E, nb::handle x, nb::handle next, bool transposed, int threads
) {
    const HeldMatrix r(R, false), e(E, false), at(x, true), beyond(next, transposed);
    const Index n = r.matrix.columns, columns = at.matrix.columns;
    const HeldIndices rows(pivots, false, {n});
    rows.require(0, r.matrix.rows);
    at.require(n, columns);
    e.require(n, n);
    beyond.require(n, columns);
    const bool dense = n == 1 || (r.matrix.column == 1 && (!e.matrix.data || e.matrix.column == 1));
    if (!dense || !e.matrix.data != !beyond.matrix.data) throw nb::value_error("another layout than is expected");
    without_lock([&] { smnn::substitute({rows.data, r.matrix, e.matrix}, at.matrix, beyond.matrix, transposed, threads); });
}

void multiply(nb::handle a, nb::handle b, nb::handle c, int threads) {
    const HeldMatrix left(a, false), right(b, false), out(c, true);
    right.require(left.matrix.columns, right.matrix.columns);
    out.require(left.matrix.rows, right.matrix.columns);
    without_lock([&] { smnn::multiply(left.matrix, right.matrix, out.matrix, threads); });
}

}  // namespace

void bind_windows(nb::module_&);  // windows.cpp

NB_MODULE(_kernels, m) {
    // types are registered once in a process: imported again, after someone removed it, the module is as it was
    static PyObject* const first = Py_NewRef(m.ptr());
    if (first != m.ptr()) {
        if (PyDict_Update(PyModule_GetDict(m.ptr()), PyModule_GetDict(first)) != 0) throw nb::python_error();
        return;
    }
    // a factor that a global variable still holds at the end is no leak
    nb::set_leak_warnings(false);
    nb::module_::import_("atexit").attr("register")(nb::cpp_function(&wait_for_calls));
    main_thread = nb::cast<unsigned long>(nb::module_::import_("threading").attr("main_thread")().attr("ident"));
#if !defined(_WIN32)
    // a forked child has no other threads, whatever they were doing
    static const int registered = pthread_atfork(nullptr, nullptr, [] { calls_without_lock = 0; });
    (void)registered;
#endif
    m.doc() = "Compiled kernels of the CPU engine; smnn_core.engines.cpu is their interface.";
    bind_windows(m);
    nb::class_<Factor>(m, "Factor").def_ro("nbytes", &Factor::bytes);
    nb::class_<Problem>(m, "Problem")
        .def(
            nb::init<const std::array<int, 6>&, std::vector<Index>, nb::handle, double, nb::tuple>(), "sizes"_a, "batch"_a,
            "scheme_rows"_a, "tolerance"_a, "arrays"_a
        );
    m.def("solve", &solve, "problem"_a, "y"_a.none(), "recompute"_a = false);
    m.def("find_undetermined", &find_undetermined, "problem"_a, "undetermined"_a);
    m.def("normal_solve", &normal_solve, "problem"_a, "factor"_a.none(), "g"_a, "x"_a);
    m.def("adjoint", &adjoint, "problem"_a, "factor"_a.none(), "y"_a, "g"_a, "gradients"_a);
    m.def("moments", &moments, "problem"_a, "results"_a, "y"_a.none(), "of_determinant"_a, "of_minimum"_a);
    m.def("triangularise", &triangularise, "A"_a, "begins"_a, "C"_a.none(), "T"_a, "order"_a, "threads"_a);
    m.def("rotate", &rotate, "A"_a, "T"_a, "order"_a, "d"_a, "back"_a, "threads"_a);
    m.def(
        "substitute", &substitute, "pivots"_a, "R"_a, "E"_a.none(), "x"_a, "next"_a.none(), "transposed"_a, "threads"_a
    );
    m.def("multiply", &multiply, "a"_a, "b"_a, "c"_a, "threads"_a);
    m.attr("PANEL") = smnn::PanelKernels::WIDTH;
    m.def("empty", &empty, "shape"_a, "is_double"_a);
    m.def("isa", [] { return std::string(smnn::isa().name); }, "The instruction set in use.");
    m.def("usable_isas", [] { return std::string(smnn::usable_isas()); });
    m.def("max_threads", &smnn::max_threads);
    m.attr("LARGEST") = smnn::LARGEST;
}
