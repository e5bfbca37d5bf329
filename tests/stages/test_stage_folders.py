"""What a stage leaves on disk: models that others load, manifests that say how they came about."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from easyrlhf.config import PPOConfig, RMConfig, SFTConfig
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.errors import InputError, RunError
from easyrlhf.models.folder import load_scalar_model
from easyrlhf.models.value_head import BIAS, HEAD_FILE, WEIGHT
from easyrlhf.stages.online import train_ppo
from easyrlhf.stages.rm import train_rm
from easyrlhf.stages.sft import train_sft

pytestmark = pytest.mark.usefixtures("pictures")


def manifest(folder: str | Path) -> dict:
    return json.loads((Path(folder) / "stage.json").read_text())


def test_the_manifest_names_parents_tokenizer_data_and_results(chain, data):
    stage = manifest(chain.rm)
    assert (stage["status"], stage["stage"]) == ("complete", "rm")
    assert stage["base"] == chain.init and stage["parents"] == {"model": chain.sft}
    assert stage["tokenizer"] == manifest(chain.sft)["tokenizer"] == manifest(chain.init)["tokenizer"]
    assert stage["data"]["train"]["files"] == [data.pairs]
    assert (stage["data"]["train"]["read"], stage["data"]["train"]["used"]) == (48, 48)
    assert stage["special_tokens"]["pad"] != stage["special_tokens"]["eos"]
    assert stage["metrics"]["eval/rewards/accuracies"] > 0.9  # the chosen answer is the shorter one in every pair


def test_a_reward_folder_is_a_causal_model_with_its_head_beside_it(chain):
    head = load_file(Path(chain.rm) / HEAD_FILE)
    lm = AutoModelForCausalLM.from_pretrained(chain.rm)
    assert {name: tuple(tensor.shape) for name, tensor in head.items()} == {
        WEIGHT: (1, lm.config.hidden_size),
        BIAS: (1,),
    }
    tokenizer = AutoTokenizer.from_pretrained(chain.rm)
    turns = [{"role": "user", "content": "Say red."}, {"role": "assistant", "content": "red."}]
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    ends = text.rindex(tokenizer.eos_token) + len(tokenizer.eos_token)
    ids = tokenizer(text[:ends], return_tensors="pt")["input_ids"]
    hidden = lm(ids, output_hidden_states=True).hidden_states[-1][0, -1]
    by_hand = (hidden @ head[WEIGHT][0] + head[BIAS]).item()
    ours = load_scalar_model(chain.rm, load_tokenizer(chain.rm), dtype=torch.float32)
    assert ours.scores(ids, torch.tensor([ids.shape[1]])).item() == pytest.approx(by_hand, abs=1e-5)


def test_args_yaml_runs_the_same_command_again(chain, data, capsys):
    from easyrlhf.cli.stages import rm_train as main

    with pytest.raises(SystemExit) as end:
        main(["--config", str(Path(chain.rm) / "args.yaml")])
    assert end.value.code == 0 and "already complete" in capsys.readouterr().out


@pytest.fixture(scope="module")
def lora_ppo(chain, data, tmp_path_factory) -> Path:
    """A PPO run with LoRA and no reference in memory."""
    folder = tmp_path_factory.mktemp("lora") / "ppo"
    settings = {"max_length": 64, "max_prompt_length": 40, "response_length": 6, "batch_size": 8, "devices": "cpu"}
    settings |= {"learning_rate": 1e-2, "total_episodes": 16, "lora_r": 4, "report_to": "none", "kl_coef": 0.0}
    settings |= {"model": chain.sft, "reward_model": chain.rm, "train_data": data.prompts, "valid_data": data.prompts}
    return train_ppo(PPOConfig(output_dir=str(folder), **settings))


def test_a_lora_folder_holds_merged_weights_and_the_adapter(lora_ppo, chain):
    from peft import PeftModel

    ids = torch.arange(5, 15).unsqueeze(0)
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(lora_ppo)(ids).logits
        parent = AutoModelForCausalLM.from_pretrained(chain.sft)
        before = parent(ids).logits
        adapted = PeftModel.from_pretrained(parent, lora_ppo / "adapter")(ids).logits
    torch.testing.assert_close(merged, adapted, atol=1e-4, rtol=1e-4)
    assert (merged - before).abs().max() > 1e-3


def test_ppo_leaves_its_value_model_beside_the_policy(lora_ppo):
    value = load_scalar_model(str(lora_ppo / "value_model"), load_tokenizer(str(lora_ppo)), dtype=torch.float32)
    assert value.head.weight.abs().max() > 0
    assert not (lora_ppo / HEAD_FILE).exists()


def test_the_report_pictures_samples_and_metrics_are_there(lora_ppo):
    assert "<svg" in (lora_ppo / "report.html").read_text()
    assert (lora_ppo / "README.md").read_text().startswith("---")
    assert any((lora_ppo / "plots").glob("*.png"))
    rows = [json.loads(line) for line in (lora_ppo / "metrics.jsonl").read_text().splitlines()]
    # without a price the reference is asked at evaluations alone
    assert "objective/scores" in rows[1] and "objective/kl" not in rows[1]
    assert {"eval/scores", "eval/kl", "eval/length", "eval/eos_rate"} <= rows[-1].keys()
    samples = [json.loads(line) for line in (lora_ppo / "samples.jsonl").read_text().splitlines()]
    assert {row["step"] for row in samples} == {0, 1, 2}


def test_rollouts_hold_every_completion_that_a_step_learned_from(lora_ppo):
    """All eight: their means are those of metrics.jsonl."""
    rows, kept = (
        [json.loads(line) for line in (lora_ppo / f"{name}.jsonl").read_text().splitlines()]
        for name in ("metrics", "rollouts")
    )
    assert [(row["step"], row["place"]) for row in kept] == [(step, place) for step in (1, 2) for place in range(8)]
    for logged in rows[1:]:  # the first is the evaluation before any step
        own = [row for row in kept if row["step"] == logged["step"]]
        assert sum(row["score"] for row in own) / 8 == pytest.approx(logged["objective/scores"], rel=1e-5)
        assert {row["kl"] for row in own} == {None}
        assert sum(row["length"] for row in own) / 8 == logged["length/completion_mean"]


def test_a_changed_head_is_noticed_by_whoever_loads_it(chain, data, small_ppo, tmp_path):
    import shutil

    from safetensors.torch import save_file

    folder = shutil.copytree(chain.rm, tmp_path / "rm")
    tensors = load_file(folder / HEAD_FILE)
    save_file({name: tensor + 0.5 for name, tensor in tensors.items()}, folder / HEAD_FILE)
    settings = small_ppo | {"model": chain.sft, "reward_model": str(folder), "train_data": data.prompts}
    with pytest.raises(InputError, match=r"value_head.safetensors: is not the file that the stage wrote"):
        train_ppo(PPOConfig(output_dir=str(tmp_path / "ppo"), **settings))
    stage = json.loads((folder / "stage.json").read_text())
    (folder / "stage.json").write_text(json.dumps(stage | {"files": {}}))
    with pytest.raises(InputError, match="scores a probe text"):
        train_ppo(PPOConfig(output_dir=str(tmp_path / "ppo"), **settings))


def test_a_dry_run_says_everything_and_leaves_nothing(chain, data, small_ppo, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
    settings = small_ppo | {"model": chain.sft, "reward_model": chain.rm, "train_data": data.prompts, "dry_run": True}
    train_ppo(PPOConfig(output_dir=str(tmp_path / "ppo"), **settings))
    out = capsys.readouterr().out
    assert "48 rows read = 48 used + 0 dropped" in out
    assert "6 steps of 8" in out and "reward model: " in out
    printed = yaml.safe_load(out[out.index("# Model and data") :])
    assert printed["kl_coef"] == 0.05 and printed["ref_model"] == chain.sft
    assert not (tmp_path / "ppo").exists()


REWARDS = """
import json, pathlib
calls = pathlib.Path(__file__).with_suffix(".calls")

