// y_n = W_n x_n for four channels at a time: the projections of an mLSTM (arXiv 2405.04517, figure 11). As
// products of matrices they would be too small to be worth a call, or nearly all zeros.
#pragma once

#include "abi.h"
#include "lanes.h"

namespace recurra::RECURRA_LEVEL {

template <class P>
struct FoursLoop {
  using T = typename P::T;
  using Element = typename P::Element;
  static constexpr i64 kAtOnce = 8;  // rows for which a block is read once: as many streams as a core follows

  struct Quad {
    T v[4];
    Quad& add(T factor, const Quad& x) {
      for (int i = 0; i < 4; ++i) v[i] += factor * x.v[i];
      return *this;
    }
  };

  const Fours& s;

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

  void rows(i64 from, i64 end, bool is_forward) const {
    if (!is_forward) std::memset(dweight(from, 0, 0), 0, 16 * s.parts * s.blocks * sizeof(T));
    for (; from < end; from += kAtOnce) {
      const i64 to = least(end, from + kAtOnce);
      for (i64 n = 0; n < s.blocks; ++n) {
        if (!is_forward) input_backward(from, to, n);
        for (i64 part = 0; part < s.parts; ++part)
          is_forward ? forward(from, to, part, n) : weight_backward(from, to, part, n);
      }
    }
  }
};

template <class P>
inline void run_fours(const Fours& s, bool forward) {
  parallel((s.rows + kFoursRows - 1) / kFoursRows, s.threads, [&](i64 task) {
    FoursLoop<P>{s}.rows(task * kFoursRows, least(s.rows, (task + 1) * kFoursRows), forward);
  });
}

inline void fours(const Fours& s, bool forward) {
  by_dtype(s.dtype, [&](auto p) { run_fours<decltype(p)>(s, forward); });
}

}  // namespace recurra::RECURRA_LEVEL
