"""Files of controls: JSON keeps all, CSV points, units and meta, and what is broken is named."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierwave.controls.files import document_of, read_control_file, write_control_file
from tierwave.controls.schema import Parameter, Schema
from tierwave.controls.tables import is_manifest, manifest_text, read_manifest, read_schema, schema_text
from tierwave.controls.tracks import Track, resample_track
from tierwave.errors import RunError, UsageError

NUMBERS = st.integers(-(2**60), 2**60) | st.floats()
NAMES = st.sampled_from(["rmse", "a, b", 'say "hi"', "#meta", "#x", "two\nlines", " spaced ", "\r", "größe", "a=b"])
POINTS = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=4)
CURVES = st.dictionaries(NAMES, st.tuples(POINTS, st.sampled_from([None, "hertz", "a, b"])), max_size=4)


def parammanager(path: Path, document: Any) -> bytes:
    """A file as paramManager writes it."""
    text = json.dumps(document, indent=4)
    path.write_text(text, encoding="utf-8")
    return path.read_bytes()


def same(first: Any, second: Any) -> bool:
    """Equality of JSON, with NaN equal to itself, and 1, 1.0 and true apart."""
    return json.dumps(first) == json.dumps(second)


EXAMPLE = {
    "meta": {"filename": "x.wav", "nested": {"list": [1, 2.0, None], "text": 'Größe, "quoted"\n'}},
    "fill": {"times": [0.0, 9.6], "values": [0.1, 0.9], "units": "norm", "nvals": 0, "minval": 0, "maxval": 1},
    'a, "b"': {"times": [0, 1.0, 5e-324], "values": [1, 1.0, math.nan], "units": None, "maxval": None},
    "empty": {"times": [], "values": [], "units": None},
    "no curve": {"times": 3},
}


# ---- round trips -----------------------------------------------------------------------------------------------------


def test_json_is_written_as_it_was_read_and_csv_says_what_it_leaves_out(tmp_path: Path) -> None:
    original = parammanager(tmp_path / "x.params", EXAMPLE)
    file = read_control_file(tmp_path / "x.params")
    write_control_file(tmp_path / "y.params", file.document)
    assert (tmp_path / "y.params").read_bytes() == original
    write_control_file(tmp_path / "x.csv", file.document)
    back = read_control_file(tmp_path / "x.csv").document
    assert file.not_in_csv() == ["maxval", "minval", "nvals", "empty", "no curve"]
    assert list(back) == ["meta", "fill", 'a, "b"'] and back["meta"] == EXAMPLE["meta"]
    assert back["fill"] == {"times": [0.0, 9.6], "values": [0.1, 0.9], "units": "norm"}
    # A plain reader of CSV sees comments, then a table.
    with open(tmp_path / "x.csv", encoding="utf-8", newline="") as text:
        rows = [row for row in csv.reader(text) if not row[0].startswith("#")]
    assert rows[:3] == [["name", "time", "value"], ["fill", "0.0", "0.1"], ["fill", "9.6", "0.9"]]
    assert ['a, "b"', "5e-324", "NaN"] in rows


@given(CURVES, st.none() | st.dictionaries(st.text(max_size=3), NUMBERS | st.text(max_size=3), max_size=3))
def test_points_units_and_meta_survive_csv(
    tmp_path_factory: pytest.TempPathFactory, curves: dict, meta: dict | None
) -> None:
    document: dict[str, Any] = {} if meta is None else {"meta": meta}
    for name, (points, unit) in curves.items():
        times, values = (list(column) for column in zip(*points, strict=True))
        document[name] = {"times": times, "values": values, **({} if unit is None else {"units": unit})}
    path = tmp_path_factory.mktemp("files") / "x.csv"
    write_control_file(path, document)
    assert same(read_control_file(path).document, document)


def test_a_csv_of_the_version_before_is_read_for_its_points(tmp_path: Path) -> None:
    above = '#newline,crlf\n#meta,"{""gestures"": true}"\n#param,p,"{""nvals"": 2}"\n#json,"{""x"": 3}"\n'
    text = above + "name,time,value\np,0,1\n"
    file = read_control_file(written(tmp_path / "x.csv", text))
    assert file.document == {"meta": {"gestures": True}, "p": {"times": [0], "values": [1]}}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"times": [0, 1], "values": ["low", 1]}, 'has "low" among its values'),
        ({"times": [0, 1], "values": [5]}, "has 2 times but 1 values: a CSV cannot hold that"),
    ],
)
def test_curves_that_no_csv_can_hold_are_named(tmp_path: Path, entry: dict, message: str) -> None:
    with pytest.raises(RunError, match=message):
        write_control_file(tmp_path / "x.csv", {"p": entry})
    assert not (tmp_path / "x.csv").exists()


@given(
    st.lists(st.tuples(st.floats(0, 60), st.floats(-1e6, 1e6)), min_size=1, max_size=12), st.sampled_from([8.0, 125.0])
)
def test_either_file_gives_the_same_float32_curve(
    tmp_path_factory: pytest.TempPathFactory, points: list[tuple[float, float]], rate: float
) -> None:
    folder = tmp_path_factory.mktemp("files")
    track = Track.from_events("x", sorted(points, key=lambda pair: pair[0]))
    for name in ("x.params", "x.csv"):
        write_control_file(folder / name, document_of({"x": track}, {"x": {"units": "hertz"}}))
    expected = resample_track(track, rate, 50)
    for path in (folder / "x.params", folder / "x.csv"):
        np.testing.assert_array_equal(resample_track(read_control_file(path).track("x"), rate, 50), expected)


# ---- reading ---------------------------------------------------------------------------------------------------------


def written(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def test_wide_tables_blank_cells_and_comments(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", '# made by hand\r\nrmse,time,"a, b"\r\n.5,0,1\r\n\r\n,0.5,2\r\n+1e-1,1.,\r\n')
    tracks = read_control_file(path).tracks()
    assert list(tracks) == ["rmse", "a, b"]
    assert (tracks["rmse"].times.tolist(), tracks["rmse"].values.tolist()) == ([0, 1], [0.5, 0.1])
    assert (tracks["a, b"].times.tolist(), tracks["a, b"].values.tolist()) == ([0, 0.5], [1, 2])


def test_long_tables_by_hand(tmp_path: Path) -> None:
    path = written(tmp_path / "x.csv", '\ufeffvalue, name ,time\n64,p,0\n1,"a, b",0\n70,p,0.5\n76,p,0.5\n')
    tracks = read_control_file(path).tracks()
    assert list(tracks) == ["p", "a, b"]
    assert tracks["p"].at([0.25, 0.5, 9]).tolist() == [67, 76, 76]  # a repeated time is a step
    assert tracks["a, b"].is_constant and tracks["a, b"].source == str(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no table"),
        ("# only a comment\n", "has no table"),
        ("name|time|value\np|0|1\n", "columns are separated by commas, semicolons or tabs"),
        (
            "name;time;value\np;0,5;1.5\n",
            "line 2 of .* has .0,5., where a number is needed: write decimals with a point",
        ),
        ("filename,p\nx.wav,64\n", "is a manifest of many sounds"),
        ("control,when,what\n", "a file of curves has the header name,time,value"),
        ("name,time,value\np,0,0,5\n", "line 2 of .* has 4 cells, not 3: put names with commas in quotes"),
        ("name,time,value\np,0\n", "line 2 of .* has 2 cells, not 3"),
        ("name,time,value\np,0,1\np,zero,2\n", "line 3 of .* has 'zero', where a number is needed"),
        ("name,time,value\np,0,1_0\n", "'1_0', where a number"),
        ("name,time,value\np,0,\u0661\n", "where a number"),
        ("name,time,value\np,0,\np,1,2\n", "line 2 of .* has no time or no value for p"),
        ("name,time,value\np,0,1\np,,2\n", "line 3 of .* has no time or no value for p"),
        ("name,time,value\np,,\n", "line 2 of .* has no time or no value for p"),
        ("name,time,value\nmeta,0,1\n", "has a control named meta"),
        ("time,p,p\n0,1,2\n", "every column needs a name of its own"),
        ("time,p\n,1\n", "line 2 of .* has '', where a number is needed"),
        ("time,p\n0,1,2\n", "has 3 cells, not 2"),
        ('name,time,value\n"p,0,1\n', "is not CSV at line"),
        ("#meta,{broken\nname,time,value\n", "line 1 of .* cannot be read"),
        ("#meta\nname,time,value\n", "line 1 of .* cannot be read"),
        ("#units,q=hertz\nname,time,value\np,0,1\n", "has a unit for 'q', of which it has no points"),
        ("#units,hertz\nname,time,value\np,0,1\n", "write NAME=UNIT behind #units"),
    ],
)
def test_broken_tables_are_named_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RunError, match=message) as error:
        read_control_file(written(tmp_path / "x.csv", text))
    assert str(tmp_path / "x.csv") in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"is empty \(paramManager leaves such files"),
        ('{"a": 1,}', "is not JSON .*--lenient"),
        ('{"a": [1, 2}', "is not JSON"),
        ("[1]", "holds no object"),
        ('{"p": {}, "q": {}, "p": {}}', 'has the key "p" twice'),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_broken_json_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RunError, match=message) as error:
        read_control_file(written(tmp_path / "x.params", text))
    assert str(tmp_path / "x.params") in str(error.value)


def test_files_that_are_no_text_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "x.params").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(RunError, match="x.params is not UTF-8"):
        read_control_file(tmp_path / "x.params")
    for name in ("none.csv", "none.params"):
        with pytest.raises(UsageError, match=f"there is no control file .*{name}"):
            read_control_file(tmp_path / name)
    with pytest.raises(UsageError, match="is a folder"):
        read_control_file(tmp_path)


def test_lenient_repairs_and_says_so(tmp_path: Path) -> None:
    """The sample in paramManager's README has a trailing comma."""
    broken = '{"meta": {"text": "a,} stays",},\n "p": {"times": [0, 1, 2,], "values": [5, 6 , ]},\n}'
    file = read_control_file(written(tmp_path / "x.params", broken), lenient=True)
    assert file.document == {"meta": {"text": "a,} stays"}, "p": {"times": [0, 1], "values": [5, 6]}}
    assert [remark.split(str(tmp_path / "x.params"))[1] for remark in file.remarks] == [
        " had 4 commas before a closing bracket: they were taken out",
        " has 3 times but 2 values: cut to 2",
    ]
    empty = read_control_file(written(tmp_path / "y.params", " \n"), lenient=True)
    assert empty.document == {} and "is empty" in empty.remarks[0]
    twice = read_control_file(written(tmp_path / "z.params", '{"p": 1, "p": 2}'), lenient=True)
    assert twice.document == {"p": 2} and "twice" in twice.remarks[0]
    both = read_control_file(written(tmp_path / "z.params", '{"a": {"p": 1, "p": 2}, "b": [1,]}'), lenient=True)
    assert both.document == {"a": {"p": 2}, "b": [1]} and len(both.remarks) == 2
    with pytest.raises(RunError, match="is not JSON"):
        read_control_file(written(tmp_path / "x.params", '{"p": [1,,2]}'), lenient=True)


