"""Faults in writing, injected into this process: the n-th write, fsync or rename fails, is cut short, or is the last thing done."""

import builtins
import errno
import io
import os
import signal
from dataclasses import dataclass

OPERATIONS = ("write", "fsync", "rename")
KINDS = ("error", "full", "short", "kill before", "kill after")


@dataclass
class Fault:
    """What goes wrong: at the `number`-th (from 1) `operation`.

    kind: `error` (EIO, once); `full` (half of the write, then ENOSPC from there on); `short` (every write takes half of
    what it is given, as the kernel may); `kill before` and `kill after` (SIGKILL; a killed write has written half).
    """

    operation: str
    kind: str
    number: int

    def __post_init__(self):
        self.count, self.fired = 0, False

    def due(self, operation):
        """Count an operation. Returns: whether this is the one."""
        self.count += operation == self.operation
        is_due = operation == self.operation and self.count == self.number
        self.fired = self.fired or is_due
        return is_due

    def strike(self, what):
        """Fail or die. Args: what: function that does the operation."""
        if self.kind == "kill after":
            what()
        if self.kind.startswith("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        code = errno.ENOSPC if self.kind == "full" else errno.EIO
        raise OSError(code, os.strerror(code))

    def is_full(self):
        return self.kind == "full" and self.fired


class FaultyFile(io.FileIO):
    """A raw file whose writes are subject to `fault`."""

    fault = None

    def write(self, data):
        fault, half = self.fault, memoryview(data)[: max(1, len(data) // 2)]
        if fault.due("write") and fault.kind != "short":
            fault.strike(lambda: super(FaultyFile, self).write(half))
        if fault.is_full():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(half if fault.kind == "short" else data)


def install(fault):
    """Subject every file this process opens for writing from now on, every fsync and every rename to `fault`."""
    FaultyFile.fault = fault
    plain_open = builtins.open

    def open_faulty(file, mode="r", buffering=-1, encoding=None, errors=None, newline=None, **more):
        if not set(mode) & set("wax+"):
            return plain_open(file, mode, buffering, encoding, errors, newline, **more)
        raw = FaultyFile(file, mode.replace("b", "").replace("t", ""))
        buffered = io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

    def wrapped(operation, function):
        def call(*args, **options):
            if fault.due(operation) and fault.kind != "short":
                fault.strike(lambda: function(*args, **options))
            if fault.is_full() and operation == "fsync":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*args, **options)

        return call

    builtins.open = io.open = os.fdopen = open_faulty
    os.fsync = wrapped("fsync", os.fsync)
    os.replace, os.rename = wrapped("rename", os.replace), wrapped("rename", os.rename)
