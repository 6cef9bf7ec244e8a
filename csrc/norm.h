// y = w s / sqrt(mean(s^2) + eps) with s = x + added, row by row: the residual sum and the norm behind it in
// one pass over memory each way. "Root Mean Square Layer Normalization", arXiv 1910.07467, equation 4. With
// the mean taken from s, and a bias, it is "Layer Normalization", arXiv 1607.06450.
#pragma once

#include <cmath>

#include "abi.h"
#include "lanes.h"

namespace recurra::RECURRA_LEVEL {

template <class P, bool kCentred>
struct NormRows {
  using V = typename P::V;
  using T = typename P::T;
  using Element = typename P::Element;
  using State = typename P::State;

  const Norm& s;
  const i64 width = s.width;

  Element* row(void* p, i64 r) const { return static_cast<Element*>(p) + r * width; }
  // What stands in [groups, width] for row r.
  template <class E>
  E* of_group(E* p, i64 r) const { return p + r % s.groups * width; }
  T* moments(i64 r) const { return static_cast<T*>(s.moments) + 2 * r; }

  static T total(V v) { return sum_lanes<T, kVectorBytes>(v); }
  static V clear_end(V v, Whole) { return v; }
  static V clear_end(V v, Part part) {
    for (i64 i = part.count; i < P::lanes; ++i) v[i] = 0;
    return v;
  }

  void forward(i64 r) const {
    const Element *x = row(s.x, r), *added = s.added ? row(s.added, r) : nullptr;
    Element *y = row(s.y, r), *sum = added ? row(s.sum, r) : nullptr;
    V numbers{}, squares{};
    each_register<P>(width, [&](i64, i64 c, auto n) {
      V v = load<P>(x + c, n);
      if (added) {
        store<P>(sum + c, v + load<P>(added + c, n), n);
        v = load<P>(sum + c, n);  // as it was rounded
      }
      if (kCentred) numbers += v;
      if (!kCentred) squares += v * v;
    });
    if (added) x = sum;
    const T mean = kCentred ? total(numbers) / T(width) : 0;
    if (kCentred) {
      each_register<P>(width, [&](i64, i64 c, auto n) {
        const V v = clear_end(load<P>(x + c, n) - mean, n);
        squares += v * v;
      });
    }
    const T rate = 1 / std::sqrt(total(squares) / T(width) + T(s.eps));
    if (s.moments) moments(r)[0] = mean, moments(r)[1] = rate;
    const Element* const weight = of_group(static_cast<const Element*>(s.weight), r);
    const Element* const bias = s.bias ? of_group(static_cast<const Element*>(s.bias), r) : nullptr;
    each_register<P>(width, [&](i64, i64 c, auto n) {
      const V v = (load<P>(x + c, n) - mean) * rate * load<P>(weight + c, n);
      store<P>(y + c, kCentred ? v + load<P>(bias + c, n) : v, n);
    });
  }

  void backward(i64 r, T* dweight, T* dbias) const {
    const Element *x = row(s.x, r), *dy = row(s.dy, r), *dsum = s.dsum ? row(s.dsum, r) : nullptr;
    const Element* const weight = of_group(static_cast<const Element*>(s.weight), r);
    dweight = of_group(dweight, r), dbias = dbias ? of_group(dbias, r) : nullptr;
    const T mean = kCentred ? moments(r)[0] : 0, rate = moments(r)[1];
    V products{}, slopes{};
    each_register<P>(width, [&](i64, i64 c, auto n) {
      const V v = load<P>(x + c, n) - mean, d = load<P>(dy + c, n), slope = d * load<P>(weight + c, n);
      products += v * slope;
      slopes += slope;
      store<State>(dweight + c, load<State>(dweight + c, n) + d * v * rate, n);
      if (kCentred) store<State>(dbias + c, load<State>(dbias + c, n) + d, n);
    });
    const T pull = total(products) * rate * rate / T(width), level = kCentred ? total(slopes) / T(width) : 0;
    each_register<P>(width, [&](i64, i64 c, auto n) {
      V d = load<P>(dy + c, n) * load<P>(weight + c, n) - level - (load<P>(x + c, n) - mean) * pull;
      d *= rate;
      if (dsum) d += load<P>(dsum + c, n);
      store<P>(row(s.dx, r) + c, d, n);
    });
  }

  T* zeros(void* p, i64 index) const {
    const i64 size = s.groups * width;
    return p ? static_cast<T*>(std::memset(static_cast<T*>(p) + index * size, 0, size * sizeof(T))) : nullptr;
  }

  void block(i64 index, bool is_forward) const {
    const i64 to = least(s.rows, (index + 1) * kNormBlock);
    T *dweight = zeros(s.dweight, index), *dbias = zeros(s.dbias, index);
    for (i64 r = index * kNormBlock; r < to; ++r) is_forward ? forward(r) : backward(r, dweight, dbias);
  }
};

template <class P, bool kCentred>
inline void run_norm(const Norm& s, bool forward) {
  const i64 blocks = (s.rows + kNormBlock - 1) / kNormBlock;
  parallel(blocks, s.threads, [&](i64 index) { NormRows<P, kCentred>{s}.block(index, forward); });
}

template <class P>
inline void choose_norm(const Norm& s, bool forward) {
  s.bias ? run_norm<P, true>(s, forward) : run_norm<P, false>(s, forward);
}

inline void norm(const Norm& s, bool forward) {
  by_dtype(s.dtype, [&](auto p) { choose_norm<decltype(p)>(s, forward); });
}

}  // namespace recurra::RECURRA_LEVEL
