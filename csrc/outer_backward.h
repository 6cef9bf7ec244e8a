// The gradients of csrc/outer.h, chunk by chunk backwards; of the matrix only what enters a segment was kept.
//
// Where y_j is divided, num_j = h_j w_j and den_j share what they read, so their gradients run side by side.
// A gate's units are no variables: they cancel out of every h, and a final state's gradient reaches them
// through the one step that its max stems from.
#pragma once

#include "outer.h"

namespace recurra::RECURRA_LEVEL {

template <class P>
struct OuterBackward : OuterLoop<P> {
  using Base = OuterLoop<P>;
  using typename Base::T;
  using typename Base::V;
  using Base::kChunk;
  using Base::kSlots;
  using Base::lanes;
  using Base::all, Base::before, Base::clear, Base::cut, Base::each, Base::get, Base::k, Base::keep, Base::key_pad;
  using Base::keys, Base::length, Base::mix, Base::n, Base::of_head, Base::put, Base::q, Base::read, Base::s;
  using Base::sum, Base::take, Base::u, Base::v, Base::value_pad, Base::values, Base::write;

  // Values that share what is read of the keys.
  using Base::kBeside;
  i64 column(i64 c, int a) const { return least<i64>(c + a, values - 1); }  // the last one may be done twice

  struct Chunk {
    i64 from, steps, slot;  // slot < 0: it begins at a cut
  };

  // Matrices turned: [values, keys]. What enters each chunk of a segment, and the gradient of what leaves it.
  T *slots, *slot_keys, *dc, *dn;
  T *dread, *dwrite, *passing;  // of q P, of k R, and C dC summed over values
  T *dq, *dk, *dy, *dv, *dy_t, *v_t, *du;
  T dmix[kChunk][kChunk], dden[kChunk];
  T passing_by[kChunk] = {};  // of a gated row: of its decay, from pairs of steps before and after it
  T carried = 0;  // gradient of the final max

  static i64 size(const Outer& s) {
    const i64 kp = Base::padded(s.keys), vp = Base::padded(s.values);
    return (kSlots + 1) * (s.values + 1) * kp + (4 * kChunk + 2) * kp + 2 * kChunk * vp +
           2 * Base::padded(s.values * kChunk);
  }

  OuterBackward(const Outer& outer, i64 row, i64 h) : Base(outer, row, h, size(outer)) {
    slots = take(kSlots * values * key_pad), slot_keys = take(kSlots * key_pad);
    dc = take(values * key_pad), dn = take(key_pad);
    dread = take(kChunk * key_pad), dwrite = take(kChunk * key_pad), passing = take(key_pad);
    dq = take(kChunk * key_pad), dk = take(kChunk * key_pad), du = take(key_pad);
    dy = take(kChunk * value_pad), dv = take(kChunk * value_pad);
    dy_t = take(values * kChunk), v_t = take(values * kChunk);
  }

  // to [columns, to_stride] from [rows, from_stride], turned.
  static void turn_matrix(T* to, i64 to_stride, const T* from, i64 from_stride, i64 rows, i64 columns) {
    for (i64 i = 0; i < rows; i += lanes)
      for (i64 c = 0; c < columns; c += lanes) {
        if (i + lanes <= rows && c + lanes <= columns) {
          V block[lanes];
          for (i64 r = 0; r < lanes; ++r) block[r] = get(from + (i + r) * from_stride + c);
          transpose<T>(block);
          for (i64 r = 0; r < lanes; ++r) put(to + (c + r) * to_stride + i, block[r]);
          continue;
        }
        for (i64 r = i; r < least(i + lanes, rows); ++r)
          for (i64 d = c; d < least(c + lanes, columns); ++d) to[d * to_stride + r] = from[r * from_stride + d];
      }
  }

