"""Every format gives the same documents, says where each came from, and refuses what it cannot read whole."""

import gzip
import io
import json
import os
import sys
import tarfile
import types

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from attnengine.corpus.files import text_documents
from attnengine.corpus.sources import SourceOptions, documents_of, read_corpus
from attnengine.errors import CorpusError
from tests.corpus import corpora
from tests.corpus.corpora import FORMATS, LABELS, TEXTS, tar, written

OF_ROWS = [name for name in FORMATS if name.startswith("a.") and name.split(".")[1] not in ("txt", "png", "jpg")]


def read(path, **options):
    return list(read_corpus(str(path), SourceOptions(**options)))


def refused(path, words, **options):
    with pytest.raises(CorpusError, match=words):
        read(path, **options)


@pytest.mark.parametrize("name", OF_ROWS)
def test_every_format_of_rows_gives_the_same_texts_labels_and_pairs(tmp_path, name):
    path = written(tmp_path, name)
    found = read(path, label_column="y")
    assert [document.text for document in found] == TEXTS
    assert [document.label or None for document in found] == LABELS
    pairs = read(path, pair_column="second")
    assert [document.parts for document in pairs] == [(text, f"B of {n}") for n, text in enumerate(TEXTS)]
    assert pairs[1].text == f"{TEXTS[1]}\nB of 1"


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.txt.zst", "a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
def test_bytes_of_a_compressed_file_are_those_of_what_it_unpacks_to(tmp_path, name):
    data = corpora.text() if ".txt" in name else corpora.jsonl()
    for document in read(written(tmp_path, name), split="line"):
        piece = data[document.byte_start : document.byte_end].decode()
        assert document.source == name
        assert (json.loads(piece)["text"] if "jsonl" in name else piece) == document.text


@pytest.mark.parametrize(
    ("name", "source"),
    [("a.parquet", "a.parquet row 2"), ("a.csv", "a.csv row 2"), ("a.tar", "a.tar member shard/002")],
)
def test_rows_and_members_are_named_where_bytes_cannot_be(tmp_path, name, source):
    document = read(written(tmp_path, name))[2]
    assert (document.source, document.byte_start, document.byte_end) == (source, 0, len(TEXTS[2].encode()))


@pytest.mark.parametrize("split", ["file", "line", "blank"])
@pytest.mark.parametrize("block", [4, 5, 64])
def test_a_stream_read_in_small_blocks_is_cut_like_one_read_whole(split, block):
    text = (
        "".join(f"Zeile {i} é\r\n" + " \t\r\n \n\x0b\n" * (i % 3) + "x" * (i * 11 % 900) for i in range(60)) + "\n\n "
    )
    data = b"\xef\xbb\xbf" + text.encode()
    whole = list(text_documents(io.BytesIO(data), "t", split, lone=True, block=1 << 20))
    assert list(text_documents(io.BytesIO(data), "t", split, lone=True, block=block)) == whole
    assert "".join(document.text for document in whole) == text
    assert all(data[d.byte_start : d.byte_end].decode() == d.text for d in whole)
    assert len(whole) > 5 or split == "file"


def test_the_place_of_a_bad_byte_is_that_in_the_file_even_across_blocks():
    data = "ééé".encode() * 5 + b"\xff"
    with pytest.raises(CorpusError, match="t: byte 30 is not UTF-8"):
        list(text_documents(io.BytesIO(data), "t", "file", lone=True, block=7))
    with pytest.raises(CorpusError, match="t: byte 28 is not UTF-8"):
        list(text_documents(io.BytesIO(data[:-2]), "t", "file", lone=True, block=7))


