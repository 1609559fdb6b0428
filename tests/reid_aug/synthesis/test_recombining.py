"""New people from two each: who gets whose legs, under which identity, and what the images show."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from generator_helpers import CopiesScene

import generators
from generators.pose import Pose, openpose_18
from reid_aug import Augmenter, PersonImage, PoseBank, images
from reid_aug.data.doubts import DataDoubt
from reid_aug.data.left_out import LeftOut
from reid_aug.data.market import read_market_folder
from reid_aug.synthesis.augmenter import plan
from reid_aug.synthesis.dump import GateRun, dump, gate_dump
from reid_aug.synthesis.manifest import SyntheticRow
from reid_aug.synthesis.recombining import plan_recombined
from reid_aug.synthesis.sources import not_augmented, recombinable

SIZE = (32, 16)


def hidden(person: PersonImage, *names: str) -> PersonImage:
    """The same image with joints that nobody found."""
    assert person.pose is not None
    visible = person.pose.visible.clone()
    visible[[openpose_18.index(name) for name in names]] = False
    return replace(person, pose=replace(person.pose, visible=visible))


def by_people(rows: list[SyntheticRow]) -> dict[int, list[SyntheticRow]]:
    people: dict[int, list[SyntheticRow]] = {}
    for row in rows:
        people.setdefault(row.pid, []).append(row)
    return people


class TestPlan:
    def test_everybody_gets_the_legs_of_as_many_others_on_every_image(self, train: list[PersonImage], bank: PoseBank) -> None:
        rows, who = plan_recombined(train, bank, 2, 0), {p.name: p.pid for p in train}
        pids = sorted({p.pid for p in train})
        images_of = Counter(p.pid for p in train)
        assert len(rows) == 2 * len(train) and len({row.path for row in rows}) == len(rows)
        pairs = set()
        for made in by_people(rows).values():
            (upper,), (legs,) = {who[row.target] for row in made}, {who[row.source] for row in made}
            assert upper != legs and len(made) == images_of[upper] == len({row.target for row in made})
            pairs.add((upper, legs))
        assert len(pairs) == 2 * len(pids) and Counter(upper for upper, _ in pairs) == dict.fromkeys(pids, 2)

    def test_they_are_people_nobody_is(self, train: list[PersonImage], bank: PoseBank) -> None:
        largest = max(p.pid for p in train)
        assert sorted(by_people(plan_recombined(train, bank, 2, 0))) == list(range(largest + 1, largest + 13))
        assert min(by_people(plan_recombined(train, bank, 2, 0, first_pid=900))) == 900

    @pytest.mark.filterwarnings("ignore:.*are not recombined")
    def test_legs_are_of_the_same_camera_and_nearest_in_view(self, train: list[PersonImage], bank: PoseBank) -> None:
        at = {p.name: p for p in train}
        for row in plan_recombined(train, bank, 3, 1):
            upper, legs = at[row.target], at[row.source]
            cameras = {p.camid for p in train if p.pid == legs.pid}
            assert row.camid == upper.camid and (legs.camid == upper.camid or upper.camid not in cameras)
        # Of two images by one camera, one from the same side: that one.
        front, back = train[0], replace(train[1], pid=99, camid=train[0].camid, alias="back.jpg")
        assert front.pose is not None
        turned = replace(front.pose, xy=front.pose.xy * torch.tensor([-1.0, 1.0]) + torch.tensor([15.0, 0.0]))
        people = [front, replace(back, pose=turned), replace(back, alias="front.jpg", pose=front.pose)]
        rows = plan_recombined(people, PoseBank.collect(people, SIZE), 1, 0)
        assert next(row.source for row in rows if row.target == front.name) == "front.jpg"

    def test_order_does_not_count_and_the_seed_does(self, train: list[PersonImage], bank: PoseBank) -> None:
        rows = plan(train, bank, 2, 1, draw="recombined")
        assert plan(random.Random(2).sample(train, len(train)), bank, 2, 1, draw="recombined") == rows
        assert [r.source for r in rows] != [r.source for r in plan(train, bank, 2, 2, draw="recombined")]

    def test_who_shows_no_legs_is_left_out(self, train: list[PersonImage], bank: PoseBank) -> None:
        people = [hidden(p, "l_knee") if p.pid == train[0].pid or p.name == train[-1].name else p for p in train]
        rows = plan_recombined(people, bank, 1, 0)
        assert {row.target for row in rows} == {p.name for p in train if p.pid != train[0].pid} - {train[-1].name}
        assert train[-1].name not in {row.source for row in rows}

    def test_who_shows_no_legs_is_named_with_the_reason(self, train: list[PersonImage], bank: PoseBank) -> None:
        lame, limbless = [p.name for p in train if p.pid == train[0].pid], train[-1].name
        people = [hidden(p, "l_knee") if p.name in lame else hidden(p, "l_hip") if p.name == limbless else p for p in train]
        knee, hip = "that lack a knee", "that lack a shoulder or hip"
        assert not_augmented(people, recombinable) == [*(LeftOut(name, knee) for name in lame), LeftOut(limbless, hip)]
        assert not_augmented(people) == [LeftOut(limbless, hip)]
        with pytest.warns(DataDoubt) as caught:
            plan_recombined(people, bank, 1, 0)
        first = f"{len(lame) + 1} of 24 training images are not recombined (1 of 6 people have no other): {len(lame)} {knee} ({lame[0]}, "
        (line,) = (str(one.message) for one in caught)
        assert line.startswith(first) and line.endswith(f"; 1 {hip} ({limbless})")
        with pytest.warns(DataDoubt, match=rf"1 of 24 training images are not augmented: 1 {hip} \({limbless}\)$"):
            plan(people, bank, 1, 0)

    def test_two_images_of_one_name_are_refused(self, train: list[PersonImage]) -> None:
        """In cam/b_1.jpg and cam_b/1.jpg of one camera, one would be written over the other."""
        first, second, *rest = train
        twins = [replace(first, alias="cam/b_1.jpg"), replace(second, pid=first.pid, camid=first.camid, alias="cam_b/1.jpg"), *rest]
        with pytest.raises(ValueError, match="two training images are named cam_b/1.jpg"):
            plan_recombined(twins, PoseBank.collect(twins, SIZE), 1, 0)

    def test_too_few_people_a_foreign_bank_and_test_images_are_refused(self, train: list[PersonImage], bank: PoseBank) -> None:
        with pytest.raises(ValueError, match="per_image=6 is fewer than the identities that show hips and knees, got 6"):
            plan_recombined(train, bank, 6, 0)
        with pytest.raises(ValueError, match=f"lacks {train[0].name}"):
            plan_recombined(train, bank.pick([i for i, name in enumerate(bank.names) if name != train[0].name]), 1, 0)
        with pytest.raises(ValueError, match="only training images may be augmented"):
            plan_recombined([*train, replace(train[0], split="query")], bank, 1, 0)
        with pytest.raises(ValueError, match="the images that the bank's poses came from"):
            Augmenter(CopiesScene(SIZE), replace(bank, paths=None), draw="recombined")


class TestImages:
    def test_legs_are_the_generators_and_the_rest_is_the_photograph(self, train: list[PersonImage], bank: PoseBank) -> None:
        class Red(CopiesScene):
            """Red all over, in its scene or not."""

            def forward(self, source, source_pose, target_pose, scene=None):
                self.check(source, source_pose, target_pose, scene)
                assert (scene is not None) == self.takes_scene
                return torch.tensor([1.0, -1.0, -1.0])[:, None, None].expand_as(source) * self.weight

        at = {p.name: p for p in train}
        for takes in (True, False):
            model = Red(SIZE)
            model.takes_scene = takes
            augmenter = Augmenter(model, bank, 1, draw="recombined", device="cpu", batch_size=5)
            for row, image in augmenter.render(augmenter.plan(train)[:12], train):
                person = at[row.target]
                assert person.pose is not None
                photograph = images.read(person.path, SIZE).astype(float)
                knee, shoulder = (person.pose.xy[openpose_18.index(j)].round().long() for j in ("r_knee", "r_shoulder"))
                x, y = knee.clamp(min=0).tolist()
                assert np.abs(image[min(y, 31), min(x, 15)] - np.array([255, 0, 0])).max() < 60
                above = max(int(shoulder[1]), 2)
                assert np.abs(image[:above] - photograph[:above]).max() < 8, "head and what is around it"

    def test_a_person_without_legs_in_view_stays(self) -> None:
        image, pose = torch.rand(1, 3, 32, 16), Pose.stack([Pose.unknown(openpose_18, SIZE)])
        assert torch.equal(generators.with_legs(image, image + 1, pose), image)


class TestOnDisk:
    def test_a_dump_reads_back_as_real_and_new_people_apart_from_all_others(self, people: list[PersonImage], tmp_path: Path) -> None:
        train = [p for p in people if p.split == "train"]
        augmenter = Augmenter(CopiesScene(SIZE), PoseBank.collect(train, SIZE), 2, draw="recombined", device="cpu")
        manifest = dump(people, augmenter, tmp_path / "out")
        largest = max(p.pid for p in people)
        back = read_market_folder(tmp_path / "out")
        assert {(p.name, p.pid, p.camid) for p in back if p.pid > largest} == {(Path(r.path).name, r.pid, r.camid) for r in manifest.rows}
        assert {p.pid for p in back if p.pid > largest} == set(range(largest + 1, largest + 13))
        assert manifest.made_by["draw"] == "recombined" and not manifest.verify(tmp_path / "out")
        with pytest.raises(ValueError, match="recombined people: of people nobody has photographed, neither identity nor novelty"):
            gate_dump(tmp_path / "out", GateRun(novelty=0.1))
