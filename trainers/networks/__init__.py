"""Networks: encoders of observations, trunks, actor and critic."""

from trainers.networks.actor_critic import ActorCritic
from trainers.networks.encoder import ObsEncoder
from trainers.networks.greedy import GreedyPolicy
from trainers.networks.trunks import Activation, Mlp, NatureCnn, linear, tanh

__all__ = ["Activation", "ActorCritic", "GreedyPolicy", "Mlp", "NatureCnn", "ObsEncoder", "linear", "tanh"]
