"""The page in a browser: everything by keyboard alone, hostile texts, and a network that fails."""

import pytest

from easyrlhf.labels.rows import NewItem, NewLabel
from tests.labels.web.conftest import new_pair, new_ranking, running, turns
from tests.serve.browser import in_a_browser, open_browser

pytestmark = in_a_browser
ESCAPE, BACKSPACE, ENTER = "\ue00c", "\ue003", "\ue007"
HOSTILE = [
    "<script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 1'>",
    "<svg onload=window.pwned=1>",
    "<iframe src='javascript:parent.pwned=1'></iframe>",
    "</div></body><script>window.pwned=1</script>",
    "<a href='javascript:window.pwned=1' autofocus onfocus='window.pwned=1'>x</a>",
    "<style>*{display:none}</style>",
    "<base href='http://evil.example/'>",
    "<meta http-equiv=refresh content='0;url=http://evil.example'>",
    "<form action=http://evil.example><button>send</button></form>",
    "<math><mtext></form><form><mglyph><style></math><img src onerror=window.pwned=1>",
    "<details open ontoggle=window.pwned=1>",
    "<input autofocus onfocus=window.pwned=1>",
    "<video><source onerror=window.pwned=1>",
    "<object data=javascript:window.pwned=1>",
    "<template><script>window.pwned=1</script></template>",
    "[click](javascript:window.pwned=1)",
    "![x](http://evil.example/x.png)",
    "<!-- --><script>window.pwned=1</script -->",
    "]]><script>window.pwned=1</script>",
    "${window.pwned=1}",
    "{{ constructor.constructor('window.pwned=1')() }}",
    "'><script>window.pwned=1</script>",
    '" onmouseover="window.pwned=1',
    "&lt;script&gt;window.pwned=1&lt;/script&gt;",
    "\u202ereversed <b>text</b>",
    "\u0000\u0007<b>bell</b>",
    "<noscript><p title='</noscript><img src=x onerror=window.pwned=1>'>",
    "<link rel=stylesheet href=//evil.example/x.css>",
    "<" * 200 + "script>window.pwned=1",
]


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    found = open_browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.quit()


@pytest.fixture
def opened(driver, desk_of):
    """opened(items, **settings) -> (desk, page) of an annotator; the browser must find no fault in the page."""
    from contextlib import ExitStack

    from tests.labels.web.label_page import LabelPage

    with ExitStack() as stack:

        def make(items=(), *more, **settings):
            desk = desk_of(items, *more, **settings)
            url = stack.enter_context(running(desk))
            driver.get_log("browser")
            return desk, LabelPage(driver, url, desk.tokens["me"])

        yield make
        logged = [entry["message"] for entry in driver.get_log("browser")]
        assert not [line for line in logged if "ERR_INTERNET_DISCONNECTED" not in line]
        driver.get("about:blank")


def test_twenty_pairs_and_a_ranking_by_keyboard_alone(opened):
    desk, page = opened([new_pair(i) for i in range(20)] + [new_ranking(0)])
    assert "key=" not in page.driver.current_url
    page.label("h", "2")  # a flag, and A is better
    assert desk.store.labels()[0].flags == ("harmful",)
    page.press("u")
    page.until(lambda: page.done() == 0, "the label to be taken back")
    assert page.one("[data-flag=harmful]").get_attribute("aria-pressed") == "true"
    page.press("h", "n", "3 of 4 ", "u", ENTER)  # in the note keys write
    assert page.one("#note").get_attribute("value") == "3 of 4 u\n" and page.done() == 0
    page.press(ESCAPE)
    page.label("1")
    first = desk.store.labels()[0]
    assert (first.note, first.flags, abs(first.value)) == ("3 of 4 u", (), 3) and 0 < first.seconds < 60
    page.hold("5", 8)  # a held key counts once
    for number in range(2, 20):
        page.label("1" if page.answers()[0].startswith("right") else "7")
        assert page.done() == number + 1
    values = [label.value for label in desk.store.labels()][2:]
    assert values == [3] * 18
    texts = page.answers()
    page.press("b", "=", "d", BACKSPACE, "=", "c", "a", ENTER)  # d is not placed: it is not given yet
    assert "Not ranked yet: D" in page.one("#status").text and page.one("#order").text == "B = C > A"
    page.label("d", ENTER)
    names = [[texts[place] for place in equals] for equals in ([1, 2], [0], [3])]
    order = [["pqrs".index(text[-1]) for text in equals] for equals in names]
    assert desk.store.labels()[-1].value == [sorted(equals) for equals in order]
    assert "Nothing is left" in page.one("#prompt").text


