"""What `easyrlhf data check` keeps of every row while it reads: faults, oddities, hashes and lengths, no text.

Memory grows by 44 bytes a row: three hashes, a place and three lengths.
"""

import re
from array import array
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from easyrlhf.config import LookConfig
from easyrlhf.data import hh
from easyrlhf.data.kinds import STAGE_KINDS, as_kind
from easyrlhf.data.ledger import TIES, Ledger
from easyrlhf.data.reader import BROKEN, read_records
from easyrlhf.data.records import (
    Comparison,
    Feedback,
    Record,
    answers_of,
)
from easyrlhf.data.sources import BY_TRANSFORM, Source, open_sources
from easyrlhf.errors import InputError
from easyrlhf.tools.checking.turns import Turns, characters, turns_said

EXAMPLES = 3  # places that are shown of each finding
NOT_RENDERABLE = "not renderable"
NO_CONTENT_FAULT = (BROKEN, NOT_RENDERABLE, BY_TRANSFORM)  # reasons that say nothing of what a row says
# How the message of an unreadable row begins -> the check that counts it.
UNREADABLE = {
    "not UTF-8": "not_utf8",
    "not JSON": "not_json",
    "half a surrogate pair": "half_characters",
    "mixed formats": "mixed_formats",
}
# The reason for which a readable row is dropped -> the check that counts it.
DROPPED = {
    "empty completion": "empty_answer",
    "no assistant turn": "empty_answer",
    "no assistant turn at the end": "empty_answer",
    "no turn to learn from": "empty_answer",
    "no prompt before the answer": "empty_prompt",
    "chosen equals rejected": "nothing_to_compare",
    "all completions equal": "nothing_to_compare",
    "all ties": "nothing_to_compare",
    "fewer than two completions": "nothing_to_compare",
    "chosen and rejected answer different prompts": "prompts_differ",
    BY_TRANSFORM: "left_out",
}
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
CONTROL_TOKEN = re.compile(
    r"<[|｜][\w▁ ]{1,40}[|｜]>|</?s>|<(?:bos|eos|pad|unk)>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>"
)


@dataclass
class Found:
    """How often a check found something, and where it did first."""

    count: int = 0
    places: list[str] = field(default_factory=list)


class Tally(dict[str, Found]):
    """The finds of all checks, by the check's name."""

    def add(self, check: str, place: str, says: str = "") -> None:
        """Count one; `says` stands behind the place when it is shown, unless it begins with it."""
        found = self.setdefault(check, Found())
        found.count += 1
        if len(found.places) < EXAMPLES:
            found.places.append(says if says.startswith(place) else f"{place}: {says}" if says else place)


class FaultLedger(Ledger):
    """Counts dropped rows as every ledger does, but by check, with their first places, and writes no file."""

    def __init__(self, name: str, tally: Tally):
        super().__init__(name, Path("bad_rows.jsonl"))
        self.tally = tally

    def _forget_earlier_run(self) -> None:
        """There is no file."""

    def drop(self, reason: str, place: str, row: Any, message: str | None = None) -> None:
        """Count a row as dropped."""
        self.dropped[reason] += 1
        self.tally.add(check_of(reason, message or ""), place, message or reason)


def check_of(reason: str, message: str) -> str:
    """The name of the check that a dropped row falls under."""
    if reason == BROKEN:
        return next((check for start, check in UNREADABLE.items() if message.startswith(start)), "wrong_structure")
    return DROPPED.get(reason, "other_fault")


class Places:
    """Where each row stands, `file:12` or `file:row 3`, as one number a row and one text a file."""

    def __init__(self):
        self.numbers = array("q")
        self._starts: list[int] = []
        self._files: list[str] = []

    def append(self, place: str) -> None:
        """The place of the next row."""
        file = place.rstrip("0123456789")
        number = place[len(file) :]
        if not number or number[0] == "0" or len(number) > 18:
            file, number = place, "-1"
        if not self._files or file != self._files[-1]:
            self._starts.append(len(self.numbers))
            self._files.append(file)
        self.numbers.append(int(number))

    def __getitem__(self, row: int) -> str:
        number = self.numbers[row]
        return self._files[bisect_right(self._starts, row) - 1] + (str(number) if number >= 0 else "")


@dataclass
class Lengths:
    """Of every usable record: its longest prompt, its longest answer, and its longest row, in tokens or characters."""

    prompt: array = field(default_factory=lambda: array("i"))
    answer: array = field(default_factory=lambda: array("i"))
    total: array = field(default_factory=lambda: array("i"))

    def add(self, prompt: int, answer: int, total: int) -> None:
        """The lengths of one record."""
        self.prompt.append(prompt)
        self.answer.append(answer)
        self.total.append(total)


@dataclass
class File:
    """What was read of one file; `stopped` is why it could not be read to its end, "" when it was."""

    name: str
    format: str = ""
    read: int = 0
    faults: Counter = field(default_factory=Counter)  # reason -> readable rows that are dropped for their content
    stopped: str = ""


