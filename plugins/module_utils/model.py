"""The site that an inventory describes, and everything that can be wrong with it.

``check_site`` looks at all hosts at once and returns every problem it finds, so that an operator mends them in one go.
Nothing here reads a file or a host: facts, specs and findings about files are handed in.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .egress import BUILT_IN, compile_policy, parse_subnet, problems
from .names import mig_resource
from .profiles import NAME, NAME_LEGAL, PROFILE, World, profile_doubts, profile_faults, title_faults
from .quotas import QuotaError, covers, gpu_resource, parse_quota
from .sandboxes import SANDBOXES, hibernation_refusal, session_sandbox
from .showback import rate_faults
from .sizes import format_size, parse_size
from .specs import Fault, Spec, check_options, check_value, listed, nearest
from .start_queue import PRIORITY_LEGAL, legal_priority
from .zones import LEGAL as ZONE_LEGAL
from .zones import read_zone

# Set by the platform while it runs, not by an operator.
RUNTIME_VARIABLES = frozenset(["metalhub_host"])
# May differ between hosts; every other metalhub_ variable describes the site and must not.
HOST_VARIABLES = frozenset(["metalhub_address", "metalhub_gpu_support", "metalhub_pool", *RUNTIME_VARIABLES])

# Distribution -> major versions, or whole versions where the major says too little.
DISTRIBUTIONS: Mapping[str, tuple[str, ...]] = {
    "debian": ("12", "13"),
    "ubuntu": ("22.04", "24.04"),
    "rhel": ("9",),
    "rocky": ("9",),
    "almalinux": ("9",),
    "centos": ("9",),
    "ol": ("9",),
}
DISTRIBUTIONS_LEGAL = "Debian 12 and 13, Ubuntu 22.04 and 24.04, RHEL 9 and its rebuilds"
ARCHITECTURES = ("x86_64", "aarch64")

# A login fails when a certificate or a token seems to come from the future; chrony mends small differences.
SKEW_LIMIT = 240
SKEW_WARNING = 30
DISK_WARNING = 5 * 2**30

_TEXT: Spec = {"type": "str"}
_NEEDED_TEXT: Spec = {"type": "str", "required": True}
_GPU: Mapping[str, Spec] = {"profile": _TEXT, "model": _TEXT, "count": {"type": "int"}}
POOL: Mapping[str, Spec] = {"sandbox": {**_NEEDED_TEXT, "choices": SANDBOXES}, "title": _TEXT, "description": _TEXT}
FLAVOR: Mapping[str, Spec] = {
    "title": _TEXT,
    "description": _TEXT,
    "cpus": {"type": "float", "required": True},
    "memory": {"type": "size", "required": True},
    "gpu": {"type": "dict", "options": _GPU},
}
IMAGE: Mapping[str, Spec] = {
    "title": _TEXT,
    "description": _TEXT,
    "build": {"type": "path"},
    "reference": _TEXT,
    "archive": {"type": "path"},
}
QUOTAS: Mapping[str, Spec] = {"default": _TEXT, "groups": {"type": "dict"}, "users": {"type": "dict"}}

_REFERENCE = re.compile(r"[a-z0-9.-]+(?::\d+)?(?:/[a-z0-9._-]+)+(?::[\w.-]+)?@sha256:[0-9a-f]{64}", re.ASCII)

_CONTROL, _MANAGERS, _COMPUTE = "metalhub_control", "metalhub_managers", "metalhub_compute"
_STORAGE, _REGISTRY, _BUILDERS = "metalhub_storage", "metalhub_registry", "metalhub_builders"
_CLASSES = "metalhub_egress_classes"
_NOTES = 20
GROUPS = (_CONTROL, _MANAGERS, _COMPUTE, _STORAGE, _REGISTRY, _BUILDERS)


@dataclass(frozen=True)
class Host:
    """One host of the inventory.

    ``variables`` are those with our prefixes, evaluated; ``broken`` those whose template cannot be evaluated, with the
    reason; ``pending`` those that need facts of a host that nobody asked. ``facts`` are those of hostfacts, or None when
    nobody asked the host. ``group_pools`` lists each group of the host that sets ``metalhub_pool``, unless another group
    of the host lies below it.
    """

    name: str
    groups: frozenset[str] = frozenset()
    variables: Mapping[str, object] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)
    pending: frozenset[str] = frozenset()
    facts: Mapping[str, object] | None = None
    group_pools: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Problem:
    """One thing to mend. ``host`` is None when it concerns the site; a warning does not stop a run."""

    variable: str
    value: object
    host: str | None
    message: str
    legal: str = ""
    warning: bool = False


@dataclass(frozen=True)
class Site:
    """All that is judged together: hosts, the declared variables, the roles' names, and findings made by the caller.

    ``deny_lists`` are the texts of the files in ``metalhub_egress_deny_lists`` that the caller could read, and ``is_public_suffix`` says
    of a name whether it is a public suffix or has one below it.
    """

    hosts: tuple[Host, ...]
    specs: Mapping[str, Spec]
    roles: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    findings: tuple[Problem, ...] = ()
    deny_lists: Mapping[str, str] = field(default_factory=dict)
    is_public_suffix: Callable[[str], bool] | None = None

    def group(self, name: str) -> list[Host]:
        """The hosts of a group, in the inventory's order."""
        return [host for host in self.hosts if name in host.groups]

    def members(self) -> list[Host]:
        """The hosts that are changed into a part of the platform; a machine that only builds images stays as it is."""
        return [host for host in self.hosts if host.groups.intersection(GROUPS) != {_BUILDERS}]

    def variable(self, name: str) -> object:
        """A variable of the site, as the control host sees it."""
        judge = next(iter(self.group(_CONTROL) or self.hosts), None)
        return judge.variables.get(name) if judge else None

    def table(self, name: str) -> dict[str, Mapping[str, object]]:
        """The well-formed entries of a variable that maps names to mappings; the rest is reported elsewhere."""
        value = self.variable(name)
        if not isinstance(value, Mapping):
            return {}
        return {str(key): entry for key, entry in value.items() if isinstance(entry, Mapping)}


