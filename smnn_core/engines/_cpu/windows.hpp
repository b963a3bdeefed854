// Collocation on the intervals of a window: values at the points, stages eliminated, states swept forward. Arguments and
// letters are those of windows_job.hpp.
#pragma once

#include <cmath>

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

// x (B, N+1, M), z (B, N, V, k), y (B, N, k, V, R+1), d (B, N, M): WindowKernels::values
inline void values(const Window& w, const double* x, const double* z, double* y, double* d) {
    const int64_t V = w.V, k = w.k, r1 = w.R + 1, a = w.a(), width = w.width();
    double feature[FEATURES], power[ORDERS];
    for (int64_t n = 0; n < w.B * w.N; ++n) {
        const double* const left = x + (n / w.N * (w.N + 1) + n % w.N) * w.M;
        const double* const right = left + w.M;
        powers(w.s[n], w.R, power);
        for (int64_t v = 0; v < V; ++v) {
            const int q = w.q[v];
            for (int64_t o = 0; o < width; ++o) feature[o] = o < q ? left[w.first[v] + o] * power[o] : 0.0;
            for (int64_t l = 0; l < k; ++l) feature[width + l] = z[(n * V + v) * k + l] * power[q];
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

// J (B, N, k, V, V, R+1), lu (B, N, n, n), scale (B, N, n), order (B, N, n), HC (B, N, n, M), G (B, N, M, M), n = V k:
// WindowKernels::eliminate
inline void eliminate(const Window& w, const double* J, double* lu, double* scale, int* order, double* HC, double* G) {
    const int64_t V = w.V, k = w.k, r1 = w.R + 1, a = w.a(), width = w.width(), n = V * k, M = w.M;
    double power[ORDERS], row[FEATURES];
    for (int64_t at = 0; at < w.B * w.N; ++at) {
        double* const A = lu + at * n * n;
        double* const C = HC + at * n * M;
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
                for (int64_t o = 0; o < w.q[v]; ++o) C[i * M + w.first[v] + o] = row[o] * power[o];
                for (int64_t l = 0; l < k; ++l) {
                    A[i * n + v * k + l] = row[width + l];
                    largest = std::fmax(largest, std::fabs(row[width + l]));
                }
            }
            size[i] = largest > 0 ? 1 / largest : 1.0;
            for (int64_t c = 0; c < n; ++c) A[i * n + c] *= size[i];
            for (int64_t c = 0; c < M; ++c) C[i * M + c] *= size[i];
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
                    exchange(C + c * M, C + best * M, M);
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
                subtract(count, A + i * n + first, C + first * M, M, C + i * M, M);
            }
        }
        for (int64_t i = n - 1; i >= 0; --i) {
            for (int64_t c = i + 1; c < n; c += BLOCK) {
                subtract(c + BLOCK < n ? BLOCK : n - c, A + i * n + c, C + c * M, M, C + i * M, M);
            }
            for (int64_t l = 0; l < M; ++l) C[i * M + l] /= A[i * n + i];
        }
        double* const gamma = G + at * M * M;
        for (int64_t i = 0; i < M * M; ++i) gamma[i] = 0.0;
        for (int64_t v = 0; v < V; ++v) {
            const double* const E = w.E + v * a * r1;
            for (int64_t r = 0; r < w.q[v]; ++r) {
                double* const out = gamma + (w.first[v] + r) * M;
                for (int64_t l = 0; l < k; ++l) {
                    const double g = E[(width + l) * r1 + r] / power[r];
                    subtract(1, &g, C + (v * k + l) * M, M, out, M);
                }
                for (int64_t o = r; o < w.q[v]; ++o) out[w.first[v] + o] += E[o * r1 + r] * power[o] / power[r];
            }
        }
    }
}

