"""The snippets of the pages in docs/, which the scenarios use as a user does."""

import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def section(page, heading):
    """Returns the text of a page between a heading and the next one."""
    below = rf"^#+ {heading}\n(.*?)(?=^#+ |\Z)"
    [text] = re.findall(below, (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)
    return text


def snippet(page, heading, number=0):
    """Returns a code block below a heading of a page, by its number."""
    return re.findall(r"^```\w+\n(.*?)^```$", section(page, heading), re.MULTILINE | re.DOTALL)[number]


def filled(text, names):
    """Replaces names, ports and URLs in a text. Each of them must occur."""
    for name in names:
        assert name in text, f"there is no {name} in {text}"
    longest_first = sorted(map(re.escape, names), key=len, reverse=True)
    return re.sub("|".join(longest_first), lambda found: str(names[found.group()]), text) if names else text


def shell(script, **environment):
    """Runs the commands of a page as a user does, and returns their output."""
    ran = subprocess.run(
        ["bash", "-euc", script], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )
    if ran.returncode:
        raise AssertionError(f"{script}\nexit code {ran.returncode}: {ran.stdout}{ran.stderr}")
    return ran.stdout