def check_site(site: Site) -> list[Problem]:
    """Every problem of the site, errors first, each once; problems that all hosts share lose their host."""
    if site.hosts and not any(host.variables.get("metalhub_defaults_loaded") for host in site.hosts):
        return [
            Problem(
                "metalhub_defaults_loaded",
                None,
                None,
                "The platform's defaults were not loaded: the inventory has no link to group_vars/all of this repository.",
                "in the inventory's directory: ln -s ../../../../group_vars/all group_vars/all/00-metalhub",
            )
        ]
    checks = (
        _check_variables,
        _check_agreement,
        _check_groups,
        _check_pools,
        _check_addresses,
        _check_flavors,
        _check_images,
        _check_profiles,
        _check_egress,
        _check_quotas,
        _check_time_zone,
        _check_rates,
        _check_notice,
        _check_queue,
        _check_facts,
    )
    problems = [*site.findings, *(problem for check in checks for problem in check(site))]
    return sorted(_merge(problems, len(site.hosts)), key=lambda p: p.warning)


def _merge(problems: Iterable[Problem], hosts: int) -> Iterator[Problem]:
    """One problem for equal ones; it keeps its host only when it is not the same on all."""
    found: dict[tuple[str, str, str], list[Problem]] = {}
    for problem in problems:
        found.setdefault((problem.variable, repr(problem.value), problem.message), []).append(problem)
    for same in found.values():
        names = list(dict.fromkeys(p.host for p in same if p.host))
        shared = any(p.host is None for p in same) or (len(names) == hosts > 1)
        yield replace(same[0], host=None if shared else ", ".join(names))


def _of_site(fault: Fault) -> Problem:
    return Problem(fault.path, fault.value, None, fault.message, fault.legal)


def _text_form(name: str, value: object, spec: Spec) -> Spec:
    """The spec of a variable; Ansible has no type for sizes, so text named so is one, and empty means none."""
    return {**spec, "type": "size"} if name.endswith(("_size", "_largest")) and spec.get("type", "str") == "str" and value != "" else spec


