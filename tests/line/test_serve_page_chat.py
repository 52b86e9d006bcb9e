"""The page of llmc serve as a chat; skipped where Debian's chromium is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.helpers.browsing import (
    contrast,
    nameless,
    needs_browser,
    opened,
    sent_by,
    text_of,
    wait,
    write,
)
from tests.helpers.served import Served, fake_server


@pytest.fixture(scope="module")
def talker(parrot: Path) -> Iterator[Served]:
    """Return a server that says what the user said; its context is 200 tokens."""
    flags = ["--chat", "chatml", "--positions", "200", "--step-seconds", "0.01"]
    with fake_server(parrot, *flags) as running:
        yield running


def say(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_role("button", name="Send").click()


def bubbles(page: Page) -> list[str]:
    return page.locator(".said").all_inner_texts()


@needs_browser
def test_a_model_with_a_template_answers(talker: Served, browser: Browser) -> None:
    """With bubbles, by Enter too; the conversation is what is sent."""
    with opened(browser, talker.url) as page:
        page.wait_for_selector("#send:enabled")
        assert page.locator("#textview").is_hidden()
        say(page, "Hé日 <b>&")
        page.wait_for_selector("#send:enabled")
        assert bubbles(page) == ["Hé日 <b>&"] * 2
        assert "11 tokens, the first after" in page.locator("#chatstatus").inner_text()
        page.get_by_text("System message", exact=True).first.click()
        page.get_by_label("System message").fill("Be brief.")
        message = page.get_by_label("Message", exact=True)
        message.fill("So")
        message.press("Shift+Enter")
        message.type("what?")
        with page.expect_request("**/v1/chat/completions") as caught:
            message.press("Enter")
        page.wait_for_selector("#send:enabled")
        body = caught.value.post_data_json
        assert body is not None
        assert [each["role"] for each in body["messages"]] == [
            "system",
            "user",
            "assistant",
            "user",
        ]
        assert body["messages"][0]["content"] == "Be brief."
        assert bubbles(page)[2:] == ["So\nwhat?"] * 2
        page.get_by_text("The same from a program").click()
        command = page.locator("#curl").inner_text()
        assert "/v1/chat/completions" in command
        assert sent_by(command) == body
        page.get_by_role("button", name="New conversation").click()
        assert bubbles(page) == []


@needs_browser
def test_the_first_command_asks_what_is_typed(talker: Served, browser: Browser) -> None:
    with opened(browser, talker.url) as page:
        page.wait_for_selector("#send:enabled")
        page.get_by_text("The same from a program").click()
        said = sent_by(page.locator("#curl").inner_text())
        assert said["messages"] == [{"role": "user", "content": "Hello"}]
        assert talker.client.post("/v1/chat/completions", json=said).status_code == 200
        page.get_by_label("Message", exact=True).fill("It's\nso")
        said = sent_by(page.locator("#curl").inner_text())
        assert said["messages"] == [{"role": "user", "content": "It's\nso"}]


@needs_browser
def test_an_answer_can_be_stopped(talker: Served, browser: Browser) -> None:
    with opened(browser, talker.url) as page:
        page.wait_for_selector("#send:enabled")
        say(page, "x" * 120)
        page.wait_for_selector(".said.assistant:has-text('xxxx')")
        page.keyboard.press("Escape")
        page.wait_for_selector("#send:enabled")
        assert page.locator("#chatstatus").inner_text() == "Stopped."
        assert talker.becomes("llmc_completions_running", 0)
        assert 3 < len(bubbles(page)[1]) < 120


@needs_browser
def test_turns_that_do_not_fit_are_left_out(talker: Served, browser: Browser) -> None:
    """The first ones; a message that alone is too long goes back to where it was written."""
    with opened(browser, talker.url) as page:
        page.wait_for_selector("#send:enabled")
        for letter in "abc":
            say(page, letter * 35)
            page.wait_for_selector("#send:enabled")
        assert bubbles(page) == [letter * 35 for letter in "aabbcc"]
        assert page.locator(".forgotten").count() == 2
        assert "no longer fit" in page.locator("#chatstatus").inner_text()
        say(page, "d" * 300)
        page.wait_for_selector("#chatstatus.bad")
        assert "context" in page.locator("#chatstatus").inner_text()
        assert len(bubbles(page)) == 6
        assert page.get_by_label("Message", exact=True).input_value() == "d" * 300


@needs_browser
def test_both_views_are_there(talker: Served, parrot_server: Served, browser: Browser) -> None:
    with opened(browser, talker.url) as page:
        page.get_by_role("tab", name="Completion").click()
        write(page, "ab", tokens=8)
        wait(page)
        assert text_of(page).startswith("ab")
        assert '"prompt"' in (page.locator("#curl").text_content() or "")
        page.get_by_role("tab", name="Chat").click()
        assert page.locator("#chatview").is_visible()
    with opened(browser, parrot_server.url) as page:
        page.wait_for_selector("#write:enabled")
        assert page.locator("#views").is_hidden() and page.locator("#chatview").is_hidden()


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
def test_a_conversation_fits_a_phone(talker: Served, browser: Browser, dark: bool) -> None:
    with opened(browser, talker.url, width=360, height=740, dark=dark) as page:
        page.wait_for_selector("#send:enabled")
        say(page, "a_long_word_without_any_end_" * 2)
        page.wait_for_selector("#send:enabled")
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        selectors = (".said.user", ".said.assistant", "#chatstatus", "#tochat", "#totext", "#send")
        for selector in selectors:
            assert contrast(page, selector) >= 4.5, selector
        assert nameless(page) == []
