"""Egress in templates: the compiled policy, the resolver of a class, what was refused. Documented in the YAML file of each filter."""

from __future__ import annotations

import typing as t

from ansible_collections.metalhub.platform.plugins.module_utils import egress
from ansible_collections.metalhub.platform.plugins.module_utils import egress_report as report
from ansible_collections.metalhub.platform.plugins.plugin_utils.filters import refusing
from ansible_collections.metalhub.platform.plugins.plugin_utils.public_suffix import is_public_suffix


def egress_compile(
    classes: t.Any,
    used: t.Iterable[str] | None = None,
    internal: t.Any = (),
    packages: t.Any = (),
    deny_lists: t.Any = None,
    site_networks: t.Any = (),
    reserved: t.Iterable[str] = (),
) -> dict[str, t.Any]:
    """The policy of a site as plain data."""
    return egress.compile_policy(
        classes,
        used=used,
        internal=internal,
        packages=packages,
        deny_lists=deny_lists,
        site_networks=site_networks,
        reserved=reserved,
        is_public_suffix=is_public_suffix,
    )


def egress_report(lines: t.Iterable[t.Mapping[str, t.Any]], since: str | None = None, top: int = 50) -> list[dict[str, t.Any]]:
    """What was refused most, with the line for the inventory that would allow it."""
    return [report.plain(row) for row in report.summarize(lines, since=since, top=top)]


def egress_report_table(lines: t.Iterable[t.Mapping[str, t.Any]], since: str | None = None, top: int = 50) -> list[str]:
    """The same as lines of text."""
    return report.table(report.summarize(lines, since=since, top=top))


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """By name, without the collection's."""
        return {
            "egress_compile": refusing(egress_compile),
            "egress_offers": egress.offers,
            "egress_report": egress_report,
            "egress_report_table": egress_report_table,
            "egress_resolver": refusing(egress.resolver_config),
        }
