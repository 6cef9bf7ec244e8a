// A state space whose matrix is diagonal minus rank one: h_t = a h_{t-1} - q s_{t-1} + b u_t, with
// s_t = Re(sum_n m h_t), and y_t = Re(sum_n c h_t) + d u_t (S4, arXiv 2111.00396, discretised).
//
// A register holds neighbouring channels. What feeds back joins all states of a channel at every step: time
// is the outer loop, and the states the inner one, which stay in L1. Read backwards, the gradients are a
// system of the same kind. The backward pass notes h where tiles begin, and takes a tile's steps again.
#pragma once

#include <memory>

#include "diagonal.h"

namespace recurra::RECURRA_LEVEL {

template <class P>
struct DplrLoop : DiagonalLoop<P> {
  using Base = DiagonalLoop<P>;
  using Base::b, Base::cut, Base::length, Base::s, Base::steps, Base::tiles;
  using State = typename P::State;
  using V = typename P::V;
  using C = ComplexVec<typename P::T>;
  static constexpr i64 kParts = 5;

  struct System {
    C a, b, c, q, m;
  };
  struct Read {
    V y, feedback;
  };

  // What belongs to a register of channels; rows of as many numbers as there are states.
  struct Room {
    const i64 states;
    const std::unique_ptr<System[]> system{new System[states]}, adjoint{new System[states]};
    const std::unique_ptr<System[]> gradients{new System[states]()};
    const std::unique_ptr<C[]> zeros{new C[states]()};
    const std::unique_ptr<C[]> h{new C[(kTile + 1) * states]}, g{new C[(kTile + 1) * states]};
    V u[kTile], dy[kTile], fed[kTile], back[kTile];
    explicit Room(i64 count) : states(count) {}
  };
  Room& room;

  DplrLoop(const Diagonal& dplr, i64 batch_row, i64 channel, Room& memory)
      : Base(dplr, batch_row, channel), room(memory) {}

  // Where scratch [batch, tiles, states] holds h at the beginning of a tile.
  i64 note(i64 tile) const { return (b * ((s.time + kTile - 1) / kTile) + tile) * s.states; }
  C* zeros() const { return room.zeros.get(); }
  C* h(i64 j) const { return room.h.get() + j * s.states; }  // before step j of a tile, whether forgotten or not
  C* g(i64 j) const { return room.g.get() + j * s.states; }  // the gradient of what step j makes

  template <class N>
  void get(void* p, i64 at, C* numbers, N n) const {
    for (i64 i = 0; i < s.states; ++i) numbers[i] = Base::complex(p, at + i, n);
  }
  template <class N>
  void put(void* p, i64 at, const C* numbers, N n) const {
    for (i64 i = 0; i < s.states; ++i) Base::keep(p, at + i, numbers[i], n);
  }
  template <class N>
  void load_systems(N n) const {
    for (i64 i = 0; i < s.states; ++i) {
      C x[kParts];
      for (i64 which = 0; which < kParts; ++which) x[which] = Base::complex(s.parameters, kParts * i + which, n);
      room.system[i] = {x[0], x[1], x[2], x[3], x[4]};
      room.adjoint[i] = {conj(x[0]), conj(x[2]), conj(x[1]), conj(x[4]), conj(x[3])};
    }
  }

  // to = a from - q fed + b u, or from + b u without moving; and what is read of it.
  template <bool kMoves>
  Read step(const System* system, const C* from, C* to, V u, V fed) const {
    C y{}, next{};
    for (i64 i = 0; i < s.states; ++i) {
      const System& k = system[i];
      C x = from[i];
      if (kMoves) {
        x = {k.a.re * x.re - k.a.im * x.im - k.q.re * fed, k.a.im * x.re + k.a.re * x.im - k.q.im * fed};
      }
      x.re += k.b.re * u, x.im += k.b.im * u;
      y.re += k.c.re * x.re, y.im += k.c.im * x.im;
      next.re += k.m.re * x.re, next.im += k.m.im * x.im;
      to[i] = x;
    }
    return {y.re - y.im, next.re - next.im};
  }
  Read move(i64 t, const C* from, C* to, V u, V& fed) const {
    if (cut(t)) from = zeros(), fed = V{};
    return step<true>(room.system.get(), from, to, u, fed);
  }
  V feedback(C* x) const { return step<false>(room.system.get(), x, x, V{}, V{}).feedback; }

  // -------------------------------------------------------------------------- forward

  template <class N>
  void forward(N n) const {
    load_systems(n);
    get(s.h_0, b * s.states, h(0), n);
    const V skip = load<State>(Base::plane(s.skip, 0), n);
    V fed = feedback(h(0));
    for (i64 t = 0; t < length; ++t) {
      const V u = load<P>(Base::row(s.u, t), n);
      const Read read = move(t, h(0), h(0), u, fed);
      store<P>(Base::row(s.y, t), read.y + skip * u, n);
      fed = read.feedback;
    }
    put(s.h_n, b * s.states, h(0), n);
    Base::clear_padding(s.y, n);
  }