def _check_variables(site: Site) -> Iterator[Problem]:
    """Unknown variables of ours, types and choices of the known ones, templates that fail."""
    prefixes = tuple(f"{role}_" for role in ("metalhub", *site.roles))
    for host in site.hosts:
        for name, reason in host.broken.items():
            yield Problem(name, None, host.name, f"The value cannot be evaluated: {reason}")
        for name, value in host.variables.items():
            if name in RUNTIME_VARIABLES:
                continue
            if name == "metalhub_pool" and isinstance(value, (list, tuple)):
                continue  # two pools on one node: told with the pools
            if name in site.specs:
                for fault in check_value(name, value, _text_form(name, value, site.specs[name])):
                    yield Problem(fault.path, fault.value, host.name, fault.message, fault.legal)
            elif name.startswith(prefixes) and not any(fnmatch.fnmatchcase(name, p) for p in site.ignore):
                hint = nearest(name, site.specs)
                # Its value is not shown: it may be a secret under a misspelt name.
                yield Problem(
                    name,
                    None,
                    host.name,
                    f"Metalhub has no such variable. {hint}".strip(),
                    "a variable of a role's README; list what belongs to others in preflight_ignore",
                )
        for name, spec in site.specs.items():
            if name.startswith("metalhub_") and spec.get("required") and name not in {*host.variables, *host.broken, *host.pending}:
                yield Problem(name, None, host.name, "A value is needed.", str(spec.get("description", "")))


def _check_agreement(site: Site) -> Iterator[Problem]:
    """Variables of the site that differ between hosts: one of them would win by chance."""
    if not site.hosts:
        return
    first = site.hosts[0]
    names = {n for host in site.hosts for n in host.variables if n.startswith("metalhub_") and n not in HOST_VARIABLES}
    for name in sorted(names):
        for host in site.hosts[1:]:
            unknown = {*first.broken, *first.pending, *host.broken, *host.pending}
            if name not in unknown and host.variables.get(name) != first.variables.get(name):
                yield Problem(
                    name,
                    host.variables.get(name),
                    host.name,
                    f"It describes the whole site, but differs from its value on {first.name}.",
                    "one value, in group_vars/all of the inventory",
                )
                break


def _check_groups(site: Site) -> Iterator[Problem]:
    def problem(group: str, message: str, legal: str) -> Problem:
        return Problem(group, [h.name for h in site.group(group)], None, message, legal)

    for group, what in ((_CONTROL, "control"), (_STORAGE, "storage"), (_REGISTRY, "registry")):
        number = len(site.group(group))
        if number == 0:
            yield problem(group, f"There is no {what} host: the group is empty or missing.", "exactly one host")
        elif number > 1:
            yield problem(group, f"There are {number} {what} hosts.", "exactly one host")
    if not site.group(_COMPUTE):
        yield problem(_COMPUTE, "No host runs sessions: the group is empty or missing.", "at least one host")
    managers = site.group(_MANAGERS)
    if len(managers) not in (1, 3, 5):
        extra = " An even number survives no more losses than one less." if managers and len(managers) % 2 == 0 else ""
        yield problem(_MANAGERS, f"There are {len(managers)} Swarm managers.{extra}", "1, 3 or 5 hosts, the control host among them")
    control = site.group(_CONTROL)
    if len(control) == 1 and managers and control[0] not in managers:
        yield problem(_MANAGERS, f"The control host {control[0].name} is not a manager.", "1, 3 or 5 hosts, the control host among them")
    if not site.group(_BUILDERS) and any("build" in image for image in site.table("metalhub_images").values()):
        yield problem(_BUILDERS, "There are images to build, and no host that builds them.", "at least one host, usually the control host")


def _entries(site: Site, variable: str, schema: Mapping[str, Spec], name_legal: str = NAME_LEGAL) -> Iterator[Problem]:
    """Names and fields of a variable that maps names to entries."""
    value = site.variable(variable)
    if not isinstance(value, Mapping):
        return
    for key, entry in value.items():
        if not isinstance(key, str) or not NAME.fullmatch(key):
            yield Problem(variable, key, None, "This is not a name.", name_legal)
        if not isinstance(entry, Mapping):
            yield from map(_of_site, check_value(f"{variable}.{key}", entry, {"type": "dict", "required": True}))
        else:
            yield from map(_of_site, check_options(f"{variable}.{key}", entry, schema))


