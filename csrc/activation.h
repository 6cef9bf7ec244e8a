// y = f(x), or f(x) times another number, or that plus a third: the activations of blocks, their gates and caps.
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
template <>
inline Normal<float> normal<float>(Vec<float> x) {
  constexpr float q[] = {1.974663534e-1f / 2,  1.974764690e-1f / 2,  1.851001718e-1f / 2, 1.642181885e-1f / 2,
                         1.085028916e-1f / 2,  1.566182285e-1f / 2,  -1.109483057e-1f / 2, 2.435357999e-1f / 2,
                         -1.851762753e-1f / 2, 4.320649033e-2f / 2};
  const Vec<float> e = exp<float>(x * x * -0.5f);
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

struct GeluOf {  // x Phi(x). "Gaussian Error Linear Units", arXiv 1606.08415
  template <class T>
  static Value<T> at(Vec<T> x) {
    const auto phi = normal<T>(x);
    return {x * phi.value, phi.value + x * phi.density};
  }
};

struct SiluOf {  // x sigmoid(x)
  template <class T>
  static Value<T> at(Vec<T> x) {
    const Sigmoid<T> s(x);
    return {x * s.value, s.value + x * s.value * s.rest};
  }
};

struct SigmoidOf {
  template <class T>
  static Value<T> at(Vec<T> x) {
    const Sigmoid<T> s(x);
    return {s.value, s.value * s.rest};
  }
};

struct ReluSquareOf {
  template <class T>
  static Value<T> at(Vec<T> x) {
    const Vec<T> y = x < 0 ? Vec<T>{} : x;  // NaN stays NaN
    return {y * y, 2 * y};
  }
};

struct LogSigmoidOf {  // log(1 / (1 + e^-x)) = -softplus(-x)
  template <class T>
  static Value<T> at(Vec<T> x) {
    const Softplus<T> s(-x);
    return {-s.value, s.slope};
  }
};

struct TanhOf {
  template <class T>
  static Value<T> at(Vec<T> x) {
    const Vec<T> y = tanh<T>(x);
    return {y, 1 - y * y};
  }
};

struct IdentityOf {  // for what else the pass does: x factor + added
  template <class T>
  static Value<T> at(Vec<T> x) {
    return {x, Vec<T>{} + 1};
  }
};

template <class P, class F>
struct Activated {
  using T = typename P::T;
  using Element = typename P::Element;

  const Activation& s;
  const T scale = T(s.scale), inverse = T(1 / s.scale);

  Element* row(const Rows& rows, i64 r) const { return static_cast<Element*>(rows.data) + r * rows.stride; }

  void forward(i64 r) const {
    const Element *x = row(s.x, r), *factor = s.factor.data ? row(s.factor, r) : nullptr;
    const Element* added = s.added.data ? row(s.added, r) : nullptr;
    each_register<P>(s.width, [&](i64, i64 c, auto n) {
      auto y = scale * F::template at<T>(inverse * load<P>(x + c, n)).value;
      if (factor) y *= load<P>(factor + c, n);
      if (added) y += load<P>(added + c, n);
      store<P>(row(s.y, r) + c, y, n);
    });
  }

  void backward(i64 r) const {
    const Element *x = row(s.x, r), *factor = s.factor.data ? row(s.factor, r) : nullptr, *dy = row(s.y, r);
    each_register<P>(s.width, [&](i64, i64 c, auto n) {
      const auto f = F::template at<T>(inverse * load<P>(x + c, n));
      auto d = load<P>(dy + c, n);
      if (factor) {
        store<P>(row(s.dfactor, r) + c, d * (scale * f.value), n);
        d *= load<P>(factor + c, n);
      }
      store<P>(row(s.dx, r) + c, d * f.slope, n);
    });
  }
};

template <class P, class F>
inline void run_activation(const Activation& s, bool forward) {
  const Activated<P, F> loop{s};
  const i64 rows = most<i64>(1, (1 << 12) / most<i64>(1, s.width));
  parallel((s.rows + rows - 1) / rows, s.threads, [&](i64 task) {
    for (i64 r = task * rows; r < least(s.rows, (task + 1) * rows); ++r) forward ? loop.forward(r) : loop.backward(r);
  });
}

template <class P>
inline void choose_activation(const Activation& s, bool forward) {
  switch (s.kind) {
    case kGelu: return run_activation<P, GeluOf>(s, forward);
    case kSilu: return run_activation<P, SiluOf>(s, forward);
    case kSigmoid: return run_activation<P, SigmoidOf>(s, forward);
    case kReluSquare: return run_activation<P, ReluSquareOf>(s, forward);
    case kLogSigmoid: return run_activation<P, LogSigmoidOf>(s, forward);
    case kTanh: return run_activation<P, TanhOf>(s, forward);
    case kIdentity: return run_activation<P, IdentityOf>(s, forward);
  }
}

inline void activation(const Activation& s, bool forward) {
  by_dtype(s.dtype, [&](auto p) { choose_activation<decltype(p)>(s, forward); });
}

}  // namespace recurra::RECURRA_LEVEL
