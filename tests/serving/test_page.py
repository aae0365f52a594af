"""The page at `/`, in a real browser that talks to a real server of the miniature chain."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest

from tests.browser import Tab, tab

PAGE = Path(__file__).parents[2] / "cascade" / "serving" / "page.html"
MARKUP = '<img src=x onerror="window.hit = 1"><b>What</b> is </textarea><script>window.hit = 1</script> 20 minus 9?'


class CascadePage(Tab):
    """The page at `/`, and what a person does on it."""

    def open(self, url: str) -> None:
        assert self.page.goto(f"{url}/").ok
        self.wait("document.querySelectorAll('.stage').length")

    def type(self, text: str, subject: str = "") -> None:
        self.js(
            f"const q = document.getElementById('question'); q.value = {json.dumps(text)};"
            f"q.dispatchEvent(new Event('input')); document.getElementById('subject').value = {json.dumps(subject)}"
        )

    def click(self, selector: str) -> None:
        self.js(f"document.querySelector({json.dumps(selector)}).click()")

    def ask(self) -> None:
        """Presses Ask, and waits until there is an answer or an error."""
        self.click("#ask button[type=submit]")
        self.settle()

    def settle(self) -> None:
        self.wait("!state.timer && !state.request && (state.end || !document.getElementById('error').hidden)")

    @contextlib.contextmanager
    def asking_again(self):
        """What is done inside makes the page ask; goes on when there is the answer."""
        before = self.js("return state.page.questions")
        yield
        self.wait(f"state.page.questions > {before}")
        self.settle()

    def text(self, selector: str) -> str:
        return self.js(f"return document.querySelector({json.dumps(selector)}).textContent")

    def slide(self, name: str, value: float, event: str, stage: int = 0) -> None:
        """Moves a threshold's slider, without letting go of it (``input``) or as it is let go (``change``)."""
        self.js(
            f"const limit = document.querySelectorAll('fieldset')[{stage}].querySelector('[data-name={name}]');"
            f"const range = limit.querySelector('[type=range]'); range.value = {value};"
            f"range.dispatchEvent(new Event('{event}'))"
        )

    def cards(self) -> list[dict[str, str]]:
        return self.js(
            "return [...document.querySelectorAll('.stage')].map(card => ({ name: card.querySelector('h3').textContent,"
            " kind: card.className.split(' ')[1], outcome: card.querySelector('.outcome').textContent,"
            " would: card.querySelector('.would').textContent,"
            " values: [...card.querySelectorAll('.meter')].map(m => m.hidden ? '' : m.lastChild.textContent) }))"
        )


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextlib.contextmanager
def serving(*more: str, **environment: str):
    """The address of a server of its own."""
    port = free_port()
    command = [sys.executable, "-m", "cascade.serve", "--port", str(port), *more]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | environment)
        try:
            for _ in range(600):
                assert process.poll() is None, (log.seek(0), log.read())
                with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(f"{url}/readyz"):
                    break
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait(timeout=30)


def post(url: str, body: dict) -> dict:
    request = urllib.request.Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def get(url: str) -> dict:
    with urllib.request.urlopen(f"{url}/v1/cascade") as response:
        return json.load(response)


def asked_of(sample: dict) -> dict:
    """The request that a sample is, without anything of the page."""
    options = {name: sample[name] for name in ("choices", "subject") if sample["choices"]}
    body = {"model": "cascade", "messages": [{"role": "user", "content": sample["text"]}]}
    return body | ({"cascade": options} if options else {})


def cut(value: float) -> str:
    return f"{math.floor(value * 1000) / 1000:.3f}"


def parsed(value: str) -> str:
    """The confidence of "0.201 < 0.5"; empty where there is none."""
    return value.split(" ")[0] if value[:1].isdigit() else ""


@pytest.fixture
def browser(chromium):
    with tab(chromium) as opened:
        yield CascadePage(opened.page)


@pytest.fixture(scope="module")
def url(chromium):
    with serving() as url:
        yield url


@pytest.fixture
def page(browser, url):
    """The page, newly opened; whatever a test does on it, nothing is said on the console or fetched from elsewhere."""
    browser.open(url)
    yield browser
    assert browser.console == []
    assert {urlsplit(address).netloc for address in browser.requests} == {urlsplit(url).netloc}


