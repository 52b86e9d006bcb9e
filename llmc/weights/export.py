"""Write the same weights in another format."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmc.engine.build import ensure_native
from llmc.engine.process import Engine
from llmc.errors import BadData, MissingOutput, Usage
from llmc.model import ModelConfig, parameter_count
from llmc.paths import Workspace, folder_written_whole, free_bytes, written_whole
from llmc.report import SILENT, Report
from llmc.tokens.byte_level import Vocabulary
from llmc.tokens.recorded import keep_beside
from llmc.tokens.tokenizer import Tokenizer, load_tokenizer
from llmc.tokens.tokenizer_json import Unheld
from llmc.weights import tokenizer as tokenizers
from llmc.weights.base import Origin
from llmc.weights.checkpoint import checkpoint_bytes, write_checkpoint
from llmc.weights.grow import grown
from llmc.weights.number_types import KINDS, stored_bytes
from llmc.weights.sources import FoundWeights, find_weights, random_weights

# The names that llm.c's programs open.
LLMC_FP32, LLMC_BF16 = "gpt2_124M.bin", "gpt2_124M_bf16.bin"
LLMC_TOKENIZER, LLMC_STATE = "gpt2_tokenizer.bin", "gpt2_124M_debug_state.bin"
CARD = "README.md"  # the model card
STATE_BATCH, STATE_TOKENS = 4, 64  # llm.c's own debug state has 4 rows of 64 tokens
OTHER_FILES_BYTES = 16 << 20  # tokenizers and the like, beside the weights


@dataclass(frozen=True)
class Target:
    """A format to write."""

    dtypes: tuple[str, ...]  # how it can store weights
    ending: str  # of its default name in models/
    files: tuple[str, ...] = ()  # that may be in it, if it is a folder


TARGETS = {
    "llmc": Target(("fp32", "bf16"), ".bin"),
    "llm.c": Target(("fp32", "bf16"), "-llm.c", (LLMC_FP32, LLMC_BF16, LLMC_TOKENIZER, LLMC_STATE)),
    "hf": Target(
        ("fp32", "bf16", "f16"),
        "-hf",
        (
            *(CARD, "config.json", "generation_config.json", "model.safetensors"),
            *("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"),
            "chat_template.jinja",
        ),
    ),
    "gguf": Target(("fp32", "bf16", "f16", "q8_0"), ".gguf"),
}


@dataclass(frozen=True)
class Export:
    """An export: the weights, the place, the format, and the tokenizer and origin to keep."""

    found: FoundWeights
    path: Path
    to: str
    dtype: str
    tokenizer: Tokenizer | None
    origin: Origin

    @property
    def parameters(self) -> int:
        """The parameters of the model."""
        return parameter_count(self.found.weights.config)

    @property
    def bytes(self) -> int:
        """The size of all written files."""
        if not self.path.is_dir():
            return self.path.stat().st_size
        files = [self.path / name for name in TARGETS[self.to].files]
        return sum(file.stat().st_size for file in files if file.is_file())


@dataclass(frozen=True)
class Described:
    """What is said of a model beside its weights."""

    card: str  # Markdown, with a table of YAML before it
    sampling: Mapping[str, Any] | None = None  # settings; None: the other program's own


def export_weights(
    workspace: Workspace,
    source: str,
    *,
    to: str = "llmc",
    out: Path | None = None,
    dtype: str = "fp32",
    shape: Mapping[str, int | None] | None = None,
    seed: int = 1337,
    fingerprint: bytes | None = None,
    tokenizer: str | Tokenizer | None = None,
    add_tokens: Sequence[str] = (),
    data: Path | None = None,
    last: bool = False,
    describe: Callable[[Export], Described] | None = None,
    report: Report = SILENT,
) -> Export:
    """Write the weights of ``source`` to a file or folder.

    Args:
        workspace: where runs, models and tokenizers are.
        source: a run, a published model, a folder, a file, or ``random[:PRESET]``.
        to: a key of ``TARGETS``.
        out: the file or folder. Default: in ``models/``, named after the source.
        dtype: how weights are stored: ``fp32``, ``bf16``, ``f16`` or ``q8_0``.
        shape: dimensions of a random model, named as in ``ModelConfig``; None: the preset's.
            ``heads`` also completes weights that do not record it.
        seed: the seed of a random model.
        fingerprint: the 32-byte fingerprint of the model's tokenizer, if known.
        tokenizer: the model's tokenizer, by name or file. Default: the recorded one.
        add_tokens: special tokens to add, each with a row of its own (:mod:`llmc.weights.grow`).
        data: a token file whose first batch makes llm.c's debug state.
        last: export a run's last weights instead of its best.
        describe: returns what ``hf`` has beside the weights, in ``README.md``.
        report: takes progress.

    Raises:
        Usage: the source is unknown, options exclude each other, or the place is taken.
        MissingOutput: the published weights have not been fetched, or ``data`` is missing.
        BadData: the weights are damaged or not GPT-2's, their tokenizer is not known or the format
            cannot hold it, or the disk is full.
    """
    found = _found(workspace, source, shape or {}, seed, last=last, report=report)
    _check_target(to, dtype, found.weights.config, data)
    for note in (*found.weights.notes, *tokenizers.template_notes(found)):
        report.note(f"{source}: {note}")
    found, known = _with_tokenizer(workspace, found, tokenizer, to, add_tokens)
    weights, path = found.weights, out or workspace.models / f"{found.name}{TARGETS[to].ending}"
    _check_place(path, weights.path, target_bytes(to, dtype, weights.config))
    own = bytes.fromhex(known.fingerprint) if known is not None else fingerprint
    fingerprint = own or tokenizers.fingerprint_of(found)
    export = Export(found, path, to, dtype, known, replace(weights.origin, tokenizer=fingerprint))
    if to == "llmc":
        write_checkpoint(path, weights.config, weights.slices(), dtype=dtype, **vars(export.origin))
        _keep_tokenizer(workspace, export, report)
    else:
        _write_for_others(export, data, describe, report)
    report.note(f"{source}: {weights.config.shown}: {export.parameters:,} parameters")
    report.note(f"wrote {workspace.shown(path)} ({dtype}, {export.bytes:,} bytes)")
    return export


def write_random(
    workspace: Workspace,
    shape: ModelConfig,
    out: Path,
    *,
    fingerprint: str | None,
    report: Report = SILENT,
) -> Path:
    """Write a checkpoint ``out`` with random weights of a shape; return it.

    ``fingerprint`` is the tokenizer's, in hexadecimal, if known.

    Raises:
        BadData: the place cannot be written.
    """
    known = bytes.fromhex(fingerprint) if fingerprint is not None else None
    dimensions = vars(shape)
    return export_weights(
        workspace, "random", out=out, shape=dimensions, fingerprint=known, report=report
    ).path


def _found(
    workspace: Workspace,
    source: str,
    shape: Mapping[str, int | None],
    seed: int,
    *,
    last: bool,
    report: Report,
) -> FoundWeights:
    """Return random weights if ``source`` asks for them, else those that it names.

    A shape is for random weights only; the number of heads completes others too.
    """
    given = {name: size for name, size in shape.items() if size is not None}
    kind, _, preset = source.partition(":")
    if kind == "random" and not last:
        return random_weights(preset, given, seed)
    if kind != "random" and (others := [name for name in given if name != "heads"]):
        flag = others[0].replace("_", "-")
        raise Usage(f"--{flag} shapes a random model; {source} has a shape of its own")
    return find_weights(workspace, source, last=last, heads=given.get("heads"), report=report)


def _check_target(to: str, dtype: str, config: ModelConfig, data: Path | None) -> None:
    """Refuse a dtype that the format cannot hold, and data that it has no use for."""
    if data is not None and to != "llm.c":
        raise Usage(f"--data makes llm.c's debug state: leave it out with --to {to}")
    dtypes = TARGETS[to].dtypes
    if dtype not in dtypes:
        raise Usage(f"--to {to} takes --dtype {' or '.join(dtypes)}, not {dtype}")
    if to == "gguf":
        from llmc.weights.gguf import check_kind

        check_kind(config, KINDS[dtype])


def target_bytes(to: str, dtype: str, config: ModelConfig) -> int:
    """Return the size of an export: exact for a checkpoint, a little too large otherwise."""
    if to in ("llmc", "llm.c"):
        return checkpoint_bytes(config, dtype)
    if to == "gguf":
        from llmc.weights.gguf import gguf_bytes

        return gguf_bytes(config, KINDS[dtype]) + OTHER_FILES_BYTES
    widest = checkpoint_bytes(config, "fp32") // 4
    return stored_bytes(widest, KINDS[dtype]) + OTHER_FILES_BYTES


def _check_place(path: Path, source: Path, size: int) -> None:
    """Refuse an export onto its source or larger than the free space, before it takes minutes."""
    place = source.parent if path.is_dir() else source
    if path.exists() and source.exists() and path.samefile(place):
        raise Usage(f"{path} is the source itself: name another place with --out")
    if size > (free := free_bytes(path)):
        raise BadData(
            f"the model takes {size / 1e9:,.2f} GB, and the disk of {path} has only "
            f"{free / 1e9:,.2f} GB left: free some space or choose another --out"
        )


def _with_tokenizer(
    workspace: Workspace,
    found: FoundWeights,
    spec: str | Tokenizer | None,
    to: str,
    add_tokens: Sequence[str],
) -> tuple[FoundWeights, Tokenizer | None]:
    """Return the weights and the named tokenizer, or their own where it is needed, both grown."""
    chosen: Tokenizer | None = None
    if spec is not None:
        chosen = load_tokenizer(spec)
    elif to != "llmc" or add_tokens:
        chosen = tokenizers.find_tokenizer(workspace, found)
    size = found.weights.config.vocab_size
    if chosen is not None and chosen.vocab_size > size:
        raise BadData(
            f"the tokenizer {chosen.name} has {chosen.vocab_size:,} tokens, the model {size:,}: "
            "name the one it was trained with (--tokenizer)"
        )
    return grown(found, chosen, add_tokens) if add_tokens else (found, chosen)


def _keep_tokenizer(workspace: Workspace, export: Export, report: Report) -> None:
    """Write the tokenizer that came with the weights beside the checkpoint, if it has no name."""
    own = export.tokenizer or tokenizers.carried_tokenizer(export.found)
    if isinstance(own, Unheld):
        report.note(
            f"left out the tokenizer of {export.found.name}: {own.reason}. The checkpoint records "
            "its fingerprint: data of another tokenizer is refused"
        )
    elif own is None or export.origin.tokenizer != bytes.fromhex(own.fingerprint):
        return
    elif (path := keep_beside(own, export.path)) is not None:
        report.note(f"wrote {workspace.shown(path)}, its tokenizer")


def _write_for_others(
    export: Export,
    data: Path | None,
    describe: Callable[[Export], Described] | None,
    report: Report,
) -> None:
    """Write the files of llm.c, Hugging Face or llama.cpp, with their tokenizer if it is known."""
    path, weights, kind = export.path, export.found.weights, KINDS[export.dtype]
    known, vocabulary, table = export.tokenizer, None, None
    if known is not None:
        to_gguf = export.to == "gguf"
        reader = tokenizers.gguf_vocabulary_of if to_gguf else tokenizers.vocabulary_of
        vocabulary = reader(known)
        table = known.document["tokenizer"] if known.document is not None else None
    else:
        unknown = f"the tokenizer of {export.found.name} is not known: name it with --tokenizer"
        if isinstance(own := tokenizers.carried_tokenizer(export.found), Unheld):
            unknown = f"llmc cannot hold the tokenizer of {export.found.name}: {own.reason}"
        if export.to == "gguf":
            raise BadData(f"{unknown}; llama.cpp opens no model without one")
        report.note(f"{unknown}; without it, {path.name} has none")
    if export.to == "llm.c":
        _write_llm_c(export, vocabulary, data, report)
        return
    weights.verify()
    template = known.template if known is not None else None
    jinja = template.jinja(known) if template is not None and known is not None else None
    stops = template.stop_ids(known) if template is not None and known is not None else ()
    if export.to == "hf":
        from llmc.tokens.tokenizer_json import write_tokenizer_json
        from llmc.weights.huggingface import write_hf_folder

        eot = vocabulary.eot if vocabulary is not None else None
        check_card(path / CARD)
        described = describe(export) if describe is not None else None
        with folder_written_whole(path, TARGETS["hf"].files) as folder:
            if vocabulary is not None:
                write_tokenizer_json(folder, vocabulary, weights.config.context, table, jinja)
            about: dict[str, Any] = {"eot": eot, "stops": stops, "origin": export.origin}
            if described is not None:
                about["sampling"] = described.sampling
                (folder / CARD).write_text(signed(described.card), encoding="utf-8")
            write_hf_folder(folder, weights, kind, **about)
    elif vocabulary is not None:
        from llmc.weights.gguf import write_gguf

        with written_whole(path) as partial:
            about = {"name": export.found.name, "origin": export.origin, "chat_template": jinja}
            about["end_of_turn"] = stops[0] if stops else None
            write_gguf(partial, weights, kind, vocabulary, **about)


def signed(card: str) -> str:
    """Return a card with a last line by which an edited one is told from it."""
    digest = hashlib.sha256(card.encode()).hexdigest()[:32]
    return f"{card}\n<!-- written by llmc export-weights, {digest} -->\n"


def check_card(path: Path) -> None:
    """Refuse to replace a card that somebody wrote or edited.

    Raises:
        Usage: there is such a card.
        BadData: it cannot be read.
    """
    if not path.is_file():
        return
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise BadData(f"cannot read {path}: {error.strerror}") from error
    if signed(text[: text.rfind("\n<!-- ")]) != text:
        raise Usage(
            f"{path} has been edited, and would be replaced: choose another --out, or move it away"
        )


def _write_llm_c(
    export: Export, vocabulary: Vocabulary | None, data: Path | None, report: Report
) -> None:
    """Write a folder with the files that llm.c's programs open, under the names they open.

    The checkpoint has no extension of llmc's: it is byte for byte what llm.c's own script writes.
    Without a vocabulary llm.c prints ids. With ``data`` the engine computes a debug state.
    """
    from llmc.tokens.tokenizer_bin import write_tokenizer_bin

    if data is not None and not data.is_file():
        raise MissingOutput(f"there is no file {data}: make token files with 'llmc tokenize PATH'")
    binary = ensure_native(report=report) if data is not None else None
    weights, dtype = export.found.weights, export.dtype
    with folder_written_whole(export.path, TARGETS["llm.c"].files) as folder:
        checkpoint = folder / (LLMC_BF16 if dtype == "bf16" else LLMC_FP32)
        if vocabulary is not None:
            end = vocabulary.eot if vocabulary.eot is not None else len(vocabulary.tokens) - 1
            write_tokenizer_bin(folder / LLMC_TOKENIZER, vocabulary.tokens, end)
        write_checkpoint(checkpoint, weights.config, weights.slices(), dtype=dtype, extension=False)
        if binary is not None:
            T = min(STATE_TOKENS, weights.config.context)
            files = ["--model", checkpoint, "--data", data, "--out", folder / LLMC_STATE]
            batch = ["--batch-size", STATE_BATCH, "--seq-len", T]
            with Engine([str(word) for word in (binary, "debug-state", *files, *batch)]) as engine:
                for _ in engine:
                    pass
