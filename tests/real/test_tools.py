"""The commands around the stages on a real model: what they say is what transformers says of it."""

import json
import re

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from easyrlhf.cli.main import main as easyrlhf
from easyrlhf.config import SFTConfig
from easyrlhf.engine.engine import Engine
from easyrlhf.stages.sft import train_sft
from easyrlhf.userfile import load_module

pytestmark = pytest.mark.real

FRANCE = "What is the capital of France?"
CPU = ("--devices", "cpu")


def run(*words: object) -> str:
    """What a command prints that loads no weights; in this process."""
    done = CliRunner().invoke(easyrlhf, [str(word) for word in words], prog_name="easyrlhf")
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def plain(real_model):
    """The tokenizer as transformers has it."""
    return AutoTokenizer.from_pretrained(real_model)


@pytest.fixture(scope="module")
def demonstrations(home) -> list[list[dict]]:
    """The conversations of sft.jsonl."""
    return [json.loads(line)["messages"] for line in (home / "sft.jsonl").read_text().splitlines()]


def ids_of(plain, messages: list[dict]) -> list[int]:
    """A conversation as transformers renders it, without the line break behind its end."""
    return plain.apply_chat_template(messages)["input_ids"][:-1]


def test_data_check_measures_the_rows_and_finds_no_fault(real_model, home, plain, demonstrations):
    found = run("data", "check", home / "sft.jsonl", "--stage", "sft", "--model", real_model)
    assert "6 rows read = 6 usable + 0 dropped" in found and "Nothing was found." in found
    [longest] = re.findall(r"in all +\d+ +\d+ +\d+ +(\d+)", found)
    assert int(longest) == max(len(ids_of(plain, row)) for row in demonstrations)


def test_data_preview_shows_the_tokens_that_transformers_gives(real_model, home, plain, demonstrations):
    shown = run("data", "preview", home / "sft.jsonl", "--stage", "sft", "--model", real_model, "--rows", 1)
    lines = [line.strip() for line in shown.splitlines() if "│" in line][-2:]
    tokens = [text.strip("⟦⟧").replace("⏎", "\n") for line in lines for text in line.split("│")]
    assert "".join(tokens) == plain.decode(ids_of(plain, demonstrations[0]))
    assert len(tokens) == len(ids_of(plain, demonstrations[0]))


def test_fit_predicts_the_peak_that_is_measured(real_model, tmp_path, plain, repository):
    """Of all tensors alive in a step, counted one by one; rows are as long as they may be, and nearly all answer."""
    row = {"prompt": "Hi", "completion": " sky" * 46}
    (tmp_path / "rows.jsonl").write_text((json.dumps(row) + "\n") * 8)
    length = len(plain(row["prompt"] + row["completion"] + plain.eos_token)["input_ids"])
    settings = {"model": real_model, "train_data": str(tmp_path / "rows.jsonl"), "lora_r": 4, "batch_size": 4}
    settings |= {"max_length": length, "max_prompt_length": length - 1, "micro_batch_tokens": 4 * length}
    told = run("fit", "sft", *(word for name, value in settings.items() for word in (f"--{name}", value)), *CPU)
    [predicted] = re.findall(r"^update .* ([\d,.]+)  <- peak$", told, re.MULTILINE)
    counter, peaks, step = load_module(repository / "benchmarks" / "shared_backbone.py").TensorBytes(), [], Engine.step

    def counted(engine, *args):
        counter.peak = counter.now
        done = step(engine, *args)
        peaks.append(counter.peak)
        return done

    with pytest.MonkeyPatch.context() as patch, counter:
        patch.setattr(Engine, "step", counted)
        more = {"output_dir": str(tmp_path / "out"), "devices": "cpu", "report_to": "none", "save_steps": 0}
        train_sft(SFTConfig(**settings, **more, max_steps=1))
    assert float(predicted.replace(",", "")) * 2**20 == pytest.approx(max(peaks), rel=0.1)


def test_chat_says_what_generate_says(real_model, real_lm, said, plain):
    asked = plain.apply_chat_template(
        [{"role": "user", "content": FRANCE}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = plain.decode(real_lm.generate(**asked, do_sample=False, max_new_tokens=16)[0], skip_special_tokens=True)
    words = ["--temperature", "0", "--max_new_tokens", "16", *CPU]
    assert said("easyrlhf", "chat", real_model, *words, stdin=f"{FRANCE}\n").strip() == answer.splitlines()[-1].strip()


def test_export_merges_an_adapter_into_what_transformers_reads(trained, said, home, plain):
    said("easyrlhf", "export", trained("sft") / "adapter", "--to", "full", "--output_dir", home / "full")
    ids = plain(FRANCE, return_tensors="pt")["input_ids"]
    one, other = (AutoModelForCausalLM.from_pretrained(folder) for folder in (trained("sft"), home / "full"))
    with torch.no_grad():
        torch.testing.assert_close(other(ids).logits, one(ids).logits, rtol=0, atol=2e-3)


def test_scores_are_those_of_the_exported_classifier_and_of_the_head(trained, said, home, plain, real_lm):
    """The adapter of this reward model has hardly moved: its hidden states are the original model's."""
    folder = trained("rm")
    form = ["--to", "sequence_classification", "--output_dir", home / "classifier"]
    said("easyrlhf", "export", folder, *form)
    said("easyrlhf", "score", folder, "--data", "pairs.jsonl", "--output", "scored.jsonl", *CPU)
    rows = [json.loads(line) for line in (home / "scored.jsonl").read_text().splitlines()]
    classifier = AutoModelForSequenceClassification.from_pretrained(home / "classifier").eval()
    head = load_file(folder / "value_head.safetensors")
    for row in rows:
        for side in ("chosen", "rejected"):
            ids = torch.tensor([ids_of(plain, row["prompt"] + row[side])])
            with torch.no_grad():
                logit = classifier(ids, attention_mask=torch.ones_like(ids)).logits.item()
                hidden = real_lm.model(ids).last_hidden_state[0, -1]
            by_hand = (hidden @ head["v_head.summary.weight"][0] + head["v_head.summary.bias"][0]).item()
            assert row[f"{side}_score"] == pytest.approx(by_hand, abs=1e-3)
            assert logit == pytest.approx(by_hand, abs=1e-3)
