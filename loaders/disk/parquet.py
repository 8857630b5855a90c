"""Parquet files that are read back.

Pages carry a CRC, which Arrow compares before it decodes them; what it builds is validated in full. A small table has a
`checksum` in its metadata too: SHA-256 over the names and values of its columns.
"""

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from loaders.disk.content import CHECKSUM, read_file
from loaders.errors import InputError, check_memory


def read_table(path: Path, cure: str) -> pa.Table:
    """A Parquet file, written here or elsewhere. Raises InputError where it cannot be read."""
    content = read_file(path, cure)
    try:
        # By this thread: Arrow waits for ever for threads that the system does not give it.
        file = pq.ParquetFile(pa.BufferReader(content), pre_buffer=False, page_checksum_verification=True)
        table = file.read(use_threads=False)
        table.validate(full=True)
        _ = table.column_names  # may be no text
    except (OSError, pa.ArrowException, ValueError, OverflowError) as error:
        check_memory(error)
        what = f"not a readable Parquet file ({' '.join(str(error).split())[:200]})"
        raise InputError(str(path), what, cure) from error
    return table


def table_content(table: pa.Table) -> bytes:
    """The content of a file of a table, with its checksum."""
    sink = pa.BufferOutputStream()
    table = table.replace_schema_metadata({CHECKSUM: _checksum(table)})
    pq.write_table(table, sink, write_page_checksum=True)
    return sink.getvalue().to_pybytes()


def read_checked(path: Path, cure: str) -> pa.Table:
    """A file that `table_content` wrote, or one without a checksum. Raises InputError where it is damaged or edited."""
    table = read_table(path, cure)
    expected = (table.schema.metadata or {}).get(CHECKSUM.encode())
    if expected is not None and expected != _checksum(table).encode():
        raise InputError(str(path), "its checksum differs: it is damaged, or was edited", cure)
    return table


def _checksum(table: pa.Table) -> str:
    # Not over types: Parquet names the items of lists anew.
    return hashlib.sha256(repr(table.to_pydict()).encode(errors="replace")).hexdigest()
