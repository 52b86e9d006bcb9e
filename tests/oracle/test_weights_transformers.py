"""What llmc exports, opened by Hugging Face's transformers: the same logits, the same ids."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from llmc.check.debug_state import read_debug_state
from llmc.cli.context import Context
from llmc.model import ModelConfig, tensor_shapes
from llmc.tokens.bpe import train_bpe
from llmc.tokens.tokenizer import Tokenizer, load_tokenizer
from llmc.weights.huggingface import CONV1D, NAMES
from tests.helpers import engine, models
from tests.helpers.export import export

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

HOSTILE = (
    "",
    " ",
    "\n\n \t  \r\n  x",
    "don't WE'LL he'd 'tis I'M",
    "a\u0085b\u180ec\u200b\u3000d\u00a0e\ufeff",
    "é e\u0301 ﬀ ǅ Ⅷ ²₃ ١٢٣ 日本語テキスト 👩‍👩‍👧 🇩🇪",
    "\x00\x01\x7f\x80\ud7ff\ue000\uffff\U0010ffff",
    "1234567890 12.5e-3 0x1F 3²",
    "    indented\n\tcode(); // !!! ... ---",
    " " * 300 + "a" * 300 + "!" * 300,
    "<|endoftext|> <|endoftext|>text<|endoftext",
)


def hostile_texts() -> Iterator[str]:
    yield from HOSTILE
    chooser = random.Random(5)
    alphabets = [range(0x20, 0x7F), range(0xA0, 0x600), range(0x1F300, 0x1F700), range(1, 0xD800)]
    for _ in range(60):
        letters = chooser.choice(alphabets)
        yield "".join(
            chr(chooser.choice(letters)) if chooser.random() < 0.8 else chooser.choice(" \n'")
            for _ in range(chooser.randrange(200))
        )


def exported(here: Context, config: ModelConfig, tokenizer: Tokenizer, dtype: str = "fp32") -> Path:
    model = models.save_model(here.workspace.root / "model.bin", config)
    return export(here, str(model), to="hf", dtype=dtype, tokenizer=tokenizer)


@pytest.mark.parametrize("config", [models.SMALL, models.RAGGED])
def test_its_logits_are_the_engines(config: ModelConfig, here: Context, cache: Path) -> None:
    folder = exported(here, config, load_tokenizer("byte"))
    V = config.vocab_size
    root = here.workspace.root
    data = models.save_tokens(root / "tokens.bin", models.random_tokens(200, V), V)
    state = root / "state.bin"
    files: engine.Flags = {"model": root / "model.bin", "data": data, "out": state}
    engine.succeeded(engine.build(cache)("debug-state", batch_size=3, seq_len=37, **files))
    batch = read_debug_state(state, config)

    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == torch.float32
    with torch.no_grad():
        logits = model(torch.from_numpy(batch.tokens.astype(np.int64))).logits.numpy()
    assert np.abs(logits).max() > 0.5
    np.testing.assert_allclose(logits, batch.logits, rtol=0, atol=1e-4)
    assert (logits.argmax(-1) == batch.logits.argmax(-1)).all()


@pytest.mark.parametrize(("dtype", "theirs"), [("bf16", "bfloat16"), ("f16", "float16")])
def test_a_smaller_type_is_opened_as_that(dtype: str, theirs: str, here: Context) -> None:
    folder = exported(here, models.SMALL, load_tokenizer("byte"), dtype)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert model.dtype == getattr(torch, theirs)
    assert model.config.eos_token_id == model.generation_config.eos_token_id == 256


def test_what_transformers_saves_is_read(here: Context, tmp_path: Path) -> None:
    """Their own random model, in one file and in shards, and as a pickle."""
    settings = transformers.GPT2Config(
        vocab_size=300, n_positions=32, n_embd=64, n_layer=2, n_head=4
    )
    torch.manual_seed(3)
    model = transformers.GPT2LMHeadModel(settings)
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="100KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    (tmp_path / "pickled").mkdir()
    torch.save(model.state_dict(), tmp_path / "pickled/pytorch_model.bin")
    settings.save_pretrained(tmp_path / "pickled")
    made = [
        export(here, str(tmp_path / name), out=tmp_path / f"{name}.bin").read_bytes()
        for name in ("one", "many", "pickled")
    ]
    assert made[0] == made[1] == made[2]
    config = ModelConfig(2, 4, 64, 32, 300)
    found = np.frombuffer(made[0], "<f4", offset=1024)
    state = model.state_dict()
    for name, shape in tensor_shapes(config).items():
        theirs, conv1d = NAMES[name], name in CONV1D
        layers = range(2) if "{}" in theirs else range(1)
        for layer in layers:
            values = state[f"transformer.{theirs.format(layer)}"].numpy()
            values = np.ascontiguousarray(values.T if conv1d else values)
            if name == "wte":
                values = np.pad(values, ((0, shape[0] - 300), (0, 0)))
            np.testing.assert_array_equal(found[: values.size], values.ravel(), err_msg=name)
            found = found[values.size :]
    assert found.size == 0


def same_ids(ours: Tokenizer, folder: Path, texts: Iterator[str]) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert theirs.eos_token_id == ours.eot
    assert len(theirs) == ours.vocab_size
    for text in texts:
        ids = theirs(text, split_special_tokens=True)["input_ids"]
        assert ids == ours.encode(text), text
        assert theirs.decode(ids, clean_up_tokenization_spaces=False) == text
    # Their way to write a special token in a text, unless asked otherwise.
    assert theirs("a<|endoftext|>")["input_ids"] == [*ours.encode("a"), ours.eot]


@pytest.mark.parametrize("name", ["byte", "bpe"])
def test_its_tokenizer_gives_our_ids(name: str, here: Context) -> None:
    text = Path(random.__file__).read_text() + "größer, naïve, 日本語 🙂\n" * 50
    ours = load_tokenizer("byte") if name == "byte" else train_bpe([text], 500)
    folder = exported(here, models.SMALL, ours)
    same_ids(ours, folder, hostile_texts())
    same_ids(ours, folder, iter([text]))


def test_gpt2s_tokenizer_is_gpt2s(here: Context, gpt2: Tokenizer) -> None:
    folder = exported(here, ModelConfig(1, 1, 8, 4, 50257), gpt2)
    same_ids(gpt2, folder, hostile_texts())
    same_ids(gpt2, folder, iter([Path(random.__file__).read_text()]))


@pytest.mark.parametrize("blocks", [range(2), pytest.param(range(16), marks=pytest.mark.full)])
def test_every_character_of_the_first_plane_is_cut_alike(
    blocks: range, here: Context, gpt2: Tokenizer
) -> None:
    """Their split pattern and tiktoken's ask two tables of Unicode: 4,096 characters a block."""
    folder = exported(here, ModelConfig(1, 1, 8, 4, 50257), gpt2)
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for start in (0x1000 * block for block in blocks):
        letters = [chr(c) for c in range(start, start + 0x1000) if not 0xD800 <= c < 0xE000]
        text = "".join(f"a{c} {c}1{c}!" for c in letters)
        assert theirs(text)["input_ids"] == gpt2.encode(text), hex(start)
