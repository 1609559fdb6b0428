"""Generators by name, and refusing names and options that there are not."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

import generators
from generators import registry
from generators.models.pg2 import PG2

TINY: dict[str, Any] = {"size": (32, 16), "width": 2, "bottleneck": 3}


def test_names_are_the_files_of_models() -> None:
    folder = Path(registry.models.__file__ or "").parent
    assert generators.names() == sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_"))
    assert "pg2" in generators.names() and generators.names() == sorted(generators.names())


@pytest.mark.parametrize(("wrong", "hint"), [("pg3", " (did you mean 'pg2'?)"), ("PG2", ""), ("zzzzzz", ""), ("", ""), ("__init__", None)])
def test_an_unknown_name_is_refused_with_the_nearest(wrong: str, hint: str | None) -> None:
    with pytest.raises(ValueError, match=f"no generator named '{wrong}'; there are ") as caught:
        generators.create(wrong)
    if hint is not None:
        assert str(caught.value) == f"no generator named {wrong!r}; there are {', '.join(generators.names())}{hint}"


def test_an_unknown_option_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError) as caught:
        generators.create("pg2", **TINY, radius=3.0)
    assert str(caught.value).startswith("generator 'pg2' has no option 'radius'; it has size, width, bottleneck, radius_px, l1_weight, ")
    assert str(caught.value).endswith("(did you mean 'radius_px'?)")
    with pytest.raises(ValueError, match="has no option 'qqqq'; it has [a-z0-9_, ]+$"):
        generators.create("pg2", qqqq=1)
    with pytest.raises(ValueError, match="has no option 'self'"):
        generators.create("pg2", **{"self": 1})


def test_create_builds_the_class_of_the_file_and_knows_its_name() -> None:
    model = generators.create("pg2", **TINY)
    assert type(model) is PG2 and registry.name_of(model) == "pg2" and model.options["width"] == 2


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("x = 1", r"\[\]"),
        ("from generators.models.pg2 import PG2", r"\[\]"),
        ("from generators.models.pg2 import PG2\nclass A(PG2): ...\nclass B(PG2): ...", r"\['A', 'B'\]"),
        ("from generators.base import Generator\nclass A(Generator): ...", r"\[\]"),
    ],
)
def test_a_models_file_holds_one_generator(text: str, classes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"odd_{hashlib.sha256(text.encode()).hexdigest()[:8]}"  # a module is imported once: each text has its own name
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setenv(registry.FOLDERS, str(tmp_path))
    assert name in generators.names()
    with pytest.raises(ValueError, match=rf"models/{name}\.py defines one Generator, got {classes}"):
        generators.create(name)
