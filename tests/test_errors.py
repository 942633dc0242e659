from __future__ import annotations

from isdh.errors import first_five


def test_the_first_five_are_named_and_the_others_counted():
    assert first_five(range(5)) == "0, 1, 2, 3, 4"
    assert first_five(range(6)) == "0, 1, 2, 3, 4 and 1 more"
    assert first_five([]) == ""
