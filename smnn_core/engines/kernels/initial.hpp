// Initial rows: `w y[t, v, r] = w u[t, v, r]`, any number of them at any point.
//
// They go into the state in memory, which may have been in registers, by code for every size: as a rule there are some at the
// first point alone, where those of an undivided lane are among the rows that it starts with (see sweep.hpp).
#pragma once

#include "state.hpp"
#include "tape.hpp"

namespace smnn {
namespace SMNN_LEVEL {

// One initial row `w y[column] = rhs` into the state in memory, carried (CarriedLayout::entries()); rhs (m) and row (2 n) are
// overwritten.
template <class P, bool Chunked, bool Rhs, class Team, class Tape>
SMNN_OUTLINE Tape absorb_initial_row(
    int n, int m, int column, P w, P* rhs, P* carried, P* row, const Team& team, Tape tape
) {
    const CarriedLayout<Chunked> at{n, m};
    P weight = splat<P>(1), factor = weight;
    team.share(0, 2 * n, [&](int j) { row[j] = j == column ? w : splat<P>(0); });
    team.sync();
    // x (n) from column `first` on into a triangle, with `columns` more columns
    const auto absorb = [&](P* x, int first, P* triangle, P* more, P* x_more, int columns, P* z) {
        for (int j = first; j < n; ++j) {
            P* const top = triangle + j * n;
            P pivot = top[j], inverse = reciprocal(pivot);
            const Rotation<P> rotation(x[j], pivot, inverse, weight, factor);
            tape.push(rotation);
            team.share(j + 1, n, [&](int k) { rotation(top[k], x[k]); });
            team.share(0, columns, [&](int k) { rotation(more[j * n + k], x_more[k]); });
            for (int c = 0; Rhs && team.leads() && c < m; ++c) rotation(z[j * m + c], rhs[c]);
            team.sync();
            if (team.leads()) top[j] = pivot;
        }
    };
    tape.skip(2 * column);
    absorb(row, column, carried + at.own(), carried + at.spike(), row + n, Chunked ? n : 0, carried + at.z());
    if constexpr (Chunked) absorb(row + n, 0, carried + at.boundary(), nullptr, nullptr, 0, carried + at.boundary_z());
    for (int c = 0; Rhs && c < m; ++c) tape.leave(c, weight * factor, rhs[c]);
    if (team.leads()) carried[at.norm2() + column] += w * w;
    team.sync();
    return tape;
}

// The initial rows of point t. carried (CarriedLayout::entries()): the memory of the state; workspace (2 n + m).
template <bool Rhs, class P, class Size, bool Chunked, class Team, class Rows, class Tape = NoTape>
SMNN_INLINE void absorb_initial_rows(
    State<P, Size, Chunked, Team>& state, const Rows& rows, int t, P* carried, P* workspace, Tape&& tape = {}
) {
    const Size& size = state.size;
    P* const rhs = workspace + 2 * size.n;
    state.save(carried);
    for (int v = 0; v < size.V; ++v) {
        for (int r = 0; r < rows.n_initial_orders(); ++r) {
            const P w = rows.w_initial(t, v, r);
            for (int c = 0; Rhs && c < size.m; ++c) rhs[c] = w * rows.u(t, v, r, c);
            tape = absorb_initial_row<P, Chunked, Rhs>(
                size.n, size.m, v * size.K + r, w, rhs, carried, workspace, state.team, tape
            );
        }
    }
    state.load(carried);
}

}  // namespace SMNN_LEVEL
}  // namespace smnn
