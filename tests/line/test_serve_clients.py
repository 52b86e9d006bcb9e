"""Other people's clients of OpenAI's API: LangChain, litellm, and Simon Willison's llm.

Each runs in a process of its own, as in a program of its user; ``make test-full`` installs them.
The official client is used by the other tests of the server.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.helpers.served import Served, fake_server

pytestmark = pytest.mark.full


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clients")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    """Return a server that says what the user said, or repeats a prompt."""
    with fake_server(folder, "--chat", "chatml", "--positions", "400") as running:
        yield running


def run(folder: Path, *words: str, said: str | None = None, **env: str) -> str:
    """Run a program of Python; return what it printed."""
    done = subprocess.run(
        [sys.executable, *words],
        input=said,
        cwd=folder,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


LANGCHAIN = """
import json, sys
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI

server = {"base_url": sys.argv[1] + "v1", "api_key": "none", "model": "parrot", "max_retries": 0}
chat = ChatOpenAI(**server, temperature=0, max_tokens=50)
turns = [SystemMessage("Be brief."), HumanMessage("Hi"), AIMessage("Hi"), HumanMessage("Hé日!")]
done = chat.invoke(turns)
usage = ChatOpenAI(**server, stream_usage=True)
pieces = [*usage.stream(turns)]
told = chat.bind(logprobs=True, top_logprobs=1).invoke("ab").response_metadata["logprobs"]
text = OpenAI(**server, max_tokens=5, logit_bias={"1": -100}, frequency_penalty=0.5)
print(json.dumps({
    "answer": done.content,
    "reason": done.response_metadata["finish_reason"],
    "tokens": done.usage_metadata["output_tokens"],
    "streamed": "".join(piece.content for piece in pieces),
    "usage": sum(piece.usage_metadata["output_tokens"] for piece in pieces if piece.usage_metadata),
    "stopped": chat.invoke(turns, stop=["日"]).content,
    "batch": [each.content for each in chat.batch(["a", "b"])],
    "logprobs": [each["token"] for each in told["content"]],
    "text": text.invoke("abc"),
    "text streamed": "".join(text.stream("abc")),
    "texts": [each[0].text for each in text.generate(["ab", "cd"]).generations],
    "best": OpenAI(**server, max_tokens=3, n=1, best_of=2).invoke("abc"),
}))
"""


@needs("langchain_openai")
def test_langchain(server: Served, folder: Path) -> None:
    told = json.loads(run(folder, "-c", LANGCHAIN, server.url))
    assert told == {
        "answer": "Hé日!",
        "reason": "stop",
        "tokens": 7,
        "streamed": "Hé日!",
        "usage": 7,
        "stopped": "Hé",
        "batch": ["a", "b"],
        "logprobs": ["a", "b"],
        "text": "abcab",
        "text streamed": "abcab",
        "texts": ["ababa", "cdcdc"],
        "best": "abc",
    }


LITELLM = """
import json, sys
import litellm

server = {"api_base": sys.argv[1] + "v1", "api_key": "none"}
chat = {**server, "model": "openai/parrot", "messages": [{"role": "user", "content": "Hé日!"}]}
done = litellm.completion(**chat, temperature=0, max_tokens=50, seed=1, presence_penalty=0.5)
pieces = [*litellm.completion(**chat, stream=True, stream_options={"include_usage": True})]
text = {**server, "model": "text-completion-openai/parrot", "prompt": "abc", "max_tokens": 5}
print(json.dumps({
    "answer": done.choices[0].message.content,
    "reason": done.choices[0].finish_reason,
    "tokens": done.usage.completion_tokens,
    "streamed": "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices),
    "text": litellm.text_completion(**text).choices[0].text,
}))
"""


@needs("litellm")
def test_litellm(server: Served, folder: Path) -> None:
    printed = run(folder, "-c", LITELLM, server.url, LITELLM_LOCAL_MODEL_COST_MAP="True")
    assert json.loads(printed.splitlines()[-1]) == {
        "answer": "Hé日!",
        "reason": "stop",
        "tokens": 7,
        "streamed": "Hé日!",
        "text": "abcab",
    }


MODELS = """\
- model_id: talks
  model_name: parrot
  api_base: "{url}v1"
- model_id: writes
  model_name: parrot
  api_base: "{url}v1"
  completion: true
"""


@needs("llm")
def test_llm(server: Served, folder: Path) -> None:
    home = folder / "llm"
    home.mkdir()
    (home / "extra-openai-models.yaml").write_text(MODELS.format(url=server.url))

    def llm(*words: str) -> str:
        env = {"LLM_USER_PATH": str(home), "OPENAI_API_KEY": "none"}
        return run(folder, "-m", "llm", *words, said="", **env).rstrip("\n")

    assert "talks" in llm("models")
    assert llm("-m", "talks", "Hé日!") == "Hé日!"
    assert llm("-c", "So?") == "So?"  # the same conversation
    options = ["-o", "temperature", "0", "-o", "max_tokens", "2", "-o", "seed", "1"]
    assert llm("-m", "talks", "--no-stream", "-s", "Be brief.", *options, "Hello") == "He"
    assert llm("-m", "writes", "-o", "max_tokens", "5", "abc") == "abcab"
