// Blocked Householder reflections and triangular solves for blocks of many unknowns, a strip of columns at a time.
//
// The reflectors 1 - tau_k v_k v_k^T of a panel, WIDTH columns of a matrix, are collected in
//
//     Q = 1 - V T V^T,      T upper triangular        (Schreiber, Van Loan, SIAM J. Sci. Stat. Comput. 10 (1989) 53),
//
// so that applying them is three products of matrices. Each column has the row with its largest entry as pivot (Powell,
// Reid, IFIP 1968): light rows are then changed by multiples of heavy ones that are as small as themselves, and are not
// lost in the rounding errors of these.
#pragma once

#include "../kernels/pack.hpp"
#include "panels_job.hpp"

namespace smnn {
namespace SMNN_LEVEL {
namespace panels {

constexpr int WIDTH = PanelKernels::WIDTH;
constexpr int LANES = SMNN_VECTOR_BYTES / int(sizeof(double));
// Rows of a tile, and vectors of a wide one: its sums, a row of one factor and a number of the other fill registers.
constexpr int TILE = SMNN_VECTOR_BYTES == 64 ? 8 : 4, WIDE = 3;
static_assert(WIDTH % (LANES * WIDE) == 0, "a panel is a number of strips");
constexpr double NOTHING = 1e-300;  // columns with smaller entries are taken for zero: their reciprocal is not finite

using Simd = Vector<double, LANES>::type;

// 1 / x, and 1 where x is zero: the system is known to be singular then.
SMNN_INLINE double reciprocal_of_pivot(double x) { return 1.0 / (x == 0.0 ? 1.0 : x); }

// A strip: a few columns of a matrix, VECTORS vectors in each of its rows.
template <int VECTORS>
struct Strips {
    static constexpr int STRIP = LANES * VECTORS;

    // c = a b, or c -= a b.
    //     a  (R, K), strides (a_row, a_column)
    //     b  (K, STRIP), rows b_row apart
    //     c  (R, STRIP), rows c_row apart, none of a or b
    template <int R, bool SUBTRACT>
    SMNN_INLINE static void tile(
        int K, const double* a, Index a_row, Index a_column, const double* b, Index b_row, double* c, Index c_row
    ) {
        Simd sum[R][VECTORS] = {};
        for (int k = 0; k < K; ++k) {
            const Simd* const row = reinterpret_cast<const Simd*>(b + k * b_row);
            repeat(Int<R>(), [&](auto i) SMNN_LAMBDA {
                const double x = a[i * a_row + k * a_column];
                repeat(Int<VECTORS>(), [&](auto u) SMNN_LAMBDA { sum[i][u] += x * row[u]; });
            });
        }
        repeat(Int<R>(), [&](auto i) SMNN_LAMBDA {
            Simd* const row = reinterpret_cast<Simd*>(c + i * c_row);
            repeat(Int<VECTORS>(), [&](auto u) SMNN_LAMBDA { row[u] = SUBTRACT ? row[u] - sum[i][u] : sum[i][u]; });
        });
    }

    // c (STRIP) -= a b or c = a b for one row a (K), a_column apart, several sums of it under way; b as above.
    template <bool SUBTRACT>
    SMNN_INLINE static void row(int K, const double* a, Index a_column, const double* b, Index b_row, double* c) {
        constexpr int SUMS = 4;
        Simd sum[SUMS][VECTORS] = {};
        int k = 0;
        for (; k + SUMS <= K; k += SUMS) {
            repeat(Int<SUMS>(), [&](auto i) SMNN_LAMBDA {
                const Simd* const x = reinterpret_cast<const Simd*>(b + (k + i) * b_row);
                repeat(Int<VECTORS>(), [&](auto u) SMNN_LAMBDA { sum[i][u] += a[(k + i) * a_column] * x[u]; });
            });
        }
        for (; k < K; ++k) {
            const Simd* const x = reinterpret_cast<const Simd*>(b + k * b_row);
            repeat(Int<VECTORS>(), [&](auto u) SMNN_LAMBDA { sum[0][u] += a[k * a_column] * x[u]; });
        }
        Simd* const to = reinterpret_cast<Simd*>(c);
        repeat(Int<VECTORS>(), [&](auto u) SMNN_LAMBDA {
            const Simd total = (sum[0][u] + sum[1][u]) + (sum[2][u] + sum[3][u]);
            to[u] = SUBTRACT ? to[u] - total : total;
        });
    }

    // The same for any number of rows: a (rows, K), b (K, STRIP), c (rows, STRIP), strides as of `tile`.
    template <bool SUBTRACT>
    SMNN_OUTLINE static void product(
        int rows, int K, const double* a, Index a_row, Index a_column, const double* b, Index b_row, double* c,
        Index c_row
    ) {
        int i = 0;
        for (; i + TILE <= rows; i += TILE) {
            tile<TILE, SUBTRACT>(K, a + i * a_row, a_row, a_column, b, b_row, c + i * c_row, c_row);
        }
        for (; i < rows; ++i) row<SUBTRACT>(K, a + i * a_row, a_column, b, b_row, c + i * c_row);
    }

