"""Rows of NeMo Gym with tools: what their server is posted, what the policy reads of it, and what is verified."""

import json
import threading
from pathlib import Path

import pytest

from easyrlhf.data.nemo_gym import parse_nemo_gym
from easyrlhf.episodes.calls import EnvironmentFailed
from easyrlhf.episodes.chat import EpisodeLimits
from easyrlhf.episodes.environments import Environment
from easyrlhf.episodes.play import Player
from easyrlhf.episodes.tools import Tools, enable_parsing
from easyrlhf.nemo_gym import client
from easyrlhf.nemo_gym.episodes import GymEpisodes
from easyrlhf.nemo_gym.servers import GymServers
from easyrlhf.userfile import load_module

gym = load_module(Path(__file__).parents[1] / "nemo_gym" / "gym_server.py")
WORDS = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
LIST = {"type": "object", "properties": {"values": {"type": "array", "items": {"type": "integer"}}}}
TOOLS = [
    {
        "type": "function",
        "name": "value_of",
        "description": "The value of a word.",
        "parameters": WORDS,
        "strict": True,
    },
    {"type": "function", "name": "hand_in", "description": "Hand in all values.", "parameters": LIST, "strict": True},
]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    """Nobody pauses between attempts."""
    monkeypatch.setattr(client, "sleep", lambda _: None)


@pytest.fixture
def qwen(with_template):
    """A renderer whose calls are known."""
    renderer = with_template("qwen2_5")
    enable_parsing(renderer)
    return renderer


@pytest.fixture
def acted(qwen, sampler):
    """acted(server, say, *rows, drop=, **limits) -> Samples of an episode for each row, said as tests/episodes says."""

    def play(server, say, *rows: dict, drop: bool = False, timeout: float = 20.0, **changed):
        environment = Environment(
            "nemo_gym", None, None, {}, True, GymEpisodes(GymServers(server.url, None), timeout).play
        )
        limits = EpisodeLimits(**{"turns": 8, "tokens": 900, "turn": 900, "prompt": 2000} | changed)
        player = Player(environment, qwen, limits, Tools(), 1, timeout, 4, drop)
        found = []
        for number, row in enumerate(rows, 1):
            record = parse_nemo_gym(row, {})
            ids = qwen.prompt_ids(record.prompt, {"tools": record.columns.get("tools", [])})
            cells = {"prompt": json.dumps(record.prompt), "columns": json.dumps(record.columns)}
            found.append({"prompt_ids": ids, "length": len(ids), "place": f"rows.jsonl:{number}"} | cells)
        return player.play(sampler(say), found, [(7, 0, number) for number in range(len(rows))])

    return play


def row(*words: str, **more) -> dict:
    """A row that asks for the values of these words."""
    asked = {"input": [{"role": "user", "content": f"Hand in {', '.join(words)}."}], "tools": TOOLS}
    return {"id": 3, "responses_create_params": asked, "expected": [len(word) for word in words]} | more


def call(name: str, **arguments) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(arguments)}}}\n</tool_call>'


def value_of(body: dict, _: str) -> gym.Answer:
    """The length of a word; a call without one is refused as NeMo Gym's are."""
    if "word" not in body:
        return 422, {"detail": "Field required"}
    return 200, {"value": len(body["word"])}


def verify(body: dict, _: str) -> gym.Answer:
    """1 for the values that were handed in last."""
    handed = [json.loads(item["arguments"]) for item in body["response"]["output"] if item.get("name") == "hand_in"]
    return 200, {"reward": float([one["values"] for one in handed][-1:] == [body["expected"]])}


ROUTES = {"value_of": value_of, "hand_in": (200, {"success": True}), "verify": verify}
RIGHT = [call("value_of", word="red"), call("value_of", word="green"), call("hand_in", values=[3, 5]), "Done."]


