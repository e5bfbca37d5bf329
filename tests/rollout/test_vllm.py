"""The sampler of vLLM over a backend that only remembers: when it gets weights, and what becomes of what it says."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch

from easyrlhf.engine import processes
from easyrlhf.errors import InputError, ServiceError
from easyrlhf.rollout.ending import Ending
from easyrlhf.rollout.vllm_sampler import Completion, SamplerLost, VLLMSampler, lora_room, samples_of, seed_of

PAD, END = 9, 2
ENDING = Ending((END,))
PROMPTS = [[11], [12, 13], [14]]
KEYS = [(7, 0, number) for number in range(3)]
OTHERS = [(7, 1, number) for number in range(3)]


class Policy:
    """Stands for the engine; its weights are one number."""

    def __init__(self):
        self.model = SimpleNamespace(device=torch.device("cpu"), number=0)

    @contextmanager
    def full_weights(self):
        yield self.model


class Backend:
    """Says of each prompt its first token, the number of the weights it has, and the end.

    at_once  as the sampler asks
    fails  calls that raise SamplerLost, each once: ["complete", "load", …] in the order in which they are to come
    """

    def __init__(self, ranks: int = 1, fails: list[str] | None = None):
        self.ranks, self.fails, self.at_once = ranks, fails or [], False
        self.calls: list[tuple] = []
        self.weights = None
        self.pause = 0.0
        self.gone = ""  # why it does not come back

    def may_fail(self, name: str) -> None:
        if self.fails and self.fails[0] == name:
            raise SamplerLost(f"no answer to {self.fails.pop(0)}")

    def load(self, lm):
        self.calls.append(("load", lm.number))
        self.may_fail("load")
        self.weights = lm.number

    def session(self):
        return nullcontext()

    def complete(self, prompts, seeds, limits=None):
        weights = self.weights
        time.sleep(self.pause)
        self.calls.append(("complete", prompts, seeds))
        self.may_fail("complete")
        return [Completion([prompt[0], 100 + weights, END], [-1.0, -2.0, -3.0]) for prompt in prompts]

    def wait(self):
        self.calls.append(("wait",))
        if self.gone:
            raise ServiceError(self.gone)

    def close(self):
        self.calls.append(("close",))

    @property
    def names(self) -> list[str]:
        """What was called, in order."""
        return [name for name, *_ in self.calls]


def sampler_of(backend: Backend, sync_interval: int = 1) -> VLLMSampler:
    return VLLMSampler(Policy(), backend, pad_id=PAD, ending=ENDING, temperature=1.0, sync_interval=sync_interval)


def update(sampler: VLLMSampler) -> None:
    """What the loop does in an update."""
    sampler.engine.model.number += 1
    sampler.updated()


def weights_of(samples) -> list[int]:
    """Number of the weights that each completion was sampled with."""
    return (samples.completion_ids[:, 1] - 100).tolist()


# --- weights


def test_weights_are_loaded_before_the_first_sampling_and_after_every_update_and_not_otherwise():
    backend = Backend()
    sampler = sampler_of(backend)
    assert not backend.calls
    assert weights_of(sampler.generate(PROMPTS, KEYS)) == [0, 0, 0]
    sampler.generate(PROMPTS, OTHERS)
    assert backend.names == ["load", "complete", "complete"]
    update(sampler)
    assert backend.names == ["load", "complete", "complete"]  # not before they are wanted
    assert weights_of(sampler.generate(PROMPTS, KEYS)) == [1, 1, 1]
    assert backend.calls[3] == ("load", 1)


def test_weights_are_loaded_after_so_many_updates_as_the_interval_says():
    sampler = sampler_of(Backend(), sync_interval=3)
    seen = []
    for _ in range(8):
        seen += set(weights_of(sampler.generate(PROMPTS, KEYS)))
        update(sampler)
    assert seen == [0, 0, 0, 3, 3, 3, 6, 6]
    assert sampler.backend.names.count("load") == 3


def test_an_evaluation_is_of_the_weights_of_its_step_whatever_the_interval():
    sampler = sampler_of(Backend(), sync_interval=4)
    seen = []
    for _ in range(4):
        sampler.generate(PROMPTS, KEYS)
        update(sampler)
        seen += set(weights_of(sampler.generate(PROMPTS, OTHERS)))
    assert seen == [1, 2, 3, 4]
    loads = sampler.backend.names.count("load")
    sampler.generate(PROMPTS, OTHERS)
    assert sampler.backend.names.count("load") == loads  # the same weights are not sent twice


# --- completions


def test_completions_keep_their_order_and_are_padded():
    completions = [
        Completion([5, END], [-0.5, -1.5]),
        Completion([5, 6, 7], [-1.0, -2.0, -3.0]),
        Completion([END], [-4.0]),
        Completion([6, 7, END], [-0.25, -0.5, -0.75]),  # ends with the last token it may have
    ]
    samples = samples_of(completions, PAD, ENDING, torch.device("cpu"))
    assert samples.completion_ids.tolist() == [[5, END, PAD], [5, 6, 7], [END, PAD, PAD], [6, 7, END]]
    assert samples.completion_mask.tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 1]]
    assert samples.logprobs.tolist() == [[-0.5, -1.5, 0], [-1, -2, -3], [-4, 0, 0], [-0.25, -0.5, -0.75]]
    assert samples.finished.tolist() == [True, False, True, True]
    assert samples.completion_mask.dtype == samples.logprobs.dtype == torch.float32


def test_a_log_probability_that_vllm_does_not_know_is_not_a_number():
    completions = [Completion([5, END], [None, -0.5]), Completion([END], [-1.0])]
    samples = samples_of(completions, PAD, ENDING, torch.device("cpu"))
    assert samples.logprobs.isnan().tolist() == [[True, False], [False, False]]
    assert samples.logprobs[:, 0].tolist()[1] == -1.0 and samples.logprobs[0, 1] == -0.5


def test_a_rollout_is_what_the_backend_says_of_its_prompts():
    samples = sampler_of(Backend()).generate(PROMPTS, KEYS)
    assert samples.completion_ids.tolist() == [[11, 100, END], [12, 100, END], [14, 100, END]]
    assert samples.logprobs.tolist() == [[-1.0, -2.0, -3.0]] * 3
    assert samples.finished.all()


def test_seeds_depend_on_the_keys_alone():
    backend = Backend()
    sampler = sampler_of(backend)
    sampler.generate(PROMPTS, KEYS)
    update(sampler)
    torch.manual_seed(5)
    sampler.generate([[1], [2]], [KEYS[2], KEYS[0]])  # other prompts, order, company and weights
    first, second = (call[2] for call in backend.calls if call[0] == "complete")
    assert second == [first[2], first[0]]
    seeds = {seed_of((42, part, number)) for part in (0, 1) for number in range(5000)}
    assert len(seeds) == 10_000
    assert all(0 <= seed < 2**63 for seed in seeds)  # what vLLM takes
    assert max(seeds) > 2**60


def test_several_processes_sample_each_prompt_once(monkeypatch):
    # four processes, here threads, two of which hold one copy together: each pair gets the same part of five prompts
    own, outcomes, meeting = threading.local(), [None] * 4, threading.Barrier(4, timeout=20)

    def together(job):
        outcomes[own.rank] = job()
        meeting.wait()
        found = list(outcomes)
        meeting.wait()
        return found

    for name, value in {"size": lambda: 4, "rank": lambda: own.rank, "gather_results": together}.items():
        monkeypatch.setattr(processes, name, value)
    backends, prompts = [Backend(ranks=2) for _ in range(4)], [[11], [12], [13], [14], [15]]
    keys = [(0, number) for number in range(5)]

    def process(rank: int):
        own.rank = rank
        with sampler_of(backends[rank]) as sampler:
            found = [sampler.generate(prompts, keys)]
            sampler.begin(prompts, keys)
            return [*found, sampler.generate(prompts, keys)]

    with ThreadPoolExecutor(4) as threads:
        samples = [one for both in threads.map(process, range(4)) for one in both]
    assert [one.completion_ids[:, 0].tolist() for one in samples] == [[11, 12, 13, 14, 15]] * 8
    asked = [[call[1:] for call in backend.calls if call[0] == "complete"] for backend in backends]
    seeds = [seed_of(key) for key in keys]
    first, second = (prompts[:2], seeds[:2]), (prompts[2:], seeds[2:])
    assert asked == [[first] * 2, [first] * 2, [second] * 2, [second] * 2]


# --- ahead


def test_what_was_begun_is_had_with_the_weights_of_before_the_update_and_once():
    backend = Backend()
    with sampler_of(backend) as sampler:
        sampler.begin(PROMPTS, KEYS)
        update(sampler)
        samples = sampler.generate(PROMPTS, KEYS)
        assert weights_of(samples) == [0, 0, 0] and samples.completion_ids[:, 0].tolist() == [11, 12, 14]
        assert backend.names == ["load", "complete"]
        assert weights_of(sampler.generate(PROMPTS, KEYS)) == [1, 1, 1]  # anew
        sampler.begin(PROMPTS, KEYS)
        assert weights_of(sampler.generate(PROMPTS, KEYS)) == [1, 1, 1]
        assert backend.names == ["load", "complete"] * 2 + ["complete"]
    assert backend.names[-1] == "close"


def test_begin_gives_the_weights_of_now_when_they_are_due():
    with sampler_of(Backend()) as sampler:
        for number in range(3):
            sampler.begin(PROMPTS, KEYS)
            update(sampler)
            assert weights_of(sampler.generate(PROMPTS, KEYS)) == [number] * 3


def test_begin_does_not_wait_for_completions():
    backend, go = Backend(), threading.Event()
    complete, backend.complete = backend.complete, lambda *asked: go.wait(20) and complete(*asked)
    with sampler_of(backend) as sampler:
        sampler.begin(PROMPTS, KEYS)
        assert backend.names == ["load"]
        go.set()
        assert weights_of(sampler.generate(PROMPTS, KEYS)) == [0, 0, 0]


def test_other_prompts_in_between_leave_it_alone_and_let_it_finish_before_new_weights_come():
    backend = Backend()
    backend.pause = 0.1
    with sampler_of(backend) as sampler:
        sampler.begin(PROMPTS, KEYS)
        update(sampler)
        assert weights_of(sampler.generate(PROMPTS[:1], OTHERS[:1])) == [1]
        asked = [(name, *found[:1]) for name, *found in backend.calls]
        assert asked == [("load", 0), ("complete", PROMPTS), ("load", 1), ("complete", PROMPTS[:1])]
        assert weights_of(sampler.generate(PROMPTS, KEYS)) == [0, 0, 0]
        assert len(backend.calls) == 4


def test_what_is_begun_is_this_processs_share_whatever_the_main_process_does_meanwhile(monkeypatch):
    size, go, backend = [2], threading.Event(), Backend()
    for name, value in {"size": lambda: size[0], "rank": lambda: 0, "gather_results": lambda job: [job()]}.items():
        monkeypatch.setattr(processes, name, value)
    with sampler_of(backend) as sampler:
        sampler.draws.background.submit(go.wait, 20)  # so that the thread comes to it late
        sampler.begin([[11], [12]], KEYS[:2])
        size[0] = 1  # as within world.on_main
        go.set()
        sampler.draws.finish()
    assert backend.calls[1][1] == [[11]]


# --- lost


@pytest.mark.parametrize(
    "fails, expected",
    [
        (["complete"], ["load", "complete", "wait", "load", "complete"]),
        (["load"], ["load", "wait", "load", "complete"]),
        (["load", "complete"], ["load", "wait", "load", "complete", "wait", "load", "complete"]),
    ],
)
@pytest.mark.parametrize("sync_interval", [1, 4])
def test_a_backend_that_was_lost_is_waited_for_and_given_the_weights_again(fails, expected, sync_interval):
    backend = Backend(fails=list(fails))
    samples = sampler_of(backend, sync_interval).generate(PROMPTS, KEYS)
    assert samples.completion_ids[:, 0].tolist() == [11, 12, 14]
    assert backend.names == expected
    seeds = [call[2] for call in backend.calls if call[0] == "complete"]
    assert all(one == seeds[0] for one in seeds)


def test_it_gets_the_newest_weights_though_they_were_not_due_yet():
    backend = Backend()
    sampler = sampler_of(backend, sync_interval=5)
    sampler.generate(PROMPTS, KEYS)
    update(sampler)
    backend.fails = ["complete"]
    assert weights_of(sampler.generate(PROMPTS, KEYS)) == [1, 1, 1]


@pytest.mark.parametrize("name", ["load", "complete"])
def test_one_that_fails_again_and_again_ends_the_run_with_the_reason(name):
    backend = Backend(fails=[name] * 3)
    with pytest.raises(ServiceError, match=f"^sampling failed 3 times: no answer to {name}$") as caught:
        sampler_of(backend).generate(PROMPTS, KEYS)
    assert not isinstance(caught.value, SamplerLost) and caught.value.exit_code == 1
    assert backend.names.count(name) == backend.names.count("wait") == 3


def test_one_that_does_not_come_back_ends_the_run_with_what_wait_says():
    backend = Backend(fails=["complete"])
    backend.gone = "did not answer for 600 seconds"
    with pytest.raises(ServiceError, match="did not answer for 600 seconds"):
        sampler_of(backend).generate(PROMPTS, KEYS)
    assert backend.names == ["load", "complete", "wait"]


def test_what_was_begun_and_lost_is_sampled_anew():
    backend = Backend(fails=["complete"])
    with sampler_of(backend) as sampler:
        sampler.begin(PROMPTS, KEYS)
        update(sampler)
        assert weights_of(sampler.generate(PROMPTS, KEYS)) == [1, 1, 1]
        assert backend.names == ["load", "complete", "load", "complete"]


def test_a_refusal_in_the_background_is_told():
    backend = Backend()

    def refuses(prompts, seeds):
        raise ServiceError("answers 400: too long")

    backend.complete = refuses
    with sampler_of(backend) as sampler:
        sampler.begin(PROMPTS, KEYS)
        with pytest.raises(ServiceError, match="answers 400: too long"):
            sampler.generate(PROMPTS, KEYS)


# --- adapters


@pytest.mark.parametrize("r, room", [(1, 8), (8, 8), (9, 16), (64, 64), (65, 128), (300, 320), (512, 512)])
def test_an_adapter_gets_the_smallest_room_that_it_fits(r, room):
    assert lora_room(r) == room


def test_an_adapter_that_fits_no_room_is_bad_input():
    with pytest.raises(InputError, match=r"--lora_r 513: vLLM takes adapters up to rank 512; lower it, or --rollout"):
        lora_room(513)
