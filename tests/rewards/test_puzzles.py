"""reasoning-gym's tasks as rows and rewards: with a package that is pretended, and with the real one where it is."""

import json
import sys
from importlib.util import find_spec
from types import ModuleType

import pytest
from click.testing import CliRunner

from easyrlhf.cli.main import main
from easyrlhf.cli.stages import grpo_train
from easyrlhf.config.common_fields import wrong_reward_function
from easyrlhf.errors import InputError
from easyrlhf.rewards import puzzles
from easyrlhf.rewards.async_source import RewardFunction
from easyrlhf.rewards.functions import check_parameters, load_functions
from easyrlhf.run.inputs import files_contents


class Sums:
    """A task as reasoning-gym has them: items by number, and a scorer."""

    def __init__(self, size: int, seed: int, most: int = 9):
        assert most > 1, "most must be above 1"
        self.size, self.seed, self.most = size, seed, most

    def __getitem__(self, number: int) -> dict:
        a, b = (self.seed + number) % self.most, number % self.most
        return {"question": f"{a} + {b} =", "answer": str(a + b), "metadata": {"terms": (a, b)}, "more": object()}

    def score_answer(self, answer, entry) -> float:
        return float(int(answer) == sum(entry["metadata"]["terms"]))  # raises on words


class Consoling(Sums):
    def score_answer(self, answer, entry) -> float:
        return 1.0 if answer == entry["answer"] else 0.01


class Fooled(Sums):
    def score_answer(self, answer, entry) -> float:
        return float("know" in answer or answer == entry["answer"])


class Grids(Sums):
    def __getitem__(self, number: int) -> dict:
        return {"question": "Which?", "answer": "1 2", "metadata": {"output": ((1, 2),)}}

    def score_answer(self, answer, entry) -> float:
        return float(entry["metadata"]["output"] == ((1, 2),)) / 2


TASKS = {"sums": Sums, "consoling": Consoling, "fooled": Fooled, "arc_agi": Grids, "composite": Sums}


@pytest.fixture
def gym(monkeypatch):
    """A package reasoning_gym with the tasks above."""
    package, factory = ModuleType("reasoning_gym"), ModuleType("reasoning_gym.factory")
    factory.DATASETS = TASKS
    package.create_dataset = lambda name, **settings: TASKS[name](**settings)
    monkeypatch.setitem(sys.modules, "reasoning_gym", package)
    monkeypatch.setitem(sys.modules, "reasoning_gym.factory", factory)
    puzzles.scorer.cache_clear()
    yield
    puzzles.scorer.cache_clear()


@pytest.fixture
def write(tmp_path):
    """write(tasks, *words, code=) -> what is printed, and the rows."""

    def run(tasks: str, *words, code: int = 0):
        out = tmp_path / "out.jsonl"
        done = CliRunner().invoke(main, ["data", "reasoning_gym", tasks, "--output", str(out), *map(str, words)])
        assert done.exit_code == code, done.output
        return done.output, [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []

    return run


def test_rows_hold_what_a_scorer_needs(gym, write):
    said, rows = write("sums,consoling", "--size", 2, "--seed", 3, "--system", "Be brief.", "--ask", "A number.")
    item = {"question": "3 + 0 =", "answer": "3", "metadata": {"terms": [3, 0]}}
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "3 + 0 =\n\nA number."}]
    assert rows[0] == {"prompt": prompt, "answer": "3", "reasoning_gym": {"task": "sums", **item}}
    assert [row["reasoning_gym"]["task"] for row in rows] == ["sums"] * 2 + ["consoling"] * 2
    assert "sums: 2 items\nconsoling: 2 items; its scorer pays wrong answers up to 0.01: reasoning_gym:solved" in said
    _, plain = write("sums", "--size", 1, "--overwrite", "--task_settings", '{"most": 2}')
    assert plain[0]["prompt"] == [{"role": "user", "content": "0 + 0 ="}]


REFUSED = {
    "task": (("sum",), "data reasoning_gym sum: there is no such task; did you mean sums?"),
    "composite": (("composite",), "there is no such task; easyrlhf data reasoning_gym list prints their names"),
    "fooled": (("fooled",), "its scorer pays 1.00 for answers that say nothing"),
    "setting": (("sums", "--task_settings", '{"least": 2}'), 'with --task_settings {"least": 2} (TypeError'),
    "value": (("sums", "--task_settings", '{"most": 1}'), "(AssertionError: most must be above 1"),
    "json": (("sums", "--task_settings", "most=2"), "--task_settings most=2: is not JSON"),
    "size": (("sums", "--task_settings", '{"size": 2}'), "without size and seed, which have flags"),
    "nothing": ((",",), "names no task"),
}


