"""The page of the local stack in a real browser: each test is one use of it, from a keystroke to what is seen."""

import argparse
import contextlib
import http.server
import importlib.util
import json
import os
import pathlib
import re
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

TIMEOUT = 60
SECRET = "a-secret-of-operators"
REBOUND = "rebound.example"
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1280,800",
    f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1",
]


@contextlib.contextmanager
def stack(**settings):
    """Runs a new stack in memory on a free port, and yields its URL."""
    program = [f"{os.environ['PROGRAMS']}/pushlark-local", "--memory", "--port", "0"]
    process = subprocess.Popen(program, stdout=subprocess.PIPE, text=True, env=os.environ | settings)
    try:
        line = next(line for line in process.stdout if line.startswith("Pushlark is at "))
        # Without a reader, the process would block.
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield re.search(r"http://[^/]+", line).group()
    finally:
        process.terminate()
        process.wait()


def ask(url, path, content):
    """Posts JSON, and returns the status of the answer."""
    headers = {"Content-Type": "application/json"}
    try:
        return urllib.request.urlopen(urllib.request.Request(url + path, json.dumps(content).encode(), headers)).status
    except urllib.error.HTTPError as error:
        return error.code


@contextlib.contextmanager
def browser():
    with tempfile.TemporaryDirectory() as profile:
        options = Options()
        options.binary_location = "/usr/bin/chromium"
        for flag in [*FLAGS, f"--user-data-dir={profile}"]:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
        try:
            yield driver
        finally:
            driver.quit()


