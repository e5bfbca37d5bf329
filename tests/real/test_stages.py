"""Every stage on a real model: its first loss as transformers computes it, two steps, and folders that others read."""

import json
import math
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

pytestmark = pytest.mark.real

END = 2  # <|im_end|>
PAIR = ("chosen", "rejected")
RUNS = ["sft", "sft_full", "rm", "dpo", "ipo", "kto", "orpo", "simpo", "cpo", "rrhf", "grpo", "ppo"]


def steps(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def plain(real_model):
    """The tokenizer as transformers has it."""
    return AutoTokenizer.from_pretrained(real_model)


@pytest.fixture(scope="module")
def rows(home):
    """rows(name) -> the rows of a file."""
    return lambda name: [json.loads(line) for line in (home / f"{name}.jsonl").read_text().splitlines()]


def ids_of(plain, prompt: list[dict], answer: list[dict]) -> tuple[list[int], int]:
    """An exchange as transformers renders it, through the end of the answer, and how much of it is the prompt."""
    prompt_ids = plain.apply_chat_template(prompt, add_generation_prompt=True)["input_ids"]
    ids = plain.apply_chat_template(prompt + answer)["input_ids"]
    assert ids[: len(prompt_ids)] == prompt_ids
    return ids[: ids.index(END, len(prompt_ids)) + 1], len(prompt_ids)


def logprobs(real_lm, plain, prompt, answer) -> torch.Tensor:
    """Log-probabilities of an answer's tokens, its end included."""
    ids, start = ids_of(plain, prompt, answer)
    found = real_lm(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
    return found.gather(1, torch.tensor(ids[1:])[:, None]).squeeze(1)[start - 1 :]


@pytest.mark.parametrize("name", RUNS)
def test_two_steps_without_a_word_on_standard_error(trained, name):
    folder = trained(name)
    found = steps(folder)
    assert [row["step"] for row in found] == [1, 2]
    assert all(math.isfinite(value) for row in found for value in row.values() if isinstance(value, float))
    assert json.loads((folder / "stage.json").read_text())["status"] == "complete"


@pytest.mark.parametrize("name", ["sft", "sft_full"])
def test_the_first_loss_of_sft_is_that_of_transformers(trained, real_lm, plain, rows, name):
    every = torch.cat([logprobs(real_lm, plain, [r["messages"][0]], [r["messages"][1]]) for r in rows("sft")])
    first, second = (row["loss"] for row in steps(trained(name)))
    assert first == pytest.approx(-every.mean().item(), abs=2e-5)
    assert second < first - 0.1  # the same rows once more


def test_the_first_loss_of_dpo_is_ln_2_of_the_logprobs_of_transformers(trained, real_lm, plain, rows):
    first = steps(trained("dpo"))[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    for side in PAIR:
        means = [logprobs(real_lm, plain, row["prompt"], row[side]).mean().item() for row in rows("pairs")]
        assert first[f"logps/{side}"] == pytest.approx(sum(means) / len(means), abs=2e-5)


@pytest.fixture(scope="module")
def answers(real_lm, plain, rows) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Log-probabilities of the tokens of the chosen and of the rejected answers, as transformers has them."""
    return tuple([logprobs(real_lm, plain, row["prompt"], row[side]) for row in rows("pairs")] for side in PAIR)


def mean(values) -> float:
    return sum(values) / len(values)


def log_odds(tokens: torch.Tensor) -> float:
    probability = math.exp(tokens.mean().item())
    return math.log(probability / (1 - probability))


def softplus(number: float) -> float:
    return math.log1p(math.exp(-number))


@pytest.mark.parametrize(
    "name, loss, demonstrated",  # of one comparison; and whether the chosen answers' cross-entropy is added
    [
        ("ipo", lambda chosen, rejected: 25.0, False),  # 1 / (2 beta), squared: the policy is the reference
        ("orpo", lambda chosen, rejected: 0.1 * softplus(log_odds(chosen) - log_odds(rejected)), True),
        ("simpo", lambda chosen, rejected: softplus(2.0 * (chosen.mean() - rejected.mean()).item() - 1.0), False),
        ("cpo", lambda chosen, rejected: softplus(0.1 * (chosen.sum() - rejected.sum()).item()), True),
        ("rrhf", lambda chosen, rejected: max(0.0, (rejected.mean() - chosen.mean()).item()), True),
    ],
)
def test_the_first_losses_of_other_methods_are_their_formulas_of_transformers(
    trained, answers, name, loss, demonstrated
):
    chosen, rejected = answers
    expected = mean([loss(*pair) for pair in zip(chosen, rejected, strict=True)])
    expected -= torch.cat(chosen).mean().item() if demonstrated else 0.0
    first, second = (row["loss"] for row in steps(trained(name)))
    assert first == pytest.approx(expected, abs=2e-5)
    assert second < first  # the same rows once more


def test_the_first_loss_of_a_reward_model_is_that_of_transformers(trained, real_lm, plain, rows):
    folder = trained("rm")
    head = load_file(folder / "value_head.safetensors")
    weight, bias = head["v_head.summary.weight"], head["v_head.summary.bias"]

    def score(prompt, answer) -> torch.Tensor:
        ids, _ = ids_of(plain, prompt, answer)
        return real_lm.model(torch.tensor([ids])).last_hidden_state[0, -1] @ weight[0] + bias[0]

    margins = torch.stack([score(r["prompt"], r["chosen"]) - score(r["prompt"], r["rejected"]) for r in rows("pairs")])
    assert margins.abs().min() > 1e-3
    first, second = steps(folder)
    expected = -torch.nn.functional.logsigmoid(margins).mean().item()
    assert first["loss"] == pytest.approx(expected, abs=1e-4) and second["loss"] == pytest.approx(expected, abs=1e-4)
    assert first["rewards/margins"] == pytest.approx(margins.mean().item(), abs=2e-4)


def test_with_a_head_of_zeros_it_is_ln_2(real_model, real_tokenizer, plain, rows):
    from easyrlhf.losses.pairwise import bradley_terry_loss
    from easyrlhf.models.load import load_causal_lm
    from easyrlhf.models.value_head import ScalarModel, new_head

    lm = load_causal_lm(real_model, real_tokenizer, dtype=torch.float32)
    pairs = [[ids_of(plain, row["prompt"], row[side])[0] for side in PAIR] for row in rows("pairs")]
    model = ScalarModel(lm, new_head(lm, zero=True))
    families = [(chosen[:3], [chosen[3:], rejected[3:]]) for chosen, rejected in pairs]
    with torch.no_grad():
        scores = model.completion_scores(families, "off")
    chosen, rejected = scores.view(-1, 2).unbind(1)
    assert bradley_terry_loss(chosen, rejected, torch.zeros(len(pairs))).tolist() == pytest.approx([math.log(2)] * 6)


def test_kto_begins_at_one_half_and_ppo_and_grpo_at_no_distance(trained):
    assert steps(trained("kto"))[0]["loss"] == pytest.approx(0.5, abs=1e-6)
    for name in ("ppo", "grpo"):
        assert steps(trained(name))[0]["objective/kl"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("name", ["sft", "dpo", "kto", "grpo", "ppo"])
def test_an_adapter_on_the_original_model_is_the_merged_folder(trained, real_model, plain, name):
    ids = plain("The capital of France is", return_tensors="pt")["input_ids"]
    base = AutoModelForCausalLM.from_pretrained(real_model)
    merged = AutoModelForCausalLM.from_pretrained(trained(name))
    with torch.no_grad():
        before = base(ids).logits
        theirs = PeftModel.from_pretrained(base, str(trained(name) / "adapter"))(ids).logits
        ours = merged(ids).logits  # of as many tokens: none is added for padding
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)
    assert (theirs - before).abs().max() > (0.02 if name == "sft" else 0)


def test_a_pipeline_of_transformers_answers_with_the_folder(trained, said, home):
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    (home / "asked.jsonl").write_text(json.dumps({"prompt": asked}) + "\n")
    answer = pipeline("text-generation", model=str(trained("sft")))(
        asked, do_sample=False, max_new_tokens=12, return_full_text=False
    )[0]["generated_text"]
    words = ["--prompts", "asked.jsonl", "--output", "answers.jsonl", "--temperature", "0"]
    said("easyrlhf", "generate", trained("sft"), *words, "--max_new_tokens", "12", "--devices", "cpu")
    [row] = (home / "answers.jsonl").read_text().splitlines()
    assert "Paris" in answer
    assert answer in row
