"""Doubts: warned of, refused or gathered, and said once."""

from __future__ import annotations

import warnings

import pytest

from reid_aug.data.doubts import DataDoubt, Doubt, collected, doubts_in_lines, report
from reid_aug.data.people import PersonImage, people_doubts

SMALL, GRAVE = Doubt("small", "k.csv: 2 of 9 bodies are small", 2, ("a", "b")), Doubt("outside", "k.csv: wrong size?", 9, grave=True)


def test_they_are_warned_of_and_the_grave_refused() -> None:
    with pytest.warns(DataDoubt, match=r"^k.csv: 2 of 9 bodies are small \(a, b\)$"):
        report([SMALL])
    with pytest.raises(ValueError, match=r"^k.csv: wrong size\?$"):
        report([SMALL, GRAVE])


def test_inside_collected_they_are_kept_once_and_nothing_is_said() -> None:
    with warnings.catch_warnings(), collected() as doubts:
        warnings.simplefilter("error")
        report([SMALL, GRAVE])
        with collected() as inner:
            report([GRAVE])
        report([SMALL])
    assert doubts == [SMALL, GRAVE] and inner == [GRAVE]
    with pytest.raises(ValueError, match="wrong size"):
        report([GRAVE])


@pytest.mark.parametrize("filters", ["ignore", "error", "default"])
def test_in_lines_each_is_said_once_whatever_filters_there_are(filters: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter(filters)  # type: ignore[arg-type]
        for _ in range(2):  # in each run of a command
            said: list[str] = []
            with doubts_in_lines(said.append):
                for _ in range(3):
                    report([SMALL])
            assert said == [str(SMALL)]
    with doubts_in_lines(said.append), pytest.warns(DeprecationWarning):
        monkeypatch.setenv("LOCAL_RANK", "1")
        report([Doubt("other", "said by the first process", 1)])
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert said == [str(SMALL)]


def test_what_a_dump_rendered_is_doubted_as_photographs() -> None:
    people = [PersonImage(name, 2, 0, "train") for name in ("0002_c1.png", "0002_c1_p0.jpg", "0002_c1_p11.jpg", "0003_c1_p0.jpg")]
    (doubt,) = people_doubts([*people, PersonImage("0004_c1_p0.jpg", 4, 0, "query")])
    assert doubt.kind == "synthetic" and doubt.names == ("0002_c1_p0.jpg", "0002_c1_p11.jpg")
    assert "2 of 4 training images are named as a dump names what it rendered" in doubt.text
    assert people_doubts(people[:1]) == []
