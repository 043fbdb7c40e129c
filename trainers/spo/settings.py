"""What a search is told once: sizes, rules, and which corrections of the reference implementation to take back."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Correction", "Resampling", "SearchSettings"]

Resampling = Literal["none", "period", "ess"]

Correction = Literal["readout", "resampler", "terminals", "lineage", "baseline"]
"""How we differ from EdanToledo/Stoix, systems/spo; taking one back reproduces what it does.

readout: the target keeps its weights; there, particles resampled at the last depth are equal.
resampler: systematic; there, multinomial.
terminals: the step that ends a particle's future counts like any other; there, its advantage is lost from depth 1 on.
lineage: actions are drawn for the states that resampling has kept, and the advantages for the temperature stop at
    the first resampling; there, actions belong to the states before, and advantages go on in mixed lineages.
baseline: a step's advantage is measured from V(s); there, from V(s) times the search's discount, after the first.
"""


@dataclass(frozen=True)
class SearchSettings:
    """The search's hyperparameters, as the configuration's section `search` describes them."""

    num_particles: int = 16
    search_depth: int = 4
    resampling: Resampling = "period"
    resampling_period: int = 4
    ess_threshold: float = 0.5
    search_gamma: float = 1.0
    search_gae_lambda: float = 1.0
    root_noise_fraction: float = 0.0
    root_noise_concentration: float = 1.0
    taken_back: frozenset[Correction] = frozenset()
