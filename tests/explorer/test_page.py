"""The page in a browser: each region on five kinds of input, from a file, with the network off."""

import base64
import json
import re

import numpy as np
import pytest
from tests.explorer.conftest import FIVE, looked_at
from tests.explorer.test_look import arithmetic, cells

from qkv.explorer.saved import empty_page, page_with

REGIONS = ("input", "tokens", "heads", "focus", "arithmetic", "output", "lens", "change", "space")


@pytest.fixture
def visit(browser, tmp_path):
    """Open a page from a file, offline; in the end, nothing has failed or was requested."""
    problems, requests, contexts = [], [], []

    def opened(task, hash="", **options):
        path = tmp_path / f"{task}.html"
        path.write_text(page_with(looked_at(task).record), encoding="utf-8")
        return show(path, hash, **options)

    def show(path, hash="", **options):
        context = browser.new_context(offline=True, **{"color_scheme": "light", **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda said: problems.append(said.text) if said.type == "error" else 0)
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri() + hash)
        return page

    opened.show = show
    yield opened
    for context in contexts:
        context.close()
    assert problems == []
    assert all(url.startswith(("file://", "data:", "blob:")) for url in requests), requests


def region(page, name):
    return page.locator(f"[data-region={name}]")


def hash_of(page):
    return dict(re.findall(r"(\w+)=(\w+)", page.evaluate("location.hash")))


@pytest.mark.parametrize("task", FIVE)
def test_every_region_is_there_with_a_table_behind_each_picture(task, visit):
    page = visit(task)
    for name in REGIONS:
        assert region(page, name).first.is_visible(), name
    assert region(page, "beam").count() == (task == "translate")
    header = looked_at(task).record.header
    assert header["task"]["output"].strip()[:20] in region(page, "summary").inner_text()
    assert "Weights are not an explanation" in page.locator("footer").inner_text()
    for name in ("heads", "focus", "arithmetic", "output", "change", "space"):
        toggle = region(page, name).get_by_role("button", name=re.compile("^Table")).first
        toggle.click()
        assert region(page, name).locator("tbody tr").count() > 1, name


@pytest.mark.parametrize("task", FIVE)
def test_the_arithmetic_of_ten_cells_is_the_weights(task, visit):
    page, record = visit(task), looked_at(task).record
    for i, head, query, key in cells(record):
        page.evaluate(f"location.hash = '#a={i}&h={head}&q={query}&k={key}&picture=matrix'")
        shown = page.locator("[data-value=weight]")
        expected = arithmetic(record, i, head, query, key)
        page.wait_for_function(
            "([want]) => Math.abs(+document.querySelector('[data-value=weight]')?.title - want)"
            " <= 1e-9 + 1e-5 * want",
            arg=[expected],
        )
        layer = record.header["attention"][i]
        kept = float(record.tensors[layer["tensors"]["weights"]][head, query, key])
        assert abs(float(shown.get_attribute("title")) - kept) <= 2**-10 * kept + 2**-24


@pytest.mark.parametrize("task", FIVE)
def test_the_effects_are_those_of_the_record(task, visit):
    page, record = visit(task), looked_at(task).record
    step = int(hash_of(page)["s"])
    effects = record.tensors["ablation.effects"][:, step]
    shown = page.locator("[data-picture=effects] button").evaluate_all(
        "all => all.map(one => one.getAttribute('aria-label').split(': ')[1])"
    )
    ours = [float(text.replace("−", "-").replace("±", "")) for text in shown]
    assert np.allclose(ours, effects, atol=6e-4)
    page.locator("[data-picture=effects] button").nth(1).click()
    assert (hash_of(page)["a"], hash_of(page)["h"]) == ("0", "1")


def test_the_best_path_of_the_tree_is_the_translation(visit):
    page, record = visit("translate"), looked_at("translate").record
    output, beam = record.header["task"]["output"], record.header["beam"]
    answers = region(page, "answers").locator("li")
    assert answers.first.locator("button").inner_text() == output
    slider = region(page, "beam").locator("input[type=range]")
    slider.fill("0")
    ended = [one for one in beam["nodes"] if one["ended"] and one["kept"]]
    best = max(one["total"] for one in ended)
    assert f"{best:.2f}".replace("-", "−") in answers.first.inner_text()
    dropped = page.locator("[data-picture=beam] text.dropped")
    assert dropped.count() == 0
    region(page, "beam").get_by_role("checkbox").check()
    assert dropped.count() == sum(not one["kept"] for one in beam["nodes"])


