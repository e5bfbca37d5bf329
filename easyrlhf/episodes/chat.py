"""A conversation of the policy with an environment, in tokens: those that were sampled stay as they are."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from easyrlhf.data.records import Messages
from easyrlhf.data.render import Renderer
from easyrlhf.episodes.tools import Tools
from easyrlhf.errors import ServiceError


class EpisodeOver(BaseException):
    """No further turn is sampled: one was cut off, or there is no room or no turn left. Nobody has to catch it."""


@dataclass(frozen=True)
class Turn:
    """What the policy said, through the token that ended it.

    logprobs  of each token as it was drawn
    ended     whether it came to an end by itself
    """

    ids: list[int]
    logprobs: list[float]
    ended: bool


@dataclass(frozen=True)
class EpisodeLimits:
    """How long an episode may be.

    turns   that the policy samples
    tokens  after the prompt, the environment's among them
    turn    tokens of one turn
    prompt  tokens before them
    """

    turns: int
    tokens: int
    turn: int
    prompt: int


Ask = Callable[[list[int], int, int], Awaitable[Turn]]  # ids so far, most tokens, number of the turn → the turn


@dataclass
class EpisodeChat:
    """What an episode function talks to: `text = await chat.reply()`, then `chat.say(text)`.

    Ids are only ever appended: decoding and encoding again is not the identity, and would train on tokens that nobody
    sampled.

    prompt      messages before the episode; the last one may still be added to before the first reply
    arguments   what the row tells the chat template
    seed        of this task: the same for all completions of a prompt, which are compared with each other
    messages    turns since the prompt, the environment's among them
    ids, sampled, logprobs  [T]  all tokens after the prompt; sampled is 1 on those of the policy
    turns       that the policy has sampled
    finished    whether the last of them came to its end, and nothing stopped the episode before its time
    rewards     what chat.reward was given, each with the place in ids of the last token that was sampled before
    asking      whether the policy's turn is waited for
    since       time at which it last spoke, or the episode began
    environment  the object that the episode is played with; None for an episode function
    own_seed    of this episode: another one for each completion of a prompt
    place       file and line of its row, where that is known
    parts       of the reward by name, where what is played with says of what it is made
    """

    renderer: Renderer
    ask: Ask
    limits: EpisodeLimits
    prompt: Messages
    arguments: dict[str, Any]
    seed: int
    tools: Tools
    prompt_ids: list[int] | None = None
    messages: Messages = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    sampled: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    turns: int = 0
    finished: bool = False
    rewards: list[tuple[int, float]] = field(default_factory=list)
    waiting: Messages = field(default_factory=list)
    asking: bool = False
    since: float = field(default_factory=time.monotonic)
    environment: Any = None
    own_seed: int = 0
    place: str = ""
    parts: dict[str, float] = field(default_factory=dict)

    async def reply(self) -> str:
        """The policy's next turn, as text. Raises EpisodeOver where there is none."""
        if self.asking:
            raise RuntimeError("chat.reply was called before the last call of it had its answer")
        self.open()
        self.finished = False
        room = min(self.limits.tokens - len(self.ids), self.limits.turn)
        if self.turns == self.limits.turns or room < 1:
            raise EpisodeOver
        self.asking = True
        try:
            before = self.prompt_ids + self.ids
            turn = await self.ask(before, room, self.turns)
        finally:
            self.asking, self.since = False, time.monotonic()
        self.append(turn.ids, turn.logprobs, sampled=1)
        self.turns += 1
        self.messages.append(self.tools.parse(turn.ids, before, self.renderer))
        if not turn.ended:
            raise EpisodeOver
        self.finished = True
        return self.messages[-1]["content"]

    def say(self, text: str, role: str = "user", **more: Any) -> None:
        """What the environment says next; the policy reads it with its next turn."""
        if not isinstance(text, str):
            raise TypeError(f"chat.say takes a text, not {type(text).__name__}")
        if not self.turns:
            raise ValueError("chat.say before the first reply: what stands before it is the prompt; use add_to_prompt")
        self.waiting.append({"role": role, "content": text, **more})

    def add_to_prompt(self, text: str) -> None:
        """Put a text behind the last message of the prompt, before anything is sampled."""
        last = self.prompt[-1]
        self.prompt = [*self.prompt[:-1], {**last, "content": f"{last['content']}{text}"}]
        self.prompt_ids = None

    def reward(self, number: float) -> None:
        """Reward what was said so far: the turn that ends there earns it, and the score of the episode is their sum."""
        last = max((place for place, sampled in enumerate(self.sampled) if sampled), default=0)
        self.rewards.append((last, float(number)))

    def open(self) -> None:
        """Write what stands before the next turn, where there is room for it and for a token behind it."""
        if self.prompt_ids is None:
            self.prompt_ids = self.renderer.prompt_ids(self.prompt, self.arguments)
            if len(self.prompt_ids) > self.limits.prompt:
                raise ServiceError(
                    f"a prompt with what the environment and its tools put into it has {len(self.prompt_ids)} tokens, "
                    f"and --max_prompt_length is {self.limits.prompt}; raise it, or say less: {self.prompt[-1]!r}"
                )
        if not self.turns:
            return
        if not self.waiting:
            raise RuntimeError("chat.reply was called twice without chat.say in between")
        between = self.renderer.between(self.waiting, self.arguments, behind=self.ids[-1])
        if len(self.ids) + len(between) + 1 > self.limits.tokens or self.turns == self.limits.turns:
            self.finished = False
            raise EpisodeOver  # the text is left out: rows end with a token that was sampled
        self.append(between, [0.0] * len(between), sampled=0)
        self.messages += self.waiting
        self.waiting = []

    def stand_in(self, prompt: Messages, prompt_ids: list[int]) -> None:
        """Be an answer without a word to a prompt: the row of an episode that has failed before its first turn.

        It has the one token that a row needs, which nobody sampled, so that nothing is learned from it.
        """
        self.prompt, self.prompt_ids, self.messages = prompt, prompt_ids, [{"role": "assistant", "content": ""}]
        self.append([self.renderer.end_of_turn_id], [0.0], sampled=0)

    def append(self, ids: list[int], logprobs: list[float], sampled: int) -> None:
        """Put tokens behind those that are there."""
        self.ids += ids
        self.logprobs += logprobs
        self.sampled += [sampled] * len(ids)
