"""EBFT from demonstrations to its folder: what is compared, what a stopped run remembers, what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import AutoTokenizer

from easyrlhf.config import EBFTConfig
from easyrlhf.engine.micro_batches import Passes
from easyrlhf.errors import InputError, RunStopped
from easyrlhf.losses.ebft import Whitening
from easyrlhf.models.features import completion_features
from easyrlhf.models.prefix_sharing import states_in_trees
from easyrlhf.online.ebft import EBFT, FeatureMatching, FeatureSource
from easyrlhf.online.rollout import Rollout
from easyrlhf.online.state import Models
from easyrlhf.rewards.combined import Rewards
from easyrlhf.stages.ebft import AnsweredPrompts, answer_start
from easyrlhf.stages.online import train_ebft
from easyrlhf.userfile import load_module

vllm = load_module(Path(__file__).parents[1] / "rollout" / "vllm_server.py")

SETTINGS = {
    "max_length": 64,
    "max_prompt_length": 40,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "max_completion_length": 8,
    "whiten_samples": 16,
    "devices": "cpu",
    "report_to": "none",
    "max_steps": 4,
    "save_steps": 0,
}
CLOCK = ("time/", "tokens_per_second")


@pytest.fixture
def train(data, chain, tmp_path, monkeypatch):
    """train(folder, **settings) -> the folder of a run of 4 rollouts."""
    for name in ("plot_run", "write_report"):
        monkeypatch.setattr(f"easyrlhf.stages.lifecycle.{name}", lambda *_, **__: None)

    def run(name: str, **settings) -> Path:
        known = {"model": chain.sft, "train_data": data.sft, "output_dir": str(tmp_path / name)}
        return Path(train_ebft(EBFTConfig(**SETTINGS | known | settings)))

    return run


def rows_of(folder: Path, name: str = "metrics.jsonl") -> list[dict]:
    rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith(CLOCK)} for row in rows]


STRIDE = {"ebft_mode": "stride", "stride": 4, "context_length": 3, "generate_length": 5}
IN_STRIDE = STRIDE | {"max_completion_length": 256, "max_prompt_length": None}


@pytest.fixture
def texts(tmp_path) -> str:
    """A file of plain texts, some of which are too short for a block."""
    file = tmp_path / "texts.jsonl"
    said = ["Red and blue are colours, and so is green.", "An owl is a bird that flies at night.", "Two cats."]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in said * 3 + ["No."]))
    return str(file)


@pytest.mark.parametrize(
    "settings",
    [{"valid": True, "ce_coef": 0.1}, {"lora_r": 4, "beta": 0.1}, IN_STRIDE | {"ce_coef": 0.1, "beta": 0.1}],
    ids=["full", "lora", "stride"],
)
def test_a_stopped_run_goes_on_with_the_measure_that_it_began_with(
    train, data, texts, stop_after, monkeypatch, settings
):
    own = dict(settings)
    if "stride" in own:
        own |= {"train_data": texts, "valid_data": texts, "eval_steps": 2, "overlength": "drop"}
    if own.pop("valid", False):
        own |= {"valid_data": data.sft, "eval_steps": 2}
    whole = train("whole", **own)
    go_on = stop_after(2)
    with pytest.raises(RunStopped):
        train("stopped", **own)
    go_on()
    [checkpoint] = (whole.parent / "stopped" / "checkpoints").glob("step-*")
    assert load_file(checkpoint / "kept" / "whitening.safetensors")["directions"].shape[0] == 3 * 128
    monkeypatch.setattr(Whitening, "of", lambda *_: pytest.fail("measured anew"))
    stopped = train("stopped", **own)
    assert rows_of(stopped) == rows_of(whole)
    assert rows_of(stopped, "rollouts.jsonl") == rows_of(whole, "rollouts.jsonl")
    for name, tensor in load_file(whole / "model.safetensors").items():
        assert torch.equal(tensor, load_file(stopped / "model.safetensors")[name]), name
    assert ("loss/ptx_avg" in rows_of(whole)[-1]) == ("ce_coef" in own)


# --- demonstrations as prompts with answers

TURNS = Dataset.from_list(
    [
        {"input_ids": [5, 6, 7, 8, 9], "loss_mask": [0, 0, 1, 1, 1], "length": 5},
        {"input_ids": [5, 6, 7, 8, 9, 4, 3], "loss_mask": [0, 1, 1, 0, 0, 1, 1], "length": 7},
        {"input_ids": [5, 6, 7], "loss_mask": [1, 1, 1], "length": 3},
    ]
)


def test_the_last_answer_of_a_demonstration_is_what_is_compared(chatml_renderer):
    assert [answer_start(mask) for mask in TURNS["loss_mask"]] == [2, 5, 0]
    assert answer_start([0, 1, 1, 0, 0]) == 1
    rows = AnsweredPrompts(TURNS, [1, 0], 2, chatml_renderer)
    assert [(row["prompt_ids"], row["answer_ids"], row["number"]) for row in rows] == [
        ([5, 6, 7, 8, 9], [4, 3], 1),
        ([5, 6], [7, 8], 0),
    ]
    assert [row["number"] for row in rows.select(range(1, 2))] == [0]


def test_demonstrations_without_a_prompt_are_refused(train, tmp_path):
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "Red and blue are colours."}\n' * 8)
    with pytest.raises(InputError, match="--train_data: 8 of 8 demonstrations have no prompt before their last"):
        train("refused", train_data=str(texts))


# --- plain texts, from many places on


def test_texts_are_continued_from_many_places_and_compared_with_what_they_say_there(train, texts, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "easyrlhf.models.prefix_sharing.states_in_trees",
        lambda lm, groups: seen.append(len(groups)) or states_in_trees(lm, groups),
    )
    own = IN_STRIDE | {
        "train_data": texts,
        "overlength": "drop",
        "log_rollouts": 8,
        "max_steps": 2,
        "log_rollout_ids": True,
    }
    once = train("once", **own)
    assert max(seen) > 1  # several blocks of a text in one pass
    logged = rows_of(once)[-1]
    assert {"ebft/alignment", "ebft/diversity", "ebft/cfm", "ebft/reward"} < logged.keys()
    assert "health/eos_rate" not in logged  # pieces of texts need no end
    seen.clear()
    apart = train("apart", **own, share_prefix="off")
    assert not seen
    rows, same = rows_of(once, "rollouts.jsonl"), rows_of(apart, "rollouts.jsonl")
    tokenizer = AutoTokenizer.from_pretrained(once)
    encoded = [tokenizer(json.loads(line)["text"])["input_ids"] for line in Path(texts).read_text().splitlines()]
    for first in range(0, len(rows), 4):  # completions of one block stand together
        assert len({row["prompt"] for row in rows[first : first + 4]}) == 1
    for row, other in zip(rows, same, strict=True):
        prompt = tokenizer(row["prompt"])["input_ids"]
        [text] = {tuple(ids) for ids in encoded if ids[: len(prompt)] == prompt}
        truth = tokenizer.decode(text[len(prompt) : len(prompt) + 5])
        assert row["columns"]["demonstration"] == truth
        assert (len(prompt) - 3) % 4 == 0 and len(row["completion_ids"]) <= 5
        assert row["completion"] == other["completion"]
        assert row["score"] == pytest.approx(other["score"], abs=1e-4)


def test_rows_that_stride_mode_has_no_place_for_are_refused(train, data, texts):
    with pytest.raises(InputError, match="48 of 48 rows have a prompt, and --ebft_mode stride continues plain texts"):
        train("refused", **IN_STRIDE)
    with pytest.raises(
        InputError, match=r"--train_data: 4 of 10 texts have fewer than 8 tokens \(--context_length and"
    ):
        train("refused", **IN_STRIDE, train_data=texts)
    with pytest.raises(InputError, match="10 of 10 texts have fewer than 70 tokens"):
        train("refused", **IN_STRIDE | {"context_length": 65}, train_data=texts, overlength="drop", max_length=128)


# --- the two parts of the reward

PROMPTS, ANSWERS = [[1, 2], [3]], [[4, 5], [6, 7, 8]]
SAID = [[9, 4], [10], [4, 5], [11, 12, 13]]


@pytest.fixture
def matching(tiny_lm) -> FeatureMatching:
    lm = tiny_lm(dtype=torch.float64)
    return FeatureMatching(Models(lm, lm, None, Passes(64)), [1], "last", 2)


def rows_for(*numbers: int) -> list[dict]:
    texts = {"prompt": '"Which?"', "columns": "{}"}
    return [{"prompt_ids": PROMPTS[n], "answer_ids": ANSWERS[n], "number": n} | texts for n in numbers]


@pytest.mark.parametrize("white", [False, True])
def test_a_completion_is_scored_by_what_it_is_like(matching, chatml_renderer, white):
    lm, numbers = matching.models.policy, (0, 0, 1, 1)
    found = completion_features(lm, [(PROMPTS[n], said) for n, said in zip(numbers, SAID, strict=True)], [1], "last")
    shown = completion_features(lm, list(zip(PROMPTS, ANSWERS, strict=True)), [1], "last")
    if white:
        matching.whitening = Whitening.of(torch.cat([found, shown]), 0.05)
        found, shown = matching.whitening(found), matching.whitening(shown)
    aligned = [(found[i] @ shown[n]).item() for i, n in enumerate(numbers)]
    alike = [(found[i] @ found[j]).item() for i, j in ((0, 1), (1, 0), (2, 3), (3, 2))]
    sources = [FeatureSource(name, matching) for name in ("alignment", "diversity")]
    rewards = Rewards(sources, [2.0, -1.0], None, 0.0, chatml_renderer)
    scores, raw = rewards(rows_for(*numbers), SAID, torch.ones(4, dtype=torch.bool))
    assert raw["alignment"].tolist() == pytest.approx(aligned, abs=1e-6)
    assert raw["diversity"].tolist() == pytest.approx(alike, abs=1e-6)
    assert scores.tolist() == pytest.approx([2 * a - d for a, d in zip(aligned, alike, strict=True)], abs=1e-6)


def test_a_completion_of_a_prompt_of_its_own_has_no_others(matching):
    aligned, alike = matching.terms(rows_for(0, 1), SAID[:2])
    assert alike.isnan().all() and not aligned.isnan().any()


def test_whole_completions_get_the_advantage_and_the_others_kl(small_rollout):
    config = EBFTConfig(model="m", train_data="x.jsonl", num_generations=2, batch_size=4, alignment_coef=0.5, beta=0.3)
    estimated = EBFT.estimate(small_rollout, config, 0.3)
    # (0.8, 0.2) with cosine 0.6: 2 (0.5 (0.8 - 0.2) - (0.6 - 1)) = 1.4, KL 2 against 1: -0.3; and the other way round
    expected = [1.4 - 0.3, 2 * (0.5 * -0.6 + 0.4) + 0.3, 0.0 - 0.0, 0.0]
    assert estimated.advantages[:, 0].tolist() == pytest.approx(expected, abs=1e-6)
    assert EBFT.metrics(small_rollout) == pytest.approx(
        {"ebft/alignment": 0.5, "ebft/diversity": 0.8, "ebft/cfm": 0.8, "ebft/reward": 0.25}
    )


@pytest.fixture
def small_rollout() -> Rollout:
    ones = torch.ones(4, 2)
    return Rollout(
        rows=[{}] * 4,
        completion_ids=ones.long(),
        completion_mask=ones,
        finished=torch.ones(4, dtype=torch.bool),
        sampler_logprobs=-ones,
        old_logprobs=-ones,
        ref_logprobs=-ones - torch.tensor([[1.0], [0.5], [0.25], [0.25]]),
        entropies=ones,
        values=None,
        scores=torch.tensor([1.0, 0.0, 0.0, 0.0]),
        source_scores={
            "alignment": torch.tensor([0.8, 0.2, 0.5, 0.5]),
            "diversity": torch.tensor([0.6, 0.6, 1.0, 1.0]),
        },
    )


def test_a_text_may_be_a_prompt_as_far_as_its_last_block():
    known = EBFTConfig(model="m", train_data="x.jsonl", ebft_mode="stride", generate_length=5)
    assert known.with_lengths(64).max_prompt_length == 64 - 5
    assert known.with_lengths(None).max_prompt_length == 1024 - 5
    assert replace(known, max_prompt_length=40).with_lengths(64).max_prompt_length == 40
    assert known.completion_limit == 5


def test_settings_that_make_no_sense_are_refused():
    known = EBFTConfig(model="m", train_data="x.jsonl")
    for changed, said in (
        ({"alignment_coef": 0, "diversity_coef": 0}, "nothing would be learned"),
        ({"whiten_samples": 1}, "tells no variance"),
        ({"feature_depths": "0.5,0"}, "above 0, up to 1"),
        ({"num_generations": 1, "batch_size": 8}, "2"),
        ({"stride": 4}, "stride 4: means nothing with ebft_mode structured; add ebft_mode stride"),
        ({"generate_length": 4}, "generate_length 4: means nothing"),
        ({"ebft_mode": "stride", "max_completion_length": 9}, "max_completion_length 9: means .* use generate_length"),
        (
            {"ebft_mode": "stride", "max_length": 15},
            "with generate_length 8 no text of max_length 15 has .* 16 or more",
        ),
        ({"ebft_mode": "stride", "max_prompt_length": 7}, "context_length 8: is more than max_prompt_length 7"),
    ):
        with pytest.raises(ValueError, match=said):
            replace(known, **changed)


@pytest.mark.parametrize("settings", [{}, {"lora_r": 4, "num_generations": 2}], ids=["full", "lora"])
def test_a_rollout_of_a_vllm_server_is_begun_ahead_and_kept(train, chain, stop_after, settings):
    settings = settings | {"rollout": "vllm", "vllm_mode": "server", "rollout_ahead": 1, "num_sample_generations": 0}
    with vllm.sampling(chain.sft).served() as server:
        whole = train("whole", vllm_port=server.port, **settings)
    assert [row["health/staleness"] for row in rows_of(whole)] == [0, 1, 1, 1]
    go_on = stop_after(2)
    with vllm.sampling(chain.sft).served() as first, pytest.raises(RunStopped):
        train("run", vllm_port=first.port, **settings)
    go_on()
    with vllm.sampling(chain.sft).served() as second:
        run = train("run", vllm_port=second.port, **settings)
    assert rows_of(run) == rows_of(whole)
    asked = [server.asked("/v1/completions") for server in (server, first, second)]
    assert len(asked[0]) == len(asked[1]) + len(asked[2])  # what had begun is not drawn again
