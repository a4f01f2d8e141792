"""The page in a real browser: hovers, clicks, keys, search, colours, a phone, and no errors."""

import pytest
from weft.tests.each_time import each_time

GEN = 14
"""The line of `assistant gen review: Review` in the essay judge."""


def line_of(seen, pane, number):
    """Return the locator of a line's text in a pane of the upper band."""
    panes = seen.locator("#program-band .pane")
    return panes.nth(pane).locator(f'.line[data-at="{number - 1}"] .text')


def hover(seen, pane, number):
    line_of(seen, pane, number).hover(position={"x": 20, "y": 6})


def marked(seen, pane):
    return seen.locator("#program-band .pane").nth(pane).locator(".line.on")


def wait_for(locator, text):
    """Wait until something says a text: panes draw their lines in the browser's next frame."""
    locator.filter(has_text=text).first.wait_for()


def test_hovering_a_statement_shows_it_in_every_stage(visit, page_file, kernel_of):
    seen = visit(page_file)
    hover(seen, 0, GEN)
    assert marked(seen, 0).count() == 1
    wait_for(marked(seen, 1), "program.gen")
    wait_for(marked(seen, 2), "plan.decode")
    assert (
        seen.locator(f"#kernel-{kernel_of('graph.partial', 'decode 1')}").get_attribute("class")
        == "item on"
    )
    first = marked(seen, 1).first
    box, around = first.bounding_box(), seen.locator(".pane").nth(1).bounding_box()
    assert around["y"] < box["y"] < around["y"] + around["height"]  # scrolled into sight
    seen.mouse.move(700, 20)
    seen.wait_for_function("!document.querySelector('#program-band .line.on')")


def test_hovering_works_from_any_stage(visit, page_file):
    seen = visit(page_file)
    seen.locator("#program-band select").nth(1).select_option("lowered")
    wait_for(seen.locator("#program-band .pane").nth(2), "program.begin")
    seen.locator("#program-band select").nth(1).select_option("plan")
    plan = seen.locator("#program-band .pane").nth(2)
    plan.locator(".line", has_text="plan.select").locator(".text").hover(position={"x": 20, "y": 6})
    wait_for(marked(seen, 0).first, "select grade from")


def test_a_click_pins_and_the_kernels_follow(visit, page_file):
    seen = visit(page_file)
    line_of(seen, 0, GEN).click(position={"x": 20, "y": 6})
    seen.mouse.move(700, 20)
    seen.wait_for_selector(".pinned .line.on")
    assert marked(seen, 0).count() == 1
    kernels = seen.evaluate("JSON.parse(document.getElementById('data').textContent).statements")
    seen.wait_for_function(
        "names => names.includes(document.querySelector("
        "'.kernels .item[aria-selected=\"true\"]').dataset.name)", arg=kernels[str(GEN)],
    )  # fmt: skip
    assert seen.locator("#kernel-band .pane.on").count() == 4
    seen.keyboard.press("Escape")
    assert seen.locator(".line.on").count() == 0


def test_a_tile_operation_is_found_in_triton_tvmscript_and_assembly(visit, page_file, kernel_of):
    seen = visit(page_file)
    seen.locator(f"#kernel-{kernel_of('graph.take_rows')}").click()
    seen.wait_for_function(
        "document.querySelector('#kernel-band .text').innerText.includes('@take_rows')"
    )
    tile, *others = (seen.locator("#kernel-band .pane").nth(at) for at in range(1, 5))
    store = tile.locator(".line", has_text="tile.store")
    store.locator(".text").hover(position={"x": 20, "y": 6})
    for pane, text in zip(others, ("tl.store", "out[", ""), strict=True):
        wait_for(pane.locator(".line.on"), text)
    store.locator(".text").click(position={"x": 20, "y": 6})
    seen.mouse.move(700, 20)
    seen.wait_for_timeout(150)
    assert others[0].locator(".line.on").count() >= 1  # held
    seen.keyboard.press("Escape")
    assert seen.locator("#kernel-band .line.on").count() == 0


def test_the_keyboard_reaches_everything(visit, page_file, kernel_of):
    seen = visit(page_file)
    seen.locator('[role="tab"]').first.focus()
    seen.keyboard.press("ArrowRight")
    assert seen.locator("#view-passes").is_visible()
    assert seen.evaluate("document.activeElement.id") == "tab-passes"
    seen.keyboard.press("ArrowLeft")
    first = seen.locator('#program-band .line[tabindex="0"]').first
    first.focus()
    for _ in range(GEN - 1):
        seen.keyboard.press("ArrowDown")
    assert seen.evaluate("document.activeElement.dataset.at") == str(GEN - 1)
    outline = seen.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    wait_for(marked(seen, 2), "plan.decode")
    seen.keyboard.press("Enter")
    assert seen.locator(".pane.pinned").count() == 3
    seen.keyboard.press("Escape")
    assert seen.locator(".pane.pinned").count() == 0
    assert seen.locator('#program-band .pane:first-child .line[tabindex="0"]').count() == 1
    seen.locator(f"#kernel-{kernel_of('graph.take_rows')}").focus()
    seen.keyboard.press("ArrowUp")
    assert seen.locator('.kernels .item[aria-selected="true"]').count() == 1


