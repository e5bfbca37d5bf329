"""A constitution: principles in a YAML file, by which answers are judged and revised (Bai et al. 2022)."""

import difflib
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from easyrlhf.errors import InputError

KEYS = ("name", "critique", "revise", "compare")


@dataclass(frozen=True)
class Principle:
    """One of the principles; "" for a request that the file does not hold.

    critique  what to look at in an answer
    revise    how to better it
    compare   by what to choose between two answers
    """

    name: str
    critique: str = ""
    revise: str = ""
    compare: str = ""


def read_constitution(path: str, needed: tuple[str, ...]) -> list[Principle]:
    """The principles of a file, each with the requests that are needed.

    Raises InputError, with the line, for a file that holds something else.
    """
    try:
        root = yaml.compose(Path(path).read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise InputError(
            f"--constitution {path}: cannot be read ({error.strerror}); easyrlhf recipes --copy . brings "
            "configs/constitution.yaml"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"--constitution {path}: is not UTF-8 ({error.reason} at byte {error.start})") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(root, yaml.SequenceNode) or not root.value:
        raise InputError(f"{path}:1: must be a list of principles, each with {', '.join(KEYS)}, and hold one or more")
    found: dict[str, Principle] = {}
    for node in root.value:
        principle, line = _principle(path, node, needed), node.start_mark.line + 1
        if principle.name in found:
            raise InputError(f"{path}:{line}: a principle is called {principle.name!r} already; give each its own name")
        found[principle.name] = principle
    return list(found.values())


def drawn_principle(principles: list[Principle], *words: Any) -> Principle:
    """One of the principles, by chance, but the same for the same words: a seed and what it is drawn for."""
    return random.Random("/".join(map(str, words))).choice(principles)


def _principle(path: str, node: yaml.Node, needed: tuple[str, ...]) -> Principle:
    place = f"{path}:{node.start_mark.line + 1}"
    if not isinstance(node, yaml.MappingNode):
        raise InputError(f"{place}: a principle must be lines of the form 'name: text', with {', '.join(KEYS)}")
    texts: dict[str, str] = {}
    for key, value in node.value:
        name, line = str(key.value), f"{path}:{key.start_mark.line + 1}"
        if name not in KEYS:
            near = difflib.get_close_matches(name, KEYS, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"a principle has {', '.join(KEYS)}"
            raise InputError(f"{line}: unknown key '{name}': {hint}")
        if name in texts:
            raise InputError(f"{line}: '{name}' is there twice; keep one of the two")
        if not isinstance(value, yaml.ScalarNode) or value.tag != "tag:yaml.org,2002:str" or not value.value.strip():
            raise InputError(f"{line}: '{name}' must be a text that says something; put it between quotes")
        texts[name] = value.value.strip()
    if missing := [name for name in ("name", *needed) if name not in texts]:
        raise InputError(f"{place}: this principle has no '{missing[0]}', which is asked for here; add it")
    return Principle(**texts)