  // [keys, values] and [values, key_pad].
  void turn_in(T* to, const T* from) const {
    if (keys < key_pad) clear(to, values * key_pad);
    turn_matrix(to, key_pad, from, values, keys, values);
  }
  void turn_out(T* to, const T* from) const { turn_matrix(to, values, from, key_pad, values, keys); }
  void turn_values(T* to, const T* from) const {
    for (i64 c = 0; c < values; ++c)
      for (int j = 0; j < kChunk; ++j) to[c * kChunk + j] = from[j * value_pad + c];
  }

  T* slot(i64 number) const { return slots + number * values * key_pad; }

  // The state after a prepared chunk, from the one before it; slots below 0 are empty.
  void advance(i64 from, i64 to) const {
    for (i64 c = 0; c < values; c += kBeside) {
      V in[kBeside][kChunk];
      for (int a = 0; a < kBeside; ++a)
        for (int l = 0; l < kChunk; ++l) in[a][l] = V{} + v_t[column(c, a) * kChunk + l];
      each(key_pad, [&](i64 i) {
        const V g = get(all + i);
        V now[kBeside];
        for (int a = 0; a < kBeside; ++a) now[a] = from < 0 ? V{} : g * get(slot(from) + column(c, a) * key_pad + i);
        for (int l = 0; l < kChunk; ++l) {
          const V row = get(write + l * key_pad + i);
          for (int a = 0; a < kBeside; ++a) now[a] += in[a][l] * row;
        }
        for (int a = 0; a < kBeside; ++a) put(slot(to) + column(c, a) * key_pad + i, now[a]);
      });
    }
    each(key_pad, [&](i64 i) {
      V now = from < 0 ? V{} : get(all + i) * get(slot_keys + from * key_pad + i);
      for (int l = 0; l < kChunk; ++l) now += get(write + l * key_pad + i);
      put(slot_keys + to * key_pad + i, now);
    });
  }

  // The chunks of a segment, and what enters them.
  i64 replay(i64 segment, Chunk* chunks) {
    i64 count = 0, used = 0;
    const i64 first = segment * kOuterSegment, last = least(first + kOuterSegment, length);
    for (i64 from = first; from < last; ++count) {
      const i64 steps = this->end_of(from) - from, previous = count ? chunks[count - 1].slot : -1;
      chunks[count] = {from, steps, cut(from) ? -1 : used++};
      if (count && !cut(from)) advance(previous, chunks[count].slot);
      if (!count && !cut(from)) load_segment(segment);
      from += steps;
      if (from < last && !cut(from)) this->prepare(from - steps, steps), turn_values(v_t, v);
    }
    return count;
  }
  void load_segment(i64 segment) const {
    const T* const from = this->entering(segment);
    turn_in(slots, from);
    clear(slot_keys, key_pad);
    std::memcpy(slot_keys, from + keys * values, keys * sizeof(T));
  }

  void backward() {
    turn_in(dc, of_head(s.dc_n, keys * values));
    clear(dn, key_pad), clear(du, key_pad);
    if (s.gated) begin_gated();
    Chunk chunks[kOuterSegment];
    for (i64 segment = (length - 1 + kOuterSegment) / kOuterSegment - 1; segment >= 0; --segment)
      for (i64 i = replay(segment, chunks) - 1; i >= 0; --i) backward(chunks[i]);
    turn_out(of_head(s.dc_0, keys * values), dc);
    if (s.gated) end_gated();
    if (before) std::memcpy(of_head(s.dbonus, keys), du, keys * sizeof(T));
    for (const View* view : {&s.dq, &s.dk}) this->clear_padding(*view, keys);
    this->clear_padding(s.dv, values), this->clear_padding(s.ddecay, s.channels);
    if (s.gated) this->clear_padding(s.dgate, 1);
  }