def test_unequal_lengths_are_kept_reported_and_of_no_use(tmp_path: Path) -> None:
    path = tmp_path / "x.params"
    parammanager(path, {"p": {"times": [0, 1], "values": [5]}, "q": {"times": [0], "values": [1]}})
    file = read_control_file(path)
    assert "p in" in file.remarks[0] and "has 2 times but 1 values" in file.remarks[0]
    assert file.track("q").is_constant
    with pytest.raises(RunError, match="p in .*x.params has 2 times but 1 values"):
        file.track("p")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"times": [0, 1], "values": [5, None]}, "p in .* has null among its values"),
        ({"times": [0, "1"], "values": [5, 6]}, 'has "1" among its times'),
        ({"times": [0, 1], "values": [True, 6]}, "has true among its values"),
        ({"times": [0, 1], "values": [math.nan, 6]}, "p in .* holds nan at 0 s"),
        ({"times": [1, 0], "values": [5, 6]}, "goes back in time"),
        ({"times": [], "values": []}, "has no points"),
    ],
)
def test_curves_that_cannot_be_used_are_named(tmp_path: Path, entry: dict, message: str) -> None:
    parammanager(tmp_path / "x.params", {"p": entry})
    with pytest.raises(RunError, match=message):
        read_control_file(tmp_path / "x.params").track("p")


