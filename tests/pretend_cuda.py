"""A CUDA device without a GPU: tensors that say ``cuda:0``, are computed on the CPU, and count who waits.

What torch would do on a device is known from the operation: copies to and from ordinary memory, reading a
number, and operations whose result has a length that depends on values, wait until the device has caught up.
"""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import contextmanager

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import clip_grad
from torch.utils import _foreach_utils as foreach
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

CUDA, CPU = torch.device("cuda:0"), torch.device("cpu")
_aten = torch.ops.aten
_COPIES = (_aten._to_copy.default, _aten.copy_.default)
_READS = {
    _aten._local_scalar_dense.default,
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten.bincount.default,
    _aten.equal.default,
    _aten._unique2.default,
    _aten.unique_dim.default,
    _aten.unique_consecutive.default,
    _aten._linalg_eigh.default,
    _aten.repeat_interleave.Tensor,
}
_INDEXED = (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default)


class OnDevice(Tensor):
    """A tensor of the pretended device around the real one on the CPU."""

    @staticmethod
    def __new__(cls, real):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            real.shape,
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            device=CPU,  # what C++ sees: its engine would look for a driver behind a real "cuda:0"
            requires_grad=False,
        )

    def __init__(self, real):
        self.held = real

    @property
    def device(self):
        return CUDA

    def cpu(self):
        return self.to(CPU)

    def tolist(self):
        return self.to(CPU).tolist()

    def to(self, *args, **kwargs):
        """C++ would find that a move to the CPU changes nothing."""
        if args and isinstance(args[0], Tensor):
            args = (args[0].device, args[0].dtype)
        device = next((a for a in (*args, kwargs.get("device")) if isinstance(a, (str, torch.device))), CUDA)
        if torch.device(device).type == "cuda":
            rest = [a for a in args if not isinstance(a, (str, torch.device))]
            kwargs.pop("device", None)
            return super().to(*rest, **kwargs) if rest or kwargs else self
        return torch.ops.aten._to_copy.default(self, device=CPU)

    def __repr__(self):
        return f"OnDevice{tuple(self.shape)}"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} was called on the pretended device outside of pretend_cuda()")


class _Pretend(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.waits = Counter()
        self.pinned = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        given = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        there = [tensor for tensor in given if isinstance(tensor, OnDevice)]
        asked = kwargs.get("device")
        device = CUDA if there else CPU
        if asked is not None:
            # C++ takes "cpu" from a tensor that it believes to be there.
            stays = there and func is not _aten._to_copy.default
            device = CUDA if stays or torch.device(asked).type == "cuda" else CPU
            kwargs["device"] = CPU
        if func in _COPIES:
            self._copy(func, args, kwargs, device)
        elif there:
            self._operate(func, args, given)
        pins = kwargs.pop("pin_memory", False)
        with no_dispatch():
            out = func(*tree_map(_real, args), **tree_map(_real, kwargs))
        if pins:
            self.pinned.add(out.untyped_storage().data_ptr())
        if device == CPU or func is _aten._local_scalar_dense.default:
            return out
        wrapped = tree_map(lambda leaf: OnDevice(leaf) if isinstance(leaf, Tensor) else leaf, out)
        return return_and_correct_aliasing(func, args, kwargs, wrapped) if there else wrapped

    def _copy(self, func, args, kwargs, device):
        source, target = (args[1], _device(args[0])) if func is _aten.copy_.default else (args[0], device)
        if _device(source) == target:
            return
        free = kwargs.get("non_blocking", False) or (
            func is _aten.copy_.default and len(args) > 2 and args[2]
        )
        if free and source.untyped_storage().data_ptr() in self.pinned:
            return
        self._wait(func)

    def _operate(self, func, args, given):
        indices = [index for index in args[1] if index is not None] if func in _INDEXED else []
        if func in _READS or any(i.dtype == torch.bool or _device(i) == CPU for i in indices):
            self._wait(func)
        strangers = [t for t in given if _device(t) == CPU and t.ndim and not any(t is i for i in indices)]
        if strangers:
            raise RuntimeError(
                f"{func}: all tensors must be on one device, got {strangers[0].shape} on the CPU"
            )

    def _wait(self, what):
        frame = sys._getframe(2)
        while frame is not None and "/dtme_search/" not in frame.f_code.co_filename:
            frame = frame.f_back
        place = "tests"
        if frame is not None:
            place = f"{frame.f_code.co_filename.rpartition('dtme_search/')[2]}:{frame.f_lineno}"
        self.waits[f"{place} {what}"] += 1


def _real(leaf):
    return leaf.held if isinstance(leaf, OnDevice) else leaf


def _device(tensor):
    return CUDA if isinstance(tensor, OnDevice) else CPU


_apply = torch.nn.Module._apply


def _apply_by_swapping(module, function, recurse=True):
    """Else a moved parameter keeps its Python object, which is none of ours."""
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        return _apply(module, function, recurse)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


@contextmanager
def pretend_cuda(monkeypatch):
    """Inside, device ``cuda`` works; gives a ``Counter`` of waits by place and operation."""
    mode = _Pretend()
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "synchronize", lambda *_: mode._wait("synchronize"))
        patch.setattr(torch.cuda, "mem_get_info", lambda *_: (8e9, 8e9))
        group = foreach._group_tensors_by_device_and_dtype

        def renamed(*args):
            return {(CUDA, dtype): rows for (_, dtype), rows in group(*args).items()}

        for module in (foreach, clip_grad):
            patch.setattr(module, "_group_tensors_by_device_and_dtype", renamed)
        patch.setattr(torch.nn.Module, "_apply", _apply_by_swapping)
        # The mode for fake tensors is what lets torch name a device that is not there.
        with FakeTensorMode(allow_non_fake_inputs=True), mode:
            yield mode.waits
