"""From what was read of the data to the findings of `easyrlhf data check`."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from easyrlhf.config import CheckConfig
from easyrlhf.data.reader import too_many
from easyrlhf.tools.checking.rows import EXAMPLES, Split
from easyrlhf.tools.checking.table import CHECKS, MILDER


@dataclass(frozen=True)
class RowFinding:
    """What a check found in one data set: `count` of `total` (0 for what is there or not), and the first places."""

    check: str
    split: str
    count: int
    total: int
    places: tuple[str, ...] = ()
    detail: str = ""
    severity: str = ""

    @property
    def share(self) -> float:
        """Of all that was looked at; 1 for what is there or not."""
        return self.count / self.total if self.total else 1.0

    @property
    def remedy(self) -> str:
        """What to do about it."""
        return CHECKS[self.check].remedy

    @property
    def message(self) -> str:
        """`train: 3 of 1,000 rows are not UTF-8 (0.30 %)`, without the places."""
        says = CHECKS[self.check].says
        if not self.total:
            return f"{self.split}: {says}"
        return f"{self.split}: {self.count:,} of {self.total:,} {says} ({share_in_percent(self.share)}){self.detail}"


def share_in_percent(share: float) -> str:
    """`0.031 %`, `25 %`, `99.9 %`: two digits, and 100 % only for all."""
    value = 100 * share
    return f"{value:.2g} %" if value < 99 else f"{math.floor(10 * value) / 10:g} %"


def findings(config: CheckConfig, train: Split, valid: Split | None) -> list[RowFinding]:
    """All that was found, errors first. Lengths are judged only in tokens, when the settings name a model."""
    found: list[RowFinding] = []
    for split in filter(None, (train, valid)):
        found += counted_rows(split)
        found += dropped_for_content(split)
        found += [] if split.usable else [RowFinding("no_row", split.name, 1, 0)]
        found += repeated(split)
        found += balance(split)
        if config.model:
            found += over_length(split, config.max_length, config.max_prompt_length)
    if valid:
        found += leaks(train, valid)
    judged = [replace(one, severity=severity(one, config.on_bad_row)) for one in found]
    return sorted(judged, key=lambda one: (list(MILDER).index(one.severity), list(CHECKS).index(one.check)))


def severity(finding: RowFinding, on_bad_row: str) -> str:
    """By the table."""
    check = CHECKS[finding.check]
    if check.stops and on_bad_row == "skip":
        return "warning"
    return check.severity if finding.share > check.threshold else MILDER[check.severity]


def counted_rows(split: Split) -> Iterator[RowFinding]:
    """What was counted row by row."""
    for name, found in split.found.items():
        total = len(split.files) if name == "unreadable_file" else 0 if name.startswith("template_") else split.read
        yield RowFinding(name, split.name, found.count, total, tuple(found.places))


def dropped_for_content(split: Split) -> Iterator[RowFinding]:
    """Files of which a stage would drop so many rows that it stops instead."""
    for file in split.files:
        if too_many(file.faults, file.read) is not None:
            yield RowFinding("dropped_for_content", split.name, file.faults.total(), file.read, (file.name,))


def repeated(split: Split) -> Iterator[RowFinding]:
    """Rows that say what an earlier one says, and rows that say the opposite of another."""
    rows, answers = np.asarray(split.rows), np.asarray(split.answers)
    if again := later_copies(rows):
        shown = [f"{split.places[row]} as {split.places[first_of(rows, row)]}" for row in again[:EXAMPLES]]
        name = "repeated_prompts" if split.kind == "prompt" else "duplicates"
        yield RowFinding(name, split.name, len(again), split.usable, tuple(shown))
    _, first = np.unique(rows, return_index=True)  # every different row once
    first.sort()
    if opposite := [int(first[i]) for i in later_copies(answers[first])]:
        shown = [f"{split.places[row]} against {split.places[first_of(answers, row)]}" for row in opposite[:EXAMPLES]]
        yield RowFinding("contradictions", split.name, len(opposite), split.usable, tuple(shown))


def later_copies(hashes: np.ndarray) -> list[int]:
    """Numbers of all rows whose hash an earlier row has, ascending."""
    order = np.argsort(hashes, kind="stable")
    same = hashes[order[1:]] == hashes[order[:-1]]
    return np.sort(order[1:][same]).tolist()


def first_of(hashes: np.ndarray, row: int) -> int:
    """The first row with the hash of this one."""
    return int(np.argmax(hashes == hashes[row]))


def leaks(train: Split, valid: Split) -> Iterator[RowFinding]:
    """Held-out rows that were trained on, and held-out rows whose prompt was."""
    columns = [("leaked_rows", train.rows, valid.rows)]
    if valid.kind != "prompt":
        columns.append(("leaked_prompts", train.prompts, valid.prompts))
    for name, trained, held_out in columns:
        ours, theirs = np.asarray(trained), np.asarray(held_out)
        shared = np.flatnonzero(np.isin(theirs, ours)).tolist()
        if shared:
            first = [(row, int(np.argmax(ours == theirs[row]))) for row in shared[:EXAMPLES]]
            shown = tuple(f"{valid.places[row]} as {train.places[other]}" for row, other in first)
            yield RowFinding(name, valid.name, len(shared), valid.usable, shown)


def balance(split: Split) -> Iterator[RowFinding]:
    """Whether labels say the same of all answers, or lean; whether length tells which answer was chosen."""
    liked, disliked = split.labels[True], split.labels[False]
    if bool(liked) != bool(disliked):
        yield RowFinding("one_label", split.name, liked + disliked, liked + disliked)
    elif liked and not 1 <= liked / disliked <= 4 / 3:
        fitting = disliked / liked
        detail = f": --desirable_weight {fitting:.2g} to {fitting * 4 / 3:.2g} would fit"
        yield RowFinding("label_balance", split.name, liked, liked + disliked, detail=detail)
    longer, shorter = split.longer[1], split.longer[-1]
    if longer or shorter:
        word = "longer" if longer >= shorter else "shorter"
        detail = f": the {word}"
        yield RowFinding("length_bias", split.name, max(longer, shorter), split.longer.total(), detail=detail)


def over_length(split: Split, max_length: int, max_prompt_length: int) -> Iterator[RowFinding]:
    """Rows that a stage would drop for these limits, and the limits under which 99 % would stay."""
    prompts, totals = np.asarray(split.lengths.prompt), np.asarray(split.lengths.total)
    long = np.flatnonzero((prompts > max_prompt_length) | (totals > max_length)).tolist()
    if not long:
        return
    total, prompt = (quantiles(values, 0.995)[0] for values in (totals, prompts))  # together they keep 99 %
    advice = f"--max_length {max(max_length, total)} --max_prompt_length {max(max_prompt_length, prompt)} keeps 99 %"
    detail = f" for --max_length {max_length} --max_prompt_length {max_prompt_length}; {advice}"
    shown = tuple(
        f"{split.places[row]} has {totals[row]:,} tokens, {prompts[row]:,} of them in the prompt"
        for row in long[:EXAMPLES]
    )
    yield RowFinding("over_length", split.name, len(long), split.usable, shown, detail)


def quantiles(values: np.ndarray, *shares: float) -> list[int]:
    """For each share the smallest of the values that at least this share of them does not exceed."""
    return [int(one) for one in np.quantile(values, shares, method="inverted_cdf")] if len(values) else []
