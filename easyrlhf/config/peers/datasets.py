"""axolotl's entries of `datasets` as settings of ours: train_data, format, field."""

import dataclasses
from typing import Any

FILES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow")
LOADERS = ("json", "csv", "parquet", "arrow")  # paths that only say how data_files are read
# Row formats that --format knows under axolotl's own names, by their beginning (data/axolotl.py), and those of ours.
KNOWN_TYPES = ("chatml", "llama3", "zephyr", "bradley_terry", "user_defined", "passthrough", "argilla_chat")
OWN_TYPES = ("alpaca", "sharegpt")
RECOGNISED = ("chat_template", "chat_template.default_no_system")
# axolotl's keys that name keys of a row -> our names of those keys
FIELDS = {
    "field_prompt": "prompt",
    "field_chosen": "chosen",
    "field_rejected": "rejected",
    "field_completion": "completion",
    "field_label": "label",
    "field_system": "system",
    "field_instruction": "instruction",
    "field_input": "input",
    "field_output": "output",
    "field_tools": "tools",
    "field_human": "prompt",
    "field_model": "completion",
}
SAID = ("path", "name", "split", "data_files", "type", "ds_type", "field_messages", "message_property_mappings")
SAID += ("message_field_role", "message_field_content", "trust_remote_code")
LEFT = {
    "roles": "roles go by their usual names: human, user, gpt, assistant, system, tool",
    "roles_to_train": "loss falls on assistant turns alone",
    "train_on_eos": "the end-of-turn token of a learned answer is learned",
    "train_on_eot": "the end-of-turn token of a learned answer is learned",
    "chat_template": "one template for all rows: chat_template at the top level",
    "conversation": "the template is the model's own, or chat_template at the top level",
    "shards": "write a weight behind the path, as in rows.jsonl=0.1",
    "shards_idx": "write a weight behind the path, as in rows.jsonl=0.1",
    "revision": "the newest revision is read",
    "prompt_format": "field builds texts too, as in prompt='Question: {prompt}'",
    "format": "the template is the model's own; field builds texts, as in prompt='Question: {instruction}'",
    "no_input_format": "a row without input has the instruction alone",
    "system_prompt": "a row's system prompt comes from its column system",
}


@dataclasses.dataclass(frozen=True)
class DataSet:
    """An entry of `datasets`: what we call it, and what of it has no counterpart (its key -> why)."""

    train_data: str
    format: str | None = None
    field: str | None = None
    left: dict[str, str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"train_data {self.train_data}"]
        parts += [f"format {self.format}"] if self.format else []
        parts += [f"field {self.field}"] if self.field else []
        return ", ".join(parts) + "".join(f"; {key}: {why}" for key, why in self.left.items())


def read_data_set(entry: dict[str, Any]) -> DataSet:
    """An entry of axolotl's `datasets`. Keys that are null count as left out."""
    entry = {key: value for key, value in entry.items() if value is not None}
    kind = entry.get("type")
    inner = kind if isinstance(kind, dict) else {}
    format, why = _format(kind, entry)
    left = {"type": why} if why else {}
    for key in [*entry, *inner]:
        if key not in SAID and key not in FIELDS:
            left[key] = LEFT.get(key, "no counterpart")
    return DataSet(_path(entry, left), format, _fields(entry | inner), left)


def _path(entry: dict[str, Any], left: dict[str, str]) -> str:
    """The item of --train_data: data files, a path, or a hub id with its configuration and split."""
    path = str(entry.get("path", ""))
    files = entry.get("data_files")
    if files is not None and path in (*LOADERS, ""):
        return ",".join(map(str, files)) if isinstance(files, list) else str(files)
    if files is not None:
        left["data_files"] = "a hub data set is read whole, or by name:config@split"
    local = path.endswith(FILES) or path.startswith(("/", ".", "~"))
    if local:
        return path
    split = str(entry.get("split", "train"))
    return path + (f":{entry['name']}" if "name" in entry else "") + (f"@{split}" if split != "train" else "")


def _format(kind: Any, entry: dict[str, Any]) -> tuple[str | None, str]:
    """(our setting `format`, None where rows are recognised; why it has none)."""
    if isinstance(kind, dict):
        return ("alpaca" if {"field_instruction", "field_output"} & kind.keys() else None), ""
    if kind is None or kind in RECOGNISED:
        return None, ""
    if kind in OWN_TYPES or str(kind).partition(".")[0] in KNOWN_TYPES:
        return str(kind), ""
    if str(kind).startswith("chat_template."):
        return str(kind), ""
    return None, f"{kind} is no row format here; rows are recognised by their keys, else see field and transform"


def _fields(entry: dict[str, Any]) -> str | None:
    """Our setting `field`: keys of the rows that have other names than the format's; None for none."""
    named = {FIELDS[key]: str(value) for key, value in entry.items() if key in FIELDS}
    if "field_messages" in entry:
        turns = entry.get("message_property_mappings") or {}
        content = turns.get("content", entry.get("message_field_content", "content"))
        named["conversations" if content == "value" else "messages"] = str(entry["field_messages"])
    moved = [f"{ours}={theirs}" for ours, theirs in named.items() if ours != theirs]
    return ",".join(moved) or None
