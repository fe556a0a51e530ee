"""Names that users and operators choose, made safe for file systems, DNS labels, Swarm and interfaces."""

from __future__ import annotations

import base64
import hashlib
import re

HOME_LENGTH = 32
SERVER_LENGTH = 20

# Interface names hold 15 bytes, and three go to "mh-".
_CLASS = re.compile(r"[a-z](?:[a-z0-9-]{0,10}[a-z0-9])?", re.ASCII)
_TOKEN = re.compile(r"[0-9a-f]{6}", re.ASCII)
_MIG = re.compile(r"(\d)g\.(\d{1,3})gb((?:\+(?:me\.all|me|gfx)|-me)*)", re.ASCII)

# Of an environment, as POSIX has it.
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)

CLASS_LEGAL = "1 to 12 of a-z, 0-9 and -, a letter first, no - last, and not ending in -cfg"


def _escape(text: str, length: int, digest: int) -> str:
    """``text`` as a DNS label of at most ``length`` characters, injective up to the hash.

    Letters a-z and digits stay, every other byte of the UTF-8 form becomes ``-xx``. The marks ``u--`` (the name began
    with an escaped byte) and ``---`` (the rest is a hash) cannot come from that, so no two names meet.
    """
    if not text:
        raise ValueError("a name is empty")
    data = text.encode("utf-8", "surrogatepass")
    safe = "".join(chr(b) if chr(b).isalnum() and chr(b) == chr(b).lower() and b < 128 else f"-{b:02x}" for b in data)
    if safe.startswith("-"):
        safe = "u-" + safe
    if len(safe) <= length:
        return safe
    mark = base64.b32encode(hashlib.sha256(data).digest()).decode().lower()[:digest]
    return f"{safe[: length - 3 - digest].rstrip('-')}---{mark}"


def home_name(username: str) -> str:
    """The directory (and part of a service's name) of a user: at most 32 of ``a-z0-9-``, never ``-`` first or last.

    Injective: two users never share one; long names end in 100 bits of their SHA-256. Raises ValueError if empty.
    """
    return _escape(username, HOME_LENGTH, 20)


def service_name(home: str, server: str, token: str) -> str:
    """The Swarm service of a session: ``mh-<home>-<server, or default>-<token>``, at most 63 characters.

    ``home`` comes from home_name, ``token`` is six hexadecimal digits which make the name unique in time.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,31}", home, re.ASCII):
        raise ValueError(f"{home!r} is not a home's name")
    if not _TOKEN.fullmatch(token):
        raise ValueError(f"{token!r} is not a token: six hexadecimal digits")
    return f"mh-{home}-{_escape(server, SERVER_LENGTH, 10) if server else 'default'}-{token}"


def network_name(egress_class: str) -> str:
    """The network, and the bridge interface, of an egress class: ``mh-<class>``. Raises ValueError for a bad name."""
    # "mh-a-cfg" is the config network of class "a".
    if not _CLASS.fullmatch(egress_class) or egress_class.endswith("-cfg"):
        raise ValueError(f"{egress_class!r} is not a name for an egress class: {CLASS_LEGAL}")
    return f"mh-{egress_class}"


def mig_resource(profile: str) -> str:
    """The Swarm generic resource of a MIG profile: ``1g.10gb`` is MIG_1G_10GB, ``1g.10gb+me`` is MIG_1G_10GB_ME.

    Raises ValueError for what is not a GPU instance profile's name.
    """
    match = _MIG.fullmatch(profile)
    if match is None:
        raise ValueError(f"{profile!r} is not a MIG profile: write it as nvidia-smi does, such as 1g.10gb")
    slices, memory, extra = match.groups()
    # "-me" asks for an instance without media engines; plain "ME" would be the opposite.
    return f"MIG_{slices}G_{memory}GB{extra.replace('-me', '_NOME').replace('+', '_').replace('.', '_').upper()}"


def resource_variable(kind: str) -> str:
    """The variable in which Swarm tells a task what it got of a generic resource."""
    return f"DOCKER_RESOURCE_{kind}"
