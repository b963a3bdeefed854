// The compiled engine without Python, to be run under sanitizers (`make sanitize`): solutions against a dense least-squares
// solve in extended precision, normal solves by symmetry, gradients against differences, those of log det M and of the
// minimum too, and variances, which are among them. Exits with 1 on a failure.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <new>
#include <numeric>
#include <random>
#include <vector>

#include "../../smnn_core/engines/_cpu/engine.hpp"
#include "../../smnn_core/engines/_cpu/threads.hpp"

using smnn::Gradients;
using smnn::Index;
using smnn::ProblemSpec;
using smnn::View;

namespace {

int failures = 0;

void expect_near(double actual, double expected, double tolerance, const char* what, const ProblemSpec& s) {
    if (std::abs(actual - expected) <= tolerance) return;
    std::printf(
        "FAILED %s: %.17g, expected %.17g within %.1e (T=%d V=%d K=%d Q=%d T_init=%d batch=%lld)\n", what, actual, expected,
        tolerance, s.T, s.V, s.K, s.Q, s.T_init, s.batch.empty() ? 1 : s.batch[0]
    );
    ++failures;
}

// A place that views can point to until the end.
const Index* lasting(std::vector<Index> values) {
    static std::deque<std::vector<Index>> all;
    return all.emplace_back(std::move(values)).data();
}

template <class T>
View contiguous(std::vector<T>& data, const std::vector<Index>& shape) {
    std::vector<Index> strides(shape.size(), 1);
    for (size_t i = shape.size(); i-- > 1;) strides[i - 1] = strides[i] * shape[i];
    return {data.data(), int(shape.size()), lasting(shape), lasting(strides)};
}

// y' = f by one row per order: y[t,o] + s y[t,o+1] - y[t+1,o] for o < K-1, and a light last row; with `extra`, rows that
// touch the next point alone as well.
std::vector<double> scheme_rows(int K, bool extra) {
    const int width = 2 * K;
    std::vector<double> rows(size_t(width * width), 0.0);
    for (int o = 0; o < K; ++o) {
        rows[size_t(o * width + o)] = o + 1 < K ? 1 : 0.1;
        if (o + 1 < K) rows[size_t(o * width + o + 1)] = 1;
        rows[size_t(o * width + K + o)] = o + 1 < K ? -1 : -0.1;
        if (extra) rows[size_t((K + o) * width + K + o)] = 0.3;
    }
    return rows;
}

struct Case {
    ProblemSpec spec;  // but for its pointers, see `problem`
    std::vector<double> rows;
    std::vector<double> data[smnn::SMOOTHNESS_RHS];
    std::vector<Index> sizes[smnn::SMOOTHNESS_RHS];

    Case(const ProblemSpec& s, bool extra, unsigned seed) : spec(s), rows(scheme_rows(s.K, extra)) {
        std::mt19937 random(seed);
        std::uniform_real_distribution<double> uniform(-0.4, 0.4);
        const auto with_batch = [&](std::vector<Index> core) {
            core.insert(core.begin(), s.batch.begin(), s.batch.end());
            return core;
        };
        sizes[smnn::C] = with_batch({s.T, s.Q, s.V, s.K});
        sizes[smnn::B] = with_batch({s.T, s.Q});
        sizes[smnn::W_EQUATION] = {};          // one number for all
        sizes[smnn::S] = {s.T - 1};            // shared by the batch
        sizes[smnn::W_SMOOTHNESS] = with_batch({1});
        sizes[smnn::U] = with_batch({s.T_init, s.V, s.R_init});
        sizes[smnn::W_INITIAL] = {s.T_init, s.V, s.R_init};
        for (int f = 0; f < smnn::SMOOTHNESS_RHS; ++f) {
            Index size = 1;
            for (Index extent : sizes[f]) size *= extent;
            data[f].resize(size_t(size));
            for (double& x : data[f]) x = uniform(random);
        }
        for (double& x : data[smnn::S]) x = 0.4 + 0.2 * x;
        for (int f : {int(smnn::W_EQUATION), int(smnn::W_SMOOTHNESS), int(smnn::W_INITIAL)}) {
            for (double& x : data[f]) x += 1;
        }
        Index at = 0;
        for (double& x : data[smnn::C]) {
            const Index j = at % (s.V * s.K), q = at / (s.V * s.K) % s.Q;
            if (j == q % s.V * s.K + s.K - 1) x += 1.5;
            ++at;
        }
    }

