"""Bundles: a model in one file, from which it is built again bit for bit.

A bundle contains weights, options and modalities. Loading one imports no code but polyvae's own and that of the packages in ``trust``.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from polyvae.core.modality import Modality, likelihood_maker
from polyvae.core.networks import NETWORKS
from polyvae.core.vae import MultimodalVAE
from polyvae.models import build, model_class, name_of, options_of
from polyvae.utils.devices import device_of
from polyvae.utils.errors import InputError, nearest, reading
from polyvae.utils.files import Path_, json_text, load_tensors, save_tensors, short
from polyvae.utils.records import StoredConfig, StoredModel, check_keywords, check_sizes
from polyvae.utils.renamed import moved

MODEL = "model.safetensors"
"""The bundle in a run directory."""

_PREFIXES = {"cmvae": "held.", "idmvae": "held."}
"""Model -> what its parameters' names began with in files of version 1."""
_PARTS = {".parts.told.": ".parts.top_down."}
"""Inside parameters' names: the old spelling -> the new one."""
_REMEDY = "load it with the polyvae that wrote it, or copy it again"
_FACTORIES = "polyvae.core.networks"
"""What a bundle may name of polyvae as an encoder or a decoder."""
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class Bundle(NamedTuple):
    """A stored model.

    Attributes:
        name: Its name in MODELS, or its import path.
        config: ``{"options": ..., "modalities": [...]}``.
        state: Parameter name -> tensor.
        extra: Whatever else was stored.
    """

    name: str
    config: dict[str, Any]
    state: dict[str, Tensor]
    extra: dict[str, Any]


def save_bundle(
    path: Path_,
    *,
    model_name: str,
    config: dict[str, Any],
    state: Mapping[str, Tensor],
    extra: dict[str, Any],
) -> None:
    """Write a model into one file. Raises InputError, StorageError: see ``save_tensors``."""
    save_tensors(path, state, {"kind": "model", "name": model_name, "config": config, "extra": extra})


def load_bundle(path: Path_, device: torch.device | str = "cpu") -> Bundle:
    """Read the model stored in a ``.safetensors`` file, or in the run directory ``path``. No code is imported.

    Raises InputError: see ``bundle_file`` and ``load_tensors``; a polyvae file that is not a model.
    """
    path = bundle_file(path)
    state, metadata = load_tensors(path, device)
    if metadata.get("kind") != "model":
        raise InputError(
            f"{path}: got a polyvae file that is not a model; expected model.safetensors of a run, or an exported bundle; pass such a file"
        )
    stored = StoredModel.check(metadata, f"{path}: metadata", _REMEDY)
    return Bundle(stored.name, stored.config, state, stored.extra)


def bundle_file(path: Path_) -> Path:
    """The file of the bundle that ``path`` names: ``path`` itself, or the model in the run directory ``path``.

    Raises InputError: a directory without a trained model; a run that does not exist, with the nearest one beside it.
    """
    path = Path(path)
    if os.path.isdir(path):
        if not (path / MODEL).exists():
            raise InputError(
                f"{path}: got a run without {MODEL}; expected a bundle or a finished run; continue a run with --resume"
            )
        return path / MODEL
    if not os.path.exists(path) and path.suffix != ".safetensors":
        raise no_such_run(path)
    return path


def no_such_run(path: Path) -> InputError:
    """The error to raise where there is no run directory ``path``; the nearest run beside it is named."""
    beside = path.absolute().parent
    runs = (
        sorted(name for name in os.listdir(beside) if os.path.isfile(beside / name / "config.toml"))
        if os.path.isdir(beside)
        else []
    )
    return InputError(
        f"{short(str(path), 1000)}: no such run; expected a run directory; {short(nearest(path.name, runs), 200)}"
    )


