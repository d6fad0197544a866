"""What the tests of adapters share: they run where the package that they are for is installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

#: Test files, the package each needs, and how it is had.
NEEDS = {
    "test_plan.py": ("torch", "pip install torch"),
    "test_sglang.py": ("torch", "pip install torch"),
    "test_transformers.py": ("transformers", "pip install transformers accelerate"),
    "test_trl.py": ("trl", "python/test-vllm"),
    "test_vllm.py": ("vllm", "python/test-vllm"),
}

missing = {file: need for file, need in NEEDS.items() if importlib.util.find_spec(need[0]) is None}
collect_ignore = list(missing)


def pytest_report_header() -> list[str]:
    return [f"LEFT OUT: {file}, because {name} is not installed ({how})" for file, (name, how) in missing.items()]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            # What other packages warn of is not ours to fix.
            item.add_marker(pytest.mark.filterwarnings("default"))
