"""Commands that use a language model, and a look at what it wrote in its training: chat, generate, play, rollouts."""

from dataclasses import MISSING, dataclass
from typing import ClassVar

from easyrlhf.config.answering import (
    AnswerLength,
    AnswerSeed,
    DecodedTogether,
    PromptLength,
    Sampling,
    StopTexts,
    check_room,
    check_stop,
)
from easyrlhf.config.base import DATA, ENVIRONMENT, RUN, SAMPLING, Settings, opt, restate
from easyrlhf.config.common_fields import BadRows, IncompleteModels, OutputFile, RowLayout, check_rows_file
from easyrlhf.config.environment_settings import EnvironmentSettings
from easyrlhf.config.lists import split_apart
from easyrlhf.config.rendering import ChatRendering, FinalTurn, template_kwargs
from easyrlhf.config.reward_models import ScoringConfig
from easyrlhf.errors import SettingError

JUDGES = "reward_model or an environment"
ORDERS = ("worst", "best", "longest", "furthest")


@dataclass(kw_only=True, frozen=True)
class AnsweringModel(Settings):
    """What answers, and what scores the answers."""

    group: ClassVar[str] = DATA

    model: str = opt(
        MISSING,
        "The language model: the folder of a stage, an adapter folder, any Hugging Face checkpoint or a hub id.",
        metavar="DIR|HUB_ID",
        model=True,
    )
    adapter: str | None = opt(None, "A LoRA adapter to put on the model, such as outputs/sft/adapter.", metavar="DIR")
    reward_model: str | None = opt(
        None,
        "Scores every answer: the folder of rm_train, or a sequence classifier with one label.",
        metavar="DIR",
        model=True,
    )


@dataclass(kw_only=True, frozen=True)
class PolicyConfig(
    IncompleteModels,
    AnswerSeed,
    StopTexts,
    Sampling,
    AnswerLength,
    FinalTurn,
    ChatRendering,
    AnsweringModel,
    ScoringConfig,
):
    """What every command that writes answers with a language model, and trains nothing, can be told."""

    def _check(self) -> None:
        super()._check()
        check_stop(self.stop, self.stop_finishes)
        template_kwargs(self)
        check_room(self.max_length, self.max_new_tokens)


@dataclass(kw_only=True, frozen=True)
class SystemPrompt(Settings):
    """What a conversation begins with."""

    group: ClassVar[str] = DATA

    system: str | None = opt(None, "System prompt to begin with.", metavar="TEXT")


@dataclass(kw_only=True, frozen=True)
class CallableTools(Settings):
    """Functions that the model may call while it talks to a person."""

    group: ClassVar[str] = ENVIRONMENT

    tools: str | None = restate(
        EnvironmentSettings,
        "tools",
        "Python functions that the model may call, described to it by their signatures and docstrings.",
    )
    max_turns: int = restate(EnvironmentSettings, "max_turns", "Most turns of the model, with calls, to one message.")
    environment_timeout: float = restate(EnvironmentSettings, "environment_timeout", "Seconds that a call may take.")


@dataclass(kw_only=True, frozen=True)
class ChatConfig(SystemPrompt, CallableTools, PolicyConfig):
    """Settings of `easyrlhf chat`: a conversation with a model."""

    stage: ClassVar[str] = "chat"
    opening: ClassVar[str] = "loading {self.model} …"

    max_new_tokens: int = restate(Sampling, "max_new_tokens", default=512)
    temperature: float = restate(Sampling, "temperature", default=0.7)


@dataclass(kw_only=True, frozen=True)
class PromptsAndOutput(Settings):
    """What is answered, and where the answers go."""

    group: ClassVar[str] = DATA

    prompts: str | None = opt(
        None,
        "Prompts, as ppo_train reads them: rows of any format; answers that they hold are left aside. - reads JSON "
        "from standard input.",
        metavar="FILE[,…]",
        many=True,
    )
    prompt: str | None = opt(
        None,
        "A text to answer in place of prompts: a user turn where the model has a chat template. May be given more than "
        "once; - is the text of standard input.",
        metavar="TEXT",
        apart=True,
    )
    output: str | None = opt(
        None,
        "File for the rows. The same command goes on where it was stopped. - prints them.",
        metavar="FILE.jsonl|-",
        shown="- with prompt, as plain text",
    )


