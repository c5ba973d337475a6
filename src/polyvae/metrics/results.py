"""Embeddings, generated values and likelihoods of whole data sets, batch by batch, in memory or on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polyvae.core.batch import Batch
from polyvae.core.fitted import FittedPrior
from polyvae.core.inference import Estimate
from polyvae.core.vae import MultimodalVAE
from polyvae.data.multimodal import MultimodalData
from polyvae.data.readers.output import in_memory, on_disk
from polyvae.metrics.context import check_mode
from polyvae.utils.arrays import rows_within
from polyvae.utils.devices import on_device
from polyvae.utils.errors import InputError
from polyvae.utils.progress import reporter
from polyvae.utils.seeds import fold_in

_ROWS = 1024  # samples that are taken together
_VALUES = 16_000_000  # values that are generated together


def embed(
    model: MultimodalVAE,
    data: MultimodalData,
    *,
    private: bool = False,
    out: str | Path | None = None,
    batch_size: int = _ROWS,
    device: torch.device | str | None = None,
    show: bool = True,
) -> Tensor | Path:
    """The posterior means of the latents of all samples, as ``model.embed`` gives them for a batch.

    Args:
        model: A trained model in evaluation mode.
        data: N samples.
        private: Append the means of the private latents.
        out: A file that is written batch by batch: NAME.npy [N, D], NAME.csv, NAME.tsv or NAME.parquet with the ids, or NAME.zarr. None:
            the result is returned.
        batch_size: Samples that are in memory together. Results do not depend on it but for rounding.
        device: Where to compute, such as "cuda"; None: where the model is.
        show: Whether to show progress.

    Returns:
        [N, D], or [N, D + W] with ``private``, on the host; with ``out`` its path.

    Raises:
        InputError: A model in training mode, data of other modalities, or a file that cannot be written.

    Example:
        >>> import torch
        >>> import polyvae as pv
        >>> data = pv.MultimodalData({"a": torch.randn(5, 3), "b": torch.randn(5, 2)})
        >>> model = pv.build("mopoe", data.modalities(), latent=2).eval()
        >>> pv.embed(model, data, show=False).shape
        torch.Size([5, 2])
    """
    _check("embed", model, data, batch_size)

    def results(batch: Batch, start: int) -> dict[str, Tensor]:
        return {"z": model.embed(batch, private)}

    made = _stream("embed", model, data, results, None, out, batch_size, device, show, named=False)
    return made if isinstance(made, Path) else made["z"]


def generate(
    model: MultimodalVAE,
    data: MultimodalData,
    *,
    given: Sequence[str] | None = None,
    targets: Sequence[str] | None = None,
    K: int = 1,
    sample: bool = False,
    resample: bool = False,
    prior: FittedPrior | None = None,
    covariates: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    show: bool = True,
) -> dict[str, Tensor] | Path:
    """Generate modalities of all samples given what was observed, as ``model.generate`` does for a batch.

    Args:
        model: A trained model in evaluation mode.
        data: N samples.
        given: The modalities to condition on; none of them, ``[]``, for draws from the prior. None: all that were observed.
        targets: The modalities to generate; None: all that are decoded.
        K: Draws of the latents per sample.
        sample: Draw from the likelihood; otherwise its mean.
        resample: See ``model.generate``.
        prior: See ``model.generate``.
        covariates: Name -> one value for all samples, for what they would be with it; see ``model.generate``.
        out: Where results are written batch by batch: a folder, which gets NAME.npy [K, N, *shape] for each modality, or a NAME.zarr with
            an array for each; for one target with one axis also NAME.csv, NAME.tsv or NAME.parquet, with a row for each sample, or for
            each sample and draw. None: results are returned.
        seed: The same seed draws the same values, with the same ``batch_size``. The state of the global random generator is kept.
        batch_size: Samples that are in memory together. None: as many as have 16 million values, at most 1,024.
        device: Where to compute, such as "cuda"; None: where the model is.
        show: Whether to show progress.

    Returns:
        name -> [K, N, *shape], on the host; with ``out`` its path.

    Raises:
        InputError: A model in training mode, data of other modalities, what ``model.generate`` refuses, or a file that cannot be written.

    Example:
        >>> import torch
        >>> import polyvae as pv
        >>> data = pv.MultimodalData({"a": torch.randn(5, 3), "b": torch.randn(5, 2)})
        >>> model = pv.build("mopoe", data.modalities(), latent=2).eval()
        >>> pv.generate(model, data, given=["a"], targets=["b"], K=4, show=False)["b"].shape
        torch.Size([4, 5, 2])
    """
    _check("generate", model, data, 1 if batch_size is None else batch_size)
    for what, names in (("given", given), ("targets", targets)):
        if isinstance(names, str) or (what == "targets" and names is not None and not len(names)):
            raise InputError(
                f"generate: got {what}={names!r}; expected a list of modalities, or None; such as ['{data.names[0]}']"
            )
    if K < 1:
        raise InputError(f"generate: got K={K}; expected 1 or more draws; set K=1 for one")

    def results(batch: Batch, start: int) -> dict[str, Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(fold_in(seed, "generate", start))
            return model.generate(
                batch if given is None else batch.observe(*given),
                K,
                sample,
                resample,
                prior,
                covariates,
                targets,
            )

    wanted = [
        net.spec.shape for name, net in model.modalities.items() if name in (targets or model.modalities)
    ]
    step = batch_size or rows_within([(K, *shape) for shape in wanted], _ROWS, _VALUES)
    made: dict[str, Tensor] | Path = _stream("generate", model, data, results, K, out, step, device, show)
    return made


def log_marginal(
    model: MultimodalVAE,
    data: MultimodalData,
    *,
    given: Sequence[str] | None = None,
    K: int = 1000,
    seed: int = 0,
    batch_size: int = _ROWS,
    device: torch.device | str | None = None,
    show: bool = True,
) -> Estimate:
    """Estimate log p(x) of all samples by importance sampling, as ``model.log_marginal`` does for a batch.

    Args:
        model: A trained model in evaluation mode that has a joint density.
        data: N samples.
        given: Modalities to condition on; None: none.
        K: Draws per sample, at least 20.
        seed: The same seed draws the same values, with the same ``batch_size``.
        batch_size: Samples that are in memory together.
        device: Where to compute; None: where the model is.
        show: Whether to show progress.

    Returns:
        ``value`` [N] in nats per sample, its ``standard_error`` [N], and ``effective_samples`` [N], on the host.

    Raises:
        InputError: A model in training mode, data of other modalities, or what ``model.log_marginal`` refuses.

    Example:
        >>> import torch
        >>> import polyvae as pv
        >>> data = pv.MultimodalData({"a": torch.randn(5, 3), "b": torch.randn(5, 2)})
        >>> model = pv.build("mopoe", data.modalities(), latent=2).eval()
        >>> pv.log_marginal(model, data, K=20, show=False).value.shape
        torch.Size([5])
    """
    _check("log_marginal", model, data, batch_size)

    def results(batch: Batch, start: int) -> dict[str, Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(fold_in(seed, "log_marginal", start))
            return model.log_marginal(batch, given, K)._asdict()

    return Estimate(**_stream("log_marginal", model, data, results, None, None, batch_size, device, show))


def _stream(
    what: str,
    model: MultimodalVAE,
    data: MultimodalData,
    results: Callable[[Batch, int], Mapping[str, Tensor]],
    K: int | None,
    out: str | Path | None,
    step: int,
    device: torch.device | str | None,
    show: bool,
    named: bool = True,
) -> Any:
    """``results`` of all batches, name -> [n, *shape] or [K, n, *shape] each: in memory, or the path ``out``."""
    count, lead = len(data), 1 if K is None else 2
    with ExitStack() as stack:
        report = stack.enter_context(reporter(show))
        stack.enter_context(on_device(what, model, device))
        stack.enter_context(torch.no_grad())
        report.start(what, count)
        put, whole = None, None
        for start in range(0, count, step):
            batch = data.take(slice(start, start + step)).to(next(model.parameters()).device)
            made = results(batch, start)
            if put is None:
                shapes = {name: tuple(x.shape[lead:]) for name, x in made.items()}
                put, whole = stack.enter_context(
                    in_memory(K, count)
                    if out is None
                    else on_disk(what, Path(out), shapes, K, count, data.ids, data.columns if named else {})
                )
            for name, x in made.items():
                put(name, start, x.cpu())
            report.advance(batch.size)
    return whole


def _check(what: str, model: MultimodalVAE, data: MultimodalData, batch_size: int) -> None:
    if not isinstance(model, MultimodalVAE) or not isinstance(data, MultimodalData):
        raise InputError(
            f"{what}: got {type(model).__name__} and {type(data).__name__}; expected a model and MultimodalData; a single batch is for "
            f"model.{what}(batch)"
        )
    check_mode(what, model)
    if batch_size < 1:
        raise InputError(f"{what}: got batch_size={batch_size}; expected 1 or more; leave it out")
