// A diagonal state space: h_t = a h_{t-1} + b u_t, y_t = Re(sum_n c h_t) + d u_t, with N complex states a
// channel and a, b, c, d the same at every step (S4D, arXiv 2206.11893, equation 2 discretised).
//
// A register holds neighbouring channels. Time is cut into tiles: in a tile one pair of states after the
// other takes all steps, its a, b, c in registers, and y gathers in L1; so nothing with N in it is written
// at every step. The backward pass notes h where tiles begin, and computes it again inside them.
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

  // States i .. i + K - 1 through one tile; two at once hide the latency of the products.
  template <int K, class N>
  void forward_states(i64 i, i64 begin, i64 count, const V* u, V* y, C* h, N n) const {
    C a[K], in[K], out[K], now[K];
    for (int k = 0; k < K; ++k) {
      a[k] = parameter(i + k, 0, n), in[k] = parameter(i + k, 1, n), out[k] = parameter(i + k, 2, n);
      now[k] = h[i + k];
    }
    for (i64 t = 0; t < count; ++t) {
      const bool forget = cut(begin + t);
      V sum = y[t];
      for (int k = 0; k < K; ++k) {
        now[k] = advance(a[k], in[k], u[t], forget ? C{} : now[k]);
        sum += out[k].re * now[k].re;
        sum -= out[k].im * now[k].im;
      }
      y[t] = sum;
    }
    for (int k = 0; k < K; ++k) h[i + k] = now[k];
  }

  template <class N>
  void forward_tile(i64 tile, V* u, V* y, C* h, N n) const {
    const i64 begin = tile * kTile, count = steps(tile);
    const V skip = load<State>(plane(s.skip, 0), n);
    for (i64 t = 0; t < count; ++t) u[t] = load<P>(row(s.u, begin + t), n), y[t] = skip * u[t];
    i64 i = 0;
    for (; i + 2 <= s.states; i += 2) forward_states<2>(i, begin, count, u, y, h, n);
    if (i < s.states) forward_states<1>(i, begin, count, u, y, h, n);
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

  // What a tile's steps are to the gradients of one state: g comes from the steps behind the tile.
  template <class N>
  void backward_state(i64 i, i64 tile, const V* u, const V* dy, V* du, C* gradients, N n) const {
    const C a = parameter(i, 0, n), in = parameter(i, 1, n), out = parameter(i, 2, n);
    const i64 begin = tile * kTile, count = steps(tile);
    C h[kTile + 1];  // h[t] before step t of the tile, whether forgotten or not
    h[0] = complex(s.scratch, note(tile, i), n);
    for (i64 t = 0; t < count; ++t) h[t + 1] = advance(a, in, u[t], cut(begin + t) ? C{} : h[t]);
    C g = gradients[0], da = gradients[1], din = gradients[2], dout = gradients[3];
    for (i64 t = count - 1; t >= 0; --t) {
      const bool forget = cut(begin + t);
      g.re += out.re * dy[t];
      g.im -= out.im * dy[t];
      dout.re += h[t + 1].re * dy[t];
      dout.im -= h[t + 1].im * dy[t];
      din.re += g.re * u[t];
      din.im += g.im * u[t];
      du[t] += in.re * g.re + in.im * g.im;
      if (!forget) da += g * conj(h[t]);
      g = forget ? C{} : C{a.re * g.re + a.im * g.im, a.re * g.im - a.im * g.re};
    }
    gradients[0] = g, gradients[1] = da, gradients[2] = din, gradients[3] = dout;
  }

  // Where scratch [batch, tiles, states] holds h at the beginning of a tile.
  i64 note(i64 tile, i64 i) const {
    return (b * ((s.time + kTile - 1) / kTile) + tile) * s.states + i;
  }

  template <class N>
  void take_notes(C* h, N n) const {
    V u[kTile], y[kTile];
    for (i64 i = 0; i < s.states; ++i) h[i] = complex(s.h_0, b * s.states + i, n);
    for (i64 tile = 0; tile < tiles(); ++tile) {
      for (i64 i = 0; i < s.states; ++i) keep(s.scratch, note(tile, i), h[i], n);
      if (tile + 1 < tiles()) forward_tile(tile, u, y, h, n);
    }
  }

  // gradients: those of h, a, b, c for each state.
  template <class N>
  void backward(C* gradients, N n) const {
    V u[kTile], dy[kTile], du[kTile], dskip{};
    const V skip = load<State>(plane(s.skip, 0), n);
    for (i64 i = 0; i < s.states; ++i) {
      gradients[4 * i] = complex(s.dh_n, b * s.states + i, n);
      gradients[4 * i + 1] = gradients[4 * i + 2] = gradients[4 * i + 3] = C{};
    }
    for (i64 tile = tiles() - 1; tile >= 0; --tile) {
      const i64 begin = tile * kTile, count = steps(tile);
      for (i64 t = 0; t < count; ++t) {
        u[t] = load<P>(row(s.u, begin + t), n), dy[t] = load<P>(row(s.dy, begin + t), n);
        du[t] = skip * dy[t];
        dskip += u[t] * dy[t];
      }
      for (i64 i = 0; i < s.states; ++i) backward_state(i, tile, u, dy, du, gradients + 4 * i, n);
      for (i64 t = 0; t < count; ++t) store<P>(row(s.du, begin + t), du[t], n);
    }
    for (i64 i = 0; i < s.states; ++i) {
      const i64 at = b * s.states + i;
      keep(s.dh_0, at, gradients[4 * i], n);
      for (i64 which = 0; which < 3; ++which) keep(s.dparameters, 3 * at + which, gradients[4 * i + 1 + which], n);
    }
    store<State>(plane(s.dskip, b), dskip, n);
    clear_padding(s.du, n);
  }
};

template <class P>
inline void run_diagonal(const Diagonal& s, bool forward) {
  each_strip<P, 1>(s.batch, s.width, s.threads, [&](i64 b, i64 first, i64 width) {
    const std::unique_ptr<ComplexVec<typename P::T>[]> room(new ComplexVec<typename P::T>[4 * s.states]);
    each_window<P>(width, [&](i64, i64 c, auto n) {
      const DiagonalLoop<P> loop(s, b, first + c);
      if (forward) return loop.forward(room.get(), n);
      loop.take_notes(room.get(), n);
      loop.backward(room.get(), n);
    });
  });
}

inline void diagonal(const Diagonal& s, bool forward) {
  switch (s.dtype) {
    case kFloat32: return run_diagonal<Real<float>>(s, forward);
    case kFloat64: return run_diagonal<Real<double>>(s, forward);
    case kBfloat16: return run_diagonal<Real<bf16>>(s, forward);
  }
}

}  // namespace recurra::RECURRA_LEVEL
