"""Answers that join, leave and fail while others are decoded: each is what it would be alone."""

from types import SimpleNamespace

import pytest
import torch

from easyrlhf.rollout import slot_cache
from easyrlhf.rollout.ending import Ending
from easyrlhf.rollout.sampler import HFSampler
from easyrlhf.rollout.shape import SamplingShape
from easyrlhf.serve.decode import Busy, DecodeEngine, Group, Sample, Stopped

PROMPTS = [[5, 6, 7], [8] * 40 + [3], [9], [10, 11] * 9]
END = 2


@pytest.fixture(scope="module")
def lm(tiny_lm):
    return tiny_lm(vocab=50)


@pytest.fixture
def served(lm):
    return SimpleNamespace(id="one", lm=lm, use=lambda: None)


def sample(place: int, limit: int = 12, temperature: float = 1.0, shape: SamplingShape | None = None, likeliest=None):
    """An answer to a prompt, which keeps what it is told."""
    heard, failures = [], []

    def take(drawn, last) -> bool:
        heard.append(drawn)
        return last or drawn.token == END

    how = (temperature, shape or SamplingShape(), likeliest)
    made = Sample(PROMPTS[place], (3, place, 0), limit, *how, take, failures.append)
    made.heard, made.failures = heard, failures
    return made


def alone(lm, place: int, limit: int = 12, temperature: float = 1.0, shape: SamplingShape | None = None) -> list[int]:
    """What the loop of the stages draws for it."""
    sampler = HFSampler(lm, 0, Ending((END,)), limit, temperature, 1, shape or SamplingShape())
    found = sampler.generate([PROMPTS[place]], [(3, place, 0)])
    return found.completion_ids[0, : int(found.completion_mask.sum())].tolist()


def said(one: Sample) -> list[int]:
    return [drawn.token for drawn in one.heard]


@torch.no_grad()
def finish(group: Group) -> None:
    while group.samples:
        group.step([])


@pytest.mark.parametrize("chunk", [2, 32])
@torch.no_grad()
def test_those_that_join_later_even_longer_ones_get_what_they_would_get_alone(lm, served, monkeypatch, chunk):
    monkeypatch.setattr(slot_cache, "CHUNK", chunk)
    monkeypatch.setattr("easyrlhf.rollout.decode_batch.CHUNK", chunk)
    group = Group(served, 8)
    hows = [
        {},
        {"temperature": 0},
        {"temperature": 0.6, "limit": 30},
        {"shape": SamplingShape(0.9, 10, 3.0), "limit": 20},
    ]
    samples = [sample(place, **how) for place, how in enumerate(hows)]
    group.step([samples[0]])
    group.step([])
    group.step([samples[1], samples[2]])  # one of them has a longer prompt than there are columns
    group.step([])
    group.step([samples[3]])
    finish(group)
    expected = [alone(lm, place, **how) for place, how in enumerate(hows)]
    assert [said(one) for one in samples] == expected
    assert len({tuple(ids) for ids in expected}) == 4 and max(map(len, expected)) > 12


@torch.no_grad()
def test_one_that_nobody_waits_for_gives_its_place_away(lm, served):
    group = Group(served, 8)
    first, second = sample(0), sample(1)
    group.step([first, second])
    first.gone = True
    finish(group)
    assert len(first.heard) == 1 and said(second) == alone(lm, 1)
    assert len(group.running) == 0


@torch.no_grad()
def test_log_probabilities_are_the_models_own_at_any_temperature(lm, served):
    group = Group(served, 8)
    asked = [sample(0, likeliest=3, temperature=0.5, shape=SamplingShape(0.9, 10)), sample(1), sample(3, likeliest=0)]
    group.step(asked)
    finish(group)
    for place, one in ((0, asked[0]), (3, asked[2])):
        ids = PROMPTS[place] + said(one)
        table = lm(torch.tensor([ids])).logits[0].double().log_softmax(-1)[len(PROMPTS[place]) - 1 : -1]
        expected = [row[token].item() for row, token in zip(table, said(one), strict=True)]
        assert [drawn.logprob for drawn in one.heard] == pytest.approx(expected, abs=1e-4)
        likeliest = [row.topk(one.likeliest) for row in table]
        assert [[token for token, _ in drawn.likeliest] for drawn in one.heard] == [
            best.indices.tolist() for best in likeliest
        ]
        values = [value for drawn in one.heard for _, value in drawn.likeliest]
        assert values == pytest.approx([value for best in likeliest for value in best.values.tolist()], abs=1e-4)
    assert asked[1].heard[0].logprob is None


@pytest.fixture
def engine(served):
    """engine(**changed) -> an engine of one model, whose thread is ended after the test."""
    made = []

    def make(batch_size=2, max_waiting=4, **changed) -> DecodeEngine:
        for name, value in changed.items():
            setattr(served, name, value)
        made.append(DecodeEngine([served], batch_size, max_waiting))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_a_queue_takes_no_more_than_may_wait_until_some_leave(engine):
    one = engine()
    samples = [sample(0) for _ in range(6)]
    one.submit("one", samples[:3])
    with pytest.raises(Busy):
        one.submit("one", samples[3:5])
    one.submit("one", samples[3:4])
    one.leave(samples[:2])
    one.submit("one", samples[4:6])
    assert [next(i for i, s in enumerate(samples) if s is one_) for one_ in one.groups["one"].waiting] == [2, 3, 4, 5]


def test_a_fault_ends_those_being_decoded_and_no_others(engine, lm, capsys):
    calls = []

    def use() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("out of memory")

    one = engine(batch_size=2, use=use)
    samples = [sample(0), sample(1), sample(2), sample(3)]
    one.submit("one", samples)
    one.start()
    wait_until(lambda: said(samples[3]) == alone(lm, 3))
    assert [[str(error) for error in s.failures] for s in samples] == [["out of memory"]] * 2 + [[]] * 2
    assert said(samples[2]) == alone(lm, 2) and "out of memory" in capsys.readouterr().err


def test_closing_tells_those_who_wait(engine):
    one = engine(batch_size=1)
    samples = [sample(0, limit=10**9), sample(1)]
    samples[0].take = lambda drawn, last: False
    one.start()
    one.submit("one", samples)
    wait_until(lambda: len(samples[0].said) > 3)
    one.close()
    assert all(isinstance(error, Stopped) for s in samples for error in s.failures)
    assert [len(s.failures) for s in samples] == [1, 1] and not one.thread.is_alive()
    with pytest.raises(Stopped):
        one.submit("one", [sample(0)])


def wait_until(true, seconds: float = 20.0) -> None:
    import time

    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)
