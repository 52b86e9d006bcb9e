"""Addresses lose what may be a secret, wherever they stand in a text."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llmc.addresses import all_without_secrets, without_secrets
from llmc.errors import BadData, Interrupted

SECRETS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12)
USERS = st.from_regex(r"\A[A-Za-z0-9._~!$&'()*+,;=%-]+\Z")


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("http://user:PW@127.0.0.1:80/x.txt?token=T", "http://127.0.0.1:80/x.txt"),
        ("get 'http://u:p/w@h/x?y': none", "get 'http://h/x': none"),
        ("http://u:p?w@h/x; https://h/x#f)", "http://h/x; https://h/x)"),
        ("http://u:0?w@h/x", "http://h/x"),
        ("http://u:@0/w@h/x", "http://…"),
        ("http:/u:PW@h/x?T", "http:/h/x"),  # as a path spells it
        ("S3://key@bucket/file", "S3://bucket/file"),
        ("https://h?X-Amz-Signature=1", "https://h"),
        ("https://[::1]:80/x?sig=1", "https://[::1]:80/x"),
        ("https://h/@me/x", "https://h/@me/x"),
        ("https://h/x?download=true&token=1#top", "https://h/x?download=true"),
        ("C:/Users/a@b/what?", "C:/Users/a@b/what?"),
        ("data/*.tx?", "data/*.tx?"),
        ("hf:owner/name@main", "hf:owner/name@main"),
    ],
)
def test_what_is_left_of_an_address(text: str, public: str) -> None:
    assert without_secrets(text) == public
    assert without_secrets(public) == public
    assert all_without_secrets({"a": [text, 1, None]}) == {"a": [public, 1, None]}
    assert str(BadData(text)) == public
    assert str(Interrupted(text, "llmc runs")) == public


@given(USERS, SECRETS, SECRETS)
def test_no_user_password_or_query_is_left(user: str, password: str, query: str) -> None:
    # Such a user and password are read as a host and its port.
    assume(not re.match(r"\d*[/?#]", password))
    secret = f"{user}SECRET:{password}SECRET"
    shown = without_secrets(f"https://{secret}@host.example/file?{query}SECRET&a=SECRET")
    assert "SECRET" not in shown