@dataclass(kw_only=True, frozen=True)
class Selection(Settings):
    """How many answers are drawn, and which of them are written."""

    group: ClassVar[str] = SAMPLING

    samples: int | None = opt(None, "Answers to draw for each prompt; all are written.", low=1, shown="1")
    best_of: int | None = opt(
        None,
        "Draw so many answers and write the one with the highest reward. Needs reward_model or an environment.",
        low=2,
    )
    to: str = opt(
        "demonstrations",
        "What a row is: an answer, for sft_train; or the best answer against the worst of the samples, for rm_train "
        "and dpo_train.",
        choices=("demonstrations", "comparisons"),
    )
    min_reward: float | None = opt(None, "Write only demonstrations with at least this reward: rejection sampling.")
    min_margin: float | None = opt(
        None,
        "Write only comparisons whose rewards differ by at least this. Equal ones are never written.",
        above=0,
        shown="any difference",
    )
    only_finished: bool = opt(
        False,
        "Leave out answers that were cut off at max_new_tokens; a stage that learns from them would teach the model "
        "to end there.",
    )


@dataclass(kw_only=True, frozen=True)
class EpisodeAnswers(EnvironmentSettings):
    """Answers that are episodes of an environment, where one is named, and are not learned from."""

    num_generations: ClassVar[int] = 1

    on_environment_error: str = restate(
        EnvironmentSettings,
        "on_environment_error",
        "An environment that raises or takes too long: stop ends the command, which goes on there when it is given "
        "again; drop leaves that answer out, and stops when more than a tenth of all failed. A tool that raises is "
        "answered with the error.",
    )

    @property
    def completion_limit(self) -> int:
        """Most tokens after a prompt, the environment's among them."""
        return self.max_new_tokens

    def _check(self) -> None:
        super()._check()
        if self.plays and self.continue_final_message:
            raise SettingError(
                "continue_final_message",
                "continue_final_message: an episode begins with a turn of the policy's own; leave one of the two out",
            )


