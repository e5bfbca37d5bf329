"""Answers of a policy, and ways to ask for their scores."""

import pytest
import torch

from easyrlhf.rewards.batch import RewardBatch
from easyrlhf.rewards.combined import Rewards

END = 2


@pytest.fixture
def answer(tokenizer):
    """answer(text, ended=True) -> the policy's token ids."""

    def ids(text: str, ended: bool = True) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"] + [END] * ended

    return ids


@pytest.fixture
def rewards_of(chatml_renderer):
    """rewards_of(sources, weights, clip, missing_eos_penalty, workers, streams) -> Rewards."""

    def make(sources, weights=None, clip=None, missing_eos_penalty=0.0, workers=None, streams=False):
        weights = weights or [1.0] * len(sources)
        return Rewards(sources, weights, clip, missing_eos_penalty, chatml_renderer, workers, streams)

    return make


@pytest.fixture
def batch_of(chatml_renderer):
    """batch_of(rows, completions, finished) -> Batch; all finished by default."""

    def make(rows, completions, finished=None) -> RewardBatch:
        finished = [True] * len(rows) if finished is None else torch.as_tensor(finished).tolist()
        return RewardBatch.of(rows, completions, finished, chatml_renderer)

    return make


@pytest.fixture
def ask(batch_of):
    """ask(source, rows, completions, finished) -> the scores a source gives."""

    def scores(source, rows, completions, finished=None) -> list:
        return source.start(batch_of(rows, completions, finished)).scores()

    return scores


@pytest.fixture
def three(batch_of, prompt_row, answer):
    """Three short answers, whose texts are "1", "2" and "3", to the prompts "a", "b" and "c"."""
    return batch_of([prompt_row([3], prompt) for prompt in "abc"], [answer(text) for text in "123"])


@pytest.fixture(autouse=True)
def models_of_examples_are_pretended(monkeypatch):
    """Commands are called as help and pages write them, with models that are not there; tests/test_glance.py looks."""
    monkeypatch.setattr("easyrlhf.launch.glance", lambda config: None)
    monkeypatch.setattr("easyrlhf.glance.glance_at_models", lambda settings: None)
