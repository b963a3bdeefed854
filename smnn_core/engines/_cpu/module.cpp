// The Python module: arrays come as objects with the buffer protocol, which gives any strides and asks for no copy.
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
#include <string>
#include <thread>

#if !defined(_WIN32)
#include <pthread.h>
#endif

#include "engine.hpp"
#include "levels.hpp"
#include "threads.hpp"

namespace nb = nanobind;

namespace {

using smnn::Arrays;
using smnn::Factor;
using smnn::Index;
using smnn::View;

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
};

void wait_for_calls() {
    is_ending = true;
    while (calls_without_lock > 0) {
        nb::gil_scoped_release release;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
}

// Where an array without elements lies that says it lies nowhere.
double nowhere;

// A buffer held for the time of a call.
class Held {
   public:
    Held() = default;
    Held(const Held&) = delete;
    Held& operator=(const Held&) = delete;
    ~Held() {
        if (held_) PyBuffer_Release(&buffer_);
    }

    // `type` as in the format of the buffer
    void hold(nb::handle object, bool writable, char type = 'd') {
        const int flags = PyBUF_STRIDES | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0);
        if (PyObject_GetBuffer(object.ptr(), &buffer_, flags) != 0) throw nb::python_error();
        held_ = true;
        const char* format = buffer_.format;
        if (!format || format[0] != type || format[1] != 0) {
            throw nb::type_error((std::string("expected a buffer of format ") + type).c_str());
        }
        if (buffer_.ndim > PyBUF_MAX_NDIM) fail("more axes than buffers may have");
        if (buffer_.len > 0 && Index(reinterpret_cast<size_t>(buffer_.buf)) % buffer_.itemsize != 0) {
            fail("elements that are not aligned");
        }
        for (int i = 0; i < buffer_.ndim; ++i) {
            shape_[i] = buffer_.shape[i];
            if (buffer_.strides[i] % buffer_.itemsize != 0) fail("strides that are no multiple of the item size");
            strides_[i] = buffer_.strides[i] / buffer_.itemsize;
        }
        // (an array without elements may say that it lies nowhere)
        view = {buffer_.len > 0 ? buffer_.buf : &nowhere, buffer_.ndim, shape_, strides_};
    }

    // An array to write: of this shape, and its elements one after another.
    void require(const Index* shape, size_t rank) const {
        Index stride = 1;
        bool dense = true;
        for (int i = view.rank; i-- > 0; stride *= view.shape[i]) {
            dense = dense && (view.shape[i] == 1 || view.strides[i] == stride);
        }
        if (size_t(view.rank) != rank || !std::equal(shape, shape + rank, view.shape) || (!dense && stride != 0)) {
            fail("another shape or layout than the result");
        }
    }

    View view;

   private:
    Py_buffer buffer_{};
    bool held_ = false;
    Index shape_[PyBUF_MAX_NDIM], strides_[PyBUF_MAX_NDIM];
    [[noreturn]] static void fail(const char* what) {
        throw nb::value_error((std::string("a buffer has ") + what).c_str());
    }
};

// T, V, K, Q, T_init, R_init
using Sizes = std::array<int, 6>;

// What a problem is, whatever its arrays and their batch: sizes and scheme. Made once for all that look alike.
struct Form {
    smnn::Shape shape;
    std::vector<double> scheme_rows;
    double tolerance;

    Form(const Sizes& sizes, nb::handle rows, double tolerance_)
        : shape{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5], {}}, tolerance(tolerance_) {
        Held held;
        held.hold(rows, false);
        const Index width = 2 * shape.K, expected[] = {width, width};
        held.require(expected, 2);
        const auto* first = static_cast<const double*>(held.view.data);
        scheme_rows.assign(first, first + width * width);
    }
};

// The problem as Python hands it over: arrays in the order of smnn::Field, None where there is none.
class Request {
   public:
    smnn::Shape shape;
    Arrays arrays;
    smnn::Scheme scheme;

    Request(const Form& form, std::vector<Index> batch, nb::tuple inputs)
        : shape(form.shape), scheme{form.scheme_rows.data(), form.tolerance} {
        shape.batch = std::move(batch);
        if (inputs.size() > smnn::FIELDS) throw nb::value_error("too many arrays");
        for (size_t f = 0; f < inputs.size(); ++f) hold(f, inputs[f]);
    }

