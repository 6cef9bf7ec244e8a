"""The Transformer block beside Llama and Mistral of transformers, and what only a growing state can break."""

import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, MistralConfig
from transformers.models.llama.modeling_llama import LlamaModel
from transformers.models.mistral.modeling_mistral import MistralModel

from recurra import state
from recurra.blocks import TransformerBlock, TransformerConfig
from tools import close, same_state

ops: Any = sys.modules["recurra.ops.attention"]  # the package's name of it is the function
WIDTH, HEADS, TIME = 16, 2, 21
SIZES = {"vocab_size": 1, "hidden_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": HEADS}
REST = {"num_key_value_heads": HEADS, "rms_norm_eps": 1e-6, "attn_implementation": "eager"}


def _block(window: int = 0) -> TransformerBlock:
    return TransformerBlock(TransformerConfig(WIDTH, heads=HEADS, window=window))


def _halves(weight: Tensor) -> Tensor:
    """Rows of queries or keys in Llama's order: a rotary pair lies half a head apart."""
    channels = WIDTH // HEADS
    return weight.unflatten(0, (HEADS, channels // 2, 2)).transpose(1, 2).flatten(0, 2)


def _peer(block: TransformerBlock) -> Any:
    """The layer of another house with the same weights."""
    assert block.mlp is not None
    sizes = {**SIZES, **REST, "intermediate_size": block.config.hidden}
    if block.config.window:
        model: Any = MistralModel(MistralConfig(**sizes, sliding_window=block.config.window))
    else:
        model = LlamaModel(LlamaConfig(**sizes))
    q, k, v = block.qkv.weight.detach().chunk(3)
    gate, up = block.mlp.up.weight.detach().chunk(2)
    weights = {
        "self_attn.q_proj": _halves(q),
        "self_attn.k_proj": _halves(k),
        "self_attn.v_proj": v,
        "self_attn.o_proj": block.out.weight,
        "mlp.gate_proj": gate,
        "mlp.up_proj": up,
        "mlp.down_proj": block.mlp.down.weight,
        "input_layernorm": block.norm.weight,
        "post_attention_layernorm": block.mlp_norm.weight,
    }
    model.layers[0].load_state_dict({f"{name}.weight": w.detach().clone() for name, w in weights.items()})
    model.norm = torch.nn.Identity()
    return model


windows = pytest.mark.parametrize("window", [0, 5], ids=["llama", "mistral"])


@windows
def test_outputs_and_gradients(window: int) -> None:
    block, x, weight = _block(window), torch.randn(2, TIME, WIDTH), torch.randn(2, TIME, WIDTH)
    torch.nn.init.uniform_(block.norm.weight, 0.5, 2)
    peer, mine, other = _peer(block), x.clone().requires_grad_(), x.clone().requires_grad_()
    y, want = block(mine)[0], peer(inputs_embeds=other).last_hidden_state
    close(y, want)
    (y * weight).sum().backward()
    (want * weight).sum().backward()
    close(mine.grad, other.grad)
    layer = peer.layers[0]
    parts = [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]
    q, k, v = (part.weight.grad for part in parts)
    mine_q, mine_k, mine_v = block.qkv.weight.grad.chunk(3)
    for got, expected in ((_halves(mine_q), q), (_halves(mine_k), k), (mine_v, v)):
        close(got, expected)
    close(block.mlp.down.weight.grad, layer.mlp.down_proj.weight.grad)
    close(block.norm.weight.grad, layer.input_layernorm.weight.grad)


@windows
def test_generation_from_a_cache(window: int) -> None:
    block, x = _block(window), torch.randn(2, TIME, WIDTH)
    peer = _peer(block)
    with torch.no_grad():
        theirs = peer(inputs_embeds=x[:, :4], use_cache=True)
        y, now = block(x[:, :4])
        close(y, theirs.last_hidden_state)
        for x_t in x[:, 4:].unbind(1):
            past = theirs.past_key_values
            theirs = peer(inputs_embeds=x_t[:, None], past_key_values=past, use_cache=True)
            y, now = block.step(x_t, now)
            close(y, theirs.last_hidden_state[:, 0])


@pytest.mark.parametrize("window", [0, 1, 2, 70])
def test_a_long_row_step_by_step(window: int) -> None:
    """Past the length from which new entries are put to the old ones, twice."""
    block, x = _block(window), torch.randn(2, 2 * ops.APART + 5, WIDTH)
    want, end = block(x)
    now, ys = None, []
    with torch.no_grad():
        for x_t in x.unbind(1):
            y, now = block.step(x_t, now)
            ys.append(y)
    close(torch.stack(ys, 1), want)
    same_state(now, end)
    held = now.keys.shape[2] + now.new_keys.shape[2]
    assert held == x.shape[1] if not window else held < window + ops.APART


@pytest.mark.parametrize("window", [0, 4])
def test_queries_are_masked_in_pieces(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    block, x = _block(window), torch.randn(3, TIME, WIDTH)
    reset, lengths = torch.rand(3, TIME) < 0.15, torch.tensor([TIME, 0, 13])
    _, begin = block(torch.randn(3, 6, WIDTH), None, torch.rand(3, 6) < 0.3)
    want, end = block(x, begin, reset, lengths)
    monkeypatch.setattr(ops, "QUERIES", 4)
    got, last = block(x, begin, reset, lengths)
    close(got, want)
    same_state(last, end)


def test_a_state_can_be_continued_twice() -> None:
    block, x = _block(), torch.randn(2, 9, WIDTH)
    with torch.no_grad():
        _, now = block(x)
        first = block.step(x[:, 0], now)[0]
        block.step(x[:, 1], now)
        assert block.step(x[:, 0], now)[0].equal(first)


def test_a_reset_frees_the_cache() -> None:
    block, x = _block(), torch.randn(2, 9, WIDTH)
    reset = torch.zeros(2, 9, dtype=torch.bool)
    reset[0, 7], reset[1, 4] = True, True
    _, end = block(x, block(x)[1], reset)
    assert end.keys.shape[2] == 5
    assert end.position.tolist() == [2, 5]


def test_heads_that_do_not_lie_side_by_side() -> None:
    qkv = torch.randn(2, TIME, 3, HEADS, 6)
    want, _ = ops.attention(qkv)
    wide = torch.cat([qkv, torch.randn(2, TIME, 3, HEADS, 1)], -1)[..., :6]
    for other in (wide, qkv.mT.contiguous().mT, qkv.transpose(0, 1).contiguous().transpose(0, 1)):
        close(ops.attention(other)[0], want)


def test_a_late_position_is_exact() -> None:
    """Scores depend on differences of positions: a row that began long ago sees what a fresh one sees."""
    block, x = _block(), torch.randn(1, 9, WIDTH)
    want, _ = block(x)
    empty = block(x[:, :0])[1]
    late = empty._replace(position=torch.tensor([10**9]))
    close(block(x, late)[0], want)


def test_rows_of_unequal_length_meet() -> None:
    block, x, y = _block(), torch.randn(1, 5, WIDTH), torch.randn(1, 9, WIDTH)
    apart = [block(x)[1], block(y)[1]]
    both = state.concatenate([(one, one) for one in apart])[1]
    x_t = torch.randn(1, WIDTH)
    want = torch.cat([block.step(x_t, one)[0] for one in apart])
    close(block.step(x_t.expand(2, -1), both)[0], want)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("width", {"width": 7}),
        ("heads", {"heads": 3}),
        ("window", {"window": -1}),
        ("mlp", {"mlp": -1.0}),
        ("inner", {"inner": -1}),
        ("inner", {"inner": 8, "mlp": 0.0}),
        ("kv_heads", {"heads": 4, "kv_heads": 3}),
        ("head", {"heads": 4, "head": 3}),
        ("head", {"head": 4}),
        ("eps", {"eps": float("inf")}),
        ("base", {"base": 1.0}),
        ("norm", {"norm": "batch"}),
        ("dropout", {"dropout": 1.0}),
    ],
)
def test_wrong_configs(field: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=field):
        TransformerConfig(**{"width": WIDTH, **wrong})


def test_a_wrong_state_is_named() -> None:
    block, x = _block(), torch.randn(2, 3, WIDTH)
    with pytest.raises(ValueError, match=r"state must be \[2, 2, steps, 8\], got \[1, 2, 3, 8\]"):
        block(x, block(x[:1])[1])
    kept = block(x)[1]
    with pytest.raises(ValueError, match=r"state must have as many values as keys, 3, got 2"):
        block.step(x[:, 0], kept._replace(values=kept.values[:, :, 1:]))
    with pytest.raises(ValueError, match=r"state.position must be \[2\]"):
        block.step(x[:, 0], block(x)[1]._replace(position=torch.zeros(1)))
