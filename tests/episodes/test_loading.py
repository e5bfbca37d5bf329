"""What --environment and --tools may name, and what is refused before anything is loaded."""

import functools
import json
import re
from types import SimpleNamespace

import pytest

from easyrlhf.callables import HANDED, name_of
from easyrlhf.config import GRPOConfig
from easyrlhf.engine import processes
from easyrlhf.episodes.environments import load_environment
from easyrlhf.episodes.tools import described_tools
from easyrlhf.errors import InputError
from easyrlhf.stages.environments import check_environment, make_player, played_prompts

CHAT = json.dumps([{"role": "user", "content": "Name a colour."}])
FORMS = r"it must be a class with reset, respond\(text\) and .*A rollout_func of other systems is written as such"


def trl_rollout(prompts, trainer):
    """TRL's rollout_func."""


def axolotl_rollout(model, processing_class, prompts, generation_config=None):
    """Axolotl's."""


async def async_rollout(prompts, trainer):
    """One that is async."""


async def takes_nothing():
    """An episode function that forgot its chat."""


def synchronous(chat):
    """An episode function that is not async."""


class Empty:
    """Neither reset nor respond nor a tool."""

    answer = 4

    def _hidden(self):
        """Not for the policy."""


class Needs:
    def __init__(self, url):
        self.url = url

    def reset(self):
        """Begin."""


class Raises:
    def __init__(self):
        raise OSError("no server")


class Exits:
    def __init__(self):
        raise SystemExit(3)


def gives_none():
    """A function of no arguments that returns no environment."""


def gives_text():
    """One that returns a text, whose methods are no tools."""
    return "red"


REFUSED = {
    trl_rollout: FORMS,
    axolotl_rollout: FORMS,
    async_rollout: rf"its first parameter is prompts; {FORMS}",
    takes_nothing: rf"its first parameter is missing; {FORMS}",
    synchronous: rf"missing a required argument: 'chat'; {FORMS}",
    Empty: rf"has no method reset, respond, or any other; {FORMS}",
    Needs: r"making one raised TypeError: .*'url'",
    Raises: r"making one raised OSError: no server",
    Exits: r"making one raised SystemExit: 3",
    gives_none: rf"has no method reset, respond, or any other; {FORMS}",
    gives_text: rf"has no method reset, respond, or any other; {FORMS}",
}


@pytest.fixture
def named():
    """named(function) -> the name under which a setting finds it."""
    names = []

    def name(function) -> str:
        names.append(name_of(function))
        return names[-1]

    yield name
    for one in names:
        HANDED.pop(one, None)


@pytest.mark.parametrize("found", REFUSED, ids=lambda found: found.__name__)
def test_what_is_no_environment_is_refused_with_what_one_is(named, found):
    spec = named(found)
    with pytest.raises(InputError) as caught:
        load_environment(spec, [])
    assert re.search(f"^--environment {re.escape(spec)}: .*{REFUSED[found]}", str(caught.value))


class Fine:
    def respond(self, text):
        return None


class Scored(Fine):
    def get_reward(self):
        return 1.0


def makes_one():
    return Scored()


async def episode(chat, word="red"):
    await chat.reply()


@pytest.mark.parametrize(
    "found, rewards", [(Fine, False), (Scored, True), (makes_one, True), (episode, True)], ids=lambda one: str(one)[:20]
)
def test_what_is_one_and_whether_it_scores(named, found, rewards):
    environment = load_environment(named(found), [])
    assert (environment.name, environment.rewards) == (found.__name__, rewards)
    assert environment.functions == {}
    if found is not episode:
        first, second = environment.make(), environment.make()
        assert isinstance(first, Fine)
        assert first is not second


def test_two_tools_of_a_name(named):
    def add(a: int) -> int:
        """Add."""

    def other(a: int) -> int:
        """Add, too."""

    other.__name__ = "add"
    with pytest.raises(InputError, match=r"there are two tools add, and the policy calls them by name; rename one$"):
        load_environment(None, [named(add), named(other)])


def test_a_file_and_what_it_has(tmp_path):
    file = tmp_path / "acts.py"
    file.write_text("class Acts:\n    def respond(self, text):\n        return None\n\nThree = 3\n")
    assert load_environment(f"{file}:Acts", []).name == "Acts"
    for name in ("Three", "Nobody"):
        with pytest.raises(InputError, match=f"^--environment .*acts.py has no function {name}"):
            load_environment(f"{file}:{name}", [])


# --- against template and data


@pytest.fixture
def check(named, chatml_renderer):
    """check(environment, columns, prompts=, renderer=, valid=, tools=, …) -> what check_environment gives."""

    def run(environment, *columns, prompts=None, renderer=chatml_renderer, tools=(), **more):
        own = {
            name: more.pop(name)
            for name in ("environment_concurrency", "max_prompt_length", "max_length")
            if name in more
        }
        rows = {"prompt": prompts or [CHAT] * len(columns), "columns": [json.dumps(one) for one in columns]}
        spec = environment and named(environment)
        tools = ",".join(map(named, tools)) or None
        config = GRPOConfig(
            model="m", train_data="x.jsonl", environment=spec, tools=tools, reward_funcs="r.py:f", **own
        )
        parts = {"train": rows, "valid": None} | more
        data = {name: rows and SimpleNamespace(rows=rows) for name, rows in parts.items()}
        return check_environment(config, renderer, played_prompts(data))

    return run


