// A thousand people and ten thousand messages: nothing jumps, and no frame takes long.

import assert from "node:assert/strict";
import { once } from "node:events";
import { loadavg } from "node:os";
import { after, before, it } from "node:test";

import { io } from "socket.io-client";

import { start } from "../process.mjs";
import { browser, Device } from "./kit.mjs";

const frameMs = 50; // that no frame may take longer than
const writer = "writer";
let server;
const sockets = [];

function connect(auth) {
  const socket = io(server.url, { auth, transports: ["websocket"], forceNew: true });
  sockets.push(socket);
  return new Promise((resolve, reject) => {
    socket.once("session", (session) => resolve({ socket, ...session }));
    socket.once("connect_error", reject);
  });
}

const text = (i) => `message ${i}${i % 7 === 0 ? " with a few more words, so that it takes more than one line where the window is not very wide" : ""}${i % 31 === 0 ? "\nand another line" : ""}`;

// Sends n messages to a user, in their order.
async function fill(from, to, n, content = text) {
  const { socket } = await connect({ username: from });
  for (let i = 0; i < n; i += 250) {
    const answers = Array.from({ length: Math.min(250, n - i) }, (_, j) => socket.emitWithAck("private message", { content: content(i + j), to, id: String(i + j) }));
    for (const answer of await Promise.all(answers)) assert.ok(answer.seq, JSON.stringify(answer));
  }
  return socket;
}

// Runs in the page: counts the frames that it asks for, and the rows that come and go.
function watchFrames() {
  const ask = window.requestAnimationFrame.bind(window);
  window.asked = 0;
  window.requestAnimationFrame = (f) => (window.asked++, ask(f));
  addEventListener("DOMContentLoaded", () => new MutationObserver(() => window.asked++).observe(document.querySelector("#messages"), { childList: true }));
  // Waits until nothing has been asked for or changed in so many frames.
  window.quiet = (frames) => new Promise((resolve) => {
    let [before, n] = [window.asked, 0];
    const next = () => {
      n = window.asked === before ? n + 1 : 0;
      before = window.asked;
      if (n < frames) ask(next);
      else resolve();
    };
    ask(next);
  });
}

const rests = ({ page }, what) => Promise.race([
  page.evaluate(() => window.quiet(20)),
  once(AbortSignal.timeout(15_000), "abort").then(() => assert.fail(`${what}: does not come to rest`)),
]);

// Turns the wheel over something until done.
async function turn(page, selector, delta, done) {
  await page.locator(selector).hover();
  for (const deadline = Date.now() + 120_000; !(await done()); ) {
    assert.ok(Date.now() < deadline, "scrolling comes to an end");
    await page.mouse.wheel(0, delta);
    await page.evaluate(() => new Promise(requestAnimationFrame));
  }
}

// Turns the wheel, and returns the times between frames meanwhile, and how long each piece of the page's own work took,
// both in ms. Other work on the machine delays frames, too, so the latter counts processor time; where the clock of that is
// coarse it may tell more than has passed, which is not believed.
async function wheel(page, selector, delta, done) {
  await page.locator(selector).hover();
  await browser.startTracing(page, { categories: ["devtools.timeline", "disabled-by-default-devtools.timeline"] });
  await page.evaluate(() => {
    const gaps = (window.gaps = []);
    let last = 0;
    const next = (now) => {
      if (last) gaps.push(now - last);
      last = now;
      window.measuring = requestAnimationFrame(next);
    };
    window.measuring = requestAnimationFrame(next);
  });
  await turn(page, selector, delta, done);
  const frames = await page.evaluate(() => (cancelAnimationFrame(window.measuring), window.gaps));
  const { traceEvents } = JSON.parse(await browser.stopTracing());
  const main = new Set(traceEvents.filter((e) => e.name === "thread_name" && e.args.name === "CrRendererMain").map((e) => `${e.pid} ${e.tid}`));
  const tasks = traceEvents.filter((e) => e.name === "RunTask" && main.has(`${e.pid} ${e.tid}`));
  const work = tasks.map((e) => Math.min(e.tdur ?? 0, e.dur ?? 0) / 1000);
  assert.ok(frames.length > 10 && work.length > 10, `${frames.length} frames and ${work.length} tasks were measured`);
  return { frames, work };
}

