"""A driver without a device: refuses on demand, keeps what is registered, and fails a test that breaks a rule."""

import mmap
from dataclasses import dataclass, field


@dataclass
class FakeDriver:
    """Refuses the calls whose numbers, from 0, `refuse` maps to a code."""

    attributes: dict[int, int] = field(default_factory=dict)
    refuse: dict[int, int] = field(default_factory=dict)
    largest: int = 512 << 20
    calls: list[tuple[int, int, int]] = field(default_factory=list)
    registered: dict[int, int] = field(default_factory=dict)  # address -> bytes

    def attribute(self, number: int) -> int:
        return self.attributes.get(number, 0)

    def register(self, address: int, nbytes: int, flags: int) -> int:
        number = len(self.calls)
        self.calls.append((address, nbytes, flags))
        assert nbytes > 0
        assert nbytes <= self.largest
        assert address % mmap.PAGESIZE == 0
        assert nbytes % mmap.PAGESIZE == 0
        assert mapped(address, nbytes)
        assert all(address + nbytes <= a or address >= a + n for a, n in self.registered.items())
        if number in self.refuse:
            return self.refuse[number]
        self.registered[address] = nbytes
        return 0

    def unregister(self, address: int) -> int:
        assert mapped(address, self.registered[address])  # before the memory is unmapped, else error 712 later
        del self.registered[address]
        return 0


def mapped(address: int, nbytes: int) -> bool:
    """Whether all of these bytes are mapped in this process."""
    at = address
    with open("/proc/self/maps") as maps:
        for line in maps:
            low, high = (int(text, 16) for text in line.split()[0].split("-"))
            if low <= at < high:
                at = high
            if at >= address + nbytes:
                return True
    return False
