"""Forged and damaged files, from one seed: bundles, and the files of runs. Each must end in one line, soon, and without much memory.

    python -m tests.helpers.forged bundles 40
    python -m tests.helpers.forged RUN 40                # copies of a run that a_run has made

prints one JSON object for each case, and the peak memory of the process at the end.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

import polyvae as pv
from polyvae.cli import main
from polyvae.config import RunConfig
from polyvae.core.fitted import FittedMixture
from polyvae.runs import evaluate_run, train_run
from polyvae.utils.errors import InputError
from polyvae.utils.files import save_tensors

MARK = b'"polyvae":"' + b"0" * 64
DEEP = json.loads("[" * 200 + "]" * 200)
SECONDS = 10  # of the processor
HANGS = 60  # seconds on a clock, on a machine that does other things as well
BYTES = 2**30


class Case(NamedTuple):
    """``make`` puts the damaged file at the path, or returns another path; ``harmless``: it may load."""

    name: str
    make: Callable[[Path], Any]
    harmless: bool = False
    command: tuple[str, ...] = ()


# ---- files of tensors --------------------------------------------------------------------------------------------------------------


def parts(data: bytes) -> tuple[dict, dict, bytes]:
    """The header, what is stored beside the tensors, and the tensors' bytes."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    return header, json.loads(header["__metadata__"]["polyvae"][65:]), data[8 + size :]


def sealed(header: dict | str, stored: Any, payload: bytes) -> bytes:
    """A file with the right digest, whatever it contains."""
    if isinstance(header, dict):
        text = stored if isinstance(stored, str) else json.dumps(stored)
        header = json.dumps(
            {"__metadata__": {"polyvae": "0" * 64 + " " + text}} | header, separators=(",", ":")
        )
    data = struct.pack("<Q", len(header)) + header.encode() + payload
    return data.replace(MARK, MARK[:11] + hashlib.sha256(data).hexdigest().encode(), 1)


def raw(header: dict, stored: Any) -> str:
    return json.dumps(
        {"__metadata__": {"polyvae": "0" * 64 + " " + json.dumps(stored)}} | header, separators=(",", ":")
    )


