"""The models of an online stage: loaded as its settings say, and written at its end."""

from torch import nn

from easyrlhf.data.render import Renderer
from easyrlhf.engine.micro_batches import Passes
from easyrlhf.models.parts import leave_out_spare
from easyrlhf.models.prefix_sharing import sharing_of
from easyrlhf.models.value_head import ScalarModel, load_head, new_head
from easyrlhf.online.state import Models, Online
from easyrlhf.run.run import Run
from easyrlhf.stages.models import (
    load_frozen_lm,
    load_trained_lm,
    save_part_or_whole,
    save_scalar_model,
    saved,
    spread_first,
)
from easyrlhf.stages.shared_backbone import apart, load_shared_backbone


def load_models(run: Run, renderer: Renderer, value_model: str | None) -> tuple[Models, ScalarModel | None]:
    """Policy, reference and value model; with a shared backbone the reward model as well.

    value_model  folder where the value model starts; None: the policy's own start with a new head
    """
    config = run.config
    if config.share_backbone:
        models, reward_model = load_shared_backbone(run, renderer, value_model)
        leave_out_spare(models.policy, renderer.tokenizer)
        return models, reward_model
    policy = load_trained_lm(run, renderer, config.model)
    leave_out_spare(policy, renderer.tokenizer)
    policy = spread_first(run, policy, config.model)
    value = load_value_model(run, renderer, value_model) if config.learns_values else None
    value = value and spread_first(run, value, value_model or config.model)
    reference = load_reference(run, renderer)
    if reference is not None:
        leave_out_spare(reference, renderer.tokenizer)
    passes = Passes(run.micro_batch_tokens, sharing_of(policy, config.sharing))
    return Models(policy, reference, value, passes), None


def load_learners(run: Run, renderer: Renderer, value_model: str | None) -> dict[str, nn.Module]:
    """The models that a run trains and nothing else, by the names of their engines, as they start.

    value_model  folder where the value model starts; None: the policy's own start
    """
    config = run.config
    if config.share_backbone:
        models, _ = load_shared_backbone(run, renderer, value_model, judged=False)
        return {"policy": models.policy} | ({} if models.value is None else {"value": models.value})
    policy = load_trained_lm(run, renderer, config.model)
    value = {"value": load_value_model(run, renderer, value_model)} if config.learns_values else {}
    return {"policy": policy} | value


def load_reference(run: Run, renderer: Renderer) -> nn.Module | None:
    """The frozen reference; None when it is the policy without its adapter, or never asked."""
    config = run.config
    return load_frozen_lm(run, renderer, config.ref_model) if config.holds_reference else None


def load_value_model(run: Run, renderer: Renderer, folder: str | None) -> ScalarModel:
    """The value model: from its folder, or the policy's backbone with a zero head."""
    lm = load_trained_lm(run, renderer, folder or run.config.model)
    return ScalarModel(lm, load_head(folder, lm) if folder else new_head(lm, zero=True))


def save_models(run: Run, online: Online, renderer: Renderer) -> None:
    """Write the policy at the root and the value model, if any, in value_model/."""
    saved(online.engines["policy"], lambda policy: save_policy(run, renderer, policy))
    if online.models.value is not None:
        saved(online.engines["value"], lambda value: save_value_model(run, renderer, value))


def save_policy(run: Run, renderer: Renderer, policy: nn.Module) -> None:
    """Write the policy."""
    save_part_or_whole(run.folder, apart(run, renderer, policy) if run.config.share_backbone else policy, renderer)


def save_value_model(run: Run, renderer: Renderer, value: ScalarModel) -> None:
    """Write the value model and prove that its folder says what it says."""
    folder = run.folder / "value_model"
    if run.config.share_backbone:
        value.lm = apart(run, renderer, value.lm)
        value.head.to(value.lm.device)
    save_scalar_model(run, folder, value, renderer)
