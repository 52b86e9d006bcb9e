from __future__ import annotations

import math
import os
import re
from io import StringIO
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console, ConsoleDimensions

from llmc.cli.views.lines import plain_lines
from llmc.cli.views.training import (
    CURVE_LINES,
    SAMPLE_LINES,
    LiveView,
    PlainView,
    SilentView,
    choose_view,
    seconds_left,
)
from llmc.train.curves import BARS
from llmc.train.metrics import Event, Progress
from tests.conftest import Llmc
from tests.helpers.terminal import Screen, in_terminal, typing
from tests.helpers.workspace import prepared_workspace

START: Event = {
    "event": "start", "parameters": 124439808, "isa": "avx2", "dtype": "fp32", "threads": 2,
    "steps": 2000, "memory": 2210000000,
}  # fmt: skip


def step(number: int, loss: float) -> Event:
    return {
        "step": number, "train_loss": loss, "lr": 0.001, "grad_norm": 12.3456, "step_ms": 1234.5,
        "tokens_per_second": 123456.7,
    }  # fmt: skip


def a_run(sample: str = "It was.") -> Progress:
    progress = Progress(2000, run="texts-1", tokens_per_step=152407)
    events = [START, {"step": 0, "val_loss": 10.98}]
    events += [step(number, 11 - number / 200) for number in range(1500)]
    events += [{"step": 1500, "val_loss": 3.5}, {"event": "sample", "step": 1500, "tokens": [7]}]
    for event in events:
        progress.add(event, lambda ids: sample)
    return progress


def drawn(progress: Progress, width: int, height: int = 40) -> list[str]:
    with Path(os.devnull).open("w") as nowhere:
        console = Console(width=width, height=height, record=True, file=nowhere, highlight=False)
        console.print(LiveView(console).picture(progress))
    return console.export_text().splitlines()


def test_a_progress_keeps_what_events_tell() -> None:
    progress = a_run()
    assert progress.start == START
    assert progress.train[:2] == [(0, 11.0), (1, 10.995)]
    assert progress.val == [(0, 10.98), (1500, 3.5)]
    assert progress.sample == "It was."
    assert progress.saved_step is None
    assert Progress(3).tokens_per_second == 0
    assert progress.tokens_per_second == pytest.approx(152407 / 1.2345)
    progress.add({"event": "saved", "step": 1500}, lambda ids: "")
    assert progress.saved_step == 1500


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_the_picture_fits_and_shows_the_numbers(width: int) -> None:
    lines = drawn(a_run("東京" * 100 + "\nnext"), width)
    assert {cell_len(line) for line in lines} == {min(width - 2, 120)}
    text = " ".join(lines)
    assert "llmc train · texts-1" in text
    assert "1,500/2,000 steps" in text
    assert "next" in text
    for words in NUMBERS if width >= 80 else ():
        assert words in text


NUMBERS: tuple[str, ...] = ("train loss 3.5050", "val loss 3.5000", "tokens/s 123,456", "ETA 00:0")
NUMBERS += ("grad norm 12.346", "lr 1.00e-03", "memory 2.21 GB", "time 30:52")


@pytest.mark.parametrize("width", [60, 80, 88, 120])
@pytest.mark.parametrize("seconds", [30.0, 40000.0])
def test_no_number_is_cut_off(width: int, seconds: float) -> None:
    """The validation loss is shown without its error where the row is too narrow."""
    progress = a_run()
    progress.add({**step(1500, 3.5), "step_ms": 1e3 * seconds}, str)
    progress.add({"step": 1501, "val_loss": 10.5, "val_error": 0.0322}, str)
    lines = drawn(progress, width)
    numbers = [line for line in lines if "loss" in line or "memory" in line or "ETA" in line]
    assert not any("…" in line for line in numbers)
    has_room = width != 80 or seconds < 3600
    assert ("val loss 10.5000 ± 0.0322" in " ".join(numbers)) == has_room


def test_the_loss_is_seen_to_fall() -> None:
    line = next(line for line in drawn(a_run(), 80, 14) if "loss █" in line)
    bars = [BARS.index(char) for char in line if char in BARS]
    assert bars == sorted(bars, reverse=True)
    assert (bars[0], bars[-1]) == (7, 0)
    assert len(bars) == 68


def test_before_the_first_step_there_is_a_picture_too() -> None:
    text = " ".join(drawn(Progress(40), 80))
    assert "0/40 steps" in text
    assert "train loss –" in text


