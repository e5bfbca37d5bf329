"""What came of a run, from its numbers: a sentence for each family of stages."""

from easyrlhf.report.detectors import History, early_and_late, lately, values
from easyrlhf.report.metrics import told


def sft_outcome(history: History) -> str:
    """From where to where the loss went, and the held-out perplexity."""
    ends, perplexity = early_and_late(history, "loss"), lately(history, "eval/perplexity")
    losses = values(history, "loss")
    early, late = ends or (losses[:1] + losses[-1:] if losses else (None, None))
    said = "Nothing was trained" if early is None else f"Loss went from {told('loss', early)} to {told('loss', late)}"
    return said + ("." if perplexity is None else f"; held-out perplexity is {told('eval/perplexity', perplexity)}.")


def rm_outcome(history: History) -> str:
    """The share of pairs that the reward model ranks right, held out where that was measured."""
    accuracy, alone = (lately(history, f"eval/{name}") for name in ("rewards/accuracies", "length_baseline_accuracy"))
    if accuracy is not None:
        said = f"The reward model ranks {told('rewards/accuracies', accuracy)} of held-out pairs right"
        said += "." if alone is None else f"; length alone ranks {told('rewards/accuracies', alone)}."
        return said + soft_label_sentence(history)
    training = lately(history, "rewards/accuracies")
    share = "none" if training is None else told("rewards/accuracies", training)
    return f"The reward model ranks {share} of the last training pairs right (none were held out)."


def soft_label_sentence(history: History) -> str:
    """How near the model is to held-out labels that are not sure; "" where all are."""
    cost, floor = (lately(history, f"eval/{name}") for name in ("cross_entropy", "label_entropy"))
    if cost is None or floor is None:
        return ""
    least = told("eval/label_entropy", floor)
    return f" Labels cost {told('eval/cross_entropy', cost)} nats under it, of which {least} are the labels' own doubt."


def online_outcome(title: str, history: History) -> str:
    """Whether the score has risen, and what that cost in KL."""
    ends = early_and_late(history, "objective/scores")
    kl = next((kl for part in ("objective/kl", "eval/kl") if (kl := lately(history, part)) is not None), None)
    if ends is None:
        return f"{title} has run for {history.steps} steps."
    early, late = (told("objective/scores", end) for end in ends)
    moved = "raised" if ends[1] > ends[0] else "did not raise"
    spent = "" if kl is None else f", at a KL of {told('objective/kl', kl).lstrip('+')} nats"
    return f"{title} {moved} the mean score: {early} to {late}{spent}."


def ebft_outcome(history: History) -> str:
    """Whether the answers have come nearer to the demonstrations."""
    ends = early_and_late(history, "ebft/cfm")
    if ends is None:
        return f"EBFT has run for {history.steps} steps."
    early, late = (told("ebft/cfm", end) for end in ends)
    moved = "brought answers nearer to the demonstrations" if ends[1] < ends[0] else "brought answers no nearer"
    return f"EBFT {moved}: squared distance {early} to {late}."


def aligning_outcome(title: str, history: History) -> str:
    """The share of pairs that the policy's own likelihoods rank right, held out where that was measured."""
    for name, of_what in (("eval/rewards/accuracies", "held-out"), ("rewards/accuracies", "training")):
        if (share := lately(history, name)) is not None:
            return f"{title} ranks {told(name, share)} of {of_what} pairs right."
    margin = lately(history, "rewards/margins")
    said = "" if margin is None else f": liked answers lead disliked ones by {told('rewards/margins', margin)}"
    return f"{title} has run for {history.steps} steps{said}."
