"""How the web chat looks in a browser, who can use it, what it is made of, and that it works with the server itself."""

import re

import pytest
import requests

from easyrlhf.report import blocks
from easyrlhf.web.page_files import SHARED, THEME
from tests.serve.page_stub import PAGE

pytest.importorskip("selenium", reason="selenium is not installed: pip install -e '.[dev]'")
from selenium.webdriver.common.keys import Keys

from tests.serve.browser import Chat, checked, in_a_browser, resize, sideways

LABELS = PAGE.parents[1] / "labels" / "web" / "page"


def test_the_page_has_the_colours_and_the_type_of_a_report():
    theme = THEME.read_text(encoding="utf-8")
    assert theme in blocks.html_page("a report", []) and "--paper: #" in theme
    for css in (PAGE / "app.css", LABELS / "labels.css", SHARED / "base.css"):
        assert "--paper: #" not in css.read_text(encoding="utf-8")
    for own, page in (("app.css", PAGE / "index.html"), ("labels.css", LABELS / "base.html.jinja")):
        sheets = re.findall(r"/static/([a-z]+\.css)", page.read_text(encoding="utf-8"))
        assert sheets == ["theme.css", "base.css", own]


def test_the_page_needs_nothing_from_elsewhere_and_writes_no_markup():
    for file in (*PAGE.iterdir(), *LABELS.iterdir(), *SHARED.iterdir()):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"https?://", text), file
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function|DOMParser", text
        )
    index = (PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", index)


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
