// Causal depthwise convolution: y_t = bias + sum_j w_j x_{t-K+1+j}, no tap reaching across a cut.
#pragma once

#include "abi.h"
#include "lanes.h"

namespace recurra::RECURRA_LEVEL {

constexpr i64 kMaxTaps = 16;

template <class P>
struct ConvLoop {
  using V = typename P::V;
  using Element = typename P::Element;
  using State = typename P::State;
  using Number = typename State::Element;
  static constexpr int kRegisters = 16, kUsual = 4;

  const Conv& s;
  const i64 b, first, width, length, history;

  ConvLoop(const Conv& conv, i64 row, i64 first_channel, i64 channels)
      : s(conv), b(row), first(first_channel), width(channels),
        length(s.lengths ? most<i64>(0, least(s.lengths[b], s.time)) : s.time), history(s.taps - 1) {}

  bool cut(i64 t) const { return s.reset && t >= 0 && t < length && s.reset[b * s.time + t]; }

  Element* row(const View& view, i64 t) const {
    return reinterpret_cast<Element*>(view.data) + b * view.batch + t * view.time + first;
  }
  // Rows of [batch, rows, width] in the state's dtype.
  Number* row(void* p, i64 rows, i64 r) const {
    return static_cast<Number*>(p) + (b * rows + r) * s.width + first;
  }
  const Number* shared(void* p, i64 r) const { return static_cast<Number*>(p) + r * s.width + first; }

  // The input at step u, which lies in the state for u < 0.
  template <class N>
  V input(i64 u, i64 c, N n) const {
    return u < 0 ? load<State>(row(s.state, history, u + history) + c, n) : load<P>(row(s.x, u) + c, n);
  }

  void clear_padding(const View& view) const {
    for (i64 t = length; t < s.time; ++t) std::memset(row(view, t), 0, width * sizeof(Element));
  }

  // A step whose taps all lie in the input, as many as most blocks have.
  void forward_usual(i64 t) const {
    const Element* const x = row(s.x, t - history);
    const Number* const weight = shared(s.weight, 0);
    each_register<P>(width, [&](i64, i64 c, auto n) {
      V sum = s.bias ? load<State>(shared(s.bias, 0) + c, n) : V{};
      for (int j = 0; j < kUsual; ++j)
        sum += load<State>(weight + j * s.width + c, n) * load<P>(x + j * s.x.time + c, n);
      store<P>(row(s.y, t) + c, sum, n);
    });
  }

  void forward() const {
    i64 begin = -history;  // the first step that is remembered
    for (i64 t = 0; t < length; ++t) {
      if (cut(t)) begin = t;
      const i64 from = most(begin, t - history);
      if (s.taps == kUsual && from >= 0 && from == t - history) {
        forward_usual(t);
        continue;
      }
      each_register<P>(width, [&](i64, i64 c, auto n) {
        V sum = s.bias ? load<State>(shared(s.bias, 0) + c, n) : V{};
        for (i64 u = from; u <= t; ++u) sum += load<State>(shared(s.weight, u - t + history) + c, n) * input(u, c, n);
        store<P>(row(s.y, t) + c, sum, n);
      });
    }
    for (i64 i = 0; i < history; ++i) {
      const i64 u = length - history + i;
      each_register<P>(width, [&](i64, i64 c, auto n) {
        store<State>(row(s.state_n, history, i) + c, u < begin ? V{} : input(u, c, n), n);
      });
    }
    clear_padding(s.y);
  }

  void backward() const {
    V dweight[kMaxTaps][kRegisters + 1] = {}, dbias[kRegisters + 1] = {};
    i64 end = length;  // the step before which u is forgotten
    bool kept = true;  // u is still remembered when the row ends
    for (i64 u = length - 1; u >= -history; --u) {
      const i64 to = least(end, u + s.taps), saved = u - (length - history);
      each_register<P>(width, [&](i64 v, i64 c, auto n) {
        V sum = kept && saved >= 0 ? load<State>(row(s.dstate_n, history, saved) + c, n) : V{};
        const V in = input(u, c, n);
        for (i64 t = most<i64>(u, 0); t < to; ++t) {
          const V dy = load<P>(row(s.dy, t) + c, n);
          const i64 tap = u - t + history;
          sum += load<State>(shared(s.weight, tap) + c, n) * dy;
          dweight[tap][v] += in * dy;
        }
        if (u < 0) return store<State>(row(s.dstate, history, u + history) + c, sum, n);
        dbias[v] += load<P>(row(s.dy, u) + c, n);
        store<P>(row(s.dx, u) + c, sum, n);
      });
      if (cut(u)) end = u, kept = false;
    }
    each_register<P>(width, [&](i64 v, i64 c, auto n) {
      for (i64 j = 0; j < s.taps; ++j) store<State>(row(s.dweight, s.taps, j) + c, dweight[j][v], n);
      store<State>(row(s.dbias, 1, 0) + c, dbias[v], n);
    });
    clear_padding(s.dx);
  }
};

template <class P>
inline void run_conv_step(const ConvStep& s) {
  using Element = typename P::Element;
  using State = typename P::State;
  using Number = typename State::Element;
  const Element *weight = static_cast<const Element*>(s.weight), *bias = static_cast<const Element*>(s.bias);
  const i64 history = s.taps - 1;
  for (i64 b = 0; b < s.batch; ++b) {
    const Element* x = static_cast<const Element*>(s.x.data) + b * s.x.stride;
    const Number* before = static_cast<const Number*>(s.state) + b * history * s.width;
    Number* after = static_cast<Number*>(s.state_n) + b * history * s.width;
    each_register<P>(s.width, [&](i64, i64 c, auto n) {
      const auto now = load<P>(x + c, n);
      auto sum = load<P>(weight + history * s.width + c, n) * now;
      if (bias) sum += load<P>(bias + c, n);
      for (i64 j = 0; j < history; ++j) {
        const auto past = load<State>(before + j * s.width + c, n);
        sum += load<P>(weight + j * s.width + c, n) * past;
        if (j) store<State>(after + (j - 1) * s.width + c, past, n);
      }
      if (history) store<State>(after + (history - 1) * s.width + c, now, n);
      store<P>(static_cast<Element*>(s.y) + b * s.width + c, sum, n);
    });
  }
}

inline void conv_step(const ConvStep& s) {
  by_dtype(s.dtype, [&](auto p) { run_conv_step<decltype(p)>(s); });
}

template <class P>
inline void run_conv(const Conv& s, bool forward) {
  // Forward nothing is held of a strip, so that it may be whole rows.
  if (forward)
    return each_strip<P, 1 << 16>(s.batch, s.width, s.threads,
                                  [&](i64 b, i64 first, i64 width) { ConvLoop<P>(s, b, first, width).forward(); });
  each_strip<P, ConvLoop<P>::kRegisters>(s.batch, s.width, s.threads, [&](i64 b, i64 first, i64 width) {
    ConvLoop<P>(s, b, first, width).backward();
  });
}

inline void conv(const Conv& s, bool forward) {
  by_dtype(s.dtype, [&](auto p) { run_conv<decltype(p)>(s, forward); });
}

}  // namespace recurra::RECURRA_LEVEL
