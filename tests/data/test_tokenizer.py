"""End-of-turn, pad and template of a loaded tokenizer, and its fingerprint."""

import json
import time
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from easyrlhf.data.templates import CHATML
from easyrlhf.data.tokenizer import load_tokenizer, tokenizer_fingerprint
from easyrlhf.errors import InputError


def with_template(folder, target, template: str) -> str:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(target)
    return str(target)


def test_the_templates_end_of_turn_becomes_eos_and_pad_is_another_token(qwen_folder):
    before = AutoTokenizer.from_pretrained(qwen_folder)
    assert before.eos_token == before.pad_token == "<|endoftext|>"
    tokenizer = load_tokenizer(str(qwen_folder))
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"
    assert len(tokenizer) == len(before)


def test_a_base_tokenizer_gets_template_control_tokens_and_pad(base_folder):
    tokenizer = load_tokenizer(str(base_folder), chat_template="chatml")
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.tokenize("<|im_start|>user")[0] == "<|im_start|>"
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    assert tokenizer.pad_token == "<|endoftext|>"  # free, now that <|im_end|> ends a turn


def test_pad_is_added_when_only_eos_exists(base_folder):
    tokenizer = load_tokenizer(str(base_folder))
    assert tokenizer.chat_template is None
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|endoftext|>", "<|pad|>")
    assert tokenizer.pad_token_id == len(tokenizer) - 1


@pytest.mark.parametrize("reserved", ["<|finetune_right_pad_id|>", "<|reserved_special_token_0|>"])
def test_a_reserved_token_is_used_as_pad_and_none_added(base_folder, tmp_path, reserved):
    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    tokenizer.add_tokens([reserved], special_tokens=True)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.pad_token == reserved
    assert len(loaded) == len(tokenizer)


def test_unk_is_taken_for_pad_and_the_vocabulary_stays(llama2_folder):
    tokenizer = load_tokenizer(str(llama2_folder))
    assert tokenizer.pad_token == "<unk>"
    assert len(tokenizer) == len(AutoTokenizer.from_pretrained(llama2_folder))