def test_path_answer_and_cost_of_samples_are_what_the_api_says(page, url):
    samples = {sample["text"]: sample for sample in get(url)["samples"]}
    kinds, enders = set(), set()
    for _ in range(9):
        page.ask()
        sample = samples[page.js("return document.getElementById('question').value.split('\\n')[0]")]
        reply = post(url, asked_of(sample))
        page.click("#another")
        said, text = reply["cascade"], reply["choices"][0]["message"]["content"].strip()
        kinds.add(bool(sample["choices"]))
        enders.add(said["answered_by"])
        shown = f"{text}. {sample['choices']['ABCDEFGHIJ'.index(text)]}" if sample["choices"] else text
        assert page.text("#answer").strip() == shown
        assert said["answered_by"] in page.text("#who")
        cards = page.cards()
        assert [card["kind"] for card in cards if card["kind"] != "idle"] == [
            "answered" if stage["outcome"] == "answered" else "rejected" for stage in said["stages"]
        ]
        for stage in said["stages"]:
            card = cards[stage["place"]]
            assert card["name"] == stage["model"]
            p_ik, p_t = (parsed(value) for value in card["values"])
            assert p_ik == ("" if stage["p_ik"] is None else cut(stage["p_ik"]))
            assert p_t == ("" if stage["p_t"] is None else cut(stage["p_t"]))
        for ledger, cost in said["cost"]["flops"].items():
            share = 100 * cost / said["last_model_alone"]["flops"]
            assert page.text(f"[data-ledger='{ledger}'] .share") == f"{share:.1f}\u00a0%"
        more = said["cost"]["flops"]["full-path"] > said["last_model_alone"]["flops"]
        assert ("cost more than" in page.text("#verdict")) == more
    assert kinds == {True, False}
    assert len(enders) > 1


def test_a_threshold_of_1_sends_the_question_to_the_last_model_and_reset_brings_it_back(page, url):
    for _ in range(12):
        page.ask()
        if page.cards()[0]["kind"] == "answered":
            break
        page.click("#another")
    before = page.cards()
    assert [card["kind"] for card in before] == ["answered", "idle", "idle"]
    page.slide("p_t", 1, "input")
    with page.asking_again():
        page.slide("p_t", 1, "change")
    cards = page.cards()
    assert [card["kind"] for card in cards] == ["rejected", "rejected", "answered"]
    assert get(url)["models"][-1]["name"] in page.text("#who")
    assert "cost more than" in page.text("#verdict")
    assert "thresholds" in page.text("#python")
    with page.asking_again():
        page.click("#reset")
    assert page.cards() == before
    assert "thresholds" not in page.text("#python")


def test_a_slider_that_is_held_foretells_from_what_was_seen_and_asks_nobody(page):
    page.ask()
    requests = len(page.requests)
    page.slide("p_ik", 0, "input")
    page.slide("p_t", 0, "input")
    assert page.cards()[0]["would"] in (
        "would answer with these thresholds.",
        "would be asked with these thresholds, but its P(T) was not seen yet.",
    )
    page.slide("p_ik", 1, "input")
    assert page.cards()[0]["would"] == "would pass it on by P(IK) with these thresholds."
    assert "foretold" in page.text("#would")
    assert len(page.requests) == requests
    with page.asking_again():
        page.slide("p_ik", 1, "change")
    assert page.cards()[0]["outcome"].startswith("Not sure it knows")
    assert page.cards()[0]["would"] == ""


def test_stages_may_have_thresholds_of_their_own_and_leave_a_confidence_out(page):
    page.click("#alike")
    assert page.js("return document.querySelectorAll('fieldset').length") == 2
    page.ask()
    for stage in range(2):
        page.js(
            f"document.querySelectorAll('fieldset')[{stage}].querySelector('[data-name=p_ik] [type=checkbox]').click()"
        )
    page.slide("p_t", 0, "input", stage=1)
    page.slide("p_t", 1, "input", stage=0)
    with page.asking_again():
        page.slide("p_t", 1, "change", stage=0)
    cards = page.cards()
    assert [card["kind"] for card in cards] == ["rejected", "answered", "idle"]
    assert cards[0]["outcome"] == "First token too unsure: passed on."
    assert cards[2]["outcome"] == "Not asked."


