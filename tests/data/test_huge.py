"""Rows of megabytes are counted as too long without being tokenised; every other row is tokenised."""

from dataclasses import replace

import pytest

from easyrlhf.data.huge import Huge
from easyrlhf.data.records import Comparison, Demonstration, Feedback, Prompt, Ranking
from easyrlhf.data.tokens import DataSettings, load_tokens
from easyrlhf.errors import InputError


def user(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


def said(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


HUGE = Huge(100)


@pytest.mark.parametrize(
    "record, lengths",
    [
        (Prompt(user("a" * 100)), None),
        (Prompt(user("a" * 101)), (25, 0)),
        (Prompt("a" * 101), (25, 0)),
        (Prompt(user("a " * 101)), (50, 0)),
        (Prompt(user("a" + " " * 500)), None),  # a tokenizer may even white space out
        (Prompt([*user("a"), *said("b" * 500), *user("c")]), None),  # a template may leave earlier answers out
        (Demonstration(user("a" * 60), said("b" * 41)), (15, 10)),
        (Demonstration(user("a" * 60), said("b" * 40)), None),
        (Demonstration(user("a"), said("t" * 500 + "</think>b")), None),  # and thoughts
        (Demonstration("a", "b" * 120), (0, 30)),
        (Comparison(user("a"), said("b" * 120), said("c"), None), (0, 30)),
        (Comparison(user("a"), said("b"), said("c" * 120), None), (0, 30)),
        (Feedback(user("a"), said("b" * 120), True), (0, 30)),
        (Ranking(user("a"), [said("b"), said("c" * 120), said("d")], [1, 2, 3]), (0, 30)),
    ],
)
def test_what_is_huge(record, lengths):
    assert HUGE.lengths(record) == lengths


def test_a_long_prompt_is_no_reason_where_it_is_cut():
    assert HUGE.lengths(Demonstration(user("a" * 900), said("b" * 90)), answers_alone=True) is None
    assert HUGE.lengths(Demonstration(user("a" * 900), said("b" * 120)), answers_alone=True) == (225, 30)


def test_no_text_within_the_limit_of_tokens_is_ever_huge(renderer):
    longest = max(renderer.tokenizer.get_vocab(), key=len)
    assert Huge.of(renderer.tokenizer, 10).limit == 80 * len(longest)


def test_a_huge_row_is_counted_and_never_tokenised(write, renderer, tmp_path, monkeypatch):
    rows = [{"prompt": user(f"Ask {n}"), "completion": said("a")} for n in range(19)]
    huge = {"prompt": user("word " * 300_000), "completion": said("a")}
    path = write("x.jsonl", [*rows, huge])
    seen, conversation = [], type(renderer).conversation
    monkeypatch.setattr(
        type(renderer), "conversation", lambda self, *a, **k: seen.append(a) or conversation(self, *a, **k)
    )
    settings = DataSettings(max_length=64, max_prompt_length=40, cache_dir=tmp_path)
    data = load_tokens(path, "demonstration", renderer, settings)
    assert data.summary.dropped == {"over length": 1} and len(data.rows) == 19 and len(str(seen)) < 100_000
    with pytest.raises(InputError, match=r"20 of 39 rows \(51%\) .* the longest 374999\)"):
        load_tokens(write("y.jsonl", [*rows, *[huge] * 20]), "demonstration", renderer, settings)
    cut = load_tokens(path, "demonstration", renderer, replace(settings, overlength="truncate"))
    assert len(cut.rows) == 20
