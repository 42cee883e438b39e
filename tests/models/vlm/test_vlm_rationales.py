"""Rationales: written from truth, read back, and read where a model has garbled them."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nuvlm.base.errors import InputError
from nuvlm.models.vlm.rationales import (
    CLAIM_TYPES,
    KINDS,
    Claims,
    Rationales,
    claims_table,
    grounded_rationales,
    load_rationales,
)
from paths import REPOSITORY

FILE = REPOSITORY / "resources" / "rationales.yaml"
WORDS = load_rationales(FILE)
NOTHING = Claims()


@pytest.fixture
def words() -> Rationales:
    return WORDS


def amounts(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False)


tracks = st.one_of(
    st.just({"track_mm": np.nan, "track_leaves": pd.NA}),
    st.just({"track_mm": 0.0, "track_leaves": pd.NA}),
    st.fixed_dictionaries({"track_mm": amounts(100, 7500), "track_leaves": st.booleans()}),
)
showers = st.one_of(
    st.just({"shower_mev": np.nan, "shower_gap_mm": np.nan}),
    st.just({"shower_mev": 0.0, "shower_gap_mm": np.nan}),
    st.fixed_dictionaries({"shower_mev": amounts(50, 2e4), "shower_gap_mm": st.one_of(st.just(0.0), amounts(0, 3000))}),
)
charged = st.one_of(st.just(pd.NA), st.integers(0, 30))


@given(tracks, showers, charged, st.integers(0, 2**32))
def test_what_is_written_is_read(track: dict, shower: dict, n: object, seed: int) -> None:
    event = track | shower | {"charged": n}
    stated = WORDS.state(event)
    assert WORDS.parse(WORDS.write(stated, np.random.default_rng(seed))) == stated
    # what is stated is true, but for rounding to ten numbers a decade
    assert stated.charged == (None if n is pd.NA else n)
    for claim, value, unit in (
        (stated.track_cm, track["track_mm"], 10),
        (stated.shower_mev, shower["shower_mev"], 1),
        (stated.gap_cm, shower["shower_gap_mm"], 10),
    ):
        assert claim is None or abs(np.log(claim * unit / value)) < np.log(1.17)
    assert stated.leaves == (track["track_leaves"] if stated.track else None)
    assert stated.gap == (shower["shower_gap_mm"] >= 50 if stated.shower else None)


@pytest.mark.parametrize(
    ("value", "stated"), [(5.0, 5), (7.1, 8), (13.3, 12), (17.4, 20), (22, 20), (111, 120), (734, 800), (9100, 10_000)]
)
def test_numbers_are_rounded_as_a_person_would(words: Rationales, value: float, stated: float) -> None:
    assert words.round(value) == stated


def test_every_claim_has_three_phrasings_and_all_are_used(words: Rationales) -> None:
    rng = np.random.default_rng(1)
    both = Claims(
        charged=2, track=True, track_cm=120.0, leaves=True, shower=True, shower_mev=80.0, gap=True, gap_cm=12.0
    )
    neither = Claims(charged=0, track=False, shower=False)
    joined = replace(both, gap=False, gap_cm=None, leaves=False)
    said = [words.write(claims, rng) for claims in (both, neither, joined) for _ in range(100)]
    for name in KINDS:
        phrasings = getattr(words, name).write
        assert len(phrasings) >= 3
        for phrase in phrasings:
            opening = phrase.split("{")[0]
            assert any(opening in text for text in said), phrase
    assert all(text.index("track") < text.index("shower") < text.lower().index("charged") for text in said)


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        ("", NOTHING),
        ("The longest longest track is is of the.", NOTHING),
        ("the  longest TRACK is 120cm long and leaves\nthe detector", Claims(track=True, track_cm=120, leaves=True)),
        ("A shower of about 1.5 GeV after a gap of ~100 mm", Claims(shower=True, shower_mev=1500, gap=True, gap_cm=10)),
        ("a track of 1.2 m", Claims(track=True, track_cm=120)),
        ("a 1,200 MeV shower, two charged particles", Claims(shower=True, shower_mev=1200, charged=2)),
        # the first counts, also against what follows; what there is not has no length
        ("There is no track. The longest track is 80 cm long and leaves the detector.", Claims(track=False)),
        ("A track of 80 cm stops in the detector. No track is seen.", Claims(track=True, track_cm=80, leaves=False)),
        ("A track of 80 cm leaves the detector. A track of 30 cm stops in the detector.",
         Claims(track=True, track_cm=80, leaves=True)),
        ("I see no electromagnetic shower. It starts after a gap of 12 cm.", Claims(shower=False)),
        ("It starts at the vertex. A gap of 12 cm parts it from the vertex.", Claims(gap=False)),
        ("The event shows no showers; charged multiplicity at the vertex: 12.", Claims(shower=False, charged=12)),
        # no number is part of another, and there are limits
        ("Charged particles at the vertex: 2000. A 2000000000000 cm track.", NOTHING),
        ("a 3.120 cm track", Claims(track=True, track_cm=3.12)),
    ],
)  # fmt: skip
def test_what_is_garbled_is_read_as_far_as_it_goes(words: Rationales, text: str, claims: Claims) -> None:
    assert words.parse(text) == claims


@given(st.text(max_size=200))
def test_any_text_can_be_read(text: str) -> None:
    claims_table("claim_", [WORDS.parse(text)])


def test_claims_become_columns(words: Rationales) -> None:
    claims = [NOTHING, Claims(charged=3, track=True, track_cm=20, leaves=False, shower=False)]
    table = claims_table("true_", claims)
    assert {name.removeprefix("true_"): str(kind) for name, kind in table.dtypes.items()} == CLAIM_TYPES
    assert {field.name for field in fields(Claims)} == set(CLAIM_TYPES)
    assert table.loc[0].isna().all()
    assert table.loc[1].dropna().to_dict() == {
        "true_charged": 3, "true_track": True, "true_track_cm": 20, "true_leaves": False, "true_shower": False,
    }  # fmt: skip
    assert len(claims_table("claim_", [])) == 0


def test_an_event_is_always_put_in_the_same_words(words: Rationales) -> None:
    known = {"charged": 1, "track_mm": 700.0, "track_leaves": True, "shower_mev": 0.0, "shower_gap_mm": np.nan}
    events = pd.DataFrame([{"shard": "a", "event_id": i} | known for i in range(20)])
    texts = grounded_rationales(events, words)
    assert grounded_rationales(events[::-1], words) == texts[::-1]
    assert len(set(texts)) > 5
    assert {words.parse(text) for text in texts} == {words.state(known)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"numbers": []}, "numbers: "),
        ({"numbers": [5]}, "numbers.0: "),
        ({"track": {"write": []}}, "track.write: "),
        ({"track": {"write": ["A track {leaves}."]}}, "'A track {leaves}.' does not parse"),
        ({"no_gap": {"write": ["It starts 0 cm from the vertex."]}}, "no_gap: 'It starts 0 cm from"),
        ({"stays": ["leaves the detector"]}, "does not parse to its own claims"),
        ({"shower": {"write": ["It has {enery}."]}}, "shower: 'It has {enery}.' does not parse"),
        ({"pi0": {"write": ["a pi0"]}}, "pi0: "),
    ],
)  # fmt: skip
def test_a_vocabulary_that_cannot_be_understood_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "words.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(FILE.read_text()) | change))
    with pytest.raises(InputError, match=r"words\.yaml: mend these keys") as error:
        load_rationales(path)
    assert message in str(error.value)
