"""A language model over bytes in one page: recurra.MinGRU, and the same page with nn.GRU.

Both train for the same time on Python's own standard library source, with about the same number of
parameters; bits per byte are on files that neither has seen. Run: python examples/char_lm.py
"""

import argparse
import math
import sysconfig
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import recurra

LAYERS, EMBED, TIME, RATE = 2, 128, 256, 6e-3
# Widths for equal parameters. Batches: of 4, 8 and 16 the one that got nn.GRU furthest in a minute, and of 4
# and 8 MinGRU; the rate was chosen for MinGRU.
MODELS = {"MinGRU": (recurra.MinGRU, 256, 4), "nn.GRU": (nn.GRU, 139, 8)}


def source() -> tuple[Tensor, Tensor]:
    """Bytes of the standard library: those to train on, and every tenth file held out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"test", "tests", "idle_test", "site-packages", "dist-packages"}
    files = [f for f in sorted(root.rglob("*.py")) if not left_out & set(f.relative_to(root).parts)]
    held_out = set(files[::10])
    parts = [f for f in files if f not in held_out], sorted(held_out)
    train, test = (bytearray().join(f.read_bytes() for f in part) for part in parts)
    return torch.frombuffer(train, dtype=torch.uint8), torch.frombuffer(test, dtype=torch.uint8)


class CharLM(nn.Module):
    """Embedding, recurrent layers, head."""

    def __init__(self, rnn: type[nn.Module], hidden: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, EMBED)
        self.rnn = rnn(EMBED, hidden, LAYERS, batch_first=True)
        self.head = nn.Linear(hidden, 256)

    def forward(self, tokens: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        out, h = self.rnn(self.embed(tokens), h)
        return self.head(out), h


def bits(model: CharLM, text: Tensor, starts: Tensor) -> Tensor:
    """Bits per byte over windows of the text."""
    window = text[starts[:, None] + torch.arange(TIME + 1)].long()
    return cross_entropy(model(window[:, :-1])[0].flatten(0, 1), window[:, 1:].flatten()) / math.log(2)


def train(model: CharLM, text: Tensor, batch: int, seconds: float) -> float:
    """Train for some seconds, the learning rate falling to zero with the clock; tokens per second."""
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    generator, start, steps, elapsed = torch.Generator().manual_seed(0), time.perf_counter(), 0, 0.0
    while elapsed < seconds:
        optimizer.param_groups[0]["lr"] = RATE * min((steps + 1) / 20, 1 - elapsed / seconds)
        loss = bits(model, text, torch.randint(len(text) - TIME, (batch,), generator=generator))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        steps, elapsed = steps + 1, time.perf_counter() - start
        speed = steps * batch * TIME / elapsed
        if steps % 20 == 0 or elapsed >= seconds:
            line = f"{elapsed:5.1f} s  {loss.item():.3f} bits/byte  {speed:8,.0f} tokens/s"
            print(f"\r{type(model.rnn).__name__:6} {line}", end="", flush=True)
    print()
    return speed


@torch.no_grad()
def held_out(model: CharLM, text: Tensor) -> float:
    """Bits per byte over 256 windows, evenly spread."""
    starts = torch.linspace(0, len(text) - TIME - 1, 256).long()
    return sum(bits(model, text, s).item() for s in starts.chunk(16)) / 16


@torch.no_grad()
def write(model: CharLM, prompt: bytes, length: int) -> str:
    """Draw bytes one by one: only the state is carried."""
    h, written = None, list(prompt)
    for i in range(len(prompt) + length - 1):
        y, h = model.rnn.step(model.embed(torch.tensor([written[i]])), h)
        if i >= len(prompt) - 1:
            written.append(int(torch.multinomial((model.head(y[0]) / 0.7).softmax(-1), 1)))
    return bytes(written).decode(errors="replace")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="training time of each model")
    seconds = parser.parse_args().seconds
    text, test = source()
    models, lines = {}, []
    for name, (rnn, hidden, batch) in MODELS.items():
        torch.manual_seed(0)
        models[name] = model = CharLM(rnn, hidden)
        size = sum(p.numel() for p in model.parameters())
        speed = train(model, text, batch, seconds)
        lines.append(f"{name:6} {size:>10,} {speed:>10,.0f} {held_out(model, test):>18.3f}")
    print(f"\n{'':6} {'parameters':>10} {'tokens/s':>10} {'held-out bits/byte':>18}", *lines, sep="\n")
    print(f"\n{write(models['MinGRU'], b'def ', 300)}")


if __name__ == "__main__":
    main()
