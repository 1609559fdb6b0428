"""DeepFashion's In-shop Clothes Retrieval Benchmark (Liu et al. 2016): its names, splits, and the frames that keypoint files are in.

Unpacked, an image is `img/WOMEN/Dresses/id_00000002/02_1_front.jpg`. Pose transfer's authors flatten that: Siarohin et al. to
`fasionWOMENDressesid0000000202_1front.jpg`, Zhu et al. (PATN) and those after them to `fashionWOMENDresses…`, in folders train and test.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from generators import one_of
from reid_aug.data.doubts import Doubt, first_few, report
from reid_aug.data.left_out import LeftOut, reasons, warn_of
from reid_aug.data.people import SPLITS, PersonImage, refuse_overlap
from reid_aug.images import SUFFIXES

PREFIX = "deepfashion:"  # how `data.root` begins
PARTITION = "list_eval_partition.txt"
LISTS = ("train.lst", "test.lst")
SIDE = 256  # rows of the published images; keypoint files are in their pixels
_IMAGES = ("", "img", "Img/img", "Img", "img_highres", "Img/img_highres", "fashion", "fasion")  # where WOMEN and MEN are looked for
_CATEGORIES = (
    "Blouses_Shirts", "Graphic_Tees", "Jackets_Coats", "Jackets_Vests", "Rompers_Jumpsuits", "Shirts_Polos", "Sweatshirts_Hoodies",
    "Tees_Tanks",
)  # fmt: skip
_WITH_BREAK = {category.replace("_", ""): category for category in _CATEGORIES}
_NAME = re.compile(
    r"(?:.*/)?(?:fash?ion)?(WOMEN|MEN)[-/]?([A-Za-z_]+?)[-/]?id_?(\d{8})[-/]?(\d{2})_(\d)_?([a-z]+)\.\w+", re.ASCII
)
_ANNOTATION = re.compile(r"fash?ion(-resize)?-annotation-(train|test)\w*\.csv", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Shot:
    """What the name of an image says: whose department and category, the item, which of its outfits, and the photograph."""

    department: str
    category: str
    item: int
    outfit: int
    number: int
    view: str

    @property
    def name(self) -> str:
        """Give the flattened name, as PATN and those after it publish it."""
        return f"fashion{self.department}{self.category}id{self.item:08d}{self.outfit:02d}_{self.number}{self.view}.jpg"

    @property
    def pid(self) -> int:
        """Give the identity: one person in one outfit, whose images the papers pair."""
        return 100 * self.item + self.outfit


def shot_of(name: str) -> Shot | None:
    """Read a name of In-shop, a path in its folders or flattened by anybody; None for any other name.

    >>> shot_of("img/WOMEN/Dresses/id_00000002/02_1_front.jpg") == shot_of("fasionWOMENDressesid0000000202_1front.jpg")
    True
    >>> shot_of("img/WOMEN/Dresses/id_00000002/02_1_front.jpg").pid, shot_of("0002_c1s1_000451_03.jpg")
    (202, None)
    """
    match = _NAME.fullmatch(name.replace("\\", "/"))
    if match is None:
        return None
    department, category, item, outfit, number, view = match.groups()
    return Shot(department, _WITH_BREAK.get(category.replace("_", ""), category), int(item), int(outfit), int(number), view)


def flattened(name: str) -> str:
    """Give the one name that an In-shop image goes by here, whichever way it is written; any other name is as it was.

    >>> flattened("MEN-Tees_Tanks-id_00000390-14_4_full.png"), flattened("0002_c1s1_000451_03.jpg")
    ('fashionMENTees_Tanksid0000039014_4full.jpg', '0002_c1s1_000451_03.jpg')
    """
    shot = shot_of(name)
    return name if shot is None else shot.name


# ------------------------------------------------------------------------------------------------------------ images


def read_deepfashion(root: str | os.PathLike[str], *, allow_overlap: bool = False) -> list[PersonImage]:
    """Read In-shop's images, under their flattened names: an identity is one person in one outfit (item and outfit number).

    In folders train and test, these are the splits. In the benchmark's own folders the splits are those of train.lst and
    test.lst (PATN's), or else of the one pair of keypoint files fas(h)ion-…annotation-{train,test}….csv, or else of the
    benchmark's list_eval_partition.txt, whichever lies there. That list tells query from gallery; elsewhere the first image of
    each test identity is the query and its others are the gallery. There are no cameras: train and query are camera 0, the
    gallery is camera 1. FileNotFoundError or ValueError for another layout, no split, or an identity in train and test.
    """
    people, left_out, missing = _read(Path(root))
    warn_of(f"{os.fspath(root)}, left out", left_out)
    report(missing)
    if not allow_overlap:
        refuse_overlap(os.fspath(root), people)
    return people


def deepfashion_left_out(root: str | os.PathLike[str]) -> list[LeftOut]:
    """List the files that read_deepfashion leaves out, and why."""
    return _read(Path(root))[1]


def _read(root: Path) -> tuple[list[PersonImage], list[LeftOut], list[Doubt]]:
    """Read who is in which split, what is left out, and which images a list names in vain."""
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}: unpack DeepFashion's In-shop benchmark there (img/WOMEN/…), or PATN's train and test")
    if (root / "train").is_dir() and (root / "test").is_dir():
        found, left_out = [], []
        for split in ("train", "test"):
            shots, others = _shots(root, root / split)
            found += [(shot, path, split) for shot, path in shots]
            left_out += others
        _refuse_none(root, found, left_out)
        return _people(root, found), left_out, []
    folder = image_folder(root)
    where, split_of = _splits(root, folder)
    shots, left_out = _shots(root, folder)
    _refuse_none(root, shots, left_out)
    found = [(shot, path, split_of[shot.name]) for shot, path in shots if shot.name in split_of]
    if not found:
        raise ValueError(f"{where} names none of the {len(shots):,} images of {folder}: is it another data set's?")
    left_out += [LeftOut(shot.name, f"not named in {where}") for shot, _ in shots if shot.name not in split_of]
    absent = sorted(split_of.keys() - {shot.name for shot, _, _ in found})
    text = f"{where}: {len(absent):,} of the {len(split_of):,} images that it names are not in {folder}"
    return _people(root, found), left_out, [Doubt("missing", text, len(absent), tuple(absent))] if absent else []


def image_folder(root: Path) -> Path:
    """Find the folder that holds WOMEN and MEN; ValueError where there is none."""
    for name in _IMAGES:
        if any((root / name / department).is_dir() for department in ("WOMEN", "MEN")):
            return root / name
    raise ValueError(f"{root}: neither img/WOMEN or img/MEN (In-shop as it is unpacked) nor train and test (flattened) are in it")


def _shots(root: Path, folder: Path) -> tuple[list[tuple[Shot, str]], list[LeftOut]]:
    """Find the images below a folder, by name, and the files that are none of In-shop's."""
    shots, left_out = [], []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in sorted(name for name in files if not name.startswith(".")):
            path = os.path.join(place, file)
            shot = shot_of(Path(os.path.relpath(path, folder)).as_posix())
            if not file.lower().endswith(SUFFIXES):
                left_out.append(LeftOut(os.path.relpath(path, root), f"of another kind than {first_few(SUFFIXES)}"))
            elif shot is None:
                left_out.append(LeftOut(os.path.relpath(path, root), "named otherwise than DeepFashion's In-shop images are"))
            else:
                shots.append((shot, path))
    return sorted(shots, key=lambda found: (found[0].name, found[1])), left_out


def _refuse_none(root: Path, found: Sequence[object], left_out: Iterable[LeftOut]) -> None:
    """Raise ValueError where no image was found, with what was found instead."""
    if not found:
        why = "; ".join(reasons(left_out))
        named = "named as WOMEN/Dresses/id_00000002/02_1_front.jpg or fashionWOMENDressesid0000000202_1front.jpg"
        raise ValueError(f"{root} holds no image {named}{why and f', but {why}'}")


def _people(root: Path, found: Sequence[tuple[Shot, str, str]]) -> list[PersonImage]:
    """Make people of photographs and their splits, where "test" is dealt to query and gallery; by split, then name."""
    twice = [name for name, count in Counter(shot.name for shot, _, _ in found).items() if count > 1]
    if twice:
        raise ValueError(f"{root}: one photograph is there once, but {len(twice)} are there more often, {first_few(twice)}")
    tested: dict[int, list[str]] = defaultdict(list)
    for shot, _, split in found:
        if split == "test":
            tested[shot.pid].append(shot.name)
    queries = {min(names) for names in tested.values() if len(names) > 1}
    people = []
    for shot, path, split in found:
        dealt = ("query" if shot.name in queries else "gallery") if split == "test" else split
        people.append(PersonImage(path, shot.pid, int(dealt == "gallery"), dealt, alias=shot.name))
    return sorted(people, key=lambda p: (SPLITS.index(p.split), p.name))


# ------------------------------------------------------------------------------------------------------------ splits


def _splits(root: Path, folder: Path) -> tuple[str, dict[str, str]]:
    """Find which list divides the images, and the split of each name: train and test, or train, query and gallery."""
    places = [root, root / "Eval", *([root.parent, root.parent / "Eval"] if folder == root else [])]
    for place in places:
        lists = [place / name for name in LISTS]
        if all(file.is_file() for file in lists):
            return _both(lists, [_lines(file) for file in lists])
    annotations = keypoint_files_in(root)
    if all(annotations.values()):
        files = [Path(str(file)) for file in annotations.values()]
        return _both(files, [[line.partition(":")[0] for line in _lines(file)[1:]] for file in files])
    for place in places:
        if (place / PARTITION).is_file():
            return _partition(place / PARTITION)
    raise FileNotFoundError(
        f"{root}: nothing says which images are for training: put {' and '.join(LISTS)} there (PATN's repository has them), "
        f"the keypoint files fasion-resize-annotation-train.csv and -test.csv, or the benchmark's Eval/{PARTITION}"
    )


def _both(files: Sequence[Path], names: Sequence[Sequence[str]]) -> tuple[str, dict[str, str]]:
    """Put a list of training images and one of test images together; ValueError for a name that is in both, or none of In-shop's."""
    split_of: dict[str, str] = {}
    for split, file, lines in zip(("train", "test"), files, names, strict=True):
        for number, name in enumerate(lines, start=1):
            shot = shot_of(name)
            if shot is None:
                raise ValueError(f"{file}, name {number}: In-shop's are like fashionWOMENDressesid0000000202_1front.jpg, got {name!r}")
            if split_of.setdefault(shot.name, split) != split:
                raise ValueError(f"{files[0]} and {files[1]} both name {name}: an image is either learnt from or tested on")
    return f"{files[0]} and {files[1].name}", split_of


def _partition(file: Path) -> tuple[str, dict[str, str]]:
    """Read the benchmark's partition: a count, a header, and rows of image, item and train, query or gallery."""
    lines = _lines(file)
    if len(lines) < 3 or not lines[0].isdigit() or lines[1].split() != ["image_name", "item_id", "evaluation_status"]:
        raise ValueError(f"{file} begins with a count and image_name item_id evaluation_status, got {lines[:2]!r}")
    split_of = {}
    for number, line in enumerate(lines[2:], start=3):
        fields = line.split()
        shot = shot_of(fields[0]) if len(fields) == 3 else None
        if shot is None:
            raise ValueError(f"{file}, line {number}: a row is an image, its item and its split, got {line!r}")
        one_of(f"{file}, line {number}: a split", fields[2], SPLITS)
        split_of[shot.name] = fields[2]
    if int(lines[0]) != len(split_of):
        raise ValueError(f"{file} says it has {lines[0]} images and lists {len(split_of)}: it is cut short, or lists some twice")
    return str(file), split_of


def _lines(file: Path) -> list[str]:
    """Read the lines that are not blank."""
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not a UTF-8 text file (byte {error.start})") from None


# --------------------------------------------------------------------------------------------------------- keypoints


def keypoint_files_in(root: Path) -> dict[str, str | None]:
    """Find the keypoint files of "train" and "test" in a folder, by their published names; ValueError where there are several."""
    found: dict[str, list[str]] = {"train": [], "test": []}
    for file in sorted(root.iterdir()) if root.is_dir() else ():
        if (match := _ANNOTATION.fullmatch(file.name)) is not None and file.is_file():
            found[match[2].lower()].append(str(file))
    for split, files in found.items():
        if len(files) > 1:
            names = first_few([Path(file).name for file in files])
            raise ValueError(f"{root} holds {len(files)} keypoint files of {split}, {names}: keep those of one split there")
    return {split: next(iter(files), None) for split, files in found.items()}


def frame_of(path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Say which frame (H, W) a keypoint file's pixels are of, by its published name; None for the images' own.

    The 256 × 256 images are the photographs padded to a square; PATN's files (`resize`) are of their middle 176 columns.

    >>> frame_of("fasion-resize-annotation-train.csv"), frame_of("fasion-annotation-test.csv"), frame_of("mine.csv")
    ((256, 176), (256, 256), None)
    """
    match = _ANNOTATION.fullmatch(os.path.basename(os.fspath(path)))
    return None if match is None else (SIDE, 176 if match[1] else SIDE)


def in_images(yx: np.ndarray, frame: tuple[int, int], sizes: np.ndarray, names: Sequence[str], where: str) -> np.ndarray:
    """Move y and x (N, K, 2), −1 where missing, from a frame to the pixels of images of `sizes` (N, 2), which are crops of one another.

    All show the photograph at full height, in the middle of their width: 256 × 256 padded, 256 × 176 cropped, 1101 × 750 as taken. A
    joint outside the image is missing. ValueError where images are none of these.
    """
    share = sizes[:, 1] / sizes[:, 0]
    odd = np.flatnonzero((share < 0.66) | (share > 1.01))
    if len(odd):
        height, width = sizes[odd[0]]
        raise ValueError(
            f"{where} is in pixels of {frame[0]} × {frame[1]} In-shop images; those are as wide as 0.68 to 1 of their height, and "
            f"{names[odd[0]]} is H × W {height} × {width}: give data.keypoints=FILE of these images' own pixels, under another name"
        )
    scale = (sizes[:, 0] / frame[0])[:, None]
    missing = (yx < 0).any(-1)
    y = (yx[..., 0] + 0.5) * scale - 0.5
    x = (yx[..., 1] + 0.5 - frame[1] / 2) * scale + sizes[:, 1:] / 2 - 0.5
    outside = (y < -0.5) | (x < -0.5) | (y >= sizes[:, :1] - 0.5) | (x >= sizes[:, 1:] - 0.5)
    moved = np.stack([y, x], axis=-1).clip(min=0)  # half a pixel of the first row and column is theirs
    return np.where((missing | outside)[..., None], -1.0, moved)
