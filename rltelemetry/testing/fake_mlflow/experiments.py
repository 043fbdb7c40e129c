"""Experiments: the folders of the runs, each in a workspace."""

from dataclasses import dataclass
from typing import Any, Final

from rltelemetry.testing.fake_mlflow.answers import Refused, invalid

__all__ = ["DEFAULT_WORKSPACE", "Experiment", "Experiments"]

DEFAULT_WORKSPACE: Final = "default"


@dataclass
class Experiment:
    """A folder of runs."""

    experiment_id: str
    name: str
    workspace: str
    lifecycle_stage: str = "active"

    @property
    def json(self) -> dict[str, Any]:
        """The experiment on the wire."""
        return {
            "experiment_id": self.experiment_id,
            "name": self.name,
            "artifact_location": f"mlflow-artifacts:/{self.experiment_id}",
            "lifecycle_stage": self.lifecycle_stage,
        }


class Experiments:
    """The store; experiment 0 is there from the start."""

    def __init__(self) -> None:
        self._by_id = {"0": Experiment("0", "Default", DEFAULT_WORKSPACE)}

    def get(self, experiment_id: str, workspace: str) -> Experiment:
        """Look an experiment up."""
        if not experiment_id.isdecimal():
            raise invalid(f"Invalid experiment ID '{experiment_id}'. Experiment ID must be a valid integer.")
        found = self._by_id.get(experiment_id)
        if found is None or found.workspace != workspace:
            raise Refused("RESOURCE_DOES_NOT_EXIST", f"No Experiment with id={experiment_id} exists")
        return found

    def get_by_name(self, name: str, workspace: str) -> Experiment:
        """Look an experiment up by name, deleted or not."""
        for experiment in self._by_id.values():
            if experiment.name == name and experiment.workspace == workspace:
                return experiment
        raise Refused("RESOURCE_DOES_NOT_EXIST", f"Could not find experiment with name '{name}'")

    def active(self, workspace: str) -> list[Experiment]:
        """Return a workspace's experiments that are not deleted, the newest first."""
        known = reversed(self._by_id.values())
        return [each for each in known if each.workspace == workspace and each.lifecycle_stage == "active"]

    def create(self, name: str, workspace: str) -> str:
        """Make an experiment; the name of a deleted one is taken, too."""
        if any(each.name == name and each.workspace == workspace for each in self._by_id.values()):
            raise Refused("RESOURCE_ALREADY_EXISTS", f"Experiment(name={name}) already exists.")
        experiment_id = str(len(self._by_id))
        self._by_id[experiment_id] = Experiment(experiment_id, name, workspace)
        return experiment_id

    def delete(self, experiment_id: str, workspace: str) -> None:
        """Delete an experiment; its runs are the caller's to delete."""
        self.get(experiment_id, workspace).lifecycle_stage = "deleted"
