"""What the organiser sees, how far and how agreed the labelling is, and what he decides."""

from dataclasses import asdict, dataclass
from typing import Any

from easyrlhf.errors import InputError
from easyrlhf.labels.progress import disagreements, progress_of
from easyrlhf.labels.rows import ANNOTATOR, REFEREE, Annotator, StoredItem, StoredLabel
from easyrlhf.labels.store import CONFLICT, Store
from easyrlhf.labels.values import COMPARED, PAIR, PROBABILITY, STRENGTHS
from easyrlhf.labels.web.bodies import label_of_body
from easyrlhf.labels.web.tasks import shown_text
from easyrlhf.labels.web.wording import choices_of
from easyrlhf.web.refusals import Refusal

MOST = 20  # items of each sort
DECIDED_ON = "3"  # the scale of a decision


@dataclass(frozen=True)
class Organiser:
    """The store, as the organiser meets it."""

    store: Store
    overlap: int

    def overview(self) -> dict[str, Any]:
        """Progress, agreement, and what there is to decide."""
        progress = progress_of(self.store, self.overlap)
        names = {one.id: one.label for one, _ in progress.by}
        return {
            "given": progress.given,
            "wanted": progress.wanted,
            "parked": progress.parked,
            "people": self.people(progress.by),
            "agree": self.agreement(names),
            "disputes": self.disputes(names),
        }

    def people(self, by: list[tuple[Annotator, dict[str, Any]]]) -> dict[str, Any]:
        """The table of those who label."""
        rows = [
            [told_name(one), f"{done['labels']:,}", f"{done['skips']:,}", per_label(done)]
            for one, done in by
            if one.role != REFEREE or done["labels"]
        ]
        return {"head": ["name", "labels", "skips", "seconds a label"], "rows": rows}

    def disputes(self, names: dict[int, str]) -> list[dict[str, Any]]:
        """Items that were skipped three times, then pairs on which labels, or rewards and labels, disagree most."""
        decided = {label.item for label in self.store.labels() if label.role == REFEREE}
        parked = [item for item in self.store.items() if item.parked and item.id not in decided]
        among, rewards = disagreements(self.store, MOST)
        reasons = [
            *((item, "three people have skipped it.") for item in parked[:MOST]),
            *((one.item, f"{one.share:.0%} of its labels are for A.") for one in among),
            *((one.item, f"labels and rewards differ: A's is {one.difference:+.2f} from B's.") for one in rewards),
        ]
        found: dict[int, tuple[StoredItem, list[str]]] = {}
        for item, why in reasons:
            found.setdefault(item.id, (item, []))[1].append(why)
        return [self.dispute(item, " ".join(why), names) for item, why in found.values()]

    def dispute(self, item: StoredItem, why: str, names: dict[int, str]) -> dict[str, Any]:
        """An item to decide, its answers in the order in which it has them."""
        said = [self.told(label, names) for label in self.store.labels(item.id)]
        skips = [
            f"{names.get(event['annotator'])} skipped: {event['detail']['reason']}"
            for event in self.store.events()
            if event["what"] == "skip" and event["item"] == item.id
        ]
        return {
            "item": item.id,
            "why": why,
            "scale": DECIDED_ON,
            "choices": [asdict(one) for one in choices_of(item.kind, DECIDED_ON)] if item.kind in COMPARED else [],
            "parked": item.parked,
            "prompt": shown_text(item.prompt),
            "answers": [shown_text(answer) for answer in item.answers],
            "labels": [*said, *skips],
        }

    def told(self, label: StoredLabel, names: dict[int, str]) -> str:
        """What one has said of an item."""
        if label.scale == PROBABILITY:
            words = f"A is better with probability {label.value:.2f}"
        else:
            choices = choices_of(PAIR, label.scale) if label.scale in STRENGTHS else []
            words = next((one.label for one in choices if one.value == label.value), f"{label.scale} {label.value}")
        more = [*label.flags, *([f"“{label.note}”"] if label.note else [])]
        return f"{names.get(label.annotator)}: {words}" + (f" ({', '.join(more)})" if more else "")

    def agreement(self, names: dict[int, str]) -> dict[str, Any]:
        """What easyrlhf label agree says, with the names of people."""
        from easyrlhf.labels.measures import measured_labels, read_labels
        from easyrlhf.report import agreement_page as page

        try:
            found = measured_labels(read_labels(self.store))
        except InputError:
            return {"lead": "Nobody has labelled anything yet.", "remarks": [], "tables": []}
        tables = [
            (page.PART_HEAD, page.part_rows(found)),
            (page.WHO_HEAD, page.who_rows(found, names)),
            (page.MATRIX_HEAD, page.matrix_rows(found, names)),
        ]
        return {
            "lead": page.agreement_lead(found) + ".",
            "remarks": page.agreement_remarks(found, names),
            "tables": [{"head": head, "rows": rows} for head, rows in tables if rows],
        }

    def unpark(self, item: int, referee: int) -> dict[str, str]:
        """Give an item back to those who have not skipped it."""
        self.store.unpark(item, referee)
        return {"words": "Back in the queue, for those who have not skipped it."}

    def decide(self, body: Any, referee: int) -> dict[str, str]:
        """Keep a decision, about the answers in the item's own order. Raises InputError and Refusal."""
        number = body.get("item") if isinstance(body, dict) else None
        shown = list(range(len(self.store.item(number).answers))) if type(number) is int else None
        label = label_of_body(body, referee, shown=shown)
        if self.store.add_label(label) == CONFLICT:
            raise Refusal("this decision is there with another value; reload the page", status=409, code="conflict")
        chosen = next((one.label for one in choices_of(PAIR, label.scale) if one.value == label.value), label.value)
        return {"words": f"Decided: {chosen}."}


def told_name(one: Annotator) -> str:
    """How one is called in a table; what he is, where that is no person who labels."""
    return one.label if one.role == ANNOTATOR else f"{one.label} ({one.role})"


def per_label(done: dict[str, Any]) -> str:
    """Seconds a label, for the table."""
    return f"{done['seconds'] / done['labels']:.1f}" if done["labels"] else "–"