  static T dot(const T* a, const T* b, i64 count) {
    T total = 0;
    for (i64 i = 0; i < count; ++i) total += a[i] * b[i];
    return total;
  }
  T state_dot(void* c, void* dc_, void* n_, void* dn_) const {
    return dot(of_head(c, keys * values), of_head(dc_, keys * values), keys * values) +
           dot(of_head(n_, keys), of_head(dn_, keys), keys);
  }
  void begin_gated() {
    std::memcpy(dn, of_head(s.dn_n, keys), keys * sizeof(T));
    carried = *of_head(s.dmax_n, 1) - state_dot(s.c_n, s.dc_n, s.n_n, s.dn_n);
  }
  void end_gated() const {
    std::memcpy(of_head(s.dn_0, keys), dn, keys * sizeof(T));
    const bool forgotten = length && cut(0);  // whatever it was: zero times what is not finite is not zero
    const bool from_start = this->source == Base::kNowhere && this->since == 0;
    *of_head(s.dmax_0, 1) = forgotten ? 0 : state_dot(s.c_0, s.dc_0, s.n_0, s.dn_0) + (from_start ? carried : 0);
  }

  void backward(const Chunk& chunk) {
    this->prepare(chunk.from, chunk.steps);
    if (chunk.slot < 0) clear(n, key_pad);
    else std::memcpy(n, slot_keys + chunk.slot * key_pad, key_pad * sizeof(T));
    read_cotangents(chunk);
    turn_values(dy_t, dy), turn_values(v_t, v);
    mix_backward();
    values_backward(chunk);
    state_backward(chunk.slot);
    divide_backward(chunk);
    keys_backward();
    s.gated ? pairs_gated() : pairs_backward();
    gates_backward(chunk);
    write_gradients(chunk);
    if (chunk.slot < 0) clear(dc, values * key_pad), clear(dn, key_pad);
  }

  // Of the numerators.
  void read_cotangents(const Chunk& chunk) {
    clear(dy, kChunk * value_pad);
    for (i64 j = 0; j < chunk.steps; ++j) {
      T* const row = dy + j * value_pad;
      this->copy_in(row, this->at(s.dy, chunk.from + j, values), values);
      if (!s.gated) continue;
      const T divisor = this->divide_by(this->denominator(int(j)), chunk.from + j);
      each(value_pad, [&](i64 c) { put(row + c, get(row + c) / divisor); });
    }
  }

  void mix_backward() {
    for (int j = 0; j < kChunk; ++j) {
      for (int l = 0; l <= j; ++l) {
        V part{};
        each(value_pad, [&](i64 c) { part += get(dy + j * value_pad + c) * get(v + l * value_pad + c); });
        dmix[j][l] = sum(part);
      }
    }
  }

  // Of a denominator: minus what its numerator's gradient says of the numerator, if it is what divides.
  void divide_backward(const Chunk& chunk) {
    for (int j = 0; j < kChunk; ++j) {
      dden[j] = 0;
      if (!s.gated || j >= chunk.steps) continue;
      const T den = this->denominator(j);
      if (std::fabs(den) < this->floor_of(chunk.from + j)) continue;
      V part{};
      each(key_pad, [&](i64 i) { part += get(read + j * key_pad + i) * get(dread + j * key_pad + i); });
      T inner = sum(part);
      for (int l = 0; l <= j; ++l) inner += mix[j][l] * dmix[j][l];
      dden[j] = -inner / den;
      for (int l = 0; l <= j; ++l) dmix[j][l] += dden[j];
    }
  }

  void values_backward(const Chunk& chunk) {
    for (i64 c = 0; c < values; c += kBeside) {
      V part[kBeside * kChunk] = {};
      each(key_pad, [&](i64 i) {
        for (int a = 0; a < kBeside; ++a) {
          const V d = get(dc + column(c, a) * key_pad + i);
          for (int l = 0; l < kChunk; ++l) part[a * kChunk + l] += d * get(write + l * key_pad + i);
        }
      });
      T sums[kBeside * kChunk];
      for (int p = 0; p < kBeside * kChunk; p += lanes) put(sums + p, sum_each<T>(part + p));
      for (int a = 0; a < kBeside; ++a)
        for (int l = 0; l < kChunk; ++l) dv[l * value_pad + column(c, a)] = sums[a * kChunk + l];
    }
    each_register<P>(values, [&](i64, i64 c, auto some) {
      for (i64 l = 0; l < chunk.steps; ++l) {
        V d = load<Real<T>>(dv + l * value_pad + c, some);
        for (i64 j = l; j < chunk.steps; ++j) d += mix[j][l] * get(dy + j * value_pad + c);
        store<P>(this->at(s.dv, chunk.from + l, values) + c, d, some);
      }
    });
  }

