"""From tokens to the text that may be sent: never half a character, never the beginning of a stop text."""

import re
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

UNFINISHED_CHARACTER = "\ufffd"  # how half a character decodes
BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


class Detokenizer:
    """Decodes an answer as it grows, looking back at the last words alone.

    decode  ids → text
    """

    def __init__(self, decode: Callable[[list[int]], str]):
        self.decode = decode
        self.ids: list[int] = []
        self.begin = self.read = (
            0  # ids from begin to read are decoded again, since texts of tokens depend on those before
        )

    def add(self, token: int) -> str:
        """The text that a token completes; empty while a character is not whole."""
        self.ids.append(token)
        text = self._new()
        if not text or text.endswith(UNFINISHED_CHARACTER):
            return ""
        self.begin, self.read = self.read, len(self.ids)
        return text

    def rest(self) -> str:
        """What is left when nothing follows."""
        text, self.read = self._new(), len(self.ids)
        return text

    def _new(self) -> str:
        before = self.decode(self.ids[self.begin : self.read])
        return self.decode(self.ids[self.begin :])[len(before) :]


class Words:
    """The text of one answer, piece by piece.

    stops  texts that end it, and are no part of it
    left   whether white space before it is no part of it
    right  whether white space behind it is no part of it

    length   characters that the tokens have made so far
    stopped  whether a stop text has ended it
    cut      where in those characters it ended
    """

    def __init__(
        self, decode: Callable[[list[int]], str], stops: Sequence[str] = (), *, left: bool = False, right: bool = False
    ):
        self.detokenizer = Detokenizer(decode)
        self.stops, self.left, self.right = stops, left, right
        self.held = ""
        self.length = 0
        self.stopped = False
        self.cut: int | None = None

    def add(self, token: int) -> str:
        """What may be sent once this token is there."""
        return self._heard(self.detokenizer.add(token))

    def end(self) -> str:
        """What is left to be sent when no token follows."""
        if self.stopped:
            return ""
        text = self._heard(self.detokenizer.rest())
        return text if self.stopped else text + self._released(len(self.held), last=True)

    def _heard(self, piece: str) -> str:
        self.held += piece
        self.length += len(piece)
        found = min((place for stop in self.stops if (place := self.held.find(stop)) >= 0), default=None)
        if found is None:
            return self._released(len(self.held) - self._begun_stop())
        self.stopped, self.cut = True, self.length - len(self.held) + found
        self.held = self.held[:found]
        return self._released(found, last=True)

    def _begun_stop(self) -> int:
        """How many of the last characters may be the beginning of a stop text."""
        sizes = (size for stop in self.stops for size in range(1, len(stop)) if self.held.endswith(stop[:size]))
        return max(sizes, default=0)

    def _released(self, count: int, *, last: bool = False) -> str:
        """The first characters that are held, but for white space that is no part of the answer, or may be none."""
        text, rest = self.held[:count], self.held[count:]
        if self.left:
            text = text.lstrip()
        sent = text.rstrip() if self.right else text
        if sent:
            self.left = False
        self.held = "" if last else text[len(sent) :] + rest
        return sent


class TokenText(NamedTuple):
    """A token by itself: its text, and its bytes where they are known."""

    text: str
    bytes: list[int] | None


class TokenTexts:
    """What the tokens of a vocabulary say, one by one."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self.byte_level = backend is not None and "ByteLevel" in repr(backend.decoder)
        self.added = {number: token.content for number, token in tokenizer.added_tokens_decoder.items()}

    def of(self, number: int) -> TokenText:
        """The text of a token, and its bytes: several tokens may share a character."""
        if number in self.added:
            return whole_token(self.added[number])
        token = self.tokenizer.convert_ids_to_tokens(number)
        if token is None:
            return TokenText("", None)
        if self.byte_level:
            found = bytes(byte_of()[letter] for letter in token)
        elif byte := BYTE_TOKEN.fullmatch(token):
            found = bytes([int(byte[1], 16)])
        else:
            return whole_token(token.replace("\u2581", " "))
        return TokenText(found.decode("utf-8", errors="replace"), list(found))


def whole_token(text: str) -> TokenText:
    """A token that is no part of a character."""
    return TokenText(text, list(text.encode()))


@cache
def byte_of() -> dict[str, int]:
    """Letter → byte, as byte-level tokenizers write bytes."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {letter: byte for byte, letter in bytes_to_unicode().items()}
