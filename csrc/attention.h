// One step of causal softmax attention with rotary positions (arXiv 1706.03762, equation 1; 2104.09864,
// equation 15): y = sum_s p_s v_s, p = softmax of <R q, R_s k_s> / sqrt(C), in each head of each row.
//
// The step's own key and value go behind the older ones, into room that the caller has made. A task is one
// head of one row: all scores of a query, then all values, each entry read once and in order; then the next query
// of the same keys (arXiv 2305.13245).
#pragma once

#include <cmath>
#include <initializer_list>
#include <limits>

#include "abi.h"
#include "lanes.h"

namespace recurra::RECURRA_LEVEL {

template <class P>
struct AttentionHead {
  using State = typename P::State;
  using T = typename P::T;
  using V = typename P::V;
  using Element = typename P::Element;
  static constexpr int kEntries = 4, kRegisters = 4;

  const Attention& s;
  const i64 b, head, size = s.channels;
  const i64 fresh = s.begin ? least(s.position[b] - s.begin[b], s.room - 1) : s.fresh, total = s.old + fresh + 1;
  const i64 reach = s.window ? least(s.window, total) : total;
  const i64 first = total - most<i64>(1, s.position[b] < reach ? s.position[b] + 1 : reach);  // it may read

  AttentionHead(const Attention& step, i64 row, i64 h) : s(step), b(row), head(h) {}

  // Of [batch, heads, entries, channels], and of qkv.
  Element* entry(void* p, i64 entries, i64 i) const {
    return static_cast<Element*>(p) + ((b * s.heads + head) * entries + i) * size;
  }
  const Element* part(i64 which) const {
    return static_cast<const Element*>(s.qkv) + ((b * (s.group + 2) + which) * s.heads + head) * size;
  }
  Element* out(i64 which) const {
    return static_cast<Element*>(s.y) + ((b * s.group + which) * s.heads + head) * size;
  }
  T* query() const { return static_cast<T*>(s.scratch) + (b * s.heads + head) * s.scratch_row; }
  T* weight(i64 i) const { return query() + (size + i - first); }  // of entry i, or its score

  // Entries from .. to that may be read, one behind the other in memory.
  struct Run {
    const Element *keys, *values;
    i64 from, to;
  };
  Run older() const {
    const i64 from = least(first, s.old);
    return {entry(s.keys, s.old, from), entry(s.values, s.old, from), from, s.old};
  }
  Run newer() const {
    const i64 from = most(first, s.old), at = from - s.old;
    return {entry(s.room_keys, s.room, at), entry(s.room_values, s.room, at), from, total};
  }

  // Channels 2j and 2j + 1 as one complex number, turned.
  template <class Out>
  void turn(const Element* x, typename Out::Element* y, T scale) const {
    const T* turns = static_cast<const T*>(s.turns) + b * size;
    for (i64 j = 0; j < size; j += 2) {
      const T re = P::get(x + j), im = P::get(x + j + 1);
      Out::put(y + j, (re * turns[j] - im * turns[j + 1]) * scale);
      Out::put(y + j + 1, (re * turns[j + 1] + im * turns[j]) * scale);
    }
  }

  void append() const {
    if (s.room_keys != s.new_keys && fresh) {
      std::memcpy(entry(s.room_keys, s.room, 0), entry(s.new_keys, s.fresh, 0), fresh * size * sizeof(Element));
      std::memcpy(entry(s.room_values, s.room, 0), entry(s.new_values, s.fresh, 0), fresh * size * sizeof(Element));
    }
    turn<P>(part(s.group), entry(s.room_keys, s.room, fresh), 1);
    std::memcpy(entry(s.room_values, s.room, fresh), part(s.group + 1), size * sizeof(Element));
  }

  template <int kCount>
  void dot(const Element* keys, T* score) const {
    V sums[kCount] = {};
    each_register<P>(size, [&](i64, i64 c, auto n) {
      const V q = load<State>(query() + c, n);
      for (int k = 0; k < kCount; ++k) sums[k] += q * load<P>(keys + k * size + c, n);
    });
    for (int k = 0; k < kCount; ++k) score[k] = sum_lanes<T, kVectorBytes>(sums[k]);
  }

  void scores(Run run) const {
    i64 i = run.from;
    for (; i + kEntries <= run.to; i += kEntries) dot<kEntries>(run.keys + (i - run.from) * size, weight(i));
    for (; i < run.to; ++i) dot<1>(run.keys + (i - run.from) * size, weight(i));
  }

  // Scores become weights up to a factor, which is returned.
  T softmax() const {
    T* const scores = weight(first);
    const i64 count = total - first, whole = (count + P::lanes - 1) / P::lanes * P::lanes;
    for (i64 i = count; i < whole; ++i) scores[i] = -std::numeric_limits<T>::infinity();
    V top = load<State>(scores, Whole{}), sum{};
    for (i64 i = P::lanes; i < whole; i += P::lanes) {
      const V x = load<State>(scores + i, Whole{});
      top = x > top ? x : top;
    }
    T highest = top[0];
    for (int i = 1; i < P::lanes; ++i) highest = most<T>(highest, top[i]);
    for (i64 i = 0; i < whole; i += P::lanes) {
      const V weight = exp<T>(load<State>(scores + i, Whole{}) - highest);
      store<State>(scores + i, weight, Whole{});
      sum += weight;  // what fills the last register is next to nothing
    }
    return 1 / sum_lanes<T, kVectorBytes>(sum);
  }

  // Channels c and on of y: kCount registers.
  template <int kCount, class N>
  void read(Element* y, i64 c, T factor, N n) const {
    V sums[kCount] = {};
    for (const Run& run : {older(), newer()}) {
      const Element* values = run.values + c;
      for (i64 i = run.from; i < run.to; ++i, values += size) {
        for (int k = 0; k < kCount; ++k) sums[k] += *weight(i) * load<P>(values + k * P::lanes, n);
      }
    }
    for (int k = 0; k < kCount; ++k) store<P>(y + c + k * P::lanes, sums[k] * factor, n);
  }

  void answer(i64 which) const {
    turn<State>(part(which), query(), 1 / std::sqrt(T(size)));
    scores(older());
    scores(newer());
    const T factor = softmax();
    Element* const y = out(which);
    i64 c = 0;
    for (; c + kRegisters * P::lanes <= size; c += kRegisters * P::lanes) read<kRegisters>(y, c, factor, Whole{});
    each_register<P>(size - c, [&](i64, i64 rest, auto n) { read<1>(y, c + rest, factor, n); });
  }

  void run() const {
    append();
    for (i64 which = 0; which < s.group; ++which) answer(which);
  }
};

template <class P>
inline void run_attention(const Attention& s) {
  using T = typename P::T;
  for (i64 b = 0; b < s.batch; ++b) {
    T* const turns = static_cast<T*>(s.turns) + b * s.channels;
    for (i64 j = 0; j < s.channels; j += 2) {
      const double angle = double(s.position[b]) * std::pow(s.base, -double(j) / double(s.channels));
      turns[j] = T(std::cos(angle)), turns[j + 1] = T(std::sin(angle));
    }
    s.position_n[b] = s.position[b] + 1;
  }
  parallel(s.batch * s.heads, s.threads, [&](i64 task) { AttentionHead<P>(s, task / s.heads, task % s.heads).run(); });
}

inline void attention(const Attention& s) {
  switch (s.dtype) {
    case kFloat32: return run_attention<Real<float>>(s);
    case kFloat64: return run_attention<Real<double>>(s);
    case kBfloat16: return run_attention<Real<bf16>>(s);
  }
}

}  // namespace recurra::RECURRA_LEVEL