@pytest.mark.parametrize("task", ["classify", "translate", "generate"])
def test_temperature_and_top_p_are_computed_from_the_logits(task, visit):
    page, record = visit(task), looked_at(task).record
    step = int(hash_of(page)["s"])
    logits = record.tensors["output.logits"][step].astype(np.float64)
    tail = record.tensors["output.tail"][step].astype(np.float64)
    shown = page.locator("[data-picture=candidates] .num").first
    temperature, top_p = (
        region(page, "output").locator("input[type=range]").nth(n) for n in (0, 1)
    )
    for t in (1.0, 2.0, 0.5):
        temperature.fill(str(t))
        exponentials = np.exp((logits - logits[0]) / t)
        rest = (tail[1] * np.exp((tail[0] - logits[0]) / t)).sum()
        probability = 100 * exponentials[0] / (exponentials.sum() + rest)
        assert float(shown.inner_text().split()[0]) == pytest.approx(probability, rel=0.06)
    top_p.fill("0.05")
    assert shown.inner_text() == "100 %"
    assert "Top-p keeps 1 of" in region(page, "output").inner_text()


def test_the_selection_is_in_the_address_and_follows_keys(visit):
    page = visit("classify", "#a=2&h=3&q=4&k=5")
    start = hash_of(page)
    assert [start[name] for name in "ahqk"] == ["2", "3", "4", "5"]
    for key in ("ArrowDown", "ArrowLeft", "]", "}"):
        page.keyboard.press(key)
    moved = hash_of(page)
    assert [moved[name] for name in "ahqk"] == ["3", "4", "5", "4"]
    page.keyboard.press("?")
    assert page.locator("dl.keys").is_visible()


@pytest.mark.parametrize("wrong", ["#a=99&h=99&q=999&k=999&s=99&layer=99", "#a=x&picture=image"])
def test_an_address_that_fits_no_record_is_clamped(wrong, visit):
    page = visit("classify", wrong)
    assert region(page, "arithmetic").is_visible()
    assert int(hash_of(page)["a"]) < 6


@pytest.mark.parametrize("way", ["drag", "shift", "address"])
def test_a_range_of_tokens_restricts_the_pictures(way, visit):
    page = visit("translate", "#source=2-5" if way == "address" else "")
    sequences = looked_at("translate").record.header["sequences"]
    groups = page.locator("[data-region=tokens] .tokens")
    source = groups.nth(0).locator(".token")
    if way == "drag":
        source.nth(4).hover()
        page.mouse.down()
        source.nth(2).hover()
        page.mouse.up()
    elif way == "shift":
        page.keyboard.press("ArrowRight")
        page.evaluate("location.hash = location.hash.replace(/k=\\d+/, 'k=2')")
        source.nth(4).click(modifiers=["Shift"])
    page.wait_for_function("location.hash.includes('source=2-5')")
    picture = page.locator("[data-picture=matrix]")
    n_target = len(sequences["target"])
    assert picture.evaluate("one => [one.width, one.height]") == [3, n_target]
    words = [one["text"].strip("▁ ") for one in sequences["source"]]
    assert region(page, "focus").locator(".columns .label").all_inner_texts() == words[2:5]
    box = picture.bounding_box()
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 3)
    assert region(page, "focus").locator(".now .k").inner_text() == words[3]
    page.get_by_role("group", name="Picture").get_by_role("button", name="arcs").click()
    texts = page.locator("[data-picture=arcs] text").count()
    assert texts == n_target + 3
    page.get_by_title("Show all tokens again").click()
    assert page.locator("[data-picture=arcs] text").count() == n_target + len(words)


def test_pointing_at_a_token_looks_from_it(visit):
    page = visit("classify")
    page.locator("[data-region=tokens] .token").nth(3).hover()
    word = page.locator("[data-region=tokens] .token").nth(3).inner_text()
    page.wait_for_function(
        "w => document.querySelector('[data-region=focus] .now .q').textContent === w", arg=word
    )
    page.locator("[data-region=tokens] .token").nth(2).click()
    assert hash_of(page)["q"] == "2"


