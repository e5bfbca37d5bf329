"""easyrlhf chat: a conversation with a model, at the terminal or from a pipe; docs/using_models.md."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from easyrlhf.config import ChatConfig
from easyrlhf.data.chat_template import opens, with_answer
from easyrlhf.data.records import Message, Messages
from easyrlhf.data.render import Renderer
from easyrlhf.episodes.calls import Calls, EnvironmentFailed
from easyrlhf.episodes.environments import answer_call, load_environment
from easyrlhf.episodes.play import run_to_end
from easyrlhf.episodes.tools import Tools, arguments_of, as_tool_text, described_tools, enable_parsing
from easyrlhf.errors import InputError
from easyrlhf.models.load import positions_of
from easyrlhf.paths import split_paths
from easyrlhf.report.console import Console
from easyrlhf.report.transcript import call_text
from easyrlhf.rollout.sampler import HFSampler
from easyrlhf.tools.output import printable
from easyrlhf.tools.policy import load_sampler, read_renderer, room_for_prompt
from easyrlhf.tools.scoring import Scorer, load_scorer, reward_folder, scores_of, why_no_score

QUOTES = '"""'
COMMANDS = (
    "/reset forgets the conversation, /system TEXT sets the system prompt (and resets), /exit or /quit ends, "
    f"/help or ? shows this; {QUOTES} begins a message of several lines and ends it"
)
ENDS, HELP = ("/exit", "/quit"), ("/help", "?")
UNFINISHED_CHARACTER = "\ufffd"  # how half a character decodes


def chat(config: ChatConfig) -> None:
    """Answer line after line of standard input until it ends. Raises InputError for models that cannot chat."""
    renderer = read_renderer(config)
    room = room_for_prompt(config)
    opening = system_turn(config.system)
    tools = open_tools(config, renderer)
    arguments = {"tools": tools.schemas} if tools.schemas else None
    hello = [*opening, {"role": "user", "content": "Hello"}]
    ids = renderer.prompt_ids(hello, arguments)  # no template, or no system turns
    if room is not None and len(ids) > room:
        flag = "--system" if config.system else "--tools"
        raise InputError(f"{flag}: leaves no room for a conversation ({why_no_score(ids, room)}); shorten it")
    scorer = load_scorer(config) if config.reward_model else None
    limit = positions_of(reward_folder(config), trust_remote_code=config.trust_remote_code) if scorer else None
    console = Console("chat")
    talk = Chat(config, renderer, load_sampler(config, renderer, 1), room, scorer, limit, console, opening, tools)
    if sys.stdin.isatty():
        console.note(f"{config.model}: {COMMANDS}")
    for line in messages_typed():
        if line.rstrip() in ENDS:
            break
        talk.hear(line)


def open_tools(config: ChatConfig, renderer: Renderer) -> Tools:
    """The functions of the settings, described, where the model's calls can be read. Raises InputError."""
    functions = load_environment(None, split_paths(config.tools)).functions
    tools = Tools(functions, described_tools(functions, "--tools"))
    if tools.schemas:
        enable_parsing(renderer)
    return tools


def system_turn(text: str | None) -> Messages:
    """The turns that a conversation begins with."""
    return [{"role": "system", "content": text}] if text else []


def messages_typed() -> Iterator[str]:
    """Lines of standard input until it ends, and as one what stands between quotes over several lines."""
    if sys.stdin.isatty():
        with suppress(ImportError):  # Windows has its own line editing
            import readline  # noqa: F401  gives input() its arrow keys
    while (line := line_typed("\n> ")) is not None:
        yield quoted(line) if line.lstrip().startswith(QUOTES) else line


def quoted(line: str) -> str:
    """The message that begins in this line behind quotes and ends before others, or with the input.

    It begins with a space, as what is no command does.
    """
    text = line.lstrip().removeprefix(QUOTES)
    while not text.rstrip().endswith(QUOTES) and (more := line_typed("… ")) is not None:
        text += f"\n{more}"
    return f" {text.rstrip().removesuffix(QUOTES)}"


def line_typed(prompt: str) -> str | None:
    """A line of standard input; None at its end. At a terminal after a prompt, with line editing; Ctrl-C there ends it.

    Raises InputError for what is no text.
    """
    if sys.stdin.isatty():
        try:
            return input(prompt)
        except (EOFError, KeyboardInterrupt):
            print()
            return None
    try:
        line = sys.stdin.readline()
    except UnicodeDecodeError as error:
        raise InputError(f"standard input: not text in UTF-8 ({error.reason}); convert it") from error
    return line.rstrip("\r\n") if line else None


