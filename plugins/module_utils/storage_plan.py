"""Where homes lie and how nodes mount them: unit names, what is refused, and the contents of mount units."""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

from .sizes import parse_size
from .snapshot_plan import check_free, check_keep

LABEL = "metalhub-homes"
MIN_LOOP_BYTES = 256 * 2**20
CREDENTIALS_DIRECTORY = "/etc/metalhub/mounts"
TYPES = ("bind", "cifs", "fuse", "nfs")

_PATH = re.compile(r"/[A-Za-z0-9_.@+-]+(?:/[A-Za-z0-9_.@+-]+)*", re.ASCII)
_OPTION = re.compile(r"[A-Za-z0-9_.:=@/+-]+", re.ASCII)
_SOURCES = {
    "bind": (_PATH, "an absolute path"),
    "cifs": (re.compile(r"//[A-Za-z0-9_.:-]+/[A-Za-z0-9_.$/-]+", re.ASCII), "//server/share"),
    "nfs": (re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9a-fA-F:]+\]):/[A-Za-z0-9_./@+-]*", re.ASCII), "server:/path"),
    "fuse": (re.compile(r"[A-Za-z0-9_.@:/#\[\]+-]+", re.ASCII), "what the FUSE program takes, such as user@server:/path"),
}
_KEYS = {"path", "source", "type", "options", "credentials", "program", "source_is_mount"}
_CREDENTIAL_KEYS = {"cifs": {"username", "password", "domain"}, "fuse": {"private_key", "known_hosts"}}

# A server that is away must not hang a boot (nofail, by not being required) nor fail a write silently (hard).
_DEFAULT_OPTIONS = {
    "bind": ("bind", "nosuid", "nodev"),
    "cifs": ("vers=3.1.1", "seal", "uid=1000", "gid=1000", "file_mode=0600", "dir_mode=0700", "nosuid", "nodev", "_netdev"),
    "nfs": ("vers=4.2", "hard", "nosuid", "nodev", "noatime", "_netdev"),
    "fuse": ("allow_other", "default_permissions", "nosuid", "nodev", "_netdev"),
}
_SSHFS_OPTIONS = ("reconnect", "ServerAliveInterval=5", "ServerAliveCountMax=3", "StrictHostKeyChecking=yes")
_PACKAGES = {
    "debian": {"nfs": "nfs-common", "cifs": "cifs-utils", "sshfs": "sshfs"},
    "redhat": {"nfs": "nfs-utils", "cifs": "cifs-utils", "sshfs": "fuse-sshfs"},
}


def unit_name(path: str, suffix: str = "mount") -> str:
    r"""Name of the unit of a path, as ``systemd-escape --path`` gives it (systemd.unit(5)): ``/srv/a-b`` is ``srv-a\x2db.mount``."""
    inner = "/".join(part for part in path.split("/") if part not in ("", "."))
    if not inner:
        return f"-.{suffix}"
    escaped = ""
    for index, byte in enumerate(inner.encode()):
        char = chr(byte)
        if char == "/":
            escaped += "-"
        elif (char.isascii() and (char.isalnum() or char in ":_")) or (char == "." and index > 0):
            escaped += char
        else:
            escaped += f"\\x{byte:02x}"
    return f"{escaped}.{suffix}"


def check_path(name: str, value: object) -> str:
    """Return an absolute, plain path. Raises ValueError that names the variable."""
    if not isinstance(value, str) or not _PATH.fullmatch(value) or ".." in value.split("/"):
        raise ValueError(f"{name} is {value!r}; legal is an absolute path of letters, digits and _.@+-")
    return value


def loop_bytes(size: object) -> int:
    """Bytes of storage_loop_size. Raises ValueError where it is no size or too small for btrfs with room."""
    try:
        value = parse_size(size)
    except ValueError as error:
        raise ValueError(f"storage_loop_size: {error}") from error
    if value < MIN_LOOP_BYTES:
        raise ValueError(f"storage_loop_size is {size!r}; legal is 256M and more")
    return value


