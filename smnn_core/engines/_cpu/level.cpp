// The kernels of one instruction set: compiled once for each, into a namespace of its own.
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
            shared_sizes<One>, record_shared<One>, pivot_test_scratch<One>, pivot_test<One>, reduce_system<One>, reduce_system_normal<One>};
}

// The sizes that are known at compile time: single equations of the usual orders, and pairs of the first order. Larger ones
// would gain too, but take the compiler too long. Small sizes keep several vectors in flight, large ones would run out of
// registers; and packs of more lanes than this are slower.
constexpr int MAX_LANES = 16;

Kernels find(int V, int K, int Q, bool scheme_is_upper, bool by_columns) {
    using One = Native<1>;
    using Several = Native<Lanes<One>::count * SMNN_VECTORS <= MAX_LANES ? SMNN_VECTORS : 1>;
    const auto is = [&](int v, int k, int q) { return V == v && K == k && Q == q && scheme_is_upper && !by_columns; };
    if (is(1, 3, 1)) return kernels<Several, Fixed<1, 3, 1>>();
#ifndef SMNN_FEW_SIZES
    if (is(1, 2, 1)) return kernels<Several, Fixed<1, 2, 1>>();
    if (is(1, 4, 1)) return kernels<One, Fixed<1, 4, 1>>();
    if (is(1, 5, 1)) return kernels<One, Fixed<1, 5, 1>>();
    if (is(2, 2, 2)) return kernels<One, Fixed<2, 2, 2>>();
#endif
    return scheme_is_upper ? kernels<One, SizedForRotations>() : kernels<One, Sized>();
}

extern const Level level;
const Level level{SMNN_LEVEL_NAME, find};

}  // namespace SMNN_LEVEL
}  // namespace smnn
