"""An accelerated model beside its twin, which is not: the same numbers, the same files, and back again."""

import copy
import gc
import io

import pytest
import torch
from torch import nn

import recurra
from interop.twins import MODELS, build
from recurra.interop.accelerated import steps
from recurra.ops import native

FAMILIES = ["mamba", "rwkv", "xlstm"]


@pytest.fixture(params=MODELS)
def name(request):
    return request.param


@pytest.fixture
def twins(name):
    """The model, accelerated, and another that is not."""
    model = build(name)
    twin = copy.deepcopy(model)
    recurra.accelerate(model)
    return model, twin


def twins_of(name):
    model = build(name)
    return model, copy.deepcopy(model)


def tokens(*shape):
    return torch.randint(3, 40, shape, generator=torch.Generator().manual_seed(1))


def same(got, want, tolerance=2e-5):
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


def alone(call, x):
    """Of each row by itself: transformers' RWKV mixes the rows of a batch where it is given one token."""
    return torch.cat([call(row[None]) for row in x])


def gradients(model, x):
    """Of the loss by every weight."""
    model.train()
    model.zero_grad()
    loss = model(x, labels=x, use_cache=False).loss
    loss.backward()
    return loss, {name: p.grad.clone() for name, p in model.named_parameters()}


def same_gradients(got, want):
    most = max(g.abs().max() for g in want.values())
    for name, g in want.items():
        torch.testing.assert_close(got[name], g, rtol=1e-4, atol=float(3e-6 * most), msg=name)


def write(model, x, **more):
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "pad_token_id": 0, **more}
    return model.generate(x, **options)


@torch.no_grad()
def test_logits(twins):
    model, twin = twins
    for time in (1, 2, 37, 64):
        x = tokens(2, time)
        same(model(x).logits, alone(lambda row: twin(row).logits, x))
        same(model(x, use_cache=False).logits, twin(x, use_cache=False).logits)


@torch.no_grad()
def test_hidden_states(twins):
    got, want = (m(tokens(2, 9), output_hidden_states=True).hidden_states for m in twins)
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        same(one, other)


def test_gradients_of_all_weights(twins):
    x = tokens(2, 64)  # the authors' kernels take whole chunks
    (loss, got), (known, want) = (gradients(model, x) for model in twins)
    same(loss, known)
    same_gradients(got, want)


def test_training_steps(twins):
    x, weights = tokens(2, 64), []
    for model in twins:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(2):
            gradients(model, x)
            optimizer.step()
        weights.append([p.detach() for p in model.parameters()])
    for got, want in zip(*weights, strict=True):
        same(got, want)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")
def test_checkpointed_gradients(name):
    model, twin = twins_of(name)
    recurra.accelerate(model)
    model.gradient_checkpointing_enable()
    x = tokens(2, 64)
    same_gradients(gradients(model, x)[1], gradients(twin, x)[1])


@pytest.mark.parametrize("rows", [1, 3])
def test_generate(twins, rows):
    model, twin = twins
    x = tokens(rows, 7)
    want = alone(lambda row: write(twin, row), x)
    assert write(model, x).equal(want)
    assert write(model, x[:, :1]).equal(alone(lambda row: write(twin, row[:, :1]), x))
    assert write(model, x, use_cache=False).equal(want)
    with torch.inference_mode():
        assert write(model, x).equal(want)


def test_generate_behind_padding():
    model, twin = twins_of("mamba")
    x = tokens(3, 9)
    mask = (torch.arange(9) >= torch.tensor([[0], [4], [8]])).long()
    want = write(twin, x, attention_mask=mask)
    with recurra.accelerate(model):
        assert write(model, x, attention_mask=mask).equal(want)
        same(model(x, attention_mask=mask).logits, twin(x, attention_mask=mask).logits)
    assert write(model, x[1:2, 4:]).equal(want[1:2, 4:])


def test_beam_search():
    """It gives the cache new tensors at every token."""
    model, twin = twins_of("mamba")
    with recurra.accelerate(model):
        assert write(model, tokens(2, 5), num_beams=3).equal(write(twin, tokens(2, 5), num_beams=3))


def cache_of(out):
    """What goes on, by its name."""
    key = "state" if "state" in out else "cache_params"
    return {key: out[key]}


