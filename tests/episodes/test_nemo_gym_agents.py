"""Agent servers of NeMo Gym play rows with our policy server: what was sampled comes back exactly, or not at all."""

import json
import socket
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
import requests
import torch

from easyrlhf.data.nemo_gym import parse_nemo_gym
from easyrlhf.data.render import Renderer
from easyrlhf.episodes.calls import EnvironmentFailed
from easyrlhf.episodes.chat import EpisodeLimits
from easyrlhf.episodes.environments import Environment
from easyrlhf.episodes.play import Player, own_seed
from easyrlhf.episodes.tools import Tools, enable_parsing
from easyrlhf.nemo_gym.agents import GymAgents
from easyrlhf.nemo_gym.policy import PolicyServer
from easyrlhf.nemo_gym.servers import GymServers, Server
from easyrlhf.rollout.ending import Ending
from easyrlhf.rollout.sampler import HFSampler
from easyrlhf.userfile import load_module

gym = load_module(Path(__file__).parents[1] / "nemo_gym" / "gym_server.py")
agents = load_module(Path(__file__).parents[1] / "nemo_gym" / "agent.py")
WORD = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
TOOL = {"type": "function", "name": "value_of", "description": "The value.", "parameters": WORD, "strict": True}
ASKED = [{"role": "user", "content": "Name a colour."}]


