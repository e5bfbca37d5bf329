"""The reward of O1: cheap, and different within a group."""


def reward(prompts: list, completions: list, **columns) -> list[float]:
    """The last digit, in base 7, of each answer's length in characters."""
    return [float(len(text) % 7) for text in completions]
