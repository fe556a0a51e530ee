"""Plans of MIG layouts: the best of all by brute force, what holds for every plan, and what is refused."""

from __future__ import annotations

import dataclasses
import itertools
import random

import mig_brute
import pytest
from ansible_collections.metalhub.platform.plugins.module_utils import mig_fleet as fleet
from ansible_collections.metalhub.platform.plugins.module_utils import mig_geometry as geometry
from ansible_collections.metalhub.platform.plugins.module_utils import mig_plan as planner
from ansible_collections.metalhub.platform.plugins.module_utils.mig_fleet import Gpu, Instance, Request
from ansible_collections.metalhub.platform.plugins.module_utils.mig_geometry import Model, Placement
from hypothesis import given, settings
from hypothesis import strategies as st

H100, A100, A30, RTX = (geometry.model(name) for name in ("H100-80GB", "A100-40GB", "A30-24GB", "RTX-PRO-6000-96GB"))


def only(model: Model, names: str, name: str = "") -> Model:
    """A model with some of its profiles, so that all layouts of a few GPUs can be looked at."""
    return dataclasses.replace(
        model, name=name or f"{model.name} with {names}", profiles=tuple(model.profile(each) for each in names.split())
    )


def gpu(number: int, model: Model = H100, layout: str = "", *, enabled: bool = True, busy: bool = False) -> Gpu:
    """``3g.40gb@4! 1g.10gb@0`` are the instances; ``!`` is a busy one."""
    instances = []
    for word in layout.split():
        name, _, start = word.rstrip("!").partition("@")
        instances.append(Instance(name, int(start), f"MIG-{number}-{start}", word.endswith("!")))
    return Gpu(f"GPU-{number}", number, model, enabled, tuple(sorted(instances, key=lambda each: each.start)), busy)


def plan(gpus, wanted, pinned=(), **more):
    return planner.plan(gpus, fleet.requests_from(wanted), pinned, **more)


def ends(found: planner.Plan) -> list[str]:
    return [" ".join(map(str, change.layout)) for change in found.changes]


def after(found: planner.Plan) -> list[Gpu]:
    """The GPUs once the plan was carried out."""
    gpus = []
    for change in found.changes:
        new = [Instance(place.profile, place.start, f"new-{change.gpu.uuid}-{place}") for place in change.create]
        instances = sorted([*change.keep, *new], key=lambda each: each.start)
        gpus.append(dataclasses.replace(change.gpu, mig_enabled=change.mig_enabled, instances=tuple(instances)))
    return gpus


def random_gpu(dice: random.Random, number: int, model: Model) -> Gpu:
    layout = dice.choice(sorted(mig_brute.layouts(model), key=sorted)) if dice.random() < 0.7 else ()
    words = " ".join(f"{name}@{start}{'!' if dice.random() < 0.3 else ''}" for start, name in sorted(layout))
    return gpu(number, model, words, enabled=bool(words) or dice.random() < 0.6, busy=dice.random() < 0.1)


def random_case(seed: int, models: list[Model]):
    dice = random.Random(seed)
    gpus = [random_gpu(dice, number, model) for number, model in enumerate(models)]
    names = sorted({profile.name for model in models for profile in model.profiles})
    requests = []
    for name in dice.sample(names, dice.randint(1, min(4, len(names)))):
        having = sorted({model.name for model in models if any(profile.name == name for profile in model.profiles)})
        which = dice.choice([None, None, *having])
        requests.append(Request(name, dice.randint(0, 4), which))
        if which and dice.random() < 0.5:
            requests.append(Request(name, dice.randint(1, 3)))
    pins = [each.uuid for each in gpus if dice.random() < 0.1]
    pins += [each.uuid for one in gpus for each in one.instances if dice.random() < 0.1]
    return gpus, requests, pins


def check(gpus, requests, pins) -> None:
    """The plan is as good as the best of all plans, obeys what it must, and is its own end."""
    best, short = mig_brute.best(gpus, requests, frozenset(pins))
    found = planner.plan(gpus, requests, pins)
    assert found.optimal
    assert found.objective == found.bound == best
    assert tuple(found.missing.get(request.key, 0) for request in requests) == short
    sound(found, pins)
    again = planner.plan(after(found), requests, pins)
    assert not again.actions()
    assert again.missing == found.missing


