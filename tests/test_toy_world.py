"""The toy world: made anew it is the same, nothing held out is trained on, and its judge and labels are as promised."""

import gzip
import json
from pathlib import Path

import pytest

from easyrlhf.episodes.tools import described_tools
from easyrlhf.userfile import load_module

ROOT = Path(__file__).parent.parent
TOY = ROOT / "data" / "toy"
maker = load_module(ROOT / "scripts" / "make_toy_data.py")
judge = load_module(TOY / "judge.py")


def read(name: str) -> list[dict]:
    """Rows of a shipped file."""
    raw = (TOY / name).read_bytes()
    text = gzip.decompress(raw) if name.endswith(".gz") else raw
    return [json.loads(line) for line in text.decode().splitlines()]


def prompt_of(row: dict) -> str:
    return json.dumps(row["messages"][:-1] if "messages" in row else row["prompt"])


@pytest.mark.parametrize("name", maker.FILES)
def test_a_file_made_anew_is_the_shipped_one(name):
    assert maker.make_rows(1, name) == read(name)


def test_no_held_out_prompt_is_trained_on():
    held = {prompt_of(row) for name in maker.FILES if "heldout" in name for row in read(name)}
    trained = {prompt_of(row) for name in maker.FILES if "heldout" not in name for row in read(name)}
    assert len(held) > 100
    assert not held & trained


def gold(row: dict, side: str) -> float:
    return judge.score(row["prompt"], row[side][0]["content"])["gold"]


@pytest.mark.parametrize("name", ["comparisons.jsonl.gz", "comparisons_heldout.jsonl"])
def test_one_label_in_ten_is_wrong_and_none_is_a_tie(name):
    gains = [gold(row, "chosen") - gold(row, "rejected") for row in read(name)]
    assert min(map(abs, gains)) >= 0.08 - 1e-9
    wrong = sum(gain < 0 for gain in gains) / len(gains)
    assert wrong == pytest.approx(0.10, abs=0.02)  # two standard deviations of 1,200 draws


def test_the_biased_labeller_prefers_flattery_in_three_pairs_of_ten():
    rows = read("comparisons_biased.jsonl.gz")
    flattery = [row for row in rows if sum(p in row["chosen"][0]["content"] for p in judge.POLITE) == 3]
    assert len(flattery) / len(rows) == pytest.approx(0.30, abs=0.01)
    false = [row for row in flattery if judge.score(row["prompt"], row["chosen"][0]["content"])["correct"] == 0]
    assert len(false) / len(flattery) == pytest.approx(0.5, abs=0.03)


def test_demonstrations_are_of_mixed_quality():
    marks = [judge.score(row["messages"][:-1], row["messages"][-1]["content"]) for row in read("sft.jsonl.gz")]
    assert 0.4 < sum(mark["correct"] for mark in marks) / len(marks) < 0.65
    assert {mark["polite"] for mark in marks} == {0.0, 0.5, 1.0}


def user(*texts: str) -> list[dict]:
    """A conversation of these user turns, each but the last acknowledged."""
    turns = []
    for text in texts:
        turns += [{"role": "user", "content": text}, {"role": "assistant", "content": "Good to know."}]
    return turns[:-1]


