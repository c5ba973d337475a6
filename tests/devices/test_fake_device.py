"""The made-up device of the tests: the bits of the CPU, errors where devices are mixed, and every wait counted."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.helpers.fake_device import DEVICE, NAME, FakeTensor, waits

X = torch.tensor([[0.5, -1.0], [2.0, 3.0], [-4.0, 0.25]])


def what(call) -> list[str]:
    with waits() as found:
        x = X.to(DEVICE, non_blocking=True)
        before = len(found)
        call(x)
    return [wait.what for wait in found[before:]]


@pytest.mark.parametrize(
    ("wait", "call"),
    [
        ("_local_scalar_dense", lambda x: x[0, 0].item()),
        ("_local_scalar_dense", lambda x: float(x.sum())),
        ("_local_scalar_dense", lambda x: bool((x > 0).all())),
        ("_local_scalar_dense", lambda x: f"{x.sum():.2f}"),
        ("copy to the host", lambda x: x.tolist()),
        ("copy to the host", lambda x: x.cpu()),
        ("copy to the host", lambda x: x.to("cpu", non_blocking=True)),
        ("copy to the host", lambda x: torch.zeros(3, 2).copy_(x)),
        ("nonzero", lambda x: (x > 0).nonzero()),
        ("index by a mask", lambda x: x[x > 0]),
        ("index by a mask", lambda x: x[(x > 0).any(1)]),
        ("index by a tensor of the host", lambda x: x[[0, 1]]),
        ("masked_select", lambda x: x.masked_select(x > 0)),
        ("_unique2", lambda x: x.unique()),
        ("equal", lambda x: torch.equal(x, x)),
        ("copy to the device", lambda x: x.add(torch.tensor([1.0, 2.0], device=x.device))),
        ("copy to the device", lambda x: x.new_tensor([1.0])),
        ("_linalg_check_errors", lambda x: torch.linalg.cholesky(x.T @ x)),
    ],
)
def test_every_wait_is_counted(wait, call):
    assert what(call) == [wait]


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x.relu().sum(0).exp(),
        lambda x: torch.where(x > 0, x, 0),
        lambda x: x.clone().masked_fill_(x > 0, 1.0),
        lambda x: x.index_select(0, torch.arange(2, device=x.device)),
        lambda x: x * torch.tensor(2.0),
        lambda x: torch.randn(3, device=x.device) + torch.eye(3, device=x.device),
        lambda x: torch.tensor([1, 2]).to(x.device, non_blocking=True),
        lambda x: x.split(2)[0].add_(1),
    ],
)
def test_what_needs_no_value_is_not_a_wait(call):
    assert what(call) == []


@pytest.mark.parametrize(
    "call",
    [
        lambda x: x + X,
        lambda x: torch.cat([x, X]),
        lambda x: X[torch.arange(2, device=x.device)],
        lambda x: torch.nn.functional.linear(x, X),
        lambda x: torch.zeros(3, 2).add_(x),
    ],
)
def test_devices_cannot_be_mixed(call):
    with waits(), pytest.raises(RuntimeError, match="same device"):
        call(X.to(DEVICE))


def test_the_host_cannot_use_its_memory_or_generators():
    with waits():
        with pytest.raises(TypeError, match="numpy"):
            X.to(DEVICE).numpy()
        with pytest.raises(RuntimeError, match="generator"):
            torch.rand(2, device=DEVICE, generator=torch.Generator())


@pytest.mark.parametrize("bf16", [False, True])
def test_a_network_trains_to_the_bits_of_the_cpu(bf16):
    network = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.GELU(), torch.nn.Linear(8, 1))
    with waits():
        other, found = copy.deepcopy(network).to(DEVICE), []
        for net, x in ((network, X), (other, X.to(DEVICE))):
            optimizer = torch.optim.Adam(net.parameters(), fused=True)
            for _ in range(2):
                with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
                    out = net(x)
                assert out.dtype == (torch.bfloat16 if bf16 else torch.float32)
                torch.nn.utils.clip_grad_norm_(net.parameters(), 0.1)
                out.float().square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
            found.append([x.detach().cpu() for x in net.parameters()])
        assert all(isinstance(x, FakeTensor) and x.device.type == NAME for x in other.parameters())
    assert all(map(torch.equal, *found))


def test_draws_are_those_of_the_cpu():
    torch.manual_seed(3)
    expected = torch.rand(2), torch.randn(4), torch.randperm(5)
    torch.manual_seed(3)
    with waits():
        drawn = torch.rand(2, device=DEVICE), torch.randn(4, device=DEVICE), torch.randperm(5, device=DEVICE)
        found = [x.cpu() for x in drawn]
    assert all(map(torch.equal, found, expected))
