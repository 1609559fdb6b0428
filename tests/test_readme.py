"""The README's blocks are run as they stand, in a folder that holds what they name."""

from __future__ import annotations

import glob
import re
import shlex
import shutil
from pathlib import Path

import pytest

import generators
from reid_aug.cli import main
from reid_aug.rendered import RenderedConfig, write_rendered
from reid_aug.synthesis.manifest import Manifest

ROOT = Path(__file__).parents[1]
NAMES = ("README.md", "generators/README.md", "benchmarks/README.md", "reid_aug/README.md")
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in NAMES}
README = PAGES["README.md"]


def blocks(language: str, *pages: str) -> list[str]:
    return [block for page in pages for block in re.findall(rf"```{language}\n(.*?)```", PAGES[page], flags=re.DOTALL)]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder: Market-1501 as torchreid wants it (rendered people in it), its keypoints, a trained generator."""
    market = tmp_path / "reid-data" / "market1501" / "Market-1501-v15.09.15"
    # torchreid's own loops assert a gallery of twenty and a full batch of 32.
    write_rendered(market, RenderedConfig(train_identities=6, test_identities=5, train_images=4, gallery_images=6, size=(128, 64)))
    for split in ("train", "test"):
        shutil.copy(market / f"annotation-{split}.csv", tmp_path / f"market-annotation-{split}.csv")
    unposed = RenderedConfig(train_identities=4, test_identities=2, train_images=3, size=(128, 64))
    for keypoints in write_rendered(tmp_path / "my-people", unposed).root.glob("*.csv"):
        keypoints.unlink()
    generators.save(generators.create("warpblend", width=8), tmp_path / "warpblend.safetensors")
    generators.save(generators.create("pg2", width=4), tmp_path / "pg2.safetensors")
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def test_python_blocks_run(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(blocks("python", "README.md")) >= 3
    for block in blocks("python", *PAGES):
        exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})
    assert "Rank-1" in capsys.readouterr().out


def test_shell_commands_of_the_package_run(world: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reid_aug.data.estimators.find_spec", lambda name: None)  # MediaPipe's network would be a download
    lines = [line for block in blocks("sh", "README.md", "benchmarks/README.md") for line in block.replace("\\\n", " ").splitlines()]
    commands = [line for line in lines if line.startswith("reid-aug ")]
    named = ["poses", "inspect", "train", "dump", "check", "gate", "pairs", "rendered", "quality", "user-study"]
    assert {shlex.split(c)[1] for c in commands} >= {*named}
    small = {"train": ["generator.width=8", "generator.steps=2", "batch_size=2", "samples=1"],
             "rendered": ["train_identities=2", "test_identities=2", "train_images=3"],
             "quality": ["pairs.count=12", "download=false"], "user-study": ["--count", "10"]}  # fmt: skip
    for command in commands:
        words = [found for word in shlex.split(command, comments=True)[1:] for found in (sorted(glob.glob(word)) or [word])]
        code = main([*words, *small.get(words[0], [])])
        assert code == 0 or (words[0], code) == ("inspect", 1), (command, capsys.readouterr().err)  # 1: there are doubts
    for dumped in ("market-posed", "my-people-posed"):
        assert Manifest.load(world / dumped / "manifest.jsonl").rows


def test_commands_of_the_chapter_on_banks_run(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chapter = PAGES["reid_aug/README.md"].split("## A bank of poses")[1].split("\n## ")[0]
    (block,) = re.findall(r"```sh\n(.*?)```", chapter, flags=re.DOTALL)
    for command in block.replace("\\\n", " ").splitlines():
        assert main(shlex.split(command)[1:]) == 0, (command, capsys.readouterr().err)
    assert Manifest.load(world / "market-banked" / "manifest.jsonl").rows


@pytest.mark.parametrize("page", PAGES)
def test_files_and_pictures_it_names_are_there(page: str) -> None:
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)|\]\((?!http)([^)#]+)[^)]*\)", PAGES[page]):
        name = next(filter(None, path))
        assert (ROOT / page).parent.joinpath(name).is_file(), name
    for name in re.findall(r"configs/[\w/.-]+\.yaml", PAGES[page]):
        assert (ROOT / name).is_file(), name


def test_a_newcomer_reads_it_in_one_sitting() -> None:
    assert len(README.splitlines()) < 200


def test_no_block_names_an_inner_room() -> None:
    for block in blocks("python", "README.md"):
        assert not re.search(r"(reid_aug|generators)\.\w+ import|import (reid_aug|generators)\.", block), block


def test_every_configuration_of_a_generator_is_in_its_table() -> None:
    named = set(re.findall(rf"`((?:{'|'.join(generators.names())})[a-z0-9.-]*)`", PAGES["generators/README.md"]))
    assert named == {path.stem for path in (ROOT / "configs" / "generators").glob("*.yaml")}


def test_every_protocol_of_image_quality_is_in_its_table() -> None:
    page = PAGES["benchmarks/README.md"]
    table = page[page.index("| paper | metric | file in") :].split("\n\n")[0]
    assert set(re.findall(r"\| `([a-z0-9-]+)`", table)) == {path.stem for path in (ROOT / "configs" / "quality").glob("*.yaml")}


def test_the_start_commands_are_one_line_each() -> None:
    start = [line for block in blocks("sh", "README.md") for line in block.splitlines() if "pip install" in line]
    assert any(line.endswith("benchmarks/run.py") for line in start) and any(line.endswith("-m pytest") for line in start)


def test_no_page_holds_the_marks_of_a_merge() -> None:
    for name in (*PAGES, "CHANGELOG.md", "CONTRIBUTING.md"):
        marks = re.findall(r"^(?:<{7}|>{7}|={7}$)", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert not marks, f"{name}: {marks}"
