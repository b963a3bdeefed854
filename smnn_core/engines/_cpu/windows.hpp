// Collocation on the intervals of a window: values at the points, stages eliminated, states swept forward.
//
// Letters as in smnn_core/trajectory/_collocation.py: B members, N intervals, V variables of orders q[v] <= R, k points,
// M states, Q = V equations; a = max(R, 1) + k features of a variable: its states times s^o, its stages times s^q. Arrays
// are contiguous; results may not overlap what they are made of.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace smnn {

struct Window {
    int64_t B, N, V, k, M, R;
    const int* q;      // (V)
    const int* first;  // (V): the first state of a variable
    const double* s;   // (B, N)
    const double* W;   // (V, a, k, R+1): features -> values at the points
    const double* E;   // (V, a, R+1): features -> values at the end of the interval

    int64_t width() const { return R > 1 ? R : 1; }
    int64_t a() const { return width() + k; }
};

// s^e, e = 0..R: power (R+1)
inline void powers(double s, int64_t R, double* power) {
    power[0] = 1;
    for (int64_t e = 1; e <= R; ++e) power[e] = power[e - 1] * s;
}

// y (B, N, k, V, R+1) at the points, and d (B, N, M), the jumps of the states x (B, N+1, M); z (B, N, V, k).
inline void window_values(const Window& w, const double* x, const double* z, double* y, double* d) {
    const int64_t V = w.V, k = w.k, r1 = w.R + 1, a = w.a(), width = w.width();
    std::vector<double> feature(static_cast<size_t>(a)), power(static_cast<size_t>(r1)), end(static_cast<size_t>(r1));
    for (int64_t n = 0; n < w.B * w.N; ++n) {
        const double* const left = x + (n / w.N * (w.N + 1) + n % w.N) * w.M;
        const double* const right = left + w.M;
        powers(w.s[n], w.R, power.data());
        for (int64_t v = 0; v < V; ++v) {
            const int q = w.q[v];
            for (int64_t o = 0; o < width; ++o) feature[o] = o < q ? left[w.first[v] + o] * power[o] : 0.0;
            for (int64_t l = 0; l < k; ++l) feature[width + l] = z[(n * V + v) * k + l] * power[q];
            const double* const W = w.W + v * a * k * r1;
            for (int64_t j = 0; j < k; ++j) {
                double* const value = y + ((n * k + j) * V + v) * r1;
                for (int64_t r = 0; r < r1; ++r) {
                    double sum = 0;
                    for (int64_t i = 0; i < a; ++i) sum += W[(i * k + j) * r1 + r] * feature[i];
                    value[r] = sum / power[r];
                }
            }
            for (int64_t r = 0; r < q; ++r) {
                double sum = 0;
                for (int64_t i = 0; i < a; ++i) sum += w.E[(v * a + i) * r1 + r] * feature[i];
                d[n * w.M + w.first[v] + r] = right[w.first[v] + r] - sum / power[r];
            }
        }
    }
}

