// Gradients of whole fields: the gathering of each, and its way into the array of the caller. For engine.cpp alone.
#pragma once

#include <algorithm>
#include <cstring>
#include <vector>

#include "plan.hpp"

namespace smnn {
namespace {

// The sum of a gradient, from (systems, repeats, times, entries of the field), over the axes along which its field is broadcast.
void sum_to_field(Plan& plan, Field f, const double* from, Index systems, Index repeats, Index times, const View& to) {
    const Input layout = lay_out(to, plan.problem.batch, axes(plan.problem, f), plan.numbers);
    const Index count = layout.count, size = product(to.shape, size_t(to.rank));
    const std::vector<Index>& batch = plan.problem.batch;
    std::vector<double> sums(size_t(size), 0.0);
    for (Index b = 0; b < systems; ++b) {
        Index offset = 0, rest = b;
        for (size_t axis = batch.size(); axis-- > 0;) {
            offset += rest % batch[axis] * layout.batch[axis];
            rest /= batch[axis];
        }
        for (Index r = 0; r < repeats; ++r) {
            for (Index t = 0; t < times; ++t) {
                for (Index e = 0; e < count; ++e) {
                    sums[size_t(offset + t * layout.time + layout.offsets[e])] += *from++;
                }
            }
        }
    }
    for (Index i = 0; i < size; ++i) static_cast<double*>(to.data)[i] = sums[size_t(i)];
}

// The gathering of the gradient of a field, and its way into the array of the caller.
class GradientOf {
   public:
    GradientOf(Plan& plan, Field field, const View& to, Output& out) : plan_(plan), field_(field), to_(to) {
        const Axes a = axes(plan.problem, field);
        const Input layout = lay_out(to, plan.problem.batch, a, plan.numbers);
        const Index count = layout.count, batch = product(plan.problem.batch.data(), plan.problem.batch.size());
        const bool per_point = field != U && field != W_INITIAL;
        times_ = a.time;
        if (batch > 0 && product(to.shape, size_t(to.rank)) == batch * a.time * count) {
            out = {to.data, Gather::PER_SYSTEM};
            direct_ = true;
            return;
        }
        if (per_point && layout.time == 0 && a.time > 1) {
            out.gather = Gather::OVER_TIME;
            systems_ = batch;
            repeats_ = plan.job.C;
            times_ = 1;
        } else if (per_point && layout.shared && batch > 1) {
            out.gather = Gather::OVER_BATCH;
            systems_ = 1;
            repeats_ = plan.job.groups;
        } else {
            out.gather = Gather::PER_SYSTEM;
            systems_ = batch;
        }
        const size_t bytes = size_t(systems_ * repeats_ * times_ * count) * plan.item();
        buffer_ = Buffer(bytes);
        if (bytes) std::memset(buffer_.data(), 0, bytes);
        out.data = buffer_.data();
    }

    void finish() {
        if (direct_) return;
        sum_to_field(plan_, field_, static_cast<const double*>(buffer_.data()), systems_, repeats_, times_, to_);
    }

   private:
    Plan& plan_;
    Field field_;
    View to_;
    Index systems_ = 0, repeats_ = 1, times_ = 0;
    bool direct_ = false;
    Buffer buffer_;
};

// The gradients that are wanted; out (SMOOTHNESS_RHS): where kernels put them, by field.
std::vector<GradientOf> gradients_of(Plan& plan, const Gradients& to, Output* out) {
    std::vector<GradientOf> all;
    all.reserve(SMOOTHNESS_RHS);
    for (int f = C; f < SMOOTHNESS_RHS; ++f) {
        const View& view = to[size_t(f)];
        if (view.data && product(view.shape, size_t(view.rank)) > 0) all.emplace_back(plan, Field(f), view, out[f]);
    }
    return all;
}

}  // namespace
}  // namespace smnn
