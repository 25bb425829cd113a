"""Read YAML files of unknown origin: plain values only, each key once, no aliases, and of limited size.

A number such as ``1e-4`` is a number, as in YAML 1.2, and a date is text. Aliases are refused because a few lines of
them stand for billions of values.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from aetlab.core.files import StorageError, describe

MAX_BYTES = 1 << 20
_MAX_DEPTH = 30


class _Loader(yaml.SafeLoader):
    """The safe loader of PyYAML without aliases, repeated keys, dates and deep nesting."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        line = self.peek_event().start_mark.line + 1
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError(f"line {line}: an alias (*name); write the value out")
        if self._depth == _MAX_DEPTH:
            raise yaml.YAMLError(f"line {line}: more than {_MAX_DEPTH} levels")
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                raise yaml.YAMLError(f"line {key.start_mark.line + 1}: a key that is not plain text")
            if key.value in keys:
                raise yaml.YAMLError(f"line {key.start_mark.line + 1}: the key {key.value!r} stands there twice")
            keys.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"),
                              list("-+0123456789"))


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8 of at most :data:`MAX_BYTES`.

    Raises
    ------
    StorageError
        If it cannot be read; the message is one line that names the file.
    """
    if not path.is_file():  # a pipe would block for ever
        raise StorageError(f"{path} cannot be read: {'it is not a file' if path.exists() else 'there is no such file'}")
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {describe(error)}") from None
    if len(content) > MAX_BYTES:
        raise StorageError(f"{path} cannot be read: it is longer than {MAX_BYTES} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise StorageError(f"{path} cannot be read: it is not text in UTF-8") from None


def parse_mapping(text: str, path: Path) -> dict[str, Any]:
    """Return the mapping that the YAML ``text`` of the file ``path`` holds; empty for an empty file.

    Raises
    ------
    StorageError
        If it is no mapping of plain values; the message is one line that names the file.
    """
    try:
        content = yaml.load(text, _Loader)  # a safe loader
    except (yaml.YAMLError, ValueError) as error:
        reason = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
        raise StorageError(f"{path} cannot be read: {reason[:300] or type(error).__name__}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise StorageError(f"{path} holds no settings (key: value)")
    return {str(key): value for key, value in content.items()}
