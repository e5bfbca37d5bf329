"""easyrlhf serve_reward: the scores are those of --reward_model, and bad requests are told what is wrong with them."""

import json
import signal
import socket
import subprocess
import sys
import threading

import pytest
import requests
import torch
from click.testing import CliRunner
from torch import tensor as T

from easyrlhf.cli import serve_reward as command_line
from easyrlhf.config import ServeRewardConfig
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokenizer import load_tokenizer, tokenizer_fingerprint
from easyrlhf.errors import InputError
from easyrlhf.models.folder import load_scalar_model
from easyrlhf.models.value_head import new_head, save_head
from easyrlhf.rewards.batch import RewardBatch, RewardError
from easyrlhf.rewards.model import ModelSource, ScoringModel
from easyrlhf.rewards.server import RewardServer
from easyrlhf.tools.scoring import load_scorer
from easyrlhf.tools.serve_reward import RewardHTTPServer, serve_reward

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a colour."}]
ANSWER = [{"role": "assistant", "content": "blue"}]


@pytest.fixture
def reward_folder(model_folder, tiny_lm, tokenizer):
    """A reward model with a value head."""
    folder = model_folder()
    torch.manual_seed(0)
    save_head(new_head(tiny_lm(vocab=len(tokenizer))), folder)
    return folder


@pytest.fixture
def url(reward_folder):
    """Where the reward model is served, from a thread."""
    scorer = load_scorer(ServeRewardConfig(reward_model=str(reward_folder), devices="cpu", micro_batch_tokens=50))
    with RewardHTTPServer(("127.0.0.1", 0), scorer) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def texts(prompt_row, answer):
    """Prompt rows of both kinds and answers, ended and cut off, with a tokenisation the tokenizer would not choose."""

    def make(renderer: Renderer):
        prompts = [CHAT, "The sky is", CHAT, CHAT]
        rows = [prompt_row(renderer.prompt_ids(prompt), prompt, word="w") for prompt in prompts]
        odd = [i for letter in "blue" for i in answer(letter, ended=False)]
        assert odd != answer("blue", ended=False)
        return rows, [answer("blue"), answer(" green", ended=False), [*odd, 2], answer("green", False)], [1, 0, 1, 0]

    return make


def local(folder, policy: Renderer, same: bool) -> ModelSource:
    """--reward_model of the folder, for this policy."""
    tokenizer = load_tokenizer(str(folder))
    model = load_scalar_model(str(folder), tokenizer, dtype=torch.float32).eval()
    return ModelSource(ScoringModel(model, Renderer(tokenizer), 10_000), policy, same)


def served(url: str, rows, ids, finished, policy: Renderer) -> list[float]:
    """--reward_url of the server, for this policy."""
    batch = RewardBatch.of(rows, ids, [bool(f) for f in finished], policy)
    return RewardServer(url, tokenizer_fingerprint(policy.tokenizer)).start(batch).scores()


def test_scores_are_those_of_the_same_reward_model_here(url, reward_folder, texts):
    policy = Renderer(load_tokenizer(str(reward_folder)))
    rows, ids, finished = texts(policy)
    expected = local(reward_folder, policy, True)(rows, ids, T(finished).bool())
    assert served(url, rows, ids, finished, policy) == pytest.approx(expected, abs=1e-6)
    assert len({round(score, 4) for score in expected}) == 4


def test_a_policy_of_another_template_is_read_in_the_reward_models_own(url, reward_folder, texts):
    tokenizer = load_tokenizer(str(reward_folder))
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant\\n", "assistant:\\n")
    policy = Renderer(tokenizer)
    rows, ids, finished = texts(policy)
    expected = local(reward_folder, policy, False)(rows, ids, T(finished).bool())
    assert served(url, rows, ids, finished, policy) == pytest.approx(expected, abs=1e-6)
    assert expected[0] == pytest.approx(expected[2], abs=1e-6)  # both are "blue" when read anew


