"""Pose-conditioned person generators: one paper a file, one contract for all. This is the front door."""

from generators.base import Generator, PosePair
from generators.pose import Pose, Skeleton
from generators.registry import create, load, names, save
from generators.training import train

__all__ = ["Generator", "Pose", "PosePair", "Skeleton", "create", "load", "names", "save", "train"]
