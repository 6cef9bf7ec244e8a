"""Imports go one way, optional packages stay in their rooms, and `import recurra` pulls in none of them."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "recurra"

# A room may import itself and those before it; `recurra` is the front: what `import recurra` gives.
ROOMS = (
    *("version", "extras", "state", "ops", "parts", "layers", "blocks", "models", "interop", "tasks"),
    *("config", "recurra", "train", "bench", "interp", "papers", "export", "cli"),
)
HOMES = {
    "tokenizers": ("models/", "interop/"),
    "transformers": ("interop/",),
    "triton": ("ops/kernels/",),
    "typer": ("cli/",),
}


def modules() -> Iterator[tuple[str, str]]:
    """Every import as (file:line, dotted name); `from recurra import ops` is recurra.ops."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from ((f"{path.relative_to(SOURCE)}:{node.lineno}", name) for name in names)


def room(name: str) -> str:
    """The room of a file below the package, or of what one imports from the package."""
    first = name.removesuffix(".py").split("/", maxsplit=1)[0]
    return first if first in ROOMS else "recurra"


def test_every_room_has_its_place() -> None:
    rooms = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or any(path.glob("*.py"))}
    assert rooms - {"__init__"} <= set(ROOMS)


def test_imports_go_one_way() -> None:
    rank = {name: i for i, name in enumerate(ROOMS)}
    wrong = []
    for where, name in modules():
        if name.split(".")[0] != "recurra":
            continue
        here, there = room(where.rsplit(":", 1)[0]), room(".".join(name.split(".")[1:2]))
        if rank[there] > rank[here] or (there == here == "recurra" and name != "recurra"):
            wrong.append(f"{where}: {here} imports {there}")
    assert not wrong


def test_optional_packages_stay_at_home() -> None:
    wrong = [
        f"{where} imports {name}, which belongs to {', '.join(HOMES[top])}"
        for where, name in modules()
        if (top := name.split(".")[0]) in HOMES and not where.startswith(HOMES[top])
    ]
    assert not wrong


def test_a_plain_import_needs_no_extra() -> None:
    extras = {
        "accelerate",
        "einops",
        "hypothesis",
        "lightning_fabric",
        "mambapy",
        "matplotlib",
        "minGRU_pytorch",
    }
    extras |= {"pytest", "sklearn", "tokenizers", "transformers", "typer", "yaml"}
    code = f"import sys, recurra; print(*sorted({extras!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.split()