def sound(found: planner.Plan, pins=()) -> None:
    """What holds for every plan."""
    for change in found.changes:
        assert geometry.why_illegal(change.gpu.model, change.layout) is None
        assert not any(each.busy or each.uuid in pins for each in change.destroy)
        assert sorted([*(each.placement for each in change.keep), *change.create]) == sorted(change.layout)
        assert sorted((*change.keep, *change.destroy), key=lambda each: each.start) == list(change.gpu.instances)
        assert change.mig_enabled or not change.layout
        if change.gpu.uuid in pins or (change.gpu.busy and not change.gpu.mig_enabled):
            assert not (change.destroy or change.create or change.mode_change)
    assert len(found.reasons) == len(found.missing)


@pytest.mark.parametrize("model", geometry.MODELS, ids=lambda model: model.name)
def test_one_gpu_of_every_model_against_all_layouts(model):
    # All models with eight slots differ in names only: their tables are translated to one, so that it is looked through once.
    names = {}
    if model.slots == 8:
        names = {ours.name: theirs.name for ours, theirs in zip(model.profiles, A100.profiles, strict=True)}
    twin = dataclasses.replace(A100, needs_reset=model.needs_reset) if names else model
    for seed in range(3):
        gpus, requests, pins = random_case(seed, [twin])
        back = {theirs: ours for ours, theirs in names.items()}
        ours = [
            dataclasses.replace(
                each,
                model=model,
                instances=tuple(dataclasses.replace(one, profile=back.get(one.profile, one.profile)) for one in each.instances),
            )
            for each in gpus
        ]
        asked = [Request(back.get(each.profile, each.profile), each.count, model.name if each.model else None) for each in requests]
        best, short = mig_brute.best(gpus, requests, frozenset(pins))
        found = planner.plan(ours, asked, pins)
        assert (found.optimal, found.objective) == (True, best)
        assert tuple(found.missing.get(request.key, 0) for request in asked) == short
        sound(found, pins)


SMALL = only(A30, "1g.6gb 1g.6gb+me 4g.24gb")
LARGE = only(H100, "1g.20gb 2g.20gb 3g.40gb 4g.40gb 7g.80gb")
HALVES = only(H100, "3g.40gb 4g.40gb 2g.20gb")
TWIN = only(A100, "2g.10gb 3g.20gb", "twin")
FLEETS = {
    "two A30": [A30, A30],
    "two with small ones": [SMALL, SMALL],
    "two with large ones": [LARGE, LARGE],
    "three with halves": [HALVES, HALVES, HALVES],
    "three RTX": [only(RTX, "2g.48gb 4g.96gb 2g.48gb+gfx")] * 3,
    "A30 and H100": [A30, HALVES],
    "a profile on two models": [only(H100, "2g.20gb 3g.40gb 7g.80gb", "one"), only(H100, "2g.20gb 3g.40gb 1g.20gb", "other")],
}


@pytest.mark.parametrize("name", FLEETS)
def test_small_fleets_against_all_layouts(name):
    for seed in range(12):
        check(*random_case(seed, FLEETS[name]))


@given(st.data())
@settings(max_examples=60)
def test_every_plan_of_a_fleet_is_sound_and_its_own_end(data):
    seed = data.draw(st.integers(0, 2**32))
    models = data.draw(st.lists(st.sampled_from([H100, A100, A30, RTX]), min_size=1, max_size=8))
    gpus, requests, pins = random_case(seed, models)
    found = planner.plan(gpus, requests, pins)
    assert found.optimal
    sound(found, pins)
    again = planner.plan(after(found), requests, pins)
    assert not again.actions()
    assert again.missing == found.missing


