// The tape of an elimination: its rotations in their order, which are Q. What a sweep writes is read from the end.
//
// Multipliers of rows go the other way through a rotation (rotate.hpp): docs/theory/elimination.md derives
//
//     v_top = v_top' - g v_row',    v_row = v_row' + eb v_top'        (both of after)
//
// and what it leads to: from w / d at the final rows of every point to Q R^-T g; from -e z at rows that are left without
// entries, of weight e and right-hand side z, to the residual W (A y - d).
#pragma once

#include "factor.hpp"
#include "gradient.hpp"
#include "rotate.hpp"

namespace smnn {
namespace SMNN_LEVEL {

// Of a sweep whose rotations are not kept.
struct NoTape {
    template <class P>
    SMNN_INLINE void push(const P&) {}
    template <class P>
    SMNN_INLINE void put(int, const P&) {}
    template <class P>
    SMNN_INLINE void push(const Rotation<P>&) {}
    template <class P>
    SMNN_INLINE void leave(int, const P&, const P&) {}
    SMNN_INLINE void skip(int) {}
};

// Its numbers lie `stride` apart: where many lanes share memory, those of other lanes lie between.
template <class P, class Stride = Int<1>>
struct Tape {
    P* at;  // the end of what is written
    Stride stride{};

    SMNN_INLINE void push(const P& x) {
        *at = x;
        at += stride;
    }
    // Number i from here on; `skip` goes past those that are put.
    SMNN_INLINE void put(int i, const P& x) { at[i * stride] = x; }
    SMNN_INLINE void push(const Rotation<P>& rotation) {
        push(rotation.eb);
        push(rotation.g);
    }
    // A row without entries, of weight e; z: what is left of its right-hand side c.
    SMNN_INLINE void leave(int, const P& e, const P& z) { push(e * z); }
    SMNN_INLINE void skip(int count) { at += count * stride; }
    SMNN_INLINE P pop() { return *(at -= stride); }
};

// Of a sweep that adds up the squares of what is left: the minimum, one sum for each right-hand side.
template <class P>
struct SummingTape {
    P *at, *sums;  // null at: rotations are not kept

    SMNN_INLINE void push(const P& x) {
        if (at) *at++ = x;
    }
    SMNN_INLINE void put(int i, const P& x) {
        if (at) at[i] = x;
    }
    SMNN_INLINE void push(const Rotation<P>& rotation) {
        push(rotation.eb);
        push(rotation.g);
    }
    SMNN_INLINE void leave(int c, const P& e, const P& z) {
        push(e * z);
        sums[c] += e * z * z;
    }
    SMNN_INLINE void skip(int count) {
        if (at) at += count;
    }
};

// Multipliers of rows: Z (rows, columns), one column for each set of them. G (rows, rows), the lower triangle row by row, if it
// is wanted: products of the rows with one another, which take each rotation from both sides (covariance.hpp).
template <class P>
struct RowCovariances {
    int columns;
    P *Z, *G;

    SMNN_INLINE static constexpr int triangle(int rows) { return rows * (rows + 1) / 2; }
    SMNN_INLINE P* row(int a) const { return Z + a * columns; }
    SMNN_INLINE P& product(int a, int b) const { return a < b ? G[triangle(b) + a] : G[triangle(a) + b]; }

    SMNN_INLINE void clear(int a, int rows) const {
        for (int c = 0; c < columns; ++c) row(a)[c] = splat<P>(0);
        for (int b = 0; G && b < rows; ++b) product(a, b) = splat<P>(0);
    }

    // The rotation of rows a < b, of so many rows.
    SMNN_INLINE void rotate_back(int a, int b, int rows, const P& g, const P& eb) const {
        const auto rotate = [&](P& top, P& x) SMNN_LAMBDA {
            const P kept = top;
            top -= g * x;
            x += eb * kept;
        };
        P *const Z_a = row(a), *const Z_b = row(b);
        for (int c = 0; c < columns; ++c) rotate(Z_a[c], Z_b[c]);
        if (!G) return;
        P *const G_a = G + triangle(a), *const G_b = G + triangle(b);
        for (int k = 0; k < a; ++k) rotate(G_a[k], G_b[k]);
        for (int k = a + 1; k < b; ++k) rotate(G[triangle(k) + a], G_b[k]);
        for (int k = b + 1; k < rows; ++k) rotate(G[triangle(k) + a], G[triangle(k) + b]);
        const P aa = G_a[a], ab = G_b[a], bb = G_b[b];
        G_a[a] = aa - g * (ab + ab - g * bb);
        G_b[a] = ab - g * bb + eb * (aa - g * ab);
        G_b[b] = bb + eb * (ab + ab + eb * aa);
    }