@dataclass
class Split:
    """All that is known of the training rows, or of the held-out rows.

    ledger     rows read, and dropped by reason       found  what the checks found, with places
    rows       hash of everything that a row says      prompts  hash of its prompt
    answers    hash of prompt and answers without what was said of them, order or label
    labels     feedback: liked and disliked answers    longer   comparisons: see compare_lengths

    A hash has 64 bits, so that among n rows some two different ones look equal with a probability of about
    n² / 3.7e19: 3e-8 for a million rows.
    """

    name: str
    kind: str
    ledger: FaultLedger
    found: Tally
    files: list[File] = field(default_factory=list)
    rows: array = field(default_factory=lambda: array("q"))
    prompts: array = field(default_factory=lambda: array("q"))
    answers: array = field(default_factory=lambda: array("q"))
    places: Places = field(default_factory=Places)
    lengths: Lengths = field(default_factory=Lengths)
    labels: Counter = field(default_factory=Counter)
    longer: Counter = field(default_factory=Counter)

    @property
    def read(self) -> int:
        """Rows of all files."""
        return self.ledger.read

    @property
    def usable(self) -> int:
        """Rows that a stage would learn from, were they short enough."""
        return len(self.rows)

    def compare_lengths(self, record: Record, chosen: int, rejected: int) -> None:
        """Count whether a comparison's chosen answer is the longer one (1), the shorter one (-1), or neither (0)."""
        if isinstance(record, Comparison) and not record.is_tie:
            self.longer[(chosen > rejected) - (chosen < rejected)] += 1


def sources_of(config: LookConfig, spec: str) -> list[Source]:
    """The files of a comma list, as the settings change their rows. Raises InputError when one cannot be opened."""
    return open_sources(spec, field=config.field, transform=config.transform)


def read_split(name: str, spec: str, config: LookConfig, tokens: Any = None) -> Split:
    """Read all rows of a comma list of files, whatever is wrong with them; weights are passed over.

    tokens  a TokenCheck that measures and checks what the model sees; None measures characters
    Raises InputError only for a file that does not exist or is of an unknown kind.
    """
    tally = Tally()
    split = Split(name, STAGE_KINDS[config.stage], FaultLedger(name, tally), tally)
    for source in sources_of(config, spec):
        read_source(split, source, config.format, tokens)
    if count := split.ledger.notes[hh.DIFFERENT]:
        split.found["histories_differ"] = Found(count)
    return split


def read_source(split: Split, source: Source, format: str | None, tokens: Any) -> None:
    """Read one file into the split."""
    file, ledger = File(source.name), split.ledger
    split.files.append(file)
    read, dropped = ledger.read, ledger.dropped.copy()
    known = len(ledger.formats)
    try:
        for record, _ in read_records(source, split.kind, ledger, format=format, on_bad_row="skip"):
            take_record(split, record, tokens)
    except InputError as error:
        file.stopped = str(error)
        split.found.add("unreadable_file", source.name, file.stopped)
    file.format = ledger.formats[known] if len(ledger.formats) > known else ""
    file.read = ledger.read - read
    file.faults = Counter({r: n for r, n in (ledger.dropped - dropped).items() if r not in NO_CONTENT_FAULT})


def take_record(split: Split, record: Record, tokens: Any) -> None:
    """Check one usable record, and keep its hashes and lengths. One that cannot be rendered counts as dropped."""
    made = as_kind(record, split.kind)
    if isinstance(record, Comparison) and record.chosen_probability not in (None, 1.0):
        split.found.add("ties" if record.is_tie else "soft_labels", record.place)
    if not made:
        split.ledger.leave_out(TIES)
        return
    if split.kind in ("prompt", "demonstration"):
        record = made[0]
    prompt, answers = turns_said(record.prompt), [turns_said(answer) for answer in answers_of(record)]
    if tokens:
        lengths = tokens.measure(made, record.place, split)
    else:
        lengths = measure_characters(split, record, prompt, answers)
    if lengths is None:
        return
    split.lengths.add(*lengths)
    check_texts(split.found, record.place, [*prompt, *(turn for answer in answers for turn in answer)])
    keep_hashes(split, record, prompt, answers)
    if split.kind == "feedback":
        split.labels.update(one.label for one in made)


def measure_characters(split: Split, record: Record, prompt: Turns, answers: list[Turns]) -> tuple[int, int, int]:
    """Characters of the prompt, of the longest answer and of both; whether the longer answer was chosen goes to the
    split."""
    sizes = [characters(answer) for answer in answers]
    if split.kind == "comparison" and isinstance(record, Comparison):
        split.compare_lengths(record, *sizes)
    return characters(prompt), max(sizes, default=0), characters(prompt) + max(sizes, default=0)


def check_texts(found: Tally, place: str, turns: Turns) -> None:
    """Count a row once for each oddity that any of its texts has."""
    text = "\n".join([content for _, content in turns])
    if CONTROL.search(text):
        found.add("control_characters", place, repr(CONTROL.search(text)[0])[1:-1])
    if "\ufffd" in text:
        found.add("replacement_characters", place)
    if ("<" in text or "[" in text) and (token := CONTROL_TOKEN.search(text)):
        found.add("control_tokens", place, token[0])
    if empty := [role for role, content in turns if not content or content.isspace()]:
        found.add("empty_turn", place, empty[0])


def keep_hashes(split: Split, record: Record, prompt: Turns, answers: list[Turns]) -> None:
    """Keep a row's hashes and its place; texts that differ in whitespace alone are the same."""
    asked, *said = (hash(tuple([(role, " ".join(text.split())) for role, text in one])) for one in (prompt, *answers))
    judged = record.label if isinstance(record, Feedback) else tuple(getattr(record, "scores", ()))
    tie = isinstance(record, Comparison) and record.is_tie  # says the same the other way round
    whole = hash((asked, "tie", *sorted(said)) if tie else (asked, *said, judged))
    turns = isinstance(record, Comparison | Feedback) and not tie
    split.prompts.append(asked)
    split.rows.append(whole)
    split.answers.append(hash((asked, *sorted(said))) if turns else whole)
    split.places.append(record.place)
