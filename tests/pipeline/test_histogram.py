"""A histogram is spent once, noted before it is released, and followed by what is synthesised."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from privcode.config import Config, load_config, plan_of, with_settings
from privcode.data.records import stored
from privcode.data.topics import NUMBERS, TOPICS, Topic, about, topic_of
from privcode.errors import UserError
from privcode.exercises.corpus import private_records
from privcode.files import read_json, read_jsonl, write_json, write_jsonl
from privcode.pipeline import results, topics
from privcode.pipeline.budget import settings_digest
from privcode.pipeline.changes import fixed
from privcode.pipeline.layout import RunDirectory
from privcode.pipeline.planning import planned
from privcode.pipeline.private import private_records as records_of
from privcode.pipeline.run import Run
from privcode.pipeline.spending import spent_beside
from privcode.pipeline.stages import sanitize
from privcode.privacy import PrivacyPlan, histogram
from privcode.privacy.ledger import Ledger, read_ledger, spent_in
from privcode.privacy.registry import registered
from privcode.release.verify import verify_bundle
from tests.helpers.commands import privcode
from tests.helpers.launched import torchrun

CONFIG = """\
data: {source: private.jsonl, language: python}
privacy: {epsilon: null, noise_multiplier: 1.0, delta: 1.0e-4, units: 200, batch: 8, steps: 3,
          noise: cryptographic}
prompts: {source: synthesised, limit: 60, opening: "A problem.", max_new_tokens: 8,
          histogram: {noise_multiplier: 2.0}}
