"""The page as a reader has it: in a real browser, with a mouse, with keys, on a phone, on paper and read aloud."""

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from explanations_on_disk import write_explanations
from headless import chromium, needs_chromium, opened
from nuvlm.base.files import read_json
from nuvlm.report.collect_events import collect_events
from nuvlm.report.sparse import decode
from nuvlm.sources.ready_maps import MapAxes, PixelMap, PixelMapWriter
from report_on_disk import make_page, make_report
from run_on_disk import Run, write_run

pytestmark = [needs_chromium, pytest.mark.slow]

MODELS = {"cnn_published": 1.0, "cnn_tuned": 1.8, "bdt": 0.8, "vlm": 1.2}
EVIL = "<img src=x onerror=alert(1)> & \"quoted\" 'text' </script><script>alert(2)</script>"
SHARD = "<script>alert(3)</script>"
BRIGHTEST = """async (image) => {
  const made = new Image();
  made.src = image.getAttribute("href");
  await made.decode();
  const { width, height } = made;
  const context = fill(document.createElement("canvas"), { width, height }, []).getContext("2d");
  context.drawImage(made, 0, 0);
  const alpha = [...context.getImageData(0, 0, width, height).data].filter((_, i) => i % 4 === 3);
  const peak = alpha.indexOf(Math.max(...alpha));
  return [((peak % width) + 0.5) / width, (Math.floor(peak / width) + 0.5) / height];
}"""
"""Where an image is least transparent, as shares of its width and height."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    """Four models, and names and words that would be harmful as HTML."""
    run = write_run(folder, models=MODELS)
    for path in (run.events, *run.tables()):
        pd.read_parquet(path).replace({"shard": {"first": SHARD}}).to_parquet(path, index=False)
    run.displays[SHARD] = run.displays.pop("first")
    return run


@pytest.fixture(scope="module")
def numbers(run: Run, folder: Path) -> dict:
    rationales = write_explanations(run, folder, rationale=EVIL)
    return make_report(run, folder, rationales=rationales)[1]


@pytest.fixture(scope="module")
def page_path(numbers: dict, folder: Path) -> Path:
    return folder / "report" / "index.html"


@pytest.fixture
def page(browser: Any, page_path: Path) -> Iterator[Any]:
    with opened(browser, page_path) as page:
        yield page


def count(page: Any) -> int:
    """Events that are found, as the page says; the list must be as long."""
    shown, _ = re.fullmatch(r"(\d+) of (\d+) events", page.inner_text("[data-part=count]")).groups()
    if int(shown):
        assert page.get_attribute("[role=option]", "aria-setsize") == shown
    return int(shown)


def current(page: Any) -> str:
    """The event that is drawn, "event 1001, shard second"."""
    return page.inner_text("[data-part=title] small")


def choose(page: Any, key: str, value: str) -> None:
    page.select_option(f'[data-key="{key}"]', value=value)


def test_every_filter_finds_what_it_says(page: Any, numbers: dict) -> None:
    events = numbers["gallery"]

    def expected(holds: Any) -> int:
        return sum(map(bool, map(holds, events)))

    def says(event: dict, model: str) -> str:
        return event["models"][model]["predicted"]

    assert count(page) == len(events)
    tried = [
        ({"truth": "nc"}, lambda e: e["truth"] == "nc"),
        ({"model.vlm": "wrong"}, lambda e: says(e, "vlm") != e["truth"]),
        ({"model.cnn_tuned": "right"}, lambda e: says(e, "cnn_tuned") == e["truth"]),
        ({"model.bdt": "numu_cc"}, lambda e: says(e, "bdt") == "numu_cc"),
        ({"model.bdt": "wrong-numu_cc"}, lambda e: says(e, "bdt") == "numu_cc" != e["truth"]),
        ({"differ": "some"}, lambda e: len({says(e, model) for model in MODELS}) > 1),
        ({"differ": "cnn_tuned~vlm"}, lambda e: says(e, "cnn_tuned") != says(e, "vlm")),
        ({"truth": "nue_cc", "model.vlm": "right"}, lambda e: e["truth"] == says(e, "vlm") == "nue_cc"),
    ]
    for chosen, holds in tried:
        for key, value in chosen.items():
            choose(page, key, value)
        assert 0 < count(page) == expected(holds) < len(events), chosen
        page.click("[data-part=reset]")
        assert count(page) == len(events)
    page.fill('[data-key="from"]', "2.5")
    page.fill('[data-key="to"]', "6")
    page.press('[data-key="to"]', "Enter")
    assert 0 < count(page) == expected(lambda e: 2.5 <= e["nu_energy_gev"] <= 6) < len(events)
    page.fill('[data-key="from"]', "99")
    page.press('[data-key="from"]', "Enter")
    assert count(page) == 0
    assert page.is_visible("[data-part=none]")
    assert not page.is_visible("[data-part=found]")


def test_the_order_is_that_which_was_asked_for(page: Any, numbers: dict) -> None:
    def in_order() -> list[dict]:
        by_id = {str(event["event_id"]): event for event in numbers["gallery"]}
        ids = []
        page.focus("[data-part=list]")
        page.keyboard.press("Home")
        for _ in range(12):
            ids.append(re.search(r"event (\d+)", current(page))[1])
            page.click("[data-part=next]")
        return [by_id[one] for one in ids]

    def confidence(event: dict) -> float:
        return max(event["models"]["vlm"]["p"].values())

    def distance(event: dict) -> float:
        p, q = (event["models"][model]["p"] for model in ("cnn_tuned", "vlm"))
        return sum(abs(p[name] - q[name]) for name in p) / 2

    assert in_order() == numbers["gallery"][:12]
    choose(page, "differ", "cnn_tuned~vlm")
    tried = {"energy": lambda e: e["nu_energy_gev"], "confidence.vlm": confidence, "differ": distance}
    for key, quantity in tried.items():
        choose(page, "sort", key)
        falling = [quantity(event) for event in in_order()]
        assert all(a >= b - 1e-3 for a, b in pairwise(falling)), key
        choose(page, "way", "last")
        rising = [quantity(event) for event in in_order()]
        assert all(a <= b + 1e-3 for a, b in pairwise(rising)), key
        assert rising[0] < falling[0]
        choose(page, "way", "")


def test_a_link_keeps_what_was_chosen(browser: Any, page: Any, page_path: Path) -> None:
    choose(page, "model.vlm", "wrong")
    choose(page, "sort", "energy")
    page.click("[data-part=next]")
    page.click("[data-part=next]")
    page.select_option("[data-part=saliency]", "cnn_published")
    page.check("[data-part=whole]")
    page.locator("label.choice select").first.select_option("half_resolution")
    seen = (count(page), current(page), page.inner_text("[data-part=place]"))
    with opened(browser, page_path, "#" + page.url.split("#")[1]) as other:
        assert (count(other), current(other), other.inner_text("[data-part=place]")) == seen
        assert other.input_value('[data-key="model.vlm"]') == "wrong"
        assert other.input_value("[data-part=saliency]") == "cnn_published"
        assert other.is_checked("[data-part=whole]")
        assert other.locator("[data-choice=confusion] > [data-name=half_resolution]").is_visible()
        assert not other.locator("[data-choice=confusion] > [data-name=nominal]").is_visible()
        assert other.locator("#events").evaluate("e => Math.abs(e.getBoundingClientRect().top) < innerHeight")


def test_back_goes_back(page: Any) -> None:
    everything, first = count(page), current(page)
    choose(page, "truth", "nc")
    found = count(page)
    page.click("[role=option] >> nth=3")
    chosen = current(page)
    assert chosen != first
    page.click("nav a[href='#tables']")
    assert current(page) == chosen, "a section is no other choice"
    page.go_back()
    page.go_back()
    assert count(page) == found
    assert current(page) != chosen
    page.go_back()
    assert (count(page), current(page)) == (everything, first)
    assert page.input_value('[data-key="truth"]') == ""
    page.go_forward()
    assert count(page) == found


def test_keys_go_through_the_list(page: Any, numbers: dict) -> None:
    page.focus("[data-part=list]")
    steps = [
        ("ArrowDown", 1),
        ("ArrowDown", 2),
        ("ArrowUp", 1),
        ("End", len(numbers["gallery"]) - 1),
        ("ArrowDown", len(numbers["gallery"]) - 1),
        ("Home", 0),
    ]
    for key, at in steps:
        page.keyboard.press(key)
        assert current(page).startswith(f"event {numbers['gallery'][at]['event_id']},")
        selected = page.locator("[role=option][aria-selected=true]")
        assert selected.get_attribute("aria-posinset") == str(at + 1)
        assert selected.get_attribute("id") == page.get_attribute("[data-part=list]", "aria-activedescendant")
        assert page.evaluate("document.activeElement.dataset.part") == "list"
        row, box = selected.bounding_box(), page.locator("[data-part=list]").bounding_box()
        assert box["y"] - 1 <= row["y"] <= box["y"] + box["height"] - row["height"] + 1, "the chosen row is in sight"
    length = page.evaluate("history.length")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("history.length") == length, "keys leave no trail"


def test_an_event_is_drawn_where_and_as_it_was_seen(page: Any, numbers: dict) -> None:
    """The track of the test's events begins in the vertex' pixel, goes along z and has 10.5 MeV a pixel."""
    display = page.locator("[data-part=display] svg")
    assert re.match(r"Event \d+: views XZ with \d+ filled pixels", display.get_attribute("aria-label"))
    text = display.text_content()
    for label in ("XZ view, from above", "x (cm)", "y (cm)", "z (cm), along the beam", "energy in a 5 cm pixel (MeV)"):
        assert label in text
    display.scroll_into_view_if_needed()
    for view in range(2):
        cross = page.locator(".vertex").nth(view).bounding_box()
        x, y = cross["x"] + cross["width"] / 2, cross["y"] + cross["height"] / 2
        image = page.locator(".pixels").nth(view).bounding_box()
        side = image["height"]
        assert image["x"] <= x <= image["x"] + side + 1, "the track begins at the vertex"
        assert image["y"] - 1 <= y <= image["y"] + side + 1
        page.mouse.move(image["x"] + 1.5 * side, image["y"] + side / 2)
        said = page.inner_text("[data-part=under]")
        assert float(re.search(r": ([\d.]+) MeV", said)[1]) == pytest.approx(10.5, rel=0.03)
        vertex = numbers["gallery"][0]["vertex_cm"]
        z, across = (float(value) for value in re.match(r"z (-?\d+), [xy] (-?\d+) cm", said).groups())
        assert z == pytest.approx(vertex[2] + 5, abs=5)
        assert across == pytest.approx(vertex[view], abs=5)
        page.mouse.move(image["x"] + 1.5 * side, image["y"] - 2 * side)
        assert "nothing" in page.inner_text("[data-part=under]")


def test_pixels_are_read_as_they_were_written(page: Any, folder: Path) -> None:
    collected = read_json(folder / "events.json")
    shape = tuple(collected["frame"]["views"][0]["shape"])
    for event in collected["events"][:5]:
        read = page.evaluate("text => decodePixels(text)", event["pixels"][0])
        image = decode(event["pixels"][0], shape)
        assert read["index"] == np.flatnonzero(image).tolist()
        assert read["level"] == image[image > 0].tolist()
    far = page.evaluate("decodePixels('gICABAk=')")  # 2^23 empty pixels, then level 9
    assert far == {"index": [1 << 23], "level": [9]}


def test_where_the_network_looks_lies_at_its_place(page: Any) -> None:
    """The test's maps have one spot, five pixels up and right of the vertex."""
    assert page.locator(".saliency").count() == 0
    page.select_option("[data-part=saliency]", "cnn_published")
    assert page.locator(".saliency").count() == 2
    for view in range(2):
        cross = page.locator(".vertex").nth(view).bounding_box()
        side = page.locator(".pixels").nth(view).bounding_box()["height"]
        peak = page.locator(".saliency").nth(view).evaluate(BRIGHTEST)
        box = page.locator(".saliency").nth(view).bounding_box()
        at = [box["x"] + peak[0] * box["width"], box["y"] + peak[1] * box["height"]]
        assert at[0] - (cross["x"] + cross["width"] / 2) == pytest.approx(5 * side, abs=1.2 * side)
        assert (cross["y"] + cross["height"] / 2) - at[1] == pytest.approx(5 * side, abs=1.2 * side)
    page.locator("[data-part=opacity]").fill("0.3")
    assert page.locator(".saliency").first.get_attribute("opacity") == "0.3"


