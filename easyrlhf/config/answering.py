"""Settings of the answers that a language model writes: how long they are, how they are drawn, what ends them."""

from dataclasses import dataclass
from typing import ClassVar

from easyrlhf.config.base import DATA, RUN, SAMPLING, Settings, opt
from easyrlhf.config.lists import split_texts
from easyrlhf.errors import SettingError


@dataclass(kw_only=True, frozen=True)
class AnswerLength(Settings):
    """How long prompt and answer may be together."""

    group: ClassVar[str] = DATA
    whose: ClassVar[str] = "the model"

    max_length: int | None = opt(
        None, "Most tokens of prompt and answer together.", low=2, shown="what {cls.whose} was made for"
    )


@dataclass(kw_only=True, frozen=True)
class Sampling(Settings):
    """How the tokens of an answer are drawn."""

    group: ClassVar[str] = SAMPLING

    max_new_tokens: int = opt(128, "Longest answer, in tokens.", low=1)
    temperature: float = opt(1.0, "Softmax temperature; 0 takes the likeliest token, always.", low=0, high=100)
    top_p: float = opt(1.0, "Draw from the likeliest tokens that have this probability together.", above=0, high=1)
    top_k: int = opt(0, "Draw from so many of the likeliest tokens; 0 from all.", low=0)
    repetition_penalty: float = opt(
        1.0,
        "Make tokens that prompt or answer hold already less likely, as transformers does; 1.05 to 1.2 is usual.",
        above=0,
    )


@dataclass(kw_only=True, frozen=True)
class StopTexts(Settings):
    """Texts that end an answer."""

    group: ClassVar[str] = SAMPLING

    stop: str | None = opt(
        None,
        "Texts that end an answer as soon as it holds one, whatever tokens that is made of; the text stays its last "
        "words. \\n, \\t, \\, and \\\\ are what they look like; spaces count.",
        metavar="TEXT[,…]",
        many=True,
        exact=True,
    )
    stop_finishes: bool = opt(
        False, "Count an answer that a stop text ended as finished; without it, as one that was cut off."
    )

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """Texts that end an answer."""
        return split_texts(self.stop)


@dataclass(kw_only=True, frozen=True)
class AnswerSeed(Settings):
    """What the answers are drawn from."""

    group: ClassVar[str] = RUN

    seed: int = opt(42, "Seed of the answers.", low=0, below=2**32)


@dataclass(kw_only=True, frozen=True)
class DecodedTogether(Settings):
    """How many answers are written at once."""

    group: ClassVar[str] = RUN

    batch_size: int = opt(
        64, "Answers decoded together. Lower it when memory runs out: the answers stay the same.", low=1
    )


def check_room(max_length: int | None, max_new_tokens: int) -> None:
    """Raise SettingError when the longest answer leaves no room for a prompt."""
    if max_length is not None and max_new_tokens >= max_length:
        raise SettingError(
            "max_new_tokens",
            f"max_new_tokens {max_new_tokens}: must be less than max_length {max_length}, or no prompt fits; lower it "
            "or raise max_length",
        )


def check_stop(stop: str | None, finishes: bool) -> None:
    """Raise SettingError unless every stop text is one, and stop_finishes has any."""
    if stop is not None and not all(split_texts(stop)):
        raise SettingError("stop", f"stop {stop!r}: has an empty text, which every answer holds; leave it out")
    if finishes and stop is None:
        raise SettingError("stop_finishes", "stop_finishes: belongs to stop, which is not given")


@dataclass(kw_only=True, frozen=True)
class PromptLength(Settings):
    """Which prompts are too long."""

    group: ClassVar[str] = DATA

    max_prompt_length: int | None = opt(
        None,
        "Longest prompt in tokens; longer ones are dropped and counted.",
        low=1,
        shown="max_length - max_new_tokens",
    )
