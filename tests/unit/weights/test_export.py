"""The same weights in every format, there and back: names, refusals, and not one bit lost."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from llmc.check.debug_state import read_debug_state
from llmc.cli.context import Context
from llmc.cli.ui import Ui
from llmc.errors import BadData, LlmcError, Usage
from llmc.model import ModelConfig, tensor_shapes
from llmc.paths import CHECKPOINT, Workspace
from llmc.tokens.bpe import train_bpe
from llmc.tokens.recorded import record_tokenizer
from llmc.tokens.tokenizer import Tokenizer, load_tokenizer
from llmc.tokens.tokenizer_bin import read_tokenizer_bin
from llmc.weights.checkpoint import HEADER_BYTES, read_checkpoint, read_header, write_checkpoint
from llmc.weights.export import TARGETS
from llmc.weights.sources import find_weights, open_weights
from tests.conftest import Llmc, assert_one_sentence
from tests.helpers.engine import Flags
from tests.helpers.export import export
from tests.helpers.models import RAGGED, SMALL, random_tokens, save_tokens, some_tensors

TEXT = "she sells sea shells by the sea shore; größer, naïve, 日本 🙂 \n\n" * 40


@pytest.fixture(scope="module")
def bpe() -> Tokenizer:
    return train_bpe([TEXT], 290)


def a_run(here: Context, tokenizer: Tokenizer, config: ModelConfig, dtype: str = "fp32") -> Path:
    """Write a run's folder, as training leaves it."""
    folder = here.workspace.runs / "poet"
    folder.mkdir(parents=True)
    write_checkpoint(
        folder / CHECKPOINT,
        config,
        some_tensors(config).items(),
        dtype=dtype,
        step=12,
        val_loss=3.25,
        tokenizer=bytes.fromhex(tokenizer.fingerprint),
    )
    record_tokenizer(tokenizer, folder)
    return folder / CHECKPOINT


@pytest.mark.parametrize("config", [SMALL, RAGGED])
@pytest.mark.parametrize(
    ("dtype", "through"),
    [
        *(("fp32", path) for path in itertools.permutations(("hf", "gguf", "llmc"), 2)),
        ("bf16", ("hf", "gguf")),
        ("bf16", ("gguf", "hf", "llmc")),
    ],
)
def test_a_model_comes_back_to_the_last_byte(
    config: ModelConfig, dtype: str, through: tuple[str, ...], here: Context, bpe: Tokenizer
) -> None:
    original = a_run(here, bpe, config, dtype)
    source = "poet"
    for index, to in enumerate(through):
        out = here.workspace.root / f"{index}-{to}{'.bin' if to == 'llmc' else ''}"
        source = str(export(here, source, to=to, dtype=dtype, out=out))
    back = export(here, source, dtype=dtype, out=here.workspace.root / "back.bin")
    assert back.read_bytes() == original.read_bytes()
    assert load_tokenizer(str(back.with_suffix(".tiktoken"))).fingerprint == bpe.fingerprint


@pytest.mark.parametrize("to", ["hf", "gguf"])
def test_f16_rounds_once(to: str, here: Context, bpe: Tokenizer) -> None:
    _, before = read_checkpoint(a_run(here, bpe, SMALL))
    once = export(here, "poet", to=to, dtype="f16")
    _, after = read_checkpoint(export(here, str(once), out=here.workspace.root / "a.bin"))
    for name, values in before.items():
        vector = to == "gguf" and (name == "wpe" or name.startswith("ln") or name.endswith("b"))
        rounded = values if vector else values.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(after[name], rounded, err_msg=name)
    again = export(here, str(once), to=to, dtype="f16", out=here.workspace.root / "again")
    weights = open_weights(once), open_weights(again)
    for name in before:
        np.testing.assert_array_equal(weights[0].read(name, 1), weights[1].read(name, 1))


