// C = A B + bias + added in fp32: the matrix product of a layer, of its input's gradient and of its weights'.
//
// It is here because recurrent layers live or die by it: on AMD processors with AVX-512 the library behind
// torch's product stays at half the machine's rate. A tile of C is held in registers while one block of the
// depth passes by; B is read in strips as wide as a tile, where they lie if their rows are contiguous, else
// from a packed copy. Blocks are added to C in order, so no result depends on the number of threads.
#pragma once

#include "abi.h"
#include "lanes.h"

namespace recurra::RECURRA_LEVEL {

struct ProductLoop {
  using P = Real<float>;
  using V = P::V;
  static constexpr int kRows = kVectorBytes == 64 ? 12 : 6;  // with kVectors, what the registers hold
  static constexpr int kVectors = 2;
  static constexpr i64 kStrip = kVectors * P::lanes;
  static constexpr i64 kDepth = 256, kColumns = 512;  // a block of B: at most 512 KiB
  static constexpr i64 kPackRows = 16;

  const Product& s;

  bool lies_ready(i64 column) const { return s.b_column == 1 && column + kStrip <= s.columns; }

  struct Strip {
    float* data;
    i64 stride;
  };

  Strip strip(i64 column, i64 depth) const {
    if (lies_ready(column)) return {const_cast<float*>(s.b) + depth * s.b_depth + column, s.b_depth};
    const i64 index = s.b_column == 1 ? 0 : column % kColumns / kStrip;
    return {s.scratch + (index * s.depth + depth) * kStrip, kStrip};
  }

  // Rows [depth, depth + kPackRows) of every strip that does not lie ready, filled up with zeros.
  void pack(i64 depth, i64 column, i64 columns) const {
    const i64 to = least(s.depth, depth + kPackRows);
    for (i64 c = column; c < column + columns; c += kStrip) {
      if (lies_ready(c)) continue;
      const i64 count = least(kStrip, s.columns - c);
      for (i64 k = depth; k < to; ++k) {
        const float* from = s.b + k * s.b_depth + c * s.b_column;
        float* packed = strip(c, k).data;
        for (i64 i = 0; i < count; ++i) packed[i] = from[i * s.b_column];
        for (i64 i = count; i < kStrip; ++i) packed[i] = 0;
      }
    }
  }

  // kTile rows of A against one strip of B, over one block of the depth.
  template <int kTile>
  void tile(i64 row, i64 depth, i64 depths, i64 column) const {
    V sum[kTile][kVectors] = {};
    const float* a = s.a + row * s.a_row + depth * s.a_depth;
    Strip b = strip(column, depth);
    for (i64 k = 0; k < depths; ++k, a += s.a_depth, b.data += b.stride) {
      V in[kVectors];
      for (int j = 0; j < kVectors; ++j) in[j] = P::load(b.data + j * P::lanes);
#pragma GCC unroll 16
      for (int r = 0; r < kTile; ++r)
        for (int j = 0; j < kVectors; ++j) sum[r][j] += in[j] * a[r * s.a_row];
    }
    for (int r = 0; r < kTile; ++r) add(sum[r], depth == 0, row + r, column);
  }

  void add(const V* sum, bool first, i64 row, i64 column) const {
    float* c = s.c + row * s.columns + column;
    each_register<P>(least(kStrip, s.columns - column), [&](i64 v, i64 at, auto n) {
      store<P>(c + at, (first ? start(row, column + at, n) : load<P>(c + at, n)) + sum[v], n);
    });
  }

  template <class N>
  V start(i64 row, i64 column, N n) const {
    V v = s.bias ? load<P>(s.bias + column, n) : V{};
    if (s.added) v += load<P>(s.added + row * s.columns + column, n);
    return v;
  }

  void rows(i64 from, i64 to, i64 depth, i64 column, i64 columns) const {
    const i64 depths = least(kDepth, s.depth - depth);
    while (from < to) {
      const i64 left = to - from, count = left >= kRows ? kRows : left >= 4 ? 4 : 1;
      for (i64 c = column; c < column + columns; c += kStrip) {
        if (count == kRows) tile<kRows>(from, depth, depths, c);
        else if (count == 4) tile<4>(from, depth, depths, c);
        else tile<1>(from, depth, depths, c);
      }
      from += count;
    }
  }

  void run() const {
    // Four shares a thread, taken as they come: another program on a core delays one share, not all.
    const i64 shares = 4 * s.threads, share = (s.rows + shares * kRows - 1) / (shares * kRows) * kRows;
#pragma omp parallel num_threads(int(s.threads)) if (s.threads > 1)
    for (i64 column = 0; column < s.columns; column += kColumns) {
      const i64 columns = least(kColumns, s.columns - column);
#pragma omp for
      for (i64 k = 0; k < s.depth; k += kPackRows) pack(k, column, columns);
#pragma omp for schedule(dynamic, 1)
      for (i64 t = 0; t < shares; ++t)
        for (i64 k = 0; k < s.depth; k += kDepth)
          rows(t * share, least(s.rows, (t + 1) * share), k, column, columns);
    }
  }
};

inline void product(const Product& s) { ProductLoop{s}.run(); }

}  // namespace recurra::RECURRA_LEVEL
