"""Sizes, durations and names: examples, and what holds for every input."""

from __future__ import annotations

import re

import pytest
from ansible_collections.metalhub.platform.plugins.module_utils import durations, names, sizes
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("8G", 8 << 30),
        ("512M", 512 << 20),
        ("1.5T", 3 << 39),
        ("8GiB", 8 << 30),
        ("8gb", 8 << 30),
        ("100 K", 102400),
        ("7B", 7),
        ("0B", 0),
    ],
)
def test_parse_size(text: str, size: int) -> None:
    assert sizes.parse_size(text) == size


@pytest.mark.parametrize("bad", ["", "8", "G", "8X", "-8G", "8GG", "8Bi", "1.5B", "8 G B", "1e3M", "٨G", "8G\n8G", 8, None, True, ["8G"]])
def test_bad_size(bad: object) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        sizes.parse_size(bad)


@given(st.integers(0, 2**60))
def test_format_size_is_close_and_never_more(size: int) -> None:
    again = sizes.parse_size(sizes.format_size(size))
    assert again <= size
    assert size - again <= size * 0.1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30m", 1800), ("1h30m", 5400), ("8h", 28800), ("2d", 172800), ("1w", 604800), ("90s", 90), ("1h 30m", 5400)],
)
def test_parse_duration(text: str, seconds: int) -> None:
    assert durations.parse_duration(text) == seconds


@pytest.mark.parametrize("bad", ["", " ", "30", "m", "30m1h", "1h1h", "-1h", "1.5h", "1 h", "soon", "٣m", 30, None, False])
def test_bad_duration(bad: object) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        durations.parse_duration(bad)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 seconds"),
        (1, "1 second"),
        (1800, "30 minutes"),
        (5400, "1 hour 30 minutes"),
        (28800, "8 hours"),
        (172805, "2 days"),
        (864000, "10 days"),
        (3661, "1 hour 1 minute"),
    ],
)
def test_format_duration(seconds: int, words: str) -> None:
    assert durations.format_duration(seconds) == words


@given(st.integers(0, 10**8))
def test_duration_words_read_back(seconds: int) -> None:
    text = re.sub(r"(\d+) (.)\w+", r"\1\2", durations.format_duration(seconds, parts=4))
    assert durations.parse_duration(text) <= seconds
    text = "".join(f"{n}{u}" for n, u in zip((seconds // 3600, seconds // 60 % 60, seconds % 60), "hms", strict=True))
    if seconds // 3600 < 10**9:
        assert durations.parse_duration(text) == seconds


user_names = st.text(min_size=1, max_size=80) | st.text(alphabet="aA-x2du.é", min_size=1, max_size=40)


@given(user_names)
def test_home_name_is_a_dns_label(user: str) -> None:
    home = names.home_name(user)
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?", home)
    assert len(home) <= names.HOME_LENGTH
    assert not home.startswith("xn--")


@given(user_names, user_names)
def test_home_name_is_injective(one: str, two: str) -> None:
    assert (names.home_name(one) == names.home_name(two)) == (one == two)


def _invert(home: str) -> str:
    """The user's name again, for homes without a hash: a left inverse proves that no two names meet."""
    text = home[2:] if home.startswith("u--") else home
    raw = re.sub(rb"-([0-9a-f]{2})", lambda m: bytes([int(m[1], 16)]), text.encode())
    return raw.decode("utf-8", "surrogatepass")


@given(user_names)
def test_home_name_inverts(user: str) -> None:
    home = names.home_name(user)
    if "---" not in home:
        assert _invert(home) == user
    else:
        assert len(home) > names.HOME_LENGTH - 4


@pytest.mark.parametrize(
    ("user", "home"),
    [("alice", "alice"), ("Alice", "u--41lice"), ("a.b", "a-2eb"), ("..", "u--2e-2e"), ("a@b.org", "a-40b-2eorg")],
)
def test_home_name_examples(user: str, home: str) -> None:
    assert names.home_name(user) == home


def test_empty_name() -> None:
    with pytest.raises(ValueError, match="empty"):
        names.home_name("")


@given(user_names, st.just("") | user_names, st.from_regex(r"[0-9a-f]{6}", fullmatch=True))
def test_service_name(user: str, server: str, token: str) -> None:
    name = names.service_name(names.home_name(user), server, token)
    assert re.fullmatch(r"mh-[a-z0-9-]*[a-z0-9]", name)
    assert len(name) <= 63


@pytest.mark.parametrize(("home", "token"), [("Alice", "abcdef"), ("", "abcdef"), ("a/b", "abcdef"), ("a", "xyz"), ("a", "abcdef\n")])
def test_bad_service_name(home: str, token: str) -> None:
    with pytest.raises(ValueError):
        names.service_name(home, "", token)


def test_network_name() -> None:
    assert names.network_name("internal") == "mh-internal"
    assert len(names.network_name("abcdefghijkl")) == 15
    for bad in ("", "abcdefghijklm", "Internal", "a-", "-a", "1a", "a_b", "a-cfg", "a\n"):
        with pytest.raises(ValueError, match="egress class"):
            names.network_name(bad)


@pytest.mark.parametrize(
    ("profile", "resource"),
    [
        ("1g.10gb", "MIG_1G_10GB"),
        ("7g.80gb", "MIG_7G_80GB"),
        ("1g.10gb+me", "MIG_1G_10GB_ME"),
        ("1g.5gb+me.all", "MIG_1G_5GB_ME_ALL"),
        ("1g.24gb-me", "MIG_1G_24GB_NOME"),
    ],
)
def test_mig_resource(profile: str, resource: str) -> None:
    assert names.mig_resource(profile) == resource


@pytest.mark.parametrize("bad", ["", "1g", "10gb", "1g.10gb ", "MIG 1g.10gb", "1g.10gb+x"])
def test_bad_mig_resource(bad: str) -> None:
    with pytest.raises(ValueError, match="MIG profile"):
        names.mig_resource(bad)
