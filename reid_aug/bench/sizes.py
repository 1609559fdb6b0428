"""The sizes (H, W) of a benchmark's images: each generator renders at its own, and what is compared is compared at one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from generators import Generator, create
from reid_aug.bench.arms import origin_and_variants
from reid_aug.bench.config import BenchConfig
from reid_aug.rendered import RenderedConfig


class Sizes(NamedTuple):
    """`home`, at which target poses are drawn and image quality is measured, and each generator's own."""

    home: tuple[int, int]
    generators: dict[str, tuple[int, int]]

    def of(self, origin: str) -> tuple[int, int]:
        """Give the size at which an origin's images are made: a generator's own, home for the oracle and `copies`."""
        return self.generators.get(origin, self.home)

    @property
    def differ(self) -> bool:
        """Tell whether some generator renders at another size than home."""
        return any(size != self.home for size in self.generators.values())


def sizes_of(config: BenchConfig) -> Sizes:
    """Tell the sizes of the generators that some arm trains on, and home: that of rendered people, else the first arm's generator's.

    So whoever is added behind changes nothing for those who are there. Where no arm has a generator, home is the first baseline's.
    """
    own = {name: size_of(outline(config, name)) for name in config.generators_used}
    if config.rendered is not None:
        return Sizes(_pair(RenderedConfig(**config.rendered).size), own)
    origins = (origin_and_variants(arm)[0] for arm in config.arms)
    first = next((name for name in (*origins, *config.generators) if name in config.generators), None)
    if first is None:
        return Sizes(next(iter(config.baselines_by_name.values())).size, own)
    return Sizes(own[first] if first in own else size_of(outline(config, first)), own)


def outline(config: BenchConfig, name: str) -> Generator:
    """Make a generator without weights: a paper's size is its constructor's default, and what it takes is decided there, too."""
    generator = config.generators[name].generator
    with torch.device("meta"):
        return create(generator.name, **generator.options)


def size_of(model: Generator) -> tuple[int, int]:
    """Give the size that a generator renders."""
    return _pair(model.size)


def _pair(size: tuple[int, int]) -> tuple[int, int]:
    return int(size[0]), int(size[1])


def notes_of_sizes(config: BenchConfig) -> Iterator[str]:
    """Yield what a report says where generators render at different sizes; nothing where all render at one."""
    sizes = sizes_of(config)
    if not sizes.differ:
        return
    alike: dict[tuple[int, int], list[str]] = {}
    for name, size in sizes.generators.items():
        alike.setdefault(size, []).append(f"`{name}`")
    at = "; ".join(f"{', '.join(names)} at {_shown(size)}" for size, names in alike.items())
    yield f"Generators render at their own sizes: {at}."
    yield (
        f"Target poses are drawn at {_shown(sizes.home)} for all of them, and sources and scenes are read at each generator's size. "
        "Images on disk have it, too, and are resized once, as photographs are (bilinear, antialiased), to that of the baseline; online "
        "images go from the baseline's size to the generator's and back. "
        f"Image quality is measured, and sample sheets are shown, at {_shown(sizes.home)}: images of other sizes are resized to it once, "
        "by the same filter."
    )


def _shown(size: tuple[int, int]) -> str:
    return f"{size[0]} × {size[1]}"