def test_q8_0_is_near_and_stays_where_it_is(here: Context, bpe: Tokenizer) -> None:
    _, before = read_checkpoint(a_run(here, bpe, SMALL))
    once = export(here, "poet", to="gguf", dtype="q8_0")
    _, after = read_checkpoint(export(here, str(once), out=here.workspace.root / "a.bin"))
    for name, values in before.items():
        if name in ("wte", "qkvw", "attprojw", "fcw", "fcprojw"):
            blocks = np.abs(values.reshape(-1, 32)).max(axis=1)
            error = np.abs((after[name] - values).reshape(-1, 32)).max(axis=1)
            assert (error <= blocks * (0.5 / 127 + 2**-10)).all(), name
            assert error.any(), name
        else:
            np.testing.assert_array_equal(after[name], values)
    again = export(here, str(once), to="gguf", dtype="q8_0", out=here.workspace.root / "b.gguf")
    for name in before:
        one, two = (open_weights(path).stored(name, 1) for path in (once, again))
        np.testing.assert_array_equal(one.values, two.values, err_msg=name)


def test_what_is_too_large_for_f16_is_refused(here: Context, bpe: Tokenizer) -> None:
    tensors = some_tensors(SMALL)
    tensors["fcw"][1, 3, 5] = -70000
    path = here.workspace.root / "large.bin"
    write_checkpoint(path, SMALL, tensors.items())
    with pytest.raises(BadData, match="a weight of 70000 is more than f16 can hold"):
        export(here, str(path), to="hf", dtype="f16")
    assert not here.workspace.models.exists() or list(here.workspace.models.iterdir()) == []
    tensors["fcw"][1, 3, 5] = -np.inf
    write_checkpoint(path, SMALL, tensors.items())
    out = export(here, str(path), to="hf", dtype="f16")
    assert open_weights(out).read("fcw", 1)[3, 5] == -np.inf


def test_hugging_faces_file_is_what_their_library_reads(here: Context, bpe: Tokenizer) -> None:
    _, ours = read_checkpoint(a_run(here, bpe, RAGGED))
    folder = export(here, "poet", to="hf")
    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        assert file.metadata()["format"] == "pt"
        names = set(file.keys())
        assert len(names) == 4 + 12 * RAGGED.layers
        for layer in range(RAGGED.layers):
            prefix = f"transformer.h.{layer}"
            for name, theirs in {"qkvw": "attn.c_attn", "fcprojw": "mlp.c_proj"}.items():
                read = file.get_tensor(f"{prefix}.{theirs}.weight")
                np.testing.assert_array_equal(read.T, ours[name][layer])
        wte = file.get_tensor("transformer.wte.weight")
        np.testing.assert_array_equal(wte, ours["wte"][: RAGGED.vocab_size])
        assert not ours["wte"][RAGGED.vocab_size :].any()


def test_llm_cs_files_are_its_own(here: Context, bpe: Tokenizer) -> None:
    """Read as llm.c's programs do: fixed names, 256 ints, then the bytes in their order."""
    _, ours = read_checkpoint(a_run(here, bpe, SMALL))
    tokens = random_tokens(500, SMALL.vocab_size)
    data = save_tokens(here.workspace.root / "tokens.bin", tokens, SMALL.vocab_size)
    folder = export(here, "poet", to="llm.c", data=data)
    assert sorted(path.name for path in folder.iterdir()) == [
        "gpt2_124M.bin",
        "gpt2_124M_debug_state.bin",
        "gpt2_tokenizer.bin",
    ]
    raw = (folder / "gpt2_124M.bin").read_bytes()
    header = np.frombuffer(raw, "<i4", 256)
    V, L, NH, C, Vp = 512, 2, 4, 64, 512
    assert header[:8].tolist() == [20240326, 3, 64, V, L, NH, C, Vp]
    assert not header[8:].any()
    floats = np.frombuffer(raw, "<f4", offset=HEADER_BYTES)
    np.testing.assert_array_equal(floats, np.concatenate([v.ravel() for v in ours.values()]))

    raw = (folder / "gpt2_tokenizer.bin").read_bytes()
    header = np.frombuffer(raw, "<u4", 256)
    assert header[:4].tolist() == [20240328, 2, 290, 289]
    assert not header[4:].any()
    at, table = HEADER_BYTES, []
    for _ in range(header[2]):
        length = raw[at]
        assert length > 0
        table.append(raw[at + 1 : at + 1 + length])
        at += 1 + length
    assert at == len(raw)
    assert table == [*bpe.tokens(), b"<|endoftext|>"]
    assert read_tokenizer_bin(folder / "gpt2_tokenizer.bin").tokens == tuple(table)

    state = read_debug_state(folder / "gpt2_124M_debug_state.bin", SMALL)
    assert state.tokens.shape == (4, 64)
    assert state.tokens.ravel().tolist() == tokens[:256].tolist()
    assert state.targets.ravel().tolist() == tokens[1:257].tolist()


