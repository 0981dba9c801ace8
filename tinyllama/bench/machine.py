"""What the figures were measured on."""

import importlib.metadata
import importlib.util
import platform
from pathlib import Path

from tinyllama.backends.threads import cores, memory_bytes

PACKAGES = ("numpy", "numba", "torch")


def describe_machine():
    """{"processor", "cores", "memory_bytes", "system", "python", and the version of each package that is there}."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES if importlib.util.find_spec(name)}
    return {"processor": _processor(), "cores": cores(), "memory_bytes": memory_bytes(),
            "system": f"{platform.system()} {platform.machine()}", "python": platform.python_version(), **versions}


def _processor():
    """Its name, as far as the system says."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
