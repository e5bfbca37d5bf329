"""easyrlhf label ai: a judge that knows the toy world labels its pairs; what is asked, kept, averaged and reported."""

import json
import math
import subprocess
import sys
import threading
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from easyrlhf.cli import label_ai as command_line
from easyrlhf.config import LabelAIConfig
from easyrlhf.config.base import SettingError
from easyrlhf.errors import InputError
from easyrlhf.judges import judge_server
from easyrlhf.judges.bradley_terry import are_linked, bradley_terry_scores, places_by_score
from easyrlhf.labels.conversations import add_turn, send_message, start_conversation
from easyrlhf.labels.rows import NewItem, NewLabel
from easyrlhf.labels.store import Store
from easyrlhf.labels.values import PROBABILITY
from easyrlhf.tools.labelling.reply_box import MOST, ReplyBox
from easyrlhf.userfile import load_module

ROOT = Path(__file__).parents[2]
toy = load_module(ROOT / "scripts" / "toy_judge_server.py")
chat = load_module(ROOT / "tests" / "judges" / "chat_server.py")
ROWS = [json.loads(line) for line in (ROOT / "data/toy/comparisons_heldout.jsonl").read_text().splitlines()[:120]]
CONSTITUTION = "".join(f"- {{name: p{i}, compare: Prefer kind {i}.}}\n" for i in range(3))
SURE = math.log(9)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(judge_server.time, "sleep", lambda seconds: None)


@contextmanager
def toy_judge(**more):
    """Yields (url, bodies of the requests so far) of a judge that knows the toy world."""

    def answer(request):
        return 200, json.dumps(toy.completion(toy.ToyJudge(**more), request.body)).encode()

    with chat.chat_server(answer) as (url, requests):
        yield url, requests


@pytest.fixture
def store(tmp_path):
    """The labels' folder, with the first of ROWS as pairs."""
    with Store(tmp_path / "labels", create=True) as store:
        yield store


def add_pairs(store, count: int) -> list[dict]:
    store.add_items([NewItem("pair", row["prompt"], [row["chosen"], row["rejected"]]) for row in ROWS[:count]])
    return ROWS[:count]


@pytest.fixture
def run(store, tmp_path):
    """run(url, *words, code=0) -> (what judge-toy.json holds, the command's result)."""

    def call(url, *words, code: int = 0):
        judge = () if "--judge" in words else ("--judge_url", url, "--judge_model", "toy")
        done = CliRunner().invoke(
            command_line.command, ["--labels", str(store.folder), *judge, *map(str, words)], prog_name="label ai"
        )
        assert done.exit_code == code, done.output
        assert "Traceback" not in done.stderr
        report = store.folder / "judge-toy.json"
        return json.loads(report.read_text()) if report.exists() else None, done

    return call


def values(store) -> list:
    return [label.value for label in sorted(store.labels(), key=lambda label: label.item)]


def odds(preference: float) -> float:
    return math.log(preference / (1 - preference))


def thinks(judge, item) -> float:
    """The toy judge's own log-odds of an item's first answer, without a place."""
    text = "\n\n".join(f"[{turn['role']}]\n{turn['content']}" for turn in item.prompt)
    return judge.log_odds(text, *(answer[-1]["content"] for answer in item.answers))


def test_log_odds_give_back_what_the_judge_thinks_and_what_it_adds_for_a_place(store, run):
    add_pairs(store, 60)
    with toy_judge(error=0.1, place=0.7) as (url, requests):
        report, done = run(url, "--average", "logit")
    judge = toy.ToyJudge(error=0.1)
    for item, value in zip(store.items(), values(store), strict=True):
        assert odds(value) == pytest.approx(thinks(judge, item), abs=1e-6)
    assert report["place_nats"]["nats"] == pytest.approx(0.7, abs=1e-6)
    assert len(requests) == 120 == report["verdicts"] and report["unreadable"] == 0
    assert all(label.scale == PROBABILITY and label.role == "judge" for label in store.labels())
    assert "preference for the first place: +0.700 nats" in done.stdout
    bodies = [request.body for request in requests]
    assert all((body["logprobs"], body["top_logprobs"], body["temperature"]) == (True, 20, 0.0) for body in bodies)


