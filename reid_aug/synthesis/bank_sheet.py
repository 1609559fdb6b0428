"""A sheet of a bank's skeletons, by the side that bodies are seen from."""

from __future__ import annotations

from PIL import Image, ImageDraw

from generators import pose_picture
from reid_aug.data.body import UNKNOWN, VIEWS, view
from reid_aug.synthesis.bank import PoseBank

ACROSS, MOST = 12, 24  # skeletons in a row, and of a view
HEIGHT, TITLE, GAP = 192, 20, 6  # pixels: of a skeleton's cell, of a heading, between cells
GROUND, TEXT = (32, 32, 32), (220, 220, 220)


def draw_bank(bank: PoseBank) -> Image.Image:
    """Draw at most 24 skeletons of each view, spread evenly over the bank's, under a heading that counts them all.

    Right limbs are orange, left ones blue, as on every sheet.
    """
    height, width = bank.pose.size
    scale = max(1, round(HEIGHT / height))
    cell = (height * scale, width * scale)
    views = view(bank.pose)
    sections = []
    for number, name in (*enumerate(VIEWS), (UNKNOWN, "unknown")):
        rows = (views == number).nonzero().flatten().tolist()
        if rows:
            share = f"{name}: {len(rows):,} of {len(bank):,} poses ({100 * len(rows) / len(bank):.0f} %)"
            shown = rows if len(rows) <= MOST else [rows[i * len(rows) // MOST] for i in range(MOST)]
            sections.append((share, shown))
    lines = sum(-(-len(shown) // ACROSS) for _, shown in sections)
    across = max(min(ACROSS, len(shown)) for _, shown in sections)
    size = max(320, across * (cell[1] + GAP) + GAP), len(sections) * TITLE + lines * (cell[0] + GAP) + GAP
    sheet = Image.new("RGB", size, GROUND)
    write, top = ImageDraw.Draw(sheet), GAP
    for heading, shown in sections:
        write.text((GAP, top), heading, fill=TEXT)
        top += TITLE
        for i, row in enumerate(shown):
            at = GAP + i % ACROSS * (cell[1] + GAP), top + i // ACROSS * (cell[0] + GAP)
            sheet.paste(pose_picture(bank.pose[row], scale=scale), at)
        top += -(-len(shown) // ACROSS) * (cell[0] + GAP)
    return sheet
