"""Measured image quality as tables in Markdown: metrics beside published rows, and limb by limb."""

from __future__ import annotations

from collections.abc import Sequence

from reid_aug.quality.measure import Quality
from reid_aug.quality.metrics import Value
from reid_aug.quality.protocols import ElsewhereRow, PublishedRow


def table(measured: dict[str, Quality], rows: Sequence[PublishedRow] = ()) -> str:
    """Return a row a metric with its definition or why it is not measured, a column for everything measured or published."""
    names = list(dict.fromkeys(name for q in measured.values() for name in (*q.values, *q.missing) if " of " not in name))
    lines = [["metric", *measured, *[f"{row.method} (published)" for row in rows], "how"]]
    lines.append(["---", *["---:"] * (len(measured) + len(rows)), "---"])
    for name in names:
        cells = [_cell(quality.values.get(name)) for quality in measured.values()]
        lines.append([name, *cells, *[f"{row.values[name]:.4g}" if name in row.values else "" for row in rows], _how(name, measured)])
    return markdown(lines) + "".join(f"\n\n{row.method}: {row.source}." for row in rows)


def elsewhere_table(rows: Sequence[ElsewhereRow]) -> str:
    """Return a row a method of what was published under other conditions, and which; empty where there is none."""
    if not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    lines = [["published under other conditions", *names, "where", "what differs"], ["---", *["---:"] * len(names), "---", "---"]]
    for row in rows:
        cells = [f"{row.values[name]:.4g}" if name in row.values else "" for name in names]
        lines.append([row.method, *cells, row.source, row.why])
    return markdown(lines)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Write rows of cells as a Markdown table; the first is its head, the second says how columns are aligned.

    >>> print(markdown([["arm", "mAP"], ["---", "---:"], ["none", "37.3"]]))
    | arm | mAP |
    | --- | ---: |
    | none | 37.3 |
    """
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Value | None) -> str:
    if value is None:
        return "not measured"
    digits = 3 if abs(value.value) < 10 else 1
    return f"{value.value:.{digits}f}" + ("" if value.std is None else f" ± {value.std:.{digits}f}")


def _how(name: str, measured: dict[str, Quality]) -> str:
    """Return a metric's definition, and why there is no number of it where there is none."""
    definitions = [quality.values[name].how for quality in measured.values() if name in quality.values]
    reasons: dict[str, list[str]] = {}
    for label, quality in measured.items():
        if name in quality.missing:
            reasons.setdefault(quality.missing[name], []).append(label)
    everywhere = sum(map(len, reasons.values())) == len(measured) and len(reasons) == 1
    why = [reason if everywhere else f"{', '.join(labels)} not measured: {reason}" for reason, labels in reasons.items()]
    return "; ".join([*definitions[:1], *why])


def limb_table(measured: dict[str, Quality]) -> str:
    """Return PSNR and SSIM against the truth, limb by limb; empty where no truth is known."""
    limbs = list(dict.fromkeys(name.split(" of ")[1] for quality in measured.values() for name in quality.values if " of " in name))
    if not limbs:
        return ""
    lines = [["PSNR (dB) / SSIM", *limbs], ["---", *["---:"] * len(limbs)]]
    for label, quality in measured.items():
        if any(" of " in name for name in quality.values):
            lines.append([label, *[_psnr_and_ssim(quality, limb) for limb in limbs]])
    return markdown(lines)


def _psnr_and_ssim(quality: Quality, limb: str) -> str:
    values = [next((v.value for n, v in quality.values.items() if n.endswith(f"{what} of {limb}")), None) for what in ("PSNR", "SSIM")]
    return " / ".join("–" if value is None else f"{value:.{digits}f}" for value, digits in zip(values, (1, 3), strict=True))