class Asks(Scored):
    def reset(self, word, hint, seed, prompt, level=1):
        """Begin."""


async def asks(chat, word, hint, seed, *, prompt, level=1):
    await chat.reply()


@pytest.mark.parametrize("environment", [Asks, asks], ids=["class", "function"])
def test_columns_that_an_environment_needs(check, environment):
    assert check(environment, {"word": "red", "hint": "warm"}).environment.name == environment.__name__
    begins = "reset" if environment is Asks else "asks"
    with pytest.raises(
        InputError,
        match=rf"{begins} needs hint, which is no column of the train data; it has shade, word. Add the column, name "
        "another with --field hint=KEY, or give the parameter a default$",
    ):
        check(environment, {"word": "red", "shade": 1})
    both = {"word": "red", "hint": "warm"}
    with pytest.raises(InputError, match="which is no column of the valid data; it has none beside the prompt"):
        check(environment, both, valid={"prompt": [CHAT], "columns": ["{}"]})
    # demonstrations that are mixed in are played by nobody
    assert check(environment, both, ptx={"input_ids": [[1]], "loss_mask": [[1]]})


def test_as_many_episodes_at_a_time_as_there_are_processes(check, monkeypatch, chatml_renderer):
    monkeypatch.setattr(processes, "size", lambda: 3)
    said = "^--environment_concurrency 2: each of the 3 processes of this run plays episodes; give 3 or more, or"
    with pytest.raises(InputError, match=said):
        check(Scored, {}, environment_concurrency=2)
    config = GRPOConfig(model="m", train_data="x.jsonl", reward_funcs="r.py:f", environment_concurrency=8)
    playground = check(Scored, {}, environment_concurrency=3)
    assert make_player(config, chatml_renderer, playground).concurrency == 2  # of 8, each of three


def test_plain_texts_cannot_be_played(check):
    with pytest.raises(
        InputError, match="speaks in turns, and prompts of the train data are plain texts; give conversa"
    ):
        check(Scored, {}, {}, prompts=[CHAT, '"Name a colour."'])
    plain = {"prompt": ['"Name a colour."'], "columns": ["{}"]}
    with pytest.raises(InputError, match="prompts of the valid data are plain texts"):
        check(Scored, {}, valid=plain)


def test_a_template_that_rewrites_what_was_said_is_refused_by_the_flag(check, named, with_template):
    for environment in (Scored, episode):
        said = rf"^--environment {re.escape(named(environment))}: the chat template writes earlier turns otherwise"
        with pytest.raises(InputError, match=said):
            check(environment, {}, renderer=with_template("qwen3"))


def adds(a: int) -> int:
    """Add one.

    Args:
        a: A number.
    """
    return a + 1


def test_tools_with_a_template_that_has_no_calls(check, with_template):
    with pytest.raises(InputError, match="it is not known how this one writes calls; give --chat_template"):
        check(None, {}, tools=[adds])
    playground = check(None, {}, tools=[adds], renderer=with_template("qwen2_5"))
    assert [schema["function"]["name"] for schema in playground.tools.schemas] == ["adds"]
    assert playground.environment.rewards is False


def test_a_prompt_without_room_for_the_tools_is_refused(check, with_template):
    qwen, long = with_template("qwen2_5"), json.dumps([{"role": "user", "content": "Name a colour. " * 9}])
    needs = len(qwen.prompt_ids(json.loads(long), {"tools": described_tools({"adds": adds}, "")}))
    for limit, fits in ((needs, True), (needs - 1, False)):
        rows = {
            "prompts": [CHAT, long],
            "renderer": qwen,
            "tools": [adds],
            "max_prompt_length": limit,
            "max_length": 4096,
        }
        if fits:
            assert check(None, {}, {}, **rows)
            continue
        said = f"with the tools before it, a prompt of the train data has {needs} tokens, and --max_prompt_length is"
        with pytest.raises(InputError, match=said):
            check(None, {}, {}, **rows)


def test_without_the_settings_nothing_is_played(check):
    assert check(None, {}) is None


def test_a_partial_has_no_name_of_its_own_and_no_traceback(named):
    spec = named(functools.partial(trl_rollout, trainer=None))
    with pytest.raises(InputError, match=FORMS):
        load_environment(spec, [])


@pytest.mark.parametrize("how", ["sync", "async"])
def test_one_is_made_to_be_looked_at_and_closed(check, how):
    made, closed = [], []

    class Session(Scored):
        def __init__(self):
            made.append(self)

        def close(self):
            closed.append(self)

    class Later(Session):
        async def close(self):
            closed.append(self)

    check(Session if how == "sync" else Later, {})
    assert len(made) == 1
    assert closed == made


def test_before_reset_there_may_be_nothing_to_close(check):
    class Session(Scored):
        def reset(self):
            self.client = object()

        def close(self):
            del self.client

    assert check(Session, {}).environment.rewards
