"""`recurra generate`: write with a trained model."""

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from recurra import state as states
from recurra.models import SequenceModel, SequenceToSequence, load, quantize
from recurra.models.quantize import WEIGHTS
from recurra.models.text import pieces
from recurra.models.vocabulary import Vocabulary
from recurra.tasks.text import Text
from recurra.train import checkpoint

STATE = "FILE.safetensors"
Weights = Annotated[str, typer.Option(help=f"Numbers of its matrices: {', '.join(WEIGHTS)}.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, or of a saved model.")]


def opened(run: Path) -> SequenceModel | SequenceToSequence:
    """The best model of a run, or the model that the folder itself holds."""
    if not run.is_dir():
        raise FileNotFoundError(f"{run} is no folder: RUN is what recurra train made by --out")
    return load(run if (run / "config.json").exists() else checkpoint.best(run))


def opened_writer(run: Path) -> SequenceModel:
    """The same. Raises ValueError where it is an encoder and a decoder."""
    model = opened(run)
    if isinstance(model, SequenceToSequence):
        raise ValueError(f"{run} answers to a source, it does not go on from a text")
    return model


def writer(run: Path) -> tuple[SequenceModel, Vocabulary]:
    model = opened_writer(run)
    if model.vocabulary is None:
        raise ValueError(f"{run} holds no vocabulary: its model was not trained to write text")
    return model, model.vocabulary


def text_of(run: Path) -> Text:
    """What a run was trained on. Raises ValueError where that was no text, or where it is a model alone."""
    if not (run / "text").is_dir():
        raise ValueError(f"{run} holds no text: name one behind it")
    return Text.load(run / "text")


def generate(  # noqa: PLR0913, PLR0917 - a person's options, each by its name
    run: Run,
    prompt: Annotated[str, typer.Option(help="Text to go on from.")] = "\n",
    tokens: Annotated[int, typer.Option(min=0, help="Tokens to write.")] = 500,
    temperature: Annotated[float, typer.Option(min=0, help="Higher: bolder; 0: the likeliest token.")] = 0.8,
    top_k: Annotated[int, typer.Option(min=0, help="Draw from the k likeliest; 0: from all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest that have this share.")] = 1.0,
    repetition_penalty: Annotated[float, typer.Option(help="Above 1: what is there comes less often.")] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Of the draw; default: another each time.")] = None,
    weights: Weights = "fp32",
    stop: Annotated[list[str] | None, typer.Option(help="Text to end before; repeatable.")] = None,
    state_in: Annotated[Path | None, typer.Option(metavar=STATE, help="Go on from this state.")] = None,
    state_out: Annotated[Path | None, typer.Option(metavar=STATE, help="Keep the last state.")] = None,
) -> None:
    """Write text. What --state-out keeps stands for all that was read; --state-in goes on from there."""
    if not prompt:
        raise typer.BadParameter("--prompt must hold at least one character")
    model, vocabulary = writer(run)
    quantize(model, weights)
    stream = model.generate(
        vocabulary.encode(prompt),
        tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        state=_state(state_in, model) if state_in else None,
    )
    started, count = time.perf_counter(), 0
    print(prompt, end="", flush=True)
    for text in pieces(stream, vocabulary, stop or ()):
        print(text[0], end="", flush=True)
        count += 1
    seconds = time.perf_counter() - started
    print(flush=True)
    print(f"{min(count, tokens)} tokens, {min(count, tokens) / seconds:,.0f} tokens/s", file=sys.stderr)
    if state_out:
        states.save(stream.state, state_out)


def _state(path: Path, model: SequenceModel) -> Any:
    """A saved state, which must be one of this model."""
    state = states.load(path)
    with torch.no_grad():
        own = model.step(torch.zeros(1, dtype=torch.int64))[1]
    if _shape(state) != _shape(own):
        raise ValueError(f"{path} is the state of another model")
    return state


def _shape(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return tuple(state.shape)
    return type(state).__name__, [_shape(part) for part in state]
