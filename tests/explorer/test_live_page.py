"""The page with a server behind it: own inputs, changes of the model, heads on request."""

import pytest
from tests.explorer.conftest import FIVE, INPUTS, draw_seven

WAIT = 30_000  # milliseconds


@pytest.fixture
def page(browser, port):
    problems = []
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(WAIT)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(f"http://127.0.0.1:{port}/")
    region(page, "focus").wait_for()
    yield page
    context.close()
    assert problems == []


def region(page, name):
    return page.locator(f"[data-region={name}]")


def choose(page, name, **fields):
    """Run a model of the menu on an input."""
    region(page, "input").locator("select").select_option(name)
    for label, text in fields.items():
        region(page, "input").get_by_label(label).fill(text)
    region(page, "input").get_by_role("button", name="Run").click()
    page.locator("header b", has_text=name).wait_for()
    region(page, "input").get_by_role("button", name="Run", exact=True).wait_for()


@pytest.mark.parametrize("task", FIVE)
def test_own_inputs_of_every_kind(task, page, tmp_path):
    name, inputs = INPUTS[task]
    if task == "recognize":
        draw_seven().save(tmp_path / "mine.png")
        region(page, "input").locator("select").select_option(name)
        region(page, "input").locator("input[type=file]").set_input_files(tmp_path / "mine.png")
        choose(page, name)
        assert "mine.png" in region(page, "summary").inner_text()
    elif task == "answer":
        choose(page, name, Question=inputs["text"], Passage=inputs["context"])
    else:
        choose(page, name, **{"Prompt" if task == "generate" else "Text": inputs["text"]})
        assert inputs["text"] in region(page, "summary").inner_text()
    assert region(page, "arithmetic").is_visible()
    assert region(page, "output").is_visible()


def test_heads_are_switched_off_and_their_effect_is_shown(page):
    choose(page, "sentiment-small", Text="A film that is not bad at all.")
    before = float(region(page, "output").locator(".num").first.inner_text().split()[0])
    page.keyboard.press("x")
    region(page, "heads").locator(".thumb").nth(4).click(modifiers=["Control"])
    region(page, "change").get_by_role("button", name="Run").click()
    outcome = region(page, "outcome")
    outcome.wait_for()
    cells = outcome.locator("tbody tr").first.locator("td").all_inner_texts()
    assert float(cells[1].split()[0]) == pytest.approx(before, abs=0.11)
    assert cells[2] != cells[1]
    page.get_by_text("The same in Python").click()
    python = region(page, "change").locator("pre").inner_text()
    assert python.count("with qkv.disable_heads(loaded.model, ") == 2


def test_the_mask_is_swapped(page):
    choose(page, "sentiment-small", Text="A film that is not bad at all.")
    region(page, "change").locator("select").select_option("window")
    region(page, "change").get_by_role("button", name="Run").click()
    region(page, "outcome").wait_for()
    page.keyboard.press("ArrowDown")
    for _ in range(6):
        page.keyboard.press("ArrowRight")
    assert "hidden" in region(page, "arithmetic").inner_text()


def test_a_word_is_edited_and_compared_with_the_run_before(page):
    choose(page, "sentiment-small", Text="A good film.")
    choose(page, "sentiment-small", Text="A bad film.")
    page.get_by_text("The run before:").wait_for()
    assert "positive" in page.get_by_text("The run before:").inner_text()
    assert "log-probability of negative now +" in page.get_by_text("The run before").inner_text()


def test_the_menu_of_masks_names_the_stacks_of_an_encoder_decoder(page):
    menu = region(page, "change").locator("select option")
    assert menu.count() == 3
    choose(page, "translator-en-de", Text="A house.")
    assert menu.count() == 6
    region(page, "change").locator("select").select_option("encoder: hide later tokens")
    region(page, "change").get_by_role("button", name="Run").click()
    region(page, "outcome").wait_for()
    assert "After the mask “encoder: hide later tokens”" in region(page, "change").inner_text()


def test_effects_are_measured_on_demand(page):
    choose(page, "sentiment-small", Text="A dull film.")
    region(page, "change").get_by_role("button", name="Measure the effect").click()
    page.locator("[data-picture=effects]").wait_for()
    assert page.locator("[data-picture=effects] button").count() == 72


def test_heads_of_a_long_input_come_one_by_one(page, monkeypatch):
    monkeypatch.setattr("qkv.explorer.view.LONG", 6)
    choose(page, "generator", Prompt="Return the number of")
    page.locator("[data-picture=matrix]").wait_for()
    region(page, "heads").locator(".thumb").nth(5).click()
    page.locator("[data-picture=matrix]").wait_for()
    assert "q · k" in region(page, "arithmetic").inner_text()


def test_an_error_is_shown_and_the_next_run_works(page):
    region(page, "input").locator("select").select_option("tagger")
    region(page, "input").get_by_role("button", name="Run").click()
    assert "the model failed" in page.get_by_role("alert").inner_text()
    choose(page, "sentiment-small", Text="Fine.")
    assert page.get_by_role("alert").count() == 0


def test_the_page_is_saved(page, tmp_path):
    with page.expect_download() as download:
        page.get_by_role("link", name="Save this page").click()
    download.value.save_as(tmp_path / "saved.html")
    other = page.context.browser.new_page()
    other.goto((tmp_path / "saved.html").as_uri())
    region(other, "focus").wait_for()
    assert region(other, "summary").is_visible()
    other.close()
