"""The site as a running Ansible sees it: hosts, variables, inventory files and the operator's own certificates."""

from __future__ import annotations

import dataclasses
import datetime
import re
import typing as t
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml
from ansible.errors import AnsibleError
from ansible_collections.metalhub.platform.plugins.module_utils.inventory_files import Scan, scan_yaml
from ansible_collections.metalhub.platform.plugins.module_utils.model import GROUPS, Host, Problem, Site
from ansible_collections.metalhub.platform.plugins.plugin_utils.public_suffix import is_public_suffix

try:  # Where a value is written is a courtesy of ansible-core's internals: without it, messages are a line shorter.
    from ansible._internal._datatag._tags import Origin
except ImportError:  # pragma: no cover
    Origin = None

if t.TYPE_CHECKING:
    from ansible.plugins.action import ActionBase

COLLECTION = Path(__file__).resolve().parents[2]

# Files that an operator hands in, on the controller.
_BUNDLE = "metalhub_extra_ca_bundle"
_CERTIFICATE, _KEY = "traefik_certificate", "traefik_key"
_DENY_LISTS = "metalhub_egress_deny_lists"
_CERTIFICATE_WARNING = datetime.timedelta(days=14)


def load_specs(collection: Path = COLLECTION) -> tuple[dict[str, dict[str, t.Any]], tuple[str, ...]]:
    """Every declared variable with its spec, and the names of the roles."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    specs: dict[str, dict[str, t.Any]] = {}
    roles = []
    for path in sorted(collection.glob("roles/*/meta/argument_specs.yml")):
        roles.append(path.parents[1].name)
        document = yaml.load(path.read_bytes(), Loader=loader)
        for entry in document["argument_specs"].values():
            specs.update(entry.get("options") or {})
    return specs, tuple(roles)


class Reader:
    """Reads the site once; ``site`` is the result, ``sources`` says where each of our variables is written."""

    def __init__(self, action: ActionBase, task_vars: Mapping[str, t.Any], ignore: Sequence[str] = ()) -> None:
        self._action = action
        self._hostvars = task_vars["hostvars"]
        self._inventory = self._hostvars._inventory
        self.specs, self.roles = load_specs()
        self._origins: dict[str, t.Any] = {}
        # By identity; the values are kept so that their identities stay theirs.
        self._shared: dict[int, tuple[t.Any, bool, t.Any]] = {}
        self._scans = dict(_scan_sources(task_vars))
        names = [name for name in self._hostvars if not set(GROUPS).isdisjoint(self._groups(name))] or list(self._hostvars)
        hosts = tuple(self._host(name) for name in names)
        site = Site(hosts, self.specs, self.roles, tuple(ignore), is_public_suffix=is_public_suffix)
        lists, unread = _read_deny_lists(site.variable(_DENY_LISTS))
        findings = [*self._duplicates(), *self._certificates(hosts), *unread]
        self.site = dataclasses.replace(site, findings=tuple(findings), deny_lists=lists)

    def sources(self, problems: Sequence[Problem]) -> dict[str, str]:
        """File and line of the variables of these problems, as far as they are known."""
        return {p.variable: place for p in problems if (place := self._source(p.variable))}

    def hidden(self, problem: Problem) -> bool:
        """Whether the value of a problem may be a secret and must not be shown."""
        root = re.split(r"[.\[]", problem.variable)[0]
        return bool(self.specs.get(root, {}).get("no_log"))

    def _groups(self, name: str) -> set[str]:
        return {group.name for group in self._inventory.get_host(name).get_groups()}

    def _host(self, name: str) -> Host:
        raw = self._hostvars.raw_get(name)
        templar = self._action._templar.copy_with_new_env(available_variables={**raw, "hostvars": self._hostvars})
        prefixes = tuple(f"{role}_" for role in ("metalhub", *self.roles))
        values: dict[str, t.Any] = {}
        broken: dict[str, str] = {}
        for key, value in raw.items():
            if not key.startswith(prefixes):
                continue
            self._origins.setdefault(key, value)
            if not key.startswith("metalhub_") and _holds_template(value) and self._is_wiring(value):
                continue
            try:
                values[key] = self._evaluate(templar, value)
            except AnsibleError as error:
                broken[key] = str(error).splitlines()[0]
        facts = values.get("metalhub_host")
        facts = facts if isinstance(facts, dict) and facts.get("kernel") else None
        # Of a host that nobody has asked, what is made of its facts is not wrong, only not known yet.
        pending = frozenset(key for key, reason in broken.items() if facts is None and "metalhub_host" in reason)
        broken = {key: reason for key, reason in broken.items() if key not in pending}
        return Host(
            name, frozenset(self._groups(name)), values, broken=broken, pending=pending, facts=facts, group_pools=self._group_pools(name)
        )

    def _is_wiring(self, value: t.Any) -> bool:
        """Whether the platform itself makes a role's variable out of metalhub_ variables: those are judged, once."""
        origin = Origin.get_tag(value) if Origin and value is not None else None
        return bool(origin and origin.path and Path(origin.path).resolve().parent == COLLECTION / "group_vars/all")

    def _evaluate(self, templar: t.Any, value: t.Any) -> t.Any:
        """A variable's value. What holds no template is the same object for every host, and is looked at once."""
        if id(value) not in self._shared:
            self._shared[id(value)] = (value, _holds_template(value), None if _holds_template(value) else _plain(value))
        _, template, plain = self._shared[id(value)]
        return _plain(templar.template(value)) if template else plain

    def _group_pools(self, name: str) -> tuple[tuple[str, str], ...]:
        """The groups of a host that set metalhub_pool, without those that a group below them overrides."""
        host = self._inventory.get_host(name)
        if "metalhub_pool" in host.vars or self._file_pools("host_vars", name):
            return ()
        said: dict[t.Any, str] = {}
        for group in host.get_groups():
            pools = [*self._file_pools("group_vars", group.name)]
            if "metalhub_pool" in group.vars:
                pools.append(str(group.vars["metalhub_pool"]))
            if pools:
                said[group] = pools[-1]
        return tuple(
            (group.name, pool)
            for group, pool in said.items()
            if not any(group in other.get_ancestors() for other in said if other is not group)
        )

    def _file_pools(self, kind: str, name: str) -> list[str]:
        """Values of metalhub_pool in group_vars/<name>.yml, or below the directory group_vars/<name>."""
        found = []
        for path, scan in self._scans.items():
            parts = path.parts
            if kind in parts and re.sub(r"\.(ya?ml|json)$", "", parts[parts.index(kind) + 1]) == name:
                found += [value for key, value in scan.scalars if key == "metalhub_pool"]
        return found

    def _duplicates(self) -> Iterator[Problem]:
        for path, scan in self._scans.items():
            for duplicate in scan.duplicates:
                what = "A duplicate profile" if re.search(r"metalhub_profiles\.[^.]+$", duplicate.path) else "A duplicate key"
                where = f"in lines {duplicate.first} and {duplicate.second} of {_short(path)}"
                message = f"{what}: it is written twice, {where}, and the first would be lost."
                yield Problem(re.sub(r"^(all|[a-z_]+)\..*?vars\.", "", duplicate.path), None, None, message, "each key once")

    def _source(self, variable: str) -> str:
        keys = re.findall(r"[^.\[\]]+", variable)
        value = self._origins.get(keys[0])
        origin = Origin.get_tag(value) if Origin and value is not None else None
        for key in keys[1:]:
            value = value.get(key) if isinstance(value, Mapping) else None
            if value is None:
                break
            origin = (Origin.get_tag(value) if Origin else None) or origin
        if origin is None or not origin.path:
            return ""
        return f"{_short(Path(origin.path))}{f':{origin.line_num}' if origin.line_num else ''}"

    def _certificates(self, hosts: Sequence[Host]) -> Iterator[Problem]:
        seen = set()
        for host in hosts:
            wanted = [(_BUNDLE, host.variables.get(_BUNDLE), None, None)]
            # In its other modes, these are paths on the host, which the platform writes itself.
            if host.variables.get("traefik_tls") == "files":
                wanted.append((_CERTIFICATE, host.variables.get(_CERTIFICATE), _KEY, host.variables.get(_KEY)))
            for variable, path, key_variable, key in wanted:
                if (variable, str(path), str(key)) in seen:
                    continue
                seen.add((variable, str(path), str(key)))
                if isinstance(path, str) and path:
                    yield from _check_certificate(variable, path, key_variable, key)
                elif key_variable:
                    yield Problem(variable, path, None, "With traefik_tls: files a certificate is needed.", "a PEM file on the controller")