class Line:
    """A connection to a stack that can be cut."""

    def __init__(self, stack):
        self.stack, self.is_whole, self.sockets = stack, True, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def __enter__(self):
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.cut()
        self.listener.close()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                if not self.is_whole:
                    client.close()
                    continue
                host, port = self.stack.removeprefix("http://").split(":")
                server = socket.create_connection((host, int(port)))
                self.sockets += [client, server]
                for source, sink in [(client, server), (server, client)]:
                    threading.Thread(target=self.forward, args=(source, sink), daemon=True).start()

    @staticmethod
    def forward(source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def cut(self):
        self.is_whole = False
        for one in self.sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def reconnect(self):
        self.is_whole = True


class Page:
    """The page in a browser tab."""

    def __init__(self, driver, url):
        self.driver, self.url = driver, url
        driver.get(url)
        self.until("the stream", lambda: self.text("#connection") == "live")

    def all(self, selector, root=None):
        return [one for one in (root or self.driver).find_elements(By.CSS_SELECTOR, selector) if one.is_displayed()]

    def one(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def text(self, selector):
        return self.one(selector).text

    def until(self, wanted, condition):
        """Waits until the condition returns something true, and returns it. Elements that are redrawn are read again."""
        waiting = WebDriverWait(self.driver, TIMEOUT, 0.05, ignored_exceptions=[Exception])
        return waiting.until(lambda _: condition(), f"timeout while waiting for {wanted}")

    def fill(self, form, **fields):
        for name, value in fields.items():
            field = self.one(f"#{form} [name={name}]")
            if field.tag_name == "select":
                self.driver.execute_script("arguments[0].value = arguments[1]", field, value)
            else:
                field.clear()
                field.send_keys(value)

    def submit(self, form, **fields):
        self.fill(form, **fields)
        self.one(f"#{form} [type=submit]").click()

    def kind(self, value):
        self.driver.execute_script("arguments[0].click()", self.one(f"#send [value={value}]"))

    def enable(self, node="phone", service="fcm", user="bob@example.com"):
        self.submit("enable", user=user, node=node, service=service)
        return self.until(f"the device {node}", lambda: self.device(node) and "enabled" in self.state(node))

    def send(self, text, to="bob@example.com"):
        self.kind("message")
        self.submit("send", to=to, text=text)

    def device(self, node):
        return next((one for one in self.all(".device") if one.find_element(By.TAG_NAME, "h3").text == node), None)

    def state(self, node):
        return self.device(node).find_element(By.CSS_SELECTOR, "header .chip").text

    def cards(self, node):
        return [card.text for card in self.all(".card", self.device(node))]

    def card(self, node, *texts):
        has = lambda card: all(text in card for text in texts)
        return self.until(f"{texts} at {node}", lambda: next(filter(has, self.cards(node)), None))

    def answer(self, node, status):
        button = self.device(node).find_element(By.XPATH, f".//button[starts-with(., '{status}')]")
        button.click()
        self.until(f"{status} to be set", lambda: button.get_attribute("aria-pressed") == "true")

    def messages(self):
        return [one.text for one in self.all("#feed > li.message")]

    def message(self, *texts):
        has = lambda message: all(text in message for text in texts)
        return self.until(f"{texts} in the feed", lambda: next(filter(has, self.messages()), None))


def a_message_is_seen_as_a_card_and_a_device_that_is_gone_is_disabled(page):
    page.enable("phone", "fcm")
    page.enable("iphone", "apns")
    page.send("Are we still on?")
    for node in ["phone", "iphone"]:
        page.card(node, "alice@example.com", "Are we still on?")
        assert "1" in page.device(node).find_element(By.CSS_SELECTOR, ".badge").text
    message = page.message("Are we still on?", "alice@example.com to bob@example.com", "JSON", "offline")
    assert message.count("notified") == 2, message
    page.answer("iphone", 410)
    page.send("To both")
    page.until("the iPhone to be disabled", lambda: page.state("iphone") == "disabled")
    assert page.state("phone") == "enabled"
    page.card("iphone", "To both", "answered 410")
    page.message("To both", "gone")


def a_failure_is_retried_and_its_time_is_shown(page):
    page.enable()
    page.answer("phone", 503)
    page.send("Later")
    page.message("Later", "not yet", "next try at")
    page.card("phone", "Later", "answered 503")
    page.answer("phone", 200)
    page.message("Later", "notified", "attempt")
    assert page.state("phone") == "enabled"


def a_call_and_its_end_are_seen(page):
    page.enable("phone", "fcm")
    page.kind("call")
    page.submit("send", to="bob@example.com")
    page.message("Call", "Incoming call", "notified")
    page.card("phone", "Incoming call", "alice@example.com")
    page.until("the button", lambda: page.one("#end-call").is_displayed())
    page.one("#end-call").click()
    page.message("The call ends")
    page.card("phone", "the call ends")


def a_room_message_is_decided_for_each_member(page):
    page.enable(user="bob@example.com")
    page.kind("room")
    page.submit("send", to="bob@example.com, carol@example.com", text="Lunch?")
    message = page.message("Room message", "Lunch?", "team@muc.example.com/alice", "notified", "the recipient has no registration")
    assert "bob@example.com" in message and "carol@example.com" in message, message
    page.card("phone", "Lunch?")


def a_large_room_shows_who_is_notified_and_each_other_reason_once(page):
    page.enable(user="bob@example.com")
    to = [*(f"member-{number}@example.com" for number in range(60)), "bob@example.com"]
    ask(page.url, "/events", {"type": "message", "from": "team@muc.example.com/alice", "to": to, "chat": "groupchat", "body": "Lunch?"})
    message = page.message("Lunch?", "bob@example.com offline", "notified", "60 recipients", "and 52 more")
    assert message.count("the recipient has no registration") == 1, message
    assert message.index("bob@example.com offline") < message.index("60 recipients"), message


def an_answer_to_an_iq_and_the_first_steps_are_shown(page):
    assert page.one("#nothing").is_displayed(), "a warning of the start is no event"
    publish = "<iq type='set' from='example.com' to='push.example.com' id='1'><pubsub xmlns='http://jabber.org/protocol/pubsub'>"
    publish += "<publish node='no-node'/></pubsub></iq>"
    ask(page.url, "/pubsub", {"stanza": publish})
    page.until("the publish", lambda: "publish node no-node to push.example.com: " in page.text("#feed"))
    assert "-" in page.text("#feed").split("push.example.com: ")[1].split(",")[0], "a condition of XMPP"
    assert not page.one("#nothing").is_displayed()


def the_filter_hides_what_is_about_others(page):
    page.enable("phone", user="bob@example.com")
    page.enable("tablet", user="carol@example.com")
    page.send("For Bob", to="bob@example.com")
    page.message("For Bob", "notified")
    page.send("For Carol", to="carol@example.com")
    carols = page.message("For Carol", "notified")
    page.one("#filter-user").send_keys("CAROL@")
    page.until("one message", lambda: len(page.messages()) == 1 and "For Carol" in page.messages()[0])
    assert not page.device("phone") and page.device("tablet")
    page.one("#filter-user").clear()
    page.one("#filter-user").send_keys(Keys.SPACE, Keys.BACKSPACE)
    page.until("both messages", lambda: len(page.messages()) == 2)
    ident = re.search(r"[0-9a-f]{8}-[0-9a-f-]{27}", carols).group()
    page.one("#filter-id").send_keys(ident)
    page.until("one message", lambda: len(page.messages()) == 1 and ident in page.messages()[0])
    assert not page.device("phone") and len(page.cards("tablet")) == 1


def texts_of_others_are_no_markup(page):
    attack = "<img src=x onerror=document.title='owned'><b>bold</b>"
    form = {"service": "fcm", "device_id": f"token{attack}"}
    ask(page.url, "/enable", {"user": "bob@example.com", "jid": "push.example.com", "node": attack, "form": form})
    message = {"type": "message", "id": attack, "from": f"alice@example.com/{attack}", "to": "bob@example.com",
               "chat": "chat", "body": attack, "sender_name": attack}
    ask(page.url, "/events", message)
    ask(page.url, "/events", message | {"id": "room", "from": f"team@muc.example.com/{attack}", "chat": "groupchat"})
    ask(page.url, "/events", {"type": attack})
    ask(page.url, "/disable", {"user": attack, "jid": attack, "node": attack})
    ask(page.url, f"/sink/v3/notification/{urllib.parse.quote(attack, safe='')}",
        {"service": attack, "alert": {"title": attack, "body": attack, "badge": attack}})
    ask(page.url, "/sink/v3/notification/silent", {"service": "apns", "data": {attack: attack}})
    page.message(f"alice@example.com/{attack}", attack, "notified")
    page.message(f"team@muc.example.com/{attack}", attack, "notified")
    page.card(attack, attack)
    page.card("silent", f"{attack}: {attack}")
    page.until("the refusals", lambda: page.text("#feed").count("(400)") == 2)
    assert page.driver.title == "Pushlark on this machine"
    assert not page.all("main b b, main img, .device h3 *, .card b, .said b, .card .body img, .card .title img")


def the_policy_of_the_page_lets_no_other_script_run(page):
    page.driver.execute_script("""
        window.refused = [];
        document.addEventListener("securitypolicyviolation", ({ effectiveDirective }) => refused.push(effectiveDirective));
        const script = document.createElement("script");
        try { script.textContent = "document.title = 'owned'"; } catch { refused.push("text"); }
        try { document.body.innerHTML += "<p>owned</p>"; } catch { refused.push("markup"); }
        // Chromium lets a script of the driver itself evaluate.
        setTimeout(() => { try { Function("document.title = 'owned'")(); } catch { refused.push("eval"); } });
        try { document.body.setAttribute("onclick", "document.title = 'owned'"); } catch { refused.push("handler"); }
        new Image().src = "http://127.0.0.2:9/image";
        fetch("http://127.0.0.2:9/fetch").catch(() => {});
        document.body.click();""")
    wanted = {"text", "markup", "eval", "handler", "img-src", "connect-src"}
    page.until("the refusals", lambda: wanted <= set(page.driver.execute_script("return refused")))
    assert page.driver.title == "Pushlark on this machine"
    # These refusals are the purpose.
    page.driver.get_log("browser")


class Site(http.server.BaseHTTPRequestHandler):
    """A page of another site."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>Another site</title>")

    def log_message(self, *_):
        pass


def another_site_neither_reads_nor_writes(page):
    page.enable()
    page.send("A secret of Bob")
    page.card("phone", "A secret of Bob")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stack = page.url
    attack = """
        const [stack, done] = arguments;
        const paths = ["/live", "/live/registrations", "/lambda.env", "/sink/notifications", "/enable?user=bob@example.com"];
        const form = "author=eve&server=example.com&receiver=bob&message=owned";
        const json = JSON.stringify({ type: "message", from: "eve@example.com/x", to: "bob@example.com", chat: "chat", body: "owned" });
        const read = paths.map((path) => fetch(stack + path).then((response) => response.text()));
        const types = ["application/x-www-form-urlencoded", "text/plain", "application/json"];
        const write = types.flatMap((type) => ["cors", "no-cors"].map((mode) =>
          fetch(`${stack}/events`, { method: "POST", mode, headers: { "Content-Type": type }, body: type.includes("form") ? form : json })));
        write.push(fetch(`${stack}/sink/devices/bob-phone`, { method: "PUT", headers: { "Content-Type": "application/json" },
          body: '{"status": 410}' }));
        const posted = document.createElement("form");
        Object.assign(posted, { method: "POST", action: `${stack}/events`, target: "frame" });
        for (const [name, value] of new URLSearchParams(form)) {
          posted.append(Object.assign(document.createElement("input"), { name, value }));
        }
        const frame = Object.assign(document.createElement("iframe"), { name: "frame" });
        document.body.append(frame, posted);
        posted.submit();
        const stream = new Promise((resolve) => {
          const source = new EventSource(`${stack}/live`);
          source.addEventListener("error", () => (source.close(), resolve("")));
          source.addEventListener("request", ({ data }) => resolve(data));
        });
        const script = new Promise((resolve) => {
          const made = Object.assign(document.createElement("script"), { src: `${stack}/sink/notifications` });
          made.addEventListener("error", () => resolve(""));
          made.addEventListener("load", () => resolve("loaded"));
          document.body.append(made);
        });
        const posting = new Promise((resolve) => frame.addEventListener("load", () => resolve("")));
        Promise.allSettled([...read, ...write, stream, script, posting]).then((all) => done(all.map(({ value }) => value ?? "")
          .filter((value) => typeof value === "string" && value !== "")));"""
    try:
        # localhost is another site than 127.0.0.1.
        page.driver.get(f"http://localhost:{server.server_port}/")
        found = page.driver.execute_async_script(attack, stack)
    finally:
        server.shutdown()
    assert found == [], found
    # These refusals are the purpose.
    page.driver.get_log("browser")
    # The name of a site of others that leads to this machine (DNS rebinding).
    port = stack.rsplit(":")[-1]
    for path in ["", "live/registrations", "lambda.env", "sink/notifications", "enable?user=bob@example.com"]:
        page.driver.get(f"http://{REBOUND}:{port}/{path}")
        assert page.text("body") == "the host is no name of this machine", (path, page.text("body"))
    Page(page.driver, stack)
    page.card("phone", "A secret of Bob")
    page.send("The last one")
    page.card("phone", "The last one")
    assert len(page.messages()) == 2, page.messages()
    assert "owned" not in page.text("body")
    assert page.device("phone").find_element(By.CSS_SELECTOR, "[aria-pressed=true]").text == "200 OK"


def the_keyboard_alone_enables_and_sends(page):
    def tab_to(selector):
        for _ in range(60):
            focused = page.driver.switch_to.active_element
            if focused == page.one(selector):
                return focused
            focused.send_keys(Keys.TAB)
        raise AssertionError(f"the tabulator does not reach {selector}")

    outline = "return getComputedStyle(arguments[0]).outlineStyle"
    field = tab_to("#enable [name=node]")
    assert page.driver.execute_script(outline, field) == "solid", "the focus is visible"
    field.send_keys(Keys.ENTER)
    page.until("the device", lambda: page.device("phone") and page.state("phone") == "enabled")
    page.driver.execute_script("document.activeElement.blur(); scrollTo(0, 0)")
    text = tab_to("#send [name=text]")
    text.send_keys(Keys.CONTROL, "a")
    text.send_keys("By keyboard", Keys.ENTER)
    page.card("phone", "By keyboard")
    page.until("an announcement", lambda: "notified" in page.one("#announcement").get_attribute("textContent"))
    button = page.device("phone").find_element(By.XPATH, ".//button[starts-with(., '410')]")
    for _ in range(60):
        if page.driver.switch_to.active_element == button:
            break
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
    button.send_keys(Keys.SPACE)
    page.until("the answer", lambda: button.get_attribute("aria-pressed") == "true")
    assert page.driver.switch_to.active_element == button, "the focus stays when the device is drawn again"


def a_phone_shows_all_without_scrolling_to_the_side(page):
    emulate(page, width=360, height=740)
    page.enable("phone")
    page.send("A long word: " + "Donaudampfschifffahrtsgesellschaft" * 4)
    page.card("phone", "Donau")
    page.message("Donau", "notified")
    width = page.driver.execute_script("return document.documentElement.scrollWidth")
    assert width == 360, width
    beyond = page.driver.execute_script(
        "return [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > 361)"
        ".map(e => e.outerHTML.slice(0, 100))"
    )
    assert beyond == [], beyond


def nothing_is_inaccessible_in_the_light_and_in_the_dark(page):
    page.enable("phone", "fcm")
    page.enable("iphone", "apns")
    page.send("Hello")
    for node in ["phone", "iphone"]:
        page.card(node, "Hello")
    page.answer("iphone", 410)
    page.answer("phone", 503)
    page.send("Once more")
    page.message("Once more", "gone", "not yet")
    page.until("the iPhone to be disabled", lambda: page.state("iphone") == "disabled")
    package = importlib.util.find_spec("axe_playwright_python").submodule_search_locations[0]
    axe = (pathlib.Path(package) / "axe.min.js").read_text()
    grounds = set()
    for scheme in ["light", "dark"]:
        for width in [1280, 360]:
            emulate(page, width=width, height=800, scheme=scheme)
            # What moves is half transparent.
            page.until("rest", lambda: page.driver.execute_script("return document.getAnimations().length === 0"))
            page.driver.execute_cdp_cmd("Runtime.evaluate", {"expression": axe})
            found = page.driver.execute_async_script("axe.run().then(arguments[0])")
            serious = [(one["id"], one["nodes"][0]["html"], one["nodes"][0]["failureSummary"])
                       for one in found["violations"] if one["impact"] in ["serious", "critical"]]
            assert serious == [], (scheme, width, serious)
            assert len(found["passes"]) > 20
        grounds.add(page.driver.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2, grounds


def nothing_is_missed_while_the_page_is_not_connected(page):
    with Line(page.url) as line:
        page = Page(page.driver, line.url)
        page.enable()
        page.send("Before")
        page.message("Before", "notified")
        line.cut()
        page.until("the end of the stream", lambda: page.text("#connection") == "not connected")
        event = {"type": "message", "id": "missed", "from": "alice@example.com", "to": "bob@example.com", "chat": "chat",
                 "body": "While away"}
        assert ask(line.stack, "/events", event) == 202
        line.reconnect()
        page.message("While away", "missed", "notified")
        assert len(page.messages()) == 2, page.messages()
        assert len(page.cards("phone")) == 2, page.cards("phone")


def a_secret_is_asked_for_and_sent(page):
    page.until("the field", lambda: page.one("#secret").is_displayed())
    page.submit("enable", user="bob@example.com", node="phone")
    page.until("the refusal", lambda: "401" in page.text("#enable .result"))
    page.one("#secret").send_keys(SECRET)
    page.enable()
    page.send("With the secret")
    page.card("phone", "With the secret")
    page.driver.get(page.url)
    page.until("the field", lambda: page.one("#secret").is_displayed())
    assert page.one("#secret").get_attribute("value") == "", "it is kept in memory alone"
    stored = page.driver.execute_script("return [localStorage.length, sessionStorage.length, document.cookie]")
    assert stored == [0, 0, ""], stored


TESTS = [
    a_message_is_seen_as_a_card_and_a_device_that_is_gone_is_disabled,
    a_failure_is_retried_and_its_time_is_shown,
    a_call_and_its_end_are_seen,
    a_room_message_is_decided_for_each_member,
    a_large_room_shows_who_is_notified_and_each_other_reason_once,
    an_answer_to_an_iq_and_the_first_steps_are_shown,
    the_filter_hides_what_is_about_others,
    texts_of_others_are_no_markup,
    the_policy_of_the_page_lets_no_other_script_run,
    another_site_neither_reads_nor_writes,
    the_keyboard_alone_enables_and_sends,
    a_phone_shows_all_without_scrolling_to_the_side,
    nothing_is_inaccessible_in_the_light_and_in_the_dark,
    nothing_is_missed_while_the_page_is_not_connected,
    a_secret_is_asked_for_and_sent,
]
WITH_SECRET = [a_secret_is_asked_for_and_sent]


def emulate(page, width, height, scheme="light"):
    page.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                                {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500})
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia",
                                {"features": [{"name": "prefers-color-scheme", "value": scheme}]})


def check_console(driver):
    """No script failed, and the policy refused nothing. Answers such as 401 are not errors of the page."""
    lines = [line for line in driver.get_log("browser") if line["source"] != "network"]
    errors = [line["message"] for line in lines if line["level"] == "SEVERE" or "Content Security Policy" in line["message"]]
    assert errors == [], errors


def run_tests(only):
    with browser() as driver:
        for test in TESTS:
            if only not in test.__name__:
                continue
            started = time.monotonic()
            settings = {"WEBHOOK_SECRET": SECRET} if test in WITH_SECRET else {}
            with stack(**settings) as url:
                page = Page(driver, url)
                emulate(page, width=1280, height=800)
                try:
                    test(page)
                except BaseException:
                    driver.save_screenshot(f"{os.environ['PROGRAMS']}/../browser/failed.png")
                    print(page.text("body"))
                    raise
            check_console(driver)
            print(f"ok: {test.__name__.replace('_', ' ')} ({time.monotonic() - started:.1f} s)", flush=True)


def screenshot(file):
    """Writes a picture of the page with what a team's day looks like."""
    with stack() as url, browser() as driver:
        page = Page(driver, url)
        emulate(page, width=1280, height=800)
        page.enable("pixel", "fcm", "bob@example.com")
        page.enable("iphone", "apns", "bob@example.com")
        page.send("Moving our call to 14:00, does that work for you?")
        page.message("14:00", "notified")
        page.kind("room")
        page.submit("send", to="bob@example.com, carol@example.com", text="Release is out. Thanks, everybody!")
        page.message("Release", "notified")
        page.answer("iphone", 503)
        page.send("Are we still on for lunch?")
        page.message("lunch?", "notified", "next try at")
        page.until("rest", lambda: driver.execute_script("return document.getAnimations().length === 0"))
        driver.execute_script("document.activeElement.blur(); scrollTo(0, 0)")
        driver.save_screenshot(file)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("only", nargs="?", default="", help="run the tests whose names contain this")
    parser.add_argument("--screenshot", metavar="FILE", help="write a picture of the page, too")
    arguments = parser.parse_args()
    if arguments.screenshot:
        screenshot(arguments.screenshot)
    else:
        run_tests(arguments.only.replace(" ", "_"))


main()
