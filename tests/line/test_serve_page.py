"""The page of llmc serve in a real browser; skipped where Debian's chromium is not installed."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from llmc.serve.page import page as page_of
from tests.helpers.browsing import (
    contrast,
    nameless,
    needs_browser,
    opened,
    sent_by,
    status_of,
    text_of,
    wait,
    write,
)
from tests.helpers.served import Served, child_of, fake_server

KEY = "sixteen-or-more-characters"


def test_it_is_one_file_that_loads_nothing() -> None:
    answer = page_of()
    html = bytes(answer.body).decode()
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:)""", html)
    assert not re.search(r"\sstyle=|\son[a-z]+=|@import|url\(", html)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert policy.count("'sha256-") == 2


@needs_browser
def test_it_writes_and_shows_the_probability_of_each_word(
    parrot_server: Served, browser: Browser
) -> None:
    """Characters of several tokens are one; the k-th token has a log probability of -k/8."""
    with opened(browser, parrot_server.url) as page:
        page.wait_for_function("document.title === 'parrot · llmc'")
        write(page, "hé日\n<b>&", tokens=16)
        wait(page)
        assert text_of(page) == "hé日\n<b>&" * 2 + "hé\ufffd"
        assert "16 tokens in" in status_of(page)
        tokens = page.locator(".t")
        assert tokens.nth(0).get_attribute("aria-label") == "h, 100 %"
        # The second is two tokens, of 1/8 and 2/8.
        assert tokens.nth(1).get_attribute("aria-label") == "é, 68.7 %"
        tints = [
            tokens.nth(i).evaluate("e => getComputedStyle(e).backgroundColor") for i in (0, 10)
        ]
        assert tints[0] != tints[1]
        page.get_by_label("colours").uncheck()
        plain = tokens.nth(10).evaluate("e => getComputedStyle(e).backgroundColor")
        assert plain == "rgba(0, 0, 0, 0)"


@needs_browser
def test_the_alternatives_come_by_pointer_and_by_keyboard(
    parrot_server: Served, browser: Browser
) -> None:
    with opened(browser, parrot_server.url) as page:
        write(page, "abc", tokens=8)
        wait(page)
        card = page.locator("#card")
        page.hover(".t >> nth=3")
        rows = card.locator("tr").all_inner_texts()
        assert [row.split()[0] for row in rows] == list("abcdef")
        assert "68.7 %" in rows[0]
        page.mouse.move(5, 5)
        page.wait_for_selector("#card", state="hidden")
        page.locator("#copy").focus()
        page.keyboard.press("Tab")  # into the text: one stop, then the arrows
        assert card.locator("b").inner_text() == "a"
        for key, shown in (("ArrowRight", "b"), ("End", "b"), ("ArrowLeft", "a"), ("Home", "a")):
            page.keyboard.press(key)
            assert card.locator("b").inner_text() == shown
        page.keyboard.press("Escape")
        assert card.is_hidden()


@needs_browser
def test_it_stops_and_continues(parrot_server: Served, browser: Browser) -> None:
    """All by keyboard; the slot is free after the stop."""
    with opened(browser, parrot_server.url) as page:
        prompt = page.get_by_label("Prompt")
        prompt.fill("ab")
        page.get_by_label("Tokens", exact=True).fill("1024")
        prompt.press("Control+Enter")
        page.wait_for_selector(".t >> nth=5")
        page.keyboard.press("Escape")
        wait(page)
        assert status_of(page).startswith("Stopped after ")
        assert parrot_server.becomes("llmc_completions_running", 0)
        written = text_of(page)
        assert re.fullmatch("(ab)+a?", written)
        page.get_by_label("Tokens", exact=True).fill("8")
        page.get_by_role("button", name="Go on").press("Enter")
        wait(page)
        assert len(text_of(page)) == len(written) + 8


