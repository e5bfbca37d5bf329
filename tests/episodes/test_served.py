"""Episodes whose turns vLLM samples: in its process's waves, or each at once by a server; the rows of our own loop."""

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from easyrlhf.config import GRPOConfig, PPOConfig
from easyrlhf.engine import processes
from easyrlhf.errors import ServiceError, ServiceStopped, SettingError
from easyrlhf.rollout.ending import Ending
from easyrlhf.rollout.vllm_sampler import Completion, Drawing, SamplerLost, VLLMSampler, seed_of
from easyrlhf.rollout.vllm_server import VLLMServer, Waiting, WeightTransfer
from easyrlhf.userfile import load_module

fake = load_module(Path(__file__).parents[1] / "rollout" / "vllm_server.py")
END, CPU = 2, torch.device("cpu")
FIELDS = ("completion_ids", "completion_mask", "action_mask", "logprobs", "finished")


def said(prompt: list[int]) -> list[int]:
    """What is sampled behind a prompt: other ids behind every other prompt, of 1 to 5 tokens, and the end."""
    number = sum(place * token for place, token in enumerate(prompt, 1))
    return [3 + (number + 7 * place) % 200 for place in range(1 + number % 5)] + [END]


def logprobs_of(ids: list[int]) -> list[float]:
    """As the tests' own sampler gives them."""
    return [-token / 8 for token in ids]


class Engine:
    """The policy; its weights are one number."""

    def __init__(self):
        self.model = SimpleNamespace(device=CPU, number=0)

    @contextmanager
    def full_weights(self):
        yield self.model


class Backend:
    """Says what `said` gives, less than the limit.

    lost   numbers of the calls of complete that find it lost
    asked  (prompts, seeds, limits) of each call
    """

    ranks = 1

    def __init__(self, at_once: bool, lost: tuple[int, ...] = ()):
        self.at_once, self.lost, self.asked, self.calls = at_once, lost, [], []
        self.lock = threading.Lock()

    def load(self, lm):
        self.calls.append(f"load {lm.number}")

    @contextmanager
    def session(self):
        self.calls.append("session")
        yield
        self.calls.append("end")

    def complete(self, prompts, seeds, limits=None):
        with self.lock:
            self.asked.append((prompts, seeds, limits))
            if len(self.asked) in self.lost:
                raise SamplerLost("no answer")
        ids = [said(prompt)[:limit] for prompt, limit in zip(prompts, limits, strict=True)]
        return [Completion(one, logprobs_of(one)) for one in ids]

    def wait(self):
        self.calls.append("wait")

    def close(self):
        self.calls.append("close")


def sampler_of(backend) -> VLLMSampler:
    return VLLMSampler(Engine(), backend, pad_id=0, ending=Ending((END,)), temperature=1.0, sync_interval=1)


class Asks:
    """1 to 4 answers, with pauses that differ from episode to episode."""

    def reset(self, number):
        self.number, self.turns = number, 0
        return f" {number}" * (number % 2)

    def respond(self, text):
        time.sleep((self.number * 7 + self.turns * 3) % 5 / 500)
        self.turns += 1
        return f"Go on {len(text)}." if self.turns <= self.number % 4 else None

    def get_reward(self):
        return self.number / 4


COLUMNS, KEYS = [{"number": number} for number in range(8)], [(7, 0, number) for number in range(8)]


@pytest.fixture
def own_loop(player, sampler, rows):
    """own_loop(environment, **limits) -> samples and sampler of the package's own loop, which draws the same tokens."""

    def play(environment, **limits):
        says = sampler(lambda number, turn: said(prompts[number, turn]))
        prompts, generate = {}, says.generate

        def noted(asked, keys, most):
            prompts.update({(key[2], key[3] if len(key) > 3 else 0): ids for ids, key in zip(asked, keys, strict=True)})
            return generate(asked, keys, most)

        says.generate = noted
        return player(environment, **limits).play(says, rows(*COLUMNS), KEYS), says

    return play


def same(found, expected) -> bool:
    """Whether two samples are the same, bit for bit, but for seconds."""
    told = [[(one.messages, one.turns, one.reward, one.prompt_ids) for one in s.episodes] for s in (found, expected)]
    return told[0] == told[1] and all(torch.equal(getattr(found, f), getattr(expected, f)) for f in FIELDS)


@pytest.mark.parametrize("limits", [{}, {"tokens": 60, "turn": 3}], ids=["room", "cut"])
@pytest.mark.parametrize("at_once", [False, True], ids=["waves", "at once"])
def test_rows_are_those_of_our_own_loop_where_the_same_tokens_are_drawn(player, rows, own_loop, at_once, limits):
    expected, says = own_loop(Asks, **limits)
    backend = Backend(at_once)
    with sampler_of(backend) as sampler:
        found = sampler.play(player(Asks, **limits), rows(*COLUMNS), KEYS)
    assert same(found, expected)
    assert {one.turns for one in found.episodes} == {1, 2, 3, 4} or limits
    # every turn with the seed of its own key, and no more tokens than it has room for
    ours = sorted((ids, seed_of(key), most) for asked in says.asked for ids, key, most in zip(*asked, strict=True))
    assert sorted(one for asked in backend.asked for one in zip(*asked, strict=True)) == ours
    # the weights came once, around all turns
    assert backend.calls == ["load 0", "session", "end", "close"]
    assert len(backend.asked) == (len(ours) if at_once else len(says.asked))


