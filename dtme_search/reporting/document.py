"""A text with tables and figures, written as Markdown or as one self-contained HTML file."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; `` `words` `` are code, ``**words**`` are bold."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of such paragraphs."""

    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table of texts."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Code:
    """Lines to type."""

    text: str


@dataclass(frozen=True)
class Chart:
    """An interactive figure with a caption; Markdown keeps only the caption."""

    key: str
    figure: go.Figure
    caption: str


Block = Heading | Paragraph | Bullets | Table | Code | Chart

_STYLE = """
:root { color-scheme: light }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.7rem } h2 { font-size: 1.3rem; margin-top: 2.2rem; border-bottom: 1px solid #d9d9d9 }
.wide { overflow-x: auto; width: max-content; min-width: 100%; max-width: min(50vw + 30rem, 100vw - 3rem) }
table { border-collapse: collapse; font-size: .88rem; margin: .8rem 0 }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #e3e3e3; text-align: left; white-space: nowrap }
th { background: #f3f3f3 } td.number { text-align: right; font-variant-numeric: tabular-nums }
pre { background: #f3f3f3; padding: .7rem 1rem; overflow-x: auto } code { font-size: .9em }
figure { margin: 1.2rem 0 } figcaption { color: #555; font-size: .9rem }
@media print { .wide { overflow: visible; max-width: none } .wide table { font-size: .55rem }
  .wide th, .wide td { white-space: normal; padding: .1rem .25rem } }
"""
# Makes the browser enforce that the file needs no network.
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
_NUMBER = re.compile(r"[-+]?\d[\d.,]*(e[-+]?\d+)?( ?(%|m|deg|h|s))?( ± [\d.]+)?")


def to_markdown(blocks: Sequence[Block]) -> str:
    """The text as GitHub-flavoured Markdown, figures left out."""
    return "\n\n".join(text for block in blocks if (text := _markdown(block))) + "\n"


def to_html(title: str, blocks: Sequence[Block]) -> str:
    """The text as one HTML file that needs no network, figures interactive."""
    body = to_fragment(blocks)
    drawing = any(isinstance(block, Chart) for block in blocks)
    script = f"<script>{get_plotlyjs()}</script>" if drawing else ""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style>{script}</head>\n'
        f"<body>\n{body}\n</body></html>\n"
    )


def to_fragment(blocks: Sequence[Block]) -> str:
    """The text as a fragment of HTML, for a page that already has the figures' script or shows no figures."""
    return "\n".join(map(_html, blocks))


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {block.text}"
    if isinstance(block, Bullets):
        return "\n".join(f"- {item}" for item in block.items)
    if isinstance(block, Table):
        rows = [block.columns, ["---"] * len(block.columns), *block.rows]
        return "\n".join(f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows)
    if isinstance(block, Code):
        return f"```bash\n{block.text}\n```"
    return block.text if isinstance(block, Paragraph) else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{_inline(block.text)}</h{block.level}>"
    if isinstance(block, Paragraph):
        return f"<p>{_inline(block.text)}</p>"
    if isinstance(block, Bullets):
        return "<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in block.items) + "</ul>"
    if isinstance(block, Table):
        head = "".join(f"<th>{_inline(name)}</th>" for name in block.columns)
        rows = "".join("<tr>" + "".join(map(_html_cell, row)) + "</tr>" for row in block.rows)
        return f'<div class="wide"><table><tr>{head}</tr>{rows}</table></div>'
    if isinstance(block, Code):
        return f"<pre><code>{html.escape(block.text)}</code></pre>"
    figure = block.figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=block.key,
        config={"responsive": True, "displaylogo": False},
    )
    return f"<figure>{figure}<figcaption>{_inline(block.caption)}</figcaption></figure>"


def _html_cell(text: str) -> str:
    kind = ' class="number"' if _NUMBER.fullmatch(text) else ""
    return f"<td{kind}>{_inline(text)}</td>"


def _inline(text: str) -> str:
    escaped = html.escape(text, quote=False)
    escaped = re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped)
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", escaped)
