"""The alignment stages end to end: what they leave, how they go on, what their reference is, what they refuse."""

import json
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from easyrlhf.cli.stages import dpo_train as dpo_main
from easyrlhf.cli.stages import ipo_train as ipo_main
from easyrlhf.cli.stages import kto_train as kto_main
from easyrlhf.cli.stages import rrhf_train as rrhf_main
from easyrlhf.config import (
    CPOConfig,
    DPOConfig,
    IPOConfig,
    KTOConfig,
    ORPOConfig,
    RRHFConfig,
    SimPOConfig,
)
from easyrlhf.errors import InputError, RunStopped
from easyrlhf.offline import reference
from easyrlhf.offline.loop import planned_rows
from easyrlhf.stages import preference
from easyrlhf.stages.kto import train_kto
from easyrlhf.stages.rrhf import train_rrhf

WORDS = ["red", "blue", "green", "cat", "dog", "owl", "one", "two"]
CLOCK = ("time/", "tokens_per_second")
STAGES = {
    "dpo": (preference.train_dpo, DPOConfig),
    "ipo": (preference.train_ipo, IPOConfig),
    "kto": (train_kto, KTOConfig),
    "orpo": (preference.train_orpo, ORPOConfig),
    "simpo": (preference.train_simpo, SimPOConfig),
    "cpo": (preference.train_cpo, CPOConfig),
    "rrhf": (train_rrhf, RRHFConfig),
}


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def said(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


def asked(word: str) -> list[dict]:
    return [{"role": "user", "content": f"Say {word}."}]


def turned(row: dict) -> dict:
    """A comparison the other way round."""
    return row | {"chosen": row["rejected"], "rejected": row["chosen"]}


@pytest.fixture(scope="session")
def kinds(data, tmp_path_factory) -> SimpleNamespace:
    """Files of every kind: pairs, mixed (pairs of which every second one is turned, so that chosen answers differ in
    length), feedback (two liked to one disliked), rankings of three.
    """
    folder, rng = tmp_path_factory.mktemp("kinds"), random.Random(1)
    feedback, rankings = [], []
    for word in [rng.choice(WORDS) for _ in range(48)]:
        other = rng.choice([w for w in WORDS if w != word])
        right = rng.random() < 0.67
        feedback.append({"prompt": asked(word), "completion": said(f"{word if right else other}."), "label": right})
        answers = [said(f"{other} {other}."), said(f"{word}."), said(f"{word} {other}.")]
        rankings.append({"prompt": asked(word), "completions": answers, "scores": [0.0, 1.0, 0.5]})
    pairs = [json.loads(line) for line in Path(data.pairs).read_text().splitlines()]
    mixed = [turned(row) if i % 2 else row for i, row in enumerate(pairs)]
    return SimpleNamespace(
        pairs=data.pairs,
        mixed=write(folder / "mixed.jsonl", mixed),
        feedback=write(folder / "feedback.jsonl", feedback),
        rankings=write(folder / "rankings.jsonl", rankings),
    )


@pytest.fixture(scope="session")
def settings(chain, kinds):
    """settings(stage) -> those of a small run of 6 steps."""

    def of(stage: str) -> dict:
        rows = {"kto": kinds.feedback, "rrhf": kinds.rankings}.get(stage, kinds.pairs)
        return {
            "model": chain.init if stage == "orpo" else chain.sft,
            "train_data": rows,
            "valid_data": rows,
            "max_length": 64,
            "max_prompt_length": 40,
            "batch_size": 8,
            "learning_rate": 1e-3,
            "devices": "cpu",
            "report_to": "none",
        }

    return of


@pytest.fixture
def train(settings, tmp_path):
    """train(stage, folder, **changed settings) -> the folder of the run."""

    def run(stage: str, folder: str = "run", **changed) -> Path:
        train_stage, config_class = STAGES[stage]
        return train_stage(config_class(**settings(stage) | {"output_dir": str(tmp_path / folder)} | changed))

    return run


def numbers(folder: Path) -> list[dict]:
    """The rows of metrics.jsonl without what depends on the clock."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith(CLOCK)} for row in rows]


def manifest(folder: Path) -> dict:
    return json.loads((folder / "stage.json").read_text())


@pytest.mark.parametrize("stage", list(STAGES))
def test_every_stage_learns_and_leaves_a_whole_folder(stage, train, chain):
    folder = train(stage, epochs=3, eval_steps=6, lora_r=4 if stage == "simpo" else 0)
    rows = numbers(folder)
    assert [row["step"] for row in rows] == list(range(1, 19))
    before, after = rows[5], rows[-1]
    assert after["eval/loss"] < before["eval/loss"]
    assert np.mean([row["loss"] for row in rows[-3:]]) < np.mean([row["loss"] for row in rows[:3]])
    if stage == "kto":
        assert after["eval/rewards/margins"] > before["eval/rewards/margins"] > 0
    else:
        assert after["eval/rewards/accuracies"] > 0.9
    if stage in ("dpo", "ipo"):
        assert after["eval/rewards/margins"] > before["eval/rewards/margins"] > 0
    found = manifest(folder)
    assert (found["status"], found["stage"], found["step"]) == ("complete", stage, 18)
    assert found["parents"] == {"model": chain.init if stage == "orpo" else chain.sft}
    assert found["metrics"]["eval/loss"] == after["eval/loss"]
    assert "<svg" in (folder / "report.html").read_text()
    assert (folder / "args.yaml").exists() and (folder / "README.md").exists()
    assert not (folder / "cache").exists()
    ids = torch.tensor([[5, 6, 7, 8]])
    trained, start = (AutoModelForCausalLM.from_pretrained(path)(ids).logits for path in (folder, chain.sft))
    assert (trained - start).abs().max() > 1e-3
    assert AutoTokenizer.from_pretrained(folder).chat_template


@pytest.mark.parametrize(
    ("stage", "changed"),
    [
        ("dpo", {}),
        ("dpo", {"lora_r": 4}),
        ("dpo", {"loss_type": "aot", "rpo_alpha": 0.5}),
        ("kto", {}),
        ("rrhf", {}),
    ],
)
def test_a_stopped_run_continues_bit_for_bit(stage, changed, train, stop_after):
    whole = train(stage, "whole", save_steps=2, **changed)
    stop_signals_off = stop_after(3)
    with pytest.raises(RunStopped, match="after step 3"):
        train(stage, "stopped", save_steps=2, **changed)
    stop_signals_off()
    stopped = train(stage, "stopped", save_steps=2, **changed)
    assert manifest(stopped)["status"] == "complete"
    assert numbers(stopped) == numbers(whole)
    assert len(numbers(whole)) == 6


@pytest.mark.parametrize(
    ("stage", "changed"),
    [
        ("dpo", {"loss_type": "aot", "rpo_alpha": 0.5}),
        ("kto", {}),
        ("orpo", {}),
        ("rrhf", {}),
    ],
)
def test_the_token_budget_does_not_change_the_result(stage, changed, train, kinds):
    changed = changed | {"train_data": kinds.mixed} if stage in ("dpo", "orpo") else {}
    large, small = (
        numbers(train(stage, f"budget_{budget}", micro_batch_tokens=budget, **changed))[-1] for budget in (4096, 1)
    )
    assert large.keys() == small.keys()
    for name, value in large.items():
        assert small[name] == pytest.approx(value, rel=1e-4, abs=1e-4), name


# --- the reference


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Path:
    """An empty folder for reference log-probabilities, of this test alone."""
    monkeypatch.setenv("EASYRLHF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "reference"


@pytest.fixture
def computed(monkeypatch) -> list[int]:
    """How many rows the reference was asked for, a number for each call."""
    calls, original = [], reference.all_logprobs

    def counted(lm, families, *how):
        calls.append(len(families))
        return original(lm, families, *how)

    monkeypatch.setattr(reference, "all_logprobs", counted)
    return calls


ONE_STEP = {"max_steps": 1, "valid_data": None}


@pytest.mark.parametrize("stage", ["dpo", "orpo", "rrhf"])
def test_sharing_prompts_changes_no_number(stage, train):
    apart, together = (
        numbers(train(stage, share, share_prefix=share, max_steps=3, valid_data=None)) for share in ("off", "on")
    )
    for ours, theirs in zip(together, apart, strict=True):
        if ours["step"] == 1:  # the policy is the reference: rounding decides which margins are above 0
            ours["rewards/accuracies"] = theirs["rewards/accuracies"]
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)


def test_a_model_that_cannot_share_prompts_is_refused_when_it_must(train):
    with pytest.raises(InputError, match=r"--share_prefix on: .*eager attention.*Use --share_prefix auto"):
        train("dpo", share_prefix="on", attn_implementation="eager", **ONE_STEP)
    assert len(numbers(train("dpo", share_prefix="auto", attn_implementation="eager", **ONE_STEP))) == 1


def test_the_reference_of_a_lora_run_is_its_model_with_the_adapter_off(train):
    first = numbers(train("dpo", lora_r=4, **ONE_STEP))[0]
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-6)
    for name in ("rewards/chosen", "rewards/rejected", "rewards/margins"):
        assert first[name] == pytest.approx(0, abs=1e-6)


def test_only_rows_that_the_run_reads_are_computed_and_only_once(train, cache, computed):
    full = train("dpo", "first", max_steps=2, eval_steps=0)
    assert sum(computed) == 16 + 48  # 2 batches of 8, and all held-out rows
    assert len(list(cache.iterdir())) == 2
    computed.clear()
    assert numbers(train("dpo", "second", max_steps=2, eval_steps=0)) == numbers(full)
    train("dpo", "adapter", max_steps=2, eval_steps=0, lora_r=4)
    train("ipo", "other_method", max_steps=2, eval_steps=0)
    assert not computed


@pytest.mark.parametrize("change", ["model", "chat template", "data", "precision", "seed"])
def test_what_is_kept_is_of_this_very_question(change, train, chain, kinds, cache, computed, tmp_path):
    train("dpo", "first", **ONE_STEP)
    asked_before = sum(computed)
    rows = [json.loads(line) for line in Path(kinds.pairs).read_text().splitlines()]
    changed = {
        "model": {"model": chain.init},
        "chat template": {"chat_template": "hh"},
        "data": {"train_data": write(tmp_path / "turned.jsonl", list(map(turned, rows)))},
        "precision": {"precision": "bf16"},
        "seed": {"seed": 7},  # other rows come first
    }[change]
    train("dpo", "second", **ONE_STEP | changed)
    assert sum(computed) == 2 * asked_before
    assert len(list(cache.iterdir())) == 2


def test_equal_weights_in_a_model_that_works_otherwise_are_another_reference(tiny_lm):
    question = reference.ReferenceQuestion(
        ("ref_completion",), lambda row: (row["prompt_ids"], [row["completion_ids"]])
    )
    lm = tiny_lm("mistral")
    asked = reference.RowsWithReference([{"prompt_ids": [5], "completion_ids": [6, 2]}], question), np.arange(1)
    before = reference.fingerprint(lm, *asked)
    assert reference.fingerprint(tiny_lm("mistral"), *asked) == before
    lm.config.sliding_window += 1
    assert reference.fingerprint(lm, *asked) != before


def test_a_write_that_is_cut_off_leaves_nothing_that_is_read(train, cache, computed, monkeypatch):
    def killed(columns, file):
        Path(file).write_bytes(b"\x40\x00\x00")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(reference, "save_file", killed)
        with pytest.raises(KeyboardInterrupt):
            train("dpo", **ONE_STEP)
    assert not list(cache.glob("*.safetensors"))
    computed.clear()
    train("dpo", **ONE_STEP)
    assert sum(computed) == 8 and len(list(cache.glob("*.safetensors"))) == 1


@pytest.mark.parametrize("size", [0, 3, 100])
def test_a_damaged_file_is_computed_anew(size, train, cache, computed):
    first = numbers(train("dpo", "first", **ONE_STEP))
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:size])
    computed.clear()
    assert numbers(train("dpo", "second", **ONE_STEP)) == first
    assert sum(computed) == 8 and file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_said_and_does_without(train, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EASYRLHF_CACHE", str(tmp_path / "file"))
    assert manifest(train("dpo", **ONE_STEP))["status"] == "complete"
    assert "cannot be kept there" in capsys.readouterr().out.replace("\n", " ")


def test_another_reference_than_the_model(train, chain):
    folder = train("dpo", ref_model=chain.init, **ONE_STEP)
    first = numbers(folder)[0]
    assert abs(first["rewards/chosen"]) > 0.01
    assert manifest(folder)["parents"] == {"model": chain.sft, "reference": chain.init}


def test_the_reward_is_beta_times_the_log_ratio_to_the_reference(train, chain, settings):
    folder = train("dpo", ref_model=chain.init, beta=0.3, **ONE_STEP)
    config = DPOConfig(**settings("dpo") | ONE_STEP)
    rows = [json.loads(line) for line in Path(config.train_data).read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(chain.sft)
    policy, base = (AutoModelForCausalLM.from_pretrained(path).eval() for path in (chain.sft, chain.init))

    def logprob(lm, row: dict) -> float:
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        text = row["chosen"][0]["content"]
        answer = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            logits = lm(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        return logits[torch.arange(len(answer)), torch.tensor(answer)].sum().item()

    read = [rows[i] for i in planned_rows(config, len(rows))]
    ratios = [logprob(policy, row) - logprob(base, row) for row in read]
    assert len(read) == 8
    assert numbers(folder)[0]["rewards/chosen"] == pytest.approx(0.3 * np.mean(ratios), abs=1e-5)


# --- what is refused or said


@pytest.fixture
def refused(monkeypatch, capsys, chain, tmp_path):
    """Runs a command that must be refused before a model is loaded; returns its message."""

    def run(main, **flags) -> str:
        monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
        given = {"model": chain.sft, "devices": "cpu", "output_dir": tmp_path / "out"}
        given |= {"max_length": 64, "max_prompt_length": 40} | flags
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([word for name, value in given.items() for word in (f"--{name}", str(value))])
        printed = capsys.readouterr()
        assert end.value.code == 2, printed.err
        assert printed.err.startswith("error: ") and "Traceback" not in printed.err
        return printed.err

    return run


@pytest.mark.parametrize("main", [dpo_main, ipo_main, kto_main])
def test_a_reference_with_another_tokenizer(main, refused, chain, kinds, tmp_path):
    folder = shutil.copytree(chain.sft, tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<|new|>"])
    tokenizer.save_pretrained(folder)
    (folder / "stage.json").write_text(json.dumps(manifest(folder) | {"files": {}}))  # changed on purpose
    message = refused(main, train_data=kinds.feedback if main is kto_main else kinds.pairs, ref_model=folder)
    assert f"--ref_model {folder}: its tokenizer differs from that of --model {chain.sft}" in message


def test_a_reference_that_did_not_finish(refused, chain, kinds, tmp_path):
    folder = shutil.copytree(chain.sft, tmp_path / "other")
    (folder / "stage.json").write_text(json.dumps(manifest(folder) | {"status": "stopped"}))
    message = refused(dpo_main, train_data=kinds.pairs, ref_model=folder)
    assert f"--ref_model {folder}" in message and "--allow_incomplete" in message


@pytest.mark.parametrize(("label", "missing"), [(True, "false"), (False, "true")])
def test_kto_of_one_label(label, missing, refused, tmp_path):
    rows = [{"prompt": asked(word), "completion": said(word), "label": label} for word in WORDS]
    message = refused(kto_main, train_data=write(tmp_path / "rows.jsonl", rows))
    assert f"all 8 completions have the label {str(label).lower()}" in message
    assert f"add rows with the label {missing}" in message


@pytest.mark.parametrize(
    ("answers", "scores", "fault"),
    [(["red."], [1.0], "fewer than two completions"), (["red.", "blue."], [0.5, 0.5], "all ties")],
)
def test_rankings_that_rank_nothing(answers, scores, fault, refused, tmp_path):
    row = {"prompt": asked("red"), "completions": list(map(said, answers)), "scores": scores}
    message = refused(rrhf_main, train_data=write(tmp_path / "rows.jsonl", [row]))
    assert f"rows.jsonl:1: {fault}" in message


def test_rrhf_takes_no_demonstrations(refused, data):
    assert "sft.jsonl" in refused(rrhf_main, train_data=data.sft)


def test_comparisons_without_a_prompt_in_common(refused, tmp_path):
    row = {"chosen": [*asked("red"), *said("red.")], "rejected": [*asked("blue"), *said("red.")]}
    message = refused(dpo_main, train_data=write(tmp_path / "rows.jsonl", [row]))
    assert "rows.jsonl:1" in message


def test_a_flag_of_another_method(refused, kinds):
    message = refused(ipo_main, train_data=kinds.pairs, label_smoothing=0.1)
    assert "--label_smoothing" in message


def test_label_smoothing_and_losses(refused, kinds):
    message = refused(dpo_main, train_data=kinds.pairs, loss_type="exo_pair")
    assert "label_smoothing 0: loss_type exo_pair divides by it" in message
    message = refused(dpo_main, train_data=kinds.pairs, loss_type="hinge", label_smoothing=0.1)
    assert "label_smoothing 0.1: loss_type hinge does not use it" in message and "robust" in message


@pytest.mark.parametrize(("liked", "weight", "warned"), [(12, 1.0, True), (4, 1.0, False), (12, 0.4, False)])
def test_kto_says_which_weights_would_fit(liked, weight, warned, train, tmp_path, capsys):
    rows = [{"prompt": asked(WORDS[i % 8]), "completion": said("red."), "label": i < liked} for i in range(liked + 4)]
    train("kto", train_data=write(tmp_path / "rows.jsonl", rows), desirable_weight=weight, dry_run=True)
    said_words = " ".join(capsys.readouterr().out.split())
    assert ("12 liked and 4 disliked answers, by their weights, are 3.00 to 1" in said_words) == warned
    assert ("--desirable_weight 0.33 to 0.44 would fit" in said_words) == warned
