// C_t = f_t C_{t-1} + i_t k_t v_t', a matrix for each head, read by q_t: mLSTM (arXiv 2405.04517, equations 19
// to 27) and RWKV-5 (arXiv 2404.05892, section 4.1).
//
// With a gate, f and i are exponentials in units of e^max, one number a head and step, and what is read is
// divided by |q n| or by 1. Without, f is e^decay and i = 1; with a bonus, q reads what was there before and
// u k v' of its own step.
//
// Time goes in chunks of so few steps that a chunk's outputs stay in registers while the matrix passes by
// once: y_j = sum_l S_jl v_l + (q_j P_j) C, C' = G C + sum_l (k_l R_l) v_l', where P, R and G are products of f
// from the chunk's start to j, from l to its end, and over all of it, none of them above 1. A cut starts a
// chunk. Rows of the forward pass's matrix are keys; the backward pass, which sums over values, has it turned.
#pragma once

#include <cmath>
#include <memory>
#include <new>

#include "abi.h"
#include "lanes.h"

namespace recurra::RECURRA_LEVEL {

template <class P>
struct OuterLoop {
  using T = typename P::T;
  using V = typename P::V;
  using R = Real<T>;
  using Element = typename P::Element;
  using State = typename P::State;
  static constexpr i64 lanes = P::lanes;
  static constexpr int kChunk = kVectorBytes == 64 ? 8 : 4;  // with its outputs and values, what registers hold
  static constexpr int kStrip = 4;                           // registers of values in one pass of a step
  static constexpr int kBeside = lanes > kChunk ? lanes / kChunk : 1;  // with a chunk's steps, sums that fill registers
  static constexpr i64 kAheadRows = 8;
  static constexpr i64 kSlots = kOuterSegment / kChunk;      // chunks of a segment that do not begin at a cut

  static i64 padded(i64 n) { return (n + lanes - 1) / lanes * lanes; }
  static constexpr i64 kNowhere = -1;

  const Outer& s;
  const i64 b, head, keys, values, key_pad, value_pad, length;
  const bool before;  // q reads before its own step is written

  // Memory of its own, cut off piece by piece.
  std::unique_ptr<T, void (*)(T*)> arena;
  T* free;

  T* take(i64 n) {
    T* const p = free;
    free += padded(n);
    return p;
  }

  // Of one chunk; rows are steps.
  T *q, *k, *keep, *read, *write, *all, *v;  // read: q P; write: k R; all: G
  T *read_t, *write_t;                        // the same, steps side by side: [keys, kChunk]
  T *u, *n;  // the bonus; what the denominators read
  T mix[kChunk][kChunk];   // S
  T span[kChunk][kChunk];  // of a gated row: products of f from after l to j, 0 for later l
  // Of every step of a gated row: keep and take in units of e^top.
  T *kept, *taken, *top;
  i64 source = kNowhere, since = 0;  // which step the last top stems from, and the first whose decay it has

