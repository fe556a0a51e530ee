"""What is asked of accounts, read and refused."""

from __future__ import annotations

import math

import pytest
from metalhub_hub.core.accounts import MOST, Invitation, Person, bits, read_batch, read_invitation, read_people


def test_a_batch_is_names_with_their_groups() -> None:
    text = "\n# the course\nann, course ,lab\r\nBob\n  carol,course,course  \n"
    assert read_batch(text) == (Person("ann", ("course", "lab")), Person("bob"), Person("carol", ("course",)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no name in it"),
        ("# nobody\n\n", "there is no name in it"),
        ("ann\nann\n", "line 2: 'ann' is in line 1 already"),
        ("ann\nAnn,x\n", "line 2: 'ann' is in line 1 already"),
        ("a b\n", "line 1: 'a b' is not a name"),
        ("a/b\n", "line 1: 'a/b' is not a name"),
        (",x\n", "line 1: '' is not a name"),
        ("ann,,x\n", "line 1: '' is not a group's name"),
        ("ann,-x\n", "line 1: '-x' is not a group's name"),
        ("x" * 65, "is not a name"),
        ("\n".join(f"u{n}" for n in range(MOST + 1)), f"legal are at most {MOST} at once"),
        ("a b\nok\nc d\n", "line 1: 'a b' is not a name: legal is a name of at most 64 characters without spaces, commas and slashes; line 3:"),
    ],
)
def test_a_wrong_line_refuses_the_whole_batch(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_batch(text)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data", [None, {}, [], "ann", [{}], [{"name": 3}], [{"name": "ann", "admin": True}], [{"name": "ann"}, {"name": "ANN"}], [{"name": "a", "groups": "x"}]]
)
def test_people_that_are_none(data: object) -> None:
    with pytest.raises(ValueError):
        read_people(data)


def test_people() -> None:
    assert read_people([{"name": "Ann", "groups": ["x", "x"]}, {"name": "bob"}]) == (Person("ann", ("x",)), Person("bob"))


def test_an_invitation() -> None:
    asked = {"email": "ann@example.org", "groups": ["lab"], "quota": "gpu=8h/day, sessions=3", "profiles": ["big"], "expires": "2d"}
    expected = Invitation("ann@example.org", "", ("lab",), "sessions=3, gpu=8h/day", ("big",), 172800)
    assert read_invitation(asked, {"lab"}, {"big"}) == expected
    assert read_invitation({}, set(), set()) == Invitation()
    assert read_invitation({"name": "Ann"}, set(), set()).name == "ann"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "the body is []"),
        ({"admin": True}, "legal is an object with email, name, groups, quota, profiles, expires"),
        ({"email": "ann"}, "email: 'ann' is not an address"),
        ({"email": "ann@example.org\nBcc: all@example.org"}, "is not an address"),
        ({"email": "a@b@c"}, "is not an address"),
        ({"email": 7}, "email is 7"),
        ({"name": "a b"}, "'a b' is not a name"),
        ({"groups": ["nobody"]}, "groups: there is no 'nobody'; legal are lab"),
        ({"groups": "lab"}, "groups is 'lab'"),
        ({"profiles": ["small"]}, "profiles: there is no 'small'; legal are big"),
        ({"profiles": [["big"]]}, "profiles: there is no ['big']"),
        ({"profiles": "big"}, "profiles is 'big'"),
        ({"quota": "gpu=8h"}, "quota: 'gpu=8h' is not a quota"),
        ({"expires": "soon"}, "expires: 'soon' is not a duration"),
        ({"expires": "0s"}, "expires: '0s' is not legal"),
        ({"expires": "400d"}, "expires: '400d' is not legal"),
        ({"expires": 7}, "expires: 7 is not a duration"),
    ],
)
def test_a_wrong_invitation_names_what_is_legal(data: object, message: str) -> None:
    with pytest.raises(ValueError, match="^") as caught:
        read_invitation(data, ["lab"], ["big"])
    assert message in str(caught.value)


def test_bits() -> None:
    assert math.isclose(bits(4, 7776), math.log2(7776**4)) and 51 < bits(4, 7776) < 52