def _short(path: Path) -> str:
    """A path below the working directory without it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _holds_template(value: t.Any) -> bool:
    if isinstance(value, Mapping):
        return any(_holds_template(item) for item in value.values())
    if isinstance(value, (list, tuple)):
        return any(_holds_template(item) for item in value)
    return not (value is None or isinstance(value, (bool, int, float))) and (not isinstance(value, str) or "{" in value)


def _plain(value: t.Any) -> t.Any:
    """A value of which every part has been evaluated (containers of the templar evaluate on access)."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    return str(value)  # a vaulted text decrypts here, dates become text


def _scan_sources(task_vars: Mapping[str, t.Any]) -> Iterator[tuple[Path, Scan]]:
    """The YAML files of the inventory's sources, with the variables beside them and beside the playbook."""
    files: dict[Path, None] = {}
    sources = [Path(str(source)) for source in task_vars.get("ansible_inventory_sources") or [] if "," not in str(source)]
    for source in sources:
        roots = [source] if source.is_dir() else [source, source.parent / "group_vars", source.parent / "host_vars"]
        for root in roots:
            files.update(dict.fromkeys(_files(root)))
    for name in ("group_vars", "host_vars"):
        files.update(dict.fromkeys(_files(Path(str(task_vars.get("playbook_dir", "."))) / name)))
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        if not text.startswith(("$ANSIBLE_VAULT", "#!")):
            yield path, scan_yaml(text)


