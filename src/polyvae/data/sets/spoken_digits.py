"""Spoken and written digits: clips of the Free Spoken Digit Dataset as log-mel frames, paired with MNIST by label."""

from __future__ import annotations

import io
import os
import re
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polyvae.core.modality import Modality
from polyvae.data.multimodal import MultimodalData
from polyvae.data.sets.arrays import npz
from polyvae.data.sets.mnist import mnist
from polyvae.data.sets.pairing import pair_by_label
from polyvae.utils.errors import InputError, check_count, reading
from polyvae.utils.files import read_bytes

RATE = 8_000  # samples a second
WINDOW, HOP = 256, 128  # samples: 32 and 16 ms
RANGE = 80.0  # decibels below the loudest value of a clip that are kept
_TEST_TAKES = 5  # takes 0 to 4 of each speaker and digit are the test part, as its authors recommend
_LARGEST = 2**20  # bytes of a clip
_NAME = re.compile(r"(\d)_([a-z]+)_(\d+)\.wav")
_PLACES = ("fsdd_spoken_digits/recordings", "free-spoken-digit-dataset/recordings", "recordings")
_WANTED = {"audio": ("i", 1), "offset": ("iu", 1), "digit": ("iu", 1), "speaker": ("U", 1), "take": ("iu", 1)}


class Clips(NamedTuple):
    """N clips: ``sound`` in 8,000 samples a second, and ``digit``, ``speaker`` and ``take`` [N]."""

    sound: list[NDArray[np.float64]]
    digit: NDArray[np.int64]
    speaker: list[str]
    take: NDArray[np.int64]


def spoken_digits(
    *,
    root: Path,
    bands: int = 32,
    frames: int = 64,
    seed: int = 0,
    train: int = 10_000,
    test: int = 2_000,
) -> MultimodalData:
    """Pairs of "audio" [bands, frames] and "image" [1, 28, 28] of the same digit; labels are the digits.

    Audio is a log-mel spectrogram in [0, 1]: 1 is the loudest value of the clip, 0 is 80 dB less. Frames after the end of a clip are
    not observed; longer clips are cut. Windows are 32 ms long and 16 ms apart. The factor of the audio is the speaker, in alphabetical
    order. No training pair shares its clip or its image with a test pair.

    Args:
        root: The folder that contains ``mnist/`` and ``fsdd_spoken_digits/`` with ``recordings/<digit>_<speaker>_<take>.wav``, or with
            the same clips in one file ``fsdd.npz``.
        bands: Mel bands between 0 and 4 kHz.
        frames: The largest number of frames.
        seed: What pairs are a function of.
        train: The number of training pairs.
        test: The number of test pairs.

    Raises:
        InputError: Files that are missing or damaged.
    """
    for key, value, least in (
        ("bands", bands, 1),
        ("frames", frames, 1),
        ("train", train, 1),
        ("test", test, 1),
    ):
        check_count("spoken_digits", key, value, least)
    clips, images = _clips(root), mnist(root)
    sound = np.zeros((len(clips.sound), bands, frames), np.uint8)
    heard = np.zeros((len(clips.sound), frames), dtype=bool)
    weights = mel_weights(bands)
    for row, clip in enumerate(clips.sound):
        made = log_mel(clip, weights)[:, :frames]
        sound[row, :, : made.shape[1]] = np.floor(made * 255 + 0.5).astype(np.uint8)
        heard[row, : made.shape[1]] = True
    held = clips.take < _TEST_TAKES
    audio, image, label = [], [], []
    for part, (count, own, digits) in enumerate(((train, ~held, images[0]), (test, held, images[1]))):
        rows = np.flatnonzero(own)
        if not len(rows):
            raise InputError(
                "spoken_digits: got clips of the training or the test part alone; expected takes 0 to 4 and later ones; "
                "add the files of the other part"
            )
        digit, base = pair_by_label([clips.digit[rows], digits.labels], count, seed, part)
        audio.append(rows[base[0]])
        image.append(digits.images[base[1]])
        label.append(digit)
    chosen = np.concatenate(audio)
    speakers = sorted(set(clips.speaker))
    return MultimodalData(
        {"audio": sound[chosen], "image": np.concatenate(image)[:, None]},
        entries={"audio": np.repeat(heard[chosen][:, None], bands, 1)},
        labels=np.concatenate(label),
        factors={"audio": {"speaker": np.array([speakers.index(name) for name in clips.speaker])[chosen]}},
        splits={"train": range(train), "test": range(train, train + test)},
        modalities=[
            Modality("audio", (bands, frames), network="series", params={"scale": 0.1}),
            Modality("image", (1, 28, 28), params={"scale": 0.2}),
        ],
        scale={"audio": 1 / 255, "image": 1 / 255},
        seed=seed,
        root=root,
        card={
            "name": "spoken_digits",
            "version": 1,
            "what": "a digit that is spoken and one that is written; only the digit is shared",
            "source": "Free Spoken Digit Dataset (Jackson et al.), MNIST (LeCun, Cortes, Burges 1998)",
            "licence": "FSDD: CC BY-SA 4.0; MNIST states none",
            "frames": f"log-mel, {bands} bands, windows of {WINDOW} and steps of {HOP} samples at {RATE} Hz, {RANGE:g} dB",
            "split": "takes 0 to 4 of each speaker and digit are the test part",
            "speakers": speakers,
        },
    )


