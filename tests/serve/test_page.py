"""The web chat in a browser: answers, choices, edits, and the files of rows that come of them."""

import threading

import pytest

pytest.importorskip("selenium", reason="selenium is not installed: pip install -e '.[dev]'")
from selenium.webdriver.common.keys import Keys

from tests.serve.browser import checked, in_a_browser


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
