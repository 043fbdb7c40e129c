import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from trainers.config import EvaluationConfig, PpoConfig, TrainingCoreConfig, dump, load
from trainers.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "run.yaml"


def loaded(file: Path, text: str | bytes) -> PpoConfig:
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(file, PpoConfig)


def refusal(file: Path, text: str | bytes) -> str:
    """What is said about the file, without its path."""
    with pytest.raises(ConfigError) as caught:
        loaded(file, text)
    assert caught.value.exit_code == 2
    message = str(caught.value)
    assert message.startswith(str(file))
    assert message.isprintable(), "one line, without control characters"
    return message.removeprefix(str(file)).lstrip(",: ")


def sections() -> list[type[BaseModel]]:
    return [type(getattr(PpoConfig(), name)) for name in PpoConfig.model_fields]


def test_shipped_file_says_the_defaults() -> None:
    assert load(CONFIGS / "ppo.yaml", PpoConfig) == PpoConfig()


def test_every_setting_has_a_description() -> None:
    for section in sections():
        assert section.__doc__
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name}"


def test_sections_are_immutable_and_closed() -> None:
    for section in sections():
        assert section.model_config["frozen"]
        assert section.model_config["extra"] == "forbid"


def test_values_reach_their_settings(file: Path) -> None:
    config = loaded(
        file,
        "environment:\n  task: Acrobot-v1\n  options: {frame_skip: 2, name: x}\n"
        "optimization:\n  actor_lr: 3e-4\n"
        "architecture:\n  hidden_sizes: [32, 16]\n",
    )
    assert config.environment.task == "Acrobot-v1"
    assert config.environment.options == {"frame_skip": 2, "name": "x"}
    assert config.optimization.actor_lr == 3e-4
    assert config.architecture.hidden_sizes == (32, 16)
    assert config.training_core == TrainingCoreConfig()


@pytest.mark.parametrize("word", ["on", "no", "off", "yes", "2001-01-01", "1:30"])
def test_words_of_old_yaml_are_texts(file: Path, word: str) -> None:
    assert loaded(file, f"environment:\n  task: {word}\n").environment.task == word


def test_ppo_core_is_another_name_of_training_core(file: Path) -> None:
    assert loaded(file, "ppo_core:\n  gamma: 0.5\n").training_core.gamma == 0.5


def test_spo_section_is_ignored(file: Path) -> None:
    assert loaded(file, "spo:\n  num_particles: 4\nenvironment:\n  num_envs: 32\n").environment.num_envs == 32


