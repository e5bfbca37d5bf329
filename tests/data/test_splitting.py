"""Rows held out by prompt: no prompt on both sides, the same choice in any order, and the share that was asked for."""

import json
import random

import numpy as np
import pytest

from easyrlhf.data.reader import RowSettings
from easyrlhf.data.records import Comparison
from easyrlhf.data.sources import open_sources
from easyrlhf.data.splitting import Part, draw_held_out, hold_out
from easyrlhf.data.tokens import DataSettings, load_tokens
from easyrlhf.errors import InputError


def user(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def pair(prompt, number: int) -> dict:
    answers = [[{"role": "assistant", "content": f"{word} {number}"}] for word in ("good", "bad")]
    return {"prompt": prompt, "chosen": answers[0], "rejected": answers[1]}


def held(files: str, share: float = 0.2, seed: int = 1, kind: str = "comparison"):
    return hold_out(open_sources(files), kind, share, seed, RowSettings())


@pytest.fixture
def pairs(write) -> str:
    """40 prompts with 1 to 4 rows each, 100 rows."""
    rows = [pair(user(f"Ask {n}"), turn) for n in range(40) for turn in range(n % 4 + 1)]
    return write("pairs.jsonl", random.Random(0).sample(rows, len(rows)))


def loaded(files: str, renderer, tmp_path, part, kind="comparison"):
    how = {"max_length": 99, "max_prompt_length": 98, "cache_dir": tmp_path / "cache", "seed": 1}
    settings = DataSettings(name="valid" if part and part.validation else "train", part=part, **how)
    return load_tokens(files, kind, renderer, settings)


def test_every_row_is_on_one_side_and_no_prompt_on_both(pairs, renderer, tmp_path):
    held_out = held(pairs)
    whole = loaded(pairs, renderer, tmp_path / "whole", None).rows.to_list()
    train, valid = (loaded(pairs, renderer, tmp_path, Part(held_out, validation)) for validation in (False, True))
    asked = [{tuple(row["prompt_ids"]) for row in part.rows.to_list()} for part in (train, valid)]
    assert asked[0] & asked[1] == set() and len(asked[0] | asked[1]) == 40
    both = train.rows.to_list() + valid.rows.to_list()
    assert sorted(map(json.dumps, both)) == sorted(map(json.dumps, whole))
    assert (len(train.rows), len(valid.rows)) == (80, 20)
    assert train.summary.dropped == {"held out for validation": 20}
    assert valid.summary.dropped == {"kept for training": 80}
    assert train.summary.read == valid.summary.read == 100


def test_the_choice_depends_on_the_seed_and_the_prompts_alone(pairs, write, tmp_path):
    lines = (tmp_path / "pairs.jsonl").read_text().splitlines()
    turned = f"{write('b.jsonl', lines[70:])},{write('a.jsonl', lines[:70][::-1])}"
    first, again, other = held(pairs), held(turned), held(pairs, seed=2)
    assert first.keys.tolist() == again.keys.tolist()
    assert len(set(first.keys.tolist()) & set(other.keys.tolist())) < 2


def test_a_prompt_is_the_same_whatever_its_white_space_and_form(write):
    one = write("one.jsonl", [pair(user(f" Ask\n{n}"), n) for n in range(9)])
    other = write("other.jsonl", [{"prompt": f"Ask {n} ", "chosen": "a", "rejected": "b"} for n in range(9)])
    assert held(one).keys.tolist() == held(other).keys.tolist()
    assert len(held(f"{one},{other}").keys) == len(held(one).keys) == 2


def test_a_conversation_belongs_to_the_prompt_that_its_stage_asks(write):
    said = [{"role": "assistant", "content": "Hello"}]
    rows = [{"prompt": user("Hi"), "completion": [*said, *user(f"{n}"), *said]} for n in range(10)]
    path = write("x.jsonl", rows)
    assert len(held(path, kind="prompt").keys) == 2
    with pytest.raises(InputError, match=r"x\.jsonl: all rows have the same prompt, so nothing can be held out"):
        held(path, kind="demonstration")


@pytest.mark.parametrize(
    "counts, share, mask",
    [
        ([1, 1, 1, 1, 1, 1, 1, 1, 1, 1], 0.2, "1100000000"),
        ([3, 1, 1, 1, 1, 1, 1, 1], 0.2, "01100000"),  # two rows: the first prompt has too many
        ([5, 5], 0.1, "10"),  # nothing fits: the smallest
        ([9, 5, 9], 0.1, "010"),
        ([1, 2], 0.9, "01"),  # all would fit: one prompt stays
        ([1, 1, 1], 0.01, "100"),
        ([1, 1], 0.99, "01"),
    ],
)
def test_prompts_are_taken_as_long_as_they_fit(counts, share, mask):
    assert "".join(map(str, draw_held_out(np.array(counts), share).astype(int))) == mask


@pytest.mark.parametrize("seed", range(8))
def test_splits_of_random_data_never_leak(write, seed):
    dice = random.Random(seed)
    rows = [pair(user(f"Ask {dice.randrange(30)}"), n) for n in range(dice.randrange(40, 200))]
    path, share = write("x.jsonl", rows), dice.choice([0.02, 0.1, 0.3, 0.5])
    held_out = held(path, share, seed)
    by_side = {True: set(), False: set()}
    count = 0
    for row in rows:
        side = held_out.has(Comparison(row["prompt"], row["chosen"], row["rejected"], None, {}, ""))
        by_side[side].add(row["prompt"][0]["content"])
        count += side
    assert by_side[True] & by_side[False] == set() and by_side[True] and by_side[False]
    assert abs(count - share * len(rows)) <= max(2, 0.05 * len(rows))


def test_what_is_held_out_is_used_once_whatever_its_weight(pairs, renderer, tmp_path):
    held_out = held(pairs)
    train, valid = (
        loaded(f"{pairs}=3", renderer, tmp_path, Part(held_out, validation)) for validation in (False, True)
    )
    assert (len(train.rows), len(valid.rows)) == (240, 20)
