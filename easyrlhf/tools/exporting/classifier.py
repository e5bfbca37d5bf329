"""easyrlhf export --to sequence_classification: a reward model with a value head, proven to score alike."""

import os
from pathlib import Path

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from easyrlhf.config import ExportConfig
from easyrlhf.data.batches import pad_right
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.errors import InputError, RunError
from easyrlhf.models.folder import check_probes, load_scalar_model, probe, probe_ids
from easyrlhf.models.load import load_config
from easyrlhf.models.sequence_classifier import is_classifier, load_classifier
from easyrlhf.models.value_head import ScalarModel, check_head_file
from easyrlhf.report.metadata import TASKS
from easyrlhf.run.manifest import read_stage, write_stage
from easyrlhf.tools.exporting.exported import drafted, facts_of, stored_dtype, write_card

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


def export_classifier(config: ExportConfig, folder: Path, source: str) -> None:
    """Write a reward model as a sequence classifier into the folder, proven on the two probe texts.

    source  what the model is known by
    Raises InputError for a model that is no reward model, or a family without that form; RunError when the written
    folder scores otherwise.
    """
    check_exported_head(config, source)
    tokenizer = load_tokenizer(config.model, trust_remote_code=config.trust_remote_code)
    renderer = Renderer(tokenizer)
    trusted = {"trust_remote_code": config.trust_remote_code}
    model = load_scalar_model(config.model, tokenizer, dtype=stored_dtype(config), **trusted).eval()
    offset = model.head.bias.item()
    with drafted(folder) as draft:
        save_classifier(as_classifier(model, offset, source), tokenizer, draft, config.max_shard_size)
        del model
        probes = prove_classifier(config, draft, renderer, offset, source)
    write_facts(config, folder, renderer, offset, probes, source)
    print(f"{folder}: AutoModelForSequenceClassification, num_labels 1; two probe texts score as {source}")
    if offset:
        print(f"scores are those of the original minus {offset:+.6f}, the bias of its head ({OFFSET} in config.json)")


def check_exported_head(config: ExportConfig, source: str) -> None:
    """Raise InputError unless the model is a reward model with a value head."""
    if is_classifier(config.model, trust_remote_code=config.trust_remote_code):
        raise InputError(f"--model {source}: is a sequence classifier already; there is nothing to export")
    hidden_size = load_config(config.model, trust_remote_code=config.trust_remote_code).get_text_config().hidden_size
    try:
        check_head_file(config.model, hidden_size)
    except InputError as error:
        raise InputError(f"--model {error}") from error


def as_classifier(model: ScalarModel, offset: float, source: str) -> PreTrainedModel:
    """The sequence classifier of the model's family around the same backbone; score.weight is the head's, float32.

    Raises InputError when the family has none, or one that reads its score otherwise.
    """
    settings = model.lm.config
    settings.num_labels = 1
    setattr(settings, OFFSET, offset)
    try:
        with init_empty_weights(include_buffers=True):
            classifier = AutoModelForSequenceClassification.from_config(settings)
    except ValueError as error:
        raise InputError(
            f"--model {source}: transformers has no sequence classifier of the kind {settings.model_type}"
        ) from error
    name, score = classifier.base_model_prefix, getattr(classifier, "score", None)
    same = type(getattr(classifier, name, None)) is type(getattr(model.lm, name, None))
    if not (same and isinstance(score, nn.Linear) and score.bias is None):
        raise InputError(
            f"--model {source}: {type(classifier).__name__} does not read its score off the last token by one "
            "linear unit without bias, so the head does not fit into it"
        )
    setattr(classifier, name, getattr(model.lm, name))
    classifier.score.weight = nn.Parameter(model.head.weight.detach())
    return classifier


def save_classifier(classifier: PreTrainedModel, tokenizer, folder: Path, max_shard_size: str) -> None:
    """Write a classifier with its tokenizer."""
    if classifier.score.weight.device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # transformers imports DeepSpeed to save, which warns else
    classifier.save_pretrained(folder, max_shard_size=max_shard_size)
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def prove_classifier(config: ExportConfig, folder: Path, renderer: Renderer, offset: float, source: str) -> list[dict]:
    """Read both folders in float32 and compare the probe texts' scores, by transformers alone and by this package.

    returns the exported model's probes, for stage.json
    Raises RunError when a score differs by more than the offset.
    """
    how = {"dtype": torch.float32, "trust_remote_code": config.trust_remote_code}
    model = load_scalar_model(config.model, renderer.tokenizer, **how).eval()
    stage = read_stage(config.model)
    saved_in = getattr(torch, stage.get("precision", "float32"))
    check_probes(model, stage.get("probes", []), config.model, saved_in)
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
                f"the exported model is not the same: it scores a probe text {logit:.6f}, but {source} "
                f"without its bias scores it {entry['score']:.6f}. Nothing was written"
            )
    return wanted


def write_facts(
    config: ExportConfig, folder: Path, renderer: Renderer, offset: float, probes: list[dict], source: str
) -> None:
    """stage.json and the model card."""
    tokenizer = renderer.tokenizer
    facts = facts_of(config, tokenizer, source)
    write_stage(folder, facts | {OFFSET: offset, "probes": probes})
    card = CARD.format(
        name=folder.name,
        version=facts["easyrlhf_version"],
        parent=source,
        folder=folder.as_posix(),
        eos=tokenizer.eos_token,
        pad=tokenizer.pad_token,
        pad_id=tokenizer.pad_token_id,
        shifted=SHIFTED.format(offset=offset, key=OFFSET) if offset else "",
    )
    write_card(folder, TASKS["rm"], facts, card)
