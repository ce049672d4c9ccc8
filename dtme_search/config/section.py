"""What every part of a config has in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from dtme_search.config.messages import unwrap


class Section(BaseModel):
    """Base of every part of a config: frozen, no unknown keys, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        # Pydantic would take true for 1.
        wanted = unwrap(cls.model_fields[str(info.field_name)].annotation)
        if isinstance(value, bool) and wanted in (int, float):
            raise ValueError(f"must be a number, got {str(value).lower()}")
        return value
