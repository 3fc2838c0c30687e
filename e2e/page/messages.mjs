// Two people with two devices each write to each other.

import assert from "node:assert/strict";
import { it } from "node:test";

import { io } from "socket.io-client";

import { Device, server, unique } from "./kit.mjs";

export function messages() {
  it("shows everything on all devices at once", async () => {
    const [alice, bob] = [unique("alice"), unique("bob")];
    const a1 = await Device.signIn(alice);
    const b1 = await Device.signIn(bob);
    const [a2, b2] = [await a1.another(), await b1.another()];

    // The list: who is there.
    for (const device of [a1, a2]) {
      await device.person(bob).waitFor();
      assert.match(await device.person(bob).innerText(), /Online/);
      assert.match(await device.person(alice).innerText(), /\(you\)/);
    }

    // Delivered while nobody has it open, unread on both devices, and in the title.
    await a1.choose(bob);
    await a2.choose(bob);
    await a1.write("hello");
    await a1.write("are you there?");
    await a1.write("it is me");
    await a1.progress("delivered");
    for (const device of [a1, a2]) await device.shows(["hello", "are you there?", "it is me"]);
    await a2.progress("delivered");
    for (const device of [b1, b2]) {
      await device.unread(alice, 3);
      await device.title("(3) Parley");
      assert.match(await device.person(alice).innerText(), /it is me/);
    }

    // Read on one device is read on both, and the sender knows.
    await b1.choose(alice);
    for (const device of [b1, b2]) {
      await device.unread(alice, 0);
      await device.title("Parley");
    }
    for (const device of [a1, a2]) await device.progress("read");
    assert.equal(await b1.page.locator(".news").innerText(), "New messages", "where the new ones begin is marked");

    // Typing is seen while it lasts.
    await b1.page.locator("#text").pressSequentially("yes");
    await Promise.all([a1, a2].map((device) => device.page.locator("#typing", { hasText: `${bob} is typing` }).waitFor()));
    await b1.page.locator("#text").press("Enter");
    for (const device of [a1, a2]) {
      await device.page.locator("#typing").waitFor({ state: "hidden" });
      await device.shows(["hello", "are you there?", "it is me", "yes"]);
      await device.title("Parley");
    }

    // In a hidden tab nothing is read. What is announced goes after a while, so it is noted.
    await a1.page.evaluate(() => {
      window.announced = [];
      const note = (changes) => window.announced.push(...changes.flatMap((c) => [...c.addedNodes].map((e) => e.textContent)));
      new MutationObserver(note).observe(document.querySelector("#announce"), { childList: true });
    });
    await Promise.all([a1.hide(true), a2.hide(true)]);
    await b1.write("still there?");
    for (const device of [a1, a2]) await device.title("(1) Parley");
    await b1.progress("delivered");
    await a2.hide(false);
    for (const device of [a1, a2]) await device.title("Parley");
    await b1.progress("read");
    await a1.hide(false);

    // A message is announced, once.
    assert.deepEqual(await a1.page.evaluate(() => window.announced), [`${bob}: still there?`]);

    // Who leaves is offline for the others.
    await b1.context.close();
    assert.match(await a1.page.locator("#presence").innerText(), /Online/);
    await b2.context.close();
    await a1.page.locator("#presence", { hasText: "Last seen" }).waitFor();
  });

  it("keeps a draft for each conversation", async () => {
    const [alice, bob, carol] = [unique("alice"), unique("bob"), unique("carol")];
    await Device.signIn(bob);
    await Device.signIn(carol);
    const device = await Device.signIn(alice);
    const text = device.page.locator("#text");
    await device.choose(bob);
    await text.fill("to bob,\nlater");
    await device.choose(carol);
    assert.equal(await text.inputValue(), "");
    await text.fill("to carol");
    assert.match(await device.person(bob).innerText(), /Draft: to bob/);
    await device.page.reload();
    await device.ready();
    assert.equal(await text.inputValue(), "to carol", "the open conversation is open again");
    await device.choose(bob);
    assert.equal(await text.inputValue(), "to bob,\nlater");
    await text.press("Enter");
    await device.shows(["to bob,\nlater"]);
    await device.choose(carol);
    await device.choose(bob);
    assert.equal(await text.inputValue(), "", "what was sent is no draft");
  });

  it("shows every text as what it is", async () => {
    const [alice, bob] = [unique("alice"), unique(`bob <b onclick="x">`)];
    const writer = await Device.signIn(alice);
    const reader = await Device.signIn(bob);
    await writer.page.locator(".person", { hasText: "<b onclick" }).click();
    await reader.choose(alice);
    const texts = [
      `<b>bold</b><img src=x onerror="document.title='broken'"> & <script>document.title='broken'</script>`,
      "\u202egnorw ,this is not backwards\u202c",
      "שלום, это тест and العربية",
      "👩‍👩‍👧‍👦 🎉 e\u0301 \u{1f1e9}\u{1f1ea}",
      "one\ntwo\n\n  three",
      "x".repeat(10_000),
      Array.from({ length: 60 }, (_, i) => `line ${i}`).join("\n"),
      "see https://example.com/a?b=c&d=(e). Not javascript:alert(1), not data:text/html,x, but (http://example.org/ü)!",
      "https://example.com/\u202egpj.exe and https://",
    ];
    for (const text of texts) await writer.write(text);
    const cut = [`${"x".repeat(1200)}…`, `${texts[6].split("\n", 24).join("\n")}…`];
    const shown = texts.with(5, cut[0]).with(6, cut[1]);
    for (const device of [writer, reader]) {
      await device.shows(shown);
      await device.title("Parley");
      assert.equal(await device.page.locator("#messages :is(b, img, script), #list b").count(), 0, "markup is shown as text");
      const links = await device.page.locator("#messages a").evaluateAll((all) => all.map((a) => [a.href, a.rel, a.target]));
      const safe = ["noopener noreferrer", "_blank"];
      assert.deepEqual(links, [
        ["https://example.com/a?b=c&d=(e)", ...safe], ["http://example.org/%C3%BC", ...safe], ["https://example.com/", ...safe],
      ]);
      const sideways = await device.page.evaluate(() => [document.documentElement, document.querySelector("#scroll"), document.querySelector("#list")]
        .some((e) => e.scrollWidth > e.clientWidth));
      assert.ok(!sideways, "nothing is wider than its place");
      assert.equal(await device.page.locator(".text", { hasText: "שלום" }).evaluate((e) => getComputedStyle(e).direction), "rtl");
    }
    await reader.shot("hostile");
    const more = reader.page.locator(".more").first();
    await more.click();
    await reader.shows(shown.with(5, texts[5]));
    assert.equal(await more.getAttribute("aria-expanded"), "true");
    await more.click();
    await reader.shows(shown);
  });

  it("groups what belongs together under its day", async () => {
    const alice = await Device.signIn(unique("alice"));
    const bob = unique("bob");
    await Device.signIn(bob);
    await alice.choose(bob);
    for (const text of ["one", "two", "three"]) await alice.write(text);
    await alice.progress("delivered");
    assert.deepEqual(await alice.page.locator(".row").evaluateAll((all) => all.map((e) => e.classList.contains("first"))), [true, false, false]);
    assert.deepEqual(await alice.page.locator(".day").allInnerTexts(), ["Today"]);
    const { at, shown } = await alice.page.evaluate(() => {
      const row = document.querySelector(".row");
      return { at: row.message.at, shown: row.querySelector("time").textContent };
    });
    assert.equal(shown, new Intl.DateTimeFormat("en-GB", { timeStyle: "short", timeZone: "Europe/Berlin" }).format(at));
  });

  it("chats with a client of the plain contract", async () => {
    const [page, plain] = [unique("page"), unique("plain")];
    const device = await Device.signIn(page);
    const socket = io(server.url, { auth: { username: plain } });
    const got = [];
    socket.onAny((event, ...args) => got.push([event, args[0]]));
    try {
      await device.choose(plain);
      await device.page.locator("#text").pressSequentially("typed");
      await device.page.locator("#text").press("Enter");
      await device.until("sent", () => document.querySelector(".mine")?.dataset.state === "sent");
      const users = got.find(([event]) => event === "users")[1];
      const { userID } = users.find((u) => u.username === page);
      socket.emit("private message", { content: "plain answer", to: userID });
      await device.shows(["typed", "plain answer"]);
      assert.deepEqual(got.map(([event]) => event).filter((event) => event !== "user connected" && event !== "user disconnected"),
        ["session", "users", "private message"], "no event beyond the contract");
      assert.deepEqual(Object.keys(users[0]), ["userID", "username", "connected", "messages"]);
    } finally {
      socket.disconnect();
    }
    await device.page.locator("#presence", { hasText: "Last seen" }).waitFor();
  });
}
