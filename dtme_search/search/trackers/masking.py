"""Passwords and tokens in what is written to a tracker, replaced by ``***``."""

from __future__ import annotations

import re
from collections.abc import Mapping

_IN_URL = re.compile(r"(://[^\s:/@]*:)[^\s@]+(?=@)")
_IN_QUERY = re.compile(r"([?&][^\s=&]*(?:pass|pwd|secret|token|key)[^\s=&]*=)[^\s&'\"]+", re.IGNORECASE)
_NAME = re.compile(
    r"(^|_)(pass\w*|pwd|secrets?|tokens?|credentials?|(api|access|secret|private)_?key)$", re.IGNORECASE
)


def masked_text(text: str) -> str:
    """A text with the passwords of its URLs replaced.

    Example:
        >>> masked_text("cannot reach postgresql://ann:pw@host/db?sslpassword=x")
        'cannot reach postgresql://ann:***@host/db?sslpassword=***'
    """
    return _IN_QUERY.sub(r"\1***", _IN_URL.sub(r"\1***", text))


def masked(value: object, name: str = "") -> object:
    """Plain values with secrets replaced: texts under a name such as ``password``, and URLs in any text.

    Args:
        value: What YAML can hold.
        name: Name of the field it is the value of.

    Example:
        >>> masked({"api_token": "abc", "token_std": 0.02, "url": "mysql://ann:pw@host/db"})
        {'api_token': '***', 'token_std': 0.02, 'url': 'mysql://ann:***@host/db'}
    """
    if isinstance(value, Mapping):
        return {key: masked(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [masked(inner, name) for inner in value]
    if not isinstance(value, str):
        return value
    return "***" if value and _NAME.search(name.rpartition(".")[2]) else masked_text(value)