def test_a_three_goes_to_the_end_and_leaves_room_for_four():
    found = plan([gpu(0)], {"3g.40gb": 1, "1g.10gb": 4})
    assert ends(found) == ["1g.10gb@0 1g.10gb@1 1g.10gb@2 1g.10gb@3 3g.40gb@4"]
    assert found.as_dict()["waste"] == {"compute": 0, "memory": 0}
    assert ends(plan([gpu(0)], {"3g.40gb": 1})) == ["3g.40gb@4"]


def test_what_is_there_counts_and_what_is_too_much_stays():
    have = gpu(0, layout="1g.10gb@0! 1g.10gb@2 2g.20gb@4")
    assert not plan([have], {"1g.10gb": 2}).actions()
    assert not plan([have], {}).actions()
    found = plan([have], {"1g.10gb": 3})
    assert [step["action"] for step in found.actions()] == ["create"]


def test_a_surplus_goes_where_its_room_is_needed():
    found = plan([gpu(0, layout="1g.10gb@0 1g.10gb@1 1g.10gb@2 3g.40gb@4!")], {"4g.40gb": 1})
    assert ends(found) == ["4g.40gb@0 3g.40gb@4"]
    assert [step["action"] for step in found.actions()] == ["destroy", "destroy", "destroy", "create"]


def test_no_mode_is_switched_and_nothing_destroyed_where_another_gpu_has_room():
    gpus = [gpu(0, enabled=False), gpu(1, layout="7g.80gb@0"), gpu(2, layout="3g.40gb@0")]
    assert ends(plan(gpus, {"3g.40gb": 2})) == ["", "7g.80gb@0", "3g.40gb@0 3g.40gb@4"]


def test_fewer_switches_outrank_fewer_destroyed():
    gpus = [gpu(0, enabled=False), gpu(1, layout="1g.10gb@0 1g.10gb@4")]
    found = plan(gpus, {"7g.80gb": 1})
    assert ends(found) == ["", "7g.80gb@0"]
    assert found.objective[1:3] == (0, 2)


def test_the_order_of_a_gpus_actions_and_the_reset_of_an_ampere():
    found = plan([gpu(0, A100, enabled=False)], {"7g.40gb": 1})
    assert [step["action"] for step in found.actions()] == ["mode", "reset", "create"]
    assert not plan([gpu(0, enabled=False)], {"7g.80gb": 1}).changes[0].reset


def test_a_request_can_name_a_model():
    gpus = [gpu(0, geometry.model("H100-80GB")), gpu(1, geometry.model("A100-80GB"))]
    assert ends(plan(gpus, {"A100-80GB:7g.80gb": 1})) == ["", "7g.80gb@0"]
    assert ends(plan(gpus, {"7g.80gb": {"count": 1, "model": "H100-80GB"}})) == ["7g.80gb@0", ""]
    # An instance that one request counts is not there for another.
    assert ends(plan(gpus, {"A100-80GB:7g.80gb": 1, "7g.80gb": 1})) == ["7g.80gb@0", "7g.80gb@0"]


def test_a_name_can_mean_two_sizes_on_two_models():
    gpus = [gpu(0, A100), gpu(1, H100)]
    assert ends(plan(gpus, {"1g.10gb": 7})) == ["", " ".join(f"1g.10gb@{start}" for start in range(7))]
    assert ends(plan(gpus, {"A100-40GB:1g.10gb": 4}))[0] == "1g.10gb@0 1g.10gb@2 1g.10gb@4 1g.10gb@6"


def test_a_name_that_another_driver_rounds_is_understood():
    gb200 = geometry.model("GB200-186GB")
    assert [place.profile for place in plan([gpu(0, gb200)], {"1g.24gb": 1}).changes[0].create] == ["1g.23gb"]
    # Where another GPU has a profile of that very name, it is meant.
    assert ends(plan([gpu(0, gb200), gpu(1, geometry.model("H100-94GB"))], {"1g.24gb": 1}))[0] == ""


