"""A saved model comes back as it was, or one error names the file; a killed save leaves old or new."""

import hashlib
import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

import recurra
from recurra.models import ByteVocabulary, CharVocabulary, SequenceModel, files
from recurra.models.files import CONFIG, WEIGHTS
from tools import mutated

VOCABULARY = CharVocabulary("abcdefghijklm")
TOKENS = torch.arange(13)[None]


def _model(**how: Any) -> SequenceModel:
    return recurra.language_model("mingru", 13, 4, 1, **how)


def _same(got: SequenceModel, want: SequenceModel) -> None:
    assert got.config == want.config
    mine, other = got.state_dict(), want.state_dict()
    assert list(mine) == list(other)
    assert all(mine[name].dtype == x.dtype and mine[name].equal(x) for name, x in other.items())
    assert got(TOKENS)[0].equal(want.eval()(TOKENS)[0])


@pytest.fixture(name="saved")
def _saved(tmp_path: Path) -> tuple[SequenceModel, Path]:
    model = _model(options={"dropout": 0.25})
    model.save_pretrained(tmp_path / "model", VOCABULARY)
    return model, tmp_path / "model"


# ----------------------------------------------------------------------------------------------
# Round trips.


@pytest.mark.parametrize("how", [{}, {"tied": True}, {"options": {"conv": 0, "mlp": 0.0, "norm": "layer"}}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_round_trip(how: dict[str, Any], dtype: torch.dtype, tmp_path: Path) -> None:
    model = _model(**how).to(dtype)
    model.save_pretrained(tmp_path / "a" / "b")
    assert sorted(path.name for path in (tmp_path / "a" / "b").iterdir()) == [CONFIG, WEIGHTS]
    again = SequenceModel.from_pretrained(str(tmp_path / "a" / "b"))
    _same(again, model)
    assert again.vocabulary is None
    assert not again.training
    assert all(p.requires_grad for p in again.parameters())
    again.loss(TOKENS, TOKENS)[0].backward()


def test_vocabulary_comes_along(saved: tuple[SequenceModel, Path], tmp_path: Path) -> None:
    model, folder = saved
    again = SequenceModel.from_pretrained(folder)
    assert again.vocabulary.to_bytes() == model.vocabulary.to_bytes() == VOCABULARY.to_bytes()
    again.save_pretrained(tmp_path / "copy")
    for path in folder.iterdir():
        assert (tmp_path / "copy" / path.name).read_bytes() == path.read_bytes()


def test_loading_draws_no_random_numbers(saved: tuple[SequenceModel, Path]) -> None:
    before = torch.get_rng_state()
    SequenceModel.from_pretrained(saved[1])
    assert torch.get_rng_state().equal(before)


def test_a_new_save_takes_the_place_of_the_old(saved: tuple[SequenceModel, Path]) -> None:
    other = _model(tied=True)
    other.save_pretrained(saved[1])
    again = SequenceModel.from_pretrained(saved[1])
    _same(again, other)
    # The vocabulary of the old model still lies there, and is not the new one's.
    assert again.vocabulary is None


def test_a_vocabulary_that_is_too_large(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vocabulary has 256 tokens, the model only 13"):
        _model().save_pretrained(tmp_path / "model", ByteVocabulary())
    assert not (tmp_path / "model").exists()


def test_the_config_says_what_is_there(saved: tuple[SequenceModel, Path]) -> None:
    model, folder = saved
    config = json.loads((folder / CONFIG).read_text())
    assert config["recurra"] == recurra.__version__
    assert config["sha256"][WEIGHTS] == hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    assert {**model.config, "recurra": ..., "sha256": ...}.keys() == config.keys()


# ----------------------------------------------------------------------------------------------
# Killed, full, read-only.


class Killed(BaseException):
    """As sudden as SIGKILL, seen from the files."""


def _stages() -> list[tuple[Any, str, int]]:
    """Before each write, each fsync and each renaming, the first to the last."""
    return [(files, "_synced", n) for n in range(3)] + [(Path, "replace", n) for n in range(3)]


@pytest.fixture(name="killed_save")
def _killed_save(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Save with a vocabulary of three, but for what the call of that number would do, and all behind it."""

    def save(model: SequenceModel, folder: Path, owner: Any, name: str, count: int) -> None:
        calls, real = 0, getattr(owner, name)

        def killing(*args: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls > count:
                raise Killed
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, killing)
            # A killed process cleans up nothing.
            patch.setattr(Path, "unlink", lambda *_, **__: None)
            with pytest.raises(Killed):
                model.save_pretrained(folder, CharVocabulary("xyz"))

    return save


@pytest.mark.parametrize(("owner", "name", "count"), _stages())
def test_killed_at_any_stage(
    owner: Any, name: str, count: int, saved: tuple[SequenceModel, Path], killed_save: Callable[..., None]
) -> None:
    (old, folder), new = saved, _model()
    killed_save(new, folder, owner, name, count)
    took_place = name == "replace" and count > 0
    again = SequenceModel.from_pretrained(folder)
    _same(again, new if took_place else old)
    assert again.vocabulary.size == (3 if took_place else 13)
    new.save_pretrained(folder, CharVocabulary("xyz"))
    _same(SequenceModel.from_pretrained(folder), new)
    assert not [path for path in folder.iterdir() if path.suffix == ".draft"]


@pytest.mark.parametrize(("owner", "name", "count"), [*_stages(), (Path, "replace", 3)])
def test_killed_twice(
    owner: Any, name: str, count: int, saved: tuple[SequenceModel, Path], killed_save: Callable[..., None]
) -> None:
    """What the first save left as drafts is the model until the second has taken place."""
    _, folder = saved
    first, second = _model(), _model()
    killed_save(first, folder, Path, "replace", 1)
    killed_save(second, folder, owner, name, count)
    _same(SequenceModel.from_pretrained(folder), second if (name, count) == ("replace", 3) else first)


def test_a_full_disk(saved: tuple[SequenceModel, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    old, folder = saved
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            _model().save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    _same(SequenceModel.from_pretrained(folder), old)


# ----------------------------------------------------------------------------------------------
# Damaged, foreign.


def _resum(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Edit the config and give it the sums that fit, as a person would who means it."""
    config = json.loads((folder / CONFIG).read_text())
    names = config.pop("sha256").keys() - {CONFIG}
    change(config)
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    sums[CONFIG] = files.own_sha256(config, sums)
    (folder / CONFIG).write_text(json.dumps({**config, "sha256": sums}))


EDITS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "unknown key": (lambda c: c.update(extra=1), "unknown key 'extra'"),
    "missing key": (lambda c: c.pop("norm"), "key 'norm' is missing"),
    "wrong type": (lambda c: c.update(width="4"), "key 'width' must be of type int, got '4'"),
    "truth is no number": (lambda c: c.update(vocabulary=True), "key 'vocabulary' must be of type int"),
    "norm": (lambda c: c.update(norm="batch"), "norm must be one of rms, layer"),
    "block key": (lambda c: c["blocks"][0].update(extra=1), "key 'blocks', 0: unknown key 'extra'"),
    "block": (lambda c: c["blocks"].append(3), "key 'blocks', 1: must be an object"),
    "block width": (lambda c: c["blocks"][0].update(width=5), "key 'width' must be 4, got 5"),
    "block value": (lambda c: c["blocks"][0].update(dropout=2.0), "dropout must lie in"),
    "no recurra": (lambda c: c.pop("recurra"), "key 'recurra' is missing"),
}


@pytest.mark.parametrize("case", list(EDITS))
def test_edited_configs(case: str, saved: tuple[SequenceModel, Path]) -> None:
    change, said = EDITS[case]
    _resum(saved[1], change)
    with pytest.raises(ValueError, match=re.escape(str(saved[1] / CONFIG)) + ".*" + re.escape(said)):
        SequenceModel.from_pretrained(saved[1])


def test_an_honest_edit_loads(saved: tuple[SequenceModel, Path]) -> None:
    _resum(saved[1], lambda config: config["blocks"][0].update(dropout=0.5))
    assert SequenceModel.from_pretrained(saved[1]).blocks[0].config.dropout == 0.5


def _without(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x for name, x in tensors.items() if name != "head.weight"}


WEIGHT_EDITS: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], str]] = {
    "missing": (_without, "head.weight must be (13, 4), got none"),
    "unknown": (lambda t: {**t, "extra": torch.zeros(1)}, "extra must be absent, got (1,)"),
    "shape": (lambda t: {**t, "head.weight": torch.zeros(4, 13)}, "head.weight must be (13, 4), got (4, 13)"),
    "one dtype": (lambda t: {**t, "head.weight": t["head.weight"].double()}, "of one dtype"),
    "integers": (lambda t: {name: x.int() for name, x in t.items()}, "floating point"),
}


