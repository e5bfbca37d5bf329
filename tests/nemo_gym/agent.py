"""NeMo Gym's agent and model server in one, as far as the policy sees of them: what they ask it, and how."""

import json

import requests


class Agent:
    """Plays a row: asks the policy, calls `tool` for each call, until there is none; sums up as NeMo Gym does.

    asked  bodies of the requests for completions
    follow    what the agent says, as the user, after each answer without a call
    edits     function(turn, messages) → messages, to ask with others than were said
    with_ids  whether messages bring back what they were sampled as
    """

    def __init__(self, policy: str, tool=None, follow=(), edits=lambda turn, messages: messages, with_ids: bool = True):
        self.policy, self.tool, self.follow, self.edits, self.with_ids = policy, tool, follow, edits, with_ids
        self.asked: list[dict] = []

    def run(self, row: dict, _: str):
        """The answer to POST /run."""
        request = row["responses_create_params"]
        extra = json.loads(request["metadata"]["extra_body"])
        messages = list(request["input"])
        tools = [{"function": flat(tool), "type": "function"} for tool in request.get("tools", [])]
        output: list[dict] = []
        for turn in range(10):
            messages = self.edits(turn, messages)
            told = {"model": "policy", "messages": messages} | ({"tools": tools} if tools else {})
            body = extra | told | {"logprobs": True, "top_logprobs": 0, "return_tokens_as_token_ids": True}
            self.asked.append(body)
            answer = requests.post(f"{self.policy}/v1/chat/completions", json=body, timeout=60)
            if answer.status_code == 400 and "context length" in answer.text:
                break  # as NeMo Gym's model server takes it: an empty answer, which is the last
            if answer.status_code != 200:
                return 500, answer.text
            choice = answer.json()["choices"][0]
            prompt = requests.post(f"{self.policy}/tokenize", json=told, timeout=60).json()["tokens"]
            said = choice["message"] | self.ids(prompt, choice["logprobs"]["content"])
            items, calls = items_of(said)
            output += items
            messages = [*messages, said]
            if choice["finish_reason"] == "length" or not (calls or turn < len(self.follow)):
                break
            if not calls:
                output.append({"type": "message", "role": "user", "content": self.follow[turn]})
                messages = [*messages, {"role": "user", "content": self.follow[turn]}]
            for call in calls:
                result = self.tool(call["function"]["name"], json.loads(call["function"]["arguments"]))
                output.append({"type": "function_call_output", "call_id": call["id"], "output": result})
                messages = [*messages, {"role": "tool", "tool_call_id": call["id"], "content": result}]
        return 200, row | {"reward": 0.5, "response": {"id": "r", "output": output}}

    def ids(self, prompt: list[int], content: list[dict]) -> dict:
        """What a message is given to bring back."""
        if not self.with_ids:
            return {}
        return {
            "prompt_token_ids": prompt,
            "generation_token_ids": [
                one["token"].removeprefix("token_id:") for one in content
            ],  # texts, as Gym has them
            "generation_log_probs": [one["logprob"] for one in content],
        }


def flat(tool: dict) -> dict:
    """A tool of the Responses API as one of chats."""
    return {name: tool[name] for name in tool if name not in ("type", "strict")}


def items_of(said: dict) -> tuple[list[dict], list[dict]]:
    """The items of a message, the last of which has its ids, and its calls."""
    calls = said.get("tool_calls") or []
    items = []
    if said["content"] or not calls:
        text = [{"type": "output_text", "text": said["content"], "annotations": []}]
        items.append({"id": "m", "type": "message", "role": "assistant", "status": "completed", "content": text})
    items += [
        {"type": "function_call", "call_id": call["id"], "id": call["id"], "status": "completed"} | call["function"]
        for call in calls
    ]
    ids = {name: said[name] for name in said if name.endswith(("_ids", "_probs"))}
    if "generation_token_ids" in ids:
        ids["generation_token_ids"] = [int(token) for token in ids["generation_token_ids"]]
    return [*items[:-1], items[-1] | ids], calls
