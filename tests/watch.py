"""File events below a folder, through Linux's inotify: what appears there, and log lines that are written."""

import ctypes
import os
import select
import struct
import time
from pathlib import Path

MODIFY, MOVED_TO, CREATE, IS_FOLDER = 0x2, 0x80, 0x100, 0x40000000
HEAD = struct.Struct("iIII")


class FileEvents:
    """Watches a folder and all folders below it, new ones included.

    Events are paths of files that were created or renamed, and of `.log` files that were written to.
    """

    def __init__(self, root):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.handle = self.libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        self.folders = {}
        self.watch(str(root))

    def watch(self, folder):
        """Watch a folder. Returns: files in it that were there already, folders below watched too."""
        number = self.libc.inotify_add_watch(self.handle, os.fsencode(folder), MODIFY | MOVED_TO | CREATE)
        if number < 0:
            return []  # gone already
        self.folders[number] = folder
        found = []
        try:
            for entry in os.scandir(folder):
                found += self.watch(entry.path) if entry.is_dir(follow_symlinks=False) else [entry.path]
        except FileNotFoundError:
            pass
        return found

    def next(self, timeout_s):
        """Wait for events. Returns: list of paths, empty when none came within `timeout_s`."""
        end_s, found = time.monotonic() + timeout_s, []
        while not found and (left_s := end_s - time.monotonic()) > 0:
            if select.select([self.handle], [], [], left_s)[0]:
                found = self.read()
        return found

    def read(self):
        data, place, found = os.read(self.handle, 1 << 16), 0, []
        while place < len(data):
            number, mask, _, length = HEAD.unpack_from(data, place)
            name = os.fsdecode(data[place + HEAD.size : place + HEAD.size + length].rstrip(b"\0"))
            place += HEAD.size + length
            path = str(Path(self.folders.get(number, ""), name))
            if mask & IS_FOLDER:
                found += self.watch(path)
            elif not mask & MODIFY or name.endswith(".log"):
                found.append(path)
        return found

    def close(self):
        os.close(self.handle)