def _check_pools(site: Site) -> Iterator[Problem]:
    yield from _entries(site, "metalhub_pools", POOL)
    pools = site.table("metalhub_pools")
    for host in site.hosts:
        value = host.variables.get("metalhub_pool")
        if _COMPUTE not in host.groups:
            if value is not None:
                yield Problem("metalhub_pool", value, host.name, f"The host has a pool but is not in {_COMPUTE}.", f"add it to {_COMPUTE}")
            continue
        given = {pool for _, pool in host.group_pools}
        if len(given) > 1:
            where = ", ".join(f"{group} says {pool}" for group, pool in host.group_pools)
            yield Problem("metalhub_pool", sorted(given), host.name, f"Two pools on one node: {where}.", "one pool a host")
        if value is None and "metalhub_pool" not in {*host.broken, *host.pending}:
            yield Problem("metalhub_pool", None, host.name, "A compute host needs a pool.", listed(pools))
        elif isinstance(value, (list, tuple)) or (isinstance(value, str) and re.search(r"[,\s]", value.strip())):
            yield Problem("metalhub_pool", value, host.name, "Two pools on one node: a host serves one.", listed(pools))
        elif isinstance(value, str) and value not in pools:
            yield Problem("metalhub_pool", value, host.name, f"There is no such pool. {nearest(value, pools)}".strip(), listed(pools))
        elif isinstance(value, str) and pools[value].get("sandbox") == "kata":
            # Without the refusal its sessions would run in plain runc.
            message = f"Pool {value} has the sandbox kata, which this version does not install."
            yield Problem("metalhub_pool", value, host.name, message, "a pool with sandbox: gvisor, nvidia or runc")
    served = {host.variables.get("metalhub_pool") for host in site.group(_COMPUTE) if isinstance(host.variables.get("metalhub_pool"), str)}
    for pool in pools:
        if pool not in served:
            yield Problem(f"metalhub_pools.{pool}", dict(pools[pool]), None, "No host serves this pool.", warning=True)


def _check_addresses(site: Site) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for host in site.members():
        address = host.variables.get("metalhub_address")
        # A host that only builds images, such as the controller, is reached by nobody.
        if not isinstance(address, str) or host.groups.isdisjoint(set(GROUPS) - {_BUILDERS}):
            continue
        try:
            ipaddress.ip_address(address)
        except ValueError:
            yield Problem("metalhub_address", address, host.name, "This is not an IP address.", "the address other hosts reach it at")
            continue
        if address in seen:
            yield Problem("metalhub_address", address, host.name, f"{seen[address]} has the same address.", "one address a host")
        seen.setdefault(address, host.name)
        if len(site.members()) > 1 and ipaddress.ip_address(address).is_loopback:
            yield Problem("metalhub_address", address, host.name, "Other hosts cannot reach a loopback address.")
        own = {str(a.get("address", "")).split("/")[0] for a in _fact_list(host, "addresses")}
        if own and address not in own:
            yield Problem("metalhub_address", address, host.name, "The host has no such address itself.", warning=True)


def _fact_list(host: Host, name: str) -> list[Mapping[str, object]]:
    value = (host.facts or {}).get(name)
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _fact_number(host: Host, name: str) -> int:
    value = (host.facts or {}).get(name)
    return value if isinstance(value, int) else 0