@pytest.mark.parametrize("path", ["/", "/score"])
@pytest.mark.parametrize("completion", ["blue", ANSWER], ids=["text", "message"])
def test_the_least_that_can_be_asked(url, reward_folder, path, completion, answer):
    policy = Renderer(load_tokenizer(str(reward_folder)))
    got = requests.post(url + path, json={"prompts": [CHAT, "The sky is"], "completions": [completion, "blue"]})
    source = local(reward_folder, policy, True)
    rows = [{"prompt_ids": policy.prompt_ids(prompt)} for prompt in (CHAT, "The sky is")]
    expected = source(rows, [answer("blue"), answer("blue")], T([True, True]))
    assert got.status_code == 200 and got.json() == {"scores": pytest.approx(expected, abs=1e-6)}


def test_nothing_asked_is_nothing_answered(url):
    assert requests.post(url, json={"prompts": [], "completions": []}).json() == {"scores": []}


def test_health(url):
    assert requests.get(url + "/health").json() == {"status": "ok"}
    assert requests.get(url).status_code == 404
    assert requests.post(url + "/scores", json={}).status_code == 404


@pytest.mark.parametrize(
    "body, message",
    [
        ("{", "the request is not JSON"),
        ("[]", "must be a JSON object"),
        ("{}", "prompts: must be a list"),
        ('{"prompts": ["a"], "completions": "b"}', "completions: must be a list"),
        ('{"prompts": ["a"], "completions": []}', "1 prompts, but 0 completions"),
        ('{"prompts": ["a", 3], "completions": ["b", "c"]}', r"prompts[1]: must be a string or a list of messages"),
        ('{"prompts": [[]], "completions": ["b"]}', "prompts[0]: must be"),
        ('{"prompts": [[{"role": "user"}]], "completions": ["b"]}', "prompts[0]: must be"),
        ('{"prompts": ["a"], "completions": [null]}', "completions[0]: must be"),
        (
            json.dumps({"prompts": ["a"], "completions": [ANSWER + ANSWER]}),
            "completions[0]: must be one message, not 2",
        ),
        ('{"prompts": ["a"], "completions": ["b"], "finished": []}', "finished: must be a list of 1"),
        (r'{"prompts": ["\ud83d"], "completions": ["b"]}', r"holds half a surrogate pair (\ud83d)"),
        ('{"prompts": ["a"], "completions": ["b"], "prompts": []}', "key 'prompts' stands twice"),
        ('{"prompts": [NaN], "completions": ["b"]}', "is not JSON: NaN"),
        (b'{"prompts": ["\xff"], "completions": ["b"]}', "is not UTF-8"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(url, body, message):
    got = requests.post(url, data=body)
    assert got.status_code == 400 and message in got.json()["error"]


def test_what_the_model_was_not_made_for_has_no_score_and_a_note(url, answer, chatml_renderer):
    texts = ["blue", "blue " * 90]
    got = requests.post(url, json={"prompts": [CHAT, CHAT], "completions": texts})
    length = len(chatml_renderer.sequence(CHAT, [{"role": "assistant", "content": texts[1].strip()}]))
    alone = requests.post(url, json={"prompts": [CHAT], "completions": ["blue"]}).json()["scores"]
    assert length > 128 and got.status_code == 200
    assert got.json() == {"scores": [*alone, None], "notes": [None, f"{length} tokens, more than 128"]}
    batch = RewardBatch([CHAT, CHAT], [ANSWER, [ANSWER[0] | {"content": texts[1]}]], [[1], [1]], [True, True], {})
    assert RewardServer(url, {}).start(batch).scores() == [pytest.approx(alone[0]), None]


@pytest.mark.parametrize("length, status", [("99999999999", 413), ("9" * 5000, 413), ("-1", 411), ("many", 411)])
def test_a_length_that_cannot_be_is_refused_before_anything_is_read(url, length, status):
    place = url.removeprefix("http://").split(":")
    with socket.create_connection((place[0], int(place[1])), timeout=20) as connection:
        connection.sendall(f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n".encode() + b"{}")
        assert f" {status} " in connection.makefile("rb").readline().decode()


def test_a_request_that_is_too_large_is_refused_once(url, monkeypatch):
    monkeypatch.setattr("easyrlhf.tools.serve_reward.LARGEST", 1000)
    monkeypatch.setattr("easyrlhf.rewards.server.PAUSE", 1e9)  # no second attempt
    batch = RewardBatch(["a" * 5_000_000], ["b"], [[1]], [True], {})
    with pytest.raises(RewardError, match=r"HTTP 413 .*5000.* bytes, more than 1,000; send fewer rows"):
        RewardServer(url, {}).start(batch).scores()


@pytest.mark.parametrize("ids", [[], [[]], [[-1]], [[10**6]], [["a"]], [3], [[True]]])
def test_token_ids_that_cannot_be_are_a_bad_request(url, reward_folder, ids):
    tokenizer = tokenizer_fingerprint(load_tokenizer(str(reward_folder)))
    body = {"prompts": ["a"], "completions": ["b"], "completion_ids": ids, "tokenizer": tokenizer}
    got = requests.post(url, json=body)
    assert got.status_code == 400 and "completion_ids" in got.json()["error"]
    assert requests.post(url, json=body | {"tokenizer": {}}).status_code == 200  # ids of another tokenizer: not read


def test_many_clients_at_once_each_get_their_own_scores(url):
    texts = ["blue", "a green sky", "why", "hello"]
    alone = [requests.post(url, json={"prompts": ["a"], "completions": [text]}).json()["scores"][0] for text in texts]
    found: dict[int, float] = {}

    def ask(place: int) -> None:
        body = {"prompts": ["a"], "completions": [texts[place % 4]]}
        found[place] = requests.post(url, json=body).json()["scores"][0]

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[place] for place in range(16)] == pytest.approx(alone * 4, abs=1e-6)


def test_an_error_of_the_model_is_the_servers_fault(url, monkeypatch):
    monkeypatch.setattr("easyrlhf.tools.scoring.score_sequences", lambda *_: 1 / 0)
    got = requests.post(url, json={"prompts": ["a"], "completions": ["b"]})
    assert got.status_code == 500 and got.json() == {"error": "ZeroDivisionError: division by zero"}


def test_a_folder_without_a_head_is_refused(model_folder):
    with pytest.raises(InputError, match=r"--reward_model .*has no value_head.safetensors"):
        load_scorer(ServeRewardConfig(reward_model=str(model_folder()), devices="cpu"))


def test_an_unfinished_model_is_refused_unless_allowed(reward_folder):
    (reward_folder / "stage.json").write_text('{"status": "stopped", "stage": "rm"}')
    with pytest.raises(InputError, match=r"its rm run is not complete \(status stopped\).*--allow_incomplete"):
        load_scorer(ServeRewardConfig(reward_model=str(reward_folder), devices="cpu"))
    load_scorer(ServeRewardConfig(reward_model=str(reward_folder), devices="cpu", allow_incomplete=True))


@pytest.mark.parametrize("words", [["rm"], ["rm", "--port", "8001"], ["--port", "8001", "--reward_model", "rm"]])
def test_the_model_is_the_first_word_or_a_flag(words, monkeypatch):
    job = CliRunner().invoke(command_line.command, ["--help"], prog_name="easyrlhf serve_reward")
    assert "--reward_model DIR" in job.output and "outputs/rm" in job.output
    seen = []
    monkeypatch.setattr("easyrlhf.tools.serve_reward.serve_reward", seen.append)
    assert CliRunner().invoke(command_line.command, words, prog_name="serve_reward").exit_code == 0
    assert seen[0].reward_model == "rm" and seen[0].port == (8001 if "8001" in words else 8000)


def test_a_port_that_is_taken_is_bad_input(url, reward_folder):
    port = int(url.rpartition(":")[2])
    with pytest.raises(InputError, match=rf"--port {port}: cannot listen there \(Address already in use\)"):
        serve_reward(ServeRewardConfig(reward_model=str(reward_folder), devices="cpu", port=port))


def test_it_says_how_to_reach_it_and_ends_when_asked(reward_folder):
    program = "from easyrlhf.cli.main import main; main()"
    command = [sys.executable, "-c", program, "serve_reward", str(reward_folder), "--port", "0", "--devices", "cpu"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        line = server.stdout.readline()
        address = line.rpartition("--reward_url ")[2].strip()
        assert line == f"{reward_folder} is ready: --reward_url {address}\n"
        got = requests.post(address, json={"prompts": ["a"], "completions": ["b"]}, timeout=60)
        assert len(got.json()["scores"]) == 1
        server.send_signal(signal.SIGTERM)
        out, errors = server.communicate(timeout=60)
    assert server.returncode == 0 and out == "ended\n" and "Traceback" not in errors
