"""Problems and the plan of a site, in words: one content, as text for a terminal and as a page."""

from __future__ import annotations

import html
import json
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone

from .durations import format_duration, parse_duration
from .egress import compile_policy, describe
from .model import Host, Problem, Site, egress_arguments, hosts_of_pool
from .profiles import Change, Runtime, differences
from .sizes import format_size, parse_size

_SANDBOXES = {
    "gvisor": "gVisor (runsc)",
    "kata": "Kata (a virtual machine each)",
    "nvidia": "runc with the NVIDIA runtime for sessions with a GPU, gVisor for the others",
    "runc": "runc (no sandbox of its own)",
}
_DUTIES = {
    "metalhub_control": "control (hub, Traefik, certificates)",
    "metalhub_managers": "Swarm manager",
    "metalhub_compute": "sessions",
    "metalhub_storage": "homes",
    "metalhub_registry": "registry",
    "metalhub_builders": "builds images",
}


@dataclass(frozen=True)
class Table:
    """A part of the plan: rows of cells under a header, and lines of text after them."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def format_value(value: object) -> str:
    """A value on one line, as JSON, cut at 100 characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 100 else f"{text[:99]}…"


def format_problem(problem: Problem, source: str = "") -> str:
    """A problem in a few lines: variable, value and host; the message; what is legal; where it is written."""
    value = "" if problem.value is None else f" = {format_value(problem.value)}"
    lines = [f"{problem.variable}{value}{f' on {problem.host}' if problem.host else ''}", problem.message]
    if problem.legal:
        lines.append(f"Legal: {problem.legal}")
    if source:
        lines.append(f"Written in {source}")
    return "\n    ".join(lines)


def format_problems(problems: Sequence[Problem], sources: Mapping[str, str]) -> str:
    """All problems under one heading. ``sources`` says where a variable is written."""
    count = "is one problem" if len(problems) == 1 else f"are {len(problems)} problems"
    parts = [format_problem(p, sources.get(p.variable, "")) for p in problems]
    return "\n\n".join([f"There {count} to mend. Nothing was changed.", *parts])


def _text(value: object, otherwise: str = "") -> str:
    return otherwise if value is None or value == "" else str(value)


def _duration(value: object) -> str:
    try:
        return format_duration(parse_duration(value))
    except ValueError:
        return "?"


def _flavor(flavor: Mapping[str, object] | None) -> str:
    if flavor is None:
        return "?"
    try:
        memory = format_size(parse_size(flavor.get("memory")))
    except ValueError:
        memory = "?"
    gpu = flavor.get("gpu")
    words = f"{flavor.get('cpus', '?')} CPUs, {memory}"
    if isinstance(gpu, Mapping):
        words += f", {gpu.get('count', 1)} × {gpu.get('profile') or 'GPU'}"
    return words


def _names(hosts: Sequence[Host], limit: int = 6) -> str:
    names = [host.name for host in hosts]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return (", ".join(names[:limit]) + more) or "no host"


def _networks(site: Site) -> Table:
    """Each egress class in words; where something is wrong with one, what was written of all."""
    classes, arguments = egress_arguments(site)
    notes = ["Sessions reach neither each other nor the hosts' own services."]
    try:
        policy = compile_policy(classes, **arguments)
    except ValueError:
        rows = [(name, _text(entry.get("subnet"), "?"), "?") for name, entry in site.table("metalhub_egress_classes").items()]
    else:
        rows = [(name, entry["subnet"], describe(entry)) for name, entry in policy["classes"].items()]
        if policy["site_networks"]:
            notes.append(f"Of the private networks, names may lead to {', '.join(policy['site_networks'])}.")
    header = ("class", "bridge", "subnet", "reaches")
    table = tuple((name, f"mh-{name}", subnet, reaches) for name, subnet, reaches in rows)
    return Table("Networks, on each node that runs sessions", header, table, tuple(notes))


def _short(field: str, value: object) -> str:
    """A field's value for the plan. What may hold a secret or many lines is not shown."""
    if value is None:
        return "nothing"
    return "its own" if field in ("environment", "startup") else value if isinstance(value, str) else format_value(value)


def _who(change: Change) -> str:
    return f"{change.by}, {datetime.fromtimestamp(change.at, timezone.utc):%Y-%m-%d}"


def runtime_profiles(site: Site, runtime: Runtime) -> Table:
    """What administrators changed of profiles at runtime, and what a converge with this inventory does with it."""
    inventory = site.table("metalhub_profiles")
    found = differences(inventory, runtime)
    rows = []
    for name, entry in sorted(runtime.items()):
        if entry.created and name not in inventory:
            last = max(entry.fields.values(), key=lambda change: change.at)
            of = ", ".join(str(entry.fields[key].value) for key in ("image", "flavor", "pool", "egress") if key in entry.fields)
            rows.append((name, "all of it", of, "not there", _who(last), "stays"))
            continue
        gone = name not in inventory
        for each in found:
            if each.profile == name:
                own = _short(each.field, each.inventory) if each.own else "no profile" if gone else "nothing"
                end = "stays" if each.stays else "goes with its profile" if gone else "the inventory wins"
                rows.append((name, each.field, _short(each.field, each.change.value), own, _who(each.change), end))
    lost = sum(not each.stays for each in found)
    note = f"The next converge drops {lost} of these changes: to keep one, write it into the inventory." if lost else ""
    header = ("profile", "field", "now", "the inventory says", "changed by", "at the next converge")
    return Table("Profiles, changed at runtime", header, tuple(rows) or (("none",) + ("",) * 5,), (note,) if note else ())


