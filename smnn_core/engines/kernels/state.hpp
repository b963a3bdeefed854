// The working memory of a sweep: the state that it carries from point to point, and rows below the triangle.
//
// If sizes are compiled, and a thread or pack works alone, all of it are numbers of their own, as far as possible in
// registers. Else they lie in memory, the state where it is carried.
#pragma once

#include "factor.hpp"
#include "team.hpp"

namespace smnn {
namespace SMNN_LEVEL {

template <class P, class Size, bool Chunked, class Team>
struct State {
    using Cap = Capacity<Size>;
    template <int N>
    using Piece = Array<P, N>;
    static constexpr int SQUARE = Chunked ? Cap::n * Cap::n : Cap::n;

    const Size& size;
    const Team team;
    // the state, as in CarriedLayout, and 1 / pivots
    Piece<Cap::n * Cap::n> own;
    Piece<Cap::n> z, norm2;
    Piece<SQUARE> spike, boundary;
    Piece<Cap::n> boundary_z, boundary_norm2;
    Piece<Cap::n> inverse;
    // w s^o of the step, and the norms of the columns at the next point
    Piece<Cap::K> p;
    Piece<Cap::n> norm2_next;
    // the triangle's columns at the next point; rows below the triangle: their columns at the point, at the next one, at the
    // left separator, right-hand sides, weights in two factors (see Rotation)
    Piece<Cap::n * Cap::n> top_next, x_own;
    Piece<Cap::n * Cap::rows> x_next;
    Piece<Chunked ? Cap::n * Cap::rows : Cap::n> x_spike;
    Piece<Cap::rows> x_z, x_weight, x_factor;
    P* const room;  // of teams, for rotations

    // carried (CarriedLayout::entries()), workspace (workspace(K, n, rows, m)): used where sizes are known at run time
    SMNN_INLINE State(const Size& size_, P* carried, P* workspace, Team team_)
        : size(size_),
          team(team_),
          own(carried, size_.n * size_.n),
          z(carried, size_.n * size_.m),
          norm2(carried, size_.n),
          spike(carried, Chunked ? size_.n * size_.n : 0),
          boundary(carried, Chunked ? size_.n * size_.n : 0),
          boundary_z(carried, Chunked ? size_.n * size_.m : 0),
          boundary_norm2(carried, Chunked ? size_.n : 0),
          inverse(workspace, size_.n),
          p(workspace, size_.K),
          norm2_next(workspace, size_.n),
          top_next(workspace, size_.n * size_.n),
          x_own(workspace, size_.n * size_.n),
          x_next(workspace, size_.n * size_.rows),
          x_spike(workspace, Chunked ? size_.n * size_.rows : 0),
          x_z(workspace, size_.rows * size_.m),
          x_weight(workspace, size_.rows),
          x_factor(workspace, size_.rows),
          room(workspace) {}

    // The workspace in packs, where sizes are known at run time.
    SMNN_INLINE static constexpr int workspace(int K, int n, int rows, int m) {
        return K + 2 * n + 2 * n * n + rows * ((Chunked ? 2 : 1) * n + 5 + m);
    }

    // memory (CarriedLayout::entries()): where the state is carried, which may be `carried`
    SMNN_INLINE void load(const P* memory) {
        if constexpr (Size::fixed) each_carried([&](P& x, int e) SMNN_LAMBDA { x = memory[e]; });
        team.share(Int<0>(), size.n, [&](auto j) SMNN_LAMBDA { inverse[j] = reciprocal(own[j * size.n + j]); });
        team.sync();
    }
    // memory (CarriedLayout::entries())
    SMNN_INLINE void save(P* memory) {
        if constexpr (Size::fixed) each_carried([&](P& x, int e) SMNN_LAMBDA { memory[e] = x; });
    }

   private:
    // f(x, e) for the numbers of the state, with their places in memory; of triangles, those that are not zero
    template <class F>
    SMNN_INLINE void each_carried(F f) {
        const CarriedLayout<Chunked> at{size.n, size.m};
        repeat(size.n, [&](auto j) SMNN_LAMBDA {
            repeat_from(j, size.n, [&](auto k) SMNN_LAMBDA {
                f(own[j * size.n + k], at.own() + j * size.n + k);
                if constexpr (Chunked) f(boundary[j * size.n + k], at.boundary() + j * size.n + k);
            });
            f(z[j], at.z() + j);
            f(norm2[j], at.norm2() + j);
            if constexpr (Chunked) {
                repeat(size.n, [&](auto k) SMNN_LAMBDA { f(spike[j * size.n + k], at.spike() + j * size.n + k); });
                f(boundary_z[j], at.boundary_z() + j);
                f(boundary_norm2[j], at.boundary_norm2() + j);
            }
        });
    }
};

}  // namespace SMNN_LEVEL
}  // namespace smnn