def test_bf16_for_llm_c_is_its_version_5(here: Context, bpe: Tokenizer) -> None:
    original = a_run(here, bpe, RAGGED, "bf16")
    folder = export(here, "poet", to="llm.c", dtype="bf16")
    raw = (folder / "gpt2_124M_bf16.bin").read_bytes()
    assert raw[HEADER_BYTES:] == original.read_bytes()[HEADER_BYTES:]
    assert np.frombuffer(raw, "<i4", 2).tolist() == [20240326, 5]


def test_llm_cs_first_version_is_a_source(here: Context) -> None:
    tensors = some_tensors(RAGGED)
    header = np.zeros(256, "<i4")
    header[:7] = [20240326, 1, RAGGED.context, RAGGED.vocab_size, RAGGED.layers, RAGGED.heads, 40]
    flat = [tensors["wte"][: RAGGED.vocab_size], *list(tensors.values())[1:]]
    path = here.workspace.root / "old.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(header.tobytes() + b"".join(values.tobytes() for values in flat))
    _, found = read_checkpoint(export(here, str(path), out=here.workspace.root / "new.bin"))
    for name, values in tensors.items():
        np.testing.assert_array_equal(found[name], values)


def test_a_run_is_found_by_name_and_by_folder(here: Context, bpe: Tokenizer) -> None:
    a_run(here, bpe, SMALL)
    for source in ("poet", str(here.workspace.runs / "poet")):
        found = find_weights(here.workspace, source)
        assert (found.name, found.weights.config) == ("poet", SMALL)
        assert found.weights.origin.step == 12
    with pytest.raises(Usage, match="did you mean 'poet'"):
        find_weights(here.workspace, "poets")
    for to, target in TARGETS.items():
        if to != "llmc":
            assert export(here, "poet", to=to).name == f"poet{target.ending}"


def test_random_weights_go_anywhere(here: Context) -> None:
    shape = {"layers": 2, "heads": 2, "channels": 64, "context": 16, "vocab_size": 257}
    _, ours = read_checkpoint(export(here, "random", shape=shape))
    for to in ("hf", "gguf"):
        out = export(here, "random", to=to, shape=shape, tokenizer="byte")
        found = dict(open_weights(out).tensors())
        for name, values in ours.items():
            np.testing.assert_array_equal(found[name], values[: len(found[name])])


