from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from adapters import yaml_source as ys
from domain.errors import OperatorError

FILE = Path("some/file.yml")


def parse(text: str, file: Path = FILE) -> ys.YamlMap:
    return ys.parse_map(text, file)


def refusal(text: str, file: Path = FILE) -> OperatorError:
    with pytest.raises(OperatorError) as caught:
        parse(text, file)
    return caught.value


REFUSED_FORMS = [
    # text, line:column, part of what, part of fix
    ("auto_close: 15:55\n", "1:13", "base 60", '"15:55"'),
    ("a:\n  - 12:00\n", "2:5", "base 60", '"12:00"'),
    ("a: 1\nb: 2\na: 3\n", "3:1", "duplicate key 'a', first at line 1", "keep one"),
    ("a:\n  b: 1\n  b: 2\n", "3:3", "duplicate key 'a.b'", "keep one"),
    ("symbol: NO\n", "1:9", "unquoted NO is a boolean", '"NO"'),
    ("veto: on\n", "1:7", "unquoted on is a boolean", "true or false"),
    ("veto: off\n", "1:7", "boolean", "true or false"),
    ("veto: yes\n", "1:7", "boolean", "true or false"),
    ("veto: True\n", "1:7", "boolean", "true or false"),
    ("NO: 1\n", "1:1", "boolean", '"NO"'),
    ("size: 010\n", "1:7", "not the number", '"010"'),
    ("size: 0x10\n", "1:7", "not the number", '"0x10"'),
    ("size: 1_000\n", "1:7", "not the number", '"1_000"'),
    ("a:\n\tb: 1\n", "2:1", "tab", "spaces"),
    ("a: 1\t\n", "1:5", "tab", "spaces"),
    ("a: &x 1\nb: *x\n", "1:4", "anchors", "in full"),
    ("a: !!python/object:os.system 1\n", "1:4", "tags", "in full"),
    ("<<: {a: 1}\n", "1:1", "merge keys", "in full"),
    ("? [a, b]\n: 1\n", "1:3", "a key must be a word", "key: value"),
    ("a: b: c\n", "1:5", "mapping values", "quote"),
    ("a: [1, 2\nb: 3\n", "2:2", "", "check indentation"),
    ("a: 1\n---\nb: 2\n", "2:1", "another document", "check"),
    ("a: 1\nb: \x00\n", "2:4", "not allowed", "remove"),
    ("- a\n", "1:1", "expected a mapping, got a list", "key: value"),
    ("just words\n", "1:1", "expected a mapping, got 'just words'", "key: value"),
]


@pytest.mark.parametrize(("text", "where", "what", "fix"), REFUSED_FORMS)
def test_each_trap_is_refused_where_it_stands(text: str, where: str, what: str, fix: str) -> None:
    error = refusal(text)
    assert error.where == f"{FILE}:{where}"
    assert what in error.what
    assert fix in error.fix
    assert error.exit_code == 78


ACCEPTED_SCALARS = [
    ("15", ys.as_whole, {"low": 0, "high": 99}, 15),
    ("-3", ys.as_whole, {"low": -9, "high": 9}, -3),
    ("0.00005", ys.as_decimal, {"low": Decimal(0), "high": Decimal(1)}, Decimal("0.00005")),
    ("5e-7", ys.as_decimal, {"low": Decimal(0), "high": Decimal(1)}, Decimal("5e-7")),
    ("1.10", ys.as_decimal, {"low": Decimal(0), "high": Decimal(2)}, Decimal("1.1")),
    ("true", ys.as_flag, {}, True),
    ("false", ys.as_flag, {}, False),
    ("6E", ys.as_text, {}, "6E"),
    ('"NO"', ys.as_text, {}, "NO"),
    ("'true'", ys.as_text, {}, "true"),
    ("2024-05-01", ys.as_text, {}, "2024-05-01"),
    ('"15:55"', ys.as_time, {}, "15:55"),
    ("1h", ys.as_choice, {"choices": ("1h", "1m")}, "1h"),
]


@pytest.mark.parametrize(("text", "reader", "options", "value"), ACCEPTED_SCALARS)
def test_a_reader_gives_exactly_what_is_written(text, reader, options, value) -> None:
    read = reader(parse(f"key: {text}\n").entries["key"], **options)
    assert read == value
    assert type(read) is type(value)


REFUSED_SCALARS = [
    ("ten", ys.as_whole, {"low": 1, "high": 9}, "expected a whole number, got 'ten'", "from 1 to 9"),
    ("1.0", ys.as_whole, {"low": 1, "high": 9}, "expected a whole number, got '1.0'", "from 1 to 9"),
    ('"7"', ys.as_whole, {"low": 1, "high": 9}, "expected a whole number, got the text '7'", "from 1 to 9"),
    ("", ys.as_whole, {"low": 1, "high": 9}, "expected a whole number, got nothing", "from 1 to 9"),
    ("10", ys.as_whole, {"low": 1, "high": 9}, "10 is out of range", "from 1 to 9"),
    ("[1]", ys.as_whole, {"low": 1, "high": 9}, "got a list", "from 1 to 9"),
    (".nan", ys.as_decimal, {"low": Decimal(0), "high": Decimal(1)}, "expected a number, got '.nan'", "0 to 1"),
    (".inf", ys.as_decimal, {"low": Decimal(0), "high": Decimal(1)}, "expected a number, got '.inf'", "0 to 1"),
    ("1.5", ys.as_decimal, {"low": Decimal(0), "high": Decimal(1)}, "1.5 is out of range", "0 to 1"),
    ("1", ys.as_flag, {}, "expected true or false, got '1'", "without quotes"),
    ('"true"', ys.as_flag, {}, "expected true or false, got the text 'true'", "without quotes"),
    ("6", ys.as_text, {}, "expected text, got '6'", '"6"'),
    ("true", ys.as_text, {}, "expected text, got 'true'", '"true"'),
    ("~", ys.as_text, {}, "got nothing", "after the colon"),
    ('" "', ys.as_text, {}, "empty", "between the quotes"),
    ("{a: 1}", ys.as_text, {}, "got a mapping", "after the colon"),
    ('"9:30"', ys.as_time, {}, "'9:30' is not a time", "HH:MM"),
    ('"24:00"', ys.as_time, {}, "is not a time", "HH:MM"),
    ("papr", ys.as_choice, {"choices": ("paper", "live")}, "expected paper or live, got 'papr'", "'paper'"),
    ("A", ys.as_list, {}, "expected a list, got 'A'", "[A, B]"),
    ("5", ys.as_map, {}, "expected a mapping, got '5'", "key: value"),
]


