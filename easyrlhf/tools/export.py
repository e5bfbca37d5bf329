"""easyrlhf export: a reward model with a value head as AutoModelForSequenceClassification, proven to score alike."""

import importlib.metadata
import os
import shutil
from pathlib import Path

import torch
import yaml
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from easyrlhf.config import ExportConfig
from easyrlhf.data.batches import pad_right
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokenizer import load_tokenizer, tokenizer_fingerprint
from easyrlhf.engine.run import make_folder, read_stage, write_stage
from easyrlhf.errors import InputError, RunError
from easyrlhf.models.classifier import is_classifier, load_classifier
from easyrlhf.models.folder import check_probes, load_scalar_model, probe, probe_ids
from easyrlhf.models.load import load_config
from easyrlhf.models.value_head import ScalarModel, check_head_file

OFFSET = "score_offset"  # key of config.json
TOLERANCE = 1e-4
CARD = """\
# {name}

A reward model for `AutoModelForSequenceClassification`: one label, the logit is the score of the whole conversation.
Exported by easyrlhf {version} from `{parent}`.

```python
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = AutoModelForSequenceClassification.from_pretrained("{folder}")
messages = [
    {{"role": "user", "content": "Hello!"}},
    {{"role": "assistant", "content": "Hello, how can I help?"}},
]
ids = tokenizer.apply_chat_template(messages, return_dict=False)
end = max(i for i, token in enumerate(ids) if token == tokenizer.eos_token_id)
with torch.no_grad():
    print(model(torch.tensor([ids[: end + 1]])).logits.item())
```

- The score belongs to the end-of-turn token, `{eos}`. Cut off what a chat template writes after it (ChatML: a line
  break), as above: the model reads its score at the last token that is no padding.
- Batches are padded with `{pad}` (`pad_token_id` {pad_id}), best on the right.
{shifted}"""
SHIFTED = """\
- The head of the original has the bias {offset:+.6f}, for which this form has no place: scores are those of the
  original minus this constant (`{key}` in config.json). Comparisons of answers are the same.
"""


