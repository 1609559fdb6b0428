"""DeepFashion's In-shop benchmark: names written in every way, its layouts and splits, and keypoints in their frames."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import generators
from reid_aug import images
from reid_aug.cli import main
from reid_aug.data.deepfashion import flattened, frame_of, in_images, read_deepfashion, shot_of
from reid_aug.data.doubts import DataDoubt
from reid_aug.data.keypoints import HEADER
from reid_aug.data.loading import DataConfig, left_out_of, load_people
from reid_aug.data.market import read_market_folder
from reid_aug.data.people import PersonImage

TRAIN = [("WOMEN", "Blouses_Shirts", 2, 1, views) for views in ("front", "side", "back")] + [("MEN", "Denim", 5, 1, "front")] + [
    ("MEN", "Denim", 5, 1, "full"), ("MEN", "Denim", 5, 2, "front"), ("MEN", "Denim", 5, 2, "back")
]  # fmt: skip
TEST = [("WOMEN", "Dresses", 7, 1, view) for view in ("front", "side", "back")] + [("WOMEN", "Tees_Tanks", 9, 4, "front")] + [
    ("WOMEN", "Tees_Tanks", 9, 4, "full"), ("WOMEN", "Shorts", 11, 1, "additional")
]  # fmt: skip
NUMBER = {"front": 1, "side": 2, "back": 3, "full": 4, "additional": 7}
Row = tuple[str, str, int, int, str]


def folders(row: Row) -> str:
    department, category, item, outfit, view = row
    return f"img/{department}/{category}/id_{item:08d}/{outfit:02d}_{NUMBER[view]}_{view}.jpg"


def flat(row: Row, word: str = "fashion") -> str:
    department, category, item, outfit, view = row
    return f"{word}{department}{category}id{item:08d}{outfit:02d}_{NUMBER[view]}{view}.jpg"


def body(shift: int = 0, missing: tuple[int, ...] = ()) -> tuple[list[int], list[int]]:
    """A standing body in 256 × 256, around column 128."""
    ys = [30, 50, 52, 80, 110, 52, 80, 110, 115, 160, 210, 115, 160, 210, 26, 26, 28, 28]
    xs = [128, 128, 110, 105, 100, 146, 151, 156, 116, 115, 114, 140, 141, 142, 124, 132, 119, 137]
    return [-1 if j in missing else y for j, y in enumerate(ys)], [-1 if j in missing else x + shift for j, x in enumerate(xs)]


def keypoints(path: Path, rows: list[Row], word: str = "fashion", left_px: int = 0) -> None:
    lines = [HEADER]
    for number, row in enumerate(rows):
        ys, xs = body(number, missing=(8,) if row[4] == "additional" else ())
        lines.append(f"{flat(row, word)}: {ys}: {[x - left_px if x >= 0 else -1 for x in xs]}")
    path.write_text("\n".join(lines) + "\n")


def write_images(root: Path, rows: list[Row], name: Callable[[Row], str], size: tuple[int, int]) -> None:
    for number, row in enumerate(rows):
        file = root / name(row)
        file.parent.mkdir(parents=True, exist_ok=True)
        images.write(np.full((*size, 3), 20 * number % 256, np.uint8), file)


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    """The benchmark's own folders, with PATN's lists and keypoint files of the middle 176 columns."""
    root = tmp_path / "inshop"
    write_images(root, TRAIN + TEST, folders, (256, 256))
    for rows, split in ((TRAIN, "train"), (TEST, "test")):
        (root / f"{split}.lst").write_text("\n".join(map(flat, rows)) + "\n")
        keypoints(root / f"fasion-resize-annotation-{split}.csv", rows, left_px=40)
    return root


@pytest.fixture
def flattened_root(tmp_path: Path) -> Path:
    """PATN's folders: 176 columns, flattened names."""
    root = tmp_path / "fashion_data"
    for rows, split in ((TRAIN, "train"), (TEST, "test")):
        write_images(root / split, rows, flat, (256, 176))
        keypoints(root / f"fasion-resize-annotation-{split}.csv", rows, left_px=40)
    return root


