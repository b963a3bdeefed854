// Collocation on intervals: values at the points, stages eliminated, states swept forward or tied together by conditions.
// Arguments and letters are those of windows_job.hpp.
#pragma once

#include <cmath>
#include <vector>

#include "../kernels/pack.hpp"
#include "windows_job.hpp"

namespace smnn {
namespace SMNN_LEVEL {
namespace windows {

constexpr int ORDERS = WindowKernels::MOST_ORDERS + 1, FEATURES = WindowKernels::MOST_ORDERS + WindowKernels::MOST_POINTS;

// s^e, e = 0..R: power (R+1)
inline void powers(double s, int64_t R, double* power) {
    power[0] = 1;
    for (int64_t e = 1; e <= R; ++e) power[e] = power[e - 1] * s;
}

constexpr int64_t BLOCK = 4;  // rows that are subtracted from another at a time
constexpr double SINGULAR = 1e-14;  // the part of a column that is rounding

// row (n) -= sum of g[i] top[i]: g (count), count <= BLOCK, top (count, n), rows `apart` numbers apart.
SMNN_INLINE void subtract(
    int64_t count, const double* g, const double* __restrict top, int64_t apart, double* __restrict row, int64_t n
) {
    if (count == BLOCK) {
        const double a = g[0], b = g[1], c = g[2], d = g[3];
        const double *__restrict const second = top + apart, *__restrict const third = second + apart,
                                       *__restrict const fourth = third + apart;
        for (int64_t l = 0; l < n; ++l) row[l] -= a * top[l] + b * second[l] + (c * third[l] + d * fourth[l]);
        return;
    }
    for (int64_t i = 0; i < count; ++i) {
        for (int64_t l = 0; l < n; ++l) row[l] -= g[i] * top[i * apart + l];
    }
}

// The sum of a[i] b[i], a (n) and b (n), in as many partial sums as fill vectors.
SMNN_INLINE double dot(const double* __restrict a, const double* __restrict b, int64_t n) {
    constexpr int64_t SUMS = 8;
    double sums[SUMS] = {};
    int64_t i = 0;
    for (; i + SUMS <= n; i += SUMS) {
        for (int64_t l = 0; l < SUMS; ++l) sums[l] += a[i + l] * b[i + l];
    }
    double sum = 0;
    for (; i < n; ++i) sum += a[i] * b[i];
    for (int64_t l = 0; l < SUMS; ++l) sum += sums[l];
    return sum;
}

// Exchanges a (n) and b (n).
SMNN_INLINE void exchange(double* __restrict a, double* __restrict b, int64_t n) {
    for (int64_t l = 0; l < n; ++l) {
        const double x = a[l];
        a[l] = b[l], b[l] = x;
    }
}

// Phi of variable v, feature (a); of an interval the states at its left (M), z (V, k), and power (R+1).
SMNN_INLINE void features(const Window& w, int64_t v, const double* left, const double* z, const double* power, double* feature) {
    const int64_t width = w.width();
    for (int64_t o = 0; o < width; ++o) feature[o] = o < w.q[v] ? left[w.first[v] + o] * power[o] : 0.0;
    for (int64_t l = 0; l < w.k; ++l) feature[width + l] = z[v * w.k + l] * power[w.q[v]];
}

// Members of skip (B), which may be null, are left out.
inline bool skipped(const int* skip, int64_t b) { return skip != nullptr && skip[b] != 0; }

// skip (B) or null, x (B, N+1, M), z (B, N, V, k), y (B, N, k, V, R+1), d (B, N, M): WindowKernels::values
inline void values(const Window& w, const int* skip, const double* x, const double* z, double* y, double* d) {
    const int64_t V = w.V, k = w.k, r1 = w.R + 1, a = w.a();
    double feature[FEATURES], power[ORDERS];
    for (int64_t n = 0; n < w.B * w.N; ++n) {
        if (skipped(skip, n / w.N)) continue;
        const double* const left = x + (n / w.N * (w.N + 1) + n % w.N) * w.M;
        const double* const right = left + w.M;
        powers(w.s[n], w.R, power);
        for (int64_t v = 0; v < V; ++v) {
            const int q = w.q[v];
            features(w, v, left, z + n * V * k, power, feature);
            for (int64_t j = 0; j < k; ++j) {
                double* const value = y + ((n * k + j) * V + v) * r1;
                for (int64_t r = 0; r < r1; ++r) value[r] = dot(w.W + ((v * k + j) * r1 + r) * a, feature, a) / power[r];
            }
            for (int64_t r = 0; r < q; ++r) {
                double sum = 0;
                for (int64_t i = 0; i < a; ++i) sum += w.E[(v * a + i) * r1 + r] * feature[i];
                d[n * w.M + w.first[v] + r] = right[w.first[v] + r] - sum / power[r];
            }
        }
    }
}

// done (B) or null, J (B, N, k, V, V, R+1), P (B, N, k, V, p), lu (B, N, n, n), scale (B, N, n), order (B, N, n), HC (B, N, n, M + p),
// G (B, N, M, M + p), n = V k: WindowKernels::eliminate
inline void eliminate(
    const Window& w, const int* done, const double* J, const double* P, double* lu, double* scale, int* order, double* HC,
    double* G
) {
    const int64_t V = w.V, k = w.k, r1 = w.R + 1, a = w.a(), width = w.width(), n = V * k, K = w.M + w.p;
    double power[ORDERS], row[FEATURES];
    for (int64_t at = 0; at < w.B * w.N; ++at) {
        if (done != nullptr && at % w.N < done[at / w.N]) continue;
        double* const A = lu + at * n * n;
        double* const C = HC + at * n * K;
        double* const size = scale + at * n;
        int* const p = order + at * n;
        powers(w.s[at], w.R, power);
        for (int64_t i = 0; i < n; ++i) {  // row i = (j, e), columns (v, l) and states
            const int64_t j = i / V;
            double largest = 0;
            for (int64_t v = 0; v < V; ++v) {
                const double* const derivative = J + ((at * n + i) * V + v) * r1;
                const double* const W = w.W + (v * k + j) * r1 * a;
                for (int64_t l = 0; l < a; ++l) row[l] = 0;
                for (int64_t r = 0; r < r1; ++r) {
                    const double g = -derivative[r] / power[r];
                    subtract(1, &g, W + r * a, a, row, a);
                }
                for (int64_t o = 0; o < w.q[v]; ++o) C[i * K + w.first[v] + o] = row[o] * power[o];
                for (int64_t l = 0; l < k; ++l) {
                    A[i * n + v * k + l] = row[width + l];
                    largest = std::fmax(largest, std::fabs(row[width + l]));
                }
            }
            size[i] = largest > 0 ? 1 / largest : 1.0;
            for (int64_t c = 0; c < n; ++c) A[i * n + c] *= size[i];
            for (int64_t c = 0; c < w.p; ++c) C[i * K + w.M + c] = P[(at * n + i) * w.p + c];
            for (int64_t c = 0; c < K; ++c) C[i * K + c] *= size[i];
            p[i] = int(i);
        }
        for (int64_t first = 0; first < n; first += BLOCK) {
            const int64_t end = first + BLOCK < n ? first + BLOCK : n, rest = n - end;
            for (int64_t c = first; c < end; ++c) {
                int64_t best = c;
                for (int64_t i = c + 1; i < n; ++i) {
                    if (std::fabs(A[i * n + c]) > std::fabs(A[best * n + c])) best = i;
                }
                if (best != c) {
                    exchange(A + c * n, A + best * n, n);
                    exchange(C + c * K, C + best * K, K);
                    const int index = p[c];
                    p[c] = p[best], p[best] = index;
                }
                const double pivot = 1 / A[c * n + c];
                for (int64_t i = c + 1; i < n; ++i) {
                    const double g = A[i * n + c] * pivot;
                    A[i * n + c] = g;
                    for (int64_t l = c + 1; l < end; ++l) A[i * n + l] -= g * A[c * n + l];
                }
            }
            for (int64_t i = first + 1; i < n; ++i) {
                const int64_t count = (i < end ? i : end) - first;
                subtract(count, A + i * n + first, A + first * n + end, n, A + i * n + end, rest);
                subtract(count, A + i * n + first, C + first * K, K, C + i * K, K);
            }
        }
        for (int64_t i = n - 1; i >= 0; --i) {
            for (int64_t c = i + 1; c < n; c += BLOCK) {
                subtract(c + BLOCK < n ? BLOCK : n - c, A + i * n + c, C + c * K, K, C + i * K, K);
            }
            for (int64_t l = 0; l < K; ++l) C[i * K + l] /= A[i * n + i];
        }
        double* const gamma = G + at * w.M * K;
        for (int64_t i = 0; i < w.M * K; ++i) gamma[i] = 0.0;
        for (int64_t v = 0; v < V; ++v) {
            const double* const E = w.E + v * a * r1;
            for (int64_t r = 0; r < w.q[v]; ++r) {
                double* const out = gamma + (w.first[v] + r) * K;
                for (int64_t l = 0; l < k; ++l) {
                    const double g = E[(width + l) * r1 + r] / power[r];
                    subtract(1, &g, C + (v * k + l) * K, K, out, K);
                }
                for (int64_t o = r; o < w.q[v]; ++o) out[w.first[v] + o] += E[o * r1 + r] * power[o] / power[r];
            }
        }
    }
}

// Of the interval `at`, z (n) = -C_z^-1 f and the jump (M) that it leaves, -d included; lu (B, N, n, n), scale (B, N, n),
// order (B, N, n), f (B, N, k, V), d (B, N, M), power (R+1).
inline void particular(
    const Window& w, int64_t at, const double* lu, const double* scale, const int* order, const double* f, const double* d,
    const double* power, double* z, double* jump
) {
    const int64_t k = w.k, r1 = w.R + 1, a = w.a(), width = w.width(), n = w.V * k;
    const double* const A = lu + at * n * n;
    for (int64_t i = 0; i < n; ++i) {
        const int from = order[at * n + i];
        z[i] = -f[at * n + from] * scale[at * n + from] - dot(A + i * n, z, i);
    }
    for (int64_t i = n - 1; i >= 0; --i) {
        z[i] = (z[i] - dot(A + i * n + i + 1, z + i + 1, n - i - 1)) / A[i * n + i];
    }
    for (int64_t v = 0; v < w.V; ++v) {
        for (int64_t r = 0; r < w.q[v]; ++r) {
            double sum = 0;
            for (int64_t l = 0; l < k; ++l) sum += w.E[(v * a + width + l) * r1 + r] * z[v * k + l];
            jump[w.first[v] + r] = sum / power[r] - d[at * w.M + w.first[v] + r];
        }
    }
}

// z (n), from what f leaves, becomes the steps of the stages of the interval `at`, by those of the states at the left (M)
// and of the constants (p); HC (B, N, n, M + p), power (R+1).
inline void finish(
    const Window& w, int64_t at, const double* HC, const double* left, const double* constants, const double* power, double* z
) {
    const int64_t k = w.k, n = w.V * k, K = w.M + w.p;
    for (int64_t i = 0; i < n; ++i) {
        const double* const row = HC + (at * n + i) * K;
        z[i] -= dot(row, left, w.M) + dot(row + w.M, constants, w.p);
    }
    for (int64_t v = 0; v < w.V; ++v) {
        for (int64_t l = 0; l < k; ++l) z[v * k + l] /= power[w.q[v]];
    }
}

// skip (B) or null, lu (B, N, n, n), scale (B, N, n), order (B, N, n), HC (B, N, n, M), G (B, N, M, M), f (B, N, k, V),
// d (B, N, M), dx (B, N+1, M), dz (B, N, V, k): WindowKernels::advance
inline void advance(
    const Window& w, const int* skip, const double* lu, const double* scale, const int* order, const double* HC,
    const double* G, const double* f, const double* d, double* dx, double* dz
) {
    const int64_t n = w.V * w.k, M = w.M;
    double power[ORDERS];
    for (int64_t at = 0; at < w.B * w.N; ++at) {
        double* const left = dx + (at / w.N * (w.N + 1) + at % w.N) * M;
        double* const right = left + M;
        if (skipped(skip, at / w.N)) {
            for (int64_t m = 0; m < M; ++m) right[m] = 0;
            for (int64_t i = 0; i < n; ++i) dz[at * n + i] = 0;
            continue;
        }
        powers(w.s[at], w.R, power);
        particular(w, at, lu, scale, order, f, d, power, dz + at * n, right);
        for (int64_t m = 0; m < M; ++m) right[m] += dot(G + (at * M + m) * M, left, M);
        finish(w, at, HC, left, nullptr, power, dz + at * n);
    }
}

// Reflects column j of S (rows, columns), rows `apart` numbers apart, onto its entry j: the vector, whose entry j is 1,
// stands below. Returns its factor; NaN where nothing is left of a column.
inline double reflect(double* S, int64_t rows, int64_t columns, int64_t apart, int64_t j) {
    double above = 0, sum = 0;
    for (int64_t i = 0; i < j; ++i) above += S[i * apart + j] * S[i * apart + j];
    for (int64_t i = j; i < rows; ++i) sum += S[i * apart + j] * S[i * apart + j];
    if (!(sum > SINGULAR * SINGULAR * (above + sum))) return S[j * apart + j] = double(NAN);
    const double first = S[j * apart + j], norm = std::copysign(std::sqrt(sum), first), inverse = 1 / (norm + first);
    const double tau = (norm + first) / norm;
    S[j * apart + j] = -norm;
    for (int64_t i = j + 1; i < rows; ++i) S[i * apart + j] *= inverse;
    for (int64_t l = j + 1; l < columns; ++l) {
        double part = S[j * apart + l];
        for (int64_t i = j + 1; i < rows; ++i) part += S[i * apart + j] * S[i * apart + l];
        part *= tau;
        S[j * apart + l] -= part;
        for (int64_t i = j + 1; i < rows; ++i) S[i * apart + l] -= part * S[i * apart + j];
    }
    return tau;
}

// row (width) := first (n) times size (n) and a factor that makes its largest number, or `largest`, 1; zeros behind.
// Returns the factor.
inline double put(double* row, const double* first, const double* size, int64_t n, int64_t width, double largest) {
    for (int64_t l = 0; l < n; ++l) largest = std::fmax(largest, std::fabs(row[l] = first[l] * size[l]));
    const double factor = largest > 0 ? 1 / largest : 1.0;
    for (int64_t l = 0; l < n; ++l) row[l] *= factor;
    for (int64_t l = n; l < width; ++l) row[l] = 0;
    return factor;
}

// The columns of S are the states of a point, the constants, and the states of the next; its rows those that are left of
// points before, those that stand there, and those of continuity. G (B, N, M, M + p), R (B, N+1, 2 M + c, 2 M + c), tau
// (B, N+1, M + c), count (B, N+1), scale (B, N M + M + c): WindowKernels::couple
inline void couple(
    const Window& w, const Coupling& c, const double* G, double* R, double* tau, int* count, double* scale
) {
    const int64_t M = w.M, N = w.N, K = M + w.p, C = M + c.c, most = c.most(M);
    for (int64_t b = 0; b < w.B; ++b) {
        const double* const size = c.size + b * C;
        double* const of_continuity = scale + b * (N * M + C);
        double* const of_rows = of_continuity + N * M;
        int64_t left = 0;
        for (int64_t n = 0; n <= N; ++n) {
            double* const S = R + (b * (N + 1) + n) * most * most;
            const int64_t next = n < N ? M : 0;
            int64_t rows = left;
            for (int64_t i = 0; i < C && rows + next < most; ++i) {
                if (c.at[b * C + i] != n) continue;
                of_rows[i] = put(S + rows++ * most, c.rows + (b * C + i) * C, size, C, most, 0);
            }
            for (int64_t m = 0; m < next; ++m) {
                double* const row = S + rows++ * most;
                const double* const gamma = G + ((b * N + n) * M + m) * K;
                const double factor = put(row, gamma, size, K, most, size[m]);
                for (int64_t l = 0; l < K; ++l) row[l] = -row[l];
                row[C + m] = factor * size[m];
                of_continuity[n * M + m] = factor;
            }
            count[b * (N + 1) + n] = int(rows);
            const int64_t eliminated = n < N ? M : C;
            double* const factors = tau + (b * (N + 1) + n) * C;
            for (int64_t j = 0; j < eliminated; ++j) {
                factors[j] = j < rows ? reflect(S, rows, C + next, most, j) : S[j * most + j] = double(NAN);
            }
            left = 0;
            for (int64_t i = M; i < rows && n < N; ++i) {
                const double* const from = S + i * most;
                double* const to = S + (most + left++) * most;
                for (int64_t l = 0; l < M; ++l) to[l] = from[C + l];
                for (int64_t l = M; l < C; ++l) to[l] = from[l];
                for (int64_t l = C; l < most; ++l) to[l] = 0;
            }
        }
    }
}

// lu (B, N, n, n), scale (B, N, n), order (B, N, n), HC (B, N, n, M + p), R, tau, count, row_scale of `couple`, f (B, N, k,
// V), d (B, N, M), g (B, M + c), dx (B, N+1, M), dz (B, N, V, k), dc (B, c): WindowKernels::solve
inline void solve(
    const Window& w, const Coupling& c, const double* lu, const double* scale, const int* order, const double* HC,
    const double* R, const double* tau, const int* count, const double* row_scale, const double* f, const double* d,
    const double* g, double* dx, double* dz, double* dc
) {
    const int64_t M = w.M, N = w.N, stages = w.V * w.k, C = M + c.c, most = c.most(M);
    double power[ORDERS];
    std::vector<double> scratch(size_t(most + C));
    double *const rhs = scratch.data(), *const y = rhs + most;
    for (int64_t b = 0; b < w.B; ++b) {
        const double* const size = c.size + b * C;
        const double* const of_continuity = row_scale + b * (N * M + C);
        const double* const of_rows = of_continuity + N * M;
        double* const x = dx + b * (N + 1) * M;
        int64_t left = 0;
        for (int64_t n = 0; n <= N; ++n) {
            const int64_t point = b * (N + 1) + n, next = n < N ? M : 0, rows = count[point];
            for (int64_t i = 0; i < C && left + next < rows; ++i) {
                if (c.at[b * C + i] == n) rhs[left++] = -g[b * C + i] * of_rows[i];
            }
            if (n < N) {
                const int64_t at = b * N + n;
                powers(w.s[at], w.R, power);
                particular(w, at, lu, scale, order, f, d, power, dz + at * stages, rhs + left);
                for (int64_t m = 0; m < M; ++m) rhs[left + m] *= of_continuity[n * M + m];
            }
            const double* const S = R + point * most * most;
            const int64_t eliminated = n < N ? M : C;
            for (int64_t j = 0; j < eliminated && j < rows; ++j) {
                double part = rhs[j];
                for (int64_t i = j + 1; i < rows; ++i) part += S[i * most + j] * rhs[i];
                part *= tau[point * C + j];
                rhs[j] -= part;
                for (int64_t i = j + 1; i < rows; ++i) rhs[i] -= part * S[i * most + j];
            }
            for (int64_t m = 0; m < M; ++m) x[n * M + m] = rhs[m];
            for (left = 0; left + M < rows && n < N; ++left) rhs[left] = rhs[M + left];
        }
        for (int64_t l = 0; l < C; ++l) y[l] = rhs[l];
        for (int64_t n = N; n >= 0; --n) {  // y: states, then constants, in units of their sizes
            const double* const S = R + (b * (N + 1) + n) * most * most;
            const int64_t unknowns = n < N ? M : C;
            for (int64_t i = 0; i < unknowns && n < N; ++i) {
                rhs[i] = x[n * M + i] - dot(S + i * most + M, y + M, c.c) - dot(S + i * most + C, y, M);
            }
            if (n == N) {
                for (int64_t i = 0; i < C; ++i) rhs[i] = y[i];
            }
            for (int64_t i = unknowns - 1; i >= 0; --i) {
                y[i] = (rhs[i] - dot(S + i * most + i + 1, y + i + 1, unknowns - i - 1)) / S[i * most + i];
            }
            for (int64_t m = 0; m < M; ++m) x[n * M + m] = y[m] * size[m];
        }
        double* const constants = dc + b * c.c;
        for (int64_t l = 0; l < c.c; ++l) constants[l] = y[M + l] * size[M + l];
        for (int64_t n = 0; n < N; ++n) {
            powers(w.s[b * N + n], w.R, power);
            finish(w, b * N + n, HC, x + n * M, constants, power, dz + (b * N + n) * stages);
        }
    }
}

// The largest of |values[n]| and the `window` - 1 before it; values (n + 1), `apart` numbers apart from each other.
SMNN_INLINE double recent(const double* values, int64_t n, int64_t window, int64_t apart) {
    double largest = 0;
    for (int64_t i = n < window ? 0 : n - window + 1; i <= n; ++i) largest = std::fmax(largest, std::fabs(values[i * apart]));
    return largest;
}

// The step of member b is added: changes, and how many of the first intervals are solved. is_new: it is the first with its
// left-hand side.
inline void accept(const Window& w, const Iterates& u, bool is_new, int64_t b) {
    const int64_t V = w.V, k = w.k, M = w.M, N = w.N;
    const auto relative = [](double moved, double size, double offset) {
        const double part = std::fabs(moved) / ((size > 0 ? size : 1e-300) + offset);
        return part <= 1e300 ? part : double(INFINITY);  // NaN, too
    };
    double* const state = u.x + b * (N + 1) * M;
    double* const stage = u.z + b * N * V * k;
    const double* const step = u.dx + b * (N + 1) * M;
    const double* const stage_step = u.dz + b * N * V * k;
    for (int64_t i = 0; i < (N + 1) * M; ++i) state[i] += step[i];
    for (int64_t i = 0; i < N * V * k; ++i) stage[i] += stage_step[i];
    bool whole = true;  // all intervals up to here are solved
    u.solved[b] = int(N);
    for (int64_t n = 0; n < N; ++n) {
        double change = 0;
        for (int64_t m = 0; m < M; ++m) {
            const double size = std::fmax(recent(state + m, n + 1, u.window, M), u.least[b * M + m]);
            change = std::fmax(change, relative(step[(n + 1) * M + m], size, u.offset[b]));
        }
        for (int64_t v = 0; v < V; ++v) {
            if (w.q[v] > 0) continue;
            double size = 0, moved = 0;
            for (int64_t l = 0; l < k; ++l) {
                size = std::fmax(size, recent(stage + v * k + l, n, u.window, V * k));
                const double part = std::fabs(stage_step[(n * V + v) * k + l]);
                moved = part <= moved ? moved : part;
            }
            change = std::fmax(change, relative(moved, size, u.offset[b]));
        }
        double& before = u.change[b * N + n];
        const double quotient = before <= 1e300 ? change / before : double(INFINITY);
        const double rate = quotient >= 0 ? quotient : double(INFINITY);
        const double left = rate < 1 ? rate / (1 - rate) * change : double(INFINITY);
        before = change;
        if (whole) u.rate[b] = rate;
        if (change < u.limit[b] || left < u.limit[b] || (is_new && rate > 0.5 && change < u.rounding)) continue;
        if (whole) u.solved[b] = int(n);
        whole = false;
    }
}

// J (B, N, k, V, V, R+1) or null, f (B, N, k, V), lu (B, N, n, n), scale (B, N, n), order (B, N, n), HC (B, N, n, M),
// G (B, N, M, M): WindowKernels::improve
inline void improve(
    const Window& w, const Iterates& u, const double* J, const double* f, double* lu, double* scale, int* order, double* HC,
    double* G
) {
    std::vector<int> skip(size_t(w.B));
    for (int64_t b = 0; b < w.B; ++b) skip[b] = u.solved[b] >= w.N;
    if (J != nullptr) eliminate(w, u.solved, J, nullptr, lu, scale, order, HC, G);
    advance(w, skip.data(), lu, scale, order, HC, G, f, u.d, u.dx, u.dz);
    for (int64_t b = 0; b < w.B; ++b) {
        if (skip[b]) continue;
        accept(w, u, J != nullptr, b);
        skip[b] = u.solved[b] >= w.N;
    }
    values(w, skip.data(), u.x, u.z, u.y, u.d);
}

// x (B, N+1, M), z (B, N, V, k), solved (B), count (B), ratio (B, 2): WindowKernels::keep
inline void keep(const Window& w, const Allowed& e, const Progress& p, const double* x, const double* z, const int* solved,
                 int* count, double* ratio) {
    const int64_t V = w.V, k = w.k, M = w.M, N = w.N;
    std::vector<double> y(size_t(N * V)), top(size_t(N * V)), jump(size_t((N + 1) * V)), allowed(static_cast<size_t>(V));
    double power[ORDERS];
    for (int64_t b = 0; b < w.B; ++b) {
        const double* const s = w.s + b * N;
        const double* const state = x + b * (N + 1) * M;
        const double* const stage = z + b * N * V * k;
        const bool known = std::isfinite(p.top[b * V]);
        const int64_t within = solved[b];
        for (int64_t v = 0; v < V; ++v) {
            double largest = e.faintest * e.tolerance[b] * p.largest_y[b * V + v];
            for (int64_t n = 0; n < within; ++n) {
                double sum = 0, size = 0;
                for (int64_t l = 0; l < k; ++l) {
                    const double value = stage[(n * V + v) * k + l];
                    sum += value * e.leading[l];
                    size = std::fmax(size, std::fabs(value));
                }
                if (w.q[v] > 0) {
                    const double* const at = state + n * M + w.first[v];
                    size = std::fmax(std::fabs(at[0]), std::fabs(at[M]));
                }
                const double here = sum / std::pow(s[n], double(k - 1));
                const double before = n > 0 ? top[(n - 1) * V + v] : known ? p.top[b * V + v] : here;
                const double width = n > 0 ? s[n - 1] : known ? p.width[b] : s[0];
                top[n * V + v] = here;
                jump[n * V + v] = std::fabs(here - before) / std::fabs(0.5 * (s[n] + width));
                y[n * V + v] = size;
                largest = std::fmax(largest, size);
            }
            jump[within * V + v] = 0;
            allowed[v] = e.tolerance[b] * (largest > 0 ? largest : 1e-300) + e.absolute;
        }
        int64_t kept = 0;
        ratio[b * 2] = ratio[b * 2 + 1] = 0;
        for (; kept < within; ++kept) {
            double largest = 1e-12;
            powers(s[kept], w.R, power);
            const double factor = std::pow(s[kept], double(k));
            for (int64_t v = 0; v < V; ++v) {
                const double here = jump[kept * V + v], larger = std::fmax(here, jump[(kept + 1) * V + v]);
                const double part = e.constants[v] * std::fabs(factor * power[w.q[v]]) * larger / allowed[v];
                largest = std::fmax(largest, part <= 1e300 && here <= 1e300 ? part : double(INFINITY));
            }
            ratio[b * 2 + (largest > 1)] = largest;
            if (largest > 1) break;
        }
        count[b] = int(kept);
        if (kept == 0) continue;
        p.width[b] = s[kept - 1];
        for (int64_t v = 0; v < V; ++v) {
            double& largest = p.largest_y[b * V + v];
            p.top[b * V + v] = top[(kept - 1) * V + v];
            for (int64_t n = 0; n < kept; ++n) largest = std::fmax(largest, y[n * V + v]);
        }
        for (int64_t m = 0; m < M; ++m) {
            const double size = p.size[b * M + m] = recent(state + M + m, kept - 1, N, M);
            p.x[b * M + m] = state[kept * M + m];
            p.largest_x[b * M + m] = std::fmax(p.largest_x[b * M + m], size);
        }
    }
}

// The polynomials on a mesh at one time after the other: Legendre series of the interval, made where it is another one.
class Series {
  public:
    // series (V, a, R+1, k+R), t (B, N+1), x (B, N+1, M), z (B, N, V, k)
    Series(const Window& w, const double* series, const double* t, const double* x, const double* z)
        : w(w), series(series), t(t), x(x), z(z), degrees(w.k + w.R), sums(size_t(w.V * (w.R + 1) * degrees)) {
        P[0] = 1;
    }

