"""Run the code of a tutorial from start to end and print what it prints.

    python docs/tutorials/run.py sensors             # in a temporary folder
    python docs/tutorials/run.py sensors --figures   # also copy its figures beside the page

The data are written by make_NAME.py first. Blocks marked ``python`` are executed in order, in one session. Other blocks are commands, output,
or code that needs a package which polyvae does not require.
"""

import argparse
import contextlib
import os
import re
import runpy
import shutil
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent


def page_of(name):
    return (HERE / f"{name}.md").read_text()


def blocks(page):
    """Each executed block, and the output that the page shows below it ("" if it shows none)."""
    found = re.findall(r"```(\w*)\n(.*?)```", page, re.DOTALL)
    after = [*found[1:], ("", "")]
    return [(code, shown if kind == "text" else "") for (mark, code), (kind, shown) in zip(found, after) if mark == "python"]


def run(name, folder, shorten=lambda code: code):
    """Yield, for each block, what it prints and what the page shows."""
    script = HERE / f"make_{name}.py"
    if script.exists():
        runpy.run_path(str(script))["main"](folder)
    names, before, path = {}, os.getcwd(), list(sys.path)
    os.chdir(folder)
    sys.path.insert(0, str(HERE))
    try:
        for code, shown in blocks(page_of(name)):
            out = open("printed.txt", "w+")
            with out, contextlib.redirect_stdout(out):
                exec(compile(shorten(code), f"{name}.md", "exec"), names)
                out.seek(0)
                printed = out.read()
            yield printed, shown
    finally:
        os.chdir(before)
        sys.path[:] = path


def main():
    reader = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    reader.add_argument("name")
    reader.add_argument("--figures", action="store_true")
    given = reader.parse_args()
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        for printed, _ in run(given.name, Path(folder)):
            print(printed, flush=True)
        if given.figures:
            for picture in Path(folder).glob("*.png"):
                shutil.copy(picture, HERE)
    print(f"{time.process_time() - start:.0f} processor seconds", file=sys.stderr)


if __name__ == "__main__":
    main()
