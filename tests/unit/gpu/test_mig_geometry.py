"""Which MIG layouts a GPU can have: the tables, names, and legality against an enumeration that shares no code with it."""

from __future__ import annotations

import itertools

import mig_brute
import pytest
from ansible_collections.metalhub.platform.plugins.module_utils import mig_geometry as geometry
from ansible_collections.metalhub.platform.plugins.module_utils.mig_geometry import Model, Placement, Profile

H100 = geometry.model("H100-80GB")
# One model of each geometry; the others differ in names only.
SHAPES = [geometry.model(name) for name in ("A30-24GB", "A100-40GB", "H100-80GB", "GB200-186GB", "RTX-PRO-6000-96GB")]


def layout(text: str) -> list[Placement]:
    """``3g.40gb@4 1g.10gb@0`` as placements."""
    return [Placement(int(start), name) for name, start in (word.split("@") for word in text.split())]


@pytest.mark.parametrize("model", SHAPES, ids=lambda model: model.name)
def test_layouts_are_those_of_an_independent_enumeration(model):
    expected = mig_brute.layouts(model)
    layouts = geometry.all_layouts(model)
    assert {frozenset((p.start, p.profile) for p in each) for each in layouts} == expected
    assert len(layouts) == len(expected)
    maximal = {each for each in expected if not any(each < other for other in expected)}
    assert {frozenset((p.start, p.profile) for p in each) for each in geometry.maximal_layouts(model)} == maximal


def test_the_plain_profiles_fill_an_a100_in_19_ways():
    plain = {"1g.5gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb"}
    model = geometry.model("A100-40GB")
    only = Model.from_driver("plain", [profile for profile in model.profiles if profile.name in plain])
    assert len(geometry.maximal_layouts(only)) == 19


@pytest.mark.parametrize("model", geometry.MODELS, ids=lambda model: model.name)
def test_tables_agree_with_themselves(model):
    names = [name for profile in model.profiles for name in (profile.name, *profile.aliases)]
    assert len(names) == len(set(names))
    assert len({profile.driver_id for profile in model.profiles}) == len(model.profiles)
    for profile in model.profiles:
        assert profile.compute == int(profile.name.split("g")[0])
        assert max(profile.starts) + profile.slots <= model.slots
        # As many of a profile as its most fit alone, and never more.
        fits = max(
            count
            for count in range(len(profile.starts) + 1)
            for starts in itertools.combinations(profile.starts, count)
            if all(b - a >= profile.slots for a, b in itertools.pairwise(starts))
        )
        assert profile.max_count == (1 if "+me" in profile.name else fits)
    largest = max(model.profiles, key=lambda profile: (profile.compute, -len(profile.name)))
    assert f"{largest.name.split('.')[1].upper()}" == model.name.rsplit("-", 1)[1]


@pytest.mark.parametrize("form", ["0x2330", "2330", 0x2330, "0x233010DE", "0x233010de", 0x233010DE, "H100-80GB", "2331"])
def test_model(form):
    assert geometry.model(form) is H100


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("H100-80G", "'H100-80G' is not a GPU model with MIG (nearest: H100-80GB): write one of A30-24GB, "),
        ("h100-80gb", "is not a GPU model with MIG"),
        ("0x1EB8", "device id 0x1EB8 is not a GPU with MIG that is known here"),
        ("0x23301002", "is not a GPU model with MIG"),
        ("", "'' is not a GPU model with MIG: write"),
        (True, "True is not a GPU model with MIG: write"),
        (-1, "-1 is not a GPU model"),
    ],
)
def test_unknown_model(form, words):
    with pytest.raises(ValueError) as error:
        geometry.model(form)
    assert words in str(error.value)


def test_only_ampere_needs_a_reset():
    assert {model.name.split("-")[0] for model in geometry.MODELS if model.needs_reset} == {"A30", "A100", "A800"}


def test_profile_names_that_drivers_round_are_matched_by_table_only():
    assert H100.profile("3g.39gb").name == "3g.40gb"
    assert geometry.model("GB200-186GB").profile("1g.24gb+me").name == "1g.23gb+me"
    with pytest.raises(
        ValueError, match=r"'1g.11gb' is not a profile of H100-80GB \(nearest: 1g.10gb\): it has 1g.10gb, 1g.10gb\+me, 1g.20gb, 2g"
    ):
        H100.profile("1g.11gb")


@pytest.mark.parametrize(
    "text", ["", "7g.80gb@0", "4g.40gb@0 3g.40gb@4", "1g.10gb@0 1g.10gb@1 1g.10gb@2 1g.10gb@3 3g.40gb@4", "1g.20gb@6 1g.10gb+me@0"]
)
def test_legal(text):
    assert geometry.legal(H100, layout(text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1g.11gb@0", "'1g.11gb' is not a profile of H100-80GB"),
        ("1g.10gb@7", "1g.10gb cannot start at 7 on H100-80GB: it starts at 0, 1, 2, 3, 4, 5 or 6"),
        ("4g.40gb@4", "4g.40gb cannot start at 4 on H100-80GB: it starts at 0"),
        ("3g.40gb@0 1g.10gb@3", "1g.10gb@3 and 3g.40gb@0 overlap in memory slot 3 of H100-80GB"),
        ("1g.10gb+me@0 1g.10gb+me@1", "2 of 1g.10gb+me are more than the 1 that H100-80GB can have"),
    ],
)
def test_why_illegal(text, words):
    assert geometry.why_illegal(H100, layout(text)).startswith(words)


def test_media_extensions_are_one_a_gpu_whatever_the_profile():
    found = geometry.why_illegal(geometry.model("A30-24GB"), layout("1g.6gb+me@0 2g.12gb+me@2"))
    assert found == "1g.6gb+me and 2g.12gb+me both need the media extensions, and A30-24GB gives them to one instance"


def driver(name: str, number: int, most: int, starts: tuple[int, ...], size: int) -> Profile:
    return Profile.from_driver(name, number, most, starts, size)


def test_a_model_of_the_drivers_own_list():
    listed = [
        driver("MIG 1g.24gb-me", 67, 4, (0, 3, 6, 9), 3),
        driver("1g.24gb", 14, 4, (0, 3, 6, 9), 3),
        driver("1g.24gb+me.all", 65, 1, (0, 3, 6, 9), 3),
    ]
    model = Model.from_driver("RTX-PRO-6000-96GB", [*listed, driver("4g.96gb", 0, 1, (0,), 12)])
    assert (model.slots, model.compute) == (12, 4)
    assert geometry.legal(model, layout("1g.24gb+me.all@0 1g.24gb-me@3"))
    assert "takes all media engines" in str(geometry.why_illegal(model, layout("1g.24gb+me.all@0 1g.24gb@3")))


@pytest.mark.parametrize(
    ("name", "most", "starts", "size", "words"),
    [
        ("big", 1, (0,), 1, "'big' is not a MIG profile"),
        ("1g.5gb", 0, (0,), 1, "is not a driver's line"),
        ("1g.5gb", 1, (), 1, "is not a driver's line"),
    ],
)
def test_a_bad_line_of_the_driver(name, most, starts, size, words):
    with pytest.raises(ValueError, match=words):
        driver(name, 1, most, starts, size)


def test_a_bad_list_of_the_driver():
    with pytest.raises(ValueError, match="the driver lists no MIG profile for T4"):
        Model.from_driver("T4", [])
    with pytest.raises(ValueError, match="names 1g.5gb twice"):
        Model.from_driver("A100-40GB", [driver("1g.5gb", 19, 7, (0,), 1)] * 2)
