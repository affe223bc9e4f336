"""Drive the page of recipes/space with a headless browser: an image, a text, a missing model, hostile files.

    pip install playwright gradio
    PAIRS=pairs.yaml GRADIO_SERVER_PORT=7861 python recipes/space/app.py &
    python evidence/space_browser.py http://127.0.0.1:7861 --image IMAGE --browser chromium-headless-shell

The pairs are one of images first, then "Software" for texts and "Missing", whose folder is not there.
"""

import argparse
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

HOSTILE_NAMES = ("<img src=x onerror=window.hacked=1>.png", "..%2f..%2fetc%2fpasswd.png")
WIDTHS = {"wide": 1280, "phone": 390}


def settle(page: Page) -> None:
    """Wait until nothing on the page is being computed."""
    page.wait_for_timeout(1_500)
    page.wait_for_function("() => !/processing|queue/.test(document.body.innerText)", timeout=120_000)
    page.wait_for_timeout(500)


def choose(page: Page, title: str) -> None:
    """Choose a pair of models."""
    page.get_by_label("Models").click()
    page.get_by_role("option", name=title, exact=True).click()
    settle(page)


def upload(page: Page, file: Path) -> None:
    """Upload a file as the image."""
    page.locator("input[type=file]").first.set_input_files(str(file))
    settle(page)


def ask(page: Page) -> None:
    """Ask both models and wait for the picture."""
    page.get_by_role("button", name="Ask both models").click()
    settle(page)


def main() -> None:
    """Take a screenshot of each state at both widths, and print what a hostile file achieved."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("--image", type=Path, required=True)
    parser.add_argument("--browser", default=None, help="executable of the browser")
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/space_browser"))
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=options.browser)
        for name, width in WIDTHS.items():
            page = browser.new_page(viewport={"width": width, "height": 900})
            errors: list[str] = []
            page.on("pageerror", lambda error, errors=errors: errors.append(str(error)))

            def keep(state: str, page: Page = page, name: str = name) -> None:
                page.screenshot(path=options.output_dir / f"{state}-{name}.png", full_page=True)

            page.goto(options.address)
            page.get_by_role("button", name="Ask both models").wait_for()
            settle(page)
            ask(page)
            keep("empty")
            upload(page, options.image)
            ask(page)
            keep("image")
            for number, hostile in enumerate(HOSTILE_NAMES):
                file = Path(folder) / hostile
                file.write_bytes(options.image.read_bytes())
                choose(page, "Missing")
                page.goto(options.address)
                settle(page)
                upload(page, file)
                ask(page)
                keep(f"hostile-{number}")
                print(name, hostile, "ran a script:", page.evaluate("() => 'hacked' in window"))
            (Path(folder) / "no_image.png").write_bytes(b"no image")
            upload(page, Path(folder) / "no_image.png")
            ask(page)
            keep("no_image")
            choose(page, "Missing")
            keep("missing")
            choose(page, "Software")
            page.get_by_label("Text", exact=True).fill(
                "A compiler and debugger for the C language, with libraries for development."
            )
            ask(page)
            keep("text")
            wide = page.evaluate("() => document.documentElement.scrollWidth")
            print(name, "width of the page:", wide, "of", width, "errors:", errors)
        browser.close()


if __name__ == "__main__":
    main()
