"""The labelling page in a browser, by what an annotator sees of it and the keys that he presses."""

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait


class LabelPage:
    """The page of one person."""

    def __init__(self, driver, url: str, token: str):
        self.driver = driver
        driver.get(f"{url}/?key={token}")
        self.until(lambda: self.one("#progress").text, "the page")

    def one(self, css: str):
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def js(self, script: str, *arguments):
        return self.driver.execute_script(script, *arguments)

    def until(self, condition, what: str = "it"):
        return WebDriverWait(self.driver, 30, 0.02).until(lambda _: condition(), f"waited for {what}")

    def answers(self) -> list[str]:
        """The texts of the answers, in the order in which they are shown."""
        return self.js("return [...document.querySelectorAll('#answers .said')].map((e) => e.textContent)")

    def done(self) -> int:
        """How many labels the page says that there are."""
        return int(self.js("return document.querySelector('#progress b').textContent").replace(",", ""))

    def press(self, *keys: str) -> None:
        """Keys one after the other, wherever the focus is."""
        for key in keys:
            ActionChains(self.driver, duration=0).send_keys(key).perform()

    def label(self, *keys: str) -> None:
        """Press keys that give a label, and wait until it is stored."""
        before = self.done()
        self.press(*keys)
        self.until(lambda: self.done() == before + 1, "the label")

    def hold(self, key: str, times: int) -> None:
        """A key that gives a label and is held down: when the next task is there, the browser repeats it."""
        code = {"key": key, "text": key, "code": f"Digit{key}", "windowsVirtualKeyCode": ord(key)}
        before = self.done()
        for number in range(1 + times):
            event = {"type": "keyDown", "autoRepeat": number > 0} | code
            self.driver.execute_cdp_cmd("Input.dispatchKeyEvent", event)
            self.until(lambda: self.done() > before, "the label")
        self.driver.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": "keyUp"} | code)

    def offline(self, off: bool) -> None:
        """Cut the browser from the network, or join it again."""
        self.driver.execute_cdp_cmd("Network.enable", {})
        how = {"offline": off, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        self.driver.execute_cdp_cmd("Network.emulateNetworkConditions", how)

    def sideways(self, width: int) -> int:
        """How many pixels of the page lie beyond the right edge."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        return self.js("return document.scrollingElement.scrollWidth - innerWidth")