def test_probabilities_are_averaged_over_both_orders(store, run):
    add_pairs(store, 20)
    with toy_judge(place=0.7) as (url, _):
        run(url)
    for item, value in zip(store.items(), values(store), strict=True):
        own = thinks(toy.ToyJudge(), item)
        as_a, as_b = (1 / (1 + math.exp(-(sign * own + 0.7))) for sign in (1, -1))
        assert value == pytest.approx((as_a + 1 - as_b) / 2, abs=1e-6)


def test_drawn_letters_show_the_place_as_the_closed_form_says(store, run):
    """P(A) is sigma(d + b) in one order and sigma(-d + b) in the other, d = ln 9, b = 0.8; letters are independent."""
    add_pairs(store, 120)
    with toy_judge(place=0.8, letters=True) as (url, _):
        report, _ = run(url)
    decided = [item for item in store.items() if thinks(toy.ToyJudge(), item)]
    high, low = (1 / (1 + math.exp(-(sign * SURE + 0.8))) for sign in (1, -1))
    n = report["orders_agree"]["n"]
    assert n == len(list(store.items())) and len(decided) > 0.9 * n
    even = 1 / (1 + math.exp(-0.8))
    ties = n - len(decided)
    first = ((high + low) * len(decided) + 2 * even * ties) / (2 * n)
    spread = ((high * (1 - high) + low * (1 - low)) * len(decided) + 2 * even * (1 - even) * ties) / (2 * n) ** 2
    assert report["first_place"]["share"] == pytest.approx(first, abs=3 * math.sqrt(spread))
    same = high * (1 - low) + (1 - high) * low
    agree = (same * len(decided) + 2 * even * (1 - even) * ties) / n
    assert report["orders_agree"]["share"] == pytest.approx(agree, abs=3 * math.sqrt(agree * (1 - agree) / n))
    place = report["place_nats"]
    assert place["low"] - 0.2 < 0.8 < place["high"] + 0.2 and place["nats"] > 0.3
    assert report["by_letter"] == 2 * n


def test_refusals_are_counted_and_leave_no_label(store, run):
    add_pairs(store, 60)
    with toy_judge(refusals=0.2) as (url, requests):
        report, _ = run(url)
        judge = toy.ToyJudge(refusals=0.2)
        refused = [one for one in requests if judge.reply(one.body)[0] == toy.REFUSAL]
        run(url)
    assert report["unreadable"] == len(refused) > 10
    assert report["labelled"] == len(store.labels()) < 60
    assert len(requests) == 120  # what could not be read is not asked again


@pytest.mark.parametrize("workers", [1, 4])
def test_a_stopped_command_asks_only_what_is_missing_and_comes_to_the_same_labels(store, run, workers, tmp_path):
    add_pairs(store, 20)
    judge, seen, limit = toy.ToyJudge(error=0.1, place=0.3), [], [7]

    def answer(request):
        if len(seen) >= limit[0]:
            return 400, b"enough"
        seen.append(json.dumps(request.body))
        return 200, json.dumps(toy.completion(judge, request.body)).encode()

    with chat.chat_server(answer) as (url, _):
        for limit[0] in (7, 8, 25):
            _, done = run(url, "--judge_workers", workers, code=1)
            assert "the same command goes on from there" in done.stderr
        assert 4 < len(store.labels()) < 20  # items of which all was said have theirs
        limit[0] = 1000
        run(url, "--judge_workers", workers)
    assert len(seen) == len(set(seen)) == 40
    with Store(tmp_path / "whole", create=True) as whole:
        add_pairs(whole, 20)
        with toy_judge(error=0.1, place=0.3) as (url, _):
            words = ["--labels", str(whole.folder), "--judge_url", url, "--judge_model", "toy"]
            assert CliRunner().invoke(command_line.command, words, prog_name="label ai").exit_code == 0
        assert values(store) == values(whole)


