"""Properties of a model, its requirements, and how often it calls its networks."""

from __future__ import annotations

from typing import NamedTuple


class Facts(NamedTuple):
    """Properties of the objective of a model with its options.

    The laws of ``polyvae.testing`` depend on them.

    Attributes:
        bound: For β ≥ 1 (K = 1) or β = 1 (any K) and likelihood weights 1, the expected objective is at
            most log p(x) of what was observed. (A sample of which only targets were observed has the
            objective 0.)
        density: There is a joint density p(x, z, w), so likelihoods can be estimated.
        per_sample: The objective of a sample does not depend on the other samples of its batch.
        nested: Masking a modality is equivalent to building the model without it.
        symmetric: The order of the modalities does not matter.
    """

    bound: bool
    density: bool
    per_sample: bool
    nested: bool
    symmetric: bool


class Requirements(NamedTuple):
    """What a model requires of its modalities, and how it treats missing ones.

    Attributes:
        text: The requirement in words; empty: none.
        least: The smallest number of modalities.
        most: The largest number of modalities; 0: any number.
        labels: The model predicts labels: every modality is an input or a target, and there is at least
            one of each.
        missing: How samples with missing modalities are used.
    """

    text: str = ""
    least: int = 1
    most: int = 0
    labels: bool = False
    missing: str = "trains and infers"


class Calls(NamedTuple):
    """Calls of the networks of a modality in one training step.

    Attributes:
        decode: Calls of the decoder.
        encode_again: Further calls of both networks, because decoded data are encoded again.
        pseudo_inputs: The encoder is called once more, on learnt inputs that replace a missing modality.
            Samples in which a modality is missing then contribute to the gradient of its network.
    """

    decode: int = 1
    encode_again: int = 0
    pseudo_inputs: bool = False
