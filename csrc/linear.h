// h_t = a_t h_{t-1} + b_t, elementwise: one loop forward, one backward, over small gate functors.
//
// A functor knows how one step goes (forward: x_t, h_{t-1} -> h_t) and its transpose (backward: the
// gradient of h_t -> those of x_t and h_{t-1}). It computes its gates from x_t both times, so nothing but
// h is ever stored. "Were RNNs All We Needed?", arXiv 2410.01201, sections 3.1 and 3.2.
#pragma once

#include "abi.h"
#include "lanes.h"

namespace recurra::RECURRA_LEVEL {

// ------------------------------------------------------------------------------------ candidates

struct Positive {  // g(k) = k + 1/2 for k >= 0, sigmoid(k) below: its slope jumps at 0 from 1/4 to 1
  template <class T>
  static Value<T> at(Vec<T> k) {
    const Sigmoid<T> s(k);
    const auto below = k < 0;
    return {below ? s.value : k + T(0.5), below ? s.value * s.rest : Vec<T>{} + 1};
  }
};

struct Identity {
  template <class T>
  static Value<T> at(Vec<T> k) {
    return {k, Vec<T>{} + 1};
  }
};

struct Tanh {
  template <class T>
  static Value<T> at(Vec<T> k) {
    const Vec<T> y = tanh<T>(k);
    return {y, 1 - y * y};
  }
};

// ------------------------------------------------------------------------------------ gates

template <class P>
struct Linear {  // x = (a, b)
  using V = typename P::V;
  static constexpr int inputs = 2;
  static V forward(const V* x, V h) { return x[0] * h + x[1]; }
  static V backward(const V* x, V h, V g, V* dx) {
    dx[0] = g * conj(h);
    dx[1] = g;
    return g * conj(x[0]);
  }
};

// keep h + take c, where the two add up to 1, from the one that weighs more: a gate that hardly opens
// rounds nothing of the state, and one that is open lets go of a state of any size.
template <class V>
inline V mix(V h, V c, V keep, V take) {
  const auto open = take > keep;
  const V more = open ? c : h, less = open ? h : c;
  return more + (open ? keep : take) * (less - more);
}

template <class P, class Candidate>
struct MinGru {  // x = (k, zeta)
  using T = typename P::T;
  using V = Vec<T>;
  static constexpr int inputs = 2;
  static V forward(const V* x, V h) {
    const auto c = Candidate::template at<T>(x[0]);
    const Sigmoid<T> z(x[1]);
    return mix<V>(h, c.value, z.rest, z.value);
  }
  static V backward(const V* x, V h, V g, V* dx) {
    const auto c = Candidate::template at<T>(x[0]);
    const Sigmoid<T> z(x[1]);
    dx[0] = g * z.value * c.slope;
    dx[1] = g * (c.value - h) * (z.value * z.rest);
    return g * z.rest;
  }
};

template <class P, class Candidate>
struct MinLstm {  // x = (k, phi, iota), gates f / (f + i) and i / (f + i)
  using T = typename P::T;
  using V = Vec<T>;
  static constexpr int inputs = 3;

  // f/i = (1 + e^-iota) / (1 + e^-phi); each 1 + e^-k is e^max(-k, 0) times a factor in [1, 2], so no
  // input overflows, and two closed gates still have a quotient.
  struct Gates {
    V f, i, f_rest, i_rest;  // normalised gates; 1 - sigmoid(phi), 1 - sigmoid(iota)
    Gates(V phi, V iota) {
      const V e_f = exp<T>(-abs(phi)), e_i = exp<T>(-abs(iota));
      const V p_f = 1 + e_f, p_i = 1 + e_i;
      const V n_f = phi < 0 ? -phi : V{}, n_i = iota < 0 ? -iota : V{};
      const V r = exp<T>(n_f - n_i) * p_f;
      const V inverse = 1 / (p_i + r);
      f = p_i * inverse;
      i = r * inverse;
      f_rest = (phi < 0 ? V{} + 1 : e_f) / p_f;
      i_rest = (iota < 0 ? V{} + 1 : e_i) / p_i;
    }
  };

  static V forward(const V* x, V h) {
    const auto c = Candidate::template at<T>(x[0]);
    const Gates gates(x[1], x[2]);
    return mix<V>(h, c.value, gates.f, gates.i);
  }
  static V backward(const V* x, V h, V g, V* dx) {
    const auto c = Candidate::template at<T>(x[0]);
    const Gates gates(x[1], x[2]);
    const V slope = g * (c.value - h) * (gates.f * gates.i);
    dx[0] = g * gates.i * c.slope;
    dx[1] = -slope * gates.f_rest;
    dx[2] = slope * gates.i_rest;
    return g * gates.f;
  }
};

template <class P, class Candidate>
struct MinLstmUnnormalized {  // x = (k, phi, iota), gates sigmoid(phi) and sigmoid(iota)
  using T = typename P::T;
  using V = Vec<T>;
  static constexpr int inputs = 3;
  static V forward(const V* x, V h) {
    const auto c = Candidate::template at<T>(x[0]);
    return Sigmoid<T>(x[1]).value * h + Sigmoid<T>(x[2]).value * c.value;
  }
  static V backward(const V* x, V h, V g, V* dx) {
    const auto c = Candidate::template at<T>(x[0]);
    const Sigmoid<T> f(x[1]), i(x[2]);
    dx[0] = g * i.value * c.slope;
    dx[1] = g * h * (f.value * f.rest);
    dx[2] = g * c.value * (i.value * i.rest);
    return g * f.value;
  }
};

// ------------------------------------------------------------------------------------ the loop

template <class P, class G>
struct Loop {
  using V = typename P::V;
  using Element = typename P::Element;
  using State = typename P::State;
  static constexpr int kRegisters = 32;  // in a strip, and one more in the last: 2 KiB, well inside L1

