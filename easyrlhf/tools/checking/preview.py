"""easyrlhf data preview: rows as the model sees them, token by token; docs/checking_data.md explains the marks."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import dropwhile, islice
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from easyrlhf.config import PreviewConfig
from easyrlhf.data.formats import require_format
from easyrlhf.data.kinds import STAGE_KINDS, as_kind
from easyrlhf.data.ledger import TIES, Ledger, unused_key_lines
from easyrlhf.data.reader import read_records
from easyrlhf.data.records import Record
from easyrlhf.data.render import Renderer
from easyrlhf.data.row_errors import ContentFault
from easyrlhf.data.token_rows import ENCODERS
from easyrlhf.errors import InputError
from easyrlhf.tools.checking.rows import sources_of
from easyrlhf.tools.checking.token_check import TokenStretch, load_renderer, parts_of, positions_known

BORDER, OPEN, CLOSE, NEWLINE = "│", "⟦", "⟧", "⏎"
LONGEST_CHARACTER = 4  # tokens; a byte-level tokenizer may need so many for one character
CONTEXT = 3  # tokens before a piece with which it is decoded, for the space that some tokenizers put between
LEGEND = {
    "prompt": "read, not learned from",
    "loss": "every token of these counts in the loss",
    "scored": "the reward is read at the last of these tokens",
    "context": "between two answers: read, not learned from",
}
PLAIN_MARKS = f"{OPEN}…{CLOSE} a special token, {BORDER} between two tokens, {NEWLINE} a new line"
RICH_MARKS = f"{OPEN}…{CLOSE} a special token, shaded in turn: the tokens, green: loss or score, {NEWLINE} a new line"
SPECIAL, LEARNED, READ = "bold magenta", "green", "default"
SHADES = ("on grey11", "on grey23")


Show = Callable[..., None]  # (line) or (heading, pieces, whether they are learned from)


@dataclass(frozen=True)
class Seen:
    """A row of a file: its number over all files, and its record, or why it is dropped."""

    number: int
    place: str
    record: Record | None
    dropped: str = ""


@dataclass(frozen=True)
class ShownPiece:
    """One token as text, or the several tokens of one character."""

    text: str
    special: bool


class WaitingLedger(Ledger):
    """Keeps dropped rows until they are fetched, and writes no file."""

    def __init__(self):
        super().__init__("train", Path("bad_rows.jsonl"))
        self.waiting: list[Seen] = []

    def _forget_earlier_run(self) -> None:
        """There is no file."""

    def drop(self, reason: str, place: str, row: Any, message: str | None = None) -> None:
        """Keep what is to be said of a dropped row."""
        self.waiting.append(Seen(self.read, place, None, message or reason))

    def fetch(self) -> list[Seen]:
        """The rows dropped since the last call."""
        fetched, self.waiting = self.waiting, []
        return fetched


def preview_rows(config: PreviewConfig) -> None:
    """Print rows with their tokens. Raises InputError for data or a model that cannot be used."""
    kind = STAGE_KINDS[config.stage]
    if config.format is not None:
        require_format(config.format, kind)
    sources_of(config, config.train_data)
    renderer = load_renderer(config)
    config = config.with_lengths(positions_known(config))
    ledger = WaitingLedger()
    chosen = list(wanted_rows(config, kind, ledger))
    colours = sys.stdout.isatty()
    show = rich_printer() if colours else print_plain
    show_legend(config, kind, show, RICH_MARKS if colours else PLAIN_MARKS)
    for line in unused_key_lines(ledger.unused):
        show(line)
    for seen in chosen:
        show_row(config, kind, renderer, seen, show)
    notes = (ledger.notes + renderer.notes).items()
    for line in [f"{count:,} {note}" for note, count in notes if count]:
        show(line)


def wanted_rows(config: PreviewConfig, kind: str, ledger: WaitingLedger) -> Iterator[Seen]:
    """The rows of the settings; InputError when the data have fewer."""
    rows = dropwhile(lambda seen: seen.number < config.row, all_rows(config, kind, ledger))
    first = next(rows, None)
    if first is None:
        raise InputError(f"--row {config.row}: {config.train_data} holds {ledger.read:,} rows; give less")
    yield first
    yield from islice(rows, config.rows - 1)


def all_rows(config: PreviewConfig, kind: str, ledger: WaitingLedger) -> Iterator[Seen]:
    """All rows of all files, in order, dropped ones too."""
    for source in sources_of(config, config.train_data):
        for record, _ in read_records(source, kind, ledger, format=config.format, on_bad_row="skip"):
            yield from ledger.fetch()
            yield Seen(ledger.read, record.place, record)
        yield from ledger.fetch()


def show_legend(config: PreviewConfig, kind: str, show: Show, marks: str) -> None:
    """What the marks mean; only those that can occur."""
    words = {"prompt"} if kind == "prompt" else {"prompt", learned_word(config)}
    words |= {"context"} if kind == "demonstration" else set()
    for word in LEGEND:
        if word in words:
            show(f"[{word}] {LEGEND[word]}")
    show(marks)


def learned_word(config: PreviewConfig) -> str:
    """What an answer's tokens are for."""
    return "scored" if config.stage == "rm" else "loss"


