#!/usr/bin/python
"""The MIG instances of a host's GPUs."""

DOCUMENTATION = r"""
module: mig_layout
short_description: Bring a layout of MIG instances about, touching nothing else
version_added: 0.1.0
description:
  - Takes a layout, or counts of profiles from which it plans the best one. Creates instances where the layout has them, destroys only what
    is not in it, and switches the MIG mode only of GPUs that need it. What is in both is not touched.
  - Refuses to take an instance, or a GPU, from whoever uses it. Nothing is changed then.
  - Resets a GPU only where its architecture needs that for the mode (Ampere) and nobody uses it. Never reboots; RV(reboot_required) says
    that a mode waits for one.
  - Where a command fails it says what was done before. The next run goes on from what is there.
options:
  layout:
    description:
      - By GPU (index, UUID or PCI bus id) its instances, each with C(profile) and C(start), its first memory slot; false switches MIG off.
        A GPU that is not named is left alone.
    type: dict
  wanted:
    description: How many instances of each profile the host is to have, on whichever of its GPUs.
    type: dict
  pinned:
    description: UUIDs of instances, and of GPUs, that have to stay as they are, though nobody uses them now.
    type: list
    elements: str
    default: []
  force_busy:
    description:
      - UUIDs of busy instances that may be destroyed. The containers and processes that have them are ended.
    type: list
    elements: str
    default: []
  whole_gpus:
    description: Whether a GPU without MIG is a resource of Swarm too.
    type: bool
    default: true
  without_sessions:
    description:
      - Whether check mode takes the sessions on the host for ended, as they will be once its node was drained. Otherwise of no effect.
    type: bool
    default: false
  layout_file:
    description: Where the layout is kept for the boot unit; empty for nowhere.
    type: str
    default: ""
  docker_fragment:
    description: File for the settings of Docker, the node's generic resources; empty for none.
    type: str
    default: ""
  refresh_cdi:
    description: Whether the CDI specification is made anew where it is for other devices.
    type: bool
    default: true
  engine_socket:
    description: The Docker engine's socket.
    type: path
    default: /run/docker.sock
attributes:
  check_mode:
    description: Says what it would do.
    support: full
  diff_mode:
    description: Shows a line for each GPU that changes.
    support: full
author: The Metalhub authors (@metalhub)
"""

EXAMPLES = r"""
- name: Have one large and four small slices
  metalhub.platform.mig_layout:
    wanted: {3g.40gb: 1, 1g.10gb: 4}

- name: Say where each of them is
  metalhub.platform.mig_layout:
    layout:
      0: [{profile: 1g.10gb, start: 0}, {profile: 3g.40gb, start: 4}]
      1: false
"""

RETURN = r"""
actions:
  description: What was done, or would be in check mode, in words and in order.
  returned: success
  type: list
  elements: str
changes:
  description: "A line for each GPU that changes, such as C(GPU 0: 7g.80gb → 3g.40gb@4 + 4×1g.10gb@0-3)."
  returned: success
  type: str
destroyed:
  description: The instances that go, each C(profile@start) with its GPU.
  returned: success
  type: list
  elements: str
drawing:
  description: The GPUs' memory slots now and as they are wanted, as text.
  returned: success
  type: str
engine_restart:
  description: Whether Swarm has to be told of other resources, which takes a restart of the engine.
  returned: success
  type: bool
gpus:
  description: The GPUs afterwards, as M(metalhub.platform.mig_info) returns them.
  returned: success
  type: list
  elements: dict
layout:
  description: The layout, by UUID, that was brought about.
  returned: success
  type: dict
optimal:
  description: Whether it is proved that no plan is better.
  returned: success
  type: bool
reboot_required:
  description: Whether the mode of a GPU waits for a reboot.
  returned: success
  type: bool
reboot_reasons:
  description: Why, for each GPU that does.
  returned: success
  type: list
  elements: str
resources:
  description: What Swarm can reserve here, each C(KIND=uuid).
  returned: success
  type: list
  elements: str
sessions:
  description: The running containers that are sessions.
  returned: success
  type: list
  elements: str
"""

