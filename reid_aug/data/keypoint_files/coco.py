"""COCO's JSON: annotations with their images, and lists of results, as AlphaPose writes them, too.

Lin et al. 2014, https://cocodataset.org/#format-data and #format-results: `keypoints` is x, y, v for each joint, v 0 for none, 1 hidden
but labelled, 2 seen. Lists of results have a score in v's place, and AlphaPose's name the image in `image_id`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from generators import coco_17
from reid_aug.data.keypoint_files.rows import FilePoses, entries, load_json, number, one_each, same_name, short, table, text

# Joints of a list → where COCO's 17 are: the first of Halpe's 26 and 136 (AlphaPose) and of COCO-WholeBody's 133 are these.
JOINTS = (17, 26, 133, 136)
LARGEST_PX = 100_000


def read_annotations(where: str, content: Mapping[str, Any]) -> FilePoses:
    """Read COCO's annotations: the poses of all images that `images` lists, in its order; crowds and mere boxes are passed over."""
    ids, names, sizes = _images(where, content.get("images"))
    joints_there, order, persons = _categories(where, content)
    people = entries(where, "annotations", content.get("annotations"))
    kept = [(i, one) for i, one in enumerate(people) if _is_person(one, persons)]
    if people and not any("keypoints" in one for one in people):
        raise ValueError(f"{where}: none of {len(people):,} annotations has keypoints: these are boxes or masks alone")

    def at(i: int) -> str:
        return f"{where}, annotations[{kept[i][0]}]"

    rule = f"keypoints are {3 * joints_there} numbers ({joints_there} joints × x, y, v)"
    lost = next((i for i, (_, one) in enumerate(kept) if _key(one.get("image_id"), at(i)) not in ids), None)
    if lost is not None:
        raise ValueError(f"{at(lost)}: image_id is the id of one of images, got {short(kept[lost][1].get('image_id'))}")
    joints = table([one["keypoints"] for _, one in kept], at, [3 * joints_there], rule).reshape(len(kept), joints_there, 3)[:, order]
    if (wrong := np.flatnonzero(~np.isin(joints[..., 2], (0, 1, 2)).all(1))).size:
        i = int(wrong[0])
        value = joints[i][~np.isin(joints[i, :, 2], (0, 1, 2)), 2][0]
        raise ValueError(f"{at(i)}: v is 0, 1 or 2, got {value:g} (a list of results, not annotations, has scores there)")
    image = np.array([ids[one["image_id"]] for _, one in kept], dtype=int)
    sureness = _sureness([one for _, one in kept], at)
    return one_each(where, coco_17, names, image, joints[..., :2], joints[..., 2] > 0, sureness=sureness, sizes=sizes)


def read_results(where: str, content: Sequence[Any], least_score: float, images: str | None = None) -> FilePoses:
    """Read a list of results, COCO's or AlphaPose's: a joint is found from `least_score` on.

    `image_id` is a name, or a number: that of an image in `images`, a file of annotations, without which it is the name itself.
    Where every v is 0, 1 or 2, these are COCO's marks and no scores.
    """
    people = entries(where, "the list", list(content))
    if not people:
        raise ValueError(f"{where}: the list is empty")

    def at(i: int) -> str:
        return f"{where}, entry {i}"

    missing = next((i for i, one in enumerate(people) if "keypoints" not in one or "image_id" not in one), None)
    if missing is not None:
        raise ValueError(f"{at(missing)}: an entry has image_id and keypoints, got {short(list(people[missing]))}")
    keys = [_key(one["image_id"], at(i)) for i, one in enumerate(people)]
    if images is None:
        names = [text(str(key), f"{where}, image_id {key!r}", "image_id") for key in dict.fromkeys(keys)]
        ids, sizes = {key: i for i, key in enumerate(dict.fromkeys(keys))}, None
        if (twice := same_name(names)) is not None:
            raise ValueError(f"{where}: image_id {twice!r} is there as a number and as a name")
    else:
        known = load_json(images)
        ids, names, sizes = _images(images, known.get("images") if isinstance(known, dict) else None)
        if (lost := next((i for i, key in enumerate(keys) if key not in ids), None)) is not None:
            raise ValueError(f"{at(lost)}: image_id is the id of an image in {images}, got {short(keys[lost])}")
    rule = f"keypoints are 3 numbers for each of {' or '.join(map(str, JOINTS))} joints (x, y, score)"
    joints = table([one["keypoints"] for one in people], at, [3 * n for n in JOINTS], rule).reshape(len(people), -1, 3)
    joints = joints[:, : len(coco_17)]
    marks = bool(np.isin(joints[..., 2], (0, 1, 2)).all())
    visible = joints[..., 2] > 0 if marks else joints[..., 2] >= max(least_score, 1e-9)
    image = np.array([ids[key] for key in keys])
    scores = None if marks else joints[..., 2]
    return one_each(
        where, coco_17, names, image, joints[..., :2], visible, scores=scores, sureness=_sureness(people, at), sizes=sizes
    )  # fmt: skip


