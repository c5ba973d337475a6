"""polyvae: multimodal variational autoencoders. MMVAE+ done exactly, beside every model it stands on, in one form."""

from polyvae.core.batch import Batch
from polyvae.core.distributions import Laplace, Mixture, Normal
from polyvae.core.likelihoods import LIKELIHOODS
from polyvae.core.modality import Modality
from polyvae.core.networks import NETWORKS
from polyvae.data import DATASETS, MultimodalData, load_dataset
from polyvae.metrics import METRICS, evaluate, fit_prior
from polyvae.models import MMVAE, MODELS, MVAE, VAE, MMVAEPlus, MoPoE, build, cite
from polyvae.models.bundles import load_model, save_model
from polyvae.training.loop import fit
from polyvae.utils.errors import InputError

__version__ = "0.1.0"
__all__ = [
    "DATASETS",
    "LIKELIHOODS",
    "METRICS",
    "MMVAE",
    "MODELS",
    "MVAE",
    "NETWORKS",
    "VAE",
    "Batch",
    "InputError",
    "Laplace",
    "MMVAEPlus",
    "Mixture",
    "MoPoE",
    "Modality",
    "MultimodalData",
    "Normal",
    "build",
    "cite",
    "evaluate",
    "fit",
    "fit_prior",
    "load_dataset",
    "load_model",
    "save_model",
]
