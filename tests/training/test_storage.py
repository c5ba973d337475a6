"""Storage: what is written survives and comes back; what was damaged is refused, in one line."""

import json
import logging
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from polyvae.core.modality import Modality
from polyvae.data import MultimodalData
from polyvae.models import VAE
from polyvae.models.bundles import (
    check_storable,
    check_trust,
    describe_modality,
    load_bundle,
    load_model,
    read_modality,
    save_bundle,
    save_model,
)
from polyvae.testing import example_data, plain_world
from polyvae.testing.laws import law_storage
from polyvae.training.checkpoints import Checkpoints, flatten_optimizer, restore_optimizer
from polyvae.training.directory import RunDirectory
from polyvae.training.loop import fit
from polyvae.utils import files
from polyvae.utils.errors import InputError
from polyvae.utils.files import StorageError, load_tensors, save_tensors, write_atomic, write_npz


def message(call, *arguments, kind=InputError, **keywords):
    """The error's text; it must be one line."""
    with pytest.raises(kind) as caught:
        call(*arguments, **keywords)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def names(checkpoints):
    return sorted(file.name for file in checkpoints.directory.iterdir())


def encoder_factory(shape, out):
    return nn.Linear(shape[0], out)


@pytest.fixture
def tensors():
    tied = torch.arange(6.0).view(2, 3)
    return {
        "tied": tied,
        "a.b/c": tied,
        "turned": tied.T,
        "half": torch.tensor([1.5, float("nan")], dtype=torch.bfloat16),
        "flag": torch.tensor([True, False]),
        "step": torch.tensor(7),
        "empty": torch.empty(0, 4, dtype=torch.float64),
    }


@pytest.fixture
def metadata():
    return {
        "share": 0.1,
        "sha256": "0" * 64,
        "polyvae": '"polyvae":"' + "0" * 64,
        "name": "modalité",
        "nested": {"list": [1, None, True]},
    }


@pytest.fixture
def file(tmp_path, tensors, metadata):
    path = tmp_path / "file.safetensors"
    save_tensors(path, tensors, metadata)
    return path


# ---- one file ----------------------------------------------------------------------------------------------------------------------


def test_tensors_and_metadata_come_back_bit_for_bit(file, tensors, metadata):
    loaded, told = load_tensors(file)
    assert told == metadata
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        torch.testing.assert_close(loaded[name], tensor, rtol=0, atol=0, equal_nan=True)
    assert safetensors.torch.load_file(file).keys() == tensors.keys()  # others can read it too


def test_equal_contents_are_equal_files(file, tensors, metadata, tmp_path):
    save_tensors(tmp_path / "again", dict(reversed(tensors.items())), metadata)
    assert (tmp_path / "again").read_bytes() == file.read_bytes()


def test_any_changed_byte_is_noticed(file):
    whole = file.read_bytes()
    for place in range(len(whole)):
        for flip in (0x01, 0x20, 0xFF):  # 0x20 changes the case of hexadecimal digits
            file.write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
            assert str(file) in message(load_tensors, file)


def test_any_truncation_and_any_addition_is_noticed(file):
    whole = file.read_bytes()
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        message(load_tensors, file)
    assert f"got {len(whole) - 1} bytes; expected {len(whole)}: the file is truncated" in message(
        load_tensors, file
    )
    file.write_bytes(whole + b"\0")
    assert "do not match their sha256" in message(load_tensors, file)


