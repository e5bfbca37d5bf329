"""Whole stages, as if on cuda:0: they do nothing that CUDA would refuse, and wait for the GPU as seldom as is told."""

import pytest

from easyrlhf.rollout.ending import Ending
from easyrlhf.rollout.sampler import HFSampler

OFTEN_RUN, LIKE_THEM = ["sft", "rm", "ppo", "grpo", "dpo", "kto"], ["ebft", "ipo", "orpo", "simpo", "cpo", "rrhf"]
STAGES = [*OFTEN_RUN, *(pytest.param(name, marks=pytest.mark.slow) for name in LIKE_THEM)]
# How often Python waits for the GPU in a micro-batch, in the passes that come before it as well. The table of
# docs/performance.md is this one.
MICRO_BATCH = {"sft": 0, "rm": 0, "dpo": 0, "orpo": 0, "rrhf": 0, "kto": 3, "grpo": 8, "ppo": 8}
LOOK = 5  # the same for 8 tokens of all completions that are decoded together
LEARNING = {"grpo": {"beta": 0.1}}  # so that every rollout is learned from


@pytest.mark.parametrize("name", STAGES)
def test_a_stage(run_stage, name):
    run_stage(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sft", {"lora_r": 4}),
        ("ppo", {"lora_r": 4, "num_mini_batches": 2, "whiten_rewards": True}),
        ("grpo", {"lora_r": 4, "beta": 0.1}),
        ("grpo", {"share_prefix": "on"}),
        ("dpo", {"share_prefix": "on", "loss_type": "aot"}),
        ("rm", {"share_prefix": "on", "precision": "float32"}),
        ("ppo", {"precision": "float32", "share_prefix": "on"}),
        ("sft", {"precision": "float32", "save_steps": 1}),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_stage_with_other_settings(run_stage, name, settings):
    run_stage(name, **settings)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in ("sft", "grpo"))) for n in MICRO_BATCH]
)
def test_waits_of_a_micro_batch(run_stage, name):
    seen = []
    for tokens in (100_000, 40):
        watch = run_stage(name, micro_batch_tokens=tokens, **LEARNING.get(name, {}))
        seen.append((watch.waits, watch.passes))
        watch.counts.clear()
        watch.passes = 0
    (few, large), (many, small) = seen
    assert small >= 2 * large
    assert many - few <= MICRO_BATCH[name] * (small - large)


def test_waits_of_a_sampled_token(watch, tiny_lm):
    seen = []
    with watch:
        lm = tiny_lm().to("cuda")
        for tokens in (8, 24):
            watch.counts.clear()
            sampler = HFSampler(lm, 0, Ending(()), tokens, 1.0, 4)
            sampler.generate([[5, 6, 7], [8, 9], [10]], [(0, n) for n in range(3)])
            seen.append(watch.waits)
    assert seen[1] - seen[0] == LOOK * 16 // 8
