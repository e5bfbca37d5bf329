"""README.md of a stage folder: its model card, with the front matter that the hub reads."""

from pathlib import Path

import yaml

from easyrlhf.report.conclusion import concluded, examined_by
from easyrlhf.report.info import RunInfo, data_lines, facts, versions
from easyrlhf.report.log import METRICS_FILE, read_rows
from easyrlhf.report.metrics import ALIGN_TITLES, metric, show

CARD_FILE = "README.md"
TAGS = {
    "sft": ("sft", "text-generation"),
    "rm": ("reward-model",),
    "ppo": ("ppo", "rlhf", "text-generation"),
    "grpo": ("grpo", "rlhf", "text-generation"),
}
RESULTS = {
    "sft": ("loss", "eval/loss", "eval/perplexity"),
    "rm": (
        "rewards/accuracies",
        "eval/rewards/accuracies",
        "eval/length_baseline_accuracy",
        "eval/rewards/margins",
        "eval/loss",
    ),
    "ppo": (
        "objective/scores",
        "objective/kl",
        "length/completion_mean",
        "health/eos_rate",
        "eval/scores",
        "eval/kl",
    ),
}
RESULTS["grpo"] = RESULTS["ppo"]
PICTURES = {"sft": "loss", "rm": "accuracy", "ppo": "reward_kl", "grpo": "reward_kl"}
WHAT = {
    "sft": "A language model fine-tuned on demonstrations; the loss counted assistant tokens only.",
    "rm": "A reward model: a language model with a scalar head, trained on pairs of a chosen and a "
    "rejected answer with the Bradley-Terry loss.",
    "ppo": "A policy trained with PPO against a reward; a KL penalty held it near its reference. "
    "`value_model/` holds the value model, which only further training needs.",
    "grpo": "A policy trained with GRPO or a relative: its answers to a prompt were scored and compared with one "
    "another.",
}
for stage, title in ALIGN_TITLES.items():
    TAGS[stage] = (stage, "rlhf", "text-generation")
    PICTURES[stage] = "loss"
    RESULTS[stage] = ("loss", "eval/loss", "rewards/margins", "eval/rewards/accuracies", "eval/rewards/margins")
    WHAT[stage] = f"A policy aligned with {title} on people's preferences, without a reward model."
LOAD_POLICY = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = AutoModelForCausalLM.from_pretrained("{folder}")
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

tokenizer = AutoTokenizer.from_pretrained("{folder}")
backbone = AutoModel.from_pretrained("{folder}")
head = load_file("{folder}/value_head.safetensors")
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


def write_model_card(folder: Path, *, stage: str, info: RunInfo) -> Path:
    """Write folder/README.md from its metrics.jsonl, args.yaml and plots; returns its path.

    info  what stage.json holds
    """
    folder = Path(folder)
    history = rows_up_to(read_rows(folder / METRICS_FILE), info)
    said = concluded(stage, history, examined_by(stage, folder))
    load = LOAD_REWARD if stage == "rm" else LOAD_POLICY
    parts = [
        _front_matter(stage, info),
        f"# {folder.name}\n\n{WHAT[stage]}\n\n{said.sentence} Curves, samples and verdicts are in `report.html`.\n",
        *_training(folder, stage, info),
        "## Results\n\n" + _results(stage, history),
        "## How to load\n\n" + load.format(folder=folder.as_posix()),
        *_settings(folder),
        *_versions(info),
    ]
    path = folder / CARD_FILE
    path.write_text("\n".join(parts), encoding="utf-8", errors="replace")
    return path


def rows_up_to(rows: list[dict], info: RunInfo) -> list[dict]:
    """The rows that led to the folder's weights: up to the best step with --keep_best, else all."""
    return [row for row in rows if "best" not in info or row["step"] <= info["best"]["step"]]


def _front_matter(stage: str, info: RunInfo) -> str:
    head = {"library_name": "transformers", "tags": ["easyrlhf", *TAGS[stage]]}
    # a local folder is no hub id, and the hub refuses a card that names one
    if "base" in info and not Path(info["base"]).exists():
        head["base_model"] = info["base"]
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\n"


def _training(folder: Path, stage: str, info: RunInfo) -> list[str]:
    parts = []
    if facts(info):
        parts.append("## Training\n\n" + _table(("", ""), facts(info)))
    for name, summary in info.get("data", {}).items():
        texts = "".join(f"- {text}\n" for text in data_lines(summary))
        parts.append(f"## Data: {name}\n\n{texts}")
    picture = folder / "plots" / f"{PICTURES[stage]}.png"
    if picture.exists():
        parts.append(f"![{PICTURES[stage]}](plots/{picture.name})\n")
    return parts


def _results(stage: str, history: list[dict]) -> str:
    last = {name: value for row in history for name, value in row.items()}
    rows = [(f"`{name}`", show(name, last[name]), metric(name).meaning) for name in RESULTS[stage] if name in last]
    return _table(("metric", "last value", "meaning"), rows)


def _versions(info: RunInfo) -> list[str]:
    said = ", ".join(f"{library} {version}" for library, version in versions(info).items())
    return [f"## Versions\n\n{said}\n"] if said else []


def _settings(folder: Path) -> list[str]:
    path = folder / "args.yaml"
    if not path.exists():
        return []
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    rows = [(f"`{name}`", "" if value is None else str(value)) for name, value in settings.items()]
    return ["## Settings\n\n" + _table(("setting", "value"), rows)]


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "".join("| " + " | ".join(_cell(cell) for cell in cells) + " |\n" for cells in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
