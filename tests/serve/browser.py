"""The web chat in a browser, as its tests use it: what a user sees of the page, and can do with it."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from easyrlhf.cli import data_check
from tests.serve.page_stub import Stub

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


def open_browser(profile: Path):
    """Chromium without a window, whose profile is in this folder."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(DRIVER))


def resize(driver, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


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


def checked(file: Path, stage: str) -> None:
    """`easyrlhf data check` finds every row usable."""
    done = CliRunner().invoke(data_check.command, [str(file), "--stage", stage])
    assert done.exit_code == 0, done.output
    rows = len(file.read_text(encoding="utf-8").splitlines())
    assert f"{rows} rows read = {rows} usable + 0 dropped" in done.output.replace("1 row ", "1 rows "), done.output
