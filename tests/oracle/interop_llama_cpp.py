"""llama.cpp opens what llmc exports: the same ids for any text, the same likeliest token anywhere.

``make test-interop`` compiles llama.cpp and runs this file; ``make test`` does not collect it.
"""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmc.check.debug_state import read_debug_state
from llmc.cli.context import Context
from llmc.model import ModelConfig
from llmc.tokens.added import for_chat
from llmc.tokens.bpe import train_bpe
from llmc.tokens.template import TEMPLATES, Template
from llmc.tokens.tokenizer import Tokenizer, load_tokenizer
from tests.helpers import engine, models
from tests.helpers.export import export
from tests.oracle.test_chat_template import conversations, plainly
from tests.oracle.test_weights_transformers import hostile_texts

llama_cpp = pytest.importorskip("llama_cpp")

GPT2_SHAPED = ModelConfig(layers=3, heads=4, channels=256, context=128, vocab_size=1000)
B, T = 2, 48


def opened(path: Path, **flags: Any) -> Any:
    return llama_cpp.Llama(str(path), n_ctx=T, n_batch=T, verbose=False, **flags)


@pytest.mark.parametrize("config", [models.SMALL, GPT2_SHAPED])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "f16", "q8_0"])
def test_it_agrees_on_the_likeliest_token_everywhere(
    dtype: str, config: ModelConfig, here: Context, cache: Path
) -> None:
    """The engine computes with the rounded weights: read back from the GGUF file."""
    root = here.workspace.root
    model = models.save_model(root / "model.bin", config)
    path = export(here, str(model), to="gguf", dtype=dtype, tokenizer="byte")
    rounded = export(here, str(path), out=root / "rounded.bin")
    tokens = models.random_tokens(B * T + 1, config.vocab_size)
    data = models.save_tokens(root / "tokens.bin", tokens, config.vocab_size)
    state = root / "state.bin"
    files: engine.Flags = {"model": rounded, "data": data, "out": state}
    engine.succeeded(engine.build(cache)("debug-state", batch_size=B, seq_len=T, **files))
    batch = read_debug_state(state, config)
    llama = opened(path, logits_all=True)
    for row in range(B):
        llama.reset()
        llama.eval(batch.tokens[row].tolist())
        logits = llama.scores[:T]
        ours = batch.logits[row]
        # llama.cpp takes GELU from a table of float16, and rounds activations where it multiplies
        # in bf16, f16 or q8_0: where our two best are nearer than that, either may win.
        error = np.abs(logits - ours).max()
        tolerance = {"fp32": 2e-3, "f16": 4e-3, "bf16": 3e-2, "q8_0": 6e-2}[dtype]
        assert error < tolerance * np.abs(ours).max()
        best = np.sort(ours, axis=1)
        clear = best[:, -1] - best[:, -2] > 2 * error
        assert clear.mean() > 0.25
        assert (logits.argmax(1) == ours.argmax(1))[clear].all()
        if dtype == "fp32":
            assert (logits.argmax(1) == ours.argmax(1)).all()


def same_ids(ours: Tokenizer, here: Context, config: ModelConfig) -> None:
    model = models.save_model(here.workspace.root / "model.bin", config)
    path = export(here, str(model), to="gguf", tokenizer=ours)
    llama = opened(path, vocab_only=True)
    assert llama.token_eos() == llama.token_bos() == ours.eot
    texts = [*hostile_texts(), Path(random.__file__).read_text()]
    for text in texts:
        raw = text.encode()
        ids = llama.tokenize(raw, add_bos=False, special=False)
        assert ids == ours.encode(text), text
        if all(len(ours.detokenize([token])) < 32 for token in ids):  # all it has room for
            assert llama.detokenize(ids, special=True) == raw, text
    assert llama.tokenize(b"<|endoftext|>", add_bos=False, special=True) == [ours.eot]


@pytest.mark.parametrize("name", ["byte", "bpe"])
def test_its_tokenizer_gives_our_ids(name: str, here: Context) -> None:
    text = Path(random.__file__).read_text() + "größer, naïve, 日本語 🙂\n" * 50
    ours = load_tokenizer("byte") if name == "byte" else train_bpe([text], 500)
    same_ids(ours, here, models.SMALL)


def test_its_gpt2_tokenizer_gives_our_ids(here: Context, gpt2: Tokenizer) -> None:
    same_ids(gpt2, here, ModelConfig(1, 1, 32, 8, 50257))


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_its_chat_template_gives_our_ids(template: Template, here: Context) -> None:
    text = Path(random.__file__).read_text()
    ours = for_chat(train_bpe([text], 500), template)
    config = replace(models.SMALL, context=512)
    model = models.save_model(here.workspace.root / "model.bin", config)
    path = export(here, str(model), to="gguf", tokenizer=ours)
    llama = opened(path, vocab_only=True)
    formatter = llama_cpp.llama_chat_format.Jinja2ChatFormatter(
        template=llama.metadata["tokenizer.chat_template"],
        eos_token=ours.detokenize([llama.token_eos()]).decode(),
        bos_token=ours.detokenize([llama.token_bos()]).decode(),
    )
    for messages in conversations():
        shown = formatter(messages=plainly(messages)).prompt
        ids = llama.tokenize(shown.encode(), add_bos=False, special=True)
        assert ids == template.prompt_ids(ours, messages), messages
    for token in template.stop_ids(ours):
        assert llama_cpp.llama_vocab_is_eog(llama_cpp.llama_model_get_vocab(llama.model), token)
