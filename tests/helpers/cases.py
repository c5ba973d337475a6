"""Every model with the options under which the laws and the gradient checks run."""

from __future__ import annotations

from polyvae import MODELS

OPTIONS = {
    "vae": [
        {},
        {"objective": "iwae", "K": 3, "beta": 2.5},
        {"objective": "dreg", "K": 2, "family": "laplace"},
    ],
    "mvae": [{}, {"subsets": 0, "beta": 2.5}, {"subsets": 2, "K": 2, "scale_map": "exp"}],
    "mmvae": [
        {},
        {"objective": "iwae", "K": 3, "tight": True},
        {"objective": "dreg", "K": 3, "tight": True, "learn_prior": True},
        {"objective": "dreg", "K": 2, "beta": 2.5, "scale_map": "softmax"},
    ],
    "mopoe": [{}, {"stratified": True, "K": 2, "beta": 2.5}, {"prior_expert": "full", "K": 2}],
    "mmvae+": [
        {},
        {"cross": "prior", "objective": "iwae", "K": 3},
        {"cross": "posterior", "beta": 2.5},
        {"cross": "posterior-published"},
        {"corrected": True, "objective": "dreg", "K": 3},
        {"source_experts": "random", "K": 2},
        {"prior_components": 3},
        {
            "family": "laplace",
            "scale_map": "softmax",
            "objective": "dreg",
            "K": 3,
            "beta": 2.5,
            "source_experts": "random",
        },
        {"private_prior": "auxiliary", "objective": "iwae", "K": 3},
        {"cross_experts": "one", "conditional_prior": True, "own_weight": 2.0, "K": 2},
        {"detach_own": True, "objective": "dreg", "K": 2},
    ],
    "mmjsd": [{}, {"stratified": True, "K": 2, "beta": 2.5}],
    "mvtcae": [{}, {"alpha": 0.0, "K": 2}],
    "crmvae": [{}, {"variant": "multivae", "K": 2}],
    "mmvm": [{}, {"divergence": "pairwise", "K": 2, "prior_share": 0.2}, {"anneal": True, "beta": 2.5}],
    "jmvae": [{}, {"alpha": 0.5, "K": 2, "beta": 2.5}],
    "telbo": [{}, {"gamma": 3.0, "K": 2, "beta": 2.5}],
    "jnf": [{"hidden": (), "transforms": 1, "joint_width": 6, "steps": 2, "leapfrog": 2}],
    "set-fusion": [
        {"width": 8},
        {"pool": "attention", "variant": "mixture", "width": 8, "depth": 1, "K": 2, "beta": 2.5},
    ],
    "dmvae": [
        {},
        {"total_correlation": 3.0, "n": 50, "K": 2, "beta": 2.5},
        {"variant": "published", "total_correlation": 0.0},
    ],
    "nexus": [{"message": 8, "hidden": (6,)}, {"drop": 0.7, "K": 2, "gamma": 2.0, "beta": 2.5, "hidden": ()}],
    "deepimv": [{}, {"alpha": 0.3, "beta": 2.5, "K": 2}],
    "relational": [{}, {"K": 2, "beta": 2.5, "hidden": ()}],
    "hmvae": [{}, {"K": 2, "beta": 2.5, "hidden": ()}],
    "code-vae": [{}, {"entropy": 0.0, "correlation": -0.2, "K": 2, "beta": 2.5}],
    "scmm": [{}, {"learn_prior": True, "K": 2, "beta": 2.5, "family": "normal", "scale_map": "softplus"}],
    "hellinger": [{}, {"K": 2, "beta": 2.5, "scale_map": "exp"}],
    "holder": [
        {},
        {"hierarchical": False, "K": 2, "objective": "iwae"},
        {"cross": "prior", "K": 2, "beta": 2.5, "hidden": 5},
    ],
    "idmvae": [{}, {"cross": "prior", "K": 2, "temperature": 0.5, "objective": "iwae"}],
    "u-hved": [{}, {"variant": "published", "levels": [1, 1], "K": 2, "beta": 2.5}],
    "composed": [
        {},
        {"subsets": "pairs", "agreement": "mean", "K": 2, "beta": 2.5},
        {"subsets": "everything", "prior_expert": True},
        {"subsets": "random", "agreement": "barycentre", "objective": "iwae", "K": 2},
        {"subsets": "singles", "prior_components": 3, "objective": "dreg"},
    ],
    "mmvae-contrastive": [
        {},
        {"base": "mvae", "K": 2, "negatives": 2, "unrelated": "cubo"},
        {"base": "jmvae", "K": 1, "gamma": 0.5},
        {"base": "mmvae+", "K": 2, "beta": 2.5, "base_options": {"objective": "iwae", "family": "laplace"}},
    ],
    "meme": [
        {"pseudo": 5},
        {"pseudo": 3, "K": 2, "alpha": 1.0, "beta": 2.5},
        {"pseudo": 3, "K": 2, "variant": "published"},
    ],
    "vcca-private": [{}, {"K": 2, "beta": 2.5, "scale_map": "exp"}],
    "bivcca": [{}, {"mu": 0.8, "K": 2, "beta": 2.5}],
    "mfm": [{}, {"kernel": "published", "K": 2, "beta": 2.5, "surrogate": 0.5}],
    "cmvae": [
        {"clusters": 3},
        {"clusters": 5, "objective": "dreg", "K": 2, "family": "normal", "scale_map": "softplus"},
    ],
}


CASES = [(name, options) for name in MODELS for options in OPTIONS.get(name, [{}])]
