// The instruction sets that were compiled in, and the one to use.
#pragma once

#include "job.hpp"

namespace smnn {

// The best one that this processor has, or the one that the environment variable SMNN_SIMD names.
// Throws std::runtime_error where that one is unknown or the processor lacks it.
const Isa& isa();

// Names of those that this processor can run, best first, separated by commas.
const char* usable_isas();

}  // namespace smnn