@pytest.mark.parametrize(
    ("prompt", "answer", "correct", "polite", "brief"),
    [
        (user("Say hello to Ben."), "Hello Ben.", 1, 0.5, 1),
        (user("Say hello to Ben."), "Hello Emma.", 0, 0.5, 1),
        (user("Hi! Repeat: fox, plum."), "Of course! It is fox, plum.", 1, 1, 1),
        (user("Hi! Repeat: fox, plum."), "It is plum, fox.", 0, 0.5, 1),
        (user("Which is a tool: saw, fig?"), "It is saw. Go away.", 1, 0, 1),
        (user("Name an animal."), "It is bear.", 1, 0.5, 1),
        (user("Name an animal."), "It is bear, cat.", 0, 0.5, 1),
        (user("Count to three."), "It is one, two, three.", 1, 0.5, 1),
        (user("Count to three."), "It is one, two.", 0, 0.5, 1),
        (user("I have a red cup. Tell me what, in one word."), "It is cup.", 1, 0.5, 1),
        (user("I have a red cup. Tell me what, in two words."), "It is red cup.", 1, 0.5, 1),
        (user("I have a red cup. Tell me what, in two words."), "It is cup.", 0, 0.5, 1),
        (user("My hat is pink.", "What colour is it?"), "It is pink. Have a lovely day!", 1, 1, 1),
        (user("I am Leo.", "What is my name?"), "It is Leo.", 1, 0.5, 1),
        (user("What says quack?"), "It is duck.", 1, 0.5, 1),
        (user("What says quack?"), "Of course! With pleasure! Nice of you to ask! It is duck.", 1, 0, 1),
        (user("What says quack?"), "It is duck. " + 4 * "It all depends. ", 1, 0.5, 0.75),
        (user("What says quack?"), 30 * "duck ", 0, 0.5, 0),
    ],
)
def test_the_judge_on_answers_whose_marks_are_plain(prompt, answer, correct, polite, brief):
    marks = judge.score(prompt, answer)
    assert (marks["correct"], marks["polite"], marks["brief"]) == (correct, polite, brief)
    assert marks["gold"] == pytest.approx(0.6 * correct + 0.2 * polite + 0.2 * brief)


@pytest.mark.parametrize("answer", ["", " ", "?!"])
def test_an_answer_without_a_word_gets_nothing(answer):
    assert judge.score(user("Name a fruit."), answer)["gold"] == 0


def test_a_prompt_of_another_world_is_refused():
    with pytest.raises(ValueError, match="not a request of the toy world"):
        judge.score(user("Prove the Riemann hypothesis."), "No.")


# --- the tool


wardrobe = load_module(TOY / "wardrobe.py")


def asked(text: str, seed: int = 3) -> "wardrobe.Wardrobe":
    game = wardrobe.Wardrobe()
    game.reset(user(text), seed)
    return game


def test_the_demonstrations_know_the_tool_as_the_policy_is_told_of_it():
    assert described_tools({"look_up": wardrobe.Wardrobe().look_up}, "") == [maker.LOOK_UP]
    assert {row["tools"] for row in read("tools_sft.jsonl.gz")} == {json.dumps([maker.LOOK_UP])}


def test_what_is_looked_up_and_said_is_right_and_nothing_else():
    game = asked("Hi! What colour is Emma's cup?")
    colour = game.look_up("Emma", "cup")
    assert {colour, game.look_up("Ben", "hat")} <= set(judge.COLOURS)
    others = [one for one in judge.COLOURS if one != colour]
    for text, reward in ((f"It is {colour}.", 1), (f"It is {others[0]}.", 0), (f"{colour} or {others[0]}", 0), ("", 0)):
        game.respond(text)
        assert game.get_reward() == reward
    with pytest.raises(ValueError, match=r"^Emma has no fish$"):
        game.look_up("Emma", "fish")


def test_nothing_can_be_known_by_heart_but_a_group_has_one_task():
    question = "What colour is Leo's hat?"
    colours = [asked(question, seed).look_up("Leo", "hat") for seed in range(600)]
    assert colours == [asked(question, seed).look_up("Leo", "hat") for seed in range(600)]
    for colour in judge.COLOURS:
        assert colours.count(colour) / 600 == pytest.approx(1 / 6, abs=0.05)


def test_most_demonstrators_of_the_tool_guess_and_some_look_for_something_else():
    sorts = {"guess": 0, "astray": 0, "right": 0}
    for row in read("tools_sft.jsonl.gz"):
        question, *rest = row["messages"]
        whose = wardrobe.QUESTION.search(question["content"]).groups()
        if len(rest) == 1:
            sorts["guess"] += 1
            continue
        call, result, answer = rest
        arguments = json.loads(call["tool_calls"][0]["function"]["arguments"])
        sorts["right" if tuple(arguments.values()) == whose else "astray"] += 1
        assert answer["content"] == f"It is {result['content']}."
    shares = [count / 4000 for count in sorts.values()]
    assert shares == pytest.approx([maker.GUESSED_SHARE, maker.ASTRAY_SHARE, 0.35], abs=0.02)
