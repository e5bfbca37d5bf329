"""easyrlhf label ai: pairs and rankings labelled by a judge, which is one more annotator; docs/rlaif.md."""

import hashlib
import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from easyrlhf.config import LabelAIConfig
from easyrlhf.errors import InputError
from easyrlhf.files import hold_file
from easyrlhf.judges.asking import Answering, Ask, Budget, Replies, Reply, answer_inquiries
from easyrlhf.judges.constitution import read_constitution
from easyrlhf.judges.judges import AskedFunction, check_judge, find_answering
from easyrlhf.labels.rows import JUDGE, NewLabel, StoredItem, StoredLabel, as_json
from easyrlhf.labels.store import Store
from easyrlhf.labels.values import ANSWER, CHAT, ORDER, PAIR, PROBABILITY, RANKING
from easyrlhf.report.console import counting_bar, say
from easyrlhf.tools.labelling.ai_questions import (
    JudgedPair,
    JudgesLabel,
    Manner,
    VerdictQuestion,
    Verdicts,
    conclude,
    judged_pairs,
)
from easyrlhf.tools.labelling.ai_report import AskedSoFar, judge_report, report_lines
from easyrlhf.tools.labelling.reply_box import HOLD, ReplyBox
from easyrlhf.tools.resumable import write_result

KINDS = (PAIR, CHAT, RANKING)  # answers beside each other; a single answer is left to people
AT_ONCE = 1000  # labels of one transaction


def label_by_judge(config: LabelAIConfig) -> dict[str, Any]:
    """Have every pair and ranking judged, as far as that is not done, and print and write what the judge is like.

    returns  what judge-NAME.json holds
    Raises InputError for a judge, a constitution or labels that cannot be used; RunError when the judge fails;
    RunStopped when the budget is used up. What was said until then is kept, and complete items have their labels.
    """
    principles = read_constitution(config.constitution, ("compare",)) if config.constitution else []
    with Store(config.labels) as store:
        items = comparable(store)
        judge = find_answering(config)
        check_columns(config, judge, items)
        me = store.annotator(config.annotator, JUDGE).id
        taken = f"--labels {config.labels}: another command labels as {config.annotator} there; wait for it"
        with hold_file(store.folder / f"{judge_file(config.annotator)}.lock", taken):
            identity = json.dumps([judge.model, config.judge_temperature])
            settings = (principles, config.principles == "all", config.votes, config.thoughts, config.seed, identity)
            sitting = JudgeSitting(config, store, judge, me, Manner(*settings))
            sitting.ask()
            return sitting.report()


def comparable(store: Store) -> list[StoredItem]:
    """The items that a judge can compare the answers of. Raises InputError where there are none."""
    items = list(store.items(KINDS))
    if not items:
        raise InputError(f"--labels {store.folder}: holds no pairs and no rankings, which a judge can compare")
    return items


