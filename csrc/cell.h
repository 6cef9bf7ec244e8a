// Memory mixing: the gates of a step see W_hh h_{t-1}, so that time can't be parallel. torch.nn's GRU and
// LSTM, and sLSTM, whose heads do not see each other; one loop forward, one backward, over small cell functors.
//
// A task takes a few rows of the batch, and one head, through all steps. Their recurrent product is a register tile of rows
// against strips of W_hh, packed once in the order in which they are read and small enough for the
// second-level cache. The backward loop finds that product already there: all h are known by then, so one
// large product over all steps gives it again at the machine's full rate, in no more time than storing gates
// would take, and nothing but y is kept in between. The gradients of weight and bias are the caller's too:
// one product over all steps.
#pragma once

#include <limits>
#include <type_traits>

#include "abi.h"
#include "lanes.h"

namespace recurra::RECURRA_LEVEL {

// ------------------------------------------------------------------------------------ cells

// Parts of a gate: x from the input, w from W_hh h + bias; s the states, h first; g their gradients, on
// return but for what passes through w.
template <class T>
struct Gru {
  using V = Vec<T>;
  static constexpr int gates = 3, states = 1;

  static void forward(const V* x, const V* w, V* s) {
    const Sigmoid<T> r(x[0] + w[0]), z(x[1] + w[1]);
    s[0] = z.rest * tanh<T>(x[2] + r.value * w[2]) + z.value * s[0];
  }
  static void backward(const V* x, const V* w, const V* s, V* g, V* dx, V* dw) {
    const Sigmoid<T> r(x[0] + w[0]), z(x[1] + w[1]);
    const V n = tanh<T>(x[2] + r.value * w[2]);
    dx[2] = g[0] * z.rest * (1 - n * n);
    dx[1] = dw[1] = g[0] * (s[0] - n) * (z.value * z.rest);
    dx[0] = dw[0] = dx[2] * w[2] * (r.value * r.rest);
    dw[2] = dx[2] * r.value;
    g[0] *= z.value;
  }
};

template <class T>
struct Lstm {
  using V = Vec<T>;
  static constexpr int gates = 4, states = 2;

  static void forward(const V* x, const V* w, V* s) {
    const Sigmoid<T> i(x[0] + w[0]), f(x[1] + w[1]), o(x[3] + w[3]);
    s[1] = f.value * s[1] + i.value * tanh<T>(x[2] + w[2]);
    s[0] = o.value * tanh<T>(s[1]);
  }
  static void backward(const V* x, const V* w, const V* s, V* g, V* dx, V* dw) {
    const Sigmoid<T> i(x[0] + w[0]), f(x[1] + w[1]), o(x[3] + w[3]);
    const V n = tanh<T>(x[2] + w[2]), y = tanh<T>(f.value * s[1] + i.value * n);
    const V dc = g[1] + g[0] * o.value * (1 - y * y);
    dw[0] = dc * n * (i.value * i.rest);
    dw[1] = dc * s[1] * (f.value * f.rest);
    dw[2] = dc * i.value * (1 - n * n);
    dw[3] = g[0] * y * (o.value * o.rest);
    for (int k = 0; k < gates; ++k) dx[k] = dw[k];
    g[0] = V{};
    g[1] = dc * f.value;
  }
};

// States h, c, n, m: c and n in units of e^m, m being the larger exponent. Where n is 0 nothing has been read
// yet, and m stands for -infinity.
template <class T>
struct Slstm {
  using V = Vec<T>;
  static constexpr int gates = 4, states = 4;

  struct Weights {
    V slope, keep, take;  // slope of log sigmoid
    decltype(V{} > V{}) kept;
    V m;
    Weights(const V* x, const V* w, const V* s) {
      const Softplus<T> forget(-(x[1] + w[1]));
      const V before = s[2] == 0 ? V{} - std::numeric_limits<T>::infinity() : s[3];
      const V f = before - forget.value, i = x[0] + w[0];
      slope = forget.slope, kept = f > i, m = kept ? f : i;
      keep = exp<T>(f - m), take = exp<T>(i - m);
    }
  };

