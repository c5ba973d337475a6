"""The contenders: polyvae and MultiVae by their public APIs, the authors' code from a checkout. Each runs in its own process.

All minimise the mean over the batch of -L in nats per sample, with the same networks, the same initial parameters and the same optimiser.
Imports are local, because no process has all three packages.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from abc import ABC, abstractmethod
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.networks import give, pairs
from benchmarks.works import Work

ROOT = Path(__file__).parents[1]
Data = dict[str, Tensor]


class Contender(ABC):
    """A ``model``, and the operations that are measured."""

    model: nn.Module

    @abstractmethod
    def batch(self, data: Data, mask: Tensor | None = None) -> Any:
        """The argument of ``loss``: data name -> [B, *shape], mask [M, B]."""

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """Nats per sample, mean over the batch."""

    def likelihood(self, data: Data, samples: int) -> float:
        """The mean over the rows of log p(X), estimated with ``samples`` draws each."""
        raise NotImplementedError

    def generate(self, data: Data, source: str) -> Data:
        """Every modality given ``source``: one posterior draw, w of the others from p(w), decoder mean. name -> [B, *shape]."""
        raise NotImplementedError


class Polyvae(Contender):
    """This library. Variants: "bf16" (autocast, as ``fit`` does it), "rows" (decodes ``max_rows`` at a time), both: "bf16-rows"."""

    def __init__(self, work: Work, variant: str, device: str = "cpu", max_rows: int | None = None) -> None:
        import polyvae as pv

        self.pv, self.device, self.bf16 = pv, device, "bf16" in variant
        params: dict[str, Any] = {"scale": work.scale} | (
            {"hidden": work.hidden} if work.hidden else {"width": work.width}
        )
        specs = [
            pv.Modality(name, work.shape, work.likelihood, "mlp" if work.hidden else "resnet", params=params)
            for name in work.names
        ]
        scale_map = "softmax" if work.family == "laplace" else "softplus"
        model = pv.MMVAEPlus(
            specs,
            latent=work.latent,
            K=work.K,
            beta=work.beta,
            objective="elbo" if work.K == 1 else "dreg",
            family=work.family,
            scale_map=scale_map,
        )
        model.max_rows = max_rows if "rows" in variant else None
        for (encoder, decoder), net in zip(pairs(work), model.modalities.values(), strict=True):
            assert net.encoder is not None
            assert net.decoder is not None
            give(encoder, net.encoder)
            give(decoder, net.decoder)
        self.model: Any = model.to(device).train()

    def batch(self, data: Data, mask: Tensor | None = None) -> Any:
        return self.pv.Batch.of(data, mask).to(self.device)

    def _autocast(self) -> Any:
        return torch.autocast(self.device, torch.bfloat16) if self.bf16 else nullcontext()

    def loss(self, batch: Any) -> Tensor:
        with self._autocast():
            loss: Tensor = -self.model(batch).value.mean()
        return loss

    def likelihood(self, data: Data, samples: int) -> float:
        self.model.eval()
        with self._autocast():
            return float(self.model.log_marginal(self.batch(data), K=samples).value.mean())

    def generate(self, data: Data, source: str) -> Data:
        self.model.eval()
        found = self.model.generate(self.batch(data).observe(source))
        self.model.train()
        return {name: images[0] for name, images in found.items()}


class MultiVae(Contender):
    """MultiVae 1.0.3. Variant "nets": with polyvae's network modules, to separate the effect of the library from that of the networks."""

    def __init__(self, work: Work, variant: str, device: str = "cpu") -> None:
        stand_in("torchvision")
        from multivae.data.datasets.base import IncompleteDataset, MultimodalBaseDataset
        from multivae.models import MMVAEPlus, MMVAEPlusConfig
        from multivae.models.nn import BaseMultilatentEncoder
        from pythae.models.base.base_utils import ModelOutput
        from pythae.models.nn.base_architectures import BaseDecoder

        self.complete, self.incomplete, self.device, self.work = (
            MultimodalBaseDataset,
            IncompleteDataset,
            device,
            work,
        )

        class Encoder(BaseMultilatentEncoder):
            def __init__(self, net: nn.Module) -> None:
                super().__init__()
                self.net, self.latent_dim, self.style_dim = net, work.latent, work.latent

            def forward(self, x: Tensor) -> Any:
                z, raw_z, w, raw_w = self.net(x).chunk(4, -1)
                return ModelOutput(
                    embedding=z, log_covariance=raw_z, style_embedding=w, style_log_covariance=raw_w
                )

        class Decoder(BaseDecoder):
            def __init__(self, net: nn.Module) -> None:
                super().__init__()
                self.net = net

            def forward(self, z: Tensor) -> Any:
                return ModelOutput(reconstruction=self.net(z))

        nets = dict(zip(work.names, pairs(work), strict=True))
        if variant == "nets":
            nets = {name: polyvae_networks(work, *pair) for name, pair in nets.items()}
        config = MMVAEPlusConfig(
            n_modalities=work.modalities,
            latent_dim=work.latent,
            modalities_specific_dim=work.latent,
            K=work.K,
            beta=work.beta,
            input_dims=dict.fromkeys(work.names, work.shape),
            decoders_dist=dict.fromkeys(work.names, work.likelihood),
            decoder_dist_params={name: {"scale": work.scale} for name in work.names},
            prior_and_posterior_dist="laplace_with_softmax" if work.family == "laplace" else "normal",
            loss="iwae_looser" if work.K == 1 else "dreg_looser",
        )
        self.model: Any = (
            MMVAEPlus(
                config,
                {name: Encoder(pair[0]) for name, pair in nets.items()},
                {name: Decoder(pair[1]) for name, pair in nets.items()},
            )
            .to(device)
            .train()
        )

    def batch(self, data: Data, mask: Tensor | None = None) -> Any:
        data = {name: x.to(self.device) for name, x in data.items()}
        if mask is None:
            return self.complete(data)
        return self.incomplete(data, dict(zip(data, mask.to(self.device), strict=True)))

    def loss(self, batch: Any) -> Tensor:
        loss: Tensor = self.model(batch).loss / len(next(iter(batch.data.values())))
        return loss

    def likelihood(self, data: Data, samples: int) -> float:
        # compute_joint_nll removes the last modality from the data to count the rows. An additional entry makes it include
        # all modalities.
        batch = self.batch(data | {"rows": next(iter(data.values()))})
        return -float(self.model.compute_joint_nll(batch, K=samples)) / len(next(iter(data.values())))

    def generate(self, data: Data, source: str) -> Data:
        with torch.no_grad():
            found = self.model.predict(self.batch(data), cond_mod=[source])
        self.model.train()
        return {name: found[name] for name in self.work.names}