def test_a_skip_a_better_answer_and_help_by_keyboard(opened):
    desk, page = opened([new_pair(0), new_pair(1)])
    text = page.answers()
    page.press("s", "2")
    page.until(lambda: page.answers() != text, "the next pair")
    skipped = [event["detail"]["reason"] for event in desk.store.events() if event["what"] == "skip"]
    assert skipped == ["I do not know enough of the subject"]
    page.press("?", "1", ESCAPE, "g")  # while a sheet is open, keys label nothing
    assert "<b>Bold</b>" in page.one("#guidelines-text").text and page.done() == 0
    page.press(ESCAPE, "e", "mine: 1 and 2", ESCAPE)
    page.label("4")
    assert (desk.store.labels()[0].edit, desk.store.labels()[0].value) == ("mine: 1 and 2", 0)


def test_texts_are_texts_whatever_they_hold(opened):
    rows = [HOSTILE[start : start + 6] for start in range(0, 30, 6)]
    items = [NewItem("ranking", turns(row[0], "user"), [turns(text) for text in row]) for row in rows]
    _, page = opened(items)
    for row in rows:
        page.until(lambda row=row: visible(row[0]) in page.js("return document.querySelector('#prompt').textContent"))
        assert sorted(page.answers()) == sorted(map(visible, row))
        page.press("n")
        assert page.js("return document.querySelectorAll('.said *').length") == 0
        page.press(ESCAPE, "s", "1")
    assert page.js("return window.pwned") is None and page.driver.current_url.startswith("http://127.0.0.1")


def visible(text: str) -> str:
    """A text as the page shows it."""
    return text.replace("\0", "␀").replace("\a", "␇")


def test_what_cannot_be_sent_is_kept_unchanged_and_sent_again(opened):
    desk, page = opened([new_pair(0), new_pair(1)])
    page.offline(True)
    page.press("1")
    page.until(lambda: page.one("#trouble").text, "the fault to be told")
    page.press("7", "h", "u", "s", "2")  # it is given: nothing changes it
    assert "sent again" in page.one("#trouble").text and desk.store.labels() == []
    assert page.js("return Object.keys(localStorage).filter((key) => key.includes('outbox')).length") == 1
    page.offline(False)
    page.until(lambda: page.done() == 1, "the label")
    [kept] = desk.store.labels()
    assert (abs(kept.value), kept.flags) == (3, ()) and not page.one("#trouble").is_displayed()
    assert page.js("return Object.keys(localStorage).filter((key) => key.includes('outbox')).length") == 0


def test_time_counts_while_the_page_is_visible(opened):
    desk, page = opened([new_pair(0), new_pair(1)])
    page.js("let t = performance.now(); performance.now = () => t; window.tick = (ms) => { t += ms; }")
    page.label("4")
    for seconds, state in ((4, "hidden"), (60, "visible"), (1, "visible")):
        page.js(
            "tick(arguments[0]); Object.defineProperty(document, 'visibilityState', "
            "{ value: arguments[1], configurable: true }); document.dispatchEvent(new Event('visibilitychange'))",
            1000 * seconds,
            state,
        )
    page.label("4")
    assert desk.store.labels()[1].seconds == 5