    const ProblemSpec& problem() {
        static double nowhere;
        for (int f = 0; f < smnn::SMOOTHNESS_RHS; ++f) {
            spec.arrays[size_t(f)] = contiguous(data[f], sizes[f]);
            if (data[f].empty()) spec.arrays[size_t(f)].data = &nowhere;
        }
        spec.scheme_rows = rows.data();
        spec.tolerance = 8 * 2.2e-16 * spec.K;
        return spec;
    }
    Index systems() const { return spec.batch.empty() ? 1 : spec.batch[0]; }
    size_t unknowns() const { return size_t(systems()) * size_t(spec.T * spec.V * spec.K); }
    View of_y(std::vector<double>& x) const {
        std::vector<Index> shape = spec.batch;
        for (int extent : {spec.T, spec.V, spec.K}) shape.push_back(extent);
        return contiguous(x, shape);
    }
};

std::vector<double> solve(Case& c, bool recompute = false) {
    std::vector<double> y(c.unknowns());
    smnn::solve(c.problem(), y.data(), recompute);
    return y;
}

// The first system, densely: Householder QR in long double.
std::vector<double> dense(Case& c) {
    const ProblemSpec& s = c.spec;
    const int n = s.V * s.K, N = s.T * n;
    std::vector<std::vector<long double>> rows;
    const auto row = [&]() -> std::vector<long double>& {
        rows.emplace_back(size_t(N + 1), 0.0L);
        return rows.back();
    };
    const double we = c.data[smnn::W_EQUATION][0], ws = c.data[smnn::W_SMOOTHNESS][0];
    for (int t = 0; t < s.T; ++t) {
        for (int q = 0; q < s.Q; ++q) {
            auto& r = row();
            for (int j = 0; j < n; ++j) r[size_t(t * n + j)] = we * c.data[smnn::C][size_t((t * s.Q + q) * n + j)];
            r[size_t(N)] = we * c.data[smnn::B][size_t(t * s.Q + q)];
        }
        for (int v = 0; t < s.T_init && v < s.V; ++v) {
            for (int o = 0; o < s.R_init; ++o) {
                const size_t at = size_t((t * s.V + v) * s.R_init + o);
                auto& r = row();
                r[size_t(t * n + v * s.K + o)] = c.data[smnn::W_INITIAL][at];
                r[size_t(N)] = c.data[smnn::W_INITIAL][at] * c.data[smnn::U][at];
            }
        }
        for (int v = 0; t + 1 < s.T && v < s.V; ++v) {
            for (int i = 0; i < 2 * s.K; ++i) {
                auto& r = row();
                for (int o = 0; o < 2 * s.K; ++o) {
                    const double power = std::pow(c.data[smnn::S][size_t(t)], o % s.K);
                    r[size_t((t + o / s.K) * n + v * s.K + o % s.K)] =
                        ws * power * c.rows[size_t(i * 2 * s.K + o)];
                }
            }
        }
    }
    for (int j = 0; j < N; ++j) {
        long double sum = 0;
        for (size_t i = size_t(j); i < rows.size(); ++i) sum += rows[i][size_t(j)] * rows[i][size_t(j)];
        const long double a = rows[size_t(j)][size_t(j)], norm = a >= 0 ? std::sqrt(sum) : -std::sqrt(sum);
        std::vector<long double> v(rows.size(), 0.0L);
        for (size_t i = size_t(j); i < rows.size(); ++i) v[i] = rows[i][size_t(j)];
        v[size_t(j)] += norm;
        for (int k = j; k <= N; ++k) {
            long double dot = 0;
            for (size_t i = size_t(j); i < rows.size(); ++i) dot += v[i] * rows[i][size_t(k)];
            dot /= norm * v[size_t(j)];
            for (size_t i = size_t(j); i < rows.size(); ++i) rows[i][size_t(k)] -= v[i] * dot;
        }
    }
    std::vector<double> y(size_t(N), 0.0);
    for (int j = N - 1; j >= 0; --j) {
        long double sum = rows[size_t(j)][size_t(N)];
        for (int k = j + 1; k < N; ++k) sum -= rows[size_t(j)][size_t(k)] * y[size_t(k)];
        y[size_t(j)] = double(sum / rows[size_t(j)][size_t(j)]);
    }
    return y;
}

void check(const ProblemSpec& shape, bool extra, unsigned seed) {
    Case c(shape, extra, seed);
    const std::vector<double> y = solve(c);
    if (shape.T <= 40 && c.systems() > 0) {
        const std::vector<double> expected = dense(c);
        // conditions of these problems are below 1e4; the rounding of double is 2e-16
        for (size_t i = 0; i < expected.size(); ++i) expect_near(y[i], expected[i], 1e-10, "solution", shape);
    }

    std::mt19937 random(seed + 1);
    std::uniform_real_distribution<double> uniform(-1, 1);
    std::vector<double> g(y.size()), h(y.size()), x(y.size()), z(y.size());
    for (size_t i = 0; i < g.size(); ++i) {
        g[i] = uniform(random);
        h[i] = uniform(random);
    }
    const ProblemSpec& problem = c.problem();
    const smnn::Outcome kept = smnn::solve(problem, nullptr, false), solved = smnn::solve(problem, z.data(), false);
    smnn::normal_solve(problem, kept.factor.get(), c.of_y(g), x.data());
    smnn::normal_solve(problem, nullptr, c.of_y(h), z.data());
    const double left = std::inner_product(h.begin(), h.end(), x.begin(), 0.0);
    const double right = std::inner_product(g.begin(), g.end(), z.begin(), 0.0);
    expect_near(left, right, 1e-8 * (std::abs(left) + double(y.size())), "symmetry", shape);

    Gradients gradients;
    std::vector<double> values[smnn::SMOOTHNESS_RHS];
    for (int f = 0; f < smnn::SMOOTHNESS_RHS; ++f) {
        values[f].resize(c.data[f].size() + 1);
        gradients[size_t(f)] = contiguous(values[f], c.sizes[f]);
    }
    std::vector<double> y_copy = y;
    smnn::adjoint(problem, solved.factor.get(), c.of_y(y_copy), c.of_y(g), gradients);
    for (int f = 0; f < smnn::SMOOTHNESS_RHS; ++f) {
        Case plus = c, minus = c;
        double along = 0;
        const double step = 1e-5;
        for (size_t i = 0; i < c.data[f].size(); ++i) {
            const double direction = uniform(random);
            plus.data[f][i] += step * direction;
            minus.data[f][i] -= step * direction;
            along += values[f][i] * direction;
        }
        const std::vector<double> up = solve(plus), down = solve(minus);
        double difference = 0, size = 1;
        for (size_t i = 0; i < g.size(); ++i) {
            difference += g[i] * (up[i] - down[i]) / (2 * step);
            size += std::abs(g[i] * up[i]);
        }
        // truncation step^2 times third derivatives, rounding eps / step
        expect_near(along, difference, 1e-6 * (size + std::abs(along)), "gradient", shape);
    }
}

ProblemSpec sizes(int T, int V, int K, int Q, int T_init, int R_init, std::vector<Index> batch) {
    return {T, V, K, Q, T_init, R_init, nullptr, 0, std::move(batch), {}};
}

// Long systems, observed at all times: the same whether the factor is kept, which `is_kept` says of a solve, or not.
void check_factor(const ProblemSpec& shape, bool is_kept, unsigned seed) {
    Case c(shape, false, seed);
    std::vector<double> y(c.unknowns()), g(c.unknowns()), x(c.unknowns()), z(c.unknowns());
    const ProblemSpec& problem = c.problem();
    const smnn::Outcome solved = smnn::solve(problem, y.data(), false), whole = smnn::solve(problem, nullptr, false);
    if (bool(solved.factor) != is_kept || !whole.factor) {
        std::printf("FAILED: a factor is kept that should not be, or the other way round (T=%d K=%d)\n", shape.T, shape.K);
        ++failures;
    }
    const std::vector<double> recomputed = solve(c, true);
    for (size_t i = 0; i < y.size(); ++i) expect_near(recomputed[i], y[i], 1e-10, "recomputed solution", shape);

    std::mt19937 random(seed + 1);
    std::uniform_real_distribution<double> uniform(-1, 1);
    for (double& each : g) each = uniform(random);
    smnn::normal_solve(problem, whole.factor.get(), c.of_y(g), x.data());
    smnn::normal_solve(problem, nullptr, c.of_y(g), z.data());
    double largest = 1;
    for (double each : x) largest = std::max(largest, std::abs(each));
    for (size_t i = 0; i < x.size(); ++i) expect_near(z[i], x[i], 1e-9 * largest, "normal solve", shape);

    const auto adjoint = [&](const smnn::Factor* factor) {
        Gradients gradients;
        std::vector<std::vector<double>> values(smnn::SMOOTHNESS_RHS);
        for (size_t f = 0; f < values.size(); ++f) {
            values[f].resize(c.data[f].size() + 1);
            gradients[f] = contiguous(values[f], c.sizes[f]);
        }
        smnn::adjoint(problem, factor, c.of_y(y), c.of_y(g), gradients);
        return values;
    };
    const auto expected = adjoint(nullptr), found = adjoint(solved.factor.get());
    for (size_t f = 0; f < expected.size(); ++f) {
        double size = 1;
        for (double each : expected[f]) size = std::max(size, std::abs(each));
        for (size_t i = 0; i + 1 < expected[f].size(); ++i) {
            expect_near(found[f][i], expected[f][i], 1e-9 * size, "gradient from a factor", shape);
        }
    }
}

struct Statistics {
    std::vector<double> log_determinant, minimum;  // (batch)
};

Statistics statistics(Case& c) {
    Statistics found{std::vector<double>(size_t(c.systems())), std::vector<double>(size_t(c.systems()))};
    smnn::Moments wanted{};
    wanted.log_determinant = found.log_determinant.data();
    wanted.minimum = found.minimum.data();
    smnn::moments(c.problem(), wanted, {}, {}, {});
    return found;
}

// `shared`: one left-hand side, of which the first right-hand side has the gradient of log det M. `only_initial`: equations
// have no weight, so that there is nothing behind the first points.
void check_moments(const ProblemSpec& shape, bool shared, bool only_initial, unsigned seed) {
    Case c(shape, false, seed);
    const Index systems = c.systems();
    if (shared) {
        for (int f : {int(smnn::C), int(smnn::W_SMOOTHNESS)}) {
            c.sizes[f].erase(c.sizes[f].begin(), c.sizes[f].begin() + Index(shape.batch.size()));
            c.data[f].resize(c.data[f].size() / size_t(systems));
        }
    }
    if (only_initial) c.data[smnn::W_EQUATION][0] = 0;

    constexpr int RANKS[] = {4, 2, 3, 1, 2, 3, 1};
    Gradients of_determinant, of_minimum;
    std::vector<double> values[2][smnn::SMOOTHNESS_RHS];
    size_t counts[smnn::SMOOTHNESS_RHS];
    bool has_batch[smnn::SMOOTHNESS_RHS];
    for (size_t f = 0; f < smnn::SMOOTHNESS_RHS; ++f) {
        std::vector<Index> core = c.sizes[f];
        has_batch[f] = core.size() > size_t(RANKS[f]);
        if (has_batch[f]) core.erase(core.begin());
        core.insert(core.begin(), size_t(RANKS[f]) - core.size(), 1);
        counts[f] = 1;
        for (Index extent : core) counts[f] *= size_t(extent);
        core.insert(core.begin(), shape.batch.begin(), shape.batch.end());
        for (auto& kind : values) kind[f].resize(counts[f] * size_t(systems));
        if (f != smnn::B && f != smnn::U) of_determinant[f] = contiguous(values[0][f], core);
        of_minimum[f] = contiguous(values[1][f], core);
    }
    const int n = shape.V * shape.K;
    std::vector<double> variance(c.unknowns()), covariance(c.unknowns() * size_t(n)), lag(c.unknowns() * size_t(n));
    smnn::Moments wanted{};
    std::vector<double> y(c.unknowns());
    smnn::solve(c.problem(), y.data(), false);
    smnn::moments(c.problem(), wanted, c.of_y(y), of_determinant, of_minimum);
    wanted.variance = variance.data();
    wanted.covariance = covariance.data();
    wanted.lag = lag.data();
    smnn::moments(c.problem(), wanted, {}, {}, {});
    for (size_t i = 0; i < variance.size(); ++i) {
        expect_near(covariance[i * size_t(n) + i % size_t(n)], variance[i], 1e-12 * variance[i], "variance", shape);
    }
    // d log det M / d w = 2 w (variance) for a row that is an unknown
    for (Index k = 0; k < (shared ? 1 : systems); ++k) {
        for (int i = 0; i < shape.T_init * shape.V * shape.R_init; ++i) {
            const int t = i / (shape.V * shape.R_init), v = i / shape.R_init % shape.V, r = i % shape.R_init;
            const double w = c.data[smnn::W_INITIAL][size_t(i)];
            const double x = variance[size_t(((k * shape.T + t) * shape.V + v) * shape.K + r)];
            const double found = values[0][smnn::W_INITIAL][size_t(k) * counts[smnn::W_INITIAL] + size_t(i)];
            expect_near(found, 2 * w * x, 1e-9 * (1 + x), "variance in a gradient", shape);
        }
    }

    std::mt19937 random(seed + 1);
    std::uniform_real_distribution<double> uniform(-1, 1);
    for (size_t f = 0; f < smnn::SMOOTHNESS_RHS; ++f) {
        Case plus = c, minus = c;
        const double step = 1e-5;
        std::vector<double> direction(c.data[f].size());
        for (size_t i = 0; i < direction.size(); ++i) {
            direction[i] = uniform(random);
            plus.data[f][i] += step * direction[i];
            minus.data[f][i] -= step * direction[i];
        }
        const Statistics up = statistics(plus), down = statistics(minus);
        for (size_t k = 0; k < size_t(systems); ++k) {
            const double differences[] = {
                (up.log_determinant[k] - down.log_determinant[k]) / (2 * step), (up.minimum[k] - down.minimum[k]) / (2 * step),
            };
            const double sizes[] = {std::abs(up.log_determinant[k]), std::abs(up.minimum[k])};
            for (int kind = shared && k > 0 ? 1 : 0; kind < 2; ++kind) {
                double along = 0;
                for (size_t i = 0; i < counts[f]; ++i) {
                    along += values[kind][f][k * counts[f] + i] * direction[has_batch[f] ? k * counts[f] + i : i];
                }
                const double tolerance = 1e-6 * (1 + sizes[kind] + std::abs(along));
                expect_near(along, differences[kind], tolerance, kind ? "gradient of the minimum" : "gradient of log det M", shape);
            }
        }
    }
}

// Systems are as they are until one of them has no rows but those of smoothness: its points alone are marked.
void check_pivots(const ProblemSpec& shape, unsigned seed) {
    Case c(shape, false, seed);
    c.sizes[smnn::W_EQUATION] = {c.systems(), 1, 1};
    c.data[smnn::W_EQUATION].assign(size_t(c.systems()), 1.0);
    c.sizes[smnn::W_INITIAL].insert(c.sizes[smnn::W_INITIAL].begin(), c.systems());
    const size_t count = c.data[smnn::W_INITIAL].size();
    c.data[smnn::W_INITIAL].assign(count * size_t(c.systems()), 1.0);
    std::vector<unsigned char> marks(size_t(c.systems() * shape.T), 0);
    const auto are_found = [&] { return smnn::find_undetermined(c.problem(), marks.data()); };
    bool as_expected = !are_found() && std::count(marks.begin(), marks.end(), 0) == Index(marks.size());
    const size_t last = size_t(c.systems() - 1);
    c.data[smnn::W_EQUATION][last] = 0;
    std::fill(c.data[smnn::W_INITIAL].end() - Index(count), c.data[smnn::W_INITIAL].end(), 0.0);
    as_expected = as_expected && are_found();
    const auto first = marks.begin() + Index(last) * shape.T;
    as_expected = as_expected && std::count(marks.begin(), first, 0) == first - marks.begin() && *(marks.end() - 1);
    if (as_expected) return;
    std::printf("FAILED: points that are left undetermined (T=%d V=%d K=%d)\n", shape.T, shape.V, shape.K);
    ++failures;
}

void check_errors_of_threads() {
    bool caught = false;
    try {
        smnn::parallel_for(8, 2, [](Index i) {
            if (i == 3) throw std::bad_alloc();
        });
    } catch (const std::bad_alloc&) {
        caught = true;
    }
    if (!caught) {
        std::printf("the error of a thread was lost\n");
        ++failures;
    }
}

}  // namespace

