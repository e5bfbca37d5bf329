"""The one renderer of all stages: from prompts and completions to token ids and loss masks."""

import re
from collections import Counter
from collections.abc import Iterable
from itertools import takewhile

from transformers import PreTrainedTokenizerFast

from easyrlhf.data.chat_template import Rendering, Template, opens, template_arguments
from easyrlhf.data.encode import CLOSE, OPEN, Encoder
from easyrlhf.data.records import Messages
from easyrlhf.data.rewritten import NotContinued, Rewritten, to_last_answer
from easyrlhf.data.row_errors import ContentFault
from easyrlhf.errors import InputError

__all__ = ["APART", "CLOSE", "CUT", "OPEN", "Renderer", "Rendering", "template_arguments"]

APART = "rows whose answers became an example each (the chat template rewrites earlier turns)"
CUT = "texts cut after their first end-of-turn token: an answer ends there, and the rest is not learned"


class Renderer:
    """Renders and tokenises for one tokenizer, as `load_tokenizer` returns it.

    Prompts and completions are tokenised apart, so that a prompt's ids in training are those it
    has when answers are sampled. Where the template does not render an answer as the continuation of
    its prompt, the whole is tokenised, and the prompt is what it has in common with the prompt's own
    ids. Special tokens in the text of a message are encoded as text: only the template writes control
    tokens. Plain strings are tokenised as they are.

    `arguments` is what the row tells the template beside the turns (see template_arguments).

    ends   ids that end an answer of the model, as ends_of finds them; without it the end-of-turn token alone
    stops  texts that end a sampled answer: decode cuts behind the first of them
    notes  counts of what was done out of the ordinary, by text
    written  roles whose turns the template is known to write (see data/dropped.py)
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        ends: Iterable[int] = (),
        stops: tuple[str, ...] = (),
        rendering: Rendering | None = None,
    ):
        self.tokenizer = tokenizer
        self.ends = tuple(dict.fromkeys([tokenizer.eos_token_id, *ends]))
        self.stops = stops
        self.rendering = rendering or Rendering()
        self.end_of_turn_id: int = tokenizer.eos_token_id
        self.end_of_turn: str = tokenizer.eos_token
        self.pad_id: int = tokenizer.pad_token_id
        self.notes: Counter = Counter()
        self.written = {"assistant", "user"}
        self.encoder = Encoder(tokenizer)
        self.template = Template(self.encoder, self.rendering)
        self.rewritten = Rewritten(self.encoder, self.template, self.rendering)
        self._end = re.compile(f"(?<!{OPEN}){re.escape(self.end_of_turn)}")

    def prompt_ids(self, prompt: Messages | str, arguments: dict | None = None) -> list[int]:
        """Ids of a prompt, ready to be answered: with the generation prompt, one BOS at most.

        Raises InputError for a prompt that ends with an assistant turn, unless the settings let answers continue it.
        """
        if isinstance(prompt, str):
            return self.encoder.one_bos(self.encoder.text_prefix + self.encoder.plain(prompt))
        if not opens(prompt):
            return self.encoder.whole(self.template.opening(prompt, arguments))
        if not self.rendering.continue_final_message:
            raise InputError(
                "the prompt ends with an assistant turn; expected a user turn, or --continue_final_message, with which "
                "the answer continues that turn"
            )
        return self.encoder.whole(self.template.open_answer(prompt, arguments))

    def answers(
        self, prompt: Messages | str, completions: list[Messages | str], arguments: dict | None = None
    ) -> tuple[list[int], list[list[int]]]:
        """Ids of a prompt and of each of its completions, up to and including the end-of-turn token.

        All completions have the one prompt: its own rendering, or where the template does not continue that, the
        shortest that it has in common with any prompt and completion. A completion of several turns is rendered
        whole, other roles' turns included. Raises InputError when the prompt itself is rendered otherwise.
        """
        try:
            found = [self._completion(prompt, completion, arguments)[0] for completion in completions]
            return self.prompt_ids(prompt, arguments), found
        except NotContinued:
            wholes = [self.rewritten.whole(prompt + to_last_answer(one), arguments) for one in completions]
            start = min(self.rewritten.start(prompt, one, arguments) for one in completions)
            return wholes[0][:start], [ids[start:] for ids in wholes]

    def completion_ids(
        self, prompt: Messages | str, completion: Messages | str, arguments: dict | None = None
    ) -> list[int]:
        """Ids of a completion alone, as answers has them."""
        return self.answers(prompt, [completion], arguments)[1][0]

    def sequence(
        self,
        prompt: Messages | str,
        completion: Messages | str,
        finished: bool = True,
        arguments: dict | None = None,
    ) -> list[int]:
        """Ids of prompt and completion as one text, for a score; without the end-of-turn token where it was cut off."""
        try:
            ids = self._completion(prompt, completion, arguments)[0]
            ids = self.prompt_ids(prompt, arguments) + ids
        except NotContinued:
            ids = self.rewritten.whole(prompt + to_last_answer(completion), arguments)
        return ids if finished else ids[:-1]

    def examples(
        self, prompt: Messages | str, completion: Messages | str, arguments: dict | None = None
    ) -> list[tuple[list[int], list[int]]]:
        """What a demonstration teaches, as conversation gives it: one example, or one for each answer.

        Each answer is an example of its own where the template rewrites earlier turns once later ones follow. With the
        setting learn = last, the last answer alone is learned. Turns with `learned: False` are context, and so are
        tool calls that the template drops. Raises ContentFault when no turn is left to learn from.
        """
        if isinstance(completion, str):
            return [self.conversation(prompt, completion)]
        learned = [i for i, turn in enumerate(completion) if turn["role"] == "assistant" and turn.get("learned", True)]
        if not learned:
            raise ContentFault("no turn to learn from")
        found = [example for example in self._examples(prompt, completion, arguments, learned) if any(example[1])]
        if not found:
            raise ContentFault("no turn to learn from")
        return found

    def _examples(self, prompt, completion, arguments, learned: list[int]) -> list[tuple[list[int], list[int]]]:
        """The examples of the turns with these numbers."""
        last = learned[-1]
        apart = [(prompt + completion[:i], completion[i : i + 1], arguments) for i in learned]
        if self.rendering.learn == "last":
            return [self.conversation(*apart[-1])]
        try:
            return [self.conversation(prompt, completion[: last + 1], arguments)]
        except NotContinued:
            if not last:
                raise
        found = [self.conversation(*one) for one in apart]
        self.notes[APART] += len(found) > 1
        return found

    def conversation(
        self, prompt: Messages | str, completion: Messages | str, arguments: dict | None = None
    ) -> tuple[list[int], list[int]]:
        """Ids of prompt and completion [S], and the loss mask [S].

        The mask is 1 on the completion's assistant turns that are learned, each with its end-of-turn token. Raises
        NotContinued when the template rewrites earlier turns once later ones follow.
        """
        try:
            ids, mask = self._completion(prompt, completion, arguments)
            prompt_ids = self.prompt_ids(prompt, arguments)
            return prompt_ids + ids, [0] * len(prompt_ids) + mask
        except NotContinued:
            return self.rewritten.masked(prompt, completion, arguments)

    def between(self, turns: Messages, arguments: dict | None = None, behind: int | None = None) -> list[int]:
        """What the template writes behind an answer when these turns follow: its end of turn, they, the next opening.

        Of a conversation that stands for any: a template that keeps what was said writes the same behind all of them.
        Raises InputError for one that rewrites earlier turns once later ones follow.

        behind  the id that the answer ended with: where that is the template's own end of turn, it stands there
                already. A stop text, or another of the ends that a model has, is followed by it. None: it stands there
        """
        question = [{"role": "user", "content": "Hello."}]
        asked = [*question, *self._answer_before(turns)]
        before = self.template.text(asked, arguments)
        whole = self.template.text([*asked, *turns], arguments, answer_next=True)
        pairs = zip(self.template.text(question, arguments), before, strict=False)
        alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        end = self._last_end(before, alike)  # of the answer, not one that stands before it
        if end is None or not whole.startswith(before[: end.end()]):
            raise InputError(
                "the chat template writes earlier turns otherwise once later ones follow (or ends none), so that an "
                "answer would not be continued as it was sampled; give --chat_template one that keeps them, such as "
                "chatml, or the training variant of your model's"
            )
        own = self.tokenizer.convert_tokens_to_ids(end.group())
        return [own] * (behind not in (None, own)) + self.encoder.encode(whole[end.end() :])

    def _last_end(self, text: str, start: int) -> re.Match | None:
        """The last end of turn behind a place, or the last of another end: calls may have one of their own."""
        others = [
            token for token in self.tokenizer.convert_ids_to_tokens(list(self.ends)) if token in self.encoder.specials
        ]
        other = re.compile(f"(?<!{OPEN})({'|'.join(map(re.escape, others))})")
        found = (list(ends.finditer(text, start)) for ends in (self._end, other))
        return next((ends[-1] for ends in found if ends), None)

    @staticmethod
    def _answer_before(turns: Messages) -> Messages:
        """An answer that these turns may follow: results of tools follow calls."""
        calls = [
            {"type": "function", "function": {"name": turn.get("name", "tool"), "arguments": {}}}
            for turn in turns
            if turn["role"] == "tool"
        ]
        return [{"role": "assistant", "content": "Yes."} | ({"tool_calls": calls} if calls else {})]

    def decode(self, ids: list[int]) -> str:
        """The text of ids without special tokens and those that end an answer, up to the first stop text's end."""
        kept = [int(i) for i in ids if i not in self.ends]
        text = self.tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text[: min((found + len(stop) for stop in self.stops if (found := text.find(stop)) >= 0), default=None)]

    def ended(self, ids: list[int]) -> list[int]:
        """The ids of a finished answer with an end: one that a stop text finished gets its end-of-turn token."""
        return ids if ids[-1] in self.ends else [*ids, self.end_of_turn_id]

    def date_dependent(self) -> bool:
        """Whether the template writes today's date, so that the same row differs tomorrow."""
        if not self.tokenizer.chat_template:
            return False
        turns = [{"role": "user", "content": "Hello"}]
        own = self.tokenizer.get_chat_template()
        clock = "{{% macro strftime_now(format) %}}{}{{% endmacro %}}"  # stands before the real one
        first, second = (
            self.template.text(turns, answer_next=True, chat_template=clock.format(day) + own) for day in (1, 2)
        )
        return first != second

    # --- answers that continue the rendering of their prompt

    def _completion(self, prompt, completion, arguments) -> tuple[list[int], list[int]]:
        """Ids after the prompt, and 1 for those that are learned. Raises NotContinued."""
        if isinstance(prompt, str):
            ids = self._ended(self.encoder.plain_after(completion), whole=not prompt)
            return ids, [1] * len(ids)
        ids: list[int] = []
        mask: list[int] = []
        for text, continues, learned in self._segments(prompt, completion, arguments):
            new = self.encoder.encode(text, continues)
            ids += new
            mask += [int(learned)] * len(new)
        if ids[-1:] != [self.end_of_turn_id]:  # a template without an end-of-turn token
            ids, mask = [*ids, self.end_of_turn_id], [*mask, 1]
        return ids, mask

    def _segments(self, prompt: Messages, completion: Messages, arguments) -> list[tuple[str, bool, bool]]:
        """The rendered completion in pieces: assistant text and what stands between.

        Each piece is (text, whether it goes on from plain text, whether it is learned).
        """
        turns = prompt + completion
        full = self.template.text(turns, arguments)
        pieces, position = [], self._continues(full, prompt, arguments)
        for i in range(len(prompt), len(turns)):
            if turns[i]["role"] != "assistant":
                continue
            start = self._continues(full, turns[:i], arguments) if i > len(prompt) else position
            upto = full if i + 1 == len(turns) else self.template.text(turns[: i + 1], arguments)
            end = self._end.search(upto, start)
            stop = end.end() if end else len(upto)
            if full[start:stop] != upto[start:stop]:
                raise self.rewritten.not_continued(turns)
            learned = turns[i].get("learned", True) and not self.rewritten.drops_calls(turns[i], full[start:stop])
            pieces += [(position, start, False), (start, stop, learned)]
            position = stop
        return [
            (full[start:stop], not full.endswith(self.encoder.specials, 0, start), learned)
            for start, stop, learned in pieces
            if start < stop
        ]

    def _continues(self, full: str, turns: Messages, arguments) -> int:
        """Where an answer to these turns begins in the rendering of more turns."""
        opening = self.template.opening(turns, arguments)
        if not full.startswith(opening):
            raise self.rewritten.not_continued(turns)
        return len(opening)

    def _ended(self, ids: list[int], whole: bool) -> list[int]:
        """A text completion cut after its first end-of-turn token, or given one.

        whole  it has no prompt and is learned to its last word, whatever ends it holds
        """
        ends = [i + 1 for i, token in enumerate(ids) if token == self.end_of_turn_id]
        stop = ends[-1 if whole else 0] if ends else len(ids)
        goes_on = bool(self.tokenizer.decode(ids[stop:]).strip())
        if not ends or (whole and goes_on):
            return [*ids, self.end_of_turn_id]
        if goes_on:
            self.notes[CUT] += 1
        return ids[:stop]
