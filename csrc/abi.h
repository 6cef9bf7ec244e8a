// The C ABI: what a call passes. Every field has 8 bytes; recurra/ops/native packs them in this order.
#pragma once

#include <cstdint>

namespace recurra {

using i64 = std::int64_t;

enum Gate : i64 {
  kLinear,
  kMinGruPositive,
  kMinGruLinear,
  kMinGruTanh,
  kMinLstmPositive,
  kMinLstmLinear,
  kMinLstmTanh,
  kMinLstmUnnormalizedPositive,
  kMinLstmUnnormalizedLinear,
  kMinLstmUnnormalizedTanh,
};

enum CellKind : i64 { kGru, kLstm };

enum Dtype : i64 { kFloat32, kFloat64, kBfloat16, kComplex64, kComplex128 };

// [batch, time, channels]; channels lie side by side, the strides count elements.
struct View {
  char* data;
  i64 batch, time;
};

struct Scan {
  i64 gate, dtype, reverse, threads, batch, time, width;
  const std::uint8_t* reset;  // [batch, time] or null
  const i64* lengths;         // [batch] or null
  View x[3];                  // a and b, or the parts of the fused gates
  View y;
  void *h_0, *h_n;  // [batch, width] in the state's dtype
  View dy;          // from here on: backward only
  void* dh_n;
  View dx[3];
  void* dh_0;
};

struct Conv {
  i64 dtype, threads, batch, time, width, taps;
  const std::uint8_t* reset;
  const i64* lengths;
  View x, y;
  void *weight, *bias;        // [taps, width] and [width] or null, like the states in the state's dtype
  void *state, *state_n;      // [batch, taps - 1, width]
  View dy;                    // from here on: backward only
  void* dstate_n;
  View dx;
  void *dweight, *dbias, *dstate;  // dweight [batch, taps, width], dbias [batch, width]: summed by the caller
};

// The gates of a step see weight h_{t-1} + bias: [gates * width, width] and [gates * width]. What is not
// behind a View is contiguous and in the state's dtype.
struct Cell {
  i64 kind, dtype, reverse, threads, batch, time, width;
  const std::uint8_t* reset;
  const i64* lengths;
  View x;  // [batch, time, gates * width]
  void *weight, *bias;
  View y;                  // forward only
  void *state, *state_n;   // [states, batch, width], h first
  void* scratch;           // (gates * width + (gates + states + 1) * batch) x width rounded up to 32
  View dy, dx;             // from here on: backward only
  void *before;            // [batch, time, width]: h_{t-1} as step t saw it
  void *recurrent;         // [batch, time, gates * width]: weight before + bias, overwritten by its gradient
  void *memory;            // [batch, time, (states - 1) * width]: room for the other states
  void *dstate_n, *dstate;
};

struct Matvec {
  i64 dtype, threads, rows, inputs, outputs;
  void *x, *weight, *bias, *y;  // [rows, inputs], [outputs, inputs], [outputs] or null, [rows, outputs]
};

// One step of a layer: its gates, then one step of its recurrence over them.
struct LayerStep {
  Matvec gates;
  Scan scan;
};

// c[r, n] = sum_k a[r * a_row + k * a_depth] b[k * b_depth + n * b_column] + bias[n], all fp32.
struct Product {
  i64 threads, rows, columns, depth;
  const float* a;
  i64 a_row, a_depth;
  const float* b;
  i64 b_depth, b_column;
  const float* bias;  // [columns] or null
  float* c;           // [rows, columns]
  float* scratch;     // depth x min(columns rounded up to 32, 512), or depth x 32 where b_column is 1
};

// What one instruction set's compilation offers.
struct Kernels {
  void (*scan)(const Scan&, bool forward);
  void (*conv)(const Conv&, bool forward);
  void (*cell)(const Cell&, bool forward);
  void (*matvec)(const Matvec&);
  void (*product)(const Product&);
};

}  // namespace recurra
