"""MIG in templates: the examples of the documentation, mig-parted's format both ways, and Swarm's resources."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.metalhub.platform.plugins.filter.mig import FilterModule

FILTERS = Path(__file__).parents[3] / "plugins/filter"
NAMES = sorted(FilterModule().filters())
FILTER = FilterModule().filters()

GPU = {"uuid": "GPU-0", "index": 0, "device_id": "0x2330", "mig_enabled": True}
OTHER = {"uuid": "GPU-1", "index": 1, "device_id": "0x20B7", "mig_enabled": False}


def trusted(value):
    """A value of an example as a playbook has it."""
    if isinstance(value, str):
        return trust_as_template(value)
    if isinstance(value, dict):
        return {key: trusted(each) for key, each in value.items()}
    return [trusted(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("name", NAMES)
def test_every_result_that_an_example_promises(name):
    text = yaml.safe_load((FILTERS / f"{name}.yml").read_text())["EXAMPLES"]
    promised = {key: yaml.safe_load(result) for result, key in re.findall(r"# The result is (.*)\n(\w+):", text)}
    assert promised
    variables = {}
    for key, value in yaml.safe_load(text).items():
        variables[key] = Templar(loader=DataLoader(), variables=variables).template(trusted(value))
        if key in promised:
            assert variables.get(key) == promised.pop(key), key
    assert not promised


def test_bad_input_is_one_message_of_ansible():
    with pytest.raises(AnsibleError, match="'1g.11gb' is not a profile of H100-80GB"):
        FILTER["mig_plan"]([GPU], {"1g.11gb": 1})
    with pytest.raises(AnsibleError, match="'V100' is not a GPU model with MIG"):
        FILTER["mig_layouts"]("V100")


def document(*entries):
    return {"version": "v1", "mig-configs": {"c": list(entries)}}


def entry(**fields):
    return {"devices": "all", "mig-enabled": True, "mig-devices": {}, **{name.replace("_", "-"): value for name, value in fields.items()}}


def test_an_entry_names_gpus_by_number_and_by_device_id():
    data = document(
        entry(devices=[0, 5], mig_devices={"1g.10gb": 7}),
        entry(device_filter="0x20B710DE", mig_devices={"1g.6gb": 4}),
        entry(device_filter=["0x233010DE:0x16C110DE", "0x233110DE"], mig_devices={"3g.39gb": 2, "7g.80gb": 0}),
    )
    assert FILTER["mig_parted"](data, [GPU, OTHER], "c") == {"GPU-0": {"3g.40gb": 2}, "GPU-1": {"1g.6gb": 4}}
    assert FILTER["mig_parted"](document(entry(devices=[7])), [GPU], "c") == {}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("a: [", "this is not YAML"),
        ({"version": "v2", "mig-configs": {}}, "version 'v2' is not known"),
        ("just text", "version 'just text' is not known"),
        ({"version": "v1"}, "mig-configs has to be a mapping"),
        ({"version": "v1", "mig-configs": {"c": []}}, "c has to be a list with at least one entry"),
        (document(entry(colour=1)), "c[0]: an entry has devices, mig-enabled, mig-devices and device-filter"),
        (document(entry(devices="some")), "c[0].devices: 'some' is neither all nor a list"),
        (document(entry(devices=["0"])), "c[0].devices: ['0'] is neither all nor a list"),
        (document(entry(mig_enabled="yes")), "c[0].mig-enabled: 'yes' is neither true nor false"),
        (document(entry(mig_devices=None)), "c[0].mig-devices: it has to be a mapping"),
        (document(entry(mig_enabled=False, mig_devices={"1g.10gb": 1})), "cannot be where mig-enabled is false"),
        (document(entry(mig_devices={"1g.10gb": -1})), "-1 of 1g.10gb is not a count"),
        (document(entry(mig_devices={"1c.3g.40gb": 2})), "divides an instance into compute instances"),
        (document(entry(mig_devices={"1g.10gb": 8})), "8 of 1g.10gb are more than the 7 that H100-80GB can have"),
        (document(entry(mig_devices={"3g.40gb": 2, "3g.39gb": 1})), "3 of 3g.40gb are more than the 2 that H100-80GB can have"),
        (document(entry(mig_devices={"7g.80gb": 1, "1g.10gb": 1})), "GPU 0: {'7g.80gb': 1, '1g.10gb': 1} do not fit on one H100-80GB together"),
        (document(entry(mig_devices={"1g.5gb": 1})), "'1g.5gb' is not a profile of H100-80GB"),
        (document(entry(device_filter="H100")), "'H100' is not a device id"),
        (document(entry(device_filter=5)), "5 is neither a device id"),
        ({"version": "v1", "mig-configs": {"d": [entry()]}}, "there is no configuration 'c'; there are d"),
    ],
)
def test_a_bad_document(data, words):
    with pytest.raises(AnsibleError) as error:
        FILTER["mig_parted"](data, [GPU], "c")
    assert words in str(error.value)


def test_what_is_exported_is_read_back():
    instances = [
        {"profile": name, "start": start, "uuid": f"MIG-{start}"} for name, start in (("3g.40gb", 4), ("1g.10gb", 0), ("1g.10gb", 2))
    ]
    gpus = [{**GPU, "instances": instances}, {**GPU, "uuid": "GPU-2", "index": 2}, OTHER]
    exported = FILTER["mig_parted"](gpus)
    assert exported["mig-configs"]["current"] == [
        {"device-filter": ["0x233010DE", "0x233110DE"], "devices": [0], "mig-enabled": True, "mig-devices": {"1g.10gb": 2, "3g.40gb": 1}},
        {"device-filter": ["0x233010DE", "0x233110DE"], "devices": [2], "mig-enabled": True, "mig-devices": {}},
        {"device-filter": ["0x20B710DE"], "devices": "all", "mig-enabled": False},
    ]
    for form in (exported, yaml.safe_dump(exported)):
        assert FILTER["mig_parted"](form, gpus) == {"GPU-0": {"1g.10gb": 2, "3g.40gb": 1}, "GPU-2": {}, "GPU-1": None}


def test_a_document_is_of_one_host():
    with pytest.raises(AnsibleError, match="two GPUs have the number 0"):
        FILTER["mig_parted"]([GPU, {**GPU, "uuid": "GPU-9"}])
    with pytest.raises(AnsibleError, match="GPU GPU-1 is not in the plan"):
        FILTER["mig_parted"](FILTER["mig_plan"]([GPU], {}), [GPU, OTHER])


def test_a_whole_gpu_is_a_resource_until_mig_is_switched_on():
    assert FILTER["swarm_gpu_resources"]([{**GPU, "instances": []}, OTHER]) == {
        "node_generic_resources": ["GPU=GPU-1"],
        "swarm_resource": "DOCKER_RESOURCE_GPU",
    }
    assert FILTER["swarm_gpu_resources"]([]) == {"node_generic_resources": [], "swarm_resource": ""}


def test_a_driver_that_rounds_otherwise_is_planned_and_offered_by_the_tables_names():
    profiles = [{"name": "3g.39gb", "id": 9, "max": 2, "starts": [0, 4], "size": 4}, {"name": "7g.79gb", "id": 0, "max": 1, "starts": [0], "size": 8}]
    gpu = {**GPU, "profiles": profiles, "instances": [{"profile": "3g.39gb", "start": 0, "uuid": "MIG-0"}]}
    plan = FILTER["mig_plan"]([gpu], {"3g.40gb": 2})
    assert [(step["profile"], step["start"]) for step in plan["actions"]] == [("3g.39gb", 4)]
    assert FILTER["swarm_gpu_resources"]([gpu])["node_generic_resources"] == ["MIG_3G_40GB=MIG-0"]


def test_a_uuid_cannot_write_another_resource():
    with pytest.raises(AnsibleError, match="is not the UUID of a GPU"):
        FILTER["swarm_gpu_resources"]([{**OTHER, "uuid": "GPU-1,GPU=GPU-2"}])