@needs_browser
def test_settings_are_what_is_asked(parrot_server: Served, browser: Browser) -> None:
    with opened(browser, parrot_server.url) as page:
        for label, value in (("Temperature", "0.5"), ("Top-p", "0.9"), ("Top-k", "40")):
            page.get_by_label(label).fill(value)
        page.get_by_label("another seed each time").uncheck()
        page.get_by_label("Seed", exact=True).fill("7")
        with page.expect_request("**/v1/completions") as caught:
            write(page, "ab", tokens=16)
        body = caught.value.post_data_json
        assert body is not None
        wait(page)
        expected = {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "seed": 7, "max_tokens": 16}
        assert expected.items() <= body.items()
        page.get_by_text("The same from a program").click()
        command = page.locator("#curl").inner_text()
        assert '"temperature": 0.5' in command and '"prompt": "ab"' in command
        assert sent_by(command) == body
        with page.expect_request("**/v1/completions") as caught:
            page.get_by_role("button", name="Go on").click()
        wait(page)
        body = sent_by(page.locator("#curl").inner_text())
        assert body == caught.value.post_data_json
        assert body["prompt"] == "ab" * 9
        page.get_by_label("Prompt").fill("it's")
        assert sent_by(page.locator("#curl").inner_text())["prompt"] == "it's"


@needs_browser
def test_no_more_can_be_asked_than_the_server_allows(parrot: Path, browser: Browser) -> None:
    with (
        fake_server(parrot, "--max-tokens", "5") as server,
        opened(browser, server.url) as page,
    ):
        page.wait_for_selector("#write:enabled")
        assert page.get_by_label("Tokens", exact=True).input_value() == "5"
        write(page, "ab", tokens=3)
        wait(page)
        assert text_of(page) == "ababa"


@needs_browser
def test_it_describes_the_model_and_its_run(parrot_server: Served, browser: Browser) -> None:
    with opened(browser, parrot_server.url) as page:
        page.wait_for_selector("#plot svg .line")
        label = page.locator("#plot svg").get_attribute("aria-label")
        assert label is not None and "validation 3.25" in label
        assert page.locator("#plot .val").count() == 1
        assert "8,448" in page.locator("#facts").inner_text()
        page.hover("#plot")
        assert page.locator("#at").inner_text().startswith("step ")


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone_and_can_be_read(
    parrot_server: Served, browser: Browser, dark: bool
) -> None:
    with opened(browser, parrot_server.url, width=360, height=740, dark=dark) as page:
        write(page, "a_long_word_without_any_end_" * 3, tokens=64)
        wait(page)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        small = page.evaluate(
            "[...document.querySelectorAll('button:not(.small), input[type=range]')]"
            ".filter(e => e.offsetParent && e.getBoundingClientRect().height < 30).length"
        )
        assert small == 0
        for selector in ("#status", "#text .given", "#facts dt", ".caption", "#write", "#stop"):
            assert contrast(page, selector) >= 4.5, selector


@needs_browser
def test_everything_has_a_name(parrot_server: Served, browser: Browser) -> None:
    with opened(browser, parrot_server.url) as page:
        assert nameless(page) == []
        assert page.locator("html").get_attribute("lang") == "en"


@needs_browser
def test_it_asks_for_the_key(parrot: Path, browser: Browser) -> None:
    with (
        fake_server(parrot, env={"LLMC_API_KEY": KEY}) as server,
        opened(browser, server.url) as page,
    ):
        field = page.get_by_label("What LLMC_API_KEY was set to")
        for key in ("möhr-zeichen-als-gehen", "two words are no key", "  "):
            field.fill(key)
            field.press("Enter")
            page.get_by_text("That is no key").wait_for()
            assert page.evaluate("sessionStorage.length") == 0
        field.fill("wrong")
        field.press("Enter")
        page.get_by_text("That is not the key.").wait_for()
        field.fill(f" {KEY} ")
        page.get_by_role("button", name="Open").click()
        write(page, "ab", tokens=8)
        wait(page)
        assert text_of(page) == "ab" * 5


def kill_engines(server: Served) -> None:
    """Kill the engine, and the one that is started in its place."""
    os.kill(child_of(server.process.pid), signal.SIGKILL)
    assert server.becomes("llmc_engine_restarts", 1) and server.becomes("llmc_engine_up", 1)
    os.kill(child_of(server.process.pid), signal.SIGKILL)


@needs_browser
@pytest.mark.parametrize(
    ("kill", "said"),
    [
        (kill_engines, "SIGKILL"),
        (lambda server: server.process.kill(), "still running?"),
    ],
    ids=["engine", "server"],
)
def test_it_says_when_nobody_answers(
    parrot: Path, browser: Browser, kill: Callable[[Served], None], said: str
) -> None:
    """The server ends at once where its engine's parent is gone: nothing is left behind."""
    with fake_server(parrot) as server, opened(browser, server.url) as page:
        page.wait_for_selector("#write:enabled")
        kill(server)
        write(page, "ab", tokens=8)
        page.wait_for_selector("#status.bad")
        assert said in status_of(page)