def _check_flavors(site: Site) -> Iterator[Problem]:
    yield from _entries(site, "metalhub_flavors", FLAVOR)
    for name, flavor in site.table("metalhub_flavors").items():
        cpus, gpu = flavor.get("cpus"), flavor.get("gpu")
        if isinstance(cpus, (int, float)) and not isinstance(cpus, bool) and cpus <= 0:
            yield Problem(f"metalhub_flavors.{name}.cpus", cpus, None, "A session needs a part of a CPU.", "more than 0: 0.5, 2, 16")
        if _size(flavor.get("memory")) == 0:
            yield Problem(f"metalhub_flavors.{name}.memory", flavor["memory"], None, "A session needs memory.", "more than 0")
        if isinstance(gpu, Mapping):
            count = gpu.get("count", 1)
            if isinstance(count, int) and not isinstance(count, bool) and count < 1:
                yield Problem(f"metalhub_flavors.{name}.gpu.count", count, None, "A GPU flavor has at least one.", "1 or more")
            if isinstance(gpu.get("model"), str):
                try:
                    gpu_resource("", str(gpu["model"]))
                except ValueError:
                    path, legal = f"metalhub_flavors.{name}.gpu.model", "small letters and digits: a100, rtx-6000"
                    yield Problem(path, gpu["model"], None, "This is not a model as quotas name it.", legal)
            if isinstance(gpu.get("profile"), str):
                try:
                    mig_resource(str(gpu["profile"]))
                except ValueError:
                    path = f"metalhub_flavors.{name}.gpu.profile"
                    yield Problem(
                        path, gpu["profile"], None, "This is not a MIG profile.", "as nvidia-smi lists them: 1g.10gb; none for a whole GPU"
                    )


def _size(value: object) -> int | None:
    try:
        return parse_size(value)
    except ValueError:
        return None


def _check_images(site: Site) -> Iterator[Problem]:
    yield from _entries(site, "metalhub_images", IMAGE)
    for name, image in site.table("metalhub_images").items():
        if len({"build", "reference", "archive"} & set(image)) != 1:
            yield Problem(
                f"metalhub_images.{name}",
                dict(image),
                None,
                "An image is built, referred to, or in an archive.",
                "one of build, reference, archive",
            )
        reference = image.get("reference")
        if isinstance(reference, str) and not _REFERENCE.fullmatch(reference):
            yield Problem(
                f"metalhub_images.{name}.reference",
                reference,
                None,
                "The image is not pinned by digest.",
                "host/name@sha256:<64 hex digits>",
            )


def _world(site: Site) -> World:
    """What the site's profiles may name."""
    flavors: dict[str, str | None] = {}
    for name, flavor in site.table("metalhub_flavors").items():
        gpu = flavor.get("gpu")
        flavors[name] = str(gpu.get("profile") or "") if isinstance(gpu, Mapping) else None
    pools = {name: str(pool.get("sandbox")) for name, pool in site.table("metalhub_pools").items()}
    return World(site.table("metalhub_images"), flavors, pools, {**site.table(_CLASSES), **BUILT_IN})


def _check_profiles(site: Site) -> Iterator[Problem]:
    yield from _entries(site, "metalhub_profiles", PROFILE)
    profiles, world = site.table("metalhub_profiles"), _world(site)
    earlier: dict[str, Mapping[str, object]] = {}
    for name, profile in profiles.items():
        path = f"metalhub_profiles.{name}"
        yield from map(_of_site, profile_faults(path, profile, world))
        yield from map(_of_site, title_faults(path, profile, earlier))
        yield from _check_fit(site, name, profile)
        yield from (replace(_of_site(fault), warning=True) for fault in profile_doubts(path, profile))
        earlier[name] = profile
    defaults = [name for name, profile in profiles.items() if profile.get("default") is True]
    if len(defaults) > 1:
        yield Problem("metalhub_profiles", defaults, None, "More than one profile is the default.", "default: true on one profile")
    if isinstance(site.variable("metalhub_profiles"), Mapping) and not profiles:
        yield Problem("metalhub_profiles", {}, None, "There is no profile, so nobody can start a session.", "at least one profile")


