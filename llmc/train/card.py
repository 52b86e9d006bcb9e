"""The model card of an export for Hugging Face: ``README.md``, from the run's own record.

What a card says is in the run's folder. Paths of the machine are not repeated: a card is public.
The table at its top is written by huggingface_hub, whose fields the hub reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from llmc import __version__
from llmc.config import MOST_STEPS, TrainConfig
from llmc.errors import LlmcError, Usage
from llmc.fetch.registry import FETCHED
from llmc.kinds import DAMAGE
from llmc.paths import Workspace
from llmc.preset import Preset
from llmc.terminal import printable
from llmc.train.folder import read_record, setting_lines
from llmc.train.history import RunHistory, read_run
from llmc.train.record import recorded_data, run_settings, weights_checksum
from llmc.units import clock, megabytes, plus_minus
from llmc.weights.checkpoint import is_trained
from llmc.weights.export import Described, Export
from llmc.weights.random import RandomModel

LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,62}")
LANGUAGE = re.compile(r"[a-z]{2,3}|code|multilingual")
NAMED_TOKENIZERS = {
    "gpt2": "GPT-2's byte-level BPE",
    "byte": "bytes, and one token that ends a document",
    "bpe": "a byte-level BPE, trained on the text",
}
Rows = Iterator[tuple[str, str]]


@dataclass(frozen=True)
class Said:
    """What only a person can say of a model."""

    license: str | None = None  # as the hub calls it
    languages: tuple[str, ...] = ()  # of the text


def said_of(license: str | None, languages: str | None) -> Said:
    """Return a licence and a list of languages as they were typed, checked.

    Raises:
        Usage: the licence is not an identifier, or a language not a code of ISO 639, ``code`` or
            ``multilingual``.
    """
    if license is not None and not LICENSE.fullmatch(license):
        raise Usage(
            f"--license takes an identifier of Hugging Face's hub, such as apache-2.0, mit, "
            f"cc-by-4.0 or other, not '{license}'"
        )
    codes = [each.strip() for each in languages.split(",")] if languages is not None else []
    for code in codes:
        if not LANGUAGE.fullmatch(code):
            raise Usage(
                "--language takes codes such as en, or en,de, and 'code' for programs, not "
                f"'{code}'"
            )
    return Said(license, tuple(codes))


def describe(workspace: Workspace, said: Said, export: Export) -> Described:
    """Return the card of an export, and how its model writes.

    Of weights that are no run's it says what is known of them.
    """
    card = _Card(workspace, export, said)
    return Described(card.text(), asdict(card.preset.sample) if card.preset is not None else None)


@dataclass
class _Card:
    """Writes a card. The name of a repository is not known yet: it is USER/NAME."""

    workspace: Workspace
    export: Export
    said: Said
    run: RunHistory | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    preset: Preset | None = None

    def __post_init__(self) -> None:
        folder = self.export.found.folder
        if folder is None:
            return
        self.run = read_run(folder)
        with suppress(*DAMAGE, OSError, LlmcError):
            self.record = read_record(folder)
        with suppress(*DAMAGE, OSError, LlmcError):
            self.preset, _ = run_settings(folder, dict(self.record) or None)

    def text(self) -> str:
        """Return the whole card."""
        parts = [f"---\n{self._metadata()}\n---\n", f"# {self.export.found.name}\n"]
        kind = f"A GPT-2 of {self.export.parameters:,} parameters"
        version = self.record.get("llmc", __version__)
        trained = f", trained on a CPU with llmc {version}" if self.run is not None else ""
        parts.append(f"{kind}{trained}.\n")
        if self.said.license is None:
            parts.append("**No licence is named**: ask its author before you use it.\n")
        parts += ["## Use\n", self._use(), "## Model\n", _table(self._model())]
        if self.run is not None:
            parts += ["## Training\n", _table(self._training()), *self._recipe()]
        return "\n".join(parts)

    def _metadata(self) -> str:
        """Return the fields for the hub, as YAML."""
        from huggingface_hub import EvalResult, ModelCardData

        hubs = [hub for manifest in self._manifests() for hub in _hubs(manifest)]
        score, results = self._score(), None
        if score is not None and len(hubs) == 1:  # the hub asks for a dataset of its own
            about: dict[str, Any] = {"dataset_type": hubs[0], "dataset_name": hubs[0]}
            made = partial(EvalResult, task_type="text-generation", **about)
            results = [
                made(metric_type=kind, metric_name=name, metric_value=round(value, 4))
                for kind, name, value, _ in score
            ]
        data = ModelCardData(
            license=self.said.license,
            language=[*self.said.languages] or None,
            library_name="transformers",
            pipeline_tag="text-generation",
            tags=["gpt2", "llmc"],
            datasets=sorted(set(hubs)) or None,
            model_name=self.export.found.name if results else None,
            eval_results=results,
        )
        return data.to_yaml()

    def _use(self) -> str:
        context = self.export.found.weights.config.context
        call = 'write("The")[0]["generated_text"]'
        if self.export.tokenizer is not None and self.export.tokenizer.template is not None:
            said = 'write([{"role": "user", "content": "Hello"}])'
            call = f'{said}[0]["generated_text"][-1]["content"]'
        return (
            "```python\n"
            "from transformers import pipeline\n\n"
            'write = pipeline("text-generation", model="USER/NAME")  # or the path of this folder\n'
            f"print({call})\n"
            "```\n\n"
            f"Prompt and text together have at most {context:,} tokens. "
            "`generation_config.json` has the sampling settings.\n"
        )

    def _model(self) -> Rows:
        shape, tokenizer = self.export.found.weights.config, self.export.tokenizer
        yield "architecture", "GPT-2 (`GPT2LMHeadModel`)"
        yield "parameters", f"{self.export.parameters:,}"
        yield "layers, heads, channels", f"{shape.layers}, {shape.heads}, {shape.channels}"
        yield "context", f"{shape.context:,} tokens"
        named = ""
        if tokenizer is not None:
            base = tokenizer.name.partition("+")[0]
            named = f": {NAMED_TOKENIZERS.get(base, tokenizer.name)}"
            added = [
                f"`{name}`"
                for name, token in tokenizer.special_tokens.items()
                if token > tokenizer.eot
            ]
            if base in NAMED_TOKENIZERS and added:
                named += f", with {', '.join(added)}"
        yield "vocabulary", f"{shape.vocab_size:,}{named}"
        if tokenizer is not None and tokenizer.template is not None:
            yield "chat template", f"{tokenizer.template.name}, in `chat_template.jinja`"
        yield "stored as", self.export.dtype
        if self.run is None and isinstance(self.export.found.weights, RandomModel):
            yield "weights", "random: it has not been trained"
        elif self.run is None and self.export.origin.step:
            yield "trained for", f"{self.export.origin.step:,} steps"
        if self.run is None and self.export.origin.val_loss is not None:
            yield "validation loss", f"{self.export.origin.val_loss:.4f} nats per token"

    def _training(self) -> Rows:
        run, step = self.run, self.export.origin.step
        assert run is not None
        for text in self._texts():
            yield "text", text
        if (start := self._start()) is not None:
            yield "weights at the start", start
        if run.done:
            chosen = "" if step == run.done else f"; these weights are those after {step:,}"
            yield "steps", f"{run.done:,}{chosen}"
        if run.tokens_per_step:
            tokens = step * run.tokens_per_step
            unique = 0 if self._has_masks() else self._tokens("train")
            passes = f": {tokens / unique:.2g} passes" if unique else ""
            yield "tokens", f"{tokens:,}{passes}"
        if run.seconds:
            names = [self.record.get("cpu"), self.record.get("isa")]
            where = ", ".join(str(name) for name in names if name)
            threads = self.record.get("threads")
            on = f" on {threads} {'thread' if threads == 1 else 'threads'}" if threads else ""
            processes = self.record.get("processes")
            if on and isinstance(processes, int) and processes > 1:
                on += f" of {processes} processes"
            machine = f" of {where}" if where and on else ""
            yield "time", f"{clock(run.seconds_before([step])[0])}{on}{machine}"
        for _, name, value, error in self._score() or ():
            yield name, plus_minus(value, error)

    def _recipe(self) -> Iterator[str]:
        """Yield the settings of training that are not the defaults, as a preset has them."""
        if self.preset is None:
            return
        usual = asdict(TrainConfig())
        train = {k: v for k, v in asdict(self.preset.train).items() if v != usual[k]}
        if train.get("steps") == MOST_STEPS:  # something else ended the run
            del train["steps"]
        yield "The settings, where they are not the defaults:\n"
        yield "\n".join(["```toml", "[train]", *setting_lines(train), "```\n"])

    def _score(self) -> list[tuple[str, str, float, float | None]] | None:
        """Return the validation losses of the weights: kind, name, value, standard error."""
        step = self.export.origin.step
        loss = dict(self.run.val).get(step) if self.run is not None else None
        if self.run is None or loss is None:
            return None
        error = self.run.val_errors.get(step)
        found = [("loss", "validation loss, nats per token", loss, error)]
        with suppress(*DAMAGE, OSError, LlmcError):  # the text may be gone
            data, _, changes = recorded_data(self.workspace, self.run.folder, self.record)
            bits = data.bits_per_byte(loss)
            if bits is not None and not changes:
                of_error = data.bits_per_byte(error)
                found.append(("bits_per_byte", "validation loss, bits per byte", bits, of_error))
        return found

    def _manifests(self) -> list[Mapping[str, Any]]:
        """Return what is recorded of each text; nothing of one that had no manifest."""
        found = self.record.get("manifest")
        listed = found if isinstance(found, list) else [found]
        return [each if isinstance(each, dict) else {} for each in listed]

    def _texts(self) -> Iterator[str]:
        """Yield the name and size of each text; its weight in a mixture."""
        manifests = self._manifests()
        for part, manifest in enumerate(manifests, 1):
            name = manifest.get("dataset") or (self.run.dataset if self.run is not None else None)
            size = manifest.get("text_bytes")
            known = isinstance(size, int) and size > 0
            parts = [f"{size:,} bytes ({megabytes(size or 0)})"] if known else []
            train, val = (self._tokens(split, part) for split in ("train", "val"))
            parts += [f"{train:,} tokens to train on"] if train else []
            parts += [f"{val:,} to validate on"] if val else []
            with suppress(*DAMAGE):
                weighed = self.record["data"] if len(manifests) > 1 else []
                parts += [f"weight {each['weight']}" for each in weighed[part - 1 : part]]
            if name is not None:
                yield f"{name}: {', '.join(parts)}"

    def _tokens(self, split: str, part: int | None = None) -> int:
        """Return the tokens of a split, of one text or all; 0 where they are not recorded."""
        with suppress(*DAMAGE):
            shards = self.record["files"][split]
            return sum(int(e["tokens"]) for e in shards if part in (None, e.get("part", 1)))
        return 0

    def _has_masks(self) -> bool:
        """Return whether a pass reads more tokens than the text has: windows overlap."""
        with suppress(*DAMAGE):
            return any("mask_sha256" in each for each in self.record["files"]["train"])
        return False

    def _start(self) -> str | None:
        """Return what the run started from, where that can be told."""
        name = self.record.get("model")
        model = self.workspace.root / name if isinstance(name, str) else None
        with suppress(LlmcError, OSError):
            if model is not None and weights_checksum(model) == self.record.get("weights_crc32"):
                return f"`{model.name}`, trained before" if is_trained(model) else "random"
        return None


def _table(rows: Rows) -> str:
    cells = [(name, printable(value).replace("|", "\\|")) for name, value in rows]
    return "\n".join(["| | |", "| --- | --- |", *(f"| {a} | {b} |" for a, b in cells)]) + "\n"


def _hubs(manifest: Mapping[str, Any]) -> list[str]:
    """Return which datasets of the hub a text is."""
    known = FETCHED.get(str(manifest.get("dataset")))
    files = {file.name for file in known.files} if known is not None else set()
    sources = [each for each in manifest.get("source") or () if isinstance(each, dict)]
    found = [str(each["hub"]) for each in sources if each.get("hub")]
    if known is not None and known.hub and any(each.get("name") in files for each in sources):
        found.append(known.hub)
    return found