@pytest.mark.parametrize(
    ("flags", "kind", "reason"),
    [
        ({"to": "llm.c", "dtype": "f16"}, Usage, "--to llm.c takes --dtype fp32 or bf16, not f16"),
        ({"to": "llmc", "dtype": "q8_0"}, Usage, "takes --dtype fp32 or bf16, not q8_0"),
        ({"to": "hf", "dtype": "q8_0"}, Usage, "--to hf takes --dtype fp32 or bf16 or f16"),
        ({"to": "hf", "data": Path("x.bin")}, Usage, "leave it out with --to hf"),
        ({"to": "llm.c", "data": Path("x.bin")}, LlmcError, "there is no file x.bin"),
        ({"to": "hf", "tokenizer": "bpe:9"}, Usage, "bpe:9"),
        ({"to": "hf", "shape": {"layers": 3}}, Usage, "--layers shapes a random model"),
    ],
)
def test_what_a_target_cannot_hold_is_refused(
    flags: Flags, kind: type[LlmcError], reason: str, here: Context, bpe: Tokenizer
) -> None:
    a_run(here, bpe, SMALL)
    with pytest.raises(kind, match=reason) as caught:
        export(here, "poet", **flags)
    assert "\n" not in str(caught.value)
    assert not here.workspace.models.exists() or list(here.workspace.models.iterdir()) == []


def test_q8_0_needs_whole_blocks(here: Context, bpe: Tokenizer) -> None:
    a_run(here, bpe, RAGGED)
    with pytest.raises(Usage, match="do not fill rows of 40: choose --dtype f16"):
        export(here, "poet", to="gguf", dtype="q8_0")


def test_an_unknown_tokenizer_is_named_or_missed(tmp_path: Path, bpe: Tokenizer) -> None:
    here = Context(Workspace(tmp_path / "ws"), Ui(quiet=True))
    path = tmp_path / "model.bin"
    write_checkpoint(path, SMALL, some_tensors(SMALL).items(), tokenizer=bytes(32))
    with pytest.raises(BadData, match="the tokenizer of model is not known: name it with --tok"):
        export(here, str(path), to="gguf")
    for to in ("hf", "llm.c"):
        files = {file.name for file in export(here, str(path), to=to).iterdir()}
        assert not files & {"tokenizer.json", "gpt2_tokenizer.bin"}
    assert json.loads((here.workspace.models / "model-hf/config.json").read_text())[
        "eos_token_id"
    ] is None  # fmt: skip
    out = export(here, str(path), to="gguf", tokenizer="byte")
    assert open_weights(out).origin.tokenizer == bytes.fromhex(load_tokenizer("byte").fingerprint)


def test_a_tokenizer_larger_than_the_model_is_refused(here: Context, bpe: Tokenizer) -> None:
    small = ModelConfig(1, 1, 32, 8, 280)
    a_run(here, bpe, small)
    with pytest.raises(BadData, match="has 290 tokens, the model 280"):
        export(here, "poet", to="hf")


def test_a_damaged_source_is_found_out(here: Context, bpe: Tokenizer) -> None:
    path = a_run(here, bpe, SMALL)
    raw = bytearray(path.read_bytes())
    raw[5000] ^= 1
    path.write_bytes(raw)
    for to in TARGETS:
        with pytest.raises(BadData, match="is damaged: its checksum"):
            export(here, "poet", to=to)
    assert list(here.workspace.models.rglob("*")) == []


def test_an_export_is_replaced_but_nothing_else(here: Context, bpe: Tokenizer) -> None:
    a_run(here, bpe, SMALL)
    out = here.workspace.root / "out"
    export(here, "poet", to="hf", out=out)
    first = (out / "model.safetensors").read_bytes()
    export(here, "poet", to="hf", out=out, dtype="bf16")
    assert (out / "model.safetensors").stat().st_size < len(first) * 0.6
    (out / "thesis.tex").write_text("years of work")
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(Usage, match=r"holds something else \(thesis\.tex\): choose another --out"):
        export(here, "poet", to="hf", out=out)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    file = here.workspace.root / "file"
    file.write_text("x")
    with pytest.raises(Usage, match="choose another --out"):
        export(here, "poet", to="hf", out=file)
    leftovers = [path for path in here.workspace.root.iterdir() if path.name.endswith(".part")]
    assert leftovers == []


