"""Models and tools in Python: the same numbers as the commands give, and answers to what cannot be."""

import json
import re
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import easyrlhf
from easyrlhf.cli.main import main

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
WORDS = ["red", "blue", "owl"]


def user(text: str) -> list[dict]:
    return [{"role": "user", "content": text}]


ASKED = [user(f"Say {word}.") for word in WORDS]


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def command(tmp_path: Path, *words: str) -> list[dict]:
    """The rows that a command writes."""
    out = tmp_path / "out.jsonl"
    done = CliRunner().invoke(main, [*words, "--output", str(out), "--devices", "cpu", "--overwrite"])
    assert done.exit_code == 0, done.output
    return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.fixture(scope="module")
def policy(rm):
    return easyrlhf.load_policy(rm.root / "init", devices="cpu", max_new_tokens=6)


@pytest.fixture(scope="module")
def judge(rm):
    return easyrlhf.load_reward_model(rm.folder, devices="cpu")


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0},
        {"temperature": 0.7, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.1, "seed": 7, "max_new_tokens": 9},
    ],
)
def test_answers_are_those_of_the_command(policy, rm, tmp_path, settings):
    flags = [word for name, value in ({"max_new_tokens": 6} | settings).items() for word in (f"--{name}", str(value))]
    texts = ["Once upon", "In the"]
    files = [write(tmp_path / f"{i}.jsonl", [{"prompt": one} for one in some]) for i, some in enumerate([ASKED, texts])]
    rows = [command(tmp_path, "generate", str(rm.root / "init"), "--prompts", file, *flags) for file in files]
    found = policy.generate(ASKED, **settings)
    assert [one.completion for one in found] == [row["completion"] for row in rows[0]]
    assert [one.finished for one in found] == [row["finished"] for row in rows[0]]
    assert str(found[0]) == rows[0][0]["completion"][0]["content"]
    with pytest.warns(UserWarning, match="has a chat template, and a text is read as it is"):
        found = policy.generate(texts, **settings)
    assert [one.text for one in found] == [row["completion"] for row in rows[1]]


def test_an_adapter_folder_is_loaded_on_the_model_that_it_names(policy, rm, tmp_path):
    base = AutoModelForCausalLM.from_pretrained(rm.root / "init")
    torch.manual_seed(0)
    lora = get_peft_model(base, LoraConfig(r=4, lora_alpha=99, target_modules="all-linear", init_lora_weights=False))
    lora.save_pretrained(tmp_path / "adapter")
    settings = {"devices": "cpu", "max_new_tokens": 6, "temperature": 0}
    alone = easyrlhf.load_policy(tmp_path / "adapter", **settings)
    put_on = easyrlhf.load_policy(rm.root / "init", adapter=tmp_path / "adapter", **settings)
    ids = alone.renderer.prompt_ids(ASKED[0])
    with torch.no_grad():
        drawn = lora.eval().generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False)[0]
    for loaded in (alone, put_on):
        assert loaded.generate(ASKED[0])[0].text == loaded.renderer.decode(drawn[len(ids) :].tolist()).strip()
    assert alone.generate(ASKED[0])[0].text != policy.generate(ASKED[0], temperature=0)[0].text


def test_samples_of_a_prompt_stand_side_by_side_and_differ(policy, rm, tmp_path):
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": prompt} for prompt in ASKED])
    rows = command(
        tmp_path, "generate", str(rm.root / "init"), "--prompts", prompts, "--samples", "2", "--max_new_tokens", "6"
    )
    found = policy.generate(ASKED, num_samples=2, batch_size=1)
    assert [(one.sample, one.completion) for one in found] == [(row["sample"], row["completion"]) for row in rows]
    assert found[0].text != found[1].text
    assert easyrlhf.generate(policy, ASKED[0], num_samples=2) == found[:2]
    assert policy.generate([]) == []


def test_a_stop_text_ends_answers_of_that_call_alone(policy):
    [whole] = policy.generate(ASKED[0], temperature=0, max_new_tokens=12)
    letter = whole.text[2]
    [cut] = policy.generate(ASKED[0], temperature=0, max_new_tokens=12, stop=[letter], stop_finishes=True)
    assert cut.text == whole.text[: whole.text.index(letter) + 1] and cut.finished
    assert policy.generate(ASKED[0], temperature=0, max_new_tokens=12)[0].text == whole.text


