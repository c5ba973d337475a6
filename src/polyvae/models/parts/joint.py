"""A joint network, q(z | X) from all modalities at once, for models that have one beside their experts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from polyvae.core.aggregate import Experts, everything, mixture_of_products
from polyvae.core.batch import Batch
from polyvae.core.distributions import SCALES, Mixture, Normal
from polyvae.core.modalities import placed
from polyvae.core.modality import another_encoder
from polyvae.core.vae import MultimodalVAE
from polyvae.utils.devices import to_device
from polyvae.utils.errors import check_count


class JointNetwork(nn.Module):
    """Second encoders of all modalities, whose features are added and passed to two linear heads.

    Adding features is equivalent to one linear layer over concatenated features, and does not depend on
    the order of the modalities. The second encoders are parts of the modalities ("joint"), and are
    stored and named with them.

    Args:
        model: The model, whose modalities get the second encoders.
        latent: Columns of z.
        width: Number of features of each encoder.
    """

    def __init__(self, model: MultimodalVAE, latent: int, width: int) -> None:
        super().__init__()
        check_count(model.name, "joint_width", width)
        for net in model.modalities.values():
            if net.encoder is not None:
                net.parts["joint"] = another_encoder(net.spec, width)
        self.loc, self.raw = nn.Linear(width, latent), nn.Linear(width, latent)

    def forward(
        self, model: MultimodalVAE, batch: Batch, rows: Tensor | slice, counted: bool = True
    ) -> Normal:
        """q(z | X) of the selected rows, [rows, D].

        Args:
            model: The model.
            batch: The data.
            rows: Samples in which every encoded modality was observed.
            counted: Whether these samples count.
        """
        features = model.modalities.encode_with("joint", batch, rows, counted)
        return self._of(model, batch, torch.stack(features).sum(0))

    def of_observed(self, model: MultimodalVAE, batch: Batch, observed: Tensor) -> Normal:
        """q(z | x_A), from the sum of the features of what was observed: [B, D]; N(0, I) where nothing was.

        Args:
            model: The model.
            batch: The data.
            observed: [E, B], what was observed of the encoded modalities; no device is waited for if it is on the host.
        """
        if batch.complete:
            return self.forward(model, batch, slice(None))
        modalities, total = model.modalities, None
        for m, row in zip(modalities.encoded, observed, strict=True):
            if modalities.dense:
                features = modalities.encode_part(m, "joint", batch, slice(None))
                features = torch.where(to_device(row, batch.device)[:, None], features, 0)
            else:
                index, counted = modalities.observed_rows(row, batch.device)
                if not len(index):
                    continue
                each = modalities.encode_part(m, "joint", batch, index, counted)
                features = placed(each.new_zeros((batch.size, each.shape[1])), index, each, counted)
            total = features if total is None else total + features
        if total is None:
            like = next(iter(batch.data.values()))
            return Normal.unit((batch.size, self.loc.out_features), like)
        q = self._of(model, batch, total)
        return q.where(
            to_device(observed.any(0), batch.device)[:, None], Normal.unit(tuple(q.loc.shape), q.loc)
        )

    def _of(self, model: MultimodalVAE, batch: Batch, features: Tensor) -> Normal:
        hidden = features.relu()
        dtype = next(iter(batch.data.values())).dtype  # densities in full precision, also under autocast
        loc, raw = (head(hidden).to(dtype) for head in (self.loc, self.raw))
        return Normal(loc, SCALES[model.scale_map](raw))


def joint_or_product(model: MultimodalVAE, network: JointNetwork, batch: Batch, experts: Experts) -> Mixture:
    """One component: the joint network or a product of experts.

    The joint network is used where all encoded modalities were observed, and the product of the observed
    experts elsewhere.
    """
    product = mixture_of_products(experts, everything(experts.observed))
    if batch.complete:
        return product._replace(components=network(model, batch, slice(None))[None])
    index, counted = model.modalities.observed_rows(experts.observed.all(0), batch.device)
    if not len(index):
        return product
    joint, rest = network(model, batch, index, counted), product.components[0]
    loc = placed(rest.loc, index, joint.loc, counted)
    scale = placed(rest.scale, index, joint.scale, counted)
    return product._replace(components=Normal(loc, scale)[None])
