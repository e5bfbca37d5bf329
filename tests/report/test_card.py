"""Model cards: what the hub reads of them, and what people read, of small hand-made stage folders."""

import json

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.utils import validate_repo_id

from easyrlhf.report.card import write_model_card
from easyrlhf.report.log import MetricsLog
from easyrlhf.report.metadata import hub_facts, hub_id
from easyrlhf.report.plots import plot_run

pytestmark = pytest.mark.usefixtures("pictures")

BASE_CARD = "---\nlicense: other\nlicense_name: qwen\nlicense_link: LICENSE\nlanguage: [en, zh]\ntags: [x]\n---\n"
INFO = {
    "stage": "dpo",
    "base": "Qwen/Qwen2.5-0.5B",
    "hub": {
        "base_model": "Qwen/Qwen2.5-0.5B",
        "license": "apache-2.0",
        "language": ["en"],
        "data": {"train": ["org/ultra:main@train_prefs", "org/more"], "valid": ["org/held:main@test_prefs"]},
    },
    "parents": {"model": "outputs/sft", "reward_model": None},
    "data": {
        "train": {"files": ["a.jsonl"], "read": 10, "used": 7, "dropped": {"over length": 3}},
        "valid": {"files": ["org/held:main@test_prefs"], "read": 2, "used": 2, "dropped": {}},
    },
    "wall_seconds": 245.0,
    "easyrlhf_version": "0.1.0",
    "libraries": {"torch": "2.13.0"},
}


@pytest.fixture
def dpo(tmp_path):
    """A finished dpo_train, with LoRA on a model of the hub."""
    folder = tmp_path / "dpo"
    log = MetricsLog(folder, report_to="none")
    log.log(1, {"loss": 0.7, "eval/loss": 0.69, "eval/rewards/accuracies": 0.5})
    log.log(2, {"loss": 0.6, "eval/loss": 0.125, "eval/rewards/accuracies": 0.75, "eval/rewards/margins": float("nan")})
    log.close()
    (folder / "args.yaml").write_text("model: a|b\nbeta: 0.1\nlearning_rate: 5.0e-06\nlora_r: 4\nvalid_data: null\n")
    adapter_of(folder, "Qwen/Qwen2.5-0.5B")
    return folder


def adapter_of(folder, base):
    (folder / "adapter").mkdir(exist_ok=True)
    settings = {"base_model_name_or_path": base, "r": 4}
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(settings))


def metadata(folder):
    """The front matter of a card as the hub's library reads it."""
    return ModelCard.load(folder / "README.md").data.to_dict()


def test_the_hub_reads_base_data_licence_and_held_out_numbers(dpo):
    write_model_card(dpo, stage="dpo", info=INFO)
    numbers = [("loss", "eval/loss", 0.125), ("accuracy", "eval/rewards/accuracies", 0.75)]
    about = {"name": "org/held", "type": "org/held", "config": "main", "split": "test_prefs"}
    results = {
        "task": {"type": "text-generation", "name": "DPO"},
        "dataset": about,
        "metrics": [{"type": kind, "value": value, "name": name} for kind, name, value in numbers],
    }
    same = {
        "base_model": "Qwen/Qwen2.5-0.5B",
        "datasets": ["org/ultra", "org/more"],
        "language": ["en"],
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
    }
    assert metadata(dpo) == same | {
        "library_name": "transformers",
        "tags": ["easyrlhf", "dpo", "rlhf"],
        "model-index": [{"name": "dpo", "results": [results]}],
    }
    assert metadata(dpo / "adapter") == same | {
        "library_name": "peft",
        "tags": ["easyrlhf", "lora", "dpo", "rlhf"],
        "model-index": [{"name": "dpo-adapter", "results": [results]}],
    }


def test_files_are_no_data_set_and_an_adapter_of_a_folder_names_no_base(dpo, tmp_path):
    adapter_of(dpo, str(tmp_path / "sft"))
    data = {"train": {"files": ["a.jsonl"]}, "valid": {"files": ["/home/x/b.jsonl", "c.jsonl"]}}
    for part in data.values():
        part |= {"read": 1, "used": 1, "dropped": {}}
    write_model_card(dpo, stage="dpo", info={"stage": "dpo", "hub": {}, "data": data})
    for found in metadata(dpo), metadata(dpo / "adapter"):
        assert not {"base_model", "datasets", "license", "language"} & set(found)
        dataset = found["model-index"][0]["results"][0]["dataset"]
        assert dataset == {"type": "local", "name": "held-out rows of b.jsonl, c.jsonl"}
    text = (dpo / "adapter" / "README.md").read_text()
    assert f"A LoRA adapter of rank 4 for `{tmp_path / 'sft'}`, and for no other weights." in text
    assert f'AutoModelForCausalLM.from_pretrained("{tmp_path / "sft"}")' in text
    assert "More Information Needed" not in text


