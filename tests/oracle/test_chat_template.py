"""Chat templates in exports: transformers and llama.cpp's Python binding find the same tokens."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from llmc.cli.context import Context
from llmc.errors import BadData
from llmc.model import ModelConfig
from llmc.text.conversations import Message
from llmc.tokens.added import for_chat
from llmc.tokens.bpe import train_bpe
from llmc.tokens.template import CHATML, TEMPLATES, Template
from llmc.tokens.tokenizer import Tokenizer, load_tokenizer
from llmc.tokens.tokenizer_json import read_folder
from llmc.weights.export import export_weights
from llmc.weights.gguf_header import read_gguf
from llmc.weights.sources import find_weights
from llmc.weights.tokenizer import find_tokenizer
from tests.conftest import Llmc
from tests.helpers import models
from tests.helpers.export import export
from tests.helpers.report import Listener
from tests.oracle.test_weights_transformers import hostile_texts

transformers = pytest.importorskip("transformers")

TEXT = Path(random.__file__).read_text() + "größer, naïve, 日本語 🙂\n" * 50
KINDS = ("byte", "bpe", "gpt2", "held", "prefix")


def held(folder: Path, *, prefix_space: bool = False) -> Tokenizer:
    """Return a tokenizer that is held as a document: its first token is a special one."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.ByteLevelBPETokenizer(add_prefix_space=prefix_space)
    made.train_from_iterator([TEXT], 400, special_tokens=["<s>", "<|endoftext|>"])
    folder.mkdir(parents=True)
    made.save(str(folder / "tokenizer.json"))
    found = read_folder(folder)
    assert isinstance(found, Tokenizer) and found.document is not None
    return found


def of_kind(kind: str, folder: Path, request: pytest.FixtureRequest) -> Tokenizer:
    if kind == "gpt2":
        found: Tokenizer = request.getfixturevalue("gpt2")
        return found
    if kind == "byte":
        return load_tokenizer("byte")
    if kind == "bpe":
        return train_bpe([TEXT], 500)
    return held(folder, prefix_space=kind == "prefix")


def exported(here: Context, tokenizer: Tokenizer, to: str) -> Path:
    config = ModelConfig(1, 1, 32, 64, tokenizer.vocab_size)
    model = models.save_model(here.workspace.root / "model.bin", config)
    return export(here, str(model), to=to, tokenizer=tokenizer)


def conversations() -> list[list[Message]]:
    """Return conversations whose messages have every kind of text; no special token's."""
    contents = [text for text in hostile_texts() if "<|" not in text and text.strip()]
    contents += ["  both ends \n", "\n\nlines\n\nbetween\n", "ends with!\n", "\ttab", "a"]
    made = [
        [Message("system", "Be brief.\n"), Message("user", "Hi"), Message("assistant", "Hello!")],
        [Message("user", "Hi"), Message("assistant", " No. "), Message("user", " Why?\n")],
    ]
    for first, second in zip(contents, contents[1:] + contents[:1], strict=True):
        made.append([Message("user", first), Message("assistant", second)])
        made.append([*made[-1], Message("user", second)])
    return made


