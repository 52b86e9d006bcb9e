"""The fuzz harnesses: each has seeds, and what libFuzzer reports is read right."""

from __future__ import annotations

import pytest

from tests.programs import fuzz

LOG = """\
INFO: Loaded 1 modules   (14719 inline 8-bit counters): 14719 [0x1, 0x2),
#7	INITED cov: 101 ft: 102 corp: 7/1Kb exec/s: 0 rss: 30Mb
#4096	pulse  cov: 149 ft: 402 corp: 50/9Kb lim: 99 exec/s: 2048 rss: 31Mb
"""
DONE = "Done 5000 runs in 13 second(s)\nstat::number_of_executed_units: 5000\n"
CRASH = (
    "==7==ERROR: AddressSanitizer: heap-use-after-free on address 0x1\nTest unit written to f/x\n"
)


def test_every_harness_has_small_seeds_and_every_seed_a_harness() -> None:
    readers = {path.stem.removeprefix("fuzz_") for path in fuzz.HARNESSES.glob("fuzz_*.c")}
    assert readers == {path.name for path in fuzz.SEEDS.iterdir()}
    for reader in readers:
        sizes = [path.stat().st_size for path in (fuzz.SEEDS / reader).iterdir()]
        assert sizes and max(sizes) < fuzz.MOST_BYTES


def test_the_log_of_a_calm_run_is_read() -> None:
    told = fuzz.outcome("requests", LOG + DONE, 0)
    assert (told.executions, told.seconds, told.edges, told.of) == (5000, 13, 149, 14719)
    assert told.finding == ""


def test_a_finding_is_named_with_its_input() -> None:
    told = fuzz.outcome("requests", LOG + CRASH, 1)
    assert told.executions == 4096
    assert "heap-use-after-free" in told.finding and "f/x" in told.finding
    assert fuzz.outcome("requests", LOG, -9).finding  # whatever ended it


def test_without_libfuzzer_nothing_is_fuzzed_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fuzz, "has_fuzzer", lambda compiler: False)
    monkeypatch.setattr("sys.argv", ["fuzz"])
    fuzz.main()
    assert "skipped" in capsys.readouterr().out
