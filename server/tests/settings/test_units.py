"""Sizes, durations, addresses and links as people write them."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sendoff_server.settings import units
from sendoff_server.settings.units import Address, split_listen


@pytest.mark.parametrize(
    ("text", "size"),
    [("2 GiB", 2**31), ("64MiB", 2**26), ("500 MB", 500_000_000), (4096, 4096), ("4096", 4096), ("1.5 KiB", 1536)],
)
def test_a_size_is_read_in_words_and_digits(text: object, size: int) -> None:
    assert units.read_size(text) == size


@pytest.mark.parametrize(
    "text", ["2 XiB", "-1", "", "GiB", True, None, [], "1.5", "1e9", "nan", float("inf"), "9" * 30]
)
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"size|unit|whole"):
        units.read_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2 d", 172800),
        ("90 s", 90),
        ("10 min", 600),
        ("1 h", 3600),
        ("250 ms", 0.25),
        (0.5, 0.5),
        (10, 10),
        ("1 w", 604800),
    ],
)
def test_a_duration_is_read_in_words_and_digits(text: object, seconds: float) -> None:
    assert units.read_duration(text) == seconds


@pytest.mark.parametrize("text", ["2 dd", "1 m", "-1 s", "", False, {}, float("nan"), "1 s 2 s"])
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"duration|unit"):
        units.read_duration(text)


@given(st.integers(0, 2**50))
def test_a_size_that_was_said_is_read_again(size: int) -> None:
    assert units.read_size(units.say_size(size)) == size


@given(st.integers(0, 10**5))
def test_a_duration_that_was_said_is_read_again(seconds: int) -> None:
    assert units.read_duration(units.say_duration(float(seconds))) == seconds


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8125", Address("127.0.0.1", 8125)),
        ("[::1]:0", Address("::1", 0)),
        ("[2001:DB8::0]:80", Address("2001:db8::", 80)),
        ("Localhost:80", Address("localhost", 80)),
    ],
)
def test_a_listen_address_is_split_and_spelt_in_one_way(text: str, address: Address) -> None:
    assert split_listen(text) == address
    assert split_listen(str(address)) == address


@pytest.mark.parametrize(
    "text",
    ["::1:8125", "127.0.0.1", ":80", "127.0.0.1:65536", "1.2.3.4.5:80", "256.1.1.1:1", "[127.0.0.1:80", "a b:1", "x:²"],
)
def test_what_is_no_listen_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|port"):
        split_listen(text)


@given(st.text(max_size=60))
def test_no_text_breaks_a_reader(text: str) -> None:
    for read in (
        units.read_listen,
        units.read_link,
        units.read_path,
        units.read_size,
        units.read_duration,
        units.read_mode,
    ):
        try:
            read(text)
        except ValueError:
            continue


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_this_machines_own_addresses_are_loopback(host: str) -> None:
    assert Address(host, 1).loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "localhost.example.com", "::ffff:10.0.0.1"])
def test_any_other_address_is_not_loopback(host: str) -> None:
    assert not Address(host, 1).loopback


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com",
        "example.com",
        "https://",
        "https://a:b@example.com",
        "https://x/#y",
        "http://x:0",
        "http://[",
        "http://x:99999",
        7,
    ],
)
def test_what_is_no_web_address_to_send_to_is_refused(url: object) -> None:
    with pytest.raises(ValueError, match=r"address|credentials|host|fragment"):
        units.read_link(url)


def test_a_relative_path_is_refused_because_it_depends_on_where_one_stands() -> None:
    with pytest.raises(ValueError, match="relative"):
        units.read_path("data")
    assert units.read_path("/srv/data") == Path("/srv/data")


def test_a_socket_path_longer_than_the_kernel_takes_is_refused() -> None:
    with pytest.raises(ValueError, match="107"):
        units.read_socket_path("/" + "x" * 107)