    void hold(size_t field, nb::handle array) {
        if (array.is_none()) return;
        inputs_[field].hold(array, false);
        arrays[field] = inputs_[field].view;
    }

    // Holds an array to write, (batch..., T, V, K).
    void hold_solution(Held& held, nb::handle array) const {
        held.hold(array, true);
        std::vector<Index> expected = shape.batch;
        expected.insert(expected.end(), {shape.T, shape.V, shape.K});
        held.require(expected.data(), expected.size());
    }

   private:
    std::array<Held, smnn::FIELDS> inputs_;
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

nb::tuple solve(
    const Form& form, std::vector<Index> batch, nb::tuple inputs, nb::handle y, bool recompute
) {
    Request request(form, std::move(batch), inputs);
    Held out;
    if (!y.is_none()) request.hold_solution(out, y);
    smnn::Solved solved;
    {
        const WithoutLock guard;
        solved = smnn::solve(
            request.shape, request.scheme, request.arrays, out.view.data, recompute
        );
    }
    return nb::make_tuple(solved.factor, solved.any_small_pivot, solved.any_zero_step);
}

bool find_undetermined(const Form& form, std::vector<Index> batch, nb::tuple inputs, nb::handle undetermined) {
    Request request(form, std::move(batch), inputs);
    Held flags;
    flags.hold(undetermined, true, '?');
    const WithoutLock guard;
    return smnn::find_undetermined(request.shape, request.scheme, request.arrays, flags.view);
}

bool normal_solve(
    const Form& form, std::vector<Index> batch, nb::tuple inputs, std::shared_ptr<Factor> factor,
    nb::handle g, nb::handle x
) {
    Request request(form, std::move(batch), inputs);
    request.hold(smnn::G, g);
    Held out;
    request.hold_solution(out, x);
    const WithoutLock guard;
    return smnn::normal_solve(
        request.shape, request.scheme, request.arrays, factor.get(), out.view.data
    );
}

nb::tuple adjoint(
    const Form& form, std::vector<Index> batch, nb::tuple inputs, std::shared_ptr<Factor> factor,
    nb::handle y, nb::handle g, nb::tuple gradients, bool recompute
) {
    Request request(form, std::move(batch), inputs);
    request.hold(smnn::Y, y);
    request.hold(smnn::G, g);
    if (gradients.size() != smnn::SMOOTHNESS_RHS) throw nb::value_error("expected a gradient for each input");
    std::array<Held, smnn::SMOOTHNESS_RHS> outs;
    Arrays out;
    for (size_t f = 0; f < outs.size(); ++f) {
        if (gradients[f].is_none()) continue;
        outs[f].hold(gradients[f], true);
        outs[f].require(request.arrays[f].shape, size_t(request.arrays[f].rank));
        out[f] = outs[f].view;
    }
    smnn::Pulled pulled;
    {
        const WithoutLock guard;
        pulled = smnn::adjoint(request.shape, request.scheme, request.arrays, factor.get(), out, recompute);
    }
    if (pulled.changes.empty()) return nb::make_tuple(pulled.any_small_pivot, nb::none());
    std::vector<size_t> shape(request.shape.batch.begin(), request.shape.batch.end());
    const auto changes = empty(shape, true);
    std::copy(pulled.changes.begin(), pulled.changes.end(), static_cast<double*>(changes.data()));
    return nb::make_tuple(pulled.any_small_pivot, changes);
}

// The array to write, of this shape; null for None.
double* hold_result(Held& held, nb::handle array, std::vector<Index> shape) {
    if (array.is_none()) return nullptr;
    held.hold(array, true);
    held.require(shape.data(), shape.size());
    return static_cast<double*>(held.view.data);
}

void covariance(
    const Form& form, std::vector<Index> batch, nb::tuple inputs, nb::handle increments, nb::tuple results
) {
    Request request(form, std::move(batch), inputs);
    const smnn::Shape& shape = request.shape;
    constexpr size_t RESULTS = 13;
    if (results.size() != RESULTS) throw nb::value_error("another number of results");
    Held of_increments;
    of_increments.hold(increments, false);
    const Index K = shape.K, V = shape.V, Q = shape.Q, n = K * V, T = shape.T, square[] = {K, K};
    const Index T_init = shape.T_init, R_init = shape.R_init;
    of_increments.require(square, 2);
    std::array<Held, RESULTS> held;
    const auto result = [&](size_t i, std::initializer_list<Index> axes) {
        std::vector<Index> expected = shape.batch;
        expected.insert(expected.end(), axes);
        return hold_result(held[i], results[i], std::move(expected));
    };
    const smnn::Moments wanted{
        static_cast<const double*>(of_increments.view.data), result(0, {T, n, n}), result(1, {T - 1, n, n}),
        result(2, {T, n}), result(3, {}), result(4, {}),
        {result(5, {T, Q}), result(6, {T_init, V, R_init}), result(7, {T - 1, V, K})},
        {result(8, {T, Q, V, K}), result(9, {T, Q}), result(10, {T_init, V, R_init}), result(11, {T - 1}), result(12, {T - 1})},
    };
    const auto all_or_none = [](const auto& some) {
        return std::all_of(std::begin(some), std::end(some), [&](double* x) { return !x == !some[0]; });
    };
    if (!all_or_none(wanted.residual) || !all_or_none(wanted.gradient)) throw nb::value_error("some arrays are missing");
    const bool has_rhs = request.arrays[smnn::B].data && (request.arrays[smnn::U].data || shape.T_init * shape.R_init == 0);
    if ((wanted.minimum || wanted.residual[0]) && !has_rhs) throw nb::value_error("there is no right-hand side");
    const WithoutLock guard;
    smnn::covariance(shape, request.scheme, request.arrays, wanted);
}

// Whether the elements of all arrays lie at multiples of their size, as kernels want them; None is no array.
bool addressable(nb::tuple arrays) {
    for (nb::handle array : arrays) {
        if (array.is_none()) continue;
        Py_buffer buffer;
        if (PyObject_GetBuffer(array.ptr(), &buffer, PyBUF_STRIDES) != 0) throw nb::python_error();
        bool fits = buffer.len == 0 || Index(reinterpret_cast<size_t>(buffer.buf)) % buffer.itemsize == 0;
        for (int i = 0; i < buffer.ndim; ++i) fits = fits && buffer.strides[i] % buffer.itemsize == 0;
        PyBuffer_Release(&buffer);
        if (!fits) return false;
    }
    return true;
}

}  // namespace