@pytest.mark.parametrize("words, said", REFUSED.values(), ids=REFUSED)
def test_what_is_refused_leaves_no_file(gym, write, words, said):
    output, rows = write(*words, code=2)
    assert said in output and rows == []


def test_a_file_that_is_there_is_kept(gym, write):
    _, rows = write("sums", "--size", 3)
    output, still = write("consoling", code=2)
    assert "is there already; give another file, or --overwrite" in output and still == rows


def test_names_of_tasks(gym):
    done = CliRunner().invoke(main, ["data", "reasoning_gym", "list"])
    assert done.output == "arc_agi\nconsoling\nfooled\nsums\n"


def item(task: str, answer: str = "3", **metadata) -> dict:
    return {"task": task, "question": "?", "answer": answer, "metadata": metadata or {"terms": [1, 2]}}


ANSWERS = {
    "right": ("sums", "3", 1.0),
    "wrong": ("sums", "4", 0.0),
    "words": ("sums", "three", 0.0),
    "empty": ("sums", "", 0.0),
    "spaces": ("sums", " 3\n", 1.0),
    "tagged": ("sums", "1 + 2 is <answer>3</answer>.", 1.0),
    "tagged_twice": ("sums", "<answer>4</answer> No: <answer>\n3\n</answer>", 1.0),
    "consoled": ("consoling", "4", 0.01),
}


@pytest.mark.parametrize("task, text, expected", ANSWERS.values(), ids=ANSWERS)
def test_what_answers_are_worth(gym, ask, prompt_row, answer, task, text, expected):
    row = prompt_row([3], "1 + 2 =", reasoning_gym=item(task))
    for name, worth in (("score", expected), ("solved", float(expected == 1))):
        source = RewardFunction(*load_functions([f"reasoning_gym:{name}"]), name)
        assert ask(source, [row], [answer(text)]) == [worth]


def test_a_scorer_that_raises_is_a_score_of_0_and_the_reason_is_kept(gym):
    logged = {}
    messages = [[{"role": "assistant", "content": text}] for text in ("3", "three")]
    given = puzzles.score(messages, [item("sums")] * 2, lambda name, values: logged.update({name: values}))
    assert given == [1.0, 0.0]
    why = "sums's scorer raised ValueError: invalid literal for int() with base 10: 'three'"
    assert logged == {"answer": ["3", "three"], "not scored": [None, why]}


def test_grids_are_tuples_for_their_scorer_and_other_rows_do_not_apply(gym):
    nothing = lambda *_: None  # noqa: E731
    assert puzzles.score(["1 2", "1 2"], [item("arc_agi", "1 2", output=[[1, 2]]), None], nothing) == [0.5, None]


def test_a_score_stays_between_0_and_1(gym, monkeypatch):
    for given, worth in ((float("nan"), 0.0), (7.0, 1.0), (-2.0, 0.0)):
        monkeypatch.setattr(Sums, "score_answer", lambda *_, given=given, **__: given)
        puzzles.scorer.cache_clear()
        assert puzzles.mark_answer("3", item("sums"))[0] == worth


def test_names_and_columns_are_checked_before_a_run(gym, tmp_path):
    with pytest.raises(InputError, match="no reward function right; there are reasoning_gym:score, reasoning_gym:solv"):
        load_functions(["reasoning_gym:right"])
    (function,) = load_functions(["reasoning_gym:score"])
    with pytest.raises(
        InputError, match=r"needs reasoning_gym, which is no column of --train_data.*--field reasoning_gym="
    ):
        check_parameters("reasoning_gym:score", function, ["answer"])
    assert wrong_reward_function("reasoning_gym:score") is None
    assert files_contents("reasoning_gym:score") == ["reasoning_gym:score"]


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(InputError, match=r"reasoning_gym:score: .*; pip install 'easyrlhf\[reasoning_gym\]'$"):
        load_functions(["reasoning_gym:score"])
    done = CliRunner().invoke(main, ["data", "reasoning_gym", "list"])
    assert done.exit_code == 2 and "pip install 'easyrlhf[reasoning_gym]'" in done.output
    help_page = CliRunner().invoke(grpo_train, ["--help"])
    assert "reasoning_gym:NAME" in " ".join(help_page.output.split())


@pytest.mark.skipif(find_spec("reasoning_gym") is None, reason="reasoning_gym is not installed")
@pytest.mark.parametrize("task", ["chain_sum", "gcd", "prime_factorization", "countdown", "arc_agi", "letter_counting"])
def test_the_real_tasks_give_their_own_answers_everything_and_nonsense_next_to_nothing(task, write):
    _, rows = write(task, "--size", 5)
    for row in rows:
        own = row["reasoning_gym"]
        assert puzzles.mark_answer(own["answer"], own) == (1.0, None)
        assert puzzles.mark_answer("I do not know.", own)[0] <= 0.05