class JudgeSitting:
    """A judge before the items of a store.

    me      number of the annotator
    known   (item, request) → reply, of all sittings
    found   verdicts by question
    box     where the replies of a python function wait for each other; None: each is stored as it comes
    """

    def __init__(self, config: LabelAIConfig, store: Store, judge: Answering, me: int, manner: Manner):
        self.config, self.store, self.judge, self.me, self.manner = config, store, judge, me, manner
        self.items = comparable(store)
        self.known = store.replies(me)
        self.found: Verdicts = {}
        used = sum(reply.get("tokens", 0) for reply in self.known.values())
        self.budget = Budget(config.judge_budget, used)
        quick = isinstance(judge, AskedFunction)  # and asked from one thread
        self.box = ReplyBox(lambda replies: store.add_replies(me, replies), HOLD) if quick else None

    def ask(self) -> None:
        """Ask what has not been asked; whatever ends this, items of which all was said get their labels."""
        inquiries = [
            self.manner.inquiry(item, question, self.found)
            for item in self.items
            for question in self.manner.questions(item)
        ]
        try:
            with counting_bar("judgement", len(inquiries), 0) as advance:
                answer_inquiries(self.judge, inquiries, Replies(self.known_reply, self.keep), self.budget, advance)
        finally:
            if self.box:
                self.box.empty()
            self.label()

    def known_reply(self, question: VerdictQuestion, ask: Ask) -> Reply | None:
        """What was replied to a question in this or another sitting."""
        found = self.known.get((question.item, self.manner.request(question, ask)))
        return None if found is None else Reply.of(found)

    def keep(self, question: VerdictQuestion, ask: Ask, reply: Reply) -> None:
        """Store a reply, on disk when this returns; soon after where a box takes it."""
        row = (question.item, self.manner.request(question, ask), reply.as_dict())
        if self.box:
            self.box.add(*row)
        else:
            self.store.add_reply(self.me, *row)

    def concluded(self) -> Iterator[tuple[StoredItem, list[JudgedPair], JudgesLabel | None]]:
        """The items of which all was said, with what follows; None where too little could be read."""
        for item in self.items:
            if pairs := judged_pairs(item, self.manner, self.found):
                yield item, pairs, conclude(pairs, self.config.average, self.config.limits)

    def label(self) -> None:
        """Make this annotator's labels what follows from the replies: new ones, and others in place of those before."""
        given: dict[int, list[StoredLabel]] = {}
        for label in self.store.labels(undone=True):
            if label.annotator == self.me:
                given.setdefault(label.item, []).append(label)
        changes = self.changes(given)
        while part := list(islice(changes, AT_ONCE)):
            undone = [label for standing, _ in part for label in standing]
            self.store.replace_labels(self.me, undone, [new for _, new in part if new])

    def changes(self, given: dict[int, list[StoredLabel]]) -> Iterator[tuple[list[str], NewLabel | None]]:
        """For each item whose label is not what follows now: the ids that no longer stand, and the new one, if any."""
        for item, _, conclusion in self.concluded():
            before = given.get(item.id, [])
            standing = [label for label in before if label.undone is None]
            if conclusion and any(says_the_same(label, conclusion) for label in standing):
                continue
            new = self.new_label(item, conclusion, len(before)) if conclusion else None
            if standing or new:
                yield [label.id for label in standing], new

    def new_label(self, item: StoredItem, conclusion: JudgesLabel, earlier: int) -> NewLabel:
        """A label, whose id tells it from earlier ones of the same item."""
        words = as_json([self.me, item.id, earlier, conclusion.value, conclusion.detail])
        name = hashlib.sha256(words.encode()).hexdigest()[:32]
        scale, shown = ORDER if item.kind == RANKING else PROBABILITY, list(range(len(item.answers)))
        return NewLabel(name, item.id, self.me, conclusion.value, scale, shown, detail=conclusion.detail)

    def report(self) -> dict[str, Any]:
        """Print what the judge is like, and write it beside the labels."""
        alone = sum(1 for _ in self.store.items((ANSWER,)))
        asked = AskedSoFar(self.budget.asked, self.budget.used, len(self.items), alone, self.store.labels())
        found = judge_report(self.config, self.me, list(self.concluded()), asked)
        file = self.store.folder / f"{judge_file(self.config.annotator)}.json"
        write_result(file, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        say([*report_lines(found), str(file)])
        return found


def says_the_same(label: StoredLabel, conclusion: JudgesLabel) -> bool:
    """Whether a label is what follows now."""
    return as_json([label.value, dict(label.detail)]) == as_json([conclusion.value, conclusion.detail])


def check_columns(config: LabelAIConfig, judge: Answering, items: list[StoredItem]) -> None:
    """Raise InputError when a judging function cannot be called with the columns of the items."""
    if isinstance(judge, AskedFunction):
        check_judge(config, judge.judge, {name for item in items for name in item.columns}, "--labels")


def judge_file(annotator: str) -> str:
    """What a judge's files are called."""
    return "judge-" + "".join(c if c.isalnum() or c in "._-" else "_" for c in annotator)
