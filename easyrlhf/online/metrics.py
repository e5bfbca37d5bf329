"""What a rollout says about the run: the metrics of objective, lengths and health, and samples to read."""

import json
from itertools import compress

import torch
from torch import Tensor

from easyrlhf.config import OnlineConfig
from easyrlhf.losses.ppo import explained_variance
from easyrlhf.online.rollout import Rollout, scores_by_source
from easyrlhf.report.transcript import transcript


def rollout_metrics(rollout: Rollout, kl_coef: float) -> dict[str, float]:
    """Metrics of one estimated rollout, under the names of report.metrics."""
    mask, lengths, scored = rollout.actions, rollout.lengths, rollout.scored
    counted = mask.bool()
    mismatch = (rollout.sampler_logprobs - rollout.old_logprobs)[counted].abs()
    metrics = {
        "objective/entropy": -(rollout.old_logprobs * mask).sum(1).mean().item(),
        "objective/rlhf_reward": rollout.scores.nanmean().item(),
        "objective/scores": rollout.scores.nanmean().item(),
        "policy/entropy_avg": rollout.entropies[counted].mean().item(),
        "val/num_eos_tokens": rollout.finished.sum().item(),
        "kl_coef": kl_coef,
        "length/prompt_mean": sum(map(len, rollout.prompt_ids)) / len(rollout),
        "length/completion_mean": lengths.float().mean().item(),
        "length/completion_max": lengths.max().item(),
        "health/eos_rate": rollout.finished.float().mean().item(),
        "health/repetition": sum(map(repetition, unpad_sampled(rollout))) / len(rollout),
        "health/reward_length_correlation": correlation(rollout.scores[scored], lengths[scored].float()),
        "health/sampler_mismatch": mismatch.nanmean().item(),
    }
    if rollout.kl is not None:
        kl = (rollout.kl * mask).sum(1)
        metrics["objective/kl"] = kl.mean().item()
        metrics["objective/non_score_reward"] = -kl_coef * kl.mean().item()
        metrics["objective/rlhf_reward"] = (rollout.scores - kl_coef * kl).nanmean().item()
    if not scored.all():
        metrics["health/unscored"] = 1 - scored.float().mean().item()
    for name, scores in rollout.source_scores.items():
        if len(applying := scores[~scores.isnan()]):
            metrics[f"reward/{name}/mean"] = applying.mean().item()
            metrics[f"reward/{name}/std"] = applying.std(correction=0).item()
    if rollout.action_mask is not None:
        metrics |= episode_metrics(rollout)
    if rollout.values is not None:
        learned = [getattr(rollout, name)[rollout.learned.bool()] for name in ("values", "returns")]
        metrics["value/explained_variance"] = explained_variance(*learned).item()
    return metrics


def unpad_sampled(rollout: Rollout) -> list[list[int]]:
    """The ids of each completion that the policy sampled."""
    rows = zip(rollout.completion_ids.tolist(), rollout.actions.bool().tolist(), strict=True)
    return [list(compress(ids, sampled)) for ids, sampled in rows]


def episode_metrics(rollout: Rollout) -> dict[str, float]:
    """What became of a rollout's episodes."""
    episodes = [row["episode"] for row in rollout.rows]

    def mean(name: str) -> float:
        return sum(getattr(episode, name) for episode in episodes) / len(episodes)

    return {
        "env/turns_mean": mean("turns"),
        "env/finished": rollout.finished.float().mean().item(),
        "env/tool_calls": mean("tool_calls"),
        "env/tool_errors": mean("tool_errors"),
        "env/dropped": mean("dropped"),
        "env/sampled": (rollout.actions.sum() / rollout.completion_mask.sum()).item(),
        "env/seconds_mean": mean("seconds"),
    }


def importance_metrics(rollout: Rollout, config: OnlineConfig) -> dict[str, float]:
    """What the importance weights of a rollout say, where its samples are weighted."""
    if not config.corrects_sampling:
        return {}
    weights = rollout.importance_weights(config)[rollout.actions.bool()]
    return {
        "health/importance_mean": weights.mean().item(),
        "health/importance_capped": (weights >= config.importance_cap).float().mean().item(),
    }


def staleness_metrics(learned: Rollout, config: OnlineConfig) -> dict[str, float]:
    """How old what a step learned from is, where any of it may be."""
    if not (config.uses_vllm or config.replay_buffer_size):
        return {}
    return {"health/staleness": learned.staleness.mean().item()}


def evaluation_metrics(rollouts: list[Rollout]) -> dict[str, float]:
    """Metrics of held-out prompts, over all their rollouts."""
    kl = [r.log_ratios for r in rollouts if r.log_ratios is not None]
    metrics = {
        "eval/scores": torch.cat([r.scores for r in rollouts]).nanmean().item(),
        **({"eval/kl": torch.cat(kl).mean().item()} if kl else {}),
        "eval/length": torch.cat([r.lengths for r in rollouts]).float().mean().item(),
        "eval/eos_rate": torch.cat([r.finished for r in rollouts]).float().mean().item(),
    }
    if rollouts[0].action_mask is not None:
        turns = [row["episode"].turns for r in rollouts for row in r.rows]
        metrics["eval/turns"] = sum(turns) / len(turns)
    for name, scores in scores_by_source(rollouts).items():
        if len(applying := scores[~scores.isnan()]):
            metrics[f"eval/reward/{name}/mean"] = applying.mean().item()
    return metrics


def repetition(ids: list[int], n: int = 4) -> float:
    """Share of a completion's n-grams that occurred in it before; 0 for completions shorter than n."""
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def correlation(x: Tensor, y: Tensor) -> float:
    """Pearson correlation of two vectors [B]; nan when one of them does not vary."""
    x, y = x - x.mean(), y - y.mean()
    return ((x * y).sum() / (x.norm() * y.norm())).item()


def readable_prompt(prompt: str | list[dict[str, str]]) -> str:
    """A prompt as people read it: its text, or one `role: content` line per turn."""
    return prompt if isinstance(prompt, str) else "\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)


def readable_completion(row: dict, ids: list[int], decode) -> str:
    """A completion as people read it: its text, or of an episode what both sides said."""
    if "episode" not in row:
        return decode(ids)
    return transcript(row["episode"].messages)


def said_in(row: dict) -> dict:
    """What a stored row of an episode has besides: its messages, turns and failed calls."""
    if "episode" not in row:
        return {}
    episode = row["episode"]
    return {"messages": episode.messages, "turns": episode.turns, "tool_errors": episode.tool_errors}


def sample_rows(rollout: Rollout, kl_coef: float, decode) -> list[dict]:
    """Samples for people: prompt and completion text, score, KL, and total = score − kl_coef · KL.

    Where the KL was not measured it is None, and the total the score.
    """
    kl = [None] * len(rollout) if rollout.log_ratios is None else rollout.log_ratios.tolist()
    return [
        {
            "prompt": readable_prompt(json.loads(row["prompt"])),
            "completion": readable_completion(row, ids, decode),
            "score": score,
            "kl": distance,
            "total": score - kl_coef * (distance or 0.0),
            "finished": finished,
        }
        | said_in(row)
        for row, ids, score, distance, finished in zip(
            rollout.rows,
            rollout.completions(),
            rollout.scores.tolist(),
            kl,
            rollout.finished.tolist(),
            strict=True,
        )
    ]
