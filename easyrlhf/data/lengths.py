"""Rows that are too long: drop them, or cut their prompts from the left; never cut an answer."""

import math
from array import array
from dataclasses import dataclass, field
from typing import Any

from easyrlhf.data.huge import Huge
from easyrlhf.data.ledger import quantile
from easyrlhf.data.records import Record
from easyrlhf.errors import InputError

TOLERATED = 0.10  # share of all rows that may be dropped for their length


@dataclass
class Limits:
    """The two limits, in tokens, and the lengths seen so far, from which advice is given.

    max_length         prompt and completion together
    max_prompt_length  prompt alone
    overlength         drop or truncate, as it was set; None: rows are dropped, and there is no such setting
    bos                kept at the front when a prompt is cut (None: the tokenizer has none)
    places             tokens that the model was made for (None: not known)
    tolerated          share of all rows that may be dropped for their length
    huge               knows records that need not be tokenised; None: all are
    """

    max_length: int
    max_prompt_length: int
    overlength: str | None
    bos: int | None
    places: int | None = None
    tolerated: float = TOLERATED
    huge: Huge | None = None
    prompts: array = field(default_factory=lambda: array("l"))
    totals: array = field(default_factory=lambda: array("l"))
    cut: int = 0  # records of which something was cut
    least: float = 1.0  # the smallest share that was left of one

    def refuses(self, record: Record) -> bool:
        """Whether a record is so long that it need not be tokenised; its lengths are estimated then."""
        lengths = self.huge and self.huge.lengths(record, answers_alone=self.overlength == "truncate")
        if lengths:
            self.prompts.append(lengths[0])
            self.totals.append(sum(lengths))
        return bool(lengths)

    def fit(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]] | None:
        """The token rows of one record, cut where that is asked for and possible, or None when one is too long."""
        self.prompts.append(max(map(_prompt_length, rows)))
        self.totals.append(max(row["length"] for row in rows))
        fitting = [self._fitted(row) for row in rows]
        if None in fitting:
            return None
        left = min(new["length"] / row["length"] for new, row in zip(fitting, rows, strict=True))
        self.cut += left < 1
        self.least = min(left, self.least)
        return fitting

    def _fitted(self, row: dict[str, Any]) -> dict[str, Any] | None:
        if _prompt_length(row) <= self.max_prompt_length and row["length"] <= self.max_length:
            return row
        if self.overlength != "truncate":
            return None
        return self._cut_conversation(row) if "input_ids" in row else self._cut_prompt(row)

    def _cut_prompt(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """Keep the end of the prompt; the answers stay whole."""
        prompt = row["prompt_ids"]
        answer = row["length"] - len(prompt)
        room = min(self.max_prompt_length, self.max_length - answer)
        if room < 1:
            return None
        kept = self._end_of(prompt, room)
        return {**row, "prompt_ids": kept, "length": len(kept) + answer}

    def _cut_conversation(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """Keep the end of a conversation, as long as its last answer is whole and has a context."""
        ids, mask = row["input_ids"], row["loss_mask"]
        first = mask.index(1)
        last = len(mask) - mask[::-1].index(0) if 0 in mask else 0
        room = min(self.max_length, len(ids) - first + min(first, self.max_prompt_length))
        if len(ids) - last + 1 > room:
            return None
        kept, kept_mask = self._end_of(ids, room), mask[-room:]
        if room < len(ids) - first:  # the cut is inside an answer: its rest is context only
            for i in range(kept_mask.index(0)):
                kept_mask[i] = 0
        if self.bos is not None and kept[0] == self.bos:
            kept_mask[0] = 0
        return {**row, "input_ids": kept, "loss_mask": kept_mask, "length": room}

    def _end_of(self, ids: list[int], room: int) -> list[int]:
        """The last `room` ids, behind the BOS when there was one: a token that opens every turn stays with its turn."""
        if room >= len(ids):
            return ids
        has_bos = self.bos is not None and ids[0] == self.bos and ids.count(self.bos) == 1 and room > 1
        return [ids[0], *ids[1 - room :]] if has_bos else ids[-room:]

    def notes(self, read: int, dropped: int) -> dict[str, int]:
        """What is to be said of lengths, with how many rows it is said of: many that were dropped, and what was cut."""
        said = {}
        if dropped > TOLERATED * read:
            said[f"rows dropped as too long, which are {dropped / read:.0%} of all"] = dropped
        if self.cut:
            said[f"rows cut from the left by --overlength truncate, one to {self.least:.0%} of its tokens"] = self.cut
        return said

    def check(self, name: str, read: int, dropped: int) -> None:
        """Raise InputError when more rows than are tolerated did not fit."""
        if dropped <= self.tolerated * read:
            return
        if dropped == len(self.totals):
            many = f"every one of the {dropped:,} rows is"
        else:
            many = f"{dropped:,} of {read:,} rows ({dropped / read:.0%}) are"
        cut = ", or cut prompts with --overlength truncate, or drop them all with --overlength drop"
        cut = cut if self.overlength == "drop" else ""
        raise InputError(
            f"{name}: {many} too long for --max_length {self.max_length} and --max_prompt_length "
            f"{self.max_prompt_length} (tokens; half of the rows have {quantile(self.totals, 0.5)}"
            f" or more, the longest {max(self.totals)}); {self._advice()}{cut}"
        )

    def _advice(self) -> str:
        """The smallest limits at hand under which 99 % of the rows fit, or as far as the model has places."""
        pairs = list(zip(self.prompts, self.totals, strict=True))
        for share in (0.99, 0.995, 1.0):
            prompt = max(self.max_prompt_length, quantile(self.prompts, share))
            total = max(self.max_length, quantile(self.totals, share))
            if sum(p <= prompt and t <= total for p, t in pairs) >= math.floor(0.99 * len(pairs)):
                break
        if self.places and total > self.places:
            total, prompt = self.places, min(prompt, self.places - 1)
            kept = sum(p <= prompt and t <= total for p, t in pairs) / len(pairs)
            outcome = f"would keep {kept:.0%}, and the model was made for no more than {self.places} tokens"
        else:
            outcome = "would keep 99 %"
        wanted = [f"--max_length {total}"] if total > self.max_length else []
        wanted += [f"--max_prompt_length {prompt}"] if prompt > self.max_prompt_length else []
        return f"{' with '.join(wanted) or 'these limits'} {outcome}"


def _prompt_length(row: dict[str, Any]) -> int:
    return row["loss_mask"].index(1) if "loss_mask" in row else len(row["prompt_ids"])
