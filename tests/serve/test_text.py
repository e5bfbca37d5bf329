"""Text that is sent while it is written: whole characters, nothing of a stop text, no white space around a turn."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from easyrlhf.serve.text import TokenTexts, Words

TEXT = "é ü 日本語 🦊👩‍👩‍👧 grass\n\n is  green "


def decode(tokenizer):
    return lambda ids: tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def sent(words: Words, ids: list[int]) -> list[str]:
    """The pieces of an answer of these tokens."""
    pieces = []
    for token in ids:
        pieces.append(words.add(token))
        if words.stopped:
            return pieces
    return [*pieces, words.end()]


def letters(text: str):
    """A decoder whose tokens are the letters of a text, and the ids of that text."""
    return (lambda ids: "".join(text[i] for i in ids)), list(range(len(text)))


def test_half_a_character_waits_for_its_other_half(tokenizer):
    ids = [i for letter in TEXT.encode() for i in tokenizer.convert_tokens_to_ids([bytes_letter(letter)])]
    pieces = sent(Words(decode(tokenizer)), ids)
    assert [piece for piece in pieces if piece] == list(TEXT)
    assert len(ids) == len(TEXT.encode())  # a token a byte


def bytes_letter(byte: int) -> str:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return bytes_to_unicode()[byte]


def test_what_is_no_text_is_shown_as_the_whole_decodes(tokenizer):
    rng = random.Random(0)
    for _ in range(200):
        ids = [rng.randrange(len(tokenizer)) for _ in range(rng.randrange(1, 30))]
        assert "".join(sent(Words(decode(tokenizer)), ids)) == decode(tokenizer)(ids)


@pytest.mark.parametrize(
    "text, stops, pieces",
    [
        ("abcSTOPd", ("STOP",), ["a", "b", "c", "", "", "", ""]),
        ("abSTab", ("STOP",), ["a", "b", "", "", "STa", "b", ""]),
        ("aaab", ("aab",), ["", "", "a", ""]),
        ("ab", ("b", "abc"), ["", "a"]),  # the first that is whole ends it
        ("abST", ("STOP",), ["a", "b", "", "", "ST"]),
        ("a\n\nb", ("\n\n",), ["a", "", ""]),
        ("Sab", ("S",), [""]),
    ],
)
def test_no_beginning_of_a_stop_text_is_sent(text, stops, pieces):
    decoder, ids = letters(text)
    assert sent(Words(decoder, stops), ids) == pieces


@settings(max_examples=300, deadline=None)
@given(st.text("abc \n", max_size=20), st.lists(st.text("abc \n", min_size=1, max_size=4), max_size=3), st.booleans())
def test_all_before_the_first_stop_text_is_sent(text, stops, strip):
    decoder, ids = letters(text)
    words = Words(decoder, stops, left=strip, right=strip)
    found = "".join(sent(words, ids))
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    whole = min(ends)[0] if ends else len(text)  # the letter that completes a stop text
    cut = min((text[:whole].find(stop) for stop in stops if stop in text[:whole]), default=whole)
    assert words.stopped is bool(ends) and words.cut == (cut if ends else None)
    assert found == (text[:cut].strip() if strip else text[:cut])


def test_white_space_around_a_turn_is_no_part_of_it():
    decoder, ids = letters(" \n a  b \n")
    assert sent(Words(decoder, left=True, right=True), ids) == ["", "", "", "a", "", "", "  b", "", "", ""]
    assert sent(Words(decoder, right=True), ids)[:5] == ["", "", "", " \n a", ""]


def test_tokens_by_themselves_have_their_bytes(tokenizer):
    texts = TokenTexts(tokenizer)
    ids = tokenizer(TEXT)["input_ids"]
    assert bytes(byte for i in ids for byte in texts.of(i).bytes).decode() == TEXT
    assert texts.of(2) == ("<|im_end|>", list(b"<|im_end|>"))
    half = tokenizer.convert_tokens_to_ids(bytes_letter(0xF0))
    assert texts.of(half) == ("\ufffd", [0xF0])


def test_tokens_of_sentencepiece_have_their_bytes():
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE({"\u2581a": 0, "<0xE6>": 1, "é": 2}, [], byte_fallback=True))
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    texts = TokenTexts(PreTrainedTokenizerFast(tokenizer_object=core))
    assert [texts.of(i) for i in range(3)] == [(" a", [32, 97]), ("\ufffd", [0xE6]), ("é", [0xC3, 0xA9])]
