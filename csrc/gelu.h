// y = x Phi(x), Phi the normal distribution function. "Gaussian Error Linear Units", arXiv 1606.08415.
#pragma once

#include <cmath>

#include "abi.h"
#include "lanes.h"

namespace recurra::RECURRA_LEVEL {

// Phi(x), and its slope: the normal density.
template <class T>
struct Normal {
  Vec<T> value, density;
};

template <class T>
Normal<T> normal(Vec<T> x);

// Phi(-|x|) = exp(-x^2/2) t Q(t) with t = 1 / (1 + c |x|) and Q a least-squares fit of erfcx: 3e-7 relative.
// Where `exp` stays at the end of its range the density is nothing; a large x would make it something.
template <>
inline Normal<float> normal<float>(Vec<float> x) {
  constexpr float q[] = {1.974663534e-1f / 2,  1.974764690e-1f / 2,  1.851001718e-1f / 2, 1.642181885e-1f / 2,
                         1.085028916e-1f / 2,  1.566182285e-1f / 2,  -1.109483057e-1f / 2, 2.435357999e-1f / 2,
                         -1.851762753e-1f / 2, 4.320649033e-2f / 2};
  const Vec<float> power = x * x * -0.5f, e = power < Format<float>::least ? Vec<float>{} : exp<float>(power);
  const Vec<float> t = 1 / (1 + 0.35f * 0.70710678f * abs(x));
  Vec<float> sum = Vec<float>{} + q[9];
  for (int k = 8; k >= 0; --k) sum = sum * t + q[k];
  const Vec<float> tail = e * t * sum;
  return {x < 0 ? tail : 1 - tail, e * 0.39894228f};
}

template <>
inline Normal<double> normal<double>(Vec<double> x) {
  Normal<double> n;
  for (int i = 0; i < kLanes<double>; ++i) {
    n.value[i] = 0.5 * std::erfc(x[i] * -0.70710678118654752440);
    n.density[i] = 0.39894228040143267794 * std::exp(-0.5 * x[i] * x[i]);
  }
  return n;
}

template <class P>
inline void run_gelu(const Gelu& s, bool forward) {
  using T = typename P::T;
  using V = typename P::V;
  using Element = typename P::Element;
  constexpr i64 kBlock = 1 << 12;
  parallel((s.count + kBlock - 1) / kBlock, s.threads, [&](i64 index) {
    const i64 first = index * kBlock;
    const Element* x = static_cast<const Element*>(s.x) + first;
    const Element* dy = forward ? nullptr : static_cast<const Element*>(s.dy) + first;
    Element* y = static_cast<Element*>(s.y) + first;
    each_register<P>(least(kBlock, s.count - first), [&](i64, i64 c, auto n) {
      const V v = load<P>(x + c, n);
      const auto phi = normal<T>(v);
      store<P>(y + c, forward ? v * phi.value : load<P>(dy + c, n) * (phi.value + v * phi.density), n);
    });
  });
}

inline void gelu(const Gelu& s, bool forward) {
  switch (s.dtype) {
    case kFloat32: return run_gelu<Real<float>>(s, forward);
    case kFloat64: return run_gelu<Real<double>>(s, forward);
    case kBfloat16: return run_gelu<Real<bf16>>(s, forward);
  }
}

}  // namespace recurra::RECURRA_LEVEL