@pytest.mark.parametrize("order", ["entropy", "distance", "special", "effect"])
def test_heads_are_sorted_by_what_they_do(order, visit):
    page, record = visit("answer"), looked_at("answer").record
    if order == "effect":
        effects = np.abs(record.tensors["ablation.effects"][:, int(hash_of(page)["s"])])
        a, h = record.header["ablation"]["heads"][int(effects.argmax())]
    else:
        values = [
            (x, i, j)
            for i, layer in enumerate(record.header["attention"])
            for j, x in enumerate(layer["stats"][order])
        ]
        _, a, h = max(values, key=lambda one: one[0])
    region(page, "heads").locator("select").select_option(order)
    first = region(page, "heads").locator(".thumb").first
    assert first.get_attribute("aria-label") == f"layer {a + 1}, head {h + 1}"
    first.click()
    assert (hash_of(page)["a"], hash_of(page)["h"]) == (str(a), str(h))


def test_an_image_is_looked_at_patch_by_patch(visit):
    page, record = visit("recognize"), looked_at("recognize").record
    patches = page.locator("[data-picture=image] .patches button")
    assert patches.count() == 49
    patches.nth(10).click()
    assert hash_of(page)["q"] == "11"
    layer, h = record.header["attention"][-1], int(hash_of(page)["h"])
    weights = record.tensors[layer["tensors"]["weights"]][h, 11]
    shown = [
        float(text.split(": ")[1].replace("<", "").split("%")[0])
        for text in patches.evaluate_all("all => all.map(one => one.title)")
    ]
    assert np.allclose(np.array(shown) / 100, weights[1:], atol=1e-3)
    for picture in ("matrix", "arcs"):
        page.get_by_role("group", name="Picture").get_by_role("button", name=picture).click()
        assert page.locator(f"[data-picture={picture}]").is_visible()


@pytest.mark.parametrize("mode", ["mean of heads", "rollout"])
def test_a_mean_of_heads_has_rows_that_sum_to_1(mode, visit):
    page = visit("classify", "#picture=matrix")
    page.get_by_role("button", name=mode).click()
    assert "no arithmetic of its own" in region(page, "arithmetic").inner_text()
    region(page, "focus").get_by_role("button", name=re.compile("^Table")).first.click()
    weights = region(page, "focus").locator("tbody td:nth-child(3)").all_inner_texts()
    assert sum(map(float, weights)) == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize("task", FIVE)
def test_a_phone_shows_everything_in_one_column(task, visit):
    scheme = "dark" if task in ("generate", "recognize") else "light"
    page = visit(task, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    tops = [
        region(page, name).bounding_box()["y"] for name in ("heads", "focus", "output", "change")
    ]
    assert tops == sorted(tops)
    page.get_by_role("button", name="Switch between light and dark").click()
    assert page.evaluate("document.documentElement.dataset.theme") != scheme


def test_another_version_is_refused_with_a_sentence(visit, tmp_path):
    looked = looked_at("generate")
    content = looked.record.encode().replace(b'\\"version\\": 1', b'\\"version\\": 2', 1)
    script = f'<script type="x" id="record">{base64.b64encode(content).decode()}</script>'
    path = tmp_path / "other.html"
    path.write_text(empty_page().replace("<!-- record -->", script), encoding="utf-8")
    page = visit.show(path)
    assert "reads the format qkv-record, version 1" in page.get_by_role("alert").inner_text()


def test_a_text_is_never_markup(visit, tmp_path):
    looked = looked_at("classify")
    header = json.loads(json.dumps(looked.record.header))
    header["task"]["inputs"]["text"] = "<img src=x onerror=alert(1)>"
    header["sequences"]["source"][1]["text"] = "<b>bold</b>"
    path = tmp_path / "x.html"
    path.write_text(page_with(type(looked.record)(header, looked.record.tensors)), "utf-8")
    page = visit.show(path)
    assert "<img src=x" in region(page, "summary").inner_text()
    assert page.locator("[data-region=tokens] b").count() == 0
