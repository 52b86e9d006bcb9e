"""What the tests of the documentation share."""

from __future__ import annotations

import pytest

from tests.helpers import formats_page


@pytest.fixture(scope="session")
def enums() -> dict[str, int]:
    """Return the constants of native/files/format.h."""
    return formats_page.enums()