  // One register of keys after the other; dc becomes the gradient of what enters the chunk.
  void state_backward(i64 number) {
    const T* const c = number < 0 ? nullptr : slot(number);
    each(key_pad, [&](i64 i) {
      V reads[kChunk], of_read[kChunk] = {}, of_write[kChunk] = {}, of_all{};
      const V g = get(all + i);
      for (int j = 0; j < kChunk; ++j) reads[j] = get(read + j * key_pad + i);
      for (i64 at = 0; at < values; ++at) {
        const V d = get(dc + at * key_pad + i), old = c ? get(c + at * key_pad + i) : V{};
        V now = g * d;
        of_all += old * d;
        for (int j = 0; j < kChunk; ++j) {
          of_read[j] += dy_t[at * kChunk + j] * old;
          of_write[j] += v_t[at * kChunk + j] * d;
          now += dy_t[at * kChunk + j] * reads[j];
        }
        put(dc + at * key_pad + i, now);
      }
      put(passing + i, of_all);
      for (int j = 0; j < kChunk; ++j) put(dread + j * key_pad + i, of_read[j]), put(dwrite + j * key_pad + i, of_write[j]);
    });
  }

  // What the denominators add; the products of decays taken off again; and, in place of dread, what each
  // step's decay has to do with the state: it lies on the way of all that is read from the step on, of all
  // that was written before it, and of what passes through.
  void keys_backward() const {
    each(key_pad, [&](i64 i) {
      const V old = get(n + i), d = get(dn + i), g = get(all + i);
      V now = g * d, reads[kChunk], writes[kChunk], p = V{} + 1, r = V{} + 1;
      for (int j = 0; j < kChunk; ++j) {
        const i64 at = j * key_pad + i;
        const V of_read = get(dread + at) + dden[j] * old;
        now += dden[j] * get(read + at);
        if (!before) p *= get(keep + at);
        put(dq + at, p * of_read), reads[j] = get(read + at) * of_read;
        if (before) p *= get(keep + at);
        writes[j] = get(write + at) * (get(dwrite + at) + d);
      }
      for (int l = kChunk - 1; l >= 0; --l) {
        put(dk + l * key_pad + i, r * (get(dwrite + l * key_pad + i) + d));
        r *= get(keep + l * key_pad + i);
      }
      V sums[kChunk], later = g * (get(passing + i) + old * d), earlier{};
      for (int j = kChunk - 1; j >= 0; --j) {
        sums[j] = before ? later : later + reads[j];
        later += reads[j];
      }
      for (int j = 0; j < kChunk; ++j) {
        put(dread + j * key_pad + i, sums[j] + earlier);
        earlier += writes[j];
      }
      put(dn + i, now);
    });
  }

  // Pairs of a chunk's steps: q_j, k_l and every decay that lies between.
  void pairs_backward() const {
    each(key_pad, [&](i64 i) {
      const auto at = [&](int j) { return j * key_pad + i; };
      const auto add = [&](T* row, int j, V x) { put(row + at(j), get(row + at(j)) + x); };
      for (int l = 0; l < kChunk; ++l) {
        const V key = get(k + at(l));
        V between = V{} + 1, own{}, terms[kChunk + 1] = {};
        for (int j = before ? l + 1 : l; j < kChunk; ++j) {
          if (!before && j > l) between *= get(keep + at(j));
          const V of_query = dmix[j][l] * between;
          add(dq, j, of_query * key);
          own += of_query * get(q + at(j));
          terms[j] = of_query * key * get(q + at(j));
          if (before) between *= get(keep + at(j));
        }
        add(dk, l, own);
        V passing_by{};
        for (int j = kChunk - 1; j > l; --j) {
          passing_by += terms[before ? j + 1 : j];
          add(dread, j, passing_by);
        }
      }
    });
  }