def show_row(config: PreviewConfig, kind: str, renderer: Renderer, seen: Seen, show: Show) -> None:
    """One row: where it is, its counts, and its parts."""
    head = f"{seen.place} · row {seen.number:,}"
    show("")
    if seen.record is None:
        show(f"{head} · dropped: {seen.dropped}")
        return
    records = as_kind(seen.record, kind)
    if not records:
        show(f"{head} · left out: {TIES}")
        return
    try:
        rows = [row for record in records for row in ENCODERS[kind](record, renderer)]
    except ContentFault as fault:
        show(f"{head} · dropped: {fault.reason}")
        return
    except InputError as error:
        show(f"{head} · refused: {error}")
        return
    for number, row in enumerate(rows, 1):
        of = f" · {kind} {number} of {len(rows)}" if len(rows) > 1 else f" · {kind}"
        show(head + of + row_remarks(row) + over_limit(config, row))
        for part in distinct_parts(parts_of(row)):
            show(mark(config, part), token_pieces(renderer.tokenizer, part.ids), part.mask)


def distinct_parts(sequences: list[list[TokenStretch]]) -> list[TokenStretch]:
    """The parts of all sequences; the prompt that they share once."""
    return sequences[0] + [part for parts in sequences[1:] for part in parts[1:]]


def mark(config: PreviewConfig, part: TokenStretch) -> str:
    """`[prompt] 12 tokens`, `[loss] …`, `[chosen, scored] …`."""
    word = learned_word(config) if part.mask else "context" if part.name == "completion" else "prompt"
    name = f"{part.name}, {word}" if part.mask and part.name != "completion" else word
    return f"[{name}] {len(part.ids):,} {'token' if len(part.ids) == 1 else 'tokens'}"


def row_remarks(row: dict[str, Any]) -> str:
    """What training knows of a row beside its tokens."""
    said = []
    if "label" in row:
        said.append("liked" if row["label"] else "disliked")
    if row.get("margin"):
        said.append(f"margin {row['margin']:g}")
    if (sure := row.get("chosen_probability", 1.0)) < 1:
        said.append(f"chosen_probability {sure:g}{' (a tie)' if sure == 0.5 else ''}")
    if row.get("weight", 1.0) != 1.0:
        said.append(f"weight {row['weight']:.3g}")
    if "scores" in row:
        said.append("scores " + ", ".join(f"{score:g}" for score in row["scores"]))
    return "".join(f" · {one}" for one in said)


def over_limit(config: PreviewConfig, row: dict[str, Any]) -> str:
    """What happens to a row that is over a limit; "" for others."""
    prompt = row["loss_mask"].index(1) if "loss_mask" in row else len(row["prompt_ids"])
    over = [f"--max_length {config.max_length}"] if row["length"] > config.max_length else []
    over += [f"--max_prompt_length {config.max_prompt_length}"] if prompt > config.max_prompt_length else []
    return f" · longer than {' and '.join(over)}: dropped, or cut by --overlength truncate" if over else ""


def token_pieces(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> list[ShownPiece]:
    """The text of each token; tokens that make up one character together are one piece."""
    named = tokenizer.added_tokens_decoder
    found: list[ShownPiece] = []
    start = 0  # of the piece at hand
    for end, token in enumerate(ids, 1):
        if token in named:
            found += [ShownPiece(continuation(tokenizer, ids, start, end - 1), False)] if start < end - 1 else []
            found.append(ShownPiece(named[token].content, True))
            start = end
            continue
        text = continuation(tokenizer, ids, start, end)
        if not text.endswith("\ufffd") or end - start == LONGEST_CHARACTER or end == len(ids):
            found.append(ShownPiece(text, False))
            start = end
    return found


def continuation(tokenizer: PreTrainedTokenizerFast, ids: list[int], start: int, end: int) -> str:
    """The text of ids[start:end] as it stands behind the ids before."""
    how = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
    before = ids[max(0, start - CONTEXT) : start]
    whole, known = tokenizer.decode(before + ids[start:end], **how), tokenizer.decode(before, **how)
    return whole[len(known) :] if whole.startswith(known) else tokenizer.decode(ids[start:end], **how)


def print_plain(head: str, found: list[ShownPiece] | None = None, learned: bool = False) -> None:
    """A line; with pieces, they follow below it, marked by characters that never stand for themselves."""
    print(head if found is None else f"  {head}")
    if found is not None:
        print("    " + BORDER.join(f"{OPEN}{p.text}{CLOSE}" if p.special else on_one_line(p.text) for p in found))


def rich_printer() -> Show:
    """The same in colours: pieces shaded in turn, learned ones green, special ones by name."""
    from rich.console import Console
    from rich.text import Text

    console = Console()

    def show(head: str, found: list[ShownPiece] | None = None, learned: bool = False) -> None:
        if found is None:
            console.print(Text(head, "bold" if " · " in head else ""), soft_wrap=True)
            return
        console.print(Text(f"  {head}", "cyan"), soft_wrap=True)
        line = Text("    ")
        for number, piece in enumerate(found):
            colour = SPECIAL if piece.special else LEARNED if learned else READ
            shown = f"{OPEN}{piece.text}{CLOSE}" if piece.special else on_one_line(piece.text)
            line.append(shown, f"{colour} {SHADES[number % 2]}")
        console.print(line, soft_wrap=True)

    return show


def on_one_line(text: str) -> str:
    r"""Text on one line: new lines as ⏎; the marks themselves, backslashes and what cannot be printed as \uXXXX."""
    return "".join(NEWLINE if c == "\n" else c if is_plain(c) else f"\\u{ord(c):04x}" for c in text)


def is_plain(character: str) -> bool:
    """Whether a character can stand for itself."""
    return character.isprintable() and character not in f"{BORDER}{OPEN}{CLOSE}{NEWLINE}\\"
