// y_n = W_n x_n for four channels at a time: the projections of an mLSTM (arXiv 2405.04517, figure 11). As
// products of matrices they would be too small to be worth a call, or nearly all zeros.
//
// As many blocks as fill a register go side by side, with their weights turned to suit it; what is left over
// goes one by one.
#pragma once

#include <vector>

#include "abi.h"
#include "lanes.h"

namespace recurra::RECURRA_LEVEL {

template <class P>
struct FoursLoop {
  using T = typename P::T;
  using V = typename P::V;
  using Element = typename P::Element;
  static constexpr i64 kAtOnce = 8;  // rows for which a block is read once: as many streams as a core follows
  static constexpr i64 kBeside = P::lanes / 4;  // blocks in a register, none where it is too small

  struct Quad {
    T v[4];
    Quad& add(T factor, const Quad& x) {
      for (int i = 0; i < 4; ++i) v[i] += factor * x.v[i];
      return *this;
    }
  };

  const Fours& s;
  const i64 groups = s.blocks / most<i64>(1, kBeside) * least<i64>(1, kBeside);

  // Of the weights of all groups, or of their gradients: [parts, groups, 4, lanes].
  i64 turned_size() const { return s.parts * groups * 4 * P::lanes; }

  // f(place in turned, part, block, place in it): in one register, of each of its blocks, the weights of one
  // input (forward) or of one output.
  template <class F>
  void each_turned(bool forward, F f) const {
    i64 place = 0;
    for (i64 part = 0; part < s.parts; ++part)
      for (i64 group = 0; group < groups; ++group)
        for (i64 one = 0; one < 4; ++one)
          for (i64 lane = 0; lane < P::lanes; ++lane)
            f(place++, part, group * kBeside + lane / 4, forward ? 4 * (lane % 4) + one : 4 * one + lane % 4);
  }
  std::vector<T> turn(bool forward) const {
    std::vector<T> turned(turned_size());
    each_turned(forward, [&](i64 place, i64 part, i64 n, i64 i) { turned[place] = P::get(weight(part, n) + i); });
    return turned;
  }

  struct Spread {
    V v[4];
    explicit Spread(V x) {
      constexpr auto lanes = std::make_integer_sequence<int, P::lanes>();
      v[0] = spread<T, 0>(x, lanes), v[1] = spread<T, 1>(x, lanes), v[2] = spread<T, 2>(x, lanes), v[3] = spread<T, 3>(x, lanes);
    }
  };
  struct Weights {
    V v[4];
    explicit Weights(const T* p) {
      for (int i = 0; i < 4; ++i) v[i] = Real<T>::load(p + i * P::lanes);
    }
  };
  i64 place(i64 part, i64 group) const { return (part * groups + group) * 4 * P::lanes; }

  void forward_group(i64 from, i64 to, i64 part, i64 group, const T* turned) const {
    const Weights w(turned + place(part, group));
    for (i64 r = from; r < to; ++r) {
      const Spread x(P::load(at(s.x, r, group * kBeside)));
      V y{};
      for (int i = 0; i < 4; ++i) y += x.v[i] * w.v[i];
      P::store(out(r, part, group * kBeside), y);
    }
  }

  void backward_group(i64 from, i64 to, i64 group, const T* turned, T* dturned) const {
    V dx[kAtOnce] = {};
    for (i64 part = 0; part < s.parts; ++part) {
      T* const sums = dturned + place(part, group);
      const Weights w(turned + place(part, group));
      Weights dw(sums);
      for (i64 r = from; r < to; ++r) {
        const Spread dy(P::load(out(r, part, group * kBeside)));
        const V x = P::load(at(s.x, r, group * kBeside));
        for (int o = 0; o < 4; ++o) dx[r - from] += dy.v[o] * w.v[o], dw.v[o] += dy.v[o] * x;
      }
      for (int o = 0; o < 4; ++o) Real<T>::store(sums + o * P::lanes, dw.v[o]);
    }
    for (i64 r = from; r < to; ++r) P::store(at(s.dx, r, group * kBeside), dx[r - from]);
  }

  static Quad get(const Element* p) {
    if constexpr (sizeof(Element) == sizeof(T)) return {p[0], p[1], p[2], p[3]};
    else return bit_cast<Quad>(widen<16>(p));
  }
  static void put(Element* p, const Quad& x) {
    if constexpr (sizeof(Element) == sizeof(T)) std::memcpy(p, &x, sizeof x);
    else narrow<16>(p, bit_cast<VecOf<float, 16>::type>(x));
  }