    // Goes to a time of member b: in the interval where it is, but for times behind the interval `last`.
    void look(int64_t b, int64_t last, double time) {
        const double* const mesh = t + b * (w.N + 1);
        const double sign = mesh[w.N] >= mesh[0] ? 1 : -1;
        int64_t low = 0;
        for (int64_t high = last + 1; high - low > 1;) {
            const int64_t middle = (low + high) / 2;
            (sign * mesh[middle] <= sign * time ? low : high) = middle;
        }
        const double s = mesh[low + 1] - mesh[low];
        if (b * w.N + low != at) {
            at = b * w.N + low;
            make(x + (b * (w.N + 1) + low) * w.M, s);
        }
        const double u = 2 * (time - mesh[low]) / s - 1;
        P[1] = u;
        for (int64_t j = 1; j + 1 < degrees; ++j) P[j + 1] = (double(2 * j + 1) * u * P[j] - double(j) * P[j - 1]) / double(j + 1);
    }

    // Derivative r of variable v there.
    double value(int64_t v, int64_t r) const { return dot(sums.data() + (v * (w.R + 1) + r) * degrees, P, degrees) / power[r]; }

  private:
    // left (M)
    void make(const double* left, double s) {
        const int64_t a = w.a(), width = (w.R + 1) * degrees;
        double feature[FEATURES];
        powers(s, w.R, power);
        for (double& sum : sums) sum = 0;
        for (int64_t v = 0; v < w.V; ++v) {
            features(w, v, left, z + at * w.V * w.k, power, feature);
            double* __restrict const to = sums.data() + v * width;
            for (int64_t f = 0; f < a; ++f) {
                const double* __restrict const from = series + (v * a + f) * width;
                for (int64_t l = 0; l < width; ++l) to[l] += feature[f] * from[l];
            }
        }
    }

