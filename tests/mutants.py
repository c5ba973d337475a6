"""Do the tests bite? Break one formula at a time, and see whether a test notices.

    python tests/mutants.py [--jobs 2] [--only WORD] [--all] [--list]

Each mutant replaces one piece of text in a copy of the package; the fast tests, or those that are named for it, run against the copy until
one fails. Exit code 1 if fewer than nine in ten mutants are caught. Mutants that change nothing say why; they are listed, and run with
--all only.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import scipy.integrate
import scipy.stats
import sklearn.mixture

PRELOADED = scipy.integrate, scipy.stats, sklearn.mixture
TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "src" / "polyvae"
FIRST = {
    "bounds.py": ["bounds", "gradients"],
    "aggregate.py": ["aggregate"],
    "distributions.py": ["distributions"],
    "vae.py": ["truth"],
}
REST = ["formulas", "gradients", "truth", "laws", "bounds", "aggregate", "distributions"]
# The tests that know a paper's formula: they alone are asked.
NAMED = {
    "again.py": ["again"],
    "models/cmvae.py": ["models_d::test_cmvae_is_the_port", "models_d::test_pruning_by_hand"],
    "models/codevae.py": ["models_b::test_codevae"],
    "models/composed.py": [
        "models_d::test_composed",
        "models_d::test_the_free_combination_has_the_gradient_of_the_paper_it_is",
    ],
    "models/contrastive.py": ["models_c::test_contrastive"],
    "models/crmvae.py": ["models_a::test_crmvae", "models_a::test_crmvae_is_the_port"],
    "models/deepimv.py": ["models_g::test_deepimv_by_hand", "models_g::test_deepimv"],
    "models/dmvae.py": ["models_b::test_dmvae"],
    "models/held.py": ["models_d::test_what_is_set_on_a_model_that_holds_another_reaches_it"],
    "models/hellinger.py": ["models_d::test_hellinger"],
    "models/hmvae.py": ["models_g::test_hmvae"],
    "models/holder.py": ["models_d::test_holder"],
    "models/idmvae.py": [
        "models_d::test_the_terms_of_idmvae_see_what_was_observed",
        "models_d::test_idmvae_adds_the_authors_terms",
    ],
    "models/jmvae.py": ["models_b::test_jmvae"],
    "models/joint.py": ["models_b::test_jmvae"],
    "models/meme.py": [
        "models_c::test_meme",
        "models_c::test_the_label_decoder_of_meme_learns_from_alpha_minus_one",
    ],
    "models/mfm.py": [
        "models_e::test_mfm",
        "models_e::test_the_surrogate_teaches_experts_and_leaves_the_codes_alone",
    ],
    "models/mmjsd.py": ["models_a::test_mmjsd"],
    "models/mmvm.py": ["models_a::test_mmvm"],
    "models/mvtcae.py": ["models_a::test_mvtcae"],
    "models/nexus.py": [
        "models_b::test_nexus",
        "models_b::test_nexus_is_deterministic_in_evaluation",
        "models_b::test_the_levels_of_nexus_are_fitted_apart",
    ],
    "models/relational.py": ["models_g::test_relational"],
    "models/scmm.py": ["models_d::test_scmm"],
    "models/telbo.py": ["models_b::test_telbo"],
    "models/uhved.py": ["models_u::test_uhved"],
    "models/vcca.py": ["models_e::test_vcca_private", "models_e::test_bivcca"],
}


class Mutant(NamedTuple):
    """In ``file``, ``old`` becomes ``new``; ``old`` occurs exactly once, or at the occurrence ``at`` (from 0) of several.

    ``by``: the one test that is asked; none: those of NAMED, or of FIRST and REST.
    """

    file: str
    old: str
    new: str
    at: int | None = None
    harmless: str = ""
    by: str = ""


MUTANTS = [
    # ---- bounds ----
    Mutant("bounds.py", "return log_weight.mean(0)", "return log_weight.sum(0)"),
    Mutant("bounds.py", "log_weight.logsumexp(0) - math.log(len(log_weight))", "log_weight.logsumexp(0)"),
    Mutant(
        "bounds.py",
        "log_weight.logsumexp(0) - math.log(len(log_weight))",
        "log_weight.logsumexp(0) + math.log(len(log_weight))",
    ),
    Mutant(
        "bounds.py",
        "log_weight.logsumexp(0) - math.log(len(log_weight))",
        "log_weight.logsumexp(0) - math.log(log_weight.shape[-1])",
    ),
    Mutant("bounds.py", "factor = (1 - beta) + beta * weight ", "factor = weight "),
    Mutant("bounds.py", "factor = (1 - beta) + beta * weight ", "factor = (1 - beta) + beta * weight**2 "),
    Mutant("bounds.py", "factor = (1 - beta) + beta * weight ", "factor = (1 + beta) - beta * weight "),
    Mutant(
        "bounds.py",
        "log_weight.softmax(0) if normalised is None",
        "log_weight.softmax(-1) if normalised is None",
    ),
    Mutant(
        "bounds.py",
        "if normalised is None else normalised).detach()",
        "if normalised is None else normalised)",
        harmless="nobody differentiates a hook's factor in one backward pass",
    ),
    Mutant(
        "bounds.py", "log_weight.softmax(0) if normalised is None else normalised)", "log_weight.softmax(0))"
    ),
    Mutant("bounds.py", "torch.where(columns, scaled, 1)", "torch.where(columns, 1, scaled)"),
    Mutant("bounds.py", "scaled if columns is None else torch.where(columns, scaled, 1)", "scaled"),
    Mutant("bounds.py", "if draws.requires_grad:", "if False:"),
    Mutant("bounds.py", 'if objective == "dreg":', 'if objective == "never":'),
    Mutant("bounds.py", "torch.where(weights > 0, weights * value, 0).sum(-2)", "(weights * value).sum(-2)"),
    Mutant(
        "bounds.py",
        "torch.where(weights > 0, weights * value, 0).sum(-2)",
        "torch.where(weights > 0, value, 0).sum(-2)",
    ),
    Mutant(
        "bounds.py",
        "torch.where(weights > 0, weights * value, 0).sum(-2)",
        "torch.where(weights > 0, weights * value, 0).mean(-2)",
    ),
    Mutant("bounds.py", "log_value + torch.where(live, weights, 1).log()", "log_value"),
    Mutant(
        "bounds.py",
        "log_value + torch.where(live, weights, 1).log()",
        "log_value - torch.where(live, weights, 1).log()",
    ),
    Mutant(
        "bounds.py",
        "torch.where(any_live, torch.where(any_live, shifted, 0).logsumexp(0), 0)",
        "shifted.logsumexp(0)",
    ),
    # ---- again ----
    Mutant(
        "again.py",
        "len(size) * size > torch.finfo(size.dtype).eps * total",
        "size > torch.finfo(size.dtype).eps * total",
    ),
    Mutant(
        "again.py",
        "len(size) * size > torch.finfo(size.dtype).eps * total",
        "len(size) * size > 0.01 * total",
    ),
    Mutant("again.py", "len(size) * size > torch.finfo(size.dtype).eps * total", "size > 0"),
    Mutant("again.py", " | ~total.isfinite()", ""),
    Mutant("again.py", "size = each.abs()", "size = each"),
    Mutant(
        "again.py",
        "each.index_select(0, part), materialize_grads",
        "torch.ones_like(part, dtype=each.dtype), materialize_grads",
    ),
    Mutant("again.py", "to_code.index_copy_(0, part, first)", "to_code.index_copy_(0, part, 2 * first)"),
    Mutant("again.py", "so_far += one", "so_far.copy_(one)"),
    Mutant("again.py", "datum.index_select(0, part)", "datum[: len(part)]"),
    Mutant("again.py", "with torch.enable_grad(), ctx.autocast:", "with torch.enable_grad():"),
    Mutant(
        "again.py",
        "torch.is_autocast_enabled(device), cache_enabled=False",
        "torch.is_autocast_enabled(device)",
        harmless="torch 2.13 keeps nothing that was cast without a graph; the package allows older ones",
    ),
    Mutant(
        "again.py",
        "network.training and isinstance(network, _LOOKS_ASIDE)",
        "isinstance(network, _LOOKS_ASIDE)",
    ),
    Mutant("again.py", "known and not hooked and not aside", "known and not hooked"),
    Mutant("again.py", "known and not hooked and not aside", "known and not aside"),
    Mutant("again.py", "known and not hooked and not aside", "not hooked and not aside"),
    Mutant("again.py", "all(map(rows_apart, network.children()))", "True"),
    Mutant("again.py", "[:, differ].double()", ".double()"),
    Mutant("again.py", "log_weight.softmax(0) >", "log_weight.softmax(-1) >"),
    # ---- aggregate ----
    Mutant("aggregate.py", "return eye[:, :, None] & mask", "return eye[:, :, None] | ~mask & mask"),
    Mutant(
        "aggregate.py",
        "complete = (~member[:, :, None] | mask).all(1)",
        "complete = (member[:, :, None] & mask).any(1)",
    ),
    Mutant(
        "aggregate.py", "return member[:, :, None] & complete[:, None]", "return member[:, :, None] & mask"
    ),
    Mutant("aggregate.py", "for size in range(1, M + 1)", "for size in range(1, M)"),
    Mutant("aggregate.py", "for size in range(1, M + 1)", "for size in range(2, M + 1)"),
    Mutant("aggregate.py", "toss = (fair >= 0.5) & mask", "toss = fair >= 0.5"),
    Mutant("aggregate.py", "toss = (fair >= 0.5) & mask", "toss = (fair >= 0.4) & mask"),
    Mutant("aggregate.py", "for _ in range(20):", "for _ in range(1):"),
    Mutant("aggregate.py", "fair = (2 * fair) % 1", "fair = 1 - fair"),
    Mutant(
        "aggregate.py", "size = (u * (mask.sum(0) - int(proper))).floor() + 1", "size = (u * M).floor() + 1"
    ),
    Mutant(
        "aggregate.py",
        "size = (u * (mask.sum(0) - int(proper))).floor() + 1",
        "size = (u * mask.sum(0)).floor()",
    ),
    Mutant("aggregate.py", "score = torch.where(mask, score, 2.0)", "score = score"),
    Mutant("aggregate.py", "return (rank < size[:, None]) & mask", "return (rank <= size[:, None]) & mask"),
    Mutant("aggregate.py", "return (rank < size[:, None]) & mask", "return rank < size[:, None]"),
    Mutant("aggregate.py", "precision = experts.scale.pow(-2)", "precision = experts.scale.pow(-1)"),
    Mutant("aggregate.py", "precision = experts.scale.pow(-2)", "precision = experts.scale.pow(2)"),
    Mutant("aggregate.py", "counted, precision * experts.loc)", "counted, experts.loc)"),
    Mutant("aggregate.py", "pull + strength * prior.loc", "pull"),
    Mutant(
        "aggregate.py",
        "total, pull = total + strength, pull",
        "total, pull = total + strength * include.sum(1)[..., None], pull",
    ),
    Mutant(
        "aggregate.py", "total = torch.where(include.any(1)[..., None], total, 1)", "total = total + 1e-9"
    ),
    Mutant("aggregate.py", "total.rsqrt()", "total.reciprocal()"),
    Mutant("aggregate.py", "live = include.any(1).to(dtype)", "live = include.all(1).to(dtype)"),
    Mutant("aggregate.py", "live = include.any(1).to(dtype)", "live = include.sum(1).to(dtype)"),
    Mutant("aggregate.py", "return live / live.sum(0).clamp(min=1)", "return live / len(live)"),
    Mutant("aggregate.py", "return live / live.sum(0).clamp(min=1)", "return live"),
    Mutant(
        "aggregate.py",
        "return joint(product_of_experts(experts.z, include, prior), include)",
        "return joint(product_of_experts(experts.z, include), include)",
    ),
    # ---- distributions ----
    Mutant("distributions.py", "functional.softplus(raw + math.log(math.e - 1))", "functional.softplus(raw)"),
    Mutant(
        "distributions.py",
        "return _FLOOR + (1 - _FLOOR) * (raw / 2).exp()",
        "return _FLOOR + (1 - _FLOOR) * raw.exp()",
    ),
    Mutant("distributions.py", "return _FLOOR + (1 - _FLOOR) * (raw / 2).exp()", "return (raw / 2).exp()"),
    Mutant(
        "distributions.py", "self.log_peak + self.rate * self.distance(x)", "self.rate * self.distance(x)"
    ),
    Mutant("distributions.py", "alpha=(1 - _FLOOR) * raw.shape[-1]", "alpha=1 - _FLOOR"),
    Mutant("distributions.py", "raw.softmax(-1)", "raw.softmax(0)"),
    Mutant(
        "distributions.py", "self.rate * self.distance(x).sum(-1)", "self.rate * self.distance(x).mean(-1)"
    ),
    Mutant(
        "distributions.py", "return self.kl_columns(other).sum(-1)", "return self.kl_columns(other).mean(-1)"
    ),
    Mutant(
        "distributions.py",
        "return self.loc + self.scale * self.standard",
        "return self.loc + self.scale.square() * self.standard",
    ),
    Mutant(
        "distributions.py",
        "type(self)(self.loc.detach(), self.scale.detach())",
        "type(self)(self.loc.detach(), self.scale)",
    ),
    Mutant(
        "distributions.py",
        "type(self)(self.loc.detach(), self.scale.detach())",
        "type(self)(self.loc, self.scale.detach())",
    ),
    Mutant(
        "distributions.py",
        "-self.scale.log() - 0.5 * _LOG_TWO_PI",
        "torch.zeros_like(self.scale) - 0.5 * _LOG_TWO_PI",
    ),
    Mutant("distributions.py", "-self.scale.log() - 0.5 * _LOG_TWO_PI", "-self.scale.log()"),
    Mutant("distributions.py", "ratio = self.scale / other.scale", "ratio = other.scale / self.scale"),
    Mutant(
        "distributions.py",
        "((self.loc - other.loc) / other.scale).square() - 1) - ratio.log()",
        "((self.loc - other.loc) / self.scale).square() - 1) - ratio.log()",
    ),
    Mutant("distributions.py", ".square() - 1) - ratio.log()", ".square() - 1) + ratio.log()"),
    Mutant("distributions.py", "(2 * self.scale).log()", "self.scale.log()"),
    Mutant(
        "distributions.py",
        "overlap = self.scale * (-distance / self.scale).exp()",
        "overlap = self.scale * (-distance / other.scale).exp()",
    ),
    Mutant(
        "distributions.py",
        "return (overlap + distance) / other.scale - 1",
        "return (overlap + distance) / other.scale",
    ),
    Mutant(
        "distributions.py",
        "(self.weights[..., None] * self.components.mean).sum(0)",
        "self.components.mean.mean(0)",
    ),
    Mutant(
        "distributions.py",
        "torch.where((weights > 0) | ~(weights > 0).any(0), log_weights, -torch.inf)",
        "log_weights",
    ),
    Mutant("distributions.py", "components[v].log_prob(z) + log_weights[v]", "components[v].log_prob(z)"),
    Mutant("distributions.py", "each[0] if len(weights) == 1 else each.logsumexp(0)", "each.mean(0)"),
    Mutant("distributions.py", "return torch.where((weights > 0).any(0), total, 0)", "return total"),
    Mutant(
        "distributions.py",
        "return self.components[choice, torch.arange(choice.shape[1], device=choice.device)]",
        "return self.components[choice[:1].expand_as(choice), torch.arange(choice.shape[1], device=choice.device)]",
    ),
    # ---- vae ----
    Mutant("models/vae.py", 'density = q_w.detach() if self.objective == "dreg" else q_w', "density = q_w"),
    Mutant("models/vae.py", "columns = q_w.kl_columns(p_w) if", "columns = p_w.kl_columns(q_w) if"),
    Mutant("models/vae.py", "density.columns(w) - p_w.columns(w)", "density.columns(w) + p_w.columns(w)"),
    Mutant("models/vae.py", "self.weigh(log_x) - warm * self.beta * kl_w", "log_x - warm * self.beta * kl_w"),
    Mutant(
        "models/vae.py", "self.weigh(log_x) - warm * self.beta * kl_w", "self.weigh(log_x) - self.beta * kl_w"
    ),
    Mutant("models/vae.py", "{w: self._columns(m)}, warm * self.beta)", "{w: None}, warm * self.beta)"),
    Mutant("models/vae.py", "{w: self._columns(m)}, warm * self.beta)", "{w: self._columns(m)}, 1.0)"),
    Mutant("models/vae.py", "value.sum(0)", "value.mean(0)"),
    # ---- mmvae ----
    Mutant("models/mmvae.py", 'density = q.detach() if self.objective == "dreg" else q', "density = q"),
    Mutant(
        "models/mmvae.py",
        "kl = density.log_prob(z) - self.prior.z().log_prob(z)",
        "kl = density.components.log_prob(z) - self.prior.z().log_prob(z)",
    ),
    Mutant(
        "models/mmvae.py", "kl = density.log_prob(z) - self.prior.z().log_prob(z)", "kl = density.log_prob(z)"
    ),
    Mutant(
        "models/mmvae.py",
        "self.weighted(log_x) - warm * self.beta * kl",
        "log_x.sum(0) - warm * self.beta * kl",
    ),
    Mutant(
        "models/mmvae.py",
        "self.weighted(log_x) - warm * self.beta * kl",
        "self.weighted(log_x) + warm * self.beta * kl",
    ),
    Mutant(
        "models/mmvae.py", "self.weighted(log_x) - warm * self.beta * kl", "self.weighted(log_x) - warm * kl"
    ),
    Mutant("models/mmvae.py", "if not self.tight:", "if True:"),
    Mutant(
        "models/mmvae.py", "share = (log_weight + dead).flatten(0, 1)", "share = log_weight.flatten(0, 1)"
    ),
    Mutant(
        "models/mmvae.py",
        "dead = torch.where(q.observed, dead, 0)",
        "dead = dead",
        harmless="where nothing was observed, the draws stand on constants: no parameter is behind the NaN",
    ),
    Mutant(
        "models/mmvae.py",
        "dreg(log_weight, {z: None}, warm * self.beta, share)",
        "dreg(log_weight, {z: None}, warm * self.beta)",
    ),
    Mutant("models/mmvae.py", "{z: None}, warm * self.beta)), terms)", "{z: None}, 1.0)), terms)"),
    # ---- mvae ----
    Mutant(
        "models/mvae.py",
        "everything(experts.mask), singles(experts.mask), random_sizes",
        "singles(experts.mask), random_sizes",
    ),
    Mutant(
        "models/mvae.py",
        "everything(experts.mask), singles(experts.mask), random_sizes",
        "everything(experts.mask), random_sizes",
    ),
    Mutant(
        "models/mvae.py",
        "q = mixture_of_products(experts, include, self.p_z)",
        "q = mixture_of_products(experts, include)",
    ),
    Mutant(
        "models/mvae.py",
        "mixture_of_products(experts, everything(experts.mask), self.p_z)",
        "mixture_of_products(experts, everything(experts.mask))",
    ),
    Mutant("models/elbos.py", "wanted=model.members(q.include))", "wanted=q.live[None, None])"),
    Mutant("models/elbos.py", "kl = q.components.kl(model.p_z)", "kl = model.p_z.kl(q.components)"),
    Mutant(
        "models/elbos.py",
        "model.weighted(log_x).mean(0) - beta * kl",
        "model.weighted(log_x).sum(0) - beta * kl",
    ),
    Mutant("models/mvae.py", "q, self.K, warm * self.beta)", "q, self.K, warm)"),
    Mutant("models/elbos.py", "torch.where(q.live, gamma", "torch.where(torch.ones_like(q.live), gamma"),
    Mutant("models/elbos.py", "return Bound(elbo.sum(0), terms", "return Bound(elbo.mean(0), terms"),
    Mutant("vae.py", "if m in self.sources else live", "if m in self.sources else include[:, 0]"),
    # ---- mopoe ----
    Mutant(
        "models/mopoe.py",
        "full = (q.include == experts.mask).all(1)[..., None]",
        "full = q.include.all(1)[..., None]",
    ),
    Mutant("models/mopoe.py", "with_prior.where(full, q.components)", "q.components.where(full, with_prior)"),
    Mutant("vae.py", "return z, q.observed[None].to(z.dtype)", "return z, torch.ones_like(q.weights[:1])"),
    Mutant(
        "models/mopoe.py",
        "kl_z = over_views(q.weights, q.components.kl(self.p_z))",
        "kl_z = q.components.kl(self.p_z).mean(0)",
    ),
    Mutant("models/mopoe.py", "kl = kl_z + kl_w", "kl = kl_z"),
    Mutant("models/mopoe.py", "kl = kl_z + kl_w", "kl = kl_z - kl_w"),
    Mutant(
        "models/mopoe.py",
        "(self.weighted(log_x) - warm * self.beta * kl).mean(0)",
        "(self.weighted(log_x) - warm * self.beta * kl)[0]",
    ),
    Mutant(
        "models/mopoe.py", "self.weighted(log_x) - warm * self.beta * kl", "self.weighted(log_x) - warm * kl"
    ),
    Mutant("models/mopoe.py", "kl_w = q_w.kl(p_w)", "kl_w = p_w.kl(q_w)"),
    Mutant(
        "vae.py",
        'z = q.pick(q.choose(K)).rsample(None, "z", "KBD")[:, None]',
        'z = q.pick(q.choose(1).expand(K, -1)).rsample(None, "z", "KBD")[:, None]',
    ),
    # ---- mmvae+ ----
    Mutant("models/mmvaeplus.py", "w = q_w.where(own, others)", "w = others.where(own, q_w)"),
    Mutant(
        "models/mmvaeplus.py", "w = q_w.where(own, others)", "w = q_w.where(torch.ones_like(own), others)"
    ),
    Mutant("models/mmvaeplus.py", '{"auxiliary": r, "prior": p_w}', '{"auxiliary": p_w, "prior": r}'),
    Mutant(
        "models/mmvaeplus.py",
        '(q.detach(), q_w.detach()) if self.objective == "dreg"',
        '(q, q_w.detach()) if self.objective == "dreg"',
    ),
    Mutant(
        "models/mmvaeplus.py",
        '(q.detach(), q_w.detach()) if self.objective == "dreg"',
        '(q.detach(), q_w) if self.objective == "dreg"',
    ),
    Mutant(
        "models/mmvaeplus.py",
        'charged = own if self.cross != "posterior" else torch.ones_like(own)',
        "charged = own",
    ),
    Mutant(
        "models/mmvaeplus.py",
        'charged = own if self.cross != "posterior" else torch.ones_like(own)',
        "charged = torch.ones_like(own)",
    ),
    Mutant(
        "models/mmvaeplus.py",
        "kl_z = density.log_prob(z) - self.prior.z().log_prob(z)",
        "kl_z = views.components.log_prob(z) - self.prior.z().log_prob(z)",
    ),
    Mutant(
        "models/mmvaeplus.py",
        "torch.where(charged, density_w.columns(w) - p_w.columns(w), 0)",
        "(density_w.columns(w) - p_w.columns(w))",
    ),
    Mutant(
        "models/mmvaeplus.py",
        "torch.where(charged, density_w.columns(w) - p_w.columns(w), 0)",
        "torch.where(charged, density_w.columns(w) - r.columns(w), 0)",
    ),
    Mutant("models/mmvaeplus.py", "foreign = batch.mask[self.owner].T & ~own", "foreign = ~own"),
    Mutant(
        "models/mmvaeplus.py",
        "foreign = batch.mask[self.owner].T & ~own",
        "foreign = batch.mask[self.owner].T & own",
    ),
    Mutant(
        "models/mmvaeplus.py",
        "torch.where(foreign, density_r.columns(w) - p_w.columns(w), 0)",
        "torch.where(foreign, p_w.columns(w) - density_r.columns(w), 0)",
    ),
    Mutant(
        "models/mmvaeplus.py", 'density_r = r.detach() if self.objective == "dreg" else r', "density_r = r"
    ),
    Mutant("models/mmvaeplus.py", "charged = own | foreign", "charged = own"),
    Mutant("models/mmvaeplus.py", "{z: None, w: charged}, beta)", "{z: None, w: None}, beta)"),
    Mutant("models/mmvaeplus.py", "{z: None, w: charged}, beta)", "{z: None}, beta)"),
    Mutant("models/mmvaeplus.py", "{z: None, w: charged}, beta)", "{w: charged}, beta)"),
    Mutant("models/mmvaeplus.py", "{z: None, w: charged}, beta)", "{z: None, w: charged}, 1.0)"),
    Mutant(
        "models/mmvaeplus.py",
        "self.weighted(log_x) - beta * (kl_z + kl_w)",
        "self.weighted(log_x) - beta * kl_z - kl_w",
    ),
    Mutant(
        "models/mmvaeplus.py",
        "self.weighted(log_x) - beta * (kl_z + kl_w)",
        "log_x.sum(0) - beta * (kl_z + kl_w)",
    ),
    Mutant("models/mmvaeplus.py", "beta = warm * self.beta", "beta = self.beta"),
    Mutant(
        "models/mmvaeplus.py",
        "choice = q.choose(1)",
        "choice = q.choose(1)[:, :1].expand(1, q.weights.shape[1])",
    ),
    Mutant(
        "models/mmvaeplus.py", 'return q_w if self.private_prior == "prior" else', "return q_w if True else"
    ),
    # ---- jmvae, telbo, and their joint network ----
    Mutant("models/jmvae.py", "q.components.kl(experts.z), 0)", "experts.z.kl(q.components), 0)"),
    Mutant("models/jmvae.py", "to_experts = self.alpha * torch.where(", "to_experts = torch.where("),
    Mutant("models/jmvae.py", "(kl + to_experts)", "(kl - to_experts)"),
    Mutant(
        "models/joint.py",
        "hidden = torch.stack(features).sum(0).relu()",
        "hidden = torch.stack(features).mean(0).relu()",
    ),
    Mutant("models/joint.py", "model.existing(experts.mask.all(0))", "model.existing(experts.mask.any(0))"),
    Mutant(
        "models/telbo.py",
        "[1.0] + [self.gamma] * len(experts.mask)",
        "[self.gamma] + [1.0] * len(experts.mask)",
    ),
    Mutant(
        "models/telbo.py",
        "several = experts.mask.all(0) | (experts.mask.sum(0) > 1)",
        "several = experts.mask.all(0)",
    ),
    Mutant("models/telbo.py", "q, self.K, warm * self.beta, gamma)", "q, self.K, self.beta, gamma)"),
    # ---- mmjsd, mvtcae, crmvae ----
    Mutant("models/mmjsd.py", "self.p_z.kl(f) + each.sum(0)", "each.sum(0)"),
    Mutant("models/mmjsd.py", "/ (1 + experts.mask.sum(0))", "/ (1 + len(experts.mask))"),
    Mutant("models/mmjsd.py", "experts.z.kl(f)", "f.kl(experts.z)"),
    Mutant(
        "aggregate.py",
        "product.scale * count.clamp(min=1).sqrt()[..., None]",
        "product.scale",
        by="models_a::test_mmjsd",
    ),
    Mutant("models/mvtcae.py", "part = 1 - self.alpha / count", "part = 1 - self.alpha + 0 * count"),
    Mutant(
        "models/mvtcae.py",
        "(1 - self.alpha) * kl + self.alpha * to_experts",
        "self.alpha * kl + (1 - self.alpha) * to_experts",
    ),
    Mutant("models/mvtcae.py", "part if m in self.sources else torch.ones_like(part)", "part"),
    Mutant("models/crmvae.py", "q.components[0].kl(experts.z)", "experts.z.kl(q.components[0])"),
    Mutant("models/crmvae.py", "total / (1 + experts.mask.sum(0))", "total / (1 + len(experts.mask))"),
    Mutant("models/crmvae.py", "total = likelihood / 2", "total = likelihood"),
    # ---- dmvae, nexus ----
    Mutant("models/dmvae.py", "beta * (self.total_correlation - 1) *", "beta * self.total_correlation *"),
    Mutant(
        "models/dmvae.py",
        "whole.logsumexp(-2)[..., 0] - parts.logsumexp(-2).sum(-1)",
        "whole.logsumexp(-2)[..., 0] + parts.logsumexp(-2).sum(-1)",
    ),
    Mutant("models/dmvae.py", "times = 1 if self.variant", "times = 1 if True or self.variant"),
    Mutant("models/nexus.py", "fixed = codes.detach()", "fixed = codes"),
    Mutant("models/nexus.py", "1 / math.sqrt(2 * gamma)", "1 / math.sqrt(gamma)"),
    Mutant("models/nexus.py", "if not self.training or not self.drop:", "if not self.drop:"),
    # ---- mmvm ----
    Mutant(
        "models/mmvm.py",
        "q.log_prob(codes) - mixed.log_prob(codes)",
        "q.log_prob(codes) - mixed.detach().log_prob(codes)",
        by="gradients::test_the_gradient_is_the_values_slope[mmvm-]",
    ),
    Mutant("models/mmvm.py", "return (1 - share) * among +", "return among +"),
    Mutant("models/mmvm.py", "among + share * q.kl(", "among + q.kl("),
    # ---- code-vae ----
    Mutant(
        "models/codevae.py",
        "return torch.where(live, logits - total, 0)",
        "return torch.where(live, logits, 0)",
    ),
    Mutant("models/codevae.py", "elbo + self.entropy * entropy,", "elbo - self.entropy * entropy,"),
    Mutant(
        "models/codevae.py",
        "entropy = over_views(q.weights, -",
        "entropy = over_views(q.weights.detach(), -",
        by="gradients::test_the_gradient_is_the_values_slope[code-vae-]",
    ),
    Mutant(
        "aggregate.py",
        "shared = correlation / (1 + (members - 1) * correlation)",
        "shared = correlation / (1 + members * correlation)",
        by="models_b::test_codevae",
    ),
    # ---- scmm, cmvae, idmvae ----
    Mutant("models/scmm.py", "kl = q.components.kl(p).expand", "kl = p.kl(q.components).expand"),
    Mutant("models/scmm.py", "warm * self.beta * kl).mean(0)", "warm * kl).mean(0)"),
    Mutant(
        "priors.py",
        "weights = self.logits.softmax(0)[:, None]",
        "weights = self.logits.detach().softmax(0)[:, None]",
        by="models_d::test_cmvae_is_the_port",
    ),
    Mutant("models/cmvae.py", "self.beta * value - log_p / self.latent", "value - log_p / self.latent"),
    Mutant("models/cmvae.py", " - self._prior.logits.log_softmax(0)[kept].logsumexp(0)", ""),
    Mutant("models/cmvae.py", "best = min(values", "best = max(values"),
    Mutant(
        "models/held.py",
        "            setattr(held, name, value)",
        "            super().__setattr__(name, value)",
    ),
    Mutant("models/idmvae.py", "pair = 2 * self._contrast(", "pair = self._contrast("),
    Mutant("models/idmvae.py", "torch.cat([z, w.roll(1, 0)], -1)", "torch.cat([z, w], -1)"),
    Mutant(
        "models/idmvae.py",
        "self.cross_view * c - self.augmentation * g",
        "self.cross_view * c + self.augmentation * g",
    ),
    # ---- hellinger, holder, composed ----
    Mutant("models/hellinger.py", "moment_matched(hoelder_pool(experts))", "hoelder_pool(experts)"),
    Mutant(
        "aggregate.py",
        "overlap + math.log(2)]",
        "overlap]",
        by="models_d::test_the_pool_is_the_square_of_the_sum_of_roots_by_quadrature",
    ),
    Mutant(
        "aggregate.py",
        "q.components.scale.square() + (q.components.loc - loc).square()",
        "q.components.scale.square()",
        by="models_d::test_hellinger",
    ),
    Mutant("models/holder.py", "own = self.own(q.include)", "own = self.own(experts.mask[None])"),
    Mutant(
        "models/holder.py",
        "kl_w = torch.where(own, q_w.columns(w) - p_w.columns(w), 0).sum(-1)",
        "kl_w = (q_w.columns(w) - p_w.columns(w)).sum(-1)",
    ),
    Mutant("models/holder.py", "q_w.scale * softplus_scale(", "q_w.scale + softplus_scale("),
    Mutant(
        "models/composed.py",
        'charged = torch.ones_like(own) if self.cross == "posterior" else own',
        "charged = own",
    ),
    Mutant(
        "models/composed.py",
        '(q.detach(), q_w.detach()) if self.objective == "dreg"',
        '(q, q_w.detach()) if self.objective == "dreg"',
    ),
    Mutant("models/composed.py", "{z: None, w: charged}, beta)", "{z: None}, beta)"),
    # ---- vcca-private, bivcca, mfm ----
    Mutant(
        "models/elbos.py",
        "beta * (kl_z + kl_w)).mean(0)",
        "beta * (kl_z - kl_w)).mean(0)",
        by="models_e::test_vcca_private",
    ),
    Mutant(
        "models/vcca.py",
        "joint(experts.z[:1], everything(experts.mask))",
        "joint(experts.z[:1], everything(experts.mask[:1]))",
    ),
    Mutant("models/vcca.py", "[self.mu, 1 - self.mu]", "[1 - self.mu, self.mu]"),
    Mutant("models/vcca.py", "weights / torch.where(total > 0, total, 1)", "weights"),
    Mutant("models/mfm.py", "missed = q.components.detach().kl(part)", "missed = q.components.kl(part)"),
    Mutant(
        "models/mfm.py", "missed = q.components.detach().kl(part)", "missed = part.kl(q.components.detach())"
    ),
    Mutant("models/mfm.py", "/ (count - 1).clamp(min=1)", "/ count.clamp(min=1)"),
    Mutant("models/mfm.py", "among - 2 * to_prior", "among - to_prior"),
    # ---- u-hved ----
    Mutant("models/uhved.py", "(live & (table != q.include).any(1)).sum(0)", "live.sum(0)"),
    Mutant("models/uhved.py", "self._kl(q.components, q_A)", "self._kl(q_A, q.components)"),
    Mutant("models/uhved.py", "(to_prior + to_subsets)", "(to_prior - to_subsets)"),
    # ---- mmvae-contrastive, meme ----
    Mutant("models/contrastive.py", "- 0.5 * (mixed.logsumexp(0)", "- (mixed.logsumexp(0)"),
    Mutant("models/contrastive.py", "line.roll(s) for s, line", "line.roll(-s) for s, line"),
    Mutant(
        "models/contrastive.py",
        "0.5 * log_over_views(weights, iwae(2 * log_weight))",
        "log_over_views(weights, iwae(2 * log_weight))",
    ),
    Mutant("models/contrastive.py", "c / counted[rows]", "c"),
    Mutant("models/contrastive.py", "value + self.gamma * c", "value - self.gamma * c"),
    Mutant("models/contrastive.py", "q.log_prob(z) + q_w.log_prob(w)", "q.log_prob(z)"),
    Mutant("models/meme.py", "(log_t - log_q_t).exp().detach()", "(log_t - log_q_t).exp()"),
    Mutant("models/meme.py", "math.log(_FRESH + 1)", "math.log(_FRESH)"),
    Mutant("models/meme.py", "to_t = log_q - p.log_prob(z[:K])", "to_t = p.log_prob(z[:K]) - log_q"),
    Mutant("models/meme.py", "z[:, v, index]) - math.log(self.pseudo)", "z[:, v, index])"),
    Mutant(
        "distributions.py",
        "(each.detach() - total).exp() * gradient",
        "gradient",
        by="distributions::test_a_sum_of_densities_is_the_same_in_pieces",
    ),
    # ---- deepimv, relational, hmvae ----
    Mutant(
        "models/deepimv.py", "mask = experts.mask & batch.mask[self.labels].any(0)", "mask = experts.mask"
    ),
    Mutant("models/deepimv.py", "views = self.alpha * elbo[1:].sum(0)", "views = elbo[1:].sum(0)"),
    Mutant("models/deepimv.py", "- warm * self.beta * kl, 0)", "+ warm * self.beta * kl, 0)"),
    Mutant("models/relational.py", "q_w.kl_columns(told)", "told.kl_columns(q_w)"),
    Mutant("models/relational.py", "subsets(experts.mask))", "subsets(experts.mask), self.p_z)"),
    Mutant(
        "models/relational.py",
        "(experts.w.loc[:, span]).to",
        "(experts.w.loc[:, span].detach()).to",
        by="gradients::test_the_gradient_is_the_values_slope[relational-]",
    ),
    Mutant("models/hmvae.py", "total = strong + weak", "total = strong"),
    Mutant("models/hmvae.py", "return both.where(model.own(experts.mask[None])[0], told)", "return both"),
    Mutant("models/hmvae.py", "everything(experts.mask), self.p_z)", "everything(experts.mask))"),
    # ---- the base ----
    Mutant("vae.py", "    if not real:\n", "    if False:\n"),
    Mutant(
        "vae.py",
        "exists = batch.mask[m].expand(lead) if wanted is None else batch.mask[m] & wanted[m]",
        "exists = batch.mask[m].expand(lead) if wanted is None else wanted[m]",
    ),
    Mutant(
        "vae.py",
        "return torch.cat([z[..., : self.seen], w[..., self.columns[m]]], -1)",
        "return torch.cat([z[..., : self.seen], w[..., self.columns[0]]], -1)",
    ),
    Mutant("vae.py", "+ self._log_q_z(q, z)", "- self._log_q_z(q, z)"),
    Mutant("vae.py", "math.log1p(-share) + log_q, math.log(share) + log_p", "log_q, log_p"),
    Mutant("vae.py", "torch.logaddexp(math.log1p(-share) + log_q, math.log(share) + log_p)", "log_q"),
    Mutant("vae.py", "w = p_w.where(prior, q_w).rsample", "w = q_w.rsample"),
    Mutant("vae.py", "z = self._draw_z(q, K)\n", "z = self._draw_z(q, 1).expand(K, -1, -1)\n"),
    Mutant("vae.py", "return torch.where(q.observed[:, None], z, fresh)", "return z"),
]


def asked(mutant: Mutant) -> list[str]:
    """The names of the tests that are asked, once each."""
    if mutant.by:
        return [mutant.by]
    return NAMED.get(mutant.file) or list(dict.fromkeys(FIRST.get(mutant.file, []) + REST))


def node(name: str) -> str:
    """What pytest calls the file or the test of that name."""
    stem, _, test = name.partition("::")
    return f"{TESTS / f'test_{stem}.py'}" + (f"::{test}" if test else "")


def mutated(mutant: Mutant) -> str:
    """The file's text with the replacement made; AssertionError where ``old`` is not where the mutant says."""
    text = (PACKAGE / mutant.file).read_text()
    pieces = text.split(mutant.old)
    count = len(pieces) - 1
    assert count == 1 if mutant.at is None else count > mutant.at, (
        f"{mutant.file}: {mutant.old!r} occurs {count} times"
    )
    at = mutant.at or 0
    return mutant.old.join(pieces[: at + 1]) + mutant.new + mutant.old.join(pieces[at + 1 :])


