"""Pictures of what a finished benchmark's generators draw of rendered people.

    python benchmarks/pictures.py RUN [--generator NAME] [--out FOLDER]
    python benchmarks/pictures.py RUN --compare NAME … [--picture NAME]

RUN is a benchmark's folder below runs/. Rows of `rendered-drawn.png`, people the generator never saw: source, target, what is drawn, the
true image of the source's person in the target's pose and place. Rows of `rendered-recombined.png`, training images: a person, another, and
the first with the other's legs. `--compare` makes one picture of several generators instead, `rendered-five.jpg`: left people that no
generator saw, right training images, on targets near in view; a generator that takes no scene draws the place as it can.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import generators
from reid_aug import Augmenter, PersonImage, PoseBank, images
from reid_aug.data.loading import DataConfig, load_people
from reid_aug.rendered import RenderedSet, read_rendered
from reid_aug.synthesis.manifest import SyntheticRow

COLUMNS, SCALE, GAP = 14, 2, 2
LABEL_PX = 76  # width of the column that says what each row shows
HEX = "[0-9a-f]"  # of the digest that a folder's name ends with, twelve of them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished benchmark of rendered people")
    parser.add_argument("--generator", default="warpblend", help="which of its generators")
    parser.add_argument("--compare", nargs="+", metavar="NAME", help="make one picture of these generators instead")
    parser.add_argument("--picture", default="five", help="what that picture is called, after rendered-")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the pictures")
    arguments = parser.parse_args()
    try:
        models = [_trained(arguments.run, name) for name in arguments.compare or [arguments.generator]]
    except FileNotFoundError as error:
        parser.error(str(error))
    rendered, model = read_rendered(arguments.run / "data"), models[0]
    people = load_people(DataConfig(root=str(rendered.root)), test_poses=True)
    if arguments.compare:
        rows = _compared(dict(zip(arguments.compare, models, strict=True)), rendered, people)
        path = arguments.out / f"rendered-{arguments.picture}.jpg"
        with generators.replacing(path) as temporary:
            _labelled(_sheet(list(rows.values())), list(rows)).save(temporary, format="JPEG", quality=85)
        print(path)
        return
    for name, rows in (("drawn", _drawn(model, rendered, people)), ("recombined", _recombined(model, people))):
        path = arguments.out / f"rendered-{name}.png"
        with generators.replacing(path) as temporary:
            _sheet(rows).save(temporary, format="PNG")
        print(path)


def _trained(run: Path, name: str) -> generators.Generator:
    """Load a run's only trained generator of this name; FileNotFoundError where there is none, or several."""
    found = sorted(run.glob(f"generators/{name}-{HEX * 12}/last.safetensors"))
    if len(found) != 1:
        raise FileNotFoundError(f"{run} holds {len(found) or 'no'} trained {name}: one is wanted")
    return generators.load(found[0])


def _compared(
    models: dict[str, generators.Generator], rendered: RenderedSet, people: list[PersonImage]
) -> dict[str, list[np.ndarray]]:  # fmt: skip
    """Draw the same pairs by every generator, half of them of gallery people, half of training images: rows by what they show."""
    rows: dict[str, list[np.ndarray]] = {name: [] for name in ("source", "target", *models, "truth")}
    for split in ("gallery", "train"):
        some = [replace(p, split="train") for p in people if p.split == split]
        at, bank = {p.name: p for p in some}, PoseBank.collect(some, next(iter(models.values())).size)
        augmenters = {name: Augmenter(model, bank, 1, seed=1, draw="compatible") for name, model in models.items()}
        planned = _spread(next(iter(augmenters.values())).plan(some), COLUMNS // 2)
        for name, augmenter in augmenters.items():
            rows[name] += [image for _, image in augmenter.render(planned, some)]
            size = augmenter.generator.size
        rows["source"] += [images.read(at[row.source].path, size) for row in planned]
        rows["target"] += [images.read(at[row.target].path, size) for row in planned]
        rows["truth"] += [rendered.true_image(row.source, row.target, scene=True).image for row in planned]
    return rows


def _drawn(model: generators.Generator, rendered: RenderedSet, people: list[PersonImage]) -> list[list[np.ndarray]]:
    """Draw gallery people in each other's poses and places; they are augmented as if they were training images."""
    gallery = [replace(p, split="train") for p in people if p.split == "gallery"]
    augmenter = Augmenter(model, PoseBank.collect(gallery, model.size), 1, seed=1)
    rows = _spread(augmenter.plan(gallery))
    at = {p.name: p for p in gallery}
    drawn = [image for _, image in augmenter.render(rows, gallery)]
    truth = [rendered.true_image(row.source, row.target, scene=augmenter.in_scenes).image for row in rows]
    return [[_photograph(at[row.source], model) for row in rows], [_photograph(at[row.target], model) for row in rows], drawn, truth]


def _recombined(model: generators.Generator, people: list[PersonImage]) -> list[list[np.ndarray]]:
    train = [p for p in people if p.split == "train"]
    augmenter = Augmenter(model, PoseBank.collect(train, model.size), 1, draw="recombined")
    rows, at = _spread(augmenter.plan(train)), {p.name: p for p in train}
    made = [image for _, image in augmenter.render(rows, train)]
    return [[_photograph(at[row.target], model) for row in rows], [_photograph(at[row.source], model) for row in rows], made]


def _spread(rows: list[SyntheticRow], count: int = COLUMNS) -> list[SyntheticRow]:
    """Pick rows that lie evenly over all of them."""
    return [rows[i] for i in np.linspace(0, len(rows) - 1, count).round().astype(int)]


def _photograph(person: PersonImage, model: generators.Generator) -> np.ndarray:
    return images.read(person.path, model.size)


def _sheet(rows: list[list[np.ndarray]]) -> Image.Image:
    """Lay rows of images, uint8 (H, W, 3), on a dark ground, enlarged."""
    height, width = rows[0][0].shape[:2]
    sheet = np.full((len(rows) * (height + GAP) + GAP, COLUMNS * (width + GAP) + GAP, 3), 32, dtype=np.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            y, x = GAP + i * (height + GAP), GAP + j * (width + GAP)
            sheet[y : y + height, x : x + width] = image
    picture = Image.fromarray(sheet)
    return picture.resize((picture.width * SCALE, picture.height * SCALE), Image.Resampling.NEAREST)


def _labelled(sheet: Image.Image, names: list[str]) -> Image.Image:
    """Put what each row shows left of it, in a column of its own."""
    wide = Image.new("RGB", (sheet.width + LABEL_PX, sheet.height), (32, 32, 32))
    wide.paste(sheet, (LABEL_PX, 0))
    pen = ImageDraw.Draw(wide)
    for i, name in enumerate(names):
        pen.text((6, (i + 0.5) * sheet.height / len(names) - 6), name, fill=(230, 230, 230))
    return wide


if __name__ == "__main__":
    main()
