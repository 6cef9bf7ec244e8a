"""Pages of figures: whole in one file, whatever tokens are called; and in a browser, with mouse and keys."""

import html.parser
import re
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from browser import Page, chromium, opened
from recurra import language_model
from recurra.bench.page import Table
from recurra.interp import LogitLens, memory_page, pages, trajectory
from recurra.interp.figures import Curves, Map, Point, share, tokens_shown
from recurra.interp.lifetimes import apart, lives
from recurra.interp.plot import draw
from recurra.models import Vocabulary

EVIL = "<script>document.title='run'</script>"
PIECES = [
    *(
        EVIL.encode(),
        b"\"'><img src=x onerror=alert(1)>",
        b"&amp;",
        b" ",
        b"\n",
        b"\t\r",
        b"\xff",
        b"\xe2\x82",
    ),
    *(b"$\\frac{", b"</td></table>", b"", "\u202e\u200b".encode(), "né€".encode(), b"\0", b"__proto__"),
]


class Odd(Vocabulary):
    pieces = PIECES

    def encode(self, text: str | bytes) -> list[int]:
        raise NotImplementedError

    def to_bytes(self) -> bytes:
        raise NotImplementedError


DEPTH, TIME = 3, len(PIECES)
STEER = ("on", "block", "multiplier", "matching", "change", "bits/byte")


def sweep() -> list[dict[str, Any]]:
    values = [(on, b, m) for on in ("block", EVIL) for b in (0, 2) for m in (-1.0, 0.0, 1.0)]
    return [dict(zip(STEER, (*v, 0.5 + 0.1 * v[2], 0.1 * v[2], 2.5), strict=True)) for v in values]


PROBES = ("probe", "on", "block", "Alice easy", "Bob hard", "ceiling", "recovered")


def probed() -> list[dict[str, str]]:
    """As a CSV has it, the model first."""
    rows = [dict(zip(PROBES, ("model", "", "", "0.9", "0.1", "", ""), strict=True))]
    values = [(p, on, b) for p in ("lda", EVIL) for on in ("block", "state") for b in "012"]
    gaps = ["" if b == "1" else "0.9" for _, _, b in values]
    return rows + [
        dict(zip(PROBES, (*v, "1.0", f"0.{i}", "0.95", gap), strict=True))
        for i, (v, gap) in enumerate(zip(values, gaps, strict=True))
    ]


def test_probes_by_depth() -> None:
    *curves, table = pages.probes(PROBES, probed(), "Bob hard")
    assert table == Table(PROBES, probed())
    assert all(isinstance(one, Curves) for one in curves)
    auroc, recovered = curves[:2]
    assert isinstance(auroc, Curves)
    assert isinstance(recovered, Curves)
    assert auroc.title == "AUROC, Bob hard: probes on each block"
    assert {name: [p.y for p in line] for name, line in auroc.lines.items()} == {
        "lda": [0.0, 0.1, 0.2],
        EVIL: [0.6, 0.7, 0.8],
        "model": [0.1] * 3,
        "ceiling": [0.95] * 3,
    }
    assert [p.x for p in recovered.lines["lda"]] == [0, 2]
    assert "ceiling" not in recovered.lines
    assert auroc.lines["lda"][0].said.startswith("probe: lda\non: block\nblock: 0\n")


@cache
def _parts() -> list[pages.Content]:
    torch.manual_seed(0)
    model = language_model(["mingru", "transformer", "rwkv4"], TIME, 8).eval()
    tokens, other = torch.arange(TIME)[None], torch.arange(TIME).flip(0)[None]
    shown, vocabulary = tokens_shown(range(TIME), Odd()), Odd()
    found, both = list(lives(model, tokens)), apart(model, tokens, other)
    lens = pages.predictions("logit", trajectory(LogitLens(model), tokens), range(TIME), vocabulary)
    columns = ("block", "logit bits/byte", "logit KL")
    depth = [
        dict(zip(columns, row, strict=True)) for row in ((0, 3.0, 1.0), (1, 2.5, 0.5), ("model", 2.0, 0.0))
    ]
    return [
        lens,
        *pages.depth(columns, depth),
        *pages.steering(STEER, sweep()),
        *pages.probes(PROBES, probed(), "Bob hard"),
        *memory_page.lifetimes(found),
        *memory_page.gates(found, shown),
        *memory_page.compared(both, ["0", "1", "2"], shown, shown[::-1]),
    ]


