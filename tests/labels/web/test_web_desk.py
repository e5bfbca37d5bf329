"""What annotators are handed and hand in through the server, and what the organiser sees and decides."""

import threading
from collections import Counter

import pytest

from easyrlhf.errors import InputError
from easyrlhf.labels.exported import ExportPlan, exported_rows, mean_mark
from easyrlhf.labels.rows import NewItem, NewLabel
from easyrlhf.labels.selection import choose_labels
from easyrlhf.labels.web.wording import choices_of, flag_keys, scale_of
from tests.labels.web.conftest import new_pair, new_ranking, shown_texts, turns, value_for_right


def label(task: dict, number: int, value, **more) -> dict:
    return {"id": f"label-{number:03}", "item": task["item"], "value": value, "scale": task["scale"], **more}


def test_pairs_are_labelled_whatever_side_they_are_shown_on(desk_of, person):
    desk = desk_of([new_pair(i) for i in range(20)])
    ann = person(desk)
    _, given = ann.post("next")
    sides = set()
    for number in range(20):
        task = given["task"]
        sides.add(shown_texts(task)[0].split()[0])
        _, given = ann.post("label", label(task, number, value_for_right(task, 2), flags=["wrong"], seconds=3.5))
        assert given["progress"] == {"done": number + 1, "left": 19 - number}
    assert given["task"] is None and sides == {"right", "wrong"}
    kept = desk.store.labels()
    assert [one.value for one in kept] == [2] * 20 and {one.flags for one in kept} == {("wrong",)}
    assert {one.seconds for one in kept} == {3.5} and not any(one.late for one in kept)


def test_the_same_label_again_is_known_and_another_under_its_id_is_a_conflict(desk_of, person):
    desk = desk_of([new_pair(0), new_pair(1)])
    ann = person(desk)
    task = ann.post("next")[1]["task"]
    body = label(task, 1, 3)
    assert ann.post("label", body)[1]["status"] == "new"
    assert ann.post("label", body)[1]["status"] == "known"
    assert ann.post("label", body | {"value": 2})[0] == 409
    assert ann.post("label", body | {"id": "another-id"})[0] == 409
    assert len(desk.store.labels()) == 1 and sum(one["what"] == "label" for one in desk.store.events()) == 1


def test_a_task_stays_the_same_and_in_ones_hands_until_it_is_labelled(desk_of, person):
    desk = desk_of([new_pair(0)], annotators="me,you")
    ann, you = person(desk), person(desk, "you")
    task = ann.post("next")[1]["task"]
    assert ann.post("next")[1]["task"] == person(desk).post("next")[1]["task"] == task
    assert you.post("next")[1]["task"] is None
    assert ann.post("renew", {"item": task["item"]})[1] == {"yours": True}
    assert you.post("renew", {"item": task["item"]})[1] == {"yours": False}


def test_what_is_taken_back_comes_again_with_all_that_was_said(desk_of, person):
    desk = desk_of([new_pair(0), new_pair(1)])
    ann = person(desk)
    assert ann.post("undo")[0] == 409
    task = ann.post("next")[1]["task"]
    ann.post("label", label(task, 1, 1, flags=["wrong", "harmful"], note="why", edit="better"))
    _, back = ann.post("undo")
    assert back["task"] == task and back["again"] == {"flags": ["harmful", "wrong"], "note": "why", "edit": "better"}
    assert desk.store.labels() == [] and back["progress"] == {"done": 0, "left": 2}
    assert ann.post("label", label(task, 2, -1))[1]["task"]["item"] != task["item"]
    assert len(desk.store.labels(undone=True)) == 2


def test_a_ranking_with_a_tie_is_kept_in_the_items_own_order(desk_of, person):
    desk = desk_of([new_ranking(0)])
    ann = person(desk)
    task = ann.post("next")[1]["task"]
    texts = shown_texts(task)
    order = [[texts.index("answer q"), texts.index("answer s")], [texts.index("answer p")], [texts.index("answer r")]]
    assert task["choices"] == [] and ann.post("label", label(task, 1, order))[0] == 200
    assert desk.store.labels()[0].value == [[1, 3], [0], [2]]
    assert texts != sorted(texts)  # else the order would prove nothing


@pytest.mark.parametrize("scale, values", [("7", [False, True]), ("likert", [1, 2, 3, 4, 5, 6, 7])])
def test_single_answers_are_liked_or_marked(desk_of, person, scale, values):
    desk = desk_of([NewItem("answer", turns("hello", "user"), [turns("good day")])], scale=scale)
    ann = person(desk)
    task = ann.post("next")[1]["task"]
    assert [choice["value"] for choice in task["choices"]] == values
    assert ann.post("label", label(task, 1, values[-1]))[0] == 200 and desk.store.labels()[0].value == values[-1]


