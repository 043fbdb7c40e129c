import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest
from structlog.testing import capture_logs

from rltelemetry.errors import SettingsError
from rltelemetry.filtering import Filter
from trainers import __main__ as main_module
from trainers.cli import arguments as arguments_module
from trainers.cli import commands, ppo, spo, training
from trainers.cli.algorithms import ALGORITHMS, AlgorithmEntry
from trainers.cli.arguments import Arguments
from trainers.cli.telemetry import choose_server, telemetry_fields
from trainers.config import PpoConfig, RunConfig, load
from trainers.errors import DivergenceError

CONFIG = str(Path(__file__).parents[2] / "configs" / "ppo.yaml")


def parse(argv: list[str]) -> Arguments[PpoConfig]:
    return arguments_module.parse(argv, ALGORITHMS["ppo"])


@pytest.fixture
def yaml(tmp_path: Path) -> Path:
    file = tmp_path / "run.yaml"
    file.write_text(
        "training_core:\n  gamma: 0.5\n  seed: 7\n"
        "logging:\n  run_name: from-file\n  tracking_uri: http://file:1\n  log_level: warning\n  experiment_id: '5'\n"
    )
    return file


# --- arguments


def test_bare_command_has_the_defaults() -> None:
    arguments = parse([])
    assert arguments == Arguments(PpoConfig(), frozenset(), is_offline=False, is_quiet=False)


@pytest.mark.parametrize("form", [["--config", "{}"], ["--config={}"]])
def test_flag_wins_over_file_and_file_over_default(yaml: Path, form: list[str]) -> None:
    config = parse([text.format(yaml) for text in form] + ["--training-core.gamma", "0.25"]).config
    assert config.training_core.gamma == 0.25
    assert config.training_core.seed == 7
    assert config.training_core.gae_lambda == PpoConfig().training_core.gae_lambda


def test_position_of_the_file_among_the_flags_does_not_matter(yaml: Path) -> None:
    config = parse(["--training-core.gamma", "0.25", "--config", str(yaml)]).config
    assert config.training_core.gamma == 0.25


@pytest.mark.parametrize(
    ("flags", "section", "name", "expected"),
    [
        (["--seed", "3"], "training_core", "seed", 3),
        (["--seed=3"], "training_core", "seed", 3),
        (["--device", "cpu"], "hardware", "device", "cpu"),
        (["--run-name", "a=b"], "logging", "run_name", "a=b"),
        (["--mlflow-run-id", "abc"], "logging", "run_id", "abc"),
        (["--mlflow_run_id=abc"], "logging", "run_id", "abc"),
        (["--architecture.hidden-sizes", "8", "4"], "architecture", "hidden_sizes", (8, 4)),
        (["--optimization.no-anneal-lr"], "optimization", "anneal_lr", False),
        (["--optimization.actor-lr", "1e-3"], "optimization", "actor_lr", 1e-3),
        (["--environment.options", "a", "1", "b", "x"], "environment", "options", {"a": 1, "b": "x"}),
    ],
)
def test_flags_reach_their_settings(flags: list[str], section: str, name: str, expected: object) -> None:
    config = parse(["--config", CONFIG, *flags]).config
    assert getattr(getattr(config, section), name) == expected


def test_last_of_a_flag_and_its_shortcut_wins() -> None:
    assert parse(["--seed", "3", "--training-core.seed", "4"]).config.training_core.seed == 4
    assert parse(["--training-core.seed", "4", "--seed", "3"]).config.training_core.seed == 3


def test_logging_settings_that_came_as_flags_are_known(yaml: Path) -> None:
    flags = ["--run-name", "x", "--logging.console=json", "--logging.no-backend-logs-visible"]
    assert {"run_name", "console", "backend_logs_visible"} <= parse(["--config", str(yaml), *flags]).logging_flags
    assert "tracking_uri" not in parse(["--config", str(yaml), *flags]).logging_flags


