"""Models that cannot be built are refused at construction, in one line that names the model, what was given and the remedy."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from polyvae import InputError, Modality, build
from polyvae.testing import plain_world
from tests.helpers.worlds import fixed, small

A, B = plain_world()[:2]
VIEW, LABEL = Modality("x", (2,), role="input"), Modality("y", (1,), role="target")
EMPTY = partial(fixed, np.zeros((1, 2)), np.zeros(1))  # for a latent without columns, of which torch warns

# Options of a model over four modalities.
OPTIONS = [
    ("mvtcae", {"alpha": 1.2}, "mvtcae: got alpha=1.2; expected a number from 0"),
    ("crmvae", {"variant": "multivea"}, "unknown variant 'multivea'; did you mean 'multivae'"),
    ("mmvm", {"divergence": "pairs"}, "unknown divergence 'pairs'"),
    ("mmvm", {"prior_share": -0.1}, "got prior_share=-0.1; expected a number from 0 to 1"),
    ("cmvae", {"clusters": 0}, "clusters"),
    ("scmm", {"K": 0}, "K=0"),
    ("holder", {"objective": "dreg"}, "unknown objective 'dreg'; known: elbo, iwae"),
    ("idmvae", {"augmentation": -1.0}, "got augmentation=-1.0; expected a weight"),
    ("idmvae", {"temperature": 0.0}, "got temperature=0.0; expected a positive number"),
    ("composed", {"subsets": "power"}, "unknown subsets 'power'; .*'powerset'"),
    ("composed", {"cross": "auxiliary"}, "0 private columns; expected private latents"),
]
# The number of modalities, and options.
COUNTS = [
    ("meme", 3, {}, "expected exactly two, each with role='both'"),
    ("meme", 2, {"variant": "publish"}, "unknown variant 'publish'; did you mean 'published'"),
    ("meme", 2, {"alpha": -1.0}, "got alpha=-1.0; expected a number, 0 or more"),
    ("meme", 2, {"pseudo": 0}, "pseudo=0"),
    ("mmvae-contrastive", 2, {"base": "mmva"}, "unknown base 'mmva'; did you mean"),
    ("mmvae-contrastive", 2, {"unrelated": "elbo"}, r"unknown unrelated 'elbo'; .*known: iwae, cubo"),
    ("mmvae-contrastive", 2, {"gamma": -1.0}, "got gamma=-1.0; expected a weight"),
    ("mmvae-contrastive", 2, {"negatives": 0}, "negatives=0"),
    (
        "mmvae-contrastive",
        2,
        {"base": "mvae", "base_options": {"subset": 2}},
        r"unknown key 'subset' of base_options .*'subsets'",
    ),
    ("mmvae-contrastive", 2, {"base_options": {"beta": 2.0}}, "unknown key 'beta' of base_options"),
]
# Options of a model over two modalities; the message is literal.
TWO = [
    ("jmvae", {"alpha": -1.0}, "jmvae: got alpha=-1.0; expected a number, 0 or more"),
    ("telbo", {"gamma": -1.0}, "telbo: got gamma=-1.0; expected a number, 0 or more"),
    ("jmvae", {"joint_width": 0}, "jmvae: got joint_width=0; expected"),
    ("dmvae", {"n": 0}, "dmvae: got n=0; expected"),
    ("dmvae", {"variant": "publishd"}, "dmvae: unknown variant 'publishd'; did you mean 'published'"),
    ("nexus", {"gamma": 0.0}, "nexus: got gamma=0.0; expected a number above 0"),
    ("nexus", {"drop": 1.5}, "nexus: got drop=1.5; expected a probability"),
]
# The modalities themselves.
SPECS = [
    ("vcca-private", [A], {}, "vcca-private: got 1 modalities; expected exactly 2"),
    ("vcca-private", plain_world(), {}, "vcca-private: got 4 modalities; expected exactly 2"),
    ("bivcca", plain_world()[:3], {}, "bivcca: got 3 modalities; expected exactly 2"),
    (
        "vcca-private",
        [replace(A, role="target"), B],
        {},
        "vcca-private: got the target 'rna.counts' as the first modality",
    ),
    (
        "vcca-private",
        [A, replace(B, role="input")],
        {},
        "vcca-private: got 'values' with role='input' and private=None",
    ),
    (
        "vcca-private",
        [A, replace(B, private=0)],
        {},
        "vcca-private: got 'values' with role='both' and private=0",
    ),
    ("bivcca", [A, B], {"mu": 1.0}, "bivcca: got mu=1.0; expected a number between 0 and 1"),
    ("bivcca", [A, B], {"mu": "0.5"}, "bivcca: got mu='0.5'; expected a number"),
    (
        "mfm",
        [A, replace(B, role="target", private=2)],
        {},
        "mfm: got the target 'values' with private=2; expected 0",
    ),
    ("mfm", [A, B], {"kernel": "publshed"}, "mfm: unknown kernel 'publshed'; .*published"),
    ("mfm", [A, B], {"surrogate": -1.0}, "mfm: got surrogate=-1.0; expected a number, 0 or more"),
]
# The same; the message is literal.
ROLES = [
    (
        "deepimv",
        [VIEW],
        {},
        "deepimv: got the inputs ['x'] and no label to predict; expected at least one modality with role='target'",
    ),
    ("deepimv", [LABEL], {}, "deepimv: got only targets; expected at least one modality that is encoded"),
    (
        "deepimv",
        [replace(VIEW, role="both"), LABEL],
        {},
        "deepimv: modality 'x' has role='both'; expected 'input' for a modality that",
    ),
    ("deepimv", [VIEW, LABEL], {"alpha": -1.0}, "deepimv: got alpha=-1.0; expected a number, 0"),
    (
        "deepimv",
        [replace(VIEW, private=2), LABEL],
        {},
        "DeepIMV: modality 'x' has private=2, but this model has no private latents",
    ),
    (
        "relational",
        [replace(VIEW, private=0, encoder=EMPTY)],
        {},
        "relational: modality 'x' has private=0; expected at least one column, for its decoder",
    ),
    (
        "hmvae",
        [replace(VIEW, private=0)],
        {},
        "hmvae: modality 'x' has private=0; expected at least one column, for its variation",
    ),
    ("hmvae", [VIEW], {"K": 0}, "hmvae: got K=0; expected"),
    ("relational", [VIEW], {"K": 0}, "relational: got K=0; expected"),
]
REFUSED = [
    *((name, plain_world(), {"latent": 2, **options}, message) for name, options, message in OPTIONS),
    *(
        (name, plain_world()[:count], {"latent": 2, **options}, message)
        for name, count, options, message in COUNTS
    ),
    *((name, small(2), options, f"^{re.escape(message)}") for name, options, message in TWO),
    *((name, specs, options, f"^{message}") for name, specs, options, message in SPECS),
    *((name, specs, options, f"^{re.escape(message)}") for name, specs, options, message in ROLES),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("name", "specs", "options", "message"), REFUSED)
def test_what_cannot_be_built_is_refused_in_one_line(name, specs, options, message):
    with pytest.raises(InputError, match=message) as problem:
        build(name, specs, **options)
    assert "\n" not in str(problem.value)


def test_modalities_without_a_role_in_it_are_refused():
    a, b, c, _ = plain_world()
    with pytest.raises(InputError, match="expected exactly two, each with role='both'"):
        build("meme", (a, replace(b, role="target")), latent=2)
    with pytest.raises(InputError, match="expected two that are decoded, one of them encoded"):
        build(
            "mmvae-contrastive",
            (replace(a, role="input"), replace(b, role="target"), replace(c, role="target")),
            latent=2,
        )