def test_three_skips_bring_an_item_to_the_organiser_whose_word_is_kept(desk_of, person):
    desk = desk_of([new_pair(0)], annotators="one,two,three,four", overlap=4)
    for name in ("one", "two", "three"):
        who = person(desk, name)
        task = who.post("next")[1]["task"]
        assert who.post("skip", {"item": task["item"], "reason": "cannot tell"})[1]["task"] is None
    assert person(desk, "four").post("next")[1]["task"] is None
    chief = person(desk, "organiser")
    [dispute] = chief.post("overview")[1]["disputes"]
    assert dispute["why"] == "three people have skipped it."
    assert dispute["labels"] == [f"{name} skipped: cannot tell" for name in ("one", "two", "three")]
    assert [answer[0]["content"] for answer in dispute["answers"]] == ["right 0", "wrong 0"]
    decision = {"id": "decision", "item": dispute["item"], "value": -1, "scale": "3"}
    assert chief.post("decide", decision)[1] == {"words": "Decided: B is better."}
    [kept] = desk.store.labels()
    assert (kept.role, kept.value) == ("referee", -1) and chief.post("overview")[1]["disputes"] == []
    assert chief.post("decide", decision | {"id": "changed-mind", "value": 1})[0] == 200
    assert [one.value for one in desk.store.labels()] == [1]


def test_a_skipped_ranking_can_be_given_back_to_those_who_have_not_skipped_it(desk_of, person):
    desk = desk_of([new_ranking(0)], annotators="one,two,three,four")
    for name in ("one", "two", "three"):
        who = person(desk, name)
        who.post("skip", {"item": who.post("next")[1]["task"]["item"], "reason": "cannot tell"})
    chief = person(desk, "organiser")
    [dispute] = chief.post("overview")[1]["disputes"]
    assert dispute["choices"] == [] and dispute["parked"] and dispute["question"] == "Rank the answers, the best first."
    assert chief.post("unpark", {"item": dispute["item"]})[0] == 200
    assert chief.post("overview")[1]["disputes"] == []
    assert [person(desk, name).post("next")[1]["task"] is None for name in ("one", "four")] == [True, False]


def ranked_by(desk, name: str, number: int, value: list) -> None:
    desk.store.add_label(NewLabel(f"by-{name}-{number}", number, desk.ids[name], value, "order", shown=[0, 1, 2, 3]))


def test_a_disputed_ranking_is_shown_with_its_orders_and_decided_by_one(desk_of, person):
    """Two orders of four answers that differ in one pair of six; a second ranking on which all agree is not shown."""
    desk = desk_of([new_ranking(0), new_ranking(1)], annotators="ann,bob", overlap=2)
    for name, order in {"ann": [[1], [0], [2, 3]], "bob": [[0], [1], [2, 3]]}.items():
        ranked_by(desk, name, 1, order)
        ranked_by(desk, name, 2, [[3], [2], [1], [0]])
    chief = person(desk, "organiser")
    [dispute] = chief.post("overview")[1]["disputes"]
    assert (dispute["item"], dispute["kind"], dispute["scale"]) == (1, "ranking", "order")
    assert dispute["why"] == "labels differ on 1 of its 6 pairs of answers."
    assert dispute["labels"] == ["ann: B > A > C = D", "bob: A > B > C = D"]
    body = {"id": "decision", "item": 1, "value": [[3], [0, 1], [2]], "scale": "order"}
    assert chief.post("decide", body | {"value": [[0], [1]]})[0] == 422
    assert chief.post("decide", body)[1] == {"words": "Decided: D > A = B > C."}
    assert chief.post("overview")[1]["disputes"] == []
    row = exported_rows(choose_labels(desk.store), ExportPlan("rankings"), Counter())[0]
    assert row["scores"] == pytest.approx([1 / 2, 1 / 2, 0, 1])  # of three others each


def test_rewards_that_rank_the_other_way_round_bring_a_ranking_to_the_organiser(desk_of, person):
    item = new_ranking(0, 3)
    rewards = [{"model": "m", "reward": reward} for reward in (3.0, 1.0, 0.0)]
    desk = desk_of([NewItem("ranking", item.prompt, item.answers, rewards)])
    me = desk.ids["me"]
    desk.store.add_label(NewLabel("by-me-first", 1, me, [[1], [0], [2]], "order", shown=[0, 1, 2]))
    assert person(desk, "organiser").post("overview")[1]["disputes"] == []  # +2 of one pair, -3 and -1 of the others
    desk.store.undo(me)
    desk.store.add_label(NewLabel("by-me-again", 1, me, [[1], [2], [0]], "order", shown=[0, 1, 2]))
    [dispute] = person(desk, "organiser").post("overview")[1]["disputes"]
    assert dispute["why"] == "labels and rewards differ on 2 of its 3 pairs of answers."