def test_section_whose_settings_are_all_commented_out_is_empty(file: Path) -> None:
    assert loaded(file, "environment:\n  # task: Pong-v5\n") == PpoConfig()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "optimization:\n  lr: 3e-4\n",
            "line 2: optimization.lr: is no setting. "
            "Expected one of actor_lr, critic_lr, anneal_lr, max_grad_norm, adam_eps.",
        ),
        ("optimization:\n  actor-lr: 3e-4\n", "line 2: optimization.actor-lr: is no setting. Did you mean 'actor_lr'?"),
        ("enviroment:\n  x: 1\n", "line 1: enviroment: is no setting. Did you mean 'environment'?"),
        ("ppo-core: {}\n", "line 1: ppo-core: is no setting. Did you mean 'ppo_core'?"),
        (
            "optimization:\n\n  gamma: 0.9\n",
            "line 3: optimization.gamma: is no setting. It belongs to section 'training_core'.",
        ),
    ],
)
def test_unknown_key_is_named_with_the_nearest_one(file: Path, text: str, expected: str) -> None:
    assert refusal(file, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("training_core:\n  gamma: '0.9'\n", "line 2: training_core.gamma: got '0.9'; expected a number."),
        ("training_core:\n  gamma: on\n", "line 2: training_core.gamma: got 'on'; expected a number."),
        ("training_core:\n  gamma: .nan\n", "line 2: training_core.gamma: got nan; expected a finite number."),
        ("ppo_core:\n  gamma: 2\n", "line 2: training_core.gamma: got 2; expected less than or equal to 1."),
        (
            "training_core:\n  total_timesteps: 1e6\n",
            "line 2: training_core.total_timesteps: got 1000000.0; expected a whole number without point or exponent.",
        ),
        ("training_core:\n  seed: true\n", "line 2: training_core.seed: got True; expected a whole number without "),
        ("architecture:\n  shared: 1\n", "line 2: architecture.shared: got 1; expected true or false."),
        ("environment:\n  task: 7\n", "line 2: environment.task: got 7; expected a text."),
        ("environment: 7\n", "line 1: environment: got 7; expected settings."),
        ("hardware:\n  device: gpu\n", "line 2: hardware.device: got 'gpu'; expected auto, cpu, cuda or cuda:N."),
        (
            "architecture:\n  hidden_sizes: [64, wide]\n",
            "line 2: architecture.hidden_sizes: got 'wide'; expected a whole number without point or exponent.",
        ),
        (
            "environment:\n  options:\n    a: [1]\n",
            "line 3: environment.options.a: got [1]; expected true or false or ",
        ),
    ],
)
def test_wrong_value_is_named_with_what_is_expected(file: Path, text: str, expected: str) -> None:
    assert refusal(file, text).startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "environment:\n  num_envs: 3\ntraining_core:\n  horizon: 5\n  num_minibatches: 4\n",
            "line 5: training_core.num_minibatches: got 4; expected a divisor of the batch, 15 (horizon 5 x ",
        ),
        (
            "training_core:\n  num_minibatches: 4096\n",
            "line 2: training_core.num_minibatches: got 4096; expected a divisor of the batch, 1024 (horizon 32 x ",
        ),
        (
            "training_core:\n  total_timesteps: 1023\n",
            "line 2: training_core.total_timesteps: got 1023; expected at least one batch, 1024 (horizon 32 x ",
        ),
        (
            "evaluation:\n  num_eval_episodes: 0\n",
            "line 2: evaluation.num_eval_episodes: got 0; expected at least 1 while eval_interval > 0; ",
        ),
        ("environment:\n  num_envs: 1000000\n", "line 2: environment.num_envs: got 1000000; expected less than or "),
    ],
)
def test_impossible_combination_names_the_key_to_change(file: Path, text: str, expected: str) -> None:
    assert refusal(file, text).startswith(expected)


def test_combination_with_a_default_points_to_the_section_if_there_is_one(file: Path) -> None:
    with_section = refusal(file, "environment:\n  num_envs: 1\ntraining_core:\n  horizon: 3\n")
    assert with_section.startswith("line 3: training_core.num_minibatches: got 4; expected a divisor of the batch, 3 ")
    without = refusal(file, "environment:\n  num_envs: 65536\n")
    assert without.startswith("training_core.total_timesteps: got 98304; expected at least one batch, 2097152 ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("environment:\n  task: a\n  task: b\n", "line 3: environment.task: is given twice, first in line 2."),
        ("a: {}\nb: {}\na: {}\n", "line 3: a: is given twice, first in line 1."),
        (
            "ppo_core:\n  gamma: 1\ntraining_core:\n  gamma: 0\n",
            "line 3: training_core: is given twice, under two names. Keep one of them.",
        ),
    ],
)
def test_key_that_is_given_twice_is_refused(file: Path, text: str, expected: str) -> None:
    assert refusal(file, text) == expected


def test_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="cannot be read: it is no file"):
        load(tmp_path / "pipe", PpoConfig)


