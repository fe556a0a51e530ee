"""Each filter is documented, and the result that its example promises is what it returns."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
import yaml
from ansible.errors import AnsibleError, AnsibleUndefinedVariable
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

FILTERS = Path(__file__).parents[3] / "plugins/filter"


@pytest.mark.parametrize("path", sorted(FILTERS.glob("*.yml")), ids=lambda p: p.stem)
def test_example(path: Path) -> None:
    document = yaml.safe_load(path.read_text())
    assert document["DOCUMENTATION"]["name"] == path.stem
    assert f"metalhub.platform.{path.stem}" in document["EXAMPLES"]
    text = document["EXAMPLES"]
    example = text if text.lstrip().startswith("{{") else next(iter(yaml.safe_load(text).values()))
    try:
        result = Templar(loader=DataLoader(), variables={}).template(trust_as_template(example))
    except AnsibleUndefinedVariable:
        pytest.skip("the example needs a role's variables")
    if promised := re.search(r"# The result is (.*)", document["EXAMPLES"]):
        assert result == yaml.safe_load(promised[1])


def test_every_filter_is_documented() -> None:
    names = set()
    for path in FILTERS.glob("*.py"):
        module = importlib.import_module(f"ansible_collections.metalhub.platform.plugins.filter.{path.stem}")
        names |= set(module.FilterModule().filters())
    assert names == {path.stem for path in FILTERS.glob("*.yml")}


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("'8' | metalhub.platform.parse_size", "is not a size"),
        ("{'a': {'subnet': 'x'}} | metalhub.platform.site_egress", "metalhub_egress_classes.a"),
    ],
)
def test_bad_input(expression: str, words: str) -> None:
    with pytest.raises(AnsibleError, match=words):
        Templar(loader=DataLoader(), variables={}).template(trust_as_template("{{ " + expression + " }}"))


def test_destinations_of_a_class() -> None:
    classes = "{'lan': {'subnet': '10.231.0.0/20', 'allow': ['10.0.0.5:443', '2001:db8::/32']}}"
    (found,) = Templar(loader=DataLoader(), variables={}).template(
        trust_as_template(f"{{{{ {classes} | metalhub.platform.site_egress }}}}")
    )
    assert found["allow"] == [
        {"network": "10.0.0.5/32", "version": 4, "port": 443},
        {"network": "2001:db8::/32", "version": 6, "port": None},
    ]