    SMNN_INLINE void swap_rows(int a, int b, int rows) const {
        for (int c = 0; c < columns; ++c) swap_lanes(true, row(a)[c], row(b)[c]);
        for (int k = 0; G && k < rows; ++k) {
            if (k != a && k != b) swap_lanes(true, product(a, k), product(b, k));
        }
        if (G) swap_lanes(true, product(a, a), product(b, b));
    }
};

// Numbers on the tape. Of a point: the step into it, its equations, what is left of their right-hand sides, and (chunked)
// whether they reach the left separator. Of an initial row, which may be at any point (see initial.hpp): itself.
template <bool Chunked>
struct TapeLayout {
    int n, absorbed;  // rows that are absorbed into the triangle of a point
    bool takes;       // whether the scheme's rows become the triangle
    int m = 1;        // right-hand sides

    SMNN_INLINE constexpr int point() const {
        return n * (n + 1) + (takes ? n : 0) + (Chunked ? 2 : 1) * 2 * n * absorbed + absorbed * m + Chunked;
    }
    SMNN_INLINE constexpr int initial_row() const { return (Chunked ? 2 : 1) * 2 * n + m; }
};

// The number of rows from `first_absorbed` on.
template <class Size>
SMNN_INLINE auto absorbed_rows(const Size& size) {
    if constexpr (Size::fixed) {
        constexpr int first = decltype(Size::extra)::value == 0 ? decltype(Size::n)::value : 0;
        return Int<decltype(Size::rows)::value - first>();
    } else {
        return size.rows - first_absorbed(size);
    }
}

// f(N-1, M-1), f(N-1, M-2), ..
template <class N, class M, class F>
SMNN_INLINE void repeat_down(N count, M inner, F f) {
    repeat_down(count, [&](auto j) SMNN_LAMBDA { repeat_down(inner, [&](auto i) SMNN_LAMBDA { f(j, i); }); });
}

// Products of the rows of a block with vectors, as multipliers divided by weights: `equation` (points, Q), `step`
// (points, n + extra), `initial` (points, V R_init), each `.._step` apart from vector to vector.
template <class P>
struct RowProducts {
    P *equation, *step, *initial;
    Index equation_step, step_step, initial_step;
};

// The way back of one lane through blocks of points.
//
// Fresh: with two sets of multipliers, Q R^-T g and those of the residual, which has no final rows; they are set. Otherwise
// with Q R^-T g alone, which is added to what is there, times `factor`.
template <class P, class Size, bool Chunked, bool Fresh, class TapeOf = Tape<P>>
struct Unwinding {
    static constexpr int M = Fresh ? 2 : 1;  // sets of multipliers
    using Cap = Capacity<Size>;
    template <int N>
    using Piece = Array<P, N>;

    const Size& size;
    TapeOf tape;
    // multipliers (M, ..): of the triangle of a point, of that of the boundary (chunked), of rows below the triangle
    Piece<Cap::n * M> top;
    Piece<Chunked ? Cap::n * M : 0> boundary;
    Piece<Cap::rows * M> below;

    SMNN_INLINE static constexpr int carried_entries(int n) { return (Chunked ? 2 : 1) * M * n; }
    SMNN_INLINE static constexpr int workspace(int rows) { return M * rows; }

    // end: behind the last number of the tape (see TapeLayout); carried (carried_entries(n)): triangle (M, n), then boundary
    // (M, n), between blocks; workspace (workspace(rows))
    SMNN_INLINE Unwinding(const Size& size_, TapeOf end, P* carried, P* workspace)
        : size(size_),
          tape(end),
          top(carried, M * size_.n),
          boundary(carried, Chunked ? M * size_.n : 0),
          below(workspace, M * size_.rows) {}

