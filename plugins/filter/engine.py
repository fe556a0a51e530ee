"""What the engine's roles compute: adapters on the pure core."""

from __future__ import annotations

import base64
import json
import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.metalhub.platform.plugins.module_utils import docker_config, gvisor_gate, pki_names, swarm_plan
from ansible_collections.metalhub.platform.plugins.plugin_utils.filters import refusing


def docker_daemon_config(fragments: t.Mapping[str, t.Any], dispatch: t.Sequence[t.Mapping[str, str]] = ()) -> dict[str, t.Any]:
    """Merge fragments of daemon.json by owner; one that is text is the Base64 of a file of its name."""
    return _merged(fragments, dispatch)[0]


def docker_dispatch_config(fragments: t.Mapping[str, t.Any], dispatch: t.Sequence[t.Mapping[str, str]]) -> str:
    """The configuration of the dispatching runtime; empty where there is none."""
    return _merged(fragments, dispatch)[1]


def _merged(fragments: t.Mapping[str, t.Any], dispatch: t.Sequence[t.Mapping[str, str]]) -> tuple[dict[str, t.Any], str]:
    documents = {owner: _document(owner, fragment) if isinstance(fragment, str) else fragment for owner, fragment in fragments.items()}
    try:
        choices = [docker_config.Choice(item["choice"], item["runtime"]) for item in dispatch]
        return docker_config.merge_with_dispatcher(documents, choices)
    except (ValueError, TypeError) as error:
        raise AnsibleFilterError(str(error)) from error


def _document(owner: str, text: str) -> t.Any:
    try:
        return json.loads(base64.b64decode(text))
    except ValueError as error:
        raise AnsibleFilterError(f"the Docker settings in {owner}.json are not JSON: {error}") from error


def pki_alt_names(certificate: t.Mapping[str, t.Any]) -> list[str]:
    """Alternative names of a certificate as OpenSSL prints them."""
    try:
        return pki_names.alt_names(certificate.get("dns") or [], certificate.get("ip") or [])
    except ValueError as error:
        raise AnsibleFilterError(f"certificate {certificate.get('name')!r}: {error}") from error


@refusing
def gvisor_refusal(version: str, kernel: str, platform: str) -> str:
    """Why a gVisor release cannot work on a kernel, empty where nothing is known against it."""
    return gvisor_gate.refusal(version, kernel, platform) or ""


def swarm_quorum_problem(managers: t.Sequence[str]) -> str:
    """What is wrong with a list of managers, empty where nothing is."""
    return swarm_plan.quorum_problem(managers) or ""


def swarm_host_plan(host: t.Mapping[str, t.Any], nodes: t.Sequence[t.Mapping[str, t.Any]] | None, replace: bool) -> dict[str, t.Any]:
    """What a host needs to be the node that the inventory wants."""
    labels = {str(key): None if value is None else str(value) for key, value in host["labels"].items()}
    try:
        plan = swarm_plan.plan(
            swarm_plan.Host(**{**host, "labels": labels}),
            None if nodes is None else [swarm_plan.Node(**{**node, "labels": node["labels"] or {}}) for node in nodes],
            replace,
        )
    except swarm_plan.SwarmRefusal as error:
        raise AnsibleFilterError(str(error)) from error
    return {"membership": plan.membership, "update": plan.update, "stale": list(plan.stale), "changes": plan.changes}


def settings_within(wanted: t.Any, known: t.Any) -> bool:
    """Whether all settings of a document are in another."""
    if isinstance(wanted, dict) and isinstance(known, dict):
        return all(key in known and settings_within(value, known[key]) for key, value in wanted.items())
    return bool(wanted == known)


class FilterModule:
    """Ansible looks for this class."""

    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        """Name the filters."""
        return {
            "docker_daemon_config": docker_daemon_config,
            "docker_dispatch_config": docker_dispatch_config,
            "gvisor_refusal": gvisor_refusal,
            "pki_alt_names": pki_alt_names,
            "settings_within": settings_within,
            "swarm_host_plan": swarm_host_plan,
            "swarm_quorum_problem": swarm_quorum_problem,
        }