def test_what_is_missing_is_said_with_the_reason_and_the_nearest_layout():
    found = plan([gpu(0, layout="3g.40gb@0! 1g.10gb@4")], {"7g.80gb": 1, "1g.10gb": 2})
    assert (found.satisfied, dict(found.missing)) == (False, {"7g.80gb": 1})
    assert [step["action"] for step in found.actions()] == ["create"]
    (reason,) = found.as_dict()["reasons"]
    assert reason["reason"] == "on GPU GPU-0, where the least stands in the way, it is 3g.40gb@0 (MIG-0-0, busy)"
    assert reason["nearest"] == {"uuid": "GPU-0", "layout": [{"profile": "7g.80gb", "start": 0}]}


@pytest.mark.parametrize(
    ("gpus", "pins", "words"),
    [
        ([], [], "there is no GPU"),
        ([gpu(0)], [], "each GPU that can have it has as many as fit: 1 on one H100-80GB"),
        ([gpu(0)], ["GPU-0"], "GPU GPU-0 would have to change, and it is pinned"),
        ([gpu(0, enabled=False, busy=True)], [], "GPU GPU-0 would have to change, and it is busy with its MIG mode off"),
        ([gpu(0, layout="1g.10gb@0")], ["MIG-0-0"], "it is 1g.10gb@0 (MIG-0-0, pinned)"),
    ],
)
def test_reasons(gpus, pins, words):
    found = plan(gpus, {"7g.80gb": 2}, pins)
    sound(found, pins)
    assert words in found.reasons[0].reason


def test_the_nearest_layout_has_one_more():
    """In every fleet: of what is missing, on the GPU that is named, by what its model allows."""
    for name, models in FLEETS.items():
        for seed in range(12):
            gpus, requests, pins = random_case(seed, models)
            found = planner.plan(gpus, requests, pins)
            ends = {change.gpu.uuid: change for change in found.changes}
            for reason in found.reasons:
                profile = next(request.profile for request in requests if request.key == reason.request)
                if reason.uuid is None:
                    assert "as many as fit" in reason.reason or not gpus, name
                    continue
                change = ends[reason.uuid]
                assert geometry.why_illegal(change.gpu.model, reason.layout) is None
                more, there = ([place.profile for place in layout].count(profile) for layout in (reason.layout, change.layout))
                assert more == there + 1, (name, seed, reason)


def test_the_fewest_are_missing_and_then_of_what_is_named_first():
    assert dict(plan([gpu(0)], {"7g.80gb": 1, "1g.10gb": 2}).missing) == {"7g.80gb": 1}
    assert dict(plan([gpu(0)], {"7g.80gb": 1, "4g.40gb": 1}).missing) == {"4g.40gb": 1}
    assert dict(plan([gpu(0)], {"4g.40gb": 1, "7g.80gb": 1}).missing) == {"7g.80gb": 1}


def test_the_drivers_own_list_wins_over_the_table():
    profiles = [
        {"name": "MIG 1g.11gb", "id": 19, "max": 7, "starts": list(range(7)), "size": 1},
        {"name": "7g.81gb", "id": 0, "max": 1, "starts": [0], "size": 8},
    ]
    given = fleet.gpus_from([{"uuid": "GPU-0", "device_id": "0x2330", "mig_enabled": True, "profiles": profiles}])
    assert given[0].model.name == "H100-80GB"
    assert len(plan(given, {"1g.11gb": 7}).changes[0].create) == 7
    unknown = fleet.gpus_from([{"uuid": "GPU-0", "device_id": "0x9999", "mig_enabled": True, "profiles": profiles}])
    assert plan(unknown, {"0x9999:1g.11gb": 1}).satisfied


def test_a_plan_in_no_time_is_legal_and_says_what_it_does_not_know():
    wanted = {"1g.10gb": 80, "1g.20gb": 30, "2g.20gb": 40, "3g.40gb": 30, "4g.40gb": 10, "7g.80gb": 4, "1g.10gb+me": 6}
    best = plan([gpu(number) for number in range(64)], wanted)
    assert best.optimal
    for ticks in (0, 1, 5, 30, 100, 300):
        clock = itertools.chain([0.0] * (ticks + 1), itertools.repeat(2.0))
        found = plan([gpu(number) for number in range(64)], wanted, time_limit=1, clock=lambda clock=clock: next(clock))
        sound(found)
        assert found.bound <= best.objective <= found.objective
        assert found.optimal == (found.objective == found.bound)


