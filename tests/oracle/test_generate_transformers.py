"""What is generated, held against transformers: greedy texts, filters, logits with the cache."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from llmc.cli.context import Context
from llmc.cli.ui import Ui
from llmc.model import ModelConfig
from llmc.paths import Workspace
from llmc.tokens.recorded import save_tokenizer
from llmc.tokens.tokenizer import load_tokenizer
from tests.helpers.engine import Flags, Native, succeeded
from tests.helpers.export import export
from tests.helpers.generate import generate, line
from tests.helpers.models import save_model, save_tokens

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CONFIG = ModelConfig(layers=3, heads=4, channels=64, context=640, vocab_size=257)
# As many symbols as alternatives are told: then all of the distribution is.
FEW = ModelConfig(layers=2, heads=2, channels=64, context=64, vocab_size=20)


def sentences(count: int, vocab_size: int, seed: int) -> NDArray[np.int64]:
    """Tokens that follow from the two before, mostly: enough to learn from."""
    generator = np.random.default_rng(seed)
    rule = np.random.default_rng(0).integers(0, vocab_size, (16, 16))
    tokens = list(generator.integers(0, vocab_size, 2))
    for surprise in generator.random(count - 2):
        follows = rule[tokens[-1] % 16, tokens[-2] % 16]
        tokens.append(follows if surprise < 0.8 else generator.integers(0, vocab_size))
    return np.array(tokens)


def trained(native: Native, folder: Path, config: ModelConfig, steps: int) -> Path:
    V = config.vocab_size
    model = save_model(folder / "start.bin", config)
    data = save_tokens(folder / "train.bin", sentences(20_000, V, 1), V)
    flags: dict[str, Any] = {"model": model, "data": data, "out": folder / "run", "steps": steps}
    flags |= {"batch_size": 8, "seq_len": 64, "lr": 3e-3, "threads": 2, "val_every": 0}
    succeeded(native("train", **flags))
    return folder / "run" / "model.bin"


@pytest.fixture(scope="module", params=["random", "trained"])
def model(
    request: pytest.FixtureRequest, native: Native, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "random":
        return save_model(folder / "model.bin", CONFIG)
    return trained(native, folder, CONFIG, 60)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads that wait for each other in a model this small take most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def in_transformers(model: Path, tmp_path: Path) -> Any:
    spec = tmp_path / "own.tiktoken"
    save_tokenizer(load_tokenizer("byte"), spec)
    here = Context(Workspace(tmp_path), Ui(quiet=True))
    folder = export(here, str(model), to="hf", dtype="fp32", tokenizer=str(spec))
    return transformers.GPT2LMHeadModel.from_pretrained(folder).eval()


def test_greedy_texts_are_transformers(native: Native, model: Path, tmp_path: Path) -> None:
    theirs = in_transformers(model, tmp_path)
    for prompt in ([256], list(range(100)), [(5 * i) % 257 for i in range(300)]):
        count = 600 if len(prompt) == 1 else 60
        expected = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            max_new_tokens=count,
            eos_token_id=None,
            pad_token_id=0,
        )[0, len(prompt) :].tolist()
        flags: Flags = {"tokens": count, "temperature": 0}
        got = generate(native, model, [line("a", prompt, **flags)], threads=2).tokens("a")
        assert got == expected
        if len(prompt) > 1:
            continue
        expected = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, 1, dtype=torch.long),
            do_sample=False,
            repetition_penalty=1.3,
            max_new_tokens=100,
            eos_token_id=None,
            pad_token_id=0,
        )[0, 1:].tolist()
        flags = {"tokens": 100, "temperature": 0, "repetition_penalty": 1.3}
        assert generate(native, model, [line("a", prompt, **flags)]).tokens("a") == expected


LENGTHS = (1, 2, 3, 15, 16, 17, 63, 64, 65, 127, 255, 256, 257, 258, 300, 511, 512, 513, 600)


def test_logits_with_the_cache_are_those_without(
    isa: str, native: Native, model: Path, tmp_path: Path
) -> None:
    """One token at a time from the first on; prompts of any length; all at once in transformers."""
    flags = {"temperature": 0, "logprobs": 20}
    alone = generate(native, model, [line("a", [256], tokens=601, **flags)], isa=isa).of("a")
    text = [256, *(event["token"] for event in alone)]
    lines = [line(f"n{n}", text[:n], tokens=1, **flags) for n in LENGTHS]
    prompts = generate(native, model, lines, isa=isa, slots=3, threads=2)
    theirs = in_transformers(model, tmp_path).double()
    with torch.no_grad():
        logits = theirs(torch.tensor([text[:601]])).logits[0]
    logprobs = torch.log_softmax(logits, -1).numpy()
    size = float(logits.abs().max())
    for n in range(1, 602):
        top = alone[n - 1]["top"]
        assert len(top) == 20
        for token, logprob in top:
            assert abs(logprob - logprobs[n - 1, token]) <= 1e-5 * size, n
    for n in LENGTHS:
        (event,) = prompts.of(f"n{n}")
        told = dict(alone[n - 1]["top"])
        for token, logprob in event["top"]:
            assert abs(logprob - logprobs[n - 1, token]) <= 1e-5 * size, n
            assert abs(logprob - told.get(token, logprob)) <= 1e-5 * size, n


def test_the_probabilities_of_a_prompt_are_transformers(
    native: Native, model: Path, tmp_path: Path
) -> None:
    text = sentences(600, CONFIG.vocab_size, 3)
    with torch.no_grad():
        logits = in_transformers(model, tmp_path).double()(torch.tensor(text[None])).logits[0]
    expected = torch.log_softmax(logits, -1).numpy()[np.arange(599), text[1:]]
    request = line("a", text, tokens=0, echo=1)
    told = [e for e in generate(native, model, [request]).events if e["event"] == "prompt"]
    assert [event["token"] for event in told] == text[1:].tolist()
    size = float(logits.abs().max())
    np.testing.assert_allclose([e["logprob"] for e in told], expected, rtol=0, atol=1e-5 * size)


class Processors:
    """What transformers' own list of processors leaves of logits: probabilities."""

    def __init__(self, V: int) -> None:
        shape = {"n_positions": 8, "n_embd": 4, "n_layer": 1, "n_head": 1}
        ids = {"bos_token_id": 0, "eos_token_id": 0}
        self.model = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(vocab_size=V, **shape, **ids)
        )

    def __call__(self, logits: NDArray[np.float32], seen: list[int], keys: dict[str, Any]) -> Any:
        processors = self.model._get_logits_processor(
            generation_config=transformers.GenerationConfig(do_sample=True, **keys),
            input_ids_seq_length=len(seen),
            logits_processor=[],
        )
        ids = torch.tensor([seen]).expand(len(logits), -1)
        return torch.softmax(processors(ids, torch.tensor(logits)), -1).numpy()


