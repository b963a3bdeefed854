// Numbers that know their errors: Monte Carlo arithmetic, which says of pivots whether they are nothing but rounding.
//
// Rows may differ by any factor, so that no norm of a column says how large the error of a pivot is. The same elimination
// runs several times side by side, with random relative errors in all products that are much larger than those of rounding,
// and small. A pivot that is nothing but error becomes another one, about PERTURBATION / eps times larger. Any other keeps its
// leading digits, if the rows determine it at all.
// Source: Parker, Monte Carlo Arithmetic, UCLA CSD-970002, 1997.
//
// This takes several times as long as the elimination that solves. It is asked only where that met a pivot that is small
// beside the norm of its column: see `find_undetermined`.
#pragma once

#include "sweep.hpp"

namespace smnn {
namespace SMNN_LEVEL {

constexpr double PERTURBATION = 1e-14;
// A pivot that changes by more than this part of itself is an error, and one below the second number is an empty row's.
constexpr double LARGEST_CHANGE = 0.5, EMPTY_PIVOT = 1e-170;

// One number in several runs; the first is that of numbers as they are.
template <class P>
struct Noisy {
    static constexpr int RUNS = 4;
    P run[RUNS];

    SMNN_INLINE static Noisy splat(const P& x) {
        return each([&] { return x; });
    }
    SMNN_INLINE static Noisy splat(typename Lanes<P>::Scalar x) { return splat(P::splat(x)); }
    // Starts the random numbers again, of the calling thread.
    static void restart() { state() = 1; }

    // f(runs of each ...)
    template <class F, class... Others>
    SMNN_INLINE static Noisy each(F f, const Others&... others) {
        Noisy result;
        for (int i = 0; i < RUNS; ++i) result.run[i] = f(others.run[i]...);
        return result;
    }
    SMNN_INLINE friend Noisy operator+(const Noisy& a, const Noisy& b) {
        return each([](const P& x, const P& y) { return x + y; }, a, b);
    }
    SMNN_INLINE friend Noisy operator-(const Noisy& a, const Noisy& b) {
        return each([](const P& x, const P& y) { return x - y; }, a, b);
    }
    SMNN_INLINE friend Noisy operator*(const Noisy& a, const Noisy& b) {
        Noisy product = each([](const P& x, const P& y) { return x * y; }, a, b);
        for (int i = 1; i < RUNS; ++i) product.run[i] *= P::splat(1 + PERTURBATION * uniform());
        return product;
    }
    SMNN_INLINE Noisy& operator+=(const Noisy& b) { return *this = *this + b; }
    SMNN_INLINE Noisy& operator-=(const Noisy& b) { return *this = *this - b; }
    SMNN_INLINE Noisy& operator*=(const Noisy& b) { return *this = *this * b; }
    SMNN_INLINE friend auto operator<(const Noisy& a, const Noisy& b) { return a.run[0] < b.run[0]; }

   private:
    static unsigned long long& state() {
        thread_local unsigned long long one = 1;
        return one;
    }
    // Between -1 and 1: Knuth, The Art of Computer Programming, volume 2, section 3.3.4.
    SMNN_INLINE static double uniform() {
        unsigned long long& x = state();
        x = x * 6364136223846793005ULL + 1442695040888963407ULL;
        return double(static_cast<long long>(x)) * 0x1p-63;
    }
};
template <class P>
struct Lanes<Noisy<P>> : Lanes<P> {};

template <class P>
SMNN_INLINE Noisy<P> rounded(const Noisy<P>& x) {
    return Noisy<P>::each([](const P& each) { return rounded(each); }, x);
}
template <class P>
SMNN_INLINE Noisy<P> reciprocal(const Noisy<P>& x) {
    return Noisy<P>::each([](const P& each) { return reciprocal(each); }, x);
}
// True where a pivot, which is a square, is another one in another run, whatever the norm of its column.
template <class P>
SMNN_INLINE auto is_nothing(const Noisy<P>& pivot, const Noisy<P>&) {
    const P d = root(pivot.run[0]);
    auto found = pivot.run[0] <= P::splat(EMPTY_PIVOT);
    for (int i = 1; i < Noisy<P>::RUNS; ++i) {
        found = found | (P::splat(LARGEST_CHANGE) * d < magnitude(root(pivot.run[i]) - d));
    }
    return found;
}

// The rows of a block in such numbers, without right-hand sides.
template <class Rows, class P>
struct NoisyRows {
    const Rows& rows;
    using N = Noisy<P>;
    SMNN_INLINE N c(int t, int q, int j) const { return N::splat(rows.c(t, q, j)); }
    SMNN_INLINE N w_equation(int t, int q) const { return N::splat(rows.w_equation(t, q)); }
    SMNN_INLINE N s(int t) const { return N::splat(rows.s(t)); }
    SMNN_INLINE N w_smoothness(int t) const { return N::splat(rows.w_smoothness(t)); }
    SMNN_INLINE N b(int, int, int) const { return N::splat(0); }
    SMNN_INLINE bool has_smoothness_rhs() const { return false; }
    SMNN_INLINE N smoothness_rhs(int, int, int) const { return N::splat(0); }
    SMNN_INLINE bool has_initial(int t) const { return rows.has_initial(t); }
    SMNN_INLINE int n_initial_orders() const { return rows.n_initial_orders(); }
    SMNN_INLINE N u(int, int, int, int) const { return N::splat(0); }
    SMNN_INLINE N w_initial(int t, int v, int r) const { return N::splat(rows.w_initial(t, v, r)); }
    template <class Mask>
    SMNN_INLINE void mark_undetermined(int t, const Mask& mask) const {
        rows.mark_undetermined(t, mask);
    }
};

}  // namespace SMNN_LEVEL
}  // namespace smnn
