"""Building blocks of a report page: plain text in, HTML out; every text is escaped here.

What each block takes and gives stands in page/page.html.jinja.
"""

import re
from html import escape
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

PAGE = Path(__file__).parent / "page"
# Control characters but tab and newline, and those that turn the direction of what follows.
CONTROLS = dict.fromkeys(
    {*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)} - {ord("\t"), ord("\n")}, "�"
)
SHORT = 24  # characters of a cell that stays on one line
FLAG = re.compile(r"(?<![\w-])--\w+(?:-\w+)*")
WORDS = {"ok": "healthy", "warn": "warning", "alarm": "alarm"}


def shown(value: object) -> Markup:
    """Text as HTML: escaped, control characters as �; what is HTML already stays as it is."""
    if isinstance(value, Markup):
        return value
    return Markup(escape(str(value).replace("\r\n", "\n").translate(CONTROLS)))


def prose(text: str) -> Markup:
    """A sentence as HTML, in which no flag is broken at its hyphens."""
    return Markup(FLAG.sub(r'<span class="flag">\g<0></span>', str(shown(text))))


environment = Environment(
    loader=FileSystemLoader(PAGE),
    autoescape=True,
    finalize=shown,
    undefined=StrictUndefined,
    trim_blocks=True,
    keep_trailing_newline=True,
)
environment.filters["prose"] = prose
environment.globals |= {"short": SHORT, "words": WORDS}
_macros = environment.get_template("page.html.jinja").module

html_page, section, grid, fold = _macros.html_page, _macros.section, _macros.grid, _macros.fold
chart, html_table, key_number_block = _macros.chart, _macros.html_table, _macros.key_number_block
verdict_list, samples, line_list = _macros.verdict_list, _macros.samples, _macros.line_list
