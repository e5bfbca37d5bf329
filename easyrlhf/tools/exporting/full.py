"""easyrlhf export --to full: a model or an adapter as one folder of full weights, proven to be the same model."""

import os
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from easyrlhf.config import ExportConfig
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.errors import InputError, RunError
from easyrlhf.models.folder import probe, probe_ids
from easyrlhf.models.load import load_causal_lm
from easyrlhf.models.parents import base_of
from easyrlhf.models.sequence_classifier import is_classifier
from easyrlhf.models.value_head import HEAD_FILE, ScalarModel, load_head, save_head
from easyrlhf.report.metadata import TASK, TASKS
from easyrlhf.run.manifest import read_stage, write_stage
from easyrlhf.tools.exporting.exported import drafted, facts_of, stored_dtype, write_card

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}  # of log-probabilities, in nats
CARD = """\
# {name}

Full weights of `{parent}`{merged}, written by easyrlhf {version}.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = AutoModelForCausalLM.from_pretrained("{folder}")
```
"""


def export_full(config: ExportConfig, folder: Path, source: str) -> None:
    """Write a causal language model with its value head, if it has one; an adapter is merged into its base model.

    source  what the model is known by
    Raises InputError for a sequence classifier; RunError when the written model is another one.
    """
    if is_classifier(config.model, trust_remote_code=config.trust_remote_code):
        raise InputError(
            f"--model {source}: is a sequence classifier; this form is for language models and for reward models "
            f"with {HEAD_FILE}"
        )
    base = base_of(config.model)
    tokenizer = load_tokenizer(config.model, trust_remote_code=config.trust_remote_code)
    dtype = stored_dtype(config)
    lm = load_causal_lm(config.model, tokenizer, dtype=dtype, trust_remote_code=config.trust_remote_code).eval()
    ids = probe_ids(Renderer(tokenizer))
    facts = facts_of(config, tokenizer, source)
    with drafted(folder) as draft:
        if lm.device.type == "cpu":
            os.environ.setdefault("DS_ACCELERATOR", "cpu")  # transformers imports DeepSpeed to save, which warns else
        lm.save_pretrained(draft, max_shard_size=config.max_shard_size)
        tokenizer.save_pretrained(draft)
        prove_full(lm, draft, ids, dtype, config.trust_remote_code)
        if is_reward_model(config.model):
            head = load_head(config.model, lm)
            save_head(head, draft)
            facts["probes"] = probe(ScalarModel(lm, head), ids)
            facts["precision"] = read_stage(config.model).get("precision", "float32")
    write_stage(folder, facts)
    merged = "" if base == config.model else f", merged into `{base}`"
    card = CARD.format(
        name=folder.name,
        parent=source,
        merged=merged,
        version=facts["easyrlhf_version"],
        folder=folder.as_posix(),
    )
    write_card(folder, TASKS["rm"] if "probes" in facts else TASK, facts, card)
    files = len(list(folder.glob("model*.safetensors")))
    print(f"{folder}: full weights ({files} of .safetensors); two probe texts are as likely as before")


def is_reward_model(path: str) -> bool:
    """Whether a value head lies beside the model."""
    return any((Path(path) / HEAD_FILE).with_suffix(suffix).exists() for suffix in (".safetensors", ".bin"))


@torch.no_grad()
def prove_full(
    lm: PreTrainedModel, folder: Path, ids: list[list[int]], dtype: torch.dtype, trust_remote_code: bool
) -> None:
    """Read the folder back by transformers alone. Raises RunError when a probe text has another likelihood."""
    again = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=trust_remote_code).eval()
    for row in ids:
        logits = [model(input_ids=torch.tensor([row]), use_cache=False).logits for model in (lm, again)]
        ours, theirs = (found.float().log_softmax(-1) for found in logits)
        if not (ours - theirs).abs().max() <= TOLERANCE[dtype]:  # nan fails too
            raise RunError(
                f"the exported model is not the same: log-probabilities of a probe text differ by up to "
                f"{(ours - theirs).abs().max():.6f}. Nothing was written"
            )
