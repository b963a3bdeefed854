// The pieces of a scratch memory, one behind the other.
//
// With the address sanitizer (`make sanitize`) a gap lies behind each that nothing may touch, so that it sees a kernel leave one.
#pragma once

#include <cstddef>

#include "../kernels/base.hpp"

#if defined(SMNN_CHECKED)
extern "C" void __asan_poison_memory_region(const volatile void*, size_t);
extern "C" void __asan_unpoison_memory_region(const volatile void*, size_t);
#endif

namespace smnn {
namespace SMNN_LEVEL {

// Bytes that gaps take at most, of the scratch memory of a run, and the packs of one, behind each piece.
#if defined(SMNN_CHECKED)
constexpr size_t GAPS = 64 * 64;
constexpr int GAP = 1;
#else
constexpr size_t GAPS = 0;
constexpr int GAP = 0;
#endif

template <class P>
SMNN_INLINE P* take_from(P*& memory, Index packs) {
    P* const piece = memory;
    memory += packs;
#if defined(SMNN_CHECKED)
    __asan_unpoison_memory_region(piece, size_t(packs) * sizeof(P));
    __asan_poison_memory_region(memory, sizeof(P));
    ++memory;
#endif
    return piece;
}

}  // namespace SMNN_LEVEL
}  // namespace smnn