def score(prompts, completions, completion_ids, word, **_):
    done = int(calls.read_text()) if calls.exists() else 0
    calls.write_text(str(done + 1))
    assert prompts[0][-1]["role"] == "user" and completions[0][0]["role"] == "assistant"
    if done == 3 and not calls.with_suffix(".mended").exists():
        {fault}
    return [float(w in c[0]["content"]) for w, c in zip(word, completions)]
"""


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raise KeyError('gone')", r"score raised KeyError: 'gone'"),
        ("return [float('nan')] * len(prompts)", "score returned nan, which is not a finite number"),
        ("return [1.0]", "score returned 1 scores for 8 completions"),
    ],
)
def test_a_failing_reward_saves_first_and_the_same_command_goes_on(fault, message, chain, data, small_ppo, tmp_path):
    (tmp_path / "rewards.py").write_text(REWARDS.replace("{fault}", fault))
    settings = small_ppo | {"model": chain.sft, "train_data": data.prompts, "num_sample_generations": 0}
    settings |= {"reward_funcs": f"{tmp_path}/rewards.py:score", "output_dir": str(tmp_path / "ppo")}
    with pytest.raises(RunError, match=message) as failure:
        train_ppo(PPOConfig(**settings))
    assert "step-3" in str(failure.value) and "continues the run" in str(failure.value)
    assert (tmp_path / "ppo" / "checkpoints" / "step-3" / "state.json").exists()
    (tmp_path / "rewards.mended").touch()
    folder = train_ppo(PPOConfig(**settings))
    rows = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [1, 2, 3, 4, 5, 6]


def test_reward_functions_beside_the_reward_model_are_weighted(chain, data, small_ppo, tmp_path):
    (tmp_path / "rewards.py").write_text("def five(prompts, completions, **_):\n    return [5.0] * len(prompts)\n")
    settings = small_ppo | {"model": chain.sft, "reward_model": chain.rm, "train_data": data.prompts, "max_steps": 1}
    settings |= {"reward_funcs": f"{tmp_path}/rewards.py:five", "reward_weights": "2,0.1", "missing_eos_penalty": 0}
    folder = train_ppo(PPOConfig(output_dir=str(tmp_path / "ppo"), **settings))
    row = json.loads((folder / "metrics.jsonl").read_text())
    assert row["reward/five/mean"] == 5.0
    assert row["objective/scores"] == pytest.approx(2 * row["reward/reward_model/mean"] + 0.5, abs=1e-4)


def test_a_reward_model_with_another_tokenizer_reads_the_text_anew(chain, data, small_ppo, tmp_path):
    from easyrlhf.config import InitConfig
    from easyrlhf.tools.init import init_model

    other = str(tmp_path / "other")
    init_model(InitConfig(train_data=data.prompts, output_dir=other, vocab_size=300, chat_template="hh"))
    small = {key: value for key, value in small_ppo.items() if key in {"max_length", "max_prompt_length", "batch_size"}}
    train_rm(RMConfig(model=other, train_data=data.pairs, output_dir=str(tmp_path / "rm"), report_to="none", **small))
    settings = small_ppo | {"model": chain.sft, "reward_model": str(tmp_path / "rm"), "train_data": data.prompts}
    folder = train_ppo(PPOConfig(output_dir=str(tmp_path / "ppo"), max_steps=2, **settings))
    assert manifest(folder)["parents"]["value model"] == chain.sft  # the reward model cannot read the policy's tokens
    renderer = Renderer(load_tokenizer(str(tmp_path / "rm")))
    model = load_scalar_model(str(tmp_path / "rm"), renderer.tokenizer, dtype=torch.float32)
    sample = next(
        row
        for row in map(json.loads, (folder / "samples.jsonl").read_text().splitlines())
        if row["finished"] and row["completion"].strip()
    )
    prompt = [{"role": "user", "content": sample["prompt"].removeprefix("user: ")}]
    answer = [{"role": "assistant", "content": sample["completion"].strip()}]
    ids = renderer.prompt_ids(prompt) + renderer.completion_ids(prompt, answer)
    score = model.scores(torch.tensor([ids]), torch.tensor([len(ids)])).item()
    assert sample["score"] == pytest.approx(score, abs=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "float32"])
def test_training_lowers_the_loss_in_both_precisions(precision, chain, data, small, tmp_path):
    settings = small | {"model": chain.init, "train_data": data.sft, "precision": precision, "epochs": 4}
    folder = train_sft(SFTConfig(output_dir=str(tmp_path / "sft"), gradient_checkpointing=True, **settings))
    losses = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.6 * losses[0]
