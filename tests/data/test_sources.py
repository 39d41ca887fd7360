import gzip
import json
import os

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from moesaic.data import HubDataset, JsonLines, MachineText, Parquet, TextFolder
from moesaic.errors import DataError

DOCUMENTS = ["one", "two\u2028with a line separator", "drei ß"]


def write_lines(path, rows):
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.fixture(params=["jsonl", "jsonl.gz", "parquet", "folder", "hub"])
def source(request, tmp_path):
    rows = [{"text": document, "number": 1} for document in DOCUMENTS]
    if request.param.startswith("jsonl"):
        return JsonLines(write_lines(tmp_path / f"rows.{request.param}", rows))
    if request.param == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
        return Parquet(tmp_path / "rows.parquet")
    if request.param == "hub":
        write_lines(tmp_path / "train.jsonl", rows)
        datasets.disable_progress_bars()
        return HubDataset(str(tmp_path))
    for number, document in enumerate(DOCUMENTS):
        (tmp_path / f"{number}.txt").write_text(document, encoding="utf-8")
    return TextFolder(tmp_path)


def test_every_source_gives_its_documents_in_order(source):
    assert list(source.documents()) == DOCUMENTS


def test_a_fingerprint_stays_the_same_and_changes_with_the_file(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [{"text": "one"}])
    before = JsonLines(path).fingerprint()
    assert JsonLines(path).fingerprint() == before
    stat = path.stat()
    write_lines(path, [{"text": "two"}])  # as long, and dated as before
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert JsonLines(path).fingerprint() != before


def test_a_fingerprint_stays_the_same_where_a_file_is_copied(tmp_path):
    rows = [{"text": "one"}]
    (tmp_path / "elsewhere").mkdir()
    first, second = (write_lines(folder / "rows.jsonl", rows) for folder in (tmp_path, tmp_path / "elsewhere"))
    os.utime(second, (0, 0))
    assert JsonLines(first).fingerprint() == JsonLines(second).fingerprint()


def fails(source):
    with pytest.raises(DataError) as error:
        list(source.documents())
    return str(error.value)


def test_a_missing_file_is_named(tmp_path):
    for source in (JsonLines(tmp_path / "no.jsonl"), Parquet(tmp_path / "no.parquet")):
        assert fails(source) == f"{source.path}: there is no such file."
    assert fails(TextFolder(tmp_path / "no")) == f"{tmp_path / 'no'}: there is no such folder."


def test_a_line_that_is_no_json_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "fine"}\n\n{"text": \n')
    assert fails(JsonLines(path)) == (
        f"{path}, line 3: this is no JSON (Expecting value at column 1). Write one JSON object a line."
    )


def test_a_line_without_the_field_is_named(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [{"text": "fine"}, {"body": "?", "id": 1}])
    assert fails(JsonLines(path)) == f"{path}, line 2: there is no field 'text'; there are body, id."


def test_a_field_that_is_no_text_is_named(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [{"text": 3}, [1]])
    assert fails(JsonLines(path)) == f"{path}, line 1: the field 'text' must be text, got 3."


def test_lines_of_other_domains_are_left_out(tmp_path):
    path = tmp_path / "mixed.jsonl"
    path.write_text('{"text": "a", "domain": "law"}\n{"text": "b", "domain": "news"}\n{"text": "c", "domain": "law"}\n')
    source = JsonLines(path, where={"domain": "law"})
    assert list(source.documents()) == ["a", "c"]
    assert source.fingerprint() != JsonLines(path).fingerprint()


def test_a_line_without_the_key_that_chooses_is_named(tmp_path):
    path = tmp_path / "mixed.jsonl"
    path.write_text('{"text": "a"}\n')
    with pytest.raises(DataError) as error:
        list(JsonLines(path, where={"domain": "law"}).documents())
    assert str(error.value) == f"{path}, line 1: there is no field 'domain'; there are text."


def test_a_line_that_is_no_object_is_named(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [[1]])
    assert fails(JsonLines(path)) == f"{path}, line 1: a line must be a JSON object, got list."


def test_bytes_that_are_no_utf8_are_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "caf\xe9"}\n')
    assert fails(JsonLines(path)) == f"{path}, line 1: byte 13 (0xe9) is no UTF-8. Convert the text to UTF-8."
    (tmp_path / "a.txt").write_bytes(b"\xff")
    assert fails(TextFolder(tmp_path)) == f"{tmp_path / 'a.txt'}: byte 0 (0xff) is no UTF-8. Convert the text to UTF-8."


def test_a_gzip_file_cut_short_is_named(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl.gz", [{"text": str(number)} for number in range(999)])
    path.write_bytes(path.read_bytes()[:-20])
    message = fails(JsonLines(path))
    assert message.startswith(f"{path}: this is no whole gzip file (")
    assert message.endswith("Copy or write it again.")


def test_a_parquet_file_cut_short_is_named(tmp_path):
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": DOCUMENTS}), path)
    path.write_bytes(path.read_bytes()[:-20])
    message = fails(Parquet(path))
    assert message.startswith(f"{path}: this is no whole Parquet file (")
    assert message.endswith("Copy or write it again.")


def test_a_parquet_file_without_the_column_is_named(tmp_path):
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"body": DOCUMENTS, "id": [1, 2, 3]}), path)
    assert fails(Parquet(path)) == f"{path}: there is no column 'text'; there are body, id."


def test_a_folder_without_a_matching_file_is_named(tmp_path):
    assert fails(TextFolder(tmp_path, "*.md")) == f"{tmp_path}: no file matches '*.md'. Give another folder or pattern."


def test_a_dataset_that_cannot_be_loaded_is_named(tmp_path):
    message = fails(HubDataset(str(tmp_path / "nothing")))
    assert message.startswith(f"Dataset '{tmp_path / 'nothing'}', split 'train': cannot be loaded (")


def test_a_dataset_without_the_column_is_named(tmp_path):
    write_lines(tmp_path / "train.jsonl", [{"body": "x"}])
    datasets.disable_progress_bars()
    assert fails(HubDataset(str(tmp_path))) == f"Dataset {str(tmp_path)!r}: there is no column 'text'; there are body."


@pytest.mark.parametrize("kind", ["python_source", "docstrings", "cpp_headers"])
def test_this_machine_has_text(kind):
    documents = MachineText(kind).documents()
    sample = [next(documents) for _ in range(200)]
    assert all(isinstance(document, str) for document in sample)
    assert sum(map(len, sample)) > 1000


def test_machine_text_falls_back_with_a_warning():
    with pytest.warns(UserWarning) as warnings:
        first = next(MachineText("messages", "tlh", fallback="python_source").documents())
    assert first == next(MachineText("python_source").documents())
    assert str(warnings[0].message) == (
        "This machine has less than 400,000 bytes of messages in tlh; reading python_source instead."
    )


def test_machine_text_without_a_fallback_is_refused():
    assert fails(MachineText("messages", "tlh")) == (
        "This machine has less than 400,000 bytes of messages in tlh. Choose another kind, or name one as fallback."
    )


def test_messages_need_a_language():
    assert fails(MachineText("messages")) == "Machine text of kind messages needs a language, such as de."
