// Memory of the engine: aligned for SIMD, and kept for the next call, because fresh pages of the operating system cost
// more than the arithmetic that fills them.
#pragma once

#include <cstddef>

namespace smnn {

// A block of memory from the pool, given back on destruction.
class Buffer {
   public:
    Buffer() = default;
    explicit Buffer(size_t bytes);  // throws std::bad_alloc
    Buffer(Buffer&& other) noexcept;
    Buffer& operator=(Buffer&& other) noexcept;
    ~Buffer();
    void* data() const { return data_; }
    explicit operator bool() const { return data_ != nullptr; }

   private:
    void* data_ = nullptr;
    size_t bytes_ = 0, used_ = 0;  // of the block, and those that were asked for
};

// The most memory that the pool keeps: a sixteenth of the machine's memory, where that is known.
size_t pool_bytes();

// At least that much memory for the calling thread alone, until its next call.
void* thread_scratch(size_t bytes);

}  // namespace smnn