class Authors(Contender):
    """The authors' classes and objectives (epalu/mmvaeplus), around the same networks. "dreg" there is IWAE's gradient."""

    def __init__(self, work: Work, variant: str, device: str = "cpu", checkout: str = "") -> None:
        if work.hide:
            raise SystemExit("the authors' code takes complete data only")
        stand_in("torchvision", "PIL", "umap", "tensorboard")
        sys.path.insert(0, str(Path(checkout) / "src"))
        import objectives  # type: ignore[import-not-found]
        from models.mmvae import MMVAE  # type: ignore[import-not-found]
        from models.vae import VAE  # type: ignore[import-not-found]
        from torch import distributions

        families = {"laplace": distributions.Laplace, "normal": distributions.Normal}
        latent, posterior, likelihood = work.latent, families[work.family], families[work.likelihood]
        params = types.SimpleNamespace(
            latent_dim_w=latent,
            latent_dim_z=latent,
            variant="mmvaeplus",
            no_cuda=device == "cpu",
            beta=work.beta,
        )

        def softmax(raw: Tensor) -> Tensor:
            return functional.softmax(raw, -1) * raw.shape[-1]

        class Encoder(nn.Module):
            def __init__(self, net: nn.Module) -> None:
                super().__init__()
                self.net = net

            def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
                z, raw_z, w, raw_w = self.net(x).chunk(4, -1)
                return torch.cat([w, z], -1), torch.cat([softmax(raw_w) + 1e-6, softmax(raw_z) + 1e-6], -1)

        class Decoder(nn.Module):
            def __init__(self, net: nn.Module) -> None:
                super().__init__()
                self.net = net

            def forward(self, u: Tensor) -> tuple[Tensor, Tensor]:
                code = torch.cat([u[..., latent:], u[..., :latent]], -1).flatten(0, -2)
                return self.net(code).view(*u.shape[:-1], *work.shape), torch.tensor(
                    work.scale, device=u.device
                )

        class One(VAE):  # type: ignore[misc]
            def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
                super().__init__(posterior, likelihood, posterior, Encoder(encoder), Decoder(decoder), params)
                self.raw = nn.Parameter(torch.zeros(1, latent))
                self.zero = nn.Parameter(torch.zeros(1, latent), requires_grad=False)

            @property
            def pw_params(self) -> tuple[Tensor, Tensor]:
                return self.zero, softmax(self.raw)

        class All(MMVAE):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__(
                    posterior, params, *(lambda _, pair=pair: One(*pair) for pair in pairs(work))
                )
                self.zero = nn.Parameter(torch.zeros(1, 2 * latent), requires_grad=False)

            @property
            def pu_params(self) -> tuple[Tensor, Tensor]:
                return self.zero, softmax(self.zero)

        self.model = All().to(device).train()
        self.objective, self.K, self.device = (
            objectives.m_elbo if work.K == 1 else objectives.m_dreg,
            work.K,
            device,
        )

    def batch(self, data: Data, mask: Tensor | None = None) -> Any:
        return [x.to(self.device) for x in data.values()]

    def loss(self, batch: Any) -> Tensor:
        loss: Tensor = -self.objective(self.model, batch, K=self.K) / len(batch[0])
        return loss