@pytest.mark.parametrize("case", list(WEIGHT_EDITS))
def test_other_weights(case: str, saved: tuple[SequenceModel, Path]) -> None:
    change, said = WEIGHT_EDITS[case]
    path = saved[1] / WEIGHTS
    safetensors.torch.save_file(change(safetensors.torch.load_file(path)), path)
    _resum(saved[1], lambda _: None)
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*" + re.escape(said)):
        SequenceModel.from_pretrained(saved[1])


@pytest.mark.parametrize("content", [b"", b"\x00" * 40, b"not a model", b"\x80\x04pickle"])
def test_foreign_weights(content: bytes, saved: tuple[SequenceModel, Path]) -> None:
    path = saved[1] / WEIGHTS
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(f"{path} is damaged")):
        SequenceModel.from_pretrained(saved[1])
    _resum(saved[1], lambda _: None)
    with pytest.raises(ValueError, match=re.escape(f"{path} is not a safetensors file")):
        SequenceModel.from_pretrained(saved[1])


FOREIGN = [
    b"",
    b"[]",
    b"\xff",
    b"{}",
    b'{"recurra": "1"}',
    b'{"recurra": "1", "sha256": {}}',
    b'{"recurra": "1", "sha256": {"config.json": "", "model.safetensors": "", "../x": ""}}',
    b'{"recurra": "1", "recurra": "1", "sha256": 3}',
    b'{"model_type": "gpt2"}',
    b"[" * 100_000,
    b'{"a": NaN, "recurra": "1", "sha256": {"config.json": "", "model.safetensors": ""}}',
]