import contextlib  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import time  # noqa: E402
import typing as t  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402
from ansible_collections.metalhub.platform.plugins.module_utils import mig_apply, mig_fleet, mig_host, mig_plan, mig_smi  # noqa: E402
from ansible_collections.metalhub.platform.plugins.module_utils.engine_api import Engine, EngineError  # noqa: E402
from ansible_collections.metalhub.platform.plugins.module_utils.mig_geometry import Model, Placement  # noqa: E402

# Seconds that containers and processes get to end by themselves.
_GRACE = 10
# Seconds after which the best plan so far is taken; the worst case that was measured takes a fraction of one.
_PLANNING = 30


def end_clients(engine: Engine, instance: mig_smi.Instance) -> str:
    """End the containers and processes that have an instance; what went wrong, empty where nothing did."""
    for name in instance.containers:
        try:
            engine.request("POST", f"/containers/{name}/stop?t={_GRACE}")
        except EngineError as error:
            # Gone by itself meanwhile.
            if error.status != 404:
                return str(error)
    for number in (signal.SIGTERM, signal.SIGKILL):
        left = [pid for pid in instance.pids if os.path.exists(f"/proc/{pid}")]
        for pid in left:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        deadline = time.monotonic() + _GRACE
        while time.monotonic() < deadline and any(os.path.exists(f"/proc/{pid}") for pid in left):
            time.sleep(0.1)
    return ""


def target(
    parameters: t.Mapping[str, t.Any], gpus: t.Sequence[mig_smi.Gpu], models: t.Mapping[str, Model]
) -> tuple[dict[str, tuple[Placement, ...] | None], bool]:
    """The layout that is wanted, given or planned, and whether none is better. Raises Refusal."""
    if parameters["wanted"] is None:
        return mig_apply.parse_layout(parameters["layout"], gpus), True
    try:
        fleet = mig_fleet.gpus_from(mig_apply.fleet(gpus, models, parameters["force_busy"]))
        requests = mig_fleet.requests_from(parameters["wanted"])
        plan = mig_plan.plan(fleet, requests, mig_apply.fleet_pins(gpus, models, parameters["pinned"]), _PLANNING, time.monotonic)
    except ValueError as error:
        raise mig_apply.Refusal(str(error)) from error
    if not plan.satisfied:
        raise mig_apply.Refusal("; ".join(_reason(reason, gpus) for reason in plan.reasons))
    # A GPU that has nothing and is to get nothing is nobody's business.
    layout = {
        change.gpu.uuid: change.layout if change.mig_enabled else None
        for change in plan.changes
        if change.layout or change.gpu.instances or change.mode_change
    }
    return layout, plan.optimal


def _reason(reason: mig_plan.Reason, gpus: t.Sequence[mig_smi.Gpu]) -> str:
    near = next((f"; nearest: GPU {gpu.index} with {mig_apply.describe(reason.layout)}" for gpu in gpus if gpu.uuid == reason.uuid), "")
    return f"wanted: {reason.missing} of {reason.request} cannot be had: {reason.reason}{near}"


