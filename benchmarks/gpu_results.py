"""What a run of `gpu.py` leaves: the machine, JSON and CSV files, and short tables."""

import csv
import json
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from gpu_timing import CUDA, Row

import recurra
from recurra.bench.baselines import DTYPES
from recurra.ops import native


def machine() -> Row:
    """What the numbers depend on."""
    about = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": f"python benchmarks/gpu.py {' '.join(sys.argv[1:])}",
        "device": torch.cuda.get_device_name() if CUDA else "CPU",
        "recurra": recurra.__version__,
        "torch": torch.__version__,
        "triton": version("triton") if find_spec("triton") else None,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if CUDA else None,
        "python": sys.version.split()[0],
        "native": native.level(),
        "tf32": {"cudnn": torch.backends.cudnn.allow_tf32, "matmul": torch.backends.cuda.matmul.allow_tf32},
    }
    if CUDA:
        card = torch.cuda.get_device_properties(0)
        about |= {
            "multiprocessors": card.multi_processor_count,
            "memory_gib": round(card.total_memory / 2**30, 1),
        }
    return about


def write(folder: Path, about: Row, parts: dict[str, list[Row]]) -> None:
    """One JSON file of everything, one CSV a part."""
    stem = "gpu_" + about["device"].lower().replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.json").write_text(json.dumps({"machine": about, **parts}, indent=1) + "\n")
    for name, rows in parts.items():
        columns = list(dict.fromkeys(column for row in rows for column in row))
        with (folder / f"{stem}_{name}.csv").open("w", newline="") as f:
            writer = csv.DictWriter(f, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(
                {k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows
            )


def table(rows: list[Row], columns: tuple[str, ...]) -> None:
    """The rows as aligned text."""
    cells = [
        [f"{r.get(c, ''):.4g}" if isinstance(r.get(c), float) else str(r.get(c, "")) for c in columns]
        for r in rows
    ]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for line in (columns, *cells):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


SHOWN = {
    "bandwidth": ("the card", ("what", "dtype", "median_ms", "gb_per_s", "tflop_per_s")),
    "scan": (
        "the recurrence of minGRU and minLSTM, of copy bandwidth",
        ("gate", "dtype", "shape", "batch", "time", "width", "work", "median_ms", "of_copy"),
    ),
    "kernels": (
        "every kernel, of copy bandwidth, and those of other packages",
        (
            *("kernel", "by", "dtype", "shape", "work", "median_ms", "of_copy", "us_per_step"),
            *("over_recurra", "difference", "skipped"),
        ),
    ),
    "models": (
        "language models of ten million parameters",
        ("model", "work", "precision", "batch", "median_ms", "tokens_per_s", "peak_mib", "skipped"),
    ),
    "figure": (
        "forward and backward of one layer",
        ("layer", "dtype", "width", "time", "graph", "median_ms", "peak_mib", "over_recurra"),
    ),
}


def report(parts: dict[str, list[Row]]) -> None:
    """A short table of each part."""
    report_correctness(parts.get("correctness", []))
    for part, (title, columns) in SHOWN.items():
        if part not in parts:
            continue
        print(f"\n{title}:")
        table([row for row in parts[part] if part != "figure" or "median_ms" in row], columns)


def report_correctness(rows: list[Row]) -> None:
    """How many are right, and the worst of each dtype."""
    run = [row for row in rows if "right" in row]
    if not run:
        return
    right = sum(row["right"] for row in run)
    print(f"\ncorrectness: {right} of {len(run)} right, {len(rows) - len(run)} not run; worst, in eps:")
    of_dtype = ([r for r in run if r["dtype"] == d] for d in DTYPES)
    table([max(some, key=lambda r: r["worst_eps"]) for some in of_dtype if some], tuple(run[0]))
    table([r for r in run if not r["right"]], tuple(run[0]))
