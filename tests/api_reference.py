"""Makes docs/api.md from the docstrings of the public names: ``python tests/api_reference.py --write``."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import dtme_search
from dtme_search import search
from dtme_search.reporting import StudyView
from dtme_search.training import RunResult

PAGE = Path(__file__).parents[1] / "docs" / "api.md"
CONFIGS = ("RunConfig", "StudyConfig")
"""Their fields are in docs/configuration.md."""
HEAD = """# Python reference

The public names of `dtme_search`, and what they give and take. Made from their docstrings by
`tests/api_reference.py --write`; [as a library](library.md) shows them at work.
"""
BESIDE = (StudyView, search.StudyInfo, search.TrialInfo, search.EvaluationInfo, search.TrialEnd, RunResult)
"""Classes of what the public names give and take."""
_SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Example):$")
_ENTRY = re.compile(r"^    (\w[\w, .*]*): (.*)$")


def page() -> str:
    """The whole page."""
    names = dtme_search.__all__
    parts = [HEAD, *(_entry(name, getattr(dtme_search, name), f"dtme_search.{name}") for name in names)]
    parts += [_entry(kind.__name__, kind, f"{kind.__module__}.{kind.__name__}") for kind in BESIDE]
    return "\n".join(parts)


def _entry(name: str, value: Any, path: str) -> str:
    text = f"## {name}\n\n"
    if not inspect.isclass(value) or not (name in CONFIGS or issubclass(value, Exception)):
        text += f"    {path}{_signature(value)}\n\n"
    text += _markdown(value)
    if name in CONFIGS:
        text += "\nFields: [configuration](configuration.md).\n"
    elif inspect.isclass(value):
        text += "".join(_member(name, member, value) for member in vars(value) if not member.startswith("_"))
    return text


def _member(owner: str, name: str, of: type) -> str:
    member = inspect.getattr_static(of, name)
    if isinstance(member, property):
        return f"\n### {owner}.{name}\n\n{_markdown(member)}"
    if isinstance(member, (staticmethod, classmethod)) or inspect.isfunction(member):
        call = getattr(of, name)
        return f"\n### {owner}.{name}\n\n    {name}{_signature(call)}\n\n{_markdown(call)}"
    return ""


def _signature(value: Any) -> str:
    """On one line if it is short, else one line for each parameter."""
    signature = inspect.signature(value)
    parameters: list[str] = []
    for each in signature.parameters.values():
        if each.kind is each.KEYWORD_ONLY and "*" not in parameters:
            parameters.append("*")
        parameters.append(_parameter(each))
    back = signature.return_annotation
    end = "" if back is signature.empty else f" -> {_kind(back)}"
    line = f"({', '.join(parameters)}){end}"
    return line if len(line) < 80 else "(\n        " + ",\n        ".join(parameters) + f",\n    ){end}"


def _parameter(parameter: inspect.Parameter) -> str:
    default = parameter.default
    text = parameter.name
    if parameter.annotation is not parameter.empty:
        text += f": {_kind(parameter.annotation)}"
    if default is parameter.empty:
        return text
    shown = repr(str(default)) if isinstance(default, Path) else re.sub("<.*>", "...", repr(default))
    return f"{text} = {shown}"


def _kind(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else str(getattr(annotation, "__name__", annotation))


def _markdown(value: Any) -> str:
    """A docstring: sections as lists, examples as code."""
    lines, section = [], ""
    for line in (inspect.getdoc(value) or "").splitlines():
        if found := _SECTION.match(line):
            section = found[1]
            lines.append(f"**{section}**\n")
        elif section == "Example" or not section:
            lines.append(line)
        elif entry := _ENTRY.match(line):
            names = ", ".join(f"`{each}`" for each in entry[1].split(", "))
            lines.append(f"- {names}: {entry[2]}")
        else:
            lines.append(line.removeprefix("    ") if line.strip() else "")
    text = re.sub(r":\w+:`([^`]+)`", r"`\1`", "\n".join(lines))
    return re.sub(r"``([^`]*)``", r"`\1`", text) + "\n"


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        sys.stdout.write(page())
