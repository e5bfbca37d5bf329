"""What the hub reads of a model card: base model, data, licence, results; only what is known for certain."""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from easyrlhf.data.hub import HUB_ID
from easyrlhf.models.parents import is_hub_id
from easyrlhf.report.info import STAGE_TITLES, RunInfo

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

SNAPSHOT = re.compile(r"/models--([^/]+)/snapshots/")  # in the hub's cache
OF_THE_BASE = ("license", "license_name", "license_link", "language")
TASKS = {"rm": "text-classification"}  # the others write text
TASK = "text-generation"
METRICS = {"eval/loss": "loss", "eval/perplexity": "perplexity", "eval/rewards/accuracies": "accuracy"}


def hub_facts(model: str, parent: dict, data: dict[str, list[str]]) -> dict:
    """What stage.json keeps for model cards, found while a run sees its inputs: a path may mean nothing elsewhere.

    model   folder or hub id that the run begins with; parent is its stage.json, {} without one
    data    part → names of files and hub data sets, all of which are there
    returns base_model (a hub id), license…, language of the first model, and data: part → hub ids; each where known
    """
    known = parent.get("hub")
    if known is None:
        base = parent.get("base", model)
        known = {"base_model": hub_id(base)} | {name: card_of(base).get(name) for name in OF_THE_BASE}
    ids = {part: [name for name in names if is_hub_data(name)] for part, names in data.items()}
    facts = {name: known.get(name) for name in ("base_model", *OF_THE_BASE)}
    facts["data"] = {part: names for part, names in ids.items() if names}
    return {name: value for name, value in facts.items() if value}


def hub_id(path: str) -> str | None:
    """The hub id of a model that is named by it, or by its place in the hub's cache; None for any other folder."""
    if found := SNAPSHOT.search(Path(path).expanduser().as_posix()):
        return found[1].replace("--", "/", 1)
    return path if is_hub_id(path, Path()) and not Path(path).exists() else None


def is_hub_data(name: str) -> bool:
    """Whether the name of data that was read is that of a hub data set."""
    return bool(HUB_ID.fullmatch(name)) and not Path(name).expanduser().exists()


def card_of(model: str) -> dict:
    """Front matter of a model's own card, in its folder or in the hub's cache; {} when there is none to be read."""
    from huggingface_hub import ModelCard, try_to_load_from_cache

    file: object = Path(model).expanduser() / "README.md"
    if hub_id(model) == model:
        file = try_to_load_from_cache(model, "README.md")
    try:
        text = Path(file).read_text(encoding="utf-8")  # type: ignore[arg-type]
        return ModelCard(text, ignore_metadata_errors=True).data.to_dict() if text.startswith("---") else {}
    except Exception:  # no card, or one that its writer broke: nothing is known then
        return {}


def front_matter(
    name: str, task: str, tags: list[str], info: RunInfo, *, results: dict | None = None, adapter_of: str = ""
) -> str:
    """The block at the top of a card.

    results     held-out metrics by name, which become the model index
    adapter_of  what an adapter was trained on: named when it is a hub id, as the adapter fits nothing else
    """
    from huggingface_hub import ModelCardData

    hub = info["hub"] if "hub" in info else {"base_model": hub_id(info.get("base", "."))}  # a run of before that key
    found = eval_results(task, info, results or {})
    data = ModelCardData(
        base_model=hub_id(adapter_of) if adapter_of else hub.get("base_model"),
        library_name="peft" if adapter_of else "transformers",
        pipeline_tag=task,
        tags=["easyrlhf", *(["lora"] if adapter_of else []), *tags],
        datasets=hub_data_sets(hub) or None,
        model_name=name if found else None,
        eval_results=found,
        **{key: hub[key] for key in OF_THE_BASE if key in hub},
    )
    return f"---\n{data.to_yaml()}\n---\n"


def hub_data_sets(hub: dict) -> list[str]:
    """The hub data sets that a run trained on, without configuration and split."""
    names = [name for part, names in hub.get("data", {}).items() if part != "valid" for name in names]
    return list(dict.fromkeys(parts["name"] for name in names if (parts := HUB_ID.fullmatch(name))))


def eval_results(task: str, info: RunInfo, results: dict[str, float | None]) -> list["EvalResult"] | None:
    """Held-out numbers as the hub lists them; None when there are none."""
    from huggingface_hub import EvalResult

    about = held_out_results(info)
    title = STAGE_TITLES.get(info.get("stage", ""))
    return [
        EvalResult(
            task_type=task,
            task_name=title,
            metric_type=METRICS.get(name, name.removeprefix("eval/").replace("/", "_")),
            metric_name=name,
            metric_value=value,
            **about,
        )
        for name, value in results.items()
        if value is not None and math.isfinite(value)
    ] or None


def held_out_results(info: RunInfo) -> dict[str, str]:
    """The held-out rows as the hub names data: a data set of its own, or the names of files."""
    known = info.get("hub", {}).get("data", {}).get("valid", [])
    files = info.get("data", {}).get("valid", {}).get("files", [])
    if len(known) == len(files) == 1 and (parts := HUB_ID.fullmatch(known[0])):
        more = {f"dataset_{key}": parts[key] for key in ("config", "split") if parts[key]}
        return {"dataset_type": parts["name"], "dataset_name": parts["name"]} | more
    names = ", ".join(Path(file).name for file in files) or "rows"
    return {"dataset_type": "local", "dataset_name": f"held-out rows of {names}"}