  // The same where all keys decay alike: what a decay has to do with pairs is known of their sum.
  void pairs_gated() {
    T pair[kChunk][kChunk];
    clear(passing_by, kChunk);
    for (int j = 0; j < kChunk; ++j) {
      for (int l = 0; l < kChunk; ++l) {
        pair[j][l] = l > j ? 0 : dmix[j][l] * this->span[j][l];
        for (int m = l + 1; m <= j; ++m) passing_by[m] += dmix[j][l] * mix[j][l];
      }
    }
    each(key_pad, [&](i64 i) {
      V query[kChunk], key[kChunk];
      for (int j = 0; j < kChunk; ++j) query[j] = get(q + j * key_pad + i), key[j] = get(k + j * key_pad + i);
      for (int j = 0; j < kChunk; ++j) {
        V of_query = get(dq + j * key_pad + i), of_key = get(dk + j * key_pad + i);
        for (int l = 0; l < kChunk; ++l) of_query += pair[j][l] * key[l], of_key += pair[l][j] * query[l];
        put(dq + j * key_pad + i, of_query), put(dk + j * key_pad + i, of_key);
      }
    });
  }

  void gates_backward(const Chunk& chunk) const {
    V gate[kChunk] = {}, decay[kChunk] = {};
    each(key_pad, [&](i64 i) {
      for (int j = 0; j < kChunk; ++j) {
        gate[j] += get(k + j * key_pad + i) * get(dk + j * key_pad + i);
        decay[j] += get(dread + j * key_pad + i);
      }
    });
    for (i64 j = 0; j < chunk.steps; ++j) {
      const i64 t = chunk.from + j;
      const T more = passing_by[j] + (s.gated && t >= this->since ? carried : 0);
      if (s.channels == 1) P::put(this->at(s.ddecay, t, 1), sum(decay[j]) + more);
      else this->copy_out(this->at(s.ddecay, t, keys), dread + j * key_pad, keys);
      if (s.gated) P::put(this->at(s.dgate, t, 1), sum(gate[j]) + (t == this->source ? carried : 0));
    }
  }

  void write_gradients(const Chunk& chunk) const {
    for (i64 j = 0; j < chunk.steps; ++j) {
      const V scale = V{} + this->take_of(chunk.from + j), own = V{} + dmix[j][j];
      T *const query = dq + j * key_pad, *const key = dk + j * key_pad;
      each(key_pad, [&](i64 i) {
        const V q_j = get(q + j * key_pad + i), k_j = get(k + j * key_pad + i), u_i = get(u + i);
        if (before) {
          put(query + i, get(query + i) + own * u_i * k_j);
          put(key + i, get(key + i) + own * u_i * q_j);
          put(du + i, get(du + i) + own * q_j * k_j);
        }
        put(key + i, get(key + i) * scale);
      });
      this->copy_out(this->at(s.dq, chunk.from + j, keys), query, keys);
      this->copy_out(this->at(s.dk, chunk.from + j, keys), key, keys);
    }
  }
};

template <class P>
inline void run_outer(const Outer& s, bool forward) {
  const bool alone = s.time == 1 && !s.reset && !s.lengths && !s.entering;
  parallel(s.batch * s.heads, s.threads, [&](i64 task) {
    if (forward && alone) OuterLoop<P>(s, task / s.heads, task % s.heads, 0).step();
    else if (forward) OuterLoop<P>(s, task / s.heads, task % s.heads, s.keys * OuterLoop<P>::padded(s.values)).forward();
    else OuterBackward<P>(s, task / s.heads, task % s.heads).backward();
  });
}

inline void outer(const Outer& s, bool forward) {
  by_dtype(s.dtype, [&](auto p) { run_outer<decltype(p)>(s, forward); });
}

}  // namespace recurra::RECURRA_LEVEL
