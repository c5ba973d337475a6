"""Feature networks for the comparison of sets of images. A number of image quality depends on its network.

Only the standard Inception weights make a Fréchet distance an FID (Heusel et al. 2017) and a kernel distance a KID (Binkowski et al. 2018).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from polyvae.utils.errors import InputError

STANDARD = "inception-2015-12-05-6726825d"  # part of the file name at every host
_AT_A_TIME = 1024
_AT_A_TIME_299 = 32  # images of 299 pixels a side


class FeatureNet(Protocol):
    """A network with a name, from images [N, C, H, W], as they are in the data or were generated, to features [N, F]."""

    @property
    def name(self) -> str: ...

    def __call__(self, images: Tensor) -> Tensor: ...


class JudgeFeatures:
    """The input of the last linear layer of a classifier."""

    def __init__(self, judge: nn.Module, modality: str) -> None:
        self.name = f"judge:{modality}"
        self.judge = judge
        self._last = [layer for layer in judge.modules() if isinstance(layer, nn.Linear)][-1]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        judge, seen = self.judge.eval().to(images.device), []
        with self._last.register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0].flatten(1))):
            for part in torch.split(images.to(next(judge.parameters()).dtype), _AT_A_TIME):
                judge(part)
        return torch.cat(seen)


class Inception:
    """InceptionV3 as ported from TensorFlow, pool3: images of one or three channels -> [N, 2048]; resized to 299 pixels by the port.

    ``weights``: the file that the port publishes. ``standard``: whether it is that file, by its name. ``digest``: the SHA-256 of the file.
    Pixels are clamped to [0, 1] and rounded to bytes, as in a PNG. Raises InputError if the file is missing or has other weights, or if
    torch-fidelity is not installed.
    """

    def __init__(self, weights: str | Path) -> None:
        path = Path(weights)
        if not path.is_file():
            raise InputError(
                f"inception: {path}: no such file; expected weights-{STANDARD}.pth, which torch-fidelity publishes among its "
                "releases; download it to this path, or set features='inception:PATH'"
            )
        port = optional("torch_fidelity.feature_extractor_inceptionv3")
        try:
            with _only_tensors():
                self.net: nn.Module = port.FeatureExtractorInceptionV3(
                    "inception", ["2048"], feature_extractor_weights_path=str(path)
                )
        except Exception as problem:  # a damaged file can raise any error in torch
            why = " ".join(str(problem).split())[:120]
            raise InputError(
                f"inception: {path}: cannot be read ({why}); expected weights-{STANDARD}.pth; download it again"
            ) from None
        self.standard = STANDARD in path.name
        self.name = "inception-2015-12-05" if self.standard else f"inception:{path.stem}"
        self.digest = hashlib.sha256(path.read_bytes()).hexdigest()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        net = self.net.to(images.device)
        pixels = to_bytes(images).expand(-1, 3, -1, -1)
        return torch.cat([net(part)[0] for part in torch.split(pixels, _AT_A_TIME_299)])


class Handed(nn.Module):
    """An extractor for torchmetrics, whose metrics are modules: a feature network, or (None) features computed before."""

    def __init__(self, net: FeatureNet | None, num_features: int) -> None:
        super().__init__()
        self.net, self.num_features = net, num_features

    def forward(self, x: Tensor) -> Tensor:
        return x if self.net is None else self.net(x)


def load_feature_net(spec: str) -> FeatureNet | None:
    """The feature network that a setting names; None for "judges", the judge of each modality.

    Raises:
        InputError: If the setting is neither "judges" nor "inception:PATH", or the weights cannot be read.
    """
    if spec == "judges":
        return None
    kind, _, path = spec.partition(":")
    if kind != "inception" or not path:
        raise InputError(
            f"evaluate: got features={spec!r}; expected 'judges', 'inception:PATH' with the path of the weights, or in Python "
            "another network as feature_net; choose one"
        )
    return Inception(path)


def to_bytes(images: Tensor) -> Tensor:
    """As in a PNG: clamped to [0, 1] and rounded to the nearest of 255 steps, uint8."""
    return images.clamp(0, 1).mul(255).add(0.5).to(torch.uint8)


def torchmetrics_fid(extractor: nn.Module) -> Any:
    """torchmetrics' FrechetInceptionDistance around ``extractor`` (images -> [N, F], ``num_features``), in float64.

    ``reset`` keeps the real images. Raises InputError if torchmetrics is not installed.
    """
    metric = optional("torchmetrics.image.fid").FrechetInceptionDistance(extractor, reset_real_features=False)
    return metric.set_dtype(torch.float64)


def optional(module: str) -> ModuleType:
    """A module of torchmetrics or torch-fidelity, without torchvision.

    The package torch-fidelity imports torchvision, and torchmetrics imports that package if it is installed, both for files that are not
    needed here. So the package is replaced by an empty one during the import. Raises InputError with what to install.
    """
    with contextlib.ExitStack() as shell:
        found = importlib.util.find_spec("torch_fidelity") if "torch_fidelity" not in sys.modules else None
        if found is not None:
            sys.modules["torch_fidelity"] = importlib.util.module_from_spec(found)
            shell.callback(sys.modules.pop, "torch_fidelity")
        try:
            return importlib.import_module(module)
        except ImportError as problem:
            raise InputError(
                f"fid: {module.partition('.')[0].replace('_', '-')} cannot be imported ({problem}); expected the extra fid; "
                "pip install 'polyvae[fid]', or without torchvision: pip install torchmetrics and "
                "pip install --no-deps torch-fidelity"
            ) from None


@contextlib.contextmanager
def _only_tensors() -> Iterator[None]:
    """While another package reads a file of weights, no code in the file can run."""
    key = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(key)
    os.environ[key] = "1"
    try:
        yield
    finally:
        os.environ.pop(key)
        if before is not None:
            os.environ[key] = before
