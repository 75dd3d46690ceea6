"""YAML and JSON files whose every value knows its file, line and column.

Built on PyYAML's composer, not its constructor: values stay text until a reader
(`as_whole`, `as_decimal`, ...) asks for a type, so nothing is guessed on the way.
YAML 1.1's traps are refused where they stand: unquoted `15:55` (955), `NO` and `on`
(booleans), `010` (8), duplicate keys, tabs, tags, anchors. Only `true` and `false`
are booleans. It refuses to be a general YAML library: one document, plain data.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import NoReturn

import attrs
import yaml

from domain.errors import OperatorError

_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]{1,2})?")
_TIME = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]")
_TAG = "tag:yaml.org,2002:"


@attrs.frozen(kw_only=True)
class Position:
    """Where a value stands; line and column count from 1."""

    file: Path
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@attrs.frozen(kw_only=True)
class YamlScalar:
    """A single value as its text. `is_plain` is False when it was quoted: then it can only be text."""

    at: Position
    path: str
    """The dotted key, for messages."""
    text: str
    is_plain: bool
    is_null: bool = False


@attrs.frozen(kw_only=True)
class YamlList:
    """A list of values."""

    at: Position
    path: str
    items: tuple[YamlValue, ...]


@attrs.frozen(kw_only=True)
class YamlMap:
    """A mapping; `keys_at` says where each key itself stands."""

    at: Position
    path: str
    entries: Mapping[str, YamlValue]
    keys_at: Mapping[str, Position]

    def get(self, key: str) -> YamlValue | None:
        return self.entries.get(key)

    def require(self, key: str, *, fix: str) -> YamlValue:
        """The value of `key`. Raises OperatorError at the mapping's own position when it is missing."""
        value = self.entries.get(key)
        if value is None:
            raise OperatorError(f"{_dotted(self.path, key)} is missing", where=str(self.at), fix=fix)
        return value

    def refuse_unknown(self, known: Collection[str]) -> None:
        """Raises OperatorError at the first key that is not in `known`, with the nearest one that is."""
        for key in self.entries:
            if key not in known:
                raise OperatorError(
                    f"unknown key {_dotted(self.path, key)!r}",
                    where=str(self.keys_at[key]),
                    fix=did_you_mean(key, known),
                )


YamlValue = YamlScalar | YamlList | YamlMap


