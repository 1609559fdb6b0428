"""A sheet of images with their skeletons, to see at a glance whether joints sit where they should."""

from __future__ import annotations

import io
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from generators import pose_picture, rescale
from reid_aug import images
from reid_aug.data.people import PersonImage

CELL, CAPTION, GAP = (256, 128), 14, 6  # pixels: (H, W) of an image at most, height of the name below it, space between
COLUMNS = 8
GROUND, TEXT, WARNING = (32, 32, 32), (220, 220, 220), (255, 90, 90)
_KEY, _OURS = "Software", "reid-aug inspect"


def draw_sheet(people: Sequence[PersonImage], doubtful: Collection[str] = ()) -> Image.Image:
    """Draw people as large as cells hold them, skeletons on them and names below, in red frames where names are `doubtful`."""
    across, down = min(COLUMNS, max(1, len(people))), max(1, -(-len(people) // COLUMNS))
    height, width = CELL[0] + CAPTION + GAP, CELL[1] + GAP
    sheet = Image.new("RGB", (across * width + GAP, down * height + GAP), GROUND)
    write = ImageDraw.Draw(sheet)
    for i, person in enumerate(people):
        left, top = GAP + i % COLUMNS * width, GAP + i // COLUMNS * height
        picture = _picture(person)
        if person.name in doubtful:
            write.rectangle((left - 3, top - 3, left + CELL[1] + 2, top + CELL[0] + CAPTION - 1), outline=WARNING, width=2)
        sheet.paste(picture, (left + (CELL[1] - picture.width) // 2, top + (CELL[0] - picture.height) // 2))
        name = person.name.encode("ascii", "replace").decode()  # what PIL's own font surely has
        while write.textlength(name) > CELL[1]:
            name = f"~{name[2:]}"  # names differ at their ends
        write.text((left, top + CELL[0] + 1), name, fill=TEXT)
    return sheet


def _picture(person: PersonImage) -> Image.Image:
    """Picture an image with its skeleton, as large as a cell holds it."""
    pixels = Image.fromarray(images.read(person.path))
    scale = min(CELL[0] / pixels.height, CELL[1] / pixels.width)
    size = max(1, round(pixels.height * scale)), max(1, round(pixels.width * scale))
    picture = pixels.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return picture if person.pose is None else pose_picture(rescale(person.pose, size), picture)


def refuse_foreign(path: str | os.PathLike[str]) -> None:
    """Raise ValueError unless `path` is a .png that is new or was written by `write_sheet`."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"a sheet is a .png file, got {os.fspath(path)!r}")
    if not os.path.lexists(path):
        return
    try:
        with Image.open(path) as image:
            ours = getattr(image, "text", {}).get(_KEY) == _OURS
    except Exception:  # whatever PIL says of it, it is no sheet
        ours = False
    if not ours or path.is_symlink():
        raise FileExistsError(f"{path} is there and no sheet of reid-aug inspect; name another file with --sheet FILE")


def write_sheet(path: str | os.PathLike[str], sheet: Image.Image) -> None:
    """Write a sheet as a PNG that says whose it is, atomically; FileExistsError where anything else is."""
    refuse_foreign(path)
    about, buffer = PngInfo(), io.BytesIO()
    about.add_text(_KEY, _OURS)
    sheet.save(buffer, "PNG", pnginfo=about)
    images.atomic_write_bytes(path, buffer.getvalue())
