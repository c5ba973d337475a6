"""Feature nets: what images are turned into before sets of them are compared. A number is worth as much as its net, and bears its name.

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

STANDARD = "inception-2015-12-05-6726825d"  # in the name of the file, whoever hosts it
_AT_A_TIME = 1024
_AT_A_TIME_299 = 32  # images of 299 pixels a side


class FeatureNet(Protocol):
    """A name, and images [N, C, H, W] in [0, 1] -> features [N, F], for any C, H, W that will be handed in."""

    @property
    def name(self) -> str: ...

    def __call__(self, images: Tensor) -> Tensor: ...


class JudgeFeatures:
    """What a classifier's last linear layer sees."""

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

    ``weights``: the file that the port publishes. ``standard``: is it that file, by its name? ``digest``: SHA-256 of what was read.
    Pixels become bytes, rounded, as if the images had been saved as PNG.
    Raises InputError: no such file, a file that does not hold these weights, torch-fidelity not there.
    """

    def __init__(self, weights: str | Path) -> None:
        path = Path(weights)
        if not path.is_file():
            raise InputError(
                f"inception: {path}: no such file; expected weights-{STANDARD}.pth, which torch-fidelity publishes among its "
                "releases; put it there, or say features='inception:PATH'"
            )
        port = optional("torch_fidelity.feature_extractor_inceptionv3")
        try:
            with _only_tensors():
                self.net: nn.Module = port.FeatureExtractorInceptionV3(
                    "inception", ["2048"], feature_extractor_weights_path=str(path)
                )
        except Exception as problem:  # whatever a damaged file makes torch raise
            why = " ".join(str(problem).split())[:120]
            raise InputError(
                f"inception: {path}: cannot be read ({why}); expected weights-{STANDARD}.pth; fetch it anew"
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
    """An extractor for torchmetrics, whose metrics are modules: a feature net, or (None) features that were made before."""

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
            f"evaluate: got features={spec!r}; expected 'judges', or 'inception:PATH' with the path of the weights; in Python, "
            "pass any other feature network as feature_net"
        )
    return Inception(path)


def to_bytes(images: Tensor) -> Tensor:
    """As a PNG holds them: clamped to [0, 1], 255 steps, rounded to the nearest, uint8."""
    return images.clamp(0, 1).mul(255).add(0.5).to(torch.uint8)


def torchmetrics_fid(extractor: nn.Module) -> Any:
    """torchmetrics' FrechetInceptionDistance around ``extractor`` (images -> [N, F], ``num_features``), in float64.

    ``reset`` keeps the real side. Raises InputError where torchmetrics is not there.
    """
    metric = optional("torchmetrics.image.fid").FrechetInceptionDistance(extractor, reset_real_features=False)
    return metric.set_dtype(torch.float64)


def optional(module: str) -> ModuleType:
    """A module of torchmetrics or torch-fidelity, without torchvision.

    torch-fidelity's package imports torchvision, and torchmetrics imports that package where it is installed, both for files that are not
    needed here. So the package is an empty shell while its one file is imported. Raises InputError: what to install.
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
                "pip install 'polyvae[fid]', or where there is no torchvision pip install torchmetrics and "
                "pip install --no-deps torch-fidelity"
            ) from None


@contextlib.contextmanager
def _only_tensors() -> Iterator[None]:
    """While a file of weights is read by another package: nothing in it can run."""
    key = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(key)
    os.environ[key] = "1"
    try:
        yield
    finally:
        os.environ.pop(key)
        if before is not None:
            os.environ[key] = before