def test_markup_is_shown_and_does_nothing(page):
    page.type(f"{MARKUP}\nA. <b>13</b>\nB. <i onclick=x>11</i>", "<u>sums</u>")
    page.ask()
    assert page.text("#asked") == f"{MARKUP}\nA. <b>13</b>\nB. <i onclick=x>11</i>"
    assert page.text("#answer") in ("A. <b>13</b>", "B. <i onclick=x>11</i>")
    page.wait("document.readyState === 'complete'")
    assert page.js("return window.hit ?? null") is None
    assert page.js("return document.querySelectorAll('main img, main b, main i, main u, main script').length") == 0


def test_the_code_in_python_gives_the_same_answer(page):
    page.type('What is "20" minus 9?\nA. 13\nB. 11\nC. 1\nD. 14', "arithmetic")
    page.slide("p_t", 0.35, "input")
    page.slide("p_t", 0.35, "change")
    page.ask()
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(page.text("#python"), {})
    letter, fields = out.getvalue().strip().split(" ", 1)
    assert page.text("#answer").startswith(f"{letter}. ")
    assert page.js("return state.end.answered_by") in fields


def test_enter_asks_and_shift_enter_does_not(page):
    press = "document.getElementById('question').dispatchEvent(new KeyboardEvent('keydown', {}))"
    page.js(press.format("{ key: 'Enter', shiftKey: true, cancelable: true }"))
    assert page.js("return state.asked") is None
    page.js(press.format("{ key: 'Enter', cancelable: true }"))
    page.settle()
    assert page.js("return state.end.answered_by")


def test_totals_count_this_page_and_the_server(page, url):
    before = get(url)["totals"]["questions"]
    for _ in range(3):
        page.ask()
        page.click("#another")
    page.wait(f"document.querySelector('#totals tbody tr').lastChild.textContent === '{before + 3}'")
    cells = (
        "[...document.querySelectorAll('#totals tbody tr')].map(row => [...row.children].map(cell => cell.textContent))"
    )
    rows = page.js(f"return {cells}")
    assert rows[0][1] == "3"
    assert sum(int(row[1]) for row in rows if row[0].startswith("Answered by")) == 3
    assert sum(int(row[2]) for row in rows if row[0].startswith("Answered by")) == before + 3
    assert all(row[1].endswith("%") and row[2].endswith("%") for row in rows if row[0].startswith("Cost"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_all_text_can_be_read_in_light_and_dark(chromium, url, width, scheme):
    with tab(chromium, width, scheme) as opened:
        page = CascadePage(opened.page)
        page.open(url)
        page.slide("p_t", 1, "input")
        page.ask()
        page.slide("p_t", 0.3, "input")  # what it would have done is said, too
        page.js("document.querySelector('details').open = true")
        page.shoot(f"page-{width}-{scheme}")
        assert page.js("return getComputedStyle(document.body).backgroundColor") == (
            "rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 24, 29)"
        )
        assert page.faint() == []
        assert page.overflow() == 0


@pytest.mark.parametrize("width", [320, 360, 768, 1920])
def test_nothing_is_wider_than_the_screen(page, width):
    page.resize(width, 800)
    page.js("document.querySelector('details').open = true")
    assert page.overflow() == 0
    page.type("W" * 300 + "?\nA. " + "x" * 200 + "\nB. y")
    page.click("#alike")
    page.ask()
    assert page.overflow() == 0


def test_every_control_has_a_name_and_can_be_reached(page):
    page.ask()
    nameless = page.js(
        "return [...document.querySelectorAll('button, input, textarea, [role=img]')].filter(e => !e.getAttribute("
        "'aria-label') && !e.labels?.length && !e.textContent.trim()).map(e => e.outerHTML)"
    )
    assert nameless == []
    assert page.js("return document.querySelectorAll('[tabindex]:not([tabindex=\"0\"])').length") == 0


def test_what_the_server_refuses_is_said_in_its_words(browser, url):
    browser.open(url)
    browser.type("word " * 5000)
    browser.ask()
    assert "Expected a prompt of at most" in browser.text("#error")
    browser.click("#another")
    browser.ask()
    assert browser.js("return document.getElementById('error').hidden")
    assert browser.text("#answer")


def test_a_lost_server_is_said(browser):
    with serving() as url:
        browser.open(url)
    browser.ask()
    assert "cannot be reached" in browser.text("#error")


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (b"", "The connection to the server was lost before the answer was complete."),
        (b'data: {"error": {"message": "small: <b>no memory</b>"}}\n\n', "small: <b>no memory</b>"),
    ],
)
def test_a_stream_that_breaks_off_is_said_and_what_came_stays(browser, url, end, expected):
    name = f"small {MARKUP}"
    info = json.dumps(get(url)).replace('"mini-llama-small"', json.dumps(name)).encode()
    stage = {"model": name, "place": 0, "outcome": "rejected_by_p_t", "p_ik": 0.75, "p_t": 0.25}
    stream = b"data: " + json.dumps({"choices": [], "cascade": {"stage": stage}}).encode() + b"\n\n" + end

    class Broken(BaseHTTPRequestHandler):
        def do_GET(self):
            page = self.path == "/"
            self._reply(PAGE.read_bytes() if page else info, "text/html" if page else "application/json")

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self._reply(stream, "text/event-stream")

        def _reply(self, body, kind):
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Broken) as broken:
        Thread(target=broken.serve_forever, daemon=True).start()
        browser.open(f"http://127.0.0.1:{broken.server_port}")
        browser.ask()
        broken.shutdown()
    assert browser.text("#error") == expected
    assert browser.cards()[0]["outcome"] == "First token too unsure: passed on."
    assert browser.cards()[0]["values"][1].startswith("0.250")
    assert browser.cards()[0]["name"] == name
    assert f"Answered by {name}" in browser.text("#totals")
    assert browser.js("return window.hit ?? null") is None
    assert browser.js("return document.querySelectorAll('main img, main b, main script').length") == 0