@pytest.mark.parametrize("name", FLEETS)
def test_a_plan_that_is_cut_short_claims_no_more_than_is_proven(name):
    """Also where much exists, some of it has to go or some is missing: at whatever moment the time is up."""
    for seed in [*range(8), 67, 155]:
        gpus, requests, pins = random_case(seed, FLEETS[name])

        def worth(found, requests=requests):
            return found.objective[0], [found.missing.get(request.key, 0) for request in requests], found.objective[1:]

        best = planner.plan(gpus, requests, pins)
        for ticks in (0, 1, 2, 3, 5, 8, 13, 21):
            clock = itertools.chain([0.0] * (ticks + 1), itertools.repeat(2.0))
            found = planner.plan(gpus, requests, pins, time_limit=1, clock=lambda clock=clock: next(clock))
            sound(found, pins)
            assert found.bound <= best.objective
            assert worth(best) <= worth(found)
            assert found.optimal == (found.objective == found.bound)


def test_many_gpus_of_one_kind():
    """200 instances on 64 GPUs: a count of slots shows that no fewer GPUs can do."""
    found = plan([gpu(number) for number in range(64)], {"1g.10gb": 90, "2g.20gb": 50, "3g.40gb": 40, "4g.40gb": 20})
    assert (found.satisfied, found.optimal) == (True, True)
    sound(found)
    compute = 90 + 2 * 50 + 3 * 40 + 4 * 20
    assert found.objective[3] == -(-compute // 7)


GOOD = {"uuid": "GPU-0", "index": 0, "device_id": "0x2330", "mig_enabled": True}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"device_id": "0x1EB8"}, "gpus[0]: device id 0x1EB8 is not a GPU with MIG"),
        ({"device_id": None}, "gpus[0]: give device_id (such as 0x2330) or model"),
        ({"model": "H100-80G"}, "gpus[0]: 'H100-80G' is not a GPU model with MIG (nearest: H100-80GB)"),
        ({"model": "A100-80GB"}, "gpus[0]: model A100-80GB and device_id 0x2330 contradict each other: the latter is H100-80GB"),
        ({"uuid": ""}, "gpus[0].uuid: '' is not a name"),
        ({"mig_enabled": "yes"}, "gpus[0].mig_enabled: 'yes' is neither true nor false"),
        ({"index": -1}, "gpus[0].index: -1 is not a GPU's number"),
        ({"colour": 1}, "gpus[0].colour: a GPU has uuid, index"),
        ({"instances": 1}, "gpus[0].instances: 1 is not a list"),
        (
            {"instances": [{"profile": "1g.5gb", "start": 0, "uuid": "M"}]},
            "gpus[0].instances[0].profile: '1g.5gb' is not a profile of H100-80GB",
        ),
        (
            {"instances": [{"profile": "1g.10gb", "start": 9, "uuid": "M"}]},
            "GPU GPU-0 cannot have what it is said to have: 1g.10gb cannot start at 9",
        ),
        ({"instances": [{"profile": "1g.10gb", "start": "0", "uuid": "M"}]}, "gpus[0].instances[0].start: '0' is not a number"),
        ({"instances": [{"profile": "1g.10gb", "start": 0}]}, "gpus[0].instances[0].uuid: None is not a name"),
        ({"instances": [{"profile": "1g.10gb", "start": 0, "uuid": "GPU-0"}]}, "the UUID GPU-0 is also that of gpus[0]"),
        ({"mig_enabled": False, "instances": [{"profile": "1g.10gb", "start": 0, "uuid": "M"}]}, "has instances and its MIG mode is off"),
        ({"profiles": [{"name": "x", "id": 0, "max": 1, "starts": [0], "size": 1}]}, "gpus[0].profiles[0]: 'x' is not a MIG profile"),
        (
            {"profiles": [{"name": "1g.5gb", "id": 0, "max": 1, "starts": ["0"], "size": 1}]},
            "gpus[0].profiles[0].start: '0' is not a number",
        ),
    ],
)
def test_a_bad_gpu(change, words):
    with pytest.raises(ValueError) as error:
        fleet.gpus_from([{**GOOD, **change}])
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"1g.11gb": 1}, "wanted: 1g.11gb: '1g.11gb' is not a profile of H100-80GB (nearest: 1g.10gb): it has 1g.10gb"),
        ({"1g.5gb": 1}, "wanted: 1g.5gb: '1g.5gb' is not a profile of H100-80GB"),
        ({"A100-40GB:1g.5gb": 1}, "wanted: A100-40GB:1g.5gb is pinned to A100-40GB, and the GPUs here are H100-80GB"),
        ({"H100-80GB:1g.5gb": 1}, "wanted: H100-80GB:1g.5gb: '1g.5gb' is not a profile of H100-80GB"),
        ({"H100:1g.10gb": 1}, "wanted: H100:1g.10gb is pinned to H100, and the GPUs here are H100-80GB"),
        ({"H100-80GB:1g.10gb": {"count": 1, "model": "A100-80GB"}}, "it is pinned to H100-80GB and to A100-80GB; name one model"),
        ({"1g.10gb": -1}, "wanted: 1g.10gb: -1 is not a count: 0 or more"),
        ({"1g.10gb": "2"}, "wanted: 1g.10gb: '2' is not a count"),
        ({"1g.10gb": True}, "wanted: 1g.10gb: True is not a count"),
        ({"1g.10gb": {"number": 1}}, "wanted: 1g.10gb: {'number': 1} is not a request"),
        ({"H100-80GB:1g.10gb": 1, "1g.10gb": {"count": 1, "model": "H100-80GB"}}, "H100-80GB:1g.10gb is asked for twice"),
        (["1g.10gb"], "wanted: ['1g.10gb'] is not a mapping"),
        ({1: 1}, "wanted: 1 is not a profile"),
    ],
)
def test_a_bad_request(wanted, words):
    with pytest.raises(ValueError) as error:
        plan([gpu(0)], wanted)
    assert words in str(error.value)