class Notes:
    """A pytest plugin that remembers the first failure."""

    def __init__(self) -> None:
        self.first = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.first:
            self.first = report.nodeid.split("::", 1)[1]

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed and not self.first:
            self.first = f"collection of {report.nodeid}"


def run(mutant: Mutant | None, tests: Sequence[str] = ()) -> tuple[str, float]:
    """The first test that notices ("" if none does), and the seconds it took. Runs in a process of its own.

    None: the package as it is, by these ``tests``.
    """
    start = time.monotonic()
    notes = Notes()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "polyvae"
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        if mutant is not None:
            (copy / mutant.file).write_text(mutated(mutant))
        sys.path.insert(0, folder)
        import polyvae

        assert polyvae.__file__.startswith(folder), f"the tests would see {polyvae.__file__}, not the copy"
        files = [node(name) for name in (tests if mutant is None else asked(mutant))]
        with (
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            code = pytest.main(
                ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "--tb=no", *files], plugins=[notes]
            )
    assert code in (0, 1, 2), f"pytest ends with {code}"
    return notes.first or ("an error" if code else ""), time.monotonic() - start


def forget() -> None:
    """Everything that the package imports is in memory, the package itself is not: a fork of this process starts at once."""
    import polyvae.testing

    assert polyvae.testing
    for name in [name for name in sys.modules if name.split(".")[0] == "polyvae"]:
        del sys.modules[name]


def main() -> int:
    """Run the mutants and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", default="", help="mutants whose file, text or tests contain this")
    parser.add_argument("--all", action="store_true", help="also those that are known to change nothing")
    parser.add_argument("--list", action="store_true")
    chosen = parser.parse_args()
    mutants = [
        mutant
        for mutant in MUTANTS
        if chosen.only in f"{mutant.file} {mutant.old} {mutant.new} {asked(mutant)}"
    ]
    for mutant in mutants:
        mutated(mutant)
    if chosen.list:
        print(f"{len(mutants)} mutants")
        return 0
    forget()
    with multiprocessing.get_context("fork").Pool(chosen.jobs, maxtasksperchild=1) as pool:
        by, seconds = pool.apply(
            run, (None, list(dict.fromkeys(name for mutant in mutants for name in asked(mutant))))
        )
        if by:
            print(f"the tests fail without any mutation ({by}); mend that first")
            return 1
        print(f"unmutated: passes in {seconds:.1f} s")
        survivors = [] if chosen.all else [mutant for mutant in mutants if mutant.harmless]
        mutants = [mutant for mutant in mutants if mutant not in survivors]
        counted = 0
        for mutant, (by, seconds) in zip(mutants, pool.imap(run, mutants), strict=True):
            word = "caught  " if by else "harmless" if mutant.harmless else "SURVIVED"
            print(
                f"{word} {seconds:5.1f} s  {mutant.file}: {mutant.old.strip()}  →  {mutant.new.strip()}  · {by}",
                flush=True,
            )
            counted += bool(by) or not mutant.harmless
            survivors += [] if by else [mutant]
    missed = sum(not mutant.harmless for mutant in survivors)
    print(f"\n{counted - missed} of {counted} caught ({1 - missed / max(1, counted):.1%})")
    for mutant in survivors:
        print(
            f"survivor: {mutant.file}: {mutant.old.strip()}  →  {mutant.new.strip()} | {mutant.harmless or 'no test notices'}"
        )
    return int(missed > 0.1 * counted)


if __name__ == "__main__":
    sys.exit(main())
