"""The page of llmc serve in a real browser; skipped where Debian's chromium is not installed."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from llmc.serve.page import page as page_of
from tests.helpers.served import Served, child_of, fake_server

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
KEY = "sixteen-or-more-characters"
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run's folder, with losses that fell."""
    made = tmp_path_factory.mktemp("runs") / "parrot-1"
    made.mkdir()
    lines = [{"step": step, "train_loss": 5 - step / 50, "step_ms": 1.0} for step in range(100)]
    told = [*lines, {"step": 99, "val_loss": 3.25}]
    (made / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told))
    return made


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    with fake_server(folder, "--step-seconds", "0.005") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def opened(
    browser: Browser, url: str, *, width: int = 1200, height: int = 900, dark: bool = False
) -> Iterator[Page]:
    """Open the page; it may ask nobody but its server, and complain of nothing."""
    page = browser.new_page(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
    )
    page.set_default_timeout(120_000)  # a machine may be busy
    complaints: list[str] = []
    asked: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda said: complaints.append(said.text) if "Security Policy" in said.text else None,
    )
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    yield page
    page.close()
    assert complaints == []
    assert all(address.startswith((url, "data:")) for address in asked), asked


def write(page: Page, prompt: str, tokens: int | None = None) -> None:
    page.get_by_label("Prompt").fill(prompt)
    if tokens is not None:
        page.get_by_label("Tokens", exact=True).fill(str(tokens))
    page.get_by_role("button", name="Write").click()


def wait(page: Page) -> None:
    page.wait_for_selector("#write:enabled")


def text_of(page: Page) -> str:
    return page.locator("#text").text_content() or ""


def status_of(page: Page) -> str:
    return page.locator("#status").text_content() or ""


def test_it_is_one_file_that_loads_nothing() -> None:
    answer = page_of()
    html = bytes(answer.body).decode()
    assert not re.search(r"""(src|href)\s*=\s*["'](?!data:)""", html)
    assert not re.search(r"\sstyle=|\son[a-z]+=|@import|url\(", html)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert policy.count("'sha256-") == 2


@needs_browser
def test_it_writes_and_shows_the_probability_of_each_word(server: Served, browser: Browser) -> None:
    """Characters of several tokens are one; the k-th token has a log probability of -k/8."""
    with opened(browser, server.url) as page:
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
def test_the_alternatives_come_by_pointer_and_by_keyboard(server: Served, browser: Browser) -> None:
    with opened(browser, server.url) as page:
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
def test_it_stops_and_continues(server: Served, browser: Browser) -> None:
    """All by keyboard; the slot is free after the stop."""
    with opened(browser, server.url) as page:
        prompt = page.get_by_label("Prompt")
        prompt.fill("ab")
        page.get_by_label("Tokens", exact=True).fill("1024")
        prompt.press("Control+Enter")
        page.wait_for_selector(".t >> nth=5")
        page.keyboard.press("Escape")
        wait(page)
        assert status_of(page).startswith("Stopped after ")
        assert server.becomes("llmc_completions_running", 0)
        written = text_of(page)
        assert re.fullmatch("(ab)+a?", written)
        page.get_by_label("Tokens", exact=True).fill("8")
        page.get_by_role("button", name="Go on").press("Enter")
        wait(page)
        assert len(text_of(page)) == len(written) + 8


@needs_browser
def test_settings_are_what_is_asked(server: Served, browser: Browser) -> None:
    with opened(browser, server.url) as page:
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


def sent_by(command: str) -> dict[str, Any]:
    """Return the body that a shown command sends."""
    words = shlex.split(command)
    body = json.loads(words[words.index("-d") + 1])
    assert isinstance(body, dict)
    return body


@needs_browser
def test_no_more_can_be_asked_than_the_server_allows(folder: Path, browser: Browser) -> None:
    with (
        fake_server(folder, "--max-tokens", "5") as server,
        opened(browser, server.url) as page,
    ):
        page.wait_for_selector("#write:enabled")
        assert page.get_by_label("Tokens", exact=True).input_value() == "5"
        write(page, "ab", tokens=3)
        wait(page)
        assert text_of(page) == "ababa"