def save_model(model: MultimodalVAE, path: Path_, extra: dict[str, Any] | None = None) -> None:
    """Write a model into one file, from which ``load_model`` builds it again bit for bit.

    Args:
        model: Any model of ``pv.MODELS``, or a user-defined one that can be imported.
        path: The file to write, usually ``*.safetensors``. An existing file is replaced as a whole.
        extra: Further values that JSON can hold; ``polyvae.models.bundles.load_bundle`` returns them.

    Raises:
        InputError: The model, an encoder or a decoder has no import path, or an option that JSON cannot hold.
        StorageError: The file could not be written.

    Example:
        >>> import polyvae as pv
        >>> model = pv.MMVAEPlus([pv.Modality("image", (3, 8, 8)), pv.Modality("gene", (20,))], latent=4)
        >>> pv.save_model(model, "model.safetensors")
        >>> pv.load_model("model.safetensors").latent
        4
    """
    save_bundle(
        path,
        model_name=name_of(model),
        config=check_storable(model),
        state=model.state_dict(),
        extra=extra or {},
    )


def load_model(path: Path_, trust: Sequence[str] = (), device: torch.device | str = "cpu") -> MultimodalVAE:
    """Load a model from a bundle or a run directory.

    Args:
        path: A bundle, or the run directory of a finished training.
        trust: The packages that may be imported for a user-defined model, encoder or decoder, which a bundle names by its import path.
            polyvae itself is always trusted.
        device: Where the weights are put, such as "cuda".

    Returns:
        The model, in evaluation mode and in the dtype in which it was stored.

    Raises:
        InputError: A missing, damaged or newer file; a run without a trained model; a package that is not trusted; weights that do not
            fit the model that is described beside them; a device that is not there.

    Example:
        >>> import polyvae as pv
        >>> model = pv.MVAE([pv.Modality("a", (3,)), pv.Modality("b", (5,))], latent=2)
        >>> pv.save_model(model, "mvae.safetensors")
        >>> pv.load_model("mvae.safetensors").name
        'mvae'
    """
    there = device_of("load_model", device)
    bundle = load_bundle(path)
    config = StoredConfig.check(bundle.config, f"{path}: config", _REMEDY)
    longest = max((max(x.shape, default=1) for x in bundle.state.values()), default=1)
    check_sizes(f"{path}: config", {"name": bundle.name, **bundle.config}, longest)
    if len(config.modalities) > max(100, len(bundle.state)):
        raise InputError(
            f"{path}: config: got {len(config.modalities):,} modalities and {len(bundle.state)} tensors; expected weights of "
            f"each modality; {_REMEDY}"
        )
    name, options = moved(bundle.name), dict(config.options)
    if ":" in bundle.name:
        check_import("model", bundle.name, trust, "Class")
    modalities = [read_modality(table.model_dump(exclude_unset=True)) for table in config.modalities]
    for modality in modalities:
        check_trust(modality, trust)
        check_params(modality)
    with reading(f"{path}: config", "a model that can be built", _REMEDY):
        # Older bundles contain max_rows, now a memory setting, as an option of the model.
        rows = None if "max_rows" in options_of(name) else options.pop("max_rows", None)
        check_keywords(f"{path}: model {name!r}", model_class(name), options)
        empty = outline(name, modalities, options, len(bundle.state))
        state = migrated(name, bundle.state, empty.state_dict().keys())
        dtype = _check_state(path, bundle.name, empty, state)
        with torch.random.fork_rng(
            devices=[]
        ):  # the initial weights are overwritten: no trace of drawing them
            model = build(name, modalities, **options)
        if rows is not None:
            model.max_rows = rows
        model.to(dtype).load_state_dict(state)
    return model.to(there).eval()