def alias_bomb() -> str:
    levels = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    levels += [
        f"{this}: &{this} [{', '.join([f'*{last}'] * 10)}]" for last, this in zip("abcdefg", "bcdefgh", strict=True)
    ]
    return "\n".join(levels)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "got an empty file; expected sections such as 'environment:'."),
        ("# nothing\n", "got an empty file; expected sections such as 'environment:'."),
        ("- a\n", "got no mapping at the top; expected sections such as 'environment:'."),
        ("environment: [1\n", "line 2: is no valid YAML: while parsing a flow sequence, expected "),
        ("environment:\n\ttask: a\n", "line 2: is no valid YAML: while scanning for the next token, found character "),
        ("environment: *nowhere\n", "line 1: is no valid YAML: found undefined alias 'nowhere'."),
        ("a: {}\n---\nb: {}\n", "line 2: is no valid YAML: expected a single document in the stream, "),
        ("a: \x00\n", "is no valid YAML: unacceptable character #x0000"),
        (b"environment:\n  task: caf\xe9\n", "line 2: got bytes that are no UTF-8; expected a text file in UTF-8."),
        (b"#" * 1_000_001, "got more than 1000000 bytes; expected a small YAML file."),
        ("a: " + "[" * 3000, "is nested too deeply; expected at most 32 levels."),
        ("a: " + "[" * 40 + "]" * 40, "line 1: is nested too deeply; expected at most 32 levels."),
        ("a: &a [*a]\n", "line 1: is nested too deeply; expected at most 32 levels."),
        (alias_bomb(), "line 1: "),
        (
            "a: !!python/object/apply:os.system ['true']\n",
            "line 1: a: got the tag 'tag:yaml.org,2002:python/object/apply:os.system'; expected a plain value, no tag.",
        ),
        ("environment: !mine {task: a}\n", "line 1: environment: got the tag '!mine'; expected a plain value, no tag."),
        ("environment: {num_envs: !!int many}\n", "line 1: environment.num_envs: got 'many', which is no int."),
        ("? [a]\n: 1\n", "line 1: got a key that is no word; expected a setting's name."),
        ('"a\\nb\\u001b[31m": 1\n', "line 1: a b [31m: is no setting."),
        (
            f"training_core: {{total_timesteps: 0x{'f' * 5000}}}\n",
            "line 1: training_core.total_timesteps: got 5002 characters; expected a number.",
        ),
        ('environment: {task: "\\ud800"}\n', "line 1: environment.task: got half of a character; expected a text."),
    ],
    ids=range(21),
)
def test_file_that_is_no_configuration_is_refused_in_one_line(file: Path, text: str | bytes, expected: str) -> None:
    assert refusal(file, text).startswith(expected)


def test_alias_bomb_is_stopped_by_the_number_of_values(file: Path) -> None:
    assert refusal(file, alias_bomb()).endswith("got more than 10000 values; expected a small file.")


def test_an_honest_alias_is_followed(file: Path) -> None:
    config = loaded(file, "environment:\n  num_envs: &n 32\nevaluation:\n  num_envs: *n\n")
    assert config.evaluation.num_envs == 32


@pytest.mark.parametrize("name", ["missing.yaml", ".", "nul\0l"])
def test_path_that_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read: .+ Give the path of a YAML file with --config\."):
        load(tmp_path / name, PpoConfig)


def test_first_problem_in_the_file_is_the_one_reported(file: Path) -> None:
    message = refusal(file, "training_core:\n  gamma: 3\nenvironment:\n  num_envs: 0\n")
    assert message.startswith("line 2: training_core.gamma")


def test_combination_is_refused_in_code_too() -> None:
    with pytest.raises(ValidationError, match="expected at least one batch"):
        PpoConfig(training_core=TrainingCoreConfig(total_timesteps=1))


def test_evaluation_can_be_switched_off() -> None:
    config = PpoConfig(evaluation=EvaluationConfig(eval_interval=0, num_eval_episodes=0))
    assert config.evaluation.eval_interval == 0


def test_updates_are_the_whole_batches_within_total_timesteps() -> None:
    config = PpoConfig(training_core=TrainingCoreConfig(total_timesteps=3 * 1024 + 1023))
    assert config.batch_size == 1024
    assert config.num_updates == 3


@given(
    adam_eps=st.floats(1e-30, 1, exclude_min=True),
    sizes=st.lists(st.integers(1, 65_536), max_size=16),
    name=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])),
    options=st.dictionaries(
        st.text("abc", min_size=1), st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text("1eno")
    ),
)
def test_dumped_configuration_loads_to_the_same_values(
    tmp_path_factory: pytest.TempPathFactory, adam_eps: float, sizes: list[int], name: str, options: dict[str, Any]
) -> None:
    fields: dict[str, Any] = PpoConfig().model_dump()
    fields["optimization"]["adam_eps"] = adam_eps
    fields["architecture"]["hidden_sizes"] = tuple(sizes)
    fields["logging"]["run_name"] = name
    fields["environment"]["options"] = options
    config = PpoConfig(**fields)
    file = tmp_path_factory.mktemp("dump") / "run.yaml"
    file.write_text(dump(config), encoding="utf-8")
    assert load(file, PpoConfig) == config