def storage_refusal(settings: t.Mapping[str, t.Any], facts: t.Mapping[str, str]) -> str:
    """Say why a storage host cannot be set up so, or nothing. It decides alone whether a device may be formatted.

    ``settings`` has device, loop_file, loop_size, path, node_path, snapshots_keep and snapshots_free; ``facts`` is what the role's
    probe saw: mounted (file system type at the path), label, quota (on, off), inside (a name in an unmounted directory), and for a
    device exists, bytes, signatures, zeros and ours (yes, no).
    """
    device = settings["device"]
    try:
        for name in ("path", "node_path", "loop_file"):
            check_path(f"storage_{name}", settings[name])
        check_keep(settings["snapshots_keep"])
        check_free(settings["snapshots_free"])
        if device == "loop":
            wanted = loop_bytes(settings["loop_size"])
    except ValueError as error:
        return str(error)
    path, mounted = settings["path"], facts.get("mounted", "")
    if device == "existing":
        if not mounted:
            found = "not a mount point"
        elif mounted != "btrfs":
            found = f"a mount of {mounted}"
        elif facts.get("quota") != "on":
            found = f"a btrfs without quotas (`btrfs quota enable {path}` turns them on)"
        else:
            return ""
        return f"storage_device is 'existing', which wants a mounted btrfs with quotas at {path}; it is {found}"
    if device != "loop":
        if not isinstance(device, str) or not device.startswith("/dev/") or not _PATH.fullmatch(device):
            return f"storage_device is {device!r}; legal are 'loop', 'existing' or the path of a block device under /dev"
        if facts.get("exists") != "yes":
            return f"storage_device is {device!r}, and there is no such block device (lsblk lists them)"
    source = settings["loop_file"] if device == "loop" else device
    if mounted and facts.get("label") != LABEL:
        return f"{path} is a mount of something else ({mounted}); set storage_device to 'existing' to use it, or change storage_path"
    if not mounted and facts.get("inside"):
        return f"{path} is not mounted and holds {facts['inside']!r}, which a mount would hide; move it away first"
    if facts.get("exists") == "yes" and facts.get("ours") != "yes":
        signatures = facts.get("signatures", "").split()
        if signatures or facts.get("zeros") != "yes":
            return (
                f"{source} holds data ({' '.join(dict.fromkeys(signatures)) or 'no known signature, but not zeros'}) and is not formatted. "
                "If that may be lost, empty it yourself (wipefs -a, then zeros over its first 16 MiB); to use a btrfs of your own, "
                f"mount it at {path} and set storage_device to 'existing'"
            )
    if device == "loop" and facts.get("exists") == "yes" and wanted < int(facts.get("bytes") or 0):
        return (
            f"storage_loop_size is {settings['loop_size']!r}, and {source} has {facts['bytes']} bytes now; legal is as much or more: "
            "a file system with homes is never made smaller"
        )
    return ""


@dataclass(frozen=True)
class Mount:
    """One mount unit: its name, the fields of the unit file, and the files of secrets that it needs (path to content)."""

    unit: str
    path: str
    what: str
    fstype: str
    options: str
    network: bool
    assert_mount: bool
    secrets: t.Mapping[str, str]
    package: str