def test_files_of_another_kind_are_named_as_such(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    assert "No such file" in message(load_tensors, path)
    assert "Is a directory" in message(load_tensors, tmp_path)
    torch.save({"a": torch.ones(1)}, path)
    assert "not a safetensors file" in message(load_tensors, path)
    safetensors.torch.save_file({"a": torch.ones(1)}, path)
    assert "without polyvae's metadata" in message(load_tensors, path)
    monkeypatch.setattr(files, "FORMAT", 3)
    save_tensors(path, {}, {})
    monkeypatch.undo()
    assert "format version 3; expected 2 or older; upgrade polyvae" in message(load_tensors, path)


def test_metadata_that_json_cannot_hold_is_refused_and_the_old_file_stays(file):
    before = file.read_bytes()
    assert "JSON cannot hold" in message(save_tensors, file, {}, {"bad": torch.ones(1)})
    assert file.read_bytes() == before


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "x"
    write_atomic(path, b"old")

    def fail(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    assert "not written (No space left on device)" in message(write_atomic, path, b"new", kind=StorageError)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


FULL_DISK = """
import resource, signal, sys, torch
from polyvae.training.checkpoints import Checkpoints
from polyvae.training.directory import RunDirectory
from polyvae.utils.files import StorageError
run = RunDirectory.create(sys.argv[1])
checkpoints = Checkpoints(run.checkpoints)
checkpoints.save(1, {"x": torch.ones(10)}, {"step": 1})
run.append_history({"step": 1})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
for write in (
    lambda: checkpoints.save(2, {"x": torch.ones(10_000)}, {"step": 2}),
    lambda: run.append_history({"step": 2, "long": "x" * 30_000}),
    lambda: run.append_history({"step": 3}),
):
    try:
        write()
    except StorageError as problem:
        print(problem)
"""


def test_a_full_disk_costs_neither_checkpoint_nor_history(tmp_path):
    run = RunDirectory(tmp_path / "run")
    # A limit on the size of files stands in for a full disk; the last, small record fails too: the torn one has used up the room.
    out = subprocess.run(
        [sys.executable, "-c", FULL_DISK, run.path], capture_output=True, text=True, check=True
    )
    lines = out.stdout.splitlines()
    assert len(lines) == 3
    assert all("not written (File too large)" in line for line in lines)
    loaded, told = Checkpoints(run.checkpoints).load()
    assert told == {"step": 1}
    assert torch.equal(loaded["x"], torch.ones(10))
    assert names(Checkpoints(run.checkpoints)) == ["latest", "step-000000001.safetensors"]
    run.append_history({"step": 4})
    assert [record["step"] for record in run.read_history()] == [1, 4]


# ---- bundles and modalities --------------------------------------------------------------------------------------------------------


def test_a_bundle_comes_back_from_its_file_and_from_its_run(tmp_path, tensors):
    run = RunDirectory.create(tmp_path / "run")
    assert "a run without model.safetensors" in message(load_bundle, run.path)
    config = {
        "options": {"latent": 4, "beta": 2.5, "private": None},
        "modalities": [describe_modality(Modality("a", (3,)))],
    }
    save_bundle(run.model, model_name="mmvae+", config=config, state=tensors, extra={"seed": 3})
    for path in (run.path, run.model):
        bundle = load_bundle(path)
        assert (bundle.name, bundle.config, bundle.extra) == ("mmvae+", config, {"seed": 3})
        assert torch.equal(bundle.state["turned"], tensors["turned"])
    checkpoint = Checkpoints(run.checkpoints).save(1, tensors, {})
    assert "not a model" in message(load_bundle, checkpoint)
    run.write_text("config.toml", "")
    assert "no such run; expected a run directory; did you mean 'run'?" in message(
        load_bundle, tmp_path / "runn"
    )


@pytest.mark.parametrize(
    "modality",
    [
        Modality("a", (3, 8, 8)),
        Modality(
            "rna.counts",
            (20,),
            likelihood="laplace",
            private=0,
            weight=0.5,
            params={"scale": 0.75},
            role="target",
        ),
        Modality("c", (4,), encoder=encoder_factory, decoder="own.package:decoder"),
    ],
)
def test_a_modality_comes_back_from_its_json(modality):
    table = json.loads(json.dumps(describe_modality(modality)))
    back = read_modality(table)
    assert describe_modality(back) == table
    assert (back.name, back.shape, back.params, back.role) == (
        modality.name,
        modality.shape,
        modality.params,
        modality.role,
    )


def test_a_factory_is_stored_as_its_import_path_or_refused():
    assert (
        describe_modality(Modality("a", (3,), encoder=encoder_factory))["encoder"]
        == f"{__name__}:encoder_factory"
    )

    def local(shape, out):
        return nn.Linear(shape[0], out)

    for factory in (lambda shape, out: nn.Linear(shape[0], out), local):
        assert "no other program can import" in message(
            describe_modality, Modality("a", (3,), decoder=factory)
        )


@pytest.mark.parametrize("module", [__name__, "__main__"])
def test_a_model_that_no_other_program_can_import_is_refused_before_training(module, tmp_path):
    """In a function, or at the top of a script: what would be stored could not be loaded. Without a run directory it trains."""
    inner = type(
        "Inner",
        (VAE,),
        {"__module__": module, "__qualname__": "Inner" if module == "__main__" else "make.<locals>.Inner"},
    )
    model = inner(plain_world(), latent=2)
    data = MultimodalData({name: x.float() for name, x in example_data(model, 8).items()})
    for call in (
        check_storable,
        lambda model: save_model(model, tmp_path / "x.safetensors"),
        lambda model: fit(model, data, out=tmp_path / "run", epochs=1, validation=0.0, show=False),
    ):
        assert message(call, model) == (
            f"model 'vae': got {inner!r}, which no other program can import; expected it at the top level of a module; move it into one, "
            "and give it or 'package.module:Class'"
        )
    assert not list(tmp_path.iterdir())
    assert fit(model, data, epochs=1, validation=0.0, show=False).step == 1
    law_storage(lambda specs: inner(specs, latent=2), plain_world())


def test_unknown_and_missing_keys_of_a_modality_are_named():
    assert "unknown key 'shap'; did you mean 'shape'?" in message(read_modality, {"name": "a", "shap": [3]})
    assert "got no 'shape'" in message(read_modality, {"name": "a"})


@pytest.mark.parametrize(
    ("path", "trust", "fine"),
    [
        ("polyvae.core.networks.mlp:mlp_encoder", (), True),
        ("own.networks:encoder", ("own",), True),
        ("own.networks:encoder", ("own.networks",), True),
        ("own.networks:encoder", (), False),
        ("owner.networks:encoder", ("own",), False),
        ("polyvaex:encoder", (), False),
    ],
)
def test_code_is_imported_only_from_trusted_packages(path, trust, fine):
    modality = Modality("a", (3,), encoder=path)
    if fine:
        check_trust(modality, trust)
    else:
        assert f"pass trust=['{path.partition(':')[0].partition('.')[0]}']" in message(
            check_trust, modality, trust
        )


def test_what_a_trusted_module_imported_is_out_of_reach():
    assert "expected an import path" in message(
        check_trust, Modality("a", (3,), decoder="polyvae.storage:os.system"), ()
    )


# ---- checkpoints -------------------------------------------------------------------------------------------------------------------


def test_checkpoints_keep_the_last_and_point_to_the_newest(tmp_path):
    checkpoints = Checkpoints(tmp_path / "c", keep=2)
    assert checkpoints.latest() is None
    assert "got no checkpoint" in message(checkpoints.load)
    for step in (1, 2, 30):
        checkpoints.save(step, {"x": torch.tensor(step)}, {"step": step})
    assert names(checkpoints) == ["latest", "step-000000002.safetensors", "step-000000030.safetensors"]
    assert checkpoints.latest() == checkpoints.directory / "step-000000030.safetensors"
    checkpoints.save(5, {"x": torch.tensor(5)}, {"step": 5})  # another future: 30 belongs to the old one
    assert names(checkpoints) == ["latest", "step-000000002.safetensors", "step-000000005.safetensors"]
    assert "keep=0" in message(Checkpoints, tmp_path, keep=0)


def test_a_damaged_checkpoint_or_pointer_falls_back_to_what_is_whole(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, {}, {"step": step})
    (tmp_path / "latest").write_bytes(b"\xff../../etc")
    assert checkpoints.load()[1] == {"step": 2}
    (tmp_path / "latest").unlink()
    assert checkpoints.load()[1] == {"step": 2}
    newest = tmp_path / "step-000000002.safetensors"
    newest.write_bytes(newest.read_bytes()[:-3])
    with caplog.at_level(logging.WARNING, "polyvae"):
        assert checkpoints.load()[1] == {"step": 1}
    assert [record.getMessage().count("\n") for record in caplog.records] == [0]
    assert newest.name in caplog.text
    (tmp_path / "step-000000001.safetensors").write_bytes(b"")
    assert "got 2 checkpoints, all damaged" in message(checkpoints.latest)


LEFT = """
import os, signal, sys
from pathlib import Path
import numpy as np
from polyvae.data.sets.memory import mapped
from polyvae.utils.files import atomic
from polyvae.utils.partial import claimed_folder
with atomic(Path(sys.argv[1], "model.safetensors")) as file, claimed_folder(Path(sys.argv[1], "cache")) as folder:
    file.write(b"half")
    Path(folder, "x.npy").write_bytes(b"half")
    print("ready", flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", LEFT, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    (tmp_path / ".mine.partial").write_text("mine")
    write_atomic(tmp_path / "other", b"")
    assert len(list(tmp_path.glob(".*.partial"))) == 3
    process.communicate("\n")
    write_atomic(tmp_path / "other", b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine.partial", "other"]


def test_samples_keep_their_names_and_a_failed_write_the_file_that_was_there(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    arrays = {
        name: np.arange(3.0) + n
        for n, name in enumerate(("file", "allow_pickle", "a/b", "x.y", "self", "args"))
    }
    write_npz(path, arrays)
    with np.load(path) as found:
        assert set(found.files) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
    assert "differ by more than .npy" in message(write_npz, path, {"a": np.ones(1), "a.npy": np.ones(1)})
    before = path.read_bytes()

    def fail(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    assert "No space left" in message(write_npz, path, {"a": np.ones(1)}, kind=StorageError)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.npz"]


def test_a_bundle_asks_for_no_more_memory_than_its_file_has(tmp_path):
    """Each of these is built only in outline, and compared with 17 tensors of a few bytes."""
    path = tmp_path / "x.safetensors"
    save_model(VAE([Modality("a", (3,), params={"hidden": [4]})], latent=2), path)
    bundle = load_bundle(path)
    for options, params in (
        ({"latent": 10**5}, {"hidden": [4]}),
        ({"latent": 2}, {"hidden": [99_000, 99_000]}),
    ):
        config = {
            "options": bundle.config["options"] | options,
            "modalities": [bundle.config["modalities"][0] | {"params": params}],
        }
        save_bundle(path, model_name="vae", config=config, state=bundle.state, extra={})
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert "do not fit" in message(load_model, path)
        assert (
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
        )  # kilobytes; the weights would take 39 GB


KILLED = """
import os, signal, sys, time, torch
from pathlib import Path
from polyvae.training.checkpoints import Checkpoints
for folder, delay in zip(sys.argv[1::2], sys.argv[2::2]):
    child = os.fork()
    if child == 0:
        step = 0
        while True:
            step += 1
            Checkpoints(folder).save(step, {"x": torch.full((200_000,), step)}, {"step": step})
    while not Path(folder, "latest").exists():
        time.sleep(0.001)
    time.sleep(float(delay))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


def test_kill_9_at_any_moment_leaves_a_latest_that_loads(tmp_path):
    folders = {tmp_path / str(index): delay for index, delay in enumerate((0.0, 0.011, 0.053, 0.127, 0.2))}
    subprocess.run(
        [sys.executable, "-c", KILLED, *(str(x) for pair in folders.items() for x in pair)],
        check=True,
        timeout=60,
    )
    for folder in folders:
        checkpoints = Checkpoints(folder)
        loaded, told = checkpoints.load()
        assert (
            checkpoints.latest().name
            == (folder / "latest").read_text().strip()
            == f"step-{told['step']:09d}.safetensors"
        )
        assert torch.equal(loaded["x"], torch.full((200_000,), told["step"]))
        checkpoints.save(told["step"] + 1, {}, {})
        assert len(list(folder.iterdir())) == 3  # two checkpoints, the pointer, and no leftovers


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=1e-2, amsgrad=True),
    "fused": lambda p: torch.optim.Adam(p, lr=1e-2, fused=True),
    "fused amsgrad": lambda p: torch.optim.Adam(p, lr=1e-2, fused=True, amsgrad=True),
    "tensor lr": lambda p: torch.optim.Adam(p, lr=torch.tensor(1e-2), foreach=False),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, betas=(0.8, 0.99)),
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, nesterov=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2),
}