def places(value: Any, before: tuple = ()) -> Iterator[tuple]:
    """The keys of every value inside ``value``."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield (*before, key)
        yield from places(part, (*before, key))


def replaced(value: Any, place: tuple, new: Any) -> Any:
    value = copy.deepcopy(value)
    inner = value
    for key in place[:-1]:
        inner = inner[key]
    if new is ...:
        del inner[place[-1]]
    else:
        inner[place[-1]] = new
    return value


def at(value: Any, place: tuple) -> Any:
    for key in place:
        value = value[key]
    return value


WRONG: dict[str, Any] = {
    "nothing": ...,
    "null": None,
    "true": True,
    "negative": -3,
    "huge": 10**30,
    "fraction": 1.5,
    "nan": float("nan"),
    "text": "x",
    "NUL": "a\0b",
    "surrogate": "\ud800",
    "list": [1, "x"],
    "table": {"x": 1},
    "deep": DEEP,
}


def swaps(stored: Any, free: tuple[str, ...]) -> Iterator[tuple[str, Any, bool]]:
    """``stored`` with every value replaced by wrong ones. Where the kind of JSON value, or a key in ``free``, allows it, it may load."""
    for place in places(stored):
        old = at(stored, place)
        for word, new in WRONG.items():
            same = type(new) is type(old) or (isinstance(old, float | int) and type(new) in (int, float))
            harmless = (same and not isinstance(old, dict)) or bool({*map(str, place)} & {*free})
            # Files of earlier versions may lack options.
            harmless |= (
                new is ...
                and "config" in place
                and len(place) > 2
                and place[-1] not in ("name", "shape", 0, 1)
            )
            yield f"{'.'.join(map(str, place))} = {word}", replaced(stored, place, new), harmless


def torn(data: bytes, draws: random.Random, count: int) -> Iterator[tuple[str, bytes]]:
    """Truncated, flipped, longer."""
    for _ in range(count):
        end = draws.randrange(len(data))
        yield f"cut at {end}", data[:end]
        place, flip = draws.randrange(len(data)), draws.randrange(1, 256)
        yield f"byte {place} ^ {flip}", data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :]
    yield "one byte more", data + b"\0"
    yield "empty", b""
    yield "zeros", bytes(len(data))


def headers(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Headers that contradict themselves, the tensors or the format."""
    header, stored, payload = parts(data)
    header.pop("__metadata__")
    first, *_, last = header
    entry = header[first]
    for word, change in {
        "negative shape": {"shape": [-1, -4]},
        "huge shape": {"shape": [2**40, 2**40]},
        "shape of text": {"shape": "x"},
        "shape too long": {"shape": [1] * 10_000},
        "other dtype": {"dtype": "I64"},
        "unknown dtype": {"dtype": "Q7"},
        "dtype null": {"dtype": None},
        "offsets reversed": {"data_offsets": entry["data_offsets"][::-1]},
        "offsets of fractions": {"data_offsets": [0.5, 1e308]},
        "offsets huge": {"data_offsets": [0, 2**62]},
        "offsets beyond 64 bits": {"data_offsets": [0, 10**40]},
        "offsets true": {"data_offsets": [False, True]},
        "no offsets": {"data_offsets": []},
    }.items():
        yield f"header: {word}", sealed(header | {first: entry | change}, stored, payload)
    yield "header: overlap", sealed(header | {last: header[first]}, stored, payload)
    yield "header: entry is text", sealed(header | {first: "x"}, stored, payload)
    yield (
        "header: without its first tensor",
        sealed({k: v for k, v in header.items() if k != first}, stored, payload),
    )
    text = raw(header, stored)
    yield "header: name twice", sealed(text[:-1] + f',"{first}":{json.dumps(entry)}}}', None, payload)
    yield "header: no object", sealed("[1]", None, payload)
    yield "header: deep", sealed('{"x":' + "[" * 100_000 + "]" * 100_000 + "}", None, b"")
    yield "header: not JSON", sealed("{" * 50, None, payload)
    yield "header: a length of 2 ** 60", struct.pack("<Q", 2**60) + data[8:]
    yield "header: 20 MB of spaces", sealed(text[:-1] + " " * 20 * 2**20 + "}", None, payload)
    for word, beside in {
        "null": "null",
        "a number": "7",
        "deep": "[" * 100_000 + "]" * 100_000,
        "empty": "",
        "no metadata": '{"version": 2}',
        "version text": '{"version": "x", "metadata": {}}',
        "version huge": '{"version": 1e400, "metadata": {}}',
        "version of 5000 digits": '{"version": ' + "9" * 5000 + ', "metadata": {}}',
        "newer": '{"version": 99, "metadata": {}}',
        "metadata list": '{"version": 2, "metadata": []}',
    }.items():
        yield f"beside: {word}", sealed(header, beside, payload)
    yield (
        "beside: a list",
        sealed(raw(header, stored).replace('"polyvae":"', '"polyvae":["', 1), None, payload),
    )


def specials(path: Path) -> dict[str, Callable[[Path], Any]]:
    """What may be at a path in place of a file."""

    def link(to: str) -> Callable[[Path], Any]:
        return lambda path: os.symlink(to, path)

    return {
        "a pipe": os.mkfifo,
        "a folder": os.mkdir,
        "a dangling link": link("nothing"),
        "a link to itself": link(path.name),
        "a link to a device": link("/dev/zero"),
        "a link to another device": link("/dev/full"),
        "a link to a terminal": link("/dev/tty"),
    }


# ---- bundles -----------------------------------------------------------------------------------------------------------------------


def bundle(folder: Path) -> bytes:
    torch.manual_seed(0)
    params = {"hidden": [4], "scale": 0.5}
    model = pv.MMVAEPlus(
        [pv.Modality("a", (3,), params=params, private=2), pv.Modality("b", (2,), params=params)], latent=2
    )
    pv.save_model(model, folder / "sound.safetensors", {"step": 3})
    return (folder / "sound.safetensors").read_bytes()


