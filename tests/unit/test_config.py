from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from llmc.config import SampleConfig, TrainConfig
from llmc.errors import Usage
from llmc.model import ModelConfig, parameter_count
from llmc.paths import shipped_dir
from llmc.preset import Preset, load_preset, preset_names
from llmc.setting import nearest, overridden
from llmc.train.record import run_settings


def test_every_preset_that_comes_with_llmc_loads() -> None:
    files = sorted(path.stem for path in shipped_dir("configs").glob("*.toml"))
    assert preset_names() == files
    sizes = {f"gpt2-{size}" for size in ("124m", "355m", "774m", "1558m")}
    small = {"finetune-shakespeare", "python-stdlib", "stories-1m", "stories-3m", "stories-15m"}
    assert set(files) == sizes | small
    for name in files:
        preset = load_preset(name)
        assert preset.name == name
        assert preset.tokenizer is not None
        assert preset.train.seq_len <= preset.model.context


@pytest.mark.parametrize("name", ["python-stdlib", "stories-1m", "stories-3m", "stories-15m"])
def test_small_models_start_from_scratch_with_muon(name: str) -> None:
    train = load_preset(name).train
    assert (train.optimizer, train.schedule, train.decay) == ("muon", "wsd", 0.4)
    assert 2048 <= train.tokens_per_step <= 16384  # smaller updates leave Muon less time
    assert 0.018 < train.warmup / train.steps < 0.022


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("gpt2-124m", (12, 12, 768)),
        ("gpt2-355m", (24, 16, 1024)),
        ("gpt2-774m", (36, 20, 1280)),
        ("gpt2-1558m", (48, 25, 1600)),
    ],
)
def test_gpt2_s_shapes_are_those_published(name: str, shape: tuple[int, int, int]) -> None:
    preset = load_preset(name)
    assert preset.model == ModelConfig(*shape, context=1024, vocab_size=50257)
    assert preset.model.padded_vocab_size == 50304
    assert (preset.train.schedule, preset.train.grad_clip) == ("cosine", 1.0)
    assert (preset.train.beta1, preset.train.beta2) == (0.9, 0.95)


def test_without_a_preset_the_settings_are_llm_c_s() -> None:
    train = Preset().train
    assert (train.batch_size, train.seq_len, train.steps, train.lr) == (4, 64, 40, 1e-4)
    assert (train.schedule, train.weight_decay, train.grad_clip) == ("constant", 0.0, 0.0)


@pytest.mark.parametrize(("name", "millions"), [("1m", 1), ("3m", 3), ("15m", 15)])
def test_the_models_of_stories_are_as_large_as_their_names_say(name: str, millions: int) -> None:
    preset = load_preset(f"stories-{name}")
    assert round(parameter_count(preset.model) / 1e6) == millions
    assert preset.tokenizer == f"bpe:{preset.model.vocab_size}"


@pytest.mark.parametrize(("vocab_size", "padded"), [(1, 128), (128, 128), (129, 256)])
def test_the_vocabulary_is_padded_to_a_multiple_of_128(vocab_size: int, padded: int) -> None:
    assert ModelConfig(vocab_size=vocab_size).padded_vocab_size == padded


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mine.toml"


def test_a_file_holds_differences_only(file: Path) -> None:
    file.write_text(
        'tokenizer = "byte"\n[model]\nlayers = 3\n[train]\nlr = 1\nshuffle = false\n'
        "[sample]\ntop_k = 5\n"
    )
    preset = load_preset(str(file))
    assert preset == Preset(
        named_shape=("layers",),
        name="mine",
        tokenizer="byte",
        model=ModelConfig(layers=3),
        train=TrainConfig(lr=1.0, shuffle=False),
        sample=SampleConfig(top_k=5),
    )
    assert type(preset.train.lr) is float


def test_an_empty_file_is_the_defaults(file: Path) -> None:
    file.write_text("")
    assert load_preset(str(file)) == Preset(name="mine")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[train]\nlearning_rate = 1e-3\n", "[train]: unknown key 'learning_rate'"),
        ("[train]\nstep = 3\n", "unknown key 'step'; did you mean 'steps'?"),
        ("[model]\nzzz = 3\n", "[model]: unknown key 'zzz'; known: layers, heads, channels"),
        ("[training]\nsteps = 3\n", "unknown key 'training'; did you mean 'train'?"),
        ("steps = 3\n", "unknown key 'steps'"),
        ("name = 'x'\n", "unknown key 'name'"),
        ("train = 3\n", "[train] must be a table"),
        ("tokenizer = 3\n", "tokenizer must be a string"),
        ("[train]\nsteps = 1.5\n", "steps must be int, not 1.5"),
        ("[train]\nsteps = '5'\n", "steps must be int, not '5'"),
        ("[train]\nsteps = true\n", "steps must be int, not True"),
        ("[train]\nshuffle = 1\n", "shuffle must be bool, not 1"),
        ("[train]\nlr = '1e-3'\n", "lr must be float, not '1e-3'"),
        ("[model]\nheads = 5\n", "5 heads do not divide 768 channels"),
        ("[model]\nlayers = 0\n", "the model's layers must be at least 1, not 0"),
        ("[sample]\ntokens = -1\n", "tokens must be between 0 and 1000000000, not -1"),
        ("[sample]\nseed = 9007199254740993\n", "0 and 9007199254740992, not 9007199254740993"),
        ("[sample]\ntop_p = 1.5\n", "top_p must be between 0 and 1, not 1.5"),
        ("[train\n", "is not valid TOML"),
        ("[train]\nsteps = 1\nsteps = 2\n", "is not valid TOML"),
    ],
)
def test_what_a_file_may_not_hold(file: Path, text: str, said: str) -> None:
    file.write_text(text)
    with pytest.raises(Usage) as caught:
        load_preset(str(file))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused(file: Path) -> None:
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(Usage, match="is not valid TOML"):
        load_preset(str(file))


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Usage, match="no preset 'gpt2-125m'; did you mean 'gpt2-124m'"):
        load_preset("gpt2-125m")
    with pytest.raises(Usage, match=r"cannot read the config .*x\.toml: No such file"):
        load_preset(str(tmp_path / "x.toml"))


def test_what_was_not_given_overrides_nothing() -> None:
    settings = TrainConfig(steps=3, lr=0.5)
    assert overridden(settings, {"steps": None, "lr": 0.25, "seed": 0}) == TrainConfig(
        steps=3, lr=0.25, seed=0
    )
    assert asdict(overridden(settings, {})) == asdict(settings)
    with pytest.raises(Usage, match="heads must be at least 1"):
        overridden(ModelConfig(), {"heads": 0})


def test_the_nearest_word() -> None:
    assert nearest("trian", ["train", "sample"]) == "; did you mean 'train'?"
    assert nearest("qqq", ["train", "sample"]) == "; known: train, sample"


@pytest.mark.parametrize("held", [2**31, [1], "x"])
def test_a_record_without_a_table_of_settings_is_refused(tmp_path: Path, held: object) -> None:
    with pytest.raises(Usage, match=r"run\.json has no settings"):
        run_settings(tmp_path, {"settings": held})


def test_a_broken_copy_of_the_settings_says_that_it_can_be_deleted(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[train\nsteps = 2")
    with pytest.raises(Usage, match=r"delete it: run\.json has the settings"):
        run_settings(tmp_path, {"settings": {"train": {"steps": 3}}})
    (tmp_path / "config.toml").unlink()
    preset, told = run_settings(tmp_path, {"settings": {"train": {"steps": 3}}})
    assert preset.train.steps == 3 and told is None
