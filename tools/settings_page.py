"""Write docs/reference/settings.md from the settings: ``python -m tools.settings_page``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from llmc.cli.options import GROUPS
from llmc.config import SAMPLE_SETTINGS, TRAIN_SETTINGS
from llmc.setting import BELOW_1, MOST, STEPS_OR_TIME, Setting, typed_number

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "settings.md"

HEAD = """# Settings

This page is generated from `llmc/config.py` by `python -m tools.settings_page`.

A setting has one name: `val_every` in a preset and in Python is `--val-every` on the command line.
An option wins over the preset (`--config`), and the preset over the default. Whole numbers can be
typed as `250000`, `65k`, `1e6`, `10M` or `4G`, times as `2h`, `1h30m`, `90m` or `45s`. A preset
takes plain numbers, and times as text. A preset may also name
`data` and `val_data`: `data = ["A", "B:0.3"]` [mixes texts](../guide/data-order.md#mix-texts).

The last column says whether `llmc train --resume` accepts a new value. *Yes, with other bits*: the
steps to come are not, bit for bit, those of an undisturbed run. A note says so, and `run.json`
records the change with its step. *No*: the order of the data follows from it. A resume keeps the
tokens of an update: another `--batch-size`, or other `--shares`, must divide its rows.

`--threads` and `--launch COMMAND` belong to the machines and not to the run: no preset holds them,
and each resume takes its own. `--launch` (or the variable `LLMC_LAUNCH`) starts several ranks, each
with as many threads as its share of its machine has cores. An update is summed in `--shares` parts,
which decide its bits: with 4 shares, 4 ranks, 2 or one compute the same. Without
`--total-batch-size` it has a batch of B x T tokens for each share.
"""


def typed_range(setting: Setting) -> str:
    """Return the values that a setting takes."""
    least, most = typed_number(setting.low), typed_number(setting.high)
    if setting.choices:
        return ", ".join(setting.choices)
    if isinstance(setting.default, bool):
        return "on, off"
    if setting.metavar == STEPS_OR_TIME:
        return f"{least} or more, or a time"
    if isinstance(setting.default, str):
        return "a time"
    if setting.high == BELOW_1:
        return f"{least} to below 1"
    return f"{least} or more" if setting.high >= MOST else f"{least} to {most}"


def rows(settings: Mapping[str, Setting], group: str, *, resume: bool) -> list[str]:
    """Return a table of the settings of one group, or nothing if it has none."""
    found = [setting for setting in settings.values() if setting.group == group]
    if not found:
        return []
    last = " resume |" if resume else ""
    lines = ["", f"### {group}", "", f"| setting | default | range | unit | what it does |{last}"]
    lines.append("| --- | --- | --- | --- | --- |" + (" --- |" if resume else ""))
    for item in found:
        cells = [f"`{item.flag}`", item.shown_default, typed_range(item), item.unit, item.help]
        cells += [item.resume.value] if resume else []
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def page() -> str:
    """Return the whole page."""
    lines = [HEAD, "## `[train]`"]
    for group in GROUPS:
        lines += rows(TRAIN_SETTINGS, group, resume=True)
    lines += ["", "## `[sample]`"]
    for group in GROUPS:
        lines += rows(SAMPLE_SETTINGS, group, resume=False)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
