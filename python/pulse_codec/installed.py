"""Whether what an adapter is written for is installed, in a version that it knows."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from packaging.version import Version

__all__ = ["check_version"]


def check_version(name: str, supported: tuple[str, str], *distributions: str) -> None:
    """Raises `ImportError` unless one of the distributions, by any of whose names it is installed, is of a version from
    the first one supported to before the last.

    >>> from pulse_codec.installed import check_version
    >>> check_version("pip", ("1", "1000"), "pip")
    """
    low, high = supported
    needs = f"pulse_codec needs {name} from {low} to before {high}"
    for distribution in distributions:
        try:
            found = version(distribution)
        except PackageNotFoundError:
            continue
        # As a build of its own, or before its release, it is what it will be.
        if Version(low) <= Version(Version(found).base_version) < Version(high):
            return
        raise ImportError(f"{needs}; this is {found}")
    raise ImportError(f"{needs}; it is not installed")
