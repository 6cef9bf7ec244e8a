"""What one can do with a state, and what a file of one survives."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from recurra import state
from recurra.state import KINDS, ConvState, LinearState, ShiftState

STATES: dict[str, Any] = {
    "linear": LinearState(torch.randn(3, 4)),
    "several axes": LinearState(torch.randn(3, 4, 2, dtype=torch.float64)),
    "conv": ConvState(torch.randn(3, 2, 4)),
    "shift": ShiftState(torch.randn(3, 4).bfloat16()),
    "tensor": torch.randn(3, 4),
    "pair": (torch.randn(3, 4), torch.randn(3, 4)),
    "model": [
        (ConvState(torch.randn(3, 2, 4)), LinearState(torch.randn(3, 4))),
        LinearState(torch.randn(3, 6)),
    ],
    "nothing": [],
    "complex": LinearState(torch.randn(3, 4, dtype=torch.complex64)),
    "complex fp64": (LinearState(torch.randn(3, 4, dtype=torch.complex128)), torch.arange(3)),
    "lazy": (torch.randn(3, 4, dtype=torch.complex64).conj(), torch.randn(3, 1).expand(3, 4)),
    "transposed": LinearState(torch.randn(4, 3).t()),
    "no rows": LinearState(torch.randn(0, 4)),
    "with gradient": LinearState(torch.randn(3, 4, requires_grad=True)),
}
STATES["shared"] = (STATES["tensor"], STATES["tensor"])
every = pytest.mark.parametrize("name", list(STATES))


def _leaves(tree: Any) -> list[Tensor]:
    return [tree] if isinstance(tree, Tensor) else [leaf for part in tree for leaf in _leaves(part)]


def _shape(tree: Any) -> Any:
    return Tensor if isinstance(tree, Tensor) else (type(tree), [_shape(part) for part in tree])


def _same(got: Any, want: Any) -> None:
    assert _shape(got) == _shape(want)
    for one, other in zip(_leaves(got), _leaves(want), strict=True):
        assert one.dtype == other.dtype
        assert one.equal(other)


# ----------------------------------------------------------------------------------------------
# Files.


@every
def test_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a state.safetensors"
    state.save(STATES[name], path)
    _same(state.load(path), STATES[name])
    _same(state.load(str(path), "cpu"), STATES[name])
    assert list(tmp_path.iterdir()) == [path]
    assert not any(leaf.requires_grad for leaf in _leaves(state.load(path)))


def test_load_goes_to_a_device(tmp_path: Path) -> None:
    state.save(STATES["linear"], tmp_path / "s")
    assert state.load(tmp_path / "s", torch.device("cpu")).h.device.type == "cpu"


def test_every_kind_can_be_saved(tmp_path: Path) -> None:
    """A new kind of state belongs into KINDS."""
    kinds = [kind for kind in vars(state).values() if isinstance(kind, type) and hasattr(kind, "_fields")]
    assert sorted(kind.__name__ for kind in kinds) == sorted(KINDS)
    for kind in kinds:
        whole = kind(*(torch.randn(2, 3) for _ in kind._fields))
        state.save(whole, tmp_path / "s")
        _same(state.load(tmp_path / "s"), whole)


def test_what_is_no_state_is_not_saved(tmp_path: Path) -> None:
    for wrong in ({"h": torch.zeros(1)}, None, 3, LinearState(None), torch.nn.Linear(1, 1)):
        with pytest.raises(TypeError, match="can't be saved; known are LinearState"):
            state.save(wrong, tmp_path / "s")
    assert not list(tmp_path.iterdir())


def test_a_failing_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s"
    state.save(STATES["linear"], path)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    for stage in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os if stage == "fsync" else Path, stage, killed)
            with pytest.raises(KeyboardInterrupt):
                state.save(STATES["model"], path)
        _same(state.load(path), STATES["linear"])
        assert list(tmp_path.iterdir()) == [path]


def _file(path: Path, tree: Any, **tensors: Tensor) -> Path:
    save_file(tensors, path, metadata=None if tree is None else {"recurra_state": tree})
    return path


FOREIGN = {
    "no metadata": None,
    "no json": "{",
    "unknown kind": json.dumps({"kind": "Unknown", "parts": [0]}),
    "no kind": json.dumps({"parts": [0]}),
    "no parts": json.dumps({"kind": "LinearState"}),
    "too many parts": json.dumps({"kind": "LinearState", "parts": [0, 1]}),
    "missing tensor": json.dumps({"kind": "LinearState", "parts": [7]}),
    "tensor twice": json.dumps({"kind": "tuple", "parts": [0, 0]}),
    "one too many": json.dumps({"kind": "LinearState", "parts": [0]}),
    "no tree": json.dumps("LinearState"),
    "truth": json.dumps(True),
    "real": json.dumps({"kind": "tuple", "parts": [{"kind": "complex", "parts": [0]}, 1]}),
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("case", list(FOREIGN))
def test_foreign_files(case: str, tmp_path: Path) -> None:
    path = _file(tmp_path / "s", FOREIGN[case], **{"0": torch.zeros(2, 3), "1": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match=re.escape(f"{path} is not a recurra state file")):
        state.load(path)


@pytest.mark.parametrize("size", [0, 3, 20, 150, -1])
def test_a_torn_file(size: int, tmp_path: Path) -> None:
    path = tmp_path / "s"
    state.save(STATES["model"], path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ValueError, match=re.escape(f"{path} is not a recurra state file")):
        state.load(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        state.load(tmp_path / "s")
    with pytest.raises(FileNotFoundError):
        state.save(STATES["linear"], tmp_path / "folder" / "s")


# ----------------------------------------------------------------------------------------------
# Rows, devices, graphs.


@every
def test_detach_and_to(name: str) -> None:
    whole = STATES[name]
    _same(state.detach(whole), whole)
    assert not any(leaf.requires_grad for leaf in _leaves(state.detach(whole)))
    _same(state.to(whole), whole)
    moved = state.to(whole, "meta", torch.float64)
    assert _shape(moved) == _shape(whole)
    for one, other in zip(_leaves(moved), _leaves(whole), strict=True):
        wide = torch.complex128 if other.is_complex() else torch.float64
        assert one.device.type == "meta"
        assert one.dtype == (other.dtype if other.dtype == torch.int64 else wide)


@every
def test_rows(name: str) -> None:
    whole = STATES[name]
    if name in ("nothing", "no rows"):
        _same(state.select(whole, []), whole)
        return
    parts = [state.select(whole, [i]) for i in range(3)]
    _same(state.concatenate(parts), whole)
    chosen = state.concatenate([parts[2], parts[0], parts[0]])
    for rows in ([2, 0, 0], (2, 0, 0), torch.tensor([2, 0, 0]), torch.tensor([2, 0, 0], dtype=torch.int32)):
        _same(state.select(whole, rows), chosen)
    for rows in ([True, False, True], torch.tensor([True, False, True]), slice(None, None, 2)):
        _same(state.select(whole, rows), state.concatenate([parts[0], parts[2]]))
    _same(state.select(whole, slice(None, None, -1)), state.concatenate(parts[::-1]))
    _same(state.concatenate([whole, state.select(whole, []), state.select(whole, slice(0, 0))]), whole)


def test_rows_of_torchs_layout() -> None:
    h_n, c_n = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    _same(state.select((h_n, c_n), [2, 1], dim=1), (h_n[:, [2, 1]], c_n[:, [2, 1]]))
    _same(
        state.concatenate([(h_n, c_n), (c_n, h_n)], dim=1),
        (torch.cat([h_n, c_n], 1), torch.cat([c_n, h_n], 1)),
    )


def test_rows_that_are_not_there() -> None:
    for rows in ([3], [-1], torch.tensor([0, 3]), [True, False], torch.ones(4, dtype=torch.bool)):
        with pytest.raises(IndexError):
            state.select(STATES["linear"], rows)
    for rows in ([0.5], torch.tensor([1.0])):
        with pytest.raises(TypeError, match="rows must be integers, a mask or a slice"):
            state.select(STATES["linear"], rows)


def test_states_that_do_not_fit() -> None:
    h = torch.zeros(3, 4)
    for states in (
        [LinearState(h), (h,)],
        [(h, h), (h,)],
        [h, LinearState(h)],
        [LinearState(h), ShiftState(h)],
    ):
        with pytest.raises(ValueError, match="states differ in structure"):
            state.concatenate(states)
    with pytest.raises(ValueError, match="states must hold at least one state"):
        state.concatenate([])
    with pytest.raises(TypeError, match="state must be made of tensors, tuples and lists, got dict"):
        state.detach({"h": h})


def test_gradients_flow_through_rows() -> None:
    h = torch.randn(3, 4, requires_grad=True)
    whole = state.concatenate(
        [state.select(LinearState(h), [1]), state.to(LinearState(h), dtype=torch.float64)]
    )
    whole.h.sum().backward()
    assert h.grad is not None
    assert h.grad.tolist() == [[1.0] * 4, [2.0] * 4, [1.0] * 4]
