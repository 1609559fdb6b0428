"""What a report says of equal tuning: what was tried, on whom, every trial's score and the setting chosen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from reid_aug.bench.trials import Tuned
from reid_aug.bench.tuning import WEIGHT_DECAY, Setting
from reid_aug.quality.tables import markdown

UNTUNED = "No arm was tuned: each has the baseline's own settings and as many steps."


def about_tuning(tuned: Sequence[Tuned]) -> str:
    """Say in a sentence how arms were tuned."""
    if not tuned:
        return UNTUNED
    return f"Every arm was tuned by {len(tuned[0].settings)} trials under each baseline (see Tuning), and has as many steps."


def tuning_section(tuned: Sequence[Tuned], notes: str) -> Iterator[str]:
    """Yield the parts of the report: what was done, and for every baseline its trials' scores, with the chosen one in bold."""
    if not tuned:
        return
    line = tuned[0].lines[0]
    seeds = sorted({each["seed"] for each in tuned[0].lines})
    yield "## Tuning"
    yield (
        f"{len(tuned[0].settings)} trials an arm, its own setting first. A trial trains for as many steps as the arm itself, on "
        f"{line['identities']} of the training identities, and is scored by mAP on the other {line['held_out']}, each of whose images is a "
        f"query against all others by other cameras (seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}). The best setting, the "
        f"first of equals, is then trained on all, as the tables above have it; test people played no part. {notes}"
    )
    several = len({each.baseline for each in tuned}) > 1
    groups: dict[tuple[str, tuple[Setting, ...]], list[Tuned]] = {}
    for each in tuned:
        groups.setdefault((each.baseline, each.settings), []).append(each)
    for (baseline, settings), arms in groups.items():
        heads = [f"mAP of trials{f' under `{baseline}`' if several else ''}", *map(_shown, settings), "chosen"]
        yield markdown([heads, ["---", *["---:"] * len(settings), "---"], *([each.arm, *_scores(each), _values(each)] for each in arms)])


def _shown(setting: Setting) -> str:
    """Write a setting as the head of a column.

    >>> _shown(Setting(3.0, "share", 0.25)), _shown(Setting(1.0, "weight_decay", 10.0)), _shown(Setting())
    ('rate × 3, share 0.25', 'decay × 10', 'own')
    """
    beside = f"decay × {setting.value:g}" if setting.knob == WEIGHT_DECAY and setting.value else f"{setting.knob} {setting.value or 0:g}"
    parts = [f"rate × {setting.rate:g}"] * (setting.rate != 1) + [beside] * (setting.value is not None)
    return ", ".join(parts) or "own"


def _scores(tuned: Tuned) -> Iterator[str]:
    for setting, score in zip(tuned.settings, tuned.scores, strict=True):
        text = "diverged" if score is None else f"{100 * score:.1f}"
        yield f"**{text}**" if setting == tuned.chosen else text


def _values(tuned: Tuned) -> str:
    """Write the values of the setting chosen."""
    place = tuned.settings.index(tuned.chosen) * (len(tuned.lines) // len(tuned.settings))
    values = tuned.lines[place]["setting"]
    return ", ".join(f"{key} {'uncapped' if value is None else f'{value:g}'}" for key, value in values.items())
