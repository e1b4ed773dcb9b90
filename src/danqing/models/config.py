"""Read and write the `config.json` that lies beside every checkpoint."""

import dataclasses
import difflib
from collections.abc import Mapping
from types import UnionType
from typing import Any, TypeVar, cast, get_args, get_origin

from danqing.errors import ConfigError

T = TypeVar("T")


def config_from_json(cls: type[T], values: Mapping[str, Any], *, ignored: frozenset[str] = frozenset()) -> T:
    """Fill the config dataclass `cls` from the keys of a released `config.json`.

    Keys that start with an underscore (written by other libraries) and those in `ignored` are skipped; any
    other key the dataclass does not know raises ConfigError with the nearest known one, because a flag that
    is silently dropped gives wrong pictures.
    """
    fields = {field.name: field for field in dataclasses.fields(cast(Any, cls))}
    known: dict[str, Any] = {}
    for key, value in values.items():
        if key.startswith("_") or key in ignored:
            continue
        if key not in fields:
            near = difflib.get_close_matches(key, fields, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{cls.__name__}: unknown key {key!r}{hint}")
        try:
            known[key] = _as(fields[key].type, value)
        except TypeError:
            kind = fields[key].type
            shown = kind.__name__ if type(kind) is type else kind
            raise ConfigError(f"{cls.__name__}: {key}: expected {shown}, found {value!r}") from None
    missing = [
        name
        for name, field in fields.items()
        if name not in known
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(
            f"{cls.__name__}: expected keys {', '.join(missing)}, found only {', '.join(known)}"
        )
    return cls(**known)


def _as(kind: Any, value: Any) -> Any:
    """Return a JSON value as the annotated type: lists become tuples, whole numbers may be floats."""
    if isinstance(kind, UnionType):
        return None if value is None else _as(get_args(kind)[0], value)
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        kinds = get_args(kind)
        if kinds[-1] is Ellipsis:
            kinds = (kinds[0],) * len(value)
        if len(kinds) != len(value):
            raise TypeError
        return tuple(_as(part, item) for part, item in zip(kinds, value, strict=True))
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:  # a bool is no int here
        raise TypeError
    return value


def config_to_json(config: Any, *, class_name: str) -> dict[str, Any]:
    """Return the JSON object for `config`, under the class name the released checkpoints carry."""
    return {"_class_name": class_name, **dataclasses.asdict(config)}