def partition(root: Path) -> None:
    rows = [(row, "train") for row in TRAIN] + [(row, "query" if row[4] in ("front", "additional") else "gallery") for row in TEST]
    lines = [f"{folders(row)} id_{row[2]:08d} {split}" for row, split in rows]
    (root / "Eval").mkdir(exist_ok=True)
    head = [str(len(rows)), "image_name item_id evaluation_status"]
    (root / "Eval" / "list_eval_partition.txt").write_text("\n".join([*head, *lines]) + "\n")


def without_lists(root: Path) -> None:
    for file in (*root.glob("*.lst"), *root.glob("*.csv")):
        file.unlink()


def found(people: list[PersonImage]) -> list[tuple[str, int, int, str]]:
    return [(p.name, p.pid, p.camid, p.split) for p in people]


EXPECTED = sorted(  # by hand: the first image of an identity is the query, who is alone is in the gallery
    [(flat(row), 100 * row[2] + row[3], 0, "train") for row in TRAIN]
) + [
    (flat(TEST[0]), 701, 0, "query"), (flat(TEST[3]), 904, 0, "query"),
    *sorted((flat(TEST[i]), 100 * TEST[i][2] + TEST[i][3], 1, "gallery") for i in (1, 2, 4, 5)),
]  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "img/WOMEN/Blouses_Shirts/id_00006350/04_1_front.jpg", "WOMEN/Blouses_Shirts/id_00006350/04_1_front.png",
        "img\\WOMEN\\Blouses_Shirts\\id_00006350\\04_1_front.jpg", "fasionWOMENBlouses_Shirtsid0000635004_1front.jpg",
        "fashionWOMENBlousesShirtsid0000635004_1front.jpg", "WOMEN-Blouses_Shirts-id_00006350-04_1_front.jpg",
        "train/fashionWOMENBlouses_Shirtsid0000635004_1front.jpg",
    ],
)  # fmt: skip
def test_one_image_has_one_name_however_it_is_written(name: str) -> None:
    assert flattened(name) == "fashionWOMENBlouses_Shirtsid0000635004_1front.jpg"
    shot = shot_of(name)
    assert shot is not None and (shot.department, shot.category, shot.item, shot.outfit, shot.view) == (
        "WOMEN", "Blouses_Shirts", 6350, 4, "front"
    )  # fmt: skip
    assert shot.pid == 635004


@pytest.mark.parametrize("name", ["0002_c1s1_000451_03.jpg", "fashion.jpg", "WOMEN/Dresses/id_2/02_1_front.jpg", "list_eval_partition.txt"])
def test_other_names_are_none(name: str) -> None:
    assert shot_of(name) is None and flattened(name) == name


def test_both_layouts_are_the_same_people(unpacked: Path, flattened_root: Path) -> None:
    assert found(read_deepfashion(unpacked)) == found(read_deepfashion(flattened_root)) == EXPECTED


def test_keypoint_files_or_the_benchmarks_own_list_divide_the_images_where_there_are_no_lists(unpacked: Path) -> None:
    for file in unpacked.glob("*.lst"):
        file.unlink()
    assert found(read_deepfashion(unpacked)) == EXPECTED
    without_lists(unpacked)
    with pytest.raises(FileNotFoundError, match=r"nothing says which images are for training: put train\.lst and test\.lst .*Eval/list"):
        read_deepfashion(unpacked)
    partition(unpacked)
    people = read_deepfashion(unpacked)
    assert [(n, s) for n, _, _, s in found(people) if s == "train"] == [(n, s) for n, _, _, s in EXPECTED if s == "train"]
    assert {n for n, _, camid, s in found(people) if s == "query" and camid == 0} == {flat(TEST[i]) for i in (0, 3, 5)}
    assert found(read_deepfashion(unpacked / "img"))[0] == found(people)[0], "beside the folder itself, too"


