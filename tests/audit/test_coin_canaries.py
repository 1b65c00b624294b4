"""Coin canaries are records that nobody could guess, planted by fair coins."""

from privcode.audit.coin_canaries import records, throw


def test_a_coin_decides_and_the_planted_ones_alone_are_records() -> None:
    thrown = throw(2000, 3)
    planted = records(thrown)
    assert planted == [canary.record for canary in thrown if canary.included]
    assert abs(len(planted) - 1000) < 4 * (2000 / 4) ** 0.5
    assert not records(throw(0, 3))


def test_the_same_seed_throws_the_same_coins_and_another_seed_shares_nothing() -> None:
    assert throw(50, 3) == throw(50, 3)
    one, other = ({canary.record.completion for canary in throw(50, seed)} for seed in (3, 4))
    assert not one & other


def test_each_is_a_unit_of_its_own_with_its_own_prompt_and_text() -> None:
    thrown = [canary.record for canary in throw(500, 3)]
    for field in ("unit", "prompt", "completion"):
        assert len({getattr(record, field) for record in thrown}) == 500
    for record in thrown:
        assert record.completion not in record.prompt
