from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc.errors import BadData
from llmc.tokens.files import write_tokens
from llmc.tokens.windows import count_windows, cut_windows

MASKS = st.lists(st.sampled_from([0, 0, 1, 1, 1, 2, 4, 5, 6, 7]), min_size=2, max_size=120)


@given(MASKS, st.integers(1, 40))
def test_each_token_that_counts_counts_in_one_window(mask: list[int], T: int) -> None:
    seen = [0] * len(mask)
    for start, length, counted in cut_windows(np.array(mask, "u1"), T):
        assert 0 < length <= T
        targets = range(start + 1, start + length + 1)
        assert counted == sum(mask[at] & 1 for at in targets) > 0
        for at in targets:
            seen[at] += mask[at] & 1
    assert seen[1:] == [byte & 1 for byte in mask[1:]]


@given(MASKS, st.integers(1, 40))
def test_a_window_begins_where_the_rule_says(mask: list[int], T: int) -> None:
    expected, p = [], 0
    while p < len(mask) - 1:
        within = range(p + 1, min(p + T, len(mask) - 1) + 1)
        starts = [[at for at in within if mask[at] & bit] for bit in (2, 4)]
        q = next((places[-1] for places in starts if places), p + T)
        if p + T >= len(mask) - 1:
            q = len(mask) - 1
        if any(mask[at] & 1 for at in range(p + 1, q + 1)):
            expected.append((p, q - p))
        p = q
    assert [each[:2] for each in cut_windows(np.array(mask, "u1"), T)] == expected


def test_whole_conversations_share_a_window_and_a_long_one_is_cut_at_a_turn() -> None:
    mask = np.full(40, 1, "u1")
    mask[[0, 4, 9, 30]] |= 2
    mask[[0, 4, 9, 16, 22, 30]] |= 4
    starts = [window.start for window in cut_windows(mask, 10)]
    assert starts == [0, 9, 16, 22, 30]


def test_all_files_of_a_text_have_a_mask_or_none(tmp_path: Path) -> None:
    files = [tmp_path / "a.bin", tmp_path / "b.bin"]
    write_tokens(files[0], [np.arange(9)], 10)
    assert count_windows(files[:1], 9, 4) == 2
    pairs = [(np.arange(9), np.array([6, 0, 0, 0, 1, 6, 0, 0, 1], "u1"))]
    write_tokens(files[1], pairs, 10, masked=True)
    assert count_windows(files[1:], 9, 6) == 2
    with pytest.raises(BadData, match=r"b\.bin has a mask, and .*a\.bin has none"):
        count_windows(files, 18, 4)
    write_tokens(files[0], [(np.arange(9), np.zeros(9, "u1"))], 10, masked=True)
    assert count_windows(files, 18, 4) == 2
    with pytest.raises(BadData, match="counts at none"):
        count_windows(files[:1], 9, 4)


@given(MASKS, st.integers(1, 40))
def test_aligned_windows_begin_where_documents_do(bytes_: list[int], T: int) -> None:
    tokens = np.array([9 if byte == 2 else 1 for byte in bytes_])
    mask = np.where(tokens == 9, 3, 1).astype("u1")
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / "a.bin", Path(folder) / "b.bin"]
        for file, part in zip(files, np.array_split(tokens, 2), strict=True):
            write_tokens(file, [part], 10)
        assert count_windows(files, len(tokens), T, 9) == len([*cut_windows(mask, T)])