def test_joints_are_in_each_images_own_pixels(unpacked: Path, flattened_root: Path, tmp_path: Path) -> None:
    """256 × 256, its middle 176 columns, and the photograph that was padded to a square: one body."""
    ys, xs = body(0)
    data = {
        "square": load_people(DataConfig(root=f"deepfashion:{unpacked}"), test_poses=True),
        "cropped": load_people(DataConfig(root=f"deepfashion:{flattened_root}"), test_poses=True),
    }
    keypoints(flattened_root / "fasion-annotation-train.csv", TRAIN, word="fasion")
    whole = DataConfig(root=f"deepfashion:{flattened_root}", keypoints=str(flattened_root / "fasion-annotation-train.csv"))
    (flattened_root / "fasion-resize-annotation-train.csv").unlink()
    data["cropped, by Siarohin et al."] = load_people(whole)
    for what, people in data.items():
        first = next(p for p in people if p.name == flat(TRAIN[0]))
        left = 0 if what == "square" else 40
        assert first.pose is not None and bool(first.pose.visible.all()) and first.pose.size == (256, 256 - 2 * left)
        assert first.pose.xy.tolist() == [[x - left, y] for x, y in zip(xs, ys, strict=True)], what
    highres = in_images(np.stack([ys, xs], -1)[None] * 1.0, (256, 256), np.array([[1101, 750]]), ["a"], "k.csv")
    scale = 1101 / 256
    expected = [[(y + 0.5) * scale - 0.5, (x - 127.5) * scale + 374.5] for y, x in zip(ys, xs, strict=True)]
    assert np.allclose(highres[0], expected, atol=1e-9)
    alone = next(p for p in data["square"] if p.name == flat(TEST[5]))
    assert alone.pose is not None and alone.pose.visible.tolist() == [j != 8 for j in range(18)], "what is missing stays so"


def test_a_joint_outside_the_crop_is_missing() -> None:
    yx = np.array([[[10.0, 39.0], [10.0, 40.0], [10.0, 215.0], [10.0, 216.0], [-1.0, -1.0]]])
    moved = in_images(yx, (256, 256), np.array([[256, 176]]), ["a"], "k.csv")
    assert moved.tolist() == [[[-1, -1], [10, 0], [10, 175], [-1, -1], [-1, -1]]]
    with pytest.raises(ValueError, match=r"k\.csv is in pixels of 256 × 256 In-shop images; .* a is H × W 128 × 64: give data\.key"):
        in_images(yx, (256, 256), np.array([[128, 64]]), ["a"], "k.csv")
    assert frame_of("dir/fashion-resize-annotation-test_new_split.csv") == (256, 176) and frame_of("annotation-train.csv") is None


def test_a_file_of_another_name_is_in_the_images_own_pixels(unpacked: Path) -> None:
    keypoints(unpacked / "mine.csv", TRAIN)
    people = load_people(DataConfig(root=f"deepfashion:{unpacked}", keypoints=str(unpacked / "mine.csv")))
    first = next(p for p in people if p.name == flat(TRAIN[0]))
    assert first.pose is not None and first.pose.xy[0].tolist() == [128, 30]


def test_what_is_left_out_is_said(unpacked: Path) -> None:
    (unpacked / "img" / "WOMEN" / "notes.txt").touch()
    images.write(np.zeros((8, 8, 3), np.uint8), unpacked / "img" / "WOMEN" / "me.jpg")
    write_images(unpacked, [("MEN", "Pants", 12, 1, "front")], folders, (256, 256))
    with pytest.warns(DataDoubt, match=r"left out: 1 named otherwise than DeepFashion's .*me\.jpg.*1 not named in .*train\.lst and"):
        people = read_deepfashion(unpacked)
    assert found(people) == EXPECTED
    whys = {one.name.rsplit("/", 1)[-1]: one.why for one in left_out_of(DataConfig(root=f"deepfashion:{unpacked}"))}
    assert whys.keys() == {"notes.txt", "me.jpg", "fashionMENPantsid0000001201_1front.jpg"}
    (unpacked / folders(TRAIN[0])).unlink()
    with pytest.warns(DataDoubt, match=r"1 of the 13 images that it names are not in .*img \(fashionWOMENBlouses_Shirtsid00000002"):
        read_deepfashion(unpacked)


