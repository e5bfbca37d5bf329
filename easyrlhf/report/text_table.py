"""Tables as text: columns for a terminal, and Markdown."""


def aligned_columns(head: tuple[str, ...], rows: list[tuple[str, ...]], width: int | None = None) -> list[str]:
    """A table as lines, the first column left and the others right.

    width  columns of the terminal; a wider table becomes several below one another, each with the first column
    """
    widths = [2 + max(map(len, column)) for column in zip(head, *rows, strict=True)]
    groups: list[list[int]] = [[]]
    for i, one in enumerate(widths[1:], 1):
        if width and groups[-1] and widths[0] + sum(widths[k] for k in groups[-1]) + one > width:
            groups.append([])
        groups[-1].append(i)
    tables = [
        [
            f"  {cells[0]}".ljust(widths[0]) + "".join(cells[i].rjust(widths[i]) for i in group)
            for cells in (head, *rows)
        ]
        for group in groups
    ]
    return [text.rstrip() for i, table in enumerate(tables) for text in ([""] if i else []) + table]


def markdown_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table of Markdown, whatever its cells hold."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(_markdown_cell(cell) for cell in cells) + " |\n" for cells in lines)


def _markdown_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
