"""README.md of a stage folder and of its adapter: model cards, with the front matter that the hub reads."""

import json
from dataclasses import fields
from pathlib import Path

import yaml

from easyrlhf.config import TRAINING
from easyrlhf.models.adapters import CONFIG_FILE, read_adapter_config
from easyrlhf.models.parents import ADAPTER, BASE, parent_folder
from easyrlhf.report.conclusion import concluded, examined_by
from easyrlhf.report.info import RunInfo, data_lines, facts, versions, without_passwords
from easyrlhf.report.log import METRICS_FILE, read_rows
from easyrlhf.report.metadata import TASK, TASKS, front_matter
from easyrlhf.report.metrics import metric, show
from easyrlhf.report.stage_view import VIEWS
from easyrlhf.report.text_table import markdown_table

CARD_FILE = "README.md"
LOAD_POLICY = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

path = "{folder}"  # or the id of this repository on the hub
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModelForCausalLM.from_pretrained(path)
messages = [{{"role": "user", "content": "Hello!"}}]
inputs = tokenizer.apply_chat_template(
    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
)
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=128)[0]))
```
"""
LOAD_REWARD = """\
The head is in `value_head.safetensors` (`v_head.summary.weight` [1, H], `v_head.summary.bias` [1]),
beside a full causal-LM backbone. `AutoModelForSequenceClassification` does not find it: it starts a
random head. The score is the head at the end-of-turn token:

```python
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

path = "{folder}"  # from the hub: huggingface_hub.snapshot_download("OWNER/NAME")
tokenizer = AutoTokenizer.from_pretrained(path)
backbone = AutoModel.from_pretrained(path)
head = load_file(f"{{path}}/value_head.safetensors")
messages = [
    {{"role": "user", "content": "Hello!"}},
    {{"role": "assistant", "content": "Hello, how can I help?"}},
]
ids = tokenizer.apply_chat_template(messages, return_dict=False)
end = max(i for i, token in enumerate(ids) if token == tokenizer.eos_token_id)
with torch.no_grad():
    hidden = backbone(torch.tensor([ids[: end + 1]])).last_hidden_state[:, -1].float()
print(hidden @ head["v_head.summary.weight"].T + head["v_head.summary.bias"])
```
"""

LOAD_ADAPTER = """\
```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

