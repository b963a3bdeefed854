#include "buffers.hpp"

#include <cstdlib>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

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
constexpr size_t HUGE_PAGE = size_t(2) << 20;

constexpr size_t KEPT_BLOCKS = 16;

struct Block {
    void* data;
    size_t bytes;
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

void* allocate(size_t bytes) {
    const size_t alignment = bytes >= 4 * HUGE_PAGE ? HUGE_PAGE : ALIGNMENT;
    void* data = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    if (!data) throw std::bad_alloc();
#if defined(__linux__)
    if (alignment == HUGE_PAGE) madvise(data, bytes, MADV_HUGEPAGE);
#endif
    return data;
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
    {
        std::lock_guard<std::mutex> lock(mutex);
        auto& blocks = pool();
        for (size_t i = 0; i < blocks.size(); ++i) {
            if (blocks[i].bytes < bytes || blocks[i].bytes > 2 * bytes) continue;
            data_ = blocks[i].data;
            bytes_ = blocks[i].bytes;
            blocks.erase(blocks.begin() + long(i));
            return;
        }
    }
    data_ = allocate(bytes);
    bytes_ = bytes;
}

Buffer::Buffer(Buffer&& other) noexcept { *this = std::move(other); }

Buffer& Buffer::operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
}

Buffer::~Buffer() {
    if (!data_) return;
    std::vector<void*> dropped;
    {
        std::lock_guard<std::mutex> lock(mutex);
        auto& blocks = pool();
        blocks.push_back({data_, bytes_});
        size_t total = 0;
        for (const Block& block : blocks) total += block.bytes;
        while (!blocks.empty() && (total > pool_bytes() || blocks.size() > KEPT_BLOCKS)) {
            total -= blocks.front().bytes;
            dropped.push_back(blocks.front().data);
            blocks.erase(blocks.begin());
        }
    }
    for (void* block : dropped) std::free(block);
}

void* thread_scratch(size_t bytes) {
    struct Scratch {
        void* data = nullptr;
        size_t bytes = 0;
        ~Scratch() { std::free(data); }
    };
    thread_local Scratch scratch;
    if (scratch.bytes < bytes) {
        std::free(scratch.data);
        scratch = {};
        scratch.data = allocate(bytes);
        scratch.bytes = bytes;
    }
    return scratch.data;
}

}  // namespace smnn
