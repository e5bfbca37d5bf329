"""Rows of megabytes: they are too long whatever their tokens are, which is known without tokenising them."""

from dataclasses import dataclass
from typing import Any

from easyrlhf.data.records import Messages, Record, answers_of

SAFETY = 8  # characters are so many times more than max_length tokens can hold: templates leave texts out, too
USUAL = 4  # characters of a token, for lengths that nobody counts
END_OF_THOUGHT = "</think>"  # templates may drop what stands before


@dataclass(frozen=True)
class Huge:
    """Knows texts that no `max_length` tokens can hold.

    limit  characters of them
    """

    limit: int

    @classmethod
    def of(cls, tokenizer: Any, max_length: int) -> "Huge":
        """For a tokenizer: none of its tokens has more characters than its longest one."""
        return cls(SAFETY * max_length * max(map(len, tokenizer.get_vocab())))

    def lengths(self, record: Record, *, answers_alone: bool = False) -> tuple[int, int] | None:
        """About how many tokens prompt and longest answer of such a record have; None for every other record.

        answers_alone  whether a long prompt is no reason, as it will be cut
        """
        prompt = sum(map(self._characters, _asked(record.prompt)))
        answer = max((self._characters(text) for text in _answers(record)), default=0)
        if (0 if answers_alone else prompt) + answer <= self.limit:
            return None
        return prompt // USUAL, answer // USUAL

    def _characters(self, text: str) -> int:
        """Of a text, without thoughts; of a long one without white space that a tokenizer may even out."""
        if len(text) <= self.limit:
            return len(text.rpartition(END_OF_THOUGHT)[2])
        return len(" ".join(text.rpartition(END_OF_THOUGHT)[2].split()))


def _asked(prompt: Messages | str) -> list[str]:
    """The texts of a prompt that no template leaves out: not those of earlier answers."""
    if isinstance(prompt, str):
        return [prompt]
    return [turn["content"] for turn in prompt if turn["role"] != "assistant" and isinstance(turn["content"], str)]


def _answers(record: Record) -> list[str]:
    """The last text of every answer."""
    last = [answer if isinstance(answer, str) else answer[-1]["content"] for answer in answers_of(record)]
    return [text for text in last if isinstance(text, str)]
