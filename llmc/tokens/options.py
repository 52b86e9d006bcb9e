"""The options of tokenizing, and the validation split that they ask for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmc.errors import Usage
from llmc.report import Report
from llmc.text.source import AS_USUAL, VAL_FRACTION, Reading
from llmc.tokens.divide import MOST_VAL_TOKENS, Cut
from llmc.tokens.files import MAX_TOKENS, MIN_TOKENS
from llmc.tokens.shards import SHARD_TOKENS
from llmc.tokens.tokenizer import Tokenizer, bpe_vocab_size

DEFAULT_TOKENIZER = "gpt2"
AUTO = "auto"  # the tokenizer of a model from scratch: :func:`tokenizer_for`


@dataclass(frozen=True, kw_only=True)
class TokenizeOptions:
    """How :func:`tokenize` turns its inputs into a dataset."""

    # gpt2, byte, bpe:N (to train), auto (which of these fits the text), or what names one.
    tokenizer: str | Tokenizer | None = None
    or_fewer: bool = False  # of bpe:N, where the text yields fewer; auto always takes them
    val_tokens: int | None = None  # validate on about N tokens; 0: on none
    val_fraction: float | None = None  # validate on about this fraction of the tokens
    out: Path | None = None  # the dataset's folder; None: data/<name> in the workspace
    force: bool = False  # replace a dataset there that was made from other text or tokens
    reading: Reading = AS_USUAL  # which files are read, and how they are cut into documents
    # The chat template of conversations: chatml or plain; None: the tokenizer's, else chatml.
    template: str | None = None
    special: bool = False  # the text of a special token in a document becomes that token
    shard_tokens: int = SHARD_TOKENS  # maximum number of tokens in one file
    workers: int | None = None  # threads; None: one per core; any number gives the same tokens
    fast: bool | None = None  # encode with gigatoken; None: if it is installed
    dtype: str | None = None  # the inputs are headerless token files, of uint16 or int32
    val_data: str | None = None  # the inputs are token files, and this file or pattern validates
    part: tuple[int, int] | None = None  # (I, N): tokenize the I-th of N parts, into its own folder
    merge: bool = False  # the inputs are the folders of such parts: merge them

    @property
    def takes_fewer(self) -> bool:
        """Whether a vocabulary may be smaller than N, because nobody named N."""
        return self.or_fewer or self.tokenizer == AUTO


AS_DEFAULT = TokenizeOptions()


def check_options(options: TokenizeOptions) -> None:
    """Refuse values that make no sense.

    Raises:
        Usage: one of them is out of range, or two exclude each other.
    """
    tokens, fraction = options.val_tokens, options.val_fraction
    part, named = options.part, options.tokenizer
    if tokens is not None and fraction is not None:
        raise Usage("--val-tokens and --val-fraction exclude each other: give one")
    if tokens is not None and 0 != tokens < MIN_TOKENS:
        raise Usage(f"--val-tokens must be 0 (none) or at least {MIN_TOKENS}, not {tokens}")
    if fraction is not None and not 0 < fraction < 1:
        none = "; --val-tokens 0 makes no validation split" if fraction == 0 else ""
        raise Usage(f"--val-fraction must lie between 0 and 1, not be {fraction:g}{none}")
    if part and (tokens is not None or fraction is not None):
        raise Usage("a part has no validation split: give --val-tokens to --merge")
    if part and (named == AUTO or bpe_vocab_size(named or DEFAULT_TOKENIZER)):
        raise Usage(
            f"each part would train its own {named}: train one tokenizer first, on all or some of "
            "the text, and name its dataset's folder with --tokenizer"
        )
    if not MIN_TOKENS <= options.shard_tokens <= MAX_TOKENS:
        raise Usage(f"--shard-tokens must lie between {MIN_TOKENS} and {MAX_TOKENS:,}")


def refuse(given: object, flags: str, beside: str) -> None:
    """Refuse a given option ``beside`` something that it has no meaning for.

    Raises:
        Usage: it is given.
    """
    if given is not None:
        raise Usage(f"{flags} makes no sense with {beside}; leave it out")


def is_registered(records: Sequence[Mapping[str, Any]]) -> bool:
    """Tell from the records of a text whether it is a registered dataset, which has a name."""
    return bool(records) and "name" in records[0]


def cut_of(
    options: TokenizeOptions,
    name: str,
    report: Report,
    default: int | None = None,
    *,
    has_own_val: bool = False,
    first: bool = False,
) -> Cut:
    """Return how to make the validation split of the dataset ``name``; report a default.

    ``default`` is the dataset's own number of validation tokens. If it has a validation text, the
    cut is not used, and options that ask for one are refused. With ``first`` the split is the
    first tokens, else a sample.
    """
    tokens, fraction = options.val_tokens, options.val_fraction
    if has_own_val and (tokens is not None or fraction is not None):
        raise Usage(
            f"{name} has a validation text of its own: leave out --val-tokens and --val-fraction"
        )
    if has_own_val:
        report.note(f"validation: {name}'s own validation text")
        return Cut()
    if fraction is not None:
        return Cut(fraction=fraction, first=first)
    if tokens is not None:
        return Cut(tokens, first=first)
    if default is not None:
        report.note(f"validation: the first {default:,} tokens (--val-tokens)")
        return Cut(default, first=first)
    what = "the first" if first else "a sample of documents,"
    report.note(
        f"validation: {what} {VAL_FRACTION:.0%} of the tokens, at most {MOST_VAL_TOKENS:,} "
        "(--val-fraction)"
    )
    return Cut(fraction=VAL_FRACTION, most=MOST_VAL_TOKENS, first=first)
