"""A study of four small cells for each seed."""

from __future__ import annotations

STUDY = """
[study]
title = "A tiny study"
seeds = [0, 1]
epochs = 2
columns = ["log_likelihood", "seconds_per_epoch", "nothing"]
plots = [{kind = "curve", x = "private", y = "log_likelihood", log_x = true}]

[base]
data.options = {train = 60, test = 20}
train = {batch_size = 20, validation = 0.0, precision = "fp32"}
evaluate = {metrics = ["likelihood"], likelihood_samples = 20, likelihood_rows = 5}
modality = [{name = "*", params = {hidden = [20]}}]
model.latent = 3

[axes]
private = [1, 2]

[[contender]]
label = "MMVAE+"
model.name = "mmvae+"

[[contender]]
label = "MoPoE"
model.name = "mopoe"
"""
