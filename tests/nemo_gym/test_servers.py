"""Which server verifies a row: one whose URL is given, or one of those that a head knows by name."""

import socket
from pathlib import Path

import pytest

from easyrlhf.errors import InputError
from easyrlhf.nemo_gym.servers import find_servers, servers_in
from easyrlhf.userfile import load_module

gym = load_module(Path(__file__).parent / "gym_server.py")
QUIZ = {"entrypoint": "app.py", "host": "127.0.0.1", "port": 15000, "datasets": [{"name": "train"}]}
AGENT = {"host": "127.0.0.1", "port": 15001, "resources_server": {"type": "resources_servers", "name": "quiz"}}
CONFIG = {
    "policy_base_url": "http://127.0.0.1:8000/v1",
    "head_server": {"host": "127.0.0.1", "port": 11000},
    "quiz": {"resources_servers": {"mcqa": QUIZ}},
    "quiz_simple_agent": {"responses_api_agents": {"simple_agent": AGENT}},
    "weather": {"resources_servers": {"example_weather": QUIZ | {"host": "10.1.2.3", "port": 15002}}},
    "policy_model": {"responses_api_models": {"vllm_model": {"host": "127.0.0.1", "port": 15003}}},
    "not_started": {"resources_servers": {"sleeping": {"entrypoint": "app.py"}}},
}


@pytest.fixture(scope="module")
def head():
    """URL of a head server."""
    with gym.gym_server(CONFIG) as server:
        yield server.url


@pytest.mark.parametrize(
    "row, name, url",
    [
        ({}, "quiz", "http://127.0.0.1:15000"),
        ({}, "mcqa", "http://127.0.0.1:15000"),  # the name inside the entry
        ({}, "example_weather", "http://10.1.2.3:15002"),
        ({}, "quiz_simple_agent", "http://127.0.0.1:15000"),  # an agent's: that with which it works
        ({"agent_ref": {"type": "responses_api_agents", "name": "quiz_simple_agent"}}, None, "http://127.0.0.1:15000"),
        ({"agent_ref": {"name": "weather"}}, "quiz", "http://10.1.2.3:15002"),  # the row's own goes first
        ({"agent_ref": None}, "weather", "http://10.1.2.3:15002"),
    ],
)
def test_a_server_is_found_by_either_name_or_by_that_of_its_agent(head, row, name, url):
    assert find_servers(f"{head}/", name).resources(row) == url


@pytest.mark.parametrize(
    "row, name, said",
    [
        ({}, None, "rows without agent_ref need --nemo_gym_server, one of quiz, weather"),
        ({}, "quizz", "knows no resources server quizz; it has quiz, weather"),
        ({"agent_ref": {"name": "policy_model"}}, None, "knows no resources server policy_model; it has quiz, weather"),
        ({}, "sleeping", "knows no resources server sleeping; it has quiz, weather"),
    ],
)
def test_a_server_that_is_not_known_is_answered_with_those_that_are(head, row, name, said):
    with pytest.raises(InputError) as error:
        find_servers(head, name).resources(row)
    assert str(error.value) == f"--nemo_gym_url {head}: {said}"


def test_the_only_server_needs_no_name():
    with gym.gym_server({"quiz": CONFIG["quiz"], "quiz_simple_agent": CONFIG["quiz_simple_agent"]}) as server:
        assert find_servers(server.url, None).resources({}) == "http://127.0.0.1:15000"


def test_a_name_that_two_entries_have_inside_is_refused():
    config = {name: {"resources_servers": {"mcqa": QUIZ}} for name in ("easy", "hard")}
    with (
        gym.gym_server(config) as server,
        pytest.raises(InputError, match="several servers are called mcqa: easy, hard"),
    ):
        find_servers(server.url, "mcqa").resources({})


def test_a_server_that_is_no_head_verifies_every_row():
    with gym.gym_server() as server:
        assert find_servers(f"{server.url}/", None).resources({"agent_ref": {"name": "any"}}) == server.url


def test_servers_that_listen_everywhere_are_where_the_head_is():
    config = {"a": {"resources_servers": {"b": {"host": "0.0.0.0", "port": 15000}}}}
    assert [server.url for server in servers_in(config, "gym.local")] == ["http://gym.local:15000"]


@pytest.mark.parametrize("config", [["quiz"], {"quiz": {"resources_servers": [1]}}, {"quiz": {"resources_servers": 5}}])
def test_a_head_that_says_something_else_is_refused(config):
    with gym.gym_server(config) as server, pytest.raises(InputError, match="must be a JSON string that holds YAML"):
        find_servers(server.url, None)


def test_nobody_at_the_url_is_an_error_before_anything_begins():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(InputError, match=rf"--nemo_gym_url {url}: no server answers at {url}/global_config_dict_yaml"):
        find_servers(url, None)
