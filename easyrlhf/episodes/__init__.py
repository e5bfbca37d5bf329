"""Episodes: completions of several turns, with an environment that speaks between them."""
