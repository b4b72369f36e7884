"""A sample with more of a rare class of tokens: pictures get them, estimates do not."""

import sys

import numpy as np
import pandas as pd
import pytest

from attnengine.cli import main
from attnengine.opened import open_run


@pytest.fixture(scope="module")
def runs(tiny_bert, tmp_path_factory):
    """The same run with the plain sample, and with as many tokens again of segments that hold a digit."""
    folder = tmp_path_factory.mktemp("by-class")
    lines = [
        f'{{"text": "{"the cat sat on a mat " * 9}{"7 " if n % 6 == 0 else ""}{"dogs " * n}"}}\n' for n in range(60)
    ]
    (folder / "corpus.jsonl").write_text("".join(lines))
    arguments = ["run", tiny_bert, folder / "corpus.jsonl", "--shard-tokens", 1500, "--sample", 300, "--threads", 1]
    made = []
    for name, extra in (("plain", []), ("by-class", ["--sample-by", "digit"])):
        command = [*arguments, "--token-class", "digit=[0-9]", *extra, "-q", "-o", folder / name]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["attnengine", *map(str, command)])
            with pytest.raises(SystemExit, match="0"):
                main()
        made.append(open_run(folder / name))
    return made


def test_the_plain_sample_is_there_and_as_many_tokens_more_around_the_class(runs):
    plain, by_class = runs
    tokens = by_class.tokens
    assert "in_estimates" not in plain.tokens
    drawn, added = tokens[tokens.in_estimates], tokens[~tokens.in_estimates]
    places = ["window", "position", "token_id"]
    pd.testing.assert_frame_equal(drawn[places].reset_index(drop=True), plain.tokens[places])
    held = [part.groupby([part.window, part.position // 64]).is_digit.any() for part in (drawn, added)]
    assert held[1].all()
    assert held[0].mean() < 0.5
    assert 300 <= len(added) < 300 + 64
    assert by_class.manifest["sample"] == {"tokens": len(tokens), "by": "digit", "in_estimates": len(drawn)}
    for layer in (0, 1):
        assert len(by_class.queries(layer)) == len(tokens)
        np.testing.assert_array_equal(by_class.queries(layer)[tokens.in_estimates], plain.queries(layer))


def test_estimates_do_not_see_the_tokens_that_were_added(runs):
    plain, by_class = runs
    for table in ("heads", "head_types", "key_tokens"):
        pd.testing.assert_frame_equal(getattr(by_class, table), getattr(plain, table))
    columns = [name for name in plain.examples if name != "token"]  # rows of ``tokens`` moved
    pd.testing.assert_frame_equal(by_class.examples[columns], plain.examples[columns])


def test_a_class_that_is_not_there_and_a_sample_of_nothing_are_refused(cli, seven, tmp_path):
    code, said = cli(*seven, tmp_path / "r", "--sample-by", "verb")
    assert code == 2
    assert "no token class 'verb' to sample by; it has first, punctuation, special" in said
    options = [value if value != 300 or seven[n - 1] != "--sample" else 0 for n, value in enumerate(seven)]
    code, said = cli(*options, tmp_path / "r", "--sample-by", "punctuation")
    assert code == 2
    assert "needs a sample above 0" in said
