"""`reid-aug train distilled`: it learns, missing joints too, goes on where it stopped, and is what `reid-aug poses` takes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from reid_aug import cli, config, images
from reid_aug.data.estimators import distilling, load_estimator
from reid_aug.data.estimators.crowds import Crops, RoughConfig
from reid_aug.data.estimators.distilled import PACKAGED, Distilled
from reid_aug.data.estimators.distilling import CHECKPOINT, WEIGHTS, DistillingConfig, distil, place_loss, place_targets
from reid_aug.data.loading import DataConfig, load_people
from reid_aug.rendered import RenderedConfig, RenderedSet, write_rendered
from reid_aug.rendered.figures import render_figures
from reid_aug.synthesis.train_estimator import EstimatorTrainConfig, is_estimators

SIZE = (64, 32)
GENTLE = {
    "scale": [0.95, 1.05], "stretch": [0.95, 1.05], "cut": 0.0, "shift": 0.02, "turn_deg": 0.0, "behind": 0.0, "in_front": 0.0,
    "nobody": 0.0, "objects": 0.0, "light": 0.0, "least_height_px": 64, "noise": 0.0, "least_quality": 95,
}  # fmt: skip
TINY = [
    "estimator.size=[64,32]", "estimator.width=8", "rendered.count=12", "batch_size=4", "steps=4", "save_every_steps=2", "accelerator=cpu",
]  # fmt: skip


def spots() -> Crops:
    """Sixteen images: a red spot that is the nose, and on every second one a green spot, the neck, which else is missing."""
    rng = np.random.default_rng(0)
    pixels = torch.full((16, 3, *SIZE), 30, dtype=torch.uint8)
    xy, seen = torch.zeros(16, 18, 2), torch.zeros(16, 18, dtype=torch.bool)
    for i in range(16):
        for joint, channel in ((0, 0), (1, 1)):
            if joint == 1 and i % 2:
                continue
            x, y = int(rng.integers(5, 27)), int(rng.integers(6, 58))
            pixels[i, channel, y - 3 : y + 4, x - 3 : x + 4] = 250
            xy[i, joint], seen[i, joint] = torch.tensor([x, y]).float(), True
    return Crops(pixels, xy, seen)


class TestLearning:
    def test_places_are_learnt_and_so_is_that_a_joint_is_missing(self, tmp_path: Path) -> None:
        crops = spots()
        settings = DistillingConfig(steps=100, batch_size=8, rate=1e-2, warm_up_steps=5, rough=RoughConfig(**GENTLE), accelerator="cpu")
        trained = distil(crops, tmp_path, settings, {"size": SIZE, "width": 16})
        assert trained.step == 100 and not trained.stopped
        found = Distilled(trained.checkpoint).estimate(crops.pixels)
        assert torch.equal(found.pose.visible, crops.seen)
        assert (found.pose.xy - crops.xy)[crops.seen].norm(dim=-1).mean() < 1.5
        assert found.scores[crops.seen].min() > 0.5 and found.scores[~crops.seen].max() < 0.2

    def test_targets_are_gaussians_or_nowhere(self) -> None:
        xy, seen = torch.tensor([[[5.5, 13.5], [0.0, 0.0]]]), torch.tensor([[True, False]])
        there, nowhere = place_targets(xy, seen, SIZE, 3.0)[0]
        maps = there[:-1].view(16, 8)
        # Cell (3, 1) has its middle at x 5.5, y 13.5; a cell aside is 4 px away: e^(-16 / 18).
        assert maps.argmax() == 3 * 8 + 1
        assert maps[3, 2] / maps[3, 1] == pytest.approx(math.exp(-8 / 9), rel=1e-5)
        assert maps[4, 2] / maps[3, 1] == pytest.approx(math.exp(-16 / 9), rel=1e-5)
        assert there.sum() == pytest.approx(1, abs=1e-6) and there[-1] == 0
        assert nowhere[-1] == 1 and nowhere[:-1].sum() == 0

    def test_the_loss_is_torchs_cross_entropy(self) -> None:
        logits = torch.randn(3, 18, 129, generator=torch.Generator().manual_seed(0))
        targets = torch.rand(3, 18, 129, generator=torch.Generator().manual_seed(1)).softmax(-1)
        expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(0, 1))
        torch.testing.assert_close(place_loss(logits, targets), expected)


class TestResume:
    def test_a_run_that_stopped_ends_as_one_that_did_not(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        figures = render_figures(8, SIZE, 0)
        xy = torch.from_numpy(figures.joints)
        crops = Crops(torch.from_numpy(figures.rgba), xy, torch.ones(xy.shape[:2], dtype=torch.bool))
        settings = DistillingConfig(steps=6, batch_size=4, save_every_steps=2, accelerator="cpu")
        options = {"size": SIZE, "width": 8}
        distil(crops, tmp_path / "whole", settings, options)
        place = distilling.place_loss
        calls = []

        def fails(*inputs: torch.Tensor) -> torch.Tensor:
            calls.append(1)
            if len(calls) > 5:
                raise KeyboardInterrupt
            return place(*inputs)

        monkeypatch.setattr(distilling, "place_loss", fails)
        with pytest.raises(KeyboardInterrupt):
            distil(crops, tmp_path / "parts", settings, options)
        monkeypatch.undo()
        assert not (tmp_path / "parts" / WEIGHTS).exists()
        distil(crops, tmp_path / "parts", settings, options)
        for name in (CHECKPOINT, WEIGHTS):
            whole, parts = (load_file(tmp_path / run / name) for run in ("whole", "parts"))
            assert whole.keys() == parts.keys() and all(torch.equal(whole[key], parts[key]) for key in whole)

    def test_a_loss_that_is_not_finite_names_its_step(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(distilling, "place_loss", lambda logits, targets: logits.sum() * torch.nan)
        settings = DistillingConfig(steps=2, batch_size=2, accelerator="cpu")
        with pytest.raises(FloatingPointError, match="'place' is nan at step 0"):
            distil(spots(), tmp_path, settings, {"size": SIZE, "width": 8})


class TestCommand:
    def test_it_trains_by_name_resumes_and_is_used(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert cli.main(["train", "distilled", *TINY, "out=run"]) == 0
        assert "trained step 4: run/last.safetensors" in capsys.readouterr().out
        assert cli.main(["train", "distilled", *TINY, "out=run"]) == 0  # done already
        assert cli.main(["train", "distilled", *TINY, "out=run", "rate=1e-3"]) == 2
        assert "was trained with rate 0.002, this run asks for 0.001" in capsys.readouterr().err
        pictures = [Image.fromarray(np.random.default_rng(i).integers(0, 255, (40, 20, 3), dtype=np.uint8)) for i in range(2)]
        Path("in").mkdir()
        for i, picture in enumerate(pictures):
            picture.save(f"in/{i}.png")
        for file in (CHECKPOINT, WEIGHTS):
            # After four steps it finds nobody, in noise least of all, and says so.
            assert cli.main(["poses", "in", "--out", f"{file}.csv", "--estimator", f"run/{file}", "--device", "cpu"]) == 1
            out = capsys.readouterr().out
            assert "2 images" in out and "doubt: no image shows both shoulders and hips" in out

    def test_anybodys_keypoints_are_learnt_from(self, rendered: RenderedSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        data = [f"data.root={rendered.root}", f"out={tmp_path / 'run'}"]
        assert cli.main(["train", "distilled", *TINY, *data]) == 0
        estimator = load_estimator(str(tmp_path / "run" / CHECKPOINT), "cpu")
        pictures = torch.from_numpy(np.stack([images.read(p) for p in sorted((rendered.root / "query").glob("*.jpg"))[:3]]))
        assert estimator.estimate(pictures.permute(0, 3, 1, 2)).pose.size == rendered.config.size

    @pytest.mark.parametrize(("settings", "why"), [
        (["estimator.width=30"], "width is a multiple of 4, from 4 on, got 30"),
        (["estimator.size=[100,64]"], "multiples of 16 from 32 on, got (100, 64)"),
        (["estimator.name=openpose"], "estimator.name"),
        (["estimator.depth=3"], "unknown key 'estimator.depth'"),
        (["rough.cut=2"], "rough.cut"),
        (["rough.scale=[2,1]"], "from low to high, both above 0, got [2.0, 1.0]"),
        (["stepz=3"], "unknown key 'stepz'; there are"),
        (["data.root=nowhere"], "nowhere"),
        (["precision=16-mixed"], "precision: input should be '32-true' or 'bf16-mixed', got '16-mixed'"),
        (["accelerator=abacus"], "accelerator='abacus'"),
    ])  # fmt: skip
    def test_what_is_wrong_is_said_in_a_line(
        self, settings: list[str], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(["train", "distilled", *TINY, f"out={tmp_path / 'run'}", *settings]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("reid-aug: ") and why in error

    def test_a_generators_settings_are_not_an_estimators(self, tmp_path: Path) -> None:
        assert is_estimators(config.shipped("poses/distilled.yaml")) and is_estimators(None, ["estimator.width=8"])
        assert not is_estimators(config.shipped("generators/pg2.yaml"), ["out=estimator"])

    def test_the_shipped_file_spells_every_option_out(self) -> None:
        values = config.read_yaml(config.shipped("poses/distilled.yaml"))
        EstimatorTrainConfig.model_validate(values)
        rest = {"data", "accelerator"}  # of the user's machine
        assert set(values) == set(EstimatorTrainConfig.model_fields) - rest
        assert set(values["rough"]) == set(RoughConfig.model_fields)


class TestFigures:
    def test_the_same_seed_gives_the_same_figures_whole_in_their_images(self) -> None:
        first, again, other = (render_figures(count, SIZE, seed) for count, seed in ((5, 1), (6, 1), (5, 2)))
        assert np.array_equal(first.rgba, again.rgba[:5]) and not np.array_equal(first.rgba, other.rgba)
        alpha = first.rgba[:, 3].astype(int)
        assert (first.rgba[:, :3] <= alpha[:, None] + 1).all()  # colours times alpha
        assert (alpha.max((1, 2)) == 255).all()
        assert ((first.joints > -0.5) & (first.joints < np.array([SIZE[1], SIZE[0]]) - 0.5)).all()
        hips = first.joints[:, [8, 11]].mean(1).round().astype(int)
        assert all(alpha[i, y, x] == 255 for i, (x, y) in enumerate(hips))


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> RenderedSet:
    """Rendered people of the data set's own kind, at the size that the packaged network sees."""
    settings = RenderedConfig(train_identities=6, test_identities=2, train_images=4, seed=7)
    return write_rendered(tmp_path_factory.mktemp("people") / "set", settings)