def test_claims_are_marked_right_or_wrong(page: Any, numbers: dict) -> None:
    for event in numbers["gallery"][:8]:
        result = event["explanations"]["vlm"]
        lists = page.locator("[data-part=explained] .claims")
        assert lists.count() == sum(bool(one["claims"]) for one in result)
        assert page.locator("[data-part=explained] details").count() == len(result) - 1
        words = lists.first.inner_text()
        claims = result[0]["claims"]
        assert words.count("✓") == sum(claim["right"] is True for claim in claims)
        assert words.count("✗") == words.count("(true: ") == sum(claim["right"] is False for claim in claims)
        page.click("[data-part=next]")


def test_harmful_words_are_words(page: Any, numbers: dict) -> None:
    assert page.inner_text("blockquote >> nth=0") == EVIL
    for event in numbers["gallery"]:
        if event["shard"] == SHARD:
            break
        page.click("[data-part=next]")
    assert current(page) == f"event {event['event_id']}, shard {SHARD}"
    assert page.locator("img").count() == 0
    assert page.evaluate("document.scripts.length") == 2
    link = page.locator("[data-deep]").first
    link.click()
    assert current(page).startswith("event " + link.inner_text().split(", ")[-1])


def test_no_script_runs_but_the_page_s_own(browser: Any, page_path: Path) -> None:
    page = browser.new_page()
    page.goto(page_path.as_uri())
    title = page.title()
    page.evaluate("document.body.append(fill(document.createElement('script'), {}, ['document.title = 1']))")
    assert page.title() == title
    page.evaluate("document.title = 2")
    assert page.title() == "2", "the page's policy kept it"
    page.close()


