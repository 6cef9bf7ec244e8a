// y = x W^T + bias + added for few rows of x: the weights are read once, in order, at the speed of memory. W is
// a matrix, or blocks along the diagonal of one; of the dtype of x, or packed beside fp32 in fewer bytes.
#pragma once

#include "abi.h"
#include "lanes.h"

namespace recurra::RECURRA_LEVEL {

template <int n>
struct Count {
  static constexpr int value = n;
};

template <class P>
struct FewRows {
  using V = typename P::V;
  using T = typename P::T;
  using Element = typename P::Element;

  const Matvec& s;
  const i64 block;

  const Element* x(i64 r) const { return static_cast<const Element*>(s.x.data) + r * s.x.stride + block * s.inputs; }

  void write(i64 r, i64 output, T value) const {
    if (s.bias) value += P::get(static_cast<const Element*>(s.bias) + output);
    if (s.added) value += P::get(static_cast<const Element*>(s.added) + r * s.blocks * s.outputs + output);
    P::put(static_cast<Element*>(s.y.data) + r * s.y.stride + output, value);
  }

  // f(four rows or one, the first of them) over all rows.
  template <class F>
  void each_row(F f) const {
    i64 r = 0;
    for (; r + 4 <= s.rows; r += 4) f(Count<4>{}, r);
    for (; r < s.rows; ++r) f(Count<1>{}, r);
  }
};

template <class P>
struct RowProduct : FewRows<P> {
  using typename FewRows<P>::V, typename FewRows<P>::T, typename FewRows<P>::Element;
  using FewRows<P>::s, FewRows<P>::x, FewRows<P>::write;
  static constexpr i64 kAhead = 16384 / sizeof(Element);

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
      this->each_row([&](auto rows, i64 first) { dot<rows.value>(first, output); });
    }
  }
};

// Columns side by side in the upper bits of a register of words, all else zero.
struct Bf16Columns {
  static constexpr int bits = 16;
  static constexpr float unit = 1;
  static Vec<float> value(Vec<std::uint32_t> upper) { return bit_cast<Vec<float>>(upper); }
};

struct Int8Columns {
  static constexpr int bits = 8;
  static constexpr float unit = 0x1p-24f;
  static Vec<float> value(Vec<std::uint32_t> upper) {
    return __builtin_convertvector(bit_cast<Vec<std::int32_t>>(upper), Vec<float>);
  }
};

// Packed weights: a shift and a mask make neighbours of a register's columns, and no lane has to move.
template <class W>
struct PackedProduct : FewRows<Real<float>> {
  using Words = Vec<std::uint32_t>;
  static constexpr i64 kWords = kGroup * W::bits / 32, kAhead = 16384;

  // What stands in x beyond the last whole group, and zeros.
  float rest[kPackedRows][kGroup] = {};

  PackedProduct(const Matvec& matvec, i64 at) : FewRows{matvec, at} {
    const i64 left = s.inputs % kGroup;
    for (i64 r = 0; left && r < s.rows; ++r) std::memcpy(rest[r], x(r) + s.inputs - left, left * sizeof(float));
  }

  template <int kRows, int kSums>
  static void add(const std::uint32_t* words, const float* const* in, V (&sums)[kRows][kSums]) {
    constexpr int lanes = kLanes<float>;
    for (i64 byte = 0; byte < kWords * 4; byte += 64) {
      __builtin_prefetch(reinterpret_cast<const char*>(words) + kAhead + byte);
    }
    for (int i = 0; i < kWords; i += lanes) {
      Words w;
      std::memcpy(&w, words + i, sizeof w);
      for (int k = 0; k < 32 / W::bits; ++k) {
        Words upper = w << (32 - W::bits * (k + 1));
        if (k > 0) upper &= ~0u << (32 - W::bits);  // below the lowest column there is nothing
        const V column = W::value(upper);
        const int sum = (i / lanes * (32 / W::bits) + k) % kSums;
        for (int r = 0; r < kRows; ++r) sums[r][sum] += column * Real<float>::load(in[r] + k * kWords + i);
      }
    }
  }

  template <int kRows>
  void dot(i64 first, i64 output) const {
    constexpr int kSums = kRows == 1 ? 4 : 2;
    const i64 groups = (s.inputs + kGroup - 1) / kGroup;
    const std::uint32_t* words = static_cast<const std::uint32_t*>(s.weight) + output * groups * kWords;
    const float* in[kRows];
    for (int r = 0; r < kRows; ++r) in[r] = x(first + r);
    V sums[kRows][kSums] = {};
    for (i64 k = 0; k + kGroup <= s.inputs; k += kGroup, words += kWords) {
      add(words, in, sums);
      for (int r = 0; r < kRows; ++r) in[r] += kGroup;
    }
    for (int r = 0; r < kRows; ++r) in[r] = rest[first + r];
    if (s.inputs % kGroup) add(words, in, sums);
    const float scale = W::unit * (s.scale ? s.scale[output] : 1);
    for (int r = 0; r < kRows; ++r) {
      for (int j = 1; j < kSums; ++j) sums[r][0] += sums[r][j];
      write(first + r, output, scale * sum_lanes<float, kVectorBytes>(sums[r][0]));
    }
  }

  void run(i64 output, i64 end) const {
    for (; output < end; ++output) each_row([&](auto rows, i64 first) { dot<rows.value>(first, output); });
  }
};

// A share is a block, or a thread's part of the only one.
template <class Product>
inline void run_matvec(const Matvec& s) {
  const i64 outputs = s.blocks * s.outputs, shares = s.blocks > 1 ? s.blocks : s.threads;
  const i64 share = (outputs + shares - 1) / shares;
  parallel(shares, s.threads, [&](i64 i) {
    Product{s, s.blocks > 1 ? i : 0}.run(i * share, least(outputs, (i + 1) * share));
  });
}

inline void matvec(const Matvec& s) {
  if (s.weight_dtype != s.dtype) {
    return s.weight_dtype == kInt8 ? run_matvec<PackedProduct<Int8Columns>>(s) : run_matvec<PackedProduct<Bf16Columns>>(s);
  }
  by_dtype(s.dtype, [&](auto p) { run_matvec<RowProduct<decltype(p)>>(s); });
}

}  // namespace recurra::RECURRA_LEVEL