CONTENDERS = {"polyvae": Polyvae, "multivae": MultiVae, "authors": Authors}


def make(name: str, work: Work, **options: Any) -> Contender:
    """ "polyvae-bf16" -> Polyvae(work, "bf16", ...)."""
    who, _, variant = name.partition("-")
    return CONTENDERS[who](work, variant, **options)


def polyvae_networks(work: Work, encoder: nn.Module, decoder: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The same functions as polyvae's network modules, read from its source without importing the rest of it."""
    package = types.ModuleType("polyvae")
    package.__path__ = [str(ROOT / "src" / "polyvae")]
    sys.modules.setdefault("polyvae", package)
    from polyvae.core.networks import NETWORKS
    from polyvae.core.networks.kinds import Branches

    network = NETWORKS["mlp" if work.hidden else "resnet"]
    options: dict[str, Any] = {"hidden": work.hidden} if work.hidden else {"width": work.width}
    ours = (
        Branches(*(network.encoder(work.shape, 2 * work.latent, **options) for _ in "zw"))
        if network.separate
        else network.encoder(work.shape, 4 * work.latent, **options)
    )
    pair = ours, network.decoder((2 * work.latent,), work.shape, **options)
    give(encoder, pair[0])
    give(decoder, pair[1])
    return pair


class _StandIn(types.ModuleType):
    """A module in which every name is an empty class: sufficient for code that imports names without calling them."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(
        self, name: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        return (
            importlib.machinery.ModuleSpec(name, self, is_package=True)
            if name.split(".")[0] == self.package
            else None
        )

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def stand_in(*packages: str) -> None:
    """Replace packages that cannot be imported (for example, a torchvision that was built for another torch)."""
    for package in packages:
        try:
            importlib.import_module(package)
        except (ImportError, RuntimeError, OSError):
            for name in [name for name in sys.modules if name.split(".")[0] == package]:
                del sys.modules[name]
            sys.meta_path.insert(0, _Finder(package))