def _check_fit(site: Site, name: str, profile: Mapping[str, object]) -> Iterator[Problem]:
    """A profile's flavor against the nodes of its pool."""
    flavor = site.table("metalhub_flavors").get(str(profile.get("flavor")))
    pool = site.table("metalhub_pools").get(str(profile.get("pool")))
    if flavor is None or pool is None:
        return
    path, sandbox = f"metalhub_profiles.{name}.flavor", pool.get("sandbox")
    gpu = flavor.get("gpu")
    if sandbox in SANDBOXES:
        refusal = hibernation_refusal(session_sandbox(str(sandbox), isinstance(gpu, Mapping)), isinstance(gpu, Mapping))
        if refusal and profile.get("hibernate_after") not in (None, 0, "0s"):
            message = f"It has no effect: {refusal}. Its sessions are stopped after idle_stop."
            yield Problem(
                f"metalhub_profiles.{name}.hibernate_after", profile["hibernate_after"], None, message, "0s for this profile", warning=True
            )
    nodes = hosts_of_pool(site, str(profile["pool"]))
    piece = gpu.get("profile") if isinstance(gpu, Mapping) else None
    if piece and sandbox == "nvidia" and nodes and not any(_has_slice(host, str(piece)) for host in nodes):
        message = f"No host of pool {profile['pool']} is to have a slice {piece}, so nobody can start this."
        legal = f"mig_wanted: {{{piece}: 1}} or a mig_layout with it on a host of the pool"
        yield Problem(path, profile["flavor"], None, message, legal, warning=True)
    if not nodes or any(not host.facts for host in nodes):
        return
    cpus, memory = flavor.get("cpus"), _size(flavor.get("memory"))
    if not isinstance(cpus, (int, float)) or memory is None:
        return
    if not any(cpus <= _fact_number(host, "cpus") and memory <= _fact_number(host, "memory") for host in nodes):
        have = "; ".join(f"{h.name} has {_fact_number(h, 'cpus')} CPUs, {format_size(_fact_number(h, 'memory'))}" for h in nodes[:4])
        message = f"The flavor ({cpus:g} CPUs, {format_size(memory)}) is bigger than every node of pool {profile['pool']}: {have}."
        yield Problem(path, profile["flavor"], None, message, "a flavor that fits a node of the pool")
    elif isinstance(gpu, Mapping) and not any(_fact_number(host, "gpus") for host in nodes):
        message = f"No NVIDIA GPU was found on the nodes of pool {profile['pool']}."
        yield Problem(path, profile["flavor"], None, message, warning=True)


def _has_slice(host: Host, profile: str) -> bool:
    """Whether a host is to have MIG instances of a profile: by counts (a key may name a model first) or place by place."""
    wanted, layout = host.variables.get("mig_wanted"), host.variables.get("mig_layout")
    names = [str(key).rpartition(":")[2] for key in wanted] if isinstance(wanted, Mapping) else []
    for places in layout.values() if isinstance(layout, Mapping) else ():
        if isinstance(places, Sequence):
            names += [str(place.get("profile")) for place in places if isinstance(place, Mapping)]
    return profile in names


def hosts_of_pool(site: Site, pool: str) -> list[Host]:
    """The compute hosts that serve a pool."""
    return [host for host in site.group(_COMPUTE) if host.variables.get("metalhub_pool") == pool]


def egress_arguments(site: Site) -> tuple[object, dict[str, Any]]:
    """What the site says of egress, as the arguments of ``compile_policy``."""
    used = sorted({str(profile["egress"]) for profile in site.table("metalhub_profiles").values() if profile.get("egress")})
    lists = site.variable("metalhub_egress_deny_lists")
    return site.variable(_CLASSES) or {}, {
        "used": used,
        "internal": site.variable("metalhub_egress_internal"),
        "packages": site.variable("metalhub_egress_packages"),
        "site_networks": site.variable("metalhub_site_networks"),
        # A file that could not be read has been reported as that.
        "deny_lists": {name: site.deny_lists.get(str(name), "") for name in lists} if isinstance(lists, Mapping) else lists,
        "is_public_suffix": site.is_public_suffix,
    }