    // memory (carried_entries(n)), which may be `carried`
    SMNN_INLINE void load(const P* memory) {
        if constexpr (Size::fixed) {
            top.load(memory, 0);
            if constexpr (Chunked) boundary.load(memory + M * size.n, 0);
        }
    }
    // memory (carried_entries(n))
    SMNN_INLINE void save(P* memory) const {
        if constexpr (Size::fixed) {
            top.save(memory, 0);
            if constexpr (Chunked) boundary.save(memory + M * size.n, 0);
        }
    }

    // The last rotation, between row j of `upper` and row i below.
    template <class Upper, class J, class I>
    SMNN_INLINE void rotate_back(Upper& upper, J j, I i) {
        const P g = tape.pop(), eb = tape.pop();
        repeat(Int<M>(), [&](auto c) SMNN_LAMBDA {
            P &v_top = upper[c * size.n + j], &v_row = below[c * size.rows + i];
            const P kept = v_top;
            v_top -= g * v_row;
            v_row += eb * kept;
        });
    }
    // Multipliers of row i that is left.
    template <class I>
    SMNN_INLINE void leave(I i) {
        const P rest = tape.pop();
        below[i] = splat<P>(0);
        if constexpr (Fresh) below[size.rows + i] = -rest;
    }

    // Equations of a point; its triangle becomes the scheme's rows, where it was made of these.
    SMNN_INLINE void unwind_equations() {
        const auto first = first_absorbed(size);
        const auto count = absorbed_rows(size);
        repeat_down(count, [&](auto i) SMNN_LAMBDA { leave(plus(first, i)); });
        if constexpr (Chunked) {
            if (any(tape.pop() != splat<P>(0))) {
                repeat_down(size.n, count, [&](auto j, auto i) SMNN_LAMBDA { rotate_back(boundary, j, plus(first, i)); });
            } else {
                tape.skip(-2 * size.n * count);
            }
        }
        repeat_down(size.n, count, [&](auto j, auto i) SMNN_LAMBDA { rotate_back(top, j, plus(first, i)); });
        if (first == 0) return;
        repeat_down(size.n, [&](auto j) SMNN_LAMBDA {
            const P ea = tape.pop();
            repeat(Int<M>(), [&](auto c) SMNN_LAMBDA { below[c * size.rows + j] = ea * top[c * size.n + j]; });
        });
    }

