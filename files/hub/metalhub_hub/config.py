"""The hub's one document (hub.yml): its schema, read into frozen dataclasses, with one clear message a problem.

Text forms (``8G``, ``30m``) are read here and nowhere later: inside, sizes are bytes and durations are seconds.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import tzinfo
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import yaml

from .core import durations, names, profiles, quotas, sandboxes, showback, sizes, start_queue, zones
from .core.quotas import Quota, Quotas
from .core.showback import Rates

SMTP_TLS = ("starttls", "tls", "none")
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?", re.ASCII)


class DocumentError(Exception):
    """The document is refused. ``problems`` holds one sentence for each thing that is wrong."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class Gpu:
    """GPUs of a flavor: ``resource`` is the Swarm generic resource, ``profile`` a MIG profile or empty, ``model`` for quotas."""

    resource: str
    count: int
    profile: str = ""
    model: str = ""


@dataclass(frozen=True)
class Flavor:
    """What a session reserves and may use: cpus, bytes of memory, GPUs."""

    name: str
    cpus: float
    memory: int
    gpu: Gpu | None = None


@dataclass(frozen=True)
class Egress:
    """An egress class: the proxy's URL, empty where the class has no names, what its sessions reach without it, and all that in words."""

    proxy: str = ""
    direct: tuple[str, ...] = ()
    title: str = ""
    description: str = ""
    reach: str = ""


@dataclass(frozen=True)
class Profile:
    """One card of the start page. ``idle_stop``, ``max_session``, ``background_limit`` (of one cell) and ``hibernate_after`` are seconds, 0
    is without; ``extension`` is by how many seconds a session may be extended in total. ``sandbox`` follows from the pool's and the flavor.
    ``startup`` is a shell script, ``approval`` whether an administrator must approve each user.
    ``warm`` is how many sessions are kept ready at most.
    """

    name: str
    title: str
    description: str
    image: str
    flavor: Flavor
    pool: str
    egress: str
    idle_stop: int
    max_session: int
    groups: frozenset[str]
    default: bool
    sandbox: str
    hibernate_after: int = 0
    extension: int = 0
    background_limit: int = 0
    warm: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    startup: str = ""
    approval: bool = False


@dataclass(frozen=True)
class Engine:
    """Where the Swarm managers' API is: ``https://`` with mutual TLS, or ``unix://``."""

    managers: tuple[str, ...]
    ca: str
    cert: str
    key: str
    timeout: float


@dataclass(frozen=True)
class Registry:
    """The account with which nodes pull images; without a user nothing is sent along."""

    server: str
    user: str
    password_file: str


@dataclass(frozen=True)
class Storage:
    """The homes service; without a url homes must be there already (a plain directory in a test)."""

    url: str
    timeout: float


@dataclass(frozen=True)
class Session:
    """What every session has, whatever its profile. Sizes in bytes, times in seconds."""

    home: str
    shared: str
    scratch: str
    homes_root: str
    shared_root: str
    resolv_conf: str
    home_size: int
    shm: int
    pids: int
    files: int
    start_timeout: int
    stop_notice: int
    environment: Mapping[str, str]
    command: tuple[str, ...]


@dataclass(frozen=True)
class Oidc:
    """An OpenID Connect provider."""

    title: str
    client_id: str
    client_secret_file: str
    authorize_url: str
    token_url: str
    userdata_url: str
    scope: tuple[str, ...]
    username_claim: str
    groups_claim: str
    allowed_groups: frozenset[str]
    admin_groups: frozenset[str]


@dataclass(frozen=True)
class Auth:
    """How people log in."""

    kind: str
    admins: tuple[str, ...]
    admin_password_file: str
    signup: bool
    oidc: Oidc | None


@dataclass(frozen=True)
class Smtp:
    """The mail server. ``tls`` is starttls, tls (from the first byte) or none; without a user nobody logs in."""

    host: str
    port: int
    sender: str
    user: str
    password_file: str
    tls: str


@dataclass(frozen=True)
class Traefik:
    """How the hub talks to Traefik: its API, the file of routes, the entry point users come in by."""

    api_url: str
    api_user: str
    api_password_file: str
    routes_file: str
    entrypoint: str


