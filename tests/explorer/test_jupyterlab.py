"""The widget in JupyterLab, on this computer: cells are run, pointed at, clicked and typed into."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import nbformat
import pytest

WAIT = 60_000  # milliseconds, of a kernel that imports torch
CELLS = (
    """import torch
from qkv.explorer.notebook import explore, explore_weights
model = explore("sentiment-small", "The film was a wonderful surprise.", layer=2, head=1)
model""",
    """weights = torch.eye(3).expand(2, 3, 3)
explore_weights({"first": weights, "second": weights}, list("abc"), ["x", "y", "z"])""",
    """from qkv.tutorial.show import show_weights
maps = {"one": (weights[0], list("abc"), list("xyz"))}
live = lambda: explore_weights(weights, list("abc"), list("xyz"))
show_weights("figure", maps, size=(3, 3), live=live)""",
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab with one notebook."""
    pytest.importorskip("jupyterlab", reason="jupyterlab is not installed: pip install jupyterlab")
    pytest.importorskip("anywidget")
    home = tmp_path_factory.mktemp("lab")
    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, home / "test.ipynb")
    settings = home / "CONFIG" / "lab" / "user-settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folders = {f"JUPYTER_{name}_DIR": str(home / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    options = [f"--port={port}", f"--ServerApp.root_dir={home}", "--IdentityProvider.token="]
    options += ["--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1"]
    options += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            env={**os.environ, **folders, "IPYTHONDIR": str(home)},
            stdout=log,
            stderr=log,
        )
        address = f"http://127.0.0.1:{port}"
        try:
            wait_for(f"{address}/api", process)
            yield f"{address}/lab/tree/test.ipynb"
        finally:
            process.terminate()
            process.wait(30)


def wait_for(address, process):
    while process.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
        else:
            return
    pytest.fail(f"jupyterlab ended with {process.returncode}")


@pytest.fixture(scope="module")
def page(browser, lab):
    """The notebook, after its cells were run."""
    problems = []
    context = browser.new_context(viewport={"width": 1300, "height": 1100})
    page = context.new_page()
    page.set_default_timeout(WAIT)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(lab)
    page.locator(".jp-CodeCell").nth(1).wait_for()
    page.get_by_text("| Idle").wait_for()  # before, the kernel may miss the request
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    widgets(page).nth(2).locator("[data-picture=matrix]").wait_for()
    yield page
    context.close()
    assert problems == []


def widgets(page):
    return page.locator(".qkv-explorer")


def test_the_heads_and_the_matrix_are_seen(page):
    first = widgets(page).first
    assert first.locator(".thumb").count() == 72
    assert first.locator("[data-picture=matrix]").is_visible()
    assert "layer 3, head 2" in first.locator("[data-region=focus] h2").inner_text()
    assert "positive" in first.locator("[data-region=summary]").inner_text()


def test_pointing_and_clicking_move_the_selection_of_one_widget(page):
    first, second = widgets(page).nth(0), widgets(page).nth(1)
    before = second.locator("[data-region=focus]").inner_text()
    first.locator(".thumb").nth(5).click()
    assert "layer 1, head 6" in first.locator("[data-region=focus] h2").inner_text()
    token = first.locator("[data-region=tokens] .token").nth(3)
    token.hover()
    looked = first.locator("[data-region=focus] .now .q")
    assert looked.inner_text() == token.inner_text()
    matrix = first.locator("[data-picture=matrix]").bounding_box()
    page.mouse.move(matrix["x"] + 0.5 * matrix["width"], matrix["y"] + 2)
    assert looked.inner_text() == "[CLS]"
    page.mouse.click(matrix["x"] + matrix["width"] - 2, matrix["y"] + matrix["height"] - 2)
    page.mouse.move(0, 0)
    assert looked.inner_text() == "[SEP]"
    assert second.locator("[data-region=focus]").inner_text() == before
    assert "a=" not in page.url


def test_a_typed_text_is_run_by_the_kernel(page):
    first = widgets(page).first
    cells = page.locator(".jp-CodeCell").count()
    first.locator("textarea").fill("")
    first.locator("textarea").click()
    page.keyboard.type("add x bad idea")  # a, dd and x are JupyterLab's keys for cells
    page.keyboard.press("Enter")
    first.locator(".answer", has_text="negative").wait_for()
    assert "idea" in first.locator("[data-region=tokens]").inner_text()
    assert page.locator(".jp-CodeCell").count() == cells


def test_heads_are_switched_off_in_the_kernel(page):
    first = widgets(page).first
    first.get_by_role("button", name="Change", exact=True).click()
    change = first.locator("[data-region=change]")
    change.get_by_role("button", name="Measure the effect of each head").click()
    change.locator("[data-picture=effects]").wait_for()
    assert change.locator("[data-picture=effects] button").count() == 72
    change.get_by_role("button", name="Switch off the head in focus").click()
    change.get_by_role("button", name="Run", exact=True).click()
    change.locator("[data-region=outcome] tbody tr").wait_for()
    first.get_by_role("button", name="Attention", exact=True).click()


def test_weights_alone_have_no_predictions(page):
    second = widgets(page).nth(1)
    assert second.locator(".layer").all_inner_texts() == ["first", "second"]
    assert "second, head 1" in second.locator("[data-region=focus] h2").inner_text()
    assert "weights alone" in second.locator("[data-region=arithmetic]").inner_text()
    for name in ("output", "change", "space", "input"):
        assert second.locator(f"[data-region={name}]").count() == 0


def test_a_figure_of_the_tutorial_is_the_explorer_while_a_kernel_runs(page):
    output = page.locator(".jp-CodeCell").nth(2).locator(".jp-OutputArea-output")
    assert output.locator(".qkv-explorer [data-picture=matrix]").is_visible()
    assert output.locator("img").count() == 0


def test_styles_stay_inside(page):
    assert page.evaluate("document.body.dataset.theme") is None
    rules = (
        "[...document.styleSheets].flatMap(sheet => [...sheet.cssRules].map(one => one.cssText))"
    )
    assert not any("--accent-soft" in rule for rule in page.evaluate(rules))


def test_the_widget_follows_the_theme(page):
    page.evaluate("document.body.dataset.jpThemeLight = 'false'")
    page.wait_for_function("document.querySelector('.qkv-explorer').dataset.theme === 'dark'")
    page.evaluate("document.body.dataset.jpThemeLight = 'true'")
    page.wait_for_function("document.querySelector('.qkv-explorer').dataset.theme === 'light'")
