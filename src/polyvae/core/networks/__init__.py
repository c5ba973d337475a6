"""NETWORKS: encoders and decoders by name.

An encoder factory ``(in_shape, out, **params)`` returns a module [B, *in_shape] -> [B, out]; a decoder factory returns a module
[N, *in_shape] -> [N, *out]. Parameters, such as ``width``, which multiplies the numbers of channels and hidden units, come from
``Modality.params``.

Example:
    >>> import torch
    >>> from polyvae import NETWORKS
    >>> sorted(NETWORKS)
    ['conv', 'mlp', 'resnet', 'series', 'table', 'text', 'volume']
    >>> encoder = NETWORKS["mlp"].encoder((2, 3), 8, hidden=(16,))
    >>> encoder(torch.zeros(4, 2, 3)).shape
    torch.Size([4, 8])
    >>> decoder = NETWORKS["conv"].decoder((8,), (1, 28, 28), width=0.5)
    >>> decoder(torch.zeros(4, 8)).shape
    torch.Size([4, 1, 28, 28])
"""

from __future__ import annotations

from polyvae.core.networks.conv import conv_decoder, conv_encoder
from polyvae.core.networks.kinds import Network
from polyvae.core.networks.mlp import mlp_decoder, mlp_encoder
from polyvae.core.networks.resnet import resnet_decoder, resnet_encoder
from polyvae.core.networks.series import series_decoder, series_encoder
from polyvae.core.networks.table import table_decoder, table_encoder
from polyvae.core.networks.text import text_decoder, text_encoder
from polyvae.core.networks.volume import volume_decoder, volume_encoder

NETWORKS: dict[str, Network] = {
    "mlp": Network(mlp_encoder, mlp_decoder),
    "conv": Network(conv_encoder, conv_decoder),
    "resnet": Network(resnet_encoder, resnet_decoder, separate=True),
    "series": Network(series_encoder, series_decoder),
    "table": Network(table_encoder, table_decoder),
    "text": Network(text_encoder, text_decoder),
    "volume": Network(volume_encoder, volume_decoder),
}


def auto(shape: tuple[int, ...]) -> str:
    """The default network for a shape: "conv" for images of 8 to 32 pixels, in steps of 4, on each side; else "mlp"."""
    image = len(shape) == 3 and shape[0] <= 4 and all(8 <= size <= 32 and size % 4 == 0 for size in shape[1:])
    return "conv" if image else "mlp"


__all__ = ["NETWORKS", "Network", "auto"]
