"""Names of units are told apart, whatever their form, and numbered as they come."""

from hypothesis import given
from hypothesis import strategies as st

from privcode.data.units import numbered_names

KINDS = st.sampled_from(["row", "owner", "canary"])
NUMBERS = st.sampled_from(["0", "1", "2", "01", "+1", " 1", "1_0", "١", "²", "", "9" * 30])
NAMES = st.builds("{}{}".format, st.sampled_from(["row-", "row_", ""]), NUMBERS)


@given(st.lists(st.tuples(KINDS, NAMES), max_size=20))
def test_names_are_numbered_in_the_order_in_which_they_come(names: list[tuple[str, str]]) -> None:
    first = {name: number for number, name in enumerate(dict.fromkeys(names))}
    assert numbered_names(names).tolist() == [first[name] for name in names]


@given(st.lists(st.integers(0, 2**64), max_size=20))
def test_rows_are_numbered_whether_or_not_they_follow_each_other(rows: list[int]) -> None:
    for some in (rows, sorted(set(rows))):
        names = [("row", f"row-{row}") for row in some]
        first = {name: number for number, name in enumerate(dict.fromkeys(names))}
        assert numbered_names(names).tolist() == [first[name] for name in names]
