"""The reward functions that trl brings, `trl:accuracy_reward`: found by name, and called in the form they know.

Loads no torch, and trl only where one of them is named.
"""

import functools
import inspect
from types import ModuleType
from typing import Any

from easyrlhf.config.common_fields import TRL
from easyrlhf.errors import InputError
from easyrlhf.rewards.batch import OURS
from easyrlhf.userfile import Function

NEEDS = "completions", "completion_ids"  # a reward function takes one of them; what makes such functions does not


def ready_made(spec: str) -> Function:
    """The reward function of trl that is named as `trl:NAME`, to be called as the functions of files are.

    Raises InputError when trl has none of that name, or when it needs a package that is not here.
    """
    flag, name = f"--reward_funcs {spec}", spec.removeprefix(TRL)
    rewards = trl_rewards(flag)
    found = functions_of(rewards)
    function = found.get(name)
    known = ", ".join(TRL + one for one, function in found.items() if looks(function))
    if function is None:
        raise InputError(f"{flag}: trl has no reward function {name}; it has {known}")
    if not looks(function):
        raise InputError(
            f"{flag}: makes a reward function from numbers, and is none. Make yours in a file of your own, `mine = "
            f"{name}(…)` with {', '.join(inspect.signature(function).parameters)} as you want them, and give "
            f"--reward_funcs FILE.py:mine (easyrlhf docs rewards). Those that need no numbers: {known}"
        )
    try:
        function(**{name: [] for name in required_parameters(function)})  # of no completions: says what is missing
    except ImportError as error:
        raise InputError(f"{flag}: {error}; pip install 'easyrlhf[math]' brings what trl's rewards need") from error
    return in_our_terms(function)


def trl_rewards(flag: str) -> ModuleType:
    """The module of trl's reward functions. Raises InputError when it is not here."""
    try:
        import trl.rewards
    except ImportError as error:
        raise InputError(f"{flag}: trl cannot be imported here ({error}); pip install 'trl>=1.16,<2'") from error
    return trl.rewards


def functions_of(rewards: ModuleType) -> dict[str, Function]:
    """The public functions of trl's module by name."""
    found = {name: getattr(rewards, name) for name in dir(rewards) if not name.startswith("_")}
    return {name: one for name, one in found.items() if inspect.isfunction(one)}


def looks(function: Function) -> bool:
    """Whether it takes what a reward function does."""
    return any(name in inspect.signature(function).parameters for name in NEEDS)


def required_parameters(function: Function) -> list[str]:
    """The parameters without a default, in order, but for **kwargs."""
    found = inspect.signature(function).parameters.values()
    return [p.name for p in found if p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty]


def in_our_terms(function: Function) -> Function:
    """A function of trl that takes answers to plain prompts too, and numbers in the columns that it reads as texts.

    trl knows message lists alone as completions; here an answer to a prompt that is a string is one itself.
    """
    texts = [name for name in required_parameters(function) if name not in OURS]

    @functools.wraps(function)
    def called(**keywords: Any) -> Any:
        completions = [as_messages(one) for one in keywords["completions"]]
        columns = {name: [number_as_text(cell) for cell in keywords[name]] for name in texts}
        return function(**keywords | columns | {"completions": completions})

    return called


def as_messages(completion: str | list) -> list:
    """A completion as one message of the assistant."""
    return [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion


def number_as_text(cell: Any) -> Any:
    """A number as text: trl's parser of answers overlooks numbers."""
    return str(cell) if isinstance(cell, int | float) and not isinstance(cell, bool) else cell
