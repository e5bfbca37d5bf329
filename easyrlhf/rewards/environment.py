"""What an environment has scored, as a reward source."""

import math
from dataclasses import dataclass

from torch import Tensor

from easyrlhf.rewards.batch import Row


@dataclass(frozen=True)
class EnvironmentReward:
    """The rewards that episodes ended with; None, which says that it does not apply, where they have none."""

    name: str

    def __call__(self, rows: list[Row], completions: list[list[int]], finished: Tensor) -> list[float | None]:
        """The reward of each episode."""
        rewards = [row["episode"].reward for row in rows]
        return [None if math.isnan(reward) else reward for reward in rewards]

    def parts(self, rows: list[Row]) -> dict[str, list[float | None]]:
        """What the rewards are made of, by name; None where an episode's has no such part."""
        names = sorted({name for row in rows for name in row["episode"].parts})
        return {f"{self.name}/{name}": [row["episode"].parts.get(name) for row in rows] for name in names}
