// Triangular solves with the factor of a lane: R^T w = g forwards, R x = z backwards. The factor's entries are packs like
// all else or, where all lanes share them, numbers.
#pragma once

#include "factor.hpp"
#include "pack.hpp"

namespace smnn {
namespace SMNN_LEVEL {

template <class P, class F>
SMNN_INLINE P entry(const F& x) {
    if constexpr (sizeof(F) == sizeof(P)) {
        return x;
    } else {
        return splat<P>(x);
    }
}

// Whether rows have weights 1/d, and so 1/d stands for 1 / R[j,j]. Those of a factor that all lanes share never have.
template <class P, class Size, class F>
constexpr bool has_weights = is_weighted<Size> && sizeof(F) == sizeof(P);

// x[t] for t = t1-1 .. t0, from z, x[t1] in `after` (n) and, chunked, x at the left separator (n). On return `after` is
// x[t0]. All of f, z and x start at point t0; x may be z.
template <class P, class Size, bool Chunked, class F = P>
SMNN_OUTLINE void substitute_back(const Size& size, int t0, int t1, const F* f, const P* z, const P* left, P* after, P* x) {
    const FactorLayout<Chunked> at{size.n, size.K};
    Array<P, Capacity<Size>::n> next_x(after, 0);
    if constexpr (Size::fixed) next_x.load(after, size.n);
    for (int t = t1 - 1; t >= t0; --t) {
        const F* ft = f + Index(t - t0) * at.entries();
        const P* zt = z + Index(t - t0) * size.n;
        P* xt = x + Index(t - t0) * size.n;
        repeat_down(size.n, [&](auto j) SMNN_LAMBDA {
            P sum = zt[j];
            repeat(columns_through(size, j), [&](auto k) SMNN_LAMBDA { sum -= entry<P>(ft[at.next(j) + k]) * next_x[k]; });
            if constexpr (Chunked) {
                repeat(size.n, [&](auto k) SMNN_LAMBDA { sum -= entry<P>(ft[at.left(j) + k]) * left[k]; });
            }
            xt[j] = sum;
        });
        repeat_down(size.n, [&](auto j) SMNN_LAMBDA {
            P sum = xt[j];
            repeat(columns_after(size, j), [&](auto i) SMNN_LAMBDA {
                sum -= entry<P>(ft[at.row(j) + 1 + i]) * next_x[j + 1 + i];
            });
            next_x[j] = sum * entry<P>(ft[at.row(j)]);
            xt[j] = next_x[j];
        });
    }
    if constexpr (Size::fixed) next_x.save(after, size.n);
}

// w[t] for t = t0 .. t1-1, from g; R^T D^-1 w = g where rows have weights 1/d. `before` (n) holds what the points before
// subtract from g[t0], on return what point t1-1 subtracts from g[t1]; `left` (n) gathers what all subtract from g at the
// left separator. w may be g.
template <class P, class Size, bool Chunked, class F = P>
SMNN_OUTLINE void substitute_forward(const Size& size, int t0, int t1, const F* f, const P* g, P* before, P* left, P* w) {
    const FactorLayout<Chunked> at{size.n, size.K};
    // (where sizes are compiled, what goes from point to point stays in registers)
    Array<P, Capacity<Size>::n> given(before, 0), given_left(left, 0);
    if constexpr (Size::fixed) {
        given.load(before, size.n);
        if constexpr (Chunked) given_left.load(left, size.n);
    }
    for (int t = t0; t < t1; ++t) {
        const F* ft = f + Index(t - t0) * at.entries();
        const P* gt = g + Index(t - t0) * size.n;
        P* wt = w + Index(t - t0) * size.n;
        Array<P, Capacity<Size>::n> x(wt, 0);
        repeat(size.n, [&](auto j) SMNN_LAMBDA {
            x[j] = gt[j] - given[j];
            given[j] = splat<P>(0);
        });
        repeat(size.n, [&](auto j) SMNN_LAMBDA {
            const P solved = x[j] * entry<P>(ft[at.row(j)]);
            if (!has_weights<P, Size, F>) x[j] = solved;
            repeat(columns_after(size, j), [&](auto i) SMNN_LAMBDA {
                x[j + 1 + i] -= entry<P>(ft[at.row(j) + 1 + i]) * solved;
            });
            repeat(columns_through(size, j), [&](auto k) SMNN_LAMBDA { given[k] += entry<P>(ft[at.next(j) + k]) * solved; });
            if constexpr (Chunked) {
                repeat(size.n, [&](auto k) SMNN_LAMBDA { given_left[k] += entry<P>(ft[at.left(j) + k]) * solved; });
            }
        });
        if constexpr (Size::fixed) x.save(wt, size.n);
    }
    if constexpr (Size::fixed) {
        given.save(before, size.n);
        if constexpr (Chunked) given_left.save(left, size.n);
    }
}

}  // namespace SMNN_LEVEL
}  // namespace smnn