def test_a_sample_cannot_move_the_cursor_or_the_colours() -> None:
    lines = drawn(a_run("[red]a[/red] :smile:\x1b[2J\x9b2J\rb\tc\x07\u202ed\n" * 30), 120)
    text = "\n".join(lines)
    assert "[red]a[/red] :smile:" in text
    assert not set("\x1b\x9b\r\t\x07\u202e") & set(text)
    frame, bar, numbers, losses, axis = 2, 1, 3, CURVE_LINES[1], 2
    assert len(lines) == frame + bar + numbers + losses + axis + SAMPLE_LINES


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("height", [6, 8, 10, 14, 16, 20, 24, 50])
def test_the_picture_is_never_higher_than_the_terminal(width: int, height: int) -> None:
    for progress in (a_run("a\nb\nc\nd\ne\nf\ng"), a_run(""), Progress(3)):
        lines = drawn(progress, width, height)
        assert len(lines) < height
        assert {cell_len(line) for line in lines} == {width - 2}
    text = "\n".join(drawn(a_run("a\nb"), width, height))
    assert "1,500/2,000" in text
    if height >= 8:
        assert "train loss" in text
        assert "┤" in text or "loss █" in text
    assert ("┤" in text) == (height >= (16 if width >= 80 else 20))


def test_the_chart_keeps_its_height_when_the_sample_changes() -> None:
    for height in (18, 24, 40):
        heights = {
            sum("┤" in line for line in drawn(a_run(sample), 80, height))
            for sample in ("", "a", "a\nb\nc", "a\n" * 20)
        }
        assert len(heights) == 1


