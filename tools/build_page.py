"""Build the explorer's page and widget from explorer/, or check that the committed files are so.

    python tools/build_page.py           writes index.html and widget.js in src/qkv/explorer/page
    python tools/build_page.py --check   also checks the types, and fails on any difference

Without Node.js it says in one line that they were not rebuilt, and ends well: the built files are
committed, so that nobody needs Node.js to use them.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "explorer"
PAGE = ROOT / "src" / "qkv" / "explorer" / "page"
FILES = {"index.html": "build", "widget.js": "build:widget"}  # built by these scripts of npm
OLDEST = (20, 19)  # that Vite runs on


def find_npm() -> str | None:
    """Return the path of npm; None, with a line of explanation, if it or Node.js is missing."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        print("Node.js is not installed: the explorer's page and widget were not rebuilt.")
        return None
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    version = tuple(map(int, re.findall(r"\d+", said)[:2]))
    if version < OLDEST:
        print(f"Node.js is {said.strip()}, older than 20.19: page and widget were not rebuilt.")
        return None
    return npm


def build(npm: str, folder: Path, *, check: bool) -> dict[str, bytes]:
    """Install the locked packages, build into a folder, and return the files by name."""
    quiet = ["--silent", "--no-audit", "--no-fund"]
    commands = [["ci", *quiet], *([["run", "--silent", "check"]] if check else [])]
    into = ["--", "--logLevel=warn", f"--outDir={folder}", "--emptyOutDir=false"]
    commands += [["run", "--silent", script, *into] for script in FILES.values()]
    for command in commands:
        subprocess.run([npm, *command], cwd=SOURCE, check=True)
    return {name: (folder / name).read_bytes() for name in FILES}


def main() -> int:
    """Build the files and write them, or compare them with the committed ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    npm = find_npm()
    if npm is None:
        return 0
    with tempfile.TemporaryDirectory() as folder:
        files = build(npm, Path(folder), check=check)
    for name, content in files.items():
        path = PAGE / name
        if not check:
            PAGE.mkdir(exist_ok=True)
            path.write_bytes(content)
            print(f"{path.relative_to(ROOT)}: {len(content) / 1000:.1f} kB")
        elif not path.is_file() or path.read_bytes() != content:
            print(f"{path.relative_to(ROOT)} is not what explorer/ builds: tools/build_page.py")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
