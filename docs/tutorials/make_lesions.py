"""Write simulated pictures of skin lesions with a clinical table.

    python docs/tutorials/make_lesions.py FOLDER

images/ has a picture of 32 x 32 pixels for most of 900 patients, clinical.csv a row for most of them, and truth.csv a row without gaps for all. A picture shows an
ellipse whose size, darkness and border depend on the table: diameter, grade and site. Its place, angle and texture are its own.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

PATIENTS, SIDE = 900, 32
SITES, GRADES = ("arm", "back", "face"), ("benign", "atypical", "malignant")
SKIN = np.array([[0.93, 0.78, 0.65], [0.86, 0.68, 0.56], [0.96, 0.84, 0.76]])


def main(folder, seed=0):
    rng = np.random.default_rng(seed)
    n, ids = PATIENTS, [f"P{number:03d}" for number in range(PATIENTS)]
    site = rng.integers(0, 3, n)
    grade = rng.choice(3, n, p=[0.5, 0.3, 0.2])
    diameter = np.exp(1.5 + 0.25 * grade + 0.25 * rng.normal(size=n))
    table = pd.DataFrame(
        {
            "age": np.round(np.clip(42 + 8 * grade + 14 * rng.normal(size=n), 5, 95)),
            "diameter": np.round(diameter, 1),
            "site": np.array(SITES)[site],
            "grade": np.array(GRADES)[grade],
            "itching": np.where(rng.random(n) < np.array([0.15, 0.4, 0.7])[grade], "yes", "no"),
            "moles": rng.poisson(4 + 3 * grade),
        },
        pd.Index(ids, name="patient"),
    )
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "truth.csv")
    for row in range(n):
        angle, shift = rng.uniform(0, np.pi), rng.uniform(-2.5, 2.5, 2)
        u, v = x - shift[0], y - shift[1]
        u, v = u * np.cos(angle) + v * np.sin(angle), (v * np.cos(angle) - u * np.sin(angle)) * 1.25
        theta = np.arctan2(v, u)
        ragged = 0.05 + 0.11 * grade[row]
        edge = 1 + ragged * np.sin(3 * theta + rng.uniform(0, 6)) + 0.7 * ragged * np.sin(5 * theta + rng.uniform(0, 6))
        inside = 1 / (1 + np.exp(2.0 * (np.hypot(u, v) - 1.3 * diameter[row] * edge)))
        skin = SKIN[site[row]] + 0.02 * rng.normal(size=3)
        dark = np.array([0.55, 0.36, 0.26]) * (1 - 0.27 * grade[row]) + 0.04 * rng.normal(size=3)
        picture = skin + (dark - skin) * inside[..., None] + 0.02 * rng.normal(size=(SIDE, SIDE, 3))
        if rng.random() < 0.9:
            Image.fromarray((255 * np.clip(picture, 0, 1)).astype(np.uint8)).save(folder / "images" / f"{ids[row]}.png")
    gaps = rng.random(table.shape) < 0.1
    table.mask(gaps)[rng.random(n) < 0.85].to_csv(folder / "clinical.csv")


def draw(rows, file):
    """Rows of pictures with a title each."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    wide = max(len(pictures) for _, pictures in rows)
    figure, axes = pyplot.subplots(len(rows), wide, figsize=(0.75 * wide + 2.2, 0.78 * len(rows)))
    for line, (title, pictures) in zip(axes, rows):
        for axis, picture in zip(line, pictures):
            axis.imshow(np.clip(np.moveaxis(np.asarray(picture), 0, -1), 0, 1))
        line[0].set_ylabel(title, fontsize=8, rotation=0, ha="right", va="center")
        for axis in line:
            axis.set(xticks=[], yticks=[])
            for side in axis.spines.values():
                side.set_visible(False)
    figure.subplots_adjust(left=2.1 / (0.75 * wide + 2.2), right=0.995, top=0.99, bottom=0.01, wspace=0.06, hspace=0.06)
    figure.savefig(file, dpi=70)
    pyplot.close(figure)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "lesions")
