// h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t, y_t = (C_t h_t + D x_t) silu(z_t),
// delta_t = softplus(raw_t + bias). Mamba, arXiv 2312.00752, section 3.2.
//
// A channel has N states, which see the same x and delta; channels share B and C. Lanes are channels.
// Time goes in chunks: in each, a few states after the others run through all steps, so that what they share
// stays near. Of h only what enters a chunk is kept; the backward pass computes the rest again.
#pragma once

#include "abi.h"
#include "lanes.h"

namespace recurra::RECURRA_LEVEL {

template <class P>
struct SelectiveLoop {
  using T = typename P::T;
  using V = typename P::V;
  using Element = typename P::Element;
  using State = typename P::State;
  static constexpr i64 kChunk = kSelectiveChunk;
  static constexpr int kRegisters = kSelectiveStrip / P::lanes;
  static constexpr T kLog2e = T(1.44269504088896340736);

  // States that share each load of delta, x and y, as many as registers allow.
  static constexpr int kForward = 2, kBackward = 4;

  const Selective& s;
  const i64 b, strip, first, width, length;

  SelectiveLoop(const Selective& selective, i64 row, i64 number)
      : s(selective), b(row), strip(number), first(strip * s.strip), width(least(s.width - first, s.strip)),
        length(s.lengths ? most<i64>(0, least(s.lengths[b], s.time)) : s.time) {}

  bool cut(i64 t) const { return s.reset && s.reset[b * s.time + t]; }

  Element* all(const View& view, i64 t) const {
    return reinterpret_cast<Element*>(view.data) + b * view.batch + t * view.time;
  }
  Element* row(const View& view, i64 t) const { return all(view, t) + first; }
  T get(const View& view, i64 t, i64 k) const { return P::get(all(view, t) + k); }

  // Row r of [rows, width] in the state's dtype; state k of [batch, states, width], and of those kept.
  T* row(void* p, i64 r) const { return static_cast<T*>(p) + r * s.width + first; }
  T* state(void* p, i64 k) const { return row(p, b * s.states + k); }
  T* entering(i64 begin, i64 k) const {
    const i64 chunks = (s.time + kChunk - 1) / kChunk;
    return row(s.entering, (b * chunks + begin / kChunk) * s.states + k);
  }
  // What step t adds to the gradient of B or C from this strip: [states].
  T* partial(void* p, i64 t) const {
    return static_cast<T*>(p) + ((strip * s.batch + b) * s.time + t) * s.states;
  }

  void copy_states(void* to, void* from) const {
    for (i64 k = 0; k < s.states; ++k) std::memcpy(state(to, k), state(from, k), width * sizeof(T));
  }
  void clear_padding(const View& view) const {
    for (i64 t = length; t < s.time; ++t) std::memset(row(view, t), 0, width * sizeof(Element));
  }
  void clear_padding(void* p) const {
    std::memset(partial(p, length), 0, (s.time - length) * s.states * sizeof(T));
  }

  // exp(delta a), delta >= 0; beyond the range of normal numbers 0 or, where a > 0, something large.
  struct Decay {
    V rate, limit, end;
    Decay() = default;
    explicit Decay(V a)  // 0 is added as that makes the negative zero positive, and its limit infinite
        : rate(a * kLog2e), limit((Format<T>::bias - 1) / abs(rate + 0)), end(a > 0 ? V{} + T(1e38) : V{}) {}
    V operator()(V delta) const { return delta > limit ? end : exp2<T>(delta, rate); }
  };

  // States k .. k + K - 1 in a chunk, with their B and C.
  template <int K>
  struct Group {
    i64 from, steps, k;
    T b[kChunk][K], c[kChunk][K];
  };
  template <int K>
  Group<K> group(i64 from, i64 steps, i64 k) const {
    Group<K> g;
    g.from = from, g.steps = steps, g.k = k;
    for (i64 i = 0; i < steps; ++i) {
      for (int j = 0; j < K; ++j) g.b[i][j] = get(s.b, from + i, k + j), g.c[i][j] = get(s.c, from + i, k + j);
    }
    return g;
  }

  // Rows of one strip lie so far apart that no hardware foresees them.
  void fetch(const View& view, i64 t, i64 c) const {
    if (view.data && t >= 0 && t < length) __builtin_prefetch(row(view, t) + c);
  }
  void fetch_to_write(const View& view, i64 t, i64 c) const {
    if (view.data) __builtin_prefetch(row(view, t) + c, 1);
  }