def _check_egress(site: Site) -> Iterator[Problem]:
    classes, arguments = egress_arguments(site)
    wrong = problems(classes, **arguments)
    for path, value, message, legal in wrong:
        yield Problem(path, value, None, message, legal)
    given = site.table(_CLASSES)
    for name, entry in {**{name: BUILT_IN[name] for name in arguments["used"] if name in BUILT_IN}, **given}.items():
        try:
            subnet = parse_subnet(entry.get("subnet") or BUILT_IN.get(name, {}).get("subnet"))
        except ValueError:
            continue  # reported with the class
        yield from _check_host_networks(site, f"{_CLASSES}.{name}.subnet", subnet)
    for name in given:
        if name not in arguments["used"]:
            yield Problem(f"{_CLASSES}.{name}", dict(given[name]), None, "No profile uses this class.", "a profile's egress", warning=True)
    nameservers = site.variable("metalhub_nameservers")
    for address in nameservers if isinstance(nameservers, Sequence) and not isinstance(nameservers, str) else ():
        try:
            ipaddress.ip_address(str(address))
        except ValueError:
            yield Problem("metalhub_nameservers", address, None, "This is not an IP address.", "IP addresses: 10.20.0.53")
    if wrong:
        return
    notes = [note for note in compile_policy(classes, **arguments)["notes"] if note["entry"]]
    for note in notes[:_NOTES]:
        yield Problem(f"{_CLASSES}.{note['class']}", note["entry"], None, f"The entry {note['note']}.", warning=True)
    if len(notes) > _NOTES:
        yield Problem(_CLASSES, None, None, f"There are {len(notes) - _NOTES} more entries that add nothing.", warning=True)


def _check_host_networks(site: Site, path: str, subnet: ipaddress.IPv4Network) -> Iterator[Problem]:
    """A session's subnet against the networks and addresses that hosts have of their own."""
    for host in site.members():
        # The bridges of a former run carry these very subnets.
        own = [n for n in _fact_list(host, "networks") if not str(n.get("interface")).startswith("mh-")]
        for entry in own:
            network = ipaddress.ip_network(str(entry.get("network")))
            if isinstance(network, ipaddress.IPv4Network) and network.overlaps(subnet):
                connected = bool(entry.get("connected"))
                what = "the host's own network" if connected else "a network the host has a route to,"
                message = f"It overlaps {what} {network} ({entry.get('interface')})."
                yield Problem(path, str(subnet), host.name, message, "a network that nothing else uses", warning=not connected)
        places = {
            str(a.get("address")).split("/")[0] for a in _fact_list(host, "addresses") if not str(a.get("interface")).startswith("mh-")
        }
        places.add(str(host.variables.get("metalhub_address")))
        networks = [ipaddress.ip_network(str(entry.get("network"))) for entry in own if entry.get("connected")]
        for place in sorted(places):
            try:
                address = ipaddress.ip_address(place)
            except ValueError:
                continue
            # Where its whole network overlaps, that has been said.
            if address in subnet and not any(address in network for network in networks):
                yield Problem(
                    path, str(subnet), host.name, f"The host's own address {address} lies in it.", "a network that nothing else uses"
                )


def quota_faults(path: str, text: object) -> Iterator[Fault]:
    """What is wrong in the form of one quota, such as ``sessions=2, gpu-a100=8h/day``."""
    try:
        parse_quota(text)
    except QuotaError as error:
        for problem in error.problems:
            yield Fault(path, problem.part, problem.message, problem.legal)


def _check_quotas(site: Site) -> Iterator[Problem]:
    value = site.variable("metalhub_quotas")
    if not isinstance(value, Mapping):
        return
    yield from map(_of_site, check_options("metalhub_quotas", value, QUOTAS))
    if isinstance(value.get("default"), str):
        yield from map(_of_site, quota_faults("metalhub_quotas.default", value["default"]))
    for kind in ("groups", "users"):
        grants = value.get(kind)
        for name, text in grants.items() if isinstance(grants, Mapping) else ():
            yield from map(_of_site, quota_faults(f"metalhub_quotas.{kind}.{name}", text))
    yield from _check_idle_quotas(site, value)


