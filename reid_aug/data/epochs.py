"""The epoch of a data set that nobody tells: kept in shared memory, moved on by what loaders ask for."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import get_worker_info

MAIN, UNSET = 0, 1  # Who asks, where it is no worker; who asked, where nobody did.
_HELD = 1 << 62
_TOKEN_BITS = 31
LAST = 2**31 - 1


class SharedEpoch:
    """Counts the passes over `rows` rows from 0, alike in the process that made it and in its DataLoader workers.

    torchreid's engines and DataLoader tell a data set nothing. But workers of one pass share a seed that those of the next do
    not, and a batch that holds a row of an earlier batch is of another pass: either moves the epoch on. So it counts right with
    workers that are made anew, that persist, or none, while no row comes in two batches of a pass: torchreid's samplers keep to
    that, and with `drop_last` less than a batch is left out, so that the next pass shows itself at once. With samplers that
    repeat rows it runs ahead; `set` tells it. Workers get it by fork and by spawn, as DataLoader starts them; a pickled or
    deep copy counts on its own.

    >>> epoch = SharedEpoch(4)
    >>> [epoch.of(batch) for batch in ([2, 0], [1, 3], [3, 2], [0, 1], [2, 0])]
    [0, 0, 1, 1, 2]
    """

    def __init__(self, rows: int, epoch: int = 0) -> None:
        # One word for the epoch and whose it is, so that no worker sees the one without the other; then each row's last epoch.
        self._shared = torch.full((1 + rows,), -1, dtype=torch.int64).share_memory_()
        self.set(epoch, hold=False)

    @property
    def epoch(self) -> int:
        """Return the epoch of the rows that were asked for last."""
        return self._parts()[0]

    def set(self, epoch: int, *, hold: bool = True) -> None:
        """Say which epoch it is: until the next call, or with `hold=False` until the next pass; ValueError outside 0..2**31 − 1."""
        if not 0 <= epoch <= LAST:
            raise ValueError(f"an epoch is in 0..{LAST}, got {epoch}")
        self._shared[1:] = -1
        self._write(int(epoch), UNSET, hold)

    def of(self, rows: Sequence[int]) -> int:
        """Return the epoch of a batch of rows (indices from 0), which a loader asks for now, and remember that it did."""
        epoch, stored, held = self._parts()
        info = get_worker_info()
        token = MAIN if info is None else 2 + (info.seed - info.id) % ((1 << _TOKEN_BITS) - 2)
        where = 1 + torch.tensor(list(rows), dtype=torch.int64)
        repeated = bool((self._shared[where] == epoch).any())
        if held and repeated:
            warnings.warn(
                f"rows come a second time in epoch {epoch}, and are drawn as before: set_epoch({epoch + 1}) begins the next, "
                f"set_epoch({epoch}, hold=False) lets epochs move on by themselves", stacklevel=4,
            )  # fmt: skip
        elif not held and (repeated or (token != MAIN and stored not in (UNSET, token))):
            # Workers that see this at once write the same: nobody asks for the next pass before all of this one was given.
            epoch += 1
            self._write(epoch, token, held=False)
        elif not held and stored == UNSET:
            self._write(epoch, token, held=False)
        self._shared[where] = epoch
        return epoch

    def _parts(self) -> tuple[int, int, bool]:
        word = int(self._shared[0])
        return word >> _TOKEN_BITS & LAST, word & (1 << _TOKEN_BITS) - 1, bool(word & _HELD)

    def _write(self, epoch: int, token: int, held: bool) -> None:
        self._shared[0] = epoch << _TOKEN_BITS | token | (_HELD if held else 0)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not self._shared.is_shared():  # a copy by pickle, unlike what DataLoader sends its workers
            self._shared.share_memory_()
