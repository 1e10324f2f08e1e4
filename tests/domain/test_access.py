"""Keys, allowed hosts, trusted proxies and loopback addresses."""

from __future__ import annotations

import base64
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.access import AllowedHosts, ApiKeys, TrustedProxies, is_loopback
from app.domain.errors import Unauthorized

KEY = "sk-0123456789abcdef"


@pytest.mark.parametrize(
    ("entry", "ascii_name"),
    [
        ("Bücher.example", "xn--bcher-kva.example"),
        ("MINIO.Local.", "minio.local"),
        ("例え.jp", "xn--r8jz45g.jp"),
        ("xn--strae-oqa.example", "xn--strae-oqa.example"),
    ],
)
def test_international_host_name_is_encoded_in_ascii(entry: str, ascii_name: str) -> None:
    assert AllowedHosts.parse(entry).covers(ascii_name, 443)
    assert AllowedHosts.parse(f"{entry}:9000").entries == {(ascii_name, 9000)}


@pytest.mark.parametrize("entry", ["straße.example", "faß.de:9000", "βόλος.com", "نامه\u200cای.com"])
def test_host_name_that_idna_2008_encodes_differently_is_refused(entry: str) -> None:
    """Python's codec would map these names to other hosts."""
    with pytest.raises(ValueError, match="in its xn-- form") as caught:
        AllowedHosts.parse(f"good.local, {entry}")
    assert repr(entry) in str(caught.value)


@pytest.mark.parametrize(
    "entry",
    [
        "http://minio.local",
        "minio.local/path",
        "*.local",
        "10.0.0.0/8",
        "minio.local:0",
        "minio.local:65536",
        "minio.local:http",
        "user@minio.local",
        "two words",
        "[::1",
        "[::1]x",
        "[zz]:9000",
        "256.1.1.1",
        ":9000",
        "a..b",
        "\ud800",
    ],
)
def test_malformed_allowed_host_is_quoted(entry: str) -> None:
    with pytest.raises(ValueError, match=r"^must ") as caught:
        AllowedHosts.parse(f"good.local, {entry}")
    assert repr(entry) in str(caught.value)


def basic(credentials: str) -> str:
    return f"Basic {base64.b64encode(credentials.encode()).decode()}"


@pytest.mark.parametrize(
    "authorization", [basic(f"user:{KEY}"), basic(f":{KEY}"), basic(f"a:b:{KEY}"), basic(f"{KEY}:")]
)
def test_key_can_be_the_password_of_basic_authentication(authorization: str) -> None:
    keys = ApiKeys.parse(KEY)
    assert keys.authenticate(authorization, setting="API_KEYS") == keys.keys[0]


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Basic",
        "Basic ",
        "Basic ???",
        "Basic /w==",
        basic(f"{KEY}:other"),
        basic("user:other"),
        f"Digest {KEY}",
        KEY,
    ],
)
def test_other_credentials_are_refused(authorization: str) -> None:
    with pytest.raises(Unauthorized, match="send the header 'Authorization: Bearer KEY'"):
        ApiKeys.parse(KEY).authenticate(authorization, setting="API_KEYS")


def test_empty_list_of_allowed_hosts_covers_nothing() -> None:
    for text in ("", " , ,"):
        assert AllowedHosts.parse(text) == AllowedHosts()
    assert not AllowedHosts().covers("localhost", 80)


@given(st.text())
def test_any_text_is_parsed_as_allowed_hosts_or_refused(text: str) -> None:
    with suppress(ValueError):
        allowed = AllowedHosts.parse(text)
        assert all(allowed.covers(host, port or 443) for host, port in allowed.entries)


@pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3", "fd00::1"])
def test_trusted_proxies_cover_their_networks(address: str) -> None:
    assert TrustedProxies.parse("10.0.0.0/8, fd00::/8").covers(address)
    assert TrustedProxies.parse("*").covers(address)
    assert not TrustedProxies.parse("192.0.2.1").covers(address)


def test_trusted_proxies_do_not_cover_names() -> None:
    assert not TrustedProxies.parse("*").covers("proxy.local")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *[(host, True) for host in ("127.0.0.1", "127.8.8.8", "::1", "LOCALHOST")],
        *[(host, False) for host in ("0.0.0.0", "::", "10.0.0.5", "example.com", "")],  # noqa: S104  nothing is bound
    ],
)
def test_loopback_hosts_are_recognized(host: str, *, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_api_key_can_have_a_name_and_a_quota() -> None:
    keys = ApiKeys.parse("plain, ann:alpha, bob:beta:3600, carl:123")
    assert [(key.name, key.quota_seconds, key.is_named) for key in keys] == [
        ("#1", None, False),
        ("ann", None, True),
        ("bob", 3600, True),
        ("carl", None, True),
    ]
    assert keys.authenticate("Bearer beta", setting="API_KEYS").name == "bob"
    assert keys.authenticate("Bearer 123", setting="API_KEYS").name == "carl"


@pytest.mark.parametrize("entry", ["bob:beta:", "bob:beta:1.5", "bob:beta:-1", ":beta:60", "bob::60", "a:b:c:60"])
def test_malformed_quota_is_refused_without_the_key(entry: str) -> None:
    with pytest.raises(ValueError, match=r"^must ") as caught:
        ApiKeys.parse(f"good, {entry}")
    assert "beta" not in str(caught.value)
