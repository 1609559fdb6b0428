"""PoseAugmentedDataset online: rows in fresh poses inside torchreid's data manager and engines, and in workers of both kinds."""

from __future__ import annotations

import copy
import io
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from generator_helpers import CopiesScene
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader, Subset, get_worker_info
from torchreid import data as torchreid_data
from torchreid import engine as torchreid_engine
from torchreid import models as torchreid_models
from torchreid import optim as torchreid_optim
from torchvision import transforms as T

import generators
from reid_aug import Augmenter, PoseAugmentedDataset, PoseBank, images, read_keypoints, register, with_poses
from reid_aug.data.people import PersonImage
from reid_aug.rendered import RenderedSet
from reid_aug.synthesis.augmenter import plan
from reid_aug.synthesis.target_poses import hash64

SIZE = (32, 16)


@pytest.fixture(scope="module")
def root(rendered: RenderedSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("reid-data")
    shutil.copytree(rendered.root, root / "market1501" / "Market-1501-v15.09.15")
    return root


@pytest.fixture(scope="module")
def keypoints(root: Path) -> Path:
    return root / "market1501" / "Market-1501-v15.09.15" / "annotation-train.csv"


@pytest.fixture(scope="module")
def base(root: Path) -> Any:
    return torchreid_data.datasets.init_image_dataset("market1501", root=str(root), verbose=False)


@pytest.fixture(scope="module")
def warpblend() -> generators.Generator:
    torch.manual_seed(0)
    return generators.create("warpblend", size=SIZE, width=4)


def online(base: Any, generator: Any, keypoints: Any, **options: Any) -> PoseAugmentedDataset:
    return PoseAugmentedDataset(base, generator=generator, poses=keypoints, online=True, verbose=False, **options)


@pytest.fixture
def fresh(base: Any, warpblend: generators.Generator, keypoints: Path) -> PoseAugmentedDataset:
    return online(base, warpblend, keypoints, seed=4, p=0.7)


def train_of(people: list[PersonImage], dataset: PoseAugmentedDataset) -> list[PersonImage]:
    """The fixture's people, under torchreid's paths and numbers."""
    rows = {Path(row[0]).name: row for row in dataset.train}
    train = [p for p in people if p.split == "train" and p.name in rows]
    return [PersonImage(*rows[p.name][:3], "train", p.pose) for p in train]


class TestDraw:
    def test_which_rows_by_hand(self, fresh: PoseAugmentedDataset) -> None:
        """A row is redrawn where the first 53 of its 64 bits, as a fraction, lie below p."""
        for epoch in range(3):
            for index, (path, pid, camid, _) in enumerate(fresh.train):
                row, name = fresh.draw_of(epoch, index), Path(path).name
                assert (row is not None) == ((hash64(4, name, epoch, "redrawn") >> 11) / 2**53 < 0.7)
                assert row is None or (row.source, row.pid, row.camid, row.seed) == (name, pid, camid, hash64(4, name, epoch) >> 32)

    def test_whole_by_hand(self, base: Any, warpblend: generators.Generator, keypoints: Path) -> None:
        """Row by row of the bank: the hash modulo its length."""
        dataset = online(base, warpblend, keypoints, draw="whole", seed=9, p=1)
        names = sorted(Path(row[0]).name for row in base.train)
        for epoch, index in ((0, 0), (0, 7), (3, 7), (10**6, 23)):
            row = dataset.draw_of(epoch, index)
            assert row is not None and row.target == names[hash64(9, Path(dataset.train[index][0]).name, epoch) % len(names)]

    @pytest.mark.parametrize("draw", ["whole", "compatible", "missing-views", "camera-aware"])
    def test_epoch_e_draws_what_a_dump_draws_for_its_eth_image(
        self, draw: str, base: Any, warpblend: generators.Generator, keypoints: Path, people: list[PersonImage]
    ) -> None:
        dataset = online(base, warpblend, keypoints, draw=draw, seed=4, p=1)
        train = train_of(people, dataset)
        planned = {(row.source, i % 3): row for i, row in enumerate(plan(train, PoseBank.collect(train, SIZE), 3, 4, draw=draw))}
        for index in range(24):
            for epoch in range(3):
                row, offline = dataset.draw_of(epoch, index), planned[Path(dataset.train[index][0]).name, epoch]
                assert row is not None and (row.path, row.target, row.seed) == (offline.path, offline.target, offline.seed)

    @pytest.mark.parametrize("p", [0, 1])
    def test_never_and_always(self, p: float, base: Any, keypoints: Path) -> None:
        dataset = online(base, CopiesScene(SIZE), keypoints, p=p)
        assert {dataset[i]["synthetic"] for i in range(24)} == {p}

    def test_who_has_no_pose_stays(self, base: Any, warpblend: generators.Generator, keypoints: Path) -> None:
        poses = dict(read_keypoints(keypoints, size=SIZE))
        gone = Path(base.train[3][0]).name
        del poses[gone]
        dataset = online(base, warpblend, poses, p=1)
        assert [i for i in range(24) if dataset.draw_of(0, i) is None] == [3]
        assert np.array_equal(np.asarray(dataset[3]["img"]), images.read(base.train[3][0]))


class TestImages:
    def test_what_augmenter_renders(self, fresh: PoseAugmentedDataset, warpblend: generators.Generator, people: list[PersonImage]) -> None:
        """The same pixels for the same source and target, one at a time; in a batch at most rounded otherwise."""
        train = train_of(people, fresh)
        augmenter = Augmenter(warpblend, PoseBank.collect(train, SIZE), batch_size=1, device="cpu")
        rows = {i: row for i in range(24) if (row := fresh.draw_of(0, i))}
        expected = dict(zip(rows, (image for _, image in augmenter.render(list(rows.values()), train)), strict=True))
        for index, item in enumerate(fresh.__getitems__(list(range(24)))):
            photograph = images.read(fresh.train[index][0])
            image = np.asarray(item["img"]).astype(int)
            assert item["synthetic"] == (index in rows) and (item["epoch"], item["impath"]) == (0, fresh.train[index][0])
            if index in rows:
                assert np.array_equal(fresh.render(0, index), expected[index])
                assert abs(image - expected[index]).max() <= 1 and (image != photograph).any()
            else:
                assert np.array_equal(image, photograph) and np.array_equal(fresh.render(0, index), photograph)
        assert 10 < len(rows) < 24

    def test_each_stands_in_the_scene_of_its_pose(self, base: Any, keypoints: Path) -> None:
        dataset = online(base, CopiesScene(SIZE), keypoints, p=1)
        of = {Path(row[0]).name: row for row in base.train}
        for index in range(6):
            row = dataset.draw_of(0, index)
            assert row is not None and of[row.target][1] != row.pid, "compatible: somebody else's place and pose"
            assert np.array_equal(dataset.render(0, index), images.read(of[row.target][0]))

    def test_at_most_batch_size_at_once(self, base: Any, keypoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model, sizes = CopiesScene(SIZE), []
        model.register_forward_hook(lambda module, inputs, out: sizes.append(len(out)))
        items = online(base, model, keypoints, p=1, batch_size=10).__getitems__(list(range(24)))
        assert sizes == [10, 10, 4] and len(items) == 24

    def test_torchreids_transforms_follow(self, fresh: PoseAugmentedDataset) -> None:
        fresh.transform = T.Compose([T.Resize((64, 32)), T.ToTensor()])
        item = fresh[next(i for i in range(24) if fresh.draw_of(0, i))]
        assert item["img"].shape == (3, 64, 32) and item["synthetic"] == 1


class TestRows:
    def test_they_are_those_of_the_base(self, fresh: PoseAugmentedDataset, base: Any) -> None:
        assert (fresh.train, fresh.query, fresh.gallery) == (base.train, base.query, base.gallery)
        assert (fresh.num_train_pids, fresh.num_train_cams, fresh.num_datasets) == (6, base.num_train_cams, 1)
        assert fresh[-1]["impath"] == base.train[-1][0] and type(fresh[0]["dsetid"]) is int

    def test_query_mode_is_quiet(self, root: Path, keypoints: Path) -> None:
        query = torchreid_data.datasets.init_image_dataset("market1501", root=str(root), mode="query", verbose=False)
        dataset = online(query, "nowhere.safetensors", keypoints)
        assert dataset.data == query.query and "epoch" not in dataset[0]

    def test_combineall_shows_test_images_as_they_are(self, root: Path, warpblend: generators.Generator, keypoints: Path) -> None:
        everybody = torchreid_data.datasets.init_image_dataset("market1501", root=str(root), combineall=True, verbose=False)
        dataset = online(everybody, warpblend, keypoints, p=1)
        assert len(dataset.train) > 24 and dataset.num_train_pids == everybody.num_train_pids
        assert [i for i in range(len(dataset.train)) if dataset.draw_of(0, i)] == list(range(24))

    def test_first_in_a_sum_it_stays_online(self, fresh: PoseAugmentedDataset, base: Any, keypoints: Path) -> None:
        other = online(base, CopiesScene(SIZE), keypoints, p=1)
        joined = sum([fresh, base, other])
        plain = sum([base, base, base])
        assert joined.train == plain.train and (joined.query, joined.num_train_pids) == (base.query, 18)
        assert (joined.num_train_cams, joined.num_datasets) == (plain.num_train_cams, 3)
        own, alone, others = ([joined.draw_of(1, i) for i in range(at, at + 24)] for at in (0, 24, 48))
        assert own == [fresh.draw_of(1, i) for i in range(24)] and not any(alone) and others == [other.draw_of(1, i) for i in range(24)]
        asked = [50, 0, 30, 71]
        items, row = joined.__getitems__(asked), joined.draw_of(0, 50)
        assert [item["dsetid"] for item in items] == [2, 0, 1, 2]
        assert [item["pid"] for item in items] == [joined.train[i][1] for i in asked]
        assert row is not None
        assert np.array_equal(np.asarray(items[0]["img"]), images.read(Path(base.train[0][0]).with_name(row.target)))
        assert len(fresh.train) == 24 and {type(row[3]) for row in base.train} == {int}, "who was added is as before"

    def test_second_in_a_sum_of_torchreids_it_is_refused(self, fresh: PoseAugmentedDataset, base: Any) -> None:
        with pytest.raises(ValueError, match="an online PoseAugmentedDataset stands first where data sets are added"):
            sum([base, fresh])

    def test_a_plain_sum_is_torchreids(self, base: Any, checkpoint: Path, keypoints: Path, tmp_path: Path) -> None:
        posed = PoseAugmentedDataset(base, generator=checkpoint, poses=keypoints, cache_dir=tmp_path, per_image=1, verbose=False)
        assert type(posed + base) is torchreid_data.ImageDataset
        joined = posed + online(base, CopiesScene(SIZE), keypoints, p=1)
        assert [joined.__getitems__([i])[0]["synthetic"] for i in (0, 24, 48)] == [0, 1, 1]

    def test_the_summary_says_how_many(self, fresh: PoseAugmentedDataset, capsys: pytest.CaptureFixture[str]) -> None:
        fresh.show_summary()
        assert "24 of 24 training images rendered anew, with p = 0.7" in capsys.readouterr().out


class TestEpochs:
    def test_each_pass_draws_anew_and_set_epoch_replays(self, fresh: PoseAugmentedDataset) -> None:
        loader = DataLoader(fresh, 8, collate_fn=list)
        shown = [[np.asarray(item["img"]) for batch in loader for item in batch] for _ in range(2)]
        assert fresh.epoch == 1
        differ = [not np.array_equal(a, b) for a, b in zip(*shown, strict=True)]
        assert sum(differ) > 12
        fresh.set_epoch(0)
        again = [np.asarray(item["img"]) for batch in loader for item in batch]
        assert all(map(np.array_equal, again, shown[0]))

    def test_a_pickled_data_set_draws_the_same(self, fresh: PoseAugmentedDataset) -> None:
        for twin in (pickle.loads(pickle.dumps(fresh)), copy.deepcopy(fresh)):
            assert [twin.draw_of(2, i) for i in range(24)] == [fresh.draw_of(2, i) for i in range(24)]
            assert np.array_equal(twin.render(2, 1), fresh.render(2, 1))

    def test_it_pickles_few_tensors_however_many_poses(self, fresh: PoseAugmentedDataset) -> None:
        """Each tensor costs whoever spawns workers a file handle, of which there are a thousand."""
        counted = []

        class Counting(pickle.Pickler):
            def reducer_override(self, obj: Any) -> Any:
                counted.extend([obj] if type(obj) is torch.Tensor else [])  # parameters hold one each
                return NotImplemented

        Counting(io.BytesIO()).dump(fresh)
        weights = sum(1 for _ in fresh.online[0].augmenter.generator.state_dict())
        assert len(counted) == weights + 3, "the bank's joints and which are visible, and the epoch"

    def test_inside_other_data_sets(self, base: Any, keypoints: Path) -> None:
        fresh = online(base, CopiesScene(SIZE), keypoints)
        for around in (Subset(fresh, list(range(12))), ConcatDataset([fresh])):
            fresh.set_epoch(0, hold=False)
            epochs = [[int(item["epoch"]) for batch in DataLoader(around, 4, collate_fn=list) for item in batch] for _ in range(2)]
            assert epochs == [[0] * len(around), [1] * len(around)]

    def test_a_subclass_has_its_own_items(self, fresh: PoseAugmentedDataset) -> None:
        class Named(PoseAugmentedDataset):
            def __getitem__(self, index: int) -> dict[str, Any]:
                return super().__getitem__(index) | {"name": "mine"}

        fresh.__class__ = Named
        assert [item["name"] for item in fresh.__getitems__([1, 2])] == ["mine", "mine"]


class Threads(torch.nn.Module):
    """A transform that says how many threads its process has, and whether it is a worker."""

    def forward(self, image: Image.Image) -> torch.Tensor:
        return torch.tensor([torch.get_num_threads(), get_worker_info() is not None])


def four_threads(worker: int) -> None:
    torch.set_num_threads(4)


def test_workers_render_with_one_thread(fresh: PoseAugmentedDataset) -> None:
    fresh.transform = Threads()
    (batch,) = DataLoader(fresh, 24, num_workers=1, worker_init_fn=four_threads)
    assert batch["img"].tolist() == [[1, 1]] * 24


def manager(name: str, root: Path, workers: int, **options: Any) -> Any:
    return torchreid_data.ImageDataManager(
        root=str(root), sources=name, targets=name, height=32, width=16, batch_size_train=12, batch_size_test=64, workers=workers,
        use_gpu=False, transforms=["random_flip"], **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("loss", "sampler", "start"),
    [
        pytest.param("softmax", "RandomSampler", None),
        pytest.param("triplet", "RandomIdentitySampler", "fork"),
        pytest.param("softmax", "RandomSampler", "spawn", marks=pytest.mark.slow),
        pytest.param("triplet", "RandomIdentitySampler", "spawn", marks=pytest.mark.slow),
    ],
)
def test_torchreids_engines_train_on_it(
    loss: str, sampler: str, start: str | None, root: Path, keypoints: Path, warpblend: generators.Generator, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Two epochs of two batches: each sees its own draws, whichever way workers start, and nothing but the log is written."""
    generators.save(warpblend, tmp_path / "warpblend.safetensors")
    name = f"market1501-posed-online-{loss}-{start}"
    register(name, base="market1501", generator=tmp_path / "warpblend.safetensors", poses=keypoints, online=True, p=0.5, seed=1)
    data = manager(name, root, 0 if start is None else 2, train_sampler=sampler, num_instances=4)
    if start is not None:
        data.train_loader.multiprocessing_context = start
        data.train_loader.num_workers = 1 if start == "spawn" else 2  # each imports torch and torchreid anew
    model = torchreid_models.build_model("osnet_x0_25", data.num_train_pids, loss=loss, pretrained=False, use_gpu=False)
    optimizer = torchreid_optim.build_optimizer(model, optim="adam", lr=3e-4)
    scheduler = torchreid_optim.build_lr_scheduler(optimizer, stepsize=1)
    kind = {"softmax": torchreid_engine.ImageSoftmaxEngine, "triplet": torchreid_engine.ImageTripletEngine}[loss]
    engine, batches = kind(data, model, optimizer=optimizer, scheduler=scheduler, use_gpu=False), []
    step = engine.forward_backward
    engine.forward_backward = lambda batch: batches.append(batch) or step(batch)
    before = torch.nn.utils.parameters_to_vector(model.parameters()).clone()
    engine.run(save_dir=str(tmp_path / "log"), max_epoch=2, print_freq=1)
    assert not torch.equal(before, torch.nn.utils.parameters_to_vector(model.parameters()))
    assert "Rank-1" in capsys.readouterr().out and not list(root.glob("**/*_p[0-9]*.jpg"))
    dataset = data.train_loader.dataset
    index = {row[0]: i for i, row in enumerate(dataset.train)}
    assert [batch["epoch"].tolist() for batch in batches] == [[epoch] * 12 for epoch in range(2) for _ in range(len(batches) // 2)]
    for batch in batches:
        drawn = [dataset.draw_of(int(epoch), index[path]) for epoch, path in zip(batch["epoch"], batch["impath"], strict=True)]
        assert batch["synthetic"].tolist() == [int(row is not None) for row in drawn]
    assert {int(flag) for batch in batches for flag in batch["synthetic"]} == {0, 1}


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "line"),
        [
            ({"per_image": 2}, "per_image: for synthetic images that are written to files; online=True writes none"),
            ({"gate": {"novelty": 0.1}, "cache_dir": "x"}, "gate, cache_dir: for synthetic images"),
            ({"synthetic_dsetid": 1}, "synthetic_dsetid: for"),
            ({"reid": "x"}, "reid: for"),
            ({"draw": "recombined"}, "draw='recombined' makes new people, which are written to files"),
            ({"device": "cuda"}, r"on the CPU, got device='cuda': .* reid_aug.PoseAugmentation\(generator, bank, p\)"),
            ({"p": 1.5}, r"p is a probability in \[0, 1\], got 1.5"),
        ],
    )
    def test_what_belongs_to_files(self, options: dict, line: str, base: Any, warpblend: generators.Generator, keypoints: Path) -> None:
        with pytest.raises(ValueError, match=line):
            online(base, warpblend, keypoints, **options)

    def test_p_without_online(self, base: Any, warpblend: generators.Generator, keypoints: Path) -> None:
        with pytest.raises(ValueError, match="p is the probability of a fresh pose with online=True, got p=0.5 without"):
            PoseAugmentedDataset(base, generator=warpblend, poses=keypoints, p=0.5)

    def test_a_generator_that_is_elsewhere(self, base: Any, keypoints: Path, fresh: PoseAugmentedDataset) -> None:
        with pytest.raises(ValueError, match=r"on the CPU, the generator is on meta: generator.cpu\(\), or render whole batches on"):
            online(base, generators.create("warpblend", size=SIZE, width=4).to("meta"), keypoints)
        fresh.online[0].augmenter.generator = copy.deepcopy(fresh.online[0].augmenter.generator).to("meta")  # as a user may later
        with pytest.raises(ValueError, match="the generator is on meta"):
            fresh.render(0, next(i for i in range(24) if fresh.draw_of(0, i)))

    def test_of_another_shape(self, base: Any, keypoints: Path) -> None:
        with pytest.raises(ValueError, match="the generator renders 32 × 32 images, these people's are 32 × 16: of another shape"):
            online(base, generators.create("warpblend", size=(32, 32), width=4), keypoints)

    def test_nobody_to_augment(self, base: Any, warpblend: generators.Generator, keypoints: Path, people: list[PersonImage]) -> None:
        bank = PoseBank.collect(people, SIZE)
        poses = {name: copy.copy(pose) for name, pose in read_keypoints(keypoints, size=SIZE).items()}
        for pose in poses.values():
            pose.visible[8] = False
        with pytest.raises(ValueError, match="no training image has a pose with both shoulders and both hips"):
            online(base, warpblend, poses, bank=bank)

    def test_poses_of_the_files_are_not_those_of_the_images(self, fresh: PoseAugmentedDataset, keypoints: Path) -> None:
        with pytest.raises(ValueError, match="shows images in other poses than those of their files: take with_poses of its base"):
            with_poses(fresh, read_keypoints(keypoints, size=SIZE))
