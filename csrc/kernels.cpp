// All kernels for one instruction set. Compiled once for each, with RECURRA_LEVEL naming the namespace.
#include "activation.h"
#include "attention.h"
#include "cell.h"
#include "conv.h"
#include "diagonal_backward.h"
#include "dplr.h"
#include "fours.h"
#include "linear.h"
#include "matvec.h"
#include "norm.h"
#include "outer_backward.h"
#include "product.h"
#include "selective.h"
#include "softmax.h"
#include "token_mix.h"

namespace recurra::RECURRA_LEVEL {

extern const Kernels kernels;
const Kernels kernels = {scan,          conv,           cell,     cell_step, conv_step, norm,           activation, softmax,
                         softmax_step,  token_mix,      token_mix_step, diagonal, dplr,      selective, selective_step, matvec,
                         product,       attention,      cross_attention, outer,    fours};

}  // namespace recurra::RECURRA_LEVEL
