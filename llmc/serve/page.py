"""The page at /: one HTML file, and its content security policy."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

from starlette.responses import HTMLResponse

TEMPLATE = "page.html"
INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def page() -> HTMLResponse:
    """Return the page. Its policy allows its own script and style by their hashes, nothing else."""
    text = (files("llmc.serve") / TEMPLATE).read_text(encoding="utf-8")
    sources = {"script": "", "style": ""}
    for kind, inline in INLINE.findall(text):
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        sources[kind] += f" 'sha256-{digest}'"
    policy = (
        f"default-src 'none'; script-src{sources['script']}; style-src{sources['style']}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return HTMLResponse(
        text, headers={"Content-Security-Policy": policy, "Cache-Control": "no-cache"}
    )
