"""Draws docs/measured/serve.png: the page of llmc serve, with the alternatives of a word.

make demo setup-dev && .venv/bin/python tools/serve_screenshot.py build/demo

It takes Debian's chromium (apt-get install chromium) and serves the workspace's newest run. If that
is one for conversations, as after make demo-chat, it draws docs/measured/chat.png.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

MEASURED = Path(__file__).resolve().parents[1] / "docs" / "measured"
CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PROMPT = "class Reader:\n    def __init__(self"
SEED, TOKENS, WORD = 11, 120, 70
QUESTION = "What does shutil.copy(src, dst) do?"


def main() -> None:
    """Serve, write, point at a word, take the picture."""
    argv = [sys.executable, "-m", "llmc", "--workspace", sys.argv[1], "serve", "--port", "0"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            out = photograph(server.stdout.readline().strip())
        finally:
            server.send_signal(signal.SIGTERM)
    print(f"wrote {out}, {out.stat().st_size} bytes")


def photograph(url: str) -> Path:
    """Open the page at ``url``, draw it with a text or a conversation, and return the picture."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1080, "height": 800}, color_scheme="light")
        page.goto(url)
        page.wait_for_selector("#main:visible")
        if page.locator("#views").is_visible():
            page.locator("#temperature").fill("0")
            page.locator("#say").fill(QUESTION)
            page.locator("#send").click()
            page.wait_for_selector("#send:enabled")
            page.screenshot(path=MEASURED / "chat.png")
            return MEASURED / "chat.png"
        page.get_by_label("another seed each time").uncheck()
        page.get_by_label("Seed", exact=True).fill(str(SEED))
        page.get_by_label("Tokens", exact=True).fill(str(TOKENS))
        page.get_by_label("Prompt").fill(PROMPT)
        page.get_by_role("button", name="Write").click()
        page.wait_for_selector("#write:enabled")
        page.hover(f".t >> nth={WORD}")
        page.screenshot(path=MEASURED / "serve.png")
        return MEASURED / "serve.png"


if __name__ == "__main__":
    main()