def engines(native: Native, folder: Path, logits: NDArray[np.float32], text: str) -> Any:
    (folder / "logits").write_bytes(logits.tobytes())
    flags: Flags = {"logits": folder / "logits", "out": folder / "out", "request": text.strip()}
    succeeded(native("debug-filter", vocab_size=logits.shape[1], **flags))
    return np.fromfile(folder / "out", np.float32).reshape(logits.shape)


@pytest.mark.parametrize("V", [1, 7, 300, 5003])
def test_filters_are_transformers(V: int, native: Native, tmp_path: Path) -> None:
    """Every filter alone and with the others.

    Sums in float let a token on top-p's border go either way, and what a float hardly holds is 0.
    """
    generator = np.random.default_rng(V)
    logits = (3 * generator.standard_normal((6, V))).astype(np.float32)
    logits[1] = np.round(logits[1])  # equals
    logits[2] *= 10
    seen = sorted({0, V - 1, V // 2, V // 3})
    theirs = Processors(V)
    settings = itertools.product((1.0, 0.3, 1.7), (0, 1, 5, 40), (1.0, 0.9, 0.2), (0.0, 0.05, 1.0))
    compared = 0
    for i, (temperature, top_k, top_p, min_p) in enumerate(settings):
        penalty = (1.0, 1.4, 0.7, 1.0)[i % 4]
        keys = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        keys["repetition_penalty"] = penalty
        expected = theirs(logits, seen, {**keys, "min_p": min_p or None})
        mine = {**keys, "min_p": min_p}
        got = engines(native, tmp_path, logits, line("a", seen, **mine))
        for row, (ours, wanted) in enumerate(zip(got, expected, strict=True)):
            apart = np.flatnonzero((ours == 0) != (wanted == 0))
            differ = [token for token in apart if max(ours[token], wanted[token]) > 1e-30]
            if differ and top_p < 1 and on_the_border(logits[row], seen, mine, differ):
                continue
            pair = (ours, wanted)
            if row == 1 and top_p < 1:  # of equals on the border, their sort keeps any
                assert len({(logits[row][token], token in seen) for token in differ}) <= 1
                pair = (np.sort(ours), np.sort(wanted))
            else:
                assert not differ, (mine, row)
            np.testing.assert_allclose(*pair, rtol=3e-5, atol=1e-9)
            compared += 1
    assert compared > 0.97 * 6 * 108


def on_the_border(
    logits: NDArray[np.float32], seen: list[int], keys: dict[str, Any], differ: list[Any]
) -> bool:
    """Whether exact sums come within a float's rounding of p where the two differ."""
    scores = logits.astype(np.float64)
    mask = np.zeros(len(scores), bool)
    mask[seen] = True
    penalty = keys["repetition_penalty"]
    scores = np.where(mask, np.where(scores < 0, scores * penalty, scores / penalty), scores)
    scores /= keys["temperature"]
    if 0 < keys["top_k"] < len(scores):
        scores = np.where(scores >= np.sort(scores)[-keys["top_k"]], scores, -np.inf)
    weights = np.exp(scores - scores.max())
    order = np.argsort(-weights, kind="stable")
    reached = np.cumsum(weights[order]) / weights.sum()
    at = [int(np.flatnonzero(order == token)[0]) for token in differ]
    return any(
        abs(reached[i] - keys["top_p"]) < 1e-5 or abs(reached[i - 1] - keys["top_p"]) < 1e-5
        for i in at
    )


@pytest.mark.full
def test_int8_costs_little(native: Native, tmp_path: Path) -> None:
    """Perplexity of tokens that were not trained on: within half a percent of the floats'."""
    model = trained(native, tmp_path, FEW, 300)
    tokens = sentences(2_000, FEW.vocab_size, 2)
    lines, wanted = [], []
    for i in range(500):
        length = 1 + i % 60  # both ways of reading a prompt
        begin = 3 * i
        lines.append(line(f"n{i}", tokens[begin : begin + length], tokens=1, logprobs=20))
        wanted.append(int(tokens[begin + length]))
    perplexity = {}
    for dtype in ("fp32", "bf16", "int8"):
        said = generate(native, model, lines, dtype=dtype, threads=2)
        logprobs = [dict(said.of(f"n{i}")[0]["top"])[token] for i, token in enumerate(wanted)]
        perplexity[dtype] = float(np.exp(-np.mean(logprobs)))
    assert perplexity["fp32"] < 0.6 * FEW.vocab_size, "it has learned too little to lose anything"
    assert perplexity["int8"] == pytest.approx(perplexity["fp32"], rel=0.005)
    assert perplexity["bf16"] == pytest.approx(perplexity["fp32"], rel=0.005)
    assert perplexity["int8"] != perplexity["fp32"]
