"""Runs that a vLLM server samples for: weights that arrive, a server that comes back, rollouts ahead."""

import time

import pytest

EXACT = 1e-5  # nats a token between vLLM's log-probabilities and those of the update's own pass, in float32


@pytest.fixture(scope="module")
def server(serving):
    """A server for runs that train all weights."""
    return serving()


def steps_done(folder) -> int:
    """How many steps a run has logged."""
    log = folder / "metrics.jsonl"
    return log.read_text().count("\n") if log.exists() else 0


def test_a_server_samples_what_a_colocated_vllm_does(ppo, server):
    steps, colocated = ppo("served", *server.flags), ppo("beside", "--rollout", "vllm")
    assert all(step["health/sampler_mismatch"] < EXACT for step in steps)
    assert [s["objective/scores"] for s in steps] == pytest.approx([s["objective/scores"] for s in colocated], abs=1e-4)


def test_two_processes_with_zero3_have_one_server(ppo, server):
    steps = ppo("served-zero3", *server.flags, "--devices", "cpu:2", "--deepspeed", "zero3", steps=3)
    assert all(step["health/sampler_mismatch"] < EXACT for step in steps)
    assert steps[-1]["objective/kl"] > 0.01


def test_a_rollout_ahead_is_one_update_old_and_weighted(ppo, server):
    steps = ppo("ahead", *server.flags, "--rollout_ahead", "1", steps=6)
    assert steps[0]["health/sampler_mismatch"] < EXACT
    assert all(step["health/sampler_mismatch"] > 1e-3 for step in steps[1:])
    assert all(0.9 < step["health/importance_mean"] < 1.1 for step in steps[1:])
    assert all(step["time/rollout"] < 0.5 * steps[0]["time/rollout"] for step in steps[1:])  # it had the update's time


def test_an_adapter_is_handed_over_as_such(ppo, serving):
    steps = ppo("served-lora", *serving(lora_r=8).flags, "--lora_r", "8", "--learning_rate", "1e-2", steps=3)
    assert all(step["health/sampler_mismatch"] < EXACT for step in steps)
    assert steps[-1]["objective/kl"] > 0.5


def test_a_killed_server_is_waited_for_and_gets_the_weights_again(toy, begin, serving):
    server = serving()
    command = begin("killed", *server.flags, steps=12)
    while steps_done(toy / "killed") < 3:
        assert command.poll() is None
        time.sleep(0.1)
    server.kill()
    time.sleep(3)
    server.start()
    out, err = command.communicate(timeout=300)
    assert command.returncode == 0, out[-3000:] + err[-3000:]
    assert f"the vLLM server at http://127.0.0.1:{server.port} does not answer; waiting" in out + err
    assert steps_done(toy / "killed") == 12


def test_a_server_that_stays_away_ends_the_run_which_goes_on_later(toy, begin, serving):
    server = serving()
    command = begin("left", *server.flags, "--vllm_timeout", "60", steps=12)
    while steps_done(toy / "left") < 3:
        assert command.poll() is None
        time.sleep(0.1)
    server.kill()
    out, err = command.communicate(timeout=300)
    assert command.returncode == 1
    assert "did not answer for 60 seconds" in err
    assert "easyrlhf vllm_serve" in err
    assert "Safe on disk: " in err
    server.start()
    command = begin("left", *server.flags, "--vllm_timeout", "200", steps=12)
    out, err = command.communicate(timeout=300)
    assert command.returncode == 0, out[-3000:] + err[-3000:]
    assert steps_done(toy / "left") == 12
