"""Write docs/first_hour.ipynb from docs/first_hour.md, which is the one to change."""

import json
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "first_hour.md"
BLOCK = re.compile(r"```(bash|python)\n(.*?)```\n", re.DOTALL)
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
    "colab": {"provenance": []},
}


def notebook(page: str) -> dict[str, Any]:
    """The cells of a page of Markdown: its bash and python blocks run, all other text is text."""
    cells, end = [], 0
    for block in BLOCK.finditer(page):
        cells += [text_cell(page[end : block.start()]), code_cell(*block.groups())]
        end = block.end()
    cells.append(text_cell(page[end:]))
    cells = [cell | {"id": f"cell-{number}"} for number, cell in enumerate(filter(None, cells))]
    return {"cells": cells, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}


def text_cell(text: str) -> dict[str, Any] | None:
    """A cell of Markdown; None where there is no text."""
    return {"cell_type": "markdown", "metadata": {}, "source": lines(text)} if text.strip() else None


def code_cell(language: str, code: str) -> dict[str, Any]:
    """A cell that runs; of a shell it runs until a command fails."""
    if code.startswith("pip "):
        code = f"%{code}"
    elif language == "bash":
        code = f"%%bash\nset -e\n{code}"
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": lines(code)}


def lines(text: str) -> list[str]:
    """The lines of a cell, as notebooks keep them."""
    return text.strip("\n").splitlines(keepends=True)


def as_file(page: str) -> str:
    """The notebook as the text of its file."""
    return json.dumps(notebook(page), ensure_ascii=False, indent=1) + "\n"


if __name__ == "__main__":
    PAGE.with_suffix(".ipynb").write_text(as_file(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE.with_suffix(".ipynb"))