def test_log_probabilities_are_those_of_transformers(policy, rm):
    lm = AutoModelForCausalLM.from_pretrained(rm.root / "init", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(rm.root / "init")
    start = "<|im_start|>user\nSay red.<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(start + "red.<|im_end|>", add_special_tokens=False, return_tensors="pt")["input_ids"]
    first = len(tokenizer(start, add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        logprobs = (lm(ids).logits[0] / 0.5).log_softmax(-1)
    expected = logprobs[first - 1 : -1].gather(1, ids[0, first:, None])[:, 0].tolist()
    found = policy.logprobs(ASKED[0], "red.", temperature=0.5)
    assert [token.id for token in found] == ids[0, first:].tolist() and found[-1].text == "<|im_end|>"
    assert [token.logprob for token in found] == pytest.approx(expected, abs=1e-5)
    assert policy.logprobs(ASKED[0], [{"role": "assistant", "content": "red."}], temperature=0.5) == found


def test_scores_are_those_of_the_command(judge, rm, tmp_path):
    answer = [{"role": "assistant", "content": "red."}]
    asked = [*ASKED[0], *answer, *ASKED[1]]
    rows = [{"prompt": ASKED[0], "completion": answer}, {"prompt": asked, "completion": answer}]
    rows += [{"text": "The sky."}, {"prompt": "Say", "completion": " red."}]
    files = [write(tmp_path / f"{i}.jsonl", [row]) for i, row in enumerate(rows)]
    expected = [command(tmp_path, "score", rm.folder, "--data", file)[0]["score"] for file in files]
    with pytest.warns(UserWarning, match="has a chat template, and a text is read as it is"):
        found = judge.score([ASKED[0] + answer, (asked, "red."), "The sky.", ("Say", " red.")])
    assert found == pytest.approx(expected, abs=1e-5) and len(set(found)) == 4
    assert judge.score((ASKED[0], answer)) == pytest.approx(expected[:1], abs=1e-5)
    done = CliRunner().invoke(main, ["score", rm.folder, "--text", "The sky.", "--devices", "cpu"])
    assert float(done.stdout) == pytest.approx(judge.score("The sky.")[0], abs=1e-5)


def test_an_answer_that_was_cut_off_is_scored_without_an_end(judge, policy, rm, tmp_path):
    prompts = write(tmp_path / "prompts.jsonl", [{"prompt": prompt} for prompt in ASKED])
    words = ["--prompts", prompts, "--max_new_tokens", "6", "--reward_model", rm.folder]
    rows = command(tmp_path, "generate", str(rm.root / "init"), *words)
    answers = policy.generate(ASKED)
    assert not all(answer.finished for answer in answers)
    assert judge.score(zip(ASKED, answers, strict=True)) == pytest.approx([row["reward"] for row in rows], abs=1e-5)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda p, j: p.generate("x", temprature=1), "SettingError", "temprature: is no setting of generate; did you"),
        (lambda p, j: p.generate("x", max_tokens=5), "SettingError", r"max_tokens: .*; here it is max_new_tokens"),
        (lambda p, j: p.generate("x", n=2), "SettingError", "n: is no setting of generate; here it is num_samples"),
        (lambda p, j: p.generate("x", num_sample=2), "SettingError", "num_sample: .*; did you mean num_samples?"),
        (
            lambda p, j: p.generate("x", min_p=0.1),
            "SettingError",
            "min_p: is no setting of generate; not in this versi",
        ),
        (lambda p, j: easyrlhf.check_data("x.jsonl"), "SettingError", "stage is required. The stage that is to learn"),
        (lambda p, j: p.generate("x", devices="cpu"), "SettingError", "devices: belongs to the model; give it to load"),
        (lambda p, j: p.generate("x", temperature=-1), "SettingError", "temperature -1.0: must be 0 or more"),
        (lambda p, j: p.generate("x", num_samples=0), "SettingError", "num_samples 0: takes a whole number, 1 or more"),
        (lambda p, j: p.generate([*ASKED, 3]), "InputError", r"key 'prompts\[3\]': expected a string or messages, fou"),
        (lambda p, j: p.generate([ASKED[0], ""]), "InputError", r"prompts\[1\]: no prompt before the answer"),
        (lambda p, j: p.generate([user("a " * 2000)]), "InputError", r"prompts\[0\]: 4,\d\d\d tokens, more than 1,018"),
        (lambda p, j: p.generate([{"role": "user"}]), "InputError", r"prompts\[0\]"),
        (lambda p, j: p.generate(None), "InputError", r"key 'prompts\[0\]': expected a string or messages, found null"),
        (lambda p, j: p.logprobs(ASKED[0], ""), "InputError", r"completion\[1\]: empty completion"),
        (lambda p, j: p.logprobs(ASKED[0], "a", temperature=0), "SettingError", "temperature 0: must be greater than"),
        (lambda p, j: j.score(ASKED), "InputError", r"rows\[0\]: no assistant turn"),
        (lambda p, j: j.score(["a", "b " * 999]), "InputError", r"rows\[1\]: 1,999 tokens, more than 1,024; shorten"),
        (lambda p, j: j.score([("a", "b", "c")]), "InputError", r"rows\[0\]: expected a pair .* found 3 items"),
        (lambda p, j: j.score([("a", user("b"))]), "InputError", r"rows\[0\]\[1\]: no assistant turn"),
        (lambda p, j: j.score({"text": "a"}), "InputError", r"key 'rows\[0\]\[0\]': missing key 'role'; found"),
        (lambda p, j: easyrlhf.load_policy("x", model_name="y"), "SettingError", "model_name: .*; here it is model"),
        (lambda p, j: easyrlhf.load_policy("x", reward_model="y"), "SettingError", "a policy scores nothing; load_rew"),
        (lambda p, j: easyrlhf.load_policy("/no/where"), "InputError", "/no/where"),
        (lambda p, j: easyrlhf.load_policy(j.config.reward_model), "InputError", "is a reward model, which scores"),
        (lambda p, j: easyrlhf.load_reward_model(p.config.model), "InputError", "value_head.safetensors"),
        (lambda p, j: easyrlhf.load_reward_model("/no/where"), "InputError", "/no/where"),
        (lambda p, j: easyrlhf.load_reward_model("x", lenght=4), "SettingError", "lenght: is no setting of RewardMod"),
        (lambda p, j: easyrlhf.generate("x", "a", maxlength=4), "SettingError", "maxlength: .*; did you mean max_leng"),
    ],
)
def test_what_cannot_be_is_answered(policy, judge, call, error, message):
    with warnings.catch_warnings(), pytest.raises(getattr(easyrlhf, error), match=message):
        warnings.simplefilter("ignore")
        call(policy, judge)