    const Window& w;
    const double *series, *t, *x, *z;
    int64_t degrees, at = -1;
    std::vector<double> sums;  // (V, R+1, k+R)
    double power[ORDERS], P[FEATURES];
};

// t (B, N+1), x (B, N+1, M), z (B, N, V, k), n times (B, n), last (B), series (V, a, R+1, k+R), y (B, n, V, R+1):
// WindowKernels::at_times
inline void at_times(const Window& w, const double* series, const double* t, const double* x, const double* z, int64_t n,
                     const double* times, const int* last, double* y) {
    Series polynomials(w, series, t, x, z);
    for (int64_t i = 0; i < w.B * n; ++i) {
        polynomials.look(i / n, last[i / n], times[i]);
        for (int64_t v = 0; v < w.V; ++v) {
            for (int64_t r = 0; r <= w.R; ++r) *y++ = polynomials.value(v, r);
        }
    }
}

// before: B, N' intervals; series (V, a, R+1, k+R), t (B, N'+1), x (B, N'+1, M), z (B, N', V, k), solved (B), start (B, M),
// mesh (B, N+1), points (B, N, k), new_x (B, N+1, M), new_z (B, N, V, k): WindowKernels::predict
inline void predict(const Window& before, const double* series, const double* t, const double* x, const double* z,
                    const int* solved, double further, const double* start, int64_t N, const double* mesh,
                    const double* points, double* new_x, double* new_z) {
    const Window& w = before;
    Series polynomials(w, series, t, x, z);
    for (int64_t b = 0; b < w.B; ++b) {
        const int64_t last = solved[b] > 0 ? solved[b] - 1 : 0;
        const double* const from = mesh + b * (N + 1);
        const double end = t[b * (w.N + 1) + last], reach = end + further * (t[b * (w.N + 1) + last + 1] - end);
        const auto near = [&](double time) { return solved[b] > 0 && (time - reach) * (from[1] - from[0]) <= 0; };
        double* const state = new_x + b * (N + 1) * w.M;
        double* const stage = new_z + b * N * w.V * w.k;
        for (int64_t n = 0; n <= N; ++n) {
            for (int64_t m = 0; m < w.M; ++m) state[n * w.M + m] = start[b * w.M + m];
            if (n == 0 || !near(from[n])) continue;
            polynomials.look(b, last, from[n]);
            for (int64_t v = 0; v < w.V; ++v) {
                for (int64_t o = 0; o < w.q[v]; ++o) state[n * w.M + w.first[v] + o] = polynomials.value(v, o);
            }
        }
        for (int64_t n = 0; n < N; ++n) {
            const double* const at = points + (b * N + n) * w.k;
            const bool inside = near(at[w.k - 1]);  // the last of them, hence all
            for (int64_t l = 0; l < w.k; ++l) {
                if (inside) polynomials.look(b, last, at[l]);
                for (int64_t v = 0; v < w.V; ++v) {
                    const bool held = w.q[v] == 0 && solved[b] > 0;
                    const double otherwise = held ? z[((b * w.N + last) * w.V + v + 1) * w.k - 1] : 0.0;
                    stage[(n * w.V + v) * w.k + l] = inside ? polynomials.value(v, w.q[v]) : otherwise;
                }
            }
        }
    }
}

extern const WindowKernels kernels;
const WindowKernels kernels{values, eliminate, advance, couple, solve, improve, keep, at_times, predict};

}  // namespace windows
}  // namespace SMNN_LEVEL
}  // namespace smnn