def steps(net, optimizer, first, last):
    for step in range(first, last):
        torch.manual_seed(step)
        optimizer.zero_grad()
        net(torch.randn(8, 5)).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_continues_bit_for_bit(tmp_path, name):
    def start():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))
        return net, OPTIMIZERS[name](
            [{"params": net[0].parameters()}, {"params": net[2].parameters(), "lr": 3e-3}]
        )

    net, optimizer = start()
    steps(net, optimizer, 0, 4)
    flat, groups = flatten_optimizer(optimizer.state_dict())
    save_tensors(tmp_path / "o", flat | {f"net.{key}": x for key, x in net.state_dict().items()}, groups)
    steps(net, optimizer, 4, 8)

    again, resumed = start()
    loaded, groups = load_tensors(tmp_path / "o")
    again.load_state_dict({key[4:]: loaded.pop(key) for key in list(loaded) if key.startswith("net.")})
    kept = {key: x.clone() for key, x in loaded.items()}
    restore_optimizer(resumed, loaded, groups)
    steps(again, resumed, 4, 8)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))
    assert all(torch.equal(kept[key], x) for key, x in loaded.items())  # what was given is not stepped on
    assert resumed.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]


def test_an_optimizer_state_of_another_model_is_refused():
    state = flatten_optimizer(torch.optim.Adam(nn.Linear(2, 2).parameters()).state_dict())
    assert "does not fit" in message(
        restore_optimizer, torch.optim.Adam([nn.Parameter(torch.ones(1))]), *state
    )


