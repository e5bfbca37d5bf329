"""What the organiser sees, how far and how agreed the labelling is, and what he decides."""

from dataclasses import asdict, dataclass
from string import ascii_uppercase
from typing import Any

from easyrlhf.errors import InputError
from easyrlhf.labels.progress import Disagreement, disagreements, progress_of
from easyrlhf.labels.rows import ANNOTATOR, REFEREE, Annotator, StoredItem, StoredLabel
from easyrlhf.labels.store import CONFLICT, Store
from easyrlhf.labels.values import ANSWER, COMPARED, ORDER, PROBABILITY, RANKING
from easyrlhf.labels.web.bodies import label_of_body
from easyrlhf.labels.web.tasks import shown_text
from easyrlhf.labels.web.wording import QUESTIONS, choices_of, question_of, scale_of
from easyrlhf.web.refusals import Refusal

MOST = 20  # items of each sort
DECIDED_ON = "3"  # the scale of a decision about two answers


@dataclass(frozen=True)
class Organiser:
    """The store, as the organiser meets it; `scale` is that of the settings, on which single answers are decided."""

    store: Store
    overlap: int
    scale: str

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
        """Items that were skipped three times, then those on which labels, or rewards and labels, disagree most."""
        decided = {label.item for label in self.store.labels() if label.role == REFEREE}
        parked = [item for item in self.store.items() if item.parked and item.id not in decided]
        among, rewards = disagreements(self.store, MOST)
        reasons = [
            *((item, "three people have skipped it.") for item in parked[:MOST]),
            *((one.item, words_of_split(one)) for one in among),
            *((one.item, words_of_opposition(one)) for one in rewards),
        ]
        found: dict[int, tuple[StoredItem, list[str]]] = {}
        for item, why in reasons:
            found.setdefault(item.id, (item, []))[1].append(why)
        return [self.dispute(item, " ".join(why), names) for item, why in found.values()]

    def dispute(self, item: StoredItem, why: str, names: dict[int, str]) -> dict[str, Any]:
        """An item to decide, its answers in the order in which it has them."""
        said = [self.told(item.kind, label, names) for label in self.store.labels(item.id)]
        skips = [
            f"{names.get(event['annotator'])} skipped: {event['detail']['reason']}"
            for event in self.store.events()
            if event["what"] == "skip" and event["item"] == item.id
        ]
        scale = DECIDED_ON if item.kind in COMPARED else scale_of(item.kind, self.scale)
        return {
            "item": item.id,
            "kind": item.kind,
            "why": why,
            "scale": scale,
            "question": question_of(item.kind, scale),
            "choices": [asdict(one) for one in choices_of(item.kind, scale)],
            "parked": item.parked,
            "prompt": shown_text(item.prompt),
            "answers": [shown_text(answer) for answer in item.answers],
            "labels": [*said, *skips],
        }

    def told(self, kind: str, label: StoredLabel, names: dict[int, str]) -> str:
        """What one has said of an item."""
        more = [*label.flags, *([f"“{label.note}”"] if label.note else [])]
        words = words_of_value(kind, label.scale, label.value)
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
        item = self.store.item(number) if type(number) is int else None
        label = label_of_body(body, referee, shown=list(range(len(item.answers))) if item else None)
        if self.store.add_label(label) == CONFLICT:
            raise Refusal("this decision is there with another value; reload the page", status=409, code="conflict")
        return {"words": f"Decided: {words_of_value(item.kind, label.scale, label.value)}."}


def words_of_split(one: Disagreement) -> str:
    """How far the labels of an item differ."""
    if one.item.kind == RANKING:
        return f"labels differ on {len(one.split)} of its {len(one.shares)} pairs of answers."
    [share] = one.shares.values()
    return f"{share:.0%} of its labels {'like it' if one.item.kind == ANSWER else 'are for A'}."


def words_of_opposition(one: Disagreement) -> str:
    """How far labels and rewards differ."""
    if one.item.kind == RANKING:
        return f"labels and rewards differ on {one.opposed} of its {len(one.differences)} pairs of answers."
    [difference] = one.differences.values()
    return f"labels and rewards differ: A's is {difference:+.2f} from B's."


def words_of_value(kind: str, scale: str, value: Any) -> str:
    """A label as its button says it, or as an order of letters."""
    if scale == PROBABILITY:
        return f"A is better with probability {value:.2f}"
    if scale == ORDER:
        return " > ".join(" = ".join(ascii_uppercase[place] for place in equals) for equals in value)
    words = next(one.label for one in choices_of(kind, scale) if one.value == value)
    return f"{QUESTIONS[scale]} {words}" if kind == ANSWER else words


def told_name(one: Annotator) -> str:
    """How one is called in a table; what he is, where that is no person who labels."""
    return one.label if one.role == ANNOTATOR else f"{one.label} ({one.role})"


def per_label(done: dict[str, Any]) -> str:
    """Seconds a label, for the table."""
    return f"{done['seconds'] / done['labels']:.1f}" if done["labels"] else "–"
