"""Reward-model training that starts from a reward model: the head goes on, whatever form it is kept in."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from easyrlhf.cli import export
from easyrlhf.config import RMConfig
from easyrlhf.data import hub
from easyrlhf.errors import InputError
from easyrlhf.models.folder import load_scalar_model
from easyrlhf.models.value_head import head_folder
from easyrlhf.stages.rm import train_rm

WEIGHT, HEAD = "v_head.summary.weight", "value_head.safetensors"
RATE = 1e-5  # what one step changes of a weight, at most
AGAIN = "training goes on with the score head of {} (--value_head new draws one)"


@pytest.fixture
def go_on(data, small, tmp_path):
    """go_on(model, folder, **settings) -> (folder of a run of one step, first held-out margin)."""

    def run(model: str, folder: str = "run", **settings) -> tuple[Path, float]:
        small_run = small | {"max_steps": 1, "learning_rate": RATE, "eval_at_start": True, "seed": 7, "examine_rows": 0}
        how = {"train_data": data.pairs, "valid_data": data.pairs, "output_dir": str(tmp_path / folder)}
        made = train_rm(RMConfig(model=model, **small_run | how | settings))
        first = json.loads((made / "metrics.jsonl").read_text().splitlines()[0])
        return made, first["eval/rewards/margins"]

    return run


def head_of(folder: str | Path) -> torch.Tensor:
    return load_file(Path(folder) / HEAD)[WEIGHT]


def margin_of(folder: str) -> float:
    return json.loads((Path(folder) / "metrics.jsonl").read_text().splitlines()[-1])["eval/rewards/margins"]


def drift(folder: Path, start: torch.Tensor) -> float:
    return (head_of(folder) - start).abs().max().item()


def test_the_head_of_a_reward_model_goes_on_and_its_adapter_too(chain, go_on, capsys):
    run, margin = go_on(chain.rm, "lora", lora_r=4)
    assert AGAIN.format(chain.rm) in capsys.readouterr().out
    assert margin == pytest.approx(margin_of(chain.rm), abs=1e-5)
    assert drift(run, head_of(chain.rm)) <= 1.1 * RATE
    adapter = str(run / "adapter")
    again, margin = go_on(adapter, "from_adapter")
    assert margin == pytest.approx(margin_of(str(run)), abs=1e-5)
    assert drift(again, head_of(run)) <= 1.1 * RATE


def test_a_new_head_is_drawn_where_it_is_asked_for(chain, go_on, capsys):
    run, margin = go_on(chain.rm, value_head="new")
    said = capsys.readouterr().out
    assert f"--value_head new: a new score head is drawn; that of {chain.rm} is left" in said
    assert drift(run, head_of(chain.rm)) > 0.1 and abs(margin - margin_of(chain.rm)) > 0.1
    _, _ = go_on(chain.sft, "plain")
    assert "score head" not in capsys.readouterr().out  # nothing to keep, and nothing to say


@pytest.mark.slow
def test_four_bits_keep_the_head_as_it_is(chain, go_on):
    pytest.importorskip("bitsandbytes")
    run, _ = go_on(chain.rm, lora_r=4, load_in_4bit=True)
    assert drift(run, head_of(chain.rm)) <= 1.1 * RATE


def test_a_classifier_without_a_language_model_head_goes_on_as_full_weights_and_as_an_adapter(chain, go_on, tmp_path):
    folder = tmp_path / "classifier"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = AutoModelForSequenceClassification.from_pretrained(chain.init, num_labels=1).config
        config.tie_word_embeddings = False
        classifier = AutoModelForSequenceClassification.from_config(config)
    classifier.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(chain.init)
    tokenizer.save_pretrained(folder)
    run, margin = go_on(str(folder), "full")
    assert (json.loads((run / "config.json").read_text())["architectures"]) == ["LlamaForCausalLM"]
    assert drift(run, classifier.score.weight.detach()) <= 1.1 * RATE
    lora, same = go_on(str(folder), "lora", lora_r=4)
    assert margin == pytest.approx(same, abs=1e-6)
    ids, length = torch.tensor([[5, 6, 7]]), torch.tensor([3])
    models = [load_scalar_model(str(one), tokenizer, dtype=torch.float32).eval() for one in (lora, lora / "adapter")]
    whole, adapter = (model.scores(ids, length).item() for model in models)
    assert adapter == pytest.approx(whole, abs=1e-6)
    theirs = classifier.eval()(ids, attention_mask=torch.ones_like(ids)).logits.item()
    assert whole == pytest.approx(theirs, abs=1e-3)  # one step away


@pytest.fixture
def classifier_adapter(chain, tmp_path):
    """classifier_adapter(base, safe) -> (an adapter of a classifier as TRL's RewardTrainer leaves it, that classifier).

    Its head is beside the adapter's matrices, not in its base.
    """
    from peft import LoraConfig, get_peft_model

    def make(base: str, safe: bool = True) -> tuple[str, torch.nn.Module]:
        with torch.random.fork_rng():
            torch.manual_seed(5)
            lora = LoraConfig(task_type="SEQ_CLS", r=2, init_lora_weights=False, target_modules=["q_proj", "v_proj"])
            model = get_peft_model(AutoModelForSequenceClassification.from_pretrained(base, num_labels=1), lora)
        folder = tmp_path / "classifier_adapter"
        model.save_pretrained(folder, safe_serialization=safe)
        AutoTokenizer.from_pretrained(chain.init).save_pretrained(folder)
        return str(folder), model.merge_and_unload()

    return make


@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_the_adapter_of_a_classifier_goes_on_with_the_head_that_is_in_it(
    chain, classifier_adapter, go_on, capsys, caplog, safe
):
    folder, classifier = classifier_adapter(chain.init, safe)
    caplog.clear()
    run, margin = go_on(folder, "full")
    assert AGAIN.format(folder) in capsys.readouterr().out
    assert drift(run, classifier.score.weight.detach()) <= 1.1 * RATE
    assert "newly initialized" not in caplog.text  # its base has no head, which is no fault
    lora, same = go_on(folder, "lora", lora_r=4)
    assert margin == pytest.approx(same, abs=1e-6) and drift(lora, classifier.score.weight.detach()) <= 1.1 * RATE
    tokenizer = AutoTokenizer.from_pretrained(chain.init)
    ids, length = torch.tensor([[5, 6, 7]]), torch.tensor([3])
    theirs = classifier.eval()(ids, attention_mask=torch.ones_like(ids)).logits.item()
    for one in (run, lora, lora / "adapter"):
        score = load_scalar_model(str(one), tokenizer, dtype=torch.float32).eval().scores(ids, length).item()
        assert score == pytest.approx(theirs, abs=2e-3)  # one step away
    new, _ = go_on(folder, "new", value_head="new")
    assert drift(new, classifier.score.weight.detach()) > 0.1


@pytest.mark.slow
def test_an_exported_reward_model_goes_on(chain, go_on, tmp_path):
    out = str(tmp_path / "classifier")
    done = CliRunner().invoke(export.command, [chain.rm, "--to", "sequence_classification", "--output_dir", out])
    assert done.exit_code == 0, done.output
    run, margin = go_on(out)
    assert margin == pytest.approx(margin_of(chain.rm), abs=1e-5)
    assert drift(run, head_of(chain.rm)) <= 1.1 * RATE


@pytest.fixture
def changed(chain, tmp_path):
    """changed(edit) -> a copy of the reward model's folder whose head was edited."""

    def change(edit) -> str:
        folder = shutil.copytree(chain.rm, tmp_path / "changed", ignore=shutil.ignore_patterns("checkpoints"))
        save_file(edit(load_file(folder / HEAD)), folder / HEAD)
        stage = json.loads((folder / "stage.json").read_text())
        del stage["files"][HEAD]  # the checksum would tell
        (folder / "stage.json").write_text(json.dumps(stage))
        return str(folder)

    return change


def test_a_head_of_another_model_is_refused_before_a_model_is_loaded(changed, go_on, monkeypatch):
    monkeypatch.setattr("easyrlhf.stages.rm.load_trained_lm", None)
    folder = changed(lambda tensors: tensors | {WEIGHT: torch.zeros(1, 3)})
    with pytest.raises(InputError) as stop:
        go_on(folder)
    assert str(stop.value).startswith(f"--model {folder}/{HEAD}: holds ")
    assert str(stop.value).endswith("Or draw a new head: --value_head new")
    with pytest.raises(FileNotFoundError):  # a dry run passes, and writes no metrics
        go_on(folder, value_head="new", dry_run=True)


def test_a_head_that_does_not_score_as_it_did_is_refused(changed, go_on):
    folder = changed(lambda tensors: tensors | {WEIGHT: tensors[WEIGHT] + 1})
    with pytest.raises(InputError, match=f"{folder}: scores a probe text .* were changed since"):
        go_on(folder)


def test_the_head_of_a_hub_id_is_fetched_and_one_that_is_not_there_is_none(monkeypatch, tmp_path):
    asked = []

    def download(path: str, file: str) -> str:
        asked.append((path, file))
        if path == "org/none":
            from huggingface_hub.errors import EntryNotFoundError

            raise EntryNotFoundError("404")
        return str(tmp_path / "snapshot" / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr(hub, "require_hub", lambda *_: None)
    hub.hub_file.cache_clear()
    assert [head_folder("org/rm"), head_folder("org/rm"), head_folder("org/none")] == [
        str(tmp_path / "snapshot"),
        str(tmp_path / "snapshot"),
        None,
    ]
    assert asked == [("org/rm", HEAD), ("org/none", HEAD)]
    hub.hub_file.cache_clear()
