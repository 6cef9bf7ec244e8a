"""Every choice of a training run: one flat dataclass, which the command line and the YAML file mirror."""

import contextlib
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from recurra.blocks.stack import turn, whole_turns
from recurra.extras import need
from recurra.models.classic import CLASSIC
from recurra.tasks.table import TASKS, parse

__all__ = ["FIXED", "TrainConfig", "kind_of", "read", "write"]


def choice(default: Any, help: str, at_least: float | None = None, among: tuple[str, ...] = ()) -> Any:  # noqa: A002
    """One option: its default, its help, and what it may be."""
    return field(default=default, metadata={"help": help, "at_least": at_least, "among": among})


@dataclass(frozen=True)
class TrainConfig:
    """Options of a run. Raises ValueError, naming the option, for a value out of range."""

    source: str | None = choice(None, "Text: a file, a folder, - for stdin; none: Python's own library.")
    target: str | None = choice(None, "Translations of its lines, line by line.")
    task: str = choice("text", f"What to learn, NAME or NAME:option=value,...: {', '.join(TASKS)}.")
    init: str | None = choice(None, "Run from whose best weights to start.")
    vocabulary: str = choice(
        "", "Tokens: byte, char or bpe; none: the task's own.", among=("", "byte", "char", "bpe")
    )
    tokens: int = choice(4096, "Size of a bpe vocabulary.", at_least=257)
    model: str = choice(
        "mingru",
        "Block of all layers, or one of each: mingru,gru,... (see recurra models); classic: nn.LSTM.",
    )
    encoder: str | None = choice(None, "Block of the encoder, where a task has pairs; none: as model.")
    cross: bool = choice(True, "Attention of the decoder to the source, where a task has pairs.")
    tied: bool = choice(False, "One table of tokens for all that a model reads and writes.")
    width: int = choice(384, "Channels between blocks.", at_least=1)
    pattern: str | None = choice(
        None, "How many of each block of --model in turn, 7:1; xlstm is mlstm,slstm, by itself 7:1."
    )
    depth: int = choice(0, "Blocks; 0: whole turns of those of --model, at least 6.", at_least=0)
    expansion: float | None = choice(
        None, "Width of the recurrence over that of the block; none: the block's own.", at_least=0
    )
    conv: int | None = choice(
        None, "Taps of the short convolution, 0 without; none: the block's own.", at_least=0
    )
    mlp: float | None = choice(
        None, "Width of the MLP over that of the block, 0 without; none: the block's own.", at_least=0
    )
    dropout: float = choice(0.0, "Dropout in each block.", at_least=0)
    options: str | None = choice(None, "Other fields of the blocks' configs: state=8,norm=layer.")
    context: int = choice(0, "Tokens of a window, counted as the task does; 0: its own.", at_least=0)
    batch: int = choice(16, "Windows a step and device.", at_least=1)
    accumulate: int = choice(1, "Batches whose gradients make one step.", at_least=1)
    carry: bool = choice(False, "Carry the state from window to window (truncated back-propagation).")
    steps: int | None = choice(None, "Steps to train; without --minutes too: 1000.", at_least=1)
    minutes: float | None = choice(None, "Minutes to train, evaluations included.", at_least=0.001)
    until: float | None = choice(None, "Held-out score that is enough: the run ends where it is met.")
    lr: float = choice(2e-3, "Peak learning rate.", at_least=0)
    warmup: int = choice(50, "Steps until the learning rate peaks; then a cosine to a tenth.", at_least=0)
    decay: float = choice(0.1, "Weight decay, but of gates, norms and biases.", at_least=0)
    smoothing: float = choice(0.0, "Share of a target that all tokens have alike.", at_least=0)
    clip: float = choice(1.0, "Bound on the norm of the gradient; 0: none.", at_least=0)
    seed: int = choice(0, "Seed of weights, data order and dropout.", at_least=0)
    every: int = choice(250, "Steps between evaluations.", at_least=1)
    average: int = choice(
        1, "Evaluations, the last ones, over whose weights the mean is judged and kept; 1: none.", at_least=1
    )
    windows: int = choice(64, "Windows of an evaluation while training.", at_least=1)
    precision: str = choice(
        "32-true", "Of the arithmetic.", among=("32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true")
    )
    device: str = choice("auto", "cpu, cuda, mps, or auto.", among=("auto", "cpu", "cuda", "mps"))
    devices: int = choice(1, "Devices, or processes on the CPU.", at_least=1)
    strategy: str = choice(
        "ddp", "Each device holds the model (ddp) or a share (fsdp).", among=("ddp", "fsdp")
    )
    tensorboard: bool = choice(False, "Also write TensorBoard events.")

    def __post_init__(self) -> None:
        for option in dataclasses.fields(self):
            _check(option, getattr(self, option.name))
        if not self.smoothing < 1:
            raise ValueError(f"smoothing must be less than 1, got {self.smoothing}")
        task = parse(self.task)
        self._check_classic(task.paired)
        if not task.paired and (self.encoder or not self.cross):
            raise ValueError(f"encoder and cross are for tasks with pairs, task is {self.task}")
        if self.target and not task.paired:
            raise ValueError(f"target is for tasks with pairs, task is {self.task}")
        if not self.vocabulary:
            object.__setattr__(self, "vocabulary", task.kind)
        if not self.context:
            object.__setattr__(self, "context", task.context)
        if not self.depth:
            object.__setattr__(self, "depth", whole_turns(self._turn))

    def _check_classic(self, paired: bool) -> None:
        """Raise ValueError where it is asked for what `models.classic` does not have."""
        if self.model != CLASSIC:
            return
        if not paired:
            raise ValueError(f"model {CLASSIC} is for tasks with pairs, task is {self.task}")
        others = [name for name in _OF_BLOCKS if getattr(self, name) != _DEFAULTS[name]]
        if others:
            raise ValueError(f"model {CLASSIC} leaves no choice of {', '.join(others)}")

    @property
    def _turn(self) -> list[str]:
        return turn(_words(self.model), self.pattern)

    @property
    def given(self) -> str | tuple[str, str] | None:
        """What is read: one source, or a source and its target."""
        return (self.source, self.target) if self.source and self.target else self.source

    @property
    def layers(self) -> list[str]:
        """One name of a block for each layer. Raises ValueError where `depth` is not a multiple of a turn."""
        return self._each("model", self._turn)

    @property
    def encoder_layers(self) -> list[str]:
        """The same of the encoder."""
        return self.layers if self.encoder is None else self._each("encoder", turn(_words(self.encoder)))

    def _each(self, option: str, names: list[str]) -> list[str]:
        if self.depth % len(names):
            raise ValueError(f"{option} names {len(names)} blocks in turn, depth is {self.depth}")
        return names * (self.depth // len(names))

    @property
    def shape(self) -> dict[str, Any]:
        """Fields of the blocks' configs that were chosen. Raises ValueError for wrong options."""
        named = {name: getattr(self, name) for name in ("expansion", "conv", "mlp", "dropout")}
        return {name: value for name, value in named.items() if value is not None} | _fields(self.options)

    @property
    def last(self) -> int | None:
        """The step to stop at; None where time alone decides."""
        return 1000 if self.steps is None and self.minutes is None else self.steps


# What a resumed run can't change: its weights, its data and their order follow from these.
FIXED = (
    *("task", "source", "target", "vocabulary", "tokens", "model", "encoder", "cross", "tied"),
    *("width", "pattern", "depth", "expansion", "conv", "mlp", "dropout", "options"),
    *("context", "batch", "accumulate", "carry", "devices", "seed"),
)


# What is chosen of blocks, and how they are shared out.
_OF_BLOCKS = ("encoder", "cross", "pattern", "expansion", "conv", "mlp", "options", "strategy")
_DEFAULTS = {option.name: option.default for option in dataclasses.fields(TrainConfig)}


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def _fields(text: str | None) -> dict[str, Any]:
    """The fields that a=1,b=x names, numbers as numbers. Raises ValueError where it names none."""
    pairs = [part.partition("=") for part in text.split(",")] if text else []
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise ValueError(f"options must be name=value,name=value, got {wrong[0]!r}")
    return {name.strip(): _number(value.strip()) for name, _, value in pairs}


def _number(word: str) -> Any:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(word)
    return {"true": True, "false": False}.get(word.lower(), word)


def kind_of(option: "dataclasses.Field[Any]") -> type:
    """The type of an option, that of `T | None` being T."""
    kind: type = (get_args(option.type) or (option.type,))[0]
    return kind


def _check(option: "dataclasses.Field[Any]", value: Any) -> None:
    """Raise ValueError unless the value has the option's type and range."""
    kind = kind_of(option)
    if value is None and option.default is None:
        return
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (kind is not bool and isinstance(value, bool)):
        raise ValueError(f"{option.name} must be {kind.__name__}, got {value!r}")
    least, among = option.metadata["at_least"], option.metadata["among"]
    if least is not None and not value >= least:
        raise ValueError(f"{option.name} must be at least {least:g}, got {value}")
    if among and value not in among:
        raise ValueError(f"{option.name} must be one of {', '.join(among)}, got {value!r}")


def write(config: TrainConfig, path: Path) -> None:
    """Write every option as YAML: whole or not at all."""
    draft = path.with_name(path.name + ".part")
    text = need("yaml", "train").safe_dump(dataclasses.asdict(config), sort_keys=False)
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def read(path: Path) -> dict[str, Any]:
    """The options that a YAML file names. Raises ValueError, naming the file, where one of them is wrong."""
    yaml = need("yaml", "train")
    try:
        options = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError:
        raise
    except Exception as e:  # PyYAML lets through whatever a constructor of its raises
        raise ValueError(f"{path} is not YAML: {' '.join(str(e).split())}") from e
    if not isinstance(options, dict):
        raise ValueError(f"{path} must hold options such as `width: 384`")
    known = [option.name for option in dataclasses.fields(TrainConfig)]
    if unknown := [str(name) for name in options if name not in known]:
        raise ValueError(f"{path} names {', '.join(unknown)}; known are {', '.join(known)}")
    try:
        TrainConfig(**options)
    except ValueError as e:
        raise ValueError(f"{path}: {e}") from e
    return options
