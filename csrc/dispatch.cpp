// The exported functions, and the choice of the instruction set at run time.
#include <cstring>

#include "abi.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace recurra {

namespace portable {
extern const Kernels kernels;
}
#if defined(RECURRA_X86)
namespace x86_64_v2 {
extern const Kernels kernels;
}
namespace x86_64_v3 {
extern const Kernels kernels;
}
namespace x86_64_v4 {
extern const Kernels kernels;
}
#endif

namespace {

const Kernels* const kTables[] = {
    &portable::kernels,
#if defined(RECURRA_X86)
    &x86_64_v2::kernels,
    &x86_64_v3::kernels,
    &x86_64_v4::kernels,
#endif
};

int best_level() {
#if defined(RECURRA_X86)
  __builtin_cpu_init();
  // By feature: only recent compilers know the levels by name.
  if (!__builtin_cpu_supports("sse4.2") || !__builtin_cpu_supports("popcnt")) return 0;
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("bmi2")) return 1;
  const bool v4 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                  __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
  return v4 ? 3 : 2;
#else
  return 0;
#endif
}

int current = best_level();

}  // namespace
}  // namespace recurra

// Use this level, or the best one below it that the machine runs; a negative level changes nothing.
// Returns the level in use.
EXPORT int recurra_select(int level) {
  const int best = recurra::best_level();
  if (level >= 0) recurra::current = level < best ? level : best;
  return recurra::current;
}

EXPORT void recurra_scan_forward(const recurra::Scan* s) { recurra::kTables[recurra::current]->scan(*s, true); }
EXPORT void recurra_scan_backward(const recurra::Scan* s) { recurra::kTables[recurra::current]->scan(*s, false); }
EXPORT void recurra_conv_forward(const recurra::Conv* s) { recurra::kTables[recurra::current]->conv(*s, true); }
EXPORT void recurra_conv_backward(const recurra::Conv* s) { recurra::kTables[recurra::current]->conv(*s, false); }
EXPORT void recurra_cell_forward(const recurra::Cell* s) { recurra::kTables[recurra::current]->cell(*s, true); }
EXPORT void recurra_cell_backward(const recurra::Cell* s) { recurra::kTables[recurra::current]->cell(*s, false); }
EXPORT void recurra_cell_step(const recurra::CellStep* s) { recurra::kTables[recurra::current]->cell_step(*s); }
EXPORT void recurra_softmax_forward(const recurra::Softmax* s) { recurra::kTables[recurra::current]->softmax(*s, true); }
EXPORT void recurra_softmax_backward(const recurra::Softmax* s) { recurra::kTables[recurra::current]->softmax(*s, false); }
EXPORT void recurra_softmax_step(const recurra::SoftmaxStep* s) {
  recurra::kTables[recurra::current]->softmax_step(*s);
}
EXPORT void recurra_token_mix_forward(const recurra::TokenMix* s) {
  recurra::kTables[recurra::current]->token_mix(*s, true);
}
EXPORT void recurra_token_mix_backward(const recurra::TokenMix* s) {
  recurra::kTables[recurra::current]->token_mix(*s, false);
}
EXPORT void recurra_token_mix_step(const recurra::TokenMixStep* s) {
  recurra::kTables[recurra::current]->token_mix_step(*s);
}
EXPORT void recurra_diagonal_forward(const recurra::Diagonal* s) {
  recurra::kTables[recurra::current]->diagonal(*s, true);
}
EXPORT void recurra_diagonal_backward(const recurra::Diagonal* s) {
  recurra::kTables[recurra::current]->diagonal(*s, false);
}
EXPORT void recurra_dplr_forward(const recurra::Diagonal* s) { recurra::kTables[recurra::current]->dplr(*s, true); }
EXPORT void recurra_dplr_backward(const recurra::Diagonal* s) { recurra::kTables[recurra::current]->dplr(*s, false); }
EXPORT void recurra_outer_forward(const recurra::Outer* s) { recurra::kTables[recurra::current]->outer(*s, true); }
EXPORT void recurra_outer_backward(const recurra::Outer* s) { recurra::kTables[recurra::current]->outer(*s, false); }
EXPORT void recurra_fours_forward(const recurra::Fours* s) { recurra::kTables[recurra::current]->fours(*s, true); }
EXPORT void recurra_fours_backward(const recurra::Fours* s) { recurra::kTables[recurra::current]->fours(*s, false); }
EXPORT void recurra_selective_forward(const recurra::Selective* s) {
  recurra::kTables[recurra::current]->selective(*s, true);
}
EXPORT void recurra_selective_backward(const recurra::Selective* s) {
  recurra::kTables[recurra::current]->selective(*s, false);
}
EXPORT void recurra_selective_step(const recurra::SelectiveStep* s) {
  recurra::kTables[recurra::current]->selective_step(*s);
}
EXPORT void recurra_matvec(const recurra::Matvec* s) { recurra::kTables[recurra::current]->matvec(*s); }
EXPORT void recurra_layer_step(const recurra::LayerStep* s) {
  const recurra::Kernels* const kernels = recurra::kTables[recurra::current];
  kernels->matvec(s->gates);
  kernels->scan(s->scan, true);
}
EXPORT void recurra_conv_step(const recurra::ConvStep* s) { recurra::kTables[recurra::current]->conv_step(*s); }
EXPORT void recurra_norm_forward(const recurra::Norm* s) { recurra::kTables[recurra::current]->norm(*s, true); }
EXPORT void recurra_norm_backward(const recurra::Norm* s) { recurra::kTables[recurra::current]->norm(*s, false); }
EXPORT void recurra_activation_forward(const recurra::Activation* s) {
  recurra::kTables[recurra::current]->activation(*s, true);
}
EXPORT void recurra_activation_backward(const recurra::Activation* s) {
  recurra::kTables[recurra::current]->activation(*s, false);
}
EXPORT void recurra_copy(const recurra::Copy* s) { std::memcpy(s->to, s->from, s->bytes); }
EXPORT void recurra_replay(const recurra::Replay* s) {
  for (std::int64_t i = 0; i < s->count; ++i) s->calls[i].function(s->calls[i].record);
}
EXPORT void recurra_product(const recurra::Product* s) { recurra::kTables[recurra::current]->product(*s); }
EXPORT void recurra_attention_step(const recurra::Attention* s) {
  recurra::kTables[recurra::current]->attention(*s);
}
EXPORT void recurra_cross_attention(const recurra::CrossAttention* s) {
  recurra::kTables[recurra::current]->cross_attention(*s);
}

// True where `recurra_product` is faster than the product that torch brings: AMD with AVX-512.
EXPORT int recurra_prefers_product() {
#if defined(RECURRA_X86)
  return recurra::current == 3 && __builtin_cpu_is("amd");
#else
  return 0;
#endif
}

// Ask for huge pages under memory that is about to be written for the first time. Large tensors come
// fresh from the system each time, and a page fault for every 4 KiB costs more than the kernels that
// fill them.
EXPORT void recurra_advise(void* data, std::int64_t bytes) {
#if defined(__linux__)
  const std::uintptr_t page = 4096, at = reinterpret_cast<std::uintptr_t>(data);
  const std::uintptr_t from = (at + page - 1) / page * page, to = (at + bytes) / page * page;
  if (to > from) madvise(reinterpret_cast<void*>(from), to - from, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}
