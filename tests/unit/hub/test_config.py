"""The document: what is read from it, and that each mistake has one message that names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import GIB, document
from metalhub_hub import __main__ as command
from metalhub_hub import config


def test_sizes_and_durations_are_numbers_inside(tmp_path: Path) -> None:
    raw = document(tmp_path)
    raw["profiles"]["small"] |= {"idle_stop": "1h30m", "max_session": "2d"}
    doc = config.parse(raw)
    small = doc.profiles["small"]
    assert (small.flavor.memory, small.idle_stop, small.max_session) == (2 * GIB, 5400, 172800)
    assert (small.extension, small.background_limit, small.hibernate_after, doc.session.stop_notice) == (7200, 14400, 0, 300)
    assert doc.flavors["slice"].gpu == config.Gpu("MIG_1G_10GB", 1, "1g.10gb")
    assert (doc.quotas.of("bob", set(), "sessions"), doc.quotas.of("bob", set(), "workspace")) == (2, 10 * GIB)


def change(path: str, value: Any) -> Any:
    def apply(raw: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for parent in parents:
            raw = raw[parent]
        if value is ...:
            del raw[last]
        else:
            raw[last] = value

    return apply


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("profiles.small.flavor", "std-9x9", ["profiles.small.flavor", "'std-9x9'", "slice, small"]),
        ("profiles.small.image", "nope", ["profiles.small.image", "'nope'", "gone, lab"]),
        ("profiles.small.pool", "fast", ["profiles.small.pool", "'fast'", "cpu, gpu"]),
        ("profiles.small.egress", "all", ["profiles.small.egress", "'all'", "internal, packages"]),
        ("profiles.small.idle_stop", 30, ["profiles.small.idle_stop", "30", "30m"]),
        ("profiles.small.egres", "packages", ["profiles.small.egres", "not known"]),
        ("profiles.small.extension", "some", ["profiles.small.extension", "'some'", "30m"]),
        ("profiles.small.background_limit", 4, ["profiles.small.background_limit", "4", "30m"]),
        ("profiles.small.environment", {"A-B": "x"}, ["profiles.small.environment", "'A-B'", "letters"]),
        ("profiles.small.environment", {"A": 1}, ["profiles.small.environment.A", "1", "text"]),
        ("session.stop_notice", "5", ["session.stop_notice", "'5'", "30m"]),
        ("profiles.pii.default", True, ["small, pii", "default"]),
        ("profiles.slice.pool", "cpu", ["profiles.slice", "MIG", "gvisor"]),
        ("pools.gpu.sandbox", "runc", ["profiles.slice", "runc offers no GPU"]),
        ("profiles", {}, ["profiles", "empty"]),
        ("flavors.small.memory", "2 lots", ["flavors.small.memory", "'2 lots'"]),
        ("flavors.small.cpus", "two", ["flavors.small.cpus", "'two'"]),
        ("flavors.slice.gpu", {"profile": "1x.10gb", "count": 1}, ["flavors.slice.gpu.profile", "1x.10gb"]),
        ("pools.cpu.sandbox", "chroot", ["pools.cpu.sandbox", "'chroot'", "gvisor, kata, nvidia, runc"]),
        ("engine.managers", [], ["engine.managers", "empty"]),
        ("engine.managers", ["tcp://1.2.3.4"], ["engine.managers", "tcp://1.2.3.4", "https://"]),
        ("auth.admins", [], ["auth.admins"]),
        ("auth.kind", "ldap", ["auth.kind", "'ldap'", "native, oidc"]),
        ("auth.kind", "oidc", ["auth.oidc", "missing"]),
        ("quotas.default", "gpu-a100=8h", ["quotas.default", "gpu-a100=8h", "needs a period"]),
        ("quotas.groups.research", "session=2", ["quotas.groups.research", "'session=2'", "Did you mean sessions?"]),
        ("quotas.users.eve", "sessions=many", ["quotas.users.eve", "'sessions=many'", "not a number of sessions"]),
        ("quotas.users.eve", 2, ["quotas.users.eve", "2", "A quota is text"]),
        ("quota_notice", "soon", ["quota_notice", "'soon'", "30m"]),
        ("queue_patience", "long", ["queue_patience", "'long'", "30m"]),
        ("queue_priorities", {"clinical": 1.5}, ["queue_priorities.clinical", "1.5", "-100 to 100"]),
        ("queue_priorities", {"clinical": True}, ["queue_priorities.clinical", "True"]),
        ("queue_priorities", ["clinical"], ["queue_priorities", "mapping"]),
        ("time_zone", "Europe/Berln", ["time_zone", "'Europe/Berln'", "Did you mean Europe/Berlin?"]),
        ("time_zone", 1, ["time_zone", "1", "Europe/Berlin"]),
        ("rates", {"currency": "EUR", "gpus": 1}, ["rates.gpus", "no resource gpus"]),
        ("rates", {"cpu": 1}, ["rates.currency", "None", "currency: EUR"]),
        ("rates", {"currency": "EUR", "cpu": "1 EUR"}, ["rates.cpu", "'1 EUR'", "0.02"]),
        ("rates", [1], ["rates", "[1]", "mapping"]),
        ("flavors.slice.gpu", {"model": "A 100"}, ["flavors.slice.gpu.model", "'A 100'", "a100"]),
        ("public_url", ..., ["public_url", "missing"]),
        ("public_url", "hub.example.org", ["public_url", "hub.example.org", "https://"]),
        ("registry", {"server": "r:5000", "user": "pull"}, ["registry.password_file", "'pull'"]),
        ("egress", {"port": 0}, ["egress.port", "0"]),
        ("egress", {"port": 70000}, ["egress.port", "70000", "1 to 65535"]),
        ("agent_port", 70000, ["agent_port", "70000", "0 for none"]),
        ("agent_port", "8702", ["agent_port", "8702"]),
        ("egress_classes.packages.reach", 3, ["egress_classes.packages.reach", "3"]),
        ("colour", "blue", ["colour", "not known"]),
    ],
)
def test_each_mistake_has_one_message(tmp_path: Path, path: str, value: Any, words: list[str]) -> None:
    raw = document(tmp_path)
    change(path, value)(raw)
    with pytest.raises(config.DocumentError) as caught:
        config.parse(raw)
    assert len(caught.value.problems) == 1, caught.value.problems
    for word in words:
        assert word in caught.value.problems[0]


def test_the_most_generous_grant_wins(doc: config.Document) -> None:
    assert doc.quotas.of("bob", set(), "sessions") == 2
    assert doc.quotas.of("bob", {"research"}, "sessions") == 4
    assert doc.quotas.of("eve", set(), "workspace") == 2**40
    assert config.Quotas().of("bob", set(), "sessions") is None


def test_the_check_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "hub.yml"
    raw = document(tmp_path)
    path.write_text(yaml.safe_dump(raw))
    assert command.main(["check", str(path)]) == 0
    raw["pools"]["cpu"]["sandbox"] = "x"
    raw["flavors"]["small"]["cpus"] = 0
    path.write_text(yaml.safe_dump(raw))
    assert command.main(["check", str(path)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 2
    path.write_text("a: [")
    assert command.main(["check", str(path)]) == 1
    assert command.main(["check", str(tmp_path / "none")]) == 1
    assert "cannot be read" in capsys.readouterr().err
    assert command.main([]) == 2