def test_a_folder_is_read_by_path_and_what_it_leaves_out_is_counted(tmp_path):
    for name in ("b/a.jsonl.gz", "a/z.parquet", "c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(FORMATS["a" + name[name.index(".") :]]())
    (tmp_path / "notes.pdf").write_bytes(b"%PDF")
    (tmp_path / "blank.txt").write_bytes(b" \n")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.txt").write_text("hidden")
    corpus = read_corpus(str(tmp_path), SourceOptions()).read()
    assert [d.source.split()[0] for d in corpus] == ["a/z.parquet"] * 4 + ["b/a.jsonl.gz"] * 4 + ["c.txt"]
    assert corpus.left_out == {"blank_documents": 1, "ignored_files": 1}


def test_a_link_out_of_the_folder_is_refused_and_one_within_is_read(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    (folder / "b.txt").symlink_to(folder / "a.txt")
    assert len(read(folder)) == 2
    (folder / "c.txt").symlink_to(tmp_path / "secret.txt")
    refused(folder, r"c\.txt is a link out of")
    (folder / "c.txt").unlink()
    (folder / "d.txt").symlink_to("nowhere.txt")
    refused(folder, r"d\.txt is no file that can be read")
    (folder / "d.txt").unlink()
    (folder / "sub").symlink_to(tmp_path, target_is_directory=True)
    refused(folder, "sub is a link to a folder")


def test_a_name_that_is_not_unicode_or_a_control_sequence_is_stored_as_escapes(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9\x1b[31m.txt")).write_text("a")
    assert [d.source for d in read(tmp_path)] == [r"caf\xe9\x1b[31m.txt"]


def test_a_pattern_gives_its_files_by_name_and_says_when_there_is_none(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "c.txt"):
        (tmp_path / name).write_bytes(corpora.jsonl())
    assert [d.source for d in read(tmp_path / "*.jsonl")] == [str(tmp_path / "a.jsonl")] * 4 + [
        str(tmp_path / "b.jsonl")
    ] * 4
    refused(tmp_path / "*.parquet", "no file matches")


def test_standard_input_is_text_and_has_no_columns(monkeypatch):
    monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(b"a\nb\n")))
    assert [(d.source, d.byte_start, d.text) for d in read("-", split="line")] == [("-", 0, "a\n"), ("-", 2, "b\n")]
    refused("-", "no rows for --pair-column", pair_column="second")


def test_a_null_is_a_blank_document_and_blanks_are_counted(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": null}\n{"text": "a"}\n\n{"text": " "}\n{"text": "b"}\n{"text": ""}\n')
    corpus = read_corpus(str(path), SourceOptions()).read()
    assert [d.text for d in corpus] == ["a", "b"]
    assert (corpus.n_blank, corpus[:1].n_blank, len(corpus[:1])) == (3, 1, 1)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (
            "a.parquet",
            {"text_column": "body"},
            "has no column 'body', but 'text', 'second', 'y'.*--text-column",
        ),
        ("a.csv", {"label_column": "z"}, "a.csv has no column 'z'.*--label-column"),
        ("a.jsonl", {"pair_column": "z"}, "line 1: expected a string under 'z'.*--pair-column"),
        ("a.tar", {"text_column": "z"}, r"a.tar member shard/000: expected an image, a .txt or 'z' in a .json"),
        ("a.txt", {"pair_column": "second"}, "a.txt has no rows for --pair-column"),
    ],
)
def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path, name, options, words):
    refused(written(tmp_path, name), words, **options)


def test_a_letter_changed_in_a_parquet_page_is_found_by_its_checksum(tmp_path):
    table, path = pa.table({"text": ["unchanged text"]}), tmp_path / "a.parquet"
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False, "store_schema": False}
    pq.write_table(table, path, write_page_checksum=True, **plain)
    path.write_bytes(path.read_bytes().replace(b"unchanged", b"uncHanged"))
    refused(path, "CRC checksum")


def test_numbers_where_text_should_be_are_refused(tmp_path):
    pq.write_table(pa.table({"text": ["a", "b"], "n": [1, 2]}), tmp_path / "a.parquet")
    refused(tmp_path / "a.parquet", "row 0: expected a string under 'n', found int", text_column="n")
    (tmp_path / "a.json").write_text('[{"text": "a"}]')
    refused(tmp_path / "a.json", "expected .jsonl")


def test_pairs_and_single_texts_do_not_mix_and_pairs_in_memory_are_tuples(tmp_path):
    corpus = documents_of([("a", "b"), ["ab", ""]])
    assert [d.parts for d in corpus] == [("a", "b"), ("ab", "")]
    assert corpus[0].digest != corpus[1].digest != documents_of(["a\nb"])[0].digest
    with pytest.raises(CorpusError, match="mixes pairs and text"):
        documents_of([("a", "b"), "c"])
    with pytest.raises(TypeError, match=r"texts\[0\] must be a string, a pair of strings"):
        documents_of([("a", "b", "c")])


def test_an_archive_gives_an_image_a_text_or_what_is_asked_for(tmp_path):
    path = written(tmp_path, "images.tar")
    assert [(d.picture().size, d.label) for d in read(path)] == [((9, 7), "0"), ((10, 7), "1"), ((11, 7), "2")]
    both = {"k.jpg": corpora.picture(kind="JPEG"), "k.txt": b"a caption", "k.json": b'{"title": "T", "y": 4}'}
    (tmp_path / "b.tar").write_bytes(tar(both))
    assert read(tmp_path / "b.tar")[0].picture().size == (9, 7)
    assert [(d.text, d.label) for d in read(tmp_path / "b.tar", text_column="txt", label_column="y")] == [
        ("a caption", "4")
    ]
    assert [d.text for d in read(tmp_path / "b.tar", text_column="title")] == ["T"]


