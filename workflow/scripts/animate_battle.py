"""An animated GIF -> the same pictures as an animated PNG, which Snakemake's report shows in place."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageSequence

from dm2core.errors import EXIT_USAGE, guarded
from dm2core.records.files import write_atomic


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gif", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="the animation, .png")
    args = parser.parse_args(argv)
    try:
        opened = Image.open(args.gif, formats=["GIF"])
    except OSError:
        print(f"--gif {args.gif}: no GIF that can be read", file=sys.stderr)
        return EXIT_USAGE
    with opened as gif:
        colours = gif.getpalette("RGB")
        assert colours is not None  # a GIF has one
        palette = Image.new("P", (1, 1))
        palette.putpalette(colours)
        frames, durations = [], []
        for frame in ImageSequence.Iterator(gif):
            durations.append(frame.info["duration"])
            frames.append(frame.convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE))
    buffer = io.BytesIO()
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:], duration=durations, loop=0)
    write_atomic(args.out, buffer.getvalue())
    return 0


if __name__ == "__main__":
    raise SystemExit(guarded(main))
