"""Files that people write: safe YAML with unique keys, checked by strict models; every fault is one line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one line: key, value, what is allowed."""


class Strict(BaseModel):
    """Unknown keys and silent conversions are errors; instances cannot be changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


M = TypeVar("M", bound=Strict)
Loc = tuple[int | str, ...]  # the parts of a key, as pydantic has them


class _UniqueKeyLoader(yaml.SafeLoader):
    """A key that stands twice is an error, not a silent overwrite."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise ConfigError(f"{key}: stands twice (line {key_node.start_mark.line + 1}); keep one")
            seen.add(key)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """Safe YAML with unique keys."""
    loader = _UniqueKeyLoader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def read_yaml(path: Path, hint: str = "") -> dict[str, Any]:
    """The mapping in a file; ConfigError names the file, with `hint` added if there is none."""
    try:
        data = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file{hint}") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    except (  # what YAML's constructors raise of odd tags, dates, depths and bytes
        *(yaml.YAMLError, UnicodeDecodeError, TypeError, RecursionError, ValueError),
        *(AttributeError, LookupError, ArithmeticError),
    ) as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        said = (str(getattr(error, "problem", error)).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{path}: not valid YAML{line}: {said}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected a mapping of keys, got {type(data).__name__}")
    return data


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The text of an error: what is unknown, the nearest known name, all known names."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {kind} {name!r}; {hint}known: {', '.join(map(str, known))}"


def validated(model: type[M], data: Mapping[str, Any], where: str | Callable[[Loc], str]) -> M:
    """`data` as a model; ConfigError is one line: where, key, what is expected, what is there.

    `where` may depend on the key, and be nothing.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_one_line(model, error, where)) from None


def _one_line(model: type[BaseModel], error: ValidationError, where: str | Callable[[Loc], str]) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "value_error" and isinstance(first.get("ctx", {}).get("error"), ConfigError):
        text = str(first["ctx"]["error"])
    elif first["type"] == "extra_forbidden":
        text = f"{key}: {unknown('key', str(first['loc'][-1]), _sibling_keys(model, first['loc'][:-1]))}"
    elif first["type"] == "missing":
        text = f"{key}: missing; it must be given"
    else:
        text = f"{key}: {first['msg'][0].lower()}{first['msg'][1:]}, got {str(first['input'])[:60]!r}"
        text += _as_yaml_has_it(first["input"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    place = where if isinstance(where, str) else where(first["loc"])
    return f"{place}: {text}{more}".removeprefix(": ").replace("\n", " ")


def _as_yaml_has_it(given: Any) -> str:
    """How YAML 1.1 wants a number that it took for text: with a point and a signed exponent."""
    parts = re.fullmatch(r"([-+]?\d+)(\.\d*)?[eE]([-+]?\d+)", given) if isinstance(given, str) else None
    if parts is None:
        return ""
    return f"; YAML takes that for text, write {parts[1]}{parts[2] or '.0'}e{int(parts[3]):+d}"


def _sibling_keys(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    """Allowed keys of the component at `loc`."""
    current: Any = model
    for part in loc:
        field = (
            current.model_fields.get(part)
            if isinstance(current, type) and issubclass(current, BaseModel)
            else None
        )
        current = field.annotation if field is not None else current
        if hasattr(current, "__args__"):  # dict[str, Model]
            current = current.__args__[-1]
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []
