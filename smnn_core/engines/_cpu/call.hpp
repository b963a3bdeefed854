// One call laid out: how it is divided over lanes, chunks and threads, and where its arrays lie. For engine.cpp alone, which
// is compiled once: what has no instruction set may be defined here.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "buffers.hpp"
#include "engine.hpp"
#include "levels.hpp"
#include "threads.hpp"

namespace smnn {
namespace {

// Chunks: the cost of a step relative to one of an undivided sweep, of a separator relative to a step of a pack, and the
// fewest points of a chunk. Measured, n = 3 and 9.
constexpr double CHUNKED_COST = 2.2, SEPARATOR_COST = 1.5;
constexpr int SHORTEST_CHUNK = 8;

// A thread keeps its scratch memory up to this size; beyond, it comes from the pool.
constexpr size_t THREAD_SCRATCH = size_t(4) << 20;

// Below this many steps of packs, times n^2, threads cost more than they bring.
constexpr double WORTH_THREADS = 2500;

Index product(const std::vector<Index>& shape) {
    Index result = 1;
    for (Index size : shape) result *= size;
    return result;
}

struct Division {
    int C;
    int threads;
};

Division divide(Index batch, int T, int n, int W) {
    const int threads = max_threads();
    const double packs = std::ceil(double(batch) / W);
    if (packs * T * n * n < WORTH_THREADS && batch >= W) return {1, 1};
    Division best{1, threads};
    double least = std::ceil(packs / threads) * T;
    const Index most = std::min<Index>({T / SHORTEST_CHUNK, Index(2) * W * threads / std::max<Index>(batch, 1), 4096});
    for (int C = 2; C <= most; ++C) {
        const double rounds = std::ceil(std::ceil(double(batch) * C / W) / threads);
        const double systems = std::ceil(double(batch) / threads);
        const double cost = rounds * (T / C + 1) * CHUNKED_COST + systems * C * SEPARATOR_COST;
        if (cost < least) {
            least = cost;
            best.C = C;
        }
    }
    if (least * n * n < WORTH_THREADS) best.threads = 1;
    return best;
}

// A view seen as (batch..., time, inner...): strides, 0 where it is broadcast.
struct Layout {
    std::vector<Index> batch, offsets;
    Index time = 0;
    bool shared = true, contiguous = false;
    int inner = 1;
};

Layout lay_out(const View& view, const std::vector<Index>& batch, Index time, const std::vector<Index>& inner) {
    std::vector<Index> full = batch;
    full.push_back(time);
    full.insert(full.end(), inner.begin(), inner.end());
    if (view.shape.size() > full.size()) throw std::invalid_argument("an array has more axes than the problem");
    std::vector<Index> strides(full.size(), 0);
    const size_t missing = full.size() - view.shape.size();
    for (size_t i = 0; i < view.shape.size(); ++i) {
        const Index size = view.shape[i], wanted = full[i + missing];
        if (size != wanted && size != 1) throw std::invalid_argument("an array does not broadcast to the problem");
        strides[i + missing] = size == 1 ? 0 : view.strides[i];
    }
    Layout layout;
    layout.batch.assign(strides.begin(), strides.begin() + long(batch.size()));
    for (size_t i = 0; i < batch.size(); ++i) layout.shared = layout.shared && (layout.batch[i] == 0 || batch[i] == 1);
    layout.time = strides[batch.size()];
    layout.offsets = {0};
    for (size_t i = 0; i < inner.size(); ++i) {
        std::vector<Index> next;
        for (Index offset : layout.offsets) {
            for (Index k = 0; k < inner[i]; ++k) next.push_back(offset + k * strides[batch.size() + 1 + i]);
        }
        layout.offsets = std::move(next);
    }
    const Index count = Index(layout.offsets.size());
    layout.contiguous = layout.time == count || (layout.time == 0 && count > 0);
    for (Index e = 0; e < count; ++e) layout.contiguous = layout.contiguous && layout.offsets[size_t(e)] == e;
    return layout;
}

struct Axes {
    Index time;
    std::vector<Index> inner;
};

Axes axes(const Shape& s, Field field) {
    switch (field) {
        case C: return {s.T, {s.Q, s.V, s.K}};
        case B:
        case W_EQUATION: return {s.T, {s.Q}};
        case S:
        case W_SMOOTHNESS: return {s.T - 1, {}};
        case U:
        case W_INITIAL: return {s.T_init, {s.V, s.R_init}};
        case SMOOTHNESS_RHS: return {s.T - 1, {s.V, 2 * s.K}};
        default: return {s.T, {s.V, s.K}};
    }
}

// Everything that a job points to.
class Call {
   public:
    Job job{};
    Kernels kernels;
    int threads;

