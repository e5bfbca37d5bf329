"""Who says which of two answers is better: a python function, or a language model behind a server."""

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from easyrlhf.config import CompareConfig, PolicyConfig
from easyrlhf.config.base import Settings
from easyrlhf.errors import InputError, RunError
from easyrlhf.judges.asking import Answering, Ask, Reply
from easyrlhf.judges.judge_server import EndpointJudge, JudgeServer, completions_url
from easyrlhf.judges.pairs import Opinion, Pair
from easyrlhf.rewards.batch import as_number
from easyrlhf.rewards.functions import call, refused_keywords, required_columns
from easyrlhf.userfile import Function, code_of, find_function, raised

if TYPE_CHECKING:
    from easyrlhf.judges.local_model import LocalJudge, LocalModel

Judge = Union["FunctionJudge", EndpointJudge, "LocalJudge"]
OURS = ("prompt", "answer_a", "answer_b")
WORDS = {"A": 1.0, "B": 0.0, "tie": 0.5}
DEFAULT_KEY = "OPENAI_API_KEY"
KEY = re.compile(r"[!-~]+")
LONGEST_REPLY = 512  # tokens that a model in this process may write
OF_THE_DEVICE = ("devices", "precision", "micro_batch_tokens", "attn_implementation", "trust_remote_code")
OF_THE_DEVICE += ("allow_incomplete",)


@dataclass(frozen=True)
class FunctionJudge:
    """A python function of the user: fn(prompt, answer_a, answer_b, **columns) -> "A", "B", "tie" or a number."""

    function: Function
    name: str
    workers: int = 1  # it need not be safe to call from several threads

    def __call__(self, pair: Pair) -> Opinion:
        """Its opinion. Raises RunError, with the pair, when it raises or returns something else."""
        columns = {name: None for name in required_columns(self.function) if name not in OURS} | pair.columns
        ours = {name: getattr(pair, name) for name in OURS}
        try:
            said = call(self.function, columns | ours)
        except Exception as error:
            raise RunError(f"judge {self.name} raised {raised(error, self.function)}\n{pair.shown()}") from error
        return Opinion(self.number(said, pair))

    def number(self, said: Any, pair: Pair) -> float:
        """The verdict as a number. Raises RunError."""
        if isinstance(said, str) and said in WORDS:
            return WORDS[said]
        number = None if isinstance(said, str | bool) or said is None else as_number(said)
        if number is None or not 0 <= number <= 1:
            raise RunError(
                f"judge {self.name} returned {said!r}; it must return 'A', 'B', 'tie', or the chance from 0 to 1 that "
                f"A is better\n{pair.shown()}"
            )
        return number


@dataclass(frozen=True)
class AskedFunction:
    """A judging function as what answers questions about pairs."""

    judge: FunctionJudge
    spec: str
    workers: int = 1
    batch: int = 1

    @property
    def model(self) -> str:
        """What tells it from others: its name, and its file as it is now."""
        code = code_of(self.judge.function)
        file = Path(code.co_filename) if code else None
        return f"{self.spec} {hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file and file.is_file() else ''}"

    @property
    def name(self) -> str:
        """The function's."""
        return self.judge.name

    def replies(self, asks: list[Ask]) -> list[Reply]:
        """Its opinions. Raises RunError."""
        return [Reply("", prefers_a=self.judge(ask.pair).prefers_a) for ask in asks]


def find_judge(config: CompareConfig) -> Judge | None:
    """The judge of pairs that the settings name, None when there is none. Raises InputError when it cannot be used."""
    if config.judge:
        return find_function_judge(config)
    if config.judge_url:
        return find_server(config, EndpointJudge)
    if config.judge_dir:
        from easyrlhf.judges.local_model import LocalJudge

        return LocalJudge(find_model(config))
    return None


def find_answering(config: Settings) -> Answering:
    """What answers questions, as JudgingModel and perhaps JudgingFunction name it. Raises InputError."""
    if config.value("judge"):
        return AskedFunction(find_function_judge(config), config.judge)
    return find_server(config, JudgeServer) if config.judge_url else find_model(config)


def find_function_judge(config: Settings) -> FunctionJudge:
    """The function of --judge. Raises InputError."""
    return FunctionJudge(find_function("--judge", config.judge, {}), config.judge.rpartition(":")[2])


def find_model(config: Settings) -> "LocalModel":
    """The model of --judge_dir. Raises InputError."""
    from easyrlhf.judges.local_model import LocalModel  # which needs torch

    shared = {name: config.value(name) for name in OF_THE_DEVICE if config.value(name) is not None}
    policy = PolicyConfig(
        model=config.judge_dir, max_new_tokens=config.value("max_new_tokens") or LONGEST_REPLY, **shared
    )
    return LocalModel(policy, config.value("batch_size") or 1, "--judge_dir", config.judge_temperature or 0.0)


def find_server(config: Settings, kind: type[JudgeServer]) -> Any:
    """The server of --judge_url, once it has been heard of. Raises InputError when it cannot be used."""
    variable = config.judge_key_env or DEFAULT_KEY
    key = os.environ.get(variable, "").strip()
    if config.judge_key_env and not key:
        raise InputError("--judge_key_env: there is no environment variable of that name, or it is empty")
    if key and not KEY.fullmatch(key):
        raise InputError(
            f"the environment variable {variable}: holds a space, a line break or a character that no key has; set it "
            "to the key alone"
        )
    url, settings = completions_url(config.judge_url), (config.judge_temperature, config.judge_workers)
    server = kind(url, config.judge_model, key, variable, *settings)
    server.check()
    return server


def check_judge(config: Settings, judge: Judge | None, columns: Iterable[str], rows: str = "--prompts") -> None:
    """Raise InputError when a judging function cannot be called with the columns of the rows."""
    if not isinstance(judge, FunctionJudge):
        return
    given = [*OURS, *sorted(set(columns) - set(OURS))]
    if unknown := refused_keywords(judge.function, given):
        raise InputError(
            f"--judge {config.judge}: takes no parameter {', '.join(unknown)}, but is called with the keywords "
            f"{', '.join(given)}; end its parameters with **kwargs"
        )
    if missing := [name for name in required_columns(judge.function) if name not in given]:
        raise InputError(
            f"--judge {config.judge}: needs {', '.join(missing)}, which is no column of {rows}; give the parameter "
            "a default"
        )