@dataclass(frozen=True)
class Document:
    """hub.yml. ``profiles`` are those that hold, ``inventory`` is how the inventory writes them, ``digest`` tells documents apart."""

    public_url: str
    listen: str
    connect_url: str
    state: str
    images_file: str
    cookie_secret_file: str
    database_url_file: str
    cli_token_file: str
    named_servers: int
    cull_every: int
    engine: Engine
    registry: Registry
    storage: Storage
    session: Session
    auth: Auth
    smtp: Smtp | None
    traefik: Traefik
    pools: Mapping[str, str]
    flavors: Mapping[str, Flavor]
    images: Mapping[str, str]
    egress: Mapping[str, Egress]
    egress_port: int
    profiles: Mapping[str, Profile]
    quotas: Quotas
    quota_notice: int
    queue_patience: int
    queue_priorities: Mapping[str, int]
    time_zone: tzinfo
    rates: Rates
    groups: Mapping[str, frozenset[str]]
    inventory: profiles.Inventory
    digest: str
    # Where compute nodes' session agents answer; 0: there are none.
    agent_port: int = 0

    @property
    def world(self) -> profiles.World:
        """What profiles may name."""
        flavors = {name: flavor.gpu.profile if flavor.gpu else None for name, flavor in self.flavors.items()}
        return profiles.World(self.images, flavors, self.pools, self.egress)


class _Reader:
    """Takes values out of a mapping, notes what is wrong with them, and what nobody asked for."""

    def __init__(self, data: Any, path: str, problems: list[str]) -> None:
        self.path, self.problems = path, problems
        if not isinstance(data, dict):
            self.bad("", data, "a mapping")
            data = {}
        self.data: dict[str, Any] = data
        self.left = set(data)

    def where(self, key: str) -> str:
        return ".".join(part for part in (self.path, key) if part)

    def bad(self, key: str, value: Any, legal: str) -> None:
        self.problems.append(f"{self.where(key) or 'the document'}: {value!r} is not legal: give {legal}")

    def raw(self, key: str, default: Any = ...) -> Any:
        self.left.discard(key)
        if key in self.data and self.data[key] is not None:
            return self.data[key]
        if default is ...:
            self.problems.append(f"{self.where(key)}: is missing")
            return None
        return default

    def text(self, key: str, default: Any = ..., choices: tuple[str, ...] = ()) -> str:
        value = self.raw(key, default)
        if value is None:
            return ""
        if not isinstance(value, str):
            self.bad(key, value, "text")
            return ""
        if choices and value not in choices:
            self.bad(key, value, "one of " + ", ".join(choices))
        return value

    def url(self, key: str, default: Any = ..., schemes: tuple[str, ...] = ("http", "https")) -> str:
        value = self.text(key, default)
        if value and (urlparse(value).scheme not in schemes or not (urlparse(value).netloc or urlparse(value).path)):
            self.bad(key, value, "a URL that begins with " + " or ".join(f"{s}://" for s in schemes))
        return value.rstrip("/")

    def absolute(self, key: str, default: Any = ...) -> str:
        value = self.text(key, default)
        if value and not value.startswith("/"):
            self.bad(key, value, "an absolute path")
        return value

    def boolean(self, key: str, default: Any = ...) -> bool:
        value = self.raw(key, default)
        if not isinstance(value, bool):
            self.bad(key, value, "true or false")
        return bool(value)

    def number(self, key: str, default: Any = ..., least: float = 0, whole: bool = True) -> Any:
        value = self.raw(key, default)
        kind = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kind) or value < least:
            if value is not None:
                self.bad(key, value, f"a {'whole ' if whole else ''}number of {least} or more")
            return least
        return value

    def parsed(self, key: str, parse: Callable[[object], int], default: Any = ...) -> int:
        value = self.raw(key, default)
        if value is None:
            return 0
        try:
            return parse(value)
        except ValueError as error:
            self.problems.append(f"{self.where(key)}: {error}")
            return 0

    def texts(self, key: str, default: Any = ...) -> tuple[str, ...]:
        value = self.raw(key, default)
        if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
            if value is not None:
                self.bad(key, value, "a list of names")
            return ()
        return tuple(value)

    def part(self, key: str, default: Any = ...) -> _Reader:
        value = self.raw(key, default)
        return _Reader({} if value is None else value, self.where(key), self.problems)

    def named(self, key: str, default: Any = ...) -> dict[str, Any]:
        part = self.part(key, default)
        for name in part.data:
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                part.bad("", name, "names of a-z, 0-9, '-', '_' and '.', at most 63 long")
        return {name: value for name, value in part.data.items() if isinstance(name, str)}

    def end(self) -> None:
        for key in sorted(self.left, key=str):
            known = ", ".join(sorted(set(map(str, self.data)) - {str(k) for k in self.left}))
            self.problems.append(f"{self.where(str(key))}: is not known here (known: {known or 'nothing'})")


