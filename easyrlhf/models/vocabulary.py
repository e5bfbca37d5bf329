"""What the ids of a language model's output mean: those that no token stands behind, and those that end an answer."""


def spare_ids(tokenizer, rows: int) -> list[int]:
    """The ids below `rows` that the tokenizer has no token for: rows that models have to make their size round."""
    known = {*tokenizer.get_vocab().values(), *tokenizer.added_tokens_decoder}
    return [i for i in range(rows) if i not in known and not is_token(tokenizer, i)]


def end_ids(named: int | list[int] | None, configured: int | list[int] | None, tokenizer) -> tuple[int, ...]:
    """The ids that end an answer: the template's end-of-turn token, then others that the model names and are tokens.

    A single one that its configuration has too, from where transformers copies it, may be but the default of its
    family, and ends nothing unless it is a special token.

    named       eos_token_id of its generation_config.json, or of its configuration where there is none
    configured  eos_token_id of its configuration
    """
    if isinstance(named, int) and named == configured and not is_special(tokenizer, named):
        named = None
    others = named if isinstance(named, list | tuple) else [named]
    others = [i for i in others if type(i) is int and is_token(tokenizer, i)]
    return tuple(dict.fromkeys([tokenizer.eos_token_id, *others]))


def is_token(tokenizer, i: int) -> bool:
    """Whether an id stands for a token."""
    try:
        return i >= 0 and tokenizer.convert_ids_to_tokens(i) is not None
    except (IndexError, KeyError, OverflowError, TypeError, ValueError):  # tokenizers in Python look into their lists
        return False


def is_special(tokenizer, i: int) -> bool:
    """Whether an id is that of a special token."""
    added = tokenizer.added_tokens_decoder.get(i)
    return i in tokenizer.all_special_ids or (added is not None and added.special)
