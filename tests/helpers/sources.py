"""Small files in the formats of published data sets, made by code: nothing of their contents is real."""

from __future__ import annotations

import gzip
import hashlib
import json
import struct
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat, wavfile

from polyvae.utils.seeds import bits

BIRDS = {"train": ("001.Red_Finch", "003.Blue_Jay"), "test": ("002.Green_Wren",)}


def make_mnist(root: Path, train: int = 240, test: int = 60) -> dict[str, str]:
    """Blots of ink as MNIST's four files under ``root``/mnist; returns the digests that stand for the published ones."""
    (root / "mnist").mkdir(parents=True)
    digests = {}
    for part, count, key in (("train", train, 1), ("t10k", test, 2)):
        coarse = (bits(count * 49, 7, key) % np.uint64(256)).astype(np.uint8).reshape(count, 7, 7)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", coarse.repeat(4, 1).repeat(4, 2)), ("labels-idx1", labels)):
            content = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
            name = f"{part}-{kind}-ubyte"
            (root / "mnist" / f"{name}.gz").write_bytes(gzip.compress(content))
            digests[name] = hashlib.md5(content).hexdigest()
    return digests


def make_svhn(root: Path, train: int = 130, test: int = 50) -> None:
    """Plain images as SVHN's two files under ``root``/svhn: the red channel is 20 times the digit, and digit 0 has the label 10."""
    (root / "svhn").mkdir(parents=True)
    for part, count in (("train", train), ("test", test)):
        labels = np.arange(count) % 10
        x = np.zeros((32, 32, 3, count), np.uint8)
        x[:, :, 0] = 20 * labels
        savemat(
            root / "svhn" / f"{part}_32x32.mat", {"X": x, "y": np.where(labels == 0, 10, labels)[:, None]}
        )


def make_recordings(root: Path, takes: int = 7) -> None:
    """Tones of 300 Hz and 200 more for each digit, two speakers, .1 to .25 seconds, as WAV files of 8 kHz."""
    folder = root / "fsdd_spoken_digits" / "recordings"
    folder.mkdir(parents=True)
    for digit in range(10):
        for number, speaker in enumerate(("ann", "bob")):
            for take in range(takes):
                time = np.arange(800 + 200 * take) / 8000
                sound = (8000 * (1 + number) * np.sin(2 * np.pi * (300 + 200 * digit) * time)).astype(
                    np.int16
                )
                wavfile.write(folder / f"{digit}_{speaker}_{take}.wav", 8000, sound)


def make_bird_archive(root: Path, photos: int = 3) -> None:
    """The layout of the MMVAE authors' cub.zip: plain images in the colour of their class and ten captions of each."""
    colours = {"001.Red_Finch": (200, 10, 10), "002.Green_Wren": (10, 180, 10), "003.Blue_Jay": (10, 10, 200)}
    for part, names in BIRDS.items():
        lines = []
        for name in names:
            folder = root / "cub" / part / name
            folder.mkdir(parents=True)
            for number in range(photos):
                Image.new("RGB", (20 + number, 12), colours[name]).save(folder / f"{name[4:]}_{number}.png")
                colour = name[4:].split("_")[0].lower()
                lines += [f"This bird is {colour}, number {number}, said {turn} times." for turn in range(10)]
        text = {"train": "text_trainvalclasses.txt", "test": "text_testclasses.txt"}[part]
        (root / "cub" / text).write_text("\n".join(lines) + "\n")


def make_bird_subset(root: Path) -> None:
    """Four photos, two of which have captions, and a further photo that has captions alone; ten captions each."""
    (root / "cub").mkdir(parents=True)
    names = ["004.Ani/a.jpg", "004.Ani/b.jpg", "010.Crow/a.jpg", "010.Crow/b.jpg"]
    image = np.arange(4, dtype=np.uint8)[:, None, None, None] * 50 + np.zeros((1, 64, 64, 3), np.uint8)
    np.savez(
        root / "cub" / "cub20_64.npz", image=image, image_bbox=255 - image, name=np.array(names),
        cub_split=np.array(["train", "train", "test", "test"]),
    )  # fmt: skip
    said = {
        name: [f"a {name[4:7].lower()} said {turn}" for turn in range(10)]
        for name in [*names[::2], "200.Owl/a.jpg"]
    }
    paired = {name: said[name] for name in names[::2]}
    (root / "cub" / "captions_paired_476.json").write_text(json.dumps(paired))
    (root / "cub" / "captions_50testclasses.json.gz").write_bytes(gzip.compress(json.dumps(said).encode()))


def make_emoji(root: Path) -> None:
    """Ten emoji of five code points, two of each: discs whose size is their number."""
    (root / "noto_emoji_text").mkdir(parents=True)
    row, column = np.mgrid[0:64, 0:64] - 31.5
    inside = np.stack([row**2 + column**2 < (6 + 2 * number) ** 2 for number in range(10)])
    image = np.where(inside[..., None], np.array([200, 100, 0], np.uint8), np.uint8(255))
    np.savez(
        root / "noto_emoji_text" / "noto_emoji_64.npz", image=image.astype(np.uint8),
        silhouette=inside.astype(np.uint8) * 255, caption=np.array([f"disc of size {number}" for number in range(10)]),
        codepoints=np.array([f"1f60{number // 2}" + "_200d" * (number % 2) for number in range(10)]),
    )  # fmt: skip