@torch.no_grad()
def test_a_cache_goes_from_one_to_the_other(twins):
    """Steps are one call of the kernels, but what they leave is the cache that it was."""
    model, twin = twins
    x = tokens(1, 16)
    want = twin(x[:, :4], use_cache=True)
    got = model(x[:, :4], use_cache=True)
    for t in range(4, 16):
        one, other = (model, twin) if t % 6 < 3 else (twin, model)
        got = one(x[:, t : t + 1], use_cache=True, **cache_of(got))
        want = other(x[:, t : t + 1], use_cache=True, **cache_of(want))
        same(got.logits, want.logits)
    got, want = (m(x[:, :3], use_cache=True, **cache_of(c)) for m, c in ((model, got), (twin, want)))
    same(got.logits, want.logits)


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES, indirect=True)
def test_copies_of_a_cache_go_their_own_ways(twins):
    x, outs = tokens(1, 9), []
    for model in twins:
        out = model(x[:, :4], use_cache=True)
        out = model(x[:, 4:5], use_cache=True, **cache_of(out))
        other = copy.deepcopy(cache_of(out))
        for t in (5, 6):
            out = model(x[:, t : t + 1], use_cache=True, **cache_of(out))
        outs.append((out.logits, model(x[:, 7:8], use_cache=True, **other).logits))
    for got, want in zip(*outs, strict=True):
        same(got, want)


def recorded(model):
    """The steps of all its blocks that are recorded now."""
    memories = [a for m in model.modules() for a in getattr(vars(m).get("forward"), "args", ())]
    known = [s for a in memories if isinstance(a, steps.Recordings) for _, s in a._known.values()]
    return [s for s in known if s is not None and s._tape is not None]


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES, indirect=True)
def test_steps_are_recorded_for_each_cache_and_forgotten_with_it(twins):
    x = tokens(2, 8)
    texts = [(m, m(row, use_cache=True)) for row in (x[:1], x[1:]) for m in twins]
    for t in range(3):
        texts = [(m, m(x[:1, t : t + 1], use_cache=True, **cache_of(out))) for m, out in texts]
        for (_, got), (_, want) in zip(texts[::2], texts[1::2], strict=True):
            same(got.logits, want.logits)
    assert len(recorded(twins[0])) == (4 if native.available() else 0)
    del texts, got, want
    gc.collect()
    assert not recorded(twins[0])


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES, indirect=True)
def test_weights_that_change_are_seen(twins):
    x, outs = tokens(1, 8), []
    for model in twins:
        out = model(x[:, :4], use_cache=True)
        for t in range(4, 8):
            out = model(x[:, t : t + 1], use_cache=True, **cache_of(out))
            for p in model.parameters():
                if t % 2:
                    p.mul_(1.01)
                else:
                    p.data = 1.01 * p
        outs.append(out.logits)
    same(*outs)


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES, indirect=True)
def test_written_states_with_gradients_on(twins):
    """Where somebody watches, the model's own code takes the step."""
    x = tokens(1, 6)
    outs = [m(x[:, :4], use_cache=True) for m in twins]
    with torch.enable_grad():
        outs = [m(x[:, 4:5], use_cache=True, **cache_of(o)) for m, o in zip(twins, outs, strict=True)]
    same(*(out.logits for out in outs))
    assert not recorded(twins[0])


def changed(model):
    return [m for m in model.modules() if "forward" in vars(m)]


@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_undone(name):
    model = build(name)
    before = [dict(vars(m)) for m in model.modules()]
    done = recurra.accelerate(model)
    assert len(changed(model)) > 10
    with pytest.raises(KeyError, match="True"), done as given:
        raise KeyError(given is model)
    assert [dict(vars(m)) for m in model.modules()] == before
    recurra.accelerate(model)
    all_of_it = len(changed(model))
    with recurra.accelerate(model):
        assert len(changed(model)) == all_of_it
    assert len(changed(model)) == all_of_it
    recurra.decelerate(model)
    recurra.decelerate(model)
    assert [dict(vars(m)) for m in model.modules()] == before


def test_what_others_replaced_is_left_to_them():
    model = build("mamba")
    head = model.lm_head
    head.forward = mine = lambda x: 2 * nn.functional.linear(x, head.weight)
    recurra.accelerate(model)
    assert head.forward is mine
    recurra.decelerate(model)
    assert changed(model) == [head]


def test_other_models_of_the_class_stay_as_they_are():
    model, twin = twins_of("mamba")
    recurra.accelerate(model)
    assert not changed(twin)


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES, indirect=True)
def test_copies_are_accelerated_and_have_weights_of_their_own(twins):
    model, twin = twins
    x = tokens(2, 5)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (copy.deepcopy(model), torch.load(file, weights_only=False)):
        assert len(changed(other)) == len(changed(model))
        assert write(other, x).equal(alone(lambda row: write(twin, row), x))
        for p in other.parameters():
            p.zero_()
        assert other(x).logits.abs().max() == 0
        same(model(x).logits, twin(x).logits)


@pytest.mark.parametrize("name", FAMILIES, indirect=True)
def test_files_are_the_same(twins, tmp_path):
    for folder, model in zip("ab", twins, strict=True):
        model.save_pretrained(tmp_path / folder)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "b").iterdir())
    for file in names:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    again = type(twins[0]).from_pretrained(tmp_path / "a").eval()
    recurra.accelerate(again)
    same(again(tokens(1, 9)).logits, twins[1](tokens(1, 9)).logits)


