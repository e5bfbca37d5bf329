"""Reward models saved as sequence classifiers (`score.weight` beside a backbone), as TRL and the hub have them."""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from pathlib import Path

import torch
from accelerate import init_empty_weights
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from easyrlhf.errors import InputError
from easyrlhf.models.adapters import adapter_shapes, is_adapter, is_classifier_adapter, merge_adapter, quietly
from easyrlhf.models.load import disable_dropout, load_config, read_weights
from easyrlhf.models.parents import base_of, parent_folder
from easyrlhf.models.parts import evaluating, hidden_states
from easyrlhf.models.value_head import has_head

SUFFIX = "ForSequenceClassification"
WEIGHT, BIAS, LM_HEAD = "score.weight", "score.bias", "lm_head.weight"


def is_classifier(path: str, *, trust_remote_code: bool = False) -> bool:
    """Whether a folder or hub id holds a sequence classifier rather than a causal language model."""
    if is_classifier_adapter(path):
        return True
    if is_adapter(path) and has_head(path):  # of a run that began with a classifier: the head is the one beside it
        return False
    names = load_config(path, trust_remote_code=trust_remote_code).architectures or []
    return any(name.endswith(SUFFIX) for name in names)


def check_classifier(path: str, *, trust_remote_code: bool = False) -> None:
    """Raise InputError unless a sequence classifier gives one score, by one linear unit; reads no weights.

    The shapes of a hub id's head are seen only when it is loaded.
    """
    config = load_config(path, trust_remote_code=trust_remote_code)
    if is_adapter(path):
        check_adapter_head(path, config.get_text_config().hidden_size)
        return
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


def check_adapter_head(path: str, hidden_size: int) -> None:
    """Raise InputError unless a classifier's adapter brings its head, one linear unit, trained as a whole."""
    shapes = {name: shape for name, shape in adapter_shapes(path).items() if name.endswith(f".{WEIGHT}")}
    if list(shapes.values()) != [(1, hidden_size)]:
        found = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items()) or f"no {WEIGHT}"
        raise InputError(
            f"{path}: an adapter of a sequence classifier with {found}, where a reward model has {WEIGHT} "
            f"[1, {hidden_size}] trained beside the adapter (modules_to_save score); merge it into its classifier with "
            "peft's merge_and_unload and give that folder, or train it again"
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
    how = {"dtype": dtype, "attn_implementation": attn_implementation, "trust_remote_code": trust_remote_code}
    model = read_classifier(path, **how)
    check_score(model, path)
    bias = read_bias(Path(path))
    head = nn.Linear(model.score.in_features, 1, dtype=torch.float32)
    head.load_state_dict({"weight": model.score.weight.detach().float(), "bias": bias})
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    disable_dropout(model)
    return model, head


def read_classifier(path: str, **how) -> PreTrainedModel:
    """The sequence classifier of a folder or hub id as its files have it; an adapter is merged into its base.

    Raises InputError for weights that are missing or left over.
    """
    if not is_adapter(path):
        return read_whole(path, {BIAS}, {BIAS}, **how)
    base, config = base_of(path), load_config(path, trust_remote_code=how["trust_remote_code"])
    check_adapter_head(path, config.get_text_config().hidden_size)
    classifier = read_whole(base, {BIAS, WEIGHT}, {BIAS, LM_HEAD}, num_labels=1, **how)  # its head is the adapter's
    return merge_adapter(classifier, path, name=f"its base model {base}")


def read_whole(path: str, may_miss: set[str], may_have: set[str], **how) -> PreTrainedModel:
    """The sequence classifier of full weights, some of which it may lack or have beside. Raises InputError."""
    try:
        with quietly():  # what is missing is told below, or is in an adapter
            model, loading = AutoModelForSequenceClassification.from_pretrained(path, **how, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise InputError(f"{path}: the model cannot be loaded: {str(error).strip()}") from error
    for what, fine in (("missing", may_miss), ("unexpected", may_have)):
        if names := sorted(set(loading[f"{what}_keys"]) - fine):
            raise InputError(
                f"{path}: {what} weights {', '.join(names[:3])} ({len(names)} in all) for a {type(model).__name__}; "
                "restore the folder, or save the model again"
            )
    return model


def read_backbone(path: str, **how) -> PreTrainedModel:
    """The language model below a reward model's head, of a folder or hub id; `how` as read_weights takes it.

    A classifier has no language-model head: it gets its embeddings as one, which a reward model never asks.
    Raises InputError for weights that are missing or cannot be read.
    """
    if is_classifier(path, trust_remote_code=how["trust_remote_code"]):
        return language_model_around(read_classifier(path, **how), path)
    if is_adapter(path):
        base = base_of(path)
        return merge_adapter(read_backbone(base, **how), path, name=f"its base model {base}")
    return read_weights(path, **how)


def language_model_around(classifier: PreTrainedModel, path: str) -> PreTrainedModel:
    """A causal language model around a classifier's backbone, its head tied to the embeddings.

    Raises InputError when the family has none that fits.
    """
    settings, name = deepcopy(classifier.config), classifier.base_model_prefix
    settings.get_text_config().tie_word_embeddings = settings.tie_word_embeddings = True
    backbone = getattr(classifier, name)
    try:
        with init_empty_weights(include_buffers=True):
            lm = AutoModelForCausalLM.from_config(settings)
    except ValueError as error:
        raise InputError(f"{path}: transformers has no language model of the kind {settings.model_type}") from error
    if type(getattr(lm, name, None)) is type(backbone):
        setattr(lm, name, backbone)
        lm.tie_weights()
    if any(parameter.is_meta for parameter in lm.parameters()):
        raise InputError(
            f"{path}: {type(classifier).__name__} does not fit into {type(lm).__name__} as its backbone; give a reward "
            "model with a value head, such as those of rm_train"
        )
    return lm


def stored_head(path: str) -> nn.Linear:
    """The head of a classifier that check_classifier has passed, or of an adapter of one, in float32.

    Raises InputError when it is in none of its files.
    """
    folder = parent_folder(path)
    files = sorted(folder.glob("*.safetensors")) if folder else []
    found = [weight for file in files if (weight := score_weight(safetensors_of(file))) is not None]
    if not found and folder and (old := folder / "adapter_model.bin").is_file():  # of an adapter, in the older form
        found = [score_weight(torch.load(old, weights_only=True).items())]
    if not found or found[0] is None:
        raise InputError(f"{path}: has no {WEIGHT} in its files; save the model again")
    head = nn.Linear(found[0].shape[1], 1, dtype=torch.float32)
    head.load_state_dict({"weight": found[0].float(), "bias": read_bias(folder)})
    return head


def score_weight(tensors: Iterable[tuple[str, torch.Tensor]]) -> torch.Tensor | None:
    """The head's weight among named tensors, of a classifier or of an adapter."""
    return next((tensor for name, tensor in tensors if name == WEIGHT or name.endswith(f".{WEIGHT}")), None)


def safetensors_of(file: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and tensor of a file, of which those are read that may be a head."""
    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118
            if name.endswith(WEIGHT):
                yield name, tensors.get_tensor(name)


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
        if not theirs.isfinite().all():
            raise InputError(f"{path}: scores four tokens with {theirs.item()}; its weights are damaged, save it again")
        fitting = torch.allclose(ours, theirs, rtol=1e-2, atol=1e-4)
    if not fitting:
        raise InputError(
            f"{path}: {type(model).__name__} does not read its score off the last token by one linear unit, score; "
            "use a reward model on a causal language model, such as those of rm_train and TRL"
        )