@pytest.fixture
def parts() -> list[pages.Content]:
    """Every figure there is, of a model whose tokens are no easy ones; made once, on the thread of a test."""
    return _parts()


@pytest.fixture
def path(parts: list[pages.Content], tmp_path: Path) -> Path:
    path = tmp_path / "page.html"
    path.write_text(pages.page(f"A {EVIL} page", parts), encoding="utf-8")
    return path


def figures(parts: list[pages.Content]) -> list[Any]:
    return [part for part in parts if isinstance(part, Map | Curves)]


# ----------------------------------------------------------------------------------------------
# The file.


class Outline(html.parser.HTMLParser):
    """Tags with their attributes, and that all but void ones are closed in order."""

    VOID = ("meta", "img", "path", "circle")

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), (tag, names)
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_file_is_whole_and_escaped(path: Path, parts: list[pages.Content]) -> None:
    outline = Outline()
    outline.feed(path.read_text(encoding="utf-8"))
    outline.close()
    assert not outline.open
    tags = [tag for tag, _ in outline.tags]
    assert tags.count("script") == 1
    assert set(tags) <= {
        *("html", "meta", "title", "style", "script", "h1", "p", "figure", "figcaption"),
        *("table", "tr", "th", "td", "svg", "g", "path", "text", "circle"),
    }
    names = {name for _, attributes in outline.tags for name in attributes}
    assert not names & {"src", "href", "onerror", "onclick"}
    # Everything that can be pointed at says what it is.
    said = [a["aria-label"] for _, a in outline.tags if "data-at" in a]
    want = [c.said for f in figures(parts) if isinstance(f, Map) for line in f.cells for c in line]
    points = [
        p.said for f in figures(parts) if isinstance(f, Curves) for line in f.lines.values() for p in line
    ]
    assert sorted(said) == sorted(want + points)
    assert any(EVIL in label for label in want)
    # One of each figure is reached by Tab.
    assert sum(a.get("tabindex") == "0" for _, a in outline.tags) == len(figures(parts))


def test_tokens_can_be_seen() -> None:
    shown = tokens_shown([*range(TIME), TIME + 3], Odd())
    assert shown[0] == EVIL
    assert shown[3:8] == ["␣", "⏎", "⇥\\r", "\\xff", "\\xe2\\x82"]
    assert shown[10:] == ["∅", "\\u202e\\u200b", "né€", "\\x00", "__proto__", "∅"]


def test_the_lens_says_what_each_block_predicts(parts: list[pages.Content]) -> None:
    lens = parts[0]
    assert isinstance(lens, Map)
    assert lens.rows == ["block 0", "block 1", "model"]
    assert list(lens.columns) == tokens_shown(range(TIME), Odd())
    cell = lens.cells[1][4]
    lines = cell.said.split("\n")
    assert lines[0] == "block 1, behind token 4: ⏎"
    assert lines[1] == f"{100 * (cell.value or 0):5.1f} %  {cell.text}"
    assert len(lines) == 1 + 5 + 2
    assert lines[-1].startswith("next comes ⇥\\r, a surprise of ")
    assert "next comes" not in lens.cells[1][-1].said


def test_shares_of_colour() -> None:
    plain, log, signed = (
        Map("", [], [], [], *ends) for ends in ((1.0, 5.0), (1.0, 100.0, True), (-2.0, 4.0))
    )
    assert [share(x, plain) for x in (0.0, 1.0, 3.0, 9.0)] == [0, 0, 0.5, 1]
    assert [share(x, log) for x in (0.0, 10.0, float("inf"))] == [0, 0.5, 1]
    assert [share(x, signed) for x in (-2.0, 0.0, 4.0)] == [-0.5, 0, 1]
    assert share(None, plain) is share(float("nan"), plain) is None
    assert share(1.0, Map("", [], [], [], 1.0, 1.0)) == 0