def test_what_files_declare(tmp_path: Path) -> None:
    parammanager(
        tmp_path / "x.params",
        {
            "a": {"times": [0], "values": [1], "units": "midiPitch", "nvals": 2.0, "minval": "null", "maxval": None},
            "b": {"times": [0], "values": [1], "units": "None", "nvals": 0, "minval": 0, "maxval": 1},
            "c": {"times": [0], "values": [1], "minval": "low"},
            "d": {"times": [0], "values": [1], "units": 3},
            "e": {"times": [0], "values": [1], "maxval": math.inf},
            "meta": {"times": [0], "values": [1]},
            "f": [1],
        },
    )
    file = read_control_file(tmp_path / "x.params")
    assert file.names == ["a", "b", "c", "d", "e"]
    assert file.declared("a") == {"units": "midiPitch", "nvals": 2}
    assert file.declared("b") == {"nvals": 0, "minval": 0, "maxval": 1}
    for name, message in (("c", "minval of c .* 'low'"), ("d", "units of d .* 3"), ("e", "maxval of e .* inf")):
        with pytest.raises(RunError, match=message):
            file.declared(name)


# ---- manifest --------------------------------------------------------------------------------------------------------


def test_manifest_of_the_spec(tmp_path: Path) -> None:
    path = written(tmp_path / "params.csv", "filename,instID,a,p\nnsynth_instID02.00_p76.00_a00.30.wav,2.0,0.3,76.0\n")
    assert is_manifest(path) and not is_manifest(tmp_path / "none.csv")
    manifest = read_manifest(path)
    assert manifest.rows == {"nsynth_instID02.00_p76.00_a00.30.wav": {"instID": 2.0, "a": 0.3, "p": 76.0}}
    assert manifest_text(manifest.rows) == path.read_text()