  // What a register of channels has in a chunk: in = delta x, y before its gate.
  struct Steps {
    V delta[kChunk], in[kChunk], y[kChunk];
  };
  // Backward also dy before the gate, the slopes of what delta and z go through, that one times the dy behind
  // the gate, and what the states' own terms add up to.
  struct BackwardSteps : Steps {
    V dy[kChunk], slope[kChunk], dgate[kChunk], din[kChunk], ddelta[kChunk];
  };

  // Step t, number i of the chunk; returns the slope of its softplus.
  template <class N>
  V begin(Steps& r, i64 i, i64 t, i64 c, N n) const {
    const V x = load<P>(row(s.x, t) + c, n), raw = load<P>(row(s.delta, t) + c, n);
    const Softplus<T> delta(raw + load<State>(row(s.bias, 0) + c, n));
    r.delta[i] = delta.value, r.in[i] = delta.value * x, r.y[i] = load<State>(row(s.d, 0) + c, n) * x;
    return delta.slope;
  }

  template <class N>
  void begin_forward(Steps& r, i64 from, i64 steps, i64 c, N n) const {
    for (i64 i = 0; i < steps; ++i) {
      const i64 t = from + i, next = t + kChunk;
      fetch(s.x, next, c), fetch(s.delta, next, c), fetch(s.z, next, c), fetch_to_write(s.y, t, c);
      begin(r, i, t, c, n);
    }
  }

  // States k .. k + K - 1 of all channels through the chunk.
  template <int K>
  void forward(Steps* registers, i64 from, i64 steps, i64 k) const {
    const Group<K> g = group<K>(from, steps, k);
    each_register<P>(width, [&](i64 v, i64 c, auto n) {
      Steps& r = registers[v];
      V h[K];  // in registers: read back from memory, it would wait for the store each step
      Decay decay[K];
      for (int j = 0; j < K; ++j) {
        decay[j] = Decay(load<State>(row(s.a, k + j) + c, n));
        h[j] = load<State>(state(s.h_n, k + j) + c, n);
        store<State>(entering(from, k + j) + c, h[j], n);
      }
      for (i64 i = 0; i < steps; ++i) {
        const bool forget = cut(from + i);
        V y = r.y[i];
        for (int j = 0; j < K; ++j) {
          h[j] = decay[j](r.delta[i]) * (forget ? V{} : h[j]) + g.b[i][j] * r.in[i];
          y += g.c[i][j] * h[j];
        }
        r.y[i] = y;
      }
      for (int j = 0; j < K; ++j) store<State>(state(s.h_n, k + j) + c, h[j], n);
    });
  }

  void forward_chunk(i64 from, i64 steps) const {
    Steps registers[kRegisters];
    each_register<P>(width, [&](i64 v, i64 c, auto n) { begin_forward(registers[v], from, steps, c, n); });
    i64 k = 0;
    for (; k + kForward <= s.states; k += kForward) forward<kForward>(registers, from, steps, k);
    for (; k < s.states; ++k) forward<1>(registers, from, steps, k);
    each_register<P>(width, [&](i64 v, i64 c, auto n) {
      for (i64 i = 0; i < steps; ++i) {
        V y = registers[v].y[i];
        if (s.z.data) {
          const V z = load<P>(row(s.z, from + i) + c, n);
          y *= z * Sigmoid<T>(z).value;
        }
        store<P>(row(s.y, from + i) + c, y, n);
      }
    });
  }

  void forward() const {
    copy_states(s.h_n, s.h_0);
    for (i64 from = 0; from < length; from += kChunk) forward_chunk(from, least(kChunk, length - from));
    clear_padding(s.y);
  }

  void backward() const {
    BackwardSteps registers[kRegisters];
    V dbias[kRegisters] = {}, dskip[kRegisters] = {};
    copy_states(s.dh_0, s.dh_n);
    for (i64 k = 0; k < s.states; ++k) std::memset(state(s.da, k), 0, width * sizeof(T));
    for (i64 end = length; end > 0; end = (end - 1) / kChunk * kChunk) {
      const i64 from = (end - 1) / kChunk * kChunk, steps = end - from;
      each_register<P>(width, [&](i64 v, i64 c, auto n) { begin_backward(registers[v], from, steps, c, n); });
      i64 k = 0;
      for (; k + kBackward <= s.states; k += kBackward) backward<kBackward>(registers, from, steps, k);
      for (; k < s.states; ++k) backward<1>(registers, from, steps, k);
      each_register<P>(width, [&](i64 v, i64 c, auto n) {
        end_backward(registers[v], from, steps, c, n, dbias[v], dskip[v]);
      });
    }
    each_register<P>(width, [&](i64 v, i64 c, auto n) {
      store<State>(row(s.dbias, b) + c, dbias[v], n);
      store<State>(row(s.dd, b) + c, dskip[v], n);
    });
    clear_padding(s.dx), clear_padding(s.ddelta), clear_padding(s.db), clear_padding(s.dc);
    if (s.z.data) clear_padding(s.dz);
  }