// No piece of the page's work may take longer than a frame has; a browser that is busy with garbage may have one more try.
async function smooth(what, measure) {
  for (let i = 0; ; i++) {
    const { frames, work } = await measure();
    frames.sort((a, b) => a - b);
    const [longest, worst, median] = [Math.max(...work), frames.at(-1), frames[frames.length >> 1]].map((ms) => ms.toFixed(1));
    const late = frames.filter((f) => f > frameMs).length;
    const said = `${what}: ${frames.length} frames, median ${median} ms, worst ${worst} ms, ${late} over ${frameMs} ms; longest work ${longest} ms`;
    console.log(`# ${said} (load ${loadavg()[0].toFixed(1)})`);
    if (longest <= frameMs) return;
    assert.ok(i < 1, said);
  }
}

export function history() {
  before(async () => (server = await start({ STORE: "memory", RATE_LIMIT: "0", MAILBOX_LIMIT: "20000" })));
  after(async () => {
    for (const socket of sockets) socket.disconnect();
    await server.stop();
  });

  it("loads 1,000 messages upwards without a jump", async () => {
    const reader = await Device.signIn("reader", { url: server.url });
    const { page } = reader;
    const userID = await page.evaluate(() => JSON.parse(localStorage.getItem("parley/session")).userID);
    const socket = await fill(writer, userID, 1000);
    await reader.choose(writer);
    await reader.until("the newest", (last) => [...document.querySelectorAll(".text")].at(-1)?.textContent === last, text(999));
    const rows = () => page.locator(".row").count();
    assert.ok((await rows()) < 200, "only the newest are in the document");

    // Whatever comes in above, what is in view stays where it is. Each step up is checked between two frames.
    await page.locator("#scroll").hover();
    await page.evaluate(() => {
      window.jumps = [];
      window.seen = new Set();
      const scroll = document.querySelector("#scroll");
      let before = null;
      const watch = () => {
        const top = scroll.getBoundingClientRect().top;
        const row = before?.row.isConnected ? before.row : null;
        if (row) {
          const moved = row.getBoundingClientRect().top - before.at;
          // A jump is less than the least that comes in at once, and more than the wheel does in a frame, or in two.
          if (Math.abs(moved) > 350) window.jumps.push(moved);
        }
        const first = [...document.querySelectorAll(".row")].find((r) => r.getBoundingClientRect().bottom > top);
        before = first && { row: first, at: first.getBoundingClientRect().top };
        for (const row of document.querySelectorAll(".row")) window.seen.add(row.message.content);
        window.watching = requestAnimationFrame(watch);
      };
      window.watching = requestAnimationFrame(watch);
    });
    const atBeginning = () => page.evaluate(() => document.querySelector("#scroll").scrollTop === 0 && /begins/.test(document.querySelector("#top").textContent));
    for (const deadline = Date.now() + 120_000; !(await atBeginning()); ) {
      assert.ok(Date.now() < deadline, "the beginning is reached");
      await page.mouse.wheel(0, -100);
      await page.evaluate(() => new Promise(requestAnimationFrame));
    }
    assert.deepEqual(await page.evaluate(() => (cancelAnimationFrame(window.watching), window.jumps)), []);
    const seen = await page.evaluate(() => [...window.seen]);
    const all = Array.from({ length: 1000 }, (_, i) => text(i));
    assert.deepEqual(new Set(seen), new Set(all), "all of them were there");
    const now = await page.locator(".text").allInnerTexts();
    assert.deepEqual(now, all.slice(0, now.length), "in order, each once");
    assert.ok(now.length <= 300, "and only a part of them at a time");
    await reader.shot("beginning");

    // Who reads what is old is not torn away by what is new, and finds it.
    const at = () => page.evaluate(() => document.querySelector("#scroll").scrollTop);
    const before = await at();
    await socket.emitWithAck("private message", { content: "something new", to: userID, id: "new" });
    await reader.unread(writer, 1);
    assert.equal(await at(), before);
    await page.getByRole("button", { name: "New messages" }).click();
    await reader.unread(writer, 0);
    await page.locator(".text", { hasText: "something new" }).waitFor();
  });

  it("comes to rest, however small the letters and large the window, and however high the rows", async () => {
    const reader = await Device.signIn("idler", { url: server.url, viewport: { width: 1280, height: 1300 }, init: (context) => context.addInitScript(watchFrames) });
    const { page } = reader;
    const { userID } = await page.evaluate(() => JSON.parse(localStorage.getItem("parley/session")));
    const { socket } = await connect({ username: "silent" });
    await reader.choose("silent");
    await rests(reader, "an empty conversation");

    await fill("terse", userID, 1000, (i) => `short ${i}`);
    await fill("verbose", userID, 60, (i) => `line ${i}\n`.repeat(20));
    for (const [name, size] of [["terse", 6], ["terse", 9], ["terse", 12], ["terse", 16], ["terse", 40], ["verbose", 40]]) {
      await page.evaluate((size) => (document.documentElement.style.fontSize = `${size}px`), size);
      await reader.choose(name);
      const what = `${name}, ${size} px`;
      await rests(reader, `${what}, at the end`);
      // Up, until the end is no longer in the document.
      await page.evaluate(async () => {
        const scroll = document.querySelector("#scroll");
        const last = () => document.querySelector("#messages").lastChild.message;
        const newest = last();
        for (let i = 0; i < 600 && last() === newest; i++) {
          scroll.scrollTop -= scroll.clientHeight / 4;
          await new Promise(requestAnimationFrame);
        }
      });
      await rests(reader, `${what}, in the middle`);
      const there = await page.evaluate(() => {
        const { scrollTop, scrollHeight, clientHeight } = document.querySelector("#scroll");
        return { above: scrollTop / clientHeight, below: (scrollHeight - scrollTop - clientHeight) / clientHeight, rows: document.querySelectorAll(".row").length };
      });
      assert.ok(there.above >= 1.5 && there.below >= 1.5 && there.rows < 600, `${what}: ${JSON.stringify(there)}`);
      await reader.choose("silent");
    }
    socket.disconnect();
  });

  it("takes away no row in view for one that is written, and no longer says where the conversation begins further down", async () => {
    const reader = await Device.signIn("tall", { url: server.url, viewport: { width: 1280, height: 2600 }, init: (context) => context.addInitScript(watchFrames) });
    const { page } = reader;
    const { userID } = await page.evaluate(() => JSON.parse(localStorage.getItem("parley/session")));
    await fill("pen pal", userID, 600, (i) => `short ${i}`);
    await reader.choose("pen pal");
    await rests(reader, "the end");
    const gone = page.evaluate(() => new Promise((resolve) => {
      let n = 0;
      new MutationObserver((changes) => {
        for (const { removedNodes, addedNodes } of changes) {
          n += removedNodes.length;
          if ([...addedNodes].some((row) => row.message.content === "mine")) setTimeout(() => resolve(n));
        }
      }).observe(document.querySelector("#messages"), { childList: true });
    }));
    await reader.write("mine");
    assert.ok((await gone) <= 1, `${await gone} rows were taken away`);

    const top = (down) => turn(page, "#scroll", down ? 900 : -900, () => page.evaluate((down) => /begins/.test(document.querySelector("#top").textContent) !== down, down));
    await top(false);
    await top(true);
    assert.notEqual(await page.locator(".text").first().textContent(), "short 0");
  });

  it("leaves the focus where it is while others move in the list", async () => {
    const names = Array.from({ length: 25 }, (_, i) => `a${String(i).padStart(2, "0")}`);
    const reader = await Device.signIn("focused", { url: server.url });
    const { page } = reader;
    const { userID } = await page.evaluate(() => JSON.parse(localStorage.getItem("parley/session")));
    const place = () => page.evaluate(() => [...document.querySelectorAll("#talks .person")].indexOf(document.activeElement));
    const writers = [];
    for (const name of names) writers.push(await fill(name, userID, 1));
    await reader.until("all of them", (n) => document.querySelectorAll("#talks .person").length === n, names.length);
    // The last of the first part: whoever comes before it pushes it over the edge, and then it goes back.
    await reader.person("a15").focus();
    assert.equal(await place(), 9);
    await page.evaluate(() => {
      window.lost = 0;
      document.activeElement.addEventListener("blur", () => window.lost++);
    });
    for (const [i, want] of [[0, 10], [1, 11], [20, 11], [15, 0], [3, 1], [4, 2]]) {
      await writers[i].emitWithAck("private message", { content: "again", to: userID, id: `again ${i}` });
      await reader.until(`the place ${want}`, (want) => [...document.querySelectorAll("#talks .person")].indexOf(document.activeElement) === want, want);
    }
    assert.equal(await page.evaluate(() => window.lost), 0, "the focus was never lost");
    const order = await page.locator("#talks .name").allInnerTexts();
    assert.deepEqual(order.slice(0, 6), ["a04", "a03", "a15", "a20", "a01", "a00"]);
    assert.equal(new Set(order).size, names.length);
  });

  it("scrolls 1,000 people and 10,000 messages smoothly", async () => {
    for (let i = 0; i < 990; i += 45) {
      const some = await Promise.all(Array.from({ length: Math.min(45, 990 - i) }, (_, j) => connect({ username: `person ${i + j}` })));
      for (const { socket } of some) socket.disconnect();
    }
    const owner = await Device.signIn("owner", { url: server.url });
    const { page } = owner;
    const { userID } = await page.evaluate(() => JSON.parse(localStorage.getItem("parley/session")));
    await fill("author", userID, 10_000);
    await page.reload();
    await owner.ready();
    const people = await page.locator(".person").count();
    assert.ok(people >= 990, `${people} people`);

    // Each measurement may come a second time, so it goes to its beginning first.
    const end = (selector, down) => () => page.evaluate(([selector, down]) => {
      const e = document.querySelector(selector);
      return down ? e.scrollTop + e.clientHeight >= e.scrollHeight - 1 : e.scrollTop === 0;
    }, [selector, down]);
    await smooth("1,000 people, down and up", async () => {
      await turn(page, "#list", -900, end("#list", false));
      const down = await wheel(page, "#list", 900, end("#list", true));
      const up = await wheel(page, "#list", -900, end("#list", false));
      return { frames: [...down.frames, ...up.frames], work: [...down.work, ...up.work] };
    });

    // The ends of the conversation, not of the part that is in the document.
    const shows = (which, what) => () => page.evaluate(([which, what]) => {
      const { scrollTop, clientHeight, scrollHeight } = document.querySelector("#scroll");
      const there = which < 0 ? scrollTop + clientHeight >= scrollHeight - 1 : scrollTop === 0 && /begins/.test(document.querySelector("#top").textContent);
      return there && [...document.querySelectorAll(".text")].at(which)?.textContent === what;
    }, [which, what]);
    const [first, last] = [shows(0, text(0)), shows(-1, text(9999))];
    await smooth("10,000 messages, loaded from the server on the way up", async () => {
      await page.reload();
      await owner.ready();
      if (!(await page.locator("#talk").isVisible())) await owner.choose("author");
      await owner.until("the newest", (last) => [...document.querySelectorAll(".text")].at(-1)?.textContent === last, text(9999));
      return wheel(page, "#scroll", -4000, first);
    });
    await smooth("10,000 messages, down", async () => {
      await turn(page, "#scroll", -4000, first);
      return wheel(page, "#scroll", 4000, last);
    });
    await smooth("10,000 messages, up", async () => {
      await turn(page, "#scroll", 4000, last);
      return wheel(page, "#scroll", -4000, first);
    });
  });
}