path = "{folder}"  # or the id of its repository on the hub
tokenizer = AutoTokenizer.from_pretrained(path)
base = AutoModelForCausalLM.from_pretrained("{base}")
{grown}model = PeftModel.from_pretrained(base, path)
```
"""


def write_model_card(folder: Path, *, stage: str, info: RunInfo) -> Path:
    """Write folder/README.md, and that of its adapter, from its metrics.jsonl, args.yaml and plots; returns its path.

    info  what stage.json holds
    """
    folder = Path(folder)
    history = rows_up_to(read_rows(folder / METRICS_FILE), info)
    said = concluded(stage, history, examined_by(stage, folder))
    view = VIEWS[stage]
    load, task = LOAD_REWARD if stage == "rm" else LOAD_POLICY, TASKS.get(stage, TASK)
    parts = [
        front_matter(folder.name, task, tags_of(stage, folder), info, results=held_out_lines(stage, history)),
        f"# {folder.name}\n\n{view.what}\n\n{said.sentence} Curves, samples and verdicts are in `report.html`.\n",
        *_training(folder, stage, info),
        "## Results\n\n" + _results(stage, history),
        "## How to load\n\n" + load.format(folder=folder.as_posix()),
        *_settings(folder, stage),
        *_versions(info),
    ]
    path = folder / CARD_FILE
    path.write_text("\n".join(parts), encoding="utf-8", errors="replace")
    if (folder / ADAPTER / CONFIG_FILE).is_file():
        write_adapter_card(folder, stage, info, history)
    return path


def write_adapter_card(folder: Path, stage: str, info: RunInfo, history: list[dict]) -> None:
    """Write adapter/README.md: what the adapter is for, and that it fits one base alone."""
    view, adapter = VIEWS[stage], folder / ADAPTER
    about = read_adapter_config(adapter)
    base, results = about[BASE], held_out_lines(stage, history)
    name, tags = f"{folder.name}-adapter", tags_of(stage, folder)
    head = "Its head is in `value_head.safetensors`. " if (adapter / "value_head.safetensors").exists() else ""
    parts = [
        front_matter(name, TASKS.get(stage, TASK), tags, info, results=results, adapter_of=base),
        f"# {name}\n\nA LoRA adapter of rank {about.get('r')} for `{base}`, and for no other weights. {view.what}\n",
        f"{head}The folder above holds the merged model, and how the adapter was trained.\n",
        "## Results\n\n" + _results(stage, history),
        "## How to load\n\n" + LOAD_ADAPTER.format(folder=adapter.as_posix(), base=base, grown=grown(folder, base)),
        *_versions(info),
    ]
    (adapter / CARD_FILE).write_text("\n".join(parts), encoding="utf-8", errors="replace")


def grown(folder: Path, base: str) -> str:
    """The line that gives a base as many embeddings as the run's model has, where that is another number."""
    rows, before = (vocabulary_rows(place) for place in (folder, parent_folder(base)))
    return "" if rows is None or before in (None, rows) else f"base.resize_token_embeddings({rows})\n"


def vocabulary_rows(folder: Path | None) -> int | None:
    """Rows of a model's embeddings, as its configuration says; None when there is none to be read."""
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8")) if folder else {}
    except (OSError, ValueError):
        return None
    return settings.get("vocab_size") or settings.get("text_config", {}).get("vocab_size")


def held_out_lines(stage: str, history: list[dict]) -> dict[str, float | None]:
    """The last held-out numbers that a card names."""
    last = {name: value for row in history for name, value in row.items()}
    return {name: last[name] for name in VIEWS[stage].results if name.startswith("eval/") and name in last}


def tags_of(stage: str, folder: Path) -> list[str]:
    """The words that the model is found by; GRPO's relatives have their own names."""
    advantage = _settings_of(folder).get("advantage")
    return [*(advantage if tag == "grpo" and advantage else tag for tag in VIEWS[stage].tags)]


def rows_up_to(rows: list[dict], info: RunInfo) -> list[dict]:
    """The rows that led to the folder's weights: up to the best step with --keep_best, else all."""
    return [row for row in rows if "best" not in info or row["step"] <= info["best"]["step"]]


def _training(folder: Path, stage: str, info: RunInfo) -> list[str]:
    parts = []
    if facts(info):
        parts.append("## Training\n\n" + markdown_table(("", ""), facts(info)))
    for name, summary in info.get("data", {}).items():
        texts = "".join(f"- {text}\n" for text in data_lines(summary))
        parts.append(f"## Data: {name}\n\n{texts}")
    picture = folder / "plots" / f"{VIEWS[stage].picture}.png"
    if picture.exists():
        parts.append(f"![{picture.stem}](plots/{picture.name})\n")
    return parts


def _results(stage: str, history: list[dict]) -> str:
    last = {name: value for row in history for name, value in row.items()}
    rows = [
        (f"`{name}`", show(name, last[name]), metric(name).meaning) for name in VIEWS[stage].results if name in last
    ]
    return markdown_table(("metric", "last value", "meaning"), rows)


def _versions(info: RunInfo) -> list[str]:
    said = ", ".join(f"{library} {version}" for library, version in versions(info).items())
    return [f"## Versions\n\n{said}\n"] if said else []


def _settings(folder: Path, stage: str) -> list[str]:
    defaults = {setting.name: setting.default for setting in fields(TRAINING[stage])}
    given = {name: value for name, value in _settings_of(folder).items() if value != defaults.get(name)}
    if not given:
        return []
    rows = [(f"`{name}`", str(without_passwords(value))) for name, value in given.items()]
    return [
        "## Settings\n\n" + markdown_table(("setting", "value"), rows),
        "The others have their defaults; `args.yaml` has all of them.\n",
    ]


def _settings_of(folder: Path) -> dict:
    path = folder / "args.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