def plainly(messages: list[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("kind", KINDS)
def test_transformers_finds_the_ids_of_a_conversation(
    kind: str, template: Template, here: Context, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    base = of_kind(kind, tmp_path / "held", request)
    if kind == "prefix" and not template.tokens:
        with pytest.raises(BadData, match="puts a space before a text"):
            for_chat(base, template)
        return
    ours = for_chat(base, template)
    folder = exported(here, ours, "hf")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    assert len(theirs) == ours.vocab_size
    assert {*template.tokens} <= {*theirs.all_special_tokens}
    stops = transformers.GenerationConfig.from_pretrained(folder).eos_token_id
    assert (stops if isinstance(stops, list) else [stops]) == [*template.stop_ids(ours)]
    for messages in conversations():
        given = plainly(messages)
        for prompt, ids in (
            (True, template.prompt_ids(ours, messages)),
            (False, template.conversation_ids(ours, messages)),
        ):
            found = theirs.apply_chat_template(
                given, add_generation_prompt=prompt, return_dict=False
            )
            assert found == ids, messages


def test_the_text_of_a_special_token_is_text_where_transformers_is_asked_so(here: Context) -> None:
    ours = for_chat(load_tokenizer("byte"), CHATML)
    theirs = transformers.AutoTokenizer.from_pretrained(exported(here, ours, "hf"))
    messages = [Message("user", "a <|im_end|> b <|endoftext|> c")]
    found = theirs.apply_chat_template(
        plainly(messages),
        add_generation_prompt=True,
        return_dict=False,
        sanitize_control_tokens=True,
    )
    assert found == CHATML.prompt_ids(ours, messages)


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("kind", ["bpe", "held"])
@pytest.mark.parametrize("to", ["hf", "gguf"])
def test_a_template_comes_back(
    to: str, kind: str, template: Template, here: Context, request: pytest.FixtureRequest
) -> None:
    ours = for_chat(of_kind(kind, here.workspace.root / "held", request), template)
    path = exported(here, ours, to)
    for found in (
        find_tokenizer(here.workspace, find_weights(here.workspace, str(path))),
        load_tokenizer(str(path)) if to == "hf" else ours,
        export_back(here, path),
    ):
        assert found is not None
        assert (found.template, found.fingerprint) == (template, ours.fingerprint)


def export_back(here: Context, path: Path) -> Tokenizer | None:
    out = export(here, str(path), out=here.workspace.root / "back.bin")
    return find_tokenizer(here.workspace, find_weights(here.workspace, str(out)))


@pytest.mark.parametrize("to", ["hf", "gguf"])
def test_a_tokenizer_without_a_template_has_none_there(to: str, here: Context) -> None:
    path = exported(here, load_tokenizer("byte"), to)
    weights = find_weights(here.workspace, str(path)).weights
    assert weights.chat_template() is None


class RaisedByTemplate(Exception):
    pass


def rendered_as_llama_cpp_python_does(metadata: dict[str, Any], messages: Any) -> str:
    """Render as its Jinja2ChatFormatter: the same sandbox, settings and names."""
    from jinja2 import BaseLoader
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise RaisedByTemplate(message)

    tokens = metadata["tokenizer.ggml.tokens"].items
    environment = ImmutableSandboxedEnvironment(
        loader=BaseLoader(), trim_blocks=True, lstrip_blocks=True
    ).from_string(metadata["tokenizer.chat_template"])
    return environment.render(
        messages=messages,
        eos_token=tokens[metadata["tokenizer.ggml.eos_token_id"]],
        bos_token=tokens[metadata["tokenizer.ggml.bos_token_id"]],
        raise_exception=raise_exception,
        add_generation_prompt=True,
        functions=None,
        function_call=None,
        tools=None,
        tool_choice=None,
    )


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_llama_cpps_binding_renders_the_same(template: Template, here: Context) -> None:
    ours = for_chat(train_bpe([TEXT], 500), template)
    metadata = read_gguf(exported(here, ours, "gguf")).metadata
    theirs = transformers.AutoTokenizer.from_pretrained(exported(here, ours, "hf"))
    assert metadata["tokenizer.ggml.eot_token_id"] == template.stop_ids(ours)[0]
    assert metadata["tokenizer.ggml.eos_token_id"] == ours.eot
    kinds = metadata["tokenizer.ggml.token_type"].items
    assert all(kinds[token] == 3 for token in ours.special_tokens.values())  # control tokens
    for messages in conversations():
        given = plainly(messages)
        text = rendered_as_llama_cpp_python_does(metadata, given)
        assert text == theirs.apply_chat_template(given, add_generation_prompt=True, tokenize=False)
        assert ours.encode(text, special=True) == template.prompt_ids(ours, messages)


@pytest.mark.parametrize("has_tokens", [True, False])
def test_another_template_is_said_and_not_used(
    has_tokens: bool, here: Context, tmp_path: Path
) -> None:
    made = train_bpe([TEXT], 500)
    ours = for_chat(made, TEMPLATES["chatml" if has_tokens else "plain"])
    folder = exported(here, ours, "hf")
    said: list[str] = []
    report = Listener(said.append)
    out = tmp_path / "back.bin"
    export_weights(here.workspace, str(folder), out=out, report=report)
    assert not any("chat template" in line for line in said)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    export_weights(here.workspace, str(folder), out=out, report=report)
    (line,) = (line for line in said if "chat template" in line)
    assert ("chatml" in line) == has_tokens
    found = find_tokenizer(here.workspace, find_weights(here.workspace, str(out)))
    assert found is not None
    assert found.template == (TEMPLATES["chatml"] if has_tokens else None)


def test_the_card_of_a_model_for_chat_runs(llmc: Llmc) -> None:
    pytest.importorskip("torch")
    out = llmc.workspace / "out"
    shape = {"layers": 1, "heads": 1, "channels": 16, "context": 512, "vocab-size": 257}
    flags = [word for name, size in shape.items() for word in (f"--{name}", str(size))]
    added = ["--add-tokens", "<|im_start|>", "--add-tokens", "<|im_end|>"]
    made = llmc("export-weights", "random", *flags, "--tokenizer", "byte", *added, "--to", "hf",
                "--out", str(out))  # fmt: skip
    assert made.returncode == 0, made.stderr
    text = (out / "README.md").read_text()
    assert "chatml" in text
    code = text.partition("```python\n")[2].partition("```")[0].replace("USER/NAME", str(out))
    said: list[object] = []
    exec(code, {"print": said.append})
    assert isinstance(said[0], str)