    SMNN_INLINE static int strip_columns(const MatrixView& m, Index first) {
        return m.columns - first < STRIP ? int(m.columns - first) : STRIP;
    }

    // Columns first .. of `count` rows of a matrix, those that `rows` names (null: the first), with zeros behind the
    // last column.  strip: (count, STRIP)
    SMNN_INLINE static void gather(const MatrixView& from, Index first, const int* rows, Index count, double* strip) {
        const int columns = strip_columns(from, first);
        for (Index i = 0; i < count; ++i, strip += STRIP) {
            const double* const row = from.data + (rows ? rows[i] : i) * from.row + first * from.column;
            if (columns == STRIP && from.column == 1) {
                for (int c = 0; c < STRIP; ++c) strip[c] = row[c];
            } else {
                for (int c = 0; c < STRIP; ++c) strip[c] = c < columns ? row[c * from.column] : 0.0;
            }
        }
    }

    // The way back: strip (count, STRIP), rows (count) or null.
    SMNN_INLINE static void scatter(
        const double* strip, const MatrixView& to, Index first, const int* rows, Index count
    ) {
        const int columns = strip_columns(to, first);
        for (Index i = 0; i < count; ++i, strip += STRIP) {
            double* const row = to.data + (rows ? rows[i] : i) * to.row + first * to.column;
            if (columns == STRIP && to.column == 1) {
                for (int c = 0; c < STRIP; ++c) row[c] = strip[c];
            } else {
                for (int c = 0; c < columns; ++c) row[c * to.column] = strip[c];
            }
        }
    }

    // V (rows, WIDTH), T (width, WIDTH), order (rows), scratch ((rows + 2 WIDTH) STRIP): StripKernels::apply
    static void apply(
        int rows, int width, const double* V, const double* T, bool back, const int* order, const MatrixView& c,
        Index first, double* scratch
    ) {
        double *const strip = scratch, *const VtC = strip + rows * STRIP, *const TVtC = VtC + WIDTH * STRIP;
        gather(c, first, order, rows, strip);
        product<false>(width, rows, V, 1, WIDTH, strip, STRIP, VtC, STRIP);
        product<false>(width, width, T, back ? WIDTH : 1, back ? 1 : WIDTH, VtC, STRIP, TVtC, STRIP);
        product<true>(rows, width, V, WIDTH, 1, TVtC, STRIP, strip, STRIP);
        scatter(strip, c, first, order, rows);
    }

    // scratch (2 n STRIP): StripKernels::substitute
    static void substitute(
        const Triangle& triangle, const MatrixView& x, const MatrixView& next, Index first, double* scratch
    ) {
        const auto& [pivots, R, E] = triangle;
        const int n = int(x.rows);
        double *const at = scratch, *const beyond = at + n * STRIP;
        gather(x, first, nullptr, n, at);
        if (E.data) {
            gather(next, first, nullptr, n, beyond);
            product<true>(n, n, E.data, E.row, 1, beyond, STRIP, at, STRIP);
        }
        for (int j = n; j-- > 0;) {
            const double* const r = R.data + pivots[j] * R.row;
            double* const x_j = at + j * STRIP;
            row<true>(n - 1 - j, r + j + 1, 1, x_j + STRIP, STRIP, x_j);
            const double reciprocal = reciprocal_of_pivot(r[j]);
            for (int c = 0; c < STRIP; ++c) x_j[c] *= reciprocal;
        }
        scatter(at, x, first, nullptr, n);
    }

    // scratch (2 n STRIP): StripKernels::substitute_transposed
    static void substitute_transposed(
        const Triangle& triangle, const MatrixView& x, const MatrixView& next, Index first, double* scratch
    ) {
        const auto& [pivots, R, E] = triangle;
        const int n = int(x.rows);
        double *const at = scratch, *const beyond = at + n * STRIP;
        gather(x, first, nullptr, n, at);
        for (int j = 0; j < n; ++j) {
            const double* const r = R.data + pivots[j] * R.row;
            double* const x_j = at + j * STRIP;
            const double reciprocal = reciprocal_of_pivot(r[j]);
            for (int c = 0; c < STRIP; ++c) x_j[c] *= reciprocal;
            for (int k = j + 1; k < n; ++k) {
                for (int c = 0; c < STRIP; ++c) at[k * STRIP + c] -= r[k] * x_j[c];
            }
        }
        scatter(at, x, first, nullptr, n);
        if (!E.data) return;
        gather(next, first, nullptr, n, beyond);
        product<true>(n, n, E.data, 1, E.row, at, STRIP, beyond, STRIP);
        scatter(beyond, next, first, nullptr, n);
    }

