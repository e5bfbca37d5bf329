"""The trained reward model as a source."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from easyrlhf.data.batches import pad_right
from easyrlhf.data.chat_template import arguments_for, with_answer
from easyrlhf.data.render import Renderer
from easyrlhf.engine import processes
from easyrlhf.engine.micro_batches import MicroBatch, Passes, group_by_prompt, micro_batches
from easyrlhf.models.value_head import ScalarModel
from easyrlhf.rewards.batch import Row


@dataclass(frozen=True)
class ScoringModel:
    """A reward model with what its forward passes need.

    renderer            its own
    micro_batch_tokens  of one forward pass
    """

    model: ScalarModel
    renderer: Renderer
    micro_batch_tokens: int


@dataclass(frozen=True)
class ModelSource:
    """Scores completions with a trained reward model.

    same      whether the policy writes exactly the reward model's tokens; else texts are rendered anew
    share     whether a prompt is computed once for its completions, as in completion_states; not where texts are
              rendered anew
    """

    scorer: ScoringModel
    policy_renderer: Renderer
    same: bool
    share: str = "off"
    name: str = "reward_model"

    def __call__(self, rows: list[Row], completions: list[list[int]], finished: Tensor) -> list[float]:
        """Score of each completion, read at its end-of-turn token, or at its last token where it was cut off.

        rows         prompt rows
        completions  token ids through the end-of-turn token
        finished     [B]
        """
        if self.same:
            prompts = [row["prompt_ids"] for row in rows]
            ended = zip(completions, finished.tolist(), strict=True)
            whole = [self.policy_renderer.ended(ids) if end else ids for ids, end in ended]
            return score_completions(self.scorer, prompts, whole, self.share)
        return score_sequences(self.scorer, self.in_own_tokens(rows, completions, finished.tolist()))

    def in_own_tokens(self, rows: list[Row], completions: list[list[int]], finished: list[bool]) -> list[list[int]]:
        """Prompt + completion in the reward model's tokens."""
        renderer = self.scorer.renderer
        return [
            rendered_episode(renderer, row, ended)
            if "episode" in row
            else rendered(renderer, row, self.policy_renderer.decode(ids), ended)
            for row, ids, ended in zip(rows, completions, finished, strict=True)
        ]


def score_completions(
    scorer: ScoringModel, prompts: list[list[int]], completions: list[list[int]], share: str
) -> list[float]:
    """The score of each completion behind its prompt, read at its last token; each process computes its share of them.

    share  as in completion_states
    """

    def score(group: list[int]) -> Tensor:
        groups = group_by_prompt([prompts[index] for index in group], [completions[index] for index in group])
        return scorer.model.completion_scores(groups, share)

    passes = Passes(scorer.micro_batch_tokens, share).over(prompts, list(map(len, completions)))
    return score_rendered(passes, score, len(prompts))


def score_sequences(scorer: ScoringModel, sequences: list[list[int]]) -> list[float]:
    """The score of each sequence of token ids, read at its last token; each process computes its share of them."""
    device = scorer.model.head.weight.device

    def score(group: list[int]) -> Tensor:
        batch = [sequences[index] for index in group]
        lengths = torch.tensor([len(ids) for ids in batch], device=device)
        return scorer.model.scores(pad_right(batch).to(device), lengths)

    batches = micro_batches([len(ids) for ids in sequences], scorer.micro_batch_tokens)
    return score_rendered(batches, score, len(sequences))


@torch.no_grad()
def score_rendered(passes: list[MicroBatch], score: Callable[[list[int]], Tensor], count: int) -> list[float]:
    """The scores of so many rows, of which the micro-batches of all processes hold the indices."""
    scores = torch.zeros(count)

    def own() -> None:
        for group, weight in passes:
            found = score(group)
            if weight:
                scores[group] = weight * found.cpu()

    processes.gather_results(own)
    return processes.all_reduce_sum(scores).tolist()


def rendered(renderer: Renderer, row: Row, text: str, ended: bool) -> list[int]:
    """Prompt and answer in the tokens of a reward model, without the end-of-turn token where the answer was cut off.

    row  with prompt (JSON) and columns (JSON)
    Some templates make answers begin with a space and others do not: white space around an answer is not part of it.
    """
    prompt = json.loads(row["prompt"])
    return renderer.sequence(*with_answer(prompt, text), ended, arguments_for(prompt, json.loads(row["columns"])))


def rendered_episode(renderer: Renderer, row: Row, ended: bool) -> list[int]:
    """An episode's whole conversation in the tokens of a reward model; white space around answers is no part of it."""
    prompt, (first, *later) = json.loads(row["prompt"]), row["episode"].messages
    arguments = arguments_for(prompt, json.loads(row["columns"]))
    prompt, [answer] = with_answer(prompt, first["content"])
    turns = [turn | {"content": turn["content"].strip()} if turn["role"] == "assistant" else turn for turn in later]
    return renderer.sequence(prompt, [first | answer, *turns], ended, arguments)
