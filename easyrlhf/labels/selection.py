"""Which labels count: whose, of which items, with which flags."""

from collections import Counter, defaultdict
from dataclasses import dataclass

from easyrlhf.errors import InputError
from easyrlhf.labels.rows import REFEREE, Annotator, StoredItem, StoredLabel
from easyrlhf.labels.store import Store

FLAGGED, TOO_FEW, UNLABELLED = "flagged items", "items with fewer labels than --min_labels", "items without a label"


@dataclass(frozen=True)
class ChosenLabels:
    """The items that count, and of each its labels that do; all of one moment.

    annotators  all of the store, by number
    left_out    how many items count for nothing, by reason
    """

    items: list[StoredItem]
    labels: dict[int, list[StoredLabel]]
    annotators: dict[int, Annotator]
    left_out: Counter

    @property
    def all(self) -> list[StoredLabel]:
        """All labels, item by item."""
        return [label for item in self.items for label in self.labels[item.id]]


def numbers_of(store: Store, flag: str, names: tuple[str, ...]) -> set[int]:
    """The numbers of annotators that are named, or given by number. Raises InputError for one that is not there."""
    known = store.annotators()
    by_name = {one.name: one.id for one in known if one.name} | {str(one.id): one.id for one in known}
    for name in names:
        if name not in by_name:
            there = ", ".join(one.label for one in known) or "none"
            raise InputError(f"--{flag} {name}: no annotator has this name or number; there are: {there}")
    return {by_name[name] for name in names}


def choose_labels(
    store: Store,
    only: tuple[str, ...] = (),
    exclude: tuple[str, ...] = (),
    drop_flags: tuple[str, ...] = (),
    min_labels: int = 1,
) -> ChosenLabels:
    """The labels that count, by item and annotator; never those of checks, of own pairs shown again, and taken back.

    only, exclude  names or numbers of annotators
    drop_flags     an item of which one of these labels has one of these flags is left out
    min_labels     an item with fewer is left out, unless a referee has decided on it
    Raises InputError for an annotator who is not there.
    """
    with store.snapshot():
        chosen = numbers_of(store, "annotators", only) or {one.id for one in store.annotators()}
        chosen -= numbers_of(store, "exclude", exclude)
        items, labels = [item for item in store.items() if item.truth is None], store.labels()
        annotators = {one.id: one for one in store.annotators()}
    of_item: dict[int, list[StoredLabel]] = defaultdict(list)
    for label in labels:
        if label.annotator in chosen and not label.repeat:
            of_item[label.item].append(label)
    kept, left_out = [], Counter()
    for item in items:
        if reason := reason_left_out(of_item[item.id], drop_flags, min_labels):
            left_out[reason] += 1
        else:
            kept.append(item)
    # By annotator, not by time: who pressed first must not be seen in the rows, down to the last bit of a sum.
    ordered = {item.id: sorted(of_item[item.id], key=lambda one: (one.annotator, one.at, one.id)) for item in kept}
    return ChosenLabels(kept, ordered, annotators, left_out)


def reason_left_out(labels: list[StoredLabel], drop_flags: tuple[str, ...], min_labels: int) -> str | None:
    """Why an item with these labels does not count; None where it does."""
    if not labels:
        return UNLABELLED
    if any(flag in drop_flags for label in labels for flag in label.flags):
        return FLAGGED
    if len(labels) < min_labels and not any(label.role == REFEREE for label in labels):
        return TOO_FEW
    return None
