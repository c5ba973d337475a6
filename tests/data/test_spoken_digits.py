"""Spoken digits: frames of a tone are where its frequency is, lengths are masks, and parts share no clip."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from polyvae.data import load_dataset
from polyvae.data.sets import mnist as source
from polyvae.data.sets.spoken_digits import HOP, RATE, WINDOW, log_mel, mel_weights
from polyvae.testing import check_data
from polyvae.utils.errors import InputError
from tests.helpers.sources import make_mnist, make_recordings


@pytest.fixture
def root(tmp_path, monkeypatch):
    for name, digest in make_mnist(tmp_path).items():
        monkeypatch.setitem(source.MD5, name, digest)
    make_recordings(tmp_path)
    return tmp_path


def test_pairs(root):
    """The tone of a digit tells which it is; the number of observed frames is the take's; MNIST's image is of the same digit."""
    data = load_dataset("spoken_digits", root, bands=24, frames=14, train=300, test=60)
    check_data(data)
    assert data.modalities()[0].entries
    heard = data.entries["audio"]
    frames = heard[:, 0].sum(1)
    takes = {take: min(14, 1 + (800 + 200 * take - WINDOW) // HOP) for take in range(7)}
    assert set(frames[:300].tolist()) == {takes[5], takes[6]}  # takes 0 to 4 are the test part
    assert set(frames[300:].tolist()) == {takes[take] for take in range(5)}
    assert (heard == heard[:, :1]).all()
    x = data.values("audio")
    assert not x[~heard].any()
    band = (x.sum(2) / frames[:, None]).argmax(1)
    tones = [mel_weights(24)[:, round((300 + 200 * digit) * WINDOW / RATE)].argmax() for digit in range(10)]
    assert (band - torch.tensor(tones)[data.labels]).abs().max() <= 1
    speaker = data.factors["audio"]["speaker"]
    assert set(speaker.tolist()) == {0, 1}
    digits = source.mnist(root)[0]
    image = (data.values("image")[:300, 0] * 255).round().byte().numpy()
    known = {digits.images[row].tobytes(): digits.labels[row] for row in range(240)}
    assert all(known[one.tobytes()] == label for one, label in zip(image, data.labels.tolist(), strict=False))


def test_frames_are_decibels():
    """Twice the amplitude is 20 log10(2) = 6.02 dB more; the loudest value is 1, silence is 0, and 80 dB are kept."""
    time = np.arange(WINDOW) / RATE
    tone, weights = np.sin(2 * np.pi * 1000 * time), mel_weights(40)
    made = log_mel(np.concatenate([tone, 2 * tone]), weights)
    assert made.max() == 1
    assert made.shape == (40, 3)
    assert (made[:, 2] - made[:, 0])[made[:, 0] > 0.1] == pytest.approx(20 * np.log10(2) / 80)
    assert not log_mel(np.zeros(10), weights).any()
    inner = weights.sum(0)[5:120]  # overlapping triangles are a partition of unity between the outer centres
    assert inner == pytest.approx(np.ones_like(inner))


def test_one_file_holds_the_same_clips(root, tmp_path):
    folder = root / "fsdd_spoken_digits"
    paths = sorted((folder / "recordings").iterdir())
    sound = [wavfile.read(path)[1] for path in paths]
    facts = [path.stem.split("_") for path in paths]
    expected = load_dataset("spoken_digits", root, train=50, test=20)
    for path in paths:
        path.unlink()
    (folder / "recordings").rmdir()
    order = sorted(range(len(paths)), key=lambda row: facts[row])
    np.savez(
        folder / "fsdd.npz", audio=np.concatenate([sound[row] for row in order]),
        offset=np.cumsum([0, *[len(sound[row]) for row in order]]), digit=np.array([int(facts[row][0]) for row in order]),
        speaker=np.array([facts[row][1] for row in order]), take=np.array([int(facts[row][2]) for row in order]),
    )  # fmt: skip
    assert torch.equal(
        load_dataset("spoken_digits", root, train=50, test=20).values("audio"), expected.values("audio")
    )


def test_bad_clips(root):
    folder = root / "fsdd_spoken_digits" / "recordings"
    wavfile.write(folder / "3_ann_0.wav", 16_000, np.zeros(100, np.int16))
    with pytest.raises(InputError, match="got 16000 Hz and shape"):
        load_dataset("spoken_digits", root)
    (folder / "3_ann_0.wav").write_bytes(b"no sound")
    with pytest.raises(InputError, match=r"3_ann_0\.wav: got contents that cannot be used"):
        load_dataset("spoken_digits", root)
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(InputError, match="got no clip"):
        load_dataset("spoken_digits", root)
    folder.rmdir()
    with pytest.raises(InputError, match="there is no such folder"):
        load_dataset("spoken_digits", root)