// Of each interval, from J (B, N, k, V, V, R+1): C_z = L U with rows scaled and exchanged, n = V k,
//
//     lu (B, N, n, n), scale (B, N, n), order (B, N, n),
//
// C_z^-1 C_x, HC (B, N, n, M), and how states at the end follow from those at the start, G (B, N, M, M). NaN where C_z is
// singular.
inline void window_eliminate(const Window& w, const double* J, double* lu, double* scale, int* order, double* HC, double* G) {
    const int64_t V = w.V, k = w.k, r1 = w.R + 1, a = w.a(), width = w.width(), n = V * k, M = w.M;
    std::vector<double> power(static_cast<size_t>(r1)), row(static_cast<size_t>(r1));
    for (int64_t at = 0; at < w.B * w.N; ++at) {
        double* const A = lu + at * n * n;
        double* const C = HC + at * n * M;
        double* const size = scale + at * n;
        int* const p = order + at * n;
        powers(w.s[at], w.R, power.data());
        for (int64_t i = 0; i < n; ++i) {  // row i = (j, e), columns (v, l) and states
            const int64_t j = i / V;
            double largest = 0;
            for (int64_t v = 0; v < V; ++v) {
                const double* const derivative = J + ((at * n + i) * V + v) * r1;
                for (int64_t r = 0; r < r1; ++r) row[r] = derivative[r] / power[r];
                const double* const W = w.W + v * a * k * r1 + j * r1;
                for (int64_t o = 0; o < w.q[v]; ++o) {
                    double sum = 0;
                    for (int64_t r = 0; r < r1; ++r) sum += row[r] * W[o * k * r1 + r];
                    C[i * M + w.first[v] + o] = sum * power[o];
                }
                for (int64_t l = 0; l < k; ++l) {
                    double sum = 0;
                    for (int64_t r = 0; r < r1; ++r) sum += row[r] * W[(width + l) * k * r1 + r];
                    A[i * n + v * k + l] = sum;
                    largest = std::fmax(largest, std::fabs(sum));
                }
            }
            size[i] = largest > 0 ? 1 / largest : 1.0;
            for (int64_t c = 0; c < n; ++c) A[i * n + c] *= size[i];
            for (int64_t c = 0; c < M; ++c) C[i * M + c] *= size[i];
            p[i] = int(i);
        }
        for (int64_t c = 0; c < n; ++c) {
            int64_t best = c;
            for (int64_t i = c + 1; i < n; ++i) {
                if (std::fabs(A[i * n + c]) > std::fabs(A[best * n + c])) best = i;
            }
            if (best != c) {
                std::swap_ranges(A + c * n, A + (c + 1) * n, A + best * n);
                std::swap_ranges(C + c * M, C + (c + 1) * M, C + best * M);
                std::swap(p[c], p[best]);
            }
            const double* const top = A + c * n;
            for (int64_t i = c + 1; i < n; ++i) {
                const double g = A[i * n + c] / top[c];
                A[i * n + c] = g;
                for (int64_t l = c + 1; l < n; ++l) A[i * n + l] -= g * top[l];
                for (int64_t l = 0; l < M; ++l) C[i * M + l] -= g * C[c * M + l];
            }
        }
        for (int64_t i = n - 1; i >= 0; --i) {
            for (int64_t c = i + 1; c < n; ++c) {
                const double g = A[i * n + c];
                for (int64_t l = 0; l < M; ++l) C[i * M + l] -= g * C[c * M + l];
            }
            for (int64_t l = 0; l < M; ++l) C[i * M + l] /= A[i * n + i];
        }
        double* const gamma = G + at * M * M;
        std::fill(gamma, gamma + M * M, 0.0);
        for (int64_t v = 0; v < V; ++v) {
            const double* const E = w.E + v * a * r1;
            for (int64_t r = 0; r < w.q[v]; ++r) {
                double* const out = gamma + (w.first[v] + r) * M;
                for (int64_t l = 0; l < k; ++l) {
                    const double g = E[(width + l) * r1 + r] / power[r];
                    for (int64_t c = 0; c < M; ++c) out[c] -= g * C[(v * k + l) * M + c];
                }
                for (int64_t o = r; o < w.q[v]; ++o) out[w.first[v] + o] += E[o * r1 + r] * power[o] / power[r];
            }
        }
    }
}

// The steps dx (B, N+1, M), which begin with zero, and dz (B, N, V, k) for f (B, N, k, V) and jumps d (B, N, M).
inline void window_advance(const Window& w, const double* lu, const double* scale, const int* order, const double* HC,
                           const double* G, const double* f, const double* d, double* dx, double* dz) {
    const int64_t V = w.V, k = w.k, r1 = w.R + 1, a = w.a(), width = w.width(), n = V * k, M = w.M;
    std::vector<double> power(static_cast<size_t>(r1));
    for (int64_t at = 0; at < w.B * w.N; ++at) {
        const double* const A = lu + at * n * n;
        double* const z = dz + at * n;
        double* const left = dx + (at / w.N * (w.N + 1) + at % w.N) * M;
        double* const right = left + M;
        if (at % w.N == 0) std::fill(left, left + M, 0.0);
        powers(w.s[at], w.R, power.data());
        for (int64_t i = 0; i < n; ++i) {  // -C_z^-1 f
            const int from = order[at * n + i];
            double sum = -f[at * n + from] * scale[at * n + from];
            for (int64_t c = 0; c < i; ++c) sum -= A[i * n + c] * z[c];
            z[i] = sum;
        }
        for (int64_t i = n - 1; i >= 0; --i) {
            double sum = z[i];
            for (int64_t c = i + 1; c < n; ++c) sum -= A[i * n + c] * z[c];
            z[i] = sum / A[i * n + i];
        }
        for (int64_t v = 0; v < V; ++v) {
            for (int64_t r = 0; r < w.q[v]; ++r) {
                const int64_t m = w.first[v] + r;
                double sum = 0;
                for (int64_t l = 0; l < k; ++l) sum += w.E[(v * a + width + l) * r1 + r] * z[v * k + l];
                sum = sum / power[r] - d[at * M + m];
                const double* const gamma = G + (at * M + m) * M;
                for (int64_t c = 0; c < M; ++c) sum += gamma[c] * left[c];
                right[m] = sum;
            }
        }
        for (int64_t i = 0; i < n; ++i) {
            double sum = z[i];
            for (int64_t c = 0; c < M; ++c) sum -= HC[(at * n + i) * M + c] * left[c];
            z[i] = sum;
        }
        for (int64_t v = 0; v < V; ++v) {
            for (int64_t l = 0; l < k; ++l) z[v * k + l] /= power[w.q[v]];
        }
    }
}

}  // namespace smnn
