"""The demo in a real browser: every tab used, nothing asked for elsewhere, no error in the console (see conftest)."""

import io
import re
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of the browser's pipes, which playwright closes late
]
GUN, BALL = "a red dog with a gun in the park at noon", "a blue cat with a ball in the city at night"
TABS = ("Generate", "Retrieve", "Describe", "Compare methods", "Try to bypass me", "Coverage")
FIRST_SECONDS, USERS = 10, 10


def picture(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def steepest(image):
    """Return the largest step of colour in the upper quarter: large where there are edges, small in what is blurred."""
    upper = image[: len(image) // 4]  # the word on a blurred picture stands in its middle
    return max(np.abs(np.diff(upper, axis=axis)).max() for axis in (0, 1))


# --- every tab -------------------------------------------------------------------------------------------------------
def test_generate_blurs_until_asked_and_explains(visitor):
    guest = visitor()
    guest.open()
    start = time.monotonic()
    guest.draw(GUN)
    seconds = time.monotonic() - start
    print(f"first picture after {seconds:.1f} s")
    veiled = picture(guest.bytes_of("#pair img"))
    guest.page.wait_for_selector("#why .se-words")
    assert "gun" in guest.page.inner_text("#why")
    assert "unsafe" in guest.page.inner_text("#said")
    assert "violence" in guest.page.inner_text("#said")
    guest.page.click("#veil")
    guest.page.wait_for_selector("#veil:has-text('Blur it again')")
    sharp = picture(guest.bytes_of("#pair img"))
    assert steepest(veiled) < 40 < steepest(sharp)
    assert seconds <= FIRST_SECONDS


def test_a_sharp_picture_is_not_on_the_server_before_the_click(visitor, server):
    def drawn():
        return {picture(path.read_bytes()).tobytes() for path in server.files() if path.suffix == ".png"}

    guest = visitor()
    guest.open()
    guest.page.get_by_role("button", name="Sampler").click()
    guest.page.get_by_label("Seed of the noise").fill("77")  # that no other test draws
    guest.draw(GUN)
    guest.page.wait_for_selector("#why .se-words")
    veiled, before = picture(guest.bytes_of("#pair img")).tobytes(), drawn()
    guest.page.click("#veil")
    guest.page.wait_for_selector("#veil:has-text('Blur it again')")
    sharp = picture(guest.bytes_of("#pair img")).tobytes()
    assert veiled in before
    assert sharp not in before
    assert sharp in drawn()


def test_the_switches_change_the_picture_after(visitor):
    guest = visitor()
    guest.open()
    guest.draw(GUN)
    guest.page.wait_for_selector("#why .se-words")
    guest.page.get_by_label("number input for Strength of the safe encoder").fill("0")
    guest.page.get_by_label("number input for Strength of the safe encoder").press("Tab")
    guest.page.get_by_role("button", name=re.compile("Other ways")).click()
    guest.page.get_by_label("max", exact=True).check()
    guest.page.get_by_label(re.compile("Negative prompt")).fill("gun")
    old = guest.page.locator("#pair img").first.get_attribute("src")
    guest.page.click("#draw")
    guest.page.wait_for_url(re.compile(r"sld=max"))
    assert "strength=0&" in guest.page.url
    assert "negative=gun" in guest.page.url
    assert guest.page.locator("#pair img").first.get_attribute("src") == old  # the picture before is as before


def test_retrieve_by_words_and_by_picture(visitor):
    guest = visitor()
    guest.open()
    guest.tab("Retrieve")
    guest.page.click("#search")
    guest.page.wait_for_selector("#found-after img")
    said = guest.page.inner_text("#counts")
    before, after = map(int, re.findall(r"(\d+) (?:before|after)", said))
    assert before > after
    veiled = picture(guest.bytes_of("#found-before img"))
    guest.page.locator("#found-before .gallery-item button, #found-before button:has(img)").first.click()
    guest.page.wait_for_timeout(3000)
    assert steepest(veiled) < steepest(picture(guest.bytes_of("#found-before img")))
    guest.page.get_by_role("button", name=re.compile("Or search with a picture")).click()
    guest.page.locator("#retrieve-samples button:has(img)").nth(1).click()
    guest.page.wait_for_selector("#retrieve-chosen img")
    guest.page.click("#search-picture")
    guest.page.wait_for_function("old => document.querySelector('#counts').innerText != old", arg=said)


def test_describe_a_sample_and_an_upload(visitor, tmp_path, server):
    guest = visitor()
    guest.open()
    guest.tab("Describe")
    guest.page.locator("#describe-samples button:has(img)").first.click()
    guest.page.wait_for_selector("#describe-chosen img")
    guest.page.click("#ask")
    guest.page.wait_for_selector("#answers table")
    rows = guest.page.locator("#answers tbody tr").all_inner_texts()
    assert "unsafe" in rows[0]
    assert "nothing unsafe" in rows[1]
    Image.new("RGB", (300, 200), "teal").save(tmp_path / "own.png")
    old = guest.page.locator("#describe-chosen img").get_attribute("src")
    guest.page.locator("input[type=file]").last.set_input_files(tmp_path / "own.png")
    guest.page.wait_for_function("old => document.querySelector('#describe-chosen img').src != old", arg=old)
    assert not [path for path in server.files() if path.name == "own.png"]
    guest.page.click("#ask")
    guest.page.wait_for_function("old => document.querySelector('#answers').innerText != old", arg="\n".join(rows))


def test_compare_shows_every_table(visitor):
    guest = visitor()
    guest.open()
    guest.tab("Compare methods")
    names = guest.page.locator("#compare label").all_inner_texts()
    assert len(names) >= 5
    for name in names:
        guest.page.locator("#compare label", has_text=name).click()
        guest.page.wait_for_selector(f"#results caption:has-text('{name}')")
        assert guest.page.locator("#results tbody tr").count() >= 3


def test_every_way_round_can_be_tried_and_is_logged(visitor):
    guest = visitor()
    guest.open()
    guest.tab("Try to bypass me")
    buttons = guest.page.locator("[id^=bypass-]").filter(has_text="·")
    count = buttons.count()
    assert count == 22
    for number in range(count):
        guest.page.click(f"#bypass-{number}")
        guest.page.wait_for_function("n => document.querySelectorAll('#bypass-log li').length == n", arg=number + 1)
    log = guest.page.locator("#bypass-log li").all_inner_texts()
    assert sum("stopped" in line for line in log) >= 10
    assert any("got through" in line for line in log)  # no encoder closes them all, and the page says so
    guest.page.locator("#guard label", has_text="original encoder").click()
    guest.page.click("#bypass-13")
    guest.page.wait_for_function("n => document.querySelectorAll('#bypass-log li').length == n", arg=count + 1)
    guest.page.locator("#bypass-pictures button:has(img)").first.click()


def test_coverage_under_each_policy(visitor):
    guest = visitor()
    guest.open()
    guest.tab("Coverage")
    for name, word in (("strict", "policy strict"), ("off", "policy off"), ("not protected", "not protected")):
        guest.page.locator("#policy label", has_text=name).click()
        guest.page.wait_for_selector(f"#coverage:has-text('{word}')")
    with guest.page.expect_download() as download:
        guest.page.get_by_role("link", name="Coverage as JSON").click()
    assert download.value.suggested_filename == "coverage.json"


# --- visitors at once ------------------------------------------------------------------------------------------------
@pytest.fixture
def client(server):
    gradio_client = pytest.importorskip("gradio_client")
    return lambda folder: gradio_client.Client(server.url, verbose=False, download_files=str(folder))


def nothing(_done):
    pass


def ask(one, prompt, **given):
    settings = {
        "seed": 0,
        "steps": 12,
        "guidance": 3,
        "strength": 1,
        "negative": "",
        "sld": "off",
        "both": False,
    } | given
    return one.submit(prompt, *settings.values(), api_name="/draw")


def test_ten_users_at_once_get_their_own_pictures(client, tmp_path):
    from safeencoders.demo.studio import Wanted, open_studio

    prompts = [f"a {colour} {who} with a ball in the {place} at noon" for colour, who, place in zip(
        "red blue green yellow purple red blue green yellow purple".split(),
        "dog cat horse owl man dog cat horse owl man".split(),
        "park beach city desert farm mountain harbour glacier park beach".split(), strict=True)]  # fmt: skip
    users = [client(tmp_path / str(number)) for number in range(USERS)]
    start = time.monotonic()
    jobs = [ask(user, prompt, seed=number) for number, (user, prompt) in enumerate(zip(users, prompts, strict=True))]
    found = [job.result(timeout=600) for job in jobs]
    print(f"{USERS} users served after {time.monotonic() - start:.1f} s")
    studio = open_studio()
    for number, (prompt, (pair, said, *_)) in enumerate(zip(prompts, found, strict=True)):
        assert prompt in said
        direct = studio.draw(Wanted(prompt, seed=number), nothing)
        for path, seen in zip(pair, (direct.before, direct.after), strict=True):
            assert np.array_equal(picture(Path(path).read_bytes()), np.asarray(seen.out()))


def test_cancelling_at_once_leaves_the_server_up(client, tmp_path):
    users = [client(tmp_path / str(number)) for number in range(6)]
    jobs = [ask(user, GUN, steps=50) for user in users]
    time.sleep(2)
    threads = [threading.Thread(target=job.cancel) for job in jobs[:5]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert jobs[5].result(timeout=600)
    assert ask(users[0], BALL).result(timeout=600)


def test_the_stop_button_stops(visitor):
    guest = visitor()
    guest.open()
    guest.page.get_by_role("button", name="Sampler").click()
    guest.page.get_by_label("number input for Steps").fill("50")
    guest.page.get_by_label("number input for Steps").press("Tab")
    guest.page.click("#draw")
    guest.page.wait_for_timeout(1500)
    guest.page.click("#stop")
    guest.page.wait_for_timeout(3000)
    assert guest.page.locator("#pair img").count() == 0
    guest.page.get_by_label("number input for Steps").fill("12")
    guest.draw(BALL)


# --- bad input -------------------------------------------------------------------------------------------------------
def test_markup_in_a_prompt_is_shown_as_it_was_typed(visitor):
    guest = visitor()
    guest.open()
    for hostile in ("<script>document.title='owned'</script>", "<img src=x onerror=alert(1)>"):
        guest.draw(f"a dog {hostile}")
        guest.page.wait_for_function("said => document.querySelector('#said').innerText.includes(said)", arg=hostile)
        guest.page.wait_for_selector("#why .se-words")
    assert guest.page.title() != "owned"
    assert guest.page.locator("#said img, #said script, #why img").count() == 0


@pytest.mark.parametrize("query", ["?prompt=<script>document.title='owned'</script>&seed=many", "?tab=<b>", "?seed=9"])
def test_a_hostile_link_does_nothing(visitor, query):
    guest = visitor()
    guest.open(query)
    guest.draw(BALL)
    assert guest.page.title() != "owned"


def test_a_link_brings_back_settings_and_tab(visitor):
    guest = visitor()
    guest.open("?tab=generate&prompt=a+green+owl+in+the+farm&seed=5&strength=0.5&sld=weak&both=true")
    guest.page.wait_for_function("document.querySelector('#prompt textarea').value == 'a green owl in the farm'")
    guest.page.click("#draw")
    guest.page.wait_for_url(re.compile("seed=5&steps=12&guidance=3&strength=0.5&negative=&sld=weak&both=true"))
    other = visitor()
    other.open("?tab=coverage")
    other.page.wait_for_selector("#coverage:visible")


def bomb():
    """Return a small file that is 126 MB of pixels when unpacked."""
    import struct

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(bytes((1 + 3 * 7000) * 6000), 9)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 7000, 6000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def wide():
    buffer = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(buffer, "PNG")
    return buffer.getvalue()


UPLOADS = {
    "bomb.png": (bomb, "million pixels"),
    "wide.png": (wide, "million pixels"),
    "drawing.svg": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "known format"),
    "notes.png": (lambda: b"not a picture", "known format"),
    "large.png": (lambda: bytes(6 * 2**20), "size"),
}


@pytest.mark.parametrize("name", UPLOADS)
def test_a_hostile_upload_is_refused_in_words_and_the_page_goes_on(visitor, server, tmp_path, name):
    make, said = UPLOADS[name]
    (tmp_path / name).write_bytes(make())
    guest = visitor()
    guest.open()
    guest.tab("Describe")
    guest.page.locator("input[type=file]").last.set_input_files(tmp_path / name)
    assert said in guest.toast()
    assert not [path for path in server.files() if path.name == name]
    guest.page.locator("#describe-samples button:has(img)").nth(1).click()
    guest.page.wait_for_selector("#describe-chosen img")


def test_what_is_no_business_of_a_visitor_is_refused(server):
    import httpx

    with httpx.Client(base_url=server.url, timeout=120) as http:
        assert http.get("/gradio_api/file=/etc/passwd").status_code in (403, 404)
        assert http.get("/gradio_api/file=http://127.0.0.1:9/x").status_code in (400, 403, 404)
        files = {"files": ("large.png", bytes(8 * 2**20))}
        assert http.post("/gradio_api/upload", files=files).status_code == 413
        assert http.post("/gradio_api/queue/join", content=bytes(8 * 2**20)).status_code == 413
        assert http.get("/").headers["content-security-policy"].startswith("default-src 'self'")


# --- for everybody ---------------------------------------------------------------------------------------------------
def violations(page):
    axe = pytest.importorskip("axe_playwright_python.base")
    page.evaluate(axe.AXE_SCRIPT)
    found = page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
    return [
        (one["id"], one["impact"], node["html"][:200])
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


def used(guest):
    """Use the tabs so that everything on them is there to be looked at."""
    guest.open()
    guest.draw(GUN)
    guest.page.wait_for_selector("#why .se-words")
    yield "Generate"
    guest.tab("Retrieve")
    guest.page.click("#search")
    guest.page.wait_for_selector("#found-after img")
    yield "Retrieve"
    guest.tab("Describe")
    guest.page.locator("#describe-samples button:has(img)").first.click()
    guest.page.wait_for_selector("#describe-chosen img")
    guest.page.click("#ask")
    guest.page.wait_for_selector("#answers table")
    yield "Describe"
    guest.tab("Compare methods")
    yield "Compare methods"
    guest.tab("Try to bypass me")
    guest.page.click("#bypass-13")
    guest.page.wait_for_selector("#bypass-log li")
    yield "Try to bypass me"
    guest.tab("Coverage")
    yield "Coverage"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(visitor, scheme):
    guest = visitor(color_scheme=scheme)
    found = {}
    for name in used(guest):
        guest.page.wait_for_timeout(500)
        found[name] = violations(guest.page)
    assert {name: one for name, one in found.items() if one} == {}


def test_axe_would_find_something(visitor):
    guest = visitor()
    guest.open()
    guest.page.evaluate("document.querySelector('#said').innerHTML = '<img src=\"data:,\"><input>'")
    assert {"image-alt", "label"} <= {name for name, _, _ in violations(guest.page)}


def test_nothing_is_wider_than_a_phone(visitor):
    guest = visitor()
    guest.page.set_viewport_size({"width": 380, "height": 800})
    wide = {}
    for name in used(guest):
        width = guest.page.evaluate("document.documentElement.scrollWidth")
        if width > 380:
            wide[name] = width
    assert wide == {}


def test_the_keyboard_is_enough(visitor):
    guest = visitor()
    guest.open()
    page = guest.page
    page.locator("#prompt textarea").focus()
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.innerText"))
        if reached[-1] == "draw":
            break
    assert reached[-1] == "draw", reached
    page.keyboard.press("Enter")
    page.wait_for_selector("#pair img")
    page.locator("#veil").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#veil:has-text('Blur it again')")
    page.get_by_role("tab", name="Generate").first.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#query:visible")
    page.locator("#query textarea, #query input").press("Enter")
    page.wait_for_selector("#found-before img")
    page.locator("#found-before button:has(img)").first.focus()
    page.keyboard.press("Enter")
