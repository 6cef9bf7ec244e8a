// The backward pass of a diagonal state space, by pieces: at most 32 steps without a reset among them, where
//   h_t = a^(t+1) h + b sum_j a^(t-j) u_j,   y_t = Re(sum_n c a^(t+1) h) + sum_l k_l u_(t-l),
// with h the state before the piece and k_l = Re(sum_n c b a^l) + d [l = 0]. So no state goes step by step:
// what it gets of a piece are sums of a^m times u and dy, and their derivatives by a (ten products a step
// rather than thirty, and none waits for another); the rest goes through k, where states are summed already.
//
// A register holds neighbouring channels, and four pieces (a panel) share what is loaded of a^m. Gradients of
// complex numbers are conjugate until they are stored.
#pragma once

#include <memory>
#include <vector>

#include "diagonal.h"

namespace recurra::RECURRA_LEVEL {

constexpr i64 kPiece = 32, kPieces = 4;
// Rows whose sums fit into the registers.
constexpr int kAtOnce = kVectorBytes == 64 ? 8 : 4;

struct Piece {
  i64 begin, count;
};
struct Panel {
  Piece pieces[kPieces];
  i64 used, longest;
};

template <class P>
struct DiagonalBackward : DiagonalLoop<P> {
  using Base = DiagonalLoop<P>;
  using Base::b, Base::cut, Base::length, Base::s;
  using State = typename P::State;
  using T = typename P::T;
  using V = typename P::V;
  using C = ComplexVec<T>;
  using Row = V[kPiece];

  struct Constants {
    C a, b, c, power[kPiece + 1];
  };
  struct Gradients {
    C h, a, b, c;  // h: of the state behind the panel
  };
  struct Room {
    const std::unique_ptr<Constants[]> constants;
    const std::unique_ptr<Gradients[]> gradients;
    std::vector<Panel> panels;
    std::unique_ptr<C[]> notes;  // [panels, states]: h before each panel
    Row k, dk[2];
    // What a state takes sums of: u against time, dy along it, and what a^m meets in their derivatives by a.
    Row sources[4 * kPieces], dy[kPieces], du[kPieces];  // the last two against time
    Row *const u = sources, *const u_slope = u + kPieces;
    Row *const along = u + 2 * kPieces, *const along_slope = u + 3 * kPieces;
    explicit Room(i64 states) : constants(new Constants[states]), gradients(new Gradients[states]) {}
  };
  Room& room;

  DiagonalBackward(const Diagonal& diagonal, i64 row, i64 channel, Room& memory)
      : Base(diagonal, row, channel), room(memory) {}

  // -------------------------------------------------------------------------- sums

  // sum_m p_m x_m, in J rows.
  template <int J>
  static void sums(const C* p, const Row* x, i64 count, C* sum) {
    C total[J];
    for (int j = 0; j < J; ++j) total[j] = C{};
    for (i64 m = 0; m < count; ++m) {
      for (int j = 0; j < J; ++j) total[j].re += p[m].re * x[j][m], total[j].im += p[m].im * x[j][m];
    }
    for (int j = 0; j < J; ++j) sum[j] = total[j];
  }

  // y_m += Re(w p_m), in J rows.
  template <int J>
  static void spread(const C* p, const C* w, i64 count, Row* y) {
    C of[J];
    for (int j = 0; j < J; ++j) of[j] = w[j];
    for (i64 m = 0; m < count; ++m) {
      const C power = p[m];
      for (int j = 0; j < J; ++j) y[j][m] = y[j][m] + of[j].re * power.re - of[j].im * power.im;
    }
  }

  // y_t = sum_l k_l x_(t-l), in each row; two steps at once, as one has too few sums to keep the units busy.
  static void convolve(const Row& k, const Row* x, i64 count, Row* y) {
    for (i64 t = 0; t < count; t += 2) {
      V even[kPieces], odd[kPieces];
      for (int j = 0; j < kPieces; ++j) even[j] = V{}, odd[j] = k[0] * x[j][t + 1];
      for (i64 l = 0; l <= t; ++l) {
        for (int j = 0; j < kPieces; ++j) even[j] += k[l] * x[j][t - l], odd[j] += k[l + 1] * x[j][t - l];
      }
      for (int j = 0; j < kPieces; ++j) y[j][t] = even[j], y[j][t + 1] = odd[j];
    }
  }

