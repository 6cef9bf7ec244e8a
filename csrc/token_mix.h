// Token shift: each output mixes the input with that of the step before, y_t = m x_t + (1 - m) x_{t-1}, channel
// by channel: all mixes of one input in one pass over it. RWKV, arXiv 2305.13048, section 3.
#pragma once

#include "abi.h"
#include "lanes.h"

namespace recurra::RECURRA_LEVEL {

// The steps of a row over which one sum of dmix is.
template <class P, int kMixes>
struct TokenMixBlock {
  using V = typename P::V;
  using Element = typename P::Element;
  using State = typename P::State;
  using Number = typename State::Element;

  const TokenMix& s;
  const i64 b, index, width = s.width;
  const i64 length = s.lengths ? most<i64>(0, least(s.lengths[b], s.time)) : s.time;
  const i64 end = least(s.time, (index + 1) * kTokenMixBlock), begin = index * kTokenMixBlock;

  bool cut(i64 t) const { return s.reset && s.reset[b * s.time + t]; }

  Element* row(const View& view, i64 t) const {
    return reinterpret_cast<Element*>(view.data) + b * view.batch + t * view.time;
  }
  Number* of_row(void* p) const { return static_cast<Number*>(p) + b * width; }
  const Number* mix(i64 i) const { return static_cast<const Number*>(s.mix) + i * width; }

  // The input before step t, which is forgotten where t cuts.
  struct Past {
    const Element* x;
    const Number* state;
    template <class N>
    V at(i64 c, N n) const {
      return x ? load<P>(x + c, n) : state ? load<State>(state + c, n) : V{};
    }
  };
  Past before(i64 t) const {
    if (cut(t)) return {nullptr, nullptr};
    return t ? Past{row(s.x, t - 1), nullptr} : Past{nullptr, of_row(s.state)};
  }

  void forward(i64 t) const {
    const Past past = before(t);
    const Element* const x = row(s.x, t);
    Element* y[kMixes];
    for (int i = 0; i < kMixes; ++i) y[i] = row(s.y[i], t);
    each_register<P>(width, [&](i64, i64 c, auto n) {
      const V now = load<P>(x + c, n), last = past.at(c, n);
      for (int i = 0; i < kMixes; ++i) {
        const V m = load<State>(mix(i) + c, n);
        store<P>(y[i] + c, m * now + (1 - m) * last, n);
      }
    });
  }

  void backward(i64 t, Number* dmix) const {
    const Past past = before(t);
    const Element* const x = row(s.x, t);
    Element* const dx = row(s.dx, t);
    const Number* const dlast = t + 1 == length ? of_row(s.dstate_n) : nullptr;
    const bool seen = t + 1 < length && !cut(t + 1);  // by the next step
    const Element *dy[kMixes], *next[kMixes];
    for (int i = 0; i < kMixes; ++i) dy[i] = row(s.y[i], t), next[i] = seen ? row(s.y[i], t + 1) : nullptr;
    each_register<P>(width, [&](i64, i64 c, auto n) {
      const V rise = load<P>(x + c, n) - past.at(c, n);
      V sum = dlast ? load<State>(dlast + c, n) : V{};
      for (int i = 0; i < kMixes; ++i) {
        const V m = load<State>(mix(i) + c, n), d = load<P>(dy[i] + c, n);
        sum += m * d;
        if (seen) sum += (1 - m) * load<P>(next[i] + c, n);
        Number* const total = dmix + i * width + c;
        store<State>(total, load<State>(total, n) + d * rise, n);
      }
      store<P>(dx + c, sum, n);
    });
  }

  void write_state() const {
    const Past last = length ? Past{row(s.x, length - 1), nullptr} : Past{nullptr, of_row(s.state)};
    each_register<P>(width, [&](i64, i64 c, auto n) { store<State>(of_row(s.state_n) + c, last.at(c, n), n); });
  }

  void write_dstate() const {
    const bool seen = length && !cut(0);
    each_register<P>(width, [&](i64, i64 c, auto n) {
      V sum = length ? V{} : load<State>(of_row(s.dstate_n) + c, n);
      for (int i = 0; seen && i < kMixes; ++i) {
        sum += (1 - load<State>(mix(i) + c, n)) * load<P>(row(s.y[i], 0) + c, n);
      }
      store<State>(of_row(s.dstate) + c, sum, n);
    });
  }

  void clear_padding(const View& view) const {
    for (i64 t = most(begin, length); t < end; ++t) std::memset(row(view, t), 0, width * sizeof(Element));
  }

  void run_forward() const {
    if (!index) write_state();
    for (i64 t = begin; t < least(end, length); ++t) forward(t);
    for (int i = 0; i < kMixes; ++i) clear_padding(s.y[i]);
  }

  void run_backward() const {
    const i64 size = kMixes * width, blocks = most<i64>(1, (s.time + kTokenMixBlock - 1) / kTokenMixBlock);
    Number* const dmix = static_cast<Number*>(s.dmix) + (b * blocks + index) * size;
    std::memset(dmix, 0, size * sizeof(Number));
    if (!index) write_dstate();
    for (i64 t = begin; t < least(end, length); ++t) backward(t, dmix);
    clear_padding(s.dx);
  }
};

template <class P, int kMixes>
inline void run_token_mix(const TokenMix& s, bool forward) {
  const i64 blocks = most<i64>(1, (s.time + kTokenMixBlock - 1) / kTokenMixBlock);
  parallel(s.batch * blocks, s.threads, [&](i64 task) {
    const TokenMixBlock<P, kMixes> block{s, task / blocks, task % blocks};
    forward ? block.run_forward() : block.run_backward();
  });
}

template <class P>
inline void choose_token_mix(const TokenMix& s, bool forward) {
  switch (s.mixes) {
    case 1: return run_token_mix<P, 1>(s, forward);
    case 2: return run_token_mix<P, 2>(s, forward);
    case 3: return run_token_mix<P, 3>(s, forward);
    case 4: return run_token_mix<P, 4>(s, forward);
  }
}

inline void token_mix(const TokenMix& s, bool forward) {
  by_dtype(s.dtype, [&](auto p) { choose_token_mix<decltype(p)>(s, forward); });
}

template <class P>
inline void run_token_mix_step(const TokenMixStep& s) {
  using Element = typename P::Element;
  using State = typename P::State;
  using Number = typename State::Element;
  for (i64 b = 0; b < s.batch; ++b) {
    const i64 row = b * s.width;
    each_register<P>(s.width, [&](i64, i64 c, auto n) {
      const auto x = load<P>(static_cast<const Element*>(s.x) + row + c, n);
      const auto before = load<State>(static_cast<const Number*>(s.before) + row + c, n);
      for (i64 i = 0; i < s.mixes; ++i) {
        const auto m = load<P>(static_cast<const Element*>(s.mix[i]) + c, n);
        store<P>(static_cast<Element*>(s.y) + i * s.batch * s.width + row + c, m * x + (1 - m) * before, n);
      }
      store<State>(static_cast<Number*>(s.after) + row + c, x, n);
    });
  }
}

inline void token_mix_step(const TokenMixStep& s) {
  by_dtype(s.dtype, [&](auto p) { run_token_mix_step<decltype(p)>(s); });
}

}  // namespace recurra::RECURRA_LEVEL
