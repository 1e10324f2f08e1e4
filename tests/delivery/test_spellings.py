"""Random spellings of random addresses: neither the rules nor the backend accept a private one."""

from __future__ import annotations

import socket
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TYPE_CHECKING

import anyio
import httpcore
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.delivery.addresses import is_public
from app.delivery.client import GuardedBackend
from app.delivery.url_rules import UrlRules
from app.domain.access import AllowedHosts
from app.domain.errors import RefusedUrl
from tests.delivery.listening import ReroutingBackend

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RULES = UrlRules(AllowedHosts())

#: Copied from the registries, not from the code, so that a mistake is not repeated: IANA's special-purpose addresses
#: that are not globally reachable, multicast, reserved space, and the address of the Azure host.
NOT_PUBLIC_V4 = [
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
    *("192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3"),
    *("168.63.129.16/32", "169.254.169.254/32", "127.0.0.1/32", "0.0.0.0/32", "255.255.255.255/32"),
]
NOT_PUBLIC_V6 = [
    *("::1/128", "::/128", "100::/64", "2001:db8::/32", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10"),
    *("ff00::/8", "64:ff9b:1::/48", "4000::/2", "8000::/1", "fd00:ec2::254/128"),
]

#: Networks whose last 32 bits are an IPv4 address: mapped, compatible, translated, NAT64.
CARRYING = ["::ffff:0:0", "::", "::ffff:0:0:0", "64:ff9b::"]


@st.composite
def private_v4(draw: st.DrawFn) -> IPv4Address:
    network = IPv4Network(draw(st.sampled_from(NOT_PUBLIC_V4)))
    return network[draw(st.integers(0, network.num_addresses - 1))]


@st.composite
def private_v6(draw: st.DrawFn) -> IPv6Address:
    network = IPv6Network(draw(st.sampled_from(NOT_PUBLIC_V6)))
    return network[draw(st.integers(0, network.num_addresses - 1))]


def number(draw: st.DrawFn, value: int) -> str:
    zeros = "0" * draw(st.integers(0, 3))
    return draw(
        st.sampled_from([str(value), f"0{zeros}{value:o}", f"0x{zeros}{value:x}", f"0X{value:X}", f"{zeros}{value}"])
    )


@st.composite
def spelled_v4(draw: st.DrawFn, addresses: st.SearchStrategy[IPv4Address]) -> str:
    """Draw one to four parts in any base. The last one holds all remaining bytes."""
    packed = draw(addresses).packed
    parts = draw(st.integers(1, 4))
    values = [*packed[: parts - 1], int.from_bytes(packed[parts - 1 :], "big")]
    dot = draw(st.sampled_from([".", ".", ".", "。", "．", "｡"]))
    written = dot.join(number(draw, value) for value in values) + draw(st.sampled_from(["", "", ".", "。"]))
    return draw(st.sampled_from(DISGUISES))(written)


def _fullwidth(text: str) -> str:
    return "".join(chr(ord(char) + 0xFEE0) if char.isascii() and char.isalnum() else char for char in text)


def _percent_encoded(text: str) -> str:
    return "".join(f"%{byte:02x}" for byte in text.encode())


DISGUISES: list[Callable[[str], str]] = [str, str, str, _fullwidth, _percent_encoded, str.upper]


@st.composite
def carrying_v6(draw: st.DrawFn, addresses: st.SearchStrategy[IPv4Address]) -> IPv6Address:
    inner = int(draw(addresses))
    if draw(st.booleans()):
        return IPv6Address(int(IPv6Address(draw(st.sampled_from(CARRYING)))) | inner)
    six_to_four = IPv6Address((0x2002 << 112) | inner << 80 | draw(st.integers(0, 2**80 - 1)))
    isatap = IPv6Address((0x2600 << 112) | draw(st.sampled_from([0x5EFE, 0x2005EFE])) << 32 | inner)
    return draw(st.sampled_from([six_to_four, isatap]))


@st.composite
def spelled_v6(draw: st.DrawFn, addresses: st.SearchStrategy[IPv6Address]) -> str:
    address = draw(addresses)
    groups = [int(address) >> shift & 0xFFFF for shift in range(112, -1, -16)]
    exploded = [f"{group:04x}" for group in groups]  # Python 3.13's own ends with an IPv4 address if it carries one
    forms = [
        str(address),
        ":".join(exploded),
        f"{':'.join(exploded[:-2])}:{IPv4Address(int(address) & 0xFFFFFFFF)}",
        ":".join(f"{group:x}" for group in groups),
    ]
    written = draw(st.sampled_from(forms))
    return (
        f"[{draw(st.sampled_from([written, written.upper()]))}{draw(st.sampled_from(['', '', '', '%eth0', '%250']))}]"
    )


HOSTS = st.one_of(spelled_v4(private_v4()), spelled_v6(private_v6()), spelled_v6(carrying_v6(private_v4())))


@given(HOSTS, st.sampled_from(["", ":443", ":9000"]))
def test_rules_refuse_every_spelling_of_a_private_address(host: str, port: str) -> None:
    with pytest.raises(RefusedUrl):
        RULES.check(f"https://{host}{port}/key", param="url")


@settings(deadline=None)  # an event loop each time
@given(HOSTS)
def test_backend_refuses_every_spelling_of_a_private_address(host: str) -> None:
    """The backend is the second check. It gets the addresses that the system reads from the host of httpx."""
    with suppress(httpx.InvalidURL):
        anyio.run(_dial_nothing, httpx.URL(f"https://{host}/").raw_host.decode())


async def _dial_nothing(host: str) -> None:
    async def numeric(name: str, port: int) -> Sequence[str]:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        return [str(answer[4][0]) for answer in found]

    rerouted = ReroutingBackend(1)
    with suppress(RefusedUrl, httpcore.ConnectError):
        await GuardedBackend(AllowedHosts(), resolver=numeric, backend=rerouted).connect_tcp(host, 443)
    # A leading zero can turn a decimal number into another address, which can be public.
    assert not any(_is_listed(ip_address(address)) for address in rerouted.addresses)


def _is_listed(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv4Address):
        return any(address in IPv4Network(network) for network in NOT_PUBLIC_V4)
    inner = IPv4Address(int(address) & 0xFFFFFFFF)
    if any(address in IPv6Network(f"{network}/96") for network in CARRYING):
        return _is_listed(inner)
    return any(address in IPv6Network(network) for network in (*NOT_PUBLIC_V6, "2002::/16", "2600::5efe:0:0/96"))


@given(
    spelled_v4(st.builds(IPv4Address, st.integers(0, 2**32 - 1)))
    | spelled_v6(st.builds(IPv6Address, st.integers(0, 2**128 - 1)))
)
def test_accepted_address_is_public_and_in_canonical_form(host: str) -> None:
    with suppress(RefusedUrl):
        RULES.check(f"https://{host}/key", param="url")
        assert is_public(httpx.URL(f"https://{host}/").raw_host.decode())


@given(st.ip_addresses(v=4).filter(lambda address: is_public(str(address))))
def test_public_address_in_canonical_form_is_accepted(address: IPv4Address | IPv6Address) -> None:
    assert RULES.check(f"https://{address}/key", param="url")


@given(
    st.text() | st.text(alphabet="ht:/[]@?#%.\\u0026aé1。 \n") | st.text(alphabet="xn--a1.é"),
    st.sampled_from(["https://", "https://xn--", "https://example.com/", ""]),
)
def test_accepted_url_is_accepted_again_when_it_is_sent(text: str, before: str) -> None:
    """Otherwise an accepted URL would be refused when the transcript is ready."""
    with suppress(RefusedUrl):
        checked = RULES.check(before + text, param="url")
        assert RULES.problem(str(httpx.URL(checked))) is None
        assert RULES.check(checked, param="url") == checked
        assert httpx.Request("GET", checked).url == httpx.URL(checked)
