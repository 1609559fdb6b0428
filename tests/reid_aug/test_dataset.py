"""PoseAugmentedDataset inside torchreid: its data manager, samplers and engines."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from generator_helpers import CopiesScene
from PIL import Image
from torch import nn
from torchreid import data as torchreid_data
from torchreid import engine as torchreid_engine
from torchreid import models as torchreid_models
from torchreid import optim as torchreid_optim

import generators
from generators import Pose, openpose_18
from reid_aug import PoseAugmentedDataset, register
from reid_aug.data.keypoints import read_keypoints
from reid_aug.data.loading import DataConfig, load_people
from reid_aug.images import ImageError
from reid_aug.rendered import RenderedSet

SIZE = (32, 16)


def market(root: Path, **kwargs) -> torchreid_data.ImageDataset:
    """torchreid's own Market1501 on a folder market1501/Market-1501-v15.09.15."""
    return torchreid_data.datasets.init_image_dataset("market1501", root=str(root), verbose=False, **kwargs)


@pytest.fixture(scope="module")
def root(rendered: RenderedSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reid-data")
    shutil.copytree(rendered.root, root / "market1501" / "Market-1501-v15.09.15")
    return root


@pytest.fixture(scope="module")
def keypoints(root: Path) -> Path:
    return root / "market1501" / "Market-1501-v15.09.15" / "annotation-train.csv"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def posed(root: Path, keypoints: Path, checkpoint: Path, cache: Path) -> PoseAugmentedDataset:
    return PoseAugmentedDataset(market(root), generator=checkpoint, poses=keypoints, cache_dir=cache, verbose=False)


class TestRows:
    def test_train_grows_and_the_rest_stays(self, posed: PoseAugmentedDataset, root: Path) -> None:
        base = market(root)
        assert posed.train[: len(base.train)] == base.train
        assert (posed.query, posed.gallery) == (base.query, base.gallery)
        added = posed.train[len(base.train) :]
        assert len(added) == 2 * len(base.train) == len(posed.synthetic_paths)
        assert posed.num_train_pids == base.num_train_pids and posed.num_train_cams == base.num_train_cams
        assert {row[1] for row in posed.train} == set(range(base.num_train_pids))
        for path, pid, camid, dsetid in added:
            source = next(row for row in base.train if Path(row[0]).stem in path)
            assert type(path) is str and Path(path).is_file()
            assert (pid, camid, dsetid) == source[1:]

    def test_items_are_torchreids_and_say_what_is_synthetic(self, posed: PoseAugmentedDataset) -> None:
        first, last = posed[0], posed[len(posed) - 1]
        assert set(first) == {"img", "pid", "camid", "impath", "dsetid", "synthetic"}
        assert (first["synthetic"], last["synthetic"]) == (0, 1)
        assert last["img"].size == (SIZE[1], SIZE[0])

    def test_query_and_gallery_modes_draw_nothing(self, root: Path, keypoints: Path, tmp_path: Path) -> None:
        for mode in ("query", "gallery"):
            # A generator that does not exist: nobody may ask for it.
            quiet = PoseAugmentedDataset(
                market(root, mode=mode), generator="nowhere.safetensors", poses=keypoints, cache_dir=tmp_path, verbose=False
            )
            assert quiet.data == getattr(market(root), mode) and not quiet.synthetic_paths
        assert not list(tmp_path.iterdir())

    def test_synthetic_rows_may_have_a_data_set_index(self, root: Path, keypoints: Path, checkpoint: Path, cache: Path) -> None:
        posed = PoseAugmentedDataset(
            market(root), generator=checkpoint, poses=keypoints, cache_dir=cache, synthetic_dsetid=1, verbose=False
        )
        assert posed.num_datasets == 2
        assert {row[3] for row in posed.train if row[0] in posed.synthetic_paths} == {1}

    def test_recombined_people_of_other_numbers_have_a_folder_of_their_own(
        self, root: Path, keypoints: Path, checkpoint: Path, tmp_path: Path
    ) -> None:
        """With `combineall` the same people are augmented, and new ones are numbered after the test's, too."""
        for combineall in (False, True):
            base = market(root, combineall=combineall)
            posed = PoseAugmentedDataset(base, generator=checkpoint, poses=keypoints, cache_dir=tmp_path, draw="recombined", verbose=False)
            assert min(row[1] for row in posed.train if row[0] in posed.synthetic_paths) == base.num_train_pids

    def test_recombined_adds_people_after_all_others(self, root: Path, keypoints: Path, checkpoint: Path, tmp_path: Path) -> None:
        base = market(root)
        posed = PoseAugmentedDataset(
            base, generator=checkpoint, poses=keypoints, cache_dir=tmp_path, draw="recombined", per_image=3, verbose=False
        )  # fmt: skip
        assert posed.num_train_pids == 4 * base.num_train_pids and {row[1] for row in posed.train} == set(range(posed.num_train_pids))
        assert len(posed.synthetic_paths) == 3 * len(base.train)
        assert min(row[1] for row in posed.train if row[0] in posed.synthetic_paths) == base.num_train_pids
        assert posed.num_train_cams == base.num_train_cams and (posed.query, posed.gallery) == (base.query, base.gallery)
        with pytest.raises(ValueError, match="recombined people"):
            PoseAugmentedDataset(
                base, generator=checkpoint, poses=keypoints, cache_dir=tmp_path, draw="recombined", per_image=3, verbose=False,
                gate={"novelty": 0.1},
            )  # fmt: skip

    def test_adding_data_sets_keeps_the_rows(self, posed: PoseAugmentedDataset, root: Path) -> None:
        assert sum([posed]) is posed
        both = sum([posed, market(root)])
        assert len(both.train) == len(posed.train) + len(market(root).train)
        assert both.num_train_pids == 2 * posed.num_train_pids
        assert both[len(posed.train) - 1]["impath"] in posed.synthetic_paths

    def test_combineall_augments_no_test_image(self, root: Path, keypoints: Path, checkpoint: Path, tmp_path: Path) -> None:
        base = market(root, combineall=True)
        posed = PoseAugmentedDataset(base, generator=checkpoint, poses=keypoints, cache_dir=tmp_path, verbose=False)
        assert posed.manifest is not None
        tested = {Path(row[0]).name for row in base.query + base.gallery}
        assert posed.manifest.rows and not tested & {row.source for row in posed.manifest.rows}
        assert posed.num_train_pids == base.num_train_pids

    def test_three_long_rows_become_four_long(self, root: Path, keypoints: Path, checkpoint: Path, cache: Path) -> None:
        base = market(root)
        base.train = [(Path(path), pid, camid) for path, pid, camid, _ in base.train]  # as a careless data set has them
        posed = PoseAugmentedDataset(base, generator=checkpoint, poses=keypoints, cache_dir=cache, verbose=False)
        assert {len(row) for row in posed.train} == {4} and all(type(row[0]) is str for row in posed.train)

    def test_poses_may_be_a_mapping(self, posed: PoseAugmentedDataset, root: Path, keypoints: Path, checkpoint: Path, cache: Path) -> None:
        other = PoseAugmentedDataset(
            market(root), generator=generators.load(checkpoint), poses=read_keypoints(keypoints, size=SIZE), cache_dir=cache, verbose=False
        )
        assert other.train == posed.train


class TestScenes:
    def test_a_generator_that_takes_scenes_has_those_of_the_training_images(self, root: Path, keypoints: Path, tmp_path: Path) -> None:
        base = market(root)
        posed = PoseAugmentedDataset(base, generator=CopiesScene(SIZE), poses=keypoints, cache_dir=tmp_path, per_image=1, verbose=False)
        assert posed.manifest is not None and posed.manifest.in_scenes and posed.manifest.made_by["draw"] == "compatible"
        of = {Path(row[0]).name: row for row in base.train}
        for row in posed.manifest.rows[::5]:
            assert of[row.target][1] != row.pid, "somebody else's place and pose"
            apart = np.asarray(Image.open(posed.folder / row.path)).astype(int) - np.asarray(Image.open(of[row.target][0]))
            assert abs(apart).mean() < 8, "but for the JPEG"

    @pytest.mark.filterwarnings("ignore::reid_aug.data.doubts.DataDoubt")
    def test_silhouettes_are_taken_by_who_takes_them(
        self, root: Path, keypoints: Path, masks: Path, checkpoint: Path, tmp_path: Path
    ) -> None:
        torch.manual_seed(0)
        warpblend = generators.create("warpblend", size=SIZE, width=4)
        how = {"poses": keypoints, "per_image": 1, "cache_dir": tmp_path, "verbose": False}
        plain, masked = (PoseAugmentedDataset(market(root), generator=warpblend, masks=given, **how) for given in (None, masks))
        assert plain.folder != masked.folder and masked.manifest is not None and "masks_digest" in masked.manifest.made_by
        assert PoseAugmentedDataset(market(root), generator=warpblend, masks=masks, **how).folder == masked.folder
        others = [PoseAugmentedDataset(market(root), generator=checkpoint, masks=given, **how).folder for given in (None, masks)]
        assert others[0] == others[1], "nothing changes for PG2"
        live = PoseAugmentedDataset(market(root), generator=warpblend, masks=masks, poses=keypoints, online=True, p=1.0, verbose=False)
        assert masked.train[len(live.train) :]
        row = live.draw_of(0, 3)
        assert row is not None and row.target == next(r.target for r in masked.manifest.rows if r.source == row.source)
        drawn = np.array(Image.open(masked.folder / next(r.path for r in masked.manifest.rows if r.source == row.source))).astype(int)
        assert np.abs(live.render(0, 3).astype(int) - drawn).mean() < 3, "but for JPEG"
        with pytest.raises(ValueError, match="silhouettes of images with poses, and none are given"):
            PoseAugmentedDataset(market(root), generator=generators.create("momi", size=SIZE, width=4), masks=masks)

    def test_another_photograph_makes_another_cache(self, root: Path, tmp_path: Path) -> None:
        shutil.copytree(root, tmp_path / "data")
        home = tmp_path / "data" / "market1501" / "Market-1501-v15.09.15"
        options = {"poses": home / "annotation-train.csv", "cache_dir": tmp_path / "cache", "per_image": 1, "verbose": False}
        before = PoseAugmentedDataset(market(tmp_path / "data"), generator=CopiesScene(SIZE), **options)
        path = next((home / "bounding_box_train").iterdir())
        content = path.read_bytes()
        path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])  # as long as before
        after = PoseAugmentedDataset(market(tmp_path / "data"), generator=CopiesScene(SIZE), **options)
        assert after.folder != before.folder