def test_search_finds_and_goes_there(visit, page_file):
    seen = visit(page_file)
    seen.keyboard.press("/")
    seen.keyboard.type("word_count")
    seen.wait_for_selector("#found li mark")
    wait_for(seen.locator("#found li").first, "source")
    seen.keyboard.press("ArrowDown")
    assert seen.locator('#found li[aria-selected="true"]').get_attribute("data-at") == "1"
    seen.keyboard.press("Enter")
    assert not seen.locator("#found").is_visible()
    assert seen.locator(".pane.pinned").count() == 3
    seen.keyboard.press("/")
    seen.locator("#search").fill("vmovups")  # only in the machine code, which is compressed
    seen.keyboard.press("Enter")  # before the answer is there
    seen.wait_for_selector("#kernel-band .line.flash")
    seen.keyboard.press("/")
    seen.locator("#search").fill("no such thing anywhere")
    seen.wait_for_selector("#found .none")
    seen.keyboard.press("Escape")
    assert not seen.locator("#found").is_visible()


def test_passes_show_changes_and_reasons(visit, page_file):
    seen = visit(page_file, "passes")
    seen.locator("#pass-list .item", has_text="prefix-sharing").click()
    detail = seen.locator("#pass-detail")
    assert detail.locator(".change.added").count() >= 1
    wait_for(detail, "computed once")
    detail.locator(".chip").first.click()
    assert seen.locator("#view-code").is_visible()
    wait_for(marked(seen, 0).first, "fork side in sides")


def test_pictures_lead_to_their_places(visit, page_file, kernel_of):
    seen = visit(page_file, "roofline")
    assert seen.locator("#view-roofline circle.point").count() >= 20
    seen.locator("#view-roofline .link", has_text=kernel_of("graph.silu_mul")).click()
    assert (
        seen.locator(f"#kernel-{kernel_of('graph.silu_mul')}").get_attribute("aria-selected")
        == "true"
    )
    seen.locator("#tab-time").click()
    assert seen.locator("#view-time svg").count() == 4
    bar = seen.locator("#view-time [data-name=\"gen 'review'\"]").first
    bar.click()
    wait_for(marked(seen, 0).first, "gen review")
    seen.locator("#tab-tree").click()
    seen.locator("#view-tree [data-key]").first.focus()
    seen.keyboard.press("ArrowDown")
    seen.keyboard.press("Enter")
    assert seen.locator("#view-code").is_visible()
    seen.locator("#tab-roofline").click()
    seen.locator("th button", has_text="a launch").click()
    column = seen.locator("table.sortable td:nth-child(8)").evaluate_all(
        "cells => cells.map(cell => Number(cell.dataset.value))"
    )
    assert column == sorted(column, reverse=True)


@pytest.mark.parametrize("scheme", each_time(["light", "dark"], "dark"))
def test_both_schemes_are_legible(visit, page_file, scheme):
    seen = visit(page_file, scheme=scheme)
    for selector in (".line .text", ".w-operation", ".w-string", ".about", ".item-under"):
        assert contrast(seen, selector) >= 4.5, selector
    seen.locator("#theme").click()  # from the system's to light, then dark
    assert seen.evaluate("document.documentElement.dataset.theme") == "light"
    light = brightness(seen)
    seen.locator("#theme").click()
    assert brightness(seen) < 0.2 < 0.8 < light


def brightness(seen):
    return seen.evaluate(f"{LUMINANCE} luminance(getComputedStyle(document.body).backgroundColor)")


def contrast(seen, selector):
    return seen.evaluate(
        f"""selector => {{ {LUMINANCE}
        const node = document.querySelector(selector);
        let ground = node;
        while (getComputedStyle(ground).backgroundColor === 'rgba(0, 0, 0, 0)')
            ground = ground.parentElement;
        const pair = [getComputedStyle(node).color, getComputedStyle(ground).backgroundColor];
        const [dark, light] = pair.map(luminance).sort((a, b) => a - b);
        return (light + .05) / (dark + .05); }}""",
        selector,
    )


LUMINANCE = """
const luminance = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255)
        .map((part) => part <= .03928 ? part / 12.92 : ((part + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
};
"""


@pytest.mark.parametrize(
    "view", each_time(["code", "passes", "tree", "time", "roofline"], "code", "tree")
)
def test_a_phone_needs_no_sideways_scroll(visit, page_file, view):
    seen = visit(page_file, view, width=390, height=844)
    assert seen.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert seen.locator(f"#view-{view}").is_visible()
    assert seen.locator("#search").bounding_box()["width"] > 200


def test_a_launch_leads_to_its_kernel(visit, page_file, kernel_of):
    seen = visit(page_file)
    seen.locator("#program-band select").first.select_option("step-0")
    name = kernel_of("graph.take_rows")
    seen.locator("#program-band .pane").nth(1).locator(".line", has_text=f"@{name},").first.locator(
        ".text"
    ).click(position={"x": 20, "y": 6})
    chosen = seen.locator('.kernels .item[aria-selected="true"]')
    assert chosen.get_attribute("data-name") == name


def test_what_was_planted_does_not_run(visit, page_file):
    seen = visit(page_file, "tree")
    assert seen.evaluate("window.planted") is None
    wait_for(seen.locator("#view-tree"), "window.planted")
