"""The page of llmc serve in a real browser, Debian's chromium."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

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
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
# The contrast of an element's colour with what is behind it, by WCAG 2.
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


def sent_by(command: str) -> dict[str, Any]:
    """Return the body that a shown command sends."""
    words = shlex.split(command)
    body = json.loads(words[words.index("-d") + 1])
    assert isinstance(body, dict)
    return body


def contrast(page: Page, selector: str) -> float:
    """Return the contrast of the first such element with what is behind it."""
    found = page.locator(selector).first.evaluate(CONTRAST)
    assert isinstance(found, int | float)
    return found


def nameless(page: Page) -> Any:
    """Return the elements that a screen reader cannot name."""
    return page.evaluate(
        "[...document.querySelectorAll('#main button, #main input, #main textarea')]"
        ".filter(e => !(e.labels?.length || e.textContent.trim() || e.ariaLabel))"
        ".map(e => e.outerHTML)"
    )
