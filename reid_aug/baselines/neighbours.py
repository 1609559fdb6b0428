"""The k nearest gallery rows of each query, exactly: in blocks by torch on any device, or by faiss; and rank-1, which asks no more."""

from __future__ import annotations

from types import ModuleType
from typing import Annotated

import numpy as np
import torch
from pydantic import AfterValidator
from torch import Tensor

from generators import no_such
from reid_aug.baselines.matches import Labels, Matches, labels
from reid_aug.baselines.ranking import Array, distance_blocks, float32_features, rank_gallery

BACKENDS = ("auto", "torch", "faiss-cpu", "faiss-gpu")
MOST = 2048  # neighbours that faiss finds on a GPU
_STRIP = 64  # rows whose smallest distance is looked at first
_FOR_GPU = "pip uninstall faiss-cpu && pip install faiss-gpu-cu12"


def check_backend(backend: str) -> str:
    """Return `backend` when there is such a one; ValueError names those there are and the nearest."""
    if backend not in BACKENDS:
        raise ValueError(no_such("backend", backend, BACKENDS))
    return backend


Backend = Annotated[str, AfterValidator(check_backend)]


def usable(backend: str) -> str:
    """Return the backend that is meant, when it can be had here: "auto" is "torch" (benchmarks/README.md has the measurements).

    ValueError for an unknown one and for a GPU that faiss does not see, ModuleNotFoundError, with the command that
    installs it, for a faiss that is not there.
    """
    if check_backend(backend).startswith("faiss"):
        _faiss_module(backend)
        return backend
    return "torch"


