// One step of a token shift: each output mixes the input with that of the step before, channel by channel.
// RWKV, arXiv 2305.13048, section 3.
#pragma once

#include "abi.h"
#include "lanes.h"

namespace recurra::RECURRA_LEVEL {

template <class P>
inline void run_token_mix_step(const TokenMixStep& s) {
  using Element = typename P::Element;
  using State = typename P::State;
  using Number = typename State::Element;
  for (i64 b = 0; b < s.batch; ++b) {
    const i64 row = b * s.width;
    each_register<P>(s.width, [&](i64, i64 c, auto n) {
      const auto x = load<P>(static_cast<const Element*>(s.x) + row + c, n);
      const auto before = load<State>(static_cast<const Number*>(s.before) + row + c, n);
      for (i64 i = 0; i < s.mixes; ++i) {
        const auto m = load<P>(static_cast<const Element*>(s.mix[i]) + c, n);
        store<P>(static_cast<Element*>(s.y) + i * s.batch * s.width + row + c, m * x + (1 - m) * before, n);
      }
      store<State>(static_cast<Number*>(s.after) + row + c, x, n);
    });
  }
}

inline void token_mix_step(const TokenMixStep& s) {
  switch (s.dtype) {
    case kFloat32: return run_token_mix_step<Real<float>>(s);
    case kFloat64: return run_token_mix_step<Real<double>>(s);
    case kBfloat16: return run_token_mix_step<Real<bf16>>(s);
  }
}

}  // namespace recurra::RECURRA_LEVEL
