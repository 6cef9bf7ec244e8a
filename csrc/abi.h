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

enum CellKind : i64 { kGru, kLstm, kSlstm };

enum Dtype : i64 { kFloat32, kFloat64, kBfloat16, kComplex64, kComplex128, kInt8 };

// [batch, time, channels]; channels lie side by side, the strides count elements.
struct View {
  char* data;
  i64 batch, time;
};

// The same of [rows, width].
struct Rows {
  void* data;
  i64 stride;
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

// The gates of a step see weight h_{t-1} + bias, each of its own head: [heads, gates * channels, channels] and
// [gates * width], width = heads * channels. What is not behind a View is contiguous and in the state's dtype.
struct Cell {
  i64 kind, dtype, reverse, threads, batch, time, heads, width;
  const std::uint8_t* reset;
  const i64* lengths;
  View x;  // [batch, time, gates * width]
  void *weight, *bias;
  View y;                  // forward only
  void *state, *state_n;   // [states, batch, width], h first
  void* scratch;           // heads x (gates * channels + (gates + states + 1) * batch) x channels up to 32
  View dy, dx;             // from here on: backward only
  void *before;            // [batch, time, width]: h_{t-1} as step t saw it
  void *recurrent;         // [heads, batch, time, gates * channels]: weight before + bias, then its gradient
  void *memory;            // [heads, batch, time, (states - 1) * channels]: room for the other states
  void *dstate_n, *dstate;
};

// One step of Cell, whose products are known; what is not behind Rows is contiguous.
struct CellStep {
  i64 kind, dtype, batch, heads, width;
  Rows x;                      // [batch, gates * width]
  void *recurrent, *bias;      // [batch, heads, gates * channels], and [gates * width] or null, like
  void *state[4], *state_n[4]; // [batch, width] in the state's dtype, h first; may be the same
  void* y;                     // [batch, width]
};

// One step of Conv; what is not behind Rows is contiguous, weight and bias in the dtype of x.
struct ConvStep {
  i64 dtype, batch, width, taps;
  Rows x;
  void *weight, *bias, *state;  // [taps, width], [width] or null, [batch, taps - 1, width]
  void *y, *state_n;            // [batch, width], and like state, which it may be
};

// A state is max | numerator | denominator, 2 scores + width numbers side by side. What is not behind a View
// is contiguous and in the state's dtype.
struct Softmax {
  i64 dtype, reverse, threads, batch, time, scores, width;  // a score is shared by width / scores channels
  const std::uint8_t* reset;
  const i64* lengths;
  View s, v;               // [batch, time, scores] and [batch, time, width]
  void *decay, *bonus;     // [scores]
  void* state;             // [batch, 2 scores + width]
  View y;                  // forward only
  void* state_n;
  View dy;                 // from here on: backward only
  void* dstate_n;
  View ds, dv;
  void *dstate, *ddecay, *dbonus;  // the last two [batch, scores]: summed by the caller
  void* scratch;                   // [batch, 34 + ceil(time / 32), 2 scores + width]
};

// One step of Softmax; everything contiguous, the parts of a state apart: max, numerator, denominator.
struct SoftmaxStep {
  i64 dtype, batch, scores, width;
  void *s, *v, *decay, *bonus;  // decay and bonus [scores], or null
  void* state[3];
  void* y;
  void* state_n[3];
};

// Steps that one sum of the gradients of token mixes is over, and mixes of one input.
constexpr i64 kTokenMixBlock = 64, kTokenMixes = 4;

// What is not behind a View is contiguous and in the state's dtype.
struct TokenMix {
  i64 dtype, threads, batch, time, width, mixes;
  const std::uint8_t* reset;
  const i64* lengths;
  View x;
  void *mix, *state, *state_n;  // [mixes, width], and [batch, width]
  View y[kTokenMixes];          // the backward pass reads their gradients in them
  void* dstate_n;               // from here on: backward only
  View dx;
  void *dmix, *dstate;  // dmix [batch, time / kTokenMixBlock rounded up, mixes, width]: summed by the caller
};

// One step of token mixes, each y m x + (1 - m) before; everything contiguous.
struct TokenMixStep {
  i64 dtype, batch, width, mixes;
  void *x, *before, *after;  // before and after [batch, width] in the state's dtype
  void* mix[kTokenMixes];    // [width]
  void* y;                   // [mixes, batch, width]
};

// Steps of a diagonal state space taken together; minus rank one, those between two notes of h.
constexpr i64 kDiagonalTile = 64;

// Complex numbers lie as a row of real parts and a row of imaginary parts; what is not behind a View is
// contiguous and in the state's dtype.
struct Diagonal {
  i64 dtype, threads, batch, time, width, states;
  const std::uint8_t* reset;
  const i64* lengths;
  View u, y;
  void* parameters;  // [states, 3, 2, width]: a, b, c; minus rank one [states, 5, 2, width]: a, b, c, q, m
  void* skip;        // [width]
  void *h_0, *h_n;   // [batch, states, 2, width]
  View dy;           // from here on: backward only
  void* dh_n;
  View du;
  void *dparameters, *dskip;  // [batch, states, 3 or 5, 2, width] and [batch, width]: summed by the caller
  void *dh_0, *scratch;       // minus rank one: [batch, time / kDiagonalTile rounded up, states, 2, width]
};

// Steps between which the states are kept, and at most so many channels add up what B and C get.
constexpr i64 kSelectiveChunk = 16, kSelectiveStrip = 256;

// What is not behind a View is contiguous and in the state's dtype.
struct Selective {
  i64 dtype, threads, batch, time, width, states, strip;
  const std::uint8_t* reset;
  const i64* lengths;
  View x, delta, b, c, z;    // [batch, time, width]; b, c [batch, time, states]; z.data null: no gate
  void *a, *d, *bias;        // [states, width], [width], [width]
  void* entering;            // [batch, ceil(time / chunk), states, width]: the state before each chunk
  View y;                    // forward only
  void *h_0, *h_n;           // [batch, states, width]
  View dy;                   // from here on: backward only
  void* dh_n;
  View dx, ddelta, dz;
  void *db, *dc;             // [ceil(width / strip), batch, time, states]: summed by the caller, like
  void *da, *dd, *dbias;     // [batch, states, width], [batch, width], [batch, width]
  void* dh_0;
};

// One step of Selective, whose delta is weight^T times the first numbers of `mixed`; weight in the dtype of x.
struct SelectiveStep {
  i64 dtype, threads, batch, width, states, rank;
  Rows x, mixed, z;           // [batch, width]; [batch, rank + 2 states], the last of which are B and C
  void *weight, *a, *d, *bias;  // [rank, width], [states, width], [width], [width]
  void *h_0, *h_n, *y;        // [batch, states, width], h_n may be h_0; y [batch, width] contiguous
};

// Steps of a segment: of the matrix, only what enters each is kept for the backward pass.
constexpr i64 kOuterSegment = 64;

struct Outer {
  i64 dtype, threads, batch, time, heads, keys, values;
  i64 gated, channels;  // channels of the decay in a head: 1, as where it is gated, or one for each key
  double scale;
  const std::uint8_t* reset;
  const i64* lengths;
  View q, k, v, decay, gate;       // [batch, time, heads * width]; gate only where gated
  void* bonus;                     // [heads, keys] or null, like the rest in the state's dtype
  void *c_0, *n_0, *max_0;         // [batch, heads, keys, values], [batch, heads, keys], [batch, heads]
  void *c_n, *n_n, *max_n;         // n and max null unless gated
  void* entering;                  // [batch, heads, ceil(time / segment), keys * (values + 1)]; forward: or null
  View y;                          // forward only
  View dy;                         // from here on: backward only
  void *dc_n, *dn_n, *dmax_n;
  View dq, dk, dv, ddecay, dgate;
  void* dbonus;                    // [batch, heads, keys]: summed by the caller
  void *dc_0, *dn_0, *dmax_0;
};

// Weights of another dtype than x, bf16 or int8 beside fp32, lie in groups of so many columns, the last one
// filled up with zeros. A group is words of 32 bits: of w words, word i holds columns i, w + i, 2 w + i, ...
// from its lowest bits on. Rows of x: at most kPackedRows.
constexpr i64 kGroup = 64, kPackedRows = 16;

// A matrix, or blocks along the diagonal of one, each with so many inputs and outputs.
struct Matvec {
  i64 dtype, weight_dtype, threads, rows, blocks, inputs, outputs;
  Rows x;                 // [rows, blocks * inputs]
  void* weight;           // [blocks, outputs, inputs]
  const float* scale;     // [blocks * outputs], which multiplies the product of packed weights, or null
  void* bias;             // [blocks * outputs] or null
  void* added;            // [rows, blocks * outputs], added to the product unless null
  Rows y;                 // [rows, blocks * outputs]
};

// Rows of dweight and dbias: one for each block of this many rows, summed by the caller.
constexpr i64 kNormBlock = 64;

// Where bias is null the mean stays: RMS norm. Row r has the weights r % groups of [groups, width].
struct Norm {
  i64 dtype, threads, rows, width, groups;
  double eps;
  void *x, *added, *weight, *bias, *sum, *y;  // added and its sum with x null where nothing is added
  void* moments;                              // [rows, 2] in the state's dtype, or null: mean and scale
  void *dsum, *dy, *dx, *dweight, *dbias;     // backward only, where x is the sum; dsum null: y alone is used
};

enum ActivationKind : i64 { kGelu, kSilu, kSigmoid, kReluSquare, kLogSigmoid, kTanh, kIdentity };

struct Activation {
  i64 kind, dtype, threads, rows, width;
  double scale;              // y = scale f(x / scale) factor + added, either null
  Rows x, factor, added, y;  // the backward pass reads the gradient of y in it
  Rows dx, dfactor;          // backward only
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
  const float* bias;   // [columns] or null
  const float* added;  // [rows, columns], added to the product unless null
  float* c;            // [rows, columns]
  float* scratch;     // depth x min(columns rounded up to 32, 512), or depth x 32 where b_column is 1
};

// y = W x for blocks of four channels: of `parts` matrices each, whose outputs lie side by side.
constexpr i64 kFoursRows = 64;  // that one sum of gradients of the weights is over

struct Fours {
  i64 dtype, threads, rows, blocks, parts;
  Rows x;              // [rows, 4 blocks]
  void* weight;        // [parts, blocks, 4, 4], like x
  Rows y;              // [rows, parts * 4 blocks]; the backward pass reads its gradient in it
  Rows dx;             // from here on: backward only
  void* dweight;       // [rows / kFoursRows rounded up, parts, blocks, 4, 4] in the state's dtype: summed by the caller
};

// One step. Entries are the old ones and then the new ones; the newest comes behind those.
struct Attention {
  i64 dtype, threads, batch, heads, channels, old, fresh, room, window;  // window 0: none
  i64 group;                       // queries of each key
  double base;
  void* qkv;                       // [batch, group + 2, heads, channels]
  void *keys, *values;             // [batch, heads, old, channels]
  void *new_keys, *new_values;     // [batch, heads, fresh, channels], copied into room unless they are it
  void *room_keys, *room_values;   // [batch, heads, room, channels]
  const i64 *begin, *position;     // [batch]; there are position - begin new entries, or `fresh` where null
  i64* position_n;                 // [batch]
  void *y;                         // [batch, group, heads, channels]
  void *turns, *scratch;           // [batch, channels] and [batch, heads, scratch_row], in the state's dtype
  i64 scratch_row;                 // channels + old + room rounded up to 16
};

// Of the entries of row b the first lengths[b] may be read, all by each of its queries.
struct CrossAttention {
  i64 dtype, threads, batch, queries, heads, channels, steps;
  void* q;                         // [batch, queries, heads, channels]
  void* memory;                    // keys and values: [batch, 2, heads, steps, channels]
  const i64* lengths;              // [batch]
  void *y, *scratch;               // like q, and [batch, heads, scratch_row] in the state's dtype
  i64 scratch_row;                 // channels + steps rounded up to 16
};

struct Copy {
  void *to, *from;
  i64 bytes;
};

// Calls of the exported functions, made one after the other: a step of a whole model.
struct Call {
  void (*function)(const void* record);
  const void* record;
};
struct Replay {
  i64 count;
  const Call* calls;
};

// What one instruction set's compilation offers.
struct Kernels {
  void (*scan)(const Scan&, bool forward);
  void (*conv)(const Conv&, bool forward);
  void (*cell)(const Cell&, bool forward);
  void (*cell_step)(const CellStep&);
  void (*conv_step)(const ConvStep&);
  void (*norm)(const Norm&, bool forward);
  void (*activation)(const Activation&, bool forward);
  void (*softmax)(const Softmax&, bool forward);
  void (*softmax_step)(const SoftmaxStep&);
  void (*token_mix)(const TokenMix&, bool forward);
  void (*token_mix_step)(const TokenMixStep&);
  void (*diagonal)(const Diagonal&, bool forward);
  void (*dplr)(const Diagonal&, bool forward);
  void (*selective)(const Selective&, bool forward);
  void (*selective_step)(const SelectiveStep&);
  void (*matvec)(const Matvec&);
  void (*product)(const Product&);
  void (*attention)(const Attention&);
  void (*cross_attention)(const CrossAttention&);
  void (*outer)(const Outer&, bool forward);
  void (*fours)(const Fours&, bool forward);
};

}  // namespace recurra
