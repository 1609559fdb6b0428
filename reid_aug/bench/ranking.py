"""Ranking under its earlier name, which code elsewhere imports; it is in `reid_aug.baselines.ranking`."""

from reid_aug.baselines.ranking import Ranking, rank_distances, rank_gallery

__all__ = ["Ranking", "rank_distances", "rank_gallery"]