    // The step into a point, from the final rows f (FactorLayout::entries()) of the point before, and w (n) of
    // R^T D^-1 w = g there.
    template <class F>
    SMNN_INLINE void unwind_step(F f, const P* w) {
        const FactorLayout<Chunked> at{size.n, size.K};
        repeat(size.n, [&](auto j) SMNN_LAMBDA {
            top[j] = w[j] * f[at.row(j)];
            if constexpr (Fresh) top[size.n + j] = splat<P>(0);
        });
        repeat_down(size.n, [&](auto round) SMNN_LAMBDA {
            repeat_down(next(columns_after(size, round)), [&](auto i) SMNN_LAMBDA { rotate_back(top, plus(round, i), i); });
        });
    }
};

// 1 / w, zero where w is.
template <class P>
SMNN_INLINE P inverse_weight(const P& w) {
    const auto none = w == splat<P>(0);
    return select(none, splat<P>(0), reciprocal(select(none, splat<P>(1), w)));
}

// An initial row of column `column`; carried (Unwinding::carried_entries(n)): multipliers; row (M): those of the row.
template <class P, bool Chunked, bool Fresh, class TapeOf>
SMNN_OUTLINE TapeOf unwind_initial_row(int n, int column, TapeOf tape, P* carried, P* row) {
    constexpr int M = Fresh ? 2 : 1;
    const P rest = tape.pop();
    row[0] = splat<P>(0);
    if constexpr (Fresh) row[1] = -rest;
    const auto rotate_back = [&](P* upper) SMNN_LAMBDA {
        const P g = tape.pop(), eb = tape.pop();
        for (int c = 0; c < M; ++c) {
            const P kept = upper[c * n];
            upper[c * n] -= g * row[c];
            row[c] += eb * kept;
        }
    };
    for (int j = n - 1; Chunked && j >= 0; --j) rotate_back(carried + M * n + j);
    for (int j = n - 1; j >= column; --j) rotate_back(carried + j);
    tape.skip(-2 * column);
    return tape;
}

// Point t. f (FactorLayout::entries()) and w (n): of the point before, not looked at where t is 0; carried
// (Unwinding::carried_entries(n)): used on the way; to: of point t, which each number goes to by put(x, v).
template <bool Chunked, class Way, class Rows, class F, class P, class Put>
SMNN_INLINE void unwind_point(
    Way& way, const Rows& rows, int t, F f, const P* w, P* carried, const RowProducts<P>& to, Put put
) {
    constexpr Int<Way::M> M{};
    const auto& size = way.size;
    const int initial_orders = rows.n_initial_orders();
    const bool has_initial = rows.has_initial(t);
    // the row of an initial value: that of order r of variable v, whose multipliers are of(c)
    const auto put_initial = [&](int v, int r, auto of) SMNN_LAMBDA {
        const P inverse = inverse_weight(rows.w_initial(t, v, r));
        repeat(M, [&](auto c) SMNN_LAMBDA { put(to.initial[c * to.initial_step + v * initial_orders + r], inverse * of(c)); });
    };
    if (has_initial && (Chunked || t > 0)) {
        way.save(carried);
        for (int e = size.V * initial_orders - 1; e >= 0; --e) {
            const int v = e / initial_orders, r = e % initial_orders;
            P row[Way::M];
            way.tape = unwind_initial_row<P, Chunked, (Way::M > 1)>(size.n, v * size.K + r, way.tape, carried, row);
            put_initial(v, r, [&](int c) SMNN_LAMBDA { return row[c]; });
        }
        way.load(carried);
    }
    way.unwind_equations();
    repeat(size.Q, [&](auto q) SMNN_LAMBDA {
        const P inverse = inverse_weight(rows.w_equation(t, q));
        const int row = size.n + size.extra + q;
        repeat(M, [&](auto c) SMNN_LAMBDA {
            put(to.equation[c * to.equation_step + q], inverse * way.below[c * size.rows + row]);
        });
    });
    if (t > 0) way.unwind_step(f, w);
    const P inverse = t > 0 || Chunked ? inverse_weight(rows.w_smoothness(t)) : splat<P>(0);
    repeat(size.n, [&](auto j) SMNN_LAMBDA {
        const int at = size.extra == 0 ? int(j) : int(j) + int(j) / size.K * size.K;
        repeat(M, [&](auto c) SMNN_LAMBDA {
            P* const step = to.step + c * to.step_step + at;
            put(step[0], inverse * way.below[c * size.rows + j]);
            if (size.extra > 0) put(step[size.K], inverse * way.below[c * size.rows + size.n + j]);
        });
    });
    if (!Chunked && t == 0 && has_initial) {  // (they are among the rows that the sweep started with)
        repeat(size.n, [&](auto j) SMNN_LAMBDA {
            const int r = order_of(size, j);
            if (r < initial_orders) {
                put_initial(j / size.K, r, [&](int c) SMNN_LAMBDA { return way.below[c * size.rows + j]; });
            }
        });
    }
}

// The points t1-1 .. t0. `end`: behind the tape of point t1-1 (see TapeLayout). f (points, FactorLayout::entries()) and w
// (points, n): of point t0-1 on; to: of point t0 on. carried (Unwinding::carried_entries(n)): multipliers between blocks;
// workspace (Unwinding::workspace(rows)).
template <class P, class Size, bool Chunked, bool Fresh, class Rows>
SMNN_OUTLINE void unwind(
    const Size& size, const Rows& rows, int t0, int t1, P* end, const P* f, const P* w, const P& factor,
    P* carried, P* workspace, const RowProducts<P>& to
) {
    Unwinding<P, Size, Chunked, Fresh> way(size, Tape<P>{end}, carried, workspace);
    way.load(carried);
    const int entries = FactorLayout<Chunked>{size.n, size.K}.entries(), initial = size.V * rows.n_initial_orders();
    const auto put = [&](P& x, const P& v) SMNN_LAMBDA {
        if (Fresh) {
            x = v;
        } else {
            x += factor * v;
        }
    };
    for (int t = t1 - 1; t >= t0; --t) {
        const Index i = t - t0;
        const RowProducts<P> at{
            to.equation + i * size.Q, to.step + i * step_rows(size), to.initial + i * initial,
            to.equation_step, to.step_step, to.initial_step,
        };
        unwind_point<Chunked>(way, rows, t, f + i * entries, w + i * size.n, carried, at, put);
    }
    way.save(carried);
}

}  // namespace SMNN_LEVEL
}  // namespace smnn
