"""What an online stage is made of, and what its loop must remember."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import Tensor, nn

from easyrlhf.data.render import Renderer
from easyrlhf.engine.engine import Engine
from easyrlhf.engine.micro_batches import Passes
from easyrlhf.episodes.play import Player
from easyrlhf.models.logprobs import token_logprobs
from easyrlhf.models.prefix_sharing import PromptGroup
from easyrlhf.models.value_head import ScalarModel
from easyrlhf.online.method import Method
from easyrlhf.online.rollout import Rollout
from easyrlhf.rewards.combined import Rewards
from easyrlhf.rollout.sharded import ShardedSampler
from easyrlhf.rollout.vllm_sampler import VLLMSampler

MOST_DROPPED = 0.1  # of a rollout's episodes


@dataclass(frozen=True)
class Models:
    """The models of online learning; the rewards hold the reward model.

    policy     trained
    reference  frozen; None when it is the policy with its adapter off, or never asked
    value      trained; None for methods without one
    passes     how completions go through each of them
    """

    policy: nn.Module
    reference: nn.Module | None
    value: ScalarModel | None
    passes: Passes

    @property
    def trained(self) -> list[nn.Module]:
        """The models that learn."""
        return [self.policy] if self.value is None else [self.policy, self.value]

    @contextmanager
    def as_reference(self) -> Iterator[nn.Module]:
        """The reference to ask: the frozen one, or the policy with its adapter off meanwhile."""
        if self.reference is not None:
            yield self.reference
        else:
            with self.policy.disable_adapter():
                yield self.policy

    def ref_logprobs(self, groups: list[PromptGroup], temperature: float) -> Tensor:
        """token_logprobs under the reference.  [n]"""
        with self.as_reference() as reference:
            return token_logprobs(reference, groups, self.passes.share, temperature)


@dataclass(frozen=True)
class Online:
    """What an online stage plugs into the loop.

    method  how advantages are estimated
    update  (rollout, step) → metrics of the update
    player  plays the environment; None without one
    most_dropped  share of a rollout's episodes in which the environment may fail, where failures are dropped
    """

    models: Models
    engines: dict[str, Engine]
    sampler: ShardedSampler | VLLMSampler
    rewards: Rewards
    renderer: Renderer
    method: Method
    update: Callable[[Rollout, int], dict[str, float]]
    player: Player | None = None
    most_dropped: float = MOST_DROPPED


@dataclass
class LoopState:
    """What the loop must remember beside weights and optimisers.

    kl_coef     the present price of a nat of distance from the reference
    drawn       completions sampled for training so far
    unfinished  metrics of the run's step where it was not looked at to the end: evaluation or samples failed
    repeated    groups so far that were of prompts asked once more, in the place of new ones
    failed      numbers of the prompts that wait to be asked once more, the first to come first
    """

    kl_coef: float
    drawn: int = 0
    unfinished: dict[str, float] | None = None
    repeated: int = 0
    failed: list[int] = field(default_factory=list)
