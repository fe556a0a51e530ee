"""Write the variable tables of the roles' READMEs from their argument specs, the commands of docs/cli.md, docs/api.md and docs/metrics.md.

With --check: fail where one is stale.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "files" / "hub"))

from metalhub_hub import __version__, handlers, metrics, openapi  # noqa: E402
from metalhub_hub.cli.commands import NOUNS  # noqa: E402
from metalhub_hub.cli.frame import EXIT_CODES  # noqa: E402

START, END = "<!-- variables -->", "<!-- /variables -->"


def cell(text: str) -> str:
    """A description in Markdown: Ansible's C() and V() become code, and a bar would end the cell."""
    return re.sub(r"[CVO]\(([^)]*)\)", r"`\1`", " ".join(text.split())).replace("|", "\\|")


def rows(options: dict[str, Any], defaults: dict[str, Any], prefix: str = "") -> list[str]:
    """One line for each option, and below a mapping or a list of mappings one for each key."""
    lines = []
    for name, spec in options.items():
        kind = spec.get("type", "str")
        kind = f"{kind} of {spec['elements']}" if kind == "list" and "elements" in spec else kind
        default = defaults.get(name, spec.get("default"))
        shown = "required" if spec.get("required") else "" if default is None else f"`{json.dumps(default, ensure_ascii=False)}`"
        if len(shown) > 60:
            shown = "see `defaults/main.yml`"
        description = spec["description"]
        words = cell(" ".join(description) if isinstance(description, list) else description)
        if "choices" in spec:
            words += f" One of {', '.join(f'`{choice}`' for choice in spec['choices'])}."
        shown = shown.replace("|", "\\|")
        lines.append(f"| `{prefix}{name}` | {kind} | {shown} | {words} |")
        lines += rows(spec.get("options", {}), {}, f"{prefix}{name}{'[]' if kind.startswith('list') else ''}.")
    return lines


def table(role: Path) -> str:
    """The table of a role, of all its entry points."""
    entries = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]
    defaults_file = role / "defaults/main.yml"
    defaults = yaml.safe_load(defaults_file.read_text()) or {} if defaults_file.exists() else {}
    site = yaml.safe_load((ROOT / "group_vars/all/metalhub.yml").read_text())
    parts = []
    for name, entry in entries.items():
        title = [] if name == "main" else [f"### {entry['short_description']}", ""]
        lines = rows(entry.get("options") or {}, {**site, **defaults})
        head = ["| variable | type | default | what |", "|---|---|---|---|"]
        parts.append("\n".join([*title, *head, *lines] if lines else [*title, "This role has no variables."]))
    return "\n\n".join(parts)


def commands() -> str:
    """The command line's verbs, and its exit codes."""
    lines = ["| command | what |", "|---|---|"]
    for noun in NOUNS:
        for verb in noun.verbs:
            words = [argument for argument in verb.arguments if not argument.name.startswith("--")]
            name = " ".join(["metalhub", noun.name, verb.name, *(a.settings.get("metavar", a.name.upper()) for a in words)])
            lines.append(f"| `{name}` | {cell(verb.help)} |")
            for argument in verb.arguments:
                place = argument.settings.get("metavar", "")
                shown = f"{argument.name} {place}" if argument.name.startswith("--") else place
                lines.append(f"| &nbsp;&nbsp;`{shown.strip()}` | {cell(argument.help)} |")
    lines += ["", "| exit code | means |", "|---|---|", *(f"| {code} | {words} |" for code, words in EXIT_CODES.items())]
    return "\n".join(lines)


def measures() -> str:
    """The hub's metrics."""
    lines = ["| metric | type | labels | what |", "|---|---|---|---|"]
    for name, kind, labels, words in metrics.listed():
        lines.append(f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {cell(words)} |")
    return "\n".join(lines)


def main() -> int:
    """Write, or with --check compare. The exit status is 1 when a table is stale or its place is missing."""
    check = "--check" in sys.argv[1:]
    stale = []
    api = openapi.markdown(openapi.document(handlers.HANDLERS, __version__))
    pages = [
        (ROOT / "docs/cli.md", "<!-- commands -->", "<!-- /commands -->", commands()),
        (ROOT / "docs/api.md", "<!-- api -->", "<!-- /api -->", api),
        (ROOT / "docs/metrics.md", "<!-- metrics -->", "<!-- /metrics -->", measures()),
    ]
    for specs in sorted(ROOT.glob("roles/*/meta/argument_specs.yml")):
        role = specs.parents[1]
        readme = role / "README.md"
        if not readme.exists() and not check:
            main_entry = yaml.safe_load(specs.read_text())["argument_specs"]["main"]
            words = main_entry.get("description") or main_entry["short_description"]
            words = " ".join(words) if isinstance(words, list) else words
            readme.write_text(f"# {role.name}\n\n{cell(words)}\n\n{START}\n{END}\n")
        pages.append((readme, START, END, table(role)))
    for page, start, end, content in pages:
        text = page.read_text() if page.exists() else ""
        if start not in text or end not in text:
            print(f"{page.relative_to(ROOT)}: has no {start} and {end}", file=sys.stderr)
            return 1
        before, rest = text.split(start, 1)
        new = f"{before}{start}\n{content}\n{end}{rest.split(end, 1)[1]}"
        if new != text:
            stale.append(str(page.relative_to(ROOT)))
            if not check:
                page.write_text(new)
    if stale:
        print(f"{'stale, run make docs' if check else 'written'}: {', '.join(stale)}", file=sys.stderr)
    return 1 if stale and check else 0


if __name__ == "__main__":
    sys.exit(main())
