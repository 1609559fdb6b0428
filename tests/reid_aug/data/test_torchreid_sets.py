"""The rows of torchreid's data sets as people."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from reid_aug.data.people import PersonImage
from reid_aug.data.torchreid_sets import from_torchreid


@pytest.mark.parametrize("extra", [(), (0,)])
def test_torchreid_rows(extra: tuple[int, ...]) -> None:
    data = SimpleNamespace(train=[("/x/a.jpg", 0, 3, *extra)], query=[("b.jpg", 5, 0, *extra)], gallery=[("c.jpg", 5, 1, *extra)])
    assert from_torchreid(data) == [
        PersonImage("/x/a.jpg", 0, 3, "train"),
        PersonImage("b.jpg", 5, 0, "query"),
        PersonImage("c.jpg", 5, 1, "gallery"),
    ]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (SimpleNamespace(train=[]), "a torchreid data set has a list 'query', SimpleNamespace has NoneType"),
        (
            SimpleNamespace(train=[("a.jpg", 1)], query=[], gallery=[]),
            r"\(path, pid, camid\[, dsetid\]\), train has \('a.jpg', 1\)",
        ),
        (SimpleNamespace(train=[(("a.jpg", "b.jpg"), 1, 0)], query=[], gallery=[]), "a row of a torchreid image data set"),
    ],
)
def test_what_is_no_torchreid_data_set(data: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        from_torchreid(data)
