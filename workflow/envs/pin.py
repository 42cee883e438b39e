"""Set the versions in the environments beside this file to those of requirements.lock: python workflow/envs/pin.py"""

import re
from pathlib import Path

HERE = Path(__file__).parent
PIN = re.compile(r"(?P<name>[A-Za-z0-9_.-]+)==(?P<version>\S+)")


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, str]:
    lines = (HERE.parents[1] / "requirements.lock").read_text()
    return {normalise(match["name"]): match["version"] for match in PIN.finditer(lines)}


def pinned(environment: str, versions: dict[str, str]) -> str:
    """The text of an environment file with every pip version replaced; KeyError for a package not in the lock."""
    return PIN.sub(lambda match: f"{match['name']}=={versions[normalise(match['name'])]}", environment)


if __name__ == "__main__":
    for file in HERE.glob("*.yaml"):
        file.write_text(pinned(file.read_text(), locked()))
