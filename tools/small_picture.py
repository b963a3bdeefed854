"""Makes small copies of pictures, for the repository: `python tools/small_picture.py PNG... FOLDER`.

A palette does for a picture of lines and text. Pillow finds one by the colours that differ most, which keeps those that
tell lines apart though they are rare, and improves it by k-means, which keeps greys grey.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

if __name__ == "__main__":
    *pictures, folder = map(Path, sys.argv[1:])
    folder.mkdir(parents=True, exist_ok=True)
    for path in pictures:
        picture = Image.open(path).convert("RGB")
        picture = picture.resize((1200, round(1200 * picture.height / picture.width)), Image.Resampling.LANCZOS)
        small = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=4, dither=Image.Dither.NONE)
        small.save(folder / path.name, optimize=True)
        print(f"{folder / path.name}: {(folder / path.name).stat().st_size // 1024} KiB")