def test_a_server_samples_a_turn_at_once_whoever_else_is_slow(player, rows):
    """The first episode answers after all turns of the second; in waves it would hold it up."""
    done = threading.Event()

    class Waits(Asks):
        def respond(self, text):
            if self.number == 0 and not done.wait(10):
                raise TimeoutError("the other episode waits for this one")
            self.turns += 1
            return "More." if self.turns < 4 else None

        def close(self):
            if self.number == 3:
                done.set()

    backend = Backend(at_once=True)
    found = sampler_of(backend).play(player(Waits, timeout=20.0), rows(COLUMNS[0], COLUMNS[3]), KEYS[:2])
    assert [one.turns for one in found.episodes] == [4, 4]
    assert [len(prompts) for prompts, _, _ in backend.asked] == [1] * 8


@pytest.mark.parametrize("at_once", [False, True], ids=["waves", "at once"])
def test_episodes_of_a_vllm_that_was_lost_are_played_again(player, rows, own_loop, at_once):
    backend = Backend(at_once, lost=(2,))
    found = sampler_of(backend).play(player(Asks), rows(*COLUMNS), KEYS)
    assert same(found, own_loop(Asks)[0])
    assert backend.calls == ["load 0", "session", "wait", "load 0", "session", "end"]


async def goes_on_without(chat):
    try:
        await chat.reply()
    except Exception:
        return 0.0


def test_no_episode_goes_on_where_its_turn_was_lost(player, rows):
    with pytest.raises(ServiceError, match=r"^sampling failed 3 times: no answer$"):
        sampler_of(Backend(at_once=True, lost=(1, 2, 3))).play(player(goes_on_without), rows({}), KEYS[:1])


def test_what_an_environment_fails_with_is_told(player, rows):
    class Fails(Asks):
        def get_reward(self):
            raise ValueError("broken")

    with pytest.raises(ServiceError, match=r"^the environment Fails: get_reward raised ValueError: broken"):
        sampler_of(Backend(at_once=True)).play(player(Fails), rows(*COLUMNS), KEYS)


def test_episodes_that_were_begun_ahead_are_had_once_and_by_the_weights_of_before(player, rows, own_loop):
    backend, one = Backend(at_once=True), player(Asks)
    with sampler_of(backend) as sampler:
        sampler.begin_to_play(one, rows(*COLUMNS), KEYS)
        sampler.engine.model.number += 1
        sampler.updated()
        first = sampler.play(one, rows(*COLUMNS), KEYS)
        assert backend.calls == ["load 0", "session", "end"]
        assert same(first, own_loop(Asks)[0])
        turns = len(backend.asked)
        assert same(sampler.play(one, rows(*COLUMNS), KEYS), first)
        assert backend.calls[3:] == ["load 1", "session", "end"]
        assert len(backend.asked) == 2 * turns


def test_episodes_that_were_begun_ahead_keep_no_process_alive(player, rows):
    begun, over = threading.Event(), threading.Event()

    class Hangs(Asks):
        def respond(self, text):
            begun.set()
            over.wait(20)

    with sampler_of(Backend(at_once=True)) as sampler:
        sampler.begin_to_play(player(Hangs, timeout=60.0), rows(*COLUMNS), KEYS)
        assert begun.wait(10)
    try:
        with pytest.raises(ServiceStopped):
            next(iter(sampler.draws)).own.result(5)
    finally:
        over.set()


def test_several_processes_play_each_episode_once(monkeypatch, player, rows, own_loop):
    """Three processes, here threads, of which the last has nothing to play."""
    own, outcomes, meeting = threading.local(), [None] * 3, threading.Barrier(3, timeout=20)

    def together(job):
        outcomes[own.rank] = job()
        meeting.wait()
        found = list(outcomes)
        meeting.wait()
        return found

    for name, value in {"size": lambda: 3, "rank": lambda: own.rank, "gather_results": together}.items():
        monkeypatch.setattr(processes, name, value)
    backends, asked, players = [Backend(at_once=False) for _ in range(3)], rows(*COLUMNS), [player(Asks)] * 3

    def process(rank: int):
        own.rank = rank
        few = sampler_of(backends[rank]).play(players[rank], asked[:2], KEYS[:2])
        return few, sampler_of(backends[rank]).play(players[rank], asked, KEYS)

    with ThreadPoolExecutor(3) as threads:
        found = list(threads.map(process, range(3)))
    monkeypatch.setattr(processes, "size", lambda: 1)
    expected = own_loop(Asks)[0]
    for few, all_of_them in found:
        assert same(all_of_them, expected)
        assert [one.reward for one in few.episodes] == [0.0, 0.25]
    first = [len(backend.asked[0][0]) if backend.asked else 0 for backend in backends]
    assert sum(len(prompts) for backend in backends for prompts, _, _ in backend.asked) == 3 + sum(
        one.turns for one in expected.episodes
    )
    assert first == [2, 1, 1]  # the first process plays none of two episodes


