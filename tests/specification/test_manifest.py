"""The manifest is true: sentences are exact, complete and held by tests that exist."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from specification.manifest import (
    REVISIONS,
    Sentence,
    everything,
    existing_tests,
    sentences,
)
from specification.pages import binding_sentences, normalized

pytestmark = pytest.mark.conformance

#: A checkout of the specification's repository. Its text is no part of this one.
CHECKOUT = os.environ.get("MCP_SPECIFICATION", "")


def without_revision(text: str) -> str:
    """A sentence as it is in every revision: links name the revision that they are in."""
    return re.sub(r"/specification/\d{4}-\d\d-\d\d/", "/specification/", text)


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_sentence_has_one_place_and_one_id(revision: str) -> None:
    ids = [sentence.id for sentence in sentences(revision)]
    assert len(ids) > 50
    assert len(ids) == len(set(ids))


def test_a_sentence_is_held_by_tests_or_says_why_not() -> None:
    undecided = []
    for key, sentence in everything().items():
        answers = [bool(sentence.tests), sentence.reason is not None, sentence.same_as is not None]
        nobody = sentence.binds == "application" and bool(twin_of(sentence).tests)
        if answers.count(True) != 1 or nobody:
            undecided.append(key)
    assert undecided == []


def twin_of(sentence: Sentence) -> Sentence:
    """The sentence whose tests hold this one."""
    return everything()[sentence.same_as] if sentence.same_as else sentence


def test_every_test_that_is_named_exists() -> None:
    named = {test for sentence in everything().values() for test in sentence.tests}
    assert len(named) > 100
    assert named - existing_tests() == set()


def test_what_is_the_same_as_another_has_its_words() -> None:
    twins = {key: each for key, each in everything().items() if each.same_as}
    assert len(twins) > 100
    for key, sentence in twins.items():
        twin = twin_of(sentence)
        assert twin.same_as is None, key
        assert without_revision(sentence.text) == without_revision(twin.text), key
        assert [*map(without_revision, sentence.items)] == [*map(without_revision, twin.items)]
        assert sentence.binds == twin.binds, key


# -- Against the pages, where they are at hand -------------------------------------------


def page_text(revision: str, page: str) -> str:
    path = Path(CHECKOUT, "docs", "specification", revision, f"{page}.mdx")
    return path.read_text()


@pytest.mark.skipif(not CHECKOUT, reason="MCP_SPECIFICATION names no checkout of the specification")
@pytest.mark.parametrize("revision", REVISIONS)
def test_the_sentences_are_those_of_the_pages(revision: str) -> None:
    pages = {sentence.page for sentence in sentences(revision)}
    for page in sorted(pages):
        text = page_text(revision, page)
        here = [sentence for sentence in sentences(revision) if sentence.page == page]
        for sentence in here:
            for part in (sentence.text, *sentence.items):
                assert normalized(part) in normalized(text), sentence.id
        known = [(sentence.text, list(sentence.items)) for sentence in here]
        for found in binding_sentences(text):
            assert (found.text, found.items) in known, f"{revision} {page}: {found.text}"
