"""Where ranking used to be: `reid_aug.baselines.ranking`, under the name others' code imports."""

from reid_aug.baselines.ranking import Ranking, rank_distances, rank_gallery

__all__ = ["Ranking", "rank_distances", "rank_gallery"]
