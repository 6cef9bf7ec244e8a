// Every kernel on buffers of exactly the size it may touch, for AddressSanitizer and UBSan to watch.
//
// Results are checked in Python against a reference; here only that every element of every output was
// written: outputs start as NaN and must end finite.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <memory>

#include "../abi.h"

namespace recurra {

namespace portable {
extern const Kernels kernels;
}
#if defined(RECURRA_X86)
namespace x86_64_v3 {
extern const Kernels kernels;
}
namespace x86_64_v4 {
extern const Kernels kernels;
}
#endif

namespace {

bool is_complex(i64 dtype) { return dtype == kComplex64 || dtype == kComplex128; }
i64 state_dtype(i64 dtype) { return dtype == kBfloat16 ? i64(kFloat32) : dtype; }

class Buffer {
 public:
  Buffer(i64 dtype, i64 elements)
      : size_(dtype == kInt8 ? 1 : dtype == kBfloat16 ? 2 : dtype == kFloat64 || dtype == kComplex128 ? 8 : 4),
        count_(elements * (is_complex(dtype) ? 2 : 1)), bytes_(new char[count_ * size_]) {
    std::memset(bytes_.get(), 0xff, count_ * size_);
  }

  Buffer& fill(double least = -30, double most = 100) {  // gates closed and open, numbers of both signs
    constexpr double values[] = {0.5, -1, 0, 3, -30, 0.25, 100, -2, 0.9, 1, -0.1};
    for (i64 i = 0; i < count_; ++i) set(i, std::fmin(std::fmax(values[i % 11], least), most));
    return *this;
  }

  void require_written(const char* what) const {
    for (i64 i = 0; i < count_; ++i) {
      if (std::isfinite(get(i))) continue;
      std::fprintf(stderr, "%s: number %lld was not written\n", what, (long long)i);
      std::exit(1);
    }
  }

  char* data() const { return bytes_.get(); }
  float* floats() const { return reinterpret_cast<float*>(data()); }
  i64 element_size(i64 dtype) const { return size_ * (is_complex(dtype) ? 2 : 1); }

 private:
  void set(i64 i, double value) {
    const float narrow = float(value);
    if (size_ == 8) std::memcpy(data() + i * 8, &value, 8);
    if (size_ == 4) std::memcpy(data() + i * 4, &narrow, 4);
    if (size_ == 2) std::memcpy(data() + i * 2, reinterpret_cast<const char*>(&narrow) + 2, 2);
    if (size_ == 1) data()[i] = char(value);
  }
  double get(i64 i) const {
    double value = 0;
    float narrow = 0;
    if (size_ == 8) std::memcpy(&value, data() + i * 8, 8);
    if (size_ == 4) std::memcpy(&narrow, data() + i * 4, 4);
    if (size_ == 2) std::memcpy(reinterpret_cast<char*>(&narrow) + 2, data() + i * 2, 2);
    return size_ == 8 ? value : narrow;
  }

  const i64 size_, count_;
  const std::unique_ptr<char[]> bytes_;
};

struct Shape {
  i64 batch, time, width;
  bool time_first, masked;

  // The second layout is also the one that runs in reverse, on two threads.
  bool reverse() const { return time_first; }
  i64 threads() const { return time_first ? 2 : 1; }
  i64 elements() const { return batch * time * width; }

