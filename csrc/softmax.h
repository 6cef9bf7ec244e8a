// Running softmax averages: y_t = sum_j e^s_j v_j / sum_j e^s_j over all j <= t, each older weight multiplied
// by e^-decay a step, the current score raised by a bonus. Aaren (arXiv 2405.13956) and RWKV-4 (2305.13048).
//
// A state is both sums in units of e^max, so that no score overflows; where the denominator is 0 nothing has
// been read yet, and the max does not count. The backward loop needs the state before each step: it saves
// one in 32, and takes those 32 steps again into a buffer that stays in cache.
#pragma once

#include "abi.h"
#include "lanes.h"

namespace recurra::RECURRA_LEVEL {

// A score joins an average whose max is m and whose denominator is c: what is kept of the sums and what the
// newcomer counts, in units of e^top.
template <class T>
struct Merge {
  using V = Vec<T>;
  decltype(V{} == V{}) ahead;  // the score is the new max
  V keep, take, top;
  Merge(V m, V c, V score) : ahead((c == 0) | (score > m)) {
    const V less = exp<T>(-abs(score - m)), one = V{} + 1;
    keep = c == 0 ? V{} : ahead ? less : one;
    take = ahead ? one : less;
    top = ahead ? score : m;
  }
};

template <class P>
struct SoftmaxLoop {
  using S = typename P::State;
  using T = typename P::T;
  using V = typename P::V;
  using Element = typename P::Element;
  static constexpr i64 kChunk = 32;

  const Softmax& s;
  const i64 b, first, count, length;  // scores of this strip, and steps
  const i64 group = s.width / s.scores, chunks = (length + kChunk - 1) / kChunk;

  SoftmaxLoop(const Softmax& softmax, i64 row, i64 first_score, i64 scores)
      : s(softmax), b(row), first(first_score), count(scores),
        length(s.lengths ? most<i64>(0, least(s.lengths[b], s.time)) : s.time) {}

  // -------------------------------------------------------------------------- where things are

  i64 time(i64 k) const { return s.reverse ? length - 1 - k : k; }

  // The state is forgotten before step t. Read backwards, a cut lies on the other side of a step.
  bool cut(i64 t) const {
    if (!s.reset) return false;
    const i64 at = s.reverse ? t + 1 : t;
    return at < length && s.reset[b * s.time + at];
  }

  Element* row(const View& view, i64 t, i64 channel) const {
    return reinterpret_cast<Element*>(view.data) + b * view.batch + t * view.time + channel;
  }
  T* shared(void* p) const { return static_cast<T*>(p) + first; }
  // A decay or a bonus, or none.
  template <class N>
  V offset(void* p, i64 i, N n) const {
    return p ? load<S>(shared(p) + i, n) : V{};
  }
  T* own(void* p) const { return static_cast<T*>(p) + b * s.scores + first; }

  // The strip's part of one state, or of its gradient.
  struct Sums {
    T *max, *numerator, *denominator;
  };
  Sums sums(void* p, i64 row) const {
    T* const x = static_cast<T*>(p) + row * (2 * s.scores + s.width);
    return {x + first, x + s.scores + first * group, x + s.scores + s.width + first};
  }
  Sums scratch(i64 r) const { return sums(s.scratch, b * (kChunk + 2 + (s.time + kChunk - 1) / kChunk) + r); }
  Sums saved(i64 chunk) const { return scratch(kChunk + 1 + chunk); }

  void copy(Sums from, Sums to) const {
    std::memcpy(to.max, from.max, count * sizeof(T));
    std::memcpy(to.numerator, from.numerator, count * group * sizeof(T));
    std::memcpy(to.denominator, from.denominator, count * sizeof(T));
  }
  void clear_padding(const View& view, i64 channel, i64 channels) const {
    for (i64 t = length; t < s.time; ++t) std::memset(row(view, t, channel), 0, channels * sizeof(Element));
  }

  static i64 lanes(Whole) { return P::lanes; }
  static i64 lanes(Part part) { return part.count; }