int main() {
    check_errors_of_threads();
    unsigned seed = 0;
    for (bool extra : {false, true}) {
        for (const std::vector<Index>& batch : {std::vector<Index>{}, {1}, {5}, {33}}) {
            for (int T : {2, 3, 9, 33, 150}) {
                const int T_init = T > 3 ? 3 : 1;
                check(sizes(T, 1, 3, 1, 1, 3, batch), extra, ++seed);
                check(sizes(T, 2, 2, 3, T_init, 2, batch), extra, ++seed);
                check(sizes(T, 1, 4, 2, T_init, 4, batch), extra, ++seed);
            }
        }
    }
    for (int T : {2, 3, 40, 301}) {
        check_pivots(sizes(T, 1, 3, 1, 1, 3, {5}), ++seed);
        check_pivots(sizes(T, 2, 2, 3, 2, 2, {33}), ++seed);
    }
    check_factor(sizes(6007, 1, 3, 1, 6007, 3, {}), true, ++seed);     // in chunks
    check_factor(sizes(700, 1, 3, 1, 700, 3, {20}), false, ++seed);    // one segment
    check_factor(sizes(3000, 1, 3, 1, 3000, 3, {16}), true, ++seed);   // stays in caches
    check_factor(sizes(8000, 1, 3, 1, 8000, 3, {40}), false, ++seed);  // longer than inputs take
    check_factor(sizes(900, 1, 5, 1, 900, 5, {20}), true, ++seed);     // of sizes that are not compiled
    for (const std::vector<Index>& batch : {std::vector<Index>{}, {1}, {5}, {33}, {70}}) {
        for (int T : {2, 3, 20, 90}) {
            for (bool shared : {false, true}) {
                for (bool only_initial : {false, true}) {
                    check_moments(sizes(T, 1, 3, 1, 1, 3, batch), shared, only_initial, ++seed);
                    check_moments(sizes(T, 2, 2, 3, 2, 2, batch), shared, only_initial, ++seed);
                    check_moments(sizes(T, 3, 3, 2, 1, 3, batch), shared, only_initial, ++seed);
                }
            }
        }
    }
    check_moments(sizes(4, 1, 12, 1, 1, 12, {}), false, false, ++seed);
    const ProblemSpec none = sizes(7, 1, 3, 1, 1, 3, {0});
    check(none, false, ++seed);
    std::printf(failures ? "%d failures\n" : "all kernel tests passed\n", failures);
    return failures != 0;
}
