"""NETWORKS: encoders and decoders by name. A factory takes ``(in_shape, out)`` and keyword parameters, such as the ``width`` dial."""

from __future__ import annotations

from polyvae.core.networks.conv import conv_decoder, conv_encoder
from polyvae.core.networks.kinds import Network
from polyvae.core.networks.mlp import mlp_decoder, mlp_encoder
from polyvae.core.networks.resnet import resnet_decoder, resnet_encoder
from polyvae.core.networks.volume import volume_decoder, volume_encoder

NETWORKS: dict[str, Network] = {
    "mlp": Network(mlp_encoder, mlp_decoder),
    "conv": Network(conv_encoder, conv_decoder),
    "resnet": Network(resnet_encoder, resnet_decoder, separate=True),
    "volume": Network(volume_encoder, volume_decoder),
}


def auto(shape: tuple[int, ...]) -> str:
    """The network for this shape: "conv" for images of 8 to 32 pixels in steps of 4, "mlp" for everything else."""
    image = len(shape) == 3 and shape[0] <= 4 and all(8 <= size <= 32 and size % 4 == 0 for size in shape[1:])
    return "conv" if image else "mlp"


__all__ = ["NETWORKS", "Network", "auto"]