# ---- run directories ---------------------------------------------------------------------------------------------------------------


def fill(run):
    run.write_text("config.toml", "[train]\n")
    run.append_history({"step": 1})
    Checkpoints(run.checkpoints).save(1, {}, {})
    run.write_figures({"grid.png": b"made"})
    for path in (
        run.model,
        run.report,
        run.evaluation,
        run.fitted_prior,
        run.checkpoints / "best.safetensors",
    ):
        path.write_bytes(b"made")


def test_a_run_is_never_overwritten_without_force_and_nothing_foreign_with_it(tmp_path):
    run = RunDirectory.create(tmp_path / "deep" / "run")
    assert RunDirectory.create(run.path).path == run.path  # still empty
    fill(run)
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    text = message(RunDirectory.create, run.path)
    assert "--force" in text
    assert "--resume" in text
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    mine = [
        run.path / "notes.md",
        run.checkpoints / "mine.pt",
        run.path / "figures" / "deep" / "mine.png",
        run.path / "figures" / "mine.png",
        run.path / "data.csv",
    ]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    RunDirectory.create(run.path, force=True)
    assert sorted(path for path in run.path.rglob("*") if path.is_file()) == sorted(mine)


def test_force_removes_nothing_through_a_link(tmp_path):
    run = RunDirectory.create(tmp_path / "run")
    fill(run)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "grid.png").write_text("mine")
    (tmp_path / "mine" / ".written").write_text("grid.png\n../run/config.toml\n..\n/etc/passwd\n")
    (run.figures / "grid.png").unlink()
    (run.figures / ".written").unlink()
    run.figures.rmdir()
    run.figures.symlink_to(tmp_path / "mine")
    RunDirectory.create(run.path, force=True)
    assert (tmp_path / "mine" / "grid.png").read_text() == "mine"
    run.write_text("config.toml", "")
    (tmp_path / "elsewhere").mkdir()
    run.checkpoints.rmdir()
    run.checkpoints.symlink_to(tmp_path / "elsewhere")
    Checkpoints(run.checkpoints).save(1, {}, {})
    assert "checkpoints: got a link" in message(RunDirectory.create, run.path, force=True)
    assert len(list((tmp_path / "elsewhere").iterdir())) == 2