@torch.no_grad()
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", FAMILIES, indirect=True)
def test_half_precision_is_no_worse(twins, autocast):
    """Against the same model in fp32."""
    x, model, twin = tokens(1, 64), *twins
    if not autocast:
        model, twin = model.bfloat16(), twin.bfloat16()
    exact = copy.deepcopy(twin).float()(x).logits
    errors = []
    for m in (model, twin):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = m(x[:, :60], use_cache=True)
            logits = [out.logits]
            for t in range(60, 64):
                out = m(x[:, t : t + 1], use_cache=True, **cache_of(out))
                logits.append(out.logits)
        errors.append((torch.cat(logits, 1) - exact).square().mean().sqrt())
    assert errors[0] <= 1.5 * errors[1]


@pytest.mark.parametrize("name", FAMILIES[:2], indirect=True)  # xLSTM's own code can't train in bf16
def test_half_precision_gradients(twins):
    x = tokens(2, 64)
    want = gradients(copy.deepcopy(twins[1]).bfloat16().float(), x)[1]
    got, known = (gradients(m.bfloat16(), x)[1] for m in twins)
    for one, other, exact in zip(got.values(), known.values(), want.values(), strict=True):
        assert one.dtype == other.dtype
        assert (one - exact).norm() <= 1.5 * (other - exact).norm() + 0.02 * exact.norm()


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES, indirect=True)
def test_compiled(twins):
    model, twin = twins
    x = tokens(2, 12)
    compiled = torch.compile(model, backend="aot_eager")
    same(compiled(x, use_cache=False).logits, twin(x, use_cache=False).logits)
    torch.compiler.reset()


@pytest.mark.parametrize("name", FAMILIES)
def test_hooks_inside_a_block_are_called(name):
    model, twin = twins_of(name)
    recurra.accelerate(model)
    counts = []
    for m in (model, twin):
        calls = []
        for part in m.modules():
            if isinstance(part, nn.Linear):
                part.register_forward_hook(lambda *_, calls=calls: calls.append(0))
        write(m, tokens(1, 4))
        counts.append(len(calls))
    assert counts[0] == counts[1] > 0


class Adapter(nn.Module):
    """What an adapter puts in the place of a linear map."""

    def __init__(self, base):
        super().__init__()
        self.base, self.more = base, nn.Linear(base.in_features, base.out_features, bias=False)

    @property
    def weight(self):
        return self.base.weight

    def forward(self, x):
        return self.base(x) + self.more(x)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("first", [False, True])
def test_adapters(name, first):
    model, twin = twins_of(name)
    if first:
        recurra.accelerate(model)
    for m in (model, twin):
        torch.manual_seed(3)
        for parent in list(m.modules()):
            for at, child in list(parent.named_children()):
                if type(child) is nn.Linear and at in {
                    "in_proj",
                    "out_proj",
                    "key",
                    "output",
                    "q",
                    "proj_down",
                }:
                    setattr(parent, at, Adapter(child))
    if not first:
        recurra.accelerate(model)
    assert write(model, tokens(1, 4)).equal(write(twin, tokens(1, 4)))
    x = tokens(2, 64)
    same_gradients(gradients(model, x)[1], gradients(twin, x)[1])


class Wrapped(nn.Module):
    """As wrappers for training in parallel are."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x).logits


@pytest.mark.parametrize("name", FAMILIES)
def test_wrappers(name):
    model, twin = twins_of(name)
    with recurra.accelerate(Wrapped(model)) as wrapped:
        same(wrapped(tokens(1, 5)), twin(tokens(1, 5)).logits)
        assert len(changed(model)) > 10
    assert not changed(model)


class Own(torch.Tensor):
    """A tensor of another kind, as quantised ones are."""


@torch.no_grad()
def test_tensors_of_another_kind_take_the_models_own_code(monkeypatch):
    model = build("mamba")
    recurra.accelerate(model)
    for layer in model.backbone.layers:
        layer.mixer.A_log = nn.Parameter(layer.mixer.A_log.detach().as_subclass(Own))
    called = []
    forward = type(layer.mixer).forward
    monkeypatch.setattr(type(layer.mixer), "forward", lambda *a, **k: called.append(0) or forward(*a, **k))
    out = model(tokens(1, 5))
    assert len(called) == 2
    model(tokens(1, 1), **cache_of(out))
    assert len(called) == 4


def test_unknown_models_are_named():
    with pytest.raises(TypeError, match=r"Mamba \(as in MambaForCausalLM\).*got Linear"):
        recurra.accelerate(nn.Linear(2, 2))


def test_other_versions_are_named(monkeypatch):
    model = build("mamba")
    kind = type(model.backbone.layers[0].mixer)
    monkeypatch.setattr(kind, "forward", lambda self, hidden_states, cache_position=None: hidden_states)
    with pytest.raises(TypeError, match=r"MambaMixer.forward takes self, hidden_states, cache_position"):
        recurra.accelerate(model)
    assert not changed(model)