def _files(root: Path, depth: int = 6) -> Iterator[Path]:
    """YAML files below a path, links followed, hidden ones left out as Ansible does."""
    if root.is_file():
        if root.suffix in ("", ".yml", ".yaml", ".json"):
            yield root
    elif root.is_dir() and depth:
        for path in sorted(root.iterdir()):
            if not path.name.startswith(".") and not path.name.endswith("~"):
                yield from _files(path, depth - 1)


def _read_deny_lists(value: t.Any) -> tuple[dict[str, str], list[Problem]]:
    """The texts of the deny lists, and those that cannot be read."""
    texts: dict[str, str] = {}
    problems = []
    for name, path in value.items() if isinstance(value, Mapping) else ():
        try:
            texts[str(name)] = Path(str(path)).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            message = f"The list cannot be read: {getattr(error, 'strerror', None) or 'it is not text'}."
            problems.append(Problem(f"{_DENY_LISTS}.{name}", path, None, message, "a text file on the controller, one destination a line"))
    return texts, problems


def _check_certificate(variable: str, path: str, key_variable: str | None, key_path: t.Any) -> Iterator[Problem]:
    """An operator's certificate: readable, PEM, in its time; and that the key is its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    legal = "a PEM file on the controller"
    try:
        certificates = x509.load_pem_x509_certificates(Path(path).expanduser().read_bytes())
    except OSError as error:
        yield Problem(variable, path, None, f"The certificate cannot be read: {error.strerror}.", legal)
        return
    except ValueError:
        yield Problem(variable, path, None, "There is no certificate in the file.", legal)
        return
    now = datetime.datetime.now(datetime.timezone.utc)
    first = certificates[0]
    end = first.not_valid_after_utc
    if key_variable is None:
        return  # a bundle of authorities holds many, and an old one among them does no harm
    if now > end:
        yield Problem(variable, path, None, f"The certificate ended on {end:%Y-%m-%d}.", "a certificate that is valid now")
    elif now < first.not_valid_before_utc:
        yield Problem(
            variable, path, None, f"The certificate begins on {first.not_valid_before_utc:%Y-%m-%d}.", "a certificate that is valid now"
        )
    elif now > end - _CERTIFICATE_WARNING:
        yield Problem(variable, path, None, f"The certificate ends on {end:%Y-%m-%d}.", warning=True)
    if not isinstance(key_path, str) or not key_path:
        yield Problem(key_variable, None, None, f"{variable} is given, and its key is not.", legal)
        return
    try:
        key = serialization.load_pem_private_key(Path(key_path).expanduser().read_bytes(), None)
    except OSError as error:
        yield Problem(key_variable, key_path, None, f"The key cannot be read: {error.strerror}.", legal)
        return
    except (ValueError, TypeError):
        yield Problem(key_variable, key_path, None, "There is no key without a passphrase in the file.", legal)
        return
    if key.public_key() != first.public_key():
        yield Problem(key_variable, key_path, None, f"The key is not that of the certificate {path}.", "the certificate's own key")
