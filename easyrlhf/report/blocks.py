"""Building blocks of a report page: plain text in, HTML out; every text is escaped here."""

import base64
import re
from collections.abc import Iterable
from html import escape
from pathlib import Path

from easyrlhf.report.charts import Chart
from easyrlhf.report.stylesheet import STYLESHEET
from easyrlhf.report.verdict import Verdict

# Control characters but tab and newline, and those that turn the direction of what follows.
CONTROLS = dict.fromkeys(
    {*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)} - {ord("\t"), ord("\n")}, "�"
)
SHORT = 24  # characters of a cell that stays on one line
FLAG = re.compile(r"(?<![\w-])--\w+(?:-\w+)*")
WORDS = {"ok": "healthy", "warn": "warning", "alarm": "alarm"}


def html_page(
    title: str,
    sections: Iterable[str],
    *,
    lead: str = "",
    severity: str = "ok",
    over: str = "easyrlhf",
    foot: str = "",
) -> str:
    """A whole page in one file: no script, no request to anywhere, light and dark.

    title     heading and window title
    sections  HTML made by section()
    lead      the verdict in one sentence
    severity  ok, warn or alarm: the colour of its dot
    over      small line above the title
    foot      small line at the end
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>\n{STYLESHEET}</style>\n</head>\n<body>\n<main>\n"
        f'<header>\n<p class="over">{_text(over)}</p>\n<h1>{_text(title)}</h1>\n'
        f'<p class="lead {severity}">{_prose(lead)}</p>\n</header>\n'
        + "\n".join(sections)
        + f"\n<footer>{_text(foot)}</footer>\n</main>\n</body>\n</html>\n"
    )


def section(title: str, *blocks: str, note: str = "") -> str:
    """A heading, an optional sentence, and blocks below."""
    said = f'<p class="note">{_prose(note)}</p>\n' if note else ""
    return f"<section>\n<h2>{_text(title)}</h2>\n{said}" + "\n".join(blocks) + "\n</section>"


def grid(*blocks: str) -> str:
    """Blocks side by side, as many as the width allows."""
    return '<div class="grid">\n' + "\n".join(blocks) + "\n</div>"


def chart(drawn: Chart, wide: bool = False) -> str:
    """A chart as themed SVG, its caption below; `wide` lets it stand alone outside a grid."""
    kind = ' class="wide"' if wide else ""
    caption = f"<figcaption>{_prose(drawn.caption)}</figcaption>" if drawn.caption else ""
    return f"<figure{kind}>\n{drawn.svg()}\n{caption}\n</figure>"


def figure(png_path: Path, caption: str) -> str:
    """A PNG file, embedded."""
    data = base64.b64encode(Path(png_path).read_bytes()).decode()
    image = f'<img alt="{_text(caption)}" src="data:image/png;base64,{data}">'
    return f"<figure>\n{image}\n<figcaption>{_text(caption)}</figcaption>\n</figure>"


def html_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table; it scrolls by itself where the page is narrow."""
    heads = "".join(f"<th>{_text(cell)}</th>" for cell in head)
    body = "\n".join("<tr>" + "".join(_cell(str(cell)) for cell in row) + "</tr>" for row in rows)
    top = f"<thead><tr>{heads}</tr></thead>\n" if heads else ""
    return f'<div class="scroll"><table>\n{top}<tbody>\n{body}\n</tbody>\n</table></div>'


def key_number_block(numbers: Iterable[tuple[str, str, str]]) -> str:
    """The numbers to remember: (label, value, note)."""
    cards = (
        f'<div class="card number"><span>{_text(label)}</span><b>{_text(value)}</b><span>{_text(note)}</span></div>'
        for label, value, note in numbers
    )
    return '<div class="numbers">\n' + "\n".join(cards) + "\n</div>"


def verdict_list(found: list[Verdict]) -> str:
    """Alarms and warnings with their remedies; the healthy checks folded away below."""
    fired = [verdict for verdict in found if verdict.severity != "ok"]
    healthy = [verdict for verdict in found if verdict.severity == "ok"]
    parts = [_verdict_blocks(fired)] if fired else []
    if healthy:
        count = f"{len(healthy)} healthy {'check' if len(healthy) == 1 else 'checks'}"
        parts.append(fold(count, _verdict_blocks(healthy)))
    return "\n".join(parts)


def samples(items: Iterable[tuple[str, list[tuple[str, str, str]]]]) -> str:
    """Prompts with answers side by side: (prompt, [(label, completion, numbers), …])."""
    return "\n".join(_sample(prompt, answers) for prompt, answers in items)


def line_list(texts: Iterable[str]) -> str:
    """A plain list."""
    return '<ul class="lines">' + "".join(f"<li>{_prose(text)}</li>" for text in texts) + "</ul>"


def code(text: str) -> str:
    """Commands or a log, as they are."""
    return f'<pre class="code">{_text(text)}</pre>'


def fold(summary: str, *blocks: str) -> str:
    """Blocks that open on a click."""
    return f"<details>\n<summary>{_text(summary)}</summary>\n" + "\n".join(blocks) + "\n</details>"


def _cell(text: str) -> str:
    """A cell of a table; a number or a name is never broken, as the table scrolls."""
    short = ' class="short"' if 0 < len(text) <= SHORT else ""
    return f"<td{short}>{_prose(text)}</td>"


def _text(text: str) -> str:
    """Text as HTML: escaped, control characters as �."""
    return escape(text.replace("\r\n", "\n").translate(CONTROLS))


def _prose(text: str) -> str:
    """A sentence as HTML, in which no flag is broken at its hyphens."""
    return FLAG.sub(r'<span class="flag">\g<0></span>', _text(text))


def _verdict_blocks(found: list[Verdict]) -> str:
    return '<ul class="verdicts">\n' + "\n".join(_verdict_block(verdict) for verdict in found) + "\n</ul>"


def _verdict_block(verdict: Verdict) -> str:
    remedy = f'<p class="remedy">{_prose(verdict.remedy)}</p>' if verdict.remedy else ""
    healthy = f" · healthy: {verdict.healthy}" if verdict.healthy else ""
    small = f"<small>{_text(verdict.metric + healthy)}</small>"
    return (
        f'<li class="card {verdict.severity}"><p><strong>{WORDS[verdict.severity]}</strong> '
        f"{_prose(verdict.message)}</p>{remedy}{small}</li>"
    )


def _sample(prompt: str, answers: list[tuple[str, str, str]]) -> str:
    cells = "\n".join(
        f'<div class="answer"><h3>{_text(label)}</h3><p class="said">{_prose(completion)}</p>'
        f'<p class="marks">{_text(numbers)}</p></div>'
        for label, completion, numbers in answers
    )
    return (
        f'<div class="card sample"><h3>prompt</h3><p class="said">{_prose(prompt)}</p>\n'
        f'<div class="answers">\n{cells}\n</div></div>'
    )