class TestPackaged:
    def test_it_is_small_and_finds_rendered_peoples_joints(self, people: RenderedSet) -> None:
        assert PACKAGED.stat().st_size < 5_000_000
        posed = [p for p in load_people(DataConfig(root=str(people.root))) if p.split == "train" and p.pose is not None]
        pictures = torch.stack([torch.from_numpy(images.read(p.path)).permute(2, 0, 1) for p in posed])
        found = load_estimator("distilled", "cpu").estimate(pictures)
        truth = torch.stack([p.pose.xy for p in posed if p.pose is not None])
        seen = torch.stack([p.pose.visible for p in posed if p.pose is not None])
        near = ((found.pose.xy - truth).norm(dim=-1) < 12.8) & found.pose.visible
        assert near[seen].float().mean() > 0.8 and found.pose.visible[seen].float().mean() > 0.85
        # Nobody there, nobody found.
        assert load_estimator("distilled", "cpu").estimate(torch.full((1, 3, 128, 64), 127, dtype=torch.uint8)).pose.visible.sum() < 9

    def test_poses_end_to_end(self, people: RenderedSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "in").mkdir()
        names = sorted(path.name for path in (people.root / "bounding_box_train").glob("*.jpg"))[:4]
        for name in names:
            (tmp_path / "in" / name).write_bytes((people.root / "bounding_box_train" / name).read_bytes())
        out = tmp_path / "keypoints.csv"
        assert cli.main(["poses", str(tmp_path / "in"), "--out", str(out), "--estimator", "distilled", "--device", "cpu"]) == 0
        assert "4 images" in capsys.readouterr().out
        assert [line.split(":")[0] for line in out.read_text().splitlines()[1:]] == names