def top_k(
    query_features: Array, gallery_features: Array, k: int, metric: str = "euclidean", backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Find the k rows of (G, D) nearest to each of (Q, D), nearest first: distances (Q, k), float32, and indices (Q, k), int64.

    "euclidean" is the squared distance, 0 at least; "cosine" is 1 − cosine. Results lie on the gallery's device.
    "torch" (which "auto" is) searches there and gives equal distances in the gallery's order; "faiss-cpu" and "faiss-gpu"
    search a flat index, whose distances may be another last bit, and of rows equally far take any as the last.
    ValueError: features that do not fit or are not finite, k outside 1..G (for "faiss-gpu" of 2048 at most), an
    unknown metric; errors of `usable`.

    >>> distances, indices = top_k(torch.tensor([[0.0]]), torch.tensor([[3.0], [1.0], [2.0]]), k=2)
    >>> distances.tolist(), indices.tolist()
    ([[1.0, 4.0]], [[1, 2]])
    """
    backend = usable(backend)
    blocks = distance_blocks(query_features, gallery_features, metric)
    if not 1 <= k <= len(gallery_features):
        raise ValueError(f"k is between 1 and the gallery's {len(gallery_features)} rows, got {k}")
    if backend != "torch":
        return _by_faiss(query_features, gallery_features, k, metric, backend)
    parts = [smallest(block, k) for block in blocks]
    distances, indices = (torch.cat(column) for column in zip(*parts, strict=True))
    return distances.clamp_(min=0) if metric == "euclidean" else distances, indices


def smallest(block: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the k smallest (B, k) of each column of distances (G, B), smallest first, and their rows; ties in the rows' order.

    >>> smallest(torch.tensor([[2.0], [1.0], [5.0], [1.0]]), k=2)
    (tensor([[1., 1.]]), tensor([[1, 3]]))
    """
    total, columns = block.shape
    # The k strips of rows with the smallest minima hold k distances within the largest of these: so are the k smallest, and few others.
    strip = max(1, min(_STRIP, total // (2 * k)))
    strips = block[: total // strip * strip].view(-1, strip, columns).amin(dim=1) if strip > 1 else block
    bound = torch.topk(strips, k, dim=0, largest=False).values[-1]
    flat = _true_places(block <= bound)
    rows, column = flat // columns, flat % columns
    values = block.view(-1)[flat] if block.is_contiguous() else block[rows, column]
    order = values.argsort(stable=True)
    order = order[column[order].argsort(stable=True)]  # by column, then distance, then row
    count = torch.bincount(column, minlength=columns)
    chosen = order[(count.cumsum(0) - count)[:, None] + torch.arange(k, device=block.device)]
    return values[chosen], rows[chosen]


def _true_places(mask: Tensor) -> Tensor:
    """Find where a mask is true, as indices into its elements; numpy's way is the quicker one on a CPU."""
    return mask.flatten().nonzero()[:, 0] if mask.is_cuda else torch.from_numpy(np.flatnonzero(mask.numpy()))


def rank1(
    query_features: Array, gallery_features: Array,
    query_pids: Labels, gallery_pids: Labels, query_camids: Labels, gallery_camids: Labels,
    metric: str = "euclidean", *, scene_camids: Labels | None = None, backend: str = "auto",
) -> tuple[float, int]:  # fmt: skip
    """Give rank-1, as `rank_gallery` defines it, and the number of valid queries, from nearest neighbours alone.

    Of the nearest as many are looked at as a query has junk, and one: the first that is no junk is right or wrong. Where that
    is much of the gallery, the gallery is ranked. Errors of `rank_gallery` and `usable`.

    >>> query, gallery = torch.tensor([[0.0]]), torch.tensor([[1.0], [2.0], [3.0]])
    >>> rank1(query, gallery, [7], [8, 7, 7], [0], [1, 0, 1])  # a stranger is nearest
    (0.0, 1)
    """
    backend, shape = usable(backend), (len(query_features), len(gallery_features))
    who = query_pids, gallery_pids, query_camids, gallery_camids
    matches = Matches.between(*who, shape, scene_camids)
    _, positive, junk = matches.rows(0, shape[0])
    valid = positive.any(axis=1)
    looked_at = int(junk[valid].sum(axis=1).max(initial=0)) + 1
    if not valid.any() or looked_at > min(MOST, max(1, shape[1] // 8)):
        ranking = rank_gallery(query_features, gallery_features, *who, metric, 1, scene_camids=scene_camids)
        return float(ranking.cmc[0]), int(ranking.valid.sum())
    nearest = top_k(query_features, gallery_features, looked_at, metric, backend)[1].cpu().numpy()
    same = labels(gallery_pids, "gallery_pids", shape[1])[nearest] == labels(query_pids, "query_pids", shape[0])[:, None]
    cameras = matches.gallery_camids[nearest]
    left_out = same & ((cameras == matches.query_camids[:, None]) | (cameras == matches.scene_camids[:, None]))
    first = (~left_out).argmax(axis=1)
    right = same[np.arange(shape[0]), first]
    return float(right[valid].sum() / valid.sum()), int(valid.sum())


def _by_faiss(query_features: Array, gallery_features: Array, k: int, metric: str, backend: str) -> tuple[Tensor, Tensor]:
    """Do what `top_k` does, by a flat index of faiss; those it finds equally far are put into the gallery's order."""
    faiss = _faiss_module(backend)
    (gallery, _), (query, _) = (float32_features(x, role) for x, role in ((gallery_features, "gallery"), (query_features, "query")))
    device = gallery.device
    if metric == "cosine":
        gallery, query = (torch.nn.functional.normalize(features, dim=1) for features in (gallery, query))
        index = faiss.IndexFlatIP(gallery.shape[1])
    else:
        index = faiss.IndexFlatL2(gallery.shape[1])
    if backend == "faiss-gpu":
        if k > MOST:
            raise ValueError(f"backend 'faiss-gpu' finds {MOST} neighbours at most, got k={k}: give torch")
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), device.index or 0, index)
    index.add(gallery.cpu().numpy())
    values, indices = (torch.from_numpy(part) for part in index.search(query.cpu().numpy(), k))
    distances = 1 - values if metric == "cosine" else values.clamp_(min=0)
    indices, order = indices.sort(dim=1)
    distances, again = distances.gather(1, order).sort(dim=1, stable=True)
    return distances.to(device), indices.gather(1, again).to(device)


def _faiss_module(backend: str) -> ModuleType:
    """Import faiss, fit for this backend; errors of `usable`."""
    try:
        import faiss
    except ModuleNotFoundError as error:
        command = _FOR_GPU.partition("&& ")[2] if backend == "faiss-gpu" else "pip install faiss-cpu"
        raise ModuleNotFoundError(f"backend {backend!r} needs faiss: {command}", name="faiss") from error
    if backend == "faiss-gpu" and not hasattr(faiss, "StandardGpuResources"):
        raise ModuleNotFoundError(f"backend 'faiss-gpu' needs a faiss built for GPUs, got one for CPUs: {_FOR_GPU}", name="faiss")
    if backend == "faiss-gpu" and not faiss.get_num_gpus():
        raise ValueError("backend 'faiss-gpu' needs a GPU that faiss sees, got none: give torch or faiss-cpu")
    return faiss
