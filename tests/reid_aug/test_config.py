from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from reid_aug import config
from reid_aug.synthesis.dump import DumpConfig
from reid_aug.synthesis.train import TrainConfig


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("generator: {name: pg2, width: 128}\nout: here\nbatch_size: 16\n")
    asked = config.load(TrainConfig, path, ["data.root=people", "generator.width=8", "batch_size=4", "data.keypoints=k.csv"])
    assert asked.generator.options == {"width": 8}
    assert (asked.batch_size, asked.out, asked.data.root, asked.data.keypoints) == (4, "here", "people", "k.csv")
    with pytest.raises(ValidationError, match="frozen"):
        asked.batch_size = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["out=x", "data.root=y", "batch_sise=3"], "unknown key 'batch_sise'; there are .*did you mean 'batch_size'"),
        (["out=x", "data.rot=y"], "unknown key 'data.rot'; there are root, .*did you mean 'root'"),
        (["data.root=y"], "^out is missing: give out="),
        (["out=x"], r"^data\.root is missing: give data\.root=…"),
        (["out=x", "data.root=???"], r"data\.root is missing: give data\.root=…"),
        (["out=x", "data.root=y", "batch_size=0"], "batch_size: input should be greater than 0, got 0"),
        (["out=x", "data.root=y", "steps=many"], "steps: .*got 'many'"),
        (["out=x", "data.root=y", "data.on_bad_image=hide"], "data.on_bad_image: .*'raise' or 'skip', got 'hide'"),
        (["out"], "an override reads key=value, got 'out'"),
        (["=3"], "an override reads key=value, got '=3'"),
    ],
)
def test_bad_values_are_named(overrides: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        config.load(TrainConfig, None, overrides)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no configuration file at"):
        config.load(TrainConfig, tmp_path / "none.yaml")
    for text in ("a: [1, 2\n", "- 1\n- 2\n", "\x00\x01", "data: {root: ${nowhere}}\n"):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(ValueError, match="bad.yaml"):
            config.load(TrainConfig, tmp_path / "bad.yaml")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=30), max_size=4))
def test_any_overrides_give_a_configuration_or_a_one_line_refusal(overrides: list[str]) -> None:
    try:
        config.load(DumpConfig, None, overrides)
    except ValueError as error:
        assert str(error)


def test_digest_changes_with_any_value() -> None:
    one = config.load(DumpConfig, None, ["checkpoint=a", "data.root=b", "out=c"])
    assert config.digest(one) == config.digest(one.model_copy())
    assert config.digest(one) != config.digest(one.model_copy(update={"seed": 1}))


def test_configurations_go_by_name_or_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.named("pg2", "generators") == config.shipped("generators/pg2.yaml")
    (tmp_path / "pg2.yaml").touch()
    (tmp_path / "mine.yaml").touch()
    assert config.named("mine", "generators", beside=[tmp_path]) == tmp_path / "mine.yaml"
    assert config.named("pg2", "generators", beside=[tmp_path]) == config.shipped("generators/pg2.yaml"), "nothing takes a shipped name"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pg2").touch()
    assert config.named("pg2", "generators") == config.shipped("generators/pg2.yaml"), "nor does a file that happens to lie there"
    assert config.named(str(tmp_path / "mine.yaml"), "generators") == tmp_path / "mine.yaml"
    with pytest.raises(ValueError, match=r"no configuration named 'pg3'; there are .*pg2.*did you mean 'pg2'.*or give a .yaml file"):
        config.named("pg3", "generators")
    with pytest.raises(FileNotFoundError, match="no configuration 'generatorz' among those shipped"):
        config.shipped("generatorz")


def test_a_key_that_came_later_changes_no_digest() -> None:
    off, on = (
        config.load(DumpConfig, None, ["checkpoint=c", "out=o", "data.root=r", f"data.allow_overlap={a}"]) for a in ("false", "true")
    )
    assert "allow_overlap" not in off.model_dump(mode="json")["data"] and on.model_dump()["data"]["allow_overlap"] is True
    assert config.load(DumpConfig, None, ["checkpoint=c", "out=o", "data.root=r"]) == off
