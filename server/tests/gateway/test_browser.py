"""Pages in a real browser: an empty console and no sideways scrolling, in light, in dark and on a phone."""

from pathlib import Path

import pytest

from .support import NOW, Running, batch, counter, event, exception

CHROMIUM = "/usr/bin/chromium"
ARGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
VIEWS = [("light", 1280), ("dark", 1280), ("light", 390)]


@pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="needs Chromium")
async def test_every_page_fits_and_complains_about_nothing(gateway: Running) -> None:
    api = pytest.importorskip("playwright.async_api")
    wide = "w" * 3_000
    chain = [{"type": wide[:200], "message": wide, "frames": [{"file": wide, "line": 1, "in_app": True, "code": wide}]}]
    await gateway.post(batch("events", [event(fields={wide: wide}), exception(), exception("e" * 32, chain=chain)]))
    await gateway.post(batch("snapshot", [counter("orders." + "o" * 300, NOW - 60_000, 5, shop="s" * 300)]))
    await gateway.post(batch("ledger", [{"book": "events", "source": wide, "output": wide, "received": 0}]))
    faults: list[object] = []
    async with api.async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        for scheme, width in VIEWS:
            context = await browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})
            page = await context.new_page()
            page.on("console", lambda message: faults.append(message.text))
            page.on("pageerror", lambda error: faults.append(str(error)))
            for path in ("", "exceptions", "exceptions/" + "e" * 32, "events", "metrics?by=shop", "ledger"):
                answer = await page.goto(f"{gateway.url}/shop/{path}")
                assert answer is not None
                assert answer.status == 200
                over = await page.evaluate(
                    "document.documentElement.scrollWidth - document.documentElement.clientWidth"
                )
                if over > 0:
                    faults.append((path, scheme, width, f"{over} px too wide"))
            await context.close()
        await browser.close()
    assert faults == []