  // Part `part` of rows that hold `parts` of them side by side.
  View view(const Buffer& buffer, i64 dtype, i64 part = 0, i64 parts = 1) const {
    const i64 row = parts * width;
    char* const data = buffer.data() + part * width * buffer.element_size(dtype);
    return time_first ? View{data, row, batch * row} : View{data, time * row, row};
  }
};

// Masks of exact size: some cuts, and rows that end at once, too late and before they begin.
struct Masks {
  std::unique_ptr<std::uint8_t[]> reset;
  std::unique_ptr<i64[]> lengths;
  explicit Masks(const Shape& s)
      : reset(s.masked ? new std::uint8_t[s.batch * s.time] : nullptr),
        lengths(s.masked ? new i64[s.batch] : nullptr) {
    if (!s.masked) return;
    for (i64 i = 0; i < s.batch * s.time; ++i) reset[i] = i % 3 == 0;
    const i64 ends[] = {s.time - 1, 0, s.time + 7};
    for (i64 b = 0; b < s.batch; ++b) lengths[b] = ends[b % 3];
  }
};

void run_scan(const Kernels& kernels, const Shape& s, i64 gate, i64 dtype) {
  const i64 parts = gate < kMinLstmPositive ? 2 : 3, state = state_dtype(dtype);
  const Masks masks(s);
  Buffer x(dtype, s.elements() * parts), y(dtype, s.elements()), dy(dtype, s.elements());
  Buffer dx(dtype, s.elements() * parts), h_0(state, s.batch * s.width), h_n(state, s.batch * s.width);
  Buffer dh_n(state, s.batch * s.width), dh_0(state, s.batch * s.width);
  x.fill(), dy.fill(), h_0.fill(), dh_n.fill();

  Scan scan{};
  scan.gate = gate, scan.dtype = dtype, scan.reverse = s.reverse(), scan.threads = s.threads();
  scan.batch = s.batch, scan.time = s.time, scan.width = s.width;
  scan.reset = masks.reset.get(), scan.lengths = masks.lengths.get();
  for (i64 i = 0; i < parts; ++i) scan.x[i] = s.view(x, dtype, i, parts);
  scan.y = s.view(y, dtype), scan.h_0 = h_0.data(), scan.h_n = h_n.data();
  kernels.scan(scan, true);
  y.require_written("scan y"), h_n.require_written("scan h_n");

  for (i64 i = 0; i < parts; ++i) scan.dx[i] = s.view(dx, dtype, i, parts);
  scan.h_n = nullptr, scan.dy = s.view(dy, dtype), scan.dh_n = dh_n.data(), scan.dh_0 = dh_0.data();
  kernels.scan(scan, false);
  dx.require_written("scan dx"), dh_0.require_written("scan dh_0");
}

void run_conv(const Kernels& kernels, const Shape& s, i64 dtype, i64 taps, bool biased) {
  const i64 state = state_dtype(dtype), history = s.batch * (taps - 1) * s.width;
  const Masks masks(s);
  Buffer x(dtype, s.elements()), y(dtype, s.elements()), dy(dtype, s.elements()), dx(dtype, s.elements());
  Buffer weight(state, taps * s.width), bias(state, s.width), before(state, history), after(state, history);
  Buffer dafter(state, history), dbefore(state, history);
  Buffer dweight(state, s.batch * taps * s.width), dbias(state, s.batch * s.width);
  x.fill(), weight.fill(), bias.fill(), before.fill(), dy.fill(), dafter.fill();

  Conv conv{};
  conv.dtype = dtype, conv.threads = s.threads(), conv.taps = taps;
  conv.batch = s.batch, conv.time = s.time, conv.width = s.width;
  conv.reset = masks.reset.get(), conv.lengths = masks.lengths.get();
  conv.x = s.view(x, dtype), conv.y = s.view(y, dtype);
  conv.weight = weight.data(), conv.bias = biased ? bias.data() : nullptr;
  conv.state = before.data(), conv.state_n = after.data();
  kernels.conv(conv, true);
  y.require_written("conv y"), after.require_written("conv state_n");

  conv.dy = s.view(dy, dtype), conv.dstate_n = dafter.data(), conv.dx = s.view(dx, dtype);
  conv.dweight = dweight.data(), conv.dbias = dbias.data(), conv.dstate = dbefore.data();
  kernels.conv(conv, false);
  dx.require_written("conv dx"), dweight.require_written("conv dweight");
  dbias.require_written("conv dbias"), dbefore.require_written("conv dstate");
}

void run_cell(const Kernels& kernels, const Shape& s, i64 kind, i64 dtype) {
  const i64 gates = kind == kGru ? 3 : 4, states = kind == kGru ? 1 : kind == kLstm ? 2 : 4;
  const i64 state = state_dtype(dtype), heads = kind == kSlstm && s.width % 4 == 0 ? 4 : 1;
  const i64 channels = s.width / heads, wide = (channels + 31) / 32 * 32;
  const i64 room = heads * (gates * channels + (gates + states + 1) * s.batch) * wide;
  const Masks masks(s);
  Buffer x(dtype, s.elements() * gates), y(dtype, s.elements()), dy(dtype, s.elements());
  Buffer dx(dtype, s.elements() * gates), weight(state, gates * s.width * channels);
  Buffer bias(state, gates * s.width), before(state, s.elements()), recurrent(state, s.elements() * gates);
  Buffer h_0(state, states * s.batch * s.width), h_n(state, states * s.batch * s.width);
  Buffer dh_0(state, states * s.batch * s.width), dh_n(state, states * s.batch * s.width);
  Buffer memory(state, s.elements() * (states - 1)), forth(state, room), back(state, room);
  x.fill(), weight.fill(), bias.fill(), h_0.fill(), dy.fill(), dh_n.fill(), before.fill(), recurrent.fill();

  Cell cell{};
  cell.kind = kind, cell.dtype = dtype, cell.reverse = s.reverse(), cell.threads = s.threads();
  cell.batch = s.batch, cell.time = s.time, cell.heads = heads, cell.width = s.width;
  cell.reset = masks.reset.get(), cell.lengths = masks.lengths.get();
  cell.x = s.view(x, dtype, 0, gates), cell.weight = weight.data(), cell.bias = bias.data();
  cell.y = s.view(y, dtype), cell.state = h_0.data(), cell.state_n = h_n.data(), cell.scratch = forth.data();
  kernels.cell(cell, true);
  y.require_written("cell y"), h_n.require_written("cell state_n");

  cell.bias = nullptr, cell.y = View{}, cell.state_n = nullptr, cell.scratch = back.data();
  cell.dy = s.view(dy, dtype), cell.dx = s.view(dx, dtype, 0, gates);
  cell.before = before.data(), cell.recurrent = recurrent.data(), cell.memory = memory.data();
  cell.dstate_n = dh_n.data(), cell.dstate = dh_0.data();
  kernels.cell(cell, false);
  dx.require_written("cell dx"), dh_0.require_written("cell dstate");
  recurrent.require_written("cell recurrent");
}

void run_softmax(const Kernels& kernels, const Shape& s, i64 dtype, i64 group) {
  const i64 scores = s.width / group, state = state_dtype(dtype), size = 2 * scores + s.width;
  const Shape narrow{s.batch, s.time, scores, s.time_first, s.masked};
  const Masks masks(s);
  Buffer scored(dtype, narrow.elements()), v(dtype, s.elements()), y(dtype, s.elements()), dy(dtype, s.elements());
  Buffer decay(state, scores), bonus(state, scores), begin(state, s.batch * size), end(state, s.batch * size);
  Buffer dend(state, s.batch * size), dbegin(state, s.batch * size), ds(dtype, narrow.elements());
  Buffer dv(dtype, s.elements()), ddecay(state, s.batch * scores), dbonus(state, s.batch * scores);
  Buffer scratch(state, s.batch * (34 + (s.time + 31) / 32) * size);
  scored.fill(), v.fill(), dy.fill(), decay.fill(), bonus.fill(), dend.fill();
  begin.fill(0);  // no sum of weights is negative

  Softmax softmax{};
  softmax.dtype = dtype, softmax.reverse = s.reverse(), softmax.threads = s.threads();
  softmax.batch = s.batch, softmax.time = s.time, softmax.scores = scores, softmax.width = s.width;
  softmax.reset = masks.reset.get(), softmax.lengths = masks.lengths.get();
  softmax.s = narrow.view(scored, dtype), softmax.v = s.view(v, dtype), softmax.y = s.view(y, dtype);
  softmax.decay = decay.data(), softmax.bonus = bonus.data();
  softmax.state = begin.data(), softmax.state_n = end.data();
  kernels.softmax(softmax, true);
  y.require_written("softmax y"), end.require_written("softmax state_n");

  softmax.y = View{}, softmax.state_n = nullptr, softmax.scratch = scratch.data();
  softmax.dy = s.view(dy, dtype), softmax.dstate_n = dend.data(), softmax.dstate = dbegin.data();
  softmax.ds = narrow.view(ds, dtype), softmax.dv = s.view(dv, dtype);
  softmax.ddecay = ddecay.data(), softmax.dbonus = dbonus.data();
  kernels.softmax(softmax, false);
  ds.require_written("softmax ds"), dv.require_written("softmax dv"), dbegin.require_written("softmax dstate");
  ddecay.require_written("softmax ddecay"), dbonus.require_written("softmax dbonus");
}

void run_softmax_step(const Kernels& kernels, i64 dtype, i64 batch, i64 width, i64 group) {
  const i64 scores = width / group, state = state_dtype(dtype);
  Buffer scored(dtype, batch * scores), v(dtype, batch * width), y(dtype, batch * width), offset(state, scores);
  Buffer max(state, batch * scores), numerator(state, batch * width), denominator(state, batch * scores);
  Buffer max_n(state, batch * scores), numerator_n(state, batch * width), denominator_n(state, batch * scores);
  scored.fill(), v.fill(), offset.fill(), max.fill(), numerator.fill();
  denominator.fill(0);  // no sum of weights is negative
  char* const given = batch > 1 ? offset.data() : nullptr;
  kernels.softmax_step({dtype, batch, scores, width, scored.data(), v.data(), given, given,
                        {max.data(), numerator.data(), denominator.data()}, y.data(),
                        {max_n.data(), numerator_n.data(), denominator_n.data()}});
  y.require_written("softmax step y");
  for (const Buffer* out : {&max_n, &numerator_n, &denominator_n}) out->require_written("softmax step state");
}

void run_token_mix(const Kernels& kernels, const Shape& s, i64 dtype, i64 mixes) {
  const i64 state = state_dtype(dtype), blocks = (s.time + kTokenMixBlock - 1) / kTokenMixBlock;
  const Masks masks(s);
  Buffer x(dtype, s.elements()), dx(dtype, s.elements()), ys(dtype, mixes * s.elements());
  Buffer mix(state, mixes * s.width), dmix(state, s.batch * (blocks ? blocks : 1) * mixes * s.width);
  Buffer before(state, s.batch * s.width), after(state, s.batch * s.width);
  Buffer dbefore(state, s.batch * s.width), dafter(state, s.batch * s.width);
  x.fill(), mix.fill(), before.fill(), dafter.fill();

  TokenMix mixed{};
  mixed.dtype = dtype, mixed.threads = s.threads(), mixed.mixes = mixes;
  mixed.batch = s.batch, mixed.time = s.time, mixed.width = s.width;
  mixed.reset = masks.reset.get(), mixed.lengths = masks.lengths.get();
  mixed.x = s.view(x, dtype), mixed.dx = s.view(dx, dtype);
  for (i64 i = 0; i < mixes; ++i) mixed.y[i] = s.view(ys, dtype, i, mixes);
  mixed.mix = mix.data(), mixed.state = before.data(), mixed.state_n = after.data();
  kernels.token_mix(mixed, true);
  ys.require_written("token mixes"), after.require_written("token mixes' state_n");

  mixed.dstate_n = dafter.data(), mixed.dmix = dmix.data(), mixed.dstate = dbefore.data();
  kernels.token_mix(mixed, false);
  dx.require_written("token mixes' dx"), dmix.require_written("token mixes' dmix");
  dbefore.require_written("token mixes' dstate");
}

void run_token_mix_step(const Kernels& kernels, i64 dtype, i64 batch, i64 width, i64 mixes) {
  const i64 state = state_dtype(dtype);
  Buffer x(dtype, batch * width), mix(dtype, width), y(dtype, mixes * batch * width);
  Buffer before(state, batch * width), after(state, batch * width);
  x.fill(), mix.fill(), before.fill();
  TokenMixStep s{dtype, batch, width, mixes, x.data(), before.data(), after.data(), {}, y.data()};
  for (i64 i = 0; i < mixes; ++i) s.mix[i] = mix.data();
  kernels.token_mix_step(s);
  y.require_written("token mix y"), after.require_written("token mix state");
}

// Of `parts` parameters a state: diagonal, or that minus rank one.
void run_diagonal(const Kernels& kernels, const Shape& s, i64 dtype, i64 states, i64 parts) {
  const auto run = parts == 5 ? kernels.dplr : kernels.diagonal;
  const i64 state = state_dtype(dtype), kept = s.batch * states * 2 * s.width;
  const i64 tiles = (s.time + kDiagonalTile - 1) / kDiagonalTile;
  const Masks masks(s);
  Buffer u(dtype, s.elements()), y(dtype, s.elements()), dy(dtype, s.elements()), du(dtype, s.elements());
  Buffer parameters(state, states * parts * 2 * s.width), skip(state, s.width), h_0(state, kept), h_n(state, kept);
  Buffer dh_n(state, kept), dh_0(state, kept), dparameters(state, s.batch * states * parts * 2 * s.width);
  Buffer dskip(state, s.batch * s.width), scratch(state, kept * tiles);
  u.fill(), skip.fill(), h_0.fill(), dh_n.fill(), dy.fill();
  std::memset(parameters.data(), 0, states * parts * 2 * s.width * parameters.element_size(state));  // nothing grows

  Diagonal diagonal{};
  diagonal.dtype = dtype, diagonal.threads = s.threads(), diagonal.states = states;
  diagonal.batch = s.batch, diagonal.time = s.time, diagonal.width = s.width;
  diagonal.reset = masks.reset.get(), diagonal.lengths = masks.lengths.get();
  diagonal.u = s.view(u, dtype), diagonal.y = s.view(y, dtype);
  diagonal.parameters = parameters.data(), diagonal.skip = skip.data();
  diagonal.h_0 = h_0.data(), diagonal.h_n = h_n.data();
  run(diagonal, true);
  y.require_written("diagonal y"), h_n.require_written("diagonal h_n");

  diagonal.dy = s.view(dy, dtype), diagonal.dh_n = dh_n.data(), diagonal.du = s.view(du, dtype);
  diagonal.dparameters = dparameters.data(), diagonal.dskip = dskip.data();
  diagonal.dh_0 = dh_0.data(), diagonal.scratch = scratch.data();
  run(diagonal, false);
  du.require_written("diagonal du"), dh_0.require_written("diagonal dh_0");
  dparameters.require_written("diagonal dparameters"), dskip.require_written("diagonal dskip");
}

void run_selective(const Kernels& kernels, const Shape& s, i64 dtype, i64 states) {
  const i64 state = state_dtype(dtype), width = s.width, size = s.batch * states * width;
  const i64 chunks = (s.time + kSelectiveChunk - 1) / kSelectiveChunk;
  const i64 strip = s.masked ? 64 : kSelectiveStrip, strips = (width + strip - 1) / strip;
  const Shape shared = {s.batch, s.time, states, s.time_first, s.masked};
  const Masks masks(s);
  Buffer x(dtype, s.elements()), delta(dtype, s.elements()), z(dtype, s.elements()), y(dtype, s.elements());
  Buffer b(dtype, shared.elements()), c(dtype, shared.elements()), a(state, states * width), d(state, width);
  Buffer bias(state, width), h_0(state, size), h_n(state, size), entering(state, chunks * size);
  x.fill(), delta.fill(), z.fill(), b.fill(), c.fill(), d.fill(), bias.fill(), h_0.fill(), a.fill(-30, 0);

  Selective selective{};
  selective.dtype = dtype, selective.threads = s.threads();
  selective.batch = s.batch, selective.time = s.time, selective.width = width, selective.states = states;
  selective.strip = strip, selective.reset = masks.reset.get(), selective.lengths = masks.lengths.get();
  selective.x = s.view(x, dtype), selective.delta = s.view(delta, dtype);
  selective.b = shared.view(b, dtype), selective.c = shared.view(c, dtype);
  if (s.time_first) selective.z = s.view(z, dtype);
  selective.a = a.data(), selective.d = d.data(), selective.bias = bias.data();
  selective.entering = entering.data(), selective.h_0 = h_0.data();
  selective.y = s.view(y, dtype), selective.h_n = h_n.data();
  kernels.selective(selective, true);
  y.require_written("selective y"), h_n.require_written("selective h_n");

  Buffer dy(dtype, s.elements()), dx(dtype, s.elements()), dz(dtype, s.elements());
  Buffer ddelta(dtype, s.elements()), da(state, size), dd(state, s.batch * width);
  Buffer db(state, strips * shared.elements()), dc(state, strips * shared.elements());
  Buffer dbias(state, s.batch * width), dh_n(state, size), dh_0(state, size);
  dy.fill(), dh_n.fill();
  selective.y = View{}, selective.h_0 = selective.h_n = nullptr;
  selective.dy = s.view(dy, dtype), selective.dh_n = dh_n.data(), selective.dh_0 = dh_0.data();
  selective.dx = s.view(dx, dtype), selective.ddelta = s.view(ddelta, dtype);
  if (s.time_first) selective.dz = s.view(dz, dtype);
  selective.db = db.data(), selective.dc = dc.data(), selective.da = da.data();
  selective.dd = dd.data(), selective.dbias = dbias.data();
  kernels.selective(selective, false);
  for (const Buffer* out : {&dx, &ddelta, &db, &dc, &da, &dd, &dbias, &dh_0}) {
    out->require_written("selective gradient");
  }
  if (s.time_first) dz.require_written("selective dz");
}

void run_outer(const Kernels& kernels, const Shape& s, i64 dtype, i64 heads, bool gated, bool of_keys) {
  const i64 state = state_dtype(dtype), keys = s.width / heads, values = s.time == 1 ? 135 : s.time == 3 ? 37 : 5, rows = s.batch * heads;
  const i64 channels = of_keys ? keys : 1, segments = (s.time + kOuterSegment - 1) / kOuterSegment;
  const Shape valued{s.batch, s.time, heads * values, s.time_first, s.masked};
  const Shape decayed{s.batch, s.time, heads * channels, s.time_first, s.masked};
  const Shape scalar{s.batch, s.time, heads, s.time_first, s.masked};
  const Masks masks(s);
  Buffer q(dtype, s.elements()), k(dtype, s.elements()), v(dtype, valued.elements()), y(dtype, valued.elements());
  Buffer decay(dtype, decayed.elements()), gate(dtype, scalar.elements()), bonus(state, heads * keys);
  Buffer c_0(state, rows * keys * values), c_n(state, rows * keys * values), n_0(state, rows * keys);
  Buffer n_n(state, rows * keys), max_0(state, rows), max_n(state, rows);
  Buffer entering(state, rows * segments * keys * (values + 1));
  q.fill(-1, 1), k.fill(-1, 1), v.fill(-1, 1), decay.fill(-30, 0), gate.fill(-1, 1), bonus.fill(-1, 1);
  c_0.fill(-1, 1), n_0.fill(-1, 1), max_0.fill(-1, 1);

  Outer outer{};
  outer.dtype = dtype, outer.threads = s.threads(), outer.batch = s.batch, outer.time = s.time;
  outer.heads = heads, outer.keys = keys, outer.values = values, outer.gated = gated, outer.channels = channels;
  outer.scale = 0.5, outer.reset = masks.reset.get(), outer.lengths = masks.lengths.get();
  outer.q = s.view(q, dtype), outer.k = s.view(k, dtype), outer.v = valued.view(v, dtype);
  outer.decay = decayed.view(decay, dtype), outer.y = valued.view(y, dtype);
  outer.c_0 = c_0.data(), outer.c_n = c_n.data(), outer.entering = s.time == 1 ? nullptr : entering.data();
  if (gated) outer.gate = scalar.view(gate, dtype);
  if (gated) outer.n_0 = n_0.data(), outer.max_0 = max_0.data(), outer.n_n = n_n.data(), outer.max_n = max_n.data();
  if (of_keys) outer.bonus = bonus.data();
  kernels.outer(outer, true);
  y.require_written("outer y"), c_n.require_written("outer c_n");
  if (!outer.entering) return;  // a step by itself

  Buffer dy(dtype, valued.elements()), dc_n(state, rows * keys * values), dn_n(state, rows * keys);
  Buffer dmax_n(state, rows), dq(dtype, s.elements()), dk(dtype, s.elements()), dv(dtype, valued.elements());
  Buffer ddecay(dtype, decayed.elements()), dgate(dtype, scalar.elements()), dbonus(state, rows * keys);
  Buffer dc_0(state, rows * keys * values), dn_0(state, rows * keys), dmax_0(state, rows);
  dy.fill(-1, 1), dc_n.fill(-1, 1), dn_n.fill(-1, 1), dmax_n.fill(-1, 1);
  outer.y = View{}, outer.dy = valued.view(dy, dtype), outer.dc_n = dc_n.data(), outer.dc_0 = dc_0.data();
  outer.dq = s.view(dq, dtype), outer.dk = s.view(dk, dtype), outer.dv = valued.view(dv, dtype);
  outer.ddecay = decayed.view(ddecay, dtype);
  if (gated) outer.dgate = scalar.view(dgate, dtype), outer.dn_n = dn_n.data(), outer.dmax_n = dmax_n.data();
  if (gated) outer.dn_0 = dn_0.data(), outer.dmax_0 = dmax_0.data();
  if (of_keys) outer.dbonus = dbonus.data();
  kernels.outer(outer, false);
  for (const Buffer* out : {&dq, &dk, &dv, &ddecay, &dc_0}) out->require_written("outer gradient");
  if (gated) dgate.require_written("outer dgate"), dn_0.require_written("outer dn_0");
  if (gated) dmax_0.require_written("outer dmax_0");
  if (of_keys) dbonus.require_written("outer dbonus");
}

// Rows of x are parts of wider ones.
void run_matvec(const Kernels& kernels, i64 dtype, i64 rows, i64 blocks, i64 inputs, i64 outputs) {
  const i64 width = blocks * inputs, made = blocks * outputs;
  Buffer x(dtype, (2 * rows - 1) * width), weight(dtype, made * inputs), bias(dtype, made), added(dtype, rows * made);
  Buffer y(dtype, rows * made);
  x.fill(), weight.fill(), bias.fill(), added.fill();
  char *const given = rows > 1 ? bias.data() : nullptr, *const more = rows > 3 ? added.data() : nullptr;
  kernels.matvec({dtype, dtype, 1 + rows % 2, rows, blocks, inputs, outputs, {x.data(), 2 * width}, weight.data(), nullptr,
                  given, more, {y.data(), made}});
  y.require_written("matvec y");
}

void run_packed_matvec(const Kernels& kernels, i64 weight_dtype, i64 rows, i64 blocks, i64 inputs, i64 outputs) {
  const i64 width = blocks * inputs, made = blocks * outputs, columns = (inputs + kGroup - 1) / kGroup * kGroup;
  Buffer x(kFloat32, (2 * rows - 1) * width), weight(weight_dtype, made * columns), scale(kFloat32, made);
  Buffer bias(kFloat32, made), y(kFloat32, rows * made);
  x.fill(), weight.fill(), scale.fill(), bias.fill();
  kernels.matvec({kFloat32, weight_dtype, 1 + rows % 2, rows, blocks, inputs, outputs, {x.data(), 2 * width}, weight.data(),
                  weight_dtype == kInt8 ? scale.floats() : nullptr, rows > 1 ? bias.data() : nullptr, nullptr,
                  {y.data(), made}});
  y.require_written("packed matvec y");
}

void run_cell_step(const Kernels& kernels, i64 kind, i64 dtype, i64 batch, i64 heads, i64 channels) {
  const i64 state = state_dtype(dtype), width = heads * channels, parts = kind == kGru ? 3 : 4;
  const i64 states = kind == kGru ? 1 : kind == kLstm ? 2 : 4;
  Buffer x(dtype, (2 * batch - 1) * parts * width), recurrent(state, batch * parts * width), bias(state, parts * width);
  Buffer before(state, states * batch * width), after(state, states * batch * width), y(dtype, batch * width);
  x.fill(), recurrent.fill(), bias.fill(), before.fill();
  CellStep s{kind, dtype, batch, heads, width, {x.data(), 2 * parts * width}, recurrent.data(), bias.data(), {}, {}, y.data()};
  if (batch == 1) s.bias = nullptr;
  const i64 bytes = batch * width * before.element_size(state);
  for (i64 i = 0; i < states; ++i) s.state[i] = before.data() + i * bytes, s.state_n[i] = after.data() + i * bytes;
  kernels.cell_step(s);
  y.require_written("cell step y"), after.require_written("cell step state");
}

void run_norm(const Kernels& kernels, i64 dtype, i64 rows, i64 width, bool centred) {
  const i64 state = state_dtype(dtype), blocks = (rows + kNormBlock - 1) / kNormBlock, groups = centred ? 2 : 1;
  Buffer x(dtype, rows * width), added(dtype, rows * width), weight(dtype, groups * width), sum(dtype, rows * width);
  Buffer y(dtype, rows * width), moments(state, 2 * rows), dx(dtype, rows * width), bias(dtype, groups * width);
  Buffer dweight(state, blocks * groups * width), dbias(state, blocks * groups * width);
  x.fill(), added.fill(), weight.fill(), bias.fill();
  Norm norm{};
  norm.dtype = dtype, norm.threads = 1 + rows % 2, norm.rows = rows, norm.width = width, norm.eps = 1e-6, norm.groups = groups;
  norm.x = x.data(), norm.weight = weight.data(), norm.y = y.data(), norm.moments = moments.data();
  if (centred) norm.bias = bias.data();
  if (rows > 1) norm.added = added.data(), norm.sum = sum.data();
  kernels.norm(norm, true);
  y.require_written("norm y"), moments.require_written("norm moments");

  norm.dy = y.data(), norm.dx = dx.data(), norm.dweight = dweight.data(), norm.dsum = norm.added;
  if (centred) norm.dbias = dbias.data();
  kernels.norm(norm, false);
  dx.require_written("norm dx"), dweight.require_written("norm dweight");
  if (centred) dbias.require_written("norm dbias");
}

void run_fours(const Kernels& kernels, i64 dtype, i64 rows, i64 blocks, i64 parts) {
  const i64 width = 4 * blocks, sums = (rows + kFoursRows - 1) / kFoursRows;
  Buffer x(dtype, rows * width), weight(dtype, parts * 4 * width), y(dtype, rows * parts * width);
  Buffer dx(dtype, rows * width), dweight(state_dtype(dtype), sums * parts * 4 * width);
  x.fill(), weight.fill();
  const Fours s{dtype, 1 + rows % 2, rows, blocks, parts, {x.data(), width}, weight.data(), {y.data(), parts * width},
                {dx.data(), width}, dweight.data()};
  kernels.fours(s, true);
  y.require_written("fours y");
  kernels.fours(s, false);
  dx.require_written("fours dx"), dweight.require_written("fours dweight");
}

void run_activation(const Kernels& kernels, i64 kind, i64 dtype, i64 rows, i64 width, bool gated) {
  const i64 count = rows * width;
  Buffer x(dtype, 2 * count), y(dtype, count), dx(dtype, count), dfactor(dtype, count);
  x.fill();
  Activation a{kind, dtype, 1 + rows % 2, rows, width, 1.5, {x.data(), 2 * width}, {}, {}, {y.data(), width}, {}, {}};
  if (gated) a.factor = a.added = {x.data() + width * x.element_size(dtype), 2 * width};
  kernels.activation(a, true);
  a.dx = {dx.data(), width}, a.dfactor = {dfactor.data(), width};
  kernels.activation(a, false);
  y.require_written("activation y"), dx.require_written("activation dx");
  if (gated) dfactor.require_written("activation dfactor");
}

void run_conv_step(const Kernels& kernels, i64 dtype, i64 batch, i64 width, i64 taps) {
  const i64 state = state_dtype(dtype), history = batch * (taps - 1) * width;
  Buffer x(dtype, (2 * batch - 1) * width), weight(dtype, taps * width), bias(dtype, width), y(dtype, batch * width);
  Buffer before(state, history), after(state, history);
  x.fill(), weight.fill(), bias.fill(), before.fill();
  char* const added = batch > 1 ? bias.data() : nullptr;
  kernels.conv_step({dtype, batch, width, taps, {x.data(), 2 * width}, weight.data(), added, before.data(), y.data(),
                     after.data()});
  y.require_written("conv step y"), after.require_written("conv step state");
}

void run_selective_step(const Kernels& kernels, i64 dtype, i64 batch, i64 width, i64 states, i64 rank) {
  const i64 state = state_dtype(dtype), mixes = rank + 2 * states;
  Buffer x(dtype, batch * width), mixed(dtype, batch * mixes), z(dtype, (2 * batch - 1) * width);
  Buffer weight(dtype, rank * width), a(state, states * width), d(state, width), bias(state, width);
  Buffer before(state, batch * states * width), after(state, batch * states * width), y(dtype, batch * width);
  for (Buffer* in : {&x, &mixed, &z, &weight, &d, &bias, &before}) in->fill(-3, 3);
  a.fill(-30, 0);
  kernels.selective_step({dtype, 1 + batch % 2, batch, width, states, rank, {x.data(), width}, {mixed.data(), mixes},
                          {z.data(), 2 * width}, weight.data(), a.data(), d.data(), bias.data(), before.data(),
                          after.data(), y.data()});
  y.require_written("selective step y"), after.require_written("selective step state");
}

void run_product(const Kernels& kernels, i64 rows, i64 columns, i64 depth, bool a_turned, bool b_turned) {
  const i64 round = (columns + 31) / 32 * 32, strips = b_turned ? 32 : round < 512 ? round : 512;
  Buffer a(kFloat32, rows * depth), b(kFloat32, depth * columns), bias(kFloat32, columns);
  Buffer c(kFloat32, rows * columns), scratch(kFloat32, depth * strips);
  a.fill(), b.fill(), bias.fill();

  Product product{};
  product.threads = a_turned ? 2 : 1, product.rows = rows, product.columns = columns, product.depth = depth;
  product.a = a.floats(), product.a_row = a_turned ? 1 : depth, product.a_depth = a_turned ? rows : 1;
  product.b = b.floats(), product.b_depth = b_turned ? columns : 1, product.b_column = b_turned ? 1 : depth;
  product.bias = a_turned ? bias.floats() : nullptr;
  product.c = c.floats(), product.scratch = scratch.floats();
  kernels.product(product);
  c.require_written("product c");
}

// Two rows, whose new entries are copied into the room or lie there; the second began later than the first.
void run_attention(const Kernels& kernels, i64 dtype, i64 channels, i64 old, i64 fresh, i64 window, bool there) {
  const i64 state = state_dtype(dtype), heads = 3, lists = 2 * heads, group = there ? 2 : 1;
  const i64 room = fresh + group;
  const i64 row = channels + (old + room + 15) / 16 * 16, begin[] = {old, 1}, position[] = {old + fresh, 1 + fresh};
  i64 next[] = {0, 0};
  Buffer qkv(dtype, (group + 2) * lists * channels), keys(dtype, lists * old * channels), values(dtype, lists * old * channels);
  Buffer new_keys(dtype, lists * fresh * channels), new_values(dtype, lists * fresh * channels);
  Buffer room_keys(dtype, lists * room * channels), room_values(dtype, lists * room * channels);
  Buffer y(dtype, group * lists * channels), turns(state, 2 * channels), scratch(state, lists * row);
  for (Buffer* b : {&qkv, &keys, &values, &new_keys, &new_values}) b->fill(-3, 3);
  if (there) room_keys.fill(-3, 3), room_values.fill(-3, 3);
  Attention a{dtype, 1 + there, 2, heads, channels, old, fresh, room, window, group, 10000, qkv.data(), keys.data(),
              values.data(), new_keys.data(), new_values.data(), room_keys.data(), room_values.data(),
              there ? begin : nullptr, position, next, y.data(), turns.data(), scratch.data(), row};
  if (there) a.new_keys = a.room_keys, a.new_values = a.room_values;
  kernels.attention(a);
  y.require_written("attention y"), room_keys.require_written("keys"), room_values.require_written("values");
}

// Two rows, the first of which may read nothing.
void run_cross_attention(const Kernels& kernels, i64 dtype, i64 channels, i64 steps, i64 queries) {
  const i64 state = state_dtype(dtype), heads = 3, lists = 2 * heads, row = channels + (steps + 15) / 16 * 16;
  const i64 lengths[] = {0, steps + 1};
  Buffer q(dtype, queries * lists * channels), memory(dtype, 2 * lists * steps * channels);
  Buffer y(dtype, queries * lists * channels), scratch(state, lists * row);
  q.fill(-3, 3), memory.fill(-3, 3);
  kernels.cross_attention({dtype, queries, 2, queries, heads, channels, steps, q.data(), memory.data(), lengths,
                           y.data(), scratch.data(), row});
  y.require_written("cross attention y");
}

void run_shape(const Kernels& kernels, const Shape& s) {
  for (i64 dtype = kFloat32; dtype <= kComplex128; ++dtype) {
    const i64 gates = is_complex(dtype) ? kLinear : kMinLstmUnnormalizedTanh;
    for (i64 gate = kLinear; gate <= gates; ++gate) run_scan(kernels, s, gate, dtype);
  }
  for (i64 dtype : {kFloat32, kFloat64, kBfloat16}) {
    for (i64 taps : {1, 2, 4, 16}) run_conv(kernels, s, dtype, taps, s.masked);
    for (i64 mixes : {1, 2, 4}) run_token_mix(kernels, s, dtype, mixes);
    for (i64 group : {1, 13, 17}) {
      if (s.width % group == 0) run_softmax(kernels, s, dtype, group);
    }
    for (i64 states : {1, 5}) run_diagonal(kernels, s, dtype, states, 3);
    run_diagonal(kernels, s, dtype, 2, 5);
  }
}

void run(const char* name, const Kernels& kernels) {
  for (i64 width : {1, 3, 17, 65}) {
    for (i64 time : {0, 1, 5}) {
      for (i64 batch : {1, 3}) {
        for (bool masked : {false, true}) {
          for (bool time_first : {false, true}) run_shape(kernels, {batch, time, width, time_first, masked});
        }
      }
    }
    for (i64 dtype : {kBfloat16, kInt8}) {
      for (i64 rows : {1, 5, 16}) {
        for (i64 inputs : {1, 63, 64, 130}) run_packed_matvec(kernels, dtype, rows, width, inputs, 3);
        run_packed_matvec(kernels, dtype, rows, 1, 65, width);
      }
    }
    for (i64 dtype : {kFloat32, kFloat64, kBfloat16}) {
      for (i64 rows : {1, 3, 4, 16}) {
        for (i64 outputs : {1, 3, 65}) run_matvec(kernels, dtype, rows, 1, width, outputs);
        for (i64 inputs : {1, 4, 35}) run_matvec(kernels, dtype, rows, width, inputs, 5);
        for (i64 kind : {kGru, kLstm, kSlstm}) run_cell_step(kernels, kind, dtype, rows, 1 + rows % 2, width);
        for (i64 taps : {1, 4}) run_conv_step(kernels, dtype, rows, width, taps);
        for (i64 states : {1, 5}) run_selective_step(kernels, dtype, rows, width, states, 1 + rows % 3);
        for (bool centred : {false, true}) run_norm(kernels, dtype, 20 * rows - 19, width, centred);
        for (i64 group : {1, 13}) {
          if (width % group == 0) run_softmax_step(kernels, dtype, rows, width, group);
        }
        for (i64 mixes : {2, 4}) run_token_mix_step(kernels, dtype, rows, width, mixes);
        for (i64 kind : {kGelu, kSilu, kSigmoid, kReluSquare, kLogSigmoid, kTanh, kIdentity}) {
          run_activation(kernels, kind, dtype, rows, 90 * width, rows > 1);
        }
      }
    }
  }
  for (i64 dtype : {kFloat32, kFloat64, kBfloat16}) {
    for (i64 rows : {1, 7, 64, 75}) run_fours(kernels, dtype, rows, 1 + rows % 5, 1 + rows % 3);
    for (i64 channels : {2, 66}) {
      for (i64 steps : {1, 16, 21}) run_cross_attention(kernels, dtype, channels, steps, 1 + steps % 2);
      for (i64 fresh : {0, 5}) {
        for (i64 window : {0, 1, 4}) {
          for (bool there : {false, true}) run_attention(kernels, dtype, channels, 3 * fresh, fresh, window, there);
        }
      }
    }
  }
  constexpr Shape selectives[] = {{1, 3, 17, false, false}, {3, 0, 1, true, true}, {2, 16, 64, true, false},
                                  {3, 35, 65, false, true}, {3, 18, 130, true, true}};
  for (const Shape& s : selectives) {
    for (i64 dtype : {kFloat32, kFloat64, kBfloat16}) {
      for (i64 states : {1, 5}) run_selective(kernels, s, dtype, states);
    }
  }
  constexpr Shape outers[] = {{1, 3, 34, false, false}, {3, 0, 2, true, true}, {2, 131, 6, true, true},
                              {2, 1, 70, false, false}};
  for (const Shape& s : outers) {
    for (i64 dtype : {kFloat32, kFloat64, kBfloat16}) {
      for (bool gated : {false, true}) run_outer(kernels, s, dtype, 2, gated, !gated);
    }
  }
  constexpr Shape cells[] = {{1, 3, 17, false, false}, {3, 0, 1, true, true}, {19, 3, 40, true, false},
                             {19, 3, 40, false, true}, {5, 5, 3, true, true}};
  for (const Shape& s : cells) {
    for (i64 dtype : {kFloat32, kFloat64, kBfloat16}) {
      for (i64 kind : {kGru, kLstm, kSlstm}) run_cell(kernels, s, kind, dtype);
    }
  }
  for (i64 group : {1, 13}) run_softmax(kernels, {3, 65, 26, true, true}, kFloat32, group);
  for (bool masked : {false, true}) run_token_mix(kernels, {3, kTokenMixBlock + 2, 5, masked, masked}, kFloat32, 3);
  for (bool masked : {false, true}) {
    const Shape tiles = {2, 2 * kDiagonalTile + 3, 5, masked, masked};
    for (i64 parts : {3, 5}) run_diagonal(kernels, tiles, kFloat32, 5, parts);
  }
  constexpr i64 products[][3] = {{1, 1, 1}, {5, 33, 17}, {29, 33, 257}, {13, 545, 17}};
  for (const auto& [rows, columns, depth] : products) {
    for (i64 layout = 0; layout < 4; ++layout) {
      run_product(kernels, rows, columns, depth, layout / 2, layout % 2);
    }
  }
  std::printf("%s: clean\n", name);
}

}  // namespace
}  // namespace recurra

int main() {
  recurra::run("portable", recurra::portable::kernels);
#if defined(RECURRA_X86)
  if (__builtin_cpu_supports("avx2")) recurra::run("x86-64-v3", recurra::x86_64_v3::kernels);
  if (__builtin_cpu_supports("avx512vl")) recurra::run("x86-64-v4", recurra::x86_64_v4::kernels);
#endif
}
