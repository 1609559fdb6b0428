"""Image quality as a whole: one pass, named definitions, missing weights said, broken input refused."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor, nn

import generators
from generators.checkpoints import read_header, write_tensors
from generators.pose import Pose, coco_17, openpose_18
from reid_aug import images
from reid_aug.baselines.network import FORMAT, build, load_reid, save_baseline
from reid_aug.baselines.recipes import BaselineConfig
from reid_aug.cli import main
from reid_aug.data.keypoints import write_keypoints
from reid_aug.data.pairs import list_digest, pairs_from_keypoints, unpaired, write_pairs
from reid_aug.data.people import PersonImage
from reid_aug.quality import run as quality_run
from reid_aug.quality.held_out import content_digest, drawn, pairs_to_measure, protocol_mask, reencode
from reid_aug.quality.identity import identity_distance
from reid_aug.quality.measure import Quality, Surroundings, measure, published, table
from reid_aug.quality.metrics import Batch, Value
from reid_aug.quality.networks import Networks
from reid_aug.quality.pckh import pckh_counts
from reid_aug.quality.protocols import MaskConfig, PairsConfig, QualityConfig, QualityProtocol
from reid_aug.quality.ssim import regional_psnr, regional_ssim, ssim
from reid_aug.quality.truth import LIMBS, clothes, colour_error
from reid_aug.rendered.dataset import RenderedSet
from reid_aug.synthesis.augmenter import Augmenter
from reid_aug.synthesis.bank import PoseBank
from reid_aug.synthesis.dump import dump

ROOT = Path(__file__).parents[3]
SIZE = (32, 16)


class Thumbnails:
    """Stands in for Inception: eight numbers of an image's colours, and logits made of them."""

    name = "thumbnails"

    def __call__(self, pixels: Tensor, resize: str) -> tuple[Tensor, Tensor]:
        small = nn.functional.adaptive_avg_pool2d(pixels.float(), (2, 2)).flatten(1)[:, :8] / 255
        return small, 4 * small


