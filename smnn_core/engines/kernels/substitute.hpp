// Triangular solves with the factor of a lane: R^T w = g forwards, R x = z backwards.
#pragma once

#include "factor.hpp"
#include "pack.hpp"

namespace smnn {
namespace SMNN_LEVEL {

// Numbers (m, n) of a point: of its own where sizes are compiled, else where they lie in memory.
template <class P, class Size, int M>
struct PointColumns {
    static constexpr int n = Size::fixed ? Capacity<Size>::n : 1;
    P own[n * M];
    P* const at;
    const Index step;
    SMNN_INLINE P& operator()(int c, int j) {
        if constexpr (Size::fixed) {
            return own[c * n + j];
        } else {
            return at[c * step + j];
        }
    }
};

// x[t] for t = t1-1 .. t0, from z, x[t1] in `after` (m, n) and, chunked, x at the left separator, left (m, n). On return `after`
// is x[t0]. f (points, FactorLayout::entries()), z and x (m, points, n) start at point t0; x may be z. Right-hand sides of z and
// x lie `step` apart.
template <class P, class Size, bool Chunked, int M = 1, class F>
SMNN_OUTLINE void substitute_back(
    const Size& size, int t0, int t1, F f, const P* z, const P* left, P* after, P* x, Index step = 0, Int<M> m = {}
) {
    const FactorLayout<Chunked> at{size.n, size.K};
    Array<P, Capacity<Size>::n * M> next_x(after, size.n * m);
    if constexpr (Size::fixed) next_x.load(after, size.n * m);
    for (int t = t1 - 1; t >= t0; --t) {
        const F ft = f + Index(t - t0) * at.entries();
        const P* zt = z + Index(t - t0) * size.n;
        P* xt = x + Index(t - t0) * size.n;
        PointColumns<P, Size, M> now{{}, xt, step};
        repeat_down(size.n, [&](auto j) SMNN_LAMBDA {
            P sum[M];
            repeat(m, [&](auto c) SMNN_LAMBDA { sum[c] = zt[c * step + j]; });
            repeat(columns_through(size, j), [&](auto k) SMNN_LAMBDA {
                const P N = ft[at.next(j) + k];
                repeat(m, [&](auto c) SMNN_LAMBDA { sum[c] -= N * next_x[c * size.n + k]; });
            });
            if constexpr (Chunked) {
                repeat(size.n, [&](auto k) SMNN_LAMBDA {
                    const P L = ft[at.left(j) + k];
                    repeat(m, [&](auto c) SMNN_LAMBDA { sum[c] -= L * left[c * size.n + k]; });
                });
            }
            repeat(m, [&](auto c) SMNN_LAMBDA { now(c, j) = sum[c]; });
        });
        repeat_down(size.n, [&](auto j) SMNN_LAMBDA {
            P sum[M];
            repeat(m, [&](auto c) SMNN_LAMBDA { sum[c] = now(c, j); });
            repeat(columns_after(size, j), [&](auto i) SMNN_LAMBDA {
                const P R = ft[at.row(j) + 1 + i];
                repeat(m, [&](auto c) SMNN_LAMBDA { sum[c] -= R * next_x[c * size.n + j + 1 + i]; });
            });
            const P inverse = ft[at.row(j)];
            repeat(m, [&](auto c) SMNN_LAMBDA { xt[c * step + j] = next_x[c * size.n + j] = sum[c] * inverse; });
        });
    }
    if constexpr (Size::fixed) next_x.save(after, size.n * m);
}

// w[t] for t = t0 .. t1-1, from g; R^T D^-1 w = g. `before` (m, n) holds what the points before subtract from g[t0], on return
// what point t1-1 subtracts from g[t1]; `left` (m, n) gathers what all subtract from g at the left separator. f (points,
// FactorLayout::entries()), g and w (m, points, n) start at point t0, right-hand sides `g_step` and `step` apart; w may be g.
template <class P, class Size, bool Chunked, int M = 1, class F>
SMNN_OUTLINE void substitute_forward(
    const Size& size, int t0, int t1, F f, const P* g, P* before, P* left, P* w, Index g_step = 0, Index step = 0,
    Int<M> m = {}
) {
    const FactorLayout<Chunked> at{size.n, size.K};
    // (where sizes are compiled, what goes from point to point stays in registers)
    Array<P, Capacity<Size>::n * M> given(before, size.n * m), given_left(left, size.n * m);
    if constexpr (Size::fixed) {
        given.load(before, size.n * m);
        if constexpr (Chunked) given_left.load(left, size.n * m);
    }
    for (int t = t0; t < t1; ++t) {
        const F ft = f + Index(t - t0) * at.entries();
        const P* gt = g + Index(t - t0) * size.n;
        P* wt = w + Index(t - t0) * size.n;
        PointColumns<P, Size, M> now{{}, wt, step};
        repeat(size.n, [&](auto j) SMNN_LAMBDA {
            repeat(m, [&](auto c) SMNN_LAMBDA {
                now(c, j) = gt[c * g_step + j] - given[c * size.n + j];
                given[c * size.n + j] = splat<P>(0);
            });
        });
        repeat(size.n, [&](auto j) SMNN_LAMBDA {
            P solved[M];
            const P inverse = ft[at.row(j)];
            repeat(m, [&](auto c) SMNN_LAMBDA {
                solved[c] = now(c, j) * inverse;
                if (Size::fixed) wt[c * step + j] = now(c, j);
            });
            repeat(columns_after(size, j), [&](auto i) SMNN_LAMBDA {
                const P R = ft[at.row(j) + 1 + i];
                repeat(m, [&](auto c) SMNN_LAMBDA { now(c, j + 1 + i) -= R * solved[c]; });
            });
            repeat(columns_through(size, j), [&](auto k) SMNN_LAMBDA {
                const P N = ft[at.next(j) + k];
                repeat(m, [&](auto c) SMNN_LAMBDA { given[c * size.n + k] += N * solved[c]; });
            });
            if constexpr (Chunked) {
                repeat(size.n, [&](auto k) SMNN_LAMBDA {
                    const P L = ft[at.left(j) + k];
                    repeat(m, [&](auto c) SMNN_LAMBDA { given_left[c * size.n + k] += L * solved[c]; });
                });
            }
        });
    }
    if constexpr (Size::fixed) {
        given.save(before, size.n * m);
        if constexpr (Chunked) given_left.save(left, size.n * m);
    }
}

}  // namespace SMNN_LEVEL
}  // namespace smnn