def test_what_is_too_long_to_be_sent_is_said_and_can_be_shortened(opened):
    desk, page = opened([new_pair(0)])
    page.press("e", ESCAPE)
    page.js("document.querySelector('#better').value = 'ä'.repeat(33000)")
    page.press("4")
    assert "too long together by" in page.one("#status").text and page.done() == 0
    page.js("document.querySelector('#better').value = 'ä'.repeat(32000)")
    page.label("4")
    assert len(desk.store.labels()[0].edit) == 32000


def test_nothing_lies_beyond_the_right_edge(opened):
    _, page = opened([new_pair(0, "w" * 400, "right " + "long " * 300), new_ranking(0, 9)])
    for _ in range(2):
        assert max(page.sideways(400), page.sideways(1400)) <= 0
        page.press("n", ESCAPE, "4")


def test_a_turn_of_a_conversation_by_keyboard_alone(opened, talks_of, folders):
    desk, page = opened((), talks_of, chat=str(folders / "one"), devices="cpu", max_new_tokens=6)
    page.press("hello", ENTER)
    page.until(lambda: len(page.answers()) == 2, "two answers")
    chosen = page.answers()[1]
    page.label("6")
    said = page.js("return [...document.querySelectorAll('#prompt .said')].map((e) => e.textContent)")
    assert said == ["hello", chosen] and page.js("return document.activeElement.id") == "message"
    page.press("and?", ENTER)
    page.until(lambda: len(page.answers()) == 2, "two more answers")
    assert len(desk.store.item(2).prompt) == 3


TIMERS = """
window.timers = {};
const set = window.setInterval;
window.setInterval = (act, pause) => { window.timers[pause] = act; return set(act, pause); };
"""


def test_a_task_stays_ones_own_while_it_is_looked_at_and_goes_to_another_when_it_is_not(opened, driver, person):
    """By the page's own timer, which the test lets strike, and by the store's clock, which the test sets."""
    added = driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": TIMERS})
    desk, page = opened([new_pair(0)], annotators="me,you")
    driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
    you, now = person(desk, "you"), [desk.store.clock() + 500]
    desk.store.clock = lambda: now[0]

    def expires() -> float:
        return desk.store.read("SELECT expires FROM lease")[0]["expires"]

    page.js("timers[60000]()")
    page.until(lambda: expires() == now[0] + 600, "the renewal")
    now[0] += 500  # a thousand seconds after it was given
    assert you.post("next")[1]["task"] is None
    page.js("Object.defineProperty(document, 'visibilityState', { value: 'hidden', configurable: true })")
    page.js("timers[60000]()")
    page.driver.execute_async_script("fetch('/health').then(arguments[0])")
    assert expires() == now[0] + 100
    now[0] += 100
    assert you.post("next")[1]["task"]["item"] == 1


def test_the_organiser_orders_a_disputed_ranking_by_buttons(driver, desk_of):
    from tests.labels.web.label_page import LabelPage

    desk = desk_of([new_ranking(0, 3)], annotators="ann,bob", overlap=2)
    for name, order in {"ann": [[0], [1], [2]], "bob": [[2], [1], [0]]}.items():
        desk.store.add_label(NewLabel(f"by-{name}-one", 1, desk.ids[name], order, "order", shown=[0, 1, 2]))
    with running(desk) as url:
        driver.get_log("browser")
        page = LabelPage(driver, url, desk.tokens["organiser"])
        assert "labels differ on 3 of its 3 pairs" in page.one(".dispute .why").text

        def press(*labels: str) -> None:
            for label in labels:
                named = "[...document.querySelectorAll('.dispute button')].find((b) => b.textContent === arguments[0])"
                page.js(f"return {named}", label).click()

        press("B", "A", "Back", "ties", "C", "A")
        assert page.one(".dispute .order").text == "B = C > A"
        press("Decide")
        page.until(lambda: page.one(".decided").text == "Decided: B = C > A.", "the decision")
        assert max(page.sideways(400), page.sideways(1400)) <= 0 and driver.get_log("browser") == []
    assert [(one.role, one.value) for one in desk.store.labels()][-1] == ("referee", [[1, 2], [0]])
    driver.get("about:blank")