@pytest.mark.parametrize(
    "scale, said, told, words, mark",
    [
        ("7", {"ann": True, "bob": False}, ["Yes", "No"], "Is this a good answer? No", 0.0),
        ("likert", {"ann": 6, "bob": 2}, ["Good", "Bad"], "How good is this answer? Rather bad", 1 / 3),
    ],
)
def test_a_single_answer_that_not_all_like_is_decided_on_the_scale_of_its_labels(
    desk_of, person, scale, said, told, words, mark
):
    items = [NewItem("answer", turns("hello", "user"), [turns(text)]) for text in ("good day", "what")]
    desk = desk_of(items, scale=scale, annotators="ann,bob", overlap=2)
    own = scale_of("answer", scale)
    for name, value in said.items():
        desk.store.add_label(NewLabel(f"by-{name}-one", 1, desk.ids[name], value, own))
        desk.store.add_label(NewLabel(f"by-{name}-two", 2, desk.ids[name], said["ann"], own))
    chief = person(desk, "organiser")
    [dispute] = chief.post("overview")[1]["disputes"]
    assert (dispute["item"], dispute["why"]) == (1, "50% of its labels like it.")
    assert [line.rpartition("? ")[2] for line in dispute["labels"]] == told
    value = dispute["choices"][2 if scale == "likert" else 0]["value"]
    body = {"id": "decision", "item": 1, "value": value, "scale": dispute["scale"]}
    assert chief.post("decide", body)[1] == {"words": f"Decided: {words}."}
    assert chief.post("overview")[1]["disputes"] == []
    assert mean_mark(desk.store.labels(1)) == pytest.approx(mark)


def test_the_organiser_sees_who_did_what_and_where_they_disagree(desk_of, person):
    desk = desk_of([new_pair(0), new_pair(1)], annotators="ann,bob", overlap=2)
    for number, (name, values) in enumerate({"ann": (2, 2), "bob": (2, -3)}.items()):
        who = person(desk, name)
        _, given = who.post("next")
        for step, value in enumerate(values):
            body = label(given["task"], 10 * number + step, value_for_right(given["task"], value), seconds=4.0)
            _, given = who.post("label", body | {"note": "see"} if value < 0 else body)
    _, seen = person(desk, "organiser").post("overview")
    assert (seen["given"], seen["wanted"], seen["parked"]) == (4, 4, 0)
    assert seen["people"]["rows"] == [["ann", "2", "0", "4.0"], ["bob", "2", "0", "4.0"]]
    assert "two labels agree in 50.0% (everyone)" in seen["agree"]["lead"]
    *_, both = seen["agree"]["tables"]
    assert both["rows"][0][:2] == ["ann, bob", "2"]
    [dispute] = seen["disputes"]
    assert dispute["why"].startswith("50% of its labels are for A.")
    assert dispute["labels"] == ["ann: A is better", "bob: B is much better (“see”)"]


def test_the_server_ends_when_enough_labels_are_there(desk_of, person):
    desk = desk_of([new_pair(i) for i in range(5)], until=2)
    ann = person(desk)
    task = ann.post("next")[1]["task"]
    task = ann.post("label", label(task, 1, 1))[1]["task"]
    assert not desk.enough
    _, last = ann.post("label", label(task, 2, 1))
    assert last["task"] is None and last["title"] == "All 2 labels are there." and desk.enough


def skip(who, given: dict) -> dict:
    """Pass what he was given; what he gets next."""
    return who.post("skip", {"item": given["task"]["item"], "reason": "cannot tell"})[1]


def test_the_server_ends_when_those_who_label_have_labelled_or_skipped_everything(desk_of, person):
    desk = desk_of([new_pair(i) for i in range(3)], until=3, annotators="me,you")
    me, you = person(desk), person(desk, "you")
    given = skip(me, me.post("next")[1])
    given = me.post("label", label(given["task"], 1, 1))[1]
    assert skip(me, given)["task"] is None and not desk.enough  # the other one has not said anything yet
    given = skip(you, you.post("next")[1])
    last = you.post("label", label(given["task"], 2, 1))[1]
    assert last["title"] == "Everything is labelled or skipped; 2 labels are there."
    assert last["task"] is None and last["progress"] == {"done": 1, "left": 0} and desk.enough == [True]


