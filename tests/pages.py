"""What stands in the documentation: its pages, their fenced blocks, the commands in them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELLS = ("bash", "sh", "shell", "console")


def fences(page: Path) -> list[tuple[str, str]]:
    """(language, text) of every fenced block, from top to bottom; also of those inside a list."""
    text = page.read_text(encoding="utf-8")
    return re.findall(r"^ *```(\w*)\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE)


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of these languages."""
    return [text for language, text in fences(page) if language in languages]


def command_lines(text: str) -> list[str]:
    """Commands of a shell text as they are typed: one each, without comments and prompts."""
    lines = re.sub(r"\\\n", " ", text).splitlines()
    parts = (part for line in lines for part in re.sub(r"(?<!\S)#.*", "", line).split("&&"))
    return [part for part in (part.strip().removeprefix("$ ") for part in parts) if part]


def shell_commands(page: Path) -> list[str]:
    """Every command of the page's shell blocks, from top to bottom."""
    return [line for block in blocks(page, *SHELLS) for line in command_lines(block)]
