"""Where a setting comes from, which source wins, and what becomes of one that cannot be used."""

import pytest
from pydantic import SecretStr

from rltelemetry import Settings, SettingsError
from rltelemetry.settings import ENVIRONMENT, Variable, resolve

SECRET = "s3cr3t-planted"

EXAMPLES: dict[str, tuple[str, object]] = {
    "service_name": ("svc", "svc"),
    "console": ("json", "json"),
    "log_filter": ("info,httpx=warning", "info,httpx=warning"),
    "metric_labels": ("a=A", "a=A"),
    "tracking_uri": ("https://host:8443/prefix/", "https://host:8443/prefix"),
    "username": ("ann", "ann"),
    "password": (SECRET, SecretStr(SECRET)),
    "token": (SECRET, SecretStr(SECRET)),
    "workspace": ("lab", "lab"),
    "ca_file": ("/ca.pem", "/ca.pem"),
    "client_cert_file": ("/client.pem", "/client.pem"),
    "insecure_tls": ("true", True),
    "traces": ("true", False),
    "experiment_id": ("7", "7"),
    "experiment_name": ("papers", "papers"),
    "run_id": ("abc", "abc"),
    "run_name": ("first", "first"),
    "system_metrics": ("false", False),
    "system_metrics_interval_s": ("2.5", 2.5),
    "spool_dir": ("/spool", "/spool"),
    "exit_timeout_s": ("7", 7.0),
}
"""What each variable may hold, and the setting that it gives."""


def test_every_variable_has_an_example_here() -> None:
    assert EXAMPLES.keys() == {variable.field for variable in ENVIRONMENT}


@pytest.mark.parametrize(
    ("variable", "name"),
    [(variable, name) for variable in ENVIRONMENT for name in variable.names],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_variable_sets_its_setting_and_is_named_as_its_source(variable: Variable, name: str) -> None:
    text, expected = EXAMPLES[variable.field]
    resolved = resolve({}, {name: text})
    value = getattr(resolved.settings, variable.field)
    assert value == expected or str(value) == expected
    assert resolved.sources == {variable.field: name}


def test_argument_wins_over_environment_and_that_over_default() -> None:
    environ = {"MLFLOW_RUN_NAME": "environment", "MLFLOW_WORKSPACE": "lab"}
    settings = resolve({"run_name": "argument"}, environ).settings
    assert (settings.run_name, settings.workspace, settings.experiment_id) == ("argument", "lab", None)


def test_own_name_of_a_variable_wins_over_its_alias() -> None:
    environ = {"RUST_LOG": "debug", "RLTELEMETRY_LOG": "warning"}
    assert resolve({}, environ).settings.log_filter == "warning"


def test_none_and_an_empty_variable_mean_not_given() -> None:
    resolved = resolve({"run_name": None}, {"MLFLOW_RUN_NAME": "", "MLFLOW_TRACKING_URI": ""})
    assert resolved.settings == Settings()
    assert resolved.sources == {}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("MLFLOW_TRACKING_URI", "ftp://host"),
        ("MLFLOW_TRACKING_URI", "localhost:5000"),
        ("RLTELEMETRY_EXIT_TIMEOUT_S", "soon"),
        ("RLTELEMETRY_EXIT_TIMEOUT_S", "-1"),
        ("RLTELEMETRY_CONSOLE", "loud"),
        ("MLFLOW_TRACKING_INSECURE_TLS", "perhaps"),
    ],
)
def test_variable_that_cannot_be_used_is_named_and_ignored(name: str, text: str) -> None:
    resolved = resolve({}, {name: text})
    assert resolved.settings == Settings()
    [warning] = resolved.ignored
    assert name in warning


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"runid": "x"}, "runid"),
        ({"exit_timeout_s": -1}, "exit_timeout_s"),
        ({"tracking_uri": "ftp://host"}, "tracking_uri"),
        ({"console": "loud"}, "console"),
    ],
)
def test_argument_that_cannot_be_used_raises_one_line_that_names_it(fields: dict[str, object], named: str) -> None:
    with pytest.raises(SettingsError, match=named) as caught:
        resolve(fields, {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fields", [{"password": SECRET, "exit_timeout_s": -1}, {"token": SECRET, "runid": SECRET}])
def test_no_error_shows_a_secret(fields: dict[str, object]) -> None:
    with pytest.raises(SettingsError) as caught:
        resolve(fields, {})
    assert SECRET not in str(caught.value)


def test_userinfo_of_the_address_becomes_credentials() -> None:
    settings = Settings(tracking_uri=f"https://ann:{SECRET}%21@host:8443/mlflow")
    assert settings.tracking_uri == "https://host:8443/mlflow"
    assert settings.username == "ann"
    assert settings.password is not None
    assert settings.password.get_secret_value() == f"{SECRET}!"
    assert SECRET not in repr(settings)


def test_userinfo_gives_way_to_credentials_of_their_own() -> None:
    environ = {"MLFLOW_TRACKING_URI": "https://ann:old@host", "MLFLOW_TRACKING_USERNAME": "ben"}
    settings = resolve({}, environ).settings
    assert (settings.username, settings.password, settings.tracking_uri) == ("ben", None, "https://host")


def test_userinfo_of_an_argument_wins_over_the_environment() -> None:
    environ = {"MLFLOW_TRACKING_USERNAME": "ben", "MLFLOW_TRACKING_PASSWORD": "new", "MLFLOW_RUN_NAME": "x"}
    settings = resolve({"tracking_uri": "https://ann:old@host"}, environ).settings
    assert (settings.username, settings.password) == ("ann", SecretStr("old"))


def test_bad_address_with_a_secret_does_not_show_it() -> None:
    [warning] = resolve({}, {"MLFLOW_TRACKING_URI": f"ftp://ann:{SECRET}@host"}).ignored
    assert SECRET not in warning


def test_unchecked_certificate_is_said_loudly() -> None:
    [warning] = resolve({}, {"MLFLOW_TRACKING_INSECURE_TLS": "true"}).risks
    assert "MLFLOW_TRACKING_INSECURE_TLS" in warning
    assert resolve({}, {"MLFLOW_TRACKING_INSECURE_TLS": "false"}).risks == []


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().run_name = "later"  # type: ignore[misc]
