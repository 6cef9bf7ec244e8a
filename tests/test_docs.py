"""Every Python example of the README and the docs runs as it stands."""

import re
from pathlib import Path

import pytest

from recurra.blocks import BLOCKS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run(page: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    exec(compile("\n".join(blocks), str(page), "exec"), {})


@pytest.mark.parametrize("name", BLOCKS)
def test_every_block_has_its_equation(name: str) -> None:
    assert f"\n| `{name}` |" in (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
