"""Scores of answers, for the commands that print or write them: one rule for the long, the cut off and the broken."""

import math
from typing import TYPE_CHECKING

from easyrlhf.errors import InputError
from easyrlhf.models.load import positions_of
from easyrlhf.rewards.model import score_sequences
from easyrlhf.tools.at_hand import at_hand

if TYPE_CHECKING:  # it scores with what is here
    from easyrlhf.tools.serve_reward import Scorer


def longest(flag: str, path: str, config) -> int | None:
    """Tokens that prompt and answer may have together: `max_length`, or what the model was made for; None: no limit.

    flag  the one that names the model
    Raises InputError when the model has no place for max_length.
    """
    folder = at_hand(flag, path, allow_incomplete=config.allow_incomplete)
    most = positions_of(folder, trust_remote_code=config.trust_remote_code)
    if most and config.max_length and config.max_length > most:
        raise InputError(
            f"--max_length {config.max_length}: {flag} {path} was made for {most} tokens at most; use --max_length "
            f"{most} or less"
        )
    return config.max_length or most


def scores_of(scorer: "Scorer", sequences: list[list[int]], limit: int | None) -> list[float | None]:
    """The score of each sequence; None for those longer than the limit, of which nothing is cut.

    Raises InputError when the model's scores are no numbers.
    """
    fitting = [i for i, ids in enumerate(sequences) if limit is None or len(ids) <= limit]
    found = score_sequences(
        scorer.model, [sequences[i] for i in fitting], scorer.renderer.pad_id, scorer.micro_batch_tokens
    )
    if broken := sum(not math.isfinite(score) for score in found):
        raise InputError(
            f"the reward model scores {broken:,} of {len(found):,} answers NaN or infinite; train it again with a "
            "lower learning_rate, or give --precision float32"
        )
    scores: list[float | None] = [None] * len(sequences)
    for i, score in zip(fitting, found, strict=True):
        scores[i] = score
    return scores


def too_long(ids: list[int], limit: int) -> str:
    """Why a sequence has no score."""
    return f"{len(ids):,} tokens, more than {limit:,}"
