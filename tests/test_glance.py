"""What is wrong at a glance is told before anything heavy is imported."""

import json
import subprocess
import sys

import pytest

from easyrlhf.config import (
    ChatConfig,
    CompareConfig,
    DPOConfig,
    FinishConfig,
    PPOConfig,
    RMConfig,
    ServeConfig,
    SFTConfig,
)
from easyrlhf.errors import InputError
from easyrlhf.glance import ROWS, glance, glance_at_models
from easyrlhf.launch import start

HEAVY = ("torch", "transformers", "datasets", "pandas", "pyarrow", "peft", "numpy")
DEMONSTRATION = {"prompt": "a", "completion": "b"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a model of sorts, `model`, and rows, `rows.jsonl`; the present one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "rows.jsonl").write_text(json.dumps(DEMONSTRATION) + "\n")
    return tmp_path


def adapter(folder, base: str) -> None:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))


def run(folder, config) -> None:
    """What a finished run of these settings leaves of itself."""
    folder.mkdir()
    (folder / "stage.json").write_text(json.dumps({"stage": config.stage, "status": "complete"}))
    (folder / "args.yaml").write_text(config.resolved().with_lengths(None).to_yaml())


def test_what_is_right_at_a_glance_passes(place):
    glance(SFTConfig(model="model", train_data="rows.jsonl", valid_data="rows.jsonl"))
    adapter(place / "lora", "model")
    glance(SFTConfig(model="lora", train_data="rows.jsonl"))


@pytest.mark.parametrize(
    "config, told",
    [
        (
            SFTConfig(model="./nope", train_data="rows.jsonl"),
            "./nope: no such folder; give a folder",
        ),
        (SFTConfig(model=".", train_data="rows.jsonl"), r"\.: holds no config.json, so it is no model"),
        (
            SFTConfig(model="model", train_data="row.jsonl"),
            r"row.jsonl: no such file or folder; did you mean rows.jsonl",
        ),
        (SFTConfig(model="model", train_data="rows.jsonl", valid_data="v.jsonl"), "v.jsonl: no such file or folder"),
        (RMConfig(model="model", train_data="rows.jsonl"), "rows.jsonl: holds demonstrations"),
        (DPOConfig(model="model", ref_model="./ref", train_data="rows.jsonl"), "./ref: no such folder"),
        (PPOConfig(model="model", reward_model="./rm", train_data="rows.jsonl"), "./rm: no such folder"),
        (
            PPOConfig(model="model", reward_model="model", train_data="rows.jsonl", ptx_data="p.jsonl", ptx_coef=1.0),
            "p.jsonl: no such file or folder",
        ),
    ],
)
def test_an_input_that_cannot_be_used_is_named(place, config, told):
    with pytest.raises(InputError, match=told):
        glance(config)


def test_a_folder_of_no_run_is_not_finished(place):
    with pytest.raises(InputError, match=r"^model: is not the output folder of a training stage"):
        glance_at_models(FinishConfig(run="model"))


def test_the_base_of_an_adapter_is_looked_for(place):
    adapter(place / "lora", "./gone")
    with pytest.raises(InputError, match=r"lora: is an adapter whose base model, .*cannot be found: ./gone"):
        glance(SFTConfig(model="lora", train_data="rows.jsonl"))
    with pytest.raises(InputError, match="lora: is an adapter"):
        glance_at_models(ChatConfig(model="lora"))


@pytest.mark.parametrize(
    "settings",
    [ServeConfig(model="model,./gone"), CompareConfig(models="model,./gone", prompts="rows.jsonl", judge="a.py:b")],
)
def test_each_of_several_models_is_looked_for(place, settings):
    with pytest.raises(InputError, match=r"^./gone: no such folder"):
        glance_at_models(settings)


def test_the_first_rows_are_read_and_no_others(place):
    rows = [json.dumps(DEMONSTRATION)] * (ROWS - 1) + ["no row"]
    (place / "rows.jsonl").write_text("\n".join(rows))
    with pytest.raises(InputError, match=f"rows.jsonl:{ROWS}: not JSON"):
        glance(SFTConfig(model="model", train_data="rows.jsonl"))
    (place / "rows.jsonl").write_text("\n".join([json.dumps(DEMONSTRATION), *rows]))
    glance(SFTConfig(model="model", train_data="rows.jsonl"))


def test_a_folder_that_cannot_be_the_runs_is_named(place):
    (place / "other").mkdir()
    (place / "other" / "thesis.tex").write_text("")
    with pytest.raises(InputError, match=r"--output_dir other: holds files this stage did not write \(thesis.tex\)"):
        glance(SFTConfig(model="model", train_data="rows.jsonl", output_dir="other"))
    with pytest.raises(InputError, match=r"--output_dir rows.jsonl/x: cannot be created"):
        glance(SFTConfig(model="model", train_data="rows.jsonl", output_dir="rows.jsonl/x"))
    run(place / "out", SFTConfig(model="model", train_data="rows.jsonl", output_dir="out", seed=1))
    with pytest.raises(InputError, match="holds a complete run of sft with other settings:\n  seed: 1 → 2"):
        glance(SFTConfig(model="model", train_data="rows.jsonl", output_dir="out", seed=2))


def test_a_folder_that_a_run_was_begun_in_and_hub_data_are_left_to_the_stage(place):
    run(place / "out", SFTConfig(model="./gone", train_data="gone.jsonl", output_dir="out"))
    glance(SFTConfig(model="./gone", train_data="gone.jsonl", output_dir="out"))
    glance(SFTConfig(model="model", train_data="Anthropic/hh-rlhf"))
    glance_at_models(ChatConfig(model="out"))  # whether it holds a model, the run knows


def test_a_run_of_other_lengths_is_left_to_the_stage_which_asks_the_model_for_its_own(place):
    run(place / "out", SFTConfig(model="model", train_data="rows.jsonl", output_dir="out", max_length=64))
    glance(SFTConfig(model="./gone", train_data="gone.jsonl", output_dir="out", max_prompt_length=8))


def test_a_stage_called_from_python_is_looked_at_as_well(place):
    with pytest.raises(InputError, match=r"gone.jsonl: no such file or folder"):
        start("nowhere:never", SFTConfig(model="model", train_data="gone.jsonl", devices="cpu"))


def test_nothing_heavy_is_imported_for_it(place):
    program = (
        "import sys\n"
        "from easyrlhf.cli.stages import sft_train as main\n"
        "try:\n"
        "    main(['--model', 'model', '--train_data', 'gone.jsonl'])\n"
        "finally:\n"
        f"    print([name for name in {HEAVY} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (
        2,
        "reading gone.jsonl …\n[]\n",
        "error: gone.jsonl: no such file or folder; did you mean rows.jsonl?\n",
    )
