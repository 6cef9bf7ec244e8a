// h_t = exp(delta_t A) h_{t-1} + delta_t B_t x_t, y_t = (C_t h_t + D x_t) silu(z_t),
// delta_t = softplus(raw_t + bias). Mamba, arXiv 2312.00752, section 3.2.
//
// A channel has N states, which see the same x and delta; channels share B and C. Lanes are channels.
// Time goes in chunks: in each, one state after the other runs through all steps, so that what they share
// stays in L1. Of h only what enters a chunk is kept; the backward pass computes the rest again.
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

  const Selective& s;
  const i64 b, strip, first, width, length;

  SelectiveLoop(const Selective& selective, i64 row, i64 number)
      : s(selective), b(row), strip(number), first(strip * kSelectiveStrip),
        width(least(s.width - first, kSelectiveStrip)),
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

  // What a register of channels has in a chunk: in = delta x, y before its gate.
  struct Steps {
    V delta[kChunk], in[kChunk], y[kChunk];
    V dy[kChunk], din[kChunk], ddelta[kChunk];  // backward: of y, and what the states' own terms add up to
  };

  template <class N>
  void begin(Steps& r, i64 from, i64 steps, i64 c, N n) const {
    const V bias = load<State>(row(s.bias, 0) + c, n), skip = load<State>(row(s.d, 0) + c, n);
    for (i64 i = 0; i < steps; ++i) {
      const V x = load<P>(row(s.x, from + i) + c, n);
      r.delta[i] = Softplus<T>(load<P>(row(s.delta, from + i) + c, n) + bias).value;
      r.in[i] = r.delta[i] * x, r.y[i] = skip * x;
    }
  }

  // State k through the chunk, from h[0] to h[steps].
  void advance(Steps& r, i64 from, i64 steps, i64 k, V a, V* keep, V* h) const {
    const V rate = a * kLog2e;
    V now = h[0];  // in a register: read back from memory, it would wait for the store each step
    for (i64 i = 0; i < steps; ++i) {
      keep[i] = exp2<T>(r.delta[i] * rate);
      now = keep[i] * (cut(from + i) ? V{} : now) + get(s.b, from + i, k) * r.in[i];
      r.y[i] += get(s.c, from + i, k) * now;
      h[i + 1] = now;
    }
  }

  void forward() const {
    copy_states(s.h_n, s.h_0);
    for (i64 from = 0; from < length; from += kChunk) {
      each_register<P>(width, [&](i64, i64 c, auto n) { forward(from, least(kChunk, length - from), c, n); });
    }
    clear_padding(s.y);
  }

  template <class N>
  void forward(i64 from, i64 steps, i64 c, N n) const {
    Steps r;
    begin(r, from, steps, c, n);
    for (i64 k = 0; k < s.states; ++k) {
      V keep[kChunk], h[kChunk + 1];
      h[0] = load<State>(state(s.h_n, k) + c, n);
      store<State>(entering(from, k) + c, h[0], n);
      advance(r, from, steps, k, load<State>(row(s.a, k) + c, n), keep, h);
      store<State>(state(s.h_n, k) + c, h[steps], n);
    }
    for (i64 i = 0; i < steps; ++i) {
      if (s.z.data) {
        const V z = load<P>(row(s.z, from + i) + c, n);
        r.y[i] *= z * Sigmoid<T>(z).value;
      }
      store<P>(row(s.y, from + i) + c, r.y[i], n);
    }
  }

  void backward() const {
    Steps registers[kRegisters];
    V dbias[kRegisters] = {}, dskip[kRegisters] = {};
    copy_states(s.dh_0, s.dh_n);
    for (i64 k = 0; k < s.states; ++k) std::memset(state(s.da, k), 0, width * sizeof(T));
    for (i64 end = length; end > 0; end = (end - 1) / kChunk * kChunk) {
      const i64 from = (end - 1) / kChunk * kChunk, steps = end - from;
      each_register<P>(width, [&](i64 v, i64 c, auto n) {
        begin(registers[v], from, steps, c, n);
        begin_backward(registers[v], from, steps, c, n);
      });
      for (i64 k = 0; k < s.states; ++k) backward(registers, from, steps, k);
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
  void begin_backward(Steps& r, i64 from, i64 steps, i64 c, N n) const {
    for (i64 i = 0; i < steps; ++i) {
      r.dy[i] = load<P>(row(s.dy, from + i) + c, n);
      r.din[i] = r.ddelta[i] = V{};
      if (!s.z.data) continue;
      const V z = load<P>(row(s.z, from + i) + c, n);
      r.dy[i] *= z * Sigmoid<T>(z).value;
    }
  }

  // State k of all channels, back through the chunk. B and C belong to all channels: what they get is
  // summed over registers first and over lanes once.
  void backward(Steps* registers, i64 from, i64 steps, i64 k) const {
    V db[kChunk] = {}, dc[kChunk] = {};
    each_register<P>(width, [&](i64 v, i64 c, auto n) {
      Steps& r = registers[v];
      const V a = load<State>(row(s.a, k) + c, n);
      V keep[kChunk], h[kChunk + 1];
      h[0] = load<State>(entering(from, k) + c, n);
      advance(r, from, steps, k, a, keep, h);
      V dh = load<State>(state(s.dh_0, k) + c, n), da = load<State>(state(s.da, k) + c, n);
      for (i64 i = steps - 1; i >= 0; --i) {
        dh += get(s.c, from + i, k) * r.dy[i];
        dc[i] += h[i + 1] * r.dy[i];
        db[i] += dh * r.in[i];
        r.din[i] += get(s.b, from + i, k) * dh;
        dh = cut(from + i) ? V{} : keep[i] * dh;
        const V dexponent = cut(from + i) ? V{} : dh * h[i];
        r.ddelta[i] += a * dexponent;
        da += r.delta[i] * dexponent;
      }
      store<State>(state(s.dh_0, k) + c, dh, n);
      store<State>(state(s.da, k) + c, da, n);
    });
    for (i64 i = 0; i < steps; ++i) {
      partial(s.db, from + i)[k] = sum_lanes<T, kVectorBytes>(db[i]);
      partial(s.dc, from + i)[k] = sum_lanes<T, kVectorBytes>(dc[i]);
    }
  }

  template <class N>
  void end_backward(const Steps& r, i64 from, i64 steps, i64 c, N n, V& dbias, V& dskip) const {
    const V bias = load<State>(row(s.bias, 0) + c, n), skip = load<State>(row(s.d, 0) + c, n);
    for (i64 i = 0; i < steps; ++i) {
      const i64 t = from + i;
      const V x = load<P>(row(s.x, t) + c, n), raw = load<P>(row(s.delta, t) + c, n);
      const V draw = (r.ddelta[i] + x * r.din[i]) * Softplus<T>(raw + bias).slope;
      dbias += draw, dskip += r.dy[i] * x;
      store<P>(row(s.ddelta, t) + c, draw, n);
      store<P>(row(s.dx, t) + c, r.delta[i] * r.din[i] + skip * r.dy[i], n);
      if (!s.z.data) continue;
      const V z = load<P>(row(s.z, t) + c, n), dy = load<P>(row(s.dy, t) + c, n);
      const Sigmoid<T> gate(z);
      store<P>(row(s.dz, t) + c, dy * r.y[i] * gate.value * (1 + z * gate.rest), n);
    }
  }
};

template <class P>
inline void run_selective(const Selective& s, bool forward) {
  const i64 strips = (s.width + kSelectiveStrip - 1) / kSelectiveStrip;
  parallel(s.batch * strips, s.threads, [&](i64 task) {
    const SelectiveLoop<P> loop(s, task / strips, task % strips);
    forward ? loop.forward() : loop.backward();
  });
}

inline void selective(const Selective& s, bool forward) {
  switch (s.dtype) {
    case kFloat32: return run_selective<Real<float>>(s, forward);
    case kFloat64: return run_selective<Real<double>>(s, forward);
    case kBfloat16: return run_selective<Real<bf16>>(s, forward);
  }
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

template <class P>
inline void run_selective_step(const SelectiveStep& s) {
  const i64 strips = (s.width + kSelectiveStrip - 1) / kSelectiveStrip;
  parallel(s.batch * strips, s.threads, [&](i64 task) {
    const i64 first = task % strips * kSelectiveStrip;
    SelectiveStrip<P>{s, task / strips, first, least(s.width - first, kSelectiveStrip)}.run();
  });
}

inline void selective_step(const SelectiveStep& s) {
  switch (s.dtype) {
    case kFloat32: return run_selective_step<Real<float>>(s);
    case kFloat64: return run_selective_step<Real<double>>(s);
    case kBfloat16: return run_selective_step<Real<bf16>>(s);
  }
}

}  // namespace recurra::RECURRA_LEVEL