def test_the_same_as_png(parts: list[pages.Content], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw(tmp_path / "page.png", figures(parts)[:2] + figures(parts)[-1:])
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")


def test_curves_of_one_point_and_of_none() -> None:
    for line in ([], [Point(1.0, 0.5, "here")], [Point(1.0, float("nan"), "nowhere")]):
        text = pages.page("", [Curves("one", "x", "y", {"a": line, "b": []}, log=True)])
        assert text.count("<circle") == (len(line) == 1 and line[0].y == 0.5)
        assert "nan" not in re.sub("<figcaption>.*?</figcaption>", "", text)


# ----------------------------------------------------------------------------------------------
# In a browser.


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    binary = chromium()
    if binary is None:
        pytest.skip("no Chromium here, as Debian's package chromium-headless-shell has it")
    with opened(binary) as page:
        yield page


@pytest.fixture
def shown(browser: Page, path: Path) -> Page:
    browser.open(path)
    return browser


SAID = "document.getElementById('said').textContent"
IDLE = "document.getElementById('said').offsetHeight"


def label(figure: int, at: str) -> str:
    return f"""document.querySelectorAll("figure")[{figure}].querySelector('[data-at="{at}"]').ariaLabel"""


def test_it_opens_without_a_fault_or_a_request(shown: Page, path: Path) -> None:
    shown.hover("td[data-at]")
    asked = [
        e["params"]["request"]["url"] for e in shown.events if e["method"] == "Network.requestWillBeSent"
    ]
    assert asked == [path.as_uri()]
    wrong = (
        "Runtime.exceptionThrown",
        "Runtime.consoleAPICalled",
        "Log.entryAdded",
        "Page.javascriptDialogOpening",
    )
    assert not [e for e in shown.events if e["method"] in wrong]
    assert shown.value("document.title") == f"A {EVIL} page"
    assert shown.value("document.scripts.length") == 1


def test_hovering_shows_the_predictions(shown: Page, parts: list[pages.Content]) -> None:
    assert shown.value(IDLE) == 0
    for at in ("1 4", "0 0"):
        shown.hover(f'figure:first-of-type [data-at="{at}"]')
        row, column = map(int, at.split())
        lens: Any = parts[0]
        assert shown.value(SAID) == lens.cells[row][column].said
        assert shown.value(IDLE) > 0
    shown.hover("h1")
    assert shown.value(IDLE) == 0
    shown.hover("circle")
    assert shown.value(SAID).startswith("logit, block 0")


def test_keys_go_from_cell_to_cell(shown: Page, parts: list[pages.Content]) -> None:
    lens: Any = parts[0]
    shown.press("Tab", 9)
    assert shown.value(SAID) == lens.cells[0][0].said
    shown.press("ArrowRight", 39)
    shown.press("ArrowDown", 40)
    assert shown.value(SAID) == lens.cells[1][1].said
    assert shown.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    shown.press("ArrowUp", 38)
    shown.press("ArrowUp", 38)  # there is no more
    assert shown.value(SAID) == lens.cells[0][1].said
    shown.press("Escape", 27)
    assert shown.value(IDLE) == 0
    shown.press("Tab", 9)  # the next figure, and back to where one was
    assert shown.value(SAID) == shown.value(label(1, "0 0"))
    shown.call("Runtime.evaluate", expression="document.activeElement.blur()")
    assert (
        shown.value("document.querySelectorAll('figure')[0].querySelectorAll('[tabindex=\"0\"]').length") == 1
    )


def _luminance(colour: list[float]) -> float:
    parts = [c / 255 for c in colour]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _rgba(shown: Page, script: str) -> list[float]:
    numbers = [float(x) for x in re.findall(r"[\d.]+", shown.value(script))]
    return [*numbers, 1.0][:4]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_in_light_and_dark(shown: Page, scheme: str) -> None:
    """Contrast as WCAG 2.2 has it: 4.5 for text on the strongest colours, 3 for lines."""
    feature = [{"name": "prefers-color-scheme", "value": scheme}]
    shown.call("Emulation.setEmulatedMedia", features=feature)
    shown.value("bar.textContent = 'x'")
    paper = _rgba(shown, "getComputedStyle(bar).backgroundColor")
    assert (_luminance(paper[:3]) > 0.5) == (scheme == "light")

    def contrast(front: list[float], back: list[float]) -> float:
        *over, alpha = back
        behind = [alpha * a + (1 - alpha) * b for a, b in zip(over, paper[:3], strict=True)]
        low, high = sorted((_luminance(front[:3]), _luminance(behind)))
        return (high + 0.05) / (low + 0.05)

    for kind in ("", ".less"):
        cell = (
            f"[...document.querySelectorAll('td{kind}[style]')].find(e => e.style.cssText.includes('1.00'))"
        )
        if shown.value(f"!!{cell}"):
            front, back = (
                _rgba(shown, f"getComputedStyle({cell}).{c}") for c in ("color", "backgroundColor")
            )
            assert contrast(front, back) >= 4.5
    for i in range(4):
        line = _rgba(shown, f"getComputedStyle(document.querySelectorAll('circle')[{i}].parentNode).color")
        assert contrast(line, [*paper[:3], 1.0]) >= 3
