"""The page in a real browser, as a person uses it: by mouse, by keyboard, on a phone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.browser import CHROMIUM, Page, browser
from tests.support.served import Server, serving

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium: apt-get install chromium")
PICTURES = os.environ.get("MCCORE_PICTURES", "")  # a folder for pictures of the page, to be looked at
IDLE = "!document.querySelector('#send').disabled && document.querySelector('#messages').getAttribute('aria-busy') === 'false'"
ENTER, ESCAPE = ("Enter", 13), ("Escape", 27)


@pytest.fixture(scope="module")
def server(served_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(served_base, "--sessions", str(tmp_path_factory.mktemp("page"))) as running:
        yield running


@pytest.fixture(scope="module")
def page(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        opened.size(1280, 800)
        opened.open(f"{server.url}/")
        opened.run("localStorage.setItem('field.max_tokens', '12')")
        opened.run("localStorage.setItem('field.seed', '3')")
        opened.open(f"{server.url}/?again")
        yield opened
        assert opened.errors == []


def picture(page: Page, name: str) -> None:
    if PICTURES:
        page.screenshot(Path(PICTURES) / f"{name}.png")


def ask(page: Page, text: str) -> None:
    page.click("#question")
    page.type(text)
    page.press(*ENTER)
    page.wait(f"{IDLE} && document.querySelector('#question').value === ''")


def answers(page: Page) -> list[str]:
    return list(page.run("[...document.querySelectorAll('article.assistant .text')].map((e) => e.textContent)"))


def said(page: Page) -> list[str]:
    return list(page.run("[...document.querySelectorAll('article.user .text')].map((e) => e.textContent)"))


def test_a_message_is_answered_and_there_after_a_reload(page: Page, server: Server) -> None:
    ask(page, "hello <b>you</b> <img src=x onerror=alert(1)>")
    assert said(page) == ["hello <b>you</b> <img src=x onerror=alert(1)>"]
    assert page.run("document.querySelector('#messages b, #messages img')") is None
    before = answers(page)
    assert len(before) == 1
    assert before[0]
    ask(page, "and more " * 30)
    page.wait("!document.querySelector('#context').hidden")
    assert "tokens of history" in page.run("document.querySelector('#cutwords').textContent")
    page.open(page.run("location.href").replace("?again", "?reload"))
    assert answers(page)[:1] == before
    assert page.run("document.querySelectorAll('#list button').length") == 1
    picture(page, "desktop-light")


def test_regenerate_and_edit_go_on_in_branches(page: Page) -> None:
    before = answers(page)
    page.click("article.assistant footer button")  # the first answer's Regenerate
    page.wait(
        f"document.querySelectorAll('#list button').length === 2 && document.querySelectorAll('article').length === 2 && {IDLE}"
    )
    assert answers(page) == before[:1]  # the same seed
    page.click("article.user footer button")
    page.wait("document.querySelector('#dialog').open")
    page.run("document.querySelector('#dialogtext').value = 'another question'")
    page.click("#dialogyes")
    page.wait(
        f"document.querySelector('article.user .text')?.textContent === 'another question' && {IDLE}"
        " && document.querySelectorAll('article').length === 2"
    )
    assert page.run("document.querySelectorAll('#list button').length") == 3


def test_an_answer_is_stopped(page: Page) -> None:
    page.run("document.querySelector('#max_tokens').value = '5000'")
    page.run("document.querySelector('#temperature').value = '0'")  # repeats itself, and so never draws an end
    page.click("#question")
    page.type("go on for ever")
    page.press(*ENTER)
    page.wait("document.querySelectorAll('article.assistant').length === 2 && !document.querySelector('#stop').hidden")
    page.press(*ESCAPE)
    page.wait(IDLE)
    assert "stopped" in page.run("[...document.querySelectorAll('article.assistant footer')].pop().textContent")
    page.run("document.querySelector('#max_tokens').value = '12'")
    page.run("document.querySelector('#temperature').value = ''")


def test_a_file_is_dropped_and_the_strip_shows_the_history(page: Page) -> None:
    page.run(
        "(() => { const data = new DataTransfer();"
        "data.items.add(new File(['A line of a book.\\n'.repeat(300)], 'book.txt'));"
        "document.dispatchEvent(new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true })); })()"
    )
    page.wait(f"document.querySelector('article.file') && {IDLE}")
    ask(page, "what is in the book?")
    page.click("#passages summary")
    page.wait("document.querySelectorAll('#seen li').length > 0")
    page.click("#strip")
    page.wait("document.querySelector('#status').textContent.startsWith('Token ')")
    picture(page, "desktop-file")


def test_conversations_are_found_renamed_and_deleted(page: Page) -> None:
    page.click("#rename")
    page.wait("document.querySelector('#dialog').open")
    page.run("document.querySelector('#dialogtext').value = 'My book'")
    page.click("#dialogyes")
    page.wait("document.querySelector('#title').textContent === 'My book'")
    page.click("#search")
    page.type("book for ever")
    page.wait("document.querySelectorAll('#list button').length === 1")
    page.run(
        "document.querySelector('#search').value = ''; document.querySelector('#search').dispatchEvent(new Event('input'))"
    )
    page.wait("document.querySelectorAll('#list button').length === 3")
    page.click("#delete")
    page.wait("document.querySelector('#dialog').open")
    page.click("#dialogyes")
    page.wait("document.querySelectorAll('#list button').length === 2")


def test_it_works_on_a_phone_and_in_the_dark(page: Page, server: Server) -> None:
    page.size(390, 844, phone=True)
    page.open(f"{server.url}/?phone")
    page.run("document.querySelector('#theme').click()")
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    page.click("#menu")
    page.wait("document.body.classList.contains('menu')")
    picture(page, "phone-menu")
    page.run("document.querySelector('#list button').click()")
    page.wait("!document.body.classList.contains('menu') && document.querySelectorAll('article').length > 0")
    assert page.run("document.documentElement.scrollWidth <= innerWidth")
    picture(page, "phone-dark")
    page.size(1280, 800)


ACCESSIBLE = (Path(__file__).parent / "accessible.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_accessible(page: Page, theme: str) -> None:
    """Names, labels, structure and contrast (WCAG AA)."""
    page.run(f"document.documentElement.dataset.theme = '{theme}'")
    assert page.run(ACCESSIBLE) == []
    page.run("document.querySelector('#question').focus()")
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") != "none"
