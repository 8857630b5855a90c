"""The few calls of NVIDIA's driver that lock host memory, so that a device may read it.

The driver itself is called and not the runtime: a refused call of the runtime leaves an error pending, which the next
call of torch then reports as its own (as out of memory, say). The driver only returns its code.
"""

import ctypes
from dataclasses import dataclass
from typing import Protocol

import torch

READ_ONLY_REGISTRATION = 113  # attribute: read-only mappings may be registered
PORTABLE, DEVICE_MAP, READ_ONLY = 0x01, 0x02, 0x08  # flags of a registration

_NAMES = {
    1: "invalid value",
    2: "out of memory",
    201: "invalid context",
    712: "already registered",
    713: "not registered",
    800: "not permitted",
    801: "not supported",
}


class Driver(Protocol):
    """What locking needs. Calls give the driver's code, 0 for success."""

    def attribute(self, number: int) -> int:
        """A device attribute; 0 where the driver does not know it."""
        ...

    def register(self, address: int, nbytes: int, flags: int) -> int:
        """Lock whole pages and map them for the device."""
        ...

    def unregister(self, address: int) -> int:
        """Release what was registered at that address; it must still be mapped."""
        ...


def describe(code: int) -> str:
    """A driver's code in words, such as `801 not supported`."""
    return f"{code} {_NAMES.get(code, 'see cuda.h')}"


@dataclass(frozen=True)
class CudaDriver:
    """The machine's driver, for one device whose context is current."""

    library: ctypes.CDLL
    device: int

    def attribute(self, number: int) -> int:
        value = ctypes.c_int(0)
        self.library.cuDeviceGetAttribute(ctypes.byref(value), ctypes.c_int(number), ctypes.c_int(self.device))
        return value.value

    def register(self, address: int, nbytes: int, flags: int) -> int:
        code: int = self.library.cuMemHostRegister_v2(
            ctypes.c_void_p(address), ctypes.c_size_t(nbytes), ctypes.c_uint(flags)
        )
        return code

    def unregister(self, address: int) -> int:
        code: int = self.library.cuMemHostUnregister(ctypes.c_void_p(address))
        return code


def pci_address(device: torch.device) -> str:
    """The PCI address of a CUDA device, such as `0000:3b:00.0`."""
    driver = open_driver(device)
    text = ctypes.create_string_buffer(32)
    driver.library.cuDeviceGetPCIBusId(text, ctypes.c_int(32), ctypes.c_int(driver.device))
    return text.value.decode()


def open_driver(device: torch.device) -> CudaDriver:
    """The driver for a CUDA device; makes torch's context current in this thread."""
    torch.cuda.synchronize(device)
    index = torch.cuda.current_device() if device.index is None else device.index
    return CudaDriver(ctypes.CDLL("libcuda.so.1"), index)