@given(
    st.dictionaries(
        st.text('ab/._, "', min_size=1, max_size=6)
        .map(lambda name: name + ".wav")
        .filter(lambda name: name == name.strip()),
        st.dictionaries(st.sampled_from(["p", "a, b", "#x"]), st.floats(allow_nan=False, allow_infinity=False)),
        max_size=4,
    )
)
def test_manifests_read_as_they_are_written(tmp_path_factory: pytest.TempPathFactory, rows: dict) -> None:
    rows = {name.removeprefix("./"): constants for name, constants in rows.items()}
    path = tmp_path_factory.mktemp("files") / "params.csv"
    path.write_bytes(manifest_text(rows).encode())
    assert read_manifest(path).rows == rows


def test_manifest_rows_are_found_by_path_by_name_and_without_suffix() -> None:
    from tierwave.controls.tables import Manifest

    manifest = Manifest(Path("m"), {"x/a.wav": {"p": 1.0}, "a.wav": {"p": 2.0}, "b": {"p": 3.0}})
    assert manifest.of("x/a.wav", "x/a") == {"p": 1.0}
    assert manifest.of("y/a.wav", "y/a") == {"p": 2.0}
    assert manifest.of("y/b.flac", "y/b") == {"p": 3.0}
    assert manifest.of("c.wav", "c") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("file,p\nx.wav,1\n", "a manifest has a column filename"),
        ("filename,p\nx.wav,high\n", "line 2 of .* has 'high', where a number"),
        ("filename,p\nx.wav,nan\n", "has nan for p: give a finite number"),
        ("filename,p\nx.wav,1e999\n", "has 1e999 for p"),
        ("filename,p\n,1\n", "line 2 of .* has no filename"),
        ("filename,p\nx.wav,1\nx.wav,2\n", "two rows for x.wav that differ, the second at line 3"),
        ("filename,p\nx.wav,1,2\n", "has 3 cells, not 2"),
        ("filename,p,p\nx.wav,1,2\n", "every column needs a name"),
    ],
)
def test_broken_manifests_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RunError, match=message):
        read_manifest(written(tmp_path / "params.csv", text))