  static T* allocate(i64 n) { return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t{64})); }
  static void release(T* p) { ::operator delete(p, std::align_val_t{64}); }

  OuterLoop(const Outer& outer, i64 row, i64 h, i64 more)
      : s(outer), b(row), head(h), keys(s.keys), values(s.values), key_pad(padded(keys)), value_pad(padded(values)),
        length(s.lengths ? most<i64>(0, least(s.lengths[b], s.time)) : s.time), before(s.bonus),
        arena(allocate((7 * kChunk + 3) * key_pad + kChunk * value_pad + 3 * padded(s.time) + more), release),
        free(arena.get()) {
    q = take(kChunk * key_pad), k = take(kChunk * key_pad), keep = take(kChunk * key_pad);
    read = take(kChunk * key_pad), write = take(kChunk * key_pad), all = take(key_pad), u = take(key_pad), n = take(key_pad);
    read_t = take(kChunk * key_pad), write_t = take(kChunk * key_pad), v = take(kChunk * value_pad);
    kept = take(s.time), taken = take(s.time), top = take(s.time);
    if (s.gated) stabilise();
    clear(u, key_pad);
    if (before) std::memcpy(u, static_cast<T*>(s.bonus) + head * keys, keys * sizeof(T));
  }

  bool cut(i64 t) const { return s.reset && s.reset[b * s.time + t]; }
  Element* at(const View& view, i64 t, i64 width) const {
    return reinterpret_cast<Element*>(view.data) + b * view.batch + t * view.time + head * width;
  }
  // Of [batch, heads, width] in the state's dtype.
  T* of_head(void* p, i64 width) const { return static_cast<T*>(p) + (b * s.heads + head) * width; }
  T* entering(i64 segment) const {
    const i64 segments = (s.time + kOuterSegment - 1) / kOuterSegment, size = keys * (values + 1);
    return of_head(s.entering, segments * size) + segment * size;
  }
  // The end of the chunk that begins at t: what fits, up to the next cut and the segment's end.
  i64 end_of(i64 t) const {
    const i64 last = least(least(t + kChunk, length), (t / kOuterSegment + 1) * kOuterSegment);
    for (i64 end = t + 1; end < last; ++end)
      if (cut(end)) return end;
    return last;
  }

  template <class F>
  static void each(i64 pad, F f) {
    for (i64 c = 0; c < pad; c += lanes) f(c);
  }
  static V get(const T* p) { return R::load(p); }
  static void put(T* p, V x) { R::store(p, x); }
  static void clear(T* p, i64 n) { std::memset(p, 0, n * sizeof(T)); }
  static T sum(V x) { return sum_lanes<T, kVectorBytes>(x); }

  void copy_in(T* to, const Element* from, i64 width) const {
    each_register<P>(width, [&](i64, i64 c, auto n) { put(to + c, load<P>(from + c, n)); });
  }
  void copy_out(Element* to, const T* from, i64 width) const {
    each_register<P>(width, [&](i64, i64 c, auto n) { store<P>(to + c, get(from + c), n); });
  }

  // max_t = max(decay_t + max_{t-1}, gate_t), and what the state and the step are worth in its units.
  void stabilise() {
    T m = *of_head(s.max_0, 1);
    for (i64 t = 0; t < length; ++t) {
      if (cut(t)) m = 0, source = kNowhere, since = t;
      const T carried = P::get(at(s.decay, t, 1)) + m, own = P::get(at(s.gate, t, 1));
      if (carried < own) source = t, since = t + 1;
      m = carried < own ? own : carried;
      kept[t] = carried - m, taken[t] = own - m, top[t] = m;
    }
    each(padded(length), [&](i64 c) { put(kept + c, exp<T>(get(kept + c))), put(taken + c, exp<T>(get(taken + c))); });
  }
  T take_of(i64 t) const { return s.gated ? T(s.scale) * taken[t] : T(s.scale); }
  T floor_of(i64 t) const { return exp<T>(V{} - top[t])[0]; }

  void read_keep(i64 j, i64 t) const {
    T* const row = keep + j * key_pad;
    if (s.gated || s.channels == 1) {
      const V one = s.gated ? V{} + kept[t] : exp<T>(V{} + P::get(at(s.decay, t, 1)));
      return each(key_pad, [&](i64 c) { put(row + c, one); });
    }
    copy_in(row, at(s.decay, t, keys), keys);
    each(key_pad, [&](i64 c) { put(row + c, exp<T>(get(row + c))); });
  }

  // A chunk's rows; those beyond its steps change nothing.
  void read_chunk(i64 from, i64 steps) const {
    for (i64 j = 0; j < kChunk; ++j) {
      if (j >= steps) {
        clear(q + j * key_pad, key_pad), clear(k + j * key_pad, key_pad), clear(v + j * value_pad, value_pad);
        each(key_pad, [&](i64 c) { put(keep + j * key_pad + c, V{} + 1); });
        continue;
      }
      copy_in(q + j * key_pad, at(s.q, from + j, keys), keys);
      copy_in(k + j * key_pad, at(s.k, from + j, keys), keys);
      copy_in(v + j * value_pad, at(s.v, from + j, values), values);
      const V scale = V{} + take_of(from + j);
      each(key_pad, [&](i64 c) { put(k + j * key_pad + c, scale * get(k + j * key_pad + c)); });
      read_keep(j, from + j);
    }
  }

  void accumulate_decays() const {
    each(key_pad, [&](i64 c) {
      V p = V{} + 1, r = V{} + 1;
      for (int j = 0; j < kChunk; ++j) {
        const V f = get(keep + j * key_pad + c), after = p * f;
        put(read + j * key_pad + c, get(q + j * key_pad + c) * (before ? p : after));
        p = after;
      }
      put(all + c, p);
      for (int l = kChunk - 1; l >= 0; --l) {
        put(write + l * key_pad + c, get(k + l * key_pad + c) * r);
        r *= get(keep + l * key_pad + c);
      }
    });
  }

  // f(j, l, k_l decayed until q_j reads it) for every l <= j and register of keys.
  template <class F>
  void each_pair(F f) const {
    each(key_pad, [&](i64 c) {
      for (int l = 0; l < kChunk; ++l) {
        V decayed = get(k + l * key_pad + c);
        f(l, l, c, before ? decayed * get(u + c) : decayed);
        for (int j = l + 1; j < kChunk; ++j) {
          const V keep_j = get(keep + j * key_pad + c);
          if (!before) decayed *= keep_j;
          f(j, l, c, decayed);
          if (before) decayed *= keep_j;
        }
      }
    });
  }

  void mix_steps() {
    V sums[kChunk][kChunk] = {};
    each_pair([&](int j, int l, i64 c, V decayed) { sums[j][l] += get(q + j * key_pad + c) * decayed; });
    for (int j = 0; j < kChunk; ++j)
      for (int l = 0; l <= j; ++l) mix[j][l] = sum(sums[j][l]);
  }

  // The same where all keys decay alike: of numbers.
  void mix_gated() {
    for (int l = 0; l < kChunk; ++l) {
      T product = 1;
      for (int j = 0; j < kChunk; ++j) span[j][l] = j < l ? 0 : j == l ? 1 : product *= keep[j * key_pad];
    }
    for (int j = 0; j < kChunk; j += kBeside) {
      V part[kBeside * kChunk] = {};
      each(key_pad, [&](i64 c) {
        for (int l = 0; l < kChunk; ++l) {
          const V key = get(k + l * key_pad + c);
          for (int a = 0; a < kBeside; ++a) part[a * kChunk + l] += key * get(q + (j + a) * key_pad + c);
        }
      });
      T sums[kBeside * kChunk];
      for (int p = 0; p < kBeside * kChunk; p += lanes) put(sums + p, sum_each<T>(part + p));
      for (int a = 0; a < kBeside; ++a)
        for (int l = 0; l < kChunk; ++l) mix[j + a][l] = span[j + a][l] * sums[a * kChunk + l];
    }
  }

  void turn(const T* from, T* to) const {
    for (int j = 0; j < kChunk; ++j)
      for (i64 i = 0; i < keys; ++i) to[i * kChunk + j] = from[j * key_pad + i];
  }

  void prepare(i64 from, i64 steps) {
    read_chunk(from, steps);
    accumulate_decays();
    s.gated ? mix_gated() : mix_steps();
  }

  // q_j n_j, n being what the chunk begins with.
  T denominator(int j) const {
    V part{};
    each(key_pad, [&](i64 c) { part += get(read + j * key_pad + c) * get(n + c); });
    T whole = sum(part);
    for (int l = 0; l <= j; ++l) whole += mix[j][l];
    return whole;
  }

  void advance_keys() const {
    each(key_pad, [&](i64 c) {
      V x = get(all + c) * get(n + c);
      for (int l = 0; l < kChunk; ++l) x += get(write + l * key_pad + c);
      put(n + c, x);
    });
  }

  // Registers of values side by side: what a chunk's steps read of them, and the matrix after it. What is
  // read and what is written take a pass each, whose numbers and registers serve every column.
  template <int kVectors>
  void pass(T* c, i64 column, V (*y)[kVectors]) const {
    V in[kChunk][kVectors];
    for (int l = 0; l < kChunk; ++l)
      for (int a = 0; a < kVectors; ++a) in[l][a] = get(v + l * value_pad + column + a * lanes), y[l][a] = V{};
    for (i64 i = 0; i < keys; ++i) {
      for (int j = 0; j < kChunk; ++j)
        for (int a = 0; a < kVectors; ++a) y[j][a] += read_t[i * kChunk + j] * get(c + i * value_pad + column + a * lanes);
    }
    for (i64 i = 0; i < keys; ++i) {
      V now[kVectors];
      for (int a = 0; a < kVectors; ++a) now[a] = all[i] * get(c + i * value_pad + column + a * lanes);
      for (int l = 0; l < kChunk; ++l)
        for (int a = 0; a < kVectors; ++a) now[a] += write_t[i * kChunk + l] * in[l][a];
      for (int a = 0; a < kVectors; ++a) put(c + i * value_pad + column + a * lanes, now[a]);
    }
    for (int j = 0; j < kChunk; ++j)
      for (int l = 0; l <= j; ++l)
        for (int a = 0; a < kVectors; ++a) y[j][a] += mix[j][l] * in[l][a];
  }

  template <int kVectors, class N>
  void read_out(T* c, i64 column, i64 from, i64 steps, const T* divisor, N some) const {
    V y[kChunk][kVectors];
    pass<kVectors>(c, column, y);
    for (i64 j = 0; j < steps; ++j)
      for (int a = 0; a < kVectors; ++a)
        store<P>(at(s.y, from + j, values) + column + a * lanes, s.gated ? y[j][a] / divisor[j] : y[j][a], some);
  }

  void forward() {
    T* const c = take(keys * value_pad);
    load_state(c, of_head(s.c_0, keys * values), s.gated ? of_head(s.n_0, keys) : nullptr);
    for (i64 from = 0; from < length;) {
      if (cut(from)) clear(c, keys * value_pad), clear(n, key_pad);
      if (s.entering && from % kOuterSegment == 0) save_segment(c, from / kOuterSegment);
      const i64 end = end_of(from);
      prepare(from, end - from);
      turn(read, read_t), turn(write, write_t);
      T divisor[kChunk];
      for (i64 j = 0; j < end - from; ++j) divisor[j] = s.gated ? divide_by(denominator(j), from + j) : 1;
      i64 column = 0;
      for (; column + 2 * lanes <= values; column += 2 * lanes) read_out<2>(c, column, from, end - from, divisor, Whole{});
      each_register<P>(values - column, [&](i64, i64 more, auto some) {
        read_out<1>(c, column + more, from, end - from, divisor, some);
      });
      advance_keys();
      from = end;
    }
    save_state(c, of_head(s.c_n, keys * values), s.gated ? of_head(s.n_n, keys) : nullptr);
    if (s.gated) *of_head(s.max_n, 1) = length ? top[length - 1] : *of_head(s.max_0, 1);
    clear_padding(s.y, values);
  }

  // A step by itself: the matrix passes once, from where it lies to where it goes, which may be the same place.
  void step() const {
    copy_in(q, at(s.q, 0, keys), keys), copy_in(k, at(s.k, 0, keys), keys), copy_in(v, at(s.v, 0, values), values);
    read_keep(0, 0);
    clear(n, key_pad);
    if (s.gated) std::memcpy(n, of_head(s.n_0, keys), keys * sizeof(T));
    const V scale = V{} + take_of(0);
    V own{}, seen{};  // what q reads of this step and, of the sum of all keys, of those before
    each(key_pad, [&](i64 c) {
      const V f = get(keep + c), query = get(q + c), key = scale * get(k + c), past = before ? query : query * f;
      own += query * (before ? get(u + c) * key : key), seen += past * get(n + c);
      put(read + c, past), put(write + c, key), put(n + c, f * get(n + c) + key);
    });
    const T mixed = sum(own), divisor = s.gated ? divide_by(sum(seen) + mixed, 0) : 1;
    i64 column = 0;
    for (; column + kStrip * lanes <= values; column += kStrip * lanes) pass_once<kStrip>(column, mixed, divisor, Whole{});
    each_register<P>(values - column, [&](i64, i64 c, auto some) { pass_once<1>(column + c, mixed, divisor, some); });
    if (s.gated) std::memcpy(of_head(s.n_n, keys), n, keys * sizeof(T)), *of_head(s.max_n, 1) = top[0];
  }

  template <int kVectors, class N>
  void pass_once(i64 column, T mixed, T divisor, N some) const {
    V in[kVectors], y[kVectors];
    for (int j = 0; j < kVectors; ++j) in[j] = get(v + column + j * lanes), y[j] = mixed * in[j];
    const T* from = of_head(s.c_0, keys * values) + column;
    T* to = of_head(s.c_n, keys * values) + column;
    for (i64 i = 0; i < keys; ++i, from += values, to += values)
      for (int j = 0; j < kVectors; ++j) {
        __builtin_prefetch(from + kAheadRows * values + j * lanes);
        const V old = load<State>(from + j * lanes, some);
        y[j] += read[i] * old;
        store<State>(to + j * lanes, keep[i] * old + write[i] * in[j], some);
      }
    Element* const out = at(s.y, 0, values) + column;
    for (int j = 0; j < kVectors; ++j) store<P>(out + j * lanes, y[j] / divisor, some);
  }

  T divide_by(T denominator, i64 t) const {
    const T size = std::fabs(denominator), floor = floor_of(t);
    return size < floor ? floor : size;
  }

  void clear_padding(const View& view, i64 width) const {
    for (i64 t = length; t < s.time; ++t) std::memset(at(view, t, width), 0, width * sizeof(Element));
  }

  void load_state(T* c, const T* from, const T* from_n) const {
    clear(c, keys * value_pad), clear(n, key_pad);
    for (i64 i = 0; i < keys; ++i) std::memcpy(c + i * value_pad, from + i * values, values * sizeof(T));
    if (from_n) std::memcpy(n, from_n, keys * sizeof(T));
  }
  void save_state(const T* c, T* to, T* to_n) const {
    for (i64 i = 0; i < keys; ++i) std::memcpy(to + i * values, c + i * value_pad, values * sizeof(T));
    if (to_n) std::memcpy(to_n, n, keys * sizeof(T));
  }
  void save_segment(const T* c, i64 segment) const {
    T* const to = entering(segment);
    save_state(c, to, to + keys * values);
  }
};

}  // namespace recurra::RECURRA_LEVEL
