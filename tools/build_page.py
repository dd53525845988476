"""Build the explorer's page from explorer/, or check that the committed one is current.

    python tools/build_page.py           writes src/qkv/explorer/page/index.html
    python tools/build_page.py --check   also checks the types, and fails on any difference

Without Node.js it says in one line that the page was not rebuilt, and ends well: the built file is
committed, so that nobody needs Node.js to use it.
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
BUILT = ROOT / "src" / "qkv" / "explorer" / "page" / "index.html"
OLDEST = (20, 19)  # that Vite runs on


def find_npm() -> str | None:
    """Return the path of npm; None, with a line of explanation, if it or Node.js is missing."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        print("Node.js is not installed: the explorer's page was not rebuilt.")
        return None
    said = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
    version = tuple(map(int, re.findall(r"\d+", said)[:2]))
    if version < OLDEST:
        print(f"Node.js is {said.strip()}, older than 20.19: the explorer's page was not rebuilt.")
        return None
    return npm


def build(npm: str, folder: Path, *, check: bool) -> bytes:
    """Install the locked packages, build the page into a folder, and return it."""
    quiet = ["--silent", "--no-audit", "--no-fund"]
    commands = [["ci", *quiet], *([["run", "--silent", "check"]] if check else [])]
    commands.append(["run", "--silent", "build", "--", "--logLevel=warn", f"--outDir={folder}"])
    for command in commands:
        subprocess.run([npm, *command], cwd=SOURCE, check=True)
    return (folder / "index.html").read_bytes()


def main() -> int:
    """Build the page and write it, or compare it with the committed one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    npm = find_npm()
    if npm is None:
        return 0
    with tempfile.TemporaryDirectory() as folder:
        page = build(npm, Path(folder), check=check)
    if not check:
        BUILT.parent.mkdir(exist_ok=True)
        BUILT.write_bytes(page)
        print(f"{BUILT.relative_to(ROOT)}: {len(page) / 1000:.1f} kB")
    elif not BUILT.is_file() or BUILT.read_bytes() != page:
        print(f"{BUILT.relative_to(ROOT)} is not what explorer/ builds: python tools/build_page.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
