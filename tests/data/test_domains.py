from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesaic.data import load_domain
from moesaic.errors import DataError


@dataclass(frozen=True)
class Listed:
    texts: tuple

    def documents(self):
        return iter(self.texts)

    def fingerprint(self):
        return ""


NUMBERS = tuple(f"document {number}" for number in range(2000))


def splits(domain):
    return {"train": set(domain.train), "validation": set(domain.validation), "test": set(domain.test)}


@given(st.lists(st.text()))
def test_every_document_is_in_exactly_one_split(texts):
    if not any(text.strip() for text in texts):
        return
    domain = load_domain("x", Listed(tuple(texts)), test_fraction=0.3, validation_fraction=0.3)
    all_documents = [*domain.train, *domain.validation, *domain.test]
    assert len(all_documents) == len(set(all_documents))
    assert set(all_documents) == {text for text in texts if text.strip()}


@given(st.permutations(NUMBERS[:50]))
def test_a_document_falls_to_the_same_split_in_any_order(shuffled):
    assert splits(load_domain("a", Listed(tuple(shuffled)))) == splits(load_domain("b", Listed(NUMBERS[:50])))


def test_the_splits_have_about_the_sizes_asked_for():
    domain = load_domain("x", Listed(NUMBERS), validation_fraction=0.1, test_fraction=0.2)
    # 2,000 documents: 200 +- 3 * 13.4 and 400 +- 3 * 17.9
    assert 160 < len(domain.validation) < 240
    assert 346 < len(domain.test) < 454


def test_reading_stops_at_max_bytes():
    domain = load_domain("x", Listed(("aaaa", "bbbb", "cccc", "dddd")), max_bytes=10)
    assert sum(len(split) for split in (domain.train, domain.validation, domain.test)) == 3


@pytest.mark.parametrize("texts", [(), ("", "  \n")])
def test_an_empty_domain_is_refused(texts):
    with pytest.raises(DataError) as error:
        load_domain("law", Listed(texts))
    assert str(error.value) == f"Domain 'law' is empty: Listed(texts={texts!r}) has no text. Point it to documents."


def test_a_split_with_a_source_of_its_own_is_read_from_there():
    domain = load_domain("x", Listed(NUMBERS[:50]), validation=Listed(("v",)), test=Listed(("t", "t", "u")))
    assert (domain.validation, domain.test) == (("v",), ("t", "u"))
    assert set(domain.train) == set(NUMBERS[:50])


def test_what_is_tested_on_is_left_out_of_training():
    domain = load_domain("x", Listed(("a", "b", "c", "d")), validation=Listed(("b", "a")), test=Listed(("a",)))
    assert (domain.train, domain.validation, domain.test) == (("c", "d"), ("b",), ("a",))


def test_an_empty_split_is_refused():
    with pytest.raises(DataError) as error:
        load_domain("law", Listed(("a",)), test=Listed(()))
    assert str(error.value) == "Domain 'law' is empty: Listed(texts=()) has no text. Point it to documents."


def test_documents_of_a_group_stand_in_one_split_whatever_their_domain():
    def of_ten(document):
        return document.split()[1][:-1]  # "document 123" is one of the group "12"

    found = [
        splits(load_domain(name, Listed(texts), validation_fraction=0.2, test_fraction=0.2, group_of=of_ten))
        for name, texts in (("even", NUMBERS[::2]), ("odd", NUMBERS[1::2]))
    ]
    groups = {split: {of_ten(document) for one in found for document in one[split]} for split in found[0]}
    assert all(groups.values())
    assert sum(map(len, groups.values())) == len(set.union(*groups.values())) == 200