def outline(
    name: str, modalities: Sequence[Modality], options: Mapping[str, Any], tensors: int
) -> MultimodalVAE:
    """The model without memory for its weights: a small file must not ask for a large model.

    Args:
        name: The name of the model.
        modalities: Its modalities.
        options: Its options.
        tensors: The number of tensors in the file, of which the model may have not many more parameters.

    Raises:
        InputError: A model of more parameters, or one that cannot be built.
    """
    foreign = [
        name,
        *(getattr(spec, part) for spec in modalities for part in ("likelihood", "encoder", "decoder")),
    ]
    try:
        with torch.device("meta"), _at_most(tensors):
            model = build(name, modalities, **options)
    except InputError:
        raise
    except Exception:
        # Code of the user, who trusts it, may compute with weights when it is built.
        if not any(
            isinstance(path, str) and ":" in path and not path.startswith("polyvae.") for path in foreign
        ):
            raise
        with torch.random.fork_rng(devices=[]):
            model = build(name, modalities, **options)
    for net in model.modalities.values():
        for side in ("encoder", "decoder"):
            if not isinstance(getattr(net, side), nn.Module | None):
                raise InputError(
                    f"modality {net.spec.name!r}: got {side} {getattr(net.spec, side)!r}, which makes no nn.Module; "
                    "expected a function (in_shape, out) -> nn.Module; correct the path"
                )
    return model


def _check_state(path: Path_, name: str, outline: nn.Module, state: Mapping[str, Tensor]) -> torch.dtype:
    """The dtype of the stored weights. Raises InputError where names, shapes or kinds of numbers are not those of ``outline``."""
    expected = outline.state_dict()
    problem = ""
    for key in dict.fromkeys([*expected, *state]):
        here, there = state.get(key), expected.get(key)
        if here is None or there is None:
            problem = f"{'no' if here is None else 'unknown'} tensor {short(key, 80)!r}"
        elif here.shape != there.shape:
            problem = f"{short(key, 80)!r} of shape {_shown(here.shape)} and not {_shown(there.shape)}"
        elif here.dtype not in _FLOATS if there.is_floating_point() else here.dtype != there.dtype:
            problem = f"{short(key, 80)!r} in {here.dtype}, which cannot be used"
        if problem:
            raise InputError(
                f"{path}: got weights that do not fit model {short(name, 80)!r} ({problem}); expected those of the "
                "same version; load it with the polyvae that wrote it"
            )
    floats = [tensor.dtype for tensor in state.values() if tensor.is_floating_point()]
    return max(floats, key=lambda dtype: dtype.itemsize)


