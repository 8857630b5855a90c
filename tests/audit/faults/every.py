"""Every planted fault. A new one is an entry of its file's list."""

from tests.audit.faults.fault import Fault
from tests.audit.faults.selection import FAULTS_OF_SELECTION

FAULTS: list[Fault] = [*FAULTS_OF_SELECTION]