def test_another_average_needs_no_question_and_replaces_the_labels(store, run):
    add_pairs(store, 10)
    with toy_judge(place=1.5) as (url, requests):
        run(url)
        first = values(store)
        run(url, "--average", "logit")
        other = values(store)
        run(url)
    assert len(requests) == 20 and values(store) == first != other
    assert len(store.labels()) == 10 and len(store.labels(undone=True)) == 30


def test_the_budget_ends_with_exit_code_3_and_a_larger_one_goes_on(store, run):
    add_pairs(store, 10)
    with toy_judge() as (url, requests):
        _, done = run(url, "--judge_budget", 1000, "--judge_workers", 1, code=3)
        used = sum(toy.completion(toy.ToyJudge(), request.body)["usage"]["total_tokens"] for request in requests)
        last = toy.completion(toy.ToyJudge(), requests[-1].body)["usage"]["total_tokens"]
        assert used - last < 1000 <= used and f"{used:,} tokens are used, and --judge_budget is 1,000" in done.stderr
        assert len(store.labels()) == len(requests) // 2
        _, done = run(url, "--judge_budget", 1000, code=3)
        report, done = run(url, "--judge_budget", 100000)
    assert len(requests) == 20 and report["tokens"] > 1000
    assert f"tokens read and written in all: {report['tokens']:,}" in done.stdout


def test_thoughts_are_asked_for_first_and_clamp_the_verdict(store, run):
    rows = add_pairs(store, 5)

    def answer(request):
        """The judge is sure of the chosen answer."""
        messages = request.body["messages"]
        if len(messages) == 2:
            return chat.reply("One is longer.")
        firsts = [f"# Answer A\n{row['chosen'][-1]['content']}\n\n" for row in rows]
        a = 0.98 if any(first in messages[1]["content"] for first in firsts) else 0.01
        return chat.likely([("A", math.log(a)), ("B", math.log(0.99 - a)), ("C", math.log(0.01))])

    with chat.chat_server(answer) as (url, requests):
        run(url, "--thoughts")
        assert values(store) == pytest.approx([0.6] * 5)
        run(url, "--thoughts", "--clamp", "0.2,0.9")
        assert values(store) == pytest.approx([0.85] * 5)
    assert len(requests) == 20
    letters = [request.body["messages"] for request in requests if len(request.body["messages"]) > 2]
    assert [turn["role"] for turn in letters[0]] == ["system", "user", "assistant", "user"]
    assert {messages[2]["content"] for messages in letters} == {"One is longer."}
    assert ["logprobs" in request.body for request in requests].count(True) == len(letters) == 10


def test_a_clamp_limits_each_verdict(store, run):
    add_pairs(store, 30)
    with toy_judge() as (url, _):
        run(url, "--clamp", "0.3,0.6")
    assert {round(value, 6) for value in values(store)} <= {0.35, 0.5, 0.65}  # (0.6 + 0.7) / 2


def test_votes_are_drawn_at_temperature_1_and_their_share_counts(store, run):
    add_pairs(store, 4)
    given = iter(range(10**6))
    lock = threading.Lock()

    def answer(request):
        with lock:
            return chat.reply("AAB"[next(given) % 3])

    with chat.chat_server(answer) as (url, requests):
        run(url, "--votes", 3, "--judge_workers", 1)
    assert len(requests) == 4 * 2 * 3
    assert {request.body["temperature"] for request in requests} == {1.0}
    assert not any("logprobs" in request.body for request in requests)
    assert values(store) == pytest.approx([0.5] * 4)  # two of three for A in each order
    assert not any(request.body["messages"] == requests[0].body["messages"] for request in requests[3:])


