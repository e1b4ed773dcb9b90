"""Read and write the `config.json` that lies beside every checkpoint."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, TypeVar, cast

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
        known[key] = tuple(value) if isinstance(value, list) else value
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


def config_to_json(config: Any, *, class_name: str) -> dict[str, Any]:
    """Return the JSON object for `config`, under the class name the released checkpoints carry."""
    return {"_class_name": class_name, **dataclasses.asdict(config)}
