"""The benchmark: the contenders do the same work, FLOPs are counted exactly, the table's arithmetic is right, the page is the JSON's."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from benchmarks import networks
from benchmarks.contenders import Polyvae, polyvae_networks
from benchmarks.page import PAGE, RESULTS, page
from benchmarks.processes import Process
from benchmarks.summary import Asked, asked, overhead, passed, rows, sooner, to_bar
from benchmarks.worker import Rise, Worker
from benchmarks.works import WORKS, Work, chosen, tiny

MADE_UP = {
    "work": WORKS["a"]._asdict(),
    "max_rows": 128,
    "failed": {},
    "conditions": {
        "date": "2000-01-01",
        "commit": "none",
        "machine": "a machine",
        "torch": "2",
        "threads": 2,
        "quick": False,
    },
    "matmul": {"fp32": [1e11, 2e11, 3e11], "bf16": [4e11]},
    "contenders": {
        "polyvae": {"seconds": [2.0, 1.0, 9.0], "processor": [4.0], "flops": 3e11, "megabytes": 100.0},
        "polyvae-bf16": {"seconds": [1.0], "flops": 2e11, "megabytes": 50.0},
        "polyvae-rows": {"megabytes": 25.0},
        "multivae": {
            "seconds": [5.0, 3.0, 4.0],
            "processor": [6.0],
            "state": 20.0,
            "flops": 4e11,
            "megabytes": 200.0,
        },
    },
}


@pytest.mark.parametrize("name", ["a", "c1"])
def test_polyvae_computes_the_plain_networks_function(name):
    work = tiny(WORKS[name])
    net = next(iter(Polyvae(work, "").model.modalities.values()))
    encoder, decoder = networks.pairs(work)[0]
    x, code = next(iter(work.data().values())), torch.randn(3, 2 * work.latent)
    torch.testing.assert_close(net.encoder(x), encoder(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(net.decoder(code), decoder(code), rtol=1e-5, atol=1e-5)
    ours = polyvae_networks(work, encoder, decoder)
    torch.testing.assert_close(ours[1](code), decoder(code), rtol=1e-5, atol=1e-5)


def test_other_networks_are_refused():
    with pytest.raises(ValueError, match="not the same networks"):
        networks.give(nn.Linear(2, 3), nn.Linear(3, 2))


@pytest.mark.parametrize("name", ["c1", "c10"])
def test_the_flops_of_a_step_are_those_on_paper(name):
    work = tiny(WORKS[name])
    work = work._replace(K=min(work.K, 2))  # of two weights none is spared
    M, K, B, D = work.modalities, work.K, work.batch, work.shape[0]
    a, b = work.hidden
    encoder = [D * a, a * b, b * 4 * work.latent]  # multiplications per row
    decoder = [2 * work.latent * b, b * a, a * D]
    first = encoder[0]  # the data need no gradient
    on_paper = 2 * (M * B * (3 * sum(encoder) - first) + M * K * M * B * 3 * sum(decoder))
    assert Worker("polyvae", work._asdict()).flops()["flops"] == on_paper


def test_what_does_not_count_is_not_gone_through_backwards():
    work = tiny(WORKS["b"])._replace(K=9, batch=16)
    sharp, flat = (
        Worker("polyvae", work._replace(scale=scale)._asdict()).flops()["flops"] for scale in (1e-3, 1e3)
    )
    assert sharp < 0.7 * flat


def test_hidden_modalities_are_neither_encoded_nor_decoded():
    work = tiny(WORKS["d1"])._replace(batch=64)
    a, b = work.hidden
    encoder, decoder = [20 * a, a * b, b * 16], [8 * b, b * a, a * 20]
    mask = work.mask()
    seen, pairs = (
        int(mask.sum()),
        int(mask.sum(0).square().sum()),
    )  # of a datum with n modalities, n views decode n each
    on_paper = 2 * (seen * (3 * sum(encoder) - encoder[0]) + pairs * 3 * sum(decoder))
    assert Worker("polyvae", work._asdict()).flops()["flops"] == on_paper


def test_masks_hide_the_share_they_say_and_leave_everybody_something():
    work = WORKS["d1"]._replace(batch=20_000)
    mask = work.mask()
    assert mask.any(0).all()
    assert mask.float().mean().item() == pytest.approx(
        0.5 + 0.125 / 3, abs=0.01
    )  # one in eight would have lost all three
    assert WORKS["c1"].mask() is None


def test_a_worker_takes_steps_that_lower_the_loss_and_finds_its_memory():
    with Process("polyvae-rows", tiny(WORKS["c1"]), threads=1, max_rows=5) as worker:
        memory = worker.ask("memory")["megabytes"]
        losses = [worker.ask("step")["loss"] for _ in range(30)]
    assert 0 <= memory < 200
    assert min(losses[20:]) < min(losses[:5])


def test_memory_is_the_rise_above_the_level_at_entry():
    torch.ones(16_000_000)  # 64 MB before: no part of it
    with Rise() as rise:
        torch.ones(32_000_000)  # 128 MB, gone again
    assert rise.megabytes == pytest.approx(128, abs=12)


def test_the_table_is_made_of_medians_in_one_run():
    found = {row.contender: row for row in rows(MADE_UP)}
    ours, bf16, less, peer = (found[name] for name in ("polyvae", "polyvae-bf16", "polyvae-rows", "multivae"))
    assert (ours.seconds, ours.lowest, ours.highest) == (2.0, 1.0, 9.0)
    assert (ours.times_faster, bf16.times_faster, peer.times_faster) == (2.0, 4.0, 1.0)
    assert (ours.processor, bf16.processor) == (1.5, None)
    assert (ours.gflops_per_second, ours.share_of_matmul, bf16.share_of_matmul) == (150.0, 0.75, 0.5)
    assert (ours.memory_share, less.memory_share) == (0.5, 0.125)
    assert less.seconds is less.times_faster is less.share_of_matmul is None


def test_what_was_asked_stands_beside_what_was_found():
    found = {one.what: one for one in asked({"works": {"a": MADE_UP}})}
    assert found["(a) polyvae: times faster than MultiVae"].met == "target"
    assert found["(a) polyvae-rows: peak memory, share of MultiVae's"].found == 0.125
    assert found["(a) polyvae: share of the measured matmul peak"].met == "no"
    assert found["(b) polyvae: times faster than MultiVae"].met == "not measured"
    assert [Asked("", 1.1, 1.3, value, True).met for value in (1.0, 1.1, 1.3)] == ["no", "floor", "target"]
    assert [Asked("", 0.5, 0.25, value, False).met for value in (0.6, 0.5, 0.25)] == ["no", "floor", "target"]


def test_a_bar_is_passed_where_the_curve_first_reaches_it():
    fast, slow = [[5.0, 50, 0.8], [10.0, 100, 0.91], [15.0, 150, 0.89]], [[5.0, 9, 0.2], [30.0, 60, 0.9]]
    assert (passed(fast), passed(slow), passed([[5.0, 50, 0.8]])) == (10.0, 30.0, None)
    assert to_bar({"curves": {"polyvae": [fast, slow]}}, "polyvae") == 20.0
    assert to_bar({"curves": {"polyvae": [fast, []]}}, "polyvae") is None
    cut = [[5.0, 50, 0.8], [40.0, 400, 0.89]]
    assert sooner({"curves": {"polyvae": [fast], "multivae": [slow]}}, "polyvae") == (3.0, "")
    assert sooner({"curves": {"polyvae": [fast], "multivae": [cut]}}, "polyvae") == (4.0, "at least ")
    assert sooner({"curves": {"polyvae": [cut], "multivae": [slow]}}, "polyvae") == (None, "")
    assert overhead({"seconds": {"bare": 2.0, "fit": 2.1}}) == pytest.approx(0.05)


def test_the_page_shows_the_numbers_and_marks_toy_sizes():
    text = page({"works": {"a": MADE_UP}})
    assert "| `polyvae` | 2 s (1 s to 9 s) | 2.00x | 1.50x | 300 | 150 | 0.75 | 100 | 0.50 |" in text
    assert "these numbers mean nothing" not in text
    toy = {**MADE_UP, "conditions": {**MADE_UP["conditions"], "quick": True}}
    assert "these numbers mean nothing" in page({"works": {"a": toy}})


def test_the_page_in_docs_is_made_from_the_results():
    if not RESULTS.exists():
        pytest.skip("nothing has been measured yet: make bench")
    assert PAGE.read_text() == page(json.loads(RESULTS.read_text()))


def test_works_are_chosen_by_letter():
    assert [work.name for work in chosen("c,a")] == ["a", "c1", "c10"]
    assert [work.name for work in chosen("c1")] == ["c1"]
    with pytest.raises(SystemExit, match="unknown work 'x'"):
        chosen("x")
    assert Work.of(json.loads(json.dumps(WORKS["b"]._asdict()))) == WORKS["b"]