def test_a_principle_is_drawn_for_each_item_and_kept_with_its_label(store, run, tmp_path):
    add_pairs(store, 30)
    (tmp_path / "c.yaml").write_text(CONSTITUTION)
    with toy_judge() as (url, requests):
        run(url, "--constitution", tmp_path / "c.yaml")
        drawn = {label.item: label.detail["principles"] for label in store.labels()}
        run(url, "--constitution", tmp_path / "c.yaml")
        assert len(requests) == 60
    assert {label.item: label.detail["principles"] for label in store.labels()} == drawn
    assert {tuple(one) for one in drawn.values()} == {("p0",), ("p1",), ("p2",)}
    asked = [request.body["messages"][0]["content"] for request in requests]
    assert sum("Prefer kind 1." in text for text in asked) == 2 * sum(one == ["p1"] for one in drawn.values())


def test_all_principles_are_averaged(store, run, tmp_path):
    add_pairs(store, 3)
    (tmp_path / "c.yaml").write_text(CONSTITUTION)
    chances = {"Prefer kind 0.": 0.9, "Prefer kind 1.": 0.6, "Prefer kind 2.": 0.3}

    def answer(request):
        """By its principle the judge prefers what is shown first, and the second less surely the other way round."""
        p = next(p for text, p in chances.items() if text in request.body["messages"][0]["content"])
        item = next(i for i, row in enumerate(ROWS[:3]) if row["chosen"][0]["content"] in request.question)
        first = request.question.index(ROWS[item]["chosen"][0]["content"])
        p = p if first < request.question.index("# Answer B") else 1 - p
        return chat.likely([("A", math.log(p)), ("B", math.log(1 - p)), ("C", -60.0)])

    with chat.chat_server(answer) as (url, requests):
        run(url, "--constitution", tmp_path / "c.yaml", "--principles", "all")
        assert values(store) == pytest.approx([0.6] * 3)
        run(url, "--constitution", tmp_path / "c.yaml", "--principles", "all", "--average", "logit")
        mean = (odds(0.9) + odds(0.6) + odds(0.3)) / 3
        assert [odds(value) for value in values(store)] == pytest.approx([mean] * 3)
    assert len(requests) == 3 * 3 * 2


def test_rankings_are_ordered_by_all_their_pairs(store, run):
    row = next(row for row in ROWS if len(row["prompt"]) == 1 and "Name a" in row["prompt"][0]["content"])
    group = row["prompt"][0]["content"].split()[-1].rstrip(".")
    right = toy.JUDGE["GROUPS"][group][0]
    texts = ["Go away.", f"It is a {right}. Have a lovely day!", f"It is a {right}.", f"It is a {right}!"]
    store.add_items([NewItem("ranking", row["prompt"], [[{"role": "assistant", "content": t}] for t in texts])])
    store.add_items([NewItem("answer", row["prompt"], ["Yes."])])
    with toy_judge(place=0.5) as (url, requests):
        report, done = run(url, "--average", "logit")
    [label] = store.labels()
    assert label.value == [[1], [2, 3], [0]] and len(requests) == 12 and report["labelled"] == 1
    assert "single answers, which a judge of pairs leaves to people: 1" in done.stdout
    assert label.detail["scores"][1] > label.detail["scores"][2] == pytest.approx(label.detail["scores"][3], abs=1e-5)


def test_a_python_function_is_a_judge(store, run, tmp_path):
    add_pairs(store, 10)
    (tmp_path / "judge.py").write_text(
        "def fn(prompt, answer_a, answer_b, **columns):\n    return 0.9 if len(answer_a) > len(answer_b) else 'tie'\n"
    )
    run("", "--judge", f"{tmp_path / 'judge.py'}:fn", "--judge_name", "toy")
    for item, value in zip(store.items(), values(store), strict=True):
        first, second = (len(answer[-1]["content"]) for answer in item.answers)
        assert value == pytest.approx(0.5 + 0.2 * ((first > second) - (first < second)))
    assert [one.role for one in store.annotators()] == ["judge"]
    (tmp_path / "judge.py").write_text("def fn(prompt, answer_a, answer_b, **columns):\n    return 0.5\n")
    report, _ = run("", "--judge", f"{tmp_path / 'judge.py'}:fn", "--judge_name", "toy")
    assert values(store) == [0.5] * 10 and report["replies_now"] == 20  # another file is another judge


