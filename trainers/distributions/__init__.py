"""Action distributions: sampling, log-probability, entropy and KL on plain tensors of parameters."""

from trainers.distributions.categorical import ILLEGAL, Categorical, MultiCategorical, mask_logits
from trainers.distributions.choice import make_distribution
from trainers.distributions.gaussian import DiagGaussian, SquashedGaussian
from trainers.distributions.protocol import ActionKind, Distribution

__all__ = [
    "ILLEGAL",
    "ActionKind",
    "Categorical",
    "DiagGaussian",
    "Distribution",
    "MultiCategorical",
    "SquashedGaussian",
    "make_distribution",
    "mask_logits",
]
