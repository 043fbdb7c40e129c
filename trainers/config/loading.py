"""A YAML file -> a configuration, and back. Whatever is wrong with the file is said in one line.

The line names file, line and key, and, for a key that does not exist, the nearest one that does.
"""

import difflib
import json
import reprlib
from io import StringIO
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML

from trainers.config.document import Document, Key, read_document
from trainers.errors import ConfigError

__all__ = ["dump", "load"]

NEAR: Final = 0.6
"""difflib's likeness from which a name is worth proposing."""

RULES: Final = {
    "bool_type": "true or false",
    "float_type": "a number",
    "int_type": "a whole number without point or exponent",
    "int_from_float": "a whole number without point or exponent",
    "model_type": "settings",
    "string_type": "a text",
}
"""Our words for pydantic's kinds of error; for the others its own do."""

ConfigT = TypeVar("ConfigT", bound=BaseModel)


def load(path: Path, model: type[ConfigT]) -> ConfigT:
    """Read and check a configuration file.

    Args:
        path: the file.
        model: what to make of it; may name `section_aliases` and `ignored_sections`.

    Raises:
        ConfigError: the file cannot be read, is no plain YAML, or does not describe a valid configuration.
    """
    document = _without_aliases(read_document(path), getattr(model, "section_aliases", {}))
    ignored: frozenset[str] = getattr(model, "ignored_sections", frozenset())
    # A section whose settings are all commented out is an empty one.
    values = {name: {} if value is None else value for name, value in document.values.items() if name not in ignored}
    try:
        # Strict, so that "64" is no number; as JSON, where a list may still become a tuple.
        return model.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise _explain(error, document, model) from None


def dump(config: BaseModel) -> str:
    """Return the configuration as YAML that `load` reads back to the same values."""
    text = StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]  # declared as None, meant as a switch
    yaml.dump(config.model_dump(mode="json"), text)
    return text.getvalue()


def _without_aliases(document: Document, aliases: dict[str, str]) -> Document:
    """Call each section by its own name."""
    values: dict[str, Any] = {}
    for name, value in document.values.items():
        section = aliases.get(name, name)
        if section in values:
            line = document.lines[name,]
            raise document.error(f"{section}: is given twice, under two names. Keep one of them.", line)
        values[section] = value
    lines = {(aliases.get(str(key[0]), key[0]), *key[1:]): line for key, line in document.lines.items()}
    return Document(document.path, values, lines)


def _explain(error: ValidationError, document: Document, model: type[BaseModel]) -> ConfigError:
    """Say what is wrong with the first line that something is wrong with."""
    problems = [(_known_key(_key_of(problem), document), problem) for problem in error.errors(include_url=False)]
    key, problem = min(problems, key=lambda found: document.lines.get(found[0], 0))
    same = [other for at, other in problems if at == key]  # one for each kind of value that would have done
    return document.error(_sentence(key, problem, same, model), document.lines.get(key))


def _key_of(problem: ErrorDetails) -> Key:
    """A combination is a problem of the whole file, but names the key to change."""
    return tuple(problem["ctx"]["key"].split(".")) if problem["type"] == "impossible" else problem["loc"]


def _known_key(key: Key, document: Document) -> Key:
    """The part of `key` that stands in the file; pydantic adds the kinds of value that it tried."""
    while key and key not in document.lines and key[:-1] in document.lines:
        key = key[:-1]
    return key


def _sentence(key: Key, problem: ErrorDetails, same: list[ErrorDetails], model: type[BaseModel]) -> str:
    if problem["type"] == "impossible":
        return problem["msg"]
    dotted = ".".join(map(str, key))
    if problem["type"] == "extra_forbidden":
        return f"{dotted}: is no setting. {_suggest(key, model)}"
    rules = dict.fromkeys(RULES.get(other["type"], other["msg"].removeprefix("Input should be ")) for other in same)
    return f"{dotted}: got {reprlib.repr(problem['input'])}; expected {' or '.join(rules)}."


def _suggest(key: Key, model: type[BaseModel]) -> str:
    """Point to the name that was meant: here, or in another section."""
    *section, name = map(str, key)
    here = _names(_model_at(model, section))
    if near := difflib.get_close_matches(name, here, n=1, cutoff=NEAR):
        return f"Did you mean {near[0]!r}?"
    for other in model.model_fields:
        if name in _names(_model_at(model, [other])):
            return f"It belongs to section {other!r}."
    return f"Expected one of {', '.join(here)}."


def _model_at(model: type[BaseModel], section: list[str]) -> type[BaseModel]:
    for name in section:
        annotation = model.model_fields[name].annotation
        assert isinstance(annotation, type)
        model = annotation
    return model


def _names(model: type[BaseModel]) -> list[str]:
    return [*model.model_fields, *getattr(model, "section_aliases", {})]