def test_help_shows_the_files_values(yaml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--config", str(yaml), "--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--training-core.gamma FLOAT Discount." in text
    assert "0.999. (default: 0.5)" in text
    assert "Short for --training-core.seed. (default: 7)" in text


def test_printed_configuration_is_the_resulting_one(
    yaml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--config", str(yaml), "--seed", "9", "--print-config"])
    assert caught.value.code == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    assert load(printed, PpoConfig) == parse(["--config", str(yaml), "--seed", "9"]).config


def test_version_is_the_distributions(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("ppo 0.")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--optimization.actor-lrr", "1"], "--optimization.actor-lr"),
        (["--training-core.gamma", "2"], "less than or equal to 1"),
        (["--training-core.horizon", "33", "--training-core.num-minibatches", "5"], "expected a divisor of the batch"),
        (["--device", "tpu"], "auto, cpu, cuda or cuda:N"),
        (["--config"], "--config"),
    ],
)
def test_wrong_flag_ends_with_a_message_and_code_2(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(flags)
    assert caught.value.code == 2
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


class WiderConfig(RunConfig):
    """Another algorithm's configuration: a section more, and no rule about minibatches."""

    search: PpoConfig = PpoConfig()


def never_built(*parts: object) -> NoReturn:
    raise AssertionError("parsing builds nothing")


OTHER = AlgorithmEntry("other", "Another Algorithm", WiderConfig, never_built)


def test_command_line_is_that_of_the_algorithms_own_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--search.training-core.gamma", "0.5", "--training-core.horizon", "5", "--seed", "3"]
    config = arguments_module.parse(flags, OTHER).config
    assert isinstance(config, WiderConfig)
    assert (config.search.training_core.gamma, config.training_core.seed) == (0.5, 3)
    with pytest.raises(SystemExit):
        arguments_module.parse(["--help"], OTHER)
    text = " ".join(capsys.readouterr().out.split())
    assert "Train Another Algorithm on an envpool task" in text
    assert "other --config configs/other.yaml" in text


# --- telemetry settings: flag > environment > YAML > default


def fields_of(argv: list[str], **environ: str) -> dict[str, object]:
    return telemetry_fields("ppo", parse(argv), environ)


def test_file_speaks_where_the_environment_is_silent(yaml: Path) -> None:
    fields = fields_of(["--config", str(yaml)])
    assert fields["run_name"] == "from-file"
    assert fields["tracking_uri"] == "http://file:1"
    assert fields["service_name"] == "ppo"
    assert "spool_dir" not in fields


def test_environment_wins_over_the_file(yaml: Path) -> None:
    fields = fields_of(
        ["--config", str(yaml)],
        MLFLOW_TRACKING_URI="http://env:1",
        MLFLOW_RUN_NAME="from-env",
        OTEL_SERVICE_NAME="mine",
        MLFLOW_EXPERIMENT_NAME="pendulum",
    )
    assert fields.keys().isdisjoint({"tracking_uri", "run_name", "service_name"})
    assert "experiment_id" not in fields, "an experiment is an experiment, by whichever name"


def test_empty_variable_counts_as_none(yaml: Path) -> None:
    assert fields_of(["--config", str(yaml)], MLFLOW_RUN_NAME="")["run_name"] == "from-file"


def test_flag_wins_over_the_environment(yaml: Path) -> None:
    flags = ["--config", str(yaml), "--run-name", "from-flag", "--logging.tracking-uri", "http://flag:1"]
    fields = fields_of(flags, MLFLOW_TRACKING_URI="http://env:1", MLFLOW_RUN_NAME="from-env")
    assert fields["run_name"] == "from-flag"
    assert fields["tracking_uri"] == "http://flag:1"


def test_flag_that_repeats_the_files_value_still_wins_over_the_environment(yaml: Path) -> None:
    fields = fields_of(["--config", str(yaml), "--run-name", "from-file"], MLFLOW_RUN_NAME="from-env")
    assert fields["run_name"] == "from-file"


def test_experiment_by_flag_makes_the_files_void(yaml: Path) -> None:
    fields = fields_of(["--config", str(yaml), "--logging.experiment-name", "mine"])
    assert fields["experiment_name"] == "mine"
    assert "experiment_id" not in fields


def test_directives_of_the_environment_win_over_the_files_level(yaml: Path) -> None:
    assert "log_filter" not in fields_of(["--config", str(yaml)], RUST_LOG="debug")


@pytest.mark.parametrize(
    ("flags", "level", "backend"),
    [
        (["--logging.log-level", "debug"], "debug", "error"),
        (["--logging.log-level", "critical"], "critical", "critical"),
        (["--logging.log-level", "info", "--logging.backend-logs-visible"], "info", "info"),
    ],
)
def test_level_by_flag_wins_over_directives_of_the_environment(flags: list[str], level: str, backend: str) -> None:
    directives = fields_of(flags, RUST_LOG="error")["log_filter"]
    chosen, problems = Filter.parse(str(directives))
    assert problems == []
    assert chosen.threshold("trainers.ppo") == Filter.parse(level)[0].default
    assert chosen.threshold("torch._inductor") == Filter.parse(backend)[0].default


def test_run_without_a_name_is_named_after_what_it_trains() -> None:
    assert fields_of(["--seed", "3"])["run_name"] == "ppo CartPole-v1 seed 3"


def test_offline_exports_nothing_and_quiet_shows_nothing() -> None:
    fields = fields_of(["--no-mlflow", "--quiet"])
    assert (fields["metrics"], fields["traces"], fields["console"]) == (False, False, "off")


def test_address_that_is_none_is_refused_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SettingsError, match="tracking_uri"):
        fields_of(["--logging.tracking-uri", "localhost:5000"])
    assert ppo(["--logging.tracking-uri", "localhost:5000"]) == 2
    assert capsys.readouterr().err.startswith("ppo: tracking_uri: ")


# --- where MLflow is


class OwnServer(NamedTuple):
    uri: str
    is_new: bool


class FakeServers:
    def __init__(self, found: str | None = None, own: OwnServer | Exception | None = None) -> None:
        self._found, self._own = found, own

    def find(self) -> str | None:
        return self._found

    def ensure(self, directory: Path, /) -> OwnServer:
        assert directory == Path.cwd()
        assert self._own is not None, "nothing had to be started"
        if isinstance(self._own, Exception):
            raise self._own
        return self._own


def chosen(servers: FakeServers, argv: list[str], **environ: str) -> tuple[object, list[str]]:
    lines: list[str] = []
    fields = fields_of(argv, **environ)
    return choose_server(fields, environ, lines.append, servers).get("tracking_uri"), lines


def test_server_that_is_given_is_not_looked_for() -> None:
    assert chosen(FakeServers("http://found:1"), ["--logging.tracking-uri", "http://given:1"]) == (
        None,
        ["MLflow: http://given:1"],
    )
    assert chosen(FakeServers("http://found:1"), [], MLFLOW_TRACKING_URI="http://given:1")[0] is None


def test_password_in_the_address_is_not_shown() -> None:
    _, lines = chosen(FakeServers(), [], MLFLOW_TRACKING_URI="http://me:secret@given:1")
    assert lines == ["MLflow: http://given:1"]


def test_server_that_answers_is_taken() -> None:
    assert chosen(FakeServers("http://localhost:5000"), []) == (
        "http://localhost:5000",
        ["MLflow: http://localhost:5000"],
    )


@pytest.mark.parametrize(
    ("is_new", "note"),
    [(True, "(starting; stop it with 'rltelemetry down')"), (False, "(stop it with 'rltelemetry down')")],
)
def test_else_one_of_our_own_is_used(is_new: bool, note: str) -> None:
    own = OwnServer("http://127.0.0.1:5001", is_new)
    assert chosen(FakeServers(own=own), []) == (own.uri, [f"MLflow: {own.uri} {note}"])


def test_only_a_server_that_is_starting_is_waited_for_when_training_is_done() -> None:
    servers = [FakeServers("http://a:1"), *(FakeServers(own=OwnServer("http://a:1", new)) for new in (False, True))]
    chosen = [choose_server({}, {}, lambda _line: None, server) for server in servers]
    assert [fields.get("startup_s", 0) > 0 for fields in chosen] == [False, False, True]


def test_server_that_cannot_be_started_is_said_and_costs_nothing() -> None:
    uri, lines = chosen(FakeServers(own=OSError("no free port")), [])
    assert uri is None
    assert lines == [
        "MLflow: none is running, and none could be started: no free port",
        "MLflow: metrics wait on disk for http://localhost:5000",
    ]


def test_offline_looks_for_no_server() -> None:
    assert chosen(FakeServers("http://found:1"), ["--no-mlflow"]) == (None, ["MLflow: off"])


# --- exit codes


def test_file_that_cannot_be_used_is_code_2_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("optimization:\n  actor_lrr: 3e-4\n")
    assert ppo(["--config", str(file)]) == 2
    expected = f"ppo: {file}, line 2: optimization.actor_lrr: is no setting. Did you mean 'actor_lr'?\n"
    assert capsys.readouterr().err == expected


def test_task_without_a_simulator_is_code_2_with_the_reason_and_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert spo(["--no-mlflow", "--environment.task", "LunarLander-v3"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(
        "spo: environment.task: got 'LunarLander-v3'; expected a task with a simulator: no exact model"
    )
    assert "Acrobot-v1, " in said


def test_missing_extra_is_code_3_with_the_pip_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "trainers.cli.arguments", None)
    monkeypatch.setattr(commands, "EXTRA", frozenset({"trainers"}))
    assert ppo([]) == 3
    assert "is not installed. Install it: pip install 'rltelemetry[trainers]'" in capsys.readouterr().err


def test_other_missing_module_is_a_defect_and_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trainers.cli.arguments", None)
    with pytest.raises(ModuleNotFoundError):
        ppo([])


def test_divergence_is_code_1_in_one_line(
    telemetry: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def diverge(*parts: object) -> None:
        raise DivergenceError("update 3: got nan")

    monkeypatch.setattr(training, "train", diverge)
    with capture_logs():
        assert ppo(["--no-mlflow", *SHORT]) == 1
    assert capsys.readouterr().err.endswith("ppo: update 3: got nan\n")


# --- a whole run


SHORT = [
    *("--device", "cpu", "--training-core.total-timesteps", "64", "--training-core.horizon", "16"),
    *("--environment.num-envs", "4", "--evaluation.num-eval-episodes", "1", "--checkpointing.no-save"),
]


def test_run_ends_with_code_0_and_a_final_evaluation(telemetry: Any) -> None:
    with capture_logs() as events:
        assert ppo(["--no-mlflow", *SHORT]) == 0
    names = [event["event"] for event in events]
    assert names == ["training starts", "train", "rollout", "evaluation", "throughput", "training done"]
    assert events[-1]["mean_return"] == events[-3]["mean_return"]
    assert telemetry.ended_by == [None]


def test_last_word_of_a_run_is_its_page(telemetry: Any) -> None:
    telemetry.run_url = "http://mlflow.example/#/experiments/0/runs/run-1"
    with capture_logs() as events:
        assert ppo(["--no-mlflow", *SHORT]) == 0
    assert events[-1]["event"] == f"the run's page: {telemetry.run_url}"


def test_artifacts_are_logged_where_they_are_wanted(telemetry: Any, tmp_path: Path) -> None:
    saving = ["--checkpointing.save", "--checkpointing.directory", str(tmp_path / "saved")]
    assert ppo(["--no-mlflow", *SHORT, *saving]) == 0
    assert telemetry.artifacts == []
    saving[-1] = str(tmp_path / "uploaded")
    assert ppo(["--no-mlflow", *SHORT, *saving, "--logging.artifacts"]) == 0
    checkpoint = ["checkpoints/update-00000001.pt", "checkpoints/update-00000001.sha256"]
    assert telemetry.artifacts == ["config.yaml", *checkpoint, "returns.svg", "returns.svg"]
    assert telemetry.note.startswith("**PPO** on **CartPole-v1**")


def test_run_knows_its_parameters_and_tags_but_not_where_its_telemetry_goes(telemetry: Any) -> None:
    with capture_logs():
        ppo(["--logging.tracking-uri", "http://me:secret@given:1", "--seed", "5", *SHORT])
    assert telemetry.params["training_core"]["seed"] == 5
    assert telemetry.tags == {"algorithm": "ppo", "task": "CartPole-v1", "device": "cpu"}
    assert "logging" not in telemetry.params
    assert "secret" not in repr((telemetry.params, telemetry.tags))
    assert telemetry.fields["tracking_uri"] == "http://me:secret@given:1"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signal_ends_the_run_with_its_code_through_the_telemetry(
    number: signal.Signals, code: int, telemetry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*parts: Any) -> None:
        signal.raise_signal(number)
        raise SystemExit(parts[-1].stop.exit_code)

    monkeypatch.setattr(training, "train", interrupted)
    with capture_logs(), pytest.raises(SystemExit) as caught:
        ppo(["--no-mlflow", *SHORT])
    assert caught.value.code == code
    assert telemetry.ended_by == [code]


def test_unknown_task_is_code_2_and_leaves_no_run_behind(telemetry: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert ppo(["--no-mlflow", "--environment.task", "CartPole-v2"]) == 2
    assert "Did you mean CartPole-v1" in capsys.readouterr().err
    assert telemetry.fields == {}


def test_absent_gpu_is_code_3(
    telemetry: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert ppo(["--no-mlflow", "--device", "cuda"]) == 3
    assert "ppo: hardware.device: got 'cuda'; expected a GPU" in capsys.readouterr().err
    assert telemetry.fields == {}


def test_unexpected_error_keeps_its_traceback_and_fails_the_run(
    telemetry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    defect = RuntimeError("defect")

    def fail(*parts: object) -> None:
        raise defect

    monkeypatch.setattr(training, "train", fail)
    with capture_logs(), pytest.raises(RuntimeError):
        ppo(["--no-mlflow", *SHORT])
    assert telemetry.ended_by == [defect]


ENDS = [None, RuntimeError("defect"), DivergenceError("got nan"), SystemExit(143)]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: type(end).__name__)
def test_environments_are_closed_however_a_run_ends(
    end: BaseException | None, telemetry: Any, open_envs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    done, num_open = training.train, []

    def train(*parts: Any) -> Any:
        num_open.append(len(open_envs))
        outcome = done(*parts)
        if end is not None:
            raise end
        return outcome

    monkeypatch.setattr(training, "train", train)
    with capture_logs(), suppress(RuntimeError, SystemExit):
        ppo(["--no-mlflow", *SHORT])
    assert (num_open, open_envs) == ([2], []), "those of the training and those of the evaluation"


def test_environments_of_a_run_that_cannot_start_are_closed(
    telemetry: Any, open_envs: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ppo(["--no-mlflow", *SHORT, "--load-model", str(tmp_path)]) == 2
    assert "there is no checkpoint" in capsys.readouterr().err
    assert open_envs == []


def test_closed_terminal_does_not_stop_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull) as closed:  # noqa: PTH123 - read-only: writing to it fails
        monkeypatch.setattr(sys, "stderr", closed)
        assert spo(["--config", "/nowhere.yaml"]) == 2
    monkeypatch.setattr(sys, "stderr", None)
    assert spo(["--config", "/nowhere.yaml"]) == 2


# --- processes


@pytest.mark.parametrize("argv", [[], ["a2c"]])
def test_module_needs_a_command(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main_module.main(argv) == 2
    assert "expected one of ppo, spo" in capsys.readouterr().err


def test_module_passes_the_arguments_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert main_module.main(["ppo", "--config", "/nowhere.yaml"]) == 2
    assert "ppo: /nowhere.yaml: cannot be read" in capsys.readouterr().err


def run(*argv: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *argv], capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environ}
    )


def test_help_loads_neither_torch_nor_envpool() -> None:
    code = (
        "import sys\nfrom trainers.cli import ppo\n"
        f"try:\n    ppo(['--config', {CONFIG!r}, '--help'])\n"
        "except SystemExit as error:\n    assert error.code == 0\n"
        "print(sorted({'torch', 'envpool', 'gymnasium', 'mlflow'} & sys.modules.keys()), file=sys.stderr)"
    )
    result = run("-c", code)
    assert result.stderr == "[]\n"
    assert "Train PPO on an envpool task" in result.stdout


def test_process_ends_with_the_commands_code() -> None:
    result = run("-m", "trainers", "spo", "--config", "/nowhere.yaml")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1


def test_sigterm_ends_a_real_run_with_143_after_the_telemetry_is_closed(tmp_path: Path) -> None:
    environ = {
        "OMP_NUM_THREADS": "1",
        "XDG_STATE_HOME": str(tmp_path),
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",  # discard: nothing listens
        "RLTELEMETRY_EXIT_TIMEOUT_S": "0.5",
    }
    argv = [sys.executable, "-m", "trainers", "ppo", "--training-core.total-timesteps", "1000000000"]
    argv += ["--hardware.compile", "none"]  # auto compiles so long a run
    with subprocess.Popen(
        argv, stderr=subprocess.PIPE, text=True, env={**os.environ, **environ}, cwd=tmp_path
    ) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert next(lines) == "MLflow: http://127.0.0.1:9\n"
        assert any('"event": "throughput"' in line for line in lines)
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
    assert process.returncode == 143
    assert "telemetry closed" in rest
    assert "Traceback" not in rest
