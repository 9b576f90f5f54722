"""Who is where in a run of SUMO: its FCD as a table, from Parquet, XML or CSV.

Of Parquet only what is asked for is read. XML and CSV have no index: they are read whole, and refused above a size.
Source: https://sumo.dlr.de/docs/Simulation/Output/FCDOutput.html
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol
from xml.parsers import expat

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from sdiff import storage
from sdiff.logs import arrow_file, expect_plain_xml, read_packed
from sdiff.logs.driving_log import BadRecord

FILES = ("fcd.parquet", "fcd.xml", "fcd.xml.gz", "fcd.csv", "fcd.csv.gz")
"""Names of the file in a run folder; where there are several, the first of these is read."""
TIME, ID, TYPE = "timestep_time", "vehicle_id", "vehicle_type"
NUMBERS = (TIME, "vehicle_x", "vehicle_y", "vehicle_angle", "vehicle_speed")
COLUMNS = {
    "timestep_time": pa.float64(),
    "vehicle_id": pa.string(),
    "vehicle_x": pa.float64(),
    "vehicle_y": pa.float64(),
    "vehicle_angle": pa.float64(),
    "vehicle_type": pa.string(),
    "vehicle_speed": pa.float64(),
}
MOST_TEXT_BYTES = 256 << 20
"""Of XML or CSV, unpacked: some two million rows."""


class Fcd(Protocol):
    """The rows of a run in order of time, in groups.

    Its methods raise BadRecord where the file is not as expected, StorageError where it cannot be reached.
    """

    @property
    def uri(self) -> str: ...

    @property
    def name(self) -> str: ...

    def groups(self) -> int:
        """How many groups of rows there are."""
        ...

    def read(self, columns: arrow_file.Columns, group: int) -> pa.Table:
        """Columns of one group."""
        ...

    def between(self, low_s: float, high_s: float) -> pa.Table:
        """All columns of the rows with low_s <= time < high_s [s]."""
        ...


def opened(run: str) -> Fcd:
    """The FCD of a run folder. Raises BadRecord where it has none, or one that cannot be used."""
    for name in FILES:
        uri = storage.join(run, name)
        if storage.exists(uri):
            return _Parquet(uri, name) if name.endswith(".parquet") else _Text(uri, name, _whole(uri, name))
    raise BadRecord(f"{run} has none of {', '.join(FILES)}; run sumo with --fcd-output fcd.parquet")


@dataclass(frozen=True)
class _Parquet:
    uri: str
    name: str

    def groups(self) -> int:
        count = 0

        def counted(about: pq.FileMetaData) -> Iterable[int]:
            nonlocal count
            count = about.num_row_groups
            return ()

        self._groups({name: COLUMNS[name] for name in (TIME, TYPE)}, counted)
        return count

    def read(self, columns: arrow_file.Columns, group: int) -> pa.Table:
        return self._groups(columns, lambda _: [group])

    def between(self, low_s: float, high_s: float) -> pa.Table:
        def overlapping(about: pq.FileMetaData) -> Iterable[int]:
            column = about.schema.to_arrow_schema().get_field_index(TIME)
            spans = [about.row_group(i).column(column).statistics for i in range(about.num_row_groups)]
            return [
                i for i, x in enumerate(spans) if x is None or not x.has_min_max or (x.min < high_s and x.max >= low_s)
            ]

        return _between(self._groups(COLUMNS, overlapping), low_s, high_s)

    def _groups(self, columns: arrow_file.Columns, groups: arrow_file.Groups) -> pa.Table:
        try:
            with storage.RangedFile(self.uri) as file:
                return arrow_file.parquet_groups(file, columns, self.name, groups)
        except BadRecord as error:
            raise _unlike(self.name, str(error)) from None


@dataclass(frozen=True)
class _Text:
    """XML or CSV: one group, which is in memory."""

    uri: str
    name: str
    table: pa.Table

    def groups(self) -> int:
        return 1

    def read(self, columns: arrow_file.Columns, group: int) -> pa.Table:
        return self.table.select(list(columns))

    def between(self, low_s: float, high_s: float) -> pa.Table:
        return _between(self.table, low_s, high_s)


def _between(table: pa.Table, low_s: float, high_s: float) -> pa.Table:
    return table.filter(pc.and_(pc.greater_equal(table[TIME], low_s), pc.less(table[TIME], high_s)))


def _unlike(name: str, reason: str) -> BadRecord:
    return BadRecord(
        f"{name} cannot be read ({reason}); expected SUMO's FCD with x, y, angle, type, speed, of a run in which "
        "somebody drives"
    )


def _whole(uri: str, name: str) -> pa.Table:
    """All rows of a file of XML or CSV."""
    try:
        data = read_packed(uri, MOST_TEXT_BYTES)
    except BadRecord as error:
        raise BadRecord(f"{name}: {error}; for a long run, use --fcd-output fcd.parquet") from None
    try:
        table = _of_xml(data) if ".xml" in name else _of_csv(data)
    except (BadRecord, pa.ArrowException, expat.ExpatError, KeyError, ValueError, LookupError) as error:
        raise _unlike(name, f"{'' if isinstance(error, BadRecord) else type(error).__name__} {error}"[:300]) from None
    if not table.num_rows:
        raise _unlike(name, "it has no rows")
    return table


def _of_xml(data: bytes) -> pa.Table:
    """<timestep time> with <vehicle> and <person>, of which each is a row."""
    number = {name: array("d") for name in NUMBERS}
    text = {name: array("i") for name in (ID, TYPE)}
    known: dict[str, dict[str, int]] = {name: {} for name in text}
    texts, numbers = ([(name, name.removeprefix("vehicle_")) for name in names] for names in (text, NUMBERS[1:]))
    root, time_s = "", np.nan

    def begin(tag: str, attributes: dict[str, str]) -> None:
        nonlocal root, time_s
        root = root or tag
        if tag == "timestep":
            time_s = float(attributes["time"])
        elif tag in ("vehicle", "person", "container"):
            number[TIME].append(time_s)
            for column, attribute in texts:
                text[column].append(known[column].setdefault(attributes[attribute], len(known[column])))
            for column, attribute in numbers:
                number[column].append(float(attributes[attribute]))

    expect_plain_xml(data)
    parser = expat.ParserCreate()  # an Element for each row takes twice as long
    parser.StartElementHandler = begin
    parser.Parse(data, True)
    if root != "fcd-export":
        raise BadRecord(f"its root is <{root}>, expected <fcd-export>")
    columns = {name: pa.array(np.frombuffer(values)) for name, values in number.items()}
    for name, codes in text.items():
        columns[name] = pa.DictionaryArray.from_arrays(
            pa.array(np.frombuffer(codes, np.int32)), pa.array(list(known[name]), pa.string())
        )
    return pa.table({name: columns[name] for name in COLUMNS})


def _of_csv(data: bytes) -> pa.Table:
    lines = data.count(b"\n")
    if lines > arrow_file.MOST_ROWS:
        raise BadRecord(f"it has {lines} lines, expected at most {arrow_file.MOST_ROWS}")
    names = pa.dictionary(pa.int32(), pa.string())
    convert = pacsv.ConvertOptions(
        include_columns=list(COLUMNS),
        column_types={name: names if pa.types.is_string(kind) else kind for name, kind in COLUMNS.items()},
        strings_can_be_null=True,
    )
    read = pacsv.ReadOptions(use_threads=False)
    table = pacsv.read_csv(pa.BufferReader(data), read, pacsv.ParseOptions(delimiter=";"), convert)
    return table.unify_dictionaries().combine_chunks()
