"""easyrlhf export: the sequence classifier scores as the value-head model does, up to the constant that is told."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import tensor as T
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from easyrlhf.cli import export
from easyrlhf.config import PPOConfig
from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.errors import InputError, RunError
from easyrlhf.models.folder import load_scalar_model
from easyrlhf.models.value_head import new_head, save_head
from easyrlhf.stages.reward_sources import check_reward_model
from easyrlhf.tools.exporting import classifier as tool
from easyrlhf.tools.exporting import full as export_full

ROWS = [[1, 6, 7, 8, 9, 2], [10, 11, 2], [12, 2]]
BIAS = 0.75


@pytest.fixture
def value_folder(model_folder, tiny_lm, tokenizer):
    """value_folder(**tiny_lm's) -> a reward model with a value head and a bias."""

    def make(**how) -> Path:
        folder = model_folder(**how)
        torch.manual_seed(0)
        head = new_head(tiny_lm(vocab=len(tokenizer)))
        torch.nn.init.constant_(head.bias, BIAS)
        save_head(head, folder)
        return folder

    return make


def run(*words: str):
    return CliRunner().invoke(export.command, list(map(str, words)), prog_name="easyrlhf export")


def padded(rows: list[list[int]]) -> torch.Tensor:
    width = max(map(len, rows))
    return T([row + [0] * (width - len(row)) for row in rows])


@torch.no_grad()
def ours(folder, **how) -> list[float]:
    model = load_scalar_model(str(folder), load_tokenizer(str(folder)), dtype=torch.float32, **how).eval()
    return model.scores(padded(ROWS), T([len(row) for row in ROWS])).tolist()


@torch.no_grad()
def theirs(folder) -> list[float]:
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    assert model.config.num_labels == 1 and model.config.pad_token_id == 0
    ids = padded(ROWS)
    return model(input_ids=ids, attention_mask=(ids != 0).long()).logits.squeeze(-1).tolist()


@pytest.mark.parametrize(
    "family", ["llama", "llama-tied", "qwen2", "mistral", "gpt2", "gpt-neox", "gemma2", "opt", "bloom", "falcon"]
)
def test_transformers_scores_as_the_original_less_its_bias(value_folder, tmp_path, family, exported):
    source = value_folder(family=family)
    before = ours(source)
    out = exported(source, tmp_path / "out")
    assert theirs(out) == pytest.approx([score - BIAS for score in before], abs=1e-5)
    assert ours(out) == pytest.approx([score - BIAS for score in before], abs=1e-5)
    assert len({round(score, 2) for score in before}) == 3


def test_the_constant_is_told_everywhere(value_folder, tmp_path):
    source, out = value_folder(), tmp_path / "out"
    done = run(source, "--to", "sequence_classification", "--output_dir", out)
    assert done.exit_code == 0, done.output
    assert "minus +0.750000, the bias of its head (score_offset in config.json)" in done.stdout
    assert json.loads((out / "config.json").read_text())["score_offset"] == BIAS
    assert json.loads((out / "stage.json").read_text())["score_offset"] == BIAS
    assert "has the bias +0.750000" in (out / "README.md").read_text()
    assert not (out / ".export").exists() and not (out / "value_head.safetensors").exists()
    weights = load_file(out / "model.safetensors")
    assert weights["score.weight"].shape == (1, 32) and "score.bias" not in weights and "lm_head.weight" not in weights


def test_a_trained_reward_model_has_no_constant_and_its_card_runs(rm, tmp_path, capsys, monkeypatch, exported):
    monkeypatch.chdir(tmp_path)
    out = exported(rm.folder, "exported")
    assert "minus" not in capsys.readouterr().out
    card = (out / "README.md").read_text()
    assert "bias" not in card
    assert yaml.safe_load(card.split("---\n")[1]) == {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["easyrlhf", "rm", "reward-model", "rlhf"],
    }
    exec(re.search(r"```python\n(.*?)```", card, flags=re.DOTALL)[1], {})
    said = float(capsys.readouterr().out)
    tokenizer = load_tokenizer(rm.folder)
    from easyrlhf.data.render import Renderer

    renderer = Renderer(tokenizer)
    prompt, answer = (
        [{"role": "user", "content": "Hello!"}],
        [{"role": "assistant", "content": "Hello, how can I help?"}],
    )
    ids = renderer.prompt_ids(prompt) + renderer.completion_ids(prompt, answer)
    model = load_scalar_model(rm.folder, tokenizer, dtype=torch.float32).eval()
    assert said == pytest.approx(model.scores(T([ids]), T([len(ids)])).item(), abs=1e-4)
    assert AutoTokenizer.from_pretrained(out).chat_template == tokenizer.chat_template


def test_the_result_is_a_reward_model_for_ppo_train(rm, tmp_path, exported):
    out = exported(rm.folder, tmp_path / "out")
    stage = json.loads((out / "stage.json").read_text())
    assert (stage["status"], stage["stage"], len(stage["probes"])) == ("complete", "export", 2)
    assert stage["max_length"] == 64
    check_reward_model("--reward_model", str(out), PPOConfig(train_data="x.jsonl", reward_model=str(out)))


def test_weights_of_bf16_keep_their_size_and_the_head_its_precision(value_folder, tmp_path, exported):
    source = value_folder(dtype=torch.bfloat16)
    out = exported(source, tmp_path / "out")
    weights = load_file(out / "model.safetensors")
    assert weights["score.weight"].dtype == torch.float32
    assert weights["model.norm.weight"].dtype == torch.bfloat16
    assert theirs(out) == pytest.approx([score - BIAS for score in ours(source)], abs=1e-4)


def test_a_folder_that_is_no_reward_model_is_refused(model_folder, tmp_path):
    done = run(model_folder(), "--to", "sequence_classification", "--output_dir", tmp_path / "out")
    assert done.exit_code == 2
    assert "has no value_head.safetensors, so it is not a reward model" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_sequence_classifier_has_nothing_to_export(value_folder, tmp_path, exported):
    out = exported(value_folder(), tmp_path / "out")
    with pytest.raises(InputError, match="is a sequence classifier already"):
        exported(out, tmp_path / "again")


def test_a_full_folder_is_left_alone_unless_overwritten(value_folder, tmp_path, exported):
    source, out = value_folder(), tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    (out / "model-00001-of-00002.safetensors").write_text("old weights")
    with pytest.raises(InputError, match=r"--output_dir .*out: is not empty; .*--overwrite"):
        exported(source, out)
    exported(source, out, overwrite=True)
    assert (out / "notes.txt").read_text() == "mine"
    assert [path.name for path in out.glob("model*")] == ["model.safetensors"]


def test_the_reward_model_is_not_written_over(value_folder, exported):
    source = value_folder()
    with pytest.raises(InputError, match="is also --model"):
        exported(source, source, overwrite=True)
    assert (source / "value_head.safetensors").exists()


def test_an_unfinished_model_is_refused_unless_allowed(value_folder, tmp_path, exported):
    source = value_folder()
    (source / "stage.json").write_text('{"status": "stopped", "stage": "rm"}')
    with pytest.raises(InputError, match=r"its rm run is not complete \(status stopped\)"):
        exported(source, tmp_path / "out")
    exported(source, tmp_path / "out", allow_incomplete=True)


def test_a_family_without_a_sequence_classifier_is_refused(value_folder, tmp_path, exported):
    with pytest.raises(InputError, match="transformers has no sequence classifier of the kind cohere"):
        exported(value_folder(family="cohere"), tmp_path / "out")


def test_another_form_is_refused(value_folder, tmp_path):
    done = run(value_folder(), "--to", "onnx", "--output_dir", tmp_path / "out")
    assert done.exit_code == 2 and "must be one of full, sequence_classification" in done.stderr


def test_a_result_that_scores_otherwise_is_not_left_behind(value_folder, tmp_path, monkeypatch, exported):
    honest = tool.as_classifier

    def broken(*given):
        classifier = honest(*given)
        classifier.score.weight.data *= 1.01
        return classifier

    monkeypatch.setattr(tool, "as_classifier", broken)
    with pytest.raises(RunError, match="the exported model is not the same"):
        exported(value_folder(), tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


# --- full weights


@torch.no_grad()
def logits_of(model) -> torch.Tensor:
    return torch.cat([model(input_ids=T([row])).logits[0].float() for row in ROWS])


@pytest.fixture
def adapter(model_folder, tokenizer, tmp_path):
    """A folder of peft's with a LoRA adapter that changes the model, and the model with it, not merged."""
    base = model_folder(family="llama")
    lm = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    torch.manual_seed(1)
    for name, weight in lm.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    lm.save_pretrained(tmp_path / "adapter")
    (base / "README.md").write_text("---\nlicense: mit\n---\n")
    return tmp_path / "adapter", lm.eval()


def test_an_adapter_is_merged_into_full_weights(adapter, tmp_path, exported):
    folder, lm = adapter
    out = exported(folder, tmp_path / "out", to="full")
    merged = AutoModelForCausalLM.from_pretrained(out)
    torch.testing.assert_close(logits_of(merged), logits_of(lm), rtol=1e-4, atol=1e-4)
    with lm.disable_adapter():
        assert (logits_of(merged) - logits_of(lm)).abs().max() > 0.1
    assert AutoTokenizer.from_pretrained(out).chat_template
    card = (out / "README.md").read_text()
    assert "merged into" in card
    assert yaml.safe_load(card.split("---\n")[1]) == {
        "license": "mit",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["easyrlhf"],
    }


def test_a_reward_models_adapter_keeps_its_head(adapter, tiny_lm, tokenizer, tmp_path, exported):
    folder, lm = adapter
    torch.manual_seed(0)
    head = new_head(tiny_lm(vocab=len(tokenizer)))
    save_head(head, folder)
    out = exported(folder, tmp_path / "out", to="full")
    with torch.no_grad():
        hidden = [lm.base_model.model.model(input_ids=T([row])).last_hidden_state[0, -1] for row in ROWS]
        expected = [head(state).item() for state in hidden]
    assert ours(out) == pytest.approx(expected, abs=1e-4)
    check_reward_model("--reward_model", str(out), PPOConfig(train_data="x.jsonl", reward_model=str(out)))


def test_a_large_model_is_split_and_another_precision_written(model_folder, tmp_path, exported):
    source = model_folder()
    out = exported(source, tmp_path / "out", to="full", max_shard_size="40KB", precision="bf16")
    files = sorted(path.name for path in out.glob("model-*.safetensors"))
    assert len(files) > 1 and all((out / name).stat().st_size < 60_000 for name in files)
    split = AutoModelForCausalLM.from_pretrained(out)
    assert split.dtype == torch.bfloat16
    ours_, theirs_ = logits_of(split).log_softmax(-1), logits_of(AutoModelForCausalLM.from_pretrained(source))
    torch.testing.assert_close(ours_, theirs_.log_softmax(-1), rtol=0, atol=0.2)


def test_a_full_model_that_differs_is_not_left_behind(model_folder, tmp_path, monkeypatch, exported):
    honest = export_full.load_causal_lm

    def forgetful(*given, **how):
        lm = honest(*given, **how)
        save = lm.save_pretrained
        lm.save_pretrained = lambda folder, **more: (save(folder, **more), lm.lm_head.weight.data.mul_(1.01))
        return lm

    monkeypatch.setattr(export_full, "load_causal_lm", forgetful)
    with pytest.raises(RunError, match=r"the exported model is not the same: log-probabilities .* differ by up to"):
        exported(model_folder(), tmp_path / "out", to="full")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(("size", "said"), [("5", "write a number with KB, MB or GB"), ("0GB", "such as 5GB")])
def test_a_size_without_sense_is_refused(model_folder, tmp_path, size, said):
    done = run(model_folder(), "--to", "full", "--output_dir", tmp_path / "out", "--max_shard_size", size)
    assert done.exit_code == 2 and said in done.stderr