  template <class N>
  void begin_backward(BackwardSteps& r, i64 from, i64 steps, i64 c, N n) const {
    for (i64 i = 0; i < steps; ++i) {
      const i64 t = from + i, next = t - kChunk;
      fetch(s.x, next, c), fetch(s.delta, next, c), fetch(s.z, next, c), fetch(s.dy, next, c);
      fetch_to_write(s.dx, t, c), fetch_to_write(s.ddelta, t, c), fetch_to_write(s.dz, t, c);
      r.slope[i] = begin(r, i, t, c, n);
      r.dy[i] = load<P>(row(s.dy, t) + c, n);
      r.din[i] = r.ddelta[i] = V{};
      if (!s.z.data) continue;
      const V z = load<P>(row(s.z, t) + c, n);
      const Sigmoid<T> gate(z);
      r.dgate[i] = r.dy[i] * gate.value * (1 + z * gate.rest);
      r.dy[i] *= z * gate.value;
    }
  }

  // What K states of a register build on in each step, and how much of it stays.
  template <int K>
  struct Kept {
    V decay[kChunk][K], before[kChunk][K];
  };

  // Through the chunk once more; dc: what C gets.
  template <int K, class N>
  void repeat(BackwardSteps& r, const Group<K>& g, Kept<K>& kept, V (*dc)[K], i64 c, N n) const {
    V h[K];
    Decay decay[K];
    for (int j = 0; j < K; ++j) {
      decay[j] = Decay(load<State>(row(s.a, g.k + j) + c, n));
      h[j] = load<State>(entering(g.from, g.k + j) + c, n);
      if (g.from) __builtin_prefetch(entering(g.from - kChunk, g.k + j) + c);
    }
    for (i64 i = 0; i < g.steps; ++i) {
      const bool forget = cut(g.from + i);
      V y = r.y[i];
      for (int j = 0; j < K; ++j) {
        kept.decay[i][j] = decay[j](r.delta[i]), kept.before[i][j] = forget ? V{} : h[j];
        h[j] = kept.decay[i][j] * kept.before[i][j] + g.b[i][j] * r.in[i];
        y += g.c[i][j] * h[j];
        dc[i][j] += h[j] * r.dy[i];
      }
      r.y[i] = y;
    }
  }

  // And back; db: what B gets.
  template <int K, class N>
  void reverse(BackwardSteps& r, const Group<K>& g, const Kept<K>& kept, V (*db)[K], i64 c, N n) const {
    V a[K], da[K], dh[K];
    for (int j = 0; j < K; ++j) {
      a[j] = load<State>(row(s.a, g.k + j) + c, n), da[j] = load<State>(state(s.da, g.k + j) + c, n);
      dh[j] = load<State>(state(s.dh_0, g.k + j) + c, n);
    }
    for (i64 i = g.steps - 1; i >= 0; --i) {
      const bool forget = cut(g.from + i);
      V din = r.din[i], ddelta = r.ddelta[i];
      for (int j = 0; j < K; ++j) {
        dh[j] += g.c[i][j] * r.dy[i];
        db[i][j] += dh[j] * r.in[i];
        din += g.b[i][j] * dh[j];
        dh[j] = forget ? V{} : kept.decay[i][j] * dh[j];
        const V dexponent = dh[j] * kept.before[i][j];
        ddelta += a[j] * dexponent;
        da[j] += r.delta[i] * dexponent;
      }
      r.din[i] = din, r.ddelta[i] = ddelta;
    }
    for (int j = 0; j < K; ++j) {
      store<State>(state(s.dh_0, g.k + j) + c, dh[j], n);
      store<State>(state(s.da, g.k + j) + c, da[j], n);
    }
  }

