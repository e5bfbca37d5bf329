"""Completions as functions and servers see them, and the error that shows one of them."""

import json
import math
import pickle
from collections.abc import Iterator, Sequence, ValuesView
from dataclasses import dataclass, field
from typing import Any

from easyrlhf.errors import ServiceError

Row = dict[str, Any]
OURS = ("prompts", "completions", "completion_ids")
ENVIRONMENTS = "environments"
LARGEST = 3.4e38  # scores are kept in float32


class RewardError(ServiceError):
    """A reward source failed, took too long, or returned something that is not one finite number per completion."""


@dataclass
class TrainerState:
    """How far training is, under the names of transformers' TrainerState.

    global_step       steps done before the completions at hand were sampled
    max_steps         steps of the whole run; 0 where nothing is trained
    num_train_epochs  epochs of the whole run, as far as max_steps lets it come
    train_batch_size  completions a step
    """

    global_step: int = 0
    max_steps: int = 0
    num_train_epochs: float = 0.0
    train_batch_size: int = 0
    is_local_process_zero: bool = True
    is_world_process_zero: bool = True

    @property
    def epoch(self) -> float:
        """Epochs done."""
        return self.num_train_epochs * self.global_step / self.max_steps if self.max_steps else 0.0


@dataclass(frozen=True)
class RewardBatch:
    """B completions with what is known of them.

    prompts         [B] strings, or message lists
    completions     [B] strings, or lists of one assistant message where the prompt is a message list; of an episode
                    all messages since the prompt
    completion_ids  [B] token ids through the end-of-turn token
    finished        [B] whether the end-of-turn token was reached
    columns         name → [B] the data's columns, None where a row lacks one
    state           how far the training is that they were sampled for
    environments    [B] the objects that they were played with; None where nobody asks for them
    places          [B] file and line of the prompt rows, where they are known
    """

    prompts: list
    completions: list
    completion_ids: list[list[int]]
    finished: list[bool]
    columns: dict[str, list]
    state: TrainerState = field(default_factory=TrainerState)
    environments: list[Any] | None = None
    places: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        rows: list[Row],
        completion_ids: list[list[int]],
        finished: list[bool],
        renderer,
        state: TrainerState | None = None,
    ) -> "RewardBatch":
        """The batch of prompt rows and their answers; the renderer is the one that wrote them."""
        prompts = [json.loads(row["prompt"]) for row in rows]
        texts = [renderer.decode(ids) for ids in completion_ids]
        completions = [
            row["episode"].messages
            if "episode" in row
            else text
            if isinstance(prompt, str)
            else [{"role": "assistant", "content": text}]
            for row, prompt, text in zip(rows, prompts, texts, strict=True)
        ]
        cells = [json.loads(row["columns"]) for row in rows]
        names = sorted(set().union(*cells) - set(OURS))
        columns = {name: [row.get(name) for row in cells] for name in names}
        places = [row.get("place", "") for row in rows]
        played = [row["episode"].environment for row in rows if "episode" in row]
        environments = played if any(one is not None for one in played) else None
        return cls(
            prompts, completions, completion_ids, finished, columns, state or TrainerState(), environments, places
        )

    def __len__(self) -> int:
        return len(self.prompts)

    def part(self, start: int, stop: int) -> "RewardBatch":
        """The completions from `start` to before `stop`."""
        columns = {name: values[start:stop] for name, values in self.columns.items()}
        lists = (self.prompts, self.completions, self.completion_ids, self.finished)
        environments = self.environments and self.environments[start:stop]
        return RewardBatch(
            *(values[start:stop] for values in lists), columns, self.state, environments, self.places[start:stop]
        )

    def keywords(self) -> dict[str, list]:
        """What a reward function is called with: a copy, which it may do with as it likes."""
        shared = {name: getattr(self, name) for name in OURS} | self.columns
        return pickle.loads(pickle.dumps(shared))  # several times as fast as deepcopy

    def groups(self) -> list[int]:
        """Where each prompt's completions begin: rows side by side that are one row but for the completion."""

        def row(place: int) -> tuple:
            return self.prompts[place], [cells[place] for cells in self.columns.values()]

        return [place for place in range(len(self)) if place == 0 or row(place) != row(place - 1)]

    def share(self, count: int, number: int) -> slice:
        """The rows of one of `count` shares: consecutive, of whole prompts, as many prompts in each."""
        starts = [*self.groups(), len(self)]
        prompts = len(starts) - 1
        return slice(starts[prompts * number // count], starts[prompts * (number + 1) // count])

    def longest_sample(self) -> str:
        """The longest of the completions with its prompt, for a message about all of them."""
        place = max(range(len(self)), key=lambda place: len(self.prompts[place]) + len(self.completion_ids[place]))
        return f"  (the longest of {len(self)})\n{self.sample(place)}"

    def sample(self, place: int = 0) -> str:
        """One prompt and its completion, for a message."""
        prompt, completion = self.prompts[place], self.completions[place]
        if not isinstance(prompt, str):
            prompt, completion = prompt[-1]["content"], "\n".join(str(turn["content"]) for turn in completion)
        return f"  prompt: {prompt!r}\n  completion: {completion!r}"


def as_list(scores: Any) -> Any:
    """What a function returned, as a list where it is values in an order: a tensor, an array, a tuple, a generator."""
    if hasattr(scores, "tolist"):
        scores = scores.tolist()
    in_order = isinstance(scores, Sequence | Iterator | ValuesView) and not isinstance(scores, str | bytes)
    return list(scores) if in_order else scores


def score_list(scores: Any, who: str, batch: RewardBatch) -> list:
    """The scores as a list, as `listed` makes one. Raises RewardError unless there is one per completion."""
    scores = as_list(scores)
    if not isinstance(scores, list):
        raise not_one_each(f"{type(scores).__name__}, which is no list,", who, batch)
    if len(scores) != len(batch):
        raise not_one_each(f"{len(scores)} scores", who, batch)
    return scores


def not_one_each(found: str, who: str, batch: RewardBatch) -> RewardError:
    """The error of a source that returned something else than one score per completion."""
    return RewardError(
        f"{who} returned {found} for {len(batch)} completions; it must give a list of one each. "
        f"The first of them:\n{batch.sample()}"
    )


def as_number(score: Any) -> float | None:
    """A score as a float: nan for None, which says that a reward does not apply; None when it is no finite number."""
    if score is None:
        return math.nan
    try:
        number = float(score) if not isinstance(score, str) else math.inf
    except (TypeError, ValueError, OverflowError, RuntimeError):  # RuntimeError: a tensor of several elements
        return None
    return number if abs(number) < LARGEST else None
