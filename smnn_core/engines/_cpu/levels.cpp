#include "levels.hpp"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

namespace smnn {

#if defined(SMNN_X86)
namespace avx512 {
extern const Level level;
}
namespace avx2 {
extern const Level level;
}
#endif
namespace baseline {
extern const Level level;
}

namespace {

struct Candidate {
    const Level* level;
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
    all.push_back({&avx512::level, avx512});
    all.push_back({&avx2::level, avx2});
#endif
    all.push_back({&baseline::level, true});
    return all;
}

const Level& choose() {
    const char* wanted = std::getenv("SMNN_SIMD");
    for (const Candidate& c : candidates()) {
        if (!wanted || !*wanted) {
            if (c.usable) return *c.level;
        } else if (std::strcmp(wanted, c.level->name) == 0) {
            if (c.usable) return *c.level;
            throw std::runtime_error(
                std::string("SMNN_SIMD=") + wanted + ": this processor does not have these instructions; usable are " +
                usable_levels() + "."
            );
        }
    }
    throw std::runtime_error(
        std::string("SMNN_SIMD=") + wanted + " is unknown; usable on this processor are " + usable_levels() + "."
    );
}

}  // namespace

const Level& level() {
    static const Level& chosen = choose();
    return chosen;
}

const char* usable_levels() {
    static const std::string names = [] {
        std::string result;
        for (const Candidate& c : candidates()) {
            if (c.usable) result += (result.empty() ? "" : ", ") + std::string(c.level->name);
        }
        return result;
    }();
    return names.c_str();
}

}  // namespace smnn