  // f(first channel, Whole or Part, factors, totals) over the channels of a register of scores, to each its
  // score's factors; what f adds to the totals is added up for each score.
  template <int kFactors, int kTotals, class N, class F>
  void each_channel(i64 i, N n, const V (&factors)[kFactors], V (&totals)[kTotals], F f) const {
    if (group == 1) return f(i, n, factors, totals);
    for (i64 j = 0; j < lanes(n); ++j) {
      V all[kFactors], parts[kTotals] = {};
      for (int k = 0; k < kFactors; ++k) all[k] = V{} + factors[k][j];
      each_register<P>(group, [&](i64, i64 c, auto rest) { f((i + j) * group + c, rest, all, parts); });
      for (int k = 0; k < kTotals; ++k) totals[k][j] = sum_lanes<T, kVectorBytes>(parts[k]);
    }
  }

  // -------------------------------------------------------------------------- forward

  // How a score changes the sums (next), and how it is read out (now).
  struct Step {
    V m, c, score;
    Merge<T> next, now;
    V inverse = 1 / (now.keep * c + now.take);

    template <class N>
    Step(const SoftmaxLoop& l, i64 t, const Sums& h, i64 i, N n)
        : m(load<S>(h.max + i, n)), c(l.cut(t) ? V{} : load<S>(h.denominator + i, n)),
          score(load<P>(l.row(l.s.s, t, l.first) + i, n)),
          next(m - l.offset(l.s.decay, i, n), c, score), now(m, c, score + l.offset(l.s.bonus, i, n)) {}
  };

  template <bool kRead>
  [[gnu::flatten]] void step(i64 t, Sums from, Sums to) const {
    const bool forget = cut(t);
    const Element* const values = row(s.v, t, first * group);
    Element* const y = kRead ? row(s.y, t, first * group) : nullptr;
    each_register<P>(count, [&](i64, i64 i, auto n) {
      const Step at(*this, t, from, i, n);
      const V factors[4] = {at.next.keep, at.next.take, at.now.keep * at.inverse, at.now.take * at.inverse};
      V none[1];
      each_channel(i, n, factors, none, [&](i64 c, auto rest, const V* f, V*) {
        const V a = forget ? V{} : load<S>(from.numerator + c, rest), v = load<P>(values + c, rest);
        store<S>(to.numerator + c, f[0] * a + f[1] * v, rest);
        if (kRead) store<P>(y + c, f[2] * a + f[3] * v, rest);
      });
      store<S>(to.max + i, at.next.top, n);
      store<S>(to.denominator + i, at.next.keep * at.c + at.next.take, n);
    });
  }

  void forward() const {
    const Sums h = sums(s.state_n, b);
    copy(sums(s.state, b), h);
    for (i64 k = 0; k < length; ++k) step<true>(time(k), h, h);
    clear_padding(s.y, first * group, count * group);
  }

  // -------------------------------------------------------------------------- backward
  //
  // The max is a choice of units: y does not depend on it, and within the loop it counts as a constant. Only
  // the first and the last max are seen from outside. A change of the last one divides both sums; whichever
  // score it was receives what that is worth.

  // The states before each step of a chunk; returns how many steps it has.
  i64 fill(i64 chunk) const {
    const i64 steps = least(kChunk, length - chunk * kChunk);
    copy(saved(chunk), scratch(0));
    for (i64 j = 0; j < steps; ++j) step<false>(time(chunk * kChunk + j), scratch(j), scratch(j + 1));
    return steps;
  }

  // Adds to the gradient of the max, with this sign, what its change does to both sums.
  void through_max(Sums h, Sums g, T sign) const {
    each_register<P>(count, [&](i64, i64 i, auto n) {
      const V none[1] = {}, c = load<S>(h.denominator + i, n), gc = load<S>(g.denominator + i, n);
      V total[1] = {};
      each_channel(i, n, none, total, [&](i64 at, auto rest, const V*, V* sum) {
        const V a = load<S>(h.numerator + at, rest), ga = load<S>(g.numerator + at, rest);
        sum[0] += ga == 0 ? V{} : ga * a;
      });
      store<S>(g.max + i, load<S>(g.max + i, n) + sign * (total[0] + (gc == 0 ? V{} : gc * c)), n);
    });
  }

