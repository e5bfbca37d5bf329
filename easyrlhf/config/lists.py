"""Several values in one setting: comma lists, texts in them as they are, and whole texts apart."""

APART = "\0"  # stands in no word of a command line
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", ",": ",", "\\": "\\"}


def split_list(value: str | None) -> tuple[str, ...]:
    """The items of a comma list; () for None."""
    return tuple(item.strip() for item in value.split(",") if item.strip()) if value else ()


def split_apart(value: str | None) -> tuple[str, ...]:
    """The whole texts of a setting that has several; () for None."""
    return () if value is None else tuple(value.split(APART))


def split_texts(value: str | None) -> tuple[str, ...]:
    r"""The items of a comma list of texts as they are, with \n, \t, \r, \, and \\ in them; () for None."""
    if value is None:
        return ()
    items, place = [""], 0
    while place < len(value):
        if value[place] == "\\" and value[place + 1 : place + 2] in ESCAPES:
            place += 1
            items[-1] += ESCAPES[value[place]]
        elif value[place] == ",":
            items.append("")
        else:
            items[-1] += value[place]
        place += 1
    return tuple(items)


def escape_text(text: str) -> str:
    """A text as split_texts reads it."""
    return text.translate(str.maketrans({meant: f"\\{letter}" for letter, meant in ESCAPES.items()}))
