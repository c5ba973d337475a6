"""polyvae: multimodal variational autoencoders. MMVAE+ done exactly, beside every model it stands on, in one form."""

from polyvae.batch import Batch
from polyvae.data import DATASETS, MultimodalData, load_dataset
from polyvae.distributions import Laplace, Mixture, Normal
from polyvae.errors import InputError
from polyvae.evaluate import METRICS, evaluate, fit_prior
from polyvae.likelihoods import LIKELIHOODS
from polyvae.modality import Modality
from polyvae.models import MMVAE, MODELS, MVAE, VAE, MMVAEPlus, MoPoE, build, cite
from polyvae.networks import NETWORKS
from polyvae.storage import load_model, save_model
from polyvae.train import fit

__version__ = "0.1.0"
__all__ = [
    "DATASETS", "LIKELIHOODS", "METRICS", "MMVAE", "MODELS", "MVAE", "NETWORKS", "VAE", "Batch", "InputError", "Laplace", "MMVAEPlus",
    "Mixture", "MoPoE", "Modality", "MultimodalData", "Normal", "build", "cite", "evaluate", "fit", "fit_prior", "load_dataset",
    "load_model", "save_model",
]
