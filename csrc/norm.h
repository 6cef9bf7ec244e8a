// y = w s / sqrt(mean(s^2) + eps) with s = x + added, row by row: the residual sum and the norm behind it in
// one pass over memory each way. "Root Mean Square Layer Normalization", arXiv 1910.07467, equation 4.
#pragma once

#include <cmath>

#include "abi.h"
#include "lanes.h"

namespace recurra::RECURRA_LEVEL {

template <class P>
struct NormRows {
  using V = typename P::V;
  using T = typename P::T;
  using Element = typename P::Element;
  using State = typename P::State;
  static constexpr i64 kBlock = kNormBlock;

  const Norm& s;
  const i64 width = s.width;

  Element* row(void* p, i64 r) const { return static_cast<Element*>(p) + r * width; }
  T* scale(i64 r) const { return static_cast<T*>(s.scale) + r; }

  static T total(V v) { return sum_lanes<T, kVectorBytes>(v); }

  void forward(i64 r) const {
    const Element *x = row(s.x, r), *added = s.added ? row(s.added, r) : nullptr;
    Element *y = row(s.y, r), *sum = added ? row(s.sum, r) : nullptr;
    V squares{};
    each_register<P>(width, [&](i64, i64 c, auto n) {
      V v = load<P>(x + c, n);
      if (added) {
        store<P>(sum + c, v + load<P>(added + c, n), n);
        v = load<P>(sum + c, n);  // as it was rounded
      }
      squares += v * v;
    });
    const T rate = 1 / std::sqrt(total(squares) / T(width) + T(s.eps));
    if (s.scale) *scale(r) = rate;
    const Element* weight = static_cast<const Element*>(s.weight);
    if (added) x = sum;
    each_register<P>(width, [&](i64, i64 c, auto n) {
      store<P>(y + c, load<P>(x + c, n) * rate * load<P>(weight + c, n), n);
    });
  }

  void backward(i64 r, T* dweight) const {
    const Element *x = row(s.x, r), *dy = row(s.dy, r), *dsum = s.dsum ? row(s.dsum, r) : nullptr;
    const Element* weight = static_cast<const Element*>(s.weight);
    const T rate = *scale(r);
    V products{};
    each_register<P>(width, [&](i64, i64 c, auto n) {
      const V v = load<P>(x + c, n), d = load<P>(dy + c, n);
      products += v * d * load<P>(weight + c, n);
      store<State>(dweight + c, load<State>(dweight + c, n) + d * v * rate, n);
    });
    const T pull = total(products) * rate * rate / T(width);
    each_register<P>(width, [&](i64, i64 c, auto n) {
      V d = (load<P>(dy + c, n) * load<P>(weight + c, n) - load<P>(x + c, n) * pull) * rate;
      if (dsum) d += load<P>(dsum + c, n);
      store<P>(row(s.dx, r) + c, d, n);
    });
  }

  void block(i64 index, bool is_forward) const {
    const i64 to = least(s.rows, (index + 1) * kBlock);
    T* dweight = is_forward ? nullptr : static_cast<T*>(s.dweight) + index * width;
    if (dweight) std::memset(dweight, 0, width * sizeof(T));
    for (i64 r = index * kBlock; r < to; ++r) is_forward ? forward(r) : backward(r, dweight);
  }
};

template <class P>
inline void run_norm(const Norm& s, bool forward) {
  const i64 blocks = (s.rows + NormRows<P>::kBlock - 1) / NormRows<P>::kBlock;
  parallel(blocks, s.threads, [&](i64 index) { NormRows<P>{s}.block(index, forward); });
}

inline void norm(const Norm& s, bool forward) {
  switch (s.dtype) {
    case kFloat32: return run_norm<Real<float>>(s, forward);
    case kFloat64: return run_norm<Real<double>>(s, forward);
    case kBfloat16: return run_norm<Real<bf16>>(s, forward);
  }
}

}  // namespace recurra::RECURRA_LEVEL