junior: {model: "bundled:junior", max_tokens: 192, lora: {r: 2, alpha: 4}}
sanitize: {syntax: {schedule: "off"}}
synthesize: {max_new_tokens: 8, batch_size: 100}
validate: {execution: {enabled: false}, round_trip: {threshold: -99}}
premium: {model: "bundled:premium"}
boost: {epochs: 1, micro_batch: 8, batch_size: 8, limit: 8}
audit: {repetitions: [1], places: [code, prompt], samples: 1, candidates: 0, max_new_tokens: 8}
"""


def config_in(folder: Path, **changes: Any) -> Config:
    folder.mkdir(exist_ok=True)
    write_jsonl(folder / "private.jsonl", private_records(200, seed=1))
    (folder / "privcode.yaml").write_text(CONFIG)
    return with_settings(load_config(folder / "privcode.yaml"), changes, "test")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return config_in(tmp_path)


def begun(config: Config, out: Path) -> tuple[RunDirectory, Any, np.ndarray]:
    """A run whose ledger has begun, its private records, and their counts."""
    run = RunDirectory(config, out)
    whole, counts, data = records_of(config)
    own = whole[: len(whole) - counts["canaries"]]
    counted = topics.counted(run, own)
    sanitize.begin_ledger(run, data)
    assert counted is not None
    return run, own, counted


def test_the_records_are_counted_by_topic_without_made_up_ones(
    config: Config, tmp_path: Path
) -> None:
    run, own, counted = begun(config, tmp_path / "run")
    assert len(own) == 200
    expected = Counter(map(topic_of, own))
    assert {TOPICS[i]: n for i, n in enumerate(counted / 2**32) if n} == expected
    run.close()


def test_it_is_in_the_ledger_before_it_is_drawn_and_a_resumed_run_uses_what_it_holds(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, own, counted = begun(config, tmp_path / "run")
    kinds: list[list[str]] = []
    real = PrivacyPlan.histogram_noise

    def drawn(plan: PrivacyPlan, *arguments: Any) -> Any:
        kinds.append([entry["kind"] for entry in read_ledger(run.ledger)])
        return real(plan, *arguments)

    monkeypatch.setattr(PrivacyPlan, "histogram_noise", drawn)
    topics.release(run, counted)
    assert kinds == [["begin", "histogram"]]
    assert [e["kind"] for e in read_ledger(run.ledger)] == ["begin", "histogram", "noised"]
    topics.write(run)
    before = run.histogram.read_bytes()
    assert topics.counted(run, own) is None  # nothing is counted a second time
    for counts in (None, counted):  # nor drawn
        topics.release(run, counts)
        topics.write(run)
        assert run.histogram.read_bytes() == before
    assert len(kinds) == 1
    assert spent_in(read_ledger(run.ledger)) == replace(run.plan.spent(), steps=0)
    assert registered()[-1]["spent"] == run.plan.spent().facts()
    run.close()


@pytest.mark.parametrize("public", [False, True])
def test_another_run_counts_with_its_histogram_before_it_is_drawn(
    public: bool, tmp_path: Path
) -> None:
    """By the registry, or where that holds nothing, by the ledger of a neighbouring folder."""
    config = config_in(tmp_path, **{"data.public": public})
    one, _, _ = begun(config, tmp_path / "one")
    two = RunDirectory(config, tmp_path / "two")
    assert spent_beside(two, records_of(config)[2]) == (one.plan.spent(),)
    assert two.plan.charge((one.plan.spent(),)).cost.epsilon > 1.3 * two.plan.cost().epsilon
    for run in (one, two):
        run.close()


@pytest.mark.parametrize("noise", ["cryptographic", "reproducible"])
def test_after_a_kill_between_spending_and_noting_it_stays_spent_and_is_not_drawn_twice(
    noise: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_in(tmp_path, **{"privacy.noise": noise})
    run, own, counted = begun(config, tmp_path / "run")
    wanted = counted + run.plan.histogram_noise(len(TOPICS), run.plan.randomness())
    with monkeypatch.context() as patch:

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(Ledger, "noised", killed)
        with pytest.raises(KeyboardInterrupt):
            topics.release(run, counted)
    spent = spent_in(read_ledger(run.ledger))
    assert spent.histogram_noise_multiplier == 2.0
    topics.release(run, topics.counted(run, own))
    topics.write(run)
    entries = read_ledger(run.ledger)
    assert [e["kind"] for e in entries].count("histogram") == 1
    assert spent_in(entries) == spent
    if noise == "reproducible":
        names = map(" / ".join, TOPICS)
        assert entries[-1]["counts"] == dict(zip(names, wanted.tolist(), strict=True))
    else:
        assert entries[-1]["kind"] == "histogram"
        assert read_json(run.histogram)["counts"] == {}
        openings = topics.openings(run)  # all kinds of tasks, in the language of the config
        assert len(openings) == 60
        assert all("in Python" in opening for opening in openings)
        assert set(Counter(openings).values()) == {3, 4}
    run.close()


def test_a_seeded_histogram_whose_result_another_machine_lost_is_not_drawn_again(
    tmp_path: Path,
) -> None:
    config = config_in(tmp_path, **{"privacy.noise": "reproducible"})
    run, _, counted = begun(config, tmp_path / "run")
    ledger = Ledger(run.ledger)
    assert ledger.histogram()
    assert ledger.histogram()  # here it gives the same bits
    ledger.append(kind="named", run="1" * 32, bits={"elsewhere": "1"})
    assert not ledger.histogram()
    topics.release(run, counted)
    assert [e["kind"] for e in read_ledger(run.ledger)] == ["begin", "histogram", "named"]
    run.close()


def test_counts_of_another_taxonomy_are_not_mixed_with_this_one(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _, counted = begun(config, tmp_path / "run")
    topics.release(run, counted)
    monkeypatch.setattr(topics, "taxonomy", lambda: "another")
    with pytest.raises(UserError, match="counts other topics"):
        topics.release(run, None)
    topics.write(run)  # what was released can still be read, and verified
    run.close()


def test_openings_follow_the_noised_counts_that_stand_out(config: Config, tmp_path: Path) -> None:
    run = RunDirectory(config, tmp_path / "run")
    text, files = Topic("python", "text", "none"), Topic("go", "files", "Gin")
    small, negative = Topic("rust", "text", "none"), Topic("php", "text", "none")
    counts = {text: 30.0, files: 10.0, small: 7.9, negative: -50.0}
    named = {" / ".join(topic): count for topic, count in counts.items()}
    write_json(run.histogram, {"noise_multiplier": 2.0, "counts": named})
    found = Counter(topics.openings(run))
    assert found == {
        "A problem about text, in Python.": 45,
        "A problem about files, in Go, with Gin.": 15,
    }
    run.config = with_settings(config, {"prompts.histogram.least": 0.0}, "test")
    assert sorted(Counter(topics.openings(run)).values()) == [10, 12, 38]
    run.close()


def test_without_a_histogram_plan_digest_openings_and_ledger_are_as_before(tmp_path: Path) -> None:
    config = config_in(tmp_path, **{"prompts.histogram.noise_multiplier": None})
    run = RunDirectory(config, tmp_path / "run")
    assert topics.openings(run) == ["A problem."] * 60
    assert topics.counted(run, []) is None
    topics.release(run, None)
    topics.write(run)
    assert not run.ledger.exists()
    assert not run.histogram.exists()
    assert "histogram" not in str(run.plan.describe())
    values = config.model_dump(by_alias=True)
    older = {**values, "prompts": {k: v for k, v in values["prompts"].items() if k != "histogram"}}
    assert settings_digest(values) == settings_digest(older)
    run.close()


def test_the_noise_is_fixed_once_sanitize_has_begun_and_the_threshold_is_not(
    config: Config,
) -> None:
    for noise in (None, 3.0):
        changed = with_settings(config, {"prompts.histogram.noise_multiplier": noise}, "test")
        assert "histogram and latent decide what sanitize trains on" in (
            fixed(config, changed, ()) or ""
        )
        assert settings_digest(changed.model_dump(by_alias=True)) != settings_digest(
            config.model_dump(by_alias=True)
        )
        assert plan_of(changed) != plan_of(config)
    changed = with_settings(config, {"prompts.histogram.least": 2.0}, "test")
    assert fixed(config, changed, ("sanitize",)) is None
    assert plan_of(changed) == plan_of(config)


def test_plan_says_what_the_histogram_costs_and_only_the_method_itself_has_one(
    config: Config,
) -> None:
    facts, text = planned(config, plan_of(config))
    assert facts["histogram_noise_multiplier"] == 2.0
    assert "histogram         of what prompts are about: noise multiplier 2; alone ε = 1." in text
    assert facts["epsilon"] == plan_of(config).cost().epsilon
    dpft = with_settings(config, {"method": "dpft"}, "test")
    assert plan_of(dpft).histogram_noise_multiplier is None


def test_a_unit_more_changes_the_counts_by_its_own_vector(tmp_path: Path) -> None:
    """Through reading, bounding and holding out, with units of many records."""
    changes = {
        "data.columns": {"prompt": "prompt", "code": "code", "unit": "author"},
        "privacy.unit": "column",
        "privacy.max_records_per_unit": 5,
        "audit.holdout": 20,
    }
    config = config_in(tmp_path, **changes)
    rows = list(private_records(200, seed=1))
    owners = [name for name, _ in Counter(row["author"] for row in rows).most_common(4)]
    found = []
    for gone in (None, *owners):
        write_jsonl(tmp_path / "private.jsonl", [row for row in rows if row["author"] != gone])
        whole, counts, _ = records_of(config)
        own = whole[: len(whole) - counts["canaries"]]
        bins = np.fromiter((NUMBERS[topic_of(one)] for one in own), np.int16)
        found.append(histogram.counted(bins, own.unit_numbers, len(TOPICS)))
    norms = [sum(int(step) ** 2 for step in found[0] - without) for without in found[1:]]
    assert all(norm == 0 or 0.99 * 2**64 < norm <= 2**64 for norm in norms)
    assert len([norm for norm in norms if norm]) >= 2  # the others are held out


@pytest.mark.slow
def test_two_processes_draw_one_histogram(tmp_path: Path) -> None:
    """Seeded: the same noised counts as by one process."""
    config = config_in(tmp_path, **{"privacy.noise": "reproducible"})
    (tmp_path / "privcode.yaml").write_text(CONFIG.replace("cryptographic", "reproducible"))
    with Run(config, tmp_path / "one") as run:
        run.do("sanitize")
    command = ["-m", "privcode", "sanitize", tmp_path / "privcode.yaml", "--out", tmp_path / "two"]
    done = torchrun(2, *command)
    assert done.returncode == 0, done.stderr
    one, two = (
        read_ledger(tmp_path / name / "private" / "ledger.jsonl") for name in ("one", "two")
    )
    kinds = [entry["kind"] for entry in two]
    assert kinds == ["begin", "histogram", "noised", "step", "step", "step"]
    assert two[2]["counts"] == one[2]["counts"]
    public = [tmp_path / name / "synthetic" / "histogram.json" for name in ("one", "two")]
    assert public[0].read_bytes() == public[1].read_bytes()


@pytest.mark.slow
def test_a_whole_run_follows_its_histogram_and_verifies(config: Config, tmp_path: Path) -> None:
    more = {"prompts.limit": 300, "prompts.max_new_tokens": 40}
    config = with_settings(config, more, "test")
    with Run(config, tmp_path / "run") as run:
        run.do("sanitize")
        noised = read_json(run.histogram)["counts"]
        own = list(stored(iter(records_of(config)[0])))[:200]
        true = Counter(map(topic_of, own))
        for topic in TOPICS:  # σ is 2: nine deviations
            assert abs(noised[" / ".join(topic)] - true[topic]) < 18
        openings = Counter(topics.openings(run))
        assert sum(openings.values()) == 300
        large = {t: n for t in TOPICS if (n := noised[" / ".join(t)]) >= 8}
        assert len(large) >= 3
        for topic, count in large.items():
            share = 300 * count / sum(large.values())
            assert abs(openings[about("A problem.", topic)] - share) < 1
        run.do("synthesize")
        assert len({row["prompt"] for _, row in read_jsonl(run.raw)}) > 3
        run.all()
        run.report()
        run.release()
        facts = verify_bundle(run.bundle)
        assert facts["epsilon"] == run.plan.cost().epsilon
        assert results.verify(run)["epsilon"] == facts["epsilon"]
        kept = run.histogram.read_bytes()
        write_json(run.histogram, {"noise_multiplier": 2.0, "counts": {}})
        run.note("stages", run.done())
        with pytest.raises(UserError, match=r"histogram\.json"):
            results.verify(run)
        run.histogram.write_bytes(kept)
    code, _, _ = privcode("verify", tmp_path / "run")
    assert code == 0
