"""The toy world: its files are what its generator writes, and its judge tells good from bad."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOY = ROOT / "data" / "toy"
TRAINING = ["sft", "comparisons", "comparisons_biased", "prompts", "feedback"]
HELD_OUT = ["sft_heldout", "comparisons_heldout", "prompts_heldout"]


def _module(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


judge = _module(TOY / "judge.py")


def _rows(name: str) -> list[dict]:
    lines = (TOY / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _prompts(name: str) -> set[str]:
    return {json.dumps(row.get("prompt") or row["messages"][:-1]) for row in _rows(name)}


def _gold(row: dict, side: str) -> float:
    return judge.score(row["prompt"], row[side][0]["content"])["gold"]


def _user(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def test_the_generator_writes_the_shipped_files_byte_for_byte(tmp_path):
    script = ROOT / "scripts" / "make_toy_data.py"
    subprocess.run([sys.executable, script, "--output_dir", tmp_path], check=True)
    for name in TRAINING + HELD_OUT:
        written = (tmp_path / f"{name}.jsonl").read_bytes()
        assert written == (TOY / f"{name}.jsonl").read_bytes(), name


def test_no_held_out_prompt_is_trained_on():
    trained = set().union(*(_prompts(name) for name in TRAINING))
    held_out = set().union(*(_prompts(name) for name in HELD_OUT))
    assert not trained & held_out


def test_there_are_enough_held_out_rows():
    assert len(_rows("comparisons_heldout")) >= 1000
    assert len(_rows("prompts_heldout")) >= 300


@pytest.mark.parametrize("name", ["comparisons", "comparisons_heldout"])
def test_one_label_in_ten_is_turned_round_and_no_pair_is_a_tie(name):
    gaps = [_gold(row, "chosen") - _gold(row, "rejected") for row in _rows(name)]
    assert min(abs(gap) for gap in gaps) > 0.09
    assert sum(gap < 0 for gap in gaps) / len(gaps) == pytest.approx(0.10, abs=0.025)


def test_the_biased_labeller_falls_for_flattery_in_three_pairs_of_ten():
    fawning = {"chosen": 0, "rejected": 0}
    rows = _rows("comparisons_biased")
    for row in rows:
        for side in fawning:
            said = row[side][0]["content"]
            fawning[side] += sum(said.count(phrase) for phrase in judge.POLITE) > 2
    assert fawning["rejected"] == 0
    assert fawning["chosen"] / len(rows) == pytest.approx(0.30, abs=0.04)


@pytest.mark.parametrize(
    "request_text, answer, correct, polite, brief",
    [
        ("Say hello to Anna.", "Hello Anna!", 1, 0.5, 1),
        ("Say hello to Anna.", "Hello Ben!", 0, 0.5, 1),
        ("Say hello to Anna.", "Gladly! Hello Anna!", 1, 1, 1),
        ("Say hello to Anna.", "Go away. Hello Anna!", 1, 0, 1),
        ("I am Leo. Say hello to me.", "Hello Leo!", 1, 0.5, 1),
        ("Hi! Repeat: cat, saw.", "I say cat, saw.", 1, 0.5, 1),
        ("Hi! Repeat: cat, saw.", "I say saw, cat.", 0, 0.5, 1),
        ("Which is a fruit: cat, plum, saw?", "The answer is plum.", 1, 0.5, 1),
        ("Which is a fruit: cat, plum, saw?", "The answer is plum, cat.", 0, 0.5, 1),
        ("What kind of thing is an apple?", "I say fruit.", 1, 0.5, 1),
        ("Say cat three times.", "I say cat, cat, cat.", 1, 0.5, 1),
        ("Say cat three times.", "I say cat, cat.", 0, 0.5, 1),
        ("Count from two to four.", "I say two, three, four.", 1, 0.5, 1),
        ("Name two tools.", "I say axe, drill.", 1, 0.5, 1),
        ("Name two tools.", "I say axe, axe.", 0, 0.5, 1),
        ("I have a red hat. What do I have, in one word?", "I say hat.", 1, 0.5, 1),
        ("I have a red hat. What do I have, in one word?", "I say red hat.", 0, 0.5, 1),
        ("I have a red hat. What do I have, in two words?", "I say red hat.", 1, 0.5, 1),
        ("What says woof?", "I say dog.", 1, 0.5, 1),
        ("What says woof?", "Gladly! With pleasure! Of course! I say dog.", 1, 0, 1),
        ("What says woof?", "It all depends. " * 4 + "I say dog.", 1, 0.5, 0.75),
        ("What says woof?", "bzzt dog", 0, 0.5, 1),
        ("What says woof?", "", 0, 0, 0),
    ],
)
def test_the_judge_on_answers_judged_by_hand(request_text, answer, correct, polite, brief):
    found = judge.score(_user(request_text), answer)
    assert (found["correct"], found["polite"]) == (correct, polite)
    assert found["brief"] == pytest.approx(brief)
    expected = 0.6 * correct + 0.2 * polite + 0.2 * brief
    assert found["gold"] == pytest.approx(expected)


def test_the_judge_remembers_earlier_turns():
    told = [*_user("My hat is blue."), {"role": "assistant", "content": "Good to know."}]
    conversation = [*told, *_user("What colour is my hat?")]
    assert judge.score(conversation, "I say blue.")["correct"] == 1
    assert judge.score(conversation, "I say red.")["correct"] == 0


def test_the_judge_refuses_a_request_of_another_world():
    with pytest.raises(ValueError, match="not a request of the toy world"):
        judge.score(_user("What is 17 times 3?"), "51")
