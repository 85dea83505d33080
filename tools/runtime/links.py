"""Folders linked into other folders, on every platform."""

import sys
from pathlib import Path


def link_folder(target: Path, link: Path) -> None:
    """Make `link` point to the folder `target`, in place of a link to something else.

    Raises:
        FileExistsError: `link` is a real file or folder.
    """
    target = target.resolve()
    if link.is_symlink() or _is_junction(link):
        if link.resolve() == target:
            return
        link.rmdir() if _is_junction(link) else link.unlink()
    elif link.exists():
        raise FileExistsError(f"{link} is in the way of the link to {target}: move it away and run this again.")
    link.parent.mkdir(parents=True, exist_ok=True)
    if sys.platform == "win32":
        # A junction needs no administrator, a symbolic link does.
        import _winapi

        _winapi.CreateJunction(str(target), str(link))
    else:
        link.symlink_to(target, target_is_directory=True)


def _is_junction(path: Path) -> bool:
    return sys.platform == "win32" and path.exists() and path.resolve() != path.absolute()
