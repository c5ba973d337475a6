"""Write simulated recordings of three body sensors, of different lengths and with gaps.

    python docs/tutorials/make_sensors.py FOLDER

sensors.npz has accelerometer [N, 3, 64], pulse [N, 1, 64] and breathing [N, 1, 64], NaN where nothing was measured, and the activity [N]. All three
follow from the activity and its intensity: a faster step means a higher pulse and faster breathing. The phase of each sensor is its own.
"""

import sys
from pathlib import Path

import numpy as np

RECORDINGS, STEPS = 600, 64
ACTIVITIES = ("rest", "walk", "run", "cycle")
CADENCE, LOAD = np.array([0.0, 0.9, 1.6, 1.1]), np.array([0.0, 0.35, 0.85, 0.75])
LOST = {"accelerometer": 0.1, "pulse": 0.25, "breathing": 0.35}  # the share of recordings that lack a sensor


def main(folder, seed=0):
    rng = np.random.default_rng(seed)
    n, t = RECORDINGS, np.arange(STEPS) / 8  # seconds
    activity = rng.integers(0, 4, n)
    effort = np.clip(LOAD[activity] + 0.12 * rng.normal(size=n), 0, 1.2)
    cadence = CADENCE[activity] * (0.8 + 0.4 * effort)
    phase = 2 * np.pi * rng.random((3, n, 1))

    def wave(frequency, phase):
        return np.sin(2 * np.pi * frequency[:, None] * t + phase)

    swing = (0.05 + effort * np.where(activity == 3, 0.3, 1.0))[:, None]
    tilt = np.where(activity == 3, 0.8, 0.0)[:, None] + 0.1 * rng.normal(size=(n, 1))  # leaning over the bicycle
    body = np.stack([swing * wave(cadence, phase[0]), 0.6 * swing * wave(2 * cadence, phase[0]), tilt + 0 * t], 1)
    sensors = {
        "accelerometer": body + 0.1 * rng.normal(size=(n, 3, STEPS)),
        "pulse": (60 + 100 * effort[:, None] + 2 * effort[:, None] * t + 3 * wave(0.1 + 0 * effort, phase[1]))[:, None],
        "breathing": ((0.5 + effort[:, None]) * wave(0.2 + 0.4 * effort, phase[2]))[:, None],
    }
    sensors["pulse"] += 4 * rng.normal(size=sensors["pulse"].shape)
    sensors["breathing"] += 0.1 * rng.normal(size=sensors["breathing"].shape)
    length = rng.integers(40, STEPS + 1, n)
    kept = {name: rng.random(n) > share for name, share in LOST.items()}
    kept["accelerometer"] |= ~(kept["pulse"] | kept["breathing"])  # every recording has a sensor
    for name, x in sensors.items():
        start, gap = rng.integers(0, 40, n), rng.integers(0, 13, n)  # a loose contact
        place = np.arange(STEPS)
        lost = (place >= start[:, None]) & (place < (start + gap)[:, None])
        x[np.broadcast_to((lost | (place >= length[:, None]))[:, None], x.shape)] = np.nan
        x[~kept[name]] = np.nan
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    activity = np.array(ACTIVITIES)[activity]
    np.savez_compressed(folder / "sensors.npz", activity=activity, **{name: x.astype(np.float32) for name, x in sensors.items()})


def draw(given, truth, drawn, file):
    """Breathing and pulse of four recordings, as measured and as drawn from the accelerometer alone."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, 4, figsize=(8, 4.2), sharex=True, sharey="row", layout="constrained")
    seconds = np.arange(STEPS) / 8
    for column, (title, acceleration) in enumerate(given):
        axes[0, column].set_title(title, fontsize=9)
        axes[0, column].plot(seconds, acceleration[0], color="black", lw=1)
        for row, name in enumerate(drawn, 1):
            for one in drawn[name][:, column, 0]:
                axes[row, column].plot(seconds, one, color="#4477aa", lw=0.7, alpha=0.6)
            axes[row, column].plot(seconds, truth[name][column, 0], color="black", lw=1)
        axes[-1, column].set_xlabel("seconds", fontsize=8)
    for row, name in enumerate(("accelerometer (given)", *drawn)):
        axes[row, 0].set_ylabel(name, fontsize=8)
    for axis in axes.flat:
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=90)
    pyplot.close(figure)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "sensors")