def test_a_source_is_not_written_over(here: Context, bpe: Tokenizer) -> None:
    path = a_run(here, bpe, SMALL)
    folder = export(here, "poet", to="hf")
    for source, to, out in ((str(path), "llmc", path), (str(folder), "hf", folder)):
        with pytest.raises(Usage, match="is the source itself"):
            export(here, source, to=to, out=out)


def test_the_command_exports_a_run(llmc: Llmc, bpe: Tokenizer) -> None:
    here = Context(Workspace(llmc.workspace), Ui(quiet=True))
    a_run(here, bpe, SMALL)
    done = llmc("export-weights", "poet", "--to", "gguf", "--dtype", "q8_0", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["to"], result["dtype"]) == ("gguf", "q8_0")
    assert result["bytes"] == (llmc.workspace / "models/poet.gguf").stat().st_size
    assert result["tokenizer"] == bpe.fingerprint
    assert "wrote models/poet.gguf (q8_0" in done.stderr
    assert_one_sentence(llmc("export-weights", "poet", "--to", "hf", "--dtype", "q8_0"), 2)
    (llmc.workspace / "x.gguf").write_bytes(b"GGUF" + bytes(40))
    assert_one_sentence(llmc("export-weights", "x.gguf"), 1)


def test_every_tensor_has_its_shape_in_every_format(here: Context, bpe: Tokenizer) -> None:
    a_run(here, bpe, RAGGED)
    shapes = tensor_shapes(RAGGED) | {"wte": (RAGGED.vocab_size, RAGGED.channels)}
    for to in ("hf", "gguf", "llmc"):
        out = here.workspace.root / f"out-{to}"
        weights = open_weights(export(here, "poet", to=to, out=out))
        assert {name: values.shape for name, values in weights.tensors()} == shapes
        assert read_header(here.workspace.runs / "poet" / CHECKPOINT).config == weights.config


def test_a_tokenizer_of_gpt2s_size_is_not_taken_for_gpt2s(
    here: Context, bpe: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_run(here, bpe, SMALL)
    folder = export(here, "poet", to="hf")
    file = folder / "tokenizer.json"
    table = json.loads(file.read_text()) | {"normalizer": {"type": "NFC"}}
    file.write_text(json.dumps(table))
    raw = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(raw.replace(b"llmc.tokenizer", b"none.tokenizer"))
    monkeypatch.setattr("llmc.weights.tokenizer.GPT2_VOCAB_SIZE", SMALL.vocab_size)
    out = here.workspace.root / "out.bin"
    recorded = read_header(export(here, str(folder), out=out)).tokenizer
    assert recorded not in (None, bytes.fromhex(load_tokenizer("gpt2").fingerprint))
    with pytest.raises(BadData, match="cannot hold the tokenizer of poet-hf"):
        export(here, str(folder), to="gguf")
    export(here, str(folder), out=out, tokenizer="byte")
    assert read_header(out).tokenizer == bytes.fromhex(load_tokenizer("byte").fingerprint)


def test_an_interrupted_export_leaves_nothing(
    here: Context, bpe: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_run(here, bpe, SMALL)
    before = {path: path.read_bytes() for path in export(here, "poet", to="hf").iterdir()}

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("llmc.weights.safetensors.write_blocks", stop)
    monkeypatch.setattr("llmc.weights.gguf.write_blocks", stop)
    for to in ("hf", "gguf"):
        with pytest.raises(KeyboardInterrupt):
            export(here, "poet", to=to, dtype="bf16")
    assert [path.name for path in here.workspace.models.iterdir()] == ["poet-hf"]
    assert {path: path.read_bytes() for path in before} == before


def test_a_full_disk_is_one_sentence(
    here: Context, bpe: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_run(here, bpe, SMALL)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llmc.weights.safetensors.write_blocks", full)
    monkeypatch.setattr("llmc.weights.gguf.write_blocks", full)
    for to in ("hf", "gguf"):
        with pytest.raises(BadData, match="the disk is full"):
            export(here, "poet", to=to)
    assert list(here.workspace.models.iterdir()) == []