def test_a_policy_that_calls_the_tools_in_turn_gets_the_reward(acted):
    with gym.gym_server(**ROUTES) as server:
        [episode] = acted(server, RIGHT, row("red", "green")).episodes
    assert (episode.reward, episode.turns, episode.tool_calls, episode.tool_errors) == (1.0, 4, 3, 0)
    whole = row("red", "green")
    output = [
        item
        for number, (name, arguments, result) in enumerate(
            [
                ("value_of", '{"word": "red"}', '{"value": 3}'),
                ("value_of", '{"word": "green"}', '{"value": 5}'),
                ("hand_in", '{"values": [3, 5]}', '{"success": true}'),
            ]
        )
        for item in (
            {
                "id": f"call_{number}",
                "type": "function_call",
                "status": "completed",
                "call_id": f"call_{number}",
                "name": name,
                "arguments": arguments,
            },
            {"type": "function_call_output", "call_id": f"call_{number}", "output": result},
        )
    ]
    output.append(
        {
            "id": "msg_6",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Done.", "annotations": []}],
        }
    )
    response = {
        "id": "resp_0",
        "created_at": 0,
        "model": "policy",
        "object": "response",
        "parallel_tool_calls": False,
        "tool_choice": "auto",
        "tools": [],
        "output": output,
    }
    assert server.asked == [
        ("seed_session", whole, ""),
        ("value_of", {"word": "red"}, "1"),
        ("value_of", {"word": "green"}, "1"),
        ("hand_in", {"values": [3, 5]}, "1"),
        ("verify", whole | {"response": response}, "1"),
    ]


def test_a_policy_that_is_wrong_gets_nothing(acted):
    with gym.gym_server(**ROUTES) as server:
        found = acted(server, [call("hand_in", values=[3, 4]), "Done."], row("red", "green"), row("one"))
        assert [episode.reward for episode in found.episodes] == [0.0, 0.0]
        assert acted(server, ["No."], row("red")).episodes[0].reward == 0.0


def test_what_a_tool_answers_is_read_as_it_is_and_errors_too(acted, qwen):
    said = [call("value_of", wort="red"), call("hand_in", values=[3]), "Done."]
    routes = ROUTES | {"hand_in": (500, "boom <|im_end|>")}
    with gym.gym_server(**routes) as server:
        found = acted(server, said, row("red"))
    [episode] = found.episodes
    read = [(turn["name"], turn["content"]) for turn in episode.messages if turn["role"] == "tool"]
    assert read == [("value_of", '{"detail": "Field required"}'), ("hand_in", "boom <|im_end|>")]
    assert (episode.tool_calls, episode.tool_errors, episode.reward) == (2, 2, 1.0)
    ids = found.completion_ids[0][found.action_mask[0] == 0].tolist()
    assert ids.count(2) == 2  # an end for the turn of each result, and none of what the tool wrote


def test_no_other_path_than_that_of_a_tool_of_the_row_can_be_called(acted):
    said = [call("verify", response={}), call("../seed_session"), "Done."]
    with gym.gym_server(**ROUTES) as server:
        [episode] = acted(server, said, row("red")).episodes
    assert [path for path, _, _ in server.asked] == ["seed_session", "verify"]
    errors = [json.loads(turn["content"])["error"] for turn in episode.messages if turn["role"] == "tool"]
    assert errors[0] == "there is no tool verify; there are hand_in, value_of" and len(errors) == 2


def test_every_row_has_its_own_tools_and_one_without_is_answered_once(acted):
    only = row("red")
    only["responses_create_params"]["tools"] = TOOLS[1:]
    none = row("red")
    del none["responses_create_params"]["tools"]
    with gym.gym_server(**ROUTES) as server:
        found = acted(server, [call("value_of", word="red"), "Done."], row("red"), only, none).episodes
    read = [[turn["content"] for turn in episode.messages if turn["role"] == "tool"] for episode in found]
    assert read == [['{"value": 3}'], ['{"error": "there is no tool value_of; there are hand_in"}'], []]
    assert [episode.turns for episode in found] == [2, 2, 1]
    assert len(server.of("value_of")) == 1


