"""Where the repository and the stand-ins for the engine and the server lie."""

from __future__ import annotations

from pathlib import Path

HELPERS = Path(__file__).parent
ROOT = HELPERS.parents[1]
FAKE_ENGINE = HELPERS / "fake_engine.py"
