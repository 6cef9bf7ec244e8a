// Vectors of one register's width, and the elementary functions that gates are made of.
//
// Everything here lives in a namespace of its own for each instruction set (RECURRA_LEVEL), so that the
// linker never merges code compiled for different machines.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "abi.h"

namespace recurra::RECURRA_LEVEL {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
constexpr int kLanes = kVectorBytes / int(sizeof(T));

template <class T, int bytes = kVectorBytes>
struct VecOf {
  typedef T type __attribute__((vector_size(bytes)));
};
template <class T>
using Vec = typename VecOf<T>::type;

template <class To, class From>
inline To bit_cast(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// ------------------------------------------------------------------------------------ elementary functions

template <class T>
struct Format;

template <>
struct Format<float> {
  using Int = std::int32_t;
  static constexpr int mantissa = 23, bias = 127, terms = 7, artanh = 7;
  // ln 2 in two parts: the first has trailing zeros, so that n * high is exact.
  static constexpr float high = 0.693359375f, low = -2.12194440e-4f;
  static constexpr float least = -87.0f, most = 88.0f;
  // Of (2^f - 1) / f, for the least relative error of 2^f, which is 2.6e-9.
  static constexpr int powers = 6;
  static constexpr float power[powers] = {6.931472150e-1f, 2.402265278e-1f, 5.550310551e-2f,
                                          9.617692973e-3f, 1.340664390e-3f, 1.559467816e-4f};
};

template <>
struct Format<double> {
  using Int = std::int64_t;
  static constexpr int mantissa = 52, bias = 1023, terms = 13, artanh = 16;
  static constexpr double high = 6.93145751953125e-1, low = 1.42860682030941723212e-6;
  static constexpr double least = -708.0, most = 709.0;
  static constexpr int powers = 12;  // of error 5.7e-20
  static constexpr double power[powers] = {
      6.93147180559945286e-01, 2.40226506959100722e-01, 5.55041086648217358e-02, 9.61812910762856188e-03,
      1.33335581463817380e-03, 1.54035303931718346e-04, 1.52527338648450989e-05, 1.32154870034076498e-06,
      1.01780475311806782e-07, 7.05481483676302804e-09, 4.45723931374030149e-10, 2.58552384445900396e-11};
};

template <class T>
struct Exponential {
  Vec<T> rest, scale;  // exp(x) = scale * (1 + rest)
};

// x = n ln 2 + f with |f| <= ln 2 / 2; Taylor's series of e^f - 1 ends below half an ulp. Beyond the range
// of normal numbers the result stays at its ends; NaN stays NaN.
template <class T>
inline Exponential<T> exponential(Vec<T> x) {
  using F = Format<T>;
  using Int = typename F::Int;
  x = x < F::least ? Vec<T>{} + F::least : x;
  x = x > F::most ? Vec<T>{} + F::most : x;
  constexpr T magic = T(1.5) * T(Int(1) << F::mantissa);  // adding it rounds to an integer
  const Vec<T> shifted = x * T(1.44269504088896340736) + magic;
  const Vec<T> n = shifted - magic;
  const Vec<T> f = (x - n * F::high) - n * F::low;
  T inverse[F::terms + 1] = {1, 1};
  for (int k = 2; k <= F::terms; ++k) inverse[k] = inverse[k - 1] / T(k);
  Vec<T> sum = Vec<T>{} + inverse[F::terms];
  for (int k = F::terms - 1; k >= 2; --k) sum = sum * f + inverse[k];
  const auto integer = bit_cast<Vec<Int>>(shifted) - bit_cast<Int>(magic) + F::bias;
  return {sum * (f * f) + f, bit_cast<Vec<T>>(integer << F::mantissa)};
}

// Nothing below that range: a large factor would make something of its end.
template <class T>
inline Vec<T> exp(Vec<T> x) {
  const auto e = exponential<T>(x);
  return x < Format<T>::least ? Vec<T>{} : e.scale * e.rest + e.scale;
}

// 2^(x y) where that is a normal number, anything elsewhere. Cheaper than exp: one of two factors takes in the
// log2 e. 2^f = 1 + f p(f) for |f| <= 1/2; the power of two is added to the exponent.
template <class T>
inline Vec<T> exp2(Vec<T> x, Vec<T> y) {
  using F = Format<T>;
  using Bits = std::make_unsigned_t<typename F::Int>;  // whose overflow, elsewhere, is no error
  constexpr T magic = T(1.5) * T(Bits(1) << F::mantissa);  // adding it rounds to an integer
  const Vec<T> shifted = x * y + magic, f = x * y - (shifted - magic), square = f * f;
  const auto pair = [&](int k) { return f * F::power[k + 1] + F::power[k]; };
  Vec<T> sum = pair(F::powers - 2);
  for (int k = F::powers - 4; k >= 0; k -= 2) sum = sum * square + pair(k);
  sum = sum * f + 1;
  return bit_cast<Vec<T>>(bit_cast<Vec<Bits>>(sum) + (bit_cast<Vec<Bits>>(shifted) << F::mantissa));
}

// 2^x; beyond the range of normal numbers the result stays at its ends, and NaN stays NaN.
template <class T>
inline Vec<T> exp2(Vec<T> x) {
  const Vec<T> least = Vec<T>{} + T(1 - Format<T>::bias), most = Vec<T>{} + T(Format<T>::bias);
  x = least > x ? least : x;
  x = most < x ? most : x;
  return exp2<T>(x, Vec<T>{} + 1);
}

// The sum of a register's lanes, by halves.
template <class T, int bytes>
inline T sum_lanes(typename VecOf<T, bytes>::type v) {
  if constexpr (bytes == sizeof(T)) {
    return v[0];
  } else {
    typename VecOf<T, bytes / 2>::type low, high;
    std::memcpy(&low, &v, sizeof low);
    std::memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof low, sizeof high);
    return sum_lanes<T, bytes / 2>(low + high);
  }
}

// Lanes begin, begin + 1, ... of each block of `size` in x, then of that in y, block by block: half of each.
template <class T, int size, int begin, int... i>
inline Vec<T> half_blocks(Vec<T> x, Vec<T> y, std::integer_sequence<int, i...>) {
  constexpr int half = size / 2;
#if defined(__clang__)
  return __builtin_shufflevector(x, y, (i / size * size + i % half + begin + i % size / half * kLanes<T>)...);
#else
  using Index = Vec<typename Format<T>::Int>;
  return __builtin_shuffle(x, y, Index{(i / size * size + i % half + begin + i % size / half * kLanes<T>)...});
#endif
}

// Lane i of every four in all four of them.
template <class T, int i, int... lane>
inline Vec<T> spread(Vec<T> x, std::integer_sequence<int, lane...>) {
#if defined(__clang__)
  return __builtin_shufflevector(x, x, (lane / 4 * 4 + i)...);
#else
  return __builtin_shuffle(x, Vec<typename Format<T>::Int>{(lane / 4 * 4 + i)...});
#endif
}

// The sums of as many registers as one has lanes, in their order: three operations for each.
template <class T, int size = kLanes<T>>
inline Vec<T> sum_each(const Vec<T>* v) {
  if constexpr (size == 1) {
    return *v;
  } else {
    constexpr auto order = std::make_integer_sequence<int, kLanes<T>>();
    Vec<T> halves[size / 2];
    for (int i = 0; i < size / 2; ++i) {
      const Vec<T> x = v[i], y = v[i + size / 2];
      halves[i] = half_blocks<T, size, 0>(x, y, order) + half_blocks<T, size, size / 2>(x, y, order);
    }
    return sum_each<T, size / 2>(halves);
  }
}

// As many registers as one has lanes, of which rows become columns.
template <class T, int size = kLanes<T>>
inline void transpose(Vec<T>* v) {
  if constexpr (size > 1) {
    constexpr auto order = std::make_integer_sequence<int, kLanes<T>>();
    constexpr int half = size / 2;
#pragma GCC unroll 16
    for (int i = 0; i < kLanes<T> / 2; ++i) {
      const int r = i / half * size + i % half;
      const Vec<T> x = v[r], y = v[r + half];
      v[r] = half_blocks<T, size, 0>(x, y, order), v[r + half] = half_blocks<T, size, half>(x, y, order);
    }
    transpose<T, half>(v);
  }
}

template <class V>
inline V abs(V x) {
  return x < 0 ? -x : x;
}

// The two halves of sigmoid(k): its value and 1 - value, each to its own last bit.
template <class T>
struct Sigmoid {
  Vec<T> value, rest;
  explicit Sigmoid(Vec<T> k) {
    const Vec<T> e = exp<T>(-abs(k)), larger = 1 / (1 + e), smaller = e * larger;
    value = k < 0 ? smaller : larger;
    rest = k < 0 ? larger : smaller;
  }
};

// log(1 + e^k) and its slope, the sigmoid of k. With e = e^-|k|, which is at most 1, log(1 + e) is
// 2 artanh(e / (2 + e)), whose series ends below half an ulp.
template <class T>
struct Softplus {
  Vec<T> value, slope;
  explicit Softplus(Vec<T> k) {
    const Vec<T> e = exp<T>(-abs(k)), s = e / (2 + e), square = s * s;
    constexpr int terms = Format<T>::artanh;
    Vec<T> sum = Vec<T>{} + 1 / T(2 * terms + 1);
    for (int i = terms - 1; i >= 0; --i) sum = sum * square + 1 / T(2 * i + 1);
    value = (k > 0 ? k : Vec<T>{}) + 2 * s * sum;
    slope = (k < 0 ? e : Vec<T>{} + 1) / (1 + e);
  }
};

// A function at a point, and its derivative there.
template <class T>
struct Value {
  Vec<T> value, slope;
};

// From e^2|x| - 1, which loses nothing near zero.
template <class T>
inline Vec<T> tanh(Vec<T> x) {
  Vec<T> twice = 2 * abs(x);
  twice = twice > 40 ? Vec<T>{} + 40 : twice;
  const auto e = exponential<T>(twice);
  const Vec<T> minus_one = e.scale * e.rest + (e.scale - 1), y = minus_one / (minus_one + 2);
  return x < 0 ? -y : y;
}

// ------------------------------------------------------------------------------------ memory

struct bf16 {
  std::uint16_t bits;
};

// How elements lie in memory (Element), and how one register of them is computed with (V).
template <class S>
struct Real {
  using Element = S;
  using T = S;
  using V = Vec<T>;
  using State = Real<S>;
  static constexpr int lanes = kLanes<T>;
  static V load(const Element* p) {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  static void store(Element* p, V v) { std::memcpy(p, &v, sizeof v); }
  static T get(const Element* p) { return *p; }
  static void put(Element* p, T value) { *p = value; }
};

template <int bytes>
inline typename VecOf<float, bytes>::type widen(const bf16* p) {
  typename VecOf<std::uint16_t, bytes / 2>::type half;
  std::memcpy(&half, p, sizeof half);
  return bit_cast<typename VecOf<float, bytes>::type>(
      __builtin_convertvector(half, typename VecOf<std::uint32_t, bytes>::type) << 16);
}
template <int bytes>
inline void narrow(bf16* p, typename VecOf<float, bytes>::type v) {  // to nearest, ties to even
  using Word = typename VecOf<std::uint32_t, bytes>::type;
  const Word bits = bit_cast<Word>(v), rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const auto half = __builtin_convertvector(v != v ? Word{} + 0x7fc0 : rounded, typename VecOf<std::uint16_t, bytes / 2>::type);
  std::memcpy(p, &half, sizeof half);
}

template <>
struct Real<bf16> {
  using Element = bf16;
  using T = float;
  using V = Vec<T>;
  using State = Real<float>;
  static constexpr int lanes = kLanes<T>;
  static V load(const Element* p) { return widen<kVectorBytes>(p); }
  static void store(Element* p, V v) { narrow<kVectorBytes>(p, v); }
  static T get(const Element* p) { return bit_cast<T>(std::uint32_t(p->bits) << 16); }
  static void put(Element* p, T value) {
    Element rounded[lanes];
    store(rounded, V{} + value);
    *p = rounded[0];
  }
};

template <class T>
struct ComplexVec {
  Vec<T> re, im;
  ComplexVec& operator+=(const ComplexVec& o) { return re += o.re, im += o.im, *this; }
};
template <class T>
inline ComplexVec<T> operator+(ComplexVec<T> a, ComplexVec<T> b) {
  return {a.re + b.re, a.im + b.im};
}
template <class T>
inline ComplexVec<T> operator*(ComplexVec<T> a, ComplexVec<T> b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
template <class T>
inline ComplexVec<T> conj(ComplexVec<T> a) {
  return {a.re, -a.im};
}
template <class V>
inline V conj(V a) {
  return a;
}

template <class S>
struct Complex {
  struct Element {
    S re, im;
  };
  using T = S;
  using V = ComplexVec<T>;
  using State = Complex<S>;
  static constexpr int lanes = kLanes<T>;
  static V load(const Element* p) {
    V v;
    for (int i = 0; i < lanes; ++i) v.re[i] = p[i].re, v.im[i] = p[i].im;
    return v;
  }
  static void store(Element* p, V v) {
    for (int i = 0; i < lanes; ++i) p[i] = {v.re[i], v.im[i]};
  }
};

// A whole register of channels, or the first few of one: the same arithmetic, so the same bits.
struct Whole {};
struct Part {
  i64 count;
};

template <class P>
inline typename P::V load(const typename P::Element* p, Whole) {
  return P::load(p);
}
template <class P>
inline typename P::V load(const typename P::Element* p, Part part) {
  typename P::Element buffer[P::lanes] = {};
  for (i64 i = 0; i < part.count; ++i) buffer[i] = p[i];
  return P::load(buffer);
}
template <class P>
inline void store(typename P::Element* p, typename P::V v, Whole) {
  P::store(p, v);
}
template <class P>
inline void store(typename P::Element* p, typename P::V v, Part part) {
  typename P::Element buffer[P::lanes];
  P::store(buffer, v);
  for (i64 i = 0; i < part.count; ++i) p[i] = buffer[i];
}

// Where many rows are walked side by side no hardware foresees what comes next in each.
constexpr i64 kAheadBytes = 128;

template <class P, class N>
inline typename P::V load_ahead(const typename P::Element* p, N n) {
  __builtin_prefetch(reinterpret_cast<const char*>(p) + kAheadBytes);
  return load<P>(p, n);
}
template <class P, class N>
inline void store_ahead(typename P::Element* p, typename P::V v, N n) {
  __builtin_prefetch(reinterpret_cast<char*>(p) + kAheadBytes, 1);
  store<P>(p, v, n);
}

// f(index of the register, offset of its first channel, Whole or Part) over `width` channels.
template <class P, class F>
inline void each_register(i64 width, F f) {
  const i64 whole = width / P::lanes;
  for (i64 v = 0; v < whole; ++v) f(v, v * P::lanes, Whole{});
  if (width % P::lanes) f(whole, whole * P::lanes, Part{width % P::lanes});
}

// The same for work that may be done twice, as channel by channel work may: the last register starts so
// early that it is whole. Only widths below one register have a part.
template <class P, class F>
inline void each_window(i64 width, F f) {
  const i64 whole = width / P::lanes, rest = width % P::lanes;
  for (i64 v = 0; v < whole; ++v) f(v, v * P::lanes, Whole{});
  if (rest && whole) f(whole, width - P::lanes, Whole{});
  if (rest && !whole) f(0, 0, Part{rest});
}

// ------------------------------------------------------------------------------------ work

template <class A>
inline A least(A a, A b) {
  return b < a ? b : a;
}
template <class A>
inline A most(A a, A b) {
  return a < b ? b : a;
}

// f of how elements of a real dtype lie.
template <class F>
inline void by_dtype(i64 dtype, F f) {
  switch (dtype) {
    case kFloat32: return f(Real<float>());
    case kFloat64: return f(Real<double>());
    case kBfloat16: return f(Real<bf16>());
  }
}

template <class F>
inline void parallel(i64 tasks, i64 threads, F f) {
  if (threads == 1 || tasks == 1) {
    for (i64 i = 0; i < tasks; ++i) f(i);
    return;
  }
#pragma omp parallel for num_threads(int(threads)) schedule(dynamic, 1)
  for (i64 i = 0; i < tasks; ++i) f(i);
}

// Rows of the batch times strips of channels: f(row, first channel, channels). Strips are as wide as a
// strip's state allows, so that memory is read in order, and narrower only where rows are too few to
// keep the threads busy. The last strip takes what is left of a register. No result depends on the cut:
// channels never meet, and a ragged end is computed in the same way wherever its strip begins.
template <class P, int kRegisters, class F>
inline void each_strip(i64 batch, i64 width, i64 threads, F f) {
  const i64 registers = most<i64>(1, width / P::lanes);
  const i64 wanted = threads == 1 ? 1 : (4 * threads + batch - 1) / batch;
  const i64 strip = most<i64>(1, least<i64>(kRegisters, (registers + wanted - 1) / wanted)) * P::lanes;
  const i64 strips = (registers * P::lanes + strip - 1) / strip;
  parallel(batch * strips, threads, [&](i64 task) {
    const i64 first = task % strips * strip;
    f(task / strips, first, task % strips == strips - 1 ? width - first : strip);
  });
}

}  // namespace recurra::RECURRA_LEVEL