def test_tables_are_sorted_and_copied(browser: Any, page_path: Path) -> None:
    with opened(browser, page_path, permissions=["clipboard-read", "clipboard-write"]) as page:
        table = page.locator("#confusion table")
        heading = table.locator("th", has_text="Recall")

        def column() -> list[float]:
            return [float(row.split("\n")[0]) for row in table.locator("tbody tr td:nth-child(5)").all_inner_texts()]

        heading.locator("button").click()
        assert heading.get_attribute("aria-sort") == "ascending"
        assert column() == sorted(column())
        heading.locator("button").press("Enter")
        assert heading.get_attribute("aria-sort") == "descending"
        assert column() == sorted(column(), reverse=True)
        assert table.locator("[aria-sort]").count() == 1
        groups = page.locator("#tables table >> nth=0").locator("tbody")
        page.locator("#tables table >> nth=0").locator("th", has_text="Accuracy").locator("button").click()
        firsts = [float(re.search(r"0\.\d+", text)[0]) for text in groups.all_inner_texts()]
        assert firsts == sorted(firsts)
        published = [text for text in groups.all_inner_texts() if text.startswith(("CNN published", "VLM", "ViT"))]
        assert len(published) == 3
        assert all("\tpublished" in text or "\npublished" in text for text in published)
        page.locator("#confusion .copy").click()
        page.locator("#confusion .copy", has_text="Copied").wait_for()
        rows = page.evaluate("navigator.clipboard.readText()").split("\n")
        assert len(rows) == 1 + table.locator("tbody tr").count()
        assert {len(row.split("\t")) for row in rows} == {8}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_everyone_can_read_it(browser: Any, page_path: Path, scheme: str, width: int) -> None:
    from axe_playwright_python.sync_playwright import Axe

    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 800}}
    with opened(browser, page_path, "#saliency=cnn_published&sort=energy", **options) as page:
        page.locator("[data-part=explained] summary").first.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page does not scroll sideways"
        found = Axe().run(page).response["violations"]
        assert [(one["id"], node["html"][:200], node["failureSummary"]) for one in found for node in one["nodes"]] == []


