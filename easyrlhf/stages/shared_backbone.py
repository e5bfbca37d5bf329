"""`--share_backbone`: policy, reference, reward and value model as adapters of one language model."""

from pathlib import Path

from easyrlhf.config import OnlineConfig
from easyrlhf.data.render import Renderer
from easyrlhf.engine.micro_batches import Passes
from easyrlhf.errors import InputError
from easyrlhf.models.adapters import CONFIG_FILE, read_adapter_config
from easyrlhf.models.four_bit import dequantise, quantise
from easyrlhf.models.load import load_causal_lm
from easyrlhf.models.parents import ADAPTER, BASE, base_of, changed_files, contents_of, recorded_base, same_contents
from easyrlhf.models.prefix_sharing import sharing_of
from easyrlhf.models.shared_backbone import POLICY, REWARD, VALUE, AdapterView, SharedBackbone, standalone
from easyrlhf.models.value_head import ScalarModel, load_head, new_head
from easyrlhf.online.state import Models
from easyrlhf.run.manifest import read_stage
from easyrlhf.run.run import Run
from easyrlhf.stages.models import how_to_load, load_trained_lm


def check_sharing(config: OnlineConfig, value_model: str | None) -> None:
    """Raise InputError unless reward and value model are adapters of the policy's own starting model, or of a copy."""
    for flag, folder in (("--reward_model", config.reward_model), ("--value_model", value_model)):
        if folder:
            check_base(flag, folder, config.model)
            check_bits(flag, folder, config.load_in_4bit)


def check_base(flag: str, folder: str, policy: str) -> None:
    """Raise InputError unless a scalar model's folder holds an adapter that was trained on this policy."""
    adapter = Path(folder).expanduser() / ADAPTER
    if not (adapter / CONFIG_FILE).exists():
        raise InputError(
            f"{flag} {folder}: has no {ADAPTER}/, so it cannot share the policy's backbone; train it with rm_train "
            f"--lora_r 16 --model {policy}, or leave --share_backbone out"
        )
    known, ours = recorded_base(adapter), contents_of(policy)
    if known is None:  # of an older run, or of another program
        try:
            known = contents_of(base_of(str(adapter)))
        except InputError as error:
            raise InputError(
                f"{flag} {folder}: what it was trained from cannot be compared with --model {policy}, so the two "
                f"cannot share a backbone. {error}; or leave --share_backbone out"
            ) from error
    if same_contents(known, ours):
        return
    parent = read_stage(folder).get("parents", {}).get("model") or read_adapter_config(adapter)[BASE]
    why = f" ({changed_files(known, ours)})" if known and ours else ""
    raise InputError(
        f"{flag} {folder}: was trained from {parent}, not from --model {policy}{why}, so the two cannot share a "
        f"backbone; give --model {parent}, or leave --share_backbone out"
    )


def check_bits(flag: str, folder: str, four: bool) -> None:
    """Raise InputError unless an adapter was trained on a base of as many bits as it is to be put on."""
    if bool(read_stage(folder).get("load_in_4bit")) != four:
        other = "a base in its own precision" if four else "a base in 4 bits"
        way = "leave --load_in_4bit out" if four else "give --load_in_4bit"
        raise InputError(
            f"{flag} {folder}: its adapter was trained on {other}, and would score otherwise on this one; {way}, or "
            "leave --share_backbone out"
        )


def load_shared_backbone(
    run: Run, renderer: Renderer, value_model: str | None, *, judged: bool = True
) -> tuple[Models, ScalarModel | None]:
    """Policy and value model on one backbone, whose adapter-free form is the reference, and the reward model.

    judged  whether there will be rewards to ask for, so that the reward model is needed
    Whoever takes the reward model must check its probes: they prove that base, adapter and head belong together.
    """
    config = run.config
    backbone = SharedBackbone(load_trained_lm(run, renderer, config.model))
    policy, reward, value = backbone.view(POLICY, trained=True), None, None
    if config.reward_model and judged:
        reward = adapter_with_head(backbone, REWARD, config.reward_model, trained=False)
        reward.head.requires_grad_(False)
    if config.learns_values and value_model:
        value = adapter_with_head(backbone, VALUE, value_model, trained=True)
    elif config.learns_values:
        backbone.add_like(VALUE, POLICY)
        view = backbone.view(VALUE, trained=True)
        value = ScalarModel(view, new_head(view, zero=True))
    passes = Passes(run.micro_batch_tokens, sharing_of(policy, config.share_prefix))
    return Models(policy, None, value, passes), reward


def adapter_with_head(backbone: SharedBackbone, name: str, folder: str, *, trained: bool) -> ScalarModel:
    """The scalar model of a folder's adapter and head on the shared backbone."""
    backbone.load(Path(folder) / ADAPTER, name)
    view = backbone.view(name, trained=trained)
    return ScalarModel(view, load_head(folder, view))


def apart(run: Run, renderer: Renderer, lm: AdapterView):
    """A part of the shared backbone as a LoRA model of its own, to be saved."""
    base = load_causal_lm(run.config.model, renderer.tokenizer, **how_to_load(run)).to(run.device)
    if run.config.load_in_4bit:
        quantise(base, run.device)
        dequantise(base.to("cpu"))
    return standalone(lm, base)
