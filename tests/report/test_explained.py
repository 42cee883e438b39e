"""Sentences about explanations, where there is little to say."""

from nuvlm.evaluation.faithfulness import STATEMENTS, YES_NO
from nuvlm.report.explained import explain_in_words
from nuvlm.report.wording import listed


def measured(claimed: dict[str, int], gains: dict[str, tuple[float, float]], length: float | None = None) -> dict:
    """Rationales of 100 events: how often each thing is claimed, half of it rightly; interval of each gain."""
    claims: dict[str, dict] = {}
    for name in STATEMENTS:
        interval = gains.get(name)
        right = {"nominal": {"value": None}, "beyond_label_interval": interval and list(interval)}
        claims[name] = {"right": right | {"beyond_label": interval and sum(interval) / 2}}
        if name in YES_NO:
            n = claimed.get(name, 0)
            claims[name]["precision"] = {"nominal": {"n": n, "value": 0.5 if n else None}}
    claims["track_cm"]["right"]["nominal"]["value"] = length
    right = {"nominal": {"value": 0.6, "interval": [0.5, 0.7], "n": 100}, "same_label": 0.4}
    right |= {"beyond_label": 0.2, "beyond_label_interval": [0.1, 0.3]}
    return {"claims": claims, "n": 100, "right": right, "with_truth": 100}


def test_what_is_never_claimed_is_not_said_to_be_true() -> None:
    said, true, _, gains = explain_in_words("vlm", measured({}, {}))
    assert said.endswith(
        "claims a track never, a track that leaves the detector never, a shower never and a gap never."
    )
    assert true == "60.0 % [50.0, 70.0] of its statements are true."
    assert gains == "No gain is measurable for any statement alone."
    true = explain_in_words("vlm", measured({"gap": 10}, {}, length=0.3))[1]
    assert true.endswith("true; of these claims, a gap 50.0 %; lengths of tracks are within 25 % in 30.0 %.")


def test_gains_and_what_gains_nothing() -> None:
    gains = {"track": (0.1, 0.3), "gap": (-0.1, 0.1), "charged": (-0.1, 0.3)}
    assert explain_in_words("vlm", measured({}, gains))[3] == (
        "By statement, points from the picture: there is a track 20.0. No gain is measurable for: the shower "
        "begins after a gap and number of charged particles."
    )
    assert explain_in_words("vlm", measured({}, {"gap": (-0.1, 0.1)}))[3] == (
        "No gain is measurable for: the shower begins after a gap."
    )


def test_lists_of_words() -> None:
    assert [listed(list("abc"[:n])) for n in range(4)] == ["", "a", "a and b", "a, b and c"]
