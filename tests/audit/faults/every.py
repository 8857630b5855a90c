"""Every planted fault. A new one is an entry of its file's list."""

from tests.audit.faults.fault import Fault

FAULTS: list[Fault] = []