COUNTING = """
import os, signal, time

def fn(prompt, answer_a, answer_b):
    with open({asked!r}, "a") as file:
        file.write(repr((prompt, answer_a, answer_b)) + "\\n")
    count = len(open({asked!r}).readlines())
    if count == 50:
        time.sleep(0.15)  # longer than replies are held
    if count == 60:
        {end}
    return 0.9 if len(answer_a) > len(answer_b) else 0.4
"""


@pytest.mark.parametrize("end, code, lost", [("os.kill(os.getpid(), signal.SIGKILL)", -9, 10), ("1 / 0", 1, 1)])
def test_a_python_function_that_ends_is_asked_again_only_what_was_not_on_disk(store, run, tmp_path, end, code, lost):
    """At most ten questions, the last without answer, came after a transaction; where the function fails that one."""
    add_pairs(store, 120)
    asked = tmp_path / "asked"
    (tmp_path / "judge.py").write_text(COUNTING.format(asked=str(asked), end=end))
    words = ["--labels", str(store.folder), "--judge", f"{tmp_path / 'judge.py'}:fn", "--judge_name", "toy"]
    program = "from easyrlhf.cli.label_ai import command; command()"
    assert subprocess.run([sys.executable, "-c", program, *words], capture_output=True).returncode == code
    stored = len(store.replies(store.annotator("toy", "judge").id))
    assert 60 - lost <= stored < 60
    report, _ = run("", *words[2:])
    questions = asked.read_text().splitlines()
    assert report["replies_now"] == 240 - stored and report["labelled"] == 120
    assert len(questions) == 300 - stored and len(set(questions)) == 240
    twice = sorted(question for question, times in Counter(questions).items() if times > 1)
    assert twice == sorted(questions[stored:60])


def test_replies_of_a_quick_judge_share_a_transaction_and_one_that_took_long_has_its_own():
    now, stored = [0.0], []
    box = ReplyBox(lambda rows: stored.append([row[0] for row in rows]), 0.1, lambda: now[0])
    for number, seconds in enumerate([0.03, 0.03, 0.05, 0.2, 0.01]):
        now[0] += seconds
        box.add(number, "letter", {})
    assert stored == [[0, 1, 2], [3]]
    box.empty()
    box.empty()
    for number in range(MOST + 1):
        box.add(number, "letter", {})
    assert stored[2:] == [[4], list(range(MOST))]


def test_a_judges_labels_are_replaced_all_or_none_and_stay_out_of_its_hands(store):
    add_pairs(store, 3)
    me = store.annotator("toy", "judge").id
    new = [NewLabel(f"judge-{n}", n, me, 0.75, PROBABILITY, [0, 1]) for n in (1, 2, 3)]
    store.replace_labels(me, [], new[:2])
    with pytest.raises(InputError, match="item 2 has another label"):
        store.replace_labels(me, ["judge-1"], [NewLabel("judge-4", 2, me, 0.5, PROBABILITY, [0, 1])])
    with pytest.raises(InputError, match="has no such label to take back"):
        store.replace_labels(me, ["judge-1", "judge-3"], [])
    assert [label.id for label in store.labels()] == ["judge-1", "judge-2"]
    store.replace_labels(me, ["judge-1"], new[2:])
    assert [label.id for label in store.labels()] == ["judge-2", "judge-3"]
    assert store.read("SELECT * FROM lease") == []