def _flavor(name: str, data: Any, problems: list[str]) -> Flavor:
    reader = _Reader(data, f"flavors.{name}", problems)
    cpus = reader.number("cpus", least=0.1, whole=False)
    memory = reader.parsed("memory", sizes.parse_size)
    gpu = None
    if "gpu" in reader.data:
        part = reader.part("gpu")
        profile, count = part.text("profile", ""), part.number("count", 1, least=1)
        resource = "GPU"
        if profile:
            try:
                resource = names.mig_resource(profile)
            except ValueError as error:
                problems.append(f"flavors.{name}.gpu.profile: {error}")
        model = part.text("model", "")
        try:
            quotas.gpu_resource("", model)
        except ValueError as error:
            problems.append(f"flavors.{name}.gpu.model: {error}")
        gpu = Gpu(resource, count, profile, model)
        part.end()
    reader.end()
    return Flavor(name, float(cpus), memory, gpu)


def _choice(reader: _Reader, key: str, legal: Mapping[str, Any], default: Any = ...) -> str:
    value = reader.text(key, default)
    if value and value not in legal:
        reader.bad(key, value, "one of " + (", ".join(sorted(legal)) or "(none is declared)"))
    return value


def _profile(
    name: str,
    data: Any,
    flavors: Mapping[str, Flavor],
    images: Mapping[str, str],
    pools: Mapping[str, str],
    egress: Mapping[str, Any],
    problems: list[str],
) -> Profile:
    reader = _Reader(data, f"profiles.{name}", problems)
    variables = reader.part("environment", {})
    try:
        startup = profiles.startup_script(reader.raw("startup", None))
    except ValueError as error:
        problems.append(f"{reader.where('startup')}: {error} Give {profiles.STARTUP_LEGAL}")
        startup = ""
    for key, value in variables.data.items():
        if not isinstance(key, str) or not names.VARIABLE.fullmatch(key):
            variables.bad("", key, "names of variables: letters, digits and _, no digit first")
        elif not isinstance(value, str):
            variables.bad(key, value, "text")
    flavor = flavors.get(_choice(reader, "flavor", flavors), Flavor("", 1, 1))
    pool = _choice(reader, "pool", pools)
    if flavor.gpu and pool in pools and (refusal := sandboxes.gpu_refusal(pools[pool], flavor.gpu.profile)):
        problems.append(
            f"profiles.{name}: flavor {flavor.name!r} has a GPU, and pool {pool!r} cannot give it: {refusal}; "
            "use a pool with sandbox nvidia"
        )
    profile = Profile(
        name=name,
        title=reader.text("title", name),
        description=reader.text("description", ""),
        image=_choice(reader, "image", images),
        flavor=flavor,
        pool=pool,
        egress=_choice(reader, "egress", egress),
        idle_stop=reader.parsed("idle_stop", durations.parse_duration, "1h"),
        max_session=reader.parsed("max_session", durations.parse_duration, "12h"),
        hibernate_after=reader.parsed("hibernate_after", durations.parse_duration, "0s"),
        extension=reader.parsed("extension", durations.parse_duration, "2h"),
        background_limit=reader.parsed("background_limit", durations.parse_duration, "4h"),
        warm=reader.number("warm", 0),
        environment={str(key): str(value) for key, value in variables.data.items()},
        startup=startup,
        groups=frozenset(reader.texts("groups", [])),
        approval=reader.boolean("approval", False),
        default=reader.boolean("default", False),
        sandbox=sandboxes.session_sandbox(pools[pool], bool(flavor.gpu)) if pools.get(pool) in sandboxes.SANDBOXES else "",
    )
    reader.end()
    return profile


