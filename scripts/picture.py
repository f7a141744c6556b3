"""Draw what `make demo` prints as docs/demo.svg: python scripts/picture.py (after make demo, from the root)."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parent.parent


def demo_output() -> str:
    """What the demonstration prints, with the paths of this machine shortened."""
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/demo"
        done = subprocess.run(
            [sys.executable, "scripts/demo.py", out], capture_output=True, text=True, check=True, cwd=ROOT
        )
    return "$ make demo\n" + done.stdout.replace(folder, "out")


def main() -> None:
    """Write the picture."""
    console = Console(record=True, width=100, file=io.StringIO(), legacy_windows=False)
    for line in demo_output().rstrip().splitlines():
        console.print(Text(line, style="bold green" if line.startswith("$ ") else ""))
    picture = console.export_svg(title="neuronbert", clear=True)
    # The viewer's own fixed-width font will do; a picture shouldn't fetch anything.
    picture = re.sub(r"@font-face \{.*?\}\n", "", picture, flags=re.DOTALL)
    (ROOT / "docs" / "demo.svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
