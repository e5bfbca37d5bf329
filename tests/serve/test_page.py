"""The web chat in a browser: answers, choices, files, faults, and texts that try to be more than text."""

import json
import re
import shutil
import threading
from pathlib import Path

import pytest
import requests
from click.testing import CliRunner

from easyrlhf.cli import data_check
from easyrlhf.report import blocks
from tests.serve.page_stub import PAGE, THEME, Refusal, Running, Stub

pytest.importorskip("selenium", reason="selenium is not installed: pip install -e '.[dev]'")
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
in_a_browser = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="chromium and chromedriver are not installed")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
)


class Chat:
    """The page in a browser, by what a user sees of it."""

    def __init__(self, driver, stub: Stub, downloads: Path):
        self.driver, self.stub, self.downloads = driver, stub, downloads

    def one(self, css: str):
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def texts(self, css: str) -> list[str]:
        return self.js("return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", css)

    def js(self, script: str, *arguments):
        return self.driver.execute_script(script, *arguments)

    def until(self, condition, what: str = "it"):
        return WebDriverWait(self.driver, 30, 0.03).until(lambda _: condition(), f"waited for {what}")

    def status(self) -> str:
        return self.one("#status").text

    def answers(self) -> list[str]:
        """The answers that are shown, in their order, folded ones left out."""
        return self.texts(".answers > .answer > .body > .said")

    def settled(self) -> None:
        """Wait until no answer is written and no reward asked for."""
        self.until(lambda: not self.js("return document.querySelector('.writing')"), "the end of the answer")
        self.until(lambda: not any("…" in text for text in self.texts(".marks")), "the rewards")

    def say(self, text: str, settle: bool = True) -> None:
        self.settled()
        rounds = len(self.texts(".turn.assistant"))
        self.one("#message").send_keys(text, Keys.ENTER)
        self.until(lambda: len(self.texts(".turn.assistant")) > rounds, "a round of answers")
        if settle:
            self.settled()

    def press(self, key: str) -> None:
        """A key outside of text boxes."""
        self.js("document.activeElement.blur()")
        self.one("body").send_keys(key)

    def button(self, label: str, within: str = "body") -> None:
        found = [b for b in self.driver.find_elements(By.CSS_SELECTOR, f"{within} button") if b.text.startswith(label)]
        assert len(found) == 1, f"{len(found)} buttons {label!r}"
        found[0].click()

    def sheet(self, name: str) -> None:
        self.one(f"#open-{name}").click()

    def close(self, name: str) -> None:
        self.js("document.getElementById(arguments[0]).close()", name)

    def set(self, field: str, value: str) -> None:
        self.js(
            "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
            "e.dispatchEvent(new Event('input'))",
            field,
            value,
        )

    def choose(self, first: str, second: str) -> None:
        for i, model in enumerate((first, second)):
            self.js(
                "const e = document.getElementById(`model-${arguments[0]}`); e.value = arguments[1];"
                "e.dispatchEvent(new Event('change'))",
                i,
                model,
            )

    def download(self, kind: str) -> list[dict]:
        """What the button of a kind of rows puts into a file."""
        self.sheet("rows")
        self.button("Download", f"#{kind}-tools")
        file = self.downloads / f"{kind}.jsonl"
        self.until(file.exists, "the file")
        self.close("rows")
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        return rows

    def reload(self) -> None:
        self.driver.refresh()
        self.ready()

    def ready(self) -> None:
        self.until(lambda: self.js("return Boolean(document.querySelector('#model-0 option'))"), "the page")


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """Chromium without a window."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield found
    found.quit()


@pytest.fixture
def stub():
    """A server of its own for each test, whose address no other test's storage has."""
    stub = Stub()
    stub.running = Running(stub.app())
    yield stub
    stub.running.close()


@pytest.fixture
def chat(driver, stub, tmp_path):
    """The page, as it is opened for the first time; what the browser logs afterwards must be no fault of the page."""
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    resize(driver, 1400)
    driver.get_log("browser")
    driver.get(stub.running.url)
    chat = Chat(driver, stub, tmp_path)
    chat.ready()
    yield chat
    said = [entry["message"] for entry in driver.get_log("browser") if "Content Security" in entry["message"]]
    assert not said
    driver.get("about:blank")


