"""YAML files of settings, read into plain values.

Promises:
- What is read is what is written. A key that comes twice is refused, at any depth. A date is text,
  because JSON has no dates.
- Only mappings, lists, text, numbers, true, false and null come out.
- Size, depth and expanded aliases are bounded, so reading ends within seconds.
- The error for a wrong file is one line with the file's name, the line's number and the fix. It
  quotes nothing but the name of a field.

Does not: know which settings exist (`config` does).
"""

import re
from pathlib import Path
from typing import Any

import yaml

from privcode.errors import UserError
from privcode.files import read_bytes
from privcode.inputs import NOT_UTF8, decoded

_MOST_BYTES = 1 << 18
_MOST_DEPTH = 50
_MOST_VALUES = 100_000
_MERGE = "tag:yaml.org,2002:merge"
_TELLABLE = re.compile(r"\w{1,40}")  # the name of a setting, and not text of a record
_PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")


class _Refused(yaml.MarkedYAMLError):
    """What this loader refuses and YAML allows. `problem` says what is wrong and what to do."""


class _Loader(yaml.SafeLoader):
    """YAML with few kinds of values, in which no key comes twice."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0
        # By a node's identity: the number of values in it (aliases expanded), and its keys.
        self.sizes: dict[int, int] = {}
        self.keys: dict[int, set[Any]] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self.depth > _MOST_DEPTH:
            raise _refusal("is nested too deeply; write it flatter", mark)
        if self.check_event(yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self.sizes:
                raise _refusal("refers to itself; write it out", mark)
            return node
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        parts = []
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
            self.keys[id(node)] = self._keys(node)
        elif isinstance(node, yaml.SequenceNode):
            parts = node.value
        self.sizes[id(node)] = 1 + sum(self.sizes[id(part)] for part in parts)
        if self.sizes[id(node)] > _MOST_VALUES:
            raise _refusal("has too many values, aliases expanded; write fewer", mark)
        return node

    def _keys(self, node: yaml.MappingNode) -> set[Any]:
        """The keys of a mapping, including those that `<<` merges into it."""
        own: set[Any] = set()
        merged: set[Any] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refusal("is a list or mapping as a key; write text", key.start_mark)
            name = _MERGE if key.tag == _MERGE else self.construct_object(key)
            if (type(name), name) in own:
                told = f"field {name} " if _TELLABLE.fullmatch(key.value) else ""
                raise _refusal(f"{told}comes twice in its mapping; keep one", key.start_mark)
            own.add((type(name), name))
            for other in _merged(value) if name is _MERGE else ():
                if merged & (more := self.keys.get(id(other), set())):
                    raise _refusal("merges a key from two places; write it out", key.start_mark)
                merged |= more
        return (own | merged) - {(str, _MERGE)}

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, KeyError, OverflowError):  # !!int of words; thousands of digits
            mark = node.start_mark
            raise _refusal("has a value that does not fit its type; correct it", mark) from None


def _merged(value: yaml.Node) -> list[yaml.Node]:
    """The mappings that `<<` names: one, or a list of them."""
    return list(value.value) if isinstance(value, yaml.SequenceNode) else [value]


def _refusal(problem: str, mark: yaml.Mark) -> _Refused:
    return _Refused(problem=problem, problem_mark=mark)


_Loader.yaml_constructors = {
    tag: make
    for tag, make in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.removeprefix("tag:yaml.org,2002:") in _PLAIN
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if not tag.endswith(":timestamp")]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(path: Path) -> Any:
    """The plain values of one YAML document. None if the file is empty.

    Raises:
        UserError: the file is missing, not a regular file, too large, not UTF-8 or not YAML, or it
            contains what this module refuses.
    """
    content = read_bytes(path, _MOST_BYTES)
    try:
        text = decoded(content)
    except UnicodeDecodeError:
        raise UserError(f"{path}: {NOT_UTF8}") from None
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path}{_where(error, text)}: {_words(error)}") from None


def _where(error: Exception, text: str) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark:
        return f", line {mark.line + 1}"
    position = getattr(error, "position", None)
    return "" if position is None else f", line {text.count(chr(10), 0, position) + 1}"


def _words(error: Exception) -> str:
    if isinstance(error, _Refused):
        return str(error.problem)
    problem = str(getattr(error, "problem", ""))
    for sign, words in _SAID.items():
        if sign in problem:
            return words
    if isinstance(error, yaml.reader.ReaderError):
        return "has a character that YAML does not allow; remove it"
    return "not valid YAML; check indentation and quotes"


_SAID = {
    "'\\t'": "has a tab; indent with spaces",
    "constructor for the tag": "has a tag (!...) for another kind of value; leave the tag out",
    "another document": "begins a second document (---); keep one",
    "undefined alias": "has an alias (*...) without its anchor (&...); define it above",
    "duplicate anchor": "has an anchor (&...) that already exists; rename one",
}
"""What is found in messages of the YAML library -> what the error says."""