@pytest.mark.parametrize(("text", "reader", "options", "what", "fix"), REFUSED_SCALARS)
def test_a_reader_refuses_another_type_with_key_place_and_remedy(text, reader, options, what, fix) -> None:
    value = parse(f"top:\n  key: {text}\n").entries["top"]
    with pytest.raises(OperatorError) as caught:
        reader(ys.as_map(value).entries["key"], **options)
    assert caught.value.what.startswith("top.key: ")
    assert what in caught.value.what
    assert fix in caught.value.fix
    assert caught.value.where == f"{FILE}:2:{8 if text else 7}"


def test_an_unknown_key_is_refused_with_the_nearest_known_one() -> None:
    section = ys.as_map(parse("feed:\n  gatewy: x\n").entries["feed"])
    with pytest.raises(OperatorError) as caught:
        section.refuse_unknown(("gateway", "port"))
    assert caught.value.where == f"{FILE}:2:3"
    assert caught.value.what == "unknown key 'feed.gatewy'"
    assert caught.value.fix == "did you mean 'gateway'?"


def test_a_key_in_another_case_is_near_and_a_far_one_lists_all() -> None:
    assert ys.did_you_mean("es", ["ES", "NQ"]) == "did you mean 'ES'?"
    assert ys.did_you_mean("zzzz", ["NQ", "ES"]) == "one of: ES, NQ"


def test_a_missing_key_is_reported_at_its_mapping() -> None:
    with pytest.raises(OperatorError) as caught:
        ys.as_map(parse("a: 1\nfeed:\n  port: 1\n").entries["feed"]).require("gateway", fix="add it")
    assert (caught.value.where, caught.value.what) == (f"{FILE}:3:3", "feed.gateway is missing")


@pytest.mark.parametrize("text", ["", "# only a comment\n", "{}\n", "---\n...\n"])
def test_a_file_that_says_nothing_is_an_empty_mapping(text: str) -> None:
    assert parse(text).entries == {}


def test_overlays_merge_maps_replace_lists_and_keep_positions() -> None:
    base = parse("feed: {port: 1, gateway: a}\nsymbols: [A, B]\nmode: paper\n", Path("base.yml"))
    over = parse("feed:\n  port: 2\nsymbols: [C]\nclock:\n", Path("over.yml"))
    merged = ys.merge(base, over)
    feed = ys.as_map(merged.entries["feed"])
    assert {key: ys.as_text(v) if key == "gateway" else v.text for key, v in feed.entries.items()} == {
        "port": "2",
        "gateway": "a",
    }
    assert str(feed.entries["port"].at) == "over.yml:2:9"
    assert str(feed.entries["gateway"].at) == "base.yml:1:26"
    assert [ys.as_text(item) for item in ys.as_list(merged.entries["symbols"])] == ["C"]
    assert str(merged.entries["mode"].at) == "base.yml:3:7"


def test_a_section_whose_lines_are_all_comments_erases_nothing() -> None:
    merged = ys.merge(parse("feed: {port: 1}\n"), parse("feed:\n  # port: 2\n"))
    assert ys.as_whole(ys.as_map(merged.entries["feed"]).entries["port"], low=1, high=9) == 1


def test_json_is_read_with_tabs_and_surrogate_pairs_and_positions() -> None:
    document = parse('{\n\t"text": "\\ud83d\\ude00",\n\t"number": 1e1\n}', Path("x.json"))
    assert ys.as_text(document.entries["text"]) == "\N{GRINNING FACE}"
    assert ys.as_decimal(document.entries["number"], low=Decimal(0), high=Decimal(99)) == 10
    assert str(document.entries["number"].at) == "x.json:3:12"


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ('{"a" 1}', "1:6", "not valid JSON"),
        ('{\n "a": yes\n}', "2:7", "not valid JSON"),
        ('{"a": 1,\n "a": 2}', "2:2", "duplicate key 'a'"),
    ],
)
def test_json_errors_have_a_place(text: str, where: str, what: str) -> None:
    error = refusal(text, Path("x.json"))
    assert error.where == f"x.json:{where}"
    assert what in error.what


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    latin = tmp_path / "latin.yml"
    latin.write_bytes("name: Zürich\n".encode("latin-1"))
    for path, what in [(tmp_path / "absent.yml", "No such file"), (tmp_path, "directory"), (latin, "UTF-8")]:
        with pytest.raises(OperatorError, match=what) as caught:
            ys.read_map(path)
        assert caught.value.where == str(path)