def test_a_judge_changes_its_mind_about_a_turn_that_a_conversation_has_gone_on_from(store):
    ann, judge = store.annotator("ann").id, store.annotator("toy", "judge").id
    talk = start_conversation(store, ann)
    for number in (1, 2):
        send_message(store, talk, f"message {number}")
        given = add_turn(store, talk, [[{"role": "assistant", "content": text}] for text in "ab"], [])
        store.add_label(NewLabel(f"ann-said-{number}", given.item.id, ann, 1, "7"))
    store.replace_labels(judge, [], [NewLabel("judge-1", 1, judge, 0.75, PROBABILITY, [0, 1])])
    store.replace_labels(judge, ["judge-1"], [NewLabel("judge-2", 1, judge, 0.25, PROBABILITY, [0, 1])])
    assert [label.value for label in store.labels() if label.annotator == judge] == [0.25]
    with pytest.raises(InputError, match="has gone on"):
        store.undo(ann, "ann-said-1")


def test_people_and_judge_are_held_against_each_other(store, run):
    """Two people agree with the gold judge on nine pairs of ten."""
    add_pairs(store, 50)
    ann, bob = store.annotator("ann").id, store.annotator("bob").id
    items = [item for item in store.items() if thinks(toy.ToyJudge(), item)]
    for number, item in enumerate(items):
        value = (1 if thinks(toy.ToyJudge(), item) > 0 else -1) * (-1 if number % 10 == 0 else 1)
        for who in (ann, bob):
            store.add_label(NewLabel(f"{who}-{item.id}", item.id, who, value, "3", [0, 1]))
    with toy_judge() as (url, _):
        report, done = run(url)
    agreed = report["agreement with people"]
    wrong = len(items[::10])
    assert agreed["n"] == len(items) and agreed["share"] == pytest.approx(1 - wrong / len(items))
    assert agreed["low"] < agreed["share"] < agreed["high"]
    assert agreed["kappa"]["low"] < agreed["kappa"]["value"] < agreed["kappa"]["high"] < 1
    assert "agrees with people: " in done.stdout
    assert report["agreement with imported labels"] is None


@pytest.mark.parametrize(
    "words, message",
    [
        ({}, "give one of judge_url, judge_dir, judge"),
        ({"judge_dir": "d", "clamp": "0.6,0.4"}, "takes two numbers from 0 to 1, the lower first"),
        ({"judge_dir": "d", "clamp": "a"}, "takes two numbers"),
        ({"judge_dir": "d", "principles": "all"}, "needs constitution"),
        ({"judge": "j.py:f", "votes": 3}, "is a python function"),
        ({"judge": "j.py:f", "thoughts": True}, "is a python function"),
        ({"judge": "j.py:f", "constitution": "c"}, "is a python function"),
    ],
)
def test_settings_that_cannot_work_are_bad_input(words, message):
    with pytest.raises(SettingError, match=message):
        LabelAIConfig(**words)


def test_a_folder_without_pairs_and_a_name_of_a_person_are_bad_input(store, run):
    with toy_judge() as (url, requests):
        assert "holds no pairs and no rankings" in run(url, code=2)[1].stderr
        add_pairs(store, 1)
        store.annotator("ann")
        assert "'ann': is there in the role annotator" in run(url, "--judge_name", "ann", code=2)[1].stderr
    assert requests == []


# --- scores of all pairs


def test_scores_give_back_the_probabilities_they_came_of():
    scores = [1.0, 0.25, -0.5, -0.75]
    wins = np.array([[1 / (1 + math.exp(b - a)) for b in scores] for a in scores])
    assert bradley_terry_scores(wins) == pytest.approx(scores, abs=1e-3)
    wins[0, 3] = wins[3, 0] = np.nan  # not compared
    assert bradley_terry_scores(wins) == pytest.approx(scores, abs=1e-3)


def test_one_that_always_wins_is_first_and_finite():
    wins = np.array([[0.5, 1, 1], [0, 0.5, 0.5], [0, 0.5, 0.5]])
    assert places_by_score(bradley_terry_scores(wins)) == [[0], [1, 2]]


@pytest.mark.parametrize(
    "known, linked", [([(0, 1), (1, 2)], True), ([(0, 1)], False), ([], False), ([(1, 2), (0, 2)], True)]
)
def test_answers_that_are_not_compared_cannot_be_ranked(known, linked):
    assert are_linked(known, 3) is linked