def plan_site(site: Site) -> list[Table]:
    """What the inventory means: hosts and what each gets, pools, profiles and where they run, networks, images, quotas."""
    flavors, images = site.table("metalhub_flavors"), site.table("metalhub_images")
    pools = site.table("metalhub_pools")
    hosts = tuple(
        (
            host.name,
            _text(host.variables.get("metalhub_address"), "known in the run"),
            _text(host.variables.get("metalhub_pool"), "-"),
            ", ".join(duty for group, duty in _DUTIES.items() if group in host.groups) or "nothing",
        )
        for host in site.hosts
    )
    managers = site.group("metalhub_managers")
    losses = (len(managers) - 1) // 2
    quorum = (
        f"{len(managers)} Swarm managers survive the loss of {losses}."
        if losses
        else "One Swarm manager: while it is down, no session starts."
    )
    stop_words = []
    for profile in site.table("metalhub_profiles").values():
        idle, longest = profile.get("idle_stop"), profile.get("max_session")
        parts = [f"idle for {_duration(idle)}" if idle else "", f"after {_duration(longest)}" if longest else ""]
        stop_words.append(" or ".join(filter(None, parts)) or "only by hand")
    profiles = tuple(
        (
            f"{name}{' (default)' if profile.get('default') is True else ''}",
            _flavor(flavors.get(str(profile.get("flavor")))),
            _text(profile.get("image"), "?"),
            _text(profile.get("egress"), "?"),
            stop,
            (", ".join(map(str, groups)) if isinstance(groups := profile.get("groups"), (list, tuple)) and groups else "everybody")
            + (", each after approval" if profile.get("approval") is True else ""),
            _names(hosts_of_pool(site, str(profile.get("pool")))),
        )
        for (name, profile), stop in zip(site.table("metalhub_profiles").items(), stop_words, strict=True)
    )
    image_rows = []
    for name, image in images.items():
        how = f"pulled, {image['reference']}" if "reference" in image else f"built from {_text(image.get('build'), '?')}"
        used = {str(p.get("pool")) for p in site.table("metalhub_profiles").values() if p.get("image") == name}
        nodes = [host for host in site.group("metalhub_compute") if host.variables.get("metalhub_pool") in used]
        image_rows.append((name, how, _names(nodes)))
    quotas = site.variable("metalhub_quotas")
    quota_rows: list[tuple[str, ...]] = []
    if isinstance(quotas, Mapping):
        quota_rows += [("everybody", _text(quotas["default"]))] if quotas.get("default") else []
        for kind, what in (("groups", "group"), ("users", "user")):
            grants = quotas.get(kind)
            quota_rows += [(f"{what} {name}", str(text)) for name, text in grants.items()] if isinstance(grants, Mapping) else []
    return [
        Table("Hosts", ("host", "address", "pool", "what it does"), hosts, (quorum,) if managers else ()),
        Table(
            "Pools",
            ("pool", "sandbox", "nodes"),
            tuple((name, _SANDBOXES.get(str(pool.get("sandbox")), "?"), _names(hosts_of_pool(site, name))) for name, pool in pools.items()),
        ),
        Table(
            "Profiles",
            ("profile", "size", "image", "egress", "stops", "for", "can run on"),
            profiles,
        ),
        _networks(site),
        Table("Images", ("image", "how", "pulled ahead on"), tuple(image_rows)),
        Table(
            "Quotas",
            ("for", "limits"),
            tuple(quota_rows) or (("everybody", "none"),),
            (f"A new home holds {_text(site.variable('metalhub_home_size'), '?')}.",),
        ),
    ]


def _wrap(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    cells = [textwrap.wrap(cell, width, break_on_hyphens=False) or [""] for cell, width in zip(row, widths, strict=True)]
    height = max(len(cell) for cell in cells)
    lines = []
    for number in range(height):
        parts = [(cell[number] if number < len(cell) else "").ljust(width) for cell, width in zip(cells, widths, strict=True)]
        lines.append(("  " + "  ".join(parts)).rstrip())
    return lines


def _widths(table: Table, room: int) -> list[int]:
    """Widths of the columns: as wide as their cells, and where that is too much, the widest give way."""
    widths = [max(len(row[i]) for row in (table.header, *table.rows)) for i in range(len(table.header))]
    while sum(widths) + 2 * len(widths) > room and max(widths) > 12:
        widths[widths.index(max(widths))] -= 1
    return widths


def render_text(title: str, tables: Sequence[Table], width: int = 100) -> str:
    """The plan for a terminal of ``width`` columns."""
    lines = [title, "=" * len(title)]
    for table in tables:
        widths = _widths(table, width)
        lines += ["", table.title, *_wrap(table.header, widths), "  " + "  ".join("-" * w for w in widths)]
        for row in table.rows:
            lines += _wrap(row, widths)
        lines += [f"  {line}" for note in table.notes for line in textwrap.wrap(note, width - 2)]
    return "\n".join(lines)


_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
div { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid #8885; }
th { font-weight: 600; opacity: .7; } td:first-child { font-weight: 600; white-space: nowrap; }
p { opacity: .8; margin: .5rem 0; } pre { white-space: pre-wrap; border-left: 4px solid #d33; padding-left: 1rem; }
"""


def render_html(title: str, tables: Sequence[Table], problems: str = "") -> str:
    """The plan as one page that needs nothing else."""
    parts = [f"<h1>{html.escape(title)}</h1>", f"<pre>{html.escape(problems)}</pre>" if problems else ""]
    for table in tables:
        head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in table.header)
        rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>\n" for row in table.rows)
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in table.notes)
        body = f"<div><table><thead><tr>{head}</tr></thead>\n<tbody>{rows}</tbody></table></div>"
        parts.append(f"<h2>{html.escape(table.title)}</h2>\n{body}{notes}")
    content = "\n".join(filter(None, parts))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n{content}\n</body></html>\n"
    )
