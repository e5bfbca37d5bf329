"""How several processes share the models: what is chosen by default, and what does not go together."""

import pytest

from easyrlhf.config import PPOConfig, SFTConfig
from easyrlhf.engine import processes, sharding
from easyrlhf.errors import InputError, SettingError

ROWS = {"train_data": "rows.jsonl"}


def test_fsdp2_takes_the_place_of_deepspeed_and_makes_a_group_of_one_process():
    alone, spread = SFTConfig(**ROWS), SFTConfig(**ROWS, sharding="fsdp2")
    assert [sharding.wants_group(config) for config in (alone, spread)] == [False, True]
    assert sharding.zero_config(SFTConfig(**ROWS, deepspeed="zero3"))["zero_optimization"]["stage"] == 3
    assert sharding.zero_config(spread) is None


def test_several_processes_use_zero2_but_under_fsdp2_and_where_deepspeed_is_missing(monkeypatch):
    monkeypatch.setattr(processes, "size", lambda: 2)
    assert sharding.zero_config(SFTConfig(**ROWS))["zero_optimization"]["stage"] == 2
    assert sharding.zero_config(SFTConfig(**ROWS, sharding="fsdp2")) is None
    monkeypatch.setattr(sharding, "find_spec", lambda name: None)
    assert sharding.zero_config(SFTConfig(**ROWS)) is None
    with pytest.raises(InputError, match=r"--deepspeed zero3: DeepSpeed is not installed here.* --sharding fsdp2"):
        sharding.zero_config(SFTConfig(**ROWS, deepspeed="zero3"))


@pytest.mark.parametrize(
    "config, settings, message",
    [
        (SFTConfig, {"deepspeed": "zero3"}, "sharding fsdp2: deepspeed zero3 spreads the models too; give one"),
        (SFTConfig, {"lora_r": 4, "load_in_4bit": True}, "loses the scales of load_in_4bit; use deepspeed zero2"),
        (PPOConfig, {"lora_r": 4, "share_backbone": True, "reward_model": "rm"}, "cannot be used with share_backbone"),
        (SFTConfig, {"devices": "mps"}, "sharding fsdp2: devices mps is one GPU, over which nothing is spread"),
    ],
)
def test_what_fsdp2_does_not_go_with_is_refused_by_name(config, settings, message):
    with pytest.raises(SettingError) as caught:
        config(**ROWS, sharding="fsdp2", **settings)
    assert str(caught.value).startswith("sharding fsdp2: ") and message in str(caught.value)
    assert config(**ROWS, sharding="fsdp2", deepspeed="none").sharding == "fsdp2"
