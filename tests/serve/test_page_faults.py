"""The web chat in a browser when something goes wrong: faults in words, and texts that try to be more than text."""

import re

import pytest

pytest.importorskip("selenium", reason="selenium is not installed: pip install -e '.[dev]'")

from tests.serve.browser import checked, in_a_browser, sideways
from tests.serve.page_stub import Refusal

FAULTS = [
    (Refusal(401, {"message": "no session"}), "does not know this page", "address that the server printed"),
    (Refusal(413, {"message": "2 MB; at most 1 MB"}), "2 MB; at most 1 MB.", "Shorten the message"),
    (Refusal(503, {"message": "too many wait"}, Retry_After="4"), "busy. too many wait.", "in 4 seconds"),
    (Refusal(500, {"message": "out of memory"}), "failed. out of memory.", "terminal"),
    (
        Refusal(400, {"message": "3000 tokens; room for 2048", "code": "context_length_exceeded"}),
        "too long for sft",
        "begin a new conversation",
    ),
    (
        Refusal(400, {"message": "ask for 9 or less", "param": "max_tokens", "code": "context_length_exceeded"}),
        "may not be so long. ask for 9 or less.",
        "Lower “Longest answer”",
    ),
    (["Half an answer", None], "broke off", "go on from it"),
]


@in_a_browser
def test_a_fault_is_said_in_words_and_nothing_is_lost(chat):
    def answer(body):
        if isinstance(fault, Refusal):
            raise fault
        return fault

    chat.choose("sft", "")
    for number, (fault, what, todo) in enumerate(FAULTS):
        chat.stub.answer = answer
        chat.say(f"Precious question {number}")
        chat.until(lambda: chat.texts(".answer .fault p"), what)
        [said] = chat.texts(".answer .fault p")
        assert what in said and todo in said and what in chat.status()
        assert chat.texts(".user .said")[number:] == [f"Precious question {number}"]
        assert chat.answers()[-1] == ("" if isinstance(fault, Refusal) else "Half an answer")
        chat.stub.answer = lambda body, number=number: [f"All right {number}."]
        chat.button("Try again")
        chat.until(lambda number=number: chat.answers()[-1] == f"All right {number}.", "the answer")
        assert not chat.texts(".fault")


@in_a_browser
def test_a_server_that_is_gone_loses_nothing(chat):
    chat.say("Hello")
    chat.press("a")
    chat.stub.running.close()
    chat.say("And now?")
    assert all("does not answer" in text for text in chat.texts(".fault p"))
    assert chat.texts(".user .said") == ["Hello", "And now?"]
    assert len(chat.download("comparisons")) == 1


@in_a_browser
@pytest.mark.parametrize("error, why", [("QuotaExceededError", "is full"), ("SecurityError", "forbids")])
def test_a_storage_that_takes_nothing_is_said_and_not_fatal(chat, error, why):
    broken = f"Storage.prototype.setItem = () => {{ throw new DOMException('no', '{error}'); }}"
    script = chat.driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": broken})
    chat.reload()
    chat.say("Hello")
    chat.press("a")
    assert why in chat.one("#storage-trouble").text
    assert len(chat.download("comparisons")) == 1
    chat.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
    chat.js("addEventListener('beforeunload', (event) => event.stopImmediatePropagation(), true)")