  // k_l += sum_t x_t y_(t+l), over all rows; likewise.
  static void correlate(const Row* x, const Row* y, i64 count, Row& k) {
    for (i64 l = 0; l < count; l += 2) {
      V even[kPieces], odd[kPieces];
      for (int j = 0; j < kPieces; ++j) even[j] = x[j][count - 1 - l] * y[j][count - 1], odd[j] = V{};
      for (i64 t = 0; t + l + 1 < count; ++t) {
        for (int j = 0; j < kPieces; ++j) even[j] += x[j][t] * y[j][t + l], odd[j] += x[j][t] * y[j][t + l + 1];
      }
      for (int j = 0; j < kPieces; ++j) k[l] += even[j], k[l + 1] += odd[j];
    }
  }

  // -------------------------------------------------------------------------- preparations

  i64 most_steps() const { return least(kPiece, length); }

  Piece piece(i64 begin) const {
    return {begin, Base::uncut(begin, least(begin + kPiece, length)) - begin};
  }

  void cut_row() const {
    room.panels.clear();
    for (i64 t = 0; t < length;) {
      Panel panel{};
      while (panel.used < kPieces && t < length) {
        const Piece next = panel.pieces[panel.used++] = piece(t);
        panel.longest = most(panel.longest, next.count);
        t += next.count;
      }
      room.panels.push_back(panel);
    }
  }

  // A part of a register, as much as makes a whole one in fp64.
  using Wide = Vec<double>;
  using Narrow = typename VecOf<T, int(sizeof(T)) * kLanes<double>>::type;
  static Wide part(const V& v, i64 at) {
    Narrow part;
    std::memcpy(&part, reinterpret_cast<const char*>(&v) + at, sizeof part);
    return __builtin_convertvector(part, Wide);
  }
  static void put_part(V& v, i64 at, Wide value) {
    const Narrow part = __builtin_convertvector(value, Narrow);
    std::memcpy(reinterpret_cast<char*>(&v) + at, &part, sizeof part);
  }

  // a^0 ... a^count, in fp64: an error that is the same in every piece would add up.
  static void raise(Constants& k, i64 count) {
    for (i64 at = 0; at < kVectorBytes; at += sizeof(Narrow)) {
      const Wide re = part(k.a.re, at), im = part(k.a.im, at);
      Wide x = Wide{} + 1, y{};
      for (i64 m = 0; m <= count; ++m) {
        put_part(k.power[m].re, at, x), put_part(k.power[m].im, at, y);
        const Wide turned = re * y + im * x;
        x = re * x - im * y, y = turned;
      }
    }
  }

  template <class N>
  void prepare(N n) const {
    for (i64 m = 0; m < kPiece; ++m) room.k[m] = room.dk[0][m] = room.dk[1][m] = V{};
    room.k[0] = load<State>(Base::plane(s.skip, 0), n);
    for (i64 i = 0; i < s.states; ++i) {
      Constants& k = room.constants[i];
      k.a = Base::parameter(i, 0, n), k.b = Base::parameter(i, 1, n), k.c = Base::parameter(i, 2, n);
      raise(k, most_steps());
      const C both = k.b * k.c;
      spread<1>(k.power, &both, most_steps(), &room.k);
      room.gradients[i] = {conj(Base::complex(s.dh_n, b * s.states + i, n)), C{}, C{}, C{}};
    }
    cut_row();
    room.notes.reset(new C[most<i64>(1, room.panels.size()) * s.states]);
  }

  // The rows of a panel against time, zero behind the ends of its pieces.
  template <class N>
  void load_rows(const Panel& panel, const View& view, Row* x, N n) const {
    for (i64 j = 0; j < kPieces; ++j) {
      const Piece& piece = panel.pieces[j];
      for (i64 m = 0; m < panel.longest; ++m) {
        x[j][m] = m < piece.count ? load<P>(Base::row(view, piece.begin + piece.count - 1 - m), n) : V{};
      }
    }
  }

  // -------------------------------------------------------------------------- the passes

  // From the state before a panel that behind it; before: the state before each piece.
  C advance(const Panel& panel, const Constants& k, C h, const C* sum, C* before) const {
    for (i64 j = 0; j < panel.used; ++j) {
      const Piece& piece = panel.pieces[j];
      before[j] = cut(piece.begin) ? C{} : h;
      h = k.power[piece.count] * before[j] + k.b * sum[j];
    }
    return h;
  }

  template <class N>
  void take_notes(N n) const {
    C* h = room.notes.get();
    for (i64 i = 0; i < s.states; ++i) h[i] = Base::complex(s.h_0, b * s.states + i, n);
    for (size_t p = 0; p + 1 < room.panels.size(); ++p, h += s.states) {
      const Panel& panel = room.panels[p];
      load_rows(panel, s.u, room.u, n);
      for (i64 i = 0; i < s.states; ++i) {
        const Constants& k = room.constants[i];
        C sum[kPieces], before[kPieces];
        sums<kPieces>(k.power, room.u, panel.longest, sum);
        h[s.states + i] = advance(panel, k, h[i], sum, before);
      }
    }
  }

