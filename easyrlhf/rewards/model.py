"""The trained reward model as a source."""

import json
from dataclasses import dataclass

import torch
from torch import Tensor

from easyrlhf.data.batches import pad_right
from easyrlhf.data.records import Messages
from easyrlhf.data.render import Renderer
from easyrlhf.engine import world
from easyrlhf.engine.shares import passes
from easyrlhf.models.value_head import ScalarModel
from easyrlhf.rewards.batch import Row


@dataclass(frozen=True)
class RewardModel:
    """Scores completions with a trained reward model.

    renderer  the reward model's own
    same      whether the policy writes exactly the reward model's tokens; else texts are rendered anew
    """

    model: ScalarModel
    renderer: Renderer
    policy_renderer: Renderer
    same: bool
    micro_batch_tokens: int
    name: str = "reward_model"

    def __call__(self, rows: list[Row], completions: list[list[int]], finished: Tensor) -> list[float]:
        """Score of each completion, read at its end-of-turn token, or at its last token where it was cut off.

        rows         prompt rows
        completions  token ids through the end-of-turn token
        finished     [B]
        """
        ids = self.sequences(rows, completions, finished.tolist())
        return score_sequences(self.model, ids, self.renderer.pad_id, self.micro_batch_tokens)

    def sequences(self, rows: list[Row], completions: list[list[int]], finished: list[bool]) -> list[list[int]]:
        """Prompt + completion in the reward model's tokens."""
        if self.same:
            return [row["prompt_ids"] + ids for row, ids in zip(rows, completions, strict=True)]
        return [
            rendered(self.renderer, json.loads(row["prompt"]), self.policy_renderer.decode(ids), ended)
            for row, ids, ended in zip(rows, completions, finished, strict=True)
        ]


@torch.no_grad()
def score_sequences(
    model: ScalarModel, sequences: list[list[int]], pad_id: int, micro_batch_tokens: int
) -> list[float]:
    """The score of each sequence of token ids, read at its last token; each process computes its share of them."""
    device = model.head.weight.device
    scores = torch.zeros(len(sequences))
    for group, counts in passes([len(ids) for ids in sequences], micro_batch_tokens):
        batch = [sequences[index] for index in group]
        lengths = torch.tensor([len(ids) for ids in batch], device=device)
        found = model.scores(pad_right(batch, pad_id).to(device), lengths)
        if counts:
            scores[group] = found.cpu()
    return world.summed(scores).tolist()


def rendered(renderer: Renderer, prompt: Messages | str, text: str, ended: bool) -> list[int]:
    """Prompt and answer in the tokens of a reward model, without the end-of-turn token where the answer was cut off.

    Some templates make answers begin with a space and others do not: white space around an answer is not part of it.
    """
    answer = text if isinstance(prompt, str) else [{"role": "assistant", "content": text.strip()}]
    ids = renderer.completion_ids(prompt, answer)
    return renderer.prompt_ids(prompt) + (ids if ended else ids[:-1])
