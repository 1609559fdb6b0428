"""Is the person of a synthetic image found again? Scored by its neighbours among the real images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from reid_aug.baselines.matches import Matches
from reid_aug.baselines.neighbours import MOST, top_k, usable

BLOCK_ELEMENTS = 1 << 22  # numbers in one block of a distance matrix


def identity_scores(
    synthetic: Tensor, pids: Sequence[int], real: Tensor, real_pids: Sequence[int], source: Sequence[int] | None = None,
    scene: Sequence[int] | None = None, backend: str = "auto",
) -> np.ndarray:  # fmt: skip
    """Score whether the person is found again: best cosine with the own identity's real images − best with anybody else's; float64 (N,).

    `synthetic` (N, D) and `real` (M, D) are features by a Re-ID network that was trained on the real images alone;
    `source` (N,) are rows of `real` that the images were rendered from: a source does not count, where its identity has
    other images, or a generator that merely copies would pass. `scene` (N,) are the rows in whose places the images were
    rendered, -1 for none: such an image has the same background, and counts neither for its person nor for anybody, where they
    have others. Above 0 the nearest real image is of the right person. `backend` searches (`neighbours.top_k`): faiss is asked for so
    many neighbours that a stranger is among them; torch compares with all. ValueError where an identity has no real image, there
    is no other, or features are not finite; errors of `neighbours.usable`.
    """
    backend = usable(backend)
    identity, real_identity = (torch.as_tensor(np.asarray(numbers, dtype=np.int64)) for numbers in (pids, real_pids))
    _check_features(synthetic, identity, real, real_identity)
    sources, scenes = (_rows_of_real(rows, len(identity), what) for rows, what in ((source, "sources"), (scene, "scenes")))
    if source is not None and not torch.equal(real_identity[sources], identity):
        wrong = int((real_identity[sources] != identity).nonzero()[0])
        raise ValueError(f"row {wrong} is of identity {identity[wrong]}, its source of identity {real_identity[sources[wrong]]}")
    if not len(synthetic):
        return np.zeros(0)
    synthetic, real = (F.normalize(features.float(), dim=1) for features in (synthetic, real))
    own, counted, left_out = (part.to(real.device) for part in _whom_to_compare(identity, real_identity, sources, scenes))
    neighbours = own.shape[1] + 2  # all of the person's own, a scene, and then a stranger
    if backend == "torch" or neighbours > MOST:
        return _by_all(synthetic, real, own, counted, left_out).cpu().numpy()
    return _by_neighbours(synthetic, real, own, counted, left_out, min(neighbours, len(real)), backend).cpu().numpy()


def _whom_to_compare(identity: Tensor, real_identity: Tensor, sources: Tensor, scenes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find rows of each image's own identity (N, P), padded with the first, which of them count, and a stranger's to leave out or -1."""
    nobody = np.zeros(len(identity), np.int64), np.zeros(len(real_identity), np.int64)
    matches = Matches.between(identity, real_identity, *nobody, (len(identity), len(real_identity)))
    index, _, of_person = (torch.from_numpy(part) for part in matches.rows(0, len(identity)))  # of one camera: all are "junk"
    own = torch.where(of_person, index, index[:, :1])
    in_place = own == scenes[:, None]
    counted = _without(own == sources[:, None], _without(in_place, of_person))
    # The place of a stranger is left out where there are other strangers.
    strangers = len(real_identity) - of_person.sum(1)
    left_out = torch.where((scenes >= 0) & ~(in_place & of_person).any(1) & (strangers > 1), scenes, -1)
    return own, counted, left_out


def _by_all(synthetic: Tensor, real: Tensor, own: Tensor, counted: Tensor, left_out: Tensor) -> Tensor:
    """Compare with all: one pass over the products beside making them, as the own and the scene are written over."""
    out, block = [], max(1, BLOCK_ELEMENTS // len(real))
    hidden = torch.where(left_out < 0, own[:, 0], left_out)[:, None]
    for start in tqdm(range(0, len(synthetic), block), "identity scores", unit="block", disable=None, delay=2, leave=False):
        part = slice(start, start + block)
        cosine = synthetic[part].to(real.device) @ real.T  # (b, M)
        best_same = cosine.gather(1, own[part]).masked_fill_(~counted[part], -torch.inf).amax(1)
        best_other = cosine.scatter_(1, own[part], -torch.inf).scatter_(1, hidden[part], -torch.inf).amax(1)
        out.append(best_same.double() - best_other.double())
    return torch.cat(out)


def _by_neighbours(synthetic: Tensor, real: Tensor, own: Tensor, counted: Tensor, left_out: Tensor, k: int, backend: str) -> Tensor:
    """Compare with the nearest stranger among k neighbours; who is nearest is the search's to say, how near is measured alike for both."""
    synthetic = synthetic.to(real.device)
    nearest = top_k(synthetic, real, k, "cosine", backend)[1]
    first, person = own[:, 0].unique(return_inverse=True)
    best_same, order = torch.empty_like(own[:, 0]), person.argsort()
    for rows in order.split(torch.bincount(person, minlength=len(first)).tolist()):  # of one person: they share the row of `own`
        cosine = (synthetic[rows] @ real[own[rows[0]]].T).masked_fill_(~counted[rows], -torch.inf)
        best_same[rows] = own[rows[0]][cosine.argmax(1)]
    out = []
    for start in range(0, len(synthetic), block := max(1, BLOCK_ELEMENTS // (k * own.shape[1] + 2 * real.shape[1]))):
        part = slice(start, start + block)
        strangers = (nearest[part, :, None] != own[part, None]).all(2) & (nearest[part] != left_out[part, None])
        best_other = nearest[part].gather(1, strangers.int().argmax(1, keepdim=True))[:, 0]  # the first
        pair = real[torch.stack((best_same[part], best_other), 1)].double()  # (b, 2, D)
        same, other = (synthetic[part, None].double() * pair).sum(2).unbind(1)
        out.append(same - other)
    return torch.cat(out)


def _rows_of_real(rows: Sequence[int] | None, count: int, what: str) -> Tensor:
    """Give rows (N,) of the real images, -1 where there is none; ValueError for another number of them."""
    if rows is None:
        return torch.full((count,), -1)
    if len(rows) != count:
        raise ValueError(f"{what} are as many as synthetic images, got {len(rows)} and {count}")
    return torch.as_tensor(np.asarray(rows, dtype=np.int64))


def _without(left_out: Tensor, mask: Tensor) -> Tensor:
    """Leave marked images out of those that count, both (b, M) bool, where others count too."""
    rest = mask & ~left_out
    return torch.where(rest.any(1, keepdim=True), rest, mask)


def _check_features(synthetic: Tensor, pids: Tensor, real: Tensor, real_pids: Tensor) -> None:
    if len(synthetic) != len(pids) or len(real) != len(real_pids):
        raise ValueError(f"features and identities are as many, got {len(synthetic)} and {len(pids)}, {len(real)} and {len(real_pids)}")
    if len(real_pids.unique()) < 2:
        raise ValueError(f"whether a person is found needs two identities or more among the real images, got {len(real_pids.unique())}")
    if lost := sorted(set(pids.tolist()) - set(real_pids.tolist())):
        raise ValueError(f"identity {lost[0]} has no real image to be found by")
    if not bool(synthetic.isfinite().all() & real.isfinite().all()):
        raise ValueError("features are finite numbers; the Re-ID network gave others")
