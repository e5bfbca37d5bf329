"""easyrlhf chat: answers are the model's, appear while they are drawn, and a conversation never shrinks silently."""

import json
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from easyrlhf.cli import chat as command_line
from easyrlhf.config import SFTConfig
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.rollout.ending import Ending
from easyrlhf.rollout.sampler import HFSampler
from easyrlhf.stages.sft import train_sft
from easyrlhf.tools import chat

TOKENS = 12


def turn(role: str, content: str) -> dict:
    return {"role": role, "content": content}


@pytest.fixture(scope="module")
def sft(rm, tmp_path_factory) -> str:
    """A model that has learned to end its answers."""
    folder = tmp_path_factory.mktemp("sft")
    settings = {"learning_rate": 3e-3, "batch_size": 8, "epochs": 6, "max_length": 64, "max_prompt_length": 40}
    settings |= {"devices": "cpu", "report_to": "none", "eval_steps": 0}
    train_sft(SFTConfig(model=str(rm.root / "init"), train_data=rm.train, output_dir=str(folder), **settings))
    return str(folder)


def talk(model, lines: list[str], *words: str, code: int = 0):
    """What is printed when these lines come in through a pipe."""
    given = [str(model), "--max_new_tokens", str(TOKENS), "--temperature", "0", "--devices", "cpu", *words]
    done = CliRunner().invoke(command_line.command, given, input="".join(f"{line}\n" for line in lines))
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def greedy(sft):
    """greedy(conversation, lm=…) -> transformers' own greedy answer, and whether it ended."""
    tokenizer, own = AutoTokenizer.from_pretrained(sft), AutoModelForCausalLM.from_pretrained(sft)

    def answer(*turns: dict, lm=own) -> tuple[str, bool]:
        ids = tokenizer.apply_chat_template(
            list(turns), add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        out = lm.generate(**ids, do_sample=False, max_new_tokens=TOKENS)[0, ids["input_ids"].shape[1] :]
        return tokenizer.decode(out, skip_special_tokens=True).strip(), out[-1].item() == tokenizer.eos_token_id

    return answer


@pytest.fixture
def seen(sft, monkeypatch):
    """What the model is given turn by turn, as text, and how the template would write a conversation."""
    tokenizer, stream, prompts = AutoTokenizer.from_pretrained(sft), HFSampler.stream, []

    def watched(self, prompt, key):
        prompts.append(tokenizer.decode(prompt))
        return stream(self, prompt, key)

    monkeypatch.setattr(HFSampler, "stream", watched)
    written = partial(tokenizer.apply_chat_template, tokenize=False, add_generation_prompt=True)
    return prompts, lambda *turns: written(list(turns))


def test_greedy_answers_are_those_of_transformers_turn_after_turn(sft, greedy, seen):
    conversation, expected, prompts = [], [], []
    for said in ("Say red.", "Say owl.", "Say blue."):
        conversation.append(turn("user", said))
        prompts.append(seen[1](*conversation))
        answer, ended = greedy(*conversation)
        conversation.append(turn("assistant", answer))
        expected += [answer] + [f"(cut off after {TOKENS} tokens: --max_new_tokens)"] * (not ended)
    assert expected[0] == "red."
    done = talk(sft, ["Say red.", "", "Say owl.", "Say blue."])  # an empty line says nothing
    assert done.stdout.splitlines() == expected
    assert seen[0] == prompts


def test_reset_system_and_exit(sft, greedy):
    lines = [
        "Say red.",
        "/reset",
        "Say owl.",
        "/system Be brief.",
        "Say owl.",
        "/reset",
        "Say owl.",
        "/exit",
        "Say no.",
    ]
    alone = greedy(turn("user", "Say owl."))[0]
    guided = greedy(turn("system", "Be brief."), turn("user", "Say owl."))[0]
    found = [line for line in talk(sft, lines).stdout.splitlines() if not line.startswith("(cut off")]
    assert found == [
        greedy(turn("user", "Say red."))[0],
        "(the conversation is empty)",
        alone,
        "(the conversation is empty; it has a system prompt)",
        guided,
        "(the conversation is empty; it has a system prompt)",
        guided,
    ]
    given = talk(sft, ["Say owl."], "--system", "Be brief.").stdout.splitlines()
    assert given[0] == guided


def test_what_begins_with_a_slash_is_not_sent_by_mistake(sft, greedy):
    done = talk(sft, ["/rest", " /rest"])
    first, second = done.stdout.splitlines()[:2]
    assert first.startswith("warning: /rest is no command: /reset forgets")
    assert second == greedy(turn("user", "/rest"))[0].splitlines()[0]


@pytest.mark.parametrize("line", [" /reset", " /exit", " /system Be brief.", " ?"])
def test_a_space_makes_a_message_of_a_command(sft, seen, line):
    prompts, written = seen
    talk(sft, ["Say owl.", line])
    assert prompts[1].startswith(prompts[0]) and prompts[1].endswith(written(turn("user", line.strip())))


@pytest.mark.parametrize("line", ["/help", "?"])
def test_help_tells_the_commands(sft, seen, line):
    told = " ".join(talk(sft, [line, "/quit", "Say owl."]).stdout.split())
    assert all(command in told for command in ("/reset", "/system TEXT", "/exit or /quit", "/help or ?", '""" begins'))
    assert not seen[0]


@pytest.mark.parametrize(
    "lines, text",
    [
        (['"""Say owl', "", '  and "red".', '"""'], 'Say owl\n\n  and "red".'),
        (['"""/exit', 'Say owl."""'], "/exit\nSay owl."),
        (['"""Say owl."""'], "Say owl."),
        (['"""Say', "owl."], "Say\nowl."),
    ],
    ids=["lines", "command", "one line", "input ends"],
)
def test_a_message_of_several_lines_stands_between_quotes(sft, seen, lines, text):
    prompts, written = seen
    talk(sft, lines)
    assert prompts == [written(turn("user", text))]


@torch.no_grad()
def test_the_reward_is_that_of_the_reward_model(sft, rm, greedy):
    tokenizer, lm = AutoTokenizer.from_pretrained(rm.folder), AutoModelForCausalLM.from_pretrained(rm.folder)
    head = load_file(Path(rm.folder) / "value_head.safetensors")
    text = "<|im_start|>user\nSay red.<|im_end|>\n<|im_start|>assistant\nred.<|im_end|>"
    hidden = lm(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[-1][0, -1]
    score = (head["v_head.summary.weight"] @ hidden + head["v_head.summary.bias"]).item()
    assert greedy(turn("user", "Say red."))[0] == "red."
    said, reward = talk(sft, ["Say red."], "--reward_model", rm.folder).stdout.splitlines()
    assert said == "red."
    assert float(reward.removeprefix("reward ")) == pytest.approx(score, abs=2e-4)


def test_a_conversation_that_has_grown_too_long_forgets_its_oldest_turns_and_says_so(sft, greedy):
    first, second, third = (turn("user", f"Say {word}.") for word in ("red", "owl", "blue"))
    tokens = load_tokenizer(sft)
    answers = [turn("assistant", greedy(first)[0])]
    answers.append(turn("assistant", greedy(first, answers[0], second)[0]))
    whole = [turn("system", "Hi"), first, answers[0], second]
    room = len(tokens.apply_chat_template(whole, add_generation_prompt=True, return_dict=False)) + 1
    system = turn("system", "Hi")
    one = turn("assistant", greedy(system, first)[0])
    two = turn("assistant", greedy(system, first, one, second)[0])
    three = greedy(system, second, two, third)[0]
    lines = ["Say red.", "Say owl.", "Say blue.", "Say red. " * 40, "Say blue."]
    done = talk(sft, lines, "--system", "Hi", "--max_length", str(room + TOKENS))
    found = [line for line in done.stdout.splitlines() if not line.startswith("(cut off")]
    assert found[:4] == [
        one["content"],
        two["content"],
        f"warning: the oldest 2 turns are forgotten: a conversation has room for {room} tokens",
        three,
    ]
    assert "this message is not sent: it has" in found[4] and f"more than {room}" in found[4]
    assert "are forgotten" in found[5]  # the last message still has an answer


def test_an_answer_appears_while_it_is_drawn_and_characters_appear_whole(tokenizer, monkeypatch, capsys):
    """Every token's text is printed before the next one is drawn; the four bytes of a smile only together."""
    renderer = Renderer(tokenizer)
    ids = [*tokenizer(" hello 😀 you", add_special_tokens=False)["input_ids"], renderer.end_of_turn_id]
    printed = []

    class Drawing:
        def stream(self, prompt, key):
            assert (prompt, key) == ([5], (3, 0))
            for token in ids:
                yield token
                printed.append(capsys.readouterr().out)

    config = command_line.ChatConfig(model="m", seed=3)
    one = chat.Chat(config, renderer, Drawing(), None, None, None, None, [])
    assert one.stream([5]) == (ids, "hello 😀 you")
    assert "".join(printed) + capsys.readouterr().out == "hello 😀 you\n"
    assert sum(bool(piece) for piece in printed) >= 5
    assert not any("\ufffd" in piece for piece in printed)
    chat.write("a\x1b[31mb\n")
    assert capsys.readouterr().out == "a\ufffd[31mb\n"


def test_ctrl_c_stops_an_answer_and_the_conversation_goes_on(sft, greedy, seen, monkeypatch):
    """The first answer is stopped before its first token, the second after it; the third sees what was said."""
    stops, stream = [0, 1, None], HFSampler.stream

    def stopped(self, prompt, key):
        stop = stops.pop(0)
        yield from islice(stream(self, prompt, key), stop)
        if stop is not None:
            raise KeyboardInterrupt

    monkeypatch.setattr(HFSampler, "stream", stopped)
    ask, tokenizer = turn("user", "Say red."), AutoTokenizer.from_pretrained(sft)
    start = tokenizer.decode(tokenizer(greedy(ask)[0], add_special_tokens=False)["input_ids"][:1])
    talked = [ask, turn("assistant", start), turn("user", "Say blue.")]
    found = talk(sft, ["Say owl.", "Say red.", "Say blue."]).stdout.splitlines()
    assert found[:5] == ["", "(stopped)", start, "(stopped)", greedy(*talked)[0]]
    assert seen[0][-1] == seen[1](*talked)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_streamed_tokens_are_those_that_generate_draws(tiny_lm, temperature):
    sampler = HFSampler(tiny_lm(dtype=torch.float64), 0, Ending((30,)), 12, temperature, 4)
    prompts, keys = [[5, 6, 7], [8], [9, 10], [11, 12]], [(0, i) for i in range(4)]
    samples = sampler.generate(prompts, keys)
    for i, (prompt, key) in enumerate(zip(prompts, keys, strict=True)):
        count = int(samples.completion_mask[i].sum())
        assert list(sampler.stream(prompt, key)) == samples.completion_ids[i, :count].tolist()


def test_the_seed_decides_the_answers(sft, rm):
    model = rm.root / "init"  # undecided, so that samples differ
    texts = [talk(model, ["Say red."], "--temperature", "1", "--seed", str(seed)).stdout for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_an_adapter_is_put_on_the_model(sft, greedy, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(sft)
    torch.manual_seed(0)
    lora = get_peft_model(base, LoraConfig(r=4, lora_alpha=99, target_modules="all-linear", init_lora_weights=False))
    lora.save_pretrained(tmp_path / "adapter")
    with_adapter = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(sft), tmp_path / "adapter").eval()
    expected = greedy(turn("user", "Say red."), lm=with_adapter)[0]
    assert expected != greedy(turn("user", "Say red."))[0]
    done = talk(sft, ["Say red."], "--adapter", str(tmp_path / "adapter"))
    assert done.stdout.splitlines()[0] == expected.splitlines()[0]


def test_an_adapter_of_another_model_is_refused(sft, tiny_lm, tmp_path):
    lora = get_peft_model(tiny_lm("llama"), LoraConfig(r=4, target_modules="all-linear"))
    lora.save_pretrained(tmp_path / "narrow")
    deep = get_peft_model(tiny_lm("gpt2"), LoraConfig(r=4, target_modules=["c_attn"]))
    deep.save_pretrained(tmp_path / "gpt2")
    half = get_peft_model(AutoModelForCausalLM.from_pretrained(sft), LoraConfig(r=4, target_modules="all-linear"))
    half.save_pretrained(tmp_path / "half")
    tensors = load_file(tmp_path / "half" / "adapter_model.safetensors")
    save_file({k: v for k, v in tensors.items() if "q_proj" not in k}, tmp_path / "half" / "adapter_model.safetensors")
    for name in ("narrow", "gpt2", "half"):
        done = talk(sft, ["Say red."], "--adapter", str(tmp_path / name), code=2)
        assert f"{name}: does not fit --model {sft}" in done.stderr


def test_an_adapter_whose_base_is_not_there_is_named_with_it(sft, tiny_lm, tmp_path):
    lora = get_peft_model(tiny_lm("llama"), LoraConfig(r=4, target_modules="all-linear"))
    lora.peft_config["default"].base_model_name_or_path = "some/base"
    lora.save_pretrained(tmp_path / "adapter")
    done = talk(tmp_path / "adapter", ["Say red."], code=2)
    assert f"{tmp_path / 'adapter'}: is an adapter whose base model" in done.stderr
    assert "cannot be used: some/base: " in done.stderr


@pytest.fixture
def changed(sft, tmp_path):
    """changed(file, change) -> a copy of the model's folder in which the JSON of one file is changed."""

    def make(file: str, change) -> Path:
        folder = tmp_path / "changed"
        folder.mkdir()
        for path in Path(sft).iterdir():
            if path.is_file():
                (folder / path.name).write_bytes(path.read_bytes())
        value = json.loads((folder / file).read_text())
        change(value)
        (folder / file).write_text(json.dumps(value))
        return folder

    return make


def test_a_model_without_a_chat_template_is_refused_and_takes_one(changed):
    folder = changed("tokenizer_config.json", lambda value: value.pop("chat_template", None))
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    (folder / "stage.json").unlink()  # which knows the file
    done = talk(folder, ["Say red."], code=2)
    assert "has none; give one with --chat_template chatml" in done.stderr
    assert talk(folder, ["Say red."], "--chat_template", "chatml").stdout.splitlines() == ["red."]


def test_an_unfinished_model_is_refused_or_allowed(changed):
    folder = changed("stage.json", lambda value: value.update(status="running"))
    done = talk(folder, ["Say red."], code=2)
    assert "its sft run is not complete (status running)" in done.stderr
    assert talk(folder, ["Say red."], "--allow_incomplete").stdout.splitlines() == ["red."]


@pytest.mark.parametrize(
    "words, message",
    [
        (("--max_new_tokens", "1024"), "was made for 1024 tokens at most, prompt and answer together"),
        (("--max_length", "40", "--system", "Be brief. " * 30), "--system: leaves no room for a conversation"),
        (("--adapter", "nowhere"), "nowhere: has no adapter_config.json"),
        (("--reward_model", "MODEL"), "has no value_head.safetensors"),
        (("--model", "nowhere/at_all/here"), "nowhere/at_all/here"),
        (("--chat_template", "chatmll"), "did you mean chatml?"),
        (("--devices", "gpu"), "must be cpu or one GPU index"),
    ],
)
def test_what_cannot_work_is_refused_before_the_model_is_loaded(sft, words, message, monkeypatch):
    monkeypatch.setattr(chat, "load_sampler", lambda *_: pytest.fail("the model was loaded first"))
    done = talk(sft, ["Say red."], *(sft if word == "MODEL" else word for word in words), code=2)
    assert message in done.stderr


def test_a_reward_model_does_not_chat(rm):
    done = talk(rm.folder, ["Say red."], code=2)
    assert "is a reward model, which scores answers and writes none" in done.stderr


# --- tools


TOOLS = '''
import time


def price(thing: str) -> int:
    """Look up a price.

    Args:
        thing: What is sold.
    """
    if thing == "gold":
        time.sleep(5)
    return {"egg": 2}[thing]


async def now() -> str:
    """Tell the time."""
    return "noon"


def bare(thing):
    return thing
'''


def call(name: str, **arguments) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


@pytest.fixture
def told(sft, tmp_path, monkeypatch):
    """told(lines, turns, *words) -> (what is printed, what the model was given for each of these turns it says)."""
    tokenizer, prompts = AutoTokenizer.from_pretrained(sft), []
    (tmp_path / "shop.py").write_text(TOOLS)

    def run(lines: list[str], turns: list[str], *words: str):
        said = iter(turns)

        def stream(self, prompt, key):
            prompts.append(tokenizer.decode(prompt))
            ids = [*tokenizer(next(said))["input_ids"], tokenizer.eos_token_id]
            yield from ids if "--max_new_tokens" not in words else ids[:-1]

        monkeypatch.setattr(HFSampler, "stream", stream)
        functions = f"{tmp_path / 'shop.py'}:price,{tmp_path / 'shop.py'}:now"
        done = talk(sft, lines, "--tools", functions, *words)
        assert next(said, None) is None
        return done, prompts

    return run


def test_calls_are_made_and_shown_until_an_answer_has_none(told):
    turns = ["I look. " + call("price", thing="egg") + "\n" + call("now"), "Two, at noon.", "No."]
    done, prompts = told(["What is an egg?", "Sure?"], turns)
    assert done.stdout == f'{turns[0]}\n→ price(thing="egg")\n← 2\n→ now()\n← noon\nTwo, at noon.\nNo.\n'
    assert len(prompts) == 3
    assert all('"name": "price", "description": "Look up a price."' in prompt for prompt in prompts)
    results = "<|im_start|>tool\n2<|im_end|>\n<|im_start|>tool\nnoon<|im_end|>\n<|im_start|>assistant\n"
    calls = turns[0].replace(". <", ".\n<")  # as the template writes them
    assert prompts[1].endswith(f"<|im_start|>assistant\n{calls}<|im_end|>\n{results}")
    assert prompts[2].startswith(prompts[1] + "Two, at noon.<|im_end|>") and "Sure?" in prompts[2]


ERRORS = {
    "raises": (call("price", thing="ham"), """{"error": "KeyError: 'ham'"}"""),
    "unknown": (call("cost"), '{"error": "there is no tool cost; there are price, now"}'),
    "slow": (call("price", thing="gold"), "its tool price gave no answer within 0.2 s"),
}


@pytest.mark.parametrize("said, result", ERRORS.values(), ids=ERRORS)
def test_a_call_that_fails_is_answered_with_its_error(told, said, result):
    done, prompts = told(["Go."], [said, "Sorry."], "--environment_timeout", "0.2")
    assert result in done.stdout.partition("\n← ")[2].splitlines()[0]
    assert done.stdout.endswith("\nSorry.\n") and "error" in prompts[1].rpartition("<|im_start|>tool")[2]


def test_a_model_that_only_calls_is_stopped(told):
    done, _ = told(["Go."], [call("now")] * 3, "--max_turns", "3")
    assert "the model has called tools in all of its --max_turns 3 turns" in done.output


def test_a_call_that_was_cut_off_is_not_made(told):
    done, prompts = told(["Go."], [call("now")], "--max_new_tokens", "40")
    assert "→ now()" not in done.stdout and len(prompts) == 1


def test_a_broken_call_is_an_answer(told):
    done, _ = told(["Go."], ['<tool_call>\n{"name": "now", </tool_call>'])
    assert "←" not in done.stdout


def test_tools_that_cannot_be_used_are_refused_before_a_model_is_loaded(sft, tmp_path, monkeypatch):
    monkeypatch.setattr(chat, "load_sampler", lambda *_: pytest.fail("a model was loaded"))
    (tmp_path / "shop.py").write_text(TOOLS)
    for name, more, said in (
        ("sell", (), "has no function sell; it has price, now, bare"),
        ("bare", (), "--tools: the tool bare cannot be described to the model"),
        ("price", ("--chat_template", "hh"), "it is not known how this one writes calls"),
    ):
        done = talk(sft, ["Go."], "--tools", f"{tmp_path / 'shop.py'}:{name}", *more, code=2)
        assert said in done.output
