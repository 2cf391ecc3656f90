"""Paths in the files of a data folder: what lies in the same work folder is named relative to the data folder.

A path that begins with ./ or ../ is relative to the folder of the file it stands in, so that a work folder may be moved or
copied as a whole. Any other relative path is relative to the working directory, as in Kaldi; paths out of the work folder
are absolute. Standard library only.
"""

import os
import re
import shlex

from steps.core.cli import say

# Of a data folder.
PATH_FILES = ("wav.scp", "feats.scp")
# Levels between a folder and its work folder, at most.
DEPTH = 6


def work_folder(folder: str | os.PathLike) -> str | None:
    """The folder that holds data/NAME and exp/NAME, for a folder that is one of these or lies below; None for others."""
    path = os.path.abspath(folder)
    for _ in range(DEPTH):
        above, name = os.path.split(path)
        top, kind = os.path.split(above)
        other = {"data": "exp", "exp": "data"}.get(kind)
        if other and os.path.isdir(os.path.join(top, other, name)):
            return top
        path = above
    return None


def is_command(value: str) -> bool:
    """Whether an entry of wav.scp is a command and no path."""
    return value.startswith("|") or value.endswith("|")


class Places:
    """The paths in the files of one folder: as they are written, and as they are opened.

    Args:   folder: a data folder, or one that holds other files with paths in them.
    Attributes: strays: folders out of here to which paths lead although this folder has the files itself: it was copied.
    """

    def __init__(self, folder: str | os.PathLike):
        self.given, self.folder, self.cwd = str(folder), os.path.abspath(folder), os.getcwd()
        self.strays: set[str] = set()
        self._ways: dict[str, str | None] = {}
        self._own: dict[str, str | None] = {}
        recipe_dir = os.path.dirname(self.folder)
        in_recipe = os.path.basename(os.path.dirname(recipe_dir)) == "data"
        self.root = work_folder(self.folder) or (recipe_dir if in_recipe else self.folder)
        self.roots = list(dict.fromkeys([self.root, os.path.realpath(self.root)]))
        # What the end of a path may lie below, had this folder another place once; and where that is now.
        self.anchors = {f"/data/{os.path.basename(recipe_dir)}/": recipe_dir} if in_recipe else {}
        self.anchors[f"/{os.path.basename(self.folder)}/"] = self.folder

    def written(self, path: str) -> str:
        """A path, or `file:offset`, as it is to be written."""
        if not path or is_command(path):
            return path
        folder, _, name = os.path.join(self.cwd, path).rpartition("/")
        if folder not in self._ways:
            self._ways[folder] = self._way_to(folder)
        if self._ways[folder] is not None:
            return f"{self._ways[folder]}/{name}"
        return os.path.abspath(path) if path.startswith(("./", "../")) else path

    def _way_to(self, folder):
        """Way from here to a folder, beginning with a dot; None for one out of the work folder."""
        for root in self.roots:
            if f"{folder}/".startswith(f"{root}/") and "/../" not in f"{folder}/":
                way = os.path.relpath(self.root + folder[len(root) :], self.folder)
                return way if way.startswith(".") else f"./{way}"
        return None

    def opened(self, value: str) -> str:
        """What is written, as it is to be opened; files of a copied folder are its own, and that is said once."""
        if is_command(value):
            return value
        if value.startswith(("./", "../")):
            return os.path.normpath(os.path.join(self.given, value))
        folder, _, name = value.rpartition("/")
        if folder not in self._own:
            self._own[folder] = self._own_folder(folder)
        own_folder = self._own[folder]
        own = os.path.join(own_folder, name) if own_folder else None
        if not own or not os.path.isfile(re.sub(r":\d+$", "", own)):
            return value
        if not self.strays:
            what = f"{self.given}: names files in {folder}, but was copied or moved from there; its own files are read"
            say(f"{what}; utils/fix_data_dir.py {shlex.quote(str(self.given))} writes the paths anew")
        self.strays.add(folder)
        return own

    def _own_folder(self, folder):
        """The folder here that a folder elsewhere was before this one was copied, or None."""
        if not folder.startswith("/") or any(f"{folder}/".startswith(f"{root}/") for root in self.roots):
            return None
        for anchor, place in self.anchors.items():
            _, found, rest = f"{folder}/".rpartition(anchor)
            if found and os.path.isdir(os.path.join(place, rest)):
                return os.path.join(place, rest).rstrip("/")
        if any(anchor.startswith("/data/") and anchor in f"{folder}/" for anchor in self.anchors):
            say(f"{self.given}: names files in {folder}, which is data of another work folder; those are read")
        return None