def test_findings_come_as_objects_and_nothing_is_printed(tmp_path, capsys):
    good = {"prompt": user("Say red."), "completion": [{"role": "assistant", "content": "red."}]}
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(good) + "\n" + json.dumps(good) + "\n{not json\n")
    found = easyrlhf.check_data(file, stage="sft")
    assert capsys.readouterr().out == ""
    assert [(one.check, one.severity, one.count, one.total) for one in found] == [
        ("not_json", "error", 1, 3),
        ("duplicates", "warning", 1, 2),
    ]
    assert found[0].places[0].startswith(f"{file}:3") and found[0].remedy == "Write one whole JSON object a line."
    assert easyrlhf.check_data([str(file)], stage="sft", on_bad_row="skip")[0].severity == "warning"
    with pytest.raises(easyrlhf.SettingError, match="satge: is no setting of CheckConfig; did you mean stage"):
        easyrlhf.check_data(file, stage="sft", satge="rm")
    with pytest.raises(easyrlhf.InputError, match="no such file"):
        easyrlhf.check_data(tmp_path / "nothing.jsonl", stage="sft")


def test_a_comparison_in_python_is_what_the_file_says(rm, policy, tmp_path, monkeypatch):
    monkeypatch.setenv("EASYRLHF_CACHE", str(tmp_path / "cache"))

    def shorter(prompt, answer_a, answer_b):
        return "A" if len(answer_a) < len(answer_b) else "B" if len(answer_b) < len(answer_a) else "tie"

    def length(prompts, completions, **_):
        return [float(len(completion[0]["content"])) for completion in completions]

    other = tmp_path / "other"
    lm = AutoModelForCausalLM.from_pretrained(rm.root / "init")
    lm.lm_head.weight.data *= 1.5
    lm.save_pretrained(other)
    AutoTokenizer.from_pretrained(rm.root / "init").save_pretrained(other)
    settings = {"output_dir": tmp_path / "compare", "max_new_tokens": 6, "devices": "cpu"}
    found = easyrlhf.compare([rm.root / "init", other], ASKED, judge=shorter, reward_funcs=length, **settings)
    assert found == json.loads((tmp_path / "compare" / "compare.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "compare" / "answers.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in lines[:3]] == ASKED
    assert [row["scores"]["length"] for row in lines] == [len(row["completion"][0]["content"]) for row in lines]
    assert [row["completion"] for row in lines[:3]] == [one.completion for one in policy.generate(ASKED)]
    again = easyrlhf.compare([rm.root / "init", other], ASKED, judge=shorter, reward_funcs=length, **settings)
    assert again == found
    (tmp_path / "taken").touch()
    monkeypatch.setenv("EASYRLHF_CACHE", str(tmp_path / "taken"))
    with pytest.raises(
        easyrlhf.InputError, match=r"^prompts: cannot be kept in .*taken/prompts; set EASYRLHF_CACHE to"
    ):
        easyrlhf.compare([rm.root / "init", other], ASKED, judge=shorter, **settings)


def test_every_block_of_the_page_runs(rm, tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    trained = []
    monkeypatch.setattr("easyrlhf.launch.start", lambda target, config: trained.append((target, config.output_dir)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EASYRLHF_CACHE", str(tmp_path / "cache"))
    (tmp_path / "outputs").mkdir()
    for name, folder in {"init": "init", "sft": "init", "rm": "rm"}.items():
        (tmp_path / "outputs" / name).symlink_to(rm.root / folder)
    shutil.copytree(rm.root / "init", tmp_path / "outputs" / "ppo")
    (tmp_path / "pairs.jsonl").symlink_to(rm.one)
    known: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), known)
    assert [folder for _, folder in trained] == ["outputs/sft", "outputs/rm", "outputs/ppo"]
    assert len(known["answers"]) == 3 and len(known["scores"]) == 3
    assert len(blocks) == 5 and "warning train: 40 of 40 pairs prefer" in capsys.readouterr().out
