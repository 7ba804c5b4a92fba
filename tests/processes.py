"""What this process holds, and whether another one runs, as the kernel tells it. Linux only: all of it is read from `/proc`.

Whatever stands there may go between two reads: a process, a thread of ours, a descriptor. What has gone counts as gone.
"""

from __future__ import annotations

from pathlib import Path


def descriptors() -> set[str]:
    """What this process has open, as `number -> target` strings."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.add(f"{entry.name} -> {entry.readlink()}")
        except OSError:
            continue  # closed meanwhile, as the one that listed the folder
    return found


def children() -> set[str]:
    """The children of this process, zombies included, as `pid name` strings."""
    found = set()
    for thread in Path("/proc/self/task").iterdir():
        try:
            pids = (thread / "children").read_text().split()
        except OSError:
            continue  # an idle thread has ended; its children are another one's now
        for pid in pids:
            try:
                found.add(f"{pid} {Path('/proc', pid, 'comm').read_text().strip()}")
            except OSError:
                continue  # reaped meanwhile
    return found


def runs(pid: int) -> bool:
    """Whether the process has not ended. A zombie has, and is its parent's to reap."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"