def read_map(path: Path) -> YamlMap:
    """The mapping in a YAML file, or JSON when its name ends in `.json`. An empty file is an empty mapping.

    Raises OperatorError with file:line:column for everything this module's docstring refuses.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise OperatorError(
            f"cannot be read: {error.strerror}", where=str(path), fix="name a readable YAML or JSON file"
        ) from error
    except UnicodeDecodeError as error:
        raise OperatorError(f"is not UTF-8 text: {error.reason}", where=str(path), fix="save it as UTF-8") from error
    return parse_map(text, path)


def parse_map(text: str, file: Path) -> YamlMap:
    """As `read_map`, for a text that came from `file` (which is not opened)."""
    if file.suffix.lower() == ".json":
        text = _checked_json(text, file)
    try:
        node = yaml.compose(text, Loader=_Composer)
    except yaml.MarkedYAMLError as error:
        _raise_syntax_error(error, file)
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        at = Position(file=file, line=before.count("\n") + 1, column=len(before) - before.rfind("\n"))
        raise OperatorError(
            f"character {error.character!r} is not allowed", where=str(at), fix="remove the character"
        ) from error
    start = Position(file=file, line=1, column=1)
    if node is None:
        return YamlMap(at=start, path="", entries={}, keys_at={})
    return as_map(_value_of(node, file, ""))


def merge(base: YamlMap, overlay: YamlMap) -> YamlMap:
    """`overlay` laid over `base`: mappings merge key by key, everything else replaces. Positions stay with values."""
    entries, keys_at = dict(base.entries), dict(base.keys_at)
    for key, value in overlay.entries.items():
        old = entries.get(key)
        if isinstance(old, YamlMap) and isinstance(value, YamlScalar) and value.is_null:
            continue  # `feed:` with all its lines commented out says nothing
        entries[key] = merge(old, value) if isinstance(old, YamlMap) and isinstance(value, YamlMap) else value
        keys_at[key] = overlay.keys_at[key]
    return attrs.evolve(base, entries=entries, keys_at=keys_at)


def without(section: YamlMap, *keys: str) -> YamlMap:
    """`section` as if `keys` were not written."""
    return attrs.evolve(
        section,
        entries={key: value for key, value in section.entries.items() if key not in keys},
        keys_at={key: at for key, at in section.keys_at.items() if key not in keys},
    )


def did_you_mean(word: str, known: Collection[str]) -> str:
    """`did you mean 'port'?`, or the whole list when nothing is near."""
    exact = [name for name in known if name.lower() == word.lower()]
    near = exact or difflib.get_close_matches(word, sorted(known), n=1)
    return f"did you mean {near[0]!r}?" if near else f"one of: {', '.join(sorted(known)) or 'nothing'}"


# ---------------------------------------------------------------- readers


def refuse(value: YamlValue, what: str, *, fix: str) -> NoReturn:
    """Raise OperatorError about `value` at its position."""
    raise OperatorError(f"{value.path}: {what}" if value.path else what, where=str(value.at), fix=fix)


def as_map(value: YamlValue) -> YamlMap:
    """The mapping; a key with nothing under it is an empty one."""
    if isinstance(value, YamlScalar) and value.is_null:
        return YamlMap(at=value.at, path=value.path, entries={}, keys_at={})
    if not isinstance(value, YamlMap):
        refuse(value, f"expected a mapping, got {_shown(value)}", fix="write indented `key: value` lines below it")
    return value


def as_list(value: YamlValue) -> Sequence[YamlValue]:
    """The items of a list."""
    if not isinstance(value, YamlList):
        refuse(value, f"expected a list, got {_shown(value)}", fix="write [A, B] or one `- item` per line")
    return value.items


def as_text(value: YamlValue) -> str:
    """Non-empty text. A plain number or boolean is not text."""
    if not isinstance(value, YamlScalar) or value.is_null:
        refuse(value, f"expected text, got {_shown(value)}", fix="write the text after the colon")
    if value.is_plain and (_NUMBER.fullmatch(value.text) or value.text in ("true", "false")):
        refuse(value, f"expected text, got {_shown(value)}", fix=f'quote it: "{value.text}"')
    if not value.text.strip():
        refuse(value, "expected text, got an empty one", fix="write the text between the quotes")
    return value.text


def as_choice(value: YamlValue, choices: Collection[str]) -> str:
    """One of `choices`."""
    text = as_text(value)
    if text not in choices:
        refuse(value, f"expected {' or '.join(choices)}, got {text!r}", fix=did_you_mean(text, choices))
    return text


def as_flag(value: YamlValue) -> bool:
    """`true` or `false`, unquoted."""
    if not (isinstance(value, YamlScalar) and value.is_plain and value.text in ("true", "false")):
        refuse(value, f"expected true or false, got {_shown(value)}", fix="write true or false, without quotes")
    return value.text == "true"


def as_whole(value: YamlValue, *, low: int, high: int) -> int:
    """A whole number in [low, high]."""
    if not (isinstance(value, YamlScalar) and value.is_plain and _WHOLE.fullmatch(value.text)):
        refuse(value, f"expected a whole number, got {_shown(value)}", fix=f"write a number from {low} to {high}")
    number = int(value.text)
    if not low <= number <= high:
        refuse(value, f"{number} is out of range", fix=f"write a number from {low} to {high}")
    return number


def as_decimal(value: YamlValue, *, low: Decimal, high: Decimal) -> Decimal:
    """A number in [low, high], exactly as it is written."""
    if not (isinstance(value, YamlScalar) and value.is_plain and _NUMBER.fullmatch(value.text)):
        refuse(value, f"expected a number, got {_shown(value)}", fix=f"write a number from {low} to {high}")
    number = Decimal(value.text)
    if not low <= number <= high:
        refuse(value, f"{value.text} is out of range", fix=f"write a number from {low} to {high}")
    return number


def as_time(value: YamlValue) -> str:
    """A time of day as `HH:MM`, 00:00 to 23:59."""
    text = as_text(value)
    if not _TIME.fullmatch(text):
        refuse(value, f"{text!r} is not a time of day", fix='write "HH:MM" with two digits each, in quotes')
    return text


# --------------------------------------------------------------- composing


class _Composer(yaml.SafeLoader):
    """SafeLoader's composer without anchors and tags: a reader must see what a file says where it says it."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs leave it open
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.composer.ComposerError(None, None, "anchors and aliases are not used here", event.start_mark)
        if getattr(event, "tag", None) is not None:
            raise yaml.composer.ComposerError(None, None, "tags (!…) are not used here", event.start_mark)
        return super().compose_node(parent, index)


