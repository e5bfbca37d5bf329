"""The reward model's opinion of a conversation, as easyrlhf score has it."""

from typing import Any

from easyrlhf.data.chat_template import opens, template_arguments
from easyrlhf.data.messages import messages
from easyrlhf.errors import InputError
from easyrlhf.serve.protocol import check_keys
from easyrlhf.tools.scoring import Scorer, scores_of, why_no_score
from easyrlhf.web.refusals import Refusal
from easyrlhf.web.values import flag_value

KEYS = ("messages", "finished", "tools", "chat_template_kwargs")


def score_request(body: Any, scorer: Scorer) -> dict[str, Any]:
    """The score of the last answer of a conversation, or null and why. Raises Refusal for what is no such thing.

    finished  false where the answer was cut off: its score is read at its last token
    """
    check_keys(body, KEYS, {})
    try:
        turns = messages(body.get("messages"), "messages")
        arguments = template_arguments({name: body.get(name) for name in ("tools", "chat_template_kwargs")})
    except InputError as error:
        raise Refusal(str(error), param="messages") from error
    if not opens(turns):
        raise Refusal("messages: must end with the assistant turn that is to be scored", param="messages")
    finished = flag_value(body, "finished", True)
    with scorer.lock:
        try:
            ids = scorer.renderer.sequence(turns[:-1], turns[-1:], finished, arguments)
            [score] = scores_of(scorer, [ids], scorer.limit)
        except InputError as error:  # its template may refuse what the model's takes
            return {"score": None, "note": str(error)}
    return {"score": score, "note": None if score is not None else why_no_score(ids, scorer.limit)}