def test_paper_has_every_figure_and_no_controls(page: Any) -> None:
    hidden = page.locator("[data-choice] > .away")
    assert hidden.count() > 0
    assert not hidden.first.is_visible()
    page.emulate_media(media="print")
    assert all(hidden.nth(i).is_visible() for i in range(hidden.count()))
    for control in ("[data-part=filters]", "[data-part=list]", "nav", ".copy >> nth=0", ".choice >> nth=0"):
        assert not page.locator(control).is_visible()
    assert page.locator("[data-part=display] svg").is_visible()
    assert page.locator("[data-deep]").first.is_visible()


def test_without_scripts_all_but_browsing_is_there(browser: Any, page_path: Path, numbers: dict) -> None:
    with opened(browser, page_path, java_script_enabled=False) as page:
        assert page.inner_text(".headline") == numbers["headline"]
        assert not page.locator("#browser").is_visible()
        assert "needs JavaScript" in page.inner_text("#events")
        assert page.locator("#events tbody tr").count() == 12
        figures = page.locator("[data-choice] > .row")
        assert all(figures.nth(i).is_visible() for i in range(figures.count()))


def test_two_thousand_events_stay_light(browser: Any, tmp_path: Path) -> None:
    run = write_run(tmp_path, n=3300, models={"cnn_tuned": 1.0, "vlm": 1.2})
    _, numbers = make_report(run, tmp_path, count=2000)
    assert len(numbers["gallery"]) == 2000
    path = tmp_path / "report" / "index.html"
    assert path.stat().st_size < 30e6
    with opened(browser, path) as page:
        nodes = "document.querySelectorAll('#browser *').length"
        few = page.evaluate(nodes)
        assert few < 1000
        page.focus("[data-part=list]")
        page.keyboard.press("End")
        assert page.inner_text("[data-part=place]") == "2000 of 2000"
        for key in ["PageUp"] * 20 + ["ArrowUp"] * 20:
            page.keyboard.press(key)
        choose(page, "model.vlm", "wrong")
        choose(page, "model.vlm", "")
        page.mouse.move(0, 0)
        page.evaluate("document.querySelector('[data-part=list]').scrollTop = 20000")
        page.locator("[role=option][aria-posinset='640']").wait_for()
        assert page.evaluate(nodes) < 1.5 * few


