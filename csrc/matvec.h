// y = x W^T + bias + added for few rows of x: the weights are read once, in order, at the speed of memory.
#pragma once

#include "abi.h"
#include "lanes.h"

namespace recurra::RECURRA_LEVEL {

template <class P>
struct RowProduct {
  using V = typename P::V;
  using T = typename P::T;
  using Element = typename P::Element;
  static constexpr i64 kAhead = 8192 / sizeof(Element);

  const Matvec& s;

  // Rows x_first .. x_first + kRows against one row of weights; four sums each where that many fit.
  template <int kRows>
  void dot(i64 first, i64 output) const {
    constexpr int kSums = kRows == 1 ? 4 : 2;
    const Element* w = static_cast<const Element*>(s.weight) + output * s.inputs;
    const Element* x = static_cast<const Element*>(s.x) + first * s.inputs;
    V sums[kRows][kSums] = {};
    i64 k = 0;
    for (; k + kSums * P::lanes <= s.inputs; k += kSums * P::lanes) {
      for (int j = 0; j < kSums; ++j) {
        __builtin_prefetch(w + k + kAhead + j * P::lanes);
        const V weight = P::load(w + k + j * P::lanes);
        for (int r = 0; r < kRows; ++r) sums[r][j] += weight * P::load(x + r * s.inputs + k + j * P::lanes);
      }
    }
    each_register<P>(s.inputs - k, [&](i64, i64 c, auto n) {
      const V weight = load<P>(w + k + c, n);
      for (int r = 0; r < kRows; ++r) sums[r][0] += weight * load<P>(x + r * s.inputs + k + c, n);
    });
    for (int r = 0; r < kRows; ++r) {
      for (int j = 1; j < kSums; ++j) sums[r][0] += sums[r][j];
      write(first + r, output, sum_lanes<T, kVectorBytes>(sums[r][0]));
    }
  }

  void write(i64 r, i64 output, T value) const {
    if (s.bias) value += P::get(static_cast<const Element*>(s.bias) + output);
    const i64 at = r * s.outputs + output;
    if (s.added) value += P::get(static_cast<const Element*>(s.added) + at);
    P::put(static_cast<Element*>(s.y) + at, value);
  }

  void output(i64 o) const {
    i64 r = 0;
    for (; r + 4 <= s.rows; r += 4) dot<4>(r, o);
    for (; r < s.rows; ++r) dot<1>(r, o);
  }
};

template <class P>
inline void run_matvec(const Matvec& s) {
  const i64 share = (s.outputs + s.threads - 1) / s.threads;
  parallel(s.threads, s.threads, [&](i64 task) {
    for (i64 o = task * share; o < least(s.outputs, (task + 1) * share); ++o) RowProduct<P>{s}.output(o);
  });
}

inline void matvec(const Matvec& s) {
  switch (s.dtype) {
    case kFloat32: return run_matvec<Real<float>>(s);
    case kFloat64: return run_matvec<Real<double>>(s);
    case kBfloat16: return run_matvec<Real<bf16>>(s);
  }
}

}  // namespace recurra::RECURRA_LEVEL
