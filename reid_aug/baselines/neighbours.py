"""The k nearest gallery rows of each query, exactly: in blocks by torch on any device, or by faiss."""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from generators import no_such
from reid_aug.baselines.ranking import Array, distance_blocks, float32_features

_BACKENDS = ["auto", "faiss", "torch"]


def top_k(
    query_features: Array, gallery_features: Array, k: int, metric: str = "euclidean", backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Find the k rows of (G, D) nearest to each of (Q, D), nearest first: distances (Q, k), float32, and indices (Q, k), int64.

    "euclidean" is the squared distance, 0 at least; "cosine" is 1 − cosine. Results lie on the gallery's device.
    "torch" (which "auto" is) gives equal distances in the gallery's order; "faiss" searches a flat index, on the GPU
    if both the gallery and faiss can be there, and breaks ties as it likes. ValueError: features that do not fit or
    are not finite, k outside 1..G, an unknown metric or backend; ModuleNotFoundError: "faiss" without faiss.

    >>> distances, indices = top_k(torch.tensor([[0.0]]), torch.tensor([[3.0], [1.0], [2.0]]), k=2)
    >>> distances.tolist(), indices.tolist()
    ([[1.0, 4.0]], [[1, 2]])
    """
    if backend not in _BACKENDS:
        raise ValueError(no_such("backend", backend, _BACKENDS))
    blocks = distance_blocks(query_features, gallery_features, metric)
    if not 1 <= k <= len(gallery_features):
        raise ValueError(f"k is between 1 and the gallery's {len(gallery_features)} rows, got {k}")
    if backend == "faiss":
        return _faiss(query_features, gallery_features, k, metric)
    parts = [smallest(block, k) for block in blocks]
    distances, indices = (torch.cat(column) for column in zip(*parts, strict=True))
    return distances.clamp_(min=0) if metric == "euclidean" else distances, indices


def smallest(block: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the k smallest (B, k) of each column of distances (G, B), smallest first, and their rows; ties in the rows' order.

    >>> smallest(torch.tensor([[2.0], [1.0], [5.0], [1.0]]), k=2)
    (tensor([[1., 1.]]), tensor([[1, 3]]))
    """
    # One more than k shows in which columns the last place is tied: topk takes any of the tied.
    values, rows = (part.t().contiguous() for part in torch.topk(block, min(k + 1, len(block)), dim=0, largest=False))
    tied = (values[:, k - 1] == values[:, k]).nonzero()[:, 0].tolist() if values.shape[1] > k else []
    values, rows = values[:, :k], rows[:, :k]
    for column in tied:
        among = (block[:, column] <= values[column, -1]).nonzero()[:, 0]
        rows[column] = among[block[among, column].argsort(stable=True)[:k]]
    rows = rows.sort(dim=1).values
    values, order = block.gather(0, rows.t()).t().sort(dim=1, stable=True)
    return values, rows.gather(1, order)


def _faiss(query_features: Array, gallery_features: Array, k: int, metric: str) -> tuple[Tensor, Tensor]:
    """Do what `top_k` does, by a flat index of faiss."""
    faiss = _import_faiss()
    (gallery, _), (query, _) = (float32_features(x, role) for x, role in ((gallery_features, "gallery"), (query_features, "query")))
    device = gallery.device
    if metric == "cosine":
        gallery, query = (torch.nn.functional.normalize(features, dim=1) for features in (gallery, query))
        index = faiss.IndexFlatIP(gallery.shape[1])
    else:
        index = faiss.IndexFlatL2(gallery.shape[1])
    if device.type == "cuda" and hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus():
        index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), device.index or 0, index)
    index.add(gallery.cpu().numpy())
    values, indices = (torch.from_numpy(part).to(device) for part in index.search(query.cpu().numpy(), k))
    return (1 - values if metric == "cosine" else values.clamp_(min=0)), indices


def _import_faiss() -> ModuleType:
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "backend 'faiss' needs faiss: pip install faiss-cpu, or 'reid-aug[gpu]' for a GPU", name="faiss"
        ) from error
    return faiss
