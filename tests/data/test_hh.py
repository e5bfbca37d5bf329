"""Transcripts of hh-rlhf: the cut, the joins, the counts. All transcripts here are invented."""

from collections import Counter

import pytest

from easyrlhf.data.hh import DIFFERENT, JOINED, split_pair
from easyrlhf.data.row_errors import ContentFault, StructuralFault

Q, A = "\n\nHuman: ", "\n\nAssistant: "


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": text}


def split(chosen: str, rejected: str):
    notes = Counter()
    return *split_pair(chosen, rejected, notes), {note: n for note, n in notes.items() if n}


def test_the_prompt_is_everything_before_the_last_answer():
    history = Q + "Hi" + A + "Hello" + Q + "A colour?"
    assert split(history + A + "Blue", history + A + "Red\n\nor so") == (
        [user("Hi"), assistant("Hello"), user("A colour?")],
        [assistant("Blue")],
        [assistant("Red\n\nor so")],
        {},
    )


def test_a_transcript_may_begin_without_empty_lines():
    row = Q + "A colour?" + A
    assert split((row + "Blue").strip(), (row + "Red").strip()) == split(row + "Blue", row + "Red")
    assert split((row + "Blue").strip(), row + "Red")[:2] == ([user("A colour?")], [assistant("Blue")])


def test_where_histories_differ_the_cut_is_at_the_last_marker_both_share():
    chosen = Q + "Hi" + A + "Hello" + Q + "A colour?" + A + "Blue"
    rejected = Q + "Hi" + A + "Hey" + Q + "A colour?" + A + "Red"
    assert split(chosen, rejected) == (
        [user("Hi")],
        [assistant("Hello"), user("A colour?"), assistant("Blue")],
        [assistant("Hey"), user("A colour?"), assistant("Red")],
        {DIFFERENT: 1},
    )


def test_when_the_questions_differ_the_answer_before_them_belongs_to_the_completion():
    chosen = Q + "Hi" + A + "Hello" + Q + "A colour?" + A + "Blue"
    rejected = Q + "Hi" + A + "Hello" + Q + "A number?" + A + "Two"
    prompt, ours, theirs, notes = split(chosen, rejected)
    assert prompt == [user("Hi")]
    assert ours == [assistant("Hello"), user("A colour?"), assistant("Blue")]
    assert theirs == [assistant("Hello"), user("A number?"), assistant("Two")]
    assert notes == {DIFFERENT: 1}


def test_one_transcript_being_the_beginning_of_the_other_keeps_the_last_shared_answer():
    short = Q + "Hi" + A + "Hello"
    long = short + Q + "A colour?" + A + "Red"
    rest = [assistant("Hello"), user("A colour?"), assistant("Red")]
    assert split(short, long)[:3] == ([user("Hi")], [assistant("Hello")], rest)
    assert split(long, short)[:3] == ([user("Hi")], rest, [assistant("Hello")])


def test_consecutive_turns_of_one_role_are_joined_as_paragraphs_and_counted_once_a_row():
    chosen = Q + "Hi" + Q + "A colour?" + A + "Blue" + A + "Or red"
    rejected = Q + "Hi" + Q + "A colour?" + A + "No"
    assert split(chosen, rejected) == (
        [user("Hi\n\nA colour?")],
        [assistant("Blue\n\nOr red")],
        [assistant("No")],
        {DIFFERENT: 1, JOINED: 1},
    )


def test_a_shared_answer_followed_by_another_answer_stays_in_the_completion():
    """Otherwise the prompt would end with an assistant turn, which no model is asked to answer."""
    start = Q + "Hi" + A + "Hello."
    prompt, ours, theirs, _ = split(start + A + "Nice day", start + A + "Bad day")
    assert prompt == [user("Hi")]
    assert (ours, theirs) == ([assistant("Hello.\n\nNice day")], [assistant("Hello.\n\nBad day")])


def test_a_transcript_without_an_answer_is_a_content_fault():
    with pytest.raises(ContentFault, match="no assistant turn"):
        split(Q + "Hi", Q + "Hello")


@pytest.mark.parametrize("text", ["no marker", "Before" + Q + "Hi" + A + "Hello"])
def test_text_that_is_no_transcript_is_a_structural_fault(text):
    with pytest.raises(StructuralFault, match="key 'rejected'"):
        split(Q + "Hi" + A + "Hello", text)