  // -------------------------------------------------------------------------- backward

  // The steps of a tile once more, from the note of its beginning.
  template <class N>
  void fill(i64 tile, N n) const {
    get(s.scratch, note(tile), h(0), n);
    V fed = feedback(h(0));
    for (i64 j = 0; j < steps(tile); ++j) {
      const i64 t = tile * kTile + j;
      room.u[j] = load<P>(Base::row(s.u, t), n);
      const Read read = move(t, h(j), h(j + 1), room.u[j], fed);
      room.fed[j] = fed;  // as step t saw it
      fed = read.feedback;
    }
  }

  template <class N>
  void take_notes(N n) const {
    get(s.h_0, b * s.states, h(0), n);
    for (i64 tile = 0; tile < tiles(); ++tile) {
      put(s.scratch, note(tile), h(tile ? kTile : 0), n);
      if (tile + 1 < tiles()) fill(tile, n);
    }
  }

  // The gradients g of a tile's states, from that behind it in g(kTile); what went back in front of it.
  template <class N>
  void pull(i64 tile, V skip, V& dskip, N n) const {
    V back = tile + 1 < tiles() ? room.back[0] : V{};
    const C* from = g(kTile);
    for (i64 j = steps(tile) - 1; j >= 0; --j) {
      const i64 t = tile * kTile + j;
      const V dy = load<P>(Base::row(s.dy, t), n);
      Read read;
      if (t == length - 1) {
        read = step<false>(room.adjoint.get(), from, g(j), dy, V{});
      } else {
        if (cut(t + 1)) from = zeros(), back = V{};
        read = step<true>(room.adjoint.get(), from, g(j), dy, back);
      }
      store<P>(Base::row(s.du, t), read.y + skip * dy, n);
      dskip += dy * room.u[j];
      room.dy[j] = dy, room.back[j] = back = read.feedback;
      from = g(j);
    }
  }

  // What a tile adds to the gradients of the parameters of state i.
  void gather(i64 i, i64 tile) const {
    System sum = room.gradients[i];
    C before = h(0)[i];
    for (i64 j = 0; j < steps(tile); ++j) {
      const C now = h(j + 1)[i], x = g(j)[i];
      if (cut(tile * kTile + j)) before = C{};
      sum.a += x * conj(before);
      sum.b.re += x.re * room.u[j], sum.b.im += x.im * room.u[j];
      sum.c.re += now.re * room.dy[j], sum.c.im -= now.im * room.dy[j];
      sum.q.re -= x.re * room.fed[j], sum.q.im -= x.im * room.fed[j];
      sum.m.re -= before.re * room.back[j], sum.m.im += before.im * room.back[j];
      before = now;
    }
    room.gradients[i] = sum;
  }

  template <class N>
  void backward(N n) const {
    load_systems(n);
    take_notes(n);
    for (i64 i = 0; i < s.states; ++i) room.gradients[i] = System{};
    get(s.dh_n, b * s.states, g(kTile), n);
    const V skip = load<State>(Base::plane(s.skip, 0), n);
    V dskip{};
    for (i64 tile = tiles() - 1; tile >= 0; --tile) {
      fill(tile, n);
      pull(tile, skip, dskip, n);
      for (i64 i = 0; i < s.states; ++i) gather(i, tile);
      for (i64 i = 0; i < s.states; ++i) g(kTile)[i] = g(0)[i];
    }
    finish(dskip, n);
  }

  template <class N>
  void finish(V dskip, N n) const {
    if (length) {
      const bool forget = cut(0);
      const C* const from = forget ? zeros() : g(kTile);
      step<true>(room.adjoint.get(), from, g(kTile), V{}, forget ? V{} : room.back[0]);
    }
    put(s.dh_0, b * s.states, g(kTile), n);
    for (i64 i = 0; i < s.states; ++i) {
      const System& d = room.gradients[i];
      const C parts[kParts] = {d.a, d.b, d.c, d.q, d.m};
      const i64 at = kParts * (b * s.states + i);
      for (i64 which = 0; which < kParts; ++which) Base::keep(s.dparameters, at + which, parts[which], n);
    }
    store<State>(Base::plane(s.dskip, b), dskip, n);
    Base::clear_padding(s.du, n);
  }
};

template <class P>
inline void run_dplr(const Diagonal& s, bool forward) {
  each_strip<P, 1>(s.batch, s.width, s.threads, [&](i64 b, i64 first, i64 width) {
    const std::unique_ptr<typename DplrLoop<P>::Room> room(new typename DplrLoop<P>::Room(s.states));
    each_window<P>(width, [&](i64, i64 c, auto n) {
      const DplrLoop<P> loop(s, b, first + c, *room);
      forward ? loop.forward(n) : loop.backward(n);
    });
  });
}

inline void dplr(const Diagonal& s, bool forward) {
  by_dtype(s.dtype, [&](auto p) { run_dplr<decltype(p)>(s, forward); });
}

}  // namespace recurra::RECURRA_LEVEL
