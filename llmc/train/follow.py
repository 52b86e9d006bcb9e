"""A run while its engine works: its files, what is said of it, its settings as they turn out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llmc.paths import METRICS, Workspace
from llmc.report import Report
from llmc.setting import differing
from llmc.tokens.recorded import record_tokenizer
from llmc.train import folder as folders
from llmc.train import record as records
from llmc.train import resume as resuming
from llmc.train.arrival import TRIAL_SECONDS, Watch
from llmc.train.engine_run import OnEvent, engine_arguments, run_engine
from llmc.train.metrics import Event, Metrics, Progress
from llmc.train.plan import RunPlan
from llmc.train.ranks import recorded_ranks, with_shares
from llmc.train.record import Record, Setup


@dataclass
class Followed:
    """A run whose folder is made."""

    workspace: Workspace
    plan: RunPlan  # its settings become those that the engine has found
    record: Record  # the content of ``run.json``
    setup: Setup
    progress: Progress
    report: Report
    on_event: OnEvent
    earlier: Metrics = field(default_factory=Metrics)  # what a resumed run measured before

    @property
    def resumed(self) -> bool:
        """Whether the run existed before."""
        return self.plan.record is not None

    def run(self) -> None:
        """Write the run's files and run the engine to its end.

        Raises:
            LlmcError: the engine failed, was interrupted, or a file cannot be written.
        """
        plan, setup = self.plan, self.setup
        wait = TRIAL_SECONDS if setup.threads.fewer else 0.0
        self._watch = Watch(plan.settings, wait=wait)
        argv = [str(setup.binary), "train", *self._arguments()]
        how: dict[str, Any] = {"launch": setup.launch, "on_silence": self.report.note}
        if self.resumed:
            if (plan.folder / METRICS).is_file():
                self.earlier.read(plan.folder / METRICS)
            # The engine may still refuse the run, or another process hold it: its folder stays.
            how |= {"earlier": self.earlier, "on_first": self._write}
        else:
            self._write()
        run_engine(argv, self.progress, plan.data.detokenize, self._heard, **how)

    def _arguments(self) -> Sequence[str]:
        plan, settings = self.plan, self.plan.settings
        if self.resumed:  # an update keeps its tokens, whatever the engine proposes
            settings = replace(settings, total_batch_size=settings.tokens_per_step)
            if "shares" not in plan.changes:  # the checkpoint's, or more for more ranks
                settings = replace(settings, shares=0)
        argv = engine_arguments(
            plan.data, plan.model, plan.folder, settings, self.setup.threads, rows=plan.rows
        )
        if not self.setup.launch.several:  # else rank 0 chooses, perhaps on another machine
            argv += ["--prefer-isa", self.setup.isa]
        if not self.resumed:
            return argv
        argv += ["--resume", "1"]
        argv += ["--resume-from", str(plan.step)] if plan.back else []
        argv += ["--new-schedule", "1"] if resuming.plans_anew(plan.changes, settings) else []
        argv += ["--forget-best", "1"] if resuming.validates_otherwise(plan.changes) else []
        return argv

    def _write(self) -> None:
        folder, data = self.plan.folder, self.plan.data
        records.write_record(folder, self.record)  # first: config.toml is compared with it
        folders.write_config(folder, self.plan.preset)
        if data.tokenizer is not None:
            record_tokenizer(data.tokenizer, folder)

    def _heard(self, event: Event, progress: Progress) -> None:
        if event.get("event") == "start":
            self._take_start(event)
        if (sentence := self._said(event, progress)) is not None:
            self.report.note(sentence)
        self.on_event(event, progress)

    def _take_start(self, start: Event) -> None:
        """Record the ranks and the shares with which the engine starts."""
        plan, several = self.plan, self.setup.launch.several
        settings = with_shares(plan.settings, start)
        if several and self.resumed:
            plan.note_isa(start["isa"], self.report)
        if settings == plan.settings and not several:
            return
        found = differing(plan.settings, settings) if self.resumed else {}
        changes = {**found, **plan.changes}
        for name, (_, new) in found.items():
            changes[name] = [changes[name][0], new]
        preset = replace(plan.preset, train=settings)
        self.plan = replace(plan, preset=preset, changes=changes)
        ranks = recorded_ranks(start, self.setup.launch)
        self.record = records.started_record(
            self.record,
            preset,
            ranks,
            changes if self.resumed else None,
            anew=plan.step is None,
        )
        if not self.resumed:
            self._write()

    def _said(self, event: Event, progress: Progress) -> str | None:
        """Return what to say of an event beside what the view shows, or None."""
        if event.get("event") == "note":
            return str(event["text"])
        if event.get("event") != "start" or not self.resumed:
            return self._watch.take(event, progress)
        return resuming.rate_jump(
            self.workspace,
            self.plan.folder,
            self.plan.settings,
            changes=self.plan.changes,
            earlier=self.earlier,
            start=event,
        )