def test_a_record_of_figures_reaches_no_other_folder(tmp_path):
    run = RunDirectory.create(tmp_path / "run")
    fill(run)
    (tmp_path / "mine.png").write_text("mine")
    (run.figures / ".written").write_text("../../mine.png\n..\n.\n\n" + str(tmp_path / "mine.png") + "\n")
    RunDirectory.create(run.path, force=True)
    assert (tmp_path / "mine.png").read_text() == "mine"
    assert (run.figures / "grid.png").exists()


@pytest.mark.parametrize(
    "files",
    [
        ("thesis.tex",),
        ("config.toml", "figures/plot.png"),
        ("model.safetensors", "config.json"),
        ("checkpoints/mine.pt",),
    ],
)
@pytest.mark.parametrize("force", [False, True])
def test_a_directory_that_is_not_a_run_is_never_touched(tmp_path, files, force):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    assert "not a run" in message(RunDirectory.create, tmp_path, force=force)
    assert "not a run" in message(RunDirectory.create, tmp_path / files[0], force=force)
    assert all((tmp_path / name).read_text() == "mine" for name in files)


def test_a_missing_run_is_answered_with_the_nearest(tmp_path):
    for name in ("first", "mmvae-plus"):
        RunDirectory.create(tmp_path / name).write_text("config.toml", "")
    assert "did you mean 'mmvae-plus'?" in message(RunDirectory.open, tmp_path / "mmvae_plus")
    assert "known: first, mmvae-plus" in message(RunDirectory.open, tmp_path / "zzz")
    assert "known: none" in message(RunDirectory.open, tmp_path / "no" / "such")
    (tmp_path / "other").mkdir()
    assert "not a run" in message(RunDirectory.open, tmp_path / "other")
    assert RunDirectory.open(tmp_path / "first").config.read_text() == ""


