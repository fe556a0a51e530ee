"""What holds for every role and file of the collection."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible_collections.metalhub.platform.plugins.module_utils.specs import check_value

ROOT = Path(__file__).parents[3]
ROLES = sorted(path.parents[1] for path in ROOT.glob("roles/*/tasks/main.yml"))
LISTING = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True)
TRACKED = [ROOT / name for name in LISTING.stdout.splitlines()]
FILES = [path for path in TRACKED if path.is_file() and not path.is_symlink()]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text()) if path.exists() else None


def holds_template(value: object) -> bool:
    return isinstance(value, str) and "{{" in value


@pytest.mark.parametrize("role", ROLES, ids=lambda p: p.name)
def test_specs_agree_with_defaults(role: Path) -> None:
    entries = load(role / "meta/argument_specs.yml")["argument_specs"]
    options = entries["main"].get("options") or {}
    defaults = load(role / "defaults/main.yml") or {}
    assert all(name.startswith(f"{role.name}_") for name in [*options, *defaults])
    assert set(defaults) <= set(options), "a default that no spec declares"
    without = {name for name, spec in options.items() if name not in defaults and not spec.get("required")}
    assert not without, "neither required nor with a default"
    for name, spec in options.items():
        assert spec.get("description"), name
        if name in defaults:
            assert not spec.get("required"), f"{name} is required and has a default"
            if not holds_template(defaults[name]):
                assert not list(check_value(name, defaults[name], spec)), name
            if "default" in spec:
                assert spec["default"] == defaults[name], name
        else:
            assert "default" not in spec, f"{name}: a default in the spec alone is never set"


def test_platform_variables_agree_with_their_defaults() -> None:
    options = load(ROOT / "roles/preflight/meta/argument_specs.yml")["argument_specs"]["metalhub"]["options"]
    defaults = load(ROOT / "group_vars/all/metalhub.yml")
    assert set(defaults) <= set(options)
    assert set(options) - set(defaults) == {"metalhub_domain", "metalhub_pool"}
    for name, value in defaults.items():
        if not holds_template(value):
            assert not list(check_value(name, value, options[name])), name


@pytest.mark.parametrize("path", sorted((ROOT / "group_vars/all").glob("*.yml")), ids=lambda p: p.name)
def test_fleet_values_are_declared(path: Path) -> None:
    declared = {
        name
        for specs in ROOT.glob("roles/*/meta/argument_specs.yml")
        for entry in load(specs)["argument_specs"].values()
        for name in entry.get("options") or {}
    }
    assert {name for name in load(path) or {} if not name.startswith("__")} <= declared


@pytest.mark.parametrize("role", ROLES, ids=lambda p: p.name)
def test_role_is_complete(role: Path) -> None:
    for name in ("README.md", "meta/argument_specs.yml", "defaults/main.yml"):
        assert (role / name).is_file(), name


def test_tables_of_readmes_are_fresh() -> None:
    done = subprocess.run([sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", [p for p in FILES if p.suffix in (".yml", ".yaml")], ids=relative)
def test_yaml_parses(path: Path) -> None:
    DataLoader().load_from_file(str(path), unsafe=True)


@pytest.mark.parametrize("path", [p for p in FILES if p.suffix == ".py"], ids=relative)
def test_python_parses(path: Path) -> None:
    ast.parse(path.read_text(), filename=str(path))


@pytest.mark.parametrize("path", [p for p in FILES if p.suffix == ".j2"], ids=relative)
def test_template_parses(path: Path) -> None:
    jinja2.Environment(extensions=["jinja2.ext.do", "jinja2.ext.loopcontrols"]).parse(path.read_text())


# On the host: clients of the engine's socket, and what the MIG module and its boot unit do to files.
EDGES = {"engine_api.py", "node_service.py", "image_engine.py", "mig_host.py"}


@pytest.mark.parametrize("path", sorted(p for p in ROOT.glob("plugins/module_utils/*.py") if p.name not in EDGES), ids=lambda p: p.name)
def test_pure_core_stays_pure(path: Path) -> None:
    """The hub ships these files: they import neither Ansible nor what does I/O."""
    allowed = set(sys.stdlib_module_names) - {"os", "subprocess", "socket", "pathlib", "shutil", "urllib", "http"} | {"yaml"}
    for node in ast.walk(ast.parse(path.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module or ""]
        assert {name.split(".")[0] for name in names} <= allowed, names


@pytest.mark.parametrize("site", sorted(p.parent for p in ROOT.glob("inventories/*/hosts.yml")), ids=lambda p: p.name)
def test_inventory_loads_the_defaults_first(site: Path) -> None:
    link = site / "group_vars/all/00-metalhub"
    assert link.is_symlink()
    assert link.resolve() == ROOT / "group_vars/all"
    assert sorted(p.name for p in link.parent.iterdir())[0] == link.name


def on_hosts() -> set[Path]:
    """The Python that hosts run, which may be 3.9 (RHEL 9): modules, programs of roles, and what of the core they import."""
    found: set[Path] = set()
    programs = [path for path in FILES if "/files/" in relative(path) and path.read_bytes().startswith(b"#!/usr/bin/python3")]
    left = [*ROOT.glob("plugins/modules/*.py"), *programs]
    while left:
        path = left.pop()
        if path in found:
            continue
        found.add(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                package = (node.module or "").split(".")[-1]
                names = [package] if package not in ("", "module_utils", "metalhub_mig") else [each.name for each in node.names]
                core = (ROOT / "plugins/module_utils" / f"{name}.py" for name in names)
                left += [each for each in core if each.exists()]
    return found


@pytest.mark.parametrize("path", sorted(on_hosts()), ids=relative)
def test_what_runs_on_hosts_runs_with_their_python(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
    annotations = {
        id(node)
        for holder in ast.walk(tree)
        for annotation in (getattr(holder, "annotation", None), getattr(holder, "returns", None))
        if annotation is not None
        for node in ast.walk(annotation)
    }
    for node in ast.walk(tree):
        # Unions of types that are computed, and not only annotated, came with 3.10; so did these arguments.
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr) and id(node) not in annotations:
            assert not any(isinstance(side, ast.Constant) and side.value is None for side in (node.left, node.right)), ast.unparse(node)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("zip", "dataclass", "dataclasses.dataclass"):
            assert not {"strict", "slots", "kw_only"} & {keyword.arg for keyword in node.keywords}, ast.unparse(node)