def mel_weights(bands: int) -> NDArray[np.float64]:
    """Triangles between points that are equally spaced on the mel scale, 2595 log10(1 + f / 700): [bands, WINDOW / 2 + 1]."""
    top = 2595 * np.log10(1 + RATE / 2 / 700)
    points = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    found = np.fft.rfftfreq(WINDOW, 1 / RATE)
    below, centre, above = points[:-2, None], points[1:-1, None], points[2:, None]
    return np.clip(
        np.minimum((found - below) / (centre - below), (above - found) / (above - centre)), 0, None
    )


def log_mel(sound: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """A clip [n] as frames in [0, 1]: [bands, frames]; a clip shorter than a window is padded to one."""
    sound = np.pad(sound, (0, max(0, WINDOW - len(sound))))
    windows = np.lib.stride_tricks.sliding_window_view(sound, WINDOW)[::HOP]
    power = np.abs(np.fft.rfft(windows * np.hanning(WINDOW), axis=-1)) ** 2
    mel = weights @ power.T
    most = mel.max()
    if most <= 0:
        return np.zeros_like(mel)
    return np.asarray(np.clip(1 + 10 * np.log10(np.maximum(mel / most, 10 ** (-RANGE / 10))) / RANGE, 0, 1))


def _clips(root: Path) -> Clips:
    folder = next((root / place for place in _PLACES if os.path.isdir(root / place)), None)
    packed = root / "fsdd_spoken_digits" / "fsdd.npz"
    if folder is None and os.path.lexists(packed):
        return _packed(packed)
    if folder is None:
        raise InputError(
            f"{root / _PLACES[0]}: there is no such folder; expected <digit>_<speaker>_<take>.wav there; put the recordings of "
            "Jakobovski/free-spoken-digit-dataset there"
        )
    found = sorted(
        (match.groups(), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name))
    )
    if not found:
        raise InputError(
            f"{folder}: got no clip; expected files named <digit>_<speaker>_<take>.wav; put the recordings there"
        )
    facts = [facts for facts, _ in found]
    return Clips(
        [_wave(path) for _, path in found],
        np.array([int(digit) for digit, _, _ in facts]),
        [speaker for _, speaker, _ in facts],
        np.array([int(take) for _, _, take in facts]),
    )


def _wave(path: Path) -> NDArray[np.float64]:
    from scipy.io import wavfile  # here: a mere import of polyvae needs no scipy

    with reading(str(path), f"a WAV file of {RATE} Hz", "put a sound copy there"):
        rate, sound = wavfile.read(io.BytesIO(read_bytes(path, _LARGEST)))
    if rate != RATE or sound.ndim != 1 or not len(sound):
        raise InputError(
            f"{path}: got {rate} Hz and shape {sound.shape}; expected {RATE} Hz and one channel; put a sound copy there"
        )
    return np.asarray(sound, dtype=np.float64)


def _packed(path: Path) -> Clips:
    arrays = npz(path, _WANTED, "")
    edges, count = arrays["offset"].astype(np.int64), len(arrays["digit"])
    sizes = {len(arrays[name]) for name in ("digit", "speaker", "take")} | {len(edges) - 1}
    if (
        sizes != {count}
        or count == 0
        or edges[0] != 0
        or edges[-1] != len(arrays["audio"])
        or (np.diff(edges) <= 0).any()
    ):
        raise InputError(
            f"{path}: got clips that do not fit their offsets; expected one offset more than clips; put a sound copy there"
        )
    digit = arrays["digit"].astype(np.int64)
    if not ((digit >= 0) & (digit <= 9)).all():
        raise InputError(
            f"{path}: digit: got {digit.min()} to {digit.max()}; expected 0 to 9; put a sound copy there"
        )
    sound = [arrays["audio"][a:b].astype(np.float64) for a, b in pairwise(edges)]
    return Clips(sound, digit, arrays["speaker"].tolist(), arrays["take"].astype(np.int64))