  [[gnu::flatten]] void step_back(i64 t, Sums h, Sums g) const {
    const bool forget = cut(t);
    const Element *const values = row(s.v, t, first * group), *const dy = row(s.dy, t, first * group);
    Element *const dv = row(s.dv, t, first * group), *const ds = row(s.ds, t, first);
    T *const bonus = own(s.dbonus), *const decay = own(s.ddecay);
    each_register<P>(count, [&](i64, i64 i, auto n) {
      const Step at(*this, t, h, i, n);
      const V keep = at.next.keep, take = at.next.take, older = at.now.keep * at.inverse;
      const V factors[4] = {keep, take, older, at.now.take * at.inverse};
      V totals[4] = {};  // of dv v, gy y, gy v and ga a
      each_channel(i, n, factors, totals, [&](i64 c, auto rest, const V* f, V* sum) {
        const V a = forget ? V{} : load<S>(h.numerator + c, rest), v = load<P>(values + c, rest);
        const V gy = load<P>(dy + c, rest), ga = load<S>(g.numerator + c, rest);
        const V dvalue = f[1] * ga + f[3] * gy;
        sum[0] += dvalue * v;
        sum[1] += gy * (f[2] * a + f[3] * v);
        sum[2] += gy * v;
        sum[3] += ga * a;
        store<P>(dv + c, dvalue, rest);
        store<S>(g.numerator + c, forget ? V{} : f[0] * ga + f[2] * gy, rest);
      });
      const V gc = load<S>(g.denominator + i, n), gm = load<S>(g.max + i, n);
      // Not gm - chosen: what is not finite would cross a cut.
      const V chosen = at.next.ahead ? gm : V{}, left = at.next.ahead ? V{} : gm;
      store<P>(ds + i, totals[0] - factors[3] * totals[1] + take * gc + chosen, n);
      store<S>(g.denominator + i, forget ? V{} : keep * gc - older * totals[1], n);
      store<S>(g.max + i, left, n);
      store<S>(bonus + i, load<S>(bonus + i, n) + factors[3] * (totals[2] - totals[1]), n);
      store<S>(decay + i, load<S>(decay + i, n) - keep * (totals[3] + gc * at.c) - left, n);
    });
  }

  void backward() const {
    const Sums g = sums(s.dstate, b), begin = sums(s.state, b);
    copy(begin, saved(0));
    for (i64 i = 0; i < chunks; ++i) copy(scratch(fill(i)), saved(i + 1));
    copy(sums(s.dstate_n, b), g);
    through_max(saved(chunks), g, -1);
    std::memset(own(s.ddecay), 0, count * sizeof(T));
    std::memset(own(s.dbonus), 0, count * sizeof(T));
    for (i64 i = chunks - 1; i >= 0; --i)
      for (i64 j = fill(i) - 1; j >= 0; --j) step_back(time(i * kChunk + j), scratch(j), g);
    through_max(begin, g, 1);
    clear_padding(s.ds, first, count);
    clear_padding(s.dv, first * group, count * group);
  }
};

// ------------------------------------------------------------------------------------ dispatch

// Strips of scores that are shared by many channels are cut between any two of them.
struct Single {
  static constexpr int lanes = 1;
};

template <class P>
inline void run_softmax(const Softmax& s, bool forward) {
  const auto strip = [&](i64 b, i64 first, i64 count) {
    const SoftmaxLoop<P> loop(s, b, first, count);
    forward ? loop.forward() : loop.backward();
  };
  if (s.scores == s.width) return each_strip<P, 16>(s.batch, s.scores, s.threads, strip);
  each_strip<Single, 16>(s.batch, s.scores, s.threads, strip);
}

inline void softmax(const Softmax& s, bool forward) {
  by_dtype(s.dtype, [&](auto p) { run_softmax<decltype(p)>(s, forward); });
}

template <class P>
inline void run_softmax_step(const SoftmaxStep& s) {
  using L = SoftmaxLoop<P>;
  const auto view = [](void* data, i64 size) { return View{static_cast<char*>(data), size, size}; };
  Softmax one{};
  one.time = 1, one.scores = s.scores, one.width = s.width, one.decay = s.decay, one.bonus = s.bonus;
  one.s = view(s.s, s.scores), one.v = view(s.v, s.width), one.y = view(s.y, s.width);
  for (i64 b = 0; b < s.batch; ++b) {
    const auto part = [&](void* p, i64 size) { return static_cast<typename L::T*>(p) + b * size; };
    const auto sums = [&](void* const* p) -> typename L::Sums {
      return {part(p[0], s.scores), part(p[1], s.width), part(p[2], s.scores)};
    };
    L(one, b, 0, s.scores).template step<true>(0, sums(s.state), sums(s.state_n));
  }
}

inline void softmax_step(const SoftmaxStep& s) {
  by_dtype(s.dtype, [&](auto p) { run_softmax_step<decltype(p)>(s); });
}

}  // namespace recurra::RECURRA_LEVEL
