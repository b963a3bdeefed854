// The kernels of one instruction set, in a namespace of its own: compiled once for each, and for each group of sizes.
#if defined(SMNN_GROUP_WINDOWS)
#include "windows.hpp"
#else

#include "covariance.hpp"
#include "panels.hpp"
#include "run.hpp"

#ifndef SMNN_VECTOR_BYTES
#define SMNN_VECTOR_BYTES 16
#endif
#ifndef SMNN_VECTORS
#define SMNN_VECTORS 2
#endif

namespace smnn {
namespace SMNN_LEVEL {

template <int U>
using Native = Pack<double, SMNN_VECTOR_BYTES / int(sizeof(double)), U>;

// P: the packs of undivided time. Chunks have more columns, and too few registers for several vectors in flight.
template <class P, class Size>
constexpr Kernels kernels() {
    using One = Native<1>;
    return {Lanes<P>::count,     Lanes<One>::count,  Size::fixed,        sizes<P, One, Size>,        run<P, One, Size>,
            separator_entries,     pivot_test_scratch<One>, pivot_test<One>, reduce_scratch<One>, reduce_system<One>,
            reduce_system_normal<One>};
}

// The sizes that are known at compile time: single equations of the usual orders, and pairs of the first order. Larger ones
// would gain too, but take the compiler too long. Small sizes keep several vectors in flight, large ones would run out of
// registers; and packs of more lanes than this are slower. Each group of sizes is compiled by itself.
constexpr int MAX_LANES = 16;
using One = Native<1>;
using Several = Native<Lanes<One>::count * SMNN_VECTORS <= MAX_LANES ? SMNN_VECTORS : 1>;

// The kernels of a group, in `found` where the sizes are among them.
bool find_small(int V, int K, int Q, Kernels& found);
bool find_large(int V, int K, int Q, Kernels& found);
MomentsKernels find_moments(int V, int K, int Q, bool by_columns);

template <int V_, int K_, int Q_, class P>
bool is(int V, int K, int Q, Kernels& found) {
    if (V != V_ || K != K_ || Q != Q_) return false;
    found = kernels<P, Fixed<V_, K_, Q_>>();
    return true;
}

#if defined(SMNN_GROUP_SMALL)

bool find_small(int V, int K, int Q, Kernels& found) {
#ifndef SMNN_FEW_SIZES
    if (is<1, 2, 1, Several>(V, K, Q, found)) return true;
#endif
    return is<1, 3, 1, Several>(V, K, Q, found);
}

#elif defined(SMNN_GROUP_LARGE)

bool find_large(int V, int K, int Q, Kernels& found) {
#ifdef SMNN_FEW_SIZES
    return (void)V, (void)K, (void)Q, (void)found, false;
#else
    return is<1, 4, 1, One>(V, K, Q, found) || is<1, 5, 1, One>(V, K, Q, found) || is<2, 2, 2, One>(V, K, Q, found);
#endif
}

#elif defined(SMNN_GROUP_COVARIANCES)

template <class P, class Size>
MomentsKernels moments() {
    return {{Lanes<P>::count, Lanes<P>::count, false, sizes_of_moments<P, Size>, run_moments<P, Size>, separator_entries,
             pivot_test_scratch<One>, pivot_test<One>, reduce_scratch<P>, reduce_moments<P>, nullptr},
            item_entries, find_items};
}

MomentsKernels find_moments(int V, int K, int Q, bool by_columns) {
    return V == 1 && K == 3 && Q == 1 && !by_columns ? moments<One, Fixed<1, 3, 1>>() : moments<One, Sized>();
}

#else

Kernels find(int V, int K, int Q, bool scheme_is_upper, bool by_columns) {
    Kernels found;
    if (scheme_is_upper && !by_columns && (find_small(V, K, Q, found) || find_large(V, K, Q, found))) return found;
    return kernels<One, Sized>();
}

namespace windows {
extern const WindowKernels kernels;
}
extern const Isa isa;
#define SMNN_QUOTED(x) #x
#define SMNN_NAME(x) SMNN_QUOTED(x)
const Isa isa{SMNN_NAME(SMNN_LEVEL), find, find_moments, panels::kernels, windows::kernels};

#endif

}  // namespace SMNN_LEVEL
}  // namespace smnn

#endif