def test_manifest_cells_may_be_blank_and_rows_repeated(tmp_path: Path) -> None:
    path = written(tmp_path / "params.csv", "filename,p,a\n./x\\y.wav,1, \nx/y.wav,1,\n")
    assert read_manifest(path).rows == {"x/y.wav": {"p": 1.0}}


# ---- as spreadsheets write them --------------------------------------------------------------------------------------


def saved(text: str, separator: str, ends: str, encoding: str) -> bytes:
    """A table of commas as a spreadsheet in another language saves it."""
    other = text if separator == "," else text.replace(".", "@").replace(",", separator).replace("@", ",")
    return other.replace("\n", ends).encode(encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_tables_are_read_as_any_spreadsheet_saves_them(
    tmp_path: Path, separator: str, ends: str, encoding: str
) -> None:
    def written_as(name: str, text: str) -> Path:
        (tmp_path / name).write_bytes(saved(text, separator, ends, encoding))
        return tmp_path / name

    manifest = written_as("params.csv", "filename,p,a\nflöte_wav,60.5,\nb_wav,-1.25e1,3\n")
    assert is_manifest(manifest)
    assert read_manifest(manifest).rows == {"flöte_wav": {"p": 60.5}, "b_wav": {"p": -12.5, "a": 3.0}}
    schema = read_schema(written_as("params_schema.csv", "name,lo,hi\np,0.5,2\n"))
    assert (schema.of("p").lo, schema.of("p").hi) == (0.5, 2.0)
    long = read_control_file(written_as("x.csv", "name,time,value\np,0,1.5\np,0.25,2\n"))
    wide = read_control_file(written_as("y.csv", "time,p\n0,1.5\n0.25,2\n"))
    for file in (long, wide):
        assert (file.track("p").times.tolist(), file.track("p").values.tolist()) == ([0.0, 0.25], [1.5, 2.0])
    if separator != ",":
        said = read_manifest(written_as("params.csv", "sep=,\n\nfilename,p\na_wav,60.5\n"))
        assert said.rows == {"a_wav": {"p": 60.5}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename;p\na.wav;60,5\nb.wav;1.5\n", "line 2 of .* has '60,5', where .* write decimals with a point"),
        ("filename;p\na.wav;1.234,5\n", "has '1.234,5', where .* write decimals with a point"),
        ('filename,p\na.wav,"60,5"\n', "line 2 of .* has '60,5', where .* write decimals with a point"),
        ("filename|p\na.wav|60\n", "separated by commas, semicolons or tabs"),
        ("filename;p\na.wav;60;1\n", "line 2 of .* has 3 cells, not 2"),
        ('filename;p\n"a.wav;60\n', "is not CSV at line"),
    ],
)
def test_tables_that_could_mean_several_things_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RunError, match=message):
        read_manifest(written(tmp_path / "params.csv", text))