def retyped(header: dict, payload: bytes, only: set[str], dtype: str, size: int) -> tuple[dict, bytes]:
    """The tensors named in ``only`` as zeros of another type."""
    made, data = {}, b""
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        part = bytes((end - begin) // 4 * size) if name in only else payload[begin:end]
        made[name] = entry | {
            "data_offsets": [len(data), len(data) + len(part)],
            "dtype": dtype if name in only else entry["dtype"],
        }
        data += part
    return made, data


def bundle_cases(folder: Path, draws: random.Random) -> list[Case]:
    data = bundle(folder)
    header, stored, payload = parts(data)
    header.pop("__metadata__")
    metadata = stored["metadata"]
    cases: list[Case] = []

    def add(name: str, content: bytes, harmless: bool = False) -> None:
        cases.append(Case(name, lambda path: path.write_bytes(content) and None, harmless))

    def changed(name: str, metadata: Any, harmless: bool = False) -> None:
        add(name, sealed(header, {"version": 2, "metadata": metadata}, payload), harmless)

    for name, content in [*torn(data, draws, 15), *headers(data)]:
        add(name, content)
    for name, metadata_, harmless in swaps(metadata, ("extra", "private", "weight", "step")):
        changed(name, metadata_, harmless)
    # Memory and time.
    options, (a, _) = metadata["config"]["options"], metadata["config"]["modalities"]
    for key, value in {
        "latent": 10**8,
        "K": 10**9,
        "prior_components": 10**7,
        "beta": 1e400,
    }.items():
        changed(f"options.{key} = {value}", replaced(metadata, ("config", "options"), options | {key: value}))
    for name, more in {
        "wide layers": {"params": {"hidden": [30_000, 30_000]}},
        "many layers": {"params": {"hidden": [4] * 300_000}},
        "huge shape": {"shape": [10**9]},
        "many axes": {"shape": [2] * 1000},
        "wide convolutions": {"shape": [3, 32, 32], "network": "conv", "params": {"width": 1e5}},
        "endless width": {"shape": [3, 32, 32], "network": "resnet", "params": {"width": 1e308}},
        "private columns": {"private": 10**8},
        "layers of text": {"params": {"hidden": "xy"}},
        "layers of tables": {"params": {"hidden": [{}]}},
        "negative layers": {"params": {"hidden": [-4]}},
        "no layers": {"params": {"hidden": None}},
        "unknown parameter": {"params": {"x": 1}},
    }.items():
        changed(name, replaced(metadata, ("config", "modalities", 0), a | more))
    many = [a | {"name": f"x{number}"} for number in range(20_000)]
    changed("many modalities", replaced(metadata, ("config", "modalities"), many))
    changed("no modalities", replaced(metadata, ("config", "modalities"), []))
    changed("a name twice", replaced(metadata, ("config", "modalities"), [a, a]))
    for name, more in {
        "cmvae": {"latent": 2, "clusters": 10**8},
        "meme": {"latent": 2, "pseudo": 10**8},
        "jmvae": {"latent": 2, "joint_width": 10**8},
        "nexus": {"latent": 2, "hidden": [10**5, 10**5]},
        "u-hved": {"levels": [10**6] * 4},
        "mmvae-contrastive": {"latent": 2, "negatives": 10**9},
        "mmvae-contrastive ": {"latent": 2, "base": "mmvae-contrastive"},
        "composed": {"latent": 2, "subsets": "x" * 10**6},
        "vae": {"latent": 2},
        "polyvae.core.vae:MultimodalVAE": {"latent": 2},
        "polyvae.models:MODELS": {"latent": 2},
        "polyvae.cli.commands:main": {},
        "polyvae.nothing:Nothing": {},
        "os:system": {},
        ":": {},
        "x" * 100_000: {},
        "polyvae.models.mvae:MVAE\n": {"latent": 2},
    }.items():
        config = replaced(metadata, ("name",), name.strip(" "))
        changed(f"model {name[:40]!r}", replaced(config, ("config", "options"), more))
    for side in ("encoder", "decoder"):
        for path in (
            "os:system",
            "polyvae.cli.commands:main",
            "polyvae.core.networks:NETWORKS",
            "polyvae.core.networks:auto",
            "polyvae.core.networks.mlp:nn",
            "polyvae.core.networks.mlp:prod",
            "polyvae.core.networks.mlp:nothing",
            "polyvae.core.networks.mlp:mlp_encoder.__globals__",
            "polyvae.core.networks.:x",
            "polyvae.utils.files:write_atomic",
            "a\0b:c",
            "mlp\0",
            ":",
        ):
            changed(f"{side} {path!r}", replaced(metadata, ("config", "modalities", 0), a | {side: path}))
    # Tensors.
    names, whole = list(header), {"version": 2, "metadata": metadata}
    for dtype, size in (("I64", 8), ("I32", 4), ("BOOL", 1), ("F8_E4M3", 1), ("U8", 1)):
        add(f"all weights {dtype}", sealed(*_with(retyped(header, payload, {*names}, dtype, size), whole)))
        add(f"one weight {dtype}", sealed(*_with(retyped(header, payload, {names[0]}, dtype, size), whole)))
    for dtype, size in (("F64", 8), ("F16", 2), ("BF16", 2)):
        add(
            f"one weight {dtype}",
            sealed(*_with(retyped(header, payload, {names[0]}, dtype, size), whole)),
            True,
        )
    end = len(payload)
    extra = {"more": {"dtype": "F32", "shape": [0], "data_offsets": [end, end]}}
    add("a tensor more, of size zero", sealed(header | extra, whole, payload))
    add("no tensors", sealed({}, whole, b""))
    add(
        "one tensor of size zero",
        sealed({"x": {"dtype": "F32", "shape": [0, 2**62], "data_offsets": [0, 0]}}, whole, b""),
    )
    for name in names[::3]:
        entry = header[name]
        add(f"{name} flat", sealed(header | {name: entry | {"shape": [*entry["shape"], 1]}}, whole, payload))
        add(
            f"{name} renamed",
            sealed(
                {f"{key}x" if key == name else key: value for key, value in header.items()}, whole, payload
            ),
        )
    # Paths.
    for name, make in specials(folder / "bundle.safetensors").items():
        cases.append(Case(f"path: {name}", make))
    for name, path in {
        "NUL": "a\0b.safetensors",
        "long": "x" * 5000 + ".safetensors",
        "none": "nothing.safetensors",
        "none, no suffix": "nothing",
        "surrogate": "\udcff.safetensors",
        "device": "/dev/zero",
    }.items():
        cases.append(Case(f"path: {name}", lambda _, path=path: folder / path))
    return cases


def _with(made: tuple[dict, bytes], stored: Any) -> tuple[dict, Any, bytes]:
    return made[0], stored, made[1]


def bundles(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """The outcome of ``load_model`` for ``count`` forged bundles; 0: for all."""
    with tempfile.TemporaryDirectory() as name:
        draws = random.Random(seed)
        cases = bundle_cases(Path(name), draws)
        for case in chosen(cases, count, draws):
            path = Path(name) / "bundle.safetensors"
            path = case.make(path) or path
            yield outcome(case, lambda path=path: pv.load_model(path))
            _remove(Path(name) / "bundle.safetensors")


# ---- runs --------------------------------------------------------------------------------------------------------------------------

CONFIG = {
    "data": {"name": "polydigits", "only": ["m0", "m1"], "options": {"train": 40, "test": 20}},
    "model": {"name": "mvae", "latent": 2},
    "modality": [{"name": "*", "params": {"hidden": [4], "scale": 0.5}}],
    "train": {"epochs": 2, "batch_size": 20, "threads": 1, "patience": 5, "validation": 0.2},
    "evaluate": {
        "metrics": ["likelihood"],
        "likelihood_samples": 20,
        "likelihood_rows": 5,
        "draws": 20,
        "fitted_prior": {"components": 2},
    },
}
STUDY = """
[study]
title = "x"
seeds = [0]
epochs = 1
[base.data]
name = "polydigits"
[[contender]]
label = "MVAE"
model = {name = "mvae"}
"""


def a_run(out: Path) -> None:
    train_run(RunConfig.check(CONFIG), out, show=False)
    evaluate_run(out, show=False)
    prior = FittedMixture.fit(torch.randn(40, 2, generator=torch.Generator().manual_seed(0)), components=2)
    save_tensors(out / "fitted_prior.safetensors", prior.state_dict(), prior.settings)


def run_cases(sound: Path, draws: random.Random) -> list[Case]:
    cases: list[Case] = []
    resume, sample = (
        ("train", "--resume", "--quiet", "--out", "RUN", "--set", "train.epochs=3"),
        ("sample", "RUN", "-o", "OUT"),
    )
    fitted, report = (*sample, "--prior", "fitted"), ("report", "RUN")
    evaluate = ("evaluate", "RUN", "--quiet")

    def add(name: str, file: str, content: bytes, command: tuple[str, ...], harmless: bool = False) -> None:
        def make(run: Path) -> None:
            for path in run.glob(file):
                path.write_bytes(content)

        cases.append(Case(f"{file}: {name}", make, harmless, command))

    checkpoints = "checkpoints/step-*.safetensors"
    for file, command in ((checkpoints, resume), ("fitted_prior.safetensors", fitted)):
        data = sorted(sound.glob(file))[-1].read_bytes()
        for name, content in [*torn(data, draws, 6), *headers(data)]:
            add(name, file, content, command)
        header, stored, payload = parts(data)
        header.pop("__metadata__")
        free = (
            "train",
            "elapsed",
            "best",
            "first",
            "stale",
            "step",
            "names",
            "optimizer",
            "options",
            "kind",
            "components",
        )
        for name, metadata, harmless in swaps(stored["metadata"], free):
            whole = {"version": 2, "metadata": metadata}
            flags = name.startswith("optimizer.group.0.params") and not name.endswith(
                ("nothing", "params = list")
            )
            add(
                name,
                file,
                sealed(header, whole, payload),
                command,
                (harmless and not flags) or name.endswith(("weight = true", "params.1 = true")),
            )
        for dtype, size in (("I64", 8), ("BOOL", 1), ("F8_E4M3", 1)):
            names = {name for name in header if not name.startswith(("optimizer.", "sums."))}
            add(
                f"weights {dtype}",
                file,
                sealed(*_with(retyped(header, payload, names, dtype, size), stored)),
                command,
                file == checkpoints,
            )
        for name in list(header)[::4]:
            renamed = {f"{key}x" if key == name else key: value for key, value in header.items()}
            flat = header | {name: header[name] | {"shape": [*header[name]["shape"], 1]}}
            add(f"{name} renamed", file, sealed(renamed, stored, payload), command, name.startswith("sums."))
            add(
                f"{name} with an axis more",
                file,
                sealed(flat, stored, payload),
                command,
                name.startswith("sums."),
            )
    best = (sound / "checkpoints" / "best.safetensors").read_bytes()
    for name, content in [*torn(best, draws, 3), *headers(best)]:
        add(name, "checkpoints/best.safetensors", content, resume)

    config = (sound / "config.toml").read_bytes()
    for name, content in torn(config, draws, 6):
        for command in (resume, sample):
            add(name, "config.toml", content, command, True)
    for name, text in {
        "deep list": "x = " + "[" * 100_000,
        "deep list, closed": "x = " + "[" * 200 + "]" * 200,
        "deep key": ".".join("x" * 5000) + " = 1",
        "huge number": "x = " + "9" * 5000,
        "NUL": "x = \0",
        "not UTF-8": "\udcff",
        "unknown table": "[x]\ny = 1",
        "data.name a number": "[data]\nname = 7",
        "data.root NUL": '[data]\nname = "polymnist"\nroot = "a\\u0000b"',
        "data.options a list": "[data]\noptions = [1]",
        "data.options.train text": '[data]\noptions = {train = "x"}',
        "data.options.train huge": "[data]\noptions = {train = 99999999999999999999}",
        "data.options.seed text": '[data]\noptions = {seed = "x"}',
        "data.only a number": "[data]\nonly = [7]",
        "data.only empty": "[data]\nonly = []",
        "data.target taken": '[data]\ntarget = "m0"',
        "model.name NUL": '[model]\nname = "a\\u0000b"',
        "model.name path": '[model]\nname = "os:system"',
        "modality a table": "[modality]\nx = 1",
        "modality.shape": '[[modality]]\nname = "m0"\nshape = ["x"]',
        "modality.encoder": '[[modality]]\nname = "m0"\nencoder = "os:system"',
        "train.epochs huge": "[train]\nepochs = 1e400",
        "train.lr nan": "[train]\nlr = nan",
        "train.threads": "[train]\nthreads = 0",
        "train.device": '[train]\ndevice = "toaster"',
        "evaluate.draws": "[evaluate]\ndraws = -1",
    }.items():
        command = (
            resume
            if name.startswith(("train", "model", "modality"))
            else sample
            if "given" in name
            else evaluate
        )
        add(name, "config.toml", text.encode("utf-8", "surrogateescape"), command)

    evaluation = (sound / "evaluation.json").read_bytes()
    for name, content in torn(evaluation, draws, 5):
        add(name, "evaluation.json", content, report, name.startswith("byte"))
    loaded = json.loads(evaluation)
    for name, text in {
        "deep": "[" * 100_000,
        "deep object": '{"x":' * 5000 + "1" + "}" * 5000,
        "a list": "[]",
        "huge number": '{"x": ' + "9" * 5000 + "}",
        "a key twice": '{"model": "x", "model": "y"}',
        "nothing in it": "{}",
    }.items():
        add(name, "evaluation.json", text.encode(), report)
    for key in (
        "model",
        "rows",
        "seed",
        "protocol",
        "log_likelihood_joint",
        "log_likelihood_by_modality",
        "log_likelihood",
    ):
        for word in ("true", "text", "list", "deep"):
            if (key, word) not in (("model", "text"),):
                add(
                    f"{key} {word}",
                    "evaluation.json",
                    json.dumps(loaded | {key: WRONG[word]}).encode(),
                    report,
                )
    history = (sound / "history.jsonl").read_bytes()
    record = json.loads(history.splitlines()[0])
    for key in ("step", "epoch", "seconds", "train", "validation"):
        for word in ("true", "negative", "text", "list"):
            if word == "negative" and key in ("train", "validation"):
                continue
            line = json.dumps(record | {key: WRONG[word]}).encode() + b"\n"
            add(f"{key} {word}", "history.jsonl", line, resume if word == "text" else report)
    for word in ("nothing", "null"):
        for key in ("step", "seconds", "train"):
            add(
                f"{key} {word}",
                "history.jsonl",
                json.dumps(replaced(record, (key,), WRONG[word])).encode(),
                report,
            )
    add("train without bound", "history.jsonl", json.dumps(record | {"train": {}}).encode(), report)

    for file, command in (
        ("config.toml", sample),
        ("config.toml", resume),
        ("model.safetensors", sample),
        ("evaluation.json", report),
        ("history.jsonl", report),
        ("fitted_prior.safetensors", fitted),
    ):
        for name, make in specials(Path(file)).items():

            def put(run: Path, file: str = file, make: Callable[[Path], Any] = make) -> None:
                (run / file).unlink()
                make(run / file)

            # A dangling link counts as no file, which only a model and a configuration are missed for.
            absent = "dangling" in name or "itself" in name
            optional = file in ("evaluation.json", "history.jsonl")
            cases.append(Case(f"{file}: {name}", put, absent and optional, command))
    study = ("study", "STUDY", "--report", "--out", "RUN", "--quiet")
    for name, text in {
        "deep": "[" * 100_000,
        "a list": "[]",
        "cells a number": '{"cells": 7}',
        "cells of numbers": '{"cells": [7]}',
        "cells without names": '{"cells": [{"error": "x"}]}',
        "cells of lists": '{"cells": [{"name": [], "error": {}}]}',
        "empty": "",
    }.items():
        for file in ("results.json", "plan.json"):

            def put_study(run: Path, text: str = text, file: str = file) -> None:
                (run / file).write_text(text)

            cases.append(
                Case(
                    f"study {file}: {name}",
                    put_study,
                    file == "plan.json" and name.startswith("cells"),
                    study,
                )
            )
    return cases


def runs(sound: Path, count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """The outcome of commands on ``count`` damaged copies of a run, that of ``a_run``; 0: on all."""
    with tempfile.TemporaryDirectory() as name:
        run, draws = Path(name) / "run", random.Random(seed)
        (Path(name) / "study.toml").write_text(STUDY)
        words = {"RUN": str(run), "OUT": str(Path(name) / "out.npz"), "STUDY": str(Path(name) / "study.toml")}
        for case in chosen(run_cases(sound, draws), count, draws):
            shutil.copytree(sound, run)
            case.make(run)
            yield outcome(case, lambda case=case: command([words.get(word, word) for word in case.command]))
            shutil.rmtree(run)


def command(arguments: list[str]) -> None:
    """Raises InputError with what the command line printed, where it exits with 2; else an error that says with what it did."""
    text = io.StringIO()
    with contextlib.redirect_stderr(text), contextlib.redirect_stdout(io.StringIO()):
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code
    lines = [line for line in text.getvalue().strip().splitlines() if line.startswith("error")]
    if code == 2:
        raise InputError("\n".join(lines))
    if code:
        raise RuntimeError(f"exit code {code}: {text.getvalue().strip()}")


# ---- all ---------------------------------------------------------------------------------------------------------------------------


def chosen(cases: list[Case], count: int, draws: random.Random) -> list[Case]:
    return cases if not count else draws.sample(cases, min(count, len(cases)))


def outcome(case: Case, call: Callable[[], Any]) -> dict[str, Any]:
    """What ``call`` did: "refused" in one line, "loaded", or what else. A call that hangs is interrupted."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"more than {HANGS} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(HANGS)
    began, line, before = time.process_time(), "", peak()
    try:
        call()
        kind = "loaded" if case.harmless else "loaded, and should not"
    except InputError as problem:
        line = str(problem)
        kind = (
            "refused"
            if line.strip() and len(line.splitlines()) == 1 and len(line) < 2000
            else "more or less than a line"
        )
    except BaseException as problem:
        kind, line = f"{type(problem).__name__}", str(problem)[:300]
    finally:
        signal.alarm(0)
    return {
        "case": case.name,
        "kind": kind,
        "line": line,
        "seconds": round(time.process_time() - began, 2),
        "more": peak() - before,
    }


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    elif os.path.lexists(path):
        path.unlink()


def peak() -> int:
    """The largest resident set of this process, in bytes."""
    # Not ru_maxrss, which starts at the memory of the process that started this one.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) * 1024


if __name__ == "__main__":
    torch.set_num_threads(1)
    with open("/proc/self/statm") as state:
        used = int(state.read().split()[0]) * resource.getpagesize()
    # Where memory is asked for without a bound, the case fails and the machine lives on.
    resource.setrlimit(resource.RLIMIT_AS, (used + 8 * BYTES, resource.RLIM_INFINITY))
    wanted = bundles if sys.argv[1] == "bundles" else partial(runs, Path(sys.argv[1]))
    for found in wanted(int(sys.argv[2])):
        print(json.dumps(found), flush=True)
    print(json.dumps({"peak": peak()}))