  const Scan& s;
  const i64 b, first, width, length;

  Loop(const Scan& scan, i64 row, i64 first_channel, i64 channels)
      : s(scan), b(row), first(first_channel), width(channels),
        length(s.lengths ? most<i64>(0, least(s.lengths[b], s.time)) : s.time) {}

  i64 time(i64 k) const { return s.reverse ? length - 1 - k : k; }

  // The state is forgotten before step t. Read backwards, a cut lies on the other side of a step.
  bool cut(i64 t) const {
    if (!s.reset) return false;
    const i64 at = s.reverse ? t + 1 : t;
    return at < length && s.reset[b * s.time + at];
  }

  Element* row(const View& view, i64 t) const {
    return reinterpret_cast<Element*>(view.data) + b * view.batch + t * view.time + first;
  }

  typename State::Element* state(void* p) const {
    return static_cast<typename State::Element*>(p) + b * s.width + first;
  }

  void clear_padding(const View& view) const {
    for (i64 t = length; t < s.time; ++t) std::memset(row(view, t), 0, width * sizeof(Element));
  }

  void forward() const {
    V h[kRegisters + 1];
    each_window<P>(width, [&](i64 v, i64 c, auto n) { h[v] = load<State>(state(s.h_0) + c, n); });
    for (i64 k = 0; k < length; ++k) {
      const i64 t = time(k);
      const bool forget = cut(t);
      const Element* x[G::inputs];
      for (int i = 0; i < G::inputs; ++i) x[i] = row(s.x[i], t);
      Element* y = row(s.y, t);
      each_window<P>(width, [&](i64 v, i64 c, auto n) {
        V in[G::inputs];
        for (int i = 0; i < G::inputs; ++i) in[i] = load<P>(x[i] + c, n);
        h[v] = G::forward(in, forget ? V{} : h[v]);
        store<P>(y + c, h[v], n);
      });
    }
    each_window<P>(width, [&](i64 v, i64 c, auto n) { store<State>(state(s.h_n) + c, h[v], n); });
    clear_padding(s.y);
  }

  void backward() const {
    V g[kRegisters + 1];
    each_window<P>(width, [&](i64 v, i64 c, auto n) { g[v] = load<State>(state(s.dh_n) + c, n); });
    for (i64 k = length - 1; k >= 0; --k) {
      const i64 t = time(k);
      const bool forget = cut(t);
      const Element *x[G::inputs], *dy = row(s.dy, t), *before = k ? row(s.y, time(k - 1)) : nullptr;
      Element* dx[G::inputs];
      for (int i = 0; i < G::inputs; ++i) x[i] = row(s.x[i], t), dx[i] = row(s.dx[i], t);
      each_window<P>(width, [&](i64 v, i64 c, auto n) {
        V in[G::inputs], d[G::inputs], h{};
        if (!forget) h = before ? load<P>(before + c, n) : load<State>(state(s.h_0) + c, n);
        for (int i = 0; i < G::inputs; ++i) in[i] = load<P>(x[i] + c, n);
        g[v] += load<P>(dy + c, n);
        g[v] = G::backward(in, h, g[v], d);
        if (forget) g[v] = V{};
        for (int i = 0; i < G::inputs; ++i) store<P>(dx[i] + c, d[i], n);
      });
    }
    each_window<P>(width, [&](i64 v, i64 c, auto n) { store<State>(state(s.dh_0) + c, g[v], n); });
    for (int i = 0; i < G::inputs; ++i) clear_padding(s.dx[i]);
  }
};

// ------------------------------------------------------------------------------------ dispatch

template <class P, class G>
inline void run(const Scan& s, bool forward) {
  using L = Loop<P, G>;
  each_strip<P, L::kRegisters>(s.batch, s.width, s.threads, [&](i64 b, i64 first, i64 width) {
    const L loop(s, b, first, width);
    forward ? loop.forward() : loop.backward();
  });
}

template <class P>
inline void run_real(const Scan& s, bool forward) {
  switch (s.gate) {
    case kLinear: return run<P, Linear<P>>(s, forward);
    case kMinGruPositive: return run<P, MinGru<P, Positive>>(s, forward);
    case kMinGruLinear: return run<P, MinGru<P, Identity>>(s, forward);
    case kMinGruTanh: return run<P, MinGru<P, Tanh>>(s, forward);
    case kMinLstmPositive: return run<P, MinLstm<P, Positive>>(s, forward);
    case kMinLstmLinear: return run<P, MinLstm<P, Identity>>(s, forward);
    case kMinLstmTanh: return run<P, MinLstm<P, Tanh>>(s, forward);
    case kMinLstmUnnormalizedPositive: return run<P, MinLstmUnnormalized<P, Positive>>(s, forward);
    case kMinLstmUnnormalizedLinear: return run<P, MinLstmUnnormalized<P, Identity>>(s, forward);
    case kMinLstmUnnormalizedTanh: return run<P, MinLstmUnnormalized<P, Tanh>>(s, forward);
  }
}

inline void scan(const Scan& s, bool forward) {
  switch (s.dtype) {
    case kFloat32: return run_real<Real<float>>(s, forward);
    case kFloat64: return run_real<Real<double>>(s, forward);
    case kBfloat16: return run_real<Real<bf16>>(s, forward);
    case kComplex64: return run<Complex<float>, Linear<Complex<float>>>(s, forward);
    case kComplex128: return run<Complex<double>, Linear<Complex<double>>>(s, forward);
  }
}

}  // namespace recurra::RECURRA_LEVEL
