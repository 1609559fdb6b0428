"""Pictures of what a finished benchmark's generator draws of rendered people: python benchmarks/pictures.py RUN [--out FOLDER].

RUN is a benchmark's folder below runs/. Rows of `drawn.png`, people the generator never saw: source, target, what is drawn, the true image
of the source's person in the target's pose and place. Rows of `recombined.png`, training images: a person, another, and the first with the
other's legs.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

import generators
from reid_aug import Augmenter, PersonImage, PoseBank, images
from reid_aug.data.loading import DataConfig, load_people
from reid_aug.rendered import RenderedSet, read_rendered
from reid_aug.synthesis.manifest import SyntheticRow

COLUMNS, SCALE, GAP = 14, 2, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished benchmark of rendered people")
    parser.add_argument("--generator", default="warpblend", help="which of its generators")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the pictures")
    arguments = parser.parse_args()
    checkpoint, *others = sorted(arguments.run.glob(f"generators/{arguments.generator}-*/last.safetensors")) or [None]
    if checkpoint is None or others:
        parser.error(f"{arguments.run} holds {1 + len(others) if checkpoint else 'no'} trained {arguments.generator}: one is wanted")
    rendered, model = read_rendered(arguments.run / "data"), generators.load(checkpoint)
    people = load_people(DataConfig(root=str(rendered.root)), test_poses=True)
    for name, rows in (("drawn", _drawn(model, rendered, people)), ("recombined", _recombined(model, people))):
        path = arguments.out / f"rendered-{name}.png"
        with generators.replacing(path) as temporary:
            _sheet(rows).save(temporary, format="PNG")
        print(path)


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


def _spread(rows: list[SyntheticRow]) -> list[SyntheticRow]:
    """Pick rows that lie evenly over all of them."""
    return [rows[i] for i in np.linspace(0, len(rows) - 1, COLUMNS).round().astype(int)]


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


if __name__ == "__main__":
    main()
