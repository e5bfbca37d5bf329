"""What the user does to rows before their format is recognised: --transform calls a function, --field names keys."""

import copy
import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from string import Formatter
from typing import Any

from easyrlhf.data.fields import keys_of
from easyrlhf.data.keys import CONTEXT, HISTORY
from easyrlhf.data.messages import EMPTY, MEDIA
from easyrlhf.data.row_errors import StructuralFault
from easyrlhf.errors import InputError
from easyrlhf.userfile import Function, find_function, raised

MISSING = object()
INDEX = re.compile(r"-?\d{1,9}")
SAYS_MORE = {*CONTEXT, HISTORY, *MEDIA}  # keys that change what a row says, wherever they stand
SURENESS = "chosen_probability"  # changes what is said of two answers
NEXT_FIELD = re.compile(r",\s*(?=\w+=)")  # a comma inside of a text is none between fields


@dataclass(frozen=True)
class FieldMapping:
    """One `target=value` of --field: a key of the row to be moved, or a text in which `{key}` stands for values.

    With an empty value the target itself is taken out of the row.
    """

    target: str
    value: str

    @classmethod
    def parse(cls, item: str) -> "FieldMapping":
        """Read one item. Raises InputError when it is not of that form."""
        target, equals, value = (part.strip() for part in item.partition("="))
        if not (target and equals):
            raise InputError(
                f"--field {item}: expected name=key, such as prompt=question, name='a text with {{key}}', or name= to "
                "take a key out"
            )
        found = cls(target, value)
        found.text_keys()
        return found

    def text_keys(self) -> list[str]:
        """The keys in braces of a text. Raises InputError for braces that hold anything else."""
        try:
            parts = [part[1:] for part in Formatter().parse(self.value) if part[1] is not None]
        except ValueError as error:
            raise InputError(f"--field {self}: {error}; write {{{{ and }}}} for braces that are text") from error
        for key, form, conversion in parts:
            if not key or form or conversion:
                raise InputError(f"--field {self}: braces hold the name of a key, as in {{question}}, and nothing else")
        return [key for key, _, _ in parts]

    @property
    def is_text(self) -> bool:
        """Whether the value is a text with keys in braces."""
        return "{" in self.value or "}" in self.value

    def read(self, row: dict, optional: Callable[[str], bool] = lambda key: False) -> Any:
        """The target's value for a row. Raises StructuralFault, with the row's keys, when one is missing.

        optional  whether a key of a text is one that rows may lack: it is empty then, as one that is null
        """
        if not self.is_text:
            return self._value(row, self.value)
        parts = Formatter().parse(self.value)
        return "".join(before + ("" if key is None else self._text(row, key, optional)) for before, key, _, _ in parts)

    def _value(self, row: dict, key: str) -> Any:
        found = lookup(row, key)
        if found is MISSING:
            raise StructuralFault(f"--field {self}: the row has no key '{key}'; found {keys_of(row)}")
        return found

    def _text(self, row: dict, key: str, optional: Callable[[str], bool]) -> str:
        """What stands in a text for a key."""
        value = lookup(row, key)
        if value is None or (value is MISSING and optional(key)):
            return ""
        value = self._value(row, key)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise StructuralFault(
                f"--field {self}: key '{key}' holds no text or number ({type(value).__name__}), so it cannot "
                "stand in a text; --transform can take it apart"
            )
        return str(value)

    def __str__(self) -> str:
        return f"{self.target}={self.value}"


def lookup(value: Any, key: str) -> Any:
    """What a key names in a row: the key as it is, else a path such as `a.b` or `turns.0.text`; MISSING if nothing."""
    found = _inside(value, key)
    for dot in [match.start() for match in re.finditer(r"\.", key)]:
        if found is MISSING:
            found = lookup(_inside(value, key[:dot]), key[dot + 1 :])
    return found


def _inside(value: Any, key: str) -> Any:
    """A value of an object, or an item of a list by its number."""
    if isinstance(value, dict):
        return value.get(key, MISSING)
    if isinstance(value, list) and INDEX.fullmatch(key) and -len(value) <= int(key) < len(value):
        return value[int(key)]
    return MISSING