def plan_mount(mount: t.Mapping[str, t.Any]) -> Mount:
    """Check one entry of storage_mount_mounts and work out its unit. Raises ValueError that names what is wrong and what is legal."""
    if not isinstance(mount, dict):
        raise ValueError(f"storage_mount_mounts has {mount!r}; an entry is a dict with path, source and type")
    label = f"storage_mount_mounts, path {mount.get('path')!r}"
    unknown = sorted(set(mount) - _KEYS)
    if unknown:
        raise ValueError(f"{label}: unknown key {unknown[0]!r}; legal are {', '.join(sorted(_KEYS))}")
    path = check_path(f"{label}: path", mount.get("path"))
    kind, source, credentials = mount.get("type"), mount.get("source"), mount.get("credentials") or {}
    if kind not in TYPES:
        raise ValueError(f"{label}: type is {kind!r}; legal are {', '.join(TYPES)}")
    pattern, legal = _SOURCES[kind]
    if not isinstance(source, str) or not pattern.fullmatch(source) or (kind == "bind" and ".." in source.split("/")):
        raise ValueError(f"{label}: source is {source!r}; legal for {kind} is {legal}")
    program = mount.get("program", "sshfs")
    if not isinstance(program, str) or not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", program):
        raise ValueError(f"{label}: program is {program!r}; legal is the name of a FUSE program, such as sshfs")
    if kind != "bind" and mount.get("source_is_mount"):
        raise ValueError(f"{label}: source_is_mount is for type bind")

    given = mount.get("options") or ""
    extra = [option for option in given.split(",") if option] if isinstance(given, str) else [None]
    for option in extra:
        if option is None or not _OPTION.fullmatch(option):
            raise ValueError(f"{label}: options is {given!r}; legal are mount options separated by commas")
        if re.match(r"(password|pass|username|credentials)=?", option):
            raise ValueError(f"{label}: options must not hold {option.split('=')[0]}; it belongs in credentials")
    options = list(_DEFAULT_OPTIONS[kind]) + (list(_SSHFS_OPTIONS) if kind == "fuse" and program == "sshfs" else [])
    names = {option.partition("=")[0] for option in extra if option}
    opposite = {"nosuid": "suid", "nodev": "dev", "hard": "soft", "noatime": "relatime"}
    options = [o for o in options if o.partition("=")[0] not in names and opposite.get(o) not in names]
    options += [option for option in extra if option]

    unit = unit_name(path)
    stem = f"{CREDENTIALS_DIRECTORY}/{unit.removesuffix('.mount')}"
    allowed = _CREDENTIAL_KEYS.get(kind, set())
    if not isinstance(credentials, dict) or set(credentials) - allowed:
        raise ValueError(f"{label}: credentials of {kind} take {', '.join(sorted(allowed)) or 'nothing'}")
    if any(not isinstance(value, str) or not value for value in credentials.values()):
        raise ValueError(f"{label}: each of credentials must be text")  # never shown: it is a secret
    secrets: dict[str, str] = {}
    if kind == "cifs" and credentials:
        if any(ord(char) < 32 for value in credentials.values() for char in value):
            raise ValueError(f"{label}: credentials must not hold line breaks")
        if not {"username", "password"} <= set(credentials):
            raise ValueError(f"{label}: credentials of cifs need username and password")
        fields = [f"{key}={credentials[key]}\n" for key in ("username", "password", "domain") if key in credentials]
        secrets[f"{stem}.credentials"] = "".join(fields)
        options.append(f"credentials={stem}.credentials")
    for key, option in (("private_key", "IdentityFile"), ("known_hosts", "UserKnownHostsFile")):
        if key in credentials:
            secrets[f"{stem}.{key}"] = credentials[key].rstrip("\n") + "\n"
            options.append(f"{option}={stem}.{key}")
    fstypes = {"bind": "none", "cifs": "cifs", "nfs": "nfs4" if "vers=4" in ",".join(options) else "nfs", "fuse": f"fuse.{program}"}
    return Mount(
        unit=unit,
        path=path,
        what=source,
        fstype=fstypes[str(kind)],
        options=",".join(options),
        network=kind != "bind",
        assert_mount=bool(mount.get("source_is_mount")),
        secrets=secrets,
        package=program if kind == "fuse" else kind,
    )


def plan_mounts(mounts: t.Sequence[t.Mapping[str, t.Any]]) -> list[Mount]:
    """Plan all mounts. Raises ValueError for a wrong entry and for two at one path."""
    plans = [plan_mount(mount) for mount in mounts]
    seen: set[str] = set()
    for plan in plans:
        if plan.unit in seen:
            raise ValueError(f"storage_mount_mounts has two entries with path {plan.path!r}")
        seen.add(plan.unit)
    return plans


def packages(mounts: t.Sequence[Mount], family: str) -> list[str]:
    """Packages that the mounts need on a distribution family (``debian`` or ``redhat``); an unknown FUSE program has none of ours."""
    known = _PACKAGES[family]
    return sorted({known[mount.package] for mount in mounts if mount.package in known})
