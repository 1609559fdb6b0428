"""What decides what: digests of a benchmark's scores, generators and baselines, and the places on disk that they name.

A digest changes with whatever decides a thing's content, so what lies under it need not be made again.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from generators import decisive, read_header, tensors_digest
from reid_aug import config as configuration
from reid_aug.baselines.initial import initial_weights
from reid_aug.bench.arms import COPIES, NONE, ORACLE, origin_and_variants
from reid_aug.bench.config import BASELINE, BenchConfig
from reid_aug.bench.data import content_digest
from reid_aug.bench.sizes import Sizes, sizes_of
from reid_aug.bench.targets import Targets, targets_of
from reid_aug.data.pairs import list_digest, read_pairs
from reid_aug.synthesis.bank_named import named_bank
from reid_aug.synthesis.target_poses import WHOLE

# Keys of generators that came later count only where they are set, so that digests of earlier runs stay what they were.
LATER_KEYS = ("jitter", "min_gap", "teacher", "any_pose", "pairs")


class Fingerprints:
    """The digests and places of one benchmark; `share` is the part of the training images learnt from, None for all.

    With `trials` they are those of what its tuning's trials make, who learn from a part of the training identities.
    ValueError when two trainings are one under two names: lines of results could not be told apart.
    """

    def __init__(self, config: BenchConfig, share: float | None = None, *, trials: bool = False) -> None:
        self.config = config
        # Arms, seeds and baselines are left out: adding one to a finished benchmark runs that one alone.
        common = {"rendered", "data", "test", "test_rendered", "per_image", "synthesis_seed", "rerank"}
        self.common = config.model_dump(mode="json", include=common)
        for key in ("data", "test"):
            if (data := getattr(config, key)) is not None:
                self.common[f"contents of {key}"] = content_digest(data, train_poses=key == "data")
        if config.bank is not None:
            bank = named_bank(config.bank)
            self.common["bank"] = [bank.digest, "none" if bank.paths is None else bank.scenes_digest]
        self.root = Path(config.out) / f"{config.name}-{configuration.digest(self.common)}"
        self.folder = self.root if share is None else self.root / f"share-{share:g}"
        self.common["share"] = share
        self._targets: dict[str, Targets | None] = {}  # by arm
        if share is not None:  # which images are in a part depends on it, for every arm
            self.common["pairs"] = config.wants_pairs
        if trials:
            assert config.tuning is not None
            self.folder /= "tuning"
            self.common["held out"] = config.tuning.held_out
        self._refuse_twins()

    def _refuse_twins(self) -> None:
        first: dict[str, tuple[str, str]] = {}
        for baseline in self.config.baselines_by_name:
            for arm in self.config.arms:
                twin, twin_arm = first.setdefault(self.digest(baseline, arm), (baseline, arm))
                if (twin, twin_arm) != (baseline, arm):
                    what, names = ("arms", (twin_arm, arm)) if twin_arm != arm else ("baselines", (twin, baseline))
                    raise ValueError(f"{what} {names[0]!r} and {names[1]!r} are the same: leave one of them out")

    def digest(self, baseline: str, arm: str, *, tuned: bool = True) -> str:
        """Digest what decides an arm's scores under a baseline, of a benchmark that tunes with what is tried, unless not `tuned`."""
        origin, _ = origin_and_variants(arm)
        variant = self.config.variant(arm)
        judged = variant.gate is not None and variant.gate.identity is not None
        return configuration.digest({
            **self.common, "source": origin, "generator": self._generator(origin),
            "variant": {**variant.model_dump(mode="json", exclude_defaults=True, exclude={"draw"}), **self._unusual(arm)},
            "judge": self.baseline(self.judge) if judged else None, "baseline": self.baseline(baseline),
            **(self._tuning(baseline, arm) if tuned else {}), **(self.search if judged else {}),
        })  # fmt: skip

    def _tuning(self, baseline: str, arm: str) -> dict[str, Any]:
        """List what decides which setting is chosen; empty where nothing is tuned."""
        if self.config.tuning is None:
            return {}
        config, variant = self.config.baselines_by_name[baseline], self.config.variant(arm)
        settings = self.config.tuning.settings(origin_and_variants(arm)[0], variant, config)
        tried = [setting.values(config, variant) for setting in settings]
        return {"tuning": {"tried": tried, **self.config.tuning.model_dump(mode="json", include={"held_out", "seeds"})}}

    @property
    def search(self) -> dict[str, str]:
        """Say what searches for neighbours where it may round otherwise than torch, which it was before there was a choice."""
        return {"backend": self.config.backend} if self.config.backend.startswith("faiss") else {}

    def targets(self, arm: str) -> Targets | None:
        """Say what an arm's synthetic images are to show; None where it has none."""
        if arm not in self._targets:
            self._targets[arm] = targets_of(self.config, arm)
        return self._targets[arm]

    def _unusual(self, arm: str) -> dict[str, Any]:
        """List what is unlike `draw: whole` in the sources' places, as all arms were once; that generators take scenes is their own."""
        shown = self.targets(arm) or Targets()
        origin = origin_and_variants(arm)[0]
        in_scenes = shown.scene and origin == ORACLE
        return {
            **({} if shown.draw == Targets().draw else {"draw": shown.draw}), **({"scene": True} if in_scenes else {}),
            **({"drawn at": self.sizes.home} if self._drawn_elsewhere(origin, shown) else {}),
        }  # fmt: skip

    def _drawn_elsewhere(self, origin: str, shown: Targets) -> bool:
        """Tell whether an arm's target poses are chosen by looks at another size than benchmarks of that generator alone have it."""
        if shown.draw == WHOLE:
            return False
        if origin == COPIES:  # cut photographs are of that size themselves
            return self.config.rendered is None and self.sizes.differ
        return self.sizes.of(origin) != self.sizes.home

    @cached_property
    def sizes(self) -> Sizes:
        """Tell at which sizes generators render, and at which poses are drawn and image quality is measured."""
        return sizes_of(self.config)

    def quality_place(self, name: str) -> Path:
        """Name the file of a generator's image quality."""
        elsewhere = {"measured at": self.sizes.home} if self.sizes.of(name) != self.sizes.home else {}
        return self.place("quality", name, judge=self.baseline(self.judge), **elsewhere).with_suffix(".json")

    def images_place(self, arm: str) -> Path:
        """Name the folder of an arm's images; arms that differ in what enters training alone have one together."""
        shown = self.targets(arm)
        assert shown is not None
        return self.place("images", origin_and_variants(arm)[0], **{"draw": shown.draw, **self._unusual(arm)})

    def place(self, kind: str, origin: str, **more: Any) -> Path:
        """Name the place of what is made for an origin of images: its generator, its images, their quality (`kind`)."""
        values = {**self.common, "source": origin, "generator": self._generator(origin), **more}
        return self.folder / kind / f"{origin}-{configuration.digest(values)}"

    def _generator(self, origin: str) -> dict[str, Any] | None:
        """List what decides a generator; None where images come from none."""
        arm = self.config.generators.get(origin)
        if arm is None:
            return None
        values = arm.model_dump(mode="json", exclude={"sample_every_steps", "save_every_steps"})
        defaults = {key for key in LATER_KEYS if getattr(arm, key) == type(arm).model_fields[key].default}
        values = {key: value for key, value in values.items() if key not in defaults}
        name, options = arm.generator.name, {key: value for key, value in values["generator"].items() if key != "name"}
        values["generator"] = {"name": name, **decisive(name, options)}
        if arm.pairs is not None:  # the list, wherever it lies
            values["pairs"] = list_digest(read_pairs(arm.pairs))
        if arm.checkpoint is not None:
            values["checkpoint"] = read_header(arm.checkpoint)["digest"]
        return {**values, "judge": self.baseline(self.judge) if arm.perceptual.weights == BASELINE else None}

    def baseline(self, name: str) -> dict[str, Any]:
        """List what decides how a baseline trains, the weights it starts from included."""
        config = self.config.baselines_by_name[name]
        return {**config.values("recipe", "download", "compile", "cuda_graphs", "weights"), "start": self.starts[name][1]}

    @cached_property
    def starts(self) -> dict[str, tuple[str, str | None]]:
        """Name the weights that each baseline starts from, and digest them."""
        starts = {name: initial_weights(config) for name, config in self.config.baselines_by_name.items()}
        return {name: (start.name, tensors_digest(start.state) if start.state else None) for name, start in starts.items()}

    @property
    def judge(self) -> str:
        """Name the judge: the first baseline, whose network of real images alone says who is on a synthetic one."""
        return next(iter(self.config.baselines_by_name))

    @property
    def judge_place(self) -> Path:
        """Name the file that the judge is kept in."""
        name = f"{NONE}-{self.digest(self.judge, NONE, tuned=False)}.{self.config.synthesis_seed}.safetensors"
        return self.folder / "baselines" / name