def export_reward_model(config: ExportConfig) -> Path:
    """Write `reward_model` as a sequence classifier into `output_dir`, proven on the two probe texts.

    Returns the folder. Raises InputError for a folder that is no reward model, a family without that form, or an
    output folder that is not empty; RunError when the written folder scores otherwise.
    """
    folder = Path(config.output_dir)
    check_folders(config, folder)
    tokenizer = load_tokenizer(config.reward_model, trust_remote_code=config.trust_remote_code)
    renderer = Renderer(tokenizer)
    trusted = {"trust_remote_code": config.trust_remote_code}
    stored = load_config(config.reward_model, **trusted).dtype or torch.float32
    model = load_scalar_model(config.reward_model, tokenizer, dtype=stored, **trusted).eval()
    offset = model.head.bias.item()
    make_folder(folder)
    draft = folder / ".export"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        save(as_classifier(model, offset, config.reward_model), tokenizer, draft)
        del model
        probes = prove(config, draft, renderer, offset)
        move(draft, folder)
    except OSError as error:
        raise RunError(f"{folder}: the model could not be written: {error}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    write_facts(config, folder, renderer, offset, probes)
    print(f"{folder}: AutoModelForSequenceClassification, num_labels 1; two probe texts score as {config.reward_model}")
    if offset:
        print(f"scores are those of the original minus {offset:+.6f}, the bias of its head ({OFFSET} in config.json)")
    return folder


def check_folders(config: ExportConfig, folder: Path) -> None:
    """Raise InputError unless there is a finished reward model with a value head, and room for the result."""
    source, stage = config.reward_model, read_stage(config.reward_model)
    if is_classifier(source, trust_remote_code=config.trust_remote_code):
        raise InputError(f"--reward_model {source}: is a sequence classifier already; there is nothing to export")
    hidden_size = load_config(source, trust_remote_code=config.trust_remote_code).get_text_config().hidden_size
    try:
        check_head_file(source, hidden_size)
    except InputError as error:
        raise InputError(f"--reward_model {error}") from error
    if stage and stage["status"] != "complete" and not config.allow_incomplete:
        raise InputError(
            f"--reward_model {source}: its {stage['stage']} run is not complete (status {stage['status']}). Run the "
            f"same {stage['stage']} command again to finish it, or pass --allow_incomplete"
        )
    if folder.resolve() == Path(source).resolve():
        raise InputError(f"--output_dir {folder}: is also --reward_model; give another folder")
    if folder.exists() and any(folder.iterdir()) and not config.overwrite:
        raise InputError(f"--output_dir {folder}: is not empty; give another folder, or --overwrite to write into it")


def as_classifier(model: ScalarModel, offset: float, source: str) -> PreTrainedModel:
    """The sequence classifier of the model's family around the same backbone; score.weight is the head's, float32.

    Raises InputError when the family has none, or one that reads its score otherwise.
    """
    settings = model.lm.config
    settings.num_labels = 1
    setattr(settings, OFFSET, offset)
    try:
        with torch.device("meta"):
            classifier = AutoModelForSequenceClassification.from_config(settings)
    except ValueError as error:
        raise InputError(
            f"--reward_model {source}: transformers has no sequence classifier of the kind {settings.model_type}"
        ) from error
    name, score = classifier.base_model_prefix, getattr(classifier, "score", None)
    same = type(getattr(classifier, name, None)) is type(getattr(model.lm, name, None))
    if not (same and isinstance(score, nn.Linear) and score.bias is None):
        raise InputError(
            f"--reward_model {source}: {type(classifier).__name__} does not read its score off the last token by one "
            "linear unit without bias, so the head does not fit into it"
        )
    setattr(classifier, name, getattr(model.lm, name))
    classifier.score.weight = nn.Parameter(model.head.weight.detach())
    return classifier


def save(classifier: PreTrainedModel, tokenizer, folder: Path) -> None:
    """Write a classifier with its tokenizer."""
    if classifier.score.weight.device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # transformers imports DeepSpeed to save, which warns else
    classifier.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def prove(config: ExportConfig, folder: Path, renderer: Renderer, offset: float) -> list[dict]:
    """Read both folders in float32 and compare the probe texts' scores, by transformers alone and by this package.

    returns the exported model's probes, for stage.json
    Raises RunError when a score differs by more than the offset.
    """
    how = {"dtype": torch.float32, "trust_remote_code": config.trust_remote_code}
    model = load_scalar_model(config.reward_model, renderer.tokenizer, **how).eval()
    stage = read_stage(config.reward_model)
    saved_in = getattr(torch, stage.get("precision", "float32"))
    check_probes(model, stage.get("probes", []), config.reward_model, saved_in)
    wanted = [{**found, "score": found["score"] - offset} for found in probe(model, probe_ids(renderer))]
    del model
    theirs = AutoModelForSequenceClassification.from_pretrained(folder, **how).eval()
    ids = [entry["input_ids"] for entry in wanted]
    mask = pad_right([[1] * len(row) for row in ids])
    logits = theirs(input_ids=pad_right(ids, renderer.pad_id), attention_mask=mask, use_cache=False).logits
    del theirs
    found = probe(ScalarModel(*load_classifier(str(folder), renderer.tokenizer, **how)), ids)
    for entry, logit, again in zip(wanted, logits.squeeze(-1).tolist(), found, strict=True):
        limit = TOLERANCE * max(1.0, abs(entry["score"]))
        if not max(abs(logit - entry["score"]), abs(again["score"] - entry["score"])) <= limit:  # nan fails too
            raise RunError(
                f"the exported model is not the same: it scores a probe text {logit:.6f}, but {config.reward_model} "
                f"without its bias scores it {entry['score']:.6f}. Nothing was written"
            )
    return wanted


def move(draft: Path, folder: Path) -> None:
    """Move the files into place, and remove the weights that were there."""
    for old in (*folder.glob("model*.safetensors"), *folder.glob("model.safetensors.index.json")):
        old.unlink()
    for path in sorted(draft.iterdir()):
        os.replace(path, folder / path.name)


def write_facts(config: ExportConfig, folder: Path, renderer: Renderer, offset: float, probes: list[dict]) -> None:
    """stage.json and the model card."""
    parent, tokenizer = read_stage(config.reward_model), renderer.tokenizer
    version = importlib.metadata.version("easyrlhf")
    write_stage(
        folder,
        {
            "status": "complete",
            "easyrlhf_version": version,
            "stage": "export",
            "parents": {"model": config.reward_model},
            **{name: parent[name] for name in ("base", "max_length") if name in parent},
            **tokenizer_fingerprint(tokenizer),
            "special_tokens": {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")},
            OFFSET: offset,
            "probes": probes,
        },
    )
    head = {"library_name": "transformers", "pipeline_tag": "text-classification", "tags": ["easyrlhf", "reward-model"]}
    card = CARD.format(
        name=folder.name,
        version=version,
        parent=config.reward_model,
        folder=folder.as_posix(),
        eos=tokenizer.eos_token,
        pad=tokenizer.pad_token,
        pad_id=tokenizer.pad_token_id,
        shifted=SHIFTED.format(offset=offset, key=OFFSET) if offset else "",
    )
    text = f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n{card}"
    (folder / "README.md").write_text(text, encoding="utf-8")
