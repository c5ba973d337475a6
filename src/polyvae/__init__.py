"""polyvae: multimodal variational autoencoders. MMVAE+ done exactly, beside every model it stands on, in one form."""

from polyvae.batch import Batch
from polyvae.distributions import Laplace, Mixture, Normal
from polyvae.errors import InputError
from polyvae.modality import Modality
from polyvae.models import MMVAE, MODELS, MVAE, VAE, MMVAEPlus, MoPoE, build, cite

__version__ = "0.1.0"