def test_names_with_other_separators_stay_whole(tmp_path: Path) -> None:
    rows = {"a;b\tc;.wav": {"p;q;r;s": 1.5}}
    assert read_manifest(written(tmp_path / "params.csv", manifest_text(rows))).rows == rows


# ---- schema ----------------------------------------------------------------------------------------------------------

SPEC_SCHEMA = """\
name,order,units,nvals,minval,maxval,lo,hi,scale,interp,outside
instID,0,category,2,1,2,1,2,linear,previous,error
a,1,amplitude,0,0,1,0,1,linear,linear,clip
p,2,midiPitch,0,64,76,64,76,linear,linear,clip
"""


def test_schema_of_the_spec(tmp_path: Path) -> None:
    schema = read_schema(written(tmp_path / "params_schema.csv", SPEC_SCHEMA))
    assert schema.names == ("instID", "a", "p")
    assert schema.of("p") == Parameter(name="p", units="midiPitch", minval=64, maxval=76, lo=64, hi=76)
    assert schema_text(schema) == SPEC_SCHEMA


def test_schema_by_hand(tmp_path: Path) -> None:
    schema = read_schema(written(tmp_path / "x.csv", 'name,hi,lo,order,nvals\n"a, b",1,,2,\nq,,0.5,1,3.0\n'))
    assert schema.names == ("q", "a, b")
    assert (schema.of("q").interp, schema.of("q").nvals, schema.of("a, b").lo) == ("previous", 3, None)


FINITE = st.none() | st.floats(-1e9, 1e9)
PARAMETERS = st.builds(
    lambda name, units, nvals, ends, extremes, interp, outside: Parameter(
        name=name, units=units, nvals=nvals, lo=ends[0], hi=ends[1], interp=interp, outside=outside,
        minval=extremes[0], maxval=extremes[1],
    ),
    st.text(min_size=1, max_size=5).filter(lambda name: name.isprintable()),
    st.sampled_from([None, "category", "midiPitch", "parsec, or so"]),
    st.integers(0, 9),
    st.tuples(FINITE, FINITE),
    st.tuples(FINITE, FINITE).map(lambda pair: pair if None in pair or pair[0] <= pair[1] else pair[::-1]),
    st.sampled_from(["linear", "previous"]),
    st.sampled_from(["clip", "allow", "error"]),
)  # fmt: skip


@given(st.lists(PARAMETERS, max_size=4, unique_by=lambda parameter: parameter.name), st.booleans())
def test_schemas_read_as_they_are_written(
    tmp_path_factory: pytest.TempPathFactory, parameters: list[Parameter], named: bool
) -> None:
    if named:
        parameters.append(Parameter(name="<who>", categories=("a b", 'c "d", e')))
    schema = Schema(parameters=tuple(parameters))
    path = tmp_path_factory.mktemp("files") / "params_schema.csv"
    path.write_bytes(schema_text(schema).encode())
    assert read_schema(path) == schema
    assert Schema.from_document(json.loads(json.dumps(schema.to_document()))) == schema


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("lo,hi\n0,1\n", RunError, "a schema has a column name"),
        ("name,low\np,1\n", RunError, "has a column low, which a schema does not know; did you mean lo"),
        ("name,order\np,0\nq,0\n", RunError, "the same order"),
        ("name,lo\np,nan\n", RunError, "has nan for lo"),
        ("name,lo\np,low\n", RunError, "'low', where a number"),
        ("name,units\np,midipich\n", UsageError, "line 2 of .*x.csv: units .*did you mean midiPitch"),
        ("name,scale\np,cubic\n", UsageError, 'scale is "cubic"'),
        ("name,nvals\np,2.5\n", UsageError, "nvals is 2.5, but must be a whole number"),
        ("name\np\np\n", UsageError, "the control p stands twice"),
    ],
)
def test_broken_schemas_are_named(tmp_path: Path, text: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        read_schema(written(tmp_path / "x.csv", text))
