"""``Section``: the base of every part of a config."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from dtme_search.config.messages import unwrap

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
"""A share between 0 and 1, both included."""


def _word_of_truth(value: Any) -> Any:
    # Where any text is allowed, the words that YAML 1.1 treats as true and false still mean that.
    return _TRUTH.get(value.lower(), value) if isinstance(value, str) else value


_TRUTH = {"yes": True, "on": True, "no": False, "off": False}
Option = Annotated[int | float | bool | str, BeforeValidator(_word_of_truth)]
"""Value of an option that foreign code reads."""
OptionsByName = dict[str, dict[str, Option]]
"""Options of parts by their names."""


def one_of_parts(built_in: Sequence[str]) -> WithJsonSchema:
    """For the name of a part in the JSON schema, which knows those that are built in."""
    return WithJsonSchema({"anyOf": [{"enum": list(built_in), "type": "string"}, {"type": "string"}]})


LARGEST_NUMBER = 2**53
"""Integers up to this are exact in databases, in JSON, and where a sampler treats them as floats."""


class Section(BaseModel):
    """Base of every part of a config: frozen, no unknown keys, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        # Pydantic would convert true to 1.
        wanted = unwrap(cls.model_fields[str(info.field_name)].annotation)
        if isinstance(value, bool) and wanted in (int, float):
            raise ValueError(f"must be a number, got {str(value).lower()}")
        return value

    @field_validator("*")
    @classmethod
    def _whole_numbers_can_be_held(cls, value: Any) -> Any:
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int) and abs(number) > LARGEST_NUMBER:
                raise ValueError(f"must be at most {LARGEST_NUMBER}, got {number}")
        return value


class NoOptions(Section):
    """Options of a part that has none."""
