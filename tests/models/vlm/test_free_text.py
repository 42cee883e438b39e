"""Free text: paraphrases are read, and what is denied, hedged, contradicted or not known never becomes a claim."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nuvlm.models.vlm.free_text import THINGS, FreeText
from nuvlm.models.vlm.rationales import KINDS, SAMPLES, Claims, load_rationales
from nuvlm.models.vlm.spelling import spell_alike, value_of
from paths import REPOSITORY

WORDS = load_rationales(REPOSITORY / "resources" / "rationales.yaml")
TEXT = FreeText(WORDS)
NOTHING = Claims()
SENTENCES = [
    phrase.format(length="80 cm", energy="300 MeV", count="3", leaves=end)
    for name in KINDS
    for phrase in WORDS.phrasings(name).write
    for end in (WORDS.leaves[0], WORDS.stays[0])
]
SENTENCES = list(dict.fromkeys(SENTENCES))


def stated(text: str) -> dict:
    return {name: value for name, value in vars(TEXT.read(text).claims).items() if value is not None}


FREE = [(name, phrase) for name in KINDS for phrase in WORDS.phrasings(name).free]


def one_of(phrase: str, draw: st.DataObject) -> str:
    """`phrase` in words, its placeholders filled."""
    values = {"length": ["80 cm"], "energy": ["300 MeV"], "count": ["3"], "leaves": WORDS.free_leaves}
    for _ in range(2):
        for name, words in (WORDS.words | values).items():
            phrase = re.sub(rf"\{{{name}\}}", lambda _, words=words: draw.draw(st.sampled_from(words)), phrase)
        phrase = re.sub(r"\(([^)]*)\)", lambda match: draw.draw(st.sampled_from(match[1].split("|"))), phrase)
    return re.sub(r"\s+", " ", phrase).strip()


@settings(max_examples=15, deadline=None)
@given(st.data())
@pytest.mark.parametrize(("name", "phrase"), FREE)
def test_each_phrasing_is_read(name: str, phrase: str, data: st.DataObject) -> None:
    """After its thing was named, and with one word that is not known it is not."""
    thing = f"There is a {THINGS[name]}. " if name in ("track", "shower", "gap", "no_gap") else ""
    sentence = one_of(phrase, data)
    assert KINDS[name].fixed.items() <= stated(f"{thing}{sentence}").items(), sentence
    assert TEXT.read(f"{thing}{sentence}.").understood == 1 + bool(thing)
    for changed in (f"The putative {sentence}", f"{sentence} sideways", f"{sentence} / 3"):
        assert TEXT.read(changed).understood == 0, changed


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SAMPLES), st.integers(0, 2**32))
def test_what_is_written_is_read_and_understood(claims: Claims, seed: int) -> None:
    text = WORDS.write(claims, np.random.default_rng(seed))
    found = TEXT.read(text)
    assert found.claims == WORDS.parse(text) == claims
    assert found.understood == found.sentences > 0
    assert (found.denied, found.hedged, found.contradicted) == (0, 0, frozenset())


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        ("A 2.5m-long muon track leaves the detector; a 0.4 GeV shower begins 12 cm away from the vertex.",
         Claims(track=True, track_cm=250, leaves=True, shower=True, shower_mev=400, gap=True, gap_cm=12)),
        ("A long muon track, roughly two and a half metres long, exits the active volume. No shower is visible.",
         Claims(track=True, track_cm=250, leaves=True, shower=False)),
        ("A cascade with an energy of about 1.2 GeV is present. It is separated from the vertex by a gap of 200 mm.",
         Claims(shower=True, shower_mev=1200, gap=True, gap_cm=20)),
        ("There is no gap between the vertex and the 300 MeV shower.", Claims(shower=True, shower_mev=300, gap=False)),
        ("**Track:** 1.2 m, fully contained is not what I see.", NOTHING),
        ("Track: 1.2 m, leaves the detector. Shower: none. Charged particles at the vertex: 2",
         Claims(charged=2, track=True, track_cm=120, leaves=True, shower=False)),
        ("The track doesn't leave the detector.", Claims(track=True, leaves=False)),
        ("The track isn’t contained in the detector.", Claims(track=True, leaves=True)),
        ("I see an electromagnetic shower, but no track.", Claims(track=False, shower=True)),
        ("There is neither a track nor a shower.", Claims(track=False, shower=False)),
        ("Two charged particles and a track (1.2 m) that stays inside the detector",
         Claims(charged=2, track=True, track_cm=120, leaves=False)),
        ("The muon travels 1.2 m before exiting the TPC, and a shower is displaced by 12 cm from the vertex.",
         Claims(track=True, track_cm=120, leaves=True, gap=True, gap_cm=12)),
        ("Longest track: 80 cm; stops in the detector; shower: none; charged particles: 1",
         Claims(charged=1, track=True, track_cm=80, leaves=False, shower=False)),
        ("There is no sign of a shower.", Claims(shower=False)),
        ("The number of charged particles is three.", Claims(charged=3)),
        # details are of the thing that was named last
        ("A shower of 300 MeV. A track of 80 cm. It leaves the detector.",
         Claims(track=True, track_cm=80, leaves=True, shower=True, shower_mev=300)),
        ("A track of 80 cm. A shower of 300 MeV. It leaves the detector.",
         Claims(track=True, track_cm=80, shower=True, shower_mev=300)),
        ("The track starts right at the vertex.", NOTHING),
        ("The track ends 80 cm from the vertex.", NOTHING),
        ("The vertex is 20 cm from the wall and the track is 80 cm from the shower.", NOTHING),
        ("No shower, no track, no gap.", Claims(track=False, shower=False)),
        ("The shower of 300 MeV doesn't leave the detector.", Claims(shower=True, shower_mev=300)),
        ("The muon neutrino leaves the detector.", NOTHING),
        # a further one contradicts nothing
        ("A track of 80 cm leaves the detector. Another track of 30 cm stops in the detector.",
         Claims(track=True, track_cm=80, leaves=True)),
        # no number for itself
        ("The track is 50-80 cm long.", NOTHING),
        ("The track is 80 ± 5 cm long.", NOTHING),
        ("The track is at least 80 cm long.", NOTHING),
        ("A shower of 300 MeV to 500 MeV is seen, of 1.2e3 MeV and of 3 x 100 MeV.", NOTHING),
        ("A 0 cm gap.", NOTHING),
        ("The track deposits 2 MeV/cm over 80 cm.", NOTHING),
    ],
)  # fmt: skip
def test_other_words_are_read(text: str, claims: Claims) -> None:
    found = TEXT.read(text)
    assert found.claims == claims
    assert not found.contradicted


@pytest.mark.parametrize(
    "text",
    [
        "There is no track of 80 cm.",
        "No track leaves the detector.",
        "No electromagnetic shower of 300 MeV is seen.",
        "The largest shower does not have 300 MeV.",
        "It is not the case that no electromagnetic shower is seen.",
        "The longest track is 80 cm long, which is wrong.",
        "Unlike a shower, the longest track is 80 cm long.",
        "The longest track may leave the detector.",
        "Is there a track of 80 cm?",
        "If there were a track of 80 cm, it would leave the detector.",
        "Either the track leaves the detector or it stops in the detector.",
        "A hadronic shower of 300 MeV is seen.",
        "The shower doesn't start at the vertex.",
        # words that change what is meant
        "The shortest track is 20 cm long.",
        "The total shower energy is 400 MeV.",
        "The track almost leaves the detector.",
        "The track leaves the detector in one view.",
        "The track is twice 40 cm long.",
        "A track of 80 cm minus 20 cm.",
        "A shower of 200 MeV/cm.",
        "A track is 90 cm long in xz but 120 cm in yz.",
        "A Michel electron of 40 MeV.",
        "With 30% confidence there is a shower of 200 MeV.",
        "The prompt asks for a track of 80 cm.",
        "Two of three charged particles are seen.",
        # less than it seems
        "There is no long track.",
        "No muon is seen.",
        "There is no photon.",
        "There is no track longer than 200 cm.",
    ],
)
def test_what_is_not_asserted_is_no_claim(text: str) -> None:
    found = TEXT.read(text)
    assert found.claims == NOTHING
    assert found.understood == 0


negations = st.sampled_from(
    ["It is not true that {}", "It is false that {}", "I do not believe that {}", "Nobody would say: {}",
     "{} That is wrong.", "It is wrong to say that {}", "{} This is not true.", "I doubt that {}", "Never: {}"]
)  # fmt: skip
hedges = st.sampled_from(["Possibly {}", "It may be that {}", "It could be that {}", "Perhaps {}", "I guess that {}"])


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SENTENCES), negations)
def test_a_negated_sentence_never_keeps_its_claim(sentence: str, negation: str) -> None:
    assert stated(sentence)
    assert stated(negation.format(sentence)) == {}


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SENTENCES), hedges)
def test_a_hedged_sentence_claims_nothing(sentence: str, hedge: str) -> None:
    found = TEXT.read(hedge.format(sentence))
    assert found.claims == NOTHING
    assert (found.understood, found.hedged) == (0, 1)


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_verb_that_is_negated_never_keeps_its_claim(sentence: str) -> None:
    """Claims of the sentence with "not" after its verb: none, or the opposite."""
    verbs = {r"\bis seen": "is not seen", r"\bhas\b": "does not have", r"\bstarts\b": "does not start"}
    verbs |= {
        r"\b(leave|exit|stay|stop|part)s\b": r"does not \1",
        r"\bis\b": "is not",
        r"\b(see|count)\b": r"do not \1",
    }
    before = stated(sentence)
    for verb, negated in verbs.items():
        changed = re.sub(verb, negated, sentence, count=1)
        if changed != sentence:
            # Of a track that "does not leave" the length is still stated.
            kept = {("track", True), ("track_cm", 80.0)} if "leave" in verb else set()
            assert before.items() & stated(changed).items() <= kept, changed


@settings(max_examples=40, deadline=None)
@given(st.floats(1, 900), st.sampled_from(["mm", "cm", "m", "millimetres", "centimeters", "metres"]))
def test_lengths_convert(value: float, unit: str) -> None:
    number = f"{value:.2f}"
    factor = {"m": 0.1 if unit.startswith("mi") or unit == "mm" else 100.0, "c": 1.0}[unit[0]]
    for text in ("The longest track is {} long.", "a track of about {}", "A {} long muon track is seen.", "track: {}"):
        assert stated(text.format(f"{number} {unit}"))["track_cm"] == pytest.approx(float(number) * factor, rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.floats(1, 900), st.sampled_from(["keV", "MeV", "GeV", "gev"]))
def test_energies_convert(value: float, unit: str) -> None:
    number, factor = f"{value:.2f}", {"k": 1e-3, "m": 1.0, "g": 1e3}[unit[0].lower()]
    for text in ("The largest shower has {}.", "An electromagnetic cascade with an energy of {} is seen."):
        assert stated(text.format(f"{number} {unit}"))["shower_mev"] == pytest.approx(float(number) * factor, rel=1e-5)


unknown = st.text("bdfgjkqvwxz ", min_size=3, max_size=12)
numbers = st.sampled_from(["80 cm", "300 MeV", "3", "1.2 m", "two", "40 %", "(7)", "?", "not", "-"])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(unknown, numbers), max_size=30))
def test_unknown_words_claim_nothing(words: list[str]) -> None:
    assert stated(" ".join(words)) == {}


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=200))
def test_any_text_can_be_read(text: str) -> None:
    found = TEXT.read(text)
    assert 0 <= found.understood <= found.sentences


@pytest.mark.parametrize(
    ("text", "first", "contradicted"),
    [
        ("There is a track. There is no track.", {"track": True}, {"track"}),
        ("The longest track is 80 cm long. It is 200 cm long.", {"track": True, "track_cm": 80}, {"track_cm"}),
        ("The track leaves the detector. It stays in the detector.", {"track": True, "leaves": True}, {"leaves"}),
        ("A shower of 500 MeV is seen. I see no electromagnetic shower.", {"shower": True, "shower_mev": 500},
         {"shower", "shower_mev"}),
        ("It starts without a gap. It starts after a gap of 12 cm.", {"gap": False}, {"gap", "gap_cm"}),
        ("I count 3 charged at the vertex. I count 4 charged at the vertex.", {"charged": 3}, {"charged"}),
        ("A track of 80 cm. The track is 0.82 m long.", {"track": True, "track_cm": 80}, set()),
    ],
)  # fmt: skip
def test_contradictions_are_noted(text: str, first: dict, contradicted: set[str]) -> None:
    found = TEXT.read(text)
    assert stated(text) == first
    assert found.contradicted == contradicted
    assert all(vars(found.agreed)[name] is None for name in contradicted)


@pytest.mark.parametrize(
    ("words", "value"),
    [("seven", 7), ("twenty five", 25), ("a hundred", 100), ("two hundred and forty", 240), ("three thousand", 3000)],
)
def test_numbers_in_words(words: str, value: int) -> None:
    assert value_of(words) == value
    assert spell_alike(f"{words} cm", ["cm"]) == f"{value} cm"
    assert spell_alike(f"{words} dogs", ["cm"]) == f"{words} dogs"
