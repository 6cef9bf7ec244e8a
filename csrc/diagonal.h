// A diagonal state space: h_t = a h_{t-1} + b u_t, y_t = Re(sum_n c h_t) + d u_t, with N complex states a
// channel and a, b, c, d the same at every step (S4D, arXiv 2206.11893, equation 2 discretised).
//
// A register holds neighbouring channels. Time is cut into tiles: in a tile four states after four others
// take all steps, their a, b, c in registers, and y gathers in L1; so nothing with N in it is written at
// every step. The backward pass has a file of its own.
#pragma once

#include <memory>

#include "abi.h"
#include "lanes.h"

namespace recurra::RECURRA_LEVEL {

constexpr i64 kTile = kDiagonalTile;

template <class P>
struct DiagonalLoop {
  using State = typename P::State;
  using T = typename P::T;
  using V = typename P::V;
  using C = ComplexVec<T>;
  using Number = typename State::Element;
  using Element = typename P::Element;

  const Diagonal& s;
  const i64 b, first, length;

  DiagonalLoop(const Diagonal& diagonal, i64 row, i64 channel)
      : s(diagonal), b(row), first(channel),
        length(s.lengths ? most<i64>(0, least(s.lengths[b], s.time)) : s.time) {}

  bool cut(i64 t) const { return s.reset && s.reset[b * s.time + t]; }
  // Where the steps from t on that share their past end, before `end`.
  i64 uncut(i64 t, i64 end) const {
    do ++t;
    while (t < end && !cut(t));
    return t;
  }
  i64 tiles() const { return (length + kTile - 1) / kTile; }
  i64 steps(i64 tile) const { return least(kTile, length - tile * kTile); }

  Element* row(const View& view, i64 t) const {
    return reinterpret_cast<Element*>(view.data) + b * view.batch + t * view.time + first;
  }
  // Number `r` of rows of channels.
  Number* plane(void* p, i64 r) const { return static_cast<Number*>(p) + r * s.width + first; }

  template <class N>
  C complex(void* p, i64 r, N n) const {
    return {load_ahead<State>(plane(p, 2 * r), n), load_ahead<State>(plane(p, 2 * r + 1), n)};
  }
  template <class N>
  void keep(void* p, i64 r, C value, N n) const {
    store_ahead<State>(plane(p, 2 * r), value.re, n);
    store_ahead<State>(plane(p, 2 * r + 1), value.im, n);
  }
  // a, b, c of state i.
  template <class N>
  C parameter(i64 i, i64 which, N n) const {
    return complex(s.parameters, 3 * i + which, n);
  }

  static C advance(C a, C in, V u, C h) {
    return {a.re * h.re + (in.re * u - a.im * h.im), a.im * h.re + (in.im * u + a.re * h.im)};
  }

  template <class N>
  void clear_padding(const View& view, N n) const {
    for (i64 t = length; t < s.time; ++t) store<P>(row(view, t), V{}, n);
  }

  // States i .. i + K - 1 through one tile; four at once hide the latency of the products.
  template <int K, class N>
  void forward_states(i64 i, i64 begin, i64 count, const V* u, V* y, C* h, N n) const {
    C a[K], in[K], out[K], now[K];
    for (int k = 0; k < K; ++k) {
      a[k] = parameter(i + k, 0, n), in[k] = parameter(i + k, 1, n), out[k] = parameter(i + k, 2, n);
      now[k] = h[i + k];
    }
    for (i64 t = 0; t < count;) {
      if (cut(begin + t)) for (C& forgotten : now) forgotten = C{};
      for (const i64 end = uncut(begin + t, begin + count) - begin; t < end; ++t) {
        V sum = y[t];
        for (int k = 0; k < K; ++k) {
          now[k] = advance(a[k], in[k], u[t], now[k]);
          sum += out[k].re * now[k].re;
          sum -= out[k].im * now[k].im;
        }
        y[t] = sum;
      }
    }
    for (int k = 0; k < K; ++k) h[i + k] = now[k];
  }

  template <class N>
  void forward_tile(i64 tile, V* u, V* y, C* h, N n) const {
    const i64 begin = tile * kTile, count = steps(tile);
    const V skip = load<State>(plane(s.skip, 0), n);
    for (i64 t = 0; t < count; ++t) u[t] = load<P>(row(s.u, begin + t), n), y[t] = skip * u[t];
    i64 i = 0;
    for (; i + 4 <= s.states; i += 4) forward_states<4>(i, begin, count, u, y, h, n);
    for (; i < s.states; ++i) forward_states<1>(i, begin, count, u, y, h, n);
  }

  template <class N>
  void forward(C* h, N n) const {
    V u[kTile], y[kTile];
    for (i64 i = 0; i < s.states; ++i) h[i] = complex(s.h_0, b * s.states + i, n);
    for (i64 tile = 0; tile < tiles(); ++tile) {
      forward_tile(tile, u, y, h, n);
      for (i64 t = 0; t < steps(tile); ++t) store<P>(row(s.y, tile * kTile + t), y[t], n);
    }
    for (i64 i = 0; i < s.states; ++i) keep(s.h_n, b * s.states + i, h[i], n);
    clear_padding(s.y, n);
  }
};

template <class P>
inline void run_diagonal_forward(const Diagonal& s) {
  using C = ComplexVec<typename P::T>;
  each_strip<P, 1>(s.batch, s.width, s.threads, [&](i64 b, i64 first, i64 width) {
    const std::unique_ptr<C[]> h(new C[s.states]);
    each_window<P>(width, [&](i64, i64 c, auto n) { DiagonalLoop<P>(s, b, first + c).forward(h.get(), n); });
  });
}

}  // namespace recurra::RECURRA_LEVEL
