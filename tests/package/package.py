"""The crates as they would be published: `cargo package`, the size of each package, and the files in it.

    python3 tests/package/package.py                 packages every crate and builds each from its package
    python3 tests/package/package.py CRATE …         the same for some crates, in one go: they may depend on each other
    python3 tests/package/package.py --list          packages nothing: looks at the lists of files and at the manifests

A package must have a README, both licences, a description, keywords and categories, no file that its crate does not need,
and 10 MiB at most (crates.io answers "max upload size is: 10485760" to a larger one). `atedm-tch` and `atedm-training` are
built with their default features; the first needs libtorch (tests/libtorch.sh).
"""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 10 * 1024 * 1024
NEEDED = ["Cargo.toml", "README.md", "LICENSE-APACHE", "LICENSE-MIT"]
EXPECTED = re.compile(
    r"(Cargo\.(toml|toml\.orig|lock)|README\.md|LICENSE-(APACHE|MIT)|build\.rs|\.cargo_vcs_info\.json"
    r"|(src|tests|examples|benches)/.+\.(rs|md|proptest-regressions))"
)
# What else is in a package, and why.
DATA = {
    "atedm": r"src/commands/report/page\.(css|js)",
    "atedm-candle": r"src/cuda/[a-z]+\.cuh?",
    "atedm-tch": r"src/packed\.cpp",
    "atedm-experiment": r"src/report/page\.(css|js)|fixtures/measures\.json",
    "atedm-core": r"tests/.+\.(json|toml)",
    "atedm-sdxl": r"data/clip/(merges\.bin|LICENSE|README\.md)",
    "atedm-shapes": r"(model_index|[a-z_0-9]+/[a-z_]+)\.json|[a-z_0-9]+/(merges\.txt|[a-z_]+\.safetensors(\.part-1)?)",
    "atedm-shapes-unet": r"diffusion_pytorch_model\.safetensors\.part-2",
}
FIELDS = ["description", "license", "readme", "repository", "keywords", "categories", "rust_version"]


def cargo(*arguments):
    """What `cargo` prints."""
    run = subprocess.run(["cargo", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if run.returncode != 0:
        sys.exit(f"cargo {' '.join(arguments)}: failed")
    return run.stdout


def published():
    """The metadata of every crate that is published, by name, and the folder that packages are built in."""
    metadata = json.loads(cargo("metadata", "--no-deps", "--format-version", "1", "--locked"))
    crates = {crate["name"]: crate for crate in metadata["packages"] if crate["publish"] != []}
    return crates, Path(metadata["target_directory"]) / "packages"


def faults(crate, files):
    """What is wrong with the manifest and the list of files of a crate."""
    name, folder = crate["name"], Path(crate["manifest_path"]).parent
    found = [f"no {field} in its manifest" for field in FIELDS if not crate.get(field)]
    found += [f"{file} is missing" for file in NEEDED if file not in files]
    data = re.compile(DATA.get(name, "(?!)"))
    found += [f"{file} is not expected" for file in files if not EXPECTED.fullmatch(file) and not data.fullmatch(file)]
    for licence in ("LICENSE-APACHE", "LICENSE-MIT"):
        if licence in files and (folder / licence).read_bytes() != (ROOT / licence).read_bytes():
            found.append(f"{licence} differs from the repository's")
    for dependency in crate["dependencies"]:
        if dependency.get("path") and dependency["req"] == "*" and dependency["kind"] != "dev":
            found.append(f"depends on {dependency['name']} without a version")
    return found


def packed(crate, files):
    """An estimate of the package's size: its files compressed one by one."""
    folder = Path(crate["manifest_path"]).parent
    return sum(len(gzip.compress((folder / file).read_bytes(), 6)) for file in files if (folder / file).is_file())


def forget(crates, target):
    """Deletes what earlier runs made of our crates. To cargo a published version never changes, so it would build the old one."""
    home = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
    for name, crate in crates.items():
        # Packages that depend on each other are in a registry without a host. The names of its folders begin with "-".
        kept = [*home.glob(f"registry/*/-*/{name}-{crate['version']}*"), *target.glob(f"debug/.fingerprint/{name}-*")]
        for path in kept:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def main(arguments):
    only_list = "--list" in arguments
    wanted = [argument for argument in arguments if argument != "--list"]
    crates, target = published()
    if unknown := sorted(set(wanted) - set(crates)):
        sys.exit(f"no crate that is published: {', '.join(unknown)}")
    names = wanted or sorted(crates)
    bad = 0
    for name in names:
        files = cargo("package", "--list", "--allow-dirty", "--package", name).splitlines()
        size = packed(crates[name], files)
        found = faults(crates[name], files)
        if size > LIMIT:
            found.append(f"{size} bytes compressed, above {LIMIT}")
        print(f"{name}: {len(files)} files, about {size / 1e6:.2f} MB")
        for fault in found:
            print(f"    {fault}")
        bad += len(found)
    if bad or only_list:
        return 1 if bad else 0
    forget(crates, target)
    options = [option for name in names for option in ("--package", name)]
    cargo("package", "--allow-dirty", "--locked", "--target-dir", str(target), *options)
    for name in names:
        package = target / "package" / f"{name}-{crates[name]['version']}.crate"
        size = package.stat().st_size
        print(f"{package.name}: {size} bytes")
        if size > LIMIT:
            print(f"    above {LIMIT}")
            bad += 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
