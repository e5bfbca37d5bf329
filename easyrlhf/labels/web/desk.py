"""What annotators are handed and what they hand in; every method asks the store and may wait for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from easyrlhf.labels.conversations import read_conversation
from easyrlhf.labels.queue import NEXT, STILL_OPEN
from easyrlhf.labels.rows import ANNOTATOR, Given, NewLabel
from easyrlhf.labels.store import CONFLICT, Store
from easyrlhf.labels.web.tasks import sources_told, task_of
from easyrlhf.web.refusals import Refusal

PEOPLES = f"""
SELECT COUNT(*) FROM label l JOIN annotator a ON a.id = l.annotator WHERE a.role = '{ANNOTATOR}' AND l.undone IS NULL
"""
MINE = "SELECT COUNT(*) FROM label WHERE annotator = ? AND undone IS NULL"
LONGEST_REASON = 200  # characters
MOST_COUNTED = 1001  # items that are left; counting all of them would take longer than labelling one


@dataclass(frozen=True)
class Desk:
    """The store, as annotators meet it.

    scale    of pairs, or likert
    overlap  labels that each item is to have
    until    labels of people after which the server ends; None: it does not end
    flags    name, label and key of each
    reveal   whether sources are told once the label is given
    there    numbers of those who are asked to label, and of all others who have come by since
    talks    whether live conversations are labelled, of which there is no last one
    """

    store: Store
    scale: str
    overlap: int
    until: int | None
    flags: Sequence[dict[str, str]]
    guidelines: str
    reveal: bool
    there: set[int]
    talks: bool

    def given(self, annotator: int) -> dict[str, Any]:
        """The next item of an annotator, or that there is none."""
        self.there.add(annotator)
        found = self.store.next_item(annotator, self.overlap)
        return self.handed(annotator, found)

    def handed(self, annotator: int, found: Given | None) -> dict[str, Any]:
        """An item as the page gets it."""
        task = found and task_of(found, self.scale)
        return {"task": task, "progress": self.progress(annotator, int(found is not None))}

    def progress(self, annotator: int, hands: int) -> dict[str, int]:
        """His labels, and how many items he could still be given, MOST_COUNTED at most; that in his hands is one."""
        values = {"me": annotator, "now": self.store.clock(), "overlap": self.overlap}
        [left] = self.store.read(f"SELECT COUNT(*) FROM ({NEXT} LIMIT {MOST_COUNTED})", values)
        return {"done": self.done(annotator), "left": max(left[0], hands)}

    def done(self, annotator: int) -> int:
        """How many labels of his stand."""
        return self.store.read(MINE, (annotator,))[0][0]

    def keep(self, label: NewLabel) -> dict[str, Any]:
        """Put a label into the store; it is on disk when this returns. Raises InputError, Refusal for a conflict."""
        item = self.store.item(label.item)
        talk = item.conversation
        if talk is not None and read_conversation(self.store, talk).annotator != label.annotator:
            raise Refusal("this conversation is another's", status=404)
        status = self.store.add_label(label)
        if status == CONFLICT:
            message = "this task has another label of yours already; take that one back first"
            raise Refusal(message, status=409, code="conflict")
        revealed = {"revealed": sources_told(item, self._shown(label))} if self.reveal else {}
        return {"status": status} | revealed

    def _shown(self, label: NewLabel) -> Sequence[int]:
        """The order in which the answers of a label that is kept were shown."""
        return next(one.shown for one in self.store.labels(label.item) if one.id == label.id)

    def skip(self, annotator: int, item: int, reason: str) -> None:
        """Pass an item. Raises InputError, and Refusal for a reason that says nothing or too much."""
        if not reason.strip() or len(reason) > LONGEST_REASON:
            raise Refusal(f"reason: must be a text of up to {LONGEST_REASON} characters", status=422, param="reason")
        if self.store.item(item).conversation is not None:
            raise Refusal("a turn of a conversation cannot be skipped; begin a new one", status=422, param="item")
        self.store.skip(annotator, item, reason.strip())

    def undo(self, annotator: int) -> dict[str, Any]:
        """Take the last label back; what it held is given with its item. Raises Refusal where there is none."""
        found = self.store.undo(annotator)
        if found is None:
            raise Refusal("There is no label of yours to take back.", status=409, code="nothing_to_undo")
        labels = self.store.labels(found.item.id, undone=True)
        last = max((one for one in labels if one.annotator == annotator and one.undone), key=lambda one: one.undone)
        again = {"flags": list(last.flags), "note": last.note, "edit": last.edit}
        return self.handed(annotator, found) | {"again": again, "words": "Taken back."}

    def people_labels(self) -> int:
        """How many labels of people stand."""
        return self.store.read(PEOPLES)[0][0]

    def has_enough(self) -> bool:
        """Whether --until is reached."""
        return self.until is not None and self.people_labels() >= self.until

    def has_given_all(self) -> bool:
        """Whether --until cannot be reached: nobody who is there could be given anything any more.

        What an annotator has labelled or skipped is not given to him again; nor is what was parked or decided.
        """
        if self.until is None or self.talks:
            return False
        return not any(self.is_open_to(one) for one in tuple(self.there))

    def is_open_to(self, annotator: int) -> bool:
        """Whether an item wants a label of his, be it in another's hands now."""
        return bool(self.store.read(STILL_OPEN, {"me": annotator, "overlap": self.overlap})[0][0])

    def thanks(self, annotator: int) -> dict[str, Any]:
        """What the page shows when no more labels are wanted, or none can be given."""
        given = self.people_labels()
        title = f"All {self.until:,} labels are there."
        if given < self.until:
            title = f"Everything is labelled or skipped; {given:,} labels are there."
        return {"task": None, "title": title, "progress": {"done": self.done(annotator), "left": 0}}
