"""Draws docs/measured/serve.png: the page of llmc serve, with the alternatives of a word.

make demo setup-dev && .venv/bin/python tools/serve_screenshot.py build/demo

It takes Debian's chromium (apt-get install chromium) and serves the workspace's newest run.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

OUT = Path(__file__).resolve().parents[1] / "docs" / "measured" / "serve.png"
CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PROMPT = "class Reader:\n    def __init__(self"
SEED, TOKENS, WORD = 11, 120, 70


def main() -> None:
    """Serve, write, point at a word, take the picture."""
    argv = [sys.executable, "-m", "llmc", "--workspace", sys.argv[1], "serve", "--port", "0"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            photograph(server.stdout.readline().strip())
        finally:
            server.send_signal(signal.SIGTERM)
    print(f"wrote {OUT}, {OUT.stat().st_size} bytes")


def photograph(url: str) -> None:
    """Open the page at ``url`` and draw it with a text."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1080, "height": 800}, color_scheme="light")
        page.goto(url)
        page.get_by_label("another seed each time").uncheck()
        page.get_by_label("Seed", exact=True).fill(str(SEED))
        page.get_by_label("Tokens", exact=True).fill(str(TOKENS))
        page.get_by_label("Prompt").fill(PROMPT)
        page.get_by_role("button", name="Write").click()
        page.wait_for_selector("#write:enabled")
        page.hover(f".t >> nth={WORD}")
        page.screenshot(path=OUT)
        browser.close()


if __name__ == "__main__":
    main()
