"""Memory that is taken for pictures whose headers declare too much: the growth of a process's peak, each in one of its own.

    python benchmarks/reliability/declared_size.py [--out docs/declared_size.json]

All are to be refused, with less than 20 MB taken; beside them the largest picture that is read, for comparison.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

from bad_pictures import chunk, png, promising
from script import script_parser, write_json

from offramp.data.pictures import MOST_PIXELS

MOST_MB = 20.0

MEASURED = """
import sys
from pathlib import Path
from offramp.data.labels import LabelCode
from offramp.data.pictures import load_image
from offramp.errors import InputError
from offramp.profiling import peak_memory_bytes
what, path, small = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
read = load_image if what == "image" else LabelCode({0: 0}, {}).decode
read(small)
before = peak_memory_bytes()
try:
    read(path)
    refused = 0
except InputError:
    refused = 1
print(refused, peak_memory_bytes() - before)
"""


def black(side: int) -> bytes:
    """A whole PNG of one bit a pixel: few bytes, however large."""
    return png((side, side), bytes(side * (1 + -(-side // 8))), depth=1, colour=0)


def packed_text(megabytes: int) -> bytes:
    """A PNG with so much text in a few bytes."""
    return png((8, 8), bytes(8 * 25), before=[chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(megabytes << 20), 9))])


def measure(what: str, content: bytes) -> tuple[bool, float]:
    """Whether a file was refused, and by how many MB the peak grew."""
    with tempfile.TemporaryDirectory() as folder:
        path, small = Path(folder) / "x.png", Path(folder) / "small.png"
        path.write_bytes(content)
        small.write_bytes(black(8))
        words = [sys.executable, "-c", MEASURED, what, str(path), str(small)]
        refused, grown = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
    return refused == "1", int(grown) / 1e6


def main() -> None:
    """Measure all; exit code 1 if one was read, or took memory."""
    options = script_parser(__doc__).parse_args()
    kinds, sides = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "PPM"), (12_000, 60_000)
    files = {
        **{f"image, {kind}, {side}x{side} declared": promising(kind, side) for kind in kinds for side in sides},
        "image, PNG, 12000x12000, whole": black(12_000),
        "label, PNG, 12000x12000, whole": black(12_000),
        "label, PNG, 60000x60000 declared": promising("PNG", 60_000),
        "image, PNG with 256 MB of text": packed_text(256),
    }
    found = {name: measure(name.partition(",")[0], content) for name, content in files.items()}
    read = {what: measure(what, black(int(MOST_PIXELS**0.5)))[1] for what in ("image", "label")}
    wrong = [name for name, (refused, grown) in found.items() if not refused or grown > MOST_MB]
    for name, (refused, grown) in found.items():
        print(f"{name}: {'refused' if refused else 'READ'}, {grown:.1f} MB")
    for what, grown in read.items():
        print(f"{what} of {MOST_PIXELS // 1_000_000} million pixels, one bit each: read, {grown:.0f} MB")
    print(f"{len(found)} files, wrong: {len(wrong)}")
    values = {
        "benchmark": "declared_size",
        "most_pixels": MOST_PIXELS,
        "files": len(found),
        "largest_growth_mb": round(max(grown for _, grown in found.values()), 1),
        "read_at_the_limit_mb": {what: round(grown) for what, grown in read.items()},
        "wrong": wrong,
    }
    write_json(options.out, values)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
