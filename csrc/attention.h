// Softmax attention of single queries (arXiv 1706.03762, equation 1): y = sum_s p_s v_s, p = softmax of
// <q, k_s> / sqrt(C), in each head of each row. All scores of a query, then all values: each entry is read once and in
// order.
//
// A causal step turns query and key by their position (arXiv 2104.09864, equation 15) and puts its own key and value
// behind the older ones, into room that the caller has made; what another sequence left is read alone. A task is one
// head of one row: the queries of the same keys follow each other (arXiv 2305.13245, and the beams of a search).
#pragma once

#include <cmath>
#include <initializer_list>
#include <limits>

#include "abi.h"
#include "lanes.h"

namespace recurra::RECURRA_LEVEL {

// What a query of one head makes of its entries.
template <class P>
struct Query {
  using State = typename P::State;
  using T = typename P::T;
  using V = typename P::V;
  using Element = typename P::Element;
  static constexpr int kEntries = 4, kRegisters = 4;

  // Entries that may be read, one behind the other in memory.
  struct Run {
    const Element *keys, *values;
    i64 count;
  };
  using Runs = std::initializer_list<Run>;

  T* const q;  // over sqrt(C); behind it a weight for each entry, or its score, up to a whole register
  const i64 size;
  T* const weights = q + size;

  template <int kCount>
  void dot(const Element* keys, T* score) const {
    V sums[kCount] = {};
    each_register<P>(size, [&](i64, i64 c, auto n) {
      const V channels = load<State>(q + c, n);
      for (int k = 0; k < kCount; ++k) sums[k] += channels * load<P>(keys + k * size + c, n);
    });
    for (int k = 0; k < kCount; ++k) score[k] = sum_lanes<T, kVectorBytes>(sums[k]);
  }

  void scores(Run run, T* score) const {
    i64 i = 0;
    for (; i + kEntries <= run.count; i += kEntries) dot<kEntries>(run.keys + i * size, score + i);
    for (; i < run.count; ++i) dot<1>(run.keys + i * size, score + i);
  }

  // Scores become weights up to a factor, which is returned.
  T softmax(i64 count) const {
    const i64 whole = (count + P::lanes - 1) / P::lanes * P::lanes;
    for (i64 i = count; i < whole; ++i) weights[i] = -std::numeric_limits<T>::infinity();
    V top = load<State>(weights, Whole{}), sum{};
    for (i64 i = P::lanes; i < whole; i += P::lanes) {
      const V x = load<State>(weights + i, Whole{});
      top = x > top ? x : top;
    }
    T highest = top[0];
    for (int i = 1; i < P::lanes; ++i) highest = most<T>(highest, top[i]);
    for (i64 i = 0; i < whole; i += P::lanes) {
      const V weight = exp<T>(load<State>(weights + i, Whole{}) - highest);
      store<State>(weights + i, weight, Whole{});
      sum += weight;  // what fills the last register is next to nothing
    }
    return 1 / sum_lanes<T, kVectorBytes>(sum);
  }

  // Channels c and on of y: kCount registers.
  template <int kCount, class N>
  void read(Runs runs, Element* y, i64 c, T factor, N n) const {
    V sums[kCount] = {};
    const T* weight = weights;
    for (const Run& run : runs) {
      const Element* values = run.values + c;
      for (i64 i = 0; i < run.count; ++i, values += size, ++weight) {
        for (int k = 0; k < kCount; ++k) sums[k] += *weight * load<P>(values + k * P::lanes, n);
      }
    }
    for (int k = 0; k < kCount; ++k) store<P>(y + c + k * P::lanes, sums[k] * factor, n);
  }

  // Of no entries the answer is zero.
  void answer(Runs runs, Element* y) const {
    i64 count = 0;
    for (const Run& run : runs) scores(run, weights + count), count += run.count;
    const T factor = count ? softmax(count) : 0;
    i64 c = 0;
    for (; c + kRegisters * P::lanes <= size; c += kRegisters * P::lanes) read<kRegisters>(runs, y, c, factor, Whole{});
    each_register<P>(size - c, [&](i64, i64 rest, auto n) { read<1>(runs, y, c + rest, factor, n); });
  }
};

template <class P>
struct AttentionHead {
  using State = typename P::State;
  using T = typename P::T;
  using Element = typename P::Element;
  using Run = typename Query<P>::Run;

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

  Run older() const {
    const i64 from = least(first, s.old);
    return {entry(s.keys, s.old, from), entry(s.values, s.old, from), s.old - from};
  }
  Run newer() const {
    const i64 from = most(first, s.old), at = from - s.old;
    return {entry(s.room_keys, s.room, at), entry(s.room_values, s.room, at), total - from};
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

  void run() const {
    append();
    const Query<P> query{static_cast<T*>(s.scratch) + (b * s.heads + head) * s.scratch_row, size};
    for (i64 which = 0; which < s.group; ++which) {
      turn<State>(part(which), query.q, 1 / std::sqrt(T(size)));
      query.answer({older(), newer()}, out(which));
    }
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
  by_dtype(s.dtype, [&](auto p) { run_attention<decltype(p)>(s); });
}

// What one head of one row reads of another sequence.
template <class P>
inline void run_cross_head(const CrossAttention& s, i64 b, i64 head) {
  using T = typename P::T;
  using Element = typename P::Element;
  const i64 size = s.channels, count = least(most<i64>(s.lengths[b], 0), s.steps);
  const Element* const keys = static_cast<const Element*>(s.memory) + (2 * b * s.heads + head) * s.steps * size;
  const Query<P> query{static_cast<T*>(s.scratch) + (b * s.heads + head) * s.scratch_row, size};
  const T scale = 1 / std::sqrt(T(size));
  for (i64 which = 0; which < s.queries; ++which) {
    const i64 at = ((b * s.queries + which) * s.heads + head) * size;
    for (i64 c = 0; c < size; ++c) query.q[c] = P::get(static_cast<const Element*>(s.q) + at + c) * scale;
    query.answer({{keys, keys + s.heads * s.steps * size, count}}, static_cast<Element*>(s.y) + at);
  }
}

template <class P>
inline void run_cross_attention(const CrossAttention& s) {
  parallel(s.batch * s.heads, s.threads, [&](i64 task) { run_cross_head<P>(s, task / s.heads, task % s.heads); });
}

inline void cross_attention(const CrossAttention& s) {
  by_dtype(s.dtype, [&](auto p) { run_cross_attention<decltype(p)>(s); });
}

}  // namespace recurra::RECURRA_LEVEL
