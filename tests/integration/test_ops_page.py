"""The page in a real browser: break a provider and see it, steer by clicking, hostile text stays text."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest
from browser import browsing, needs_chromium
from ops_server import scripted, serving

from resilience.outcome import Kind
from resilience.testing.upstream import Fail

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = needs_chromium
ATTACK = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


def text_of(driver: Any, selector: str) -> str:
    found = driver.find_elements("css selector", selector)
    return "\n".join(one.text for one in found)


async def shown(fact: Callable[[], bool], seconds: float = 10.0) -> float:
    """Wait until a browser shows something. Returns how long that took; the limit keeps a broken test from hanging."""
    started = time.perf_counter()
    while not await asyncio.to_thread(fact):
        assert time.perf_counter() - started < seconds, "the page never showed it"
        await asyncio.sleep(0.02)
    return time.perf_counter() - started


def severe(driver: Any) -> list[str]:
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]


async def test_a_broken_provider_is_seen_ejected_without_a_reload_and_steered_by_clicking() -> None:
    async with scripted() as fb, serving(fb) as running:
        with browsing() as driver:
            await asyncio.to_thread(driver.get, running.url)
            await shown(lambda: "Everything works" in text_of(driver, "#headline"))
            await shown(lambda: text_of(driver, "#link") == "live")
            assert (
                await asyncio.to_thread(driver.execute_script, "window.loaded = 1; return document.title")
                == "resilience"
            )

            fb._upstream.tell("gpt", Fail(Kind.SERVER_ERROR, status=503))  # type: ignore[attr-defined]
            for _ in range(6):
                await fb.acompletion("chat", [{"role": "user", "content": "hi"}])
            await shown(lambda: "openai is out" in text_of(driver, "#headline"))
            trouble = await asyncio.to_thread(text_of, driver, "#trouble")
            for part in ("Provider openai", "server errors", "since", "then a probe", "claude (route chat)"):
                assert part in trouble, part
            assert "claude answers now" in await asyncio.to_thread(text_of, driver, "#routes")

            def click(label: str) -> None:
                driver.find_element("css selector", f"[aria-label='{label}']").click()

            await asyncio.to_thread(click, "Reset provider openai")
            await asyncio.to_thread(lambda: driver.find_element("id", "ask-yes").click())
            await shown(lambda: fb.registry.providers["openai"].current_state == "closed")
            await shown(lambda: "Everything works" in text_of(driver, "#headline"))  # and the page knows it

            await asyncio.to_thread(click, "Isolate provider anthropic")
            await shown(lambda: "go on with their other targets" in text_of(driver, "#ask-text"))
            await asyncio.to_thread(lambda: driver.find_element("id", "reason").send_keys("bad deploy, ask Ana"))
            assert fb.registry.providers["anthropic"].current_state == "closed"  # not before it is confirmed
            await asyncio.to_thread(lambda: driver.find_element("id", "ask-yes").click())
            await shown(lambda: "A person took it out: bad deploy, ask Ana" in text_of(driver, "#trouble"))
            assert fb.snapshot().providers["anthropic"].reason == "bad deploy, ask Ana"

            await asyncio.to_thread(click, "Isolate provider openai")  # the last one
            await shown(lambda: "Nobody else can serve chat now" in text_of(driver, "#ask-text"))
            await asyncio.to_thread(lambda: driver.find_element("id", "ask-no").click())

            await asyncio.to_thread(click, "Reset provider anthropic")
            await asyncio.to_thread(lambda: driver.find_element("id", "ask-no").click())
            assert fb.registry.providers["anthropic"].current_state == "isolated"
            await asyncio.to_thread(click, "Reset provider anthropic")
            await asyncio.to_thread(lambda: driver.find_element("id", "ask-yes").click())
            await shown(lambda: fb.registry.providers["anthropic"].current_state == "closed")
            await shown(lambda: "anthropic works again" in text_of(driver, "#events"))
            assert await asyncio.to_thread(driver.execute_script, "return window.loaded") == 1
            assert await asyncio.to_thread(severe, driver) == []


async def test_hostile_names_and_reasons_stay_text() -> None:
    targets = [{"model": "openai/gpt-4o-mini", "name": ATTACK, "provider": "</script>" + ATTACK}]
    async with scripted(config={"routes": {ATTACK: {"targets": targets}}}) as fb, serving(fb) as running:
        fb.registry.targets[ATTACK].isolate(ATTACK)
        with browsing() as driver:
            await asyncio.to_thread(driver.get, running.url)
            await shown(lambda: ATTACK in text_of(driver, "#trouble"))
            await shown(lambda: ATTACK in text_of(driver, "#events"))
            found = await asyncio.to_thread(driver.execute_script, "return [document.images.length, document.title]")
            assert found[0] == 0
            assert found[1] != "owned"
            assert await asyncio.to_thread(severe, driver) == []


async def test_a_token_is_asked_for_and_a_reader_sees_no_buttons() -> None:
    async with scripted() as fb, serving(fb, "read:the-read-token,admin:the-admin-token") as running:
        with browsing() as driver:

            def sign_in(token: str) -> None:
                field = driver.find_element("id", "token")
                field.clear()
                field.send_keys(token)
                driver.find_element("css selector", "#sign-in button").click()

            await asyncio.to_thread(driver.get, running.url)
            await shown(lambda: driver.find_element("id", "sign-in").is_displayed())
            await asyncio.to_thread(sign_in, "wrong")
            await shown(lambda: "not known" in text_of(driver, "#sign-in-problem"))
            await asyncio.to_thread(sign_in, "the-read-token")
            await shown(lambda: "Everything works" in text_of(driver, "#headline"))
            visible = "return [...document.querySelectorAll('td button')].filter((b) => !b.hidden).length"
            assert await asyncio.to_thread(driver.execute_script, visible) == 0
            await asyncio.to_thread(lambda: driver.find_element("id", "leave").click())
            await shown(lambda: driver.find_element("id", "sign-in").is_displayed())
            await asyncio.to_thread(sign_in, "the-admin-token")
            await shown(lambda: driver.execute_script(visible) == 4)
            stored = "return [document.cookie, localStorage.length, sessionStorage.length]"
            assert await asyncio.to_thread(driver.execute_script, stored) == ["", 0, 0]


async def test_the_page_says_that_it_is_old_and_comes_back_by_itself() -> None:
    async with scripted() as fb:
        with browsing() as driver:
            async with serving(fb) as running:
                await asyncio.to_thread(driver.get, running.url)
                await shown(lambda: text_of(driver, "#link") == "live")
            await shown(lambda: "what you see is old" in text_of(driver, "#link"))
            assert "stale" in await asyncio.to_thread(
                lambda: driver.find_element("id", "headline").get_attribute("class")
            )


# Contrast as WCAG 2 counts it, of every piece of text that is shown, against what is painted behind it.
CONTRAST = r"""
const part = (c) => { c /= 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
const read = (text) => text.match(/[\d.]+/g).map(Number);
const light = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
const ground = (e) => { for (; e; e = e.parentElement) { const c = read(getComputedStyle(e).backgroundColor);
  if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
const poor = [];
for (const e of document.querySelectorAll("body *")) {
  if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !e.offsetParent) continue;
  const [a, b] = [light(read(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < 4.5) poor.push([e.textContent.slice(0, 40), ratio]);
}
return poor;
"""
NAMED = """
return [...document.querySelectorAll("button, input, a, [tabindex]")].filter((e) => e.offsetParent
  && !(e.textContent.trim() || e.getAttribute("aria-label") || e.labels?.length || e.id === "main"))
  .map((e) => e.outerHTML);
"""


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False), (390, True)])
async def test_it_can_be_read_in_light_and_dark_and_on_a_phone(width: int, dark: bool, tmp_path: Path) -> None:
    async with scripted() as fb, serving(fb) as running:
        fb.registry.providers["openai"].isolate("a long reason " * 12)
        for _ in range(3):  # each counts twice
            fb.registry.targets["claude"].acquire().failure(TimeoutError("slow"))
        with browsing(width, 900, dark=dark, calm=True) as driver:
            await asyncio.to_thread(driver.get, running.url)
            await shown(lambda: "Nothing can serve" in text_of(driver, "#headline"))
            run = driver.execute_script
            assert await asyncio.to_thread(run, CONTRAST) == []
            assert await asyncio.to_thread(run, NAMED) == []
            assert await asyncio.to_thread(run, "return document.documentElement.scrollWidth") <= width
            background = await asyncio.to_thread(run, "return getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, background[4:-1].split(","))) < 300) is dark
            moving = "return document.getAnimations().length"
            assert await asyncio.to_thread(run, moving) == 0
            assert await asyncio.to_thread(driver.save_screenshot, str(tmp_path / "page.png"))


async def test_the_keyboard_reaches_everything_in_order() -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    async with scripted() as fb, serving(fb) as running:
        with browsing() as driver:
            await asyncio.to_thread(driver.get, running.url)
            await shown(lambda: "Everything works" in text_of(driver, "#headline"))

            def walk() -> list[str]:
                seen = []
                for _ in range(7):
                    ActionChains(driver).send_keys(Keys.TAB).perform()
                    focused = driver.switch_to.active_element
                    seen.append(focused.get_attribute("aria-label") or focused.get_attribute("id") or focused.text)
                return seen

            assert await asyncio.to_thread(walk) == [
                "Skip to the providers",
                "Isolate provider openai",
                "Isolate target gpt",
                "Isolate provider anthropic",
                "Isolate target claude",
                "all",
                "Events, newest first",
            ]

            def press(*keys: str) -> None:
                ActionChains(driver).send_keys(*keys).perform()

            focus = "document.querySelector(\"[aria-label='Isolate target gpt']\").focus()"
            await asyncio.to_thread(driver.execute_script, focus)
            await asyncio.to_thread(press, Keys.ENTER)
            await asyncio.to_thread(press, Keys.ESCAPE)
            assert fb.registry.targets["gpt"].current_state == "closed"
            await asyncio.to_thread(press, Keys.ENTER)
            await asyncio.to_thread(press, "by keyboard", Keys.ENTER)
            await shown(lambda: fb.registry.targets["gpt"].current_state == "isolated")
            assert fb.snapshot().targets["gpt"].reason == "by keyboard"

            def focused() -> str:
                return driver.switch_to.active_element.get_attribute("aria-label") or ""

            await shown(lambda: focused() == "Reset target gpt")  # where the button was that has gone
            await asyncio.to_thread(press, Keys.ENTER)
            await asyncio.to_thread(press, Keys.TAB, Keys.ENTER)  # past Cancel, which comes first
            await shown(lambda: focused() == "Isolate target gpt")
            assert fb.registry.targets["gpt"].current_state == "closed"
