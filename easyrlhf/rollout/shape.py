"""Other distributions than the model's own to draw from, for those who use a model; never while one learns."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import RepetitionPenaltyLogitsProcessor, TopKLogitsWarper, TopPLogitsWarper


@dataclass(frozen=True)
class SamplingShape:
    """What is done to logits before a token is drawn, in the order and with the arithmetic of transformers.

    top_p               keep the likeliest tokens that have this probability together
    top_k               keep so many of the likeliest tokens; 0 keeps all
    repetition_penalty  divide positive logits of tokens that prompt or answer hold by this, multiply negative ones
    """

    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0

    @property
    def changes(self) -> bool:
        """Whether there is anything to do."""
        return self != NO_SHAPE

    def __call__(self, logits: Tensor, seen: list[list[int]], temperature: float) -> Tensor:
        """Logits of the distribution to draw from at temperature 1; at temperature 0 the likeliest of them is taken.

        logits  [b, V]
        seen    the ids of each prompt with its answer so far
        """
        if self.repetition_penalty != 1:
            width = max(map(len, seen))
            rows = torch.tensor([ids + ids[:1] * (width - len(ids)) for ids in seen], device=logits.device)
            logits = RepetitionPenaltyLogitsProcessor(self.repetition_penalty)(rows, logits)
        if not temperature:
            return logits
        logits = logits / temperature
        if self.top_k:
            logits = TopKLogitsWarper(self.top_k)(None, logits)
        return logits if self.top_p == 1 else TopPLogitsWarper(self.top_p)(None, logits)


NO_SHAPE = SamplingShape()