def test_bad_pins_and_limits():
    with pytest.raises(ValueError, match="pinned: 'MIG-9' is neither a GPU here nor an instance on one"):
        plan([gpu(0)], {}, ["MIG-9"])
    with pytest.raises(ValueError, match=r"pinned\[1\]: None is not the UUID"):
        fleet.pins_from(["GPU-0", None])
    with pytest.raises(ValueError, match="gpus: 'GPU-0' is not a list"):
        fleet.gpus_from("GPU-0")
    for limit in (0, -1, float("nan"), True, "5"):
        with pytest.raises(ValueError, match=f"time_limit: {limit!r} is not a number of seconds above 0"):
            plan([gpu(0)], {}, time_limit=limit, clock=lambda: 0.0)


def test_what_may_be_left_out_may_be_null():
    (given,) = fleet.gpus_from([{**GOOD, "instances": None, "profiles": None, "busy": None}])
    assert (given.instances, given.busy) == ((), False)


def test_what_is_wasted_and_fragmented():
    """By hand: after a 3g at 0 a slice is lost; seven 1g leave slot 7 to nothing."""
    wrong = plan([gpu(0, layout="3g.40gb@0")], {}).as_dict()
    assert wrong["waste"] == {"compute": 1, "memory": 0}
    full = plan([gpu(0, layout=" ".join(f"1g.10gb@{start}" for start in range(7)))], {}).as_dict()
    assert full["waste"] == {"compute": 0, "memory": 1}
    # Slot 7 is free to none of the seven profiles.
    assert full["fragmentation"] == 7
    # Four free slots at 0: all of them for 1g, 1g.20gb, 2g, 3g and 4g; three lost to +me, four to 7g.
    assert plan([gpu(0, layout="3g.40gb@4")], {}).as_dict()["fragmentation"] == 3 + 4


def test_placements_are_sorted_and_said_in_words():
    assert str(Placement(4, "3g.40gb")) == "3g.40gb@4"