  // B and C belong to all channels: what they get is summed over registers first and over lanes once.
  template <int K>
  void backward(BackwardSteps* registers, i64 from, i64 steps, i64 k) const {
    const Group<K> g = group<K>(from, steps, k);
    V db[kChunk][K] = {}, dc[kChunk][K] = {};
    each_register<P>(width, [&](i64 v, i64 c, auto n) {
      Kept<K> kept;
      repeat(registers[v], g, kept, dc, c, n);
      reverse(registers[v], g, kept, db, c, n);
    });
    for (i64 i = 0; i < steps; ++i) {
      for (int j = 0; j < K; ++j) {
        partial(s.db, from + i)[k + j] = sum_lanes<T, kVectorBytes>(db[i][j]);
        partial(s.dc, from + i)[k + j] = sum_lanes<T, kVectorBytes>(dc[i][j]);
      }
    }
  }

  template <class N>
  void end_backward(const BackwardSteps& r, i64 from, i64 steps, i64 c, N n, V& dbias, V& dskip) const {
    const V skip = load<State>(row(s.d, 0) + c, n);
    for (i64 i = 0; i < steps; ++i) {
      const i64 t = from + i;
      const V x = load<P>(row(s.x, t) + c, n), draw = (r.ddelta[i] + x * r.din[i]) * r.slope[i];
      dbias += draw, dskip += r.dy[i] * x;
      store<P>(row(s.ddelta, t) + c, draw, n);
      store<P>(row(s.dx, t) + c, r.delta[i] * r.din[i] + skip * r.dy[i], n);
      if (s.z.data) store<P>(row(s.dz, t) + c, r.y[i] * r.dgate[i], n);
    }
  }
};

template <class P>
inline void run_selective(const Selective& s, bool forward) {
  const i64 strips = (s.width + s.strip - 1) / s.strip;
  parallel(s.batch * strips, s.threads, [&](i64 task) {
    const SelectiveLoop<P> loop(s, task / strips, task % strips);
    forward ? loop.forward() : loop.backward();
  });
}

inline void selective(const Selective& s, bool forward) {
  by_dtype(s.dtype, [&](auto p) { run_selective<decltype(p)>(s, forward); });
}

// A strip of one row's channels through one step.
template <class P>
struct SelectiveStrip {
  using T = typename P::T;
  using V = typename P::V;
  using Element = typename P::Element;
  using State = typename P::State;

  const SelectiveStep& s;
  const i64 b, first, width;

  const Element* row(const Rows& rows) const { return static_cast<const Element*>(rows.data) + b * rows.stride; }
  T* state(void* p, i64 k) const { return static_cast<T*>(p) + (b * s.states + k) * s.width + first; }
  const T* shared(void* p, i64 k) const { return static_cast<const T*>(p) + k * s.width + first; }

  template <class N>
  V delta(i64 c, N n) const {
    const Element* weight = static_cast<const Element*>(s.weight) + first + c;
    V sum = load<State>(shared(s.bias, 0) + c, n);
    for (i64 k = 0; k < s.rank; ++k) sum += P::get(row(s.mixed) + k) * load_ahead<P>(weight + k * s.width, n);
    return Softplus<T>(sum).value;
  }

  void run() const {
    const Element *in = row(s.mixed) + s.rank, *out = in + s.states;
    each_register<P>(width, [&](i64, i64 c, auto n) {
      const V x = load<P>(row(s.x) + first + c, n), d = delta(c, n), rate = d * SelectiveLoop<P>::kLog2e;
      V y = load<State>(shared(s.d, 0) + c, n) * x;
      for (i64 k = 0; k < s.states; ++k) {
        const V keep = exp2<T>(rate * load_ahead<State>(shared(s.a, k) + c, n));
        const V h = keep * load_ahead<State>(state(s.h_0, k) + c, n) + P::get(in + k) * (d * x);
        store_ahead<State>(state(s.h_n, k) + c, h, n);
        y += P::get(out + k) * h;
      }
      const V z = load<P>(row(s.z) + first + c, n);
      store<P>(static_cast<Element*>(s.y) + b * s.width + first + c, y * (z * Sigmoid<T>(z).value), n);
    });
  }
};

constexpr i64 kStepStrip = 64;

template <class P>
inline void run_selective_step(const SelectiveStep& s) {
  const i64 strips = (s.width + kStepStrip - 1) / kStepStrip;
  parallel(s.batch * strips, s.threads, [&](i64 task) {
    const i64 first = task % strips * kStepStrip;
    SelectiveStrip<P>{s, task / strips, first, least(s.width - first, kStepStrip)}.run();
  });
}

inline void selective_step(const SelectiveStep& s) {
  by_dtype(s.dtype, [&](auto p) { run_selective_step<decltype(p)>(s); });
}

}  // namespace recurra::RECURRA_LEVEL