    Call(const Shape& shape, const Scheme& scheme, const Arrays& arrays, const View& undetermined, int C_of_factor)
        : kernels(level().find(shape.V, shape.K, shape.Q, scheme.extra_rows(), shape.is_double)), shape_(shape) {
        job.V = shape.V;
        job.K = shape.K;
        job.Q = shape.Q;
        job.n = shape.V * shape.K;
        job.T = shape.T;
        job.T_init = shape.R_init > 0 ? shape.T_init : 0;
        job.R_init = shape.R_init;
        job.batch = product(shape.batch);
        job.n_batch_axes = int(shape_.batch.size());
        job.batch_shape = shape_.batch.data();
        const Division division = divide(job.batch, shape.T, job.n, kernels.lanes);
        threads = division.threads;
        job.C = C_of_factor > 0 ? C_of_factor : division.C;
        job.lanes = job.batch * job.C;
        job.groups = (job.lanes + kernels.lanes - 1) / kernels.lanes;
        job.tasks = job.groups;
        set_scheme(scheme);
        for (int f = 0; f < FIELDS; ++f) set_input(Field(f), arrays[size_t(f)]);
        const Layout flags = lay_out(undetermined, shape_.batch, shape_.T, {});
        undetermined_ = flags.batch;
        undetermined_.push_back(flags.time);
        job.undetermined = static_cast<unsigned char*>(undetermined.data);
        job.undetermined_strides = undetermined_.data();
        job.any_undetermined = &any_undetermined_;
        job.any_zero_step = &any_zero_step_;
    }
    Call(const Call&) = delete;
    Call& operator=(const Call&) = delete;

    // Whether all systems have the same left-hand side, and are enough to fill packs of their own.
    bool shares_lhs() const {
        if (chunked() || job.batch < kernels.lanes || job.batch < 2) return false;
        for (Field f : {C, W_EQUATION, S, W_SMOOTHNESS, W_INITIAL}) {
            if (!job.in[f].shared) return false;
        }
        return true;
    }

    Solved solved(std::shared_ptr<Factor> factor) const {
        return {std::move(factor), any_undetermined_ != 0, any_zero_step_ != 0};
    }
    bool chunked() const { return job.C > 1; }

    void run(int phases) {
        const size_t scratch = kernels.sizes(job, phases).scratch;
        parallel_for(job.tasks, threads, [&](Index task) {
            if (scratch <= THREAD_SCRATCH) return kernels.run(job, phases, task, thread_scratch(scratch));
            const Buffer room(scratch);
            kernels.run(job, phases, task, room.data());
        });
    }
    void reduce(bool normal) {
        const size_t scratch = size_t(5 * job.n * job.n + 5 * job.n) * 8;
        parallel_for(job.batch, threads, [&](Index system) {
            (normal ? kernels.reduce_normal : kernels.reduce)(job, system, thread_scratch(scratch));
        });
    }

    const Layout& layout(Field f) const { return layouts_[size_t(f)]; }
    const Shape& shape() const { return shape_; }
    size_t item() const { return shape_.is_double ? 8 : 4; }

   private:
    Shape shape_;
    std::array<Layout, FIELDS> layouts_;
    std::vector<Index> undetermined_;
    std::vector<char> constants_;
    int any_undetermined_ = 0, any_zero_step_ = 0;

    void set_input(Field f, const View& view) {
        if (!view.data) return;
        const Axes a = axes(shape_, f);
        Layout& layout = layouts_[size_t(f)] = lay_out(view, shape_.batch, a.time, a.inner);
        Input& in = job.in[f];
        in.data = view.data;
        in.batch = layout.batch.data();
        in.time = layout.time;
        in.offsets = layout.offsets.data();
        in.count = int(layout.offsets.size());
        in.contiguous = layout.contiguous;
        in.shared = layout.shared;
    }

    void set_scheme(const Scheme& scheme) {
        const size_t width = size_t(2 * shape_.K);
        std::vector<double> values = scheme.rows;
        if (values.size() != width * width) throw std::invalid_argument("the scheme has the wrong size");
        for (size_t j = 0; j < width; ++j) {
            double sum = 0;
            for (size_t i = 0; i < width; ++i) sum += values[i * width + j] * values[i * width + j];
            values.push_back(sum);
        }
        constants_.resize(values.size() * 8);
        for (size_t i = 0; i < values.size(); ++i) {
            if (shape_.is_double) {
                std::memcpy(&constants_[i * 8], &values[i], 8);
            } else {
                const float x = float(values[i]);
                std::memcpy(&constants_[i * 4], &x, 4);
            }
        }
        job.extra_rows = scheme.extra_rows();
        job.scheme_rows = constants_.data();
        job.scheme_norm2 = constants_.data() + width * width * item();
        job.tolerance2 = scheme.tolerance * scheme.tolerance;
    }
};

}  // namespace
}  // namespace smnn
