#include "buffers.hpp"

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "scratch.hpp"

#if !defined(_WIN32)
#include <pthread.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace smnn {

namespace {

constexpr size_t ALIGNMENT = 64;
// Bytes before and behind each block, which nothing is written to: one that was ends the process, as it does in the C library,
// since memory of others may have changed too.
constexpr size_t GUARD = 64;
constexpr unsigned char UNTOUCHED = 0xA5;
constexpr size_t HUGE_PAGE = size_t(2) << 20;
// Blocks from this size on lie in huge pages.
constexpr size_t LARGE_BLOCK = 4 * HUGE_PAGE;
#if defined(SMNN_CHECKED)
constexpr size_t KEPT_BLOCKS = 0;  // each is new
#else
constexpr size_t KEPT_BLOCKS = 16;
#endif

struct Block {
    void* data;
    size_t bytes;  // beside the guards before and behind it
};

std::mutex mutex;
#if !defined(_WIN32)
// A child of fork has the mutex as it was: taken for good, if another thread had it.
const int fork_handlers = pthread_atfork([] { mutex.lock(); }, [] { mutex.unlock(); }, [] { mutex.unlock(); });
#endif
std::vector<Block>& pool() {
    static auto* blocks = new std::vector<Block>;  // never destroyed: buffers may outlive static objects
    return *blocks;
}

void put_guard(void* at) { std::memset(at, UNTOUCHED, GUARD); }
void check_guard(const void* at) noexcept {
    const auto* const bytes = static_cast<const unsigned char*>(at);
    for (size_t i = 0; i < GUARD; ++i) {
        if (bytes[i] == UNTOUCHED) continue;
        std::fputs("smnn: something was written outside a buffer of the compiled engine. Please report this.\n", stderr);
        std::abort();
    }
}

constexpr size_t alignment(size_t bytes) { return bytes >= LARGE_BLOCK ? HUGE_PAGE : ALIGNMENT; }

void* before(void* data) { return static_cast<char*>(data) - GUARD; }
void* behind(void* data, size_t bytes) { return static_cast<char*>(data) + bytes; }

void* allocate(size_t bytes) {
    const size_t unit = alignment(bytes);
    void* all = ::operator new((bytes + 2 * GUARD + unit - 1) / unit * unit, std::align_val_t(unit));
#if defined(__linux__)
    if (unit == HUGE_PAGE) madvise(all, bytes, MADV_HUGEPAGE);
#endif
    put_guard(all);
    return behind(all, GUARD);
}

// Gives back a block of that many bytes, which `allocate` gave.
void release(void* data, size_t bytes) noexcept {
    if (data) ::operator delete(before(data), std::align_val_t(alignment(bytes)));
}

// `used` bytes of a block, which nothing was written around.
void check_guards(void* data, size_t used) noexcept {
    check_guard(before(data));
    check_guard(behind(data, used));
}

}  // namespace

size_t pool_bytes() {
#if defined(__linux__)
    static const size_t bytes = size_t(sysconf(_SC_PHYS_PAGES)) * size_t(sysconf(_SC_PAGE_SIZE)) / 16;
    return bytes;
#else
    return size_t(256) << 20;
#endif
}

Buffer::Buffer(size_t bytes) {
#if !defined(_WIN32)
    (void)fork_handlers;
#endif
    if (bytes == 0) return;
    used_ = bytes;
    {
        std::lock_guard<std::mutex> lock(mutex);
        auto& blocks = pool();
        // the smallest that is large enough and, of these, the one given back last: caches may still hold it
        size_t best = blocks.size();
        for (size_t i = blocks.size(); i-- > 0;) {
            if (blocks[i].bytes < bytes || blocks[i].bytes > 2 * bytes) continue;
            if (best == blocks.size() || blocks[i].bytes < blocks[best].bytes) best = i;
        }
        if (best < blocks.size()) {
            data_ = blocks[best].data;
            bytes_ = blocks[best].bytes;
            blocks.erase(blocks.begin() + long(best));
        }
    }
    if (!data_) {
        data_ = allocate(bytes);
        bytes_ = bytes;
    }
    put_guard(behind(data_, bytes));
}

Buffer::Buffer(Buffer&& other) noexcept { *this = std::move(other); }

Buffer& Buffer::operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(used_, other.used_);
    return *this;
}

Buffer::~Buffer() {
    if (!data_) return;
    check_guards(data_, used_);
    std::vector<Block> dropped;
    {
        std::lock_guard<std::mutex> lock(mutex);
        auto& blocks = pool();
        blocks.push_back({data_, bytes_});
        size_t kept = 0;
        for (const Block& block : blocks) kept += block.bytes;
        while (kept > pool_bytes() || blocks.size() > KEPT_BLOCKS) {
            kept -= blocks.front().bytes;
            dropped.push_back(blocks.front());
            blocks.erase(blocks.begin());
        }
    }
    for (const Block& block : dropped) release(block.data, block.bytes);
}

void* thread_scratch(size_t bytes) {
    struct Scratch {
        void* data = nullptr;
        size_t bytes = 0, used = 0;
        ~Scratch() { release(data, bytes); }
    };
    thread_local Scratch scratch;
    if (scratch.data) check_guards(scratch.data, scratch.used);
    if (scratch.bytes < bytes || !KEPT_BLOCKS) {
        release(scratch.data, scratch.bytes);
        scratch.data = nullptr;
        scratch.bytes = 0;
        scratch.data = allocate(bytes);
        scratch.bytes = bytes;
    }
    scratch.used = bytes;
    put_guard(behind(scratch.data, bytes));
    return scratch.data;
}

}  // namespace smnn
