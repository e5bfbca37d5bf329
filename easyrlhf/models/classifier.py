"""Reward models saved as sequence classifiers (`score.weight` beside a backbone), as TRL and the hub have them."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from easyrlhf.errors import InputError
from easyrlhf.models.load import damaged_file, disable_dropout, evaluating, hidden_states, load_config

SUFFIX = "ForSequenceClassification"
WEIGHT, BIAS = "score.weight", "score.bias"


def is_classifier(path: str, *, trust_remote_code: bool = False) -> bool:
    """Whether a folder or hub id holds a sequence classifier rather than a causal language model."""
    names = load_config(path, trust_remote_code=trust_remote_code).architectures or []
    return any(name.endswith(SUFFIX) for name in names)


def check_classifier(path: str, *, trust_remote_code: bool = False) -> None:
    """Raise InputError unless a sequence classifier gives one score, by one linear unit; reads no weights.

    The shapes of a hub id's head are seen only when it is loaded.
    """
    config = load_config(path, trust_remote_code=trust_remote_code)
    if config.num_labels != 1:
        raise InputError(
            f"{path}: its head gives {config.num_labels} numbers (num_labels in config.json); a reward model gives "
            "one score: use a classifier trained with num_labels 1"
        )
    if not Path(path).is_dir():
        return
    shapes = head_shapes(Path(path))
    expected = {WEIGHT: (1, config.get_text_config().hidden_size), BIAS: (1,)}
    if wrong := [name for name, shape in shapes.items() if expected.get(name) != shape]:
        raise InputError(
            f"{path}: holds {', '.join(f'{name} {list(shapes[name])}' for name in wrong)}; a classifier that can be "
            f"read here has the head {WEIGHT} {list(expected[WEIGHT])} alone, with or without {BIAS} [1]"
        )
    if WEIGHT not in shapes:
        raise InputError(
            f"{path}: has no {WEIGHT} in its .safetensors files, so its head would be random; save the model again"
        )


def head_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name → shape of the tensors that belong to no backbone: score.*, classifier.* and the like.

    Raises InputError for files that cannot be read.
    """
    shapes = {}
    for file in sorted(folder.glob("model*.safetensors")):
        try:
            with safe_open(file, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118
                    if name.startswith(("score.", "classifier.", "classification_head.")):
                        shapes[name] = tuple(tensors.get_slice(name).get_shape())
        except (OSError, SafetensorError) as error:
            raise InputError(f"{file}: not a readable safetensors file ({error}); save the model again") from error
    return shapes


def load_classifier(
    path: str,
    tokenizer,
    *,
    dtype: torch.dtype,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, nn.Linear]:
    """A sequence classifier, whose backbone is used, and its head in float32. Dropout is off.

    Raises InputError when a weight is missing, misshaped or left over, or when the head is not one linear unit on the
    last token's hidden state.
    """
    try:
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            path,
            dtype=dtype,
            attn_implementation=attn_implementation,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{damaged_file(path) or path}: the model cannot be loaded: {str(error).strip()}") from error
    for what in ("missing", "unexpected"):
        if names := sorted(set(loading[f"{what}_keys"]) - {BIAS}):
            raise InputError(
                f"{path}: {what} weights {', '.join(names[:3])} ({len(names)} in all) for a {type(model).__name__}; "
                "restore the folder, or save the model again"
            )
    check_score(model, path)
    bias = read_bias(Path(path))
    head = nn.Linear(model.score.in_features, 1, dtype=torch.float32)
    head.load_state_dict({"weight": model.score.weight.detach().float(), "bias": bias})
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    disable_dropout(model)
    return model, head


def read_bias(folder: Path) -> torch.Tensor:
    """score.bias [1], which transformers passes over; 0 where there is none."""
    for file in sorted(folder.glob("model*.safetensors")) if folder.is_dir() else []:
        with safe_open(file, framework="pt") as tensors:
            if BIAS in tensors.keys():  # noqa: SIM118
                return tensors.get_tensor(BIAS).float()
    return torch.zeros(1)


@torch.no_grad()
def check_score(model: PreTrainedModel, path: str) -> None:
    """Raise InputError unless the model's logit is `score` of the last token's hidden state."""
    score = getattr(model, "score", None)
    fitting = isinstance(score, nn.Linear) and score.out_features == 1 and score.bias is None
    if fitting:
        ids = torch.tensor([[i for i in range(5) if i != model.config.get_text_config().pad_token_id][:4]])
        with evaluating(model):
            ours = score(hidden_states(model, ids)[:, -1]).float()
            theirs = model(input_ids=ids, use_cache=False).logits.float()
        fitting = torch.allclose(ours, theirs, rtol=1e-2, atol=1e-4)
    if not fitting:
        raise InputError(
            f"{path}: {type(model).__name__} does not read its score off the last token by one linear unit, score; "
            "use a reward model on a causal language model, such as those of rm_train and TRL"
        )