HOSTILE = [
    "<script>window.pwned = 1</script>",
    "</div></section><script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 1'>",
    '"><img src=x onerror=window.pwned=1>',
    "<svg onload=window.pwned=1>",
    "<svg><script>window.pwned=1</script></svg>",
    "<svg><animate onbegin=window.pwned=1 attributeName=x dur=1s>",
    "<iframe srcdoc='<script>parent.pwned=1</script>'></iframe>",
    "<a href='javascript:window.pwned=1'>click</a>",
    "javascript:window.pwned=1",
    "[click](javascript:window.pwned=1)",
    '![x](x"onerror="window.pwned=1)',
    "<details open ontoggle=window.pwned=1>",
    "<input autofocus onfocus=window.pwned=1>",
    "<body onpageshow=window.pwned=1>",
    "<style>* { display: none }</style>",
    "<link rel=stylesheet href='data:text/css,*{display:none}'>",
    "<base href='//elsewhere.invalid/'>",
    "<meta http-equiv=refresh content='0;url=data:text/html,x'>",
    "<form action='/v1/chat/completions'><button>Send</button></form>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--><img src=x onerror=window.pwned=1>'>",
    "${window.pwned = 1} {{constructor.constructor('window.pwned=1')()}} {% raw %} #{1} <%= 1 %>",
    "__proto__ constructor toString hasOwnProperty",
    "&lt;script&gt;window.pwned=1&lt;/script&gt; &amp; &#60;b&#62; &nbsp;",
    "\u202eevil\u202c \u2066isolate\u2069 \u200fright\u200e",
    "\u202e\u202e\u202e not closed",
    "NUL\x00 and \x1b[31mcontrol\x07\x08 \x7f",
    "x" * 5000,
    "Z\u0351\u036b\u0343\u036a\u0302" * 200 + " 👩‍👩‍👧‍👦 \ufdfd \U0001f3f4\U000e0067\U000e007f",
    "<think><img src=x onerror=window.pwned=1></think><b>bold</b> `code` **strong** | a | b |",
]


SAY = "const e = document.getElementById('message'); e.value = arguments[0]; e.form.requestSubmit()"
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f]")


@in_a_browser
def test_hostile_texts_are_inert_wherever_they_stand(chat):
    """As what the user says, as answers, as names of models, in rows and in messages of faults."""
    assert len(HOSTILE) == 30
    chat.stub.models = [{"id": HOSTILE[0], "title": HOSTILE[2], "positions": None}]
    chat.stub.reward_model = HOSTILE[3]
    chat.stub.score = lambda messages: {"score": None, "note": HOSTILE[4]}
    chat.reload()
    chat.choose(HOSTILE[0], "")
    chat.stub.answer = lambda body: [body["messages"][-1]["content"][:9], body["messages"][-1]["content"][9:]]
    for number, text in enumerate(HOSTILE):
        chat.js(SAY, text)
        chat.until(lambda number=number: len(chat.texts(".answer:not(:has(.writing))")) == number + 1, text)
    chat.choose(HOSTILE[0], HOSTILE[0])
    chat.stub.answer = lambda body: [HOSTILE[body["seed"] % 2]]
    chat.sheet("settings")
    chat.set("set-seed", "0")
    chat.close("settings")
    chat.say(HOSTILE[1])
    chat.press("a")
    chat.stub.answer = lambda body: (_ for _ in ()).throw(Refusal(400, {"message": HOSTILE[5]}))
    chat.say("Fail.")

    assert chat.js("return window.pwned") is None
    assert chat.js("return document.querySelectorAll('.said *, .words span *, .fault b *, option *').length") == 0
    assert chat.js("return document.querySelectorAll('script, form').length") == 2  # the page's own
    assert chat.js("return document.querySelectorAll('style, img, svg, iframe, base, body link, math').length") == 0
    assert len(chat.texts(".words .won")) == 1 and HOSTILE[5] in chat.texts(".fault p")[0]
    visible = [CONTROLS.sub(lambda c: chr(0x2400 + ord(c[0])), text).replace("\x7f", "␡") for text in HOSTILE]
    assert chat.texts(".user .said")[:30] == visible
    isolated = (
        "return [...document.querySelectorAll('.said')].every((e) => getComputedStyle(e).unicodeBidi === 'isolate')"
    )
    assert chat.js(isolated)
    assert sideways(chat, 400) <= 0 and sideways(chat, 1400) <= 0
    sent = [turn["content"] for turn in chat.stub.asked[-1]["messages"]]
    assert sent[:60:2] == HOSTILE
    chat.press("k")
    [row] = chat.download("demonstrations")
    assert [turn["content"] for turn in row["messages"]] == sent[:-1]
    checked(chat.downloads / "demonstrations.jsonl", "sft")
