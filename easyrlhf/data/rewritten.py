"""Answers that do not continue their prompt's rendering: thinking templates, and those that rewrite earlier turns."""

import re
from collections.abc import Sequence

from easyrlhf.data.chat_template import Rendering, Template
from easyrlhf.data.encode import Encoder
from easyrlhf.data.messages import SYSTEM
from easyrlhf.data.records import Message, Messages
from easyrlhf.errors import InputError

TAG = re.compile(r"[<\[][^<>\[\]\s]+[>\]]")  # such as <think> and [THINK]
MARK = "SENTINEL"


class NotContinued(InputError):
    """The template writes an answer otherwise than as the continuation of its prompt."""


class Rewritten:
    """Finds prompts and answers in renderings of the whole, whose ids are the whole's."""

    def __init__(self, encoder: Encoder, template: Template, rendering: Rendering):
        self.encoder, self.template, self.rendering = encoder, template, rendering
        self.tokenizer = encoder.tokenizer
        self.end_of_turn_id: int = self.tokenizer.eos_token_id
        self.end_of_turn: str = self.tokenizer.eos_token

    def whole(self, turns: Messages, arguments) -> list[int]:
        """Ids of a conversation through the end-of-turn token of its last answer."""
        ids = self.encoder.whole(self.template.text(turns, arguments))
        stop = self._stop(ids, turns[:-1], arguments)
        return ids[:stop] if stop else [*ids, self.end_of_turn_id]

    def masked(self, prompt: Messages, completion: Messages, arguments) -> tuple[list[int], list[int]]:
        """What conversation gives, from the ids of the whole. Raises NotContinued."""
        turns = prompt + completion
        ids = self.whole(turns, arguments)
        mask = [0] * len(ids)
        for i in range(len(prompt), len(turns)):
            if turns[i]["role"] != "assistant":
                continue
            start, stop = self.start(turns[:i], turns[i : i + 1], arguments), len(ids)
            if i + 1 < len(turns):
                upto = self.whole(turns[: i + 1], arguments)
                stop = len(upto) - (self._stop(upto, turns[:i], arguments) is None)
                if ids[:stop] != upto[:stop]:
                    raise self.not_continued(turns)
            if turns[i].get("learned", True) and not self.drops_calls(turns[i], self.tokenizer.decode(ids[start:stop])):
                mask[start:stop] = [1] * (stop - start)
        return ids, mask

    def _stop(self, ids: list[int], before: Messages, arguments) -> int | None:
        """Where in a rendering the turn ends that follows others: behind the first end-of-turn token not theirs.

        Messages cannot forge one, so these tokens can be counted. None where the template writes none.
        """
        ends = [i + 1 for i, token in enumerate(ids) if token == self.end_of_turn_id]
        earlier = self.encoder.whole(self.template.opening(before, arguments)).count(self.end_of_turn_id)
        return ends[earlier] if earlier < len(ends) else None

    def start(self, prompt: Messages, completion: Messages, arguments) -> int:
        """How many tokens the rendering of prompt and completion begins with as the prompt's own does.

        A tag such as <think> is not parted. Raises NotContinued when these are not all the turns of the prompt.
        """
        opening = self.template.opening(prompt, arguments)
        whole = self.template.text(prompt + to_last_answer(completion), arguments)
        same = common(opening, whole)
        if self._misplaced(prompt, completion, arguments, opening, whole, same):
            raise self.not_continued(prompt)
        ids, own = self.encoder.whole(whole), self.encoder.whole(opening)
        parted = next((tag.start() for tag in TAG.finditer(opening) if tag.start() < same < tag.end()), None)
        if parted is not None:
            own = own[: common(own, self.encoder.whole(opening[:parted]))]
        return common(own, ids)

    def _misplaced(self, prompt, completion, arguments, opening: str, whole: str, same: int) -> bool:
        """Whether the template writes the prompt's turns otherwise once they are answered.

        Of a completion of several turns only what people said is asked for: earlier answers may be rewritten.
        """
        if len(completion) > 1:
            said = [
                self.encoder.marked(turn["content"]).strip() for turn in prompt if turn["role"] in ("user", *SYSTEM)
            ]
            return any(text in opening and text not in whole for text in said)
        marked = [*prompt[:-1], {**prompt[-1], "content": MARK}]
        closing = self.template.text(marked, arguments, answer_next=True).rpartition(MARK)[2]
        return opening.endswith(closing) and same < len(opening) - len(closing)

    def not_continued(self, turns: Messages) -> NotContinued:
        """The error to raise for these turns."""
        fold = any(turn["role"] in SYSTEM for turn in turns) and not self.rendering.fold_system
        return NotContinued(
            "the chat template does not render an answer as the continuation of its prompt: once an answer follows, it "
            "writes the turns before it otherwise; "
            + ("--fold_system puts a system turn into the first user turn, or " if fold else "")
            + "give another template with --chat_template chatml|hh|llama3|PATH"
        )

    def drops_calls(self, turn: Message, text: str) -> bool:
        """Whether the template drops the tool calls of an answer that says nothing else: only its end is left."""
        return bool(turn.get("tool_calls")) and not text.strip().removesuffix(self.end_of_turn).strip()


def to_last_answer(completion: Messages) -> Messages:
    """The turns of a completion through its last answer."""
    last = max(i for i, turn in enumerate(completion) if turn["role"] == "assistant")
    return completion[: last + 1]


def common(one: Sequence, other: Sequence) -> int:
    """How many items two sequences begin with alike."""
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