class TestCache:
    def test_second_construction_draws_nothing(
        self, posed: PoseAugmentedDataset, root: Path, keypoints: Path, checkpoint: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("reid_aug.synthesis.augmenter.render", lambda *_: pytest.fail("drawn again"))
        began = time.perf_counter()
        again = PoseAugmentedDataset(market(root), generator=checkpoint, poses=keypoints, cache_dir=cache, verbose=False)
        assert again.train == posed.train
        assert time.perf_counter() - began < 5

    @pytest.mark.parametrize("change", ["generator", "seed", "per_image", "bank", "sources"])
    def test_whatever_decides_a_pixel_makes_another_cache(
        self, change: str, posed, root: Path, keypoints: Path, checkpoint: Path, cache: Path, tmp_path: Path
    ) -> None:
        model, options, base = generators.load(checkpoint), {}, market(root)
        if change == "generator":
            with torch.no_grad():
                next(model.parameters()).add_(1e-3)
        elif change == "bank":
            options["bank"] = posed_bank(posed, keypoints)
        elif change == "sources":
            base.train = base.train[:-1]
        else:
            options[change] = 1
        other = PoseAugmentedDataset(base, generator=model, poses=keypoints, cache_dir=cache, verbose=False, **options)
        assert other.folder != posed.folder
        assert not other.synthetic_paths & posed.synthetic_paths

    def test_other_photographs_of_the_same_names_and_sizes_are_another_set(self, checkpoint: Path, tmp_path: Path) -> None:
        """Bitmaps are as many bytes whatever they show."""

        def photographs(shade: int) -> None:
            for pid in range(3):
                for camid in range(2):
                    pixels = np.full((32, 16, 3), shade + 20 * pid + camid, dtype=np.uint8)
                    Image.fromarray(pixels).save(tmp_path / f"{pid}_{camid}.bmp")

        def construct() -> PoseAugmentedDataset:
            base = torchreid_data.ImageDataset(rows, [("q.jpg", 7, 0)], [("g.jpg", 7, 1)], verbose=False)
            return PoseAugmentedDataset(base, generator=checkpoint, poses=poses, per_image=1, cache_dir=tmp_path / "cache", verbose=False)

        rows = [(str(tmp_path / f"{pid}_{camid}.bmp"), pid, camid) for pid in range(3) for camid in range(2)]
        pose = Pose(torch.arange(36.0).view(18, 2) % 13 + 1, torch.ones(18, dtype=torch.bool), openpose_18, (32, 16))
        poses = {Path(row[0]).name: pose for row in rows}
        photographs(10)
        first = construct()
        assert construct().folder == first.folder
        photographs(150)
        second = construct()
        assert second.folder != first.folder
        assert (np.asarray(second[-1]["img"]) != np.asarray(first[-1]["img"])).any()
        photographs(10)
        assert construct().folder == first.folder, "known by content, whatever their age"

    def test_a_spoilt_cache_is_mended(self, root: Path, keypoints: Path, checkpoint: Path, tmp_path: Path) -> None:
        first = PoseAugmentedDataset(market(root), generator=checkpoint, poses=keypoints, cache_dir=tmp_path, verbose=False)
        victim = Path(first.train[-1][0])
        victim.write_bytes(victim.read_bytes()[:100])
        again = PoseAugmentedDataset(market(root), generator=checkpoint, poses=keypoints, cache_dir=tmp_path, verbose=False)
        assert again.manifest is not None and again.manifest.verify(again.folder) == []


def posed_bank(posed: PoseAugmentedDataset, keypoints: Path):
    from reid_aug.data.loading import with_keypoints
    from reid_aug.data.torchreid_sets import from_torchreid
    from reid_aug.synthesis.bank import PoseBank

    people = [p for p in from_torchreid(posed.base) if p.split == "train"]
    return PoseBank.collect(with_keypoints(people, keypoints, ("train",)), SIZE).thin(3)


class TestBadInput:
    def test_missing_files(self, root: Path, keypoints: Path, checkpoint: Path, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no checkpoint at"):
            PoseAugmentedDataset(market(root), generator=tmp_path / "no.safetensors", poses=keypoints, cache_dir=tmp_path)
        with pytest.raises(FileNotFoundError, match="no keypoint file at"):
            PoseAugmentedDataset(market(root), generator=checkpoint, poses=tmp_path / "no.csv", cache_dir=tmp_path)

    def test_keypoints_of_another_set(self, root: Path, checkpoint: Path, tmp_path: Path) -> None:
        (tmp_path / "k.csv").write_text(f"name:keypoints_y:keypoints_x\nother.jpg: {[5] * 18}: {[5] * 18}\n")
        with pytest.raises(
            ValueError, match=r"0 of 24 train images have a pose, at least half must; without one: 24 not named there \(0001_"
        ):
            PoseAugmentedDataset(market(root), generator=checkpoint, poses=tmp_path / "k.csv", cache_dir=tmp_path)

    def test_labels_with_gaps_are_warned_of_and_the_advice_mends_them(
        self, root: Path, keypoints: Path, checkpoint: Path, cache: Path
    ) -> None:
        base, options = market(root), {"generator": checkpoint, "poses": keypoints, "cache_dir": cache, "verbose": False}
        train = base.train = [(path, 10 * (pid + 2), camid, dsetid) for path, pid, camid, dsetid in base.train]
        with pytest.warns(
            UserWarning, match="labels 0..5, one for each of 6 people; 6 are outside: 20, 30, 40 and 3 more. Relabel: "
        ) as caught:
            posed = PoseAugmentedDataset(base, **options)
        assert {row[1] for row in posed.train} == {20, 30, 40, 50, 60, 70}, "what the caller does next is the caller's"
        advised = str(caught[0].message).split("Relabel: labels = ")[1].split(", then")[0]
        labels = eval(advised, {"train": train})
        base.train = [(row[0], labels[row[1]], *row[2:]) for row in train]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            posed = PoseAugmentedDataset(base, **options)
        assert {row[1] for row in posed.train} == set(range(6))

    def test_labels_in_words_are_refused_by_row(self, root: Path, keypoints: Path, checkpoint: Path) -> None:
        base = market(root)
        base.train = [(path, f"p{pid}", camid, dsetid) for path, pid, camid, dsetid in base.train]
        with pytest.raises(ValueError, match=r"pid of a torchreid image data set is a whole number, train has 'p\d' in \('"):
            PoseAugmentedDataset(base, generator=checkpoint, poses=keypoints)

    def test_a_truncated_photograph_is_an_error_and_no_hang(self, posed: PoseAugmentedDataset, tmp_path: Path) -> None:
        whole = Path(posed.train[0][0]).read_bytes()
        (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
        posed.data = [(str(tmp_path / "cut.jpg"), 0, 0, 0)]
        with pytest.raises(ImageError, match="cut.jpg"):
            posed[0]


def manager(name: str, root: Path, **options) -> torchreid_data.ImageDataManager:
    return torchreid_data.ImageDataManager(
        root=str(root), sources=name, targets=name, height=32, width=16, batch_size_train=16, batch_size_test=32, workers=0,
        use_gpu=False, transforms=["random_flip"], **options,
    )  # fmt: skip


@pytest.mark.parametrize(("loss", "sampler"), [("softmax", "RandomSampler"), ("triplet", "RandomIdentitySampler")])
def test_torchreids_engines_train_an_epoch(
    loss: str, sampler: str, root: Path, keypoints: Path, checkpoint: Path, cache: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name = f"market1501-posed-{loss}"
    register(name, base="market1501", generator=checkpoint, poses=keypoints, cache_dir=cache)
    data = manager(name, root, train_sampler=sampler)
    assert len(data.train_loader.dataset.train) == 3 * 24 and data.num_train_pids == 6
    model = torchreid_models.build_model("osnet_x0_25", data.num_train_pids, loss=loss, pretrained=False, use_gpu=False)
    optimizer = torchreid_optim.build_optimizer(model, optim="adam", lr=3e-4)
    scheduler = torchreid_optim.build_lr_scheduler(optimizer, stepsize=1)
    engine = {
        "softmax": torchreid_engine.ImageSoftmaxEngine,
        "triplet": torchreid_engine.ImageTripletEngine,
    }[loss](data, model, optimizer=optimizer, scheduler=scheduler, use_gpu=False)
    before = nn.utils.parameters_to_vector(model.parameters()).clone()
    engine.run(save_dir=str(tmp_path), max_epoch=1, eval_freq=1, print_freq=2, test_only=False)
    assert not torch.equal(before, nn.utils.parameters_to_vector(model.parameters()))
    assert "Rank-1" in capsys.readouterr().out


def test_a_name_taken_twice_is_refused(keypoints: Path, checkpoint: Path) -> None:
    with pytest.raises(ValueError, match="already exists"):
        register("market1501", generator=checkpoint, poses=keypoints)


def test_the_front_door_is_quick_and_without_torchreid() -> None:
    script = (
        "import torch, time, sys; began = time.process_time(); import reid_aug, generators; spent = time.process_time() - began; "
        "assert not {'torchreid', 'torchvision', 'cv2', 'sklearn', 'matplotlib'} & set(sys.modules), sorted(sys.modules); "
        "assert spent < 2, spent; from reid_aug import PoseAugmentedDataset; assert 'torchreid' in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)


def test_images_of_another_size_are_brought_to_the_generators(root: Path, keypoints: Path, checkpoint: Path, tmp_path: Path) -> None:
    """A folder of photographs of several sizes, keypoints in each one's own pixels."""
    mixed = tmp_path / "market1501" / "Market-1501-v15.09.15"
    shutil.copytree(root / "market1501" / "Market-1501-v15.09.15", mixed)
    victim = sorted((mixed / "bounding_box_train").glob("*.jpg"))[0]
    Image.open(victim).resize((32, 64)).save(victim)
    lines = (mixed / "annotation-train.csv").read_text().splitlines()
    index = next(i for i, line in enumerate(lines) if line.startswith(victim.name))
    name, y, x = lines[index].split(":")
    doubled = [[v if v < 0 else 2 * v for v in map(int, part.strip(" []").split(","))] for part in (y, x)]
    lines[index] = f"{name}: {doubled[0]}: {doubled[1]}"
    (mixed / "annotation-train.csv").write_text("\n".join(lines) + "\n")
    posed = PoseAugmentedDataset(
        market(tmp_path), generator=checkpoint, poses=mixed / "annotation-train.csv", cache_dir=tmp_path / "cache", verbose=False
    )
    from reid_aug.dataset import _sources

    there = {p.name: p.pose for p in _sources(posed.base, mixed / "annotation-train.csv")}
    pose = there[victim.name]
    assert pose is not None and pose.size == (64, 32)
    assert len(posed.synthetic_paths) == 48


def test_torchreids_data_sets_by_name(root: Path) -> None:
    """What `data.root=torchreid:market1501:ROOT` reads is what torchreid makes of that folder."""
    people = load_people(DataConfig(root=f"torchreid:market1501:{root}"), train_poses=False)
    base = torchreid_data.datasets.init_image_dataset("market1501", root=str(root), verbose=False)
    assert [(p.path, p.pid, p.camid) for p in people if p.split == "train"] == [tuple(row[:3]) for row in base.train]
    with pytest.raises(ValueError, match="no torchreid data set named 'market1502'; .*did you mean 'market1501'"):
        load_people(DataConfig(root=f"torchreid:market1502:{root}"))
    with pytest.raises(FileNotFoundError, match="no folder 'nowhere/market1501', where torchreid's data set 'market1501' lies"):
        load_people(DataConfig(root="torchreid:market1501:nowhere"))
