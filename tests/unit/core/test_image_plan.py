"""Tags say what an image is made of, and the order lets every image find the one that it is built on."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from ansible.errors import AnsibleError
from ansible_collections.metalhub.platform.plugins.module_utils.image_plan import ContextFile, base_of, build_order, pack, tag_of
from ansible_collections.metalhub.platform.plugins.plugin_utils.images import read_plan
from hypothesis import given
from hypothesis import strategies as st

names = st.text("abcdef", min_size=1, max_size=4)
contexts = st.dictionaries(names, st.builds(ContextFile, content=st.binary(max_size=20), executable=st.booleans()), max_size=5)


@given(contexts, contexts)
def test_the_same_files_and_only_these_give_the_same_archive(one: dict[str, ContextFile], other: dict[str, ContextFile]) -> None:
    assert pack(one) == pack(dict(reversed(one.items())))
    assert (pack(one) == pack(other)) == (one == other)


def test_archive_holds_what_it_was_given() -> None:
    files = {"a/run": ContextFile(b"#!/bin/sh\n", True), "b": ContextFile(link="a/run")}
    with tarfile.open(fileobj=io.BytesIO(pack(files))) as archive:
        members = {member.name: member for member in archive}
        assert members["a/run"].mode == 0o755
        assert members["b"].linkname == "a/run"
        stream = archive.extractfile("a/run")
        assert stream is not None
        assert stream.read() == b"#!/bin/sh\n"


parts = st.dictionaries(names, st.binary(max_size=5), max_size=4)


@given(parts, parts)
def test_tags_tell_parts_apart(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    assert (tag_of(**one) == tag_of(**other)) == (one == other)
    assert len(tag_of(**one)) == 33


@pytest.mark.parametrize(
    ("line", "base"),
    [
        ("ARG BASE_IMAGE=metalhub/lab", "lab"),
        ('ARG BASE_IMAGE="metalhub/lab"', "lab"),
        ("ARG BASE_IMAGE=debian:trixie-slim", ""),
        ("# ARG BASE_IMAGE=metalhub/lab", ""),
        ("ARG OTHER=metalhub/lab", ""),
    ],
)
def test_base_is_read_from_the_dockerfile(line: str, base: str) -> None:
    assert base_of(f"# An image.\n{line}\nFROM ${{BASE_IMAGE}}\n") == base


@given(st.data())
def test_every_image_comes_after_its_base(data: st.DataObject) -> None:
    images = data.draw(st.lists(names, unique=True))
    bases = {name: data.draw(st.sampled_from(["", *images[:position]])) for position, name in enumerate(images)}
    order = build_order(bases)
    assert sorted(order) == sorted(images)
    assert all(not base or order.index(base) < order.index(name) for name, base in bases.items())


@pytest.mark.parametrize(
    ("bases", "message"),
    [
        ({"a": "b", "b": "a"}, "a -> b -> a: images are built on each other in a circle"),
        ({"a": "a"}, "a -> a: images are built on each other"),
        ({"a": "lost"}, "a: it is built on metalhub/lost, and there is no image lost; there are a"),
    ],
)
def test_impossible_orders_are_refused(bases: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_order(bases)


def context(directory: Path, dockerfile: str) -> dict[str, str]:
    directory.mkdir()
    (directory / "Dockerfile").write_text(dockerfile)
    return {"build": str(directory)}


def test_a_change_below_reaches_what_is_built_on_it(tmp_path: Path) -> None:
    images = {
        "top": context(tmp_path / "top", "ARG BASE_IMAGE=metalhub/low\nFROM $BASE_IMAGE\n"),
        "low": context(tmp_path / "low", "FROM scratch\n"),
        "other": context(tmp_path / "other", "FROM scratch\n"),
    }
    before = {item.name: item.tag for item in read_plan(images, "", "", {})}
    assert list(before) == ["low", "other", "top"]
    (tmp_path / "low" / "file").write_text("x")
    after = {item.name: item.tag for item in read_plan(images, "", "", {})}
    assert {name for name in before if before[name] != after[name]} == {"low", "top"}
    assert read_plan(images, "", "debian:13", {})[0].tag != after["low"]
    assert read_plan(images, "", "", {"A": "1"})[0].tag != after["low"]


def test_the_sites_own_authorities_are_part_of_an_image(tmp_path: Path) -> None:
    images = {"low": context(tmp_path / "low", "FROM scratch\n")}
    bundle = tmp_path / "ca.pem"
    tags = set()
    for content in ("one", "two"):
        bundle.write_text(content)
        tags.add(read_plan(images, str(bundle), "", {})[0].tag)
    assert len(tags) == 2


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({}, "images_images.lab: it has nothing; legal is one of build, reference, archive"),
        ({"build": "lab", "reference": "x"}, "it has build, reference; legal is one of"),
        ({"build": "no-such-directory"}, "no-such-directory has no Dockerfile"),
        ({"archive": "/no/such/archive"}, "/no/such/archive: No such file"),
    ],
)
def test_wrong_images_are_named(image: dict[str, str], message: str) -> None:
    with pytest.raises(AnsibleError, match=message):
        read_plan({"lab": image}, "", "", {})


def test_our_own_images_have_a_plan() -> None:
    names = [path.parent.name for path in (Path(__file__).parents[3] / "files" / "images").glob("*/Dockerfile")]
    assert {item.name for item in read_plan({name: {"build": name} for name in names}, "", "", {})} == set(names)