@dataclass(kw_only=True, frozen=True)
class GenerateConfig(
    OutputFile,
    DecodedTogether,
    Selection,
    EpisodeAnswers,
    BadRows,
    PromptLength,
    RowLayout,
    PromptsAndOutput,
    PolicyConfig,
):
    """Settings of `easyrlhf generate`: answers to prompts, all of them or the best."""

    stage: ClassVar[str] = "generate"
    opening: ClassVar[str] = "loading {self.model} …"

    format: str | None = restate(RowLayout, "format", "Row format of the prompts, when recognising it is not wanted.")

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts to answer."""
        return split_apart(self.prompt)

    @property
    def to_screen(self) -> bool:
        """Whether answers go to standard output."""
        return self.output in (None, "-")

    @property
    def readable(self) -> bool:
        """Whether they are printed for a reader, and not as rows."""
        return self.to_screen and bool(self.prompt) and self.to == "demonstrations"

    @property
    def draws(self) -> int:
        """Answers drawn for each prompt."""
        return self.best_of or self.samples or 1

    @property
    def selects(self) -> bool:
        """Whether rewards decide which answers are written."""
        return bool(self.best_of) or self.min_reward is not None or self.to == "comparisons"

    def _check(self) -> None:
        super()._check()
        self._check_places()
        pairs, low = self.to == "comparisons", self.min_reward is not None
        judged = self.reward_model or self.environment
        rules = (
            ("samples", self.samples and self.best_of, f"best_of {self.best_of} says how many are drawn; give one"),
            ("best_of", self.best_of and not judged, f"needs {JUDGES}, which says what is best"),
            ("min_reward", low and not judged, f"needs {JUDGES}"),
            ("to", pairs and not judged, f"needs {JUDGES}, which tells the best from the worst"),
            (
                "reward_model",
                self.environment and self.reward_model,
                "the environment scores; leave one of the two out",
            ),
            ("to", pairs and self.best_of, "compares the best with the worst; give samples instead of best_of"),
            ("to", pairs and self.draws < 2, "needs two answers or more; give samples"),
            ("min_reward", pairs and low, "belongs to demonstrations; for comparisons there is min_margin"),
            ("min_margin", not pairs and self.min_margin is not None, "belongs to comparisons; give to comparisons"),
            ("temperature", self.draws > 1 and not self.temperature, "draws the same answer every time; raise it"),
        )
        for name, broken, rule in rules:
            if broken:
                raise SettingError(name, f"{name} {getattr(self, name)}: {rule}")

    def _check_places(self) -> None:
        """Where prompts come from, and where answers go."""
        if bool(self.prompts) == bool(self.texts):
            both = self.prompts and self.texts
            raise SettingError(
                "prompt" if both else "prompts",
                "prompt: prompts are given as well; give one of the two"
                if both
                else "prompts: nothing to answer; give a file of prompts, or a text with prompt",
            )
        if empty := [text for text in self.texts if not text.strip()]:
            raise SettingError("prompt", f"prompt {empty[0]!r}: says nothing; give a text to answer")
        if self.prompts and self.output is None:
            raise SettingError(
                "output", "output: give the file for the answers, such as answers.jsonl, or - for standard output"
            )
        if not self.to_screen:
            check_rows_file("output", self.output)
        rows = ("format", "field", "transform", "max_prompt_length")
        if self.texts and (stray := next((name for name in rows if getattr(self, name) is not None), None)):
            raise SettingError(stray, f"{stray} {getattr(self, stray)}: belongs to prompts; leave it out")


@dataclass(kw_only=True, frozen=True)
class EpisodesToPlay(Settings):
    """How many episodes are played, and what they begin with."""

    group: ClassVar[str] = DATA

    episodes: int = opt(5, "Episodes to play.", low=1)
    prompts: str | None = restate(
        PromptsAndOutput,
        "prompts",
        "Prompts to begin with, one each, as ppo_train reads them: rows of any format.",
        shown="an empty turn of the user, to which reset puts its text",
    )


@dataclass(kw_only=True, frozen=True)
class PlayConfig(DecodedTogether, EpisodeAnswers, BadRows, PromptLength, RowLayout, EpisodesToPlay, PolicyConfig):
    """Settings of `easyrlhf play`: a look at what a model does in an environment."""

    stage: ClassVar[str] = "play"
    opening: ClassVar[str] = "loading {self.model} …"

    max_new_tokens: int = restate(Sampling, "max_new_tokens", "Most tokens after the prompt, all turns.", default=512)

    def _check(self) -> None:
        super()._check()
        if not self.plays:
            raise SettingError("environment", "environment: nothing to act in; give FILE.py:NAME, or tools")
        if self.reward_model:
            raise SettingError(
                "reward_model", f"reward_model {self.reward_model}: the environment scores; leave it out"
            )
        rows = ("format", "field", "transform", "max_prompt_length")
        if not self.prompts and (stray := next((name for name in rows if getattr(self, name) is not None), None)):
            raise SettingError(stray, f"{stray} {getattr(self, stray)}: belongs to prompts; leave it out")


@dataclass(kw_only=True, frozen=True)
class PickedRollouts(Settings):
    """Which samples are shown."""

    group: ClassVar[str] = DATA

    run: str = opt(MISSING, "The output folder of ppo_train or grpo_train.", metavar="DIR")
    step: int | None = opt(None, "Only this step.", low=1, shown="the last one; every step where others pick")
    worst: int | None = opt(None, "So many completions with the lowest score.", low=1)
    best: int | None = opt(None, "So many completions with the highest score.", low=1)
    longest: int | None = opt(None, "So many of the longest completions.", low=1)
    furthest: int | None = opt(
        None, "So many completions that have become likeliest beside the reference, by KL.", low=1
    )


@dataclass(kw_only=True, frozen=True)
class RolloutsConfig(PickedRollouts):
    """Settings of `easyrlhf rollouts`: a look at what an online run sampled."""

    stage: ClassVar[str] = "rollouts"
    group: ClassVar[str] = RUN

    json: bool = opt(False, "Print the rows as they are, one JSON object a line.")

    @property
    def order(self) -> tuple[str | None, int]:
        """What rows are picked by, and how many; no word and 0 for all."""
        return next(((name, count) for name in ORDERS if (count := getattr(self, name))), (None, 0))

    def _check(self) -> None:
        super()._check()
        if len(given := [name for name in ORDERS if getattr(self, name)]) > 1:
            raise SettingError(given[1], f"{given[1]} {getattr(self, given[1])}: {given[0]} picks already; give one")
