"""Tables of measured image quality."""

from __future__ import annotations

from dataclasses import replace

from reid_aug.quality.measure import Quality
from reid_aug.quality.metrics import Value
from reid_aug.quality.protocols import ElsewhereRow
from reid_aug.quality.tables import elsewhere_table, table


def test_a_column_says_why_one_arm_has_no_number() -> None:
    has = Quality("p", 3, {"FID": Value(2.0, 3, "pool3")}, {"DS": "no weights"})
    lacks = Quality("p", 3, {}, {"FID": "no images", "DS": "no weights"})
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in table({"pg2": has, "vdg": lacks}).splitlines()}
    assert rows["FID"] == "| FID | 2.000 | not measured | pool3; vdg not measured: no images |"
    assert rows["DS"] == "| DS | not measured | not measured | no weights |"
    both = table({"pg2": replace(has, values={}, missing={"FID": "too few"}), "vdg": lacks})
    assert "pg2 not measured: too few; vdg not measured: no images |" in both


def test_numbers_of_something_else_have_a_table_of_their_own_with_what_differs() -> None:
    rows = [
        ElsewhereRow(method="A", values={"SSIM": 0.0991}, source="Table 3", why="another test set"),
        ElsewhereRow(method="B", values={"IS": 3.5}, source="Table 1", why="no window is named"),
    ]
    assert elsewhere_table([]) == ""
    assert elsewhere_table(rows).splitlines() == [
        "| published under other conditions | SSIM | IS | where | what differs |",
        "| --- | ---: | ---: | --- | --- |",
        "| A | 0.0991 |  | Table 3 | another test set |",
        "| B |  | 3.5 | Table 1 | no window is named |",
    ]