def test_history_survives_a_torn_line_and_is_cut_back_to_a_step(tmp_path, caplog):
    run = RunDirectory.create(tmp_path / "run")
    assert run.read_history() == []
    records = [{"step": step, "bound": -0.1 * step} for step in range(1, 6)]
    for record in records:
        run.append_history(record)
    run.history.write_bytes(run.history.read_bytes()[:-4])  # the last line is torn, as by kill -9
    with caplog.at_level(logging.WARNING, "polyvae"):
        assert run.read_history() == records[:4]
    assert "line 5 is torn" in caplog.text
    run.append_history({"note": "resumed"})
    assert run.read_history() == [*records[:4], {"note": "resumed"}]
    run.cut_history(2)
    assert run.read_history() == [*records[:2], {"note": "resumed"}]
    assert run.history.read_bytes().count(b"\n") == 3


def test_json_of_a_run_comes_back(tmp_path):
    run = RunDirectory.create(tmp_path / "run")
    run.write_json("evaluation.json", {"conditional_coherence": 0.1 + 0.2})
    assert run.read_json("evaluation.json") == {"conditional_coherence": 0.30000000000000004}
    assert "JSON cannot hold" in message(run.write_json, "evaluation.json", {"x": {1}})
    assert "No such file" in message(run.read_json, "other.json")
    run.evaluation.write_text("{")
    assert "not JSON" in message(run.read_json, "evaluation.json")


def test_write_to_a_missing_folder_says_so(tmp_path):
    assert "No such file or directory" in message(
        write_atomic, Path(tmp_path, "no", "x"), b"", kind=StorageError
    )