# --- a server


def test_what_a_server_is_asked_for_and_that_its_order_changes_nothing(player, rows, own_loop, tmp_path):
    now, most, lock = [0], [0], threading.Lock()

    def complete(body):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.002 * (7 - sum(body["prompt"]) % 7))
        with lock:
            now[0] -= 1
        ids = said(body["prompt"])[: body["max_tokens"]]
        return ids, logprobs_of(ids)

    with fake.VLLM(complete).served() as vllm:
        vllm.version = ""  # that of a client which has not handed over yet
        server = VLLMServer(
            "127.0.0.1",
            vllm.port,
            Drawing(limit=400, ending=Ending((END,)), spare=[], temperature=0.7),
            WeightTransfer(tmp_path / "weights", 0, None),
            Waiting(20.0, print, lambda: False),
        )
        server.load = lambda lm: None
        with sampler_of(server) as sampler:
            found = sampler.play(player(Asks), rows(*COLUMNS), KEYS)
    assert same(found, own_loop(Asks)[0])
    turns = sum(one.turns for one in found.episodes)
    paths = [path for path, _ in vllm.requests]
    assert paths == ["/weight_info", "/v1/models", *["/v1/completions"] * turns, "/weight_info"]
    assert most[0] > 1


# --- in the run's own process


class FakeLLM:
    """Remembers what it is asked for."""

    def __init__(self, *_, **settings):
        self.calls, self.settings = [], settings

    def sleep(self, level):
        self.calls.append("sleep")

    def wake_up(self, tags=None):
        self.calls.append(f"wake {tags}" if tags else "wake")

    def collective_rpc(self, name, kwargs):
        self.calls.append(name)

    def reset_prefix_cache(self):
        """As after new weights."""

    def generate(self, prompts, how, **_):
        self.calls.append([one["max_tokens"] for one in how])
        found = [said(prompt)[: one["max_tokens"]] for prompt, one in zip(prompts, how, strict=True)]
        return [
            SimpleNamespace(
                outputs=[
                    SimpleNamespace(
                        token_ids=ids,
                        logprobs=[{token: SimpleNamespace(logprob=-token / 8)} for token in ids],
                    )
                ]
            )
            for ids in found
        ]


@pytest.fixture
def colocated(monkeypatch):
    """A vLLM in this process, which sleeps as on a GPU."""
    module = SimpleNamespace(LLM=FakeLLM, SamplingParams=dict, TokensPrompt=lambda prompt_token_ids: prompt_token_ids)
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setattr(processes, "hand_over", lambda: None)
    from easyrlhf.rollout.vllm_colocated import SETTINGS, Colocated, HeldModel

    for name in SETTINGS:
        monkeypatch.setenv(name, "")
    held = HeldModel("m", max_length=600, lora_r=0, ranks=1, memory=0.3, trust_remote_code=False)
    drawing = Drawing(limit=400, ending=Ending((END,)), spare=[], temperature=0.7)
    return Colocated(held, drawing, torch.device("cuda"), torch.float32)


def test_it_is_awake_around_all_waves_of_a_rollout(colocated, player, rows, own_loop):
    sampler = sampler_of(colocated)
    sampler.engine.model.state_dict = dict
    expected, says = own_loop(Asks)
    assert same(sampler.play(player(Asks), rows(*COLUMNS), KEYS), expected)
    begin, waves = ["sleep", "wake ['weights']", "reload_weights", "wake"], [most for _, _, most in says.asked]
    assert colocated.llm.calls == [*begin, *waves, "sleep"]
    assert len(waves) == 4


def test_it_sleeps_again_where_an_environment_fails(colocated, player, rows):
    class Fails(Asks):
        def respond(self, text):
            raise ValueError("broken")

    with pytest.raises(ServiceError, match="broken"):
        sampler_of(colocated).play(player(Fails), rows(*COLUMNS), KEYS)
    assert colocated.llm.calls[-1] == "sleep"


@pytest.mark.parametrize("config", [PPOConfig, GRPOConfig])
def test_processes_that_sample_together_are_refused(config):
    known = {"model": "m", "train_data": "x.jsonl", "reward_funcs": "r.py:f", "rollout": "vllm"}
    for more in ({"environment": "e.py:E"}, {"tools": "e.py:add"}):
        with pytest.raises(SettingError, match=r"vllm_tensor_parallel_size 2: episodes .*leave it at 1, or use vllm_m"):
            config(**known, **more, vllm_tensor_parallel_size=2)
        config(**known, **more)
        config(**known, **more, vllm_tensor_parallel_size=2, vllm_mode="server")
    config(**known, vllm_tensor_parallel_size=2)
