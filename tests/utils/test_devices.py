"""Names of devices: what is there, and one line for what is not."""

from __future__ import annotations

import pytest
import torch

import polyvae as pv
from polyvae.utils.devices import device_of, on_device

ABSENT = "cuda:99" if torch.cuda.is_available() else "cuda"


@pytest.mark.parametrize("name", ["gpu7", ABSENT, "meta", "", 3.5])
def test_a_device_that_cannot_be_used_is_one_line(name):
    with pytest.raises(
        pv.InputError,
        match=r"^sample: got device='[^\n]*', which cannot be used \([^\n]*\); expected 'auto', [^\n]*$",
    ):
        device_of("sample", name)


def test_auto_is_a_device_that_is_there():
    torch.zeros(1, device=device_of("sample", "auto"))
    assert device_of("sample", torch.device("cpu")) == torch.device("cpu")


def test_a_model_goes_back_to_where_it_was_even_after_an_error():
    net = torch.nn.Linear(2, 2)
    with pytest.raises(ZeroDivisionError), on_device("evaluate", net, "cpu"):
        _ = 1 / 0
    assert net.weight.device.type == "cpu"


@pytest.mark.parametrize(
    "call",
    [
        lambda model, data, path: pv.load_model(path, device=ABSENT),
        lambda model, data, path: pv.evaluate(model, data, device=ABSENT, show=False),
        lambda model, data, path: pv.Estimator.load(path, device=ABSENT),
    ],
)
def test_functions_refuse_a_device_that_is_not_there(call, tmp_path):
    data = pv.MultimodalData({"a": torch.randn(6, 2), "b": torch.randn(6, 2)})
    model = pv.MVAE(data.modalities(), latent=2).eval()
    pv.save_model(model, tmp_path / "model.safetensors")
    with pytest.raises(pv.InputError, match=rf"^[a-z_]+: got device='{ABSENT}', which cannot be used"):
        call(model, data, tmp_path / "model.safetensors")
