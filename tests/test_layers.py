"""The house's import rule, as data: a module may import what stands before it, never after."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

RLTELEMETRY: list[set[str]] = [
    {"errors", "schema", "clock", "endings", "stats", "current_span", "processes", "trace_ids", "fork_gate"},
    {"types", "locks", "keys", "redact", "places", "nudge"},
    {"ports", "settings", "filtering", "labels", "extract", "values", "notices"},
    {"processors", "provenance", "facts", "reasons"},
    {"plan"},
    {"handoff"},
    {"channels"},
    {"loggers", "spans", "forks", "chain"},
    {"stdlib", "intake"},
    {"sinks.console", "sinks.otlp", "sinks.mlflow"},
    {"registration"},
    {"run", "system"},
    {"heir"},
    {"recovery"},
    {"worker", "export"},
    {"parts"},
    {"life"},
    {"pipeline"},
    {"server", "doctor", "sync", "tail", "compat", "resumption"},
    {"cli"},
    {"__main__"},
]
TRAINERS: list[set[str]] = [
    {"errors", "observations", "compilation", "stopwatch"},
    {"config", "divergence"},
    {"ranks"},
    {"runtime"},
    {"returns", "distributions", "optim"},
    {"normalize"},
    {"networks"},
    {"envs"},
    {"rollout"},
    {"simulators", "curve"},
    {"ppo", "spo"},
    {"emit", "progress"},
    {"evaluation", "checkpoint"},
    {"survival"},
    {"loop"},
    {"cli"},
    {"__main__"},
]
MATHS = {"observations", "compilation", "returns", "distributions", "normalize", "networks", "optim"}
FOREIGN_TO_TELEMETRY = {"trainers", "torch", "envpool", "mlflow"}
TELEMETRY_USERS = {"cli"}


def room_of(path: Path, package: str, layers: list[set[str]]) -> str:
    module = ".".join(path.relative_to(ROOT / package).with_suffix("").parts).removesuffix(".__init__")
    rooms = sorted(set().union(*layers), key=len, reverse=True)
    return next((room for room in rooms if module == room or module.startswith(f"{room}.")), module)


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rooms_imported(path: Path, package: str, layers: list[set[str]]) -> set[str]:
    rooms = set().union(*layers)
    inside = {name.removeprefix(f"{package}.") for name in imports_of(path) if name.startswith(f"{package}.")}
    return {room for room in rooms for name in inside if name == room or name.startswith(f"{room}.")}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize(("package", "layers"), [("rltelemetry", RLTELEMETRY), ("trainers", TRAINERS)])
def test_every_module_imports_only_what_stands_before_it(package: str, layers: list[set[str]]) -> None:
    floor = {room: level for level, rooms in enumerate(layers) for room in rooms}
    wrong = []
    for path in modules(package):
        room = room_of(path, package, layers)
        if room in {"__init__", "sinks", package} or room.startswith("testing"):
            continue
        assert room in floor, f"{path}: this room is not in the list of layers"
        wrong += [
            f"{room} imports {other}"
            for other in rooms_imported(path, package, layers) - {room}
            if floor[other] >= floor[room]
        ]
    assert wrong == []


def test_sinks_do_not_see_each_other_and_ppo_does_not_see_spo() -> None:
    floor = {"sinks.console": "sinks", "sinks.otlp": "sinks", "sinks.mlflow": "sinks"}
    for path in modules("rltelemetry"):
        room = room_of(path, "rltelemetry", RLTELEMETRY)
        if room in floor:
            assert rooms_imported(path, "rltelemetry", RLTELEMETRY) & (floor.keys() - {room}) == set()
    for path in modules("trainers"):
        room = room_of(path, "trainers", TRAINERS)
        if room in {"ppo", "spo"}:
            assert rooms_imported(path, "trainers", TRAINERS) & ({"ppo", "spo"} - {room}) == set()


def test_telemetry_knows_nothing_of_trainers_torch_envpool_or_mlflow() -> None:
    for path in modules("rltelemetry"):
        roots = {name.partition(".")[0] for name in imports_of(path)}
        assert roots & FOREIGN_TO_TELEMETRY == set(), path


def test_nothing_imports_the_testing_package_but_itself() -> None:
    for path in modules("rltelemetry") + modules("trainers"):
        if ROOT / "rltelemetry" / "testing" not in path.parents:
            assert not any(name.startswith("rltelemetry.testing") for name in imports_of(path)), path


def test_httpx_and_what_it_carries_are_known_in_one_place_each() -> None:
    used = [
        (name, path.name) for path in modules("rltelemetry") for name in ("h11", "httpx") if name in imports_of(path)
    ]
    assert sorted(used) == [("h11", "transport.py"), ("httpx", "http.py"), ("httpx", "transport.py")]


def test_trainers_touch_telemetry_in_emit_and_cli_only() -> None:
    for path in modules("trainers"):
        if any(name.split(".")[0] == "rltelemetry" for name in imports_of(path)):
            assert room_of(path, "trainers", TRAINERS) in TELEMETRY_USERS, path


def test_maths_rooms_know_only_torch_and_each_other() -> None:
    for path in modules("trainers"):
        if room_of(path, "trainers", TRAINERS) in MATHS:
            assert rooms_imported(path, "trainers", TRAINERS) <= MATHS, path
