"""JSON and TOML that no parser should be given, and that nothing else parses them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import llmc
from llmc import parsing
from llmc.errors import BadData
from llmc.parsing import Unparsable, from_json, read_json, read_toml, record_from_json
from llmc.preset import load_preset

DEEP = ("[" * 200_000, '{"a":' * 200_000)
LONG = "9" * 4301


@pytest.mark.parametrize("text", [*DEEP, LONG, f"[-{LONG}]", "[123456789012345678901]"])
def test_json_too_deep_or_too_long_is_one_error(text: str, tmp_path: Path) -> None:
    for given in (text, text.encode()):
        with pytest.raises(ValueError, match=r"deep|digits"):
            from_json(given)
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"deep|digits"):
        read_json(tmp_path / "x.json")


def test_json_is_nested_as_deep_as_what_writes_it_again_can_go() -> None:
    for begin, end, levels in (("[", "]", 1), ('{"a":', "}", 1), ('[{"[":', "}]", 2)):
        most = parsing.MOST_DEPTH // levels
        whole = f"{begin * most}1{end * most}"
        assert from_json(whole) == json.loads(whole)
        with pytest.raises(Unparsable, match="deep"):
            from_json(f"{begin}{whole}{end}")
    flat = json.dumps([{"a": [[1], {"b": "]]]]"}]}] * 1000)
    assert from_json(flat) == json.loads(flat)


def test_a_record_of_a_text_may_hold_any_number_and_any_string() -> None:
    assert record_from_json("[123456789012345678901]")[0] == [123456789012345678901]
    assert record_from_json('"\\ud800"')[0] == "\ud800"
    with pytest.raises(ValueError):
        record_from_json("[1] 2")
    for text in (*DEEP, LONG):
        with pytest.raises(ValueError):
            record_from_json(text)


@pytest.mark.parametrize("text", [b'"\\ud800"', b'{"\\uDEAD": 1}', b'"\xed\xa0\x80"', b"\xff[1]"])
def test_strings_that_utf_8_cannot_encode_are_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        from_json(text)


def test_what_is_whole_is_parsed_as_json_parses_it() -> None:
    values: list[Any] = ["😀", {"a": [1, -2.5, None, True]}, 2**63 - 1, -(2**63), [], "\\ud83d"]
    for value in values:
        assert from_json(json.dumps(value)) == value
        assert from_json(json.dumps(value, ensure_ascii=False).encode()) == value


def test_a_file_of_too_many_values_or_bytes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.json"
    path.write_text(json.dumps([[]] * 60))
    monkeypatch.setattr(parsing, "MOST_VALUES", 100)
    with pytest.raises(Unparsable, match="values"):
        read_json(path)
    with pytest.raises(Unparsable, match="more than 100 bytes"):
        parsing.read_limited(path, 100)
    assert len(parsing.read_limited(path, path.stat().st_size)) == path.stat().st_size


@pytest.mark.parametrize(
    "text",
    [
        "a=" + "[" * 5000,
        "a=" + "{a=" * 5000,
        "a=" + LONG,
        "a=0x" + "f" * 5000,  # of which Python cannot print the decimal digits
        "a=9223372036854775808",
        ".".join("a" * 20_000) + "=1",
        "[" + ".".join("a" * 20_000) + "]",
        "#" * (1 << 20) + "\n",
    ],
)
def test_toml_too_deep_too_long_or_too_large_is_bad_data(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(Unparsable):
        read_toml(path)
    with pytest.raises(BadData, match=re.escape(str(path))) as caught:
        load_preset(str(path))
    assert len(str(caught.value)) < len(str(path)) + 200


def test_nothing_else_parses_json_or_toml() -> None:
    parses = re.compile(r"json\.loads?\b|JSONDecoder|tomllib|\bijson\b|\.json\(\)")
    package = Path(llmc.__file__).parent
    found = [
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if path.name != "parsing.py" and parses.search(path.read_text("utf-8"))
    ]
    assert found == []
