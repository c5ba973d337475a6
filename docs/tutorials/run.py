"""Run the code of a tutorial from start to end and print what it prints.

    python docs/tutorials/run.py sensors            # in a temporary folder
    python docs/tutorials/run.py sensors --write    # also put what was printed, and the figures, into the page

The data are written by make_NAME.py first. Blocks marked ``python`` are executed in order, in one session; a block ``text`` below one is
what it prints. Other blocks are commands, or code that needs a package which polyvae does not require.
"""

import argparse
import contextlib
import io
import os
import re
import runpy
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATA = {"scvi_users": "citeseq", "mofa_users": "multiomics"}  # pages that use the data of another
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)


def page_of(name):
    return HERE / f"{name}.md"


def run(name, folder, shorten=lambda code: code, names=None):
    """Yield what each block prints, and what the page shows below it ("" if it shows nothing)."""
    runpy.run_path(str(HERE / f"make_{DATA.get(name, name)}.py"))["main"](folder)
    names, before, path = {} if names is None else names, os.getcwd(), list(sys.path)
    os.chdir(folder)
    sys.path.insert(0, str(HERE))  # where the functions that draw the figures are
    try:
        for code, shown in BLOCK.findall(page_of(name).read_text()):
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(shorten(code), f"{name}.md", "exec"), names)
            yield out.getvalue(), shown
    finally:
        os.chdir(before)
        sys.path[:] = path


def written(page, outputs):
    """The page with these outputs in its blocks ``text``."""
    left = iter(outputs)

    def one(found):
        printed = next(left)
        return f"```python\n{found[1]}```" + ("" if found[2] is None else f"\n\n```text\n{printed}```")

    return BLOCK.sub(one, page)


def small(picture):
    """The picture in 64 colours, so that its file is small."""
    from PIL import Image

    return Image.open(picture).convert("RGB").quantize(64)


def main():
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("name")
    reader.add_argument("--write", action="store_true")
    given = reader.parse_args()
    start, outputs = time.process_time(), []
    with tempfile.TemporaryDirectory() as folder:
        for printed, _ in run(given.name, Path(folder)):
            outputs.append(printed)
            print(printed, flush=True)
        if given.write:
            page = page_of(given.name)
            page.write_text(written(page.read_text(), outputs))
            for picture in Path(folder).glob("*.png"):
                small(picture).save(HERE / picture.name, optimize=True)
    print(f"{time.process_time() - start:.0f} processor seconds", file=sys.stderr)


if __name__ == "__main__":
    main()