def test_a_key_is_asked_for_once_and_is_not_in_the_code(browser):
    with serving(CASCADE_API_KEYS="sk-right") as url:
        assert browser.page.goto(f"{url}/").ok
        browser.wait("!document.getElementById('key').hidden")
        for key, right in (("sk-wrong", False), ("sk-right", True)):
            browser.js(f"document.getElementById('secret').value = '{key}'")
            with browser.page.expect_response("**/v1/cascade") as reply:
                browser.click("#key button")
            assert reply.value.status == (200 if right else 401)
            browser.wait("cards.length" if right else "!document.getElementById('key').hidden")
        assert browser.js("return document.getElementById('error').hidden")
        browser.ask()
        assert browser.text("#answer")
        assert "sk-right" not in browser.text("#python")
        browser.open(url)  # again in the same tab
        assert browser.js("return document.getElementById('key').hidden")


def test_a_policy_that_skips_a_model_and_asks_no_probe_is_shown_as_it_is(browser, tmp_path):
    thresholds = [{"p_t": 0.8728, "p_ik": None, "p_ik_reader": None}]
    policy = {"policy": "P(T)", "models": ["mini-llama-small", "mini-llama-large"], "thresholds": thresholds}
    (tmp_path / "policy.json").write_text(json.dumps(policy))
    (tmp_path / "cascade.yaml").write_text(f"policy: {tmp_path / 'policy.json'}\n")
    with serving("--config", str(tmp_path / "cascade.yaml")) as url:
        browser.open(url)
        assert browser.cards()[1]["outcome"] == "Not used by the policy."
        assert browser.js("return document.querySelector('[data-name=p_t] [type=number]').value") == "0.8728"
        browser.ask()
        assert browser.cards()[0]["values"][0] == "–"
        browser.click("[data-name=p_ik] [type=checkbox]")
        browser.slide("p_ik", 1, "input")
        assert "its P(IK) was not seen yet" in browser.text("#would")
        with browser.asking_again():
            browser.slide("p_ik", 1, "change")
        kinds = [card["kind"] for card in browser.cards()]
        assert kinds == ["rejected", "idle", "answered"], browser.text("#error")
        assert browser.cards()[0]["outcome"].startswith("Not sure it knows")
