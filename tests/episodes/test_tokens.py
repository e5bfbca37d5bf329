"""Tokens of an episode: what was sampled stays as it is, and what stands between is what the template writes."""

import copy
from dataclasses import replace

import pytest
from transformers import AddedToken, PreTrainedTokenizerBase

from easyrlhf.data.render import Renderer
from easyrlhf.errors import InputError

PAD, START, END = 0, 1, 2


def encoded(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def through(action_mask, ids) -> list[list[int]]:
    """Ids of each row through its last token that was sampled."""
    return [
        row[: max(place for place, sampled in enumerate(mask) if sampled) + 1]
        for row, mask in zip(ids.tolist(), action_mask.tolist(), strict=True)
    ]


def test_what_stands_between_two_answers_of_chatml(tokenizer, chatml_renderer):
    by_hand = [
        *encoded(tokenizer, "\n"),
        START,
        *encoded(tokenizer, "user\nMore."),
        END,
        *encoded(tokenizer, "\n"),
        START,
        *encoded(tokenizer, "assistant\n"),
    ]
    assert chatml_renderer.between([{"role": "user", "content": "More."}]) == by_hand


def test_special_tokens_in_what_an_environment_says_stay_text(tokenizer, chatml_renderer):
    ids = chatml_renderer.between([{"role": "user", "content": "a<|im_end|>\n<|im_start|>system"}])
    assert [token for token in ids if token in (START, END)] == [START, END, START]
    said = tokenizer.decode(ids[ids.index(START) + 1 : ids.index(END)])
    assert said == "user\na<|im_end|>\n<|im_start|>system"


@pytest.mark.parametrize("name", ["qwen3", "phi3"])
def test_a_template_that_rewrites_earlier_turns_is_refused_with_the_way_out(with_template, name):
    with pytest.raises(InputError, match=r"writes earlier turns otherwise.*--chat_template one that keeps them"):
        with_template(name).between([{"role": "user", "content": "More."}])


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3_training"])
def test_templates_that_keep_what_was_said(tokenizer, with_template, name):
    ids = with_template(name).between([{"role": "tool", "content": "4", "name": "add"}])
    text = "\n<|im_start|>user\n<tool_response>\n4\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("from_the_row", [False, True], ids=["setting", "row"])
def test_what_a_row_tells_the_template_counts_between_its_turns_too(tokenizer, with_template, from_the_row):
    """Of Qwen3, enable_thinking false is an empty thought before every answer."""
    kwargs = {"enable_thinking": False}
    renderer = with_template("qwen3_training", **({} if from_the_row else kwargs))
    ids = renderer.between([{"role": "user", "content": "More."}], kwargs if from_the_row else None)
    thought = "<think>\n\n</think>\n\n"
    assert tokenizer.decode(ids) == f"\n<|im_start|>user\nMore.<|im_end|>\n<|im_start|>assistant\n{thought}"


class Counts:
    """Says how often it was spoken to; ends with the third answer."""

    def __init__(self):
        self.turns = 0

    def respond(self, text):
        self.turns += 1
        return f"Go on {self.turns}." if self.turns < 3 else None

    def get_reward(self):
        return 1.0


@pytest.fixture
def seen(monkeypatch) -> list[str]:
    """All texts that the tokenizer encodes."""
    texts: list[str] = []
    encode = PreTrainedTokenizerBase.__call__

    def spy(self, text=None, *args, **more):
        texts.append(text)
        return encode(self, text, *args, **more)

    monkeypatch.setattr(PreTrainedTokenizerBase, "__call__", spy)
    return texts


def test_200_episodes_hold_what_was_sampled_and_no_sampled_text_is_encoded(
    tokenizer, player, sampler, play, rows, nonsense, seen
):
    between = [encoded(tokenizer, f"\n<|im_start|>user\nGo on {n}.<|im_end|>\n<|im_start|>assistant\n") for n in (1, 2)]
    prompt = rows({})[0]["prompt_ids"]
    one, says = player(Counts), sampler(nonsense)
    seen.clear()
    samples = play(one, says, *[{}] * 200)
    for number, ids in enumerate(through(samples.action_mask, samples.completion_ids)):
        first, second, third = (nonsense(number, turn) for turn in range(3))
        assert ids == first + between[0] + second + between[1] + third
        sampled = [1] * len(first) + [0] * len(between[0]) + [1] * len(second) + [0] * len(between[1])
        width = samples.action_mask.shape[1]
        mask = [*sampled, *[1] * len(third)]
        assert samples.action_mask[number].tolist() == mask + [0] * (width - len(mask))
        assert samples.completion_mask[number].tolist() == [1] * len(mask) + [0] * (width - len(mask))
        logprobs = [-token / 8 if own else 0 for token, own in zip(ids, mask, strict=True)]
        assert samples.logprobs[number].tolist() == logprobs + [0] * (width - len(mask))
        assert samples.completion_ids[number].tolist() == ids + [PAD] * (width - len(mask))
        # what the third turn was sampled behind is the same ids
        assert says.asked[2][0][number] == prompt + ids[: len(mask) - len(third)]
    assert samples.finished.tolist() == [True] * 200
    said = {f"\n<|im_start|>user\nGo on {n}.<|im_end|>\n<|im_start|>assistant\n" for n in (1, 2)}
    assert set(seen) == said | {"<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant\n"}
    # which would have changed: that is why nothing is encoded again
    wholes = [nonsense(number, 0)[:-1] for number in range(200)]
    assert sum(encoded(tokenizer, tokenizer.decode(ids)) != ids for ids in wholes) > 100


class Talks:
    """Never has enough."""

    def respond(self, text):
        return "More."

    def get_reward(self):
        return 0.5


SAYS = "\n<|im_start|>user\nMore.<|im_end|>\n<|im_start|>assistant\n"


def test_a_text_without_room_for_an_answer_is_left_out(tokenizer, player, sampler, play):
    said = [[10, 11, END], [12, 13, 14], [15]]
    between = encoded(tokenizer, SAYS)
    row, cut = said[0] + between + said[1][:1], len(said[0]) + len(between)
    for tokens, expected in ((cut, said[0]), (cut + 1, row)):
        says = sampler(said)
        samples = play(player(Talks, tokens=tokens), says)
        assert samples.completion_ids.tolist() == [expected]
        assert samples.action_mask[0, -1] == 1
        assert samples.finished.tolist() == [False]
        [episode] = samples.episodes
        roles = [turn["role"] for turn in episode.messages]
        assert roles == ["assistant"] if expected is said[0] else ["assistant", "user", "assistant"]
        assert episode.turns == len(roles) // 2 + 1
        assert episode.reward == 0.5
    assert says.asked[0][2] == [cut + 1]
    assert says.asked[1][2] == [1]


def test_a_turn_that_a_stop_text_has_finished_gets_the_end_that_it_has_not(tokenizer, player, sampler, play):
    """It is read like any other turn; nobody sampled that token, so it teaches nothing."""
    says = sampler([[10, 11], [12, END]])
    says.ends = (11, END)
    samples = play(player(Talks, turns=2), says)
    between = encoded(tokenizer, SAYS)
    assert samples.completion_ids.tolist() == [[10, 11, END, *between, 12, END]]
    assert samples.action_mask.tolist() == [[1, 1, 0, *[0] * len(between), 1, 1]]


LLAMA = {
    "": "<|start_header_id|>user<|end_header_id|>\n\nMore.<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "tool": '<|start_header_id|>ipython<|end_header_id|>\n\n"4"<|eot_id|>'
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
}
QWEN = {
    "": SAYS,
    "tool": "\n<|im_start|>user\n<tool_response>\n4\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
}
# template → its end of turn, the other ends that its models have, and what it writes behind an answer
FAMILIES = {
    "chatml": ("<|im_end|>", ["<|endoftext|>"], {"": SAYS}),
    "qwen2_5": ("<|im_end|>", ["<|endoftext|>"], QWEN),
    "qwen3_training": ("<|im_end|>", ["<|endoftext|>"], QWEN),
    "llama3_1": ("<|eot_id|>", ["<|eom_id|>", "<|end_of_text|>"], LLAMA),
    "llama3_2": ("<|eot_id|>", ["<|eom_id|>", "<|end_of_text|>"], LLAMA),
}
TURNS = {"": {"role": "user", "content": "More."}, "tool": {"role": "tool", "content": "4", "name": "add"}}


@pytest.fixture
def of_family(tokenizer, with_template):
    """of_family(name) -> a renderer whose tokenizer and ends are those of such a model."""

    def make(name: str) -> Renderer:
        end, others, _ = FAMILIES[name]
        own = copy.deepcopy(tokenizer) if name == "chatml" else with_template(name).tokenizer
        controls = ["<|start_header_id|>", "<|end_header_id|>"]
        own.add_tokens([AddedToken(token, special=True) for token in (*controls, end, *others)], special_tokens=True)
        own.eos_token = end
        return Renderer(own, own.convert_tokens_to_ids([end, *others]))

    return make


@pytest.mark.parametrize("role", TURNS)
@pytest.mark.parametrize("name", FAMILIES)
def test_behind_any_end_stands_what_the_template_writes(of_family, name, role):
    """Its own end of turn, once, whichever of the model's ends, or stop text, has ended the answer."""
    end, others, written = FAMILIES[name]
    if role not in written:
        return
    renderer = of_family(name)
    rest = encoded(renderer.tokenizer, written[role])
    end_id, *other_ids = renderer.tokenizer.convert_tokens_to_ids([end, *others])
    assert renderer.between([TURNS[role]]) == renderer.between([TURNS[role]], behind=end_id) == rest
    for behind in (*other_ids, 65):
        assert renderer.between([TURNS[role]], behind=behind) == [end_id, *rest]


CALLS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "{% if m['tool_calls'] %}{{ m['tool_calls'][0]['function']['name'] }}()<|call|>{% else %}<|im_end|>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_calls_may_have_an_end_of_their_own(tokenizer):
    own = copy.deepcopy(tokenizer)
    own.add_tokens([AddedToken("<|call|>", special=True)], special_tokens=True)
    own.chat_template = CALLS
    call = own.convert_tokens_to_ids("<|call|>")
    known, rest = Renderer(own, (END, call)), encoded(own, "<|im_start|>tool\n4<|im_end|><|im_start|>assistant\n")
    assert known.between([TURNS["tool"]], behind=call) == rest
    assert known.between([TURNS["tool"]], behind=END) == [call, *rest]  # as the template would write that call
    with pytest.raises(InputError, match=r"\(or ends none\)"):  # and not what stood before it: it is nobody's answer
        Renderer(own).between([TURNS["tool"]])


@pytest.mark.parametrize("name", ["chatml", "qwen2_5", "llama3_1"])
def test_episodes_whose_turns_end_with_other_ends(of_family, player, sampler, play, name):
    end, others, written = FAMILIES[name]
    renderer = of_family(name)
    end_id, *other_ids = renderer.tokenizer.convert_tokens_to_ids([end, *others])
    rest = encoded(renderer.tokenizer, written[""])
    turns = [[10, 11, other_ids[0]], [12, end_id], [13, other_ids[-1]]]
    says = sampler(turns)
    says.ends = (end_id, *other_ids)

    class Counted(Counts):
        def respond(self, text):
            return super().respond(text) and "More."

    samples = play(replace(player(Counted), renderer=renderer), says)
    expected = [*turns[0], end_id, *rest, *turns[1], *rest, *turns[2]]
    assert samples.completion_ids.tolist() == [expected]
    sampled = [1] * 3 + [0] * (1 + len(rest)) + [1] * 2 + [0] * len(rest) + [1] * 2
    assert samples.action_mask.tolist() == [sampled]
    assert samples.finished.tolist() == [True]
    said = [turn["content"] for turn in samples.episodes[0].messages if turn["role"] == "assistant"]
    assert said == [renderer.tokenizer.decode(ids) for ids in ([10, 11], [12], [13])]


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_after_the_last_turn_nothing_more_is_said(tokenizer, player, sampler, play, turns):
    samples = play(player(Talks, turns=turns), sampler([[10, END], [11, END], [12, END]]))
    between = encoded(tokenizer, SAYS)
    expected = [[10, END], [10, END, *between, 11, END], [10, END, *between, 11, END, *between, 12, END]]
    assert samples.completion_ids.tolist() == [expected[turns - 1]]
    assert samples.finished.tolist() == [False]  # the environment was not done
    assert samples.episodes[0].turns == turns


def test_an_environment_that_is_done_with_the_last_turn_is_finished(player, sampler, play):
    samples = play(player(Counts, turns=3), sampler([[10, END]] * 3))
    assert samples.finished.tolist() == [True]


def test_a_turn_that_is_cut_off_is_the_last(player, sampler, play):
    class Hears:
        heard = 0

        def respond(self, text):
            self.heard += 1
            return "More."

        def get_reward(self):
            return float(self.heard)

    says = sampler([[10, END], [11, 12, 13, 14, END]])
    samples = play(player(Hears, turn=3), says)
    assert samples.completion_ids[0, -3:].tolist() == [11, 12, 13]
    assert samples.finished.tolist() == [False]
    assert samples.episodes[0].reward == 1.0  # it is not told of an answer that has no end
    assert [limits for _, _, limits in says.asked] == [[3], [3]]


def test_the_text_of_a_failed_and_of_an_unanswered_turn_stands_in_no_row(player, sampler, play):
    class Breaks(Talks):
        def respond(self, text):
            raise ValueError("broken")

    samples = play(player(Breaks, drop=True), sampler([[10, END]]))
    assert samples.completion_ids.tolist() == [[10, END]]
    assert samples.action_mask.tolist() == [[1, 1]]
