#include "isa_dispatch.hpp"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace smnn {

#if defined(SMNN_X86)
namespace avx512 {
extern const Isa isa;
}
namespace avx2 {
extern const Isa isa;
}
#endif
namespace baseline {
extern const Isa isa;
}

namespace {

struct Candidate {
    const Isa* isa;
    bool usable;
};

// best first
std::vector<Candidate> candidates() {
    std::vector<Candidate> all;
#if defined(SMNN_X86)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
    all.push_back({&avx512::isa, avx512});
    all.push_back({&avx2::isa, avx2});
#endif
    all.push_back({&baseline::isa, true});
    return all;
}

const Isa& choose() {
    const char* wanted = std::getenv("SMNN_SIMD");
    for (const Candidate& c : candidates()) {
        if (!wanted || !*wanted) {
            if (c.usable) return *c.isa;
        } else if (std::strcmp(wanted, c.isa->name) == 0) {
            if (c.usable) return *c.isa;
            throw std::runtime_error(
                std::string("SMNN_SIMD=") + wanted + ": this processor does not have these instructions; usable are " +
                usable_isas() + "."
            );
        }
    }
    throw std::runtime_error(
        std::string("SMNN_SIMD=") + wanted + " is unknown; usable on this processor are " + usable_isas() + "."
    );
}

}  // namespace

const Isa& isa() {
    static const Isa& chosen = choose();
    return chosen;
}

const char* usable_isas() {
    static const std::string names = [] {
        std::string result;
        for (const Candidate& c : candidates()) {
            if (c.usable) result += (result.empty() ? "" : ", ") + std::string(c.isa->name);
        }
        return result;
    }();
    return names.c_str();
}

}  // namespace smnn