  void pull(const Panel& panel, const Constants& k, C h, Gradients& d) const {
    C of[4 * kPieces], before[kPieces], back[kPieces];
    const C *of_u = of, *of_u_slope = of + kPieces, *of_dy = of + 2 * kPieces, *of_dy_slope = of + 3 * kPieces;
    for (int j = 0; j < 4 * kPieces; j += kAtOnce) sums<kAtOnce>(k.power, room.sources + j, panel.longest, of + j);
    for (i64 j = panel.used; j < kPieces; ++j) back[j] = C{};
    advance(panel, k, h, of_u, before);
    for (i64 j = panel.used - 1; j >= 0; --j) {
      const Piece& piece = panel.pieces[j];
      const V count = V{} + T(piece.count);
      const C slope = k.power[piece.count - 1] * d.h, reach = k.a * of_dy[j];
      back[j] = k.b * d.h;
      d.a += before[j] * (k.c * of_dy_slope[j] + C{count * slope.re, count * slope.im}) + back[j] * of_u_slope[j];
      d.b += d.h * of_u[j];
      d.c += before[j] * reach;
      d.h = cut(piece.begin) ? C{} : k.power[piece.count] * d.h + k.c * reach;
    }
    spread<kPieces>(k.power, back, panel.longest, room.du);
  }

  template <class N>
  void pull_panel(const Panel& panel, const C* notes, N n) const {
    load_rows(panel, s.u, room.u, n);
    load_rows(panel, s.dy, room.dy, n);
    for (i64 j = 0; j < kPieces; ++j) {
      const i64 count = panel.pieces[j].count;
      for (i64 m = 0; m < panel.longest; ++m) {
        room.along[j][m] = m < count ? room.dy[j][count - 1 - m] : V{};
        room.u_slope[j][m] = m + 1 < panel.longest ? T(m + 1) * room.u[j][m + 1] : V{};
        room.along_slope[j][m] = T(m + 1) * room.along[j][m];
      }
    }
    convolve(room.k, room.dy, panel.longest, room.du);
    correlate(room.dy, room.u, panel.longest, room.dk[0]);
    for (i64 i = 0; i < s.states; ++i) pull(panel, room.constants[i], notes[i], room.gradients[i]);
    for (i64 j = 0; j < panel.used; ++j) {
      const i64 last = panel.pieces[j].begin + panel.pieces[j].count - 1;
      for (i64 m = 0; m < panel.pieces[j].count; ++m) store<P>(Base::row(s.du, last - m), room.du[j][m], n);
    }
  }

  template <class N>
  void backward(N n) const {
    prepare(n);
    take_notes(n);
    for (i64 p = i64(room.panels.size()) - 1; p >= 0; --p) {
      pull_panel(room.panels[p], room.notes.get() + p * s.states, n);
    }
    finish(n);
  }

  template <class N>
  void finish(N n) const {
    for (i64 m = 0; m + 1 < kPiece; ++m) room.dk[1][m] = T(m + 1) * room.dk[0][m + 1];
    for (i64 i = 0; i < s.states; ++i) {
      const Constants& k = room.constants[i];
      Gradients& d = room.gradients[i];
      C sum[2];
      sums<2>(k.power, room.dk, most_steps(), sum);
      d.a += k.b * (k.c * sum[1]), d.b += k.c * sum[0], d.c += k.b * sum[0];
      const i64 at = b * s.states + i;
      Base::keep(s.dh_0, at, conj(d.h), n);
      const C parts[] = {d.a, d.b, d.c};
      for (i64 which = 0; which < 3; ++which) Base::keep(s.dparameters, 3 * at + which, conj(parts[which]), n);
    }
    store<State>(Base::plane(s.dskip, b), room.dk[0][0], n);
    Base::clear_padding(s.du, n);
  }
};

template <class P>
inline void run_diagonal(const Diagonal& s, bool forward) {
  if (forward) return run_diagonal_forward<P>(s);
  each_strip<P, 1>(s.batch, s.width, s.threads, [&](i64 b, i64 first, i64 width) {
    typename DiagonalBackward<P>::Room room(s.states);
    each_window<P>(width, [&](i64, i64 c, auto n) { DiagonalBackward<P>(s, b, first + c, room).backward(n); });
  });
}

inline void diagonal(const Diagonal& s, bool forward) {
  by_dtype(s.dtype, [&](auto p) { run_diagonal<decltype(p)>(s, forward); });
}

}  // namespace recurra::RECURRA_LEVEL
