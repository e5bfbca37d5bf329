"""What rollouts.jsonl keeps of a rollout: some of its completions, with the numbers that the update used."""

import json
import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from easyrlhf.online.metrics import readable_completion, said_in
from easyrlhf.online.rollout import Rollout


def kept_rows(
    rollout: Rollout, kl_coef: float, count: int, decode: Callable[[list[int]], str], with_ids: bool
) -> list[dict[str, Any]]:
    """Rows for `count` completions of an estimated rollout, or all if it has fewer; docs/online.md explains the keys.

    A number that is not known is None: the reward of a source that does not apply, the score where none does, the KL
    without a reference.

    decode    ids → text
    with_ids  whether token ids are in them
    """
    size = min(count, len(rollout))
    places = [number * len(rollout) // size for number in range(size)]
    part = rollout.take(places)
    kl = [None] * size if part.kl is None else part.kl.sum(1).tolist()
    sources = {name: scores.tolist() for name, scores in part.source_scores.items()}
    rows = []
    for number, (place, ids, score) in enumerate(zip(places, part.completions(), part.scores.tolist(), strict=True)):
        row = part.rows[number]
        kept = {
            "place": place,
            "prompt": json.loads(row["prompt"]),
            "completion": readable_completion(row, ids, decode),
            "finished": part.finished[number].item(),
            "length": len(ids),
            "rewards": {name: known(scores[number]) for name, scores in sources.items()},
            "score": known(score),
            "kl": kl[number],
            "total": known(score - kl_coef * (kl[number] or 0.0)),
            "advantage": advantage(part.advantages[number], part.actions[number]),
            "columns": json.loads(row["columns"]),
            "extra": part.extra[number] if part.extra else {},
        } | said_in(row)
        rows.append(kept | ({"prompt_ids": row["prompt_ids"], "completion_ids": ids} if with_ids else {}))
    return rows


def advantage(advantages: Tensor, mask: Tensor) -> float:
    """The mean of a completion's advantages [T] over its tokens; exactly theirs where they are all the same.

    0 where the mask counts none: an episode that failed before the policy said anything.
    """
    return advantages[mask.bool()].cpu().double().mean().item() if mask.any() else 0.0


def known(number: float) -> float | None:
    """The number, or None where it is nan."""
    return None if math.isnan(number) else number