@pytest.mark.parametrize("before, line", [(100, "base.resize_token_embeddings(103)\n"), (103, ""), (None, "")])
def test_an_adapter_of_a_vocabulary_that_grew_says_how_it_loads(dpo, tmp_path, before, line):
    base = tmp_path / "sft"
    base.mkdir()
    (dpo / "config.json").write_text('{"text_config": {"vocab_size": 103}}')
    if before:
        (base / "config.json").write_text(json.dumps({"vocab_size": before}))
    adapter_of(dpo, str(base))
    write_model_card(dpo, stage="dpo", info=INFO)
    text = (dpo / "adapter" / "README.md").read_text()
    assert f'from_pretrained("{base}")\n{line}model = PeftModel.from_pretrained(base, path)\n' in text


def test_a_full_model_on_an_adapters_own_base_keeps_what_the_hub_knows_of_the_first_one(dpo, tmp_path):
    adapter_of(dpo, str(tmp_path / "sft"))  # trained from Qwen, whose weights are not those that the adapter fits
    write_model_card(dpo, stage="dpo", info=INFO)
    assert metadata(dpo)["base_model"] == "Qwen/Qwen2.5-0.5B"
    assert "base_model" not in metadata(dpo / "adapter")


def test_without_held_out_numbers_there_is_no_model_index(tmp_path):
    log = MetricsLog(tmp_path / "sft", report_to="none")
    log.log(1, {"loss": 0.5})
    log.close()
    write_model_card(tmp_path / "sft", stage="sft", info={"stage": "sft", "hub": {}})
    assert metadata(tmp_path / "sft") == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["easyrlhf", "sft"],
    }


@pytest.mark.parametrize(
    "stage, settings, tags",
    [
        ("rm", "", ["easyrlhf", "rm", "reward-model", "rlhf"]),
        ("grpo", "advantage: rloo", ["easyrlhf", "rloo", "rlhf"]),
        ("grpo", "advantage: grpo", ["easyrlhf", "grpo", "rlhf"]),
        ("ppo", "", ["easyrlhf", "ppo", "rlhf"]),
    ],
)
def test_what_a_model_is_found_by(tmp_path, stage, settings, tags):
    (tmp_path / "args.yaml").write_text(settings or "{}")
    write_model_card(tmp_path, stage=stage, info={"hub": {}})
    found = metadata(tmp_path)
    assert found["tags"] == tags
    assert found["pipeline_tag"] == ("text-classification" if stage == "rm" else "text-generation")


def test_people_read_results_the_settings_that_were_given_and_versions(dpo):
    plot_run(dpo, "dpo")
    body = write_model_card(dpo, stage="dpo", info=INFO).read_text().split("---\n", 2)[2]
    assert "| `eval/rewards/accuracies` | 0.750 |" in body
    table = body.partition("## Settings\n\n")[2].partition("\n\n")[0]
    assert table.splitlines()[2:] == ["| `model` | a\\|b |", "| `learning_rate` | 5e-06 |", "| `lora_r` | 4 |"]
    assert "The others have their defaults; `args.yaml` has all of them." in body
    assert "![loss](plots/loss.png)" in body
    assert "easyrlhf 0.1.0, torch 2.13.0" in body


def test_the_reward_models_card_warns_of_the_random_head(tmp_path):
    card = write_model_card(tmp_path, stage="rm", info=INFO).read_text()
    assert "value_head.safetensors" in card and "random head" in card


def test_what_is_known_of_the_first_model_goes_down_the_chain(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text(BASE_CARD)
    found = {"license": "other", "license_name": "qwen", "license_link": "LICENSE", "language": ["en", "zh"]}
    (tmp_path / "rows.jsonl").touch()
    data = {"train": ["a/b@train", "rows.jsonl"], "valid": ["rows.jsonl"]}
    assert hub_facts(str(base), {}, data) == found | {"data": {"train": ["a/b@train"]}}
    known = found | {"base_model": "a/b"}
    assert hub_facts("outputs/sft", {"hub": known | {"data": {"train": ["x/y"]}}}, {}) == known
    assert hub_facts("outputs/sft", {"base": "a/b"}, {}) == {"base_model": "a/b"}
    (base / "README.md").write_text("---\nlicense: [\n---\n")
    assert hub_facts(str(base), {}, {}) == {}


def test_a_path_is_a_hub_id_only_when_it_can_be_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "sft").mkdir(parents=True)
    snapshot = "/home/x/.cache/huggingface/hub/models--Qwen--Qwen2.5-0.5B/snapshots/abc"
    ids = {name: hub_id(name) for name in ("Qwen/Qwen2.5-0.5B", "gpt2", snapshot)}
    assert ids == {"Qwen/Qwen2.5-0.5B": "Qwen/Qwen2.5-0.5B", "gpt2": "gpt2", snapshot: "Qwen/Qwen2.5-0.5B"}
    for name in filter(None, ids.values()):
        validate_repo_id(name)
    for path in ("models/sft", "models/gone", "outputs/sft", "./x/y", "/x/y", "a/b/c", "models"):
        assert hub_id(path) is None, path


def test_a_run_of_before_keeps_its_base(dpo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_model_card(dpo, stage="dpo", info={"base": "Qwen/Qwen2.5-0.5B"})
    assert metadata(dpo)["base_model"] == "Qwen/Qwen2.5-0.5B"
    write_model_card(dpo, stage="dpo", info={"base": str(tmp_path)})
    assert "base_model" not in metadata(dpo)