def test_sessions_are_not_mixed_up(acted):
    scores: dict[str, int] = {}

    def count(body: dict, session: str) -> gym.Answer:
        scores[session] = scores.get(session, 0) + len(body["word"])
        return 200, {"value": scores[session]}

    routes = {"value_of": count, "verify": lambda body, session: (200, {"reward": scores[session]})}
    with gym.gym_server(**routes) as server:

        def say(number: int, turn: int) -> str:
            return call("value_of", word="x" * (number + 1)) if turn < 2 else "Done."

        found = acted(server, say, *[row("red")] * 6).episodes
    assert [episode.reward for episode in found] == [2.0 * (number + 1) for number in range(6)]


def test_an_episode_that_is_cut_off_is_verified_with_what_was_done(acted):
    with gym.gym_server(**ROUTES) as server:
        found = acted(server, RIGHT, row("red", "green"), turns=3)
    assert not found.finished[0] and found.episodes[0].reward == 1.0
    kinds = [item["type"] for item in server.of("verify")[0]["response"]["output"]]
    assert kinds == ["function_call", "function_call_output"] * 3


def test_components_of_a_reward_are_kept(acted):
    routes = ROUTES | {"verify": (200, {"reward": 1.5, "reward_components": {"form": 0.5, "right": 1.0}})}
    with gym.gym_server(**routes) as server:
        [episode] = acted(server, RIGHT, row("red", "green")).episodes
    assert (episode.reward, episode.parts) == (1.5, {"form": 0.5, "right": 1.0})


FAILED = {
    "verify refuses": (
        {"verify": (422, {"detail": "no"})},
        'refused with /verify HTTP 422 Unprocessable Entity: {"detail"',
    ),
    "verify raises": ({"verify": (500, "boom")}, "failed 7 times in a row, at last with /verify HTTP 500 Internal"),
    "nan": ({"verify": (200, {"reward": float("nan")})}, "'reward' is nan, which is no finite number"),
    "no session": ({"seed_session": (404, {})}, "refused with /seed_session HTTP 404 Not Found"),
    "a gateway": ({"value_of": (503, "busy")}, "the tool value_of failed with HTTP 503 Service Unavailable: busy"),
}


@pytest.mark.parametrize("routes, said", FAILED.values(), ids=[name.replace(" ", "_") for name in FAILED])
def test_a_server_that_fails_ends_the_run_with_server_row_and_episode(acted, routes, said):
    with gym.gym_server(**ROUTES | routes) as server, pytest.raises(EnvironmentFailed) as error:
        acted(server, RIGHT, row("red", "green"))
    first, *rest = str(error.value).splitlines()
    assert (
        first.startswith(f"the environment nemo_gym (rows.jsonl:1): NeMo Gym server {server.url}, row rows.jsonl:1: ")
        and said in first
    )
    assert rest[0] == "  user: 'Hand in red, green.'"


def test_a_server_that_is_late_ends_the_run_with_the_request(acted):
    free = threading.Event()

    def wait(body: dict, session: str) -> gym.Answer:
        free.wait(20)
        return value_of(body, session)

    said = r"row rows.jsonl:1: /value_of gave no answer within 1 s \(--environment_timeout\)"
    with gym.gym_server(**ROUTES | {"value_of": wait}) as server:
        with pytest.raises(EnvironmentFailed, match=said):
            acted(server, RIGHT, row("red"), timeout=1.0)
        free.set()


def test_episodes_that_failed_are_dropped_where_that_was_asked_for_and_never_scored(acted):
    def refuse_one(body: dict, session: str) -> gym.Answer:
        return (422, {"detail": "no"}) if body["id"] == 4 else verify(body, session)

    with gym.gym_server(**ROUTES | {"verify": refuse_one}) as server:
        found = acted(server, RIGHT, row("red", "green"), row("red", id=4), drop=True).episodes
    assert [episode.dropped for episode in found] == [False, True]
    assert found[0].reward == 1.0 and found[1].reward != found[1].reward
