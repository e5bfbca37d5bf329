"""What ends a completion: tokens of the model, and texts that the user names."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from easyrlhf.data.render import Renderer

MARGIN = 8  # tokens decoded before those that a text can be made of: some tokenizers write the first one otherwise


@dataclass(frozen=True)
class Ending:
    """What ends a completion; what it is decided by is the completion alone, never its company.

    ids       tokens that do
    texts     what does as soon as the completion's text holds it, whatever tokens that is made of
    finishes  whether a completion that such a text ends counts as finished
    decode    ids → text; asked where there are texts alone
    """

    ids: tuple[int, ...]
    texts: tuple[str, ...] = ()
    finishes: bool = False
    decode: Callable[[list[int]], str] | None = None

    @classmethod
    def of(cls, renderer: Renderer, finishes: bool = False) -> "Ending":
        """The ends that a renderer knows."""
        return cls(renderer.ends, renderer.stops, finishes, renderer.decode)

    def by_token(self, tokens: Tensor) -> Tensor:
        """Whether each of these tokens ends its completion.  [n]"""
        return torch.isin(tokens, torch.tensor(self.ids))

    def by_text(self, ids: list[int]) -> bool:
        """Whether the text of a completion ends it, given that its tokens but the last did not."""
        if not self.texts:
            return False
        most, width = max(len(text.encode()) for text in self.texts), MARGIN
        while True:
            width += most  # as a token writes a byte at least, unless it writes nothing
            text = self.decode(ids[-width:])
            if any(stop in text for stop in self.texts):
                return True
            if width >= len(ids) or len(text.encode()) > most + MARGIN:
                return False

    def finished(self, ids: list[int]) -> bool:
        """Whether a completion, cut where it ended, came to an end by itself."""
        return ids[-1] in self.ids or (self.finishes and self.by_text(ids))

    def cut(self, ids: list[int]) -> list[int]:
        """A completion through the token with which it first ended."""
        places = range(1, len(ids) + 1)
        return ids[: next((n for n in places if ids[n - 1] in self.ids or self.by_text(ids[:n])), len(ids))]
