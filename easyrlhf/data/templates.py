"""Chat templates for base models that bring none, in Jinja.

Each writes all that a conversation holds, or says what it cannot write, and marks what the assistant says for programs
that learn from those tokens alone (`{% generation %}`). No turn depends on those that follow it.
"""

# Pieces of an assistant turn: its thoughts in front, its tool calls behind, each as one JSON object.
THOUGHT = (
    "{% if message['reasoning_content'] %}"
    "{{ '<think>\\n' + message['reasoning_content'] + '\\n</think>\\n\\n' }}{% endif %}"
)
CALLS = (
    "{% for call in message['tool_calls'] or [] %}"
    "{{ '\\n' if message['content'] or not loop.first else '' }}"
    "{{ '<tool_call>\\n' + ({'name': call['function']['name'], 'arguments': call['function']['arguments']} | tojson)"
    " + '\\n</tool_call>' }}{% endfor %}"
)
# What a system turn says of the tools.
TOOLS = (
    "{{ 'These tools can be called, by one JSON object with name and arguments between <tool_call> and </tool_call> "
    "for each call.\\n<tools>\\n' }}{% for tool in tools %}{{ (tool | tojson) + '\\n' }}{% endfor %}{{ '</tools>' }}"
)
SYSTEM_FIRST = "messages and messages[0]['role'] == 'system'"

CHATML = (
    "{% if tools %}{{ '<|im_start|>system\\n' }}"
    f"{{% if {SYSTEM_FIRST} %}}{{{{ messages[0]['content'] + '\\n\\n' }}}}{{% endif %}}"
    f"{TOOLS}{{{{ '<|im_end|>\\n' }}}}{{% endif %}}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '<|im_start|>assistant\\n' }}"
    f"{{% generation %}}{THOUGHT}{{{{ message['content'] }}}}{CALLS}{{{{ '<|im_end|>' }}}}{{% endgeneration %}}"
    "{{ '\\n' }}"
    "{% elif not (tools and loop.first and message['role'] == 'system') %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# The transcript form of hh-rlhf; an answer ends with the tokenizer's own EOS.
HH = (
    "{% if tools %}{{ raise_exception('the hh template cannot write tools') }}{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '\\n\\nHuman: ' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}"
    "{% if message['tool_calls'] %}{{ raise_exception('the hh template cannot write tool calls') }}{% endif %}"
    "{{ '\\n\\nAssistant:' }}"
    f"{{% generation %}}{{{{ ' ' }}}}{THOUGHT}{{{{ message['content'] + eos_token }}}}{{% endgeneration %}}"
    "{% elif message['role'] == 'system' and loop.first %}{{ message['content'] }}"
    "{% else %}{{ raise_exception('the hh template knows user and assistant turns, and a system "
    "turn at the start; found role ' + message['role']) }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\n\\nAssistant:' }}{% endif %}"
)

LLAMA3 = (
    "{% if tools %}{{ '<|start_header_id|>system<|end_header_id|>\\n\\n' }}"
    f"{{% if {SYSTEM_FIRST} %}}{{{{ (messages[0]['content'] | trim) + '\\n\\n' }}}}{{% endif %}}"
    f"{TOOLS}{{{{ '<|eot_id|>' }}}}{{% endif %}}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}"
    f"{{% generation %}}{THOUGHT}{{{{ message['content'] | trim }}}}{CALLS}{{{{ '<|eot_id|>' }}}}{{% endgeneration %}}"
    "{% elif not (tools and loop.first and message['role'] == 'system') %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
    " + message['content'] | trim + '<|eot_id|>' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)

# How the answers that CHATML and LLAMA3 write are read again, in the form of transformers' response templates.
ANSWERS_READ = {
    "defaults": {"role": "assistant"},
    "start_anchor_pattern": r"<\|im_start\|>assistant\n|<\|start_header_id\|>assistant<\|end_header_id\|>\n\n",
    "fields": {
        "reasoning_content": {"open": "<think>", "close_pattern": r"</think>\s*", "content": "text"},
        "tool_calls": {
            "open": "<tool_call>",
            "close_pattern": r"</tool_call>\s*",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"(?:<\|im_end\|>|<\|eot_id\|>)\s*", "content": "text"},
    },
}

CHAT_TEMPLATES: dict[str, str] = {"chatml": CHATML, "hh": HH, "llama3": LLAMA3}

# Tokens a template writes that must be single ones; added to a tokenizer that lacks them.
CONTROL_TOKENS: dict[str, tuple[str, ...]] = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "hh": (),
    "llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
}