def test_pixel_maps_made_elsewhere_are_drawn_in_pixels(browser: Any, tmp_path: Path) -> None:
    run = write_run(tmp_path, n=60, models={"cnn_tuned": 1.0, "vlm": 1.2})
    make_report(run, tmp_path, count=0)
    events = pd.read_parquet(run.events)
    stores = {}
    for shard, rows in events.groupby("shard"):
        images = np.zeros((3, 64, 64), np.uint8)
        images[:, 20:24, 30:50] = 128
        maps = [PixelMap(str(i), i, images) for i in rows["event_id"].astype(int).tolist()]
        stores[str(shard)] = tmp_path / f"{shard}.zarr"
        PixelMapWriter(store=stores[str(shard)], truth=tmp_path / f"{shard}.parquet").write(
            tmp_path,
            maps,
            len(maps),
            source="wires",
            views=["u", "v", "y"],
            axes=MapAxes("wire", "time tick", 8, 44, up=True),
        )
    nominal = {model: conditions["nominal"] for model, conditions in run.predictions.items()}
    collect_events(run.events, nominal, stores, 600, tmp_path / "maps.json", seed=7, displays=False)
    make_page(run, tmp_path, tmp_path / "maps.json")
    with opened(browser, tmp_path / "report" / "index.html") as page:
        text = page.text_content("[data-part=display]")
        for label in ("U view", "V view", "Y view", "wire", "time tick", "grey value"):
            assert label in text
        assert "cm" not in text
        assert page.locator(".pixels").count() == 3
        assert page.locator(".vertex").count() == 0
        page.locator("[data-part=display] svg").scroll_into_view_if_needed()
        image = page.locator(".pixels").nth(1).bounding_box()
        assert image["width"] / image["height"] == pytest.approx(5, rel=0.02)
        page.mouse.move(image["x"] + image["width"] * 0.975, image["y"] + image["height"] * 0.1)
        # 8 wires and 44 ticks in a pixel
        found = re.search(r"wire (\d+), time (\d+): 128", page.inner_text("[data-part=under]"))
        assert 8 * 49 <= int(found[1]) <= 8 * 50
        assert 44 * 23 <= int(found[2]) <= 44 * 24
        ticks = [
            int(text) for text in page.locator("[data-part=display] .axes text").all_text_contents() if text.isdigit()
        ]
        assert max(ticks) > 500, "axes count wires and ticks, not pixels"


def test_events_without_truth_are_browsed_too(browser: Any, tmp_path: Path) -> None:
    run = write_run(tmp_path, n=30, labelled=0)
    _, numbers = make_report(run, tmp_path)
    with opened(browser, tmp_path / "report" / "index.html") as page:
        assert count(page) == 30
        assert page.locator('[data-key="truth"]').count() == 0
        assert "unknown" in page.inner_text("[data-part=title]")
        choose(page, "model.vlm", "nc")
        assert count(page) == sum(event["models"]["vlm"]["predicted"] == "nc" for event in numbers["gallery"])
