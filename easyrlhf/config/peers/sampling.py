"""What other programs call the sampling settings of commands that use a model, beside what the stages answer."""

LACKED = "not in this version, which has temperature, top_p, top_k and repetition_penalty"
SAMPLES = ("n", "num_samples", "num_return_sequences", "n_samples_per_prompt", "num_generations")
NOTES = dict.fromkeys(
    (
        *("min_p", "typical_p", "epsilon_cutoff", "presence_penalty", "frequency_penalty"),
        *("no_repeat_ngram_size", "length_penalty", "num_beams"),
    ),
    LACKED,
) | {"do_sample": "temperature 0 takes the likeliest token, always; above it tokens are drawn"}


def explain_sampling(name: str, known: list[str], dash: str) -> str | None:
    """What a name is for a command that samples with a model and has these settings; None where it says nothing."""
    if "repetition_penalty" not in known:
        return None
    if name in SAMPLES and "samples" in known:
        return f"here it is {dash}samples"
    return NOTES.get(name)