@dataclass
class Chat:
    """A conversation that grows turn by turn.

    room   tokens that a prompt may have; None: no limit
    limit  tokens that the reward model can read; None: no limit
    turns  what was said, system prompt first
    tools  that the model may call
    """

    config: ChatConfig
    renderer: Renderer
    sampler: HFSampler
    room: int | None
    scorer: Scorer | None
    limit: int | None
    console: Console
    turns: Messages
    tools: Tools = field(default_factory=Tools)
    answers: int = 0

    def hear(self, line: str) -> None:
        """Do what a line says: a command, or something to be answered."""
        command, _, text = line.rstrip().partition(" ")
        if line.rstrip() in HELP:
            self.console.note(COMMANDS)
        elif command == "/reset":
            self.reset(self.system)
        elif command == "/system":
            self.reset(system_turn(text.strip()))
        elif line.startswith("/"):
            self.console.warn(f"{command} is no command: {COMMANDS}. To say it, begin the line with a space")
        elif line.strip():
            self.answer([*self.turns, {"role": "user", "content": line.strip()}])
        elif self.config.continue_final_message and opens(self.turns):
            self.answer(self.turns)

    @property
    def system(self) -> Messages:
        """The system turn, if there is one."""
        return [turn for turn in self.turns[:1] if turn["role"] == "system"]

    def reset(self, opening: Messages) -> None:
        """Begin anew."""
        self.turns, self.answers = opening, 0
        self.console.note(f"(the conversation is empty{'; it has a system prompt' if opening else ''})")

    @property
    def arguments(self) -> dict[str, Any] | None:
        """What the chat template is told beside the turns."""
        return {"tools": self.tools.schemas} if self.tools.schemas else None

    def answer(self, turns: Messages) -> None:
        """Answer a user turn, with as many calls as the model makes, or go on with an answer."""
        for _ in range(self.config.max_turns):
            if not self.reply(turns):
                return
            calls = self.turns[-1].get("tool_calls") or []
            if not calls:
                return
            self.turns = turns = [*self.turns, *map(self.result, calls)]
        self.console.warn(f"the model has called tools in all of its --max_turns {self.config.max_turns} turns")

    def result(self, call: dict[str, Any]) -> Message:
        """What a call gives, shown and as a turn; an error is a result too."""
        self.console.note(f"→ {call_text(call)}")
        said = SimpleNamespace(prompt=[], messages=[], place="")  # of an episode, for messages of what takes too long
        calls = Calls("tools", said, asyncio.Semaphore(1), self.config.environment_timeout)
        try:
            name, text = run_to_end(answer_call(self.tools, call, calls))
        except EnvironmentFailed as error:
            name, text = arguments_of(call)[0], as_tool_text({"error": str(error).splitlines()[0]})
        self.console.note(f"← {printable(text)}")
        return {"role": "tool", "name": name, "content": text}

    def reply(self, turns: Messages) -> bool:
        """Let the model say its turn, as far as it can; whether it came to an end. What it cannot take is not kept."""
        try:
            turns, ids = self.fitted(turns)
        except InputError as error:
            self.console.warn(str(error))
            return False
        drawn, said = self.stream(ids, begun=opens(turns))
        finished = bool(drawn) and self.sampler.ending.finished(drawn)
        if not (finished or self.sampler.ending.by_text(drawn)):
            cut = f"cut off after {len(drawn)} tokens: --max_new_tokens"
            self.console.note(f"({cut if len(drawn) == self.config.max_new_tokens else 'stopped'})")
        if not drawn:
            return False
        self.answers += 1
        asked, answer = with_answer(turns, said)
        parsed = self.tools.parse(drawn, ids, self.renderer) if finished else {}
        if parsed.get("tool_calls"):
            asked, answer = turns, [parsed]
        elif self.scorer:
            self.console.note(self.reward(asked, answer, finished))
        self.turns = [*asked, *answer]
        return finished

    def fitted(self, turns: Messages) -> tuple[Messages, list[int]]:
        """The turns that fit, without the oldest where they do not, and their ids. Raises InputError when none does."""
        start = first = len(self.system)
        ids = self.renderer.prompt_ids(turns, self.arguments)
        while self.room is not None and len(ids) > self.room:
            later = range(start + 1, len(turns))  # a question with all that followed from it
            start = next((i for i in later if turns[i]["role"] == "user"), len(turns))
            if start >= len(turns):
                raise InputError(
                    f"this message is not sent: it has {why_no_score(ids, self.room)}, which is the room that "
                    f"--max_new_tokens {self.config.max_new_tokens} leaves"
                )
            ids = self.renderer.prompt_ids(turns[:first] + turns[start:], self.arguments)
        if start > first:
            self.console.warn(
                f"the oldest {start - first} turns are forgotten: a conversation has room for {self.room:,} tokens"
            )
        return turns[:first] + turns[start:], ids

    def stream(self, ids: list[int], begun: bool = False) -> tuple[list[int], str]:
        """Print an answer while it is drawn; returns its tokens and its text. Ctrl-C stops it.

        begun  it goes on with a text, from which white space may part it
        """
        drawn: list[int] = []
        shown = ""
        try:
            for token in self.sampler.stream(ids, (self.config.seed, self.answers)):
                drawn.append(token)
                text = self.renderer.decode(drawn)
                text = text if begun else text.lstrip()
                if not text.endswith(UNFINISHED_CHARACTER):
                    write(text[len(shown) :])
                    shown = text
        except KeyboardInterrupt:
            pass
        text = self.renderer.decode(drawn).rstrip()
        text = text if begun else text.lstrip()
        write(text[len(shown) :] + "\n")
        return drawn, text

    def reward(self, prompt: Messages, answer: Messages, finished: bool) -> str:
        """The reward of an answer in words."""
        try:
            ids = self.scorer.renderer.sequence(prompt, answer, finished, self.arguments)
        except InputError as error:  # its own template may refuse what the model's takes
            return f"(no reward: {error})"
        [score] = scores_of(self.scorer, [ids], self.limit)
        return f"reward {score:+.4f}" if score is not None else f"(no reward: {why_no_score(ids, self.limit)})"


def write(text: str) -> None:
    """Print a piece of an answer at once."""
    print(printable(text), end="", flush=True)