  static Element* at(const Rows& rows, i64 r, i64 n) { return static_cast<Element*>(rows.data) + r * rows.stride + 4 * n; }
  Element* out(i64 r, i64 part, i64 n) const { return at(s.y, r, part * s.blocks + n); }
  const Element* weight(i64 part, i64 n) const { return static_cast<Element*>(s.weight) + 16 * (part * s.blocks + n); }
  T* dweight(i64 row, i64 part, i64 n) const {
    return static_cast<T*>(s.dweight) + 16 * ((row / kFoursRows * s.parts + part) * s.blocks + n);
  }

  void forward(i64 from, i64 to, i64 part, i64 n) const {
    const Element* const w = weight(part, n);
    const auto column = [w](int i) { return Quad{P::get(w + i), P::get(w + 4 + i), P::get(w + 8 + i), P::get(w + 12 + i)}; };
    const Quad columns[4] = {column(0), column(1), column(2), column(3)};
    for (i64 r = from; r < to; ++r) {
      const Quad x = get(at(s.x, r, n));
      Quad y{};
      for (int i = 0; i < 4; ++i) y.add(x.v[i], columns[i]);
      put(out(r, part, n), y);
    }
  }

  void input_backward(i64 from, i64 to, i64 n) const {
    Quad dx[kAtOnce] = {};
    for (i64 part = 0; part < s.parts; ++part) {
      const Element* const w = weight(part, n);
      const Quad rows[4] = {get(w), get(w + 4), get(w + 8), get(w + 12)};
      for (i64 r = from; r < to; ++r) {
        const Quad dy = get(out(r, part, n));
        for (int o = 0; o < 4; ++o) dx[r - from].add(dy.v[o], rows[o]);
      }
    }
    for (i64 r = from; r < to; ++r) put(at(s.dx, r, n), dx[r - from]);
  }

  void weight_backward(i64 from, i64 to, i64 part, i64 n) const {
    Quad dw[4];
    std::memcpy(dw, dweight(from, part, n), sizeof dw);
    for (i64 r = from; r < to; ++r) {
      const Quad x = get(at(s.x, r, n)), dy = get(out(r, part, n));
      for (int o = 0; o < 4; ++o) dw[o].add(dy.v[o], x);
    }
    std::memcpy(dweight(from, part, n), dw, sizeof dw);
  }

  void forward(i64 from, i64 to, const T* turned) const {
    if constexpr (kBeside > 0)
      for (i64 group = 0; group < groups; ++group)
        for (i64 part = 0; part < s.parts; ++part) forward_group(from, to, part, group, turned);
    for (i64 n = groups * kBeside; n < s.blocks; ++n)
      for (i64 part = 0; part < s.parts; ++part) forward(from, to, part, n);
  }

  void backward(i64 from, i64 to, const T* turned, T* dturned) const {
    if constexpr (kBeside > 0)
      for (i64 group = 0; group < groups; ++group) backward_group(from, to, group, turned, dturned);
    for (i64 n = groups * kBeside; n < s.blocks; ++n) {
      input_backward(from, to, n);
      for (i64 part = 0; part < s.parts; ++part) weight_backward(from, to, part, n);
    }
  }

  void rows(i64 from, i64 end, bool is_forward, const T* turned) const {
    std::vector<T> dturned(is_forward ? 0 : turned_size());
    if (!is_forward) std::memset(dweight(from, 0, 0), 0, 16 * s.parts * s.blocks * sizeof(T));
    for (i64 r = from; r < end; r += kAtOnce) {
      const i64 to = least(end, r + kAtOnce);
      is_forward ? forward(r, to, turned) : backward(r, to, turned, dturned.data());
    }
    if (is_forward) return;
    each_turned(false, [&](i64 place, i64 part, i64 n, i64 i) { dweight(from, part, n)[i] = dturned[place]; });
  }
};

template <class P>
inline void run_fours(const Fours& s, bool forward) {
  const FoursLoop<P> loop{s};
  const auto turned = loop.turn(forward);
  parallel((s.rows + kFoursRows - 1) / kFoursRows, s.threads, [&](i64 task) {
    loop.rows(task * kFoursRows, least(s.rows, (task + 1) * kFoursRows), forward, turned.data());
  });
}

inline void fours(const Fours& s, bool forward) {
  by_dtype(s.dtype, [&](auto p) { run_fours<decltype(p)>(s, forward); });
}

}  // namespace recurra::RECURRA_LEVEL
