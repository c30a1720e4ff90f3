"""Addresses as people write them: names, IPv4, IPv6 with and without brackets, and what is none."""

import pytest

from common.errors import StateError
from common.wire.addresses import Address, check_host


@pytest.mark.parametrize(
    ("text", "host", "port", "written"),
    [
        ("hub.example.org:9443", "hub.example.org", 9443, "hub.example.org:9443"),
        ("hub.example.org", "hub.example.org", 8443, "hub.example.org:8443"),
        ("10.1.2.3:1", "10.1.2.3", 1, "10.1.2.3:1"),
        ("10.1.2.3", "10.1.2.3", 8443, "10.1.2.3:8443"),
        ("[2001:db8::5]:8443", "2001:db8::5", 8443, "[2001:db8::5]:8443"),
        ("[2001:DB8:0::5]", "2001:db8::5", 8443, "[2001:db8::5]:8443"),
        ("2001:db8::5", "2001:db8::5", 8443, "[2001:db8::5]:8443"),
        ("2001:db8::5:9000", "2001:db8::5:9000", 8443, "[2001:db8::5:9000]:8443"),
        ("::1", "::1", 8443, "[::1]:8443"),
        ("::", "::", 8443, "[::]:8443"),
    ],
)
def test_an_address_is_read_as_it_is_meant_and_written_so_that_it_is_read_again(
    text: str, host: str, port: int, written: str
) -> None:
    address = Address.parse(text, port=8443)
    assert (address.host, address.port, str(address)) == (host, port, written)
    assert Address.parse(written) == address


@pytest.mark.parametrize(
    "text",
    ["", ":", "hub", "hub:", "hub:0", "hub:65536", "hub:x", "hub:²", ":8443", "[::1]", "::1", "[hub]:1", "[::1]:",
     "[::1]x:1", "[fe80::1%eth0]:1", "1.2.3:1", "1.2.3.400:1", "hub example:1", 'hub":1', "hub/x:1", "user@hub:1",
     "[::1:1", "-:1"],
)  # fmt: skip
def test_what_is_no_address_with_a_port_is_refused(text: str) -> None:
    with pytest.raises(StateError):
        Address.parse(text)


def test_one_host_has_one_form() -> None:
    assert check_host("2001:DB8:0:0::5") == "2001:db8::5"
    assert check_host("hub.example.org") == "hub.example.org"
    for wrong in ("", "a b", "ä.example.org", "fe80::1%1", "300.1.1.1", "x" * 300):
        with pytest.raises(StateError, match="neither"):
            check_host(wrong)