def test_a_pipe_gets_a_line_every_few_seconds_or_steps(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("llmc.cli.views.training.time.monotonic", lambda: now)
    for log_every, steps in ((0, [0, 40, 80, 99]), (30, [0, 30, 60, 90, 99])):
        view, progress = PlainView(log_every), Progress(100)
        for number in range(100):
            now += 0.125
            view.update(step(number, 1.0), progress)
        shown = capsys.readouterr().out.splitlines()
        assert [int(line.split()[1][:-1]) for line in shown] == steps


def test_the_curve_shows_both_losses() -> None:
    lines = drawn(a_run(), 80, 24)
    chart = [line[2:-2] for line in lines if "┤" in line]
    assert chart[0].split("┤")[0].strip() == "11.00"
    assert float(chart[-1].split("┤")[0]) == 3.5
    assert sum(line.count("●") for line in chart) == 2
    assert "●" in chart[-1].rstrip()[-1]
    axis = next(line for line in lines if "steps (● validation)" in line)
    assert axis[2:-2].split() == ["0", "steps", "(●", "validation)", "1,500"]


def test_more_numbers_come_when_there_are_some() -> None:
    progress = a_run()
    assert progress.share_of_peak is None
    assert "of peak" not in " ".join(drawn(progress, 80))
    assert "best val 3.5000" in " ".join(drawn(progress, 80))
    progress.start = START | {"peak_flops": 1e15}
    assert progress.share_of_peak is None
    progress.flops_per_token = 1e9
    assert progress.share_of_peak == pytest.approx(0.1234567, rel=1e-4)
    progress.add(step(1500, 3.0), str)
    progress.add({"event": "skipped", "step": 1500, "loss_z": 5.0, "grad_z": 1.5}, str)
    progress.add({"event": "saved", "step": 1501}, str)
    for width in (80, 120):
        text = " ".join(drawn(progress, width))
        assert "of peak 12%" in text
        assert "saved step 1,501" in text
        assert "skipped 1 " in text
    assert Progress(3).share_of_peak is None


def test_the_time_left_is_to_whichever_end_comes_first() -> None:
    progress = Progress(2000)
    assert seconds_left(progress, 1) is None
    for number in range(100):
        progress.add(step(number, 3.0), str)
    assert seconds_left(progress, 10) == pytest.approx(190)
    progress.max_seconds = 60
    assert seconds_left(progress, 10) == 50
    progress.start = {"seconds": 45}
    assert seconds_left(progress, 10) == 5
    assert seconds_left(progress, 20) == 0
    progress.max_seconds = 1e6
    assert seconds_left(progress, 10) == pytest.approx(190)
    progress.steps = None
    assert seconds_left(progress, 10) == 1e6 - 55


@pytest.mark.parametrize("width", [80, 120])
def test_a_run_that_time_ends_shows_its_time(width: int) -> None:
    progress = a_run()
    progress.max_seconds = 7200
    assert "1,500/2,000 steps · 00:00 of 2:00:00" in " ".join(drawn(progress, width))
    progress.start = START | {"steps": None, "seconds": 3600}
    progress.add(progress.start, str)
    text = " ".join(drawn(progress, width))
    assert "1,500 steps · 1:00:00 of 2:00:00" in text
    assert "ETA 1:00:00" in text


def test_a_run_that_was_resumed_goes_on_from_there() -> None:
    progress = Progress(2000)
    for number in range(1900, 1950):
        progress.add(step(number, 3.0), str)
    assert "1,950/2,000 steps" in " ".join(drawn(progress, 80))


def test_a_terminal_of_another_size_gets_an_empty_screen() -> None:
    written = StringIO()
    console = Console(width=80, height=24, file=written, force_terminal=True)
    progress = a_run()
    view = LiveView(console)
    with view:
        view.update(step(0, 1.0), progress)
        assert "\x1b[2J" not in written.getvalue()
        console.size = ConsoleDimensions(60, 20)
        view.next_drawing = -math.inf
        view.update(step(0, 1.0), progress)
        assert written.getvalue().count("\x1b[2J\x1b[H") == 1


def test_training_does_not_wait_for_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("llmc.cli.views.training.time.monotonic", lambda: now)
    pictures = []

    class Counting(LiveView):
        def picture(self, progress: Progress) -> str:
            pictures.append(len(progress.train))
            return ""

    progress = Progress(100)
    with Path(os.devnull).open("w") as nowhere, Counting(Console(file=nowhere)) as view:
        for number in range(100):
            now = number / 64  # 64 steps a second
            progress.add(step(number, 1.0), str)
            view.update(step(number, 1.0), progress)
    assert pictures[:2] == [1, 8]
    assert pictures[-1] == 100  # the last picture shows the last step
    assert len(pictures) <= 17


def test_a_pipe_is_told_what_llm_c_prints() -> None:
    progress = a_run("One\ntwo")
    assert plain_lines(step(3, 4.56789012), progress) == (
        "step 3: train loss 4.567890 (took 1234.500 ms)\n"
    )
    assert plain_lines({"step": 3, "val_loss": 4.5}, progress) == "val loss 4.500000\n"
    assert plain_lines({"event": "sample", "tokens": [1]}, progress) == (
        "generating:\n---\nOne\ntwo\n---\n"
    )
    assert plain_lines(START, progress) == (
        "num_parameters: 124439808\nmemory: 2.21 GB\nisa: avx2, threads: 2, dtype: fp32\n"
    )
    assert plain_lines({"event": "saved", "step": 3}, progress) == ""


def test_the_view_fits_where_stdout_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(choose_view(json=False, quiet=False)) is PlainView
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert type(choose_view(json=False, quiet=False)) is LiveView
    assert type(choose_view(json=False, quiet=True)) is SilentView
    monkeypatch.setenv("TERM", "dumb")
    assert type(choose_view(json=False, quiet=False)) is PlainView


@pytest.mark.parametrize("columns", [80, 120])
def test_in_a_terminal_nothing_is_wider_than_it(
    workspace: Llmc, columns: int, tmp_path: Path
) -> None:
    flags = ["--steps", "40", "--lr", "0.02", "--sample-every", "20", "--run", f"at-{columns}"]
    shown = in_terminal(workspace, columns, "train", "--config", "tiny.toml", *flags)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    lines = shown.replace("\r", "\n").split("\n")
    assert max(cell_len(line) for line in lines) <= columns
    assert {cell_len(line) for line in lines if line[:1] in "│╰"} <= {0, min(columns - 2, 120)}
    assert any(line.startswith("│") for line in lines)
    assert "40/40 steps" in shown
    assert "step 1:" not in shown
    panel, _, after = shown.rpartition("╯")
    assert "steps (● validation)" in panel
    assert "┤●" in panel.rpartition("╭")[2]
    assert "loss over steps" not in after and "┤" not in after  # once is enough
    assert "next: " in after
    assert "llmc sample --decode" in after


@pytest.mark.parametrize("columns", [80, 121])
def test_ctrl_c_leaves_no_piece_of_a_picture(workspace: Llmc, columns: int) -> None:
    flags = ["--steps", "100000", "--sample-every", "0", "--val-every", "0"]
    with typing(workspace, columns, "train", *flags, "--run", f"stopped-{columns}") as person:
        person.wait("train loss")
        person.type("\x03")
        person.wait("interrupted after")
    assert "^C" in person.shown
    screen = Screen(columns).shown(person.raw)
    assert sum("╭" in line for line in screen) == sum("╯" in line for line in screen) == 1
    assert person.code == 130


def test_what_is_said_during_the_run_stands_above_the_picture(workspace: Llmc) -> None:
    flags = ["--schedule", "wsd", "--decay", "0.4", "--max-time", "2s", "--steps", "1000000"]
    shown = in_terminal(workspace, 80, "train", *flags, "--run", "said", "--val-every", "0")
    screen = Screen(80).shown(shown)
    assert sum("╭" in line for line in screen) == sum("╯" in line for line in screen) == 1
    before = "".join(screen[: next(at for at, line in enumerate(screen) if "╭" in line)])
    assert "the learning rate decays from step" in before


def test_the_losses_are_drawn_at_the_end_where_the_picture_had_no_room(workspace: Llmc) -> None:
    flags = ["--steps", "40", "--run", "low"]
    shown = in_terminal(workspace, 80, "train", "--config", "tiny.toml", *flags, lines=10)
    panel, _, after = shown.rpartition("╯")
    assert "loss " in panel and "┤" not in panel
    assert "loss over steps" in after and "┤●" in after


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Llmc:
    return prepared_workspace(tmp_path_factory.mktemp("view") / "workspace", cache)
