"""A YAML file -> plain values that remember their lines.

The text is composed into YAML nodes (which know their lines) and turned into values here, so that duplicate keys,
foreign tags, bombs of aliases and endless nesting are refused before anything is built from them. YAML 1.2: `3e-4`
is a number, `on` and `no` are words.
"""

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from trainers.errors import ConfigError

__all__ = ["Document", "Key", "read_document"]

MAX_BYTES: Final = 1_000_000
MAX_NODES: Final = 10_000
"""Counted after aliases are followed; a configuration has about a hundred."""
MAX_DEPTH: Final = 32
MAX_NUMBER: Final = 40
"""Characters of a number, a truth value or a null; Python refuses to read the longest."""

YAML_TAG: Final = "tag:yaml.org,2002:"
NUMBERS_AND_SUCH: Final = frozenset(YAML_TAG + name for name in ("null", "bool", "int", "float"))
TEXTS: Final = frozenset(YAML_TAG + name for name in ("str", "timestamp", "merge", "value"))
"""Words in which YAML may see more than a text; a setting has no use for dates."""

Key = tuple[str | int, ...]
"""Where a value stands: the names on the way to it."""


@dataclass(frozen=True)
class Document:
    """What a file says.

    Attributes:
        path: the file.
        values: its mapping, of plain values.
        lines: the line of each key, counted from 1.
    """

    path: Path
    values: dict[str, Any]
    lines: dict[Key, int]

    def error(self, text: str, line: int | None = None) -> ConfigError:
        """Return the error for a line of this file."""
        return _error(self.path, text, line)


def read_document(path: Path) -> Document:
    """Read a YAML file that holds one mapping.

    Raises:
        ConfigError: it cannot be read, or is not what a configuration file may be.
    """
    root = _compose(path, _read_text(path))
    if not isinstance(root, MappingNode):
        what = "an empty file" if root is None else "no mapping at the top"
        raise _error(path, f"got {what}; expected sections such as 'environment:'.")
    builder = _Builder(path)
    return Document(path, builder.mapping(root, ()), builder.lines)


def _read_text(path: Path) -> str:
    try:
        if not path.is_file() and path.exists():
            raise OSError(errno.EINVAL, "it is no file")  # a directory; a pipe, which might never end
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = getattr(error, "strerror", None) or error
        raise _error(path, f"cannot be read: {reason}. Give the path of a YAML file with --config.") from None
    if len(content) > MAX_BYTES:
        raise _error(path, f"got more than {MAX_BYTES} bytes; expected a small YAML file.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _error(path, "got bytes that are no UTF-8; expected a text file in UTF-8.", line) from None


def _compose(path: Path, text: str) -> Node | None:
    try:
        return cast("Node | None", YAML(typ="safe", pure=True).compose(text))
    except RecursionError:
        raise _too_deep(path, None) from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        problem = ", ".join(filter(None, (error.context, error.problem)))
        raise _error(path, f"is no valid YAML: {problem}.", line) from None
    except (YAMLError, ValueError) as error:
        raise _error(path, f"is no valid YAML: {error}.") from None


class _Builder:
    """Turns nodes into values, and notes the lines."""

    def __init__(self, path: Path) -> None:
        self.lines: dict[Key, int] = {}
        self._path = path
        self._constructor = YAML(typ="safe", pure=True).constructor
        self._num_nodes = 0

    def mapping(self, node: MappingNode, key: Key) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name_node, value_node in node.value:
            name = self._name(name_node)
            if name in values:
                first = self.lines[*key, name]
                raise self._error(name_node, f"{_dotted((*key, name))}: is given twice, first in line {first}.")
            self.lines[*key, name] = name_node.start_mark.line + 1
            values[name] = self._value(value_node, (*key, name))
        return values

    def _value(self, node: Node, key: Key) -> Any:
        self._num_nodes += 1
        if self._num_nodes > MAX_NODES:
            raise self._error(node, f"{_dotted(key)}: got more than {MAX_NODES} values; expected a small file.")
        if len(key) > MAX_DEPTH:
            raise _too_deep(self._path, node.start_mark.line + 1)
        if isinstance(node, ScalarNode):
            return self._scalar(node, key)
        if str(node.tag) not in (f"{YAML_TAG}map", f"{YAML_TAG}seq"):
            raise self._foreign_tag(node, key)
        if isinstance(node, MappingNode):
            return self.mapping(node, key)
        return [self._value(item, (*key, position)) for position, item in enumerate(node.value)]

    def _scalar(self, node: ScalarNode, key: Key) -> Any:
        tag = str(node.tag)
        if tag in TEXTS:
            if any("\ud800" <= char <= "\udfff" for char in node.value):
                raise self._error(node, f"{_dotted(key)}: got half of a character; expected a text.")
            return node.value
        if tag not in NUMBERS_AND_SUCH:
            raise self._foreign_tag(node, key)
        if len(node.value) > MAX_NUMBER:
            raise self._error(node, f"{_dotted(key)}: got {len(node.value)} characters; expected a number.")
        try:
            return self._constructor.construct_object(node)
        except (YAMLError, ValueError, LookupError):  # such as `!!int word`
            raise self._error(
                node, f"{_dotted(key)}: got {node.value!r}, which is no {tag[len(YAML_TAG) :]}."
            ) from None

    def _name(self, node: Node) -> str:
        if not isinstance(node, ScalarNode) or str(node.tag) not in NUMBERS_AND_SUCH | TEXTS:
            raise self._error(node, "got a key that is no word; expected a setting's name.")
        return str(node.value)

    def _foreign_tag(self, node: Node, key: Key) -> ConfigError:
        return self._error(node, f"{_dotted(key)}: got the tag {str(node.tag)!r}; expected a plain value, no tag.")

    def _error(self, node: Node, text: str) -> ConfigError:
        return _error(self._path, text, node.start_mark.line + 1)


def _too_deep(path: Path, line: int | None) -> ConfigError:
    return _error(path, f"is nested too deeply; expected at most {MAX_DEPTH} levels.", line)


def _dotted(key: Key) -> str:
    return ".".join(map(str, key))


def _error(path: Path, text: str, line: int | None = None) -> ConfigError:
    """The error, as one line whatever the file's names hold."""
    place = f"{path}, line {line}" if line else str(path)
    printable = "".join(char if char.isprintable() else " " for char in f"{place}: {text}")
    return ConfigError(" ".join(printable.split()))
