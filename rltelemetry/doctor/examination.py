"""The order of the checks: each stands on those before it, and what cannot be asked any more is said to be skipped."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

from rltelemetry.doctor.access import check_access, check_run, check_traces
from rltelemetry.doctor.findings import CHECKS, Finding, Level, failed, ok, skipped, warning
from rltelemetry.doctor.identity import check_identity, check_store, check_version
from rltelemetry.doctor.network import Place, check_connection, check_name
from rltelemetry.doctor.probe import Probe
from rltelemetry.doctor.spools import check_spools
from rltelemetry.doctor.timing import ask, check_clock, check_round_trip
from rltelemetry.settings import Resolved, Settings
from rltelemetry.sinks.mlflow import MlflowClient, make_loop

__all__ = ["Examination"]

OPTIONAL = frozenset({"run"})
"""Checks that are not worth a line where there is nothing to be checked."""


class Examination:
    """Examines the way to one server.

    Args:
        resolved: the settings in force, and where they come from.
        is_read_only: whether nothing may be written on the server.
    """

    def __init__(self, resolved: Resolved, *, is_read_only: bool = False) -> None:
        self._resolved = resolved
        self._settings = resolved.settings
        self._is_read_only = is_read_only
        self._timeout_s = resolved.settings.request_timeout_s

    def run(self, say: Callable[[Finding], None] = lambda _finding: None) -> list[Finding]:
        """Make the checks; `say` is given each finding as soon as it is there."""

        async def collect() -> list[Finding]:
            findings = []
            async for finding in self.findings():
                say(finding)
                findings.append(finding)
            return findings

        with asyncio.Runner(loop_factory=make_loop) as runner:
            return runner.run(collect())

    async def findings(self) -> AsyncIterator[Finding]:
        """Make the checks, and give each finding as soon as it is there."""
        done: list[str] = []
        problem = ""
        async for finding in self._on_the_way():
            done.append(finding.check)
            if finding.is_failure:
                problem = finding.check
            yield finding
        for check in CHECKS:
            if check not in done and check not in OPTIONAL and check != "spools":
                yield skipped(check, f"not asked, since {problem} failed")
        yield check_spools(self._settings.spools)

    async def _on_the_way(self) -> AsyncIterator[Finding]:
        for finding in self._of_settings():
            yield finding
        place = Place.of(self._settings.tracking_uri)
        name, addresses = await check_name(place, self._timeout_s)
        yield name
        if not addresses:
            return
        connection = await check_connection(place, addresses, self._timeout_s)
        yield connection
        if connection.is_failure:
            return
        client = MlflowClient(self._settings)
        try:
            async for finding in self._of_server(client):
                yield finding
        finally:
            await client.close()

    def _of_settings(self) -> Iterator[Finding]:
        uri, source = self._settings.tracking_uri, self._resolved.sources.get("tracking_uri", "the default")
        if self._resolved.ignored:
            yield failed("settings", "; ".join(self._resolved.ignored), "Correct the variable, or unset it.")
        elif self._resolved.risks:
            yield warning("settings", "; ".join(self._resolved.risks))
        else:
            yield ok("settings", f"{uri} ({source})")

    async def _of_server(self, client: MlflowClient) -> AsyncIterator[Finding]:
        asked = await ask(client, self._timeout_s)
        identity = await check_identity(client, asked.outcome, self._client_for, self._timeout_s)
        for finding in identity:
            yield finding
        if any(finding.is_failure for finding in identity):
            return
        yield await check_version(client, self._timeout_s)
        store = check_store(asked.outcome)
        yield store
        async for finding in self._of_data(client, has_database=not store.is_failure):
            yield finding
        yield check_clock(asked)
        yield await check_round_trip(client, self._timeout_s)

    async def _of_data(self, client: MlflowClient, *, has_database: bool) -> AsyncIterator[Finding]:
        access, experiment_id = await check_access(client, self._settings, self._timeout_s)
        for finding in access:
            yield finding
        if self._settings.run_id is not None and access[0].level is Level.OK:
            yield await check_run(client, self._settings.run_id, self._timeout_s)
        if experiment_id is None:
            return
        if has_database:
            traces = await check_traces(client, self._settings, experiment_id, self._timeout_s)
        else:
            traces = skipped("traces", "its store takes none")
        yield traces
        if self._is_read_only:
            for check in ("metric probe", "trace probe", "artifacts"):
                yield skipped(check, "nothing is written (--read-only)")
            return
        probe = Probe(client, experiment_id, self._timeout_s)
        for finding in await probe.findings(wants_traces=traces.level is Level.OK):
            yield finding

    def _client_for(self, uri: str) -> MlflowClient:
        return MlflowClient(_at(self._settings, uri))


def _at(settings: Settings, uri: str) -> Settings:
    return settings.model_copy(update={"tracking_uri": uri})
