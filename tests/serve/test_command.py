"""easyrlhf serve: what it says, what it needs, and how it ends."""

import re
import signal
import socket
import subprocess
import sys

import pytest
import requests
from click.testing import CliRunner

from easyrlhf.cli import serve as command_line
from easyrlhf.config import ServeConfig
from easyrlhf.errors import InputError, SettingError
from easyrlhf.tools import serve
from easyrlhf.web import listening

VARIABLE = "EASYRLHF_API_KEY"


@pytest.fixture
def said(folders, monkeypatch, capsys):
    """said(**settings) -> the lines that a server prints which is stopped as soon as it is ready."""
    monkeypatch.delenv(VARIABLE, raising=False)

    def begin(**settings) -> list[str]:
        apps = []

        def run(app, engine, listener) -> None:
            apps.append(app)
            engine.close()
            raise KeyboardInterrupt

        monkeypatch.setattr("easyrlhf.serve.http_server.run_server", run)
        serve.serve_models(ServeConfig(model=str(folders.one), devices="cpu", port=0, **settings))
        begin.app = apps[0]
        return capsys.readouterr().out.splitlines()

    return begin


def test_it_prints_the_link_with_a_new_key_each_time(said, folders):
    lines = said(reward_model=str(folders.rm))
    link = re.fullmatch(r"open (http://127\.0\.0\.1:\d+)/\?key=([\w-]{22})", lines[2])
    assert lines[:2] == [f"{folders.one} is ready: model one", f"{folders.rm} scores answers"]
    assert lines[3] == f"OpenAI clients: base_url {link[1]}/v1, api_key {link[2]}"
    assert lines[4:] == ["Ctrl-C ends it", "ended"] and said.app.key.is_key(link[2])
    assert said()[1] != lines[2]


@pytest.mark.parametrize("by", ["flag", "variable"])
def test_a_given_key_is_taken_and_not_printed(said, monkeypatch, by):
    if by == "variable":
        monkeypatch.setenv(VARIABLE, "given-key")
    lines = said(**({"api_key": "given-key"} if by == "flag" else {}))
    assert said.app.key.is_key("given-key") and "given-key" not in "\n".join(lines)
    monkeypatch.setenv(VARIABLE, "another")
    said(api_key="given-key")
    assert said.app.key.is_key("given-key")


def test_a_key_that_fits_into_no_link_is_refused_and_not_repeated(folders, monkeypatch):
    with pytest.raises(SettingError, match=r"^api_key: must be of letters") as raised:
        ServeConfig(model="a", api_key="a secret")
    assert "a secret" not in str(raised.value)
    monkeypatch.setenv(VARIABLE, "a&b")
    with pytest.raises(InputError, match=rf"^{VARIABLE}: must be of letters"):
        serve.serve_models(ServeConfig(model=str(folders.one), devices="cpu", port=0))


def test_other_machines_are_let_in_with_a_warning_that_names_a_safer_way(said):
    lines = said(host="0.0.0.0", allow_hosts="proxy.example")
    port = re.search(r"http://127\.0\.0\.1:(\d+)/v1", "\n".join(lines))[1]
    [warning] = [line for line in lines if line.startswith("warning:")]
    assert "can be read" in warning and f"ssh -L {port}:127.0.0.1:{port}" in warning
    assert said.app.hosts.allow("proxy.example") and said.app.hosts.allow("10.0.0.7")
    assert not any(line.startswith("warning") for line in said(host="localhost"))


@pytest.mark.parametrize(
    "host, words",
    [
        ("127.0.0.1", r"cannot listen there \(Address already in use\); give another --port"),
        ("no.such.invalid", "is no address of this machine"),
    ],
)
def test_an_address_that_cannot_be_had_is_bad_input_before_anything_is_loaded(monkeypatch, host, words):
    monkeypatch.delenv(VARIABLE, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=rf"^--host {host} --port {port}: {words}"):
            serve.serve_models(ServeConfig(model="no/such/model", host=host, port=port))


def test_what_is_not_installed_is_said_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setattr(listening, "find_spec", lambda name: None if name == "uvicorn" else 1)
    with pytest.raises(InputError, match=r"pip install 'easyrlhf\[serve\]'"):
        serve.serve_models(ServeConfig(model="a"))


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"model": "{root}/nothing"}, "no such folder|not a .*hub id|nothing"),
        ({"model": "{rm}"}, "is a reward model, which scores answers"),
        ({"model": "{one}", "reward_model": "{one}"}, "--reward_model"),
        ({"model": "{one}", "max_length": 4096}, "was made for 128 tokens at most"),
        ({"model": "{one}", "chat_template_kwargs": '{{"colour": 1}}'}, "has no variable 'colour'"),
    ],
)
def test_models_that_cannot_be_served_are_bad_input(folders, settings, words):
    given = {
        name: value.format(**vars(folders)) if isinstance(value, str) else value for name, value in settings.items()
    }
    with pytest.raises(InputError, match=words):
        serve.serve_models(ServeConfig(**given, devices="cpu", port=0))


@pytest.mark.parametrize("words", [["sft", "ppo"], ["sft,ppo"], ["--model", "sft,ppo"], ["sft", "ppo", "--port", "1"]])
def test_models_are_the_first_words(words, monkeypatch):
    seen = []
    monkeypatch.setattr("easyrlhf.tools.serve.serve_models", seen.append)
    monkeypatch.setattr("easyrlhf.glance.require_model", lambda path: seen.insert(0, path))
    assert CliRunner().invoke(command_line.command, words, prog_name="serve").exit_code == 0
    assert seen[:2] == ["ppo", "sft"]
    assert seen[2].paths == ("sft", "ppo") and seen[2].port == (1 if "1" in words else 8000)


def test_help_teaches():
    page = " ".join(CliRunner().invoke(command_line.command, ["--help"], prog_name="easyrlhf serve").output.split())
    assert page.startswith("Usage: easyrlhf serve DIR|HUB_ID[,…]")
    for words in ("ssh -L 8000:127.0.0.1:8000", "EASYRLHF_API_KEY", "pip install 'easyrlhf[serve]'", "docs serving"):
        assert words in page


@pytest.mark.slow
def test_ctrl_c_ends_it_with_code_0_while_it_answers(folders):
    program = "from easyrlhf.cli.main import main; main()"
    words = ["serve", str(folders.one), "--port", "0", "--devices", "cpu"]
    with subprocess.Popen(
        [sys.executable, "-c", program, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        url, key = re.fullmatch(r"open (\S+)/\?key=(\S+)\n", [server.stdout.readline() for _ in range(2)][1]).groups()
        body = {"model": "one", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 100, "stream": True}
        headers = {"Authorization": f"Bearer {key}"}
        got = requests.post(f"{url}/v1/chat/completions", json=body, headers=headers, stream=True, timeout=60)
        next(got.iter_lines())
        server.send_signal(signal.SIGINT)
        out, errors = server.communicate(timeout=60)
    assert server.returncode == 0 and out.endswith("ended\n") and "Traceback" not in errors
