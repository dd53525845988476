"""Render the test digits of 40 fonts: src/qkv/data/sets/written_digits/fonts.png and fonts.json.

    for name in fonts-lato fonts-open-sans ...; do apt-get download $name; done
    for file in *.deb; do dpkg -x $file unpacked; done
    python tools/render_digits.py unpacked

The fonts are those of Debian packages; no model is trained on them. Each face draws five of the 200
images, and each digit is drawn 20 times: ten times dark on light, ten times light on dark.
"""

import argparse
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

FOLDER = Path(__file__).parents[1] / "src" / "qkv" / "data" / "sets" / "written_digits"
FACES = """
Lato-Regular OpenSans-Regular Roboto-Regular Cantarell-Regular Carlito-Regular
LiberationSans-Regular Cabin-Regular Quicksand-Regular Oxygen-Sans Andika-Regular Play-Regular
Jura-Regular Tuffy_Bold LeagueSpartan-Bold AveriaSansGWF-Regular Caladea-Regular
LiberationSerif-Regular EBGaramond12-Regular GFSDidot Vollkorn-Bold LinLibertine_R Gentium-R
RobotoSlab-Regular Prociono URWBookman-Demi FiraCode-Regular Inconsolata JetBrainsMono-Bold
LiberationMono-Regular NimbusMonoPS-Regular ComicNeue-Regular DancingScript-Regular Humor-Sans
Breip Rufscript010 KleeOne-Regular KaushanScript-Regular lobster LeckerliOne-Regular
BebasNeue-Regular
""".split()  # noqa: SIM905
WIDTH = 1_200  # pixels of the sheet


def glyph(font: Path, digit: int, degrees: float) -> Image.Image:
    """Return a digit, light on black, at 300 pixels per em, cut out."""
    image = Image.new("L", (900, 900))
    drawn = ImageFont.truetype(str(font), 300)
    ImageDraw.Draw(image).text((300, 300), str(digit), font=drawn, fill=255)
    image = image.rotate(degrees, Image.Resampling.BICUBIC)
    return image.crop(image.getbbox())


def render(font: Path, digit: int, rng: np.random.Generator, *, dark: bool) -> Image.Image:
    """Return a digit of 35 to 95 % of a canvas of 24 to 200 pixels, somewhere on it."""
    height = int(np.exp(rng.uniform(np.log(24), np.log(200))))
    width = int(np.clip(height * rng.uniform(0.7, 1.5), 24, 200))
    mask = glyph(font, digit, rng.uniform(-10, 10) if rng.random() < 0.6 else 0.0)
    share = rng.uniform(0.35, 0.95)
    scale = min(share * height / mask.height, 0.95 * width / mask.width)
    size = max(2, round(mask.width * scale)), max(2, round(mask.height * scale))
    mask = mask.resize(size, Image.Resampling.BOX)
    paper, ink = (255, 0) if rng.random() < 0.5 else (rng.integers(185, 256), rng.integers(0, 100))
    if not dark:
        paper, ink = 255 - paper, 255 - ink
    image = Image.new("L", (width, height), int(paper))
    place = [int(rng.integers(0, room + 1)) for room in (width - size[0], height - size[1])]
    image.paste(int(ink), (place[0], place[1]), mask)
    return spoil(image, rng)


def spoil(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Blur, add noise or compress three images of five."""
    kind = rng.choice(["blur", "noise", "jpeg", "none"], p=[0.2, 0.2, 0.2, 0.4])
    if kind == "blur":
        return image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.012 * image.height + 0.4)))
    if kind == "noise":
        noise = rng.normal(0, rng.uniform(3, 12), (image.height, image.width))
        pixels = np.asarray(image, dtype=float) + noise
        return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
    if kind == "jpeg":
        file = io.BytesIO()
        image.save(file, "JPEG", quality=int(rng.integers(30, 80)))
        return Image.open(file).convert("L")
    return image


def main() -> None:
    """Render all, and write the sheet and the index."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("fonts", type=Path, help="folder of the unpacked packages")
    found = {p.stem: p for p in parser.parse_args().fonts.rglob("*.[to]tf")}
    rng = np.random.default_rng(2026)
    faces = [*rng.permutation(FACES), *rng.permutation(FACES), *rng.permutation(FACES)[:20]]
    others = [face for face in FACES if face not in faces[80:]]
    faces += [*rng.permutation(FACES), *rng.permutation(FACES), *rng.permutation(others)]
    digits = np.concatenate([rng.permutation(np.arange(100) % 10) for _ in range(2)])
    rows, images = [], []
    left = top = below = 0
    for i, (face, digit) in enumerate(zip(faces, digits, strict=True)):
        split = "dark" if i < 100 else "light"
        image = render(found[face], int(digit), rng, dark=split == "dark")
        if left + image.width > WIDTH:
            left, top = 0, below
        box = [left, top, left + image.width, top + image.height]
        rows.append({"split": split, "digit": int(digit), "font": str(face), "box": box})
        images.append(image)
        left, below = box[2], max(below, box[3])
    sheet = Image.new("L", (WIDTH, below), 128)
    for row, image in zip(rows, images, strict=True):
        sheet.paste(image, row["box"][:2])
    sheet.save(FOLDER / "fonts.png", optimize=True)
    lines = ",\n".join(json.dumps(row) for row in rows)
    (FOLDER / "fonts.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