// lu (B, N, n, n), scale (B, N, n), order (B, N, n), HC (B, N, n, M), G (B, N, M, M), f (B, N, k, V), d (B, N, M),
// dx (B, N+1, M), dz (B, N, V, k): WindowKernels::advance
inline void advance(const Window& w, const double* lu, const double* scale, const int* order, const double* HC,
                           const double* G, const double* f, const double* d, double* dx, double* dz) {
    const int64_t V = w.V, k = w.k, r1 = w.R + 1, a = w.a(), width = w.width(), n = V * k, M = w.M;
    double power[ORDERS];
    for (int64_t at = 0; at < w.B * w.N; ++at) {
        const double* const A = lu + at * n * n;
        double* const z = dz + at * n;
        double* const left = dx + (at / w.N * (w.N + 1) + at % w.N) * M;
        double* const right = left + M;
        powers(w.s[at], w.R, power);
        for (int64_t i = 0; i < n; ++i) {  // -C_z^-1 f
            const int from = order[at * n + i];
            z[i] = -f[at * n + from] * scale[at * n + from] - dot(A + i * n, z, i);
        }
        for (int64_t i = n - 1; i >= 0; --i) {
            z[i] = (z[i] - dot(A + i * n + i + 1, z + i + 1, n - i - 1)) / A[i * n + i];
        }
        for (int64_t v = 0; v < V; ++v) {
            for (int64_t r = 0; r < w.q[v]; ++r) {
                const int64_t m = w.first[v] + r;
                double sum = 0;
                for (int64_t l = 0; l < k; ++l) sum += w.E[(v * a + width + l) * r1 + r] * z[v * k + l];
                sum = sum / power[r] - d[at * M + m];
                right[m] = sum + dot(G + (at * M + m) * M, left, M);
            }
        }
        for (int64_t i = 0; i < n; ++i) z[i] -= dot(HC + (at * n + i) * M, left, M);
        for (int64_t v = 0; v < V; ++v) {
            for (int64_t l = 0; l < k; ++l) z[v * k + l] /= power[w.q[v]];
        }
    }
}

// The largest of |values[n]| and the `window` - 1 before it; values (n + 1), `apart` numbers apart from each other.
SMNN_INLINE double recent(const double* values, int64_t n, int64_t window, int64_t apart) {
    double largest = 0;
    for (int64_t i = n < window ? 0 : n - window + 1; i <= n; ++i) largest = std::fmax(largest, std::fabs(values[i * apart]));
    return largest;
}

// least (B, M), offset (B), dx (B, N+1, M), dz (B, N, V, k), x (B, N+1, M), z (B, N, V, k), change (B, N):
// WindowKernels::accept
inline void accept(const Window& w, int64_t window, const double* least, const double* offset, const double* dx,
                   const double* dz, double* x, double* z, double* change) {
    const int64_t V = w.V, k = w.k, M = w.M, N = w.N;
    const auto relative = [](double moved, double size, double offset) {
        const double part = std::fabs(moved) / ((size > 0 ? size : 1e-300) + offset);
        return part <= 1e300 ? part : double(INFINITY);  // NaN, too
    };
    for (int64_t b = 0; b < w.B; ++b) {
        double* const state = x + b * (N + 1) * M;
        double* const stage = z + b * N * V * k;
        const double* const step = dx + b * (N + 1) * M;
        const double* const stage_step = dz + b * N * V * k;
        for (int64_t i = 0; i < (N + 1) * M; ++i) state[i] += step[i];
        for (int64_t i = 0; i < N * V * k; ++i) stage[i] += stage_step[i];
        for (int64_t n = 0; n < N; ++n) {
            double largest = 0;
            for (int64_t m = 0; m < M; ++m) {
                const double size = std::fmax(recent(state + m, n + 1, window, M), least[b * M + m]);
                largest = std::fmax(largest, relative(step[(n + 1) * M + m], size, offset[b]));
            }
            for (int64_t v = 0; v < V; ++v) {
                if (w.q[v] > 0) continue;
                double size = 0, moved = 0;
                for (int64_t l = 0; l < k; ++l) {
                    size = std::fmax(size, recent(stage + v * k + l, n, window, V * k));
                    const double part = std::fabs(stage_step[(n * V + v) * k + l]);
                    moved = part <= moved ? moved : part;
                }
                largest = std::fmax(largest, relative(moved, size, offset[b]));
            }
            change[b * N + n] = largest;
        }
    }
}

constexpr WindowKernels kernels{values, eliminate, advance, accept};

}  // namespace windows
}  // namespace SMNN_LEVEL
}  // namespace smnn
