"""Loading a tokenizer so that every stage sees the same template, end-of-turn and pad tokens."""

import difflib
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from transformers import AddedToken, AutoTokenizer, PreTrainedTokenizerFast

from easyrlhf.data.hub import require_hub_id
from easyrlhf.data.templates import CHAT_TEMPLATES, CONTROL_TOKENS
from easyrlhf.errors import InputError
from easyrlhf.models.parents import naming_adapter, tokenizer_folder
from easyrlhf.paths import broken_link

__all__ = ["CHAT_TEMPLATES", "load_tokenizer", "tokenizer_fingerprint"]


# Tokens that exist to be padding, or to end a document; tried in this order, then those reserved and never used.
PAD_TOKENS = ("<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>", "<|endoftext|>")
RESERVED = re.compile(r"reserved|unused|extra|placeholder|control|dummy|pad", re.IGNORECASE)
BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # what SentencePiece writes unknown letters with


def load_tokenizer(
    path: str, *, chat_template: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder or hub id, made ready for training; an adapter without one has that of its base.

    chat_template  `chatml`, `hh`, `llama3` or a Jinja file; takes the place of the folder's own.
                   Without it and without one in the folder, conversations cannot be rendered.

    On return the template's end-of-turn token is `eos_token`, and `pad_token` is another token. Control tokens of a
    named template may have been added, and a token for padding where no special one is free, so compare
    `len(tokenizer)` with the model's embedding rows.
    Raises InputError when the path cannot be reached or the template cannot be used.
    """
    holder = tokenizer_folder(path)
    with naming_adapter(path, holder):
        tokenizer = _from_pretrained(holder, trust_remote_code)
    if chat_template is not None:
        _set_template(tokenizer, chat_template)
    end_of_turn = find_end_of_turn(tokenizer, path) if tokenizer.chat_template else None
    if end_of_turn is not None:
        tokenizer.add_special_tokens({"eos_token": _special(end_of_turn)})
    if tokenizer.eos_token is None:
        raise InputError(
            f"{path}: the tokenizer has no EOS token and its chat template no end-of-turn token, "
            "so no answer could end; set eos_token in its tokenizer_config.json, or give "
            "--chat_template chatml"
        )
    _ensure_pad(tokenizer)
    return tokenizer


def _from_pretrained(path: str, trust_remote_code: bool) -> PreTrainedTokenizerFast:
    folder = Path(path).expanduser()
    remedy = "give a folder with tokenizer.json, or a hub id such as Qwen/Qwen2.5-0.5B"
    if not folder.exists():
        require_hub_id(path, "tokenizer_config.json", remedy)
    elif not (folder.is_dir() and any(folder.glob("tokenizer*"))):
        raise InputError(f"{path}: holds no tokenizer; {remedy}")
    try:
        return AutoTokenizer.from_pretrained(
            str(folder) if folder.exists() else path, trust_remote_code=trust_remote_code
        )
    except Exception as error:  # broken files, gated or unknown ids: one kind of answer for all
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{path}: cannot load its tokenizer ({first_line}); {remedy}") from error


def _set_template(tokenizer: PreTrainedTokenizerFast, chat_template: str) -> None:
    """Put a named or own template in; the named ones bring their control tokens."""
    if chat_template in CHAT_TEMPLATES:
        known = tokenizer.get_vocab()
        missing = [t for t in CONTROL_TOKENS[chat_template] if t not in known]
        if missing:
            tokenizer.add_tokens([_special(t) for t in missing], special_tokens=True)
        starts_with_bos = tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]
        bos = "{{ bos_token }}" if starts_with_bos else ""
        tokenizer.chat_template = bos + CHAT_TEMPLATES[chat_template]
        return
    file = Path(chat_template).expanduser()
    if broken := broken_link(file):
        raise InputError(f"--chat_template {chat_template}: {broken}")
    if not file.is_file():
        names = ", ".join(CHAT_TEMPLATES)
        near = difflib.get_close_matches(chat_template, CHAT_TEMPLATES, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"--chat_template {chat_template}: neither one of {names} nor a Jinja file{hint}")
    try:
        tokenizer.chat_template = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"--chat_template {chat_template}: not UTF-8 text") from error


def find_end_of_turn(tokenizer: PreTrainedTokenizerFast, name: str) -> str | None:
    """The first special token that the chat template writes after an answer, or None.

    Found by rendering one exchange, so it holds for any template. Raises InputError for a
    template that cannot render a question and an answer.
    """
    probe = "SENTINEL"
    turns = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": probe}]
    try:
        rendered = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception as error:  # a template is a program: it may fail in any way
        raise InputError(
            f"{name}: its chat template cannot render a question and an answer ({error}); "
            "give another with --chat_template"
        ) from error
    _, found, tail = rendered.rpartition(probe)
    if not found:
        raise InputError(
            f"{name}: its chat template leaves out the answer of an exchange; give another with --chat_template"
        )
    added = tokenizer.added_tokens_decoder
    tail_ids = tokenizer(tail, add_special_tokens=False)["input_ids"]
    return next((added[i].content for i in tail_ids if i in added), None)


def _ensure_pad(tokenizer: PreTrainedTokenizerFast) -> None:
    """A pad token that is not EOS: the tokenizer's own, else a special one that nothing else is for, else a new one.

    With pad = EOS a mask built from ids hides the very token that ends an answer. Ours are never built from ids, so any
    special token will do that the template does not write, even <unk>: for a new one the model's embeddings must grow.
    """
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return
    tokenizer.add_special_tokens({"pad_token": _special(next(_free_tokens(tokenizer), "<|pad|>"))})


def _free_tokens(tokenizer: PreTrainedTokenizerFast) -> Iterator[str]:
    """Special tokens that may be padding, the best first."""
    template, taken = str(tokenizer.chat_template or ""), {tokenizer.eos_token, tokenizer.bos_token}
    special = [token.content for _, token in sorted(tokenizer.added_tokens_decoder.items()) if token.special]
    special = [t for t in special if t not in taken and t not in template and not BYTE.fullmatch(t)]
    yield from (token for token in PAD_TOKENS if token in special)
    yield from filter(RESERVED.search, special)
    yield from special


def own_vocabulary(path: str, trust_remote_code: bool = False) -> set[int]:
    """Ids of the tokens that the tokenizer of a folder or hub id has by itself. Raises InputError."""
    return set(_from_pretrained(tokenizer_folder(path), trust_remote_code).get_vocab().values())


def _special(token: str) -> AddedToken:
    return AddedToken(token, special=True, normalized=False)


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerFast) -> dict[str, str]:
    """Hashes that two stages compare: what ids mean, and how conversations are written.

    Both survive saving and loading. "tokenizer" covers vocabulary, merges and special tokens.
    """
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    content = [sorted(tokenizer.get_vocab().items()), _merges(tokenizer), sorted(special.items())]
    return {"tokenizer": _sha256(content), "chat_template": _sha256(tokenizer.chat_template)}


def _merges(tokenizer: PreTrainedTokenizerFast) -> list:
    if not tokenizer.is_fast:
        return []
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    return [list(m) if isinstance(m, list) else m.split(" ") for m in model.get("merges", [])]


def _sha256(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
