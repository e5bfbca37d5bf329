"""From text to token ids, so that what a message says never becomes a control token of the template."""

import re
from typing import Any

from transformers import PreTrainedTokenizerFast

# Put around special-token text in a message while it is rendered. Unicode keeps these two code
# points for such inner uses, they are never text; a message that holds them loses them.
OPEN, CLOSE = "\ufdd0", "\ufdd1"
THOUGHT_TAG = re.compile(r"[<\[].*(think|thought).*[>\]]", re.I)  # special tokens such as <think>, [THINK]


class Encoder:
    """Tokenises rendered text and plain text for one tokenizer.

    specials  texts of the special tokens and the end-of-turn token, the longest first
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self.tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values()
        special = {t.content for t in added if t.special} | {tokenizer.eos_token}
        self.specials = tuple(sorted(special, key=len, reverse=True))
        others = [token for token in self.specials if not THOUGHT_TAG.fullmatch(token)]
        self._special = re.compile("|".join(map(re.escape, self.specials)))
        self._special_but_thoughts = re.compile("|".join(map(re.escape, others)) or r"(?!)")
        self._newline = self.plain("\n")
        self._adds_space = self.plain("a") != self.plain("\na")[len(self._newline) :]
        self.text_prefix = self._find_text_prefix()

    def marked(self, value: Any, *, thinks: bool = False) -> Any:
        """A value of a row with every special token in its strings between OPEN and CLOSE.

        thinks  the tags of thoughts stay as they are: templates look for them in what the assistant says
        """
        if isinstance(value, str):
            value = value.replace(OPEN, "").replace(CLOSE, "")
            special = self._special_but_thoughts if thinks else self._special
            return special.sub(rf"{OPEN}\g<0>{CLOSE}", value) if special.search(value) else value
        if isinstance(value, dict):
            return {self.marked(key, thinks=thinks): self.marked(item, thinks=thinks) for key, item in value.items()}
        return [self.marked(item, thinks=thinks) for item in value] if isinstance(value, list | tuple) else value

    def encode(self, text: str, continues: bool = False) -> list[int]:
        """Ids of rendered text; what is between OPEN and CLOSE never becomes a special token.

        continues  the text goes on from plain text, not from the start or a special token
        """
        if OPEN not in text:
            text = text.replace(CLOSE, "")  # of a text that the template has parted
            return self.plain_after(text) if continues else self.plain(text)
        ids: list[int] = []
        for i, piece in enumerate(re.split(f"{OPEN}(.*?){CLOSE}", text, flags=re.S)):
            piece = piece.replace(OPEN, "").replace(CLOSE, "")
            if piece:
                encode = self.plain_after if continues or ids else self.plain
                ids += encode(piece, split_special_tokens=bool(i % 2))
        return ids

    def whole(self, text: str) -> list[int]:
        """Ids of a rendering from its start, with one BOS at most."""
        return self.one_bos(self.encode(text))

    def one_bos(self, ids: list[int]) -> list[int]:
        """The ids without the second of two BOS at their start."""
        bos = self.tokenizer.bos_token_id
        while bos is not None and ids[:2] == [bos, bos]:
            ids = ids[1:]
        return ids

    def plain(self, text: str, **how) -> list[int]:
        """Ids of a text that stands at the start."""
        return self.tokenizer(text, add_special_tokens=False, verbose=False, **how)["input_ids"]

    def plain_after(self, text: str, **how) -> list[int]:
        """Ids of text that continues other text: without the space some tokenizers put first."""
        if self._adds_space:
            ids = self.plain("\n" + text, **how)
            if ids[: len(self._newline)] == self._newline:
                return ids[len(self._newline) :]
        return self.plain(text, **how)

    def _find_text_prefix(self) -> list[int]:
        """What the tokenizer puts before a text, such as BOS; what it puts after is left out."""
        with_special, plain = self.tokenizer("a")["input_ids"], self.plain("a")
        if with_special == plain:
            return []
        starts = range(len(with_special) - len(plain) + 1)
        return next(with_special[:i] for i in starts if with_special[i:][: len(plain)] == plain)