  static void forward(const V* x, const V* w, V* s) {
    const Weights by(x, w, s);
    s[1] = by.keep * s[1] + by.take * tanh<T>(x[2] + w[2]);
    s[2] = by.keep * s[2] + by.take;
    s[3] = by.m;
    s[0] = Sigmoid<T>(x[3] + w[3]).value * s[1] / s[2];
  }
  static void backward(const V* x, const V* w, const V* s, V* g, V* dx, V* dw) {
    const Weights by(x, w, s);
    const Sigmoid<T> o(x[3] + w[3]);
    const V z = tanh<T>(x[2] + w[2]), n = by.keep * s[2] + by.take;
    const V ratio = (by.keep * s[1] + by.take * z) / n, dratio = g[0] * o.value;
    const V dc = g[1] + dratio / n, dn = g[2] - dratio * ratio / n;
    // Of both exponents over m; the larger one is m.
    const V dkeep = by.keep * (dc * s[1] + dn * s[2]), dtake = by.take * (dc * z + dn);
    const V dforget = by.kept ? g[3] - dtake : dkeep;
    dw[0] = by.kept ? dtake : g[3] - dkeep;
    dw[1] = dforget * by.slope;
    dw[2] = dc * by.take * (1 - z * z);
    dw[3] = g[0] * ratio * (o.value * o.rest);
    for (int k = 0; k < gates; ++k) dx[k] = dw[k];
    g[0] = V{};
    g[1] = dc * by.keep;
    g[2] = dn * by.keep;
    g[3] = dforget;
  }
};

// ------------------------------------------------------------------------------------ the recurrent product

constexpr int kTileRows = kVectorBytes == 64 ? 8 : 4;

// f(rows of a tile, first row) over `count` rows, in as few tiles as possible.
template <int kRows = kTileRows, class F>
inline void each_tile(i64 first, i64 count, F f) {
  for (; count - first >= kRows; first += kRows) f(std::integral_constant<int, kRows>{}, first);
  if constexpr (kRows > 1) each_tile<kRows / 2>(first, count, f);
}

// sum[r] += a[r] times a strip of a packed matrix, [depth][kVectors registers].
template <class P, int kRows, int kVectors>
inline void multiply(const typename P::T* a, i64 row, const typename P::T* strip, i64 depth,
                     typename P::V (&sum)[kRows][kVectors]) {
  for (i64 k = 0; k < depth; ++k, strip += kVectors * P::lanes) {
    typename P::V in[kVectors];
    for (int j = 0; j < kVectors; ++j) in[j] = P::load(strip + j * P::lanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
      for (int j = 0; j < kVectors; ++j) sum[r][j] += in[j] * a[r * row + k];
  }
}

// ------------------------------------------------------------------------------------ the loop

template <class P, template <class> class C>
struct CellLoop {
  using S = typename P::State;
  using T = typename P::T;
  using V = typename P::V;
  using Element = typename P::Element;
  static constexpr int kGates = C<T>::gates, kStates = C<T>::states, kOthers = kStates - 1;
  static constexpr int kVectors = kGates == 4 ? 2 : kGates;  // of a strip forward; with the rows, the registers
  static constexpr int kBack = 2;                            // of a strip backward
  static constexpr i64 kRows = 2 * kTileRows;                // of a task: a strip passes twice while in cache

  const Cell& s;
  const i64 head, first, count;  // and rows of the batch
  // Scratch of a row: states and the next h, or the gradients of states and of the recurrent product.
  const i64 channels = s.width / s.heads, origin = head * channels;
  const i64 wide = (channels + 31) / 32 * 32, stride = (kStates + 1 + kGates) * wide;
  const i64 registers = (channels + P::lanes - 1) / P::lanes, depth = kGates * channels;
  const T* const weight = static_cast<const T*>(s.weight) + head * depth * channels;
  T* const packed = static_cast<T*>(s.scratch) + head * depth * wide;
  T* const own = static_cast<T*>(s.scratch) + s.heads * depth * wide + (head * s.batch + first) * stride;

  // -------------------------------------------------------------------------- where things are

  i64 length(i64 r) const { return s.lengths ? most<i64>(0, least(s.lengths[first + r], s.time)) : s.time; }
  i64 time(i64 r, i64 k) const { return s.reverse ? length(r) - 1 - k : k; }
  i64 longest() const {
    i64 steps = 0;
    for (i64 r = 0; r < count; ++r) steps = most(steps, length(r));
    return steps;
  }

  // The state is forgotten before step k. Read backwards, a cut lies on the other side of a step.
  bool cut(i64 r, i64 k) const {
    if (!s.reset || k >= length(r)) return false;
    const i64 at = s.reverse ? time(r, k) + 1 : k;
    return at < length(r) && s.reset[(first + r) * s.time + at];
  }

  Element* row(const View& view, i64 r, i64 t) const {
    return reinterpret_cast<Element*>(view.data) + (first + r) * view.batch + t * view.time + origin;
  }
  T* before(i64 r, i64 t) const {
    return static_cast<T*>(s.before) + ((first + r) * s.time + t) * s.width + origin;
  }
  T* row(void* p, i64 r, i64 t, i64 width) const {
    return static_cast<T*>(p) + ((head * s.batch + first + r) * s.time + t) * width;
  }
  T* state(void* p, i64 r, int i) const {
    return static_cast<T*>(p) + (i * s.batch + first + r) * s.width + origin;
  }
  T* part(i64 r, int i) const { return own + r * stride + i * wide; }

  template <class N>
  void gates(V* to, const Element* from, i64 at, N n) const {
    for (int i = 0; i < kGates; ++i) to[i] = load<P>(from + i * s.width + at, n);
  }

  // The states of every row into its scratch, or out of it.
  void read_states(void* p) const {
    for (i64 r = 0; r < count; ++r)
      for (int i = 0; i < kStates; ++i)
        each_register<S>(channels, [&](i64, i64 at, auto n) {
          S::store(part(r, i) + at, load<S>(state(p, r, i) + at, n));
        });
  }
  void write_states(void* p) const {
    for (i64 r = 0; r < count; ++r)
      for (int i = 0; i < kStates; ++i) std::memcpy(state(p, r, i), part(r, i), channels * sizeof(T));
  }
  void forget(i64 r) const { std::memset(own + r * stride, 0, kStates * wide * sizeof(T)); }

  // -------------------------------------------------------------------------- forward

  // Strip i holds kVectors gates of one register of units.
  void pack_forward(i64 i) const {
    const i64 at = i * kVectors / kGates * P::lanes, gate = i * kVectors % kGates;
    T* to = packed + i * channels * kVectors * P::lanes;
    for (i64 k = 0; k < channels; ++k)
      for (int j = 0; j < kVectors; ++j)
        for (int lane = 0; lane < P::lanes; ++lane) {
          const i64 from = (gate + j) * channels + at + lane;
          *to++ = at + lane < channels ? weight[from * channels + k] : T(0);
        }
  }

  template <int kTile, class N>
  void forward_tile(i64 r, i64 k, i64 u, N n) const {
    V w[kTile][kGates];
    for (int gate = 0; gate < kGates; gate += kVectors) {
      V sum[kTile][kVectors];
      for (int j = 0; j < kVectors; ++j) {
        const T* from = static_cast<const T*>(s.bias) + (gate + j) * s.width + origin;
        const V bias = load<S>(from + u * P::lanes, n);
        for (int i = 0; i < kTile; ++i) sum[i][j] = bias;
      }
      const i64 strip = (u * kGates + gate) / kVectors;
      multiply<S>(part(r, 0), stride, packed + strip * channels * kVectors * P::lanes, channels, sum);
      for (int i = 0; i < kTile; ++i)
        for (int j = 0; j < kVectors; ++j) w[i][gate + j] = sum[i][j];
    }
    for (int i = 0; i < kTile; ++i) forward_row(r + i, k, u * P::lanes, w[i], n);
  }

  template <class N>
  void forward_row(i64 r, i64 k, i64 at, const V* w, N n) const {
    if (k >= length(r)) return;
    V x[kGates], h[kStates];
    gates(x, row(s.x, r, time(r, k)), at, n);
    for (int i = 0; i < kStates; ++i) h[i] = S::load(part(r, i) + at);
    C<T>::forward(x, w, h);
    S::store(part(r, kStates) + at, h[0]);  // beside the old one, which other units still read
    for (int i = 1; i < kStates; ++i) S::store(part(r, i) + at, h[i]);
    store<P>(row(s.y, r, time(r, k)) + at, h[0], n);
  }

  void forward() const {
    read_states(s.state);
    for (i64 k = 0, steps = longest(); k < steps; ++k) {
      for (i64 r = 0; r < count; ++r)
        if (cut(r, k)) forget(r);
      each_register<P>(channels, [&](i64 u, i64, auto n) {
        each_tile(0, count, [&](auto tile, i64 r) { forward_tile<tile>(r, k, u, n); });
      });
      for (i64 r = 0; r < count; ++r)
        if (k < length(r)) std::memcpy(part(r, 0), part(r, kStates), wide * sizeof(T));
    }
    write_states(s.state_n);
    for (i64 r = 0; r < count; ++r)
      for (i64 t = length(r); t < s.time; ++t) std::memset(row(s.y, r, t), 0, channels * sizeof(Element));
  }

  // -------------------------------------------------------------------------- backward

  // Strip i holds kBack registers of units; its depth are the gates.
  void pack_backward(i64 i) const {
    T* to = packed + i * depth * kBack * P::lanes;
    for (i64 k = 0; k < depth; ++k)
      for (i64 at = i * kBack * P::lanes; at < (i + 1) * kBack * P::lanes; ++at)
        *to++ = at < channels ? weight[k * channels + at] : T(0);
  }

  template <class N>
  void read_step(i64 r, i64 t, i64 at, V* x, V* w, N n) const {
    gates(x, row(s.x, r, t), at, n);
    for (int i = 0; i < kGates; ++i) w[i] = load<S>(row(s.recurrent, r, t, depth) + i * channels + at, n);
  }

  // The states beside h as every step of a row saw them.
  void remember(i64 r) const {
    for (i64 k = 0; k < length(r); ++k) {
      const i64 t = time(r, k);
      if (cut(r, k)) forget(r);
      each_register<P>(channels, [&](i64, i64 at, auto n) {
        V x[kGates], w[kGates], h[kStates];
        read_step(r, t, at, x, w, n);
        h[0] = load<S>(before(r, t) + at, n);
        for (int i = 1; i < kStates; ++i) {
          h[i] = S::load(part(r, i) + at);
          store<S>(row(s.memory, r, t, kOthers * channels) + (i - 1) * channels + at, h[i], n);
        }
        C<T>::forward(x, w, h);
        for (int i = 1; i < kStates; ++i) S::store(part(r, i) + at, h[i]);
      });
    }
  }

  void backward_row(i64 r, i64 t) const {
    T *d = part(r, kStates), *recurrent = row(s.recurrent, r, t, depth);
    each_register<P>(channels, [&](i64, i64 at, auto n) {
      V x[kGates], w[kGates], h[kStates], g[kStates], dx[kGates], dw[kGates];
      read_step(r, t, at, x, w, n);
      h[0] = load<S>(before(r, t) + at, n);
      for (int i = 1; i < kStates; ++i)
        h[i] = load<S>(row(s.memory, r, t, kOthers * channels) + (i - 1) * channels + at, n);
      for (int i = 0; i < kStates; ++i) g[i] = S::load(part(r, i) + at);
      g[0] += load<P>(row(s.dy, r, t) + at, n);
      C<T>::backward(x, w, h, g, dx, dw);
      for (int i = 0; i < kStates; ++i) S::store(part(r, i) + at, g[i]);
      for (int i = 0; i < kGates; ++i) {
        store<S>(d + i * channels + at, dw[i], n);
        store<S>(recurrent + i * channels + at, dw[i], n);
        store<P>(row(s.dx, r, t) + i * s.width + at, dx[i], n);
      }
    });
  }

  // Gradient of h_{t-1}, through the recurrent product, of the rows that took step k.
  template <int kTile>
  void backward_tile(i64 r, i64 k, i64 strip) const {
    V sum[kTile][kBack] = {};
    multiply<S>(part(r, kStates), stride, packed + strip * depth * kBack * P::lanes, depth, sum);
    for (int i = 0; i < kTile; ++i)
      for (int j = 0; j < kBack && k < length(r + i); ++j) {
        T* to = part(r + i, 0) + (strip * kBack + j) * P::lanes;
        S::store(to, S::load(to) + sum[i][j]);
      }
  }

  void backward() const {
    if constexpr (kOthers > 0) {
      read_states(s.state);
      for (i64 r = 0; r < count; ++r) remember(r);
    }
    // A row that has not begun has no gradient yet, and what it is multiplied with must be finite.
    std::memset(own, 0, count * stride * sizeof(T));
    read_states(s.dstate_n);
    for (i64 k = longest() - 1; k >= 0; --k) {
      for (i64 r = 0; r < count; ++r)
        if (k < length(r)) backward_row(r, time(r, k));
      for (i64 i = 0; i * kBack < registers; ++i)
        each_tile(0, count, [&](auto tile, i64 r) { backward_tile<tile>(r, k, i); });
      for (i64 r = 0; r < count; ++r)
        if (cut(r, k)) forget(r);
    }
    write_states(s.dstate);
    for (i64 r = 0; r < count; ++r)
      for (i64 t = length(r); t < s.time; ++t) {
        for (int i = 0; i < kGates; ++i)
          std::memset(row(s.dx, r, t) + i * s.width, 0, channels * sizeof(Element));
        std::memset(row(s.recurrent, r, t, depth), 0, depth * sizeof(T));
      }
  }
};

// ------------------------------------------------------------------------------------ dispatch

// Rows never meet, and a sum has the same order in every tile: no result depends on the cut into tasks.
template <class P, template <class> class C>
inline void run_cell(const Cell& s, bool forward) {
  using L = CellLoop<P, C>;
  const i64 sharing = (s.threads + s.heads - 1) / s.heads;  // threads for one head
  const i64 shares = sharing * ((s.batch + sharing * L::kRows - 1) / (sharing * L::kRows));
  const i64 rows = (s.batch + shares - 1) / shares, groups = (s.batch + rows - 1) / rows;
  const L any{s, 0, 0, s.batch};
  const i64 strips =
      forward ? any.registers * (L::kGates / L::kVectors) : (any.registers + L::kBack - 1) / L::kBack;
  parallel(s.heads * strips, s.threads, [&](i64 i) {
    const L all{s, i / strips, 0, s.batch};
    forward ? all.pack_forward(i % strips) : all.pack_backward(i % strips);
  });
  parallel(s.heads * groups, s.threads, [&](i64 task) {
    const i64 first = task % groups * rows;
    const L loop{s, task / groups, first, least(rows, s.batch - first)};
    forward ? loop.forward() : loop.backward();
  });
}

template <class P>
inline void run_kind(const Cell& s, bool forward) {
  switch (s.kind) {
    case kGru: return run_cell<P, Gru>(s, forward);
    case kLstm: return run_cell<P, Lstm>(s, forward);
    case kSlstm: return run_cell<P, Slstm>(s, forward);
  }
}

inline void cell(const Cell& s, bool forward) {
  by_dtype(s.dtype, [&](auto p) { run_kind<decltype(p)>(s, forward); });
}

// ------------------------------------------------------------------------------------ one step

template <class P, template <class> class C>
struct OneStep {
  using S = typename P::State;
  using T = typename P::T;
  using V = typename P::V;
  using Element = typename P::Element;
  static constexpr int kGates = C<T>::gates, kStates = C<T>::states;

  const CellStep& s;

  static const T* numbers(void* p) { return static_cast<const T*>(p); }

  void run(i64 b, i64 head) const {
    const i64 channels = s.width / s.heads, first = head * channels, row = b * s.width + first;
    const Element* const x_row = static_cast<const Element*>(s.x.data) + b * s.x.stride + first;
    const T* const recurrent = numbers(s.recurrent) + (b * s.heads + head) * kGates * channels;
    each_register<P>(channels, [&](i64, i64 at, auto n) {
      V x[kGates], w[kGates], h[kStates];
      for (int i = 0; i < kGates; ++i) {
        x[i] = load<P>(x_row + i * s.width + at, n), w[i] = load<S>(recurrent + i * channels + at, n);
        if (s.bias) w[i] += load<S>(numbers(s.bias) + i * s.width + first + at, n);
      }
      for (int i = 0; i < kStates; ++i) h[i] = load<S>(numbers(s.state[i]) + row + at, n);
      C<T>::forward(x, w, h);
      store<P>(static_cast<Element*>(s.y) + row + at, h[0], n);
      for (int i = 0; i < kStates; ++i) store<S>(static_cast<T*>(s.state_n[i]) + row + at, h[i], n);
    });
  }
};

template <class P, template <class> class C>
inline void run_one_step(const CellStep& s) {
  for (i64 b = 0; b < s.batch; ++b)
    for (i64 head = 0; head < s.heads; ++head) OneStep<P, C>{s}.run(b, head);
}

template <class P>
inline void choose_step(const CellStep& s) {
  switch (s.kind) {
    case kGru: return run_one_step<P, Gru>(s);
    case kLstm: return run_one_step<P, Lstm>(s);
    case kSlstm: return run_one_step<P, Slstm>(s);
  }
}

inline void cell_step(const CellStep& s) {
  by_dtype(s.dtype, [&](auto p) { choose_step<decltype(p)>(s); });
}

}  // namespace recurra::RECURRA_LEVEL
