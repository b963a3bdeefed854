#include "panels_api.hpp"

#include <algorithm>
#include <vector>

#include "buffers.hpp"
#include "isa_dispatch.hpp"
#include "threads.hpp"

namespace smnn {

namespace {

constexpr int WIDTH = PanelKernels::WIDTH;

int panels_of(const MatrixView& A) { return int((A.columns + WIDTH - 1) / WIDTH); }
int width_of(const MatrixView& A, int panel) { return int(std::min<Index>(WIDTH, A.columns - Index(panel) * WIDTH)); }

// f(kernels, first column, scratch of so many numbers for each column) for the strips of the columns from `begin` on,
// on several threads.
template <class F>
void for_strips(Index begin, Index columns, Index numbers, int threads, F f) {
    const PanelKernels& panels = isa().panels;
    const StripKernels& strips = columns - begin > panels.narrow.columns ? panels.wide : panels.narrow;
    parallel_for((columns - begin + strips.columns - 1) / strips.columns, threads, [&](Index i) {
        void* const scratch = thread_scratch(size_t(numbers * strips.columns) * sizeof(double));
        f(strips, begin + i * strips.columns, static_cast<double*>(scratch));
    });
}

// V of a panel, as `collect` makes it, from where `triangularise` leaves it.
void load(const MatrixView& A, int panel, const int* order, int rows, double* V) {
    const int width = width_of(A, panel);
    for (int i = 0; i < rows; ++i) {
        const double* const row = A.data + order[i] * A.row + panel * WIDTH;
        double* const v = V + i * WIDTH;
        const int below = std::min(i, width);
        std::copy(row, row + below, v);
        std::fill(v + below, v + WIDTH, 0.0);
        if (i < width) v[i] = 1.0;
    }
}

}  // namespace

void triangularise(const MatrixView& A, const int* begins, const MatrixView& C, double* T, int* order, int threads) {
    const PanelKernels& kernels = isa().panels;
    const Buffer buffer(size_t(A.rows) * WIDTH * sizeof(double));
    double* const x = static_cast<double*>(buffer.data());
    double tau[WIDTH];
    std::vector<int> active;
    for (int panel = 0; panel < panels_of(A); ++panel, order += A.rows, T += WIDTH * WIDTH) {
        const int j = panel * WIDTH, width = width_of(A, panel);
        for (int i = 0; i < A.rows; ++i) {
            if (begins[i] < j + width && (panel == 0 || begins[i] >= j)) active.push_back(i);
        }
        const int rows = int(active.size());
        for (int i = 0; i < rows; ++i) {
            const double* const row = A.data + active[size_t(i)] * A.row + j;
            std::copy(row, row + width, x + i * WIDTH);
            std::fill(x + i * WIDTH + width, x + (i + 1) * WIDTH, 0.0);
        }
        kernels.reflect(rows, width, x, tau, active.data());
        for (int i = 0; i < rows; ++i) {
            std::copy(x + i * WIDTH, x + i * WIDTH + width, A.data + active[size_t(i)] * A.row + j);
        }
        kernels.collect(rows, width, x, tau, T);
        std::fill(std::copy(active.begin(), active.end(), order), order + A.rows, -1);
        const auto apply = [&](const MatrixView& c, Index begin) {
            const auto f = [&](const StripKernels& strips, Index first, double* scratch) {
                strips.apply(rows, width, x, T, false, order, c, first, scratch);
            };
            for_strips(begin, c.columns, rows + 2 * WIDTH, threads, f);
        };
        apply(A, j + width);
        if (C.data) apply(C, 0);
        active.erase(active.begin(), active.begin() + width);
    }
}

void rotate(const MatrixView& A, const double* T, const int* order, const MatrixView& d, bool back, int threads) {
    const Buffer buffer(size_t(A.rows) * WIDTH * sizeof(double));
    double* const V = static_cast<double*>(buffer.data());
    const int panels = panels_of(A);
    for (int i = 0; i < panels; ++i) {
        const int panel = back ? panels - 1 - i : i;
        const int* const of_panel = order + panel * A.rows;
        const int rows = int(std::find(of_panel, of_panel + A.rows, -1) - of_panel);
        load(A, panel, of_panel, rows, V);
        const auto f = [&](const StripKernels& strips, Index first, double* scratch) {
            strips.apply(rows, width_of(A, panel), V, T + panel * WIDTH * WIDTH, back, of_panel, d, first, scratch);
        };
        for_strips(0, d.columns, rows + 2 * WIDTH, threads, f);
    }
}

void substitute(const Triangle& triangle, const MatrixView& x, const MatrixView& next, bool transposed, int threads) {
    for_strips(0, x.columns, 2 * x.rows, threads, [&](const StripKernels& strips, Index first, double* scratch) {
        const auto f = transposed ? strips.substitute_transposed : strips.substitute;
        f(triangle, x, next, first, scratch);
    });
}

void multiply(const MatrixView& a, const MatrixView& b, const MatrixView& c, int threads) {
    for_strips(0, c.columns, a.rows + b.rows, threads, [&](const StripKernels& strips, Index first, double* scratch) {
        strips.multiply(a, b, c, first, scratch);
    });
}

}  // namespace smnn
