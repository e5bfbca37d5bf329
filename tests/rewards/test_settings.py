"""The settings of reward sources, and the tables that depend on them."""

import pytest

from easyrlhf.config import GRPOConfig, PPOConfig, ServeRewardConfig


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"reward_url": "localhost:8000"}, "reward_url localhost:8000: must look like http://host:port or https://"),
        ({"reward_url": "http://a:1,b:2"}, "reward_url b:2: must look like"),
        ({"reward_url": "http://"}, "reward_url http://: must look like"),
        ({"reward_timeout": 0}, "reward_timeout 0.0: must be greater than 0"),
        ({"reward_workers": -1}, "reward_workers -1: must be 0 or more"),
        ({"reward_workers": 2}, "reward_workers 2: call reward functions, and there are none"),
        (
            {
                "reward_model": "r",
                "reward_funcs": "a.py:f",
                "reward_url": "http://a:1,http://b:2",
                "reward_weights": "1",
            },
            "reward_weights 1: 1 for 4 reward sources",
        ),
    ],
)
@pytest.mark.parametrize("config", [PPOConfig, GRPOConfig])
def test_wrong_settings_are_refused(config, wrong, message):
    with pytest.raises(ValueError) as caught:
        config(train_data="a", **wrong)
    assert message in str(caught.value)


def test_a_server_alone_is_a_reward_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = PPOConfig(train_data="a", model="m", reward_url="http://a:1").resolved()
    assert config.reward_model is None and config.reward_weight_values == (1.0,)


def test_weights_stand_in_the_order_of_the_sources():
    many = {"reward_model": "r", "reward_funcs": "a.py:f,a.py:g", "reward_url": "https://a/score, http://b:2"}
    assert PPOConfig(train_data="a", **many, reward_weights="1,2,3,4,5").reward_weight_values == (1, 2, 3, 4, 5)
    assert PPOConfig(train_data="a", **many).reward_weight_values == (1,) * 5


def test_the_punishment_of_long_completions_has_weight_1():
    config = GRPOConfig(train_data="a", reward_funcs="a.py:f", reward_weights="0.5", soft_punish_cache=4)
    assert config.reward_weight_values == (0.5, 1.0)
    assert GRPOConfig(train_data="a", reward_funcs="a.py:f").reward_weight_values == (1.0,)


@pytest.mark.parametrize("devices", ["gpu", "0,1", "cpu:2"])
def test_a_server_has_one_device(devices):
    with pytest.raises(ValueError, match="must be cpu or one GPU index"):
        ServeRewardConfig(reward_model="rm", devices=devices)
