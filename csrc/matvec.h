// y = x W^T + bias + added for few rows of x: the weights are read once, in order, at the speed of memory. W is
// a matrix, or blocks along the diagonal of one.
#pragma once

#include "abi.h"
#include "lanes.h"

namespace recurra::RECURRA_LEVEL {

template <class P>
struct RowProduct {
  using V = typename P::V;
  using T = typename P::T;
  using Element = typename P::Element;
  static constexpr i64 kAhead = 16384 / sizeof(Element);

  const Matvec& s;
  const i64 block;

  const Element* x(i64 r) const { return static_cast<const Element*>(s.x.data) + r * s.x.stride + block * s.inputs; }
  const Element* weight(i64 output) const { return static_cast<const Element*>(s.weight) + output * s.inputs; }

  // Rows first .. first + kRows of x against one row of weights; four sums each where that many fit.
  template <int kRows>
  void dot(i64 first, i64 output) const {
    constexpr int kSums = kRows == 1 ? 4 : 2;
    const Element* const w = weight(output);
    const Element* in[kRows];
    for (int r = 0; r < kRows; ++r) in[r] = x(first + r);
    V sums[kRows][kSums] = {};
    i64 k = 0;
    for (; k + kSums * P::lanes <= s.inputs; k += kSums * P::lanes) {
      for (int j = 0; j < kSums; ++j) {
        __builtin_prefetch(w + k + kAhead + j * P::lanes);
        const V column = P::load(w + k + j * P::lanes);
        for (int r = 0; r < kRows; ++r) sums[r][j] += column * P::load(in[r] + k + j * P::lanes);
      }
    }
    each_register<P>(s.inputs - k, [&](i64, i64 c, auto n) {
      const V column = load<P>(w + k + c, n);
      for (int r = 0; r < kRows; ++r) sums[r][0] += column * load<P>(in[r] + k + c, n);
    });
    for (int r = 0; r < kRows; ++r) {
      for (int j = 1; j < kSums; ++j) sums[r][0] += sums[r][j];
      write(first + r, output, sum_lanes<T, kVectorBytes>(sums[r][0]));
    }
  }

  void write(i64 r, i64 output, T value) const {
    if (s.bias) value += P::get(static_cast<const Element*>(s.bias) + output);
    if (s.added) value += P::get(static_cast<const Element*>(s.added) + r * s.blocks * s.outputs + output);
    P::put(static_cast<Element*>(s.y.data) + r * s.y.stride + output, value);
  }

  // Of four inputs, which fill no register: the blocks of an mLSTM.
  void of_four(i64 r, i64 output, i64 end) const {
    T in[4];
    for (int k = 0; k < 4; ++k) in[k] = P::get(x(r) + k);
    for (; output < end; ++output) {
      T sum = 0;
      for (int k = 0; k < 4; ++k) sum += P::get(weight(output) + k) * in[k];
      write(r, output, sum);
    }
  }

  void run(i64 output, i64 end) const {
    for (i64 r = 0; s.inputs == 4 && r < s.rows; ++r) of_four(r, output, end);
    for (; s.inputs != 4 && output < end; ++output) {
      i64 r = 0;
      for (; r + 4 <= s.rows; r += 4) dot<4>(r, output);
      for (; r < s.rows; ++r) dot<1>(r, output);
    }
  }
};

// A share is a block, or a thread's part of the only one.
template <class P>
inline void run_matvec(const Matvec& s) {
  const i64 outputs = s.blocks * s.outputs, shares = s.blocks > 1 ? s.blocks : s.threads;
  const i64 share = (outputs + shares - 1) / shares;
  parallel(shares, s.threads, [&](i64 i) {
    RowProduct<P>{s, s.blocks > 1 ? i : 0}.run(i * share, least(outputs, (i + 1) * share));
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
