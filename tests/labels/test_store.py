"""The store: what is acknowledged stays, an item goes to no more hands than wanted, nothing is deleted."""

import sqlite3

import pytest

from easyrlhf.errors import InputError, RunError
from easyrlhf.labels.conversations import add_turn, read_conversation, send_message, start_conversation
from easyrlhf.labels.progress import disagreements, progress_of
from easyrlhf.labels.rows import NewItem, NewLabel
from easyrlhf.labels.store import CONFLICT, KNOWN, NEW, Store


class Clock:
    """A clock that stands until it is set."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "labels", create=True, clock=Clock()) as store:
        store.read("PRAGMA synchronous = OFF")  # these tests end in no power cut
        store.secret = bytes(32)  # what is drawn by chance is the same in every run
        yield store


def pairs(count: int, **more) -> list[NewItem]:
    return [NewItem("pair", f"question {n}", [f"good {n}", f"bad {n}"], **more) for n in range(count)]


def give(store, who, item, value=1, id=None, **more) -> str:
    more = {"scale": "3", "shown": [0, 1]} | more
    return store.add_label(NewLabel(id or f"{who} {item}", item, who, value, **more))


def test_a_label_is_new_then_known_and_another_one_under_its_id_is_a_conflict(store):
    store.add_items(pairs(2))
    ann = store.annotator("ann").id
    assert give(store, ann, 1, id="x") == NEW
    assert give(store, ann, 1, id="x") == KNOWN
    assert give(store, ann, 1, value=-1, id="x") == CONFLICT
    assert give(store, ann, 2, id="x") == CONFLICT
    assert give(store, ann, 1, id="y") == CONFLICT  # the item has his label already
    assert [label.id for label in store.labels()] == ["x"]
    assert [event["what"] for event in store.events()].count("label") == 1


def test_a_value_is_kept_in_the_items_own_order(store):
    store.add_items([*pairs(1), NewItem("ranking", "q", ["a", "b", "c"])])
    ann = store.annotator("ann").id
    give(store, ann, 1, value=3, scale="7", shown=[1, 0])
    give(store, ann, 2, value=[[0], [1, 2]], scale="order", shown=[2, 0, 1])
    assert [label.value for label in store.labels()] == [-3, [[2], [0, 1]]]


def test_leases_and_labels_together_never_exceed_the_overlap(store):
    store.add_items(pairs(1))
    ann, bob = store.annotator("ann").id, store.annotator("bob").id
    assert store.next_item(ann).item.id == 1
    assert store.next_item(bob) is None
    assert store.next_item(bob, overlap=2).item.id == 1
    store.clock.now += 599
    assert store.renew(ann, 1) == 1000 + 599 + 600
    store.clock.now += 1
    assert store.renew(bob, 1) is None  # his ten minutes are over
    assert store.next_item(bob) is None
    store.clock.now += 599
    assert store.next_item(bob).item.id == 1  # ann's are over too
    assert give(store, ann, 1) == NEW  # late, and kept
    assert give(store, bob, 1) == NEW
    assert [(label.annotator, label.late) for label in store.labels()] == [(ann, True), (bob, False)]


def test_the_same_item_comes_back_after_a_reload_in_the_same_order(store):
    store.add_items(pairs(3))
    ann = store.annotator("ann").id
    first = store.next_item(ann)
    assert store.next_item(ann).item.id == first.item.id == 1
    assert store.next_item(ann).shown == first.shown
    assert store.next_item(ann, besides=[1]).item.id == 2


def test_sides_are_balanced(store):
    store.add_items(pairs(400))
    ann = store.annotator("ann").id
    first = sum(store.shown(item, ann) == [0, 1] for item in store.items())
    assert 160 < first < 240  # four standard deviations of a coin


def test_undo_marks_and_gives_back(store):
    store.add_items(pairs(2))
    ann = store.annotator("ann").id
    given = store.next_item(ann)
    give(store, ann, 1, id="x")
    assert store.undo(ann).item == given.item
    assert store.undo(ann) is None
    assert store.labels() == []
    assert [(label.id, label.undone) for label in store.labels(undone=True)] == [("x", 1000.0)]
    assert give(store, ann, 1, value=-1, id="z") == NEW
    assert [event["what"] for event in store.events()][-3:] == ["label", "undo", "label"]


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM event",
        "UPDATE event SET at = 0",
        "DELETE FROM label",
        "UPDATE label SET value = '1'",
    ],
)
def test_triggers_refuse(store, change):
    store.add_items(pairs(1))
    give(store, store.annotator("ann").id, 1)
    with sqlite3.connect(store.file) as other, pytest.raises(sqlite3.IntegrityError, match=r"append only|is undone"):
        other.execute(change)


def test_three_skips_park_an_item_until_the_organiser_puts_it_back(store):
    store.add_items(pairs(1))
    people = [store.annotator(name).id for name in ("ann", "bob", "cid", "dan")]
    assert [store.skip(one, 1, "both unreadable") for one in people[:3]] == [False, False, True]
    assert store.next_item(people[3]) is None
    store.unpark(1)
    assert store.next_item(people[0]) is None  # who has skipped it does not see it again
    assert store.next_item(people[3]).item.id == 1


def test_a_forgotten_name_is_in_no_file_and_its_labels_stay(store):
    store.add_items(pairs(1))
    ann = store.annotator("Annabel Lee").id
    token = store.new_token(ann)
    assert store.annotator_of(token).name == "Annabel Lee"
    give(store, ann, 1)
    assert store.forget("Annabel Lee") == ann
    assert store.annotator_of(token) is None
    assert all(b"Annabel" not in file.read_bytes() for file in store.folder.iterdir())
    assert store.labels()[0].annotator == ann
    with pytest.raises(InputError, match="no such name"):
        store.forget("Annabel Lee")


def test_a_referee_may_change_a_decision(store):
    store.add_items(pairs(1))
    judge = store.annotator("organiser", "referee").id
    assert give(store, judge, 1, value=1, id="a") == NEW
    assert give(store, judge, 1, value=-1, id="b") == NEW
    assert [label.value for label in store.labels()] == [-1]


def test_checks_and_own_pairs_are_mixed_in(store):
    store.add_items(pairs(300))
    store.add_items([NewItem("pair", f"check {n}", ["right", "wrong"], truth=0) for n in range(100)])
    store.keep_setting("check_share", 0.2)
    store.keep_setting("repeat_share", 0.1)
    ann = store.annotator("ann").id
    seen = []
    for turn in range(300):
        store.clock.now += 1
        given = store.next_item(ann)
        seen.append((given.item.truth is not None, given.repeat))
        assert given.shown == (store.shown(given.item, ann)[::-1] if given.repeat else store.shown(given.item, ann))
        assert store.add_label(NewLabel(f"{turn}", given.item.id, ann, 1, "2")) == NEW
    checks, repeats = (sum(kind) for kind in zip(*seen, strict=True))
    assert 35 < checks < 85  # 60 ± 7
    assert 12 < repeats < 48  # 30 ± 5
    assert sum(label.repeat for label in store.labels()) == repeats
    assert progress_of(store).given == 300 - checks - repeats


def test_a_conversation_goes_on_with_the_preferred_answer(store):
    ann = store.annotator("ann").id
    number = start_conversation(store, ann)
    send_message(store, number, "Hello")
    answers = [[{"role": "assistant", "content": text}] for text in ("Hi", "Go away")]
    given = add_turn(store, number, answers, [{}, {}])
    with pytest.raises(InputError, match="waits for its label"):
        send_message(store, number, "too early")
    assert read_conversation(store, number).open == given.item
    give(store, ann, given.item.id, value=-2, scale="7", id="1")
    send_message(store, number, "Why?")
    with pytest.raises(InputError, match="has gone on"):
        store.undo(ann)
    found = read_conversation(Store(store.folder), number)  # as after a restart
    assert [turn["content"] for turn in found.messages] == ["Hello", "Go away", "Why?"]
    assert found.said and found.open is None


def test_after_a_tie_a_conversation_goes_on_with_the_answer_shown_first(store):
    ann = store.annotator("ann").id
    number = start_conversation(store, ann)
    send_message(store, number, "Hello")
    answers = [[{"role": "assistant", "content": text}] for text in ("first", "second")]
    given = add_turn(store, number, answers, [{}, {}])
    give(store, ann, given.item.id, value=0, shown=[1, 0])
    assert read_conversation(store, number).messages[-1]["content"] == "second"


def test_progress_counts_what_is_wanted_and_what_each_has_done(store):
    """Five pairs, two labels each: one is parked, a check and a turn of a conversation want none."""
    store.add_items([*pairs(5), NewItem("pair", "check", ["right", "wrong"], truth=0)])
    people = [store.annotator(name).id for name in ("ann", "bob", "cid")]
    for who in people:
        store.skip(who, 5, "unclear")
    for who, item in ((0, 1), (1, 1), (2, 1), (0, 2), (0, 6)):
        give(store, people[who], item, seconds=1.5)
    give(store, store.annotator("judge", "judge").id, 3)
    number = start_conversation(store, people[0])
    send_message(store, number, "Hello")
    add_turn(store, number, [[{"role": "assistant", "content": text}] for text in "ab"], [{}, {}])
    found = progress_of(store, overlap=2)
    assert (found.items, found.parked) == ({"chat": 1, "pair": 5}, 1)
    assert (found.wanted, found.given, found.done) == (8, 3, False)  # a third label of an item is beyond what is wanted
    done = {one.name: counts for one, counts in found.by}
    assert done["ann"] == {"labels": 3, "seconds": 4.5, "skips": 1}
    assert done["judge"] == {"labels": 1, "seconds": 0.0, "skips": 0}


def test_disagreements_come_worst_first(store):
    rewards = [{"reward": 2.0}, {"reward": -1.0}]
    store.add_items(pairs(3, sources=rewards))
    ann, bob = store.annotator("ann").id, store.annotator("bob").id
    for who, values in ((ann, (1, 1, -1)), (bob, (1, -1, -1))):
        for item, value in enumerate(values, 1):
            give(store, who, item, value=value)
    among, with_rewards = disagreements(store)
    assert [(one.item.id, one.among_labels) for one in among] == [(2, 1.0)]
    assert [(one.item.id, one.with_rewards) for one in with_rewards] == [(3, 3.0)]


@pytest.mark.parametrize(
    ("kind", "scale", "value", "expected"),
    [
        ("pair", "2", 0, "from -1 to 1 but 0"),
        ("pair", "7", 4, "from -3 to 3"),
        ("pair", "8", 0, "but 0"),
        ("pair", "3", True, "whole number"),
        ("pair", "probability", 1.1, "from 0 to 1"),
        ("pair", "liked", True, "takes one of 2, 3, 7, 8, probability"),
        ("ranking", "order", [[0], [1]], "numbers 0 to 2 once each"),
        ("ranking", "order", [[0, 1, 2], []], "numbers 0 to 2 once each"),
        ("answer", "likert", 8, "from 1 to 7"),
        ("answer", "liked", 1, "true or false"),
    ],
)
def test_a_value_that_the_scale_does_not_have_is_refused(store, kind, scale, value, expected):
    answers = {"pair": ["a", "b"], "ranking": ["a", "b", "c"], "answer": ["a"]}[kind]
    store.add_items([NewItem(kind, "q", answers)])
    with pytest.raises(InputError, match=expected):
        give(store, store.annotator("ann").id, 1, value, scale=scale, shown=None)
    assert store.labels() == []


def test_the_same_item_twice_is_one(store):
    item = NewItem("pair", "q", ["a", "b"])
    turned = NewItem("pair", "q", ["b", "a"])
    assert store.add_items([item, turned, NewItem("pair", "q", ["a", "c"])]) == [(1, True), (1, False), (2, True)]


def test_no_labels_are_there(tmp_path):
    with pytest.raises(InputError, match=r"easyrlhf label import FILE --labels .* makes them"):
        Store(tmp_path / "none")
    (tmp_path / "labels.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(InputError, match="is not a file of labels"):
        Store(tmp_path)


def test_a_file_system_without_a_log_is_an_error_in_words(tmp_path, monkeypatch):
    """SQLite's unix-dotfile has no shared memory, and so no log, as some network file systems have none."""
    connect = sqlite3.connect
    monkeypatch.setattr(
        sqlite3, "connect", lambda file, **how: connect(f"file:{file}?vfs=unix-dotfile", uri=True, **how)
    )
    with pytest.raises(InputError, match=r"no place for SQLite's write-ahead log .* give a --labels folder on a disk"):
        Store(tmp_path, create=True)


def test_a_full_disk_is_an_error_in_words_and_what_was_there_stays(store):
    store.add_items(pairs(3))
    pages = store.read("PRAGMA page_count")[0][0]
    store.read(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(RunError, match=r"could not be written .* make room there. What was there is kept"):
        store.add_items(pairs(500))
    assert len(list(store.items())) == 3
    store.read("PRAGMA max_page_count = 100000")
    assert store.add_items(pairs(4))[-1] == (4, True)


def test_a_newer_version_is_named(store):
    with store.write() as connection:
        connection.execute("PRAGMA user_version = 9")
    with pytest.raises(InputError, match="written by a newer version"):
        Store(store.folder)


def test_replies_of_a_judge_are_kept_once(store):
    store.add_items(pairs(1))
    judge = store.annotator("qwen", "judge").id
    assert store.add_reply(judge, 1, "0,1", {"p": 0.7})
    assert not store.add_reply(judge, 1, "0,1", {"p": 0.1})
    assert store.replies(judge) == {(1, "0,1"): {"p": 0.7}}