def resize(driver, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def checked(file: Path, stage: str) -> None:
    """`easyrlhf data check` finds every row usable."""
    done = CliRunner().invoke(data_check.command, [str(file), "--stage", stage])
    assert done.exit_code == 0, done.output
    rows = len(file.read_text(encoding="utf-8").splitlines())
    assert f"{rows} rows read = {rows} usable + 0 dropped" in done.output.replace("1 row ", "1 rows "), done.output


# ---- what the page is made of ----


def test_the_page_has_the_colours_and_the_type_of_a_report():
    theme = THEME.read_text(encoding="utf-8")
    assert theme in blocks.html_page("a report", []) and "--paper: #" in theme
    assert "--paper: #" not in (PAGE / "app.css").read_text(encoding="utf-8")
    index = (PAGE / "index.html").read_text(encoding="utf-8")
    assert index.index("/static/theme.css") < index.index("/static/app.css")


def test_the_page_needs_nothing_from_elsewhere_and_writes_no_markup():
    for file in PAGE.iterdir():
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"https?://", text), file
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|DOMParser", text
        )
    index = (PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", index)


# ---- a conversation ----


@in_a_browser
def test_two_models_answer_piece_by_piece_and_a_click_becomes_a_row(chat):
    chat.stub.gate = threading.Event()
    chat.stub.answer = lambda body: ["First ", f"{body['model']}."] if body["model"] == "sft" else ["Other."]
    chat.stub.score = lambda messages: {"score": 1.5 if "First" in messages[-1]["content"] else -0.25, "note": None}
    chat.say("Name a colour.", settle=False)
    assert chat.one("#better-0").get_attribute("disabled")
    chat.stub.gate.set()
    chat.settled()

    assert chat.answers() == ["First sft.", "Other."]
    assert chat.texts(".reward b") == ["+1.500", "−0.250"]
    assert chat.texts(".answer.a .higher") == ["▲ higher by 1.750"] and not chat.texts(".answer.b .higher")
    assert [asked["messages"] for asked in chat.stub.asked] == [[{"role": "user", "content": "Name a colour."}]] * 2
    chat.one("#better-0").click()
    assert chat.answers() == ["First sft."]
    assert chat.download("comparisons") == [
        {
            "prompt": [{"role": "user", "content": "Name a colour."}],
            "chosen": [{"role": "assistant", "content": "First sft."}],
            "rejected": [{"role": "assistant", "content": "Other."}],
            "chosen_reward": 1.5,
            "rejected_reward": -0.25,
            "chosen_finished": True,
            "rejected_finished": True,
            "chosen_model": "sft",
            "rejected_model": "ppo",
        }
    ]
    checked(chat.downloads / "comparisons.jsonl", "rm")


@in_a_browser
def test_an_answer_is_shown_while_it_is_written_and_can_be_stopped(chat):
    chat.choose("sft", "")
    chat.stub.pause = 0.2
    chat.stub.answer = lambda body: [f"word{i} " for i in range(500)]
    chat.say("Count.", settle=False)
    chat.until(lambda: any("word1" in text for text in chat.answers()), "a piece")
    chat.one("#message").send_keys("typed meanwhile", Keys.ENTER)
    assert chat.one("#message").get_property("value") == "typed meanwhile" and len(chat.stub.asked) == 1
    chat.one("#stop").click()
    chat.settled()
    [stopped] = chat.answers()
    assert stopped.startswith("word0 word1") and "word400" not in stopped
    assert chat.texts(".state") == ["stopped"]

    chat.stub.pause, chat.stub.answer = 0, lambda body: ([" and on."], "length")
    chat.button("Go on")
    chat.settled()
    assert chat.answers() == [f"{stopped} and on."]
    assert chat.stub.asked[-1]["continue_final_message"] is True
    assert chat.stub.asked[-1]["messages"][-1] == {"role": "assistant", "content": stopped}
    assert chat.texts(".state") == ["cut off at the longest answer"]
    assert chat.stub.scored_as == [False, False]


@in_a_browser
def test_a_conversation_by_keys_alone(chat):
    """The preferred answer is what the next one follows; a tie goes on with A and makes no row; undo takes back."""
    chat.stub.answer = lambda body: [f"{body['model']} {len(body['messages'])}"]
    for text, key in (("one", "b"), ("two", "t"), ("three", "a")):
        chat.driver.switch_to.active_element.send_keys(text, Keys.ENTER)
        chat.until(lambda text=text: text in chat.texts(".user .said"), text)
        chat.settled()
        chat.driver.switch_to.active_element.send_keys(key)
    said = [turn["content"] for turn in chat.stub.asked[-1]["messages"]]
    assert said == ["one", "ppo 1", "two", "sft 3", "three"]
    assert chat.one("#count").text == "2"
    chat.press("u")
    assert chat.one("#count").text == "1" and chat.answers()[-2:] == ["sft 5", "ppo 5"]
    chat.press("b")
    rows = chat.download("comparisons")
    assert [row["chosen"][0]["content"] for row in rows] == ["ppo 1", "ppo 5"]
    assert [turn["content"] for turn in rows[1]["prompt"]] == said


@in_a_browser
@pytest.mark.parametrize("texts, why", [(("same", " same\n"), "both answers are the same"), (("x", ""), "is empty")])
def test_answers_that_are_no_comparison_make_no_row(chat, texts, why):
    chat.stub.answer = lambda body: [texts[body["model"] == "ppo"]]
    chat.say("Hello")
    assert why in chat.one("#question").text
    chat.one("#better-0").click()
    assert chat.one("#count").text == "0" and why in chat.status()


@in_a_browser
def test_any_turn_is_edited_and_the_conversation_goes_on_from_there(chat):
    chat.choose("sft", "")
    chat.stub.answer = lambda body: [f"to {body['messages'][-1]['content']}"]
    chat.say("one")
    chat.say("two")
    chat.button("Edit", ".turn:nth-child(2)")
    chat.one(".editor textarea").send_keys(", truly")
    chat.button("Keep", ".turn:nth-child(2) .row > :first-child, .none")
    assert chat.texts(".turn .said") == ["one", "to one, truly"] and chat.texts(".state") == ["edited by you"]
    chat.say("three")
    asked = [turn["content"] for turn in chat.stub.asked[-1]["messages"]]
    assert asked == ["one", "to one, truly", "three"]

    chat.button("Edit", ".turn:nth-child(1)")
    chat.one(".editor textarea").clear()
    chat.one(".editor textarea").send_keys("ONE", Keys.CONTROL, Keys.ENTER)
    chat.until(lambda: chat.texts(".turn .said") == ["ONE", "to ONE"], "the new answer")
    chat.press("u")
    assert chat.texts(".turn .said") == ["one", "to one, truly", "three", "to three"]


@in_a_browser
def test_an_answer_is_drawn_again_and_the_variant_that_is_shown_counts(chat):
    chat.say("Hello")
    seeds = [asked["seed"] for asked in chat.stub.asked]
    chat.button("Again", ".answer.a")
    chat.settled()
    drawn = chat.stub.asked[-1]
    assert drawn["model"] == "sft" and drawn["seed"] not in seeds
    assert chat.texts(".pager > span") == ["2/2"] and chat.answers()[0] == f"I am sft, seed {drawn['seed']}."
    chat.button("‹", ".answer.a")
    chat.press("a")
    [row] = chat.download("comparisons")
    assert row["chosen"][0]["content"] == f"I am sft, seed {seeds[0]}."


@in_a_browser
def test_the_same_model_twice_has_two_seeds_and_settings_reach_the_server(chat):
    chat.choose("sft", "sft")
    chat.sheet("settings")
    for field, value in {"temperature": "0.3", "top_p": "0.9", "top_k": "40", "max_tokens": "7", "seed": "5"}.items():
        chat.set(f"set-{field}", value)
    chat.set("set-repetition_penalty", "-1")
    assert "Until then: 1." in chat.one("#repetition_penalty-fault").text
    chat.set("stop-texts", "END\n\\n\\n")
    chat.set("system", "Be brief.")
    chat.close("settings")
    chat.say("Hello")
    first, second = chat.stub.asked
    assert (first["seed"], second["seed"]) == (5, 6)
    for asked in (first, second):
        assert asked["messages"][0] == {"role": "system", "content": "Be brief."} and asked["stop"] == ["END", "\n\n"]
        names = ("temperature", "top_p", "top_k", "max_tokens", "repetition_penalty")
        assert [asked[name] for name in names] == [0.3, 0.9, 40, 7, 1.0]


@in_a_browser
def test_a_system_turn_and_a_whole_conversation_in_the_files(chat):
    chat.sheet("settings")
    chat.set("system", "Be brief.")
    chat.close("settings")
    chat.say("one")
    chat.press("b")
    chat.say("two")
    chat.sheet("settings")
    chat.set("system", "Be long.")  # the rows keep the one that the answers were drawn with
    chat.close("settings")
    chat.press("b")
    chat.press("k")
    system = {"role": "system", "content": "Be brief."}
    assert [row["prompt"][0] for row in chat.download("comparisons")] == [system, system]
    [row] = chat.download("demonstrations")
    assert [turn["role"] for turn in row["messages"]] == ["system", "user", "assistant", "user", "assistant"]
    assert row["messages"][0]["content"] == "Be long."
    checked(chat.downloads / "comparisons.jsonl", "dpo")
    checked(chat.downloads / "demonstrations.jsonl", "sft")


@in_a_browser
def test_what_is_not_downloaded_survives_a_reload_and_another_tab(chat):
    chat.say("Hello")
    chat.press("a")
    chat.one("#message").send_keys("half a mess")
    answer = chat.answers()
    chat.reload()
    assert chat.one("#message").get_property("value") == "half a mess" and chat.answers() == answer

    here = chat.driver.current_window_handle
    chat.driver.switch_to.new_window("tab")
    chat.driver.get(chat.stub.running.url)
    chat.ready()
    chat.one("#message").clear()
    chat.say("From another tab")
    chat.press("b")
    chat.driver.close()
    chat.driver.switch_to.window(here)
    chat.until(lambda: chat.one("#count").text == "2", "the other tab's row")
    assert [row["prompt"][-1]["content"] for row in chat.download("comparisons")] == ["Hello", "From another tab"]
    chat.reload()
    assert chat.one("#count").text == "0" and chat.answers() == answer


@in_a_browser
@pytest.mark.parametrize(
    "kept", ["{", '{"talk": {"turns": [{"role": "assistant"}]}}', '{"talk": 1, "models": 2, "editing": 3}']
)
def test_what_another_version_kept_does_no_harm(chat, kept):
    chat.js(
        "addEventListener('pagehide', () => { for (const kind of [localStorage, sessionStorage]) {"
        " kind.setItem('easyrlhf.chat.state', arguments[0]); kind.setItem('easyrlhf.chat.row.x', arguments[0]); } })",
        kept,
    )
    chat.reload()
    chat.say("Hello")
    assert len(chat.answers()) == 2 and chat.one("#count").text == "0"


@in_a_browser
def test_an_answer_that_a_reload_broke_off_is_still_there(chat):
    chat.choose("sft", "")
    chat.stub.pause = 0.15
    chat.stub.answer = lambda body: [f"word{i} " for i in range(100)]
    chat.say("Count.", settle=False)
    chat.until(lambda: any("word3" in text for text in chat.answers()), "a piece")
    chat.reload()
    assert chat.answers()[0].startswith("word0 word1 word2 word3") and chat.texts(".state") == ["stopped"]


@in_a_browser
def test_a_blind_comparison_shows_names_and_rewards_after_the_choice(chat):
    chat.sheet("settings")
    chat.one("#blind").click()
    chat.close("settings")
    chat.stub.answer = lambda body: ["abc" if body["model"] == "sft" else "de"]
    chat.say("Hello")
    assert chat.texts(".name") == ["hidden until you choose"] * 2
    assert not chat.texts(".reward") and not chat.texts(".seed") and "reward" not in chat.status()
    chat.press("b")
    [row] = chat.download("comparisons")
    assert chat.texts(".answers > .answer .name") == [row["chosen_model"]]
    assert row["chosen"][0]["content"] == {"sft": "abc", "ppo": "de"}[row["chosen_model"]]


@in_a_browser
def test_thoughts_are_folded_and_part_of_the_row(chat):
    chat.stub.answer = lambda body: ["<think>Hm", "m.</think>\n\nBlue", f" {body['model']}."]
    chat.say("Name a colour.")
    assert chat.answers() == ["Blue sft.", "Blue ppo."]
    assert chat.texts(".thoughts .said") == ["Hmm."] * 2 and not chat.one(".thoughts .said").is_displayed()
    chat.press("a")
    assert chat.download("comparisons")[0]["chosen"][0]["content"] == "<think>Hmm.</think>\n\nBlue sft."


# ---- faults ----

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


# ---- texts that try to be more than text ----

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


def sideways(chat, width: int) -> int:
    """How many pixels of the page, or of one of its sheets, lie beyond the right edge."""
    resize(chat.driver, width)
    beyond = [chat.js("return document.scrollingElement.scrollWidth - innerWidth")]
    for sheet in ("settings", "rows", "help"):
        chat.js("document.getElementById(arguments[0]).showModal()", sheet)
        beyond.append(
            chat.js("const e = document.getElementById(arguments[0]); return e.scrollWidth - e.clientWidth", sheet)
        )
        chat.close(sheet)
    return max(beyond)


# ---- how it looks and who can use it ----


@in_a_browser
@pytest.mark.parametrize("scheme, paper", [("light", "rgb(251, 250, 248)"), ("dark", "rgb(20, 22, 27)")])
def test_it_fits_every_width_in_light_and_dark(chat, scheme, paper):
    feature = {"name": "prefers-color-scheme", "value": scheme}
    chat.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    chat.say("Name a colour.")
    assert chat.js("return getComputedStyle(document.body).backgroundColor") == paper
    assert sideways(chat, 1400) <= 0
    a, b = (chat.one(f".answer.{side}").rect for side in "ab")
    assert a["y"] == b["y"] and a["x"] + a["width"] < b["x"]
    assert sideways(chat, 400) <= 0
    a, b = (chat.one(f".answer.{side}").rect for side in "ab")
    assert a["x"] == b["x"] and a["y"] + a["height"] < b["y"]
    chat.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@in_a_browser
def test_every_control_has_a_name_and_shows_its_focus(chat):
    chat.say("Hello")
    chat.button("Again", ".answer.a")
    chat.settled()
    names = chat.js(
        "return [...document.querySelectorAll('button, input, select, textarea')].map((e) =>"
        " (e.getAttribute('aria-label') ?? e.labels?.[0]?.textContent ?? e.textContent).trim())"
    )
    assert len(names) > 20 and all(names)
    for css in ("#message", "#open-rows", "#better-0", "#model-1", ".pager button"):
        chat.js("document.querySelector(arguments[0]).focus({ focusVisible: true })", css)
        assert chat.js("return getComputedStyle(document.activeElement).outlineWidth") == "2px", css


@in_a_browser
def test_help_shows_the_keys_and_the_focus_stays_where_it_was(chat):
    chat.press("?")
    assert chat.one("#help").is_displayed() and "tie" in chat.one("#key-list").text
    chat.press("a")  # keys do nothing below a sheet
    chat.one("#help").send_keys(Keys.ESCAPE)
    chat.until(lambda: not chat.one("#help").is_displayed(), "the end of help")
    chat.stub.score = lambda messages: {"score": 1.0, "note": None}
    chat.say("Hello")
    again = chat.one(".answer.b .tools button")
    key = again.get_attribute("data-key")
    again.send_keys(Keys.SPACE)
    chat.settled()
    assert chat.js("return document.activeElement.dataset.key") == key


@in_a_browser
def test_what_was_said_is_spoken_once(chat):
    chat.choose("sft", "")
    chat.stub.answer = lambda body: ["One thing. An", "other. ", "And the ", "end"]
    chat.say("Speak")
    assert "".join(chat.texts("#spoken p")) == "One thing. Another. And the end"
    assert chat.status() == "The answer is there. The answer: reward +31.000."


# ---- with the server itself ----


@in_a_browser
def test_two_models_of_the_server_itself(driver, server, tmp_path):
    """Their answers and rewards are those that other clients of it get; what does not fit is said."""
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    resize(driver, 1400)
    driver.get(f"{server.url}/?key={server.key}")
    chat = Chat(driver, None, tmp_path)
    chat.ready()
    assert driver.current_url == f"{server.url}/"
    chat.sheet("settings")
    chat.set("set-seed", "7")
    chat.set("set-temperature", "1")
    chat.close("settings")
    chat.say("Name a colour.")
    expected = [ask(server, model, seed) for model, seed in (("one", 7), ("two", 8))]
    assert chat.texts(".reward b") == [f"{score:+.3f}".replace("-", "−") for _, score in expected]
    chat.press("b")
    [row] = chat.download("comparisons")
    assert [row[key][0]["content"] for key in ("rejected", "chosen")] == [text for text, _ in expected]
    checked(tmp_path / "comparisons.jsonl", "rm")

    chat.say("word " * 200)
    assert all("too long for" in text and "prompt has" in text for text in chat.texts(".fault p"))
    assert chat.texts(".user .said")[-1].startswith("word word")
    driver.delete_all_cookies()
    chat.button("Try again", ".answer.a")
    chat.until(lambda: "does not know this page" in chat.texts(".fault p")[0], "the refusal")
    driver.get("about:blank")


def ask(server, model: str, seed: int) -> tuple[str, float]:
    """An answer with its reward, as a program gets them."""
    headers = {"Authorization": f"Bearer {server.key}"}
    messages = [{"role": "user", "content": "Name a colour."}]
    body = {"model": model, "messages": messages, "seed": seed, "temperature": 1}
    [choice] = requests.post(f"{server.url}/v1/chat/completions", json=body, headers=headers).json()["choices"]
    text = choice["message"]["content"]
    talk = {"messages": [*messages, {"role": "assistant", "content": text}]}
    talk["finished"] = choice["finish_reason"] == "stop"
    return text, requests.post(f"{server.url}/api/score", json=talk, headers=headers).json()["score"]