class Run:
    """One run of the module."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.parameters = module.params
        self.engine = Engine(self.parameters["engine_socket"])
        self.places = mig_host.Places(
            layout=self.parameters["layout_file"],
            docker=self.parameters["docker_fragment"],
        )

    def look(self) -> tuple[mig_smi.Gpu, ...]:
        """Read the GPUs and who has them."""
        gpus = mig_smi.read(mig_host.run)
        held, self.sessions = mig_host.containers(self.engine)
        return mig_smi.with_containers(gpus, held)

    def result(
        self,
        gpus: t.Sequence[mig_smi.Gpu],
        before: t.Sequence[mig_smi.Gpu],
        items: t.Sequence[mig_apply.Work],
        models: t.Mapping[str, Model],
        layout: mig_apply.Layout,
    ) -> dict[str, t.Any]:
        """What is returned in any case."""
        changes = mig_apply.difference(items, models)
        wanted = {item.gpu.uuid: item.wanted for item in items if item.needed}
        return {
            "changes": changes,
            "diff": {"before": "", "after": changes},
            "destroyed": [f"{each} on GPU {item.gpu.index}" for item in items for each in item.destroy],
            "drawing": "".join(mig_apply.draw(gpu, models.get(gpu.uuid), wanted.get(gpu.uuid, "same")) for gpu in before),
            "gpus": [mig_apply.as_dict(gpu) for gpu in gpus],
            "layout": mig_host.layout_document(layout, None)["gpus"],
            "optimal": self.optimal,
            "resources": mig_host.resources(gpus, self.parameters["whole_gpus"]),
            "sessions": self.sessions,
        }

    def main(self) -> dict[str, t.Any]:
        """Do it. Raises Refusal, Stopped, SmiError and EngineError."""
        check = bool(self.module.check_mode)
        gpus = self.look()
        models = mig_smi.models(mig_host.run, gpus)
        held = mig_smi.without_containers(gpus, self.sessions) if check and self.parameters["without_sessions"] else gpus
        asked, self.optimal = target(self.parameters, held, models)
        items = mig_apply.work(held, asked, models, self.parameters["force_busy"], self.parameters["pinned"])
        # In the driver's own names, in which the agent compares it.
        layout = {item.gpu.uuid: item.wanted for item in items}
        needed = any(item.needed for item in items)
        document = mig_host.text(mig_host.layout_document(layout, {key: self.parameters[key] for key in ("layout", "wanted")}))
        written = mig_host.write(self.places.layout, document, check)
        if check:
            published = mig_host.publish(gpus, self.places, self.parameters["whole_gpus"], True)
            return {
                **self.result(gpus, gpus, items, models, layout),
                "changed": needed or written or published,
                "actions": [line for item in items for line in mig_apply.intentions(item)],
                "engine_restart": bool(self.places.docker) and (needed or published),
                "reboot_required": False,
                "reboot_reasons": [],
            }
        try:
            outcome = mig_apply.apply(mig_host.run, items, models, time.sleep, lambda instance: end_clients(self.engine, instance))
            after = self.look() if needed else gpus
            # A driver may list its profiles only now that MIG is on.
            models = mig_smi.models(mig_host.run, after) if needed else models
            rest = {uuid: places for uuid, places in layout.items() if uuid not in outcome.reboot}
            left = [item for item in mig_apply.work(after, rest, models) if item.needed]
            if left:
                raise mig_smi.SmiError(
                    "the driver took every command, and this is still to be done: "
                    + "; ".join(mig_apply.difference(left, models).splitlines())
                )
        except (mig_apply.Stopped, mig_apply.Refusal, mig_smi.SmiError, EngineError):
            # What Docker is told has to be there, also now.
            with contextlib.suppress(mig_smi.SmiError):
                mig_host.publish(mig_smi.read(mig_host.run), self.places, self.parameters["whole_gpus"])
            raise
        published = mig_host.publish(after, self.places, self.parameters["whole_gpus"])
        refreshed = False
        if self.parameters["refresh_cdi"] and mig_host.cdi_stale(after, self.places):
            if problem := mig_host.refresh_cdi(after, self.places):
                self.module.fail_json(msg=problem)
            refreshed = not mig_host.cdi_stale(after, self.places)
        return {
            **self.result(after, gpus, items, models, layout),
            "changed": bool(outcome.done) or written or published or refreshed,
            "actions": list(outcome.done),
            "engine_restart": published,
            "reboot_required": bool(outcome.reboot),
            "reboot_reasons": list(outcome.reboot.values()),
        }


def main() -> None:
    """Parse, do, exit."""
    module = AnsibleModule(
        argument_spec={
            "layout": {"type": "dict"},
            "wanted": {"type": "dict"},
            "pinned": {"type": "list", "elements": "str", "default": []},
            "force_busy": {"type": "list", "elements": "str", "default": []},
            "whole_gpus": {"type": "bool", "default": True},
            "without_sessions": {"type": "bool", "default": False},
            "layout_file": {"type": "str", "default": ""},
            "docker_fragment": {"type": "str", "default": ""},
            "refresh_cdi": {"type": "bool", "default": True},
            "engine_socket": {"type": "path", "default": "/run/docker.sock"},
        },
        mutually_exclusive=[("layout", "wanted")],
        required_one_of=[("layout", "wanted")],
        supports_check_mode=True,
    )
    try:
        result = Run(module).main()
    except (mig_apply.Refusal, mig_apply.Stopped, mig_smi.SmiError, EngineError) as error:
        module.fail_json(msg=str(error), done=list(getattr(error, "done", ())))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
