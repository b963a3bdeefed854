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

// f(first column, scratch of that many numbers) for each strip of the columns from `begin` on, on several threads.
template <class F>
void for_strips(Index begin, Index columns, size_t numbers, int threads, F f) {
    const int strip = isa().panels.strip;
    parallel_for((columns - begin + strip - 1) / strip, threads, [&](Index i) {
        f(begin + i * strip, static_cast<double*>(thread_scratch(numbers * sizeof(double))));
    });
}

size_t apply_scratch(int rows) { return (size_t(rows) + 2 * WIDTH) * size_t(isa().panels.strip); }

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
            for_strips(begin, c.columns, apply_scratch(rows), threads, [&](Index first, double* scratch) {
                kernels.apply(rows, width, x, T, false, order, c, first, scratch);
            });
        };
        apply(A, j + width);
        if (C.data) apply(C, 0);
        active.erase(active.begin(), active.begin() + width);
    }
}

void rotate(const MatrixView& A, const double* T, const int* order, const MatrixView& d, bool back, int threads) {
    const PanelKernels& kernels = isa().panels;
    const Buffer buffer(size_t(A.rows) * WIDTH * sizeof(double));
    double* const V = static_cast<double*>(buffer.data());
    const int panels = panels_of(A);
    for (int i = 0; i < panels; ++i) {
        const int panel = back ? panels - 1 - i : i;
        const int* const of_panel = order + panel * A.rows;
        const int rows = int(std::find(of_panel, of_panel + A.rows, -1) - of_panel);
        load(A, panel, of_panel, rows, V);
        for_strips(0, d.columns, apply_scratch(rows), threads, [&](Index first, double* scratch) {
            kernels.apply(rows, width_of(A, panel), V, T + panel * WIDTH * WIDTH, back, of_panel, d, first, scratch);
        });
    }
}

void substitute(
    const int* pivots, const MatrixView& R, const MatrixView& E, const MatrixView& x, const MatrixView& next, bool transposed, int threads
) {
    const PanelKernels& kernels = isa().panels;
    const auto f = transposed ? kernels.substitute_transposed : kernels.substitute;
    for_strips(0, x.columns, 2 * size_t(x.rows * kernels.strip), threads, [&](Index first, double* scratch) {
        f(pivots, R, E, x, next, first, scratch);
    });
}

void multiply(const MatrixView& a, const MatrixView& b, const MatrixView& c, int threads) {
    const PanelKernels& kernels = isa().panels;
    const size_t numbers = size_t((a.rows + b.rows) * kernels.strip);
    for_strips(0, c.columns, numbers, threads, [&](Index first, double* scratch) {
        kernels.multiply(a, b, c, first, scratch);
    });
}

}  // namespace smnn