@pytest.mark.parametrize(
    ("spoil", "error", "complaint"),
    [
        (lambda root: (root / "img").rename(root / "pictures"), ValueError, "neither img/WOMEN or img/MEN .* nor train and test"),
        (lambda root: root.rename(root.with_name("elsewhere")), FileNotFoundError, r"no folder .*inshop: unpack DeepFashion's In-shop"),
        (lambda root: (root / "test.lst").write_text(flat(TRAIN[0])), ValueError, "both name fashionWOMENBlouses.*learnt from or tested"),
        (lambda root: (root / "train.lst").write_text("a.jpg\n"), ValueError, r"train\.lst, name 1: In-shop's are like .* got 'a\.jpg'"),
        (
            lambda root: [file.write_text(flat(("MEN", "Suiting", i + 70, 1, "front"))) for i, file in enumerate(root.glob("*.lst"))],
            ValueError, r"train\.lst and test\.lst names none of the 13 images",
        ),
        (
            lambda root: (root / "train.lst").write_text("\n".join([*map(flat, TRAIN), flat(TEST[1])])) and
            (root / "test.lst").write_text("\n".join(map(flat, [TEST[0], *TEST[2:]]))),
            ValueError, r"train and test share no identity, but 1 are in both: 701 \(to read it anyway: data\.allow_overlap=true",
        ),
        (
            lambda root: ([f.unlink() for f in root.glob("*.lst")], keypoints(root / "fasion-annotation-train.csv", TRAIN)),
            ValueError, "holds 2 keypoint files of train, fasion-annotation-train.csv, fasion-resize-annotation-train.csv: keep",
        ),
        (
            lambda root: images.write(np.zeros((256, 256, 3), np.uint8), (root / folders(TRAIN[0])).with_suffix(".png")),
            ValueError, "one photograph is there once, but 1 are there more often, fashionWOMENBlouses",
        ),
    ],
    ids=["layout", "folder", "both", "names", "others", "overlap", "two", "twice"],
)  # fmt: skip
def test_wrong_files_are_refused_in_a_line(
    spoil: Callable[[Path], object], error: type[Exception], complaint: str, unpacked: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(unpacked)
    with pytest.raises(error, match=complaint) as caught:
        read_deepfashion(unpacked)
    assert "\n" not in str(caught.value)
    assert main(["train", "pg2", f"data.root=deepfashion:{unpacked}", f"out={unpacked.parent / 'out'}", "generator.width=4"]) == 2
    err = capsys.readouterr().err
    assert len(err.strip().splitlines()) == 1 and "Traceback" not in err


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda lines: lines[1:], "begins with a count and image_name item_id evaluation_status"),
        (lambda lines: lines[:-1], "says it has 13 images and lists 12: it is cut short"),
        (lambda lines: [*lines[:2], "a.jpg id_00000002 train", *lines[3:]], "line 3: a row is an image, its item and its split"),
        (lambda lines: [*lines[:2], lines[2].replace(" train", " trian"), *lines[3:]], "line 3: a split .*'trian'.*did you mean 'train'"),
    ],
)
def test_a_spoilt_partition_is_refused(change: Callable[[list[str]], list[str]], complaint: str, unpacked: Path) -> None:
    without_lists(unpacked)
    partition(unpacked)
    file = unpacked / "Eval" / "list_eval_partition.txt"
    file.write_text("\n".join(change(file.read_text().splitlines())))
    with pytest.raises(ValueError, match=complaint):
        read_deepfashion(unpacked)