@dataclass(frozen=True)
class RowTransform:
    """A function of the user's, then the fields; `apply` gives the rows that one row becomes."""

    fields: tuple[FieldMapping, ...] = ()
    spec: str | None = None
    function: Function | None = field(default=None, compare=False)

    @classmethod
    def parse(cls, fields: str | None = None, transform: str | None = None) -> "RowTransform":
        """From the settings --field and --transform. Raises InputError, before any row is read, for wrong ones."""
        items = [FieldMapping.parse(item) for item in NEXT_FIELD.split(fields)] if fields else []
        targets = [item.target for item in items]
        if twice := [target for target in targets if targets.count(target) > 1]:
            raise InputError(f"--field {fields}: '{twice[0]}' is set twice; keep one")
        function = row_function(transform, find_function("--transform", transform, {})) if transform else None
        return cls(tuple(items), transform, function)

    def __bool__(self) -> bool:
        return bool(self.fields or self.function)

    def apply(self, row: dict, optional: Callable[[str], bool] = lambda key: False) -> list[dict]:
        """The rows that this one becomes; none when the function drops it. Raises StructuralFault.

        optional  as FieldMapping.read takes it
        """
        return [self._named(made, optional) for made in self.transformed(row)]

    def transformed(self, row: dict) -> list[dict]:
        """The rows that the function alone makes of this one. Raises StructuralFault."""
        if self.function is None:
            return [row]
        try:
            made = self.function(copy.deepcopy(row))  # what is kept of a bad row is as the file has it
        except Exception as error:
            raise StructuralFault(f"--transform {self.spec} raised {raised(error, self.function)}") from error
        rows = [] if made is None else made if isinstance(made, list) else [made]
        if strange := [one for one in rows if not isinstance(one, dict)]:
            hint = "; the parameter of a function that makes one is to be called cfg" if callable(strange[0]) else ""
            raise StructuralFault(
                f"--transform {self.spec} gave a {type(strange[0]).__name__}; it must give a dict, a list of dicts or "
                f"None{hint}"
            )
        return rows

    def _named(self, row: dict, optional: Callable[[str], bool]) -> dict:
        """A key that is named moves; keys in braces stay, and so does what a path leads into."""
        for item, inside in self._holders:
            if item.value not in row:
                self._require_neighbours(row, item, inside)
        values = {item.target: item.read(row, optional) for item in self.fields if item.value}
        moved = {item.value or item.target for item in self.fields if not item.is_text}
        return {key: value for key, value in row.items() if key not in moved} | values

    @cached_property
    def _holders(self) -> list[tuple[FieldMapping, str]]:
        """What each path leads through: `a` and `a.b` of `a.b.c`."""
        paths = [item for item in self.fields if not item.is_text]
        return [(item, item.value[: dot.start()]) for item in paths for dot in re.finditer(r"\.", item.value)]

    @cached_property
    def _taken(self) -> set[str]:
        """The keys and paths that any field reads or takes out."""
        return {key for one in self.fields for key in (one.text_keys() if one.is_text else [one.value or one.target])}

    def _require_neighbours(self, row: dict, item: FieldMapping, inside: str) -> None:
        """Raise StructuralFault for a key beside that of a path which says more of the row and would be left behind."""
        holder, head = lookup(row, inside), item.value.partition(".")[0]
        more = SAYS_MORE | ({SURENESS} if item.target.startswith(("chosen", "rejected")) else set())
        for name in sorted(more & holder.keys()) if isinstance(holder, dict) else ():
            if holder[name] not in EMPTY and not {f"{inside}.{name}", head} & self._taken:
                raise StructuralFault(
                    f"--field {item}: '{inside}.{name}' stands beside it and says more of the row; take it along "
                    f"with {name}={inside}.{name}, or leave it out with {head}="
                )


class Unset(dict):
    """The configuration that axolotl's factories take, with nothing set: every setting is None."""

    def __getattr__(self, name: str) -> None:
        return None


def row_function(spec: str, function: Function) -> Function:
    """The function of a row: the one that is named, or the one that it makes, as axolotl's `def fn(cfg, **kwargs)` do.

    A factory gives a function, or a function and {"remove_columns": […]}; as with `map` of `datasets` the row keeps
    its other columns, and what the function gives is set in them. Raises InputError for one that gives anything else.
    """
    if not is_factory(function):
        return function
    try:
        made = function(Unset())
    except Exception as error:
        reason = raised(error, function)
        raise InputError(
            f"--transform {spec}: raised {reason} when it was called with an empty configuration"
        ) from error
    inner, how = made if isinstance(made, tuple) and len(made) == 2 else (made, {})
    if not callable(inner) or not isinstance(how, dict) or how.keys() - {"remove_columns"}:
        raise InputError(
            f"--transform {spec}: its parameter cfg says that it makes a function, but it gave {made!r:.100}; it must "
            'give the function of a row, alone or with {"remove_columns": […]}'
        )
    removed = how.get("remove_columns") or []
    return _merging(inner, {removed} if isinstance(removed, str) else set(removed))


def is_factory(function: Function) -> bool:
    """Whether its first parameter is axolotl's configuration."""
    try:
        first = next(iter(inspect.signature(function).parameters), "")
    except (TypeError, ValueError):
        return False
    return first in ("cfg", "config")


def _merging(function: Function, removed: set[str]) -> Function:
    """The function, what it gives set in the row without the removed columns."""

    @functools.wraps(function)
    def merged(row: dict) -> Any:
        kept = {key: value for key, value in row.items() if key not in removed}
        made = function(row)
        rows = made if isinstance(made, list) else [made]
        rows = [kept | one if isinstance(one, dict) else one for one in rows]
        return rows if isinstance(made, list) else rows[0]

    return merged
