"""Settings: YAML files that hold differences, read into dataclasses that check themselves.

A file may name one other with `base: ../../conf/student.yaml` (relative to the naming file); mappings are merged key by key,
everything else is replaced. A key no dataclass field knows is an error that names the file and the nearest key.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from steps.core.cli import MissingInput, UserError
from steps.core.limits import read_limited, show
from steps.core.outdir import write_text

if typing.TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = typing.TypeVar("Config", bound="DataclassInstance")

# Of a settings file.
LARGEST_BYTES = 1 << 18
# In it, those that anchors repeat counted each time.
MOST_VALUES = 50_000
# In characters.
LONGEST_NUMBER = 40
# The last four come of odd tags and dates.
BAD_YAML = (yaml.YAMLError, RecursionError, ValueError, OverflowError, LookupError, AttributeError)


class ConfigError(UserError):
    """A settings file that cannot be used (exit status 2); the message names the file and the key."""

    status = 2


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping (safe loader, no duplicate keys), with its `base:` merged underneath.

    Returns: dict.   Raises: MissingInput, ConfigError.
    """
    path = Path(path)
    data = _parse(path)
    base = data.pop("base", None)
    if base is None:
        return data
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base: must be the name of a YAML file")
    below = _parse(path.parent / base)
    if "base" in below:
        raise ConfigError(f"{path}: base: {base} has a base of its own; only one level is allowed")
    return merge(below, data)


def _parse(path):
    try:
        text = read_limited(path, LARGEST_BYTES, "settings file").decode("utf-8")
    except FileNotFoundError:
        raise MissingInput(f"{path}: no such settings file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({error.reason} at byte {error.start})") from None
    try:
        node = yaml.compose(text, Loader=_UniqueKeyLoader)
        _count_values(node, {})
        data = _UniqueKeyLoader("").construct_document(node) if node else None
    except BAD_YAML as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())[:500]}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping of `key: value` lines")
    return data


def _count_values(node, counts):
    """How many values a YAML node stands for with every alias written out. Raises: yaml.YAMLError for far too many."""
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in counts:
        counts[id(node)] = None
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        counts[id(node)] = 1 + sum(_count_values(part, counts) for part in parts)
    if counts[id(node)] is None:
        raise yaml.YAMLError("an anchor that holds itself")
    if counts[id(node)] > MOST_VALUES:
        raise yaml.YAMLError(f"more than {MOST_VALUES:,} values; write out what anchors repeat")
    return counts[id(node)]


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe loader that refuses a key given twice, keys that are not text, and numbers of hundreds of digits."""

    def construct_scalar(self, node):
        value = super().construct_scalar(node)
        if node.tag.endswith((":int", ":float")) and len(value) > LONGEST_NUMBER:
            raise yaml.constructor.ConstructorError(None, None, f"a number of {len(value)} digits", node.start_mark)
        return value

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(None, None, f"key {show(key)} is not text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {show(key)} given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two mappings: nested mappings key by key, any other value from `above`."""
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def load_config(cls: type[Config], path: str | Path) -> Config:
    """Read the settings file `path` into dataclass `cls`. Raises: MissingInput, ConfigError."""
    return from_dict(cls, read_yaml(path), str(path))


def from_dict(cls: type[Any], data: object, where: str) -> Any:
    """Build dataclass `cls` from a mapping, checking keys and types; `where` names the source in messages.

    Field types understood: bool, int, float, str, dict, list[X], tuple[X, ...], another dataclass, X | None, and
    bool | str or the like.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected a mapping, not {show(data)}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in data:
        if key not in fields:
            raise ConfigError(f"{where}: unknown key {show(key)}{nearest(key[:100], fields)}")
    for name, field in fields.items():
        no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if no_default and name not in data:
            raise ConfigError(f"{where}: key {name!r} is missing")
    values = {key: _convert(value, hints[key], f"{where}: {key}") for key, value in data.items()}
    try:
        return cls(**values)
    except ValueError as error:
        raise ConfigError(f"{where}: {str(error)[:500]}") from None


def nearest(word: str, known: Iterable[str]) -> str:
    """Return ' (did you mean X?)' for the closest known word, or the list of known words."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else f" (known: {', '.join(known)})"


def _convert(value, kind, where):
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        kinds = [arg for arg in args if arg is not type(None)]
        if len(kinds) > 1 and type(value) not in kinds:
            raise ConfigError(f"{where}: expected {' or '.join(kind.__name__ for kind in kinds)}, not {show(value)}")
        return _convert(value, kinds[0] if len(kinds) == 1 else type(value), where)
    if dataclasses.is_dataclass(kind):
        return value if isinstance(value, kind) else from_dict(kind, value, where)
    if origin in (list, tuple):
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}: expected a list, not {show(value)}")
        return origin(_convert(item, args[0], f"{where}[{i}]") for i, item in enumerate(value))
    if kind is float and isinstance(value, str):
        value = _number(value)
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ConfigError(f"{where}: a number of more than 63 bits")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if origin is dict:
        kind = dict
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{where}: expected {kind.__name__}, not {show(value)}")
    if kind is float and value - value != 0.0:
        raise ConfigError(f"{where}: {value} is not a finite number")
    return value


def _number(text):
    """YAML 1.1 reads 1e-3 as text; people mean the number. Anything else stays text."""
    try:
        return float(text)
    except ValueError:
        return text


# Metadata of a field that is younger than files of its settings, and whose default means what these files mean.
LATER = {"later": True}


def to_dict(config: "DataclassInstance") -> dict[str, Any]:
    """The resolved settings as plain mappings and lists, ready for YAML or JSON.

    Fields marked LATER are left out while they have their default, so that what does not use them is described, hashed and
    compared as before there was such a setting.
    """
    values = {field: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {
        field.name: _plain(value)
        for field, value in values.items()
        if not (field.metadata.get("later") and value == _default(field))
    }


def _default(field):
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _plain(value):
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def save_config(path: str | Path, config: "DataclassInstance") -> None:
    """Write the resolved settings of a dataclass as YAML."""
    write_text(path, yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True))


def check(condition: bool, message: str) -> None:
    """Raise ValueError(message) unless the condition holds; for `__post_init__`."""
    if not condition:
        raise ValueError(message)