def _check_idle_quotas(site: Site, value: Mapping[str, object]) -> Iterator[Problem]:
    """Limits of kinds of GPUs that no flavor gives: nothing would ever count against them."""
    given = set()
    for flavor in site.table("metalhub_flavors").values():
        gpu = flavor.get("gpu")
        if isinstance(gpu, Mapping):
            try:
                given.add(gpu_resource(str(gpu.get("profile") or ""), str(gpu.get("model") or "")))
            except ValueError:
                return  # reported with the flavor
    texts = {"default": value.get("default")}
    for kind in ("groups", "users"):
        grants = value.get(kind)
        texts |= {f"{kind}.{name}": text for name, text in grants.items()} if isinstance(grants, Mapping) else {}
    for place, text in texts.items():
        try:
            quota = parse_quota(text)
        except QuotaError:
            continue
        for name in sorted({*(limit.resource for limit in quota.limits), *quota.deny}):
            if name.startswith("gpu-") and not any(covers(name, other) for other in given):
                message = f"No flavor gives {name}, so nothing counts against it."
                legal = f"{listed(sorted(given)) or 'a flavor with a gpu'}; a flavor's gpu may name its model"
                yield Problem(f"metalhub_quotas.{place}", name, None, message, legal, warning=True)


def _check_time_zone(site: Site) -> Iterator[Problem]:
    name = site.variable("metalhub_time_zone")
    if isinstance(name, str):
        try:
            read_zone(name)
        except ValueError as error:
            yield Problem("metalhub_time_zone", name, None, str(error), ZONE_LEGAL)


def _check_rates(site: Site) -> Iterator[Problem]:
    value = site.variable("metalhub_rates")
    if isinstance(value, Mapping):
        for key, price, message, legal in rate_faults(value):
            yield Problem(f"metalhub_rates.{key}" if key else "metalhub_rates", price, None, message, legal)


def _check_notice(site: Site) -> Iterator[Problem]:
    value = site.variable("metalhub_quota_notice")
    if isinstance(value, str):
        yield from map(_of_site, check_value("metalhub_quota_notice", value, {"type": "duration"}))


def _check_queue(site: Site) -> Iterator[Problem]:
    value = site.variable("metalhub_queue_patience")
    if isinstance(value, str):
        yield from map(_of_site, check_value("metalhub_queue_patience", value, {"type": "duration"}))
    priorities = site.variable("metalhub_queue_priorities")
    if isinstance(priorities, Mapping):
        for group, number in priorities.items():
            if not legal_priority(number):
                yield Problem(f"metalhub_queue_priorities.{group}", number, None, f"{number!r} is not a priority.", PRIORITY_LEGAL)


def _check_facts(site: Site) -> Iterator[Problem]:
    """What a host is: distribution, architecture, clock, space. Nothing is said of hosts nobody asked."""
    for host in site.members():
        facts = host.facts
        if not facts:
            continue
        versions = DISTRIBUTIONS.get(str(facts.get("os_id")), ())
        if str(facts.get("os_version")) not in versions and str(facts.get("os_major")) not in versions:
            name = facts.get("os_name") or f"{facts.get('os_id')} {facts.get('os_version')}"
            yield Problem("metalhub_host.os_name", name, host.name, "This distribution is not supported.", DISTRIBUTIONS_LEGAL)
        if facts.get("arch") not in ARCHITECTURES:
            yield Problem("metalhub_host.arch", facts.get("arch"), host.name, "This architecture is not supported.", listed(ARCHITECTURES))
        if not facts.get("systemd"):
            yield Problem("metalhub_host.systemd", False, host.name, "systemd does not run this host.", "systemd as PID 1")
        skew = _fact_number(host, "skew")
        if abs(skew) > SKEW_WARNING:
            side = "ahead of" if skew > 0 else "behind"
            message = f"The host's clock is {abs(skew)} seconds {side} the controller's; logins fail at 5 minutes."
            yield Problem("metalhub_host.skew", skew, host.name, message, f"under {SKEW_LIMIT} seconds", warning=abs(skew) <= SKEW_LIMIT)
        free = _fact_number(host, "disk_free")
        if free < DISK_WARNING:
            legal = f"{format_size(DISK_WARNING)} or more"
            yield Problem(
                "metalhub_host.disk_free", format_size(free), host.name, "There is little space left under /var.", legal, warning=True
            )
