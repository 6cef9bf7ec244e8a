"""A report as a list of parts, written as Markdown with pictures beside it or as one HTML file by itself."""

import base64
import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from recurra.bench.report import Row, cell, markdown

__all__ = ["Heading", "Markup", "Part", "Picture", "Table", "html_page", "markdown_page"]


class Heading(NamedTuple):
    text: str
    level: int


class Table(NamedTuple):
    columns: Sequence[str]
    rows: list[Row]


class Picture(NamedTuple):
    path: Path
    caption: str


class Markup(NamedTuple):
    """HTML, escaped where it was made; `text` is what Markdown has in its place."""

    html: str
    text: str


# What is no more than a text is a paragraph.
Part = Heading | Table | Picture | Markup | str


def markdown_page(parts: Sequence[Part], folder: Path) -> str:
    """The text of a file in that folder, below which all pictures lie."""
    return "\n".join(_as_markdown(part, folder) for part in parts)


def html_page(parts: Sequence[Part], title: str, head: str = "") -> str:
    """One page with its pictures inside, which needs no other file and no network; head: more of that one."""
    return PAGE.format(title=html.escape(title), head=head, body="\n".join(map(_as_html, parts)))


def _as_markdown(part: Part, folder: Path) -> str:
    if isinstance(part, Heading):
        return f"{'#' * part.level} {part.text}\n"
    if isinstance(part, Table):
        return markdown(part.columns, part.rows)
    if isinstance(part, Picture):
        return f"![{part.caption}]({part.path.relative_to(folder)})\n"
    if isinstance(part, Markup):
        return f"{part.text}\n"
    return f"{part}\n"


def _as_html(part: Part) -> str:
    if isinstance(part, Heading):
        return f"<h{part.level}>{html.escape(part.text)}</h{part.level}>"
    if isinstance(part, Table):
        lines = [part.columns, *([cell(row.get(c)) for c in part.columns] for row in part.rows)]
        return f"<table>{''.join(_line(line) for line in lines)}</table>"
    if isinstance(part, Picture):
        data = base64.b64encode(part.path.read_bytes()).decode()
        return f'<img alt="{html.escape(part.caption)}" src="data:image/png;base64,{data}">'
    if isinstance(part, Markup):
        return part.html
    return f"<p>{re.sub('`([^`]+)`', CODE, html.escape(part))}</p>"


def _line(cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<td>{html.escape(text)}</td>' for text in cells)}</tr>"


CODE = r"<code>\1</code>"
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<style>
:root {{ color-scheme: light dark }}
body {{ font: 15px/1.5 sans-serif; max-width: 76em; margin: 2em auto; padding: 0 1em }}
table {{ border-collapse: collapse; margin: 1em 0; display: block; overflow-x: auto }}
td {{ border: 1px solid #8886; padding: .2em .6em }}
tr:first-child {{ font-weight: bold; background: #8882 }}
img {{ max-width: 100% }}
</style>
{head}{body}
</html>
"""