def _shown(shape: Sequence[int]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


@contextmanager
def _at_most(count: int) -> Iterator[None]:
    """Inside, this thread cannot build a model of many more parameters than ``count``: each takes time and memory, even on "meta"."""
    left, thread = 4 * count + 100, threading.get_ident()

    def note(*registered: Any) -> None:
        nonlocal left
        if threading.get_ident() == thread:
            left -= 1
            if left < 0:
                raise InputError(
                    f"bundle: got a description of a model with more parameters than the {count} tensors beside it; "
                    f"expected those of the same model; {_REMEDY}"
                )

    handles = [
        hooks.register_module_parameter_registration_hook(note),
        hooks.register_module_module_registration_hook(note),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def migrated(name: str, state: Mapping[str, Tensor], known: Collection[str]) -> dict[str, Tensor]:
    """The stored parameters of model ``name`` under the names that they have today, in the stored order.

    Args:
        name: The model's name in MODELS; others are left as they are, apart from parts that were renamed.
        state: Stored name -> tensor.
        known: The names of the model's own ``state_dict()``. A parameter is renamed only to one of these.
    """

    def today(stored: str) -> str:
        if stored in known:
            return stored
        bare = stored.removeprefix(_PREFIXES.get(name, ""))
        options = [bare] + [key.replace(old, new) for key in (stored, bare) for old, new in _PARTS.items()]
        return next((key for key in options if key in known), stored)

    return {today(stored): tensor for stored, tensor in state.items()}


def check_storable(model: MultimodalVAE) -> dict[str, Any]:
    """What a bundle contains of a model beside the weights: ``{"options": ..., "modalities": [...]}``.

    Raises InputError, before any training: a model, encoder or decoder without an import path; an option that JSON cannot hold.
    """
    if ":" in name_of(model):
        _import_path(f"model {model.name!r}", type(model), "Class")
    config = {
        "options": dict(model.options),
        "modalities": [describe_modality(net.spec) for net in model.modalities.values()],
    }
    loaded: dict[str, Any] = json.loads(json_text(f"model {model.name!r}", config))
    return loaded


def describe_modality(modality: Modality) -> dict[str, Any]:
    """A ``[[modality]]`` table: every field but those that are None, and but ``entries`` and ``covariates`` that are not set.

    Raises InputError: a factory without an import path.
    """
    table: dict[str, Any] = {
        field.name: getattr(modality, field.name) for field in dataclasses.fields(modality)
    }
    table |= {"shape": list(modality.shape), "params": dict(modality.params)}
    table["entries"] = modality.entries or None  # older versions do not know the key
    table["covariates"] = [
        one if isinstance(one, str) else one.described() for one in modality.covariates
    ] or None
    for side in ("encoder", "decoder"):
        if callable(table[side]):
            table[side] = _import_path(f"modality {modality.name!r}: {side}", table[side])
    return {key: value for key, value in table.items() if value is not None}


def read_modality(table: Mapping[str, Any]) -> Modality:
    """The inverse of ``describe_modality``; import paths that have moved are updated.

    Raises InputError: an unknown or missing key, and what Modality raises.
    """
    where = f"modality {table.get('name', '?')!r}"
    known = [field.name for field in dataclasses.fields(Modality)]
    for key in table:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}; {nearest(key, known)}")
    for key in ("name", "shape"):
        if key not in table:
            raise InputError(
                f"{where}: got no {key!r}; expected a table with at least name and shape; add it"
            )
    paths = {side: moved(table[side]) for side in ("encoder", "decoder") if isinstance(table.get(side), str)}
    return Modality(**{**table, **paths})


def check_trust(modality: Modality, trust: Sequence[str]) -> None:
    """Raises InputError: an import path that is not of a package in ``trust``, nor, of an encoder or decoder, of polyvae."""
    if ":" in modality.likelihood:
        check_import(f"modality {modality.name!r}: likelihood", modality.likelihood, trust, "likelihood")
    for side in ("encoder", "decoder"):
        given = getattr(modality, side)
        if isinstance(given, str) and ":" in given:
            check_import(f"modality {modality.name!r}: {side}", given, trust, "factory")


def check_params(modality: Modality) -> None:
    """Raises InputError: a parameter of the likelihood or the network that has another type than it is annotated with."""
    makers: list[Callable[..., Any]] = [likelihood_maker(modality)]
    for network in (modality.network, modality.encoder, modality.decoder):
        if isinstance(network, str) and network in NETWORKS:
            makers += NETWORKS[network][:2]
    for maker in makers:
        check_keywords(f"modality {modality.name!r}: params", maker, modality.params)


def check_import(where: str, given: str, trust: Sequence[str], what: str) -> None:
    """Raises InputError: ``given`` is not an import path "package.module:NAME" of polyvae or a package in ``trust``."""
    # No dots after the colon: through a module's attributes one reaches whatever else it has imported.
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", given):
        raise InputError(
            f"{where}: got {given!r}; expected an import path 'package.module:{what}'; correct it"
        )
    module = given.partition(":")[0]
    # A function of data is called with options from the file, so that polyvae's own, which may write, are not trusted.
    ours = {"factory": [_FACTORIES], "Class": ["polyvae"]}.get(what, [])
    if not any(module == name or module.startswith(f"{name}.") for name in (*ours, *trust)):
        package = module.partition(".")[0]
        raise InputError(
            f"{where}: {given!r} would import {package!r}, which is not trusted; expected polyvae's own or a trusted package; "
            f"if you know it, pass trust=[{package!r}], or --trust {package}"
        )


def _import_path(where: str, factory: Callable[..., Any], what: str = "factory") -> str:
    module, name = getattr(factory, "__module__", ""), getattr(factory, "__qualname__", "")
    if module in ("", "__main__") or not name.isidentifier():
        raise InputError(
            f"{where}: got {short(repr(factory), 80)}, which no other program can import; expected it at the top level of "
            f"a module; move it into one, and give it or 'package.module:{what}'"
        )
    return f"{module}:{name}"
