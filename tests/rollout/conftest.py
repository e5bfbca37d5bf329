"""What the tests of sampling share."""

import math
from collections import Counter
from collections.abc import Callable

import pytest

from easyrlhf.rollout.ending import Ending
from easyrlhf.rollout.vllm_sampler import Drawing
from easyrlhf.rollout.vllm_server import VLLMServer, Waiting, WeightTransfer


@pytest.fixture(scope="session")
def chi_square() -> Callable[[Counter, dict, int], tuple[float, float]]:
    """chi_square(counts, probabilities, total) -> Pearson's statistic, and its 99.99 % bound.

    Over the cells expected at least 5 times; the rest is one cell.
    """

    def of(counts: Counter, probabilities: dict, total: int) -> tuple[float, float]:
        cells = [(counts[cell], total * p) for cell, p in probabilities.items() if total * p >= 5]
        rest = (total - sum(seen for seen, _ in cells), total - sum(expected for _, expected in cells))
        cells += [rest] if rest[1] > 1e-9 else []
        k = len(cells) - 1
        bound = k * (1 - 2 / (9 * k) + 3.719 * math.sqrt(2 / (9 * k))) ** 3  # Wilson-Hilferty
        return sum((seen - expected) ** 2 / expected for seen, expected in cells), bound

    return of


@pytest.fixture
def backend(tmp_path):
    """backend(port, **changed) -> Server that hands over in tmp_path/weights; `told` holds its lines."""
    made = []

    def make(port: int, lora_r=0, nccl=None, timeout=20.0, stopping=lambda: False) -> VLLMServer:
        told: list[str] = []
        one = VLLMServer(
            "127.0.0.1",
            port,
            Drawing(limit=5, ending=Ending((2,)), spare=[], temperature=0.7),
            WeightTransfer(tmp_path / "weights", lora_r, nccl),
            Waiting(timeout, told.append, stopping),
        )
        one.told = told
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()
