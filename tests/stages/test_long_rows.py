"""Rows that several processes share, or whose states wait in the host's memory: what is refused, and what stays."""

import pytest
import torch

from easyrlhf.config import DPOConfig, EBFTConfig, SFTConfig
from easyrlhf.engine import processes
from easyrlhf.errors import InputError, SettingError
from easyrlhf.launch import check_sharers
from easyrlhf.models.logprobs import row_token_logprobs
from easyrlhf.stages.checks import check_cut
from easyrlhf.stages.models import attend_our_way
from easyrlhf.stages.plan import place_of
from easyrlhf.stages.sft import train_sft


def settings(config=SFTConfig, **more):
    """The settings of a stage."""
    return config(train_data="rows.jsonl", **{"max_length": 64, "max_prompt_length": 32} | more)


@pytest.mark.parametrize(
    "config, more, message",
    [
        (SFTConfig, {"attn_implementation": "eager"}, "rows in sdpa attention alone, but attn_implementation is eager"),
        (EBFTConfig, {"max_length": 512}, "context_parallel_size 2: ebft compares features of whole rows"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(config, more, message):
    with pytest.raises(SettingError, match=message):
        settings(config, context_parallel_size=2, **more)


def test_offloading_without_gradient_checkpointing_is_refused():
    with pytest.raises(SettingError, match="give gradient_checkpointing as well"):
        settings(DPOConfig, offload_activations=True)


@pytest.mark.parametrize(
    "sharers, count, said",
    [(2, 1, "this run is 1 process, which does not divide"), (4, 6, "the 6 processes of this run do not divide")],
)
def test_processes_that_do_not_divide_into_groups_are_refused(sharers, count, said):
    with pytest.raises(InputError, match=f"--context_parallel_size {sharers}: {said}.*cpu:{sharers}"):
        check_sharers(sharers, count)
    check_sharers(sharers, 3 * sharers)


def test_a_single_process_is_refused_before_a_model_is_loaded(tmp_path, data):
    with pytest.raises(InputError, match="--context_parallel_size 2: this run is 1 process"):
        train_sft(
            settings(devices="cpu", context_parallel_size=2, model="no such folder", output_dir=str(tmp_path / "run"))
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "family, size, why",
    [
        ("llama", 3, "its 4 attention heads cannot be dealt out to 3 processes"),
        ("mistral", 2, "its attention sees less than --max_length 64 tokens"),
        ("bloom", 2, "BloomForCausalLM has no sdpa attention"),
    ],
)
def test_models_whose_rows_cannot_be_shared_are_refused_before_they_are_loaded(model_folder, family, size, why):
    policy, folder = model_folder("policy"), model_folder(family=family)
    with pytest.raises(InputError, match=f"--context_parallel_size {size}: {folder}: {why}"):
        check_cut(settings(context_parallel_size=size), [policy, folder][size == 3 :])
    check_cut(settings(context_parallel_size=2), [policy])
    check_cut(settings(), [folder])


class Asked:
    """A run as far as attention asks it."""

    dtype = torch.float32

    def __init__(self, config):
        self.config = config


def test_a_model_that_turns_out_unable_is_refused_and_one_that_is_able_is_told_its_group(tiny_lm, monkeypatch):
    run, lm = Asked(settings(context_parallel_size=2)), tiny_lm()
    attend_our_way(run, lm, "here")
    assert lm.row_group is processes.row_group
    monkeypatch.setattr("easyrlhf.stages.models.enable_sharing", lambda lm, max_length, say: False)
    with pytest.raises(InputError, match="2: here: LlamaForCausalLM does not let its attention be computed in parts"):
        attend_our_way(run, lm, "here")


def test_the_plan_says_how_many_processes_share_a_row(monkeypatch):
    monkeypatch.setattr(processes, "size", lambda: 6)
    run = Asked(settings(devices="cpu:6", context_parallel_size=2))
    run.device, run.zero = torch.device("cpu"), None
    assert place_of(run).startswith("on cpu in 6 processes, 2 to a row with 1 thread each")
    run.config = settings(devices="cpu:6")
    assert place_of(run).startswith("on cpu in 6 processes with 1 thread each")


def test_offloaded_states_change_no_bit_and_only_they_are_moved(tiny_lm, monkeypatch):
    lm = tiny_lm().train()
    lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    ids, mask = torch.arange(5, 17).view(2, 6), torch.ones(2, 6, dtype=torch.long)
    mask[:, 0] = 0
    moved, empty = [], torch.empty

    def noted(*size, pin_memory=False, **how):
        """Memory that the states are moved into is asked for pinned, where there is a GPU."""
        if "layout" in how:
            moved.append(tuple(size[0]))
        return empty(*size, **how)

    def gradients(offloads: bool) -> list[torch.Tensor]:
        lm.offloads = offloads
        lm.zero_grad()
        row_token_logprobs(lm, ids, mask).sum().backward()
        return [parameter.grad.clone() for parameter in lm.parameters()]

    expected = gradients(False)
    monkeypatch.setattr(torch, "empty", noted)
    assert all(map(torch.equal, gradients(True), expected))
    hidden = lm.config.hidden_size
    assert moved.count((2, 6, hidden)) >= 2  # what each of the two layers begins with
    assert all(shape[-1] != lm.config.vocab_size for shape in moved)  # logits are no states
    count = len(moved)
    with torch.no_grad():
        row_token_logprobs(lm, ids, mask)
    assert len(moved) == count
