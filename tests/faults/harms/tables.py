"""Parquet files that are valid, and hold something else. Arrow starts threads, so call it in a process of its own."""

from pathlib import Path
from random import Random

WAYS = ("remove", "rename", "text", "int", "null", "double", "shuffle", "plain", "none", "list", "twice")


def rewrite_parquet(seed: int, old: Path, new: Path) -> str:
    """Write a Parquet file anew with one thing changed; gives which."""
    import pyarrow as pa
    import pyarrow.parquet

    random = Random(seed)
    table = pa.parquet.read_table(old)
    name = random.choice(table.column_names)
    at = table.column_names.index(name)
    match random.choice(
        ["remove", "rename", "text", "int", "null", "double", "shuffle", "plain", "none", "list", "twice"]
    ):
        case "remove":
            table, what = table.drop_columns([name]), f"without {name}"
        case "rename":
            table, what = table.rename_columns([n + "_" * (n == name) for n in table.column_names]), f"{name} renamed"
        case "text":
            table, what = table.set_column(at, name, pa.array(["text"] * len(table))), f"{name} is text"
        case "int":
            table, what = table.set_column(at, name, pa.array([7] * len(table))), f"{name} is 7"
        case "null":
            table, what = table.set_column(at, name, pa.nulls(len(table), table.schema.types[at])), f"{name} is null"
        case "double":
            table, what = pa.concat_tables([table, table.slice(0, 5)]), "5 rows doubled"
        case "shuffle":
            table, what = table.take(random.sample(range(len(table)), len(table))), "rows shuffled"
        case "plain":
            table, what = table.replace_schema_metadata(None), "without metadata"
        case "none":
            table, what = table.slice(0, 0), "no rows"
        case "list":
            table, what = table.set_column(at, name, pa.array([[1]] * len(table))), f"{name} is lists"
        case _:
            table, what = table.append_column(name, table[name]), f"{name} twice"
    pa.parquet.write_table(table, new)
    return what