@needs_browser
def test_it_describes_the_model_and_its_run(server: Served, browser: Browser) -> None:
    with opened(browser, server.url) as page:
        page.wait_for_selector("#plot svg .line")
        label = page.locator("#plot svg").get_attribute("aria-label")
        assert label is not None and "validation 3.25" in label
        assert page.locator("#plot .val").count() == 1
        assert "8,448" in page.locator("#facts").inner_text()
        page.hover("#plot")
        assert page.locator("#at").inner_text().startswith("step ")


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone_and_can_be_read(server: Served, browser: Browser, dark: bool) -> None:
    with opened(browser, server.url, width=360, height=740, dark=dark) as page:
        write(page, "a_long_word_without_any_end_" * 3, tokens=64)
        wait(page)
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        small = page.evaluate(
            "[...document.querySelectorAll('button:not(.small), input[type=range]')]"
            ".filter(e => e.offsetParent && e.getBoundingClientRect().height < 30).length"
        )
        assert small == 0
        for selector in ("#status", "#text .given", "#facts dt", ".caption", "#write", "#stop"):
            assert page.locator(selector).first.evaluate(CONTRAST) >= 4.5, selector


# Of an element's colour and what is behind it, by WCAG 2.
CONTRAST = """element => {
  element.disabled = false;
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
  const rgb = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = colour => {
    const [r, g, b] = rgb(colour).map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  let behind = element;
  while (behind && rgb(getComputedStyle(behind).backgroundColor)[3] < 255) behind = behind.parentElement;
  const ground = light(getComputedStyle(behind ?? document.documentElement).backgroundColor);
  const ink = light(getComputedStyle(element).color);
  return (Math.max(ink, ground) + .05) / (Math.min(ink, ground) + .05);
}"""  # noqa: E501


@needs_browser
def test_everything_has_a_name(server: Served, browser: Browser) -> None:
    with opened(browser, server.url) as page:
        nameless = page.evaluate(
            "[...document.querySelectorAll('#main button, #main input, #main textarea')]"
            ".filter(e => !(e.labels?.length || e.textContent.trim() || e.ariaLabel))"
            ".map(e => e.outerHTML)"
        )
        assert nameless == []
        assert page.locator("html").get_attribute("lang") == "en"


@needs_browser
def test_it_asks_for_the_key(folder: Path, browser: Browser) -> None:
    with (
        fake_server(folder, env={"LLMC_API_KEY": KEY}) as server,
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
    folder: Path, browser: Browser, kill: Callable[[Served], None], said: str
) -> None:
    """The server ends at once where its engine's parent is gone: nothing is left behind."""
    with fake_server(folder) as server, opened(browser, server.url) as page:
        page.wait_for_selector("#write:enabled")
        kill(server)
        write(page, "ab", tokens=8)
        page.wait_for_selector("#status.bad")
        assert said in status_of(page)


@pytest.fixture(scope="module")
def talker(folder: Path) -> Iterator[Served]:
    """Return a server that says what the user said; its context is 200 tokens."""
    flags = ["--chat", "chatml", "--positions", "200", "--step-seconds", "0.01"]
    with fake_server(folder, *flags) as running:
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
        assert len(sent_by(command)["messages"]) == 5
        page.get_by_role("button", name="New conversation").click()
        assert bubbles(page) == []


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
def test_both_views_are_there(talker: Served, server: Served, browser: Browser) -> None:
    with opened(browser, talker.url) as page:
        page.get_by_role("tab", name="Completion").click()
        write(page, "ab", tokens=8)
        wait(page)
        assert text_of(page).startswith("ab")
        assert '"prompt"' in (page.locator("#curl").text_content() or "")
        page.get_by_role("tab", name="Chat").click()
        assert page.locator("#chatview").is_visible()
    with opened(browser, server.url) as page:
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
            assert page.locator(selector).first.evaluate(CONTRAST) >= 4.5, selector
        nameless = page.evaluate(
            "[...document.querySelectorAll('#main button, #main input, #main textarea')]"
            ".filter(e => !(e.labels?.length || e.textContent.trim() || e.ariaLabel))"
            ".map(e => e.outerHTML)"
        )
        assert nameless == []
