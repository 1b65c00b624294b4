"""Work over several devices: by hand, and that more of them never take longer by much."""

from typing import Any

import pytest

from privcode.config import Config, parse_config
from privcode.pipeline.cost import estimate
from privcode.pipeline.devices import DRAW, LINK, START, share_of, traffic_of
from privcode.pipeline.work import memory, size

VALUES: dict[str, Any] = {
    "data": {"source": "not-here.jsonl", "public": True},
    "privacy": {"epsilon": 4, "delta": 1e-6, "units": 100_000, "batch": 256, "steps": 10},
    "prompts": {"source": "public", "file": "not-here.txt", "limit": 2560},
    "junior": {"model": "nobody/toy-1B", "dtype": "bfloat16", "max_tokens": 100},
    "sanitize": {"syntax": {"schedule": "off"}},
    "synthesize": {"max_new_tokens": 50, "batch_size": 100},
    "validate": {"round_trip": {"method": "off"}},
    "premium": {"model": "nobody/toy-7b-base", "dtype": "bfloat16", "max_tokens": 200},
}


def config(**changes: object) -> Config:
    return parse_config(VALUES | changes)


def walls(devices: int, **changes: object) -> dict[str, Any]:
    chosen = config(**changes)
    row = estimate([("it", chosen, ())], devices=devices)["all"]
    found: dict[str, Any] = row["wall"]
    return found | {"one": row["expected"]["stages"]}


HOST = 100_000 * START + 10 * 100_000 * DRAW


def test_sanitize_is_shared_and_its_sum_travels_once_a_step() -> None:
    found = walls(4)
    wall, one = found["sanitize"], found["one"]["sanitize"]
    # Each step: three quarters of the sum of 1e9 / 80 float64 numbers, there and back.
    traffic = 10 * 2 * 0.75 * 8 * (1e9 / 80) / LINK
    assert wall["traffic"] == pytest.approx(traffic)
    assert wall["host"] == pytest.approx(HOST)
    assert wall["seconds"] == pytest.approx(one / 4 + traffic + HOST, abs=0.02)
    assert wall["busy"] == pytest.approx(4 * wall["seconds"])
    assert walls(1)["sanitize"]["traffic"] == 0


def test_a_shared_model_travels_in_every_pass() -> None:
    chosen = config(sanitize={"syntax": {"schedule": "decay"}, "shard": True, "micro_batch": 8})
    # 256 records over 4: 64, so 8 micro-batches, each forward, back, and forward of the teacher.
    layers = 0.75 * 8 * 3 * 2 * 1e9
    assert traffic_of(chosen, 4) == pytest.approx(2 * 0.75 * 8 * 1e9 / 80 + layers)


@pytest.mark.parametrize(
    ("devices", "micro_batch", "expected"),
    [
        (1, 8, (256, 256)),
        (8, 8, (32, 32)),
        (64, 8, (4, 8)),  # filled up
        (64, "auto", (4, 4)),
        (100, 2, (3, 4)),
        (1000, 8, (1, 8)),
    ],
)
def test_a_micro_batch_is_filled_up(
    devices: int, micro_batch: Any, expected: tuple[int, int]
) -> None:
    chosen = config(sanitize={"syntax": {"schedule": "off"}, "micro_batch": micro_batch})
    assert share_of(chosen, devices) == expected


def test_only_ray_spreads_the_other_stages_and_no_further_than_there_are_chunks() -> None:
    assert walls(4)["synthesize"]["devices"] == 1
    found = walls(4, scale={"engine": "ray"})
    assert found["synthesize"]["devices"] == 4
    assert found["synthesize"]["seconds"] == pytest.approx(found["one"]["synthesize"] / 4, abs=0.1)
    assert walls(4, scale={"engine": "ray", "workers": 2})["synthesize"]["devices"] == 2
    assert walls(64, scale={"engine": "ray"})["synthesize"]["devices"] == 10  # 2,560 prompts


def test_boost_has_a_process_for_each_pair_of_a_step_at_most() -> None:
    def boost(devices: int, **changes: object) -> dict[str, Any]:
        settings = {"batch_size": 16, "micro_batch": 2, "epochs": 3, **changes}
        found = walls(devices, boost=settings)
        return found["boost"] | {"one": found["one"]["boost"]}

    one, four, most = boost(1), boost(4), boost(64)
    assert (one["devices"], four["devices"], most["devices"]) == (1, 4, 16)
    assert one["seconds"] == pytest.approx(one["one"], abs=0.1)
    steps = 3 * 2560 / 16
    # Three quarters of the gradient of 7e9 / 80 fp32 numbers, there and back.
    assert four["traffic"] == pytest.approx(steps * 2 * 0.75 * 4 * (7e9 / 80) / LINK)
    assert four["seconds"] == pytest.approx(one["one"] / 4 + four["traffic"], abs=0.1)
    assert four["busy"] == pytest.approx(4 * four["seconds"])
    # Two passes of each process, in which the layers travel twice and the gradient once.
    shared = boost(4, shard=True)
    passing = 0.75 * (4 * 7e9 / 80 + 2 * 2 * 7e9)
    assert shared["traffic"] == pytest.approx(steps * 2 * passing / LINK)
    assert boost(3)["seconds"] > one["one"] / 3  # six, five and five of sixteen pairs


def test_more_devices_take_no_longer_until_shares_are_filled_up() -> None:
    taken = [walls(n)["sanitize"]["seconds"] - walls(n)["sanitize"]["traffic"] for n in (1, 2, 8)]
    assert taken == sorted(taken, reverse=True)
    busy = [walls(n)["sanitize"]["busy"] for n in (1, 2, 8, 64)]
    assert busy == sorted(busy)  # never less work in all


def test_a_process_holds_its_part_of_a_shared_model_and_less_of_a_quantised_one() -> None:
    def held(processes: int = 1, **changes: Any) -> int:
        shard = changes.pop("shard", False)
        junior = {"model": "bundled:junior", "lora": {"r": 4}} | changes
        found = memory(config(junior=junior, sanitize={"shard": shard}), processes)
        assert found is not None
        return found

    known = size(config(junior={"model": "bundled:junior", "lora": {"r": 4}}).junior)
    assert held(4) == held(1)
    saved = 3 / 4 * known.adapted * 4
    assert held(1) - held(4, shard=True) == pytest.approx(saved, abs=1)
    assert held(1) - held(1, quantization="8bit") == known.adapted * 3
    assert held(1, quantization="4bit") < held(1, quantization="8bit") < held(1)


def test_a_model_known_by_its_name_is_taken_as_layers() -> None:
    shared = config(sanitize={"syntax": {"schedule": "off"}, "shard": True})
    assert memory(shared, 4) == 2e9 / 4
    assert memory(config(), 4) == 2e9
