"""Tiny models of transformers with values that are nobody's default; one row a model type."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import LlamaConfig, MambaConfig, MistralConfig, Qwen2Config, RwkvConfig, xLSTMConfig
from transformers.models.llama.modeling_llama import LlamaForCausalLM
from transformers.models.mamba.modeling_mamba import MambaForCausalLM
from transformers.models.mistral.modeling_mistral import MistralForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2ForCausalLM
from transformers.models.rwkv.modeling_rwkv import RwkvForCausalLM

with warnings.catch_warnings():
    # Of what the authors' package imports.
    warnings.simplefilter("ignore")
    from transformers.models.xlstm.modeling_xlstm import xLSTMForCausalLM

VOCABULARY, BATCH, TIME = 23, 2, 9


class Peer(NamedTuple):
    """A class of transformers, its config's, and what stands in that beside the sizes."""

    model: Callable[[Any], Any]
    config: Callable[..., Any]
    values: dict[str, Any]

    def made(self) -> Any:
        """The model, with parameters drawn so that every one of them counts."""
        model = self.model(self.config(vocab_size=VOCABULARY, **self.values)).eval()
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p), alpha=0.3)
        return model

    def saved(self, folder: Path) -> Any:
        model = self.made()
        model.save_pretrained(folder)
        return model


_MAMBA = {"hidden_size": 20, "num_hidden_layers": 2, "layer_norm_epsilon": 0.02}
_RWKV = {"hidden_size": 15, "layer_norm_epsilon": 0.03}
_XLSTM = {"hidden_size": 24, "num_hidden_layers": 2, "num_heads": 2, "embedding_dim": 24, "num_blocks": 2}
_LLAMA = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 6, "intermediate_size": 29}
_NORM = {"rms_norm_eps": 0.02, "rope_parameters": {"rope_type": "default", "rope_theta": 77.0}}
PEERS = {
    "mamba": Peer(MambaForCausalLM, MambaConfig, _MAMBA),
    "mamba odd": Peer(
        MambaForCausalLM,
        MambaConfig,
        {
            **_MAMBA,
            "state_size": 5,
            "conv_kernel": 3,
            "expand": 3,
            "time_step_rank": 7,
            "use_bias": True,
            "tie_word_embeddings": False,
        },
    ),
    "rwkv": Peer(RwkvForCausalLM, RwkvConfig, {**_RWKV, "num_hidden_layers": 2}),
    "rwkv odd": Peer(
        RwkvForCausalLM,
        RwkvConfig,
        {
            **_RWKV,
            "num_hidden_layers": 5,
            "intermediate_size": 31,
            "rescale_every": 2,
            "tie_word_embeddings": True,
        },
    ),
    "xlstm": Peer(xLSTMForCausalLM, xLSTMConfig, {**_XLSTM, "norm_eps": 0.02}),
    "xlstm odd": Peer(
        xLSTMForCausalLM,
        xLSTMConfig,
        {
            **_XLSTM,
            "num_heads": 3,
            "qk_dim_factor": 0.75,
            "ffn_proj_factor": 3.0,
            "ffn_round_up_to_multiple_of": 11,
            "gate_soft_cap": 1.5,
            "output_logit_soft_cap": 2.5,
            "chunk_size": 4,
        },
    ),
    "llama": Peer(LlamaForCausalLM, LlamaConfig, {**_LLAMA, **_NORM}),
    "llama odd": Peer(
        LlamaForCausalLM,
        LlamaConfig,
        {
            **_LLAMA,
            **_NORM,
            "num_key_value_heads": 2,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
        },
    ),
    "mistral": Peer(
        MistralForCausalLM,
        MistralConfig,
        {**_LLAMA, **_NORM, "num_key_value_heads": 3, "sliding_window": None},
    ),
    "mistral odd": Peer(
        MistralForCausalLM,
        MistralConfig,
        {**_LLAMA, **_NORM, "num_key_value_heads": 3, "sliding_window": 4, "head_dim": 10},
    ),
    "qwen2": Peer(Qwen2ForCausalLM, Qwen2Config, {**_LLAMA, **_NORM, "num_key_value_heads": 1}),
}


def tokens(time: int = TIME) -> torch.Tensor:
    return torch.randint(VOCABULARY, (BATCH, time))


@torch.no_grad()
def logits(model: Any, x: torch.Tensor) -> torch.Tensor:
    """Of a model of transformers."""
    out: torch.Tensor = model(x, use_cache=False).logits
    return out