def test_the_server_waits_for_what_lies_in_anothers_hands_or_with_one_who_came_by_an_older_link(desk_of, person):
    desk = desk_of([new_pair(0), new_pair(1)], until=2, overlap=1)
    old = desk.store.annotator("old")
    desk.tokens["old"] = desk.store.new_token(old.id)
    me, other = person(desk), person(desk, "old")
    given, held = me.post("next")[1], other.post("next")[1]
    given = me.post("label", label(given["task"], 1, 1))[1]
    assert given["task"] is None and not desk.enough  # it may come back to him
    assert desk.store.renew(old.id, held["task"]["item"])
    desk.store.skip(desk.ids["me"], held["task"]["item"], "cannot tell")
    assert me.post("next")[1].get("title") is None and not desk.enough  # the other is at it
    assert skip(other, held)["title"] == "Everything is labelled or skipped; 1 labels are there." and desk.enough


def test_the_organisers_last_decision_ends_the_server_too(desk_of, person):
    desk = desk_of([new_pair(0)], until=1)
    chief = person(desk, "organiser")
    person(desk).post("next")
    assert chief.post("decide", {"id": "decision", "item": 1, "value": 1, "scale": "3"})[0] == 200 and desk.enough


def test_without_until_nothing_ends_the_server(desk_of, person):
    desk = desk_of([new_pair(0)])
    me = person(desk)
    last = skip(me, me.post("next")[1])
    assert last["task"] is None and last["progress"]["left"] == 0 and not desk.enough


def test_no_more_labels_than_wanted_by_two_who_race(desk_of, person):
    desk = desk_of([new_pair(i) for i in range(30)], annotators="one,two")
    done = {"one": 0, "two": 0}

    def work(name: str) -> None:
        who = person(desk, name)
        _, given = who.post("next")
        while given["task"]:
            number = 100 * (name == "two") + done[name]
            status, given = who.post("label", label(given["task"], number, 1))
            assert status == 200
            done[name] += 1

    threads = [threading.Thread(target=work, args=(name,)) for name in done]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(done.values()) == 30 == len({one.item for one in desk.store.labels()}) == len(desk.store.labels())


def test_the_buttons_of_every_scale():
    pairs = {scale: [(one.key, one.value) for one in choices_of("pair", scale)] for scale in "2378"}
    assert pairs["2"] == [("1", 1), ("2", -1)] and pairs["3"] == [("1", 1), ("2", 0), ("3", -1)]
    assert pairs["7"] == [("1", 3), ("2", 2), ("3", 1), ("4", 0), ("5", -1), ("6", -2), ("7", -3)]
    assert [value for _, value in pairs["8"]] == [4, 3, 2, 1, -1, -2, -3, -4]
    words = [one.label for one in choices_of("pair", "7")]
    assert words[0] == "A is much better" and words[3] == "About the same" and words[6] == "B is much better"
    assert [scale_of(kind, "likert") for kind in ("pair", "ranking", "answer")] == ["7", "order", "likert"]


def test_each_flag_has_a_key_of_its_own_that_does_nothing_else():
    assert flag_keys(["harmful", "wrong", "both_bad", "cut_off", "private"]) == {
        "harmful": "h",
        "wrong": "w",
        "both_bad": "b",
        "cut_off": "c",
        "private": "p",
    }
    assert flag_keys(["sun", "nest", "hug"]) == {"sun": "a", "nest": "b", "hug": "h"}
    with pytest.raises(InputError, match="21 flags are more than"):
        flag_keys([f"flag{'x' * i}" for i in range(21)])


def test_a_turn_of_anothers_conversation_cannot_be_labelled(desk_of, person):
    from easyrlhf.labels.conversations import add_turn, send_message, start_conversation

    desk = desk_of([], annotators="one,two")
    talk = start_conversation(desk.store, desk.ids["one"])
    send_message(desk.store, talk, "hello")
    given = add_turn(desk.store, talk, [turns("a"), turns("b")], [])
    body = {"id": "intruder", "item": given.item.id, "value": 1, "scale": "7"}
    assert person(desk, "two").post("label", body)[0] == 404 and desk.store.labels() == []
    assert person(desk, "one").post("label", body)[0] == 200


def test_a_label_of_a_probability_is_told_in_words(desk_of, person):
    desk = desk_of([new_pair(0)])
    judge = desk.store.annotator("judge", "judge")
    desk.store.add_label(NewLabel("judged-it", 1, judge.id, 0.5, "probability", shown=[0, 1]))
    desk.store.add_label(NewLabel("me-too", 1, desk.ids["me"], 0, "3", shown=[0, 1]))
    assert person(desk, "organiser").post("overview")[1]["disputes"] == []  # all call it a tie
    desk.store.undo(desk.ids["me"])
    desk.store.add_label(NewLabel("not-me", 1, desk.ids["me"], -1, "3", shown=[0, 1]))
    [dispute] = person(desk, "organiser").post("overview")[1]["disputes"]
    assert dispute["labels"] == ["judge: A is better with probability 0.50", "me: B is better"]
