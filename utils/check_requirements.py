"""Tell whether this Python has exactly the pinned packages of requirements files (exit status 0: yes, 1: no).

    python3 -I utils/check_requirements.py requirements.txt

Reads package metadata only; nothing is imported, so it takes a tenth of a second. Lines understood are `name==version`,
with a marker such as `; python_version < "3.13"` behind, and comments. A local part (`2.11.0+cpu`) is not compared.
"""

import re
import sys
from importlib import metadata

LINE = re.compile(r'([A-Za-z0-9._-]+)==([^\s;]+)\s*(?:;\s*python_version\s*(<|>=)\s*["\'](\d+)\.(\d+)["\'])?$')


def read_pins(path):
    """Return [(name, version)] of the lines that hold for this Python. Raises: ValueError for other lines."""
    pins = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            line = line.split("#")[0].strip()
            if not line:
                continue
            match = LINE.match(line)
            if not match:
                raise ValueError(f"{path}:{number}: expected name==version, not {line!r}")
            name, version, sign, major, minor = match.groups()
            below = sign is None or (sys.version_info[:2] < (int(major), int(minor))) == (sign == "<")
            if below:
                pins.append((name, version))
    return pins


def problems(paths):
    """List what is missing or has another version, one string each."""
    found = []
    for path in paths:
        for name, version in read_pins(path):
            try:
                have = metadata.version(name).split("+")[0]
            except metadata.PackageNotFoundError:
                have = "not installed"
            if have != version:
                found.append(f"{name}=={version} ({have})")
    return found


if __name__ == "__main__":
    try:
        wrong = problems(sys.argv[1:])
    except (OSError, ValueError) as error:
        sys.exit(f"check_requirements.py: {error}")
    print(*wrong, sep="\n", end="\n" if wrong else "")
    sys.exit(1 if wrong else 0)