    // scratch ((rows of a + rows of b) STRIP): StripKernels::multiply
    static void multiply(const MatrixView& a, const MatrixView& b, const MatrixView& c, Index first, double* scratch) {
        double *const from = scratch, *const to = from + b.rows * STRIP;
        gather(b, first, nullptr, b.rows, from);
        product<false>(int(a.rows), int(a.columns), a.data, a.row, a.column, from, STRIP, to, STRIP);
        scatter(to, c, first, nullptr, c.rows);
    }

    static constexpr StripKernels kernels{STRIP, apply, substitute, substitute_transposed, multiply};
};

// Exchanges a (count) and b (count).
template <class T>
SMNN_INLINE void exchange(T* a, T* b, int count) {
    for (int i = 0; i < count; ++i) {
        const T kept = a[i];
        a[i] = b[i];
        b[i] = kept;
    }
}

// x (rows, WIDTH), tau (width), order (rows): PanelKernels::reflect
inline void reflect(int rows, int width, double* x, double* tau, int* order) {
    alignas(64) double w[WIDTH];
    int pivot = 0;
    for (int i = 1; i < rows; ++i) {
        if (magnitude(x[i * WIDTH]) > magnitude(x[pivot * WIDTH])) pivot = i;
    }
    for (int k = 0; k < width; ++k) {
        double* const top = x + k * WIDTH;
        if (pivot != k) {
            exchange(top, x + pivot * WIDTH, WIDTH);
            exchange(order + k, order + pivot, 1);
        }
        const double alpha = top[k], largest = magnitude(alpha);
        const int begin = (k + 1) / LANES * LANES;  // of the vector in which the columns behind k begin
        for (int c = 0; c < WIDTH; ++c) w[c] = 0.0;
        double scale = 0.0, head = 1.0;
        tau[k] = 0.0;
        if (largest > NOTHING) {
            // w = sum_i x_ik x_i / |x_kk| over the rows below, and in w_k their squares
            const int from = k / LANES * LANES;
            for (int i = k + 1; i < rows; ++i) {
                const double* const row = x + i * WIDTH;
                const double v = row[k] / largest;
                for (int c = from; c < WIDTH; ++c) w[c] += v * row[c];
            }
            const double beta = -__builtin_copysign(root(largest + w[k]) * root(largest), alpha);
            head = alpha - beta;
            tau[k] = -head / beta;
            scale = largest / head;
            top[k] = beta;
            // w = tau (x_k + sum_i v_i x_i), v_i = x_ik / head
            for (int c = begin; c < WIDTH; ++c) w[c] = c > k ? tau[k] * (top[c] + scale * w[c]) : 0.0;
            for (int c = begin; c < WIDTH; ++c) top[c] -= w[c];
        }
        const int next = k + 1 < width ? k + 1 : k;
        double most = -1.0;
        for (int i = k + 1; i < rows; ++i) {
            double* const row = x + i * WIDTH;
            const double v = tau[k] == 0.0 ? 0.0 : row[k] / head;
            row[k] = v;
            for (int c = begin; c < WIDTH; ++c) row[c] -= v * w[c];
            if (magnitude(row[next]) > most) {
                most = magnitude(row[next]);
                pivot = i;
            }
        }
    }
}

// x (rows, WIDTH), tau (width), T (width, WIDTH): PanelKernels::collect
inline void collect(int rows, int width, double* x, const double* tau, double* T) {
    for (int k = 0; k < width; ++k) {
        for (int c = k; c < WIDTH; ++c) x[k * WIDTH + c] = c == k ? 1.0 : 0.0;
    }
    alignas(64) double gram[WIDTH * WIDTH];
    for (int c = 0; c < WIDTH; c += LANES * WIDE) {
        Strips<WIDE>::product<false>(width, rows, x, 1, WIDTH, x + c, WIDTH, gram + c, WIDTH);
    }
    for (int k = 0; k < width; ++k) {
        for (int j = 0; j < WIDTH; ++j) T[j + k * WIDTH] = 0.0;
    }
    // T_kk = tau_k, T_jk = -tau_k sum_l T_jl (V^T V)_lk over j <= l < k
    for (int k = 0; k < width; ++k) {
        T[k * WIDTH + k] = tau[k];
        for (int j = 0; j < k; ++j) {
            double sum = 0.0;
            for (int l = j; l < k; ++l) sum += T[j * WIDTH + l] * gram[l * WIDTH + k];
            T[j * WIDTH + k] = -tau[k] * sum;
        }
    }
}

constexpr PanelKernels kernels{reflect, collect, Strips<WIDE>::kernels, Strips<1>::kernels};

}  // namespace panels
}  // namespace SMNN_LEVEL
}  // namespace smnn