def member(name, kind=tarfile.REGTYPE, size=0, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, link
    return info.tobuf(tarfile.GNU_FORMAT)


END = bytes(1024)
A = member("a.txt", size=1) + b"a".ljust(512, b"\0")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (member("a.txt", tarfile.SYMTYPE, link="/etc/passwd") + END, "a.txt is a link"),
        (member("a.txt", tarfile.LNKTYPE, link="b.txt") + END, "a.txt is a link"),
        (member("a.txt", tarfile.CHRTYPE) + END, "a.txt is a link, a device"),
        (member("a.txt", size=1 << 40) + END, "a.txt has 1,099,511,627,776 bytes, more than"),
        (member("a.txt", size=2000) + END, "cut off|unexpected end"),
        (member("x", tarfile.XHDTYPE, size=1 << 30) + bytes(1 << 19), "a header is longer than 100,000 bytes"),
        (member("a.txt", size=1) + b"a".ljust(512, b"\0"), "damaged or cut off at byte 1024"),
        (
            member("a.txt", size=1) + b"a".ljust(512, b"\0") + b"garbage".ljust(512) + END,
            "damaged or cut off at byte 1024",
        ),
        (member("a.txt", size=1) + b"a".ljust(512, b"\0") + END + member("b.txt"), "data behind the end"),
        (member("a.txt", size=1) * 2, "unexpected end|damaged|twice"),
        (member("a.bin", size=1) + b"a".ljust(512, b"\0") + END, "member a: expected an image, a .txt"),
        (b"nothing of the kind", "damaged or cut off"),
    ],
)
def test_a_hostile_or_damaged_archive_is_refused_and_nothing_leaves_it(tmp_path, monkeypatch, data, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("attnengine.corpus.archives.MEMBER_LIMIT", 100_000)
    (tmp_path / "a.tar").write_bytes(data)
    refused(tmp_path / "a.tar", words)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_a_members_path_is_a_name_and_nothing_more(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.tar").write_bytes(tar({"../../x.txt": b"a", "/etc/y.txt": b"b"}))
    assert [(d.source, d.text) for d in read("a.tar")] == [("a.tar member ../../x", "a"), ("a.tar member /etc/y", "b")]
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_a_small_file_that_unpacks_to_an_endless_document_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("attnengine.corpus.files.LONGEST_DOCUMENT", 1_000_000)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"a\n" * 4_000_000))
    refused(tmp_path / "a.txt.gz", "more than 1,000,000 characters would be one document; split the file")
    monkeypatch.setattr("attnengine.corpus.rows.LONGEST_ROW", 1000)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' + b" " * 4_000_000))
    refused(tmp_path / "a.jsonl.gz", "line 2: more than 1,000 bytes")


@pytest.fixture
def data_set(tmp_path):
    """A folder as the hub has it: two splits in Parquet."""
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        table = pa.table({"text": [f"{split} {i}" for i in range(3)], "y": ["a", "b", "c"]})
        pq.write_table(table, tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    return tmp_path


def test_a_data_set_is_streamed_by_split_with_its_rows_named(data_set):
    found = read(f"hf:{data_set}@test", label_column="y")
    assert [(d.text, d.label) for d in found] == [("test 0", "a"), ("test 1", "b"), ("test 2", "c")]
    assert found[1].source == f"hf:{data_set}@test row 1"
    assert [d.text for d in read(f"hf:{data_set}")] == ["train 0", "train 1", "train 2"]
    refused(f"hf:{data_set}@dev", "no split 'dev'; expected one of train, test")
    refused(f"hf:{data_set}:odd", "BuilderConfig 'odd' not found")
    refused(f"hf:{data_set}", "no column 'body'", text_column="body")


def test_a_saved_data_set_has_class_names_as_labels_and_images_as_pictures(tmp_path):
    import datasets

    datasets.disable_progress_bars()
    kinds = datasets.Features({"image": datasets.Image(), "y": datasets.ClassLabel(names=["no", "yes"])})
    rows = {"image": [Image.new("RGB", (4, 5)), Image.new("L", (3, 3))], "y": [1, -1]}
    datasets.Dataset.from_dict(rows, features=kinds).save_to_disk(str(tmp_path / "saved"))
    found = read(f"hf:{tmp_path / 'saved'}", text_column="image", label_column="y")
    assert [(d.picture().size, d.label) for d in found] == [((4, 5), "yes"), ((3, 3), None)]


def test_a_data_set_that_cannot_be_had_says_why(monkeypatch):
    refused("hf:nobody/nothing", "cannot read hf:nobody/nothing: Couldn't reach.*expected hf:NAME")
    refused("hf:name@", "is no data set: expected hf:NAME")
    monkeypatch.setitem(sys.modules, "datasets", None)
    refused("hf:nobody/nothing", r"needs the package datasets: pip install 'attnengine\[hf\]'")
