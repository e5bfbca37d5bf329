"""What every form of export does: room for the result, files that appear whole, stage.json and the model card."""

import importlib.metadata
from contextlib import AbstractContextManager
from pathlib import Path

import torch

from easyrlhf.config import ExportConfig
from easyrlhf.data.tokenizer import tokenizer_fingerprint
from easyrlhf.errors import InputError
from easyrlhf.files import drafted_in, make_folder
from easyrlhf.models.adapters import is_adapter
from easyrlhf.models.load import check_text_alone, load_config
from easyrlhf.models.parents import ADAPTER, root_of
from easyrlhf.report.metadata import front_matter, hub_facts
from easyrlhf.report.stage_view import VIEWS
from easyrlhf.run.manifest import read_stage, require_whole
from easyrlhf.run.renderers import rendering_of

WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")


def check_disk_room(config: ExportConfig, folder: Path) -> None:
    """Raise InputError unless there is room for the result."""
    if folder.resolve() == Path(config.model).resolve():
        raise InputError(f"--output_dir {folder}: is also --model; give another folder")
    if folder.exists() and any(folder.iterdir()) and not config.overwrite:
        raise InputError(f"--output_dir {folder}: is not empty; give another folder, or --overwrite to write into it")


def check_source(model: str, config: ExportConfig) -> None:
    """Raise InputError unless a model is whole and of text alone."""
    require_whole("--model", model, allow_incomplete=config.allow_incomplete)
    check_text_alone("--model", model, trust_remote_code=config.trust_remote_code)


def stored_dtype(config: ExportConfig) -> torch.dtype:
    """The number format that the settings ask for, or that of the model's files."""
    if config.precision != "auto":
        return {"float32": torch.float32, "bf16": torch.bfloat16}[config.precision]
    return load_config(config.model, trust_remote_code=config.trust_remote_code).dtype or torch.float32


def drafted(folder: Path) -> AbstractContextManager[Path]:
    """A folder to write a model into, as drafted_in has it; weights that were there are removed."""
    make_folder(folder)
    safe = "Nothing is left there, and the model it comes from is as it was"
    return drafted_in(folder, ".export", safe, replaced=WEIGHTS)


def facts_of(config: ExportConfig, tokenizer, source: str) -> dict:
    """What stage.json says of an exported model, which came from `source`."""
    folder, root = Path(config.model).expanduser(), root_of(config.model)
    parent = read_stage(folder.resolve().parent if is_adapter(folder) and folder.name == ADAPTER else folder)
    return {
        "status": "complete",
        "easyrlhf_version": importlib.metadata.version("easyrlhf"),
        "stage": "export",
        "parents": {"model": source},
        **{name: parent[name] for name in ("base", "max_length") if name in parent},
        **tokenizer_fingerprint(tokenizer),
        "trained_by": parent.get("trained_by", parent.get("stage")),
        "hub": hub_facts(root, parent or read_stage(root), {}),
        "rendering": rendering_of(config.model).as_dict(),
        "special_tokens": {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")},
    }


def write_card(folder: Path, task: str, facts: dict, text: str) -> None:
    """README.md with the front matter that the hub reads."""
    tags = list(VIEWS[facts["trained_by"]].tags) if facts["trained_by"] in VIEWS else []
    front = front_matter(folder.name, task, tags, facts)
    (folder / "README.md").write_text(front + text, encoding="utf-8")
