"""What recurra does on a GPU: right, how near to the card's memory, beside others, and whole models.

    python benchmarks/gpu.py --all                     # within 9 minutes; JSON and CSV into results/
    python benchmarks/gpu.py --kernels --out /tmp      # a part, or several
    python benchmarks/gpu.py --all --toy               # to its end, on a CPU too: no numbers

    TRITON_INTERPRET=1 python benchmarks/gpu.py --correctness --toy   # Triton's own, on a CPU

Needs this package, installed or on PYTHONPATH, torch >= 2.10 and Triton >= 3.6, no network. torch's defaults
for TF32 are left as they are and written down: cuDNN may use it, matrix products do not. torch (2.11)
warns that it compacts the weights of a cuDNN layer at every call where it did not flatten them, and its list
of cuDNN's dtypes has no bf16: how much that costs the bf16 rows is not known.
"""

import argparse
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

import gpu_correctness as correctness
import gpu_figure as figure
import gpu_kernels as kernels
import gpu_models as models
from gpu_results import machine, report, write
from gpu_timing import CUDA, Row, begin, said

from recurra.bench import baselines

Parts = dict[str, list[Row]]
STOP = 8 * 60.0  # seconds after which nothing more is begun
# Of that time; what a part leaves of its share is for those after it.
SHARES = {"correctness": 110, "bandwidth": 5, "scan": 35, "kernels": 120, "models": 110, "figure": 100}
HELP = {
    "correctness": "every kernel against fp64",
    "bandwidth": "of a copy, and the rate of matrix products",
    "scan": "the recurrences of minGRU and minLSTM against the copy, at many shapes",
    "kernels": "every kernel against the copy, and beside those of other packages",
    "models": "a training step of a language model of every block, and writing with it",
    "figure": "of the paper: layers against T, beside every kind of GRU and LSTM",
}
warnings.filterwarnings("ignore", message="recurra runs without its native kernels")


def rows(part: str, toy: bool, parts: Parts) -> Iterator[Row]:
    """One part; scan and kernels are held against the bandwidth."""
    if part in ("scan", "kernels"):
        floor = kernels.floor(parts["bandwidth"], toy)
        return (kernels.run_scan if part == "scan" else kernels.run_kernels)(toy, floor)
    runs = {
        "correctness": correctness.run,
        "bandwidth": kernels.run_bandwidth,
        "models": models.run,
        "figure": figure.run,
    }
    return runs[part](toy)


def measure(part: str, toy: bool, parts: Parts, about: Row) -> None:
    """The rows of a part, where it ends early those up to there."""
    parts[part] = []
    try:
        parts[part].extend(rows(part, toy, parts))
    except Exception as e:
        traceback.print_exc()
        about[f"{part}_ended"] = said(e)
    if part == "figure":
        baselines.compare(parts[part])


def run(chosen: list[str], toy: bool, out: Path) -> Parts:
    """The parts one after the other; what there is is written after each."""
    parts: Parts = {}
    about, start = machine(), time.perf_counter()
    for i, part in enumerate(chosen):
        left = STOP - (time.perf_counter() - start)
        begin(left * SHARES[part] / sum(SHARES[other] for other in chosen[i:]))
        measure(part, toy, parts, about)
        about["seconds"] = round(time.perf_counter() - start)
        print(f"{part}: done after {about['seconds']} s", flush=True)
        write(out, about, parts)
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for part, text in {**HELP, "all": "every part", "toy": "the smallest sizes"}.items():
        parser.add_argument(f"--{part}", action="store_true", help=text)
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder of the result files")
    given = vars(parser.parse_args())
    if not CUDA and not given["toy"]:
        parser.error("no GPU here: --toy runs the script to its end, without numbers")
    given["bandwidth"] |= given["scan"] or given["kernels"]
    report(run([part for part in SHARES if given[part] or given["all"]], given["toy"], given["out"]))


if __name__ == "__main__":
    main()