def smollm2(folder, target, template: str = CHATML) -> str:
    """The special tokens of SmolLM2: BOS opens every turn, PAD is EOS, the unknown token ends documents."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    others = ["<|im_start|>", "<|im_end|>", "<repo_name>", "<file_sep>", "<jupyter_text>"]
    tokenizer.add_special_tokens({"additional_special_tokens": others})
    roles = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    tokenizer.add_special_tokens(roles | {"unk_token": "<|endoftext|>"})
    tokenizer.chat_template = template
    tokenizer.save_pretrained(target)
    return str(target)


def test_the_vocabulary_of_smollm2_does_not_grow_for_padding(base_folder, tmp_path):
    path = smollm2(base_folder, tmp_path)
    tokenizer = load_tokenizer(path)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert tokenizer.pad_token == "<|endoftext|>"
    assert len(tokenizer) == len(AutoTokenizer.from_pretrained(path))


def test_a_token_that_the_template_writes_is_not_taken_for_pad(base_folder, tmp_path):
    path = smollm2(base_folder, tmp_path, CHATML + "{{ '<|endoftext|>' }}{% if false %}<repo_name>{% endif %}")
    assert load_tokenizer(path).pad_token == "<file_sep>"


@pytest.mark.parametrize("name, end", [("hh", "<|endoftext|>"), ("llama3", "<|eot_id|>")])
def test_the_other_named_templates_end_turns_with_their_own_token(base_folder, name, end):
    assert load_tokenizer(str(base_folder), chat_template=name).eos_token == end


def test_a_template_file_is_read_and_wins_over_the_folders_own(qwen_folder, tmp_path):
    file = tmp_path / "mine.jinja"
    file.write_text("{% for m in messages %}[{{ m['content'] }}<|endoftext|>{% endfor %}")
    tokenizer = load_tokenizer(str(qwen_folder), chat_template=str(file))
    assert tokenizer.chat_template == file.read_text()
    assert tokenizer.eos_token == "<|endoftext|>"
    assert tokenizer.pad_token not in (None, "<|endoftext|>")


def test_the_template_is_saved_as_a_file_of_its_own_and_comes_back(base_folder, tmp_path):
    load_tokenizer(str(base_folder), chat_template="chatml").save_pretrained(tmp_path)
    assert "<|im_start|>" in (tmp_path / "chat_template.jinja").read_text()
    assert load_tokenizer(str(tmp_path)).eos_token == "<|im_end|>"


@pytest.mark.parametrize("template", [None, "chatml", "hh", "llama3"])
def test_the_fingerprint_survives_saving_and_loading(base_folder, tmp_path, template):
    first = load_tokenizer(str(base_folder), chat_template=template)
    first.save_pretrained(tmp_path / "1")
    second = load_tokenizer(str(tmp_path / "1"))
    second(["a", "longer text"], padding=True, truncation=True, max_length=2)  # leaves no trace
    second.save_pretrained(tmp_path / "2")
    third = load_tokenizer(str(tmp_path / "2"))
    assert tokenizer_fingerprint(first) == tokenizer_fingerprint(second)
    assert tokenizer_fingerprint(first) == tokenizer_fingerprint(third)


def test_the_fingerprint_of_a_qwen_tokenizer_survives_too(qwen_folder, tmp_path):
    first = load_tokenizer(str(qwen_folder))
    first.save_pretrained(tmp_path)
    assert tokenizer_fingerprint(first) == tokenizer_fingerprint(load_tokenizer(str(tmp_path)))


def test_the_fingerprint_tells_templates_vocabularies_merges_and_special_tokens_apart(base_folder, tmp_path):
    plain, chatml, hh = (
        tokenizer_fingerprint(load_tokenizer(str(base_folder), chat_template=name)) for name in (None, "chatml", "hh")
    )
    assert plain["chat_template"] != chatml["chat_template"] != hh["chat_template"]
    assert plain["tokenizer"] != chatml["tokenizer"]
    assert plain["tokenizer"] == hh["tokenizer"]  # hh adds no token

    load_tokenizer(str(base_folder)).save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    stored = json.loads(file.read_text())
    merges = stored["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]
    file.write_text(json.dumps(stored))
    assert tokenizer_fingerprint(load_tokenizer(str(tmp_path)))["tokenizer"] != plain["tokenizer"]


def test_a_missing_folder_is_answered_with_the_nearest_name(tmp_path):
    (tmp_path / "sft").mkdir()
    with pytest.raises(InputError, match=r"stf: no such folder; did you mean .*sft"):
        load_tokenizer(str(tmp_path / "stf"))


def test_a_folder_without_tokenizer_is_named(tmp_path):
    with pytest.raises(InputError, match="holds no tokenizer"):
        load_tokenizer(str(tmp_path))


def test_a_broken_tokenizer_file_is_an_input_error(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{broken")
    with pytest.raises(InputError, match="cannot load its tokenizer"):
        load_tokenizer(str(tmp_path))


def test_a_hub_id_that_cannot_be_reached_is_answered_within_seconds(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(InputError, match=r"Nobody/nothing-1B: .*cannot be reached.*tokenizer\.json"):
        load_tokenizer("Nobody/nothing-1B")
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    "template, said",
    [
        ("chatlm", "neither one of chatml, hh, llama3 nor a Jinja file; did you mean chatml?"),
        ("{{ broken", "neither one of"),
    ],
)
def test_an_unknown_template_name_is_answered_with_the_known_ones(base_folder, template, said):
    with pytest.raises(InputError) as error:
        load_tokenizer(str(base_folder), chat_template=template)
    assert said in str(error.value)


@pytest.mark.parametrize(
    "template, said",
    [
        ("{{ broken", "cannot render a question and an answer"),
        ("{{ messages[0]['content'] }}", "leaves out the answer"),
        ("{{ raise_exception('never') }}", "cannot render a question and an answer (never)"),
    ],
)
def test_a_template_that_cannot_work_is_refused(base_folder, tmp_path, template, said):
    Path(tmp_path / "t.jinja").write_text(template)
    with pytest.raises(InputError) as error:
        load_tokenizer(str(base_folder), chat_template=str(tmp_path / "t.jinja"))
    assert said in str(error.value)


def test_a_template_without_end_of_turn_token_gets_the_tokenizers_eos(base_folder, tmp_path):
    template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    path = with_template(base_folder, tmp_path, template)
    assert load_tokenizer(path).eos_token == "<|endoftext|>"


def test_a_tokenizer_that_could_end_no_answer_is_refused(base_folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(base_folder)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="no EOS token"):
        load_tokenizer(str(tmp_path))
