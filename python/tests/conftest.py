"""What the tests share: weights of every dtype, of PyTorch where it is installed and of NumPy everywhere."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

# What a shell starts in the background ignores Ctrl-C, and so would those that the tests press.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Processes that tests start find the package that is installed, not its sources beside the tests.
os.environ["PYTHONSAFEPATH"] = "1"

HAS_TORCH = importlib.util.find_spec("torch") is not None
KINDS = ["numpy", "torch"] if HAS_TORCH else ["numpy"]

#: Names of dtypes by safetensors and by NumPy or ml_dtypes.
DTYPES = {
    "BOOL": np.dtype("bool"),
    "U8": np.dtype("uint8"),
    "I8": np.dtype("int8"),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "I16": np.dtype("int16"),
    "U16": np.dtype("uint16"),
    "F16": np.dtype("float16"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I32": np.dtype("int32"),
    "U32": np.dtype("uint32"),
    "F32": np.dtype("float32"),
    "C64": np.dtype("complex64"),
    "F64": np.dtype("float64"),
    "I64": np.dtype("int64"),
    "U64": np.dtype("uint64"),
}


def as_kind(kind: str, array: np.ndarray[Any, Any]) -> Any:
    """A copy of the array as a tensor of this kind, bit for bit."""
    if kind == "numpy":
        return array.copy()
    import torch

    dtype = getattr(torch, array.dtype.name)
    flat = torch.frombuffer(bytearray(array.tobytes()), dtype=dtype) if array.size else torch.empty(0, dtype=dtype)
    return flat.reshape(array.shape)


def raw(tensor: Any) -> bytes:
    """The bytes of a tensor."""
    if isinstance(tensor, np.ndarray):
        return tensor.tobytes()
    import torch

    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


def all_raw(weights: Mapping[str, Any]) -> dict[str, bytes]:
    """The bytes of all tensors."""
    return {name: raw(tensor) for name, tensor in weights.items()}
