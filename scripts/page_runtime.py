"""Bring what the explorer's page computes with: onnxruntime-web, from the npm registry into src/vaekit/export/page/ort.

It is not part of the repository. `make web` and the build of a wheel run this; it needs npm, and nothing else.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VERSION = "1.30.0"
SHA512 = (
    "ab4cbe26baedba45d2cec05610c71c55fa97db92d19a8b171c5f8269126683ca"
    "590a5cdc57bb2f35ce2b298de32f4d956fb42644c0ecd528a0a91e025c07ca61"
)
PLACE = Path(__file__).parent.parent / "src" / "vaekit" / "export" / "page" / "ort"
# Under names that every server gives the type of JavaScript for, which not all do for .mjs.
FILES = {
    "package/dist/ort.wasm.min.mjs": "ort.js",
    "package/dist/ort-wasm-simd-threaded.mjs": "ort-wasm-simd-threaded.js",
    "package/dist/ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
}


def main() -> int:
    """Bring the files, unless they are there; 1 and one line where that cannot be."""
    if (PLACE / "VERSION").is_file() and (PLACE / "VERSION").read_text().strip() == VERSION:
        return 0
    npm = shutil.which("npm")
    if npm is None:
        print("the explorer's page needs npm to be built: install Node.js (on Debian: apt-get install npm)")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        print(f"bringing onnxruntime-web {VERSION} for the explorer's page, by npm", flush=True)
        options = ["--loglevel", "error", "--fetch-retries", "0", "--fetch-timeout", "60000"]
        command = [npm, "pack", f"onnxruntime-web@{VERSION}", *options, "--pack-destination", folder]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            print(f"npm could not bring onnxruntime-web {VERSION}: {' '.join(done.stderr.split())}")
            return 1
        (archive,) = Path(folder).glob("*.tgz")
        if hashlib.sha512(archive.read_bytes()).hexdigest() != SHA512:
            print(f"onnxruntime-web {VERSION} from npm is not the file that vaekit was made with; nothing is kept")
            return 1
        PLACE.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as files:
            for member, name in FILES.items():
                found = files.extractfile(member)
                assert found is not None
                (PLACE / name).write_bytes(found.read())
    (PLACE / "VERSION").write_text(f"{VERSION}\n")  # last: what is there is whole
    print(f"onnxruntime-web {VERSION} is in {PLACE.relative_to(Path(__file__).parent.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