NB_MODULE(_kernels, m) {
    // a factor that a global variable still holds at the end is no leak
    nb::set_leak_warnings(false);
    nb::module_::import_("atexit").attr("register")(nb::cpp_function(&wait_for_calls));
#if !defined(_WIN32)
    // a forked child has no other threads, whatever they were doing
    static const int registered = pthread_atfork(nullptr, nullptr, [] { calls_without_lock = 0; });
    (void)registered;
#endif
    m.doc() = "Compiled kernels of the CPU engine; smnn_core.engines.cpu is their interface.";
    nb::class_<Factor>(m, "Factor")
        .def_ro("nbytes", &Factor::bytes);
    nb::class_<Form>(m, "Form")
        .def(
            nb::init<const Sizes&, nb::handle, double>(), nb::arg("sizes"), nb::arg("scheme"),
            nb::arg("tolerance")
        );
    m.def(
        "solve", &solve, nb::arg("form"), nb::arg("batch"), nb::arg("inputs"), nb::arg("y").none(), nb::arg("recompute") = false
    );
    m.def(
        "find_undetermined", &find_undetermined, nb::arg("form"), nb::arg("batch"), nb::arg("inputs"),
        nb::arg("undetermined")
    );
    m.def(
        "normal_solve", &normal_solve, nb::arg("form"), nb::arg("batch"), nb::arg("inputs"), nb::arg("factor").none(), nb::arg("g"), nb::arg("x")
    );
    m.def(
        "adjoint", &adjoint, nb::arg("form"), nb::arg("batch"), nb::arg("inputs"), nb::arg("factor").none(), nb::arg("y"), nb::arg("g"), nb::arg("gradients"), nb::arg("recompute") = false
    );
    m.def(
        "covariance", &covariance, nb::arg("form"), nb::arg("batch"), nb::arg("inputs"), nb::arg("increments"),
        nb::arg("results")
    );
    m.def("addressable", &addressable, nb::arg("arrays"));
    m.def("empty", &empty, nb::arg("shape"), nb::arg("is_double"));
    m.def("level", [] { return std::string(smnn::level().name); }, "The instruction set in use.");
    m.def("usable_levels", [] { return std::string(smnn::usable_levels()); });
    m.def("max_threads", &smnn::max_threads);
    m.attr("LARGEST") = smnn::LARGEST;
}
