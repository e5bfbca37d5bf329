"""Whole runs with vLLM: what it samples is what the policy would, in every layout."""

import pytest

EXACT = 1e-5  # nats a token between vLLM's log-probabilities and those of the update's own pass, in float32


@pytest.fixture(scope="module")
def alone(ppo):
    """The steps of a run in one process."""
    return ppo("alone", "--rollout", "vllm")


def test_new_weights_are_seen_after_every_update(alone):
    assert [step["health/sampler_mismatch"] < EXACT for step in alone] == [True] * 5
    assert alone[-1]["objective/kl"] > 0.05  # the policy has moved
    assert [step["health/importance_mean"] for step in alone] == pytest.approx([1.0] * 5, abs=1e-4)


@pytest.mark.parametrize(
    "words",
    [
        ("--devices", "cpu:2", "--deepspeed", "zero3"),
        ("--devices", "cpu:2", "--vllm_tensor_parallel_size", "2"),
    ],
    ids=["zero3", "tensor-parallel"],
)
def test_two_processes_sample_and_learn_what_one_does(ppo, alone, words, request):
    steps = ppo(request.node.callspec.id, "--rollout", "vllm", *words)
    assert all(step["health/sampler_mismatch"] < EXACT for step in steps)
    for name in ("objective/scores", "objective/kl", "length/completion_mean"):
        assert [step[name] for step in steps] == pytest.approx([step[name] for step in alone], abs=1e-4), name


@pytest.mark.parametrize("layout", [(), ("--devices", "cpu:2", "--deepspeed", "zero3")], ids=["one", "zero3"])
def test_an_adapter_is_handed_over_as_such(ppo, layout, request):
    words = ("--rollout", "vllm", "--lora_r", "8", "--learning_rate", "1e-2", *layout)
    steps = ppo(f"lora-{request.node.callspec.id}", *words, steps=3)
    assert all(step["health/sampler_mismatch"] < EXACT for step in steps)
    assert steps[-1]["objective/kl"] > 0.5


def test_the_adapter_of_a_policy_that_shares_its_backbone_is_handed_over(ppo, toy):
    (toy / "long.py").write_text(
        "def tokens(completions, **columns):\n    return [len(str(one)) for one in completions]\n"
    )
    words = ("--rollout", "vllm", "--share_backbone", "--lora_r", "8", "--learning_rate", "1e-2")
    words += ("--reward_model", "none", "--reward_funcs", f"{toy}/long.py:tokens")
    steps = ppo("shared", *words, steps=3)
    assert all(step["health/sampler_mismatch"] < EXACT for step in steps)
    assert steps[-1]["objective/kl"] > 0.5


def test_ppo_reaches_the_score_that_it_reaches_with_our_own_loop(ppo):
    ends = {}
    for rollout in ("hf", "vllm"):
        steps = ppo(f"long-{rollout}", "--rollout", rollout, steps=16)
        scores = [step["objective/scores"] for step in steps]
        ends[rollout] = sum(scores[-4:]) / 4
        assert ends[rollout] > scores[0] + 0.5, scores
    assert ends["vllm"] == pytest.approx(ends["hf"], abs=0.25)


def test_older_weights_are_weighted(ppo):
    steps = ppo("interval", "--rollout", "vllm", "--vllm_sync_interval", "2", steps=4)
    assert [step["health/sampler_mismatch"] < EXACT for step in steps] == [True, False, True, False]