def test_two_rows_of_one_image_are_refused(unpacked: Path) -> None:
    path = unpacked / "fasion-resize-annotation-train.csv"
    ys, xs = body()
    path.write_text(path.read_text() + f"{flat(TRAIN[0], 'fasion')}: {ys}: {[x - 40 for x in xs]}\n")
    with pytest.raises(ValueError, match="two rows are of one image, fashionWOMENBlouses_Shirtsid0000000201_1front.jpg"):
        load_people(DataConfig(root=f"deepfashion:{unpacked}"))


def test_without_its_prefix_the_folder_is_told_what_it_is(unpacked: Path, flattened_root: Path) -> None:
    for root in (unpacked, flattened_root):
        with pytest.raises(ValueError, match=f"is DeepFashion's In-shop benchmark: give data.root=deepfashion:{root}"):
            read_market_folder(root)


def test_every_verb_reads_it(unpacked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Train on the published list of pairs, dump, check, inspect, measure; the benchmark in its own folder."""
    root, run = f"data.root=deepfashion:{unpacked}", tmp_path / "run"
    pairs = [(TRAIN[0], TRAIN[1]), (TRAIN[2], TRAIN[0]), (TRAIN[5], TRAIN[6])]
    (tmp_path / "fasion-resize-pairs-train.csv").write_text(
        "from,to\n" + "".join(f"{flat(a, 'fasion')},{folders(b)}\n" for a, b in pairs)
    )
    small = ["generator.size=[32,32]", "generator.width=4", "generator.stage1_steps=1", "generator.stage2_steps=1", "batch_size=2"]
    listed = f"pairs={tmp_path / 'fasion-resize-pairs-train.csv'}"
    assert main(["train", "pg2-fashion", root, f"out={run}", listed, "samples=1", *small]) == 0
    header = generators.read_header(run / "last.safetensors")
    assert header["about"]["pairs"] == "fasion-resize-pairs-train.csv"
    checkpoint, dumped = run / "last.safetensors", tmp_path / "dump"
    assert main(["dump", f"checkpoint={checkpoint}", root, f"out={dumped}", "per_image=1", "device=cpu"]) == 0
    assert main(["check", str(dumped)]) == 0
    real = [line for line in map(json.loads, (dumped / "manifest.jsonl").read_text().splitlines()) if "path" in line]
    assert {row["pid"] for row in real} == {201, 501, 502} and len(real) == len(TRAIN)
    assert main(["inspect", f"deepfashion:{unpacked}", "--sheet", str(tmp_path / "sheet.png")]) in (0, 1)
    assert "3 train, 2 query, 3 gallery" in capsys.readouterr().out
    lists = ["pairs.file=" + str(tmp_path / "test.csv"), "metrics={SSIM: {}}", "size=[32,32]", "device=cpu", "download=false"]
    (tmp_path / "test.csv").write_text(f"from,to\n{flat(TEST[0])},{flat(TEST[1], 'fasion')}\n")
    assert main(["quality", str(checkpoint), "deformable-fashion", root, f"out={tmp_path / 'quality'}", "pairs.count=1", *lists]) == 0
    sampled = ["pairs.count=4", "metrics={SSIM: {}}", "size=[32,32]", "device=cpu", "download=false"]
    for protocol in ("deformable-fashion", "pg2-fashion"):
        assert main(["quality", str(checkpoint), protocol, root, f"out={tmp_path / protocol}", *sampled]) == 0
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.yaml").write_text("{}\n")
    arms = ["name=f", "arms=[none,copies]", "seeds=[0]", "quality.pairs=0", "per_image=1", f"out={tmp_path / 'runs'}"]
    baseline = "baseline={model: small, widths: [8, 8, 8, 8], size: [32, 32], steps: 1, identities: 2, instances: 2, crop_px: 1}"
    assert main(["bench", "empty.yaml", root, *arms, baseline]) == 0