def read_profile(document: Document, name: str, data: Any) -> Profile:
    """One more profile for a document. Raises DocumentError."""
    problems: list[str] = []
    found = _profile(name, data, document.flavors, document.images, document.pools, document.egress, problems)
    if problems:
        raise DocumentError(problems)
    return found


def _quotas(reader: _Reader) -> Quotas:
    def parse_all(part: _Reader) -> dict[str, Quota]:
        found = {str(key): Quota() for key in part.data}
        for key, value in part.data.items():
            try:
                found[str(key)] = quotas.parse_quota(value)
            except ValueError as error:
                part.problems.append(f"{part.where(str(key))}: {error}")
        return found

    try:
        default = quotas.parse_quota(reader.raw("default", ""))
    except ValueError as error:
        reader.problems.append(f"{reader.where('default')}: {error}")
        default = Quota()
    grants = Quotas(default, parse_all(reader.part("groups", {})), parse_all(reader.part("users", {})))
    reader.end()
    return grants


def _priorities(part: _Reader) -> dict[str, int]:
    found = {}
    for name, number in part.data.items():
        if start_queue.legal_priority(number):
            found[str(name)] = int(number)
        else:
            part.bad(str(name), number, start_queue.PRIORITY_LEGAL)
    return found


def _time_zone(reader: _Reader) -> tzinfo:
    name = reader.raw("time_zone", "UTC")
    try:
        return zones.read_zone(name)
    except ValueError as error:
        reader.problems.append(f"{reader.where('time_zone')}: {name!r} is not legal: {error} Legal: {zones.LEGAL}")
        return zones.read_zone("UTC")


def _rates(reader: _Reader) -> Rates:
    value = reader.raw("rates", {})
    faults = showback.rate_faults(value)
    for key, price, message, legal in faults:
        reader.problems.append(f"{'.'.join(filter(None, (reader.where('rates'), key)))}: {price!r} is not legal: {message} Legal: {legal}")
    return Rates() if faults else showback.read_rates(value)


def _auth(reader: _Reader) -> Auth:
    kind = reader.text("kind", "native", ("native", "oidc"))
    oidc = None
    if "oidc" in reader.data and reader.data["oidc"]:
        part = reader.part("oidc")
        oidc = Oidc(
            title=part.text("title", "your organisation's account"),
            client_id=part.text("client_id"),
            client_secret_file=part.absolute("client_secret_file"),
            authorize_url=part.url("authorize_url", schemes=("https", "http")),
            token_url=part.url("token_url", schemes=("https", "http")),
            userdata_url=part.url("userdata_url", schemes=("https", "http")),
            scope=part.texts("scope", ["openid", "profile", "email"]),
            username_claim=part.text("username_claim", "preferred_username"),
            groups_claim=part.text("groups_claim", ""),
            allowed_groups=frozenset(part.texts("allowed_groups", [])),
            admin_groups=frozenset(part.texts("admin_groups", [])),
        )
        if (oidc.allowed_groups or oidc.admin_groups) and not oidc.groups_claim:
            part.problems.append(f"{part.where('groups_claim')}: is missing, allowed_groups and admin_groups need it")
        part.end()
    reader.left.discard("oidc")
    if kind == "oidc" and oidc is None:
        reader.problems.append(f"{reader.where('oidc')}: is missing, kind is oidc")
    auth = Auth(
        kind=kind,
        admins=reader.texts("admins"),
        admin_password_file=reader.absolute("admin_password_file", "/etc/metalhub/secrets/admin-password"),
        signup=reader.boolean("signup", False),
        oidc=oidc if kind == "oidc" else None,
    )
    if not auth.admins and not (oidc and oidc.admin_groups):
        reader.problems.append(f"{reader.where('admins')}: is empty: name at least one administrator")
    reader.end()
    return auth


