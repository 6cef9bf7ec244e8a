"""The model types of transformers that are models of ours."""

from recurra.interop.family import Family
from recurra.interop.llama import LLAMA, MISTRAL, QWEN2
from recurra.interop.mamba import MAMBA
from recurra.interop.rwkv import RWKV
from recurra.interop.xlstm import XLSTM

__all__ = ["FAMILIES"]

# In the order in which an export tries them.
FAMILIES: dict[str, Family] = {row.model_type: row for row in (MAMBA, RWKV, XLSTM, LLAMA, QWEN2, MISTRAL)}
