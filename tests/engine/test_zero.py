"""DeepSpeed configurations: those that come along, and what one's own may say."""

import json
from pathlib import Path

import pytest

from easyrlhf.engine.zero_config import PRESETS, fill_zero_config, preset_names, read_zero_config
from easyrlhf.errors import InputError

SHOWN = Path(__file__).parents[2] / "configs" / "deepspeed"


def own(tmp_path, **keys) -> str:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 2}} | keys))
    return str(file)


def test_the_presets_are_the_files_of_configs():
    assert preset_names() == ["zero2", "zero2_offload", "zero3", "zero3_offload"]
    for name in preset_names():
        assert (SHOWN / f"{name}.json").read_text() == (PRESETS / f"{name}.json").read_text()


@pytest.mark.parametrize(
    "name, stage, offloaded",
    [
        ("zero2", 2, ()),
        ("zero3", 3, ()),
        ("zero2_offload", 2, ("optimizer",)),
        ("zero3_offload", 3, ("optimizer", "param")),
    ],
)
def test_every_preset_is_what_its_name_says(name, stage, offloaded):
    zero = read_zero_config(name)["zero_optimization"]
    assert zero["stage"] == stage
    assert {key for key in zero if key.startswith("offload_")} == {f"offload_{part}" for part in offloaded}


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"gradient_accumulation_steps": 4}, "key gradient_accumulation_steps is 4, but it follows from --batch_size"),
        ({"train_batch_size": 8}, "key train_batch_size is 8, but --batch_size decides it"),
        ({"gradient_clipping": 0.5}, "key gradient_clipping is 0.5, but --max_grad_norm decides it"),
        ({"optimizer": {"type": "Adam"}}, 'key optimizer is {"type": "Adam"}, but the optimiser is AdamW'),
        (
            {"optimizer": {"type": "AdamW", "params": {"lr": 1e-5}}},
            '"params": {"lr": 1e-05}}, but the optimiser is Ada',
        ),
        ({"optimizer": {"type": "AdamW", "params": ["auto"]}}, "but the optimiser is AdamW with --learning_rate"),
        ({"scheduler": {"type": "OneCycle", "params": {}}}, "but --lr_scheduler and --warmup_ratio decide it"),
        (
            {"scheduler": {"type": "WarmupLR", "params": {"warmup_num_steps": 10, "warmup_min_lr": "auto"}}},
            "but --lr_scheduler and --warmup_ratio decide it",
        ),
        ({"bf16": {"enabled": True}}, "key bf16.enabled: --precision decides it"),
        ({"fp16": {"enabled": True}}, "key fp16.enabled: --precision decides it"),
        ({"bf16": True}, 'key bf16 is true, but must be {"enabled": "auto"}'),
        ({"zero_optimization": {"stage": 0}}, "key zero_optimization.stage must be 1, 2 or 3"),
        ({"zero_optimization": "zero3"}, "key zero_optimization.stage must be 1, 2 or 3"),
    ],
)
def test_what_the_settings_decide_is_refused_with_the_key_and_the_flag(tmp_path, keys, message):
    file = own(tmp_path, **keys)
    with pytest.raises(InputError) as caught:
        read_zero_config(file)
    assert f"--deepspeed {file}" in str(caught.value)
    assert message in str(caught.value)


def test_auto_and_what_tunes_zero_are_ones_own(tmp_path):
    keys = {"gradient_accumulation_steps": "auto", "bf16": {"enabled": "auto"}, "wall_clock_breakdown": True}
    config = read_zero_config(own(tmp_path, **keys, zero_optimization={"stage": 3, "reduce_bucket_size": 7}))
    found = fill_zero_config(config, bf16=True, max_grad_norm=0.3)
    assert found["zero_optimization"] == {"stage": 3, "reduce_bucket_size": 7}
    assert found["wall_clock_breakdown"] is True
    assert (found["gradient_accumulation_steps"], found["gradient_clipping"]) == (1, 0.3)
    assert (found["bf16"], found["data_types"]) == ({"enabled": True}, {"grad_accum_dtype": "fp32"})


@pytest.mark.parametrize("schedule", ["WarmupLR", "WarmupDecayLR"])
def test_an_optimiser_and_a_schedule_that_are_ours_in_every_value_are_accepted_and_left_to_the_settings(
    tmp_path, schedule
):
    adamw = {"type": "AdamW", "params": dict.fromkeys(("lr", "betas", "eps", "weight_decay"), "auto")}
    warmup = {"type": schedule, "params": dict.fromkeys(("warmup_min_lr", "warmup_max_lr", "warmup_num_steps"), "auto")}
    config = read_zero_config(own(tmp_path, optimizer=adamw, scheduler=warmup))
    assert fill_zero_config(config, bf16=False, max_grad_norm=1.0).keys() & {"optimizer", "scheduler"} == set()


def test_a_frozen_model_offloads_no_optimiser():
    found = fill_zero_config(read_zero_config("zero3_offload"), bf16=False, max_grad_norm=None)
    assert found["zero_optimization"].keys() & {"offload_optimizer", "offload_param"} == {"offload_param"}


@pytest.mark.parametrize("name, message", [("zero9", "is neither a file nor one of zero2"), ("broken", "is not JSON")])
def test_a_name_or_file_that_is_none_is_refused(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken").write_text("{")
    with pytest.raises(InputError, match=message):
        read_zero_config(name)