def _checked_json(text: str, file: Path) -> str:
    """JSON that YAML can compose with the same positions."""
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        at = Position(file=file, line=error.lineno, column=error.colno)
        raise OperatorError(f"not valid JSON: {error.msg}", where=str(at), fix="correct the JSON") from error
    # A tab is white space in JSON and an error in YAML; inside a JSON string it cannot stand.
    return text.replace("\t", " ")


def _raise_syntax_error(error: yaml.MarkedYAMLError, file: Path) -> NoReturn:
    mark = error.problem_mark or error.context_mark
    where = str(_at(mark, file)) if mark is not None else str(file)
    problem = error.problem or str(error)
    if "'\\t'" in problem:
        problem, fix = "a tab cannot indent or separate YAML", "use spaces"
    elif "not used here" in problem:
        fix = "write the value out in full"
    elif "mapping values are not allowed" in problem:
        fix = 'quote a text that holds ": ", and check the indentation'
    else:
        fix = "check indentation, quotes and brackets at this place"
    raise OperatorError(problem, where=where, fix=fix) from error


def _at(mark: yaml.Mark, file: Path) -> Position:
    return Position(file=file, line=mark.line + 1, column=mark.column + 1)


def _value_of(node: yaml.Node, file: Path, path: str) -> YamlValue:
    at = _at(node.start_mark, file)
    if isinstance(node, yaml.MappingNode):
        return _map_of(node, file, path)
    if isinstance(node, yaml.SequenceNode):
        items = tuple(_value_of(item, file, f"{path}[{i}]") for i, item in enumerate(node.value))
        return YamlList(at=at, path=path, items=items)
    assert isinstance(node, yaml.ScalarNode)  # the composer's third and last kind
    return _scalar_of(node, file, path)


def _map_of(node: yaml.MappingNode, file: Path, path: str) -> YamlMap:
    entries: dict[str, YamlValue] = {}
    keys_at: dict[str, Position] = {}
    for key_node, value_node in node.value:
        at = _at(key_node.start_mark, file)
        if not isinstance(key_node, yaml.ScalarNode):
            raise OperatorError("a key must be a word", where=str(at), fix="write `key: value`")
        key = _scalar_of(key_node, file, path).text
        if key == "<<":
            raise OperatorError("merge keys (<<) are not used here", where=str(at), fix="write the keys out in full")
        if key in entries:
            raise OperatorError(
                f"duplicate key {_dotted(path, key)!r}, first at line {keys_at[key].line}",
                where=str(at),
                fix="keep one of the two",
            )
        entries[key] = _value_of(value_node, file, _dotted(path, key))
        keys_at[key] = at
    return YamlMap(at=_at(node.start_mark, file), path=path, entries=entries, keys_at=keys_at)


def _scalar_of(node: yaml.ScalarNode, file: Path, path: str) -> YamlScalar:
    text, at, is_plain = str(node.value), _at(node.start_mark, file), node.style is None
    if is_plain:
        _refuse_yaml_1_1(text, str(node.tag), at)
    # JSON writes characters beyond U+FFFF as two escapes, which PyYAML leaves apart.
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return YamlScalar(at=at, path=path, text=text, is_plain=is_plain, is_null=is_plain and node.tag == f"{_TAG}null")


def _refuse_yaml_1_1(text: str, tag: str, at: Position) -> None:
    """Refuse a plain scalar that YAML 1.1 reads as something else than it looks."""
    if tag == f"{_TAG}bool" and text not in ("true", "false"):
        raise OperatorError(
            f"unquoted {text} is a boolean in YAML 1.1",
            where=str(at),
            fix=f'write "{text}" for the text, true or false for the boolean',
        )
    if tag in (f"{_TAG}int", f"{_TAG}float") and ":" in text:
        raise OperatorError(
            f"unquoted {text} is a number in base 60 in YAML 1.1, not a time", where=str(at), fix=f'quote it: "{text}"'
        )
    if tag == f"{_TAG}int" and not _WHOLE.fullmatch(text):
        raise OperatorError(
            f"unquoted {text} is not the number it looks like in YAML 1.1",
            where=str(at),
            fix=f'write a plain decimal number, or "{text}" for the text',
        )


def _dotted(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _shown(value: YamlValue) -> str:
    match value:
        case YamlMap():
            return "a mapping"
        case YamlList():
            return "a list"
        case YamlScalar(is_null=True):
            return "nothing"
        case YamlScalar(is_plain=False):
            return f"the text {value.text!r}"
        case YamlScalar():
            return repr(value.text)