def _key(value: object, at: str) -> int | str:
    """Check an image's id: a whole number or a name."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{at}: image_id is a whole number or a name, got {short(value)}")
    return value if isinstance(value, str) else int(number(value, at, "image_id", most=2**53))


def _images(where: str, images: object) -> tuple[dict[int | str, int], list[str], np.ndarray]:
    """Read `images`: the row of each id, names, and sizes (N, 2), NaN where there is none."""
    if images is None:
        raise ValueError(f"{where}: COCO's annotations have images with id and file_name, this file has none")
    ids: dict[int | str, int] = {}
    names, sizes = [], []
    for i, one in enumerate(entries(where, "images", images)):
        at = f"{where}, images[{i}]"
        key = _key(one.get("id"), at)
        if key in ids:
            raise ValueError(f"{at}: an id is one image's, {short(key)} is that of images[{ids[key]}], too")
        ids[key] = i
        names.append(text(one.get("file_name"), at, "file_name"))
        sizes.append([_side(one.get(side), at, side) for side in ("height", "width")])
    if not names:
        raise ValueError(f"{where}: images is empty")
    if (twice := same_name(names)) is not None:
        raise ValueError(f"{where}: a file_name is one image's, {twice!r} is there twice")
    return ids, names, np.array(sizes)


def _side(value: object, at: str, what: str) -> float:
    """Check a height or a width; NaN where the file has none."""
    if value is None:
        return np.nan
    pixels = number(value, at, what, most=LARGEST_PX)
    if pixels < 1:
        raise ValueError(f"{at}: {what} is 1 pixel at least, got {pixels:g}")
    return pixels


def _categories(where: str, content: Mapping[str, Any]) -> tuple[int, list[int], set[Any] | None]:
    """Count a person's joints, find COCO's 17 among them, and give the ids of the categories that are persons; None where all are."""
    with_joints = [one for one in entries(where, "categories", content.get("categories") or []) if one.get("keypoints")]
    persons = [one for one in with_joints if one.get("name") == "person"] or with_joints
    if not persons:
        return len(coco_17), list(range(len(coco_17))), None
    names = persons[0]["keypoints"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{where}, categories: keypoints are the joints' names, got {short(names)}")
    joints = [name.lower().replace("left_", "l_").replace("right_", "r_") for name in names]
    lacking = [joint for joint in coco_17.joints if joint not in joints]
    if lacking or any(one["keypoints"] != names for one in persons):
        why = f"there is no {', '.join(lacking)}" if lacking else "they differ by category"
        raise ValueError(f"{where}, categories: keypoints are COCO's 17 joints, in any order, {why} (got {short(', '.join(names))})")
    order = [joints.index(joint) for joint in coco_17.joints]
    return len(joints), order, {_hashable(one.get("id"), where) for one in persons}


def _hashable(value: object, where: str) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{where}, categories: an id is a whole number or a name, got {short(value)}")
    return value


def _is_person(one: Mapping[str, Any], persons: set[Any] | None) -> bool:
    """Tell whether an annotation is of one person with a joint at least."""
    category = one.get("category_id")
    if persons is not None and category is not None and (isinstance(category, list | dict) or category not in persons):
        return False
    return "keypoints" in one and one.get("iscrowd") in (None, 0, False) and one.get("num_keypoints") != 0


def _sureness(people: Sequence[Mapping[str, Any]], at: Any) -> np.ndarray | None:
    """Give how sure the file is of each person, where it says so of all."""
    if not all("score" in one for one in people):
        return None
    return np.array([number(one["score"], at(i), "score") for i, one in enumerate(people)])
