"""The command that generates samples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from polyvae import runs
from polyvae.cli.options import Run, Trust
from polyvae.cli.tables import Device
from polyvae.core.fitted import FittedPrior
from polyvae.metrics.results import generate
from polyvae.models.bundles import load_model
from polyvae.training.directory import RunDirectory
from polyvae.utils.errors import InputError
from polyvae.utils.files import write_npz
from polyvae.utils.text import counted


def sample(
    run: Run,
    count: Annotated[
        int, typer.Option("-n", help="The number of samples; with --given, of test samples.", min=1)
    ] = 16,
    out: Annotated[
        Path,
        typer.Option(
            "-o",
            help="NAME.npz: one array per modality; sentences also in NAME_sentences.csv. With --given also a new folder of .npy files, or "
            "NAME.zarr, which are written batch by batch.",
        ),
    ] = Path("samples.npz"),
    prior: Annotated[
        str, typer.Option(help="own (the prior of the model), or fitted (by evaluate).")
    ] = "own",
    given: Annotated[
        list[str] | None, typer.Option(help="Condition on this modality of test samples; repeatable.")
    ] = None,
    draws: Annotated[int, typer.Option("-k", help="With --given: draws per test sample.", min=1)] = 1,
    noise: Annotated[
        bool, typer.Option("--noise", metavar="", help="Draw from the likelihood instead of taking its mean.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    trust: Trust = None,
    device: Device = "cpu",
) -> None:
    """Generate samples of every modality, unconditionally or given some modalities of test samples."""
    directory, config = runs.open_run(run)
    streamed = bool(given) and out.suffix in ("", ".zarr")
    if out.suffix != ".npz" and not streamed:
        raise InputError(
            f"sample: got -o {out}; expected a name that ends in .npz, or with --given a folder or NAME.zarr; rename it"
        )
    if draws > 1 and not given:
        raise InputError(
            f"sample: got -k {draws} without --given; expected a modality to condition on; set the number of new samples with -n"
        )
    model = load_model(run, trust or (), device)
    fitted = _prior_of(prior, directory, bool(given))
    fitted = None if fitted is None else fitted.to(next(model.parameters()).device)
    torch.manual_seed(seed)
    batch = None
    if given:
        test = runs.data_of(config, trust or ())[0].test
        if count > len(test):
            raise InputError(
                f"sample: got -n {count} with --given; expected at most {len(test)}, the number of test samples; ask for fewer"
            )
        if streamed:
            some = test.rows(slice(0, count))
            generate(
                model,
                some,
                given=given,
                K=draws,
                sample=noise,
                prior=fitted,
                out=out,
                seed=seed,
                device=device,
            )
            typer.echo(f"written: {out}")
            return
        batch = test.take(slice(0, count)).observe(*given)
        made = model.generate(batch, K=draws, sample=noise, prior=fitted)
    else:
        made = model.sample(count, fitted, sample=noise)
    made = {name: x.cpu() for name, x in made.items()}
    write_npz(out, {name: x.numpy() for name, x in made.items()})
    typer.echo(f"written: {out} ({', '.join(f'{name} {tuple(x.shape)}' for name, x in made.items())})")
    count = runs.write_sentences(readable := out.with_name(f"{out.stem}_sentences.csv"), model, made, batch)
    if count:
        typer.echo(f"written: {readable} ({counted(count, 'sentence', 'sentences')})")


def _prior_of(prior: str, run: RunDirectory, given: bool) -> FittedPrior | None:
    """The prior to sample from, if ``given`` conditionally: None for that of the model."""
    if prior not in ("own", "fitted"):
        raise InputError(f"sample: got --prior {prior!r}; expected 'own' or 'fitted'; choose one")
    if prior == "own":
        return None
    fitted = runs.fitted_prior(run)
    again = f"polyvae evaluate {run.path} --set evaluate.fitted_prior.latents=all"
    if fitted is None:
        raise InputError(
            f"sample: {run.path} has no fitted prior; expected fitted_prior.safetensors; make it with: polyvae evaluate {run.path}, "
            f"or without a shared latent: {again}"
        )
    if given and fitted.latents == "z":
        raise InputError(
            f"sample: got --given and --prior fitted, but the fitted prior of {run.path} is over z alone; expected one over all latents; "
            f"fit it with: {again}"
        )
    return fitted
