"""Files become documents whole, with the bytes they came from, or are refused by name."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnengine.corpus.sources import SourceOptions, documents_of, read_corpus
from attnengine.errors import CorpusError

DEFAULT = SourceOptions()


def everything(*arguments):
    """The corpus, read to its end."""
    return list(read_corpus(*arguments))


def test_a_small_text_file_is_one_document(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("Hello\n\nworld")
    (document,) = everything(str(path), DEFAULT)
    assert (document.text, document.source) == ("Hello\n\nworld", "a.txt")
    assert (document.byte_start, document.byte_end) == (0, 12)


def test_a_large_lone_file_is_split_at_blank_lines_and_every_byte_is_accounted_for(tmp_path):
    path = tmp_path / "big.txt"
    path.write_text("\n\n".join(f"Absatz {i}: " + "wörter " * 60 for i in range(400)), encoding="utf-8")
    data = path.read_bytes()
    documents = everything(str(path), DEFAULT)
    assert len(documents) > 10
    assert all(len(document.text) >= 2000 for document in documents[:-1])
    assert b"".join(data[d.byte_start : d.byte_end] for d in documents) == data
    assert all(data[d.byte_start : d.byte_end].decode() == d.text for d in documents)


@settings(max_examples=50, deadline=None)
@given(text=st.text(alphabet="aé\n \r\t.", max_size=400))
def test_splitting_by_line_and_by_blank_keeps_every_character_that_is_not_blank(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("split") / "t.txt"
    path.write_bytes(text.encode())
    for split in ("line", "blank", "file"):
        if not text.strip():
            with pytest.raises(CorpusError, match="empty"):
                everything(str(path), SourceOptions(split))
            continue
        documents = everything(str(path), SourceOptions(split))
        assert "".join("".join(d.text.split()) for d in documents) == "".join(text.split())
        for document in documents:
            assert path.read_bytes()[document.byte_start : document.byte_end].decode() == document.text


def test_jsonl_rows_keep_their_bytes_and_labels(tmp_path):
    path = tmp_path / "a.jsonl"
    rows = [{"body": "eins", "y": 1}, {"body": "zwei ü", "y": None}]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows) + "\n", encoding="utf-8")
    documents = everything(str(path), SourceOptions(text_column="body", label_column="y"))
    assert [(d.text, d.label) for d in documents] == [("eins", "1"), ("zwei ü", None)]
    data = path.read_bytes()
    assert [json.loads(data[d.byte_start : d.byte_end])["body"] for d in documents] == ["eins", "zwei ü"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a"}\n{"body": "b"}', r"line 2: expected a string under 'text', found 'body'.*--text-column"),
        ('{"text": 3}', "expected a string under 'text'"),
        ('["a"]', "found a list"),
        ("{", "line 1: not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_a_jsonl_line_without_text_is_named(tmp_path, line, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(line)
    with pytest.raises(CorpusError, match=message):
        everything(str(path), DEFAULT)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b" \n\n ", "is empty"),
        (b"ab\0cd", "byte 2 is NUL.*binary"),
        (b"caf\xe9", "byte 3 is not UTF-8"),
        (b"x" * 2_000_000, "one line has 2,000,000 characters.*--longest-line"),
    ],
)
def test_what_is_not_text_is_refused_with_its_place(tmp_path, data, message):
    path = tmp_path / "bad.txt"
    path.write_bytes(data)
    with pytest.raises(CorpusError, match=message):
        everything(str(path), DEFAULT)


def test_a_long_line_can_be_allowed(tmp_path):
    path = tmp_path / "long.txt"
    path.write_bytes(b"x" * 2_000_000)
    assert len(everything(str(path), SourceOptions(longest_line=0))) == 1


def test_a_folder_gives_its_text_files_by_path_and_says_what_it_lacks(tmp_path):
    (tmp_path / "b.txt").write_text("b")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.md").write_text("a")
    (tmp_path / "notes.pdf").write_bytes(b"%PDF")
    assert [d.source for d in everything(str(tmp_path), DEFAULT)] == ["b.txt", "sub/a.md"]
    (tmp_path / "b.txt").unlink()
    (tmp_path / "sub" / "a.md").unlink()
    with pytest.raises(CorpusError, match=r"holds no corpus.*found 1 other files"):
        everything(str(tmp_path), DEFAULT)


def test_a_missing_corpus_and_a_mixed_folder_are_refused(tmp_path):
    from PIL import Image

    with pytest.raises(CorpusError, match="does not exist"):
        everything(str(tmp_path / "nothing"), DEFAULT)
    (tmp_path / "a.txt").write_text("a")
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(CorpusError, match="1 text files and 1 images"):
        everything(str(tmp_path), DEFAULT)


def test_a_broken_image_is_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG nothing")
    with pytest.raises(CorpusError, match="not a readable image"):
        everything(str(tmp_path), DEFAULT)


def test_texts_in_memory_must_be_a_list_of_strings_or_images():
    assert [d.text for d in documents_of(["a", "b"])] == ["a", "b"]
    with pytest.raises(TypeError, match=r"write \[text\]"):
        documents_of("a")
    with pytest.raises(TypeError, match=r"texts\[1\]"):
        documents_of(["a", 3])
    with pytest.raises(CorpusError, match="surrogate"):
        documents_of(["\ud800"])