@pytest.fixture
def address() -> tuple[str, int]:
    """A port at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()


@pytest.fixture
def run_by(address):
    """run_by(agent, sampler, renderer, *rows, drop=, timeout=, done=, **limits) -> Samples of rows it has played."""

    def play(agent, sampler, renderer: Renderer, *rows: dict, drop=False, timeout=20.0, done=lambda: None, **changed):
        policy = PolicyServer(address, renderer)
        with gym.gym_server(run=agent if isinstance(agent, tuple) else agent.run) as server:
            known = Server("responses_api_agents", ("quiz_agent", "simple_agent"), server.url, "quiz")
            played = GymAgents(GymServers("http://head", (known,), "quiz_agent"), policy)
            environment = Environment("nemo_gym", None, None, {}, True, played.play, played.serving)
            limits = EpisodeLimits(**{"turns": 8, "tokens": 900, "turn": 900, "prompt": 2000} | changed)
            player = Player(environment, renderer, limits, Tools(), 1, timeout, 1, drop)
            found = []
            for number, row in enumerate(rows, 1):
                record = parse_nemo_gym(row, Counter())
                cells = {"prompt": json.dumps(record.prompt), "columns": json.dumps(record.columns)}
                found.append({"prompt_ids": [1], "length": 1, "place": f"rows.jsonl:{number}"} | cells)
            try:
                return player.play(sampler, found, [(7, 0, number) for number in range(len(rows))])
            finally:
                done()
                assert not policy.episodes
                with socket.socket() as again:  # nobody listens any more
                    again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    again.bind(address)

    return play


def row(*tools: dict, **request) -> dict:
    return {"responses_create_params": {"input": ASKED} | ({"tools": list(tools)} if tools else {}) | request, "id": 3}


def url(address: tuple[str, int]) -> str:
    return f"http://{address[0]}:{address[1]}"


def call(word: str) -> str:
    return f'<tool_call>\n{{"name": "value_of", "arguments": {{"word": "{word}"}}}}\n</tool_call>'


def sampled_of(found, place: int) -> list[list[int]]:
    """The runs of sampled ids of a row, one a turn."""
    runs: list[list[int]] = [[]]
    for token, sampled in zip(found.completion_ids[place].tolist(), found.action_mask[place].tolist(), strict=True):
        if sampled:
            runs[-1].append(token)
        elif runs[-1]:
            runs.append([])
    return [ids for ids in runs if ids]


def test_ids_that_no_text_has_come_back_as_they_were_sampled(run_by, address, sampler, nonsense, chatml_renderer):
    agent = agents.Agent(url(address), follow=["Again.", "<|im_end|> Once more."])
    found = run_by(agent, sampler(nonsense), chatml_renderer, *[row()] * 12)
    assert [episode.turns for episode in found.episodes] == [3] * 12
    for place, episode in enumerate(found.episodes):
        assert sampled_of(found, place) == [nonsense(place, turn) for turn in range(3)]
        assert episode.prompt_ids == chatml_renderer.prompt_ids(ASKED)
        assert [turn["role"] for turn in episode.messages] == ["assistant", "user"] * 2 + ["assistant"]
    expected = -found.completion_ids / 8 * found.action_mask
    torch.testing.assert_close(found.logprobs, expected, rtol=0, atol=1e-6)
    assert found.finished.all() and [episode.reward for episode in found.episodes] == [0.5] * 12


def test_between_answers_stands_what_the_template_writes(run_by, address, sampler, nonsense, chatml_renderer):
    found = run_by(agents.Agent(url(address), follow=["Again."]), sampler(nonsense), chatml_renderer, row())
    first, second = nonsense(0, 0), nonsense(0, 1)
    between = chatml_renderer.between([{"role": "user", "content": "Again."}])
    assert found.completion_ids[0].tolist() == first + between + second
    assert found.action_mask[0].tolist() == [1] * len(first) + [0] * len(between) + [1] * len(second)


def test_log_probabilities_are_those_of_the_policy(run_by, address, tiny_lm, tokenizer):
    ends = tuple(range(10, 140))  # a model of random weights then ends its turns by itself
    lm, renderer = tiny_lm(vocab=len(tokenizer)), Renderer(tokenizer, ends)
    hf = HFSampler(lm, 0, Ending(renderer.ends), 12, 1.0, 4)
    agent = agents.Agent(url(address), follow=["Again."])
    found = run_by(agent, hf, renderer, *[row()] * 4, tokens=200, turn=12)
    assert max(episode.turns for episode in found.episodes) == 2
    for place, episode in enumerate(found.episodes):
        prompt, length = len(episode.prompt_ids), int(found.completion_mask[place].sum())
        ids = torch.tensor([episode.prompt_ids + found.completion_ids[place][:length].tolist()])
        with torch.no_grad():
            logits = lm(ids).logits[0, prompt - 1 : -1].log_softmax(-1)
        expected = logits.gather(1, ids[0, prompt:, None])[:, 0] * found.action_mask[place][:length]
        torch.testing.assert_close(found.logprobs[place][:length], expected, rtol=0, atol=1e-5)
    # behind a turn that another end has ended stands the template's own
    firsts = [(place, sampled_of(found, place)[0]) for place, one in enumerate(found.episodes) if one.turns == 2]
    assert {(first[-1] == 2, found.completion_ids[place][len(first)].item() == 2) for place, first in firsts} == {
        (False, True)
    }
    # and they are those of episodes that are played here: a turn's random numbers come from its key alone
    first = hf.generate([found.episodes[2].prompt_ids], [(7, 0, 2)], [12])
    assert sampled_of(found, 2)[0] == first.completion_ids[0].tolist()


def test_a_policy_that_calls_tools_is_asked_with_their_results(run_by, address, sampler, with_template):
    qwen = with_template("qwen2_5")
    enable_parsing(qwen)
    words = []

    def tool(name: str, arguments: dict) -> str:
        words.append(arguments["word"])
        return f'{{"{name}": {len(arguments["word"])}}}'

    agent = agents.Agent(url(address), tool)
    found = run_by(agent, sampler([call("red"), f"Next. {call('green')}", "Done."]), qwen, row(TOOL))
    [episode] = found.episodes
    assert words == ["red", "green"] and (episode.turns, episode.tool_calls) == (3, 2)
    assert [(turn["role"], turn["content"]) for turn in episode.messages] == [
        ("assistant", ""),
        ("tool", '{"value_of": 3}'),
        ("assistant", "Next."),
        ("tool", '{"value_of": 5}'),
        ("assistant", "Done."),
    ]
    told = [{"type": "function", "function": {name: TOOL[name] for name in ("name", "description", "parameters")}}]
    assert episode.prompt_ids == qwen.prompt_ids(ASKED, {"tools": told})
    between = qwen.between([{"role": "tool", "content": '{"value_of": 3}', "name": "value_of"}], {"tools": told})
    first = qwen.tokenizer(call("red"))["input_ids"] + [2]
    assert found.completion_ids[0][: len(first) + len(between)].tolist() == first + between


def test_every_sample_has_a_seed_of_its_own_that_is_told_with_the_row(
    run_by, address, sampler, nonsense, chatml_renderer
):
    agent = agents.Agent(url(address))
    metadata = {"extra_body": '{"top_k": 5}', "kept": "x"}
    run_by(agent, sampler(nonsense), chatml_renderer, *[row(metadata=metadata)] * 3)
    seeds = {body["seed"]: body["top_k"] for body in agent.asked}
    assert seeds == {own_seed((7, 0, number)): 5 for number in range(3)}
    assert len(seeds) == 3 and all(0 <= seed < 2**53 for seed in seeds)


def test_an_agent_is_posted_the_row_and_the_seed_alone(run_by, sampler, nonsense, chatml_renderer):
    asked = []

    class Silent:
        def run(self, body: dict, _: str):
            asked.append(body)
            return 500, "no"

    with pytest.raises(
        EnvironmentFailed, match=r"row rows.jsonl:1: refused with /run HTTP 500 Internal Server Error: no"
    ):
        run_by(Silent(), sampler(nonsense), chatml_renderer, row())
    extra = {"metadata": {"extra_body": json.dumps({"seed": own_seed((7, 0, 0))})}}
    assert asked == [{"responses_create_params": {"input": ASKED} | extra, "id": 3}]


def test_an_episode_ends_where_there_is_no_room_and_no_turn(run_by, address, sampler, nonsense, chatml_renderer):
    agent = agents.Agent(url(address), follow=["Again."] * 5)
    turns = run_by(agent, sampler(nonsense), chatml_renderer, row(), turns=2)
    assert (turns.episodes[0].turns, bool(turns.finished[0])) == (2, False)
    room = run_by(agent, sampler(nonsense), chatml_renderer, row(), tokens=len(nonsense(0, 0)) + 5)
    assert (room.episodes[0].turns, bool(room.finished[0])) == (1, False)
    assert room.completion_ids.shape[1] == len(nonsense(0, 0))
    cut = run_by(agent, sampler(lambda *_: [5] * 9), chatml_renderer, row(), turn=4)
    assert cut.completion_ids[0].tolist() == [5] * 4 and not cut.finished[0]


def forgetful(turn: int, messages: list[dict]) -> list[dict]:
    """An agent that forgets the first answer."""
    return [messages[0], *messages[2:]] if turn == 1 else messages


def rewriting(turn: int, messages: list[dict]) -> list[dict]:
    """An agent that asks with another text than was said, and without its ids."""
    return [{"role": "assistant", "content": "x"} if one["role"] == "assistant" else one for one in messages]


@pytest.mark.parametrize("edits", [forgetful, rewriting])
def test_a_prompt_that_does_not_go_on_from_what_was_sampled_is_an_error_and_never_cut(
    run_by, address, sampler, nonsense, chatml_renderer, edits
):
    agent = agents.Agent(url(address), follow=["Again."], edits=edits)
    said = r"the prompt of turn 2 does not begin with the \d+ tokens so far: they part at token \d+"
    with pytest.raises(EnvironmentFailed, match=said):
        run_by(agent, sampler(nonsense), chatml_renderer, row())
    [episode] = run_by(agent, sampler(nonsense), chatml_renderer, row(), drop=True).episodes
    assert episode.dropped and episode.reward != episode.reward and episode.turns == 1


ITEM = {"type": "message", "role": "assistant", "content": "x", "prompt_token_ids": [1], "generation_token_ids": [5, 2]}
RUNS = {
    "no ids": ({"reward": 1.0, "response": {"output": [ITEM | {"generation_token_ids": None}]}}, "has no item with"),
    "no output": ({"reward": 1.0, "response": {}}, "/run: must have a response with 'output', a list of items"),
    "nan": ({"reward": float("nan"), "response": {"output": []}}, "/run: 'reward' is nan, which is no finite number"),
    "other counts": (
        {"reward": 1.0, "response": {"output": [ITEM | {"generation_log_probs": [-1.0]}]}},
        "an item has 2 generation_token_ids and 1 generation_log_probs",
    ),
    "no log-probabilities": ({"reward": 1.0, "response": {"output": [ITEM]}}, "cannot be read: 'generation_log_probs'"),
}


@pytest.mark.parametrize("answer, said", RUNS.values(), ids=[name.replace(" ", "_") for name in RUNS])
def test_a_run_of_which_nothing_can_be_learned_is_an_error(run_by, sampler, nonsense, chatml_renderer, answer, said):
    with pytest.raises(EnvironmentFailed) as error:
        run_by((200, answer), sampler(nonsense), chatml_renderer, row())
    assert said in str(error.value).splitlines()[0]


def test_an_agent_that_fails_after_a_turn_is_a_dropped_row(run_by, address, sampler, nonsense, chatml_renderer):
    class Failing(agents.Agent):
        def run(self, body: dict, session: str):
            super().run(body, session)
            return 500, "boom"

    found = run_by(Failing(url(address)), sampler(nonsense), chatml_renderer, row(), drop=True)
    assert found.episodes[0].dropped and found.episodes[0].reward != found.episodes[0].reward


def test_what_the_policy_server_cannot_answer_is_refused(run_by, address, sampler, nonsense, chatml_renderer):
    said = []

    class Wrong:
        def run(self, body: dict, _: str):
            root = url(address)
            answered = {"role": "assistant", "content": "x", "prompt_token_ids": [1], "generation_token_ids": [5]}
            for path, asked in (
                ("/v1/chat/completions", {"messages": ASKED}),
                ("/v1/chat/completions", {"messages": ASKED, "seed": [1]}),
                ("/v1/chat/completions", {"messages": ASKED, "seed": own_seed((7, 0, 0)), "max_tokens": "1"}),
                ("/tokenize", {"messages": []}),
                ("/tokenize", {"messages": [{"role": "robot", "content": "x"}]}),
                ("/tokenize", {"messages": [*ASKED, answered]}),
                ("/tokenize", {"messages": [*ASKED, answered | {"prompt_token_ids": ["x"]}, *ASKED]}),
                ("/tokenize", {"messages": ASKED}),
            ):
                answer = requests.post(f"{root}{path}", json=asked, timeout=20)
                said.append((answer.status_code, answer.json().get("error", {}).get("message", answer.json())))
            return 500, "done"

    with pytest.raises(EnvironmentFailed, match="done"):
        run_by(Wrong(), sampler(nonsense), chatml_renderer, row())
    ids = chatml_renderer.prompt_ids(ASKED)
    starts = ["seed None: is that of no episode", "seed [1]: is that of no", "max_tokens '1': must be"]
    starts += ["messages: must be a list", "key 'messages[0].", "messages[1]: is an answer with its ids"]
    starts += ["messages: prompt_token_ids and generation_token_ids must be"]
    assert [status for status, _ in said] == [400] * 7 + [200]
    assert [text.startswith(start) for (_, text), start in zip(said, starts, strict=False)] == [True] * 7
    assert said[-1][1] == {"tokens": ids, "count": len(ids)}


def test_an_agent_that_is_late_ends_the_run_with_server_and_row(run_by, sampler, nonsense, chatml_renderer):
    free = threading.Event()

    class Late:
        def run(self, body: dict, _: str):
            free.wait(20)
            return 500, "too late"

    said = r"NeMo Gym server \S+, row rows.jsonl:1: /run gave no answer within 0.5 s \(--environment_timeout\)"
    with pytest.raises(EnvironmentFailed, match=said):
        run_by(Late(), sampler(nonsense), chatml_renderer, row(), timeout=0.5, done=free.set)


def test_a_prompt_that_is_too_long_ends_the_run_and_no_episode(run_by, address, sampler, nonsense, chatml_renderer):
    length = len(chatml_renderer.prompt_ids(ASKED))
    agent = agents.Agent(url(address))
    said = rf"the prompt has {length} tokens, and --max_prompt_length is {length - 1}"
    with pytest.raises(EnvironmentFailed, match=said):
        run_by(agent, sampler(nonsense), chatml_renderer, row(), prompt=length - 1)
    assert run_by(agent, sampler(nonsense), chatml_renderer, row(), prompt=length).episodes[0].turns == 1


def test_the_time_of_an_episode_begins_with_it_and_not_with_those_before_it(sampler, chatml_renderer, rows):
    begun, ended = [], []

    async def play(chat, columns, calls) -> float:
        begun.append(chat.since)
        await chat.reply()
        ended.append(time.monotonic())
        return 1.0

    environment = Environment("slow", None, None, {}, True, play)
    player = Player(
        environment, chatml_renderer, EpisodeLimits(2, 40, 40, 200), Tools(), 1, 20.0, 1, False, concurrency=1
    )
    player.play(sampler(lambda *_: "Hi"), rows({}, {}), [(7, 0, 0), (7, 0, 1)])
    assert begun[0] <= ended[0] <= begun[1]