@pytest.mark.parametrize("content", FOREIGN, ids=range(len(FOREIGN)))
def test_foreign_configs(content: bytes, saved: tuple[SequenceModel, Path]) -> None:
    path = saved[1] / CONFIG
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        SequenceModel.from_pretrained(saved[1])


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS, "vocabulary.json"])
def test_a_missing_file(name: str, saved: tuple[SequenceModel, Path]) -> None:
    (saved[1] / name).unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(str(saved[1] / name))):
        SequenceModel.from_pretrained(saved[1])


def test_no_folder_and_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub  # noqa: PLC0415 - as late as the package itself does

    def offline(name: str, **_: Any) -> str:
        raise OSError(f"no route to {name}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(FileNotFoundError, match="nobody/nothing is no folder here, and the Hugging"):
        SequenceModel.from_pretrained("nobody/nothing")


def test_from_the_hub(saved: tuple[SequenceModel, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub  # noqa: PLC0415

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(saved[1]))
    _same(SequenceModel.from_pretrained("somebody/model"), saved[0])


class Hub:
    """What the mixin asks of HfApi, kept in folders; patterns are honoured as the hub's client does."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.created = folder, {}

    def create_repo(self, repo_id: str, **how: Any) -> Any:
        self.created[repo_id] = how
        return SimpleNamespace(repo_id=repo_id)

    def upload_folder(self, *, repo_id: str, folder_path: Path, allow_patterns: list[str], **_: Any) -> str:
        for path in Path(folder_path).iterdir():
            if any(path.match(pattern) for pattern in allow_patterns):
                place = self.folder / repo_id / path.name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(path.read_bytes())
        return f"https://hub/{repo_id}/commit/1"


def test_to_the_hub_and_back(
    saved: tuple[SequenceModel, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = saved
    hub, tokens = Hub(tmp_path / "hub"), []
    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", lambda token: tokens.append(token) or hub)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(hub.folder / name))
    commit = model.push_to_hub("somebody/model", private=True, token="secret")
    assert commit == "https://hub/somebody/model/commit/1"
    assert (tokens, hub.created["somebody/model"]["private"]) == (["secret"], True)
    sent = {path.name: path.read_bytes() for path in (hub.folder / "somebody/model").iterdir()}
    assert sent == {path.name: path.read_bytes() for path in folder.iterdir()}
    _same(SequenceModel.from_pretrained("somebody/model"), model)
    (hub.folder / "somebody/model" / WEIGHTS).write_bytes(b"another")
    with pytest.raises(ValueError, match="is damaged"):
        SequenceModel.from_pretrained("somebody/model")


def _loaded(folder: Path, changed: Path) -> SequenceModel | None:
    """The model, or None where the error names the file that was changed."""
    try:
        return SequenceModel.from_pretrained(folder)
    except ValueError as e:
        if str(changed) not in str(e):
            raise
    return None


@pytest.mark.parametrize("count", [100, pytest.param(4000, marks=pytest.mark.slow)])
def test_mutated_files(saved: tuple[SequenceModel, Path], count: int) -> None:
    model, folder = saved
    draw = random.Random(0)
    whole = {path: path.read_bytes() for path in sorted(folder.iterdir())}
    for _ in range(count):
        path = draw.choice(list(whole))
        path.write_bytes(mutated(whole[path], draw))
        again = _loaded(folder, path)
        if again is not None:
            _same(again, model)
            assert again.vocabulary.pieces == VOCABULARY.pieces
        path.write_bytes(whole[path])