def _smtp(reader: _Reader) -> Smtp | None:
    smtp = Smtp(
        host=reader.text("host", ""),
        port=reader.number("port", 587, least=1),
        sender=reader.text("from", ""),
        user=reader.text("user", ""),
        password_file=reader.absolute("password_file", ""),
        tls=reader.text("tls", "starttls", SMTP_TLS),
    )
    if smtp.port > 65535:
        reader.bad("port", smtp.port, "a port, 1 to 65535")
    if smtp.host and "@" not in smtp.sender:
        reader.bad("from", smtp.sender, "the address that mails come from, such as metalhub@example.org")
    if smtp.user and not smtp.password_file:
        reader.problems.append(f"{reader.where('password_file')}: is missing, user is {smtp.user!r}")
    if smtp.user and smtp.tls == "none":
        reader.bad("tls", smtp.tls, "starttls or tls: a password is not sent in the clear")
    reader.end()
    return smtp if smtp.host else None


def parse(data: Any) -> Document:
    """Read a document. Raises DocumentError with every problem found."""
    problems: list[str] = []
    top = _Reader(data, "", problems)

    pools: dict[str, str] = {}
    for name, value in top.named("pools").items():
        part = _Reader(value, f"pools.{name}", problems)
        pools[name] = part.text("sandbox", choices=sandboxes.SANDBOXES)
        part.end()
    flavors = {name: _flavor(name, value, problems) for name, value in top.named("flavors").items()}
    images: dict[str, str] = {}
    for name, value in top.named("images").items():
        part = _Reader(value, f"images.{name}", problems)
        images[name] = part.text("title", name)
        part.left -= {"build", "reference"}  # how it is made is for others; which it is stands in the manifest
        part.end()
    egress: dict[str, Egress] = {}
    for name, value in top.named("egress_classes").items():
        part = _Reader(value, f"egress_classes.{name}", problems)
        egress[name] = Egress(
            proxy=part.url("proxy", ""),
            direct=part.texts("direct", []),
            title=part.text("title", name),
            description=part.text("description", ""),
            reach=part.text("reach", ""),
        )
        part.end()
        try:
            names.network_name(name)
        except ValueError as error:
            problems.append(f"egress_classes: {error}")
    inventory = top.named("profiles")
    offered = {name: _profile(name, value, flavors, images, pools, egress, problems) for name, value in inventory.items()}
    if not offered:
        problems.append("profiles: is empty: people need at least one")
    if sum(profile.default for profile in offered.values()) > 1:
        chosen = ", ".join(name for name, profile in offered.items() if profile.default)
        problems.append(f"profiles: {chosen} are all marked default: mark one")

    part = top.part("engine")
    engine = Engine(
        managers=part.texts("managers"),
        ca=part.absolute("ca", "/etc/metalhub/pki/ca.crt"),
        cert=part.absolute("cert", "/etc/metalhub/pki/hub-client.crt"),
        key=part.absolute("key", "/etc/metalhub/pki/hub-client.key"),
        timeout=part.number("timeout", 4, least=0.1, whole=False),
    )
    if not engine.managers:
        problems.append("engine.managers: is empty: name at least one manager")
    for manager in engine.managers:
        if urlparse(manager).scheme not in ("https", "unix"):
            problems.append(f"engine.managers: {manager!r} is not legal: give https://address:2376 or unix:///path")
    part.end()

    part = top.part("registry", {})
    registry = Registry(part.text("server", ""), part.text("user", ""), part.absolute("password_file", ""))
    if registry.user and not registry.password_file:
        problems.append(f"registry.password_file: is missing, registry.user is {registry.user!r}")
    part.end()
    part = top.part("storage", {})
    storage = Storage(part.url("url", ""), part.number("timeout", 5, least=0.1, whole=False))
    part.end()

    part = top.part("egress", {})
    egress_port = part.number("port", 8701, least=1)
    if egress_port > 65535:
        part.bad("port", egress_port, "a port, 1 to 65535")
    part.end()

    agent_port = top.number("agent_port", 0)
    if agent_port > 65535:
        top.bad("agent_port", agent_port, "a port, 1 to 65535, or 0 for none")

    part = top.part("session", {})
    environment = part.part("environment", {})
    session = Session(
        home=part.absolute("home", "/home/user"),
        shared=part.absolute("shared", "/mnt/shared"),
        scratch=part.absolute("scratch", "/data"),
        homes_root=part.absolute("homes_root", "/srv/metalhub/homes"),
        shared_root=part.absolute("shared_root", "/srv/metalhub/shared"),
        resolv_conf=part.absolute("resolv_conf", "/etc/metalhub/session/{egress}/resolv.conf"),
        home_size=part.parsed("home_size", sizes.parse_size, "100G"),
        shm=part.parsed("shm", sizes.parse_size, "1G"),
        pids=part.number("pids", 1024, least=16),
        files=part.number("files", 65536, least=1024),
        start_timeout=part.parsed("start_timeout", durations.parse_duration, "2m"),
        stop_notice=part.parsed("stop_notice", durations.parse_duration, "5m"),
        environment={str(key): str(value) for key, value in environment.data.items()},
        command=part.texts("command", ["jupyterhub-singleuser"]),
    )
    part.end()

    part = top.part("traefik", {})
    traefik = Traefik(
        api_url=part.url("api_url", "http://127.0.0.1:8099"),
        api_user=part.text("api_user", "hub"),
        api_password_file=part.absolute("api_password_file", ""),
        routes_file=part.absolute("routes_file", "/var/lib/metalhub/routes/hub.yml"),
        entrypoint=part.text("entrypoint", "websecure"),
    )
    part.end()

    groups = {}
    for name, value in top.named("groups", {}).items():
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            problems.append(f"groups.{name}: {value!r} is not legal: give a list of user names")
            value = []
        groups[name] = frozenset(value)

    document = Document(
        public_url=top.url("public_url"),
        listen=top.url("listen", "http://0.0.0.0:8081", schemes=("http",)),
        connect_url=top.url("connect_url", schemes=("http",)),
        state=top.absolute("state", "/var/lib/metalhub/hub"),
        images_file=top.absolute("images_file", "/etc/metalhub/images.json"),
        cookie_secret_file=top.absolute("cookie_secret_file", "/etc/metalhub/secrets/hub-cookie-secret"),
        database_url_file=top.absolute("database_url_file", ""),
        cli_token_file=top.absolute("cli_token_file", ""),
        named_servers=top.number("named_servers", 5),
        cull_every=top.parsed("cull_every", durations.parse_duration, "30s"),
        engine=engine,
        registry=registry,
        storage=storage,
        session=session,
        auth=_auth(top.part("auth", {})),
        smtp=_smtp(top.part("smtp", {})),
        traefik=traefik,
        pools=pools,
        flavors=flavors,
        images=images,
        egress=egress,
        egress_port=egress_port,
        agent_port=agent_port,
        profiles=offered,
        quotas=_quotas(top.part("quotas", {})),
        quota_notice=top.parsed("quota_notice", durations.parse_duration, "5m"),
        queue_patience=top.parsed("queue_patience", durations.parse_duration, "4h"),
        queue_priorities=_priorities(top.part("queue_priorities", {})),
        time_zone=_time_zone(top),
        rates=_rates(top),
        groups=groups,
        inventory=inventory,
        digest=hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest(),
    )
    top.end()
    if problems:
        raise DocumentError(problems)
    return document


def load(path: str | Path) -> Document:
    """Read the document at ``path``. Raises DocumentError, also for a file that cannot be read or is not YAML."""
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DocumentError([f"{path}: cannot be read: {error.strerror}"]) from None
    except yaml.YAMLError as error:
        raise DocumentError([f"{path}: is not YAML: {' '.join(str(error).split())}"]) from None
    return parse(data)
