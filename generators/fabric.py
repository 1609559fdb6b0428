"""Lightning Fabric as trainings use it: what knows devices, precision and processes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def make_fabric(precision: str, accelerator: str, devices: int | str) -> Fabric:
    """Make what knows devices, precision and processes; ValueError for a choice that is not available here."""
    try:
        from lightning_fabric import Fabric
    except ImportError:  # the same class where only the umbrella package is installed
        from lightning.fabric import Fabric
    try:
        fabric = Fabric(accelerator=accelerator, devices=devices, precision=precision)  # type: ignore[arg-type]
    except (RuntimeError, TypeError, ImportError) as error:  # what Lightning raises for what is not here
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"no training with accelerator={accelerator!r}, devices={devices!r}, precision={precision!r}: {reason}") from None
    fabric.launch()
    return fabric
