"""NewPose: a person in a new pose, with the keypoints of that pose."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from generators import Generator, Pose, Skeleton, convert, named_joints, openpose_18, rescale
from reid_aug.synthesis.bank import PoseBank
from reid_aug.synthesis.online import PoseRenderer
from reid_aug.synthesis.online_draw import PoseDraw, PoseDrawer, probability
from reid_aug.synthesis.target_poses import draw_for
from reid_aug.transforms.pose_transform import PoseTransform, rewrapped

FACES, EXCHANGED = 256, 0.4  # Faces looked at before left and right are doubted, and the share of them that is too many (CUHK03 has 0.27).


class NewPose(PoseTransform):
    """Renders a sample anew, with probability `p`, in a pose drawn from `bank`, and gives it the keypoints and visibility of that pose.

    `draw` is "whole" or "compatible" ("compatible-0.3"), None the generator's own way; a generator that takes scenes is given
    the image that the pose came from, read from its file, where the bank knows it. Each image of a batch is drawn for on its
    own; who lacks a shoulder or hip stays, bit for bit. It goes first, before crops, which cut people, and before Normalize and
    Resize, and on the generator's device (`to`; on the CPU in loader workers, one thread each). Randomness is torch's, as in
    all of v2. `skeleton` says which joints the keypoints are; new ones are the bank's, scaled to the image, pixel centres at
    integers, and (0, 0) where not visible. v2.RandomHorizontalFlip moves joints but does not exchange left and right: FlipPose
    does. Where faces show that a flip before it has not (one image can't tell), ValueError says so.

    >>> import generators
    >>> from torchvision.transforms import v2
    >>> pose = Pose(torch.rand(1, 18, 2) * 16, torch.ones(1, 18, dtype=torch.bool), openpose_18, (32, 16))
    >>> new_pose = NewPose(generators.create("pg2", size=(32, 16), width=4), PoseBank(("a.jpg",), pose), p=1)
    >>> points = tv_tensors.KeyPoints(torch.rand(18, 2) * 16, canvas_size=(64, 32))
    >>> sample = {"image": torch.rand(3, 64, 32), "keypoints": points, "visible": torch.ones(18, dtype=torch.bool)}
    >>> out = v2.Compose([new_pose, v2.RandomCrop((60, 30))])(sample)
    >>> tuple(out["image"].shape), tuple(out["keypoints"].shape), out["keypoints"].canvas_size, out["visible"].all().item()
    ((3, 60, 30), (18, 2), (60, 30), True)
    >>> torch.equal(new_pose.replay(new_pose.last, sample)["image"], new_pose.replay(new_pose.last, sample)["image"])
    True
    """

    def __init__(
        self, generator: Generator, bank: PoseBank, p: float = 0.5, *, draw: str | None = None, skeleton: Skeleton = openpose_18
    ) -> None:
        super().__init__(skeleton)
        self.bank, self.targets = bank, convert(bank.pose, skeleton)
        convert(Pose.unknown(skeleton, bank.pose.size), generator.skeleton)  # refuses keypoints that the generator can't take
        self.drawer = PoseDrawer({None: bank}, p, 0, draw_for(generator, draw))
        advice = "NewPose comes before Normalize, and ToDtype(torch.float32, scale=True) makes floats of bytes"
        self.renderer = PoseRenderer(generator, {None: bank}, keep_scenes=False, advice=advice)
        self.faces, self.exchanged = 0, 0

    @property
    def p(self) -> float:
        """Return the probability that an image is rendered anew; it may be set, for a schedule."""
        return self.drawer.p

    @p.setter
    def p(self, p: float) -> None:
        self.drawer.p = probability(p)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw for image, keypoints and visibility: who is rendered anew, in which pose, recorded as a PoseDraw."""
        source = self._pose(flat_inputs)
        self._look_at_faces(source)
        self.drawer.seed, self.drawer.step = int(torch.randint(2**63 - 1, ())), 0
        draw = self.drawer.draw(source)
        return {"draw": draw, "source": source, "recorded": draw.to_json()}

    def recorded_params(self, recorded: str, three: list[Any]) -> dict[str, Any]:
        """Take a recorded draw (PoseDraw.to_json); ValueError for one of another bank or batch."""
        draw, source, names = PoseDraw.from_json(recorded), self._pose(three), self.bank.names
        if draw.batch != len(source):
            raise ValueError(f"a draw for a batch of {draw.batch} can't be replayed on {len(source)} images")
        for index, name in zip(draw.targets, draw.names, strict=True):
            if not 0 <= index < len(names) or names[index] != name:
                raise ValueError(f"the draw was made with another bank: this one has no pose {index} named {name!r}")
        return {"draw": draw, "source": source, "recorded": recorded}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Render an image, or replace keypoints or visibility, as drawn; ValueError for a mask or box, which would be of the old pose."""
        draw: PoseDraw = params["draw"]
        if isinstance(inpt, tv_tensors.TVTensor) and not isinstance(inpt, tv_tensors.Image | tv_tensors.KeyPoints):
            kind = type(inpt).__name__
            raise ValueError(f"NewPose gives image, keypoints and visibility of a new pose, whose {kind} nobody knows: take it out before")
        if not draw.rows:
            return inpt
        if isinstance(inpt, Image.Image):
            return F.to_pil_image(self._rendered(F.pil_to_tensor(inpt), params))
        plain = inpt.as_subclass(Tensor)
        if isinstance(inpt, tv_tensors.KeyPoints):
            targets = rescale(self.targets[list(draw.targets)].to(torch.float32), inpt.canvas_size).xy
            out = self._replaced(plain, draw, targets if inpt.is_floating_point() else targets.round(), single=inpt.ndim == 2)
        elif inpt.dtype == torch.bool:
            out = self._replaced(plain, draw, self.targets.visible[list(draw.targets)], single=inpt.ndim == 1)
        else:
            out = self._rendered(plain, params)
        return rewrapped(out, inpt)

    def _rendered(self, image: Tensor, params: dict[str, Any]) -> Tensor:
        """Render the drawn rows of images (3, H, W) or (B, 3, H, W), of any type that check_inputs lets pass."""
        draw: PoseDraw = params["draw"]
        rows = list(draw.rows)
        given = (image[None] if image.ndim == 3 else image)[rows]
        floats = given if given.is_floating_point() else given.float() / 255
        those = replace(draw, batch=len(rows), rows=tuple(range(len(rows))))
        rendered = self.renderer.render(floats, params["source"][rows], those)
        rendered = rendered if given.is_floating_point() else (rendered * 255).round()
        return self._replaced(image, draw, rendered, single=image.ndim == 3)

    @staticmethod
    def _replaced(before: Tensor, draw: PoseDraw, rows: Tensor, single: bool) -> Tensor:
        """Put drawn rows in their places, of the same type; the others stay bit for bit."""
        out = (before[None] if single else before).clone()
        out[list(draw.rows)] = rows.to(out.device, out.dtype)
        return out[0] if single else out

    def _pose(self, three: list[Any]) -> Pose:
        """Take the poses (B, K) of a sample, of one image as a batch of one, on the CPU: drawing goes through them one by one."""
        _, keypoints, visible = three
        pose = Pose(keypoints.as_subclass(Tensor).cpu().float(), visible.cpu(), self.skeleton, tuple(keypoints.canvas_size))
        return pose if keypoints.ndim == 3 else pose[None]

    def _look_at_faces(self, pose: Pose) -> None:
        """Count faces whose eyes and shoulders are both where a mirror shows them; ValueError where that is no accident.

        None of 9,973 faces of Market-1501's published keypoints is so, 27 in 100 of a detector's that sees faces in backs, and
        half of all after a flip with p = 0.5, whosever they are.
        """
        (nose, r_eye, l_eye, r_shoulder, l_shoulder), seen = named_joints(pose, "nose", "r_eye", "l_eye", "r_shoulder", "l_shoulder")
        mirrored = (r_eye[..., 0] > l_eye[..., 0]) & (r_shoulder[..., 0] > l_shoulder[..., 0])
        self.faces += int(seen.all(0).sum())
        self.exchanged += int((seen.all(0) & mirrored).sum())
        if self.faces >= FACES and self.exchanged > EXCHANGED * self.faces:
            raise ValueError(
                f"right eyes and shoulders lie right of left ones in {self.exchanged} of {self.faces} faces: left and right joints are "
                "exchanged; v2.RandomHorizontalFlip does that before NewPose, FlipPose does not"
            )

    def _apply(self, fn: Any, recurse: bool = True) -> NewPose:
        """Take the generator along to a device, as `to` and `cuda` say; it is no submodule, and keeps its float32."""
        super()._apply(fn, recurse)
        self.renderer.to(fn(torch.empty(0, device=self.renderer.device)).device)
        return self

    def extra_repr(self) -> str:
        generator = self.renderer.generator
        return f"{type(generator).__name__} {tuple(generator.size)}, bank of {len(self.bank)}, p={self.p}"
