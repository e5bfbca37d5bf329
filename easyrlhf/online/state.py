from collections.abc import Callable
from dataclasses import dataclass

from easyrlhf.data.render import Renderer
from easyrlhf.engine.engine import Engine
from easyrlhf.online.collect import Models, collect
from easyrlhf.online.method import Method
from easyrlhf.online.rollout import Rollout
from easyrlhf.rewards.combined import Rewards
from easyrlhf.rollout.sharded import ShardedSampler
from easyrlhf.rollout.vllm_sampler import VLLMSampler
from easyrlhf.run.run import Run
from easyrlhf.run.timer import Timer


@dataclass(frozen=True)
class Online:
    """What an online stage plugs into the loop.

    method  how advantages are estimated
    update  (rollout, step) → metrics of the update
    """

    models: Models
    engines: dict[str, Engine]
    sampler: ShardedSampler | VLLMSampler
    rewards: Rewards
    renderer: Renderer
    method: Method
    update: Callable[[Rollout, int], dict[str, float]]

    def collect(self, run: Run, rows: list[dict], keys: list[tuple[int, ...]], timer: Timer) -> Rollout:
        """One rollout on these prompt rows, to learn from."""
        return self.collected(run, rows, keys, timer, run.config.kl_measured == "step")

    def look(self, run: Run, rows: list[dict], keys: list[tuple[int, ...]], timer: Timer) -> Rollout:
        """One rollout on these prompt rows, to look at."""
        return self.collected(run, rows, keys, timer, run.config.kl_measured != "never")

    def collected(self, run: Run, rows: list[dict], keys: list, timer: Timer, with_reference: bool) -> Rollout:
        """As collect, with the reference or without."""
        self.rewards.state.global_step = run.step
        how = rows, keys, run.micro_batch_tokens, timer, with_reference
        return collect(self.models, self.sampler, self.rewards, *how)


@dataclass
class LoopState:
    """What the loop must remember beside weights and optimisers.

    kl_coef     the present price of a nat of distance from the reference
    drawn       completions sampled for training so far
    unfinished  metrics of the run's step where it was not looked at to the end: evaluation or samples failed
    """

    kl_coef: float
    drawn: int = 0
    unfinished: dict[str, float] | None = None