def brightness(pixels: Tensor) -> Tensor:
    """Stands in for a detector."""
    return pixels.float().mean((1, 2, 3)) / 255


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Stands in for LPIPS."""
    return (a.float() - b.float()).abs().mean((1, 2, 3)) / 255


def middle(pixels: Tensor) -> Pose:
    """Stands in for a pose estimator: everything in the middle."""
    height, width = pixels.shape[-2:]
    at = torch.tensor([width / 2, height / 2]).expand(len(pixels), 17, 2).clone()
    return Pose(at, torch.ones(len(pixels), 17, dtype=torch.bool), coco_17, (height, width))


@pytest.fixture
def networks() -> Networks:
    return Networks(download=False, device="cpu", inception=Thumbnails(), lpips=distance, detector=brightness, estimator=middle)


@pytest.fixture(scope="module")
def reid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = BaselineConfig(model="osnet_x0_25", size=SIZE, steps=2, identities=2, instances=2, crop_px=1)
    path = tmp_path_factory.mktemp("reid") / "baseline.safetensors"
    save_baseline(build(config, 6), config, 6, path)
    return path


@pytest.fixture
def around(people: list[PersonImage], networks: Networks, reid: Path, rendered: RenderedSet) -> Surroundings:
    return Surroundings(people, SIZE, networks, reid=load_reid(str(reid)), rendered=rendered)


@pytest.fixture
def batches(checkpoint: Path, people: list[PersonImage]) -> list[Batch]:
    pairs = pairs_to_measure(people, PairsConfig(count=24))
    return list(drawn(generators.load(checkpoint), pairs, MaskConfig(), device=torch.device("cpu"), batch_size=7))


# A network that is fine-tuned for two steps knows nobody; that one is, is what matters here.
EVERYTHING = QualityProtocol.model_validate({"metrics": {name: {} for name in QualityProtocol().metrics} | {"APS": {"steps": 2}}})


def joined(batches: Sequence[Batch]) -> Batch:
    def cat(name: str) -> Tensor:
        return torch.cat([getattr(b, name) for b in batches])

    return Batch(
        cat("generated"), cat("source"), cat("target"), Pose.cat([b.target_pose for b in batches]), cat("mask"),
        [n for b in batches for n in b.names], [p for b in batches for p in b.pids], [c for b in batches for c in b.camids],
        [f for b in batches for f in b.files],
    )  # fmt: skip


def permuted(batch: Batch, order: Tensor) -> Batch:
    def pick(values: Sequence) -> list:
        return [values[i] for i in order.tolist()]

    assert batch.target is not None
    return Batch(
        batch.generated[order], batch.source[order], batch.target[order], batch.target_pose[order], batch.mask[order],
        pick(batch.names), pick(batch.pids), pick(batch.camids), pick(batch.files),
    )  # fmt: skip


class TestMeasure:
    def test_every_metric_has_a_number_and_a_definition(self, batches: list[Batch], around: Surroundings) -> None:
        found = measure(batches, EVERYTHING, around)
        assert not found.missing and found.images == 24
        names = {
            "SSIM", "mask-SSIM", "LPIPS", "mask-LPIPS", "IS", "mask-IS", "FID", "KID", "DS", "PCKh", "identity rank-1", "ID²", "APS",
            "Re-ID Fréchet", "truth PSNR", "truth SSIM", "ΔE upper", "ΔE lower",
        }  # fmt: skip
        assert names <= found.values.keys()
        assert {f"truth PSNR of {limb}" for limb in LIMBS} <= found.values.keys()
        for name, value in found.values.items():
            assert math.isfinite(value.value) and value.how and 0 < value.count <= 24, name
        assert Quality.from_json(json.loads(json.dumps(found.as_json()))) == found

    def test_numbers_are_those_of_the_functions(self, batches: list[Batch], around: Surroundings) -> None:
        found, whole = measure(batches, EVERYTHING, around).values, joined(batches)
        assert whole.target is not None
        assert found["SSIM"].value == pytest.approx(float(ssim(whole.generated, whole.target).mean()), abs=2e-6)
        assert found["mask-SSIM"].value == pytest.approx(float(ssim(whole.generated, whole.target, mask=whole.mask).mean()), abs=2e-6)
        assert found["DS"].value == pytest.approx(float(brightness(whole.generated).mean()))
        masked = distance(whole.generated * whole.mask, whole.target * whole.mask)
        assert found["mask-LPIPS"].value == pytest.approx(float(masked.mean()))

    def test_neither_order_nor_batches_matter(self, batches: list[Batch], around: Surroundings) -> None:
        metrics = {name: metric for name, metric in EVERYTHING.metrics.items() if name != "APS"}  # trains a network
        protocol = EVERYTHING.model_copy(update={"metrics": metrics})
        first = measure(batches, protocol, around)
        whole = joined(batches)
        order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
        second = measure([permuted(whole, part) for part in order.split(10)], protocol, around)
        assert first.values.keys() == second.values.keys()
        for name, value in first.values.items():
            assert second.values[name].value == pytest.approx(value.value, rel=1e-5, abs=1e-7), name

    def test_photographs_themselves_are_perfect(self, batches: list[Batch], around: Surroundings) -> None:
        perfect = [replace(b, generated=b.target, _known={}) for b in batches if b.target is not None]
        found = measure(perfect, EVERYTHING, around).values
        assert [found[name].value for name in ("SSIM", "mask-SSIM")] == pytest.approx([1.0, 1.0])
        assert found["LPIPS"].value == found["mask-LPIPS"].value == 0.0

    def test_the_truth_itself_is_perfect(self, batches: list[Batch], around: Surroundings) -> None:
        found = measure([replace(b, generated=around.truth(b).images, _known={}) for b in batches], EVERYTHING, around).values
        assert found["truth PSNR"].value == pytest.approx(10 * math.log10(255**2 * 12))
        assert found["truth SSIM"].value == pytest.approx(1.0) and found["ΔE upper"].value == found["ΔE lower"].value == 0.0

    def test_real_images_against_themselves(self, people: list[PersonImage], around: Surroundings, batches: list[Batch]) -> None:
        real = [images.read(p.path, SIZE) for p in people if p.split == "train"]
        pixels = torch.from_numpy(np.stack(real)).permute(0, 3, 1, 2)
        pick = torch.arange(len(pixels)) % 24
        batch = replace(permuted(joined(batches), pick), generated=pixels)
        found = measure([batch], EVERYTHING, around).values
        assert found["FID"].value == pytest.approx(0.0, abs=1e-6) and found["Re-ID Fréchet"].value == pytest.approx(0.0, abs=1e-6)

    def test_what_is_missing_is_said_and_the_rest_measured(
        self, batches: list[Batch], people: list[PersonImage], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        around = Surroundings(people, SIZE, Networks(download=False, device="cpu"))
        found = measure(batches, EVERYTHING, around)
        assert found.values.keys() == {"SSIM", "mask-SSIM"}
        for name in ("LPIPS", "mask-LPIPS", "IS", "mask-IS", "FID", "KID", "DS", "PCKh"):
            assert found.missing[name].startswith("weights missing: ") and "https://" in found.missing[name]
            assert str(tmp_path) not in found.missing[name]  # a record says what, not where
        for name in ("identity", "APS", "Re-ID Fréchet"):
            assert "no Re-ID network given" in found.missing[name]
        assert "rendered people only" in found.missing["truth"]
        said = table({"pg2": found})
        assert said.count("not measured") == len(found.missing) and "alexnet" in said

    def test_unpaired_images_have_no_photograph(self, checkpoint: Path, people: list[PersonImage], around: Surroundings) -> None:
        pairs = pairs_to_measure(people, PairsConfig(kind="unpaired", count=12))
        assert all(a.pid != b.pid for a, b in pairs)
        found = measure(drawn(generators.load(checkpoint), pairs, MaskConfig()), EVERYTHING, around)
        assert "no photograph" in found.missing["SSIM"] and {"IS", "FID", "APS", "truth PSNR"} <= found.values.keys()

    def test_a_mask_without_a_body_is_named(self, batches: list[Batch], around: Surroundings) -> None:
        mask = batches[0].mask.clone()
        mask[2] = False
        for metric in ("mask-SSIM", "mask-IS", "mask-LPIPS"):
            protocol = QualityProtocol(metrics={metric: EVERYTHING.metrics[metric]})
            with pytest.raises(ValueError, match=f"the mask of {batches[0].names[2][1]} holds no body"):
                measure([replace(batches[0], mask=mask, _known={})], protocol, around)

    def test_nothing_to_measure(self, around: Surroundings) -> None:
        with pytest.raises(ValueError, match="no generated image"):
            measure([], EVERYTHING, around)


class TestRegions:
    def test_psnr_and_ssim_against_scikit_image(self) -> None:
        rng = torch.Generator().manual_seed(0)
        a, b = (torch.randint(256, (2, 3, 40, 30), generator=rng, dtype=torch.uint8) for _ in range(2))
        region = torch.zeros(2, 2, 40, 30, dtype=torch.bool)
        region[:, 0] = True
        region[:, 1, 10:30, 8:20] = True
        psnr, like = regional_psnr(a, b, region), regional_ssim(a, b, region)
        for i in range(2):
            x, y = (t[i].permute(1, 2, 0).numpy() for t in (a, b))
            assert float(psnr[i, 0]) == pytest.approx(peak_signal_noise_ratio(y, x, data_range=255))
            assert float(psnr[i, 1]) == pytest.approx(peak_signal_noise_ratio(y[10:30, 8:20], x[10:30, 8:20], data_range=255))
            spread = int(x.max()) - int(x.min())
            full = structural_similarity(
                x, y, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=-1, data_range=spread, full=True
            )[1]
            assert float(like[i, 1]) == pytest.approx(full[10:30, 8:20].mean(), abs=1e-9)

    def test_an_empty_region_has_no_number(self) -> None:
        same = torch.zeros(1, 3, 20, 20, dtype=torch.uint8)
        empty = torch.zeros(1, 1, 20, 20, dtype=torch.bool)
        assert regional_psnr(same, same, empty).isnan().all() and regional_ssim(same, same, empty).isnan().all()

    def test_colour_error_is_scikit_images(self) -> None:
        rng = torch.Generator().manual_seed(1)
        a, b = (torch.randint(256, (1, 3, 9, 7), generator=rng, dtype=torch.uint8) for _ in range(2))
        region = torch.zeros(1, 1, 9, 7, dtype=torch.bool)
        region[..., 2:6, 1:5] = True
        means = [rgb2lab(x[0].permute(1, 2, 0).numpy())[2:6, 1:5].reshape(-1, 3).mean(0) for x in (a, b)]
        assert float(colour_error(a, b, region)) == pytest.approx(np.linalg.norm(means[0] - means[1]), abs=0.02)

    def test_clothes_are_torso_and_thighs_without_arms(self) -> None:
        limbs = torch.zeros(1, 10, 1, 4, dtype=torch.bool)
        limbs[0, LIMBS.index("torso"), 0, :2] = True
        limbs[0, LIMBS.index("l_thigh"), 0, 2:] = True
        limbs[0, LIMBS.index("r_forearm"), 0, 1:3] = True
        assert clothes(limbs)[0, :, 0].tolist() == [[True, False, False, False], [False, False, False, True]]

    def test_limbs_are_named_in_the_rendered_sets_order(self, rendered: RenderedSet) -> None:
        truth = rendered.truth(next(iter(rendered.rows)))
        joints = truth.pose
        for name, joint in (("head", "nose"), ("r_shin", "r_ankle"), ("l_shin", "l_ankle")):
            mask = truth.limb_masks[LIMBS.index(name)]
            rows, columns = np.nonzero(mask)
            x, y = joints.xy[openpose_18.index(joint)].tolist()
            others = [np.nonzero(truth.limb_masks[i]) for i, n in enumerate(LIMBS) if n in ("torso",)]
            mine = np.hypot(rows - y, columns - x).min()
            assert mine <= min(np.hypot(r - y, c - x).min() for r, c in others)


class TestPckh:
    def poses(self) -> tuple[Pose, Pose]:
        xy = torch.zeros(1, 18, 2)
        xy[0, :, 0], xy[0, :, 1] = torch.arange(18.0), 10 + torch.arange(18.0)
        head = [openpose_18.index(j) for j in ("nose", "neck")]
        xy[0, head[0]], xy[0, head[1]] = torch.tensor([10.0, 5.0]), torch.tensor([14.0, 15.0])
        seen = torch.ones(1, 18, dtype=torch.bool)
        seen[0, [openpose_18.index(j) for j in ("r_eye", "l_eye", "r_ear", "l_ear", "l_ankle")]] = False
        wanted = Pose(xy * seen[..., None], seen, openpose_18, (64, 32))
        return wanted, wanted

    def test_by_hand(self) -> None:
        wanted, _ = self.poses()  # a head of 4 × 10 pixels: 2 and 5 are the limits, and do not count as within
        xy, seen = wanted.xy.clone(), wanted.visible.clone()
        at = {joint: openpose_18.index(joint) for joint in openpose_18.joints}
        xy[0, at["r_wrist"], 0] += 1.9
        xy[0, at["l_wrist"], 0] += 2.0
        xy[0, at["r_knee"], 1] -= 4.9
        xy[0, at["l_knee"], 1] -= 5.0
        seen[0, at["r_hip"]] = False
        right, joints = pckh_counts(Pose(xy * seen[..., None], seen, openpose_18, (64, 32)), wanted)
        assert joints.tolist() == [13] and right.tolist() == [13 - 3]

    def test_a_head_of_one_joint_leaves_the_image_out(self) -> None:
        wanted, _ = self.poses()
        seen = wanted.visible.clone()
        seen[0, openpose_18.index("neck")] = False
        wanted = Pose(wanted.xy * seen[..., None], seen, openpose_18, (64, 32))
        assert [t.tolist() for t in pckh_counts(wanted, wanted)] == [[0], [0]]

    def test_an_estimator_of_another_skeleton(self) -> None:
        found = middle(torch.zeros(2, 3, 64, 32, dtype=torch.uint8))
        xy = torch.tensor([16.0, 32.0]).expand(2, 18, 2).clone()
        xy[:, 0] -= 3
        right, joints = pckh_counts(found, Pose(xy, torch.ones(2, 18, dtype=torch.bool), openpose_18, (64, 32)))
        assert joints.tolist() == [18, 18] and right.tolist() == [17, 17]  # the nose is 3 px off, half a head 1.5


def test_joints_of_any_estimator_by_a_file(batches: list[Batch], around: Surroundings, tmp_path: Path) -> None:
    whole, path = joined(batches), tmp_path / "found.csv"
    write_keypoints(path, list(whole.files), whole.target_pose)
    protocol = QualityProtocol.model_validate({"metrics": {"PCKh": {"keypoints": str(path)}}})
    found = measure(batches, protocol, around).values["PCKh"]
    assert found.value > 0.9 and "found.csv" in found.how  # the file's whole pixels are within half a head, but for flat heads
    write_keypoints(path, list(whole.files)[1:], whole.target_pose[1:])
    with pytest.raises(ValueError, match=f"no row for the generated image {whole.files[0]}"):
        measure(batches, protocol, around)


def test_a_network_is_given_images_of_the_size_it_was_trained_on(reid: Path, tmp_path: Path) -> None:
    loaded = load_reid(str(reid))
    assert loaded.size == SIZE and tuple(loaded.resized(torch.zeros(2, 3, 64, 32, dtype=torch.uint8)).shape[-2:]) == SIZE
    header = dict(read_header(reid, FORMAT), format=FORMAT)
    del header["config"]
    write_tensors(loaded.network.state_dict(), header, tmp_path / "old.safetensors")
    with pytest.raises(ValueError, match="before checkpoints said what images"):
        load_reid(str(tmp_path / "old.safetensors"))


def test_identity_distance_by_hand() -> None:
    real = torch.tensor([[2.0, 0.0], [0.0, 5.0], [3.0, 0.0]])  # unit: (1, 0), (0, 1) of 7, and (1, 0) of 9
    own = torch.tensor([[4.0, 0.0], [0.0, 1.0]])
    assert identity_distance(own, [7, 9], real, [7, 7, 9]).tolist() == pytest.approx([0.5, 2.0])
    with pytest.raises(ValueError, match="identity 8 has no real image"):
        identity_distance(own, [7, 8], real, [7, 7, 9])


def test_jpeg_is_what_a_file_would_hold(tmp_path: Path) -> None:
    pixels = torch.randint(256, (2, 3, 24, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images.write(pixels[1].permute(1, 2, 0).numpy(), tmp_path / "a.jpg", quality=75)
    assert np.array_equal(reencode(pixels, 75)[1].permute(1, 2, 0).numpy(), images.read(tmp_path / "a.jpg"))


def test_unpaired_groups_do_not_overlap(people: list[PersonImage]) -> None:
    pairs = unpaired(people, 20, seed=3, source_identities=1, target_identities=3)
    sources, targets = {a.pid for a, _ in pairs}, {b.pid for _, b in pairs}
    assert len(sources) == 1 and len(targets) == 3 and not sources & targets and len(set(pairs)) == 20
    assert unpaired(list(reversed(people)), 20, 3, 1, 3) == pairs
    with pytest.raises(ValueError, match="376 source and 375 target identities are wanted; query and gallery have 4"):
        unpaired(people, 20, 0, 376, 375)


class TestProtocols:
    @pytest.mark.parametrize("path", sorted((ROOT / "configs" / "quality").glob("*.yaml")), ids=lambda p: p.stem)
    def test_every_shipped_protocol_loads(self, path: Path) -> None:
        asked, as_shipped = quality_run.load_config(str(path), ["data.root=somewhere", "out=elsewhere"])
        assert asked.name == path.stem and as_shipped and asked.protocol.metrics
        for row in asked.published:
            assert row.source and not {"DS", "PCKh", "APS"} & row.values.keys()  # ours are of other networks

    def test_papers_of_the_field_each_have_one(self) -> None:
        assert {"pg2", "deformable", "vdg", "momi", "gfla"} <= {p.stem for p in (ROOT / "configs" / "quality").glob("*.yaml")}

    def test_published_rows_stand_beside_equal_protocols_on_equal_data_only(self, around: Surroundings) -> None:
        asked, as_shipped = quality_run.load_config(str(ROOT / "configs/quality/vdg.yaml"), [])
        whole = Quality("vdg", 12000, {}, {})
        assert published(asked, around, whole, as_shipped=as_shipped) == ()  # other data
        facts = asked.data_set
        assert facts is not None
        around.facts = facts.model_dump(exclude={"name"})
        rows = published(asked, around, whole, as_shipped=True)
        assert {row.method for row in rows} >= {"PG2", "VDG", "VDG_w"}
        assert published(asked, around, Quality("vdg", 300, {}, {}), as_shipped=True) == ()
        assert published(asked, around, whole, as_shipped=False) == ()
        around.home = "train"
        assert published(asked, around, whole, as_shipped=True) == ()

    @pytest.mark.parametrize(
        ("name", "override", "same"),
        [
            ("vdg", "download=false", True),
            ("vdg", "pairs.count=12000", True),  # as the file has it
            ("vdg", "pairs.count=300", False),
            ("vdg", "pairs.file=mine.csv", False),
            ("vdg", "metrics.IS.splits=5", False),
            ("vdg", "name=mine", False),
            ("patn", "pairs.file=mine.csv", True),  # whose pairs are compared themselves
            ("patn", "jpeg=90", False),
        ],
    )
    def test_a_protocol_is_the_packaged_one_when_it_equals_it(self, name: str, override: str, same: bool, tmp_path: Path) -> None:
        path = ROOT / "configs" / "quality" / f"{name}.yaml"
        copy = tmp_path / "copy.yaml"
        copy.write_text(path.read_text())
        for file in (path, copy):
            assert quality_run.load_config(str(file), ["data.root=x"])[1]
            assert quality_run.load_config(str(file), ["data.root=x", override])[1] == same

    def test_a_changed_copy_is_another_protocol(self, tmp_path: Path) -> None:
        text = (ROOT / "configs/quality/vdg.yaml").read_text()
        for old, new in (("splits: 10", "splits: 5"), ("IS: 4.007", "IS: 9.007"), ("limb_px: 4.0", "limb_px: 6.0")):
            assert old in text
            (tmp_path / "vdg.yaml").write_text(text.replace(old, new))
            assert not quality_run.load_config(str(tmp_path / "vdg.yaml"), ["data.root=x"])[1]

    def test_rows_of_a_known_list_stand_beside_its_pairs_only(self, around: Surroundings) -> None:
        asked, as_shipped = quality_run.load_config(str(ROOT / "configs/quality/patn.yaml"), [])
        assert asked.data_set is not None and asked.pairs.order == "keypoints"
        around.facts = asked.data_set.model_dump(exclude={"name"})
        whole = Quality("patn", 12000, {}, {})
        assert published(asked, around, whole, as_shipped=as_shipped, pair_list=asked.published_pairs) == asked.published != ()
        for other in (None, list_digest([("a.jpg", "b.jpg")])):
            assert published(asked, around, whole, as_shipped=as_shipped, pair_list=other) == ()

    def test_a_window_no_paper_states_has_no_row(self) -> None:
        asked, _ = quality_run.load_config(str(ROOT / "configs/quality/vdg.yaml"), [])
        assert {name for row in asked.published for name in row.values} == {"IS", "mask-IS"}

    @pytest.mark.parametrize("given", ["metrics.IS.splits=5", "metrics.PCKh.keypoints=found.csv"])
    def test_a_metrics_option_changes_one_of_all(self, given: str, tmp_path: Path) -> None:
        (tmp_path / "data.yaml").write_text("data: {root: x}\n")
        _, name, _ = given.partition("=")[0].split(".")
        standard = QualityProtocol().metrics
        for path in (None, str(tmp_path / "data.yaml")):
            found = quality_run.load_config(path, [given])[0].metrics
            assert list(found) == list(standard)
            assert [key for key in found if found[key] != standard[key]] == [name]
        assert list(quality_run.load_config(None, ["metrics={IS: {splits: 5}}"])[0].metrics) == ["IS"]  # a table names them all
        own = ROOT / "configs" / "quality" / "momi.yaml"
        assert list(quality_run.load_config(str(own), ["metrics.IS.splits=5"])[0].metrics) == ["IS", "mask-IS", "FID", "APS"]

    @pytest.mark.parametrize(
        ("overrides", "said"),
        [
            (["metrics.SSIM.kind=sim"], "kind"),
            (["metrics.SSIM={kind: ssim, protocol: lpips}"], "protocol"),
            (["metrics.SSIM={kind: ssim, mask: true}"], "unknown key"),
            (["jpeg=0"], "jpeg"),
            (["pairs.count=0"], "pairs.count"),
            (["mask.closing_px=4"], "mask.closing_px: a closing's side is an odd number of pixels, got 4"),
            (["pairs.source_identities=3"], "source_identities is of pairs drawn with kind: unpaired, got 3 for kind: paired"),
            (["pairs={kind: unpaired, target_identities: 2, file: a.csv}"], "target_identities is .* got 2 for pairs of a file"),
            (["pairs={kind: unpaired, order: keypoints}"], "order: keypoints is of kind: paired"),
            (["metrics.SSMI.masked=true"], r"a metric of a name of its own says its kind, got 'SSMI'; .*did you mean 'SSIM'"),
            (["published=[{method: A, values: {FOD: 1.0}, source: B}]"], "FOD"),
        ],
    )
    def test_bad_protocols_are_refused(self, overrides: list[str], said: str) -> None:
        with pytest.raises(ValueError, match=said):
            quality_run.load_config(None, overrides)

    def test_the_benchmarks_is_everything(self) -> None:
        assert QualityConfig().protocol.metrics == QualityProtocol().metrics
        assert {m.masked for n, m in QualityProtocol().metrics.items() if n.startswith("mask-")} == {True}  # type: ignore[union-attr]


class TestListedPairs:
    def names(self, people: list[PersonImage]) -> list[tuple[str, str]]:
        return [(s.name, t.name) for s, t in pairs_to_measure(people, PairsConfig(count=6, seed=5))]

    def test_a_file_is_measured_row_by_row(self, people: list[PersonImage], tmp_path: Path) -> None:
        names = self.names(people)
        write_pairs(tmp_path / "p.csv", names[::-1])
        found = pairs_to_measure(people, PairsConfig(file=str(tmp_path / "p.csv")))
        assert [(s.name, t.name) for s, t in found] == names[::-1] and all(s.split != "train" and s.pid == t.pid for s, t in found)

    def test_keypoint_order_is_the_published_way_of_drawing(self, people: list[PersonImage], rendered: RenderedSet) -> None:
        path = rendered.root / "annotation-test.csv"
        found = pairs_to_measure(people, PairsConfig(count=9, seed=2, order="keypoints"), path)
        assert [(s.name, t.name) for s, t in found] == pairs_from_keypoints(path, 9, 2)
        assert found == pairs_to_measure(people[::-1], PairsConfig(count=9, seed=2, order="keypoints"), path)
        with pytest.raises(ValueError, match="draws from a keypoint file: give data.test_keypoints=FILE"):
            pairs_to_measure(people, PairsConfig(count=9, order="keypoints"))

    def test_what_is_not_there_is_named(self, people: list[PersonImage], tmp_path: Path) -> None:
        path, names = tmp_path / "p.csv", self.names(people)
        train = next(p.name for p in people if p.split == "train")
        bare = [replace(p, pose=None) if p.name == names[2][1] else p for p in people]
        blind = [replace(p, pose=replace(p.pose, visible=torch.zeros_like(p.pose.visible))) if p.name == names[2][1] and p.pose else p
                 for p in people]  # fmt: skip
        stranger = [p for p in people if p.split == "gallery" and p.pose and not p.name.startswith(names[0][0][:4])][0]
        for rows, crowd, kind, said in (
            ([*names, ("lost.jpg", names[0][0])], people, "paired", r"p\.csv names lost\.jpg, which is no image of query or gallery"),
            ([(names[0][0], train)], people, "paired", f"names {train}, which is no image"),
            (names, bare, "paired", f"names {names[2][1]}, which has no pose"),
            (names, blind, "paired", f"names {names[2][1]}, which has no pose"),
            ([(names[0][0], stranger.name)], people, "paired", f"{stranger.name} show different people, and pairs.kind is paired"),
            (names, people, "unpaired", "show one person, and pairs.kind is unpaired"),
            ([], people, "paired", "lists no pair"),
        ):
            write_pairs(path, rows)
            with pytest.raises(ValueError, match=said):
                pairs_to_measure(crowd, PairsConfig.model_validate({"kind": kind, "file": str(path)}))
        write_pairs(path, names)
        with pytest.raises(ValueError, match=r"lists 6 pairs, pairs\.count is 7: give pairs\.count=6"):
            pairs_to_measure(people, PairsConfig(file=str(path), count=7))
        path.write_text("from,to\na.jpg\n")
        with pytest.raises(ValueError, match=r"p\.csv, line 2: a row is two names"):
            pairs_to_measure(people, PairsConfig(file=str(path)))

    def test_contents_tell_pairs_apart(self, people: list[PersonImage], tmp_path: Path) -> None:
        pairs = pairs_to_measure(people, PairsConfig(count=3))
        (source, target), *rest = pairs
        assert source.pose is not None and target.pose is not None
        same = tmp_path / source.name
        same.write_bytes(Path(source.path).read_bytes())
        assert content_digest([(replace(source, path=str(same)), target), *rest]) != content_digest(rest)
        first = content_digest([(replace(source, path=str(same)), target)])
        assert first == content_digest([(source, target)])
        same.write_bytes(Path(rest[0][0].path).read_bytes() + b" ")
        moved = replace(target, pose=replace(target.pose, xy=target.pose.xy + 1))
        unseen = replace(source, pose=replace(source.pose, visible=~source.pose.visible))
        others = [[(replace(source, path=str(same)), target)], [(source, moved)], [(unseen, target)], [(target, source)]]
        assert len({first, *map(content_digest, others)}) == 5


def test_a_column_says_why_one_arm_has_no_number() -> None:
    has = Quality("p", 3, {"FID": Value(2.0, 3, "pool3")}, {"DS": "no weights"})
    lacks = Quality("p", 3, {}, {"FID": "no images", "DS": "no weights"})
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in table({"pg2": has, "vdg": lacks}).splitlines()}
    assert rows["FID"] == "| FID | 2.000 | not measured | pool3; vdg not measured: no images |"
    assert rows["DS"] == "| DS | not measured | not measured | no weights |"
    both = table({"pg2": replace(has, values={}, missing={"FID": "too few"}), "vdg": lacks})
    assert "pg2 not measured: too few; vdg not measured: no images |" in both


class TestCommand:
    def test_kept_images_of_other_poses_or_photographs_are_not_taken_for_ours(self, checkpoint: Path, folder: Path, tmp_path: Path) -> None:
        asked, _ = quality_run.load_config(
            None, [f"data.root={folder}", "pairs.count=4", f"out={tmp_path / 'out'}", "metrics={SSIM: {}}", "batch_size=2"]
        )

        def kept() -> tuple[Path, dict[str, bytes]]:
            where = quality_run.run(str(checkpoint), asked, networks=Networks(download=False, device="cpu")).folder
            return where, {file.name: file.read_bytes() for file in (where / "images").iterdir()}

        first, drawn_first = kept()
        assert kept() == (first, drawn_first)
        path = folder / "annotation-test.csv"
        path.write_text(re.sub(r"(?m)(: \[)(\d+)", lambda found: f"{found[1]}{(int(found[2]) + 9) % 30}", path.read_text()))
        second, drawn_second = kept()
        assert second != first and drawn_second.keys() == drawn_first.keys() and drawn_second != drawn_first
        for file in (folder / "query").iterdir():
            images.write(255 - images.read(file), file)
        for file in (folder / "bounding_box_test").iterdir():
            images.write(255 - images.read(file), file)
        third, drawn_third = kept()
        assert third not in (first, second) and drawn_third.keys() == drawn_first.keys() and drawn_third != drawn_second

    def test_pairs_of_a_file(self, checkpoint: Path, people: list[PersonImage], rendered: RenderedSet, tmp_path: Path) -> None:
        names = [(s.name, t.name) for s, t in pairs_to_measure(people, PairsConfig(count=5, seed=8))]
        write_pairs(tmp_path / "p.csv", names)
        asked = [f"data.root={rendered.root}", f"pairs.file={tmp_path / 'p.csv'}", f"out={tmp_path / 'out'}", "metrics={SSIM: {}}"]
        assert main(["quality", str(checkpoint), *asked, "device=cpu"]) == 0
        (kept,) = (tmp_path / "out").rglob("quality.json")
        assert json.loads(kept.read_text())["images"] == 5
        assert {file.name.split("-")[0] for file in (kept.parent / "images").iterdir()} == {Path(s).stem for s, _ in names}

    def test_kept_files_are_what_is_measured(self, checkpoint: Path, people: list[PersonImage], tmp_path: Path) -> None:
        """Joints that another estimator finds on them are of the pixels that the other metrics see."""
        pairs, model = pairs_to_measure(people, PairsConfig(count=4)), generators.load(checkpoint)
        plain = next(iter(drawn(model, pairs, MaskConfig(), device=torch.device("cpu"))))
        for _ in range(2):  # drawn, then found
            batch = next(iter(drawn(model, pairs, MaskConfig(), jpeg=75, device=torch.device("cpu"), keep=tmp_path)))
            assert sorted(batch.files) == sorted(file.name for file in tmp_path.iterdir())
            assert torch.equal(batch.generated, images.read_many([tmp_path / file for file in batch.files], SIZE))
            assert torch.equal(batch.generated, reencode(plain.generated, 75)) and not torch.equal(batch.generated, plain.generated)

    @pytest.mark.parametrize(
        ("path", "given", "said"),
        [
            (None, ["pairs.count=12000"], r"a dump's pairs are those of its manifest: leave out pairs, got pairs\.count=12000"),
            ("vdg", ["pairs.seed=3"], r"leave out pairs, got pairs\.seed=3"),
            (None, ["pairs.file=p.csv"], r"leave out pairs, got pairs\.file=p\.csv"),
            (None, ["keep_images=false"], "a dump's images are kept already: leave out keep_images, got False"),
            ("patn", ["metrics.PCKh.keypoints=found.csv"], "joints of PCKh.keypoints were found on the dump's own files, and jpeg=75"),
            ("vdg", [], "no manifest at"),  # whose own pairs are no request
        ],
    )
    def test_what_a_dump_cannot_heed_is_refused(self, path: str | None, given: list[str], said: str, tmp_path: Path) -> None:
        file = None if path is None else str(ROOT / "configs" / "quality" / f"{path}.yaml")
        asked, _ = quality_run.load_config(file, [*given, f"out={tmp_path}"])
        with pytest.raises((ValueError, OSError), match=said):
            quality_run.run(str(tmp_path), asked, networks=Networks(download=False, device="cpu"))

    def test_checkpoint(self, checkpoint: Path, rendered: RenderedSet, reid: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
        asked = [f"data.root={rendered.root}", "pairs.count=12", f"out={tmp_path}", "download=false", f"reid={reid}", "device=cpu"]
        asked += ["metrics={SSIM: {}, mask-SSIM: {}, FID: {}, identity: {}, truth: {}}"]
        assert main(["quality", str(checkpoint), *asked]) == 0
        said = capsys.readouterr().out
        (folder,) = tmp_path.iterdir()
        assert "| mask-SSIM | 0." in said and str(folder / "quality.md") in said and "not measured" in said
        kept = json.loads((folder / "quality.json").read_text())
        assert kept["images"] == 12 and kept["values"]["SSIM"]["count"] == 12 and "truth PSNR" in kept["values"]
        assert (folder / "sheet.png").exists() and len(list((folder / "images").glob("*.png"))) == 12

    def test_killed_work_goes_on(
        self, checkpoint: Path, people: list[PersonImage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pairs, model = pairs_to_measure(people, PairsConfig(count=9)), generators.load(checkpoint)
        first = next(iter(drawn(model, pairs, MaskConfig(), batch_size=3, keep=tmp_path)))
        assert len(list(tmp_path.iterdir())) == 3
        calls = []
        monkeypatch.setattr(type(model), "forward", lambda self, *a: calls.append(len(a[0])) or torch.zeros(len(a[0]), 3, *SIZE))
        again = list(drawn(model, pairs, MaskConfig(), batch_size=3, keep=tmp_path))
        assert calls == [3, 3] and torch.equal(again[0].generated, first.generated)

    def test_dump(self, checkpoint: Path, people: list[PersonImage], rendered: RenderedSet, reid: Path, tmp_path: Path) -> None:
        bank = PoseBank.collect((p for p in people if p.split == "train"), SIZE)
        dump(people, Augmenter(generators.load(checkpoint), bank, 1, 0, device="cpu"), tmp_path / "dump")
        networks = Networks(download=False, device="cpu", inception=Thumbnails(), detector=brightness)
        wanted = "metrics={IS: {splits: 2}, FID: {}, KID: {}, DS: {}, identity: {}, SSIM: {}, truth: {}}"
        asked, _ = quality_run.load_config(None, [f"out={tmp_path}", f"reid={reid}", wanted])
        report = quality_run.run(str(tmp_path / "dump"), asked, networks=networks)
        found = report.quality
        assert found.images == sum(p.split == "train" for p in people)
        assert {"IS", "FID", "KID", "DS", "identity rank-1", "ID²"} <= found.values.keys()
        assert "no photograph" in found.missing["SSIM"] and "rendered people only" in found.missing["truth"]
        # With the rendered set it came from, the truth is known.
        asked, _ = quality_run.load_config(None, [f"out={tmp_path}", f"data.root={rendered.root}", wanted])
        assert "truth PSNR" in quality_run.run(str(tmp_path / "dump"), asked, networks=networks).quality.values

    @pytest.mark.parametrize(
        ("target", "more", "said"),
        [
            ("nothing.safetensors", ["data.root={root}"], "no checkpoint and no dump at"),
            ("{checkpoint}", [], "data.root is missing"),
            ("{checkpoint}", ["data.root={root}", "size=[128,64]"], "the generator at"),
            ("{checkpoint}", ["data.root={root}", "pairs.count=99999"], "pairs"),
            ("{checkpoint}", ["data.root={root}", "pears.count=9"], "did you mean 'pairs'"),
            ("{empty}", [], "no manifest at"),
        ],
    )
    def test_bad_input_is_one_line_and_code_2(
        self, target: str, more: list[str], said: str,
        checkpoint: Path, rendered: RenderedSet, tmp_path: Path, capsys: pytest.CaptureFixture,
    ) -> None:  # fmt: skip
        places = {"checkpoint": checkpoint, "root": rendered.root, "empty": tmp_path}
        words = [word.format(**places) for word in (target, *more, "out={empty}/out", "download=false")]
        assert main(["quality", *words]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1 and "Traceback" not in error
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("quality.json"))

    def test_a_dump_with_a_lost_or_another_image_is_refused(self, checkpoint: Path, people: list[PersonImage], tmp_path: Path) -> None:
        bank = PoseBank.collect((p for p in people if p.split == "train"), SIZE)
        rows = dump(people, Augmenter(generators.load(checkpoint), bank, 1, 0, device="cpu"), tmp_path / "dump").rows
        asked, _ = quality_run.load_config(None, [f"out={tmp_path}", "metrics={DS: {}}"])
        images.write(np.zeros((40, 16, 3), np.uint8), tmp_path / "dump" / rows[3].path)
        with pytest.raises(ValueError, match=rf"have one size, \(32, 16\): .*{Path(rows[3].path).name} is \(40, 16\)"):
            quality_run.run(str(tmp_path / "dump"), asked, networks=Networks(download=False, device="cpu", detector=brightness))
        (tmp_path / "dump" / rows[3].path).unlink()
        with pytest.raises(OSError, match=Path(rows[3].path).name):
            quality_run.run(str(tmp_path / "dump"), asked, networks=Networks(download=False, device="cpu", detector=brightness))


def test_protocol_mask_is_the_papers_at_128_rows() -> None:
    from generators.maps import body_mask

    pose = Pose(torch.rand(2, 18, 2) * 60, torch.ones(2, 18, dtype=torch.bool), openpose_18, (128, 64))
    assert torch.equal(protocol_mask(pose), body_mask(pose, 4.0, closing_px=5).bool())
