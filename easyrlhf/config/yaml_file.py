"""A settings file as it is written: its keys with their values, and where each of them stands."""

from pathlib import Path
from typing import Any


def read_yaml(path: str | Path) -> dict[str, tuple[Any, str]]:
    """The keys of a YAML settings file: name -> (value, "file:line").

    ValueError, with the line, when the file is no mapping of settings to values or sets one twice.
    """
    import yaml

    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: cannot be read: it is not UTF-8 ({error.reason} at byte {error.start})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ValueError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ValueError(f"{path}: must hold lines of the form 'setting: value'")
    found: dict[str, tuple[Any, str]] = {}
    twice: list[str] = []
    for key, _ in node.value:
        place = f"{path}:{key.start_mark.line + 1}"
        if key.value in found:
            twice.append(f"{place}: '{key.value}' was set before, at {found[key.value][1]}; keep one of the two")
        found[key.value] = (values.get(key.value), place)
    if twice:
        raise ValueError("\n".join(twice))
    return found


def yaml_places(path: str | Path) -> dict[str, str]:
    """Where the keys of a YAML file stand, those of blocks too: "block.key" or "list[0].key" -> "file:line"."""
    import yaml

    def walk(node: Any, name: str) -> None:
        if name:
            places[name] = f"{path}:{node.start_mark.line + 1}"
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                inner = f"{name}.{key.value}" if name else str(key.value)
                walk(value, inner)
                places[inner] = f"{path}:{key.start_mark.line + 1}"
        elif isinstance(node, yaml.SequenceNode):
            for i, item in enumerate(node.value):
                walk(item, f"{name}[{i}]")

    places: dict[str, str] = {}
    walk(yaml.compose(Path(path).expanduser().read_text(encoding="utf-8"), Loader=yaml.SafeLoader), "")
    return places
