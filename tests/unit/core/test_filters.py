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


def test_bad_input() -> None:
    with pytest.raises(AnsibleError, match="is not a size"):
        Templar(loader=DataLoader(), variables={}).template(trust_as_template("{{ '8' | metalhub.platform.parse_size }}"))
