"""Networks: encoders of observations, trunks, actor and critic."""

from trainers.networks.actor_critic import ActorCritic
from trainers.networks.encoder import ObsEncoder
from trainers.networks.trunks import Activation, NatureCnn, Tanh, linear, mlp

__all__ = ["Activation", "ActorCritic", "NatureCnn", "ObsEncoder", "Tanh", "linear", "mlp"]
