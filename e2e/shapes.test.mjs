// Redis in every shape, and two processes on each: messages both ways, the roster, recovery and notifications. A Cluster
// and Sentinel lose their primary while messages flow: what was acknowledged arrives, once and in order.

import assert from "node:assert/strict";
import { after, afterEach, before, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { Device } from "./device.mjs";
import { start } from "./process.mjs";
import { Cluster, Sentinel, TLS, until } from "./shapes.mjs";

const transports = ["websocket"];
const devices = [];
let A, B, shape;

async function launch(settings = {}) {
  const own = { REDIS_URL: shape.url, NOTIFY_BUS: "classic", ...shape.env, ...settings };
  [A, B] = await Promise.all([start(own), start(own)]);
}

const health = () => Promise.all([A, B].map((p) => fetch(`${p.url}/healthz`).then((r) => r.text())));

async function quit() {
  for (const device of devices.splice(0)) device.close();
  const fine = A && B && (await until("both are healthy", async () => (await health()).every((text) => text === "ok\n")).catch(() => false));
  const logs = [A, B].map((p) => p?.log());
  const outcome = await Promise.allSettled([A, B].map((p) => p?.stop()));
  A = B = undefined;
  assert.ok(fine, `both are healthy in the end: ${logs.join("\n")}`);
  for (const { reason } of outcome) if (reason) throw reason;
}

async function connect(process, auth) {
  const device = new Device("", { url: process.url, transports, auth });
  devices.push(device);
  const [session, users] = await Promise.all([device.nth("session"), device.nth("users")]);
  return Object.assign(device, session, { username: users.find((u) => u.userID === session.userID).username });
}

const another = (process, device) => connect(process, { sessionID: device.sessionID });
const contents = (device) => device.all("private message").map((m) => m.content);

/** Sends until it is acknowledged. */
async function say(from, to, content) {
  for (const deadline = Date.now() + 20_000; ; await sleep(100)) {
    const ack = await from.ask("private message", { content, to: to.userID, id: content }).catch((error) => ({ error }));
    if (!ack.error) return ack;
    assert.ok(Date.now() < deadline, `${content} is not taken: ${JSON.stringify(ack)}`);
  }
}

function contract() {
  it("carries messages both ways, and presence", async () => {
    const alice = await connect(A, { username: "alice" });
    const bob = await connect(B, { username: "bob" });
    await alice.match("user connected", (u) => u.userID === bob.userID);
    const bob2 = await another(A, bob);
    await say(alice, bob, "there");
    await say(bob, alice, "and back");
    for (const device of [bob, bob2]) await device.match("private message", (m) => m.content === "there");
    await alice.match("private message", (m) => m.content === "and back");
    const alice2 = await another(B, alice);
    const listed = alice2.all("users")[0].find((u) => u.userID === bob.userID);
    assert.deepEqual([listed.connected, listed.messages.map((m) => m.content)], [true, ["there", "and back"]]);
    bob.close();
    bob2.close();
    for (const device of [alice, alice2]) await device.match("user disconnected", (id) => id === bob.userID);
  });

  it("recovers a connection on the other process", async () => {
    const alice = await connect(A, { username: "alice" });
    const bob = await connect(A, { username: "bob" });
    await say(alice, bob, "first");
    await bob.nth("private message");
    await bob.cut();
    for (const content of ["second", "third"]) await say(alice, bob, content);
    await bob.back(B.url);
    assert.equal(bob.socket.recovered, true);
    await say(alice, bob, "fourth");
    await bob.nth("private message", 4);
    assert.deepEqual(contents(bob), ["first", "second", "third", "fourth"]);
  });

  it("has notifications reach all of a user's devices once", async () => {
    const own = [A, B, B].map((p) => new Device("/socket", { url: p.url, transports, query: { token: "t", id: "who" } }));
    devices.push(...own);
    for (const device of own) await device.nth("connect");
    for (const device of own) device.emit("message", { event: "sendMessage" });
    for (const device of own) await device.nth("message", own.length);
    await sleep(200); // for a double, which must not come
    for (const device of own) assert.equal(device.all("message").length, own.length);
  });
}

/** Two users talk to each other, each with devices on both processes, while event(users) happens. */
async function talk(event) {
  const users = [];
  for (const [p, q] of [[A, B], [B, A]]) {
    const sender = await connect(p, { username: "talker" });
    users.push({ sender, userID: sender.userID, acked: [], devices: [await another(p, sender), await another(q, sender)] });
  }
  let talking = true;
  const speak = async (from, to) => {
    for (let i = 0; talking; i++) from.acked.push(await say(from.sender, to, `${from.userID} ${i}`));
  };
  const speaking = Promise.all([speak(users[0], users[1]), speak(users[1], users[0])]);
  try {
    await sleep(300);
    await event(users);
    const before = users.map((u) => u.acked.length);
    await until("messages flow", () => users.every((u, i) => u.acked.length > before[i] + 50));
  } finally {
    talking = false;
    await speaking;
  }
  for (const user of users) {
    const other = users.find((u) => u !== user);
    const expected = [...user.acked, ...other.acked].map((ack) => ack.id).toSorted();
    for (const device of user.devices) {
      await device.until("all that was acknowledged", () => device.all("private message").length >= expected.length, 20_000);
      const got = device.all("private message");
      assert.deepEqual(got.map((m) => m.id).toSorted(), expected, "each acknowledged message once");
      const order = got.map((m) => m.seq);
      assert.deepEqual(order, order.toSorted((x, y) => x - y), "in the order of their numbers");
      for (const from of users) {
        const sent = got.filter((m) => m.from === from.userID).map((m) => m.id);
        assert.deepEqual(sent, from.acked.map((ack) => ack.id), "in the order they were sent");
      }
    }
    const unsettled = user.devices.filter((device) => device.all("disconnect").length > 0);
    assert.equal(unsettled.length, 0, "no connection is lost for it");
  }
  console.log(`# ${users[0].acked.length + users[1].acked.length} messages`);
}

/** Has a server replaced, and waits until what users send is taken, and gets to the others. */
async function outage(what, users, happen) {
  const began = Date.now();
  const gone = await happen();
  const up = Date.now();
  const flows = async (from, to) => {
    const n = from.acked.length + 1; // one more may have been under way
    await until("senders are answered", () => from.acked.length > n);
    const taken = Date.now() - up;
    const { id } = from.acked[n];
    // Events flow again: this is before the check that finds what nobody announced.
    await Promise.all(to.devices.map((device) => device.match("private message", (m) => m.id === id, 8_000)));
    return [taken, Date.now() - up];
  };
  const times = await Promise.all([flows(users[0], users[1]), flows(users[1], users[0])]).catch(async (error) => {
    await gone?.start(); // or else all that comes after fails as well
    throw error;
  });
  const [taken, delivered] = [0, 1].map((i) => Math.max(...times.map((t) => t[i])));
  console.log(`# ${what}: another server after ${up - began} ms; ${taken} ms later messages are taken, ${delivered} ms later they arrive`);
  await gone?.start();
  await shape.whole?.();
}

describe("a Cluster", () => {
  before(async () => (shape = await Cluster.start()));
  after(() => shape?.stop());

  for (const fanout of ["classic", "sharded"]) {
    describe(`with FANOUT=${fanout}`, () => {
      before(() => launch({ FANOUT: fanout }));
      afterEach(() => devices.splice(0).forEach((device) => device.close()));
      after(quit);
      contract();

      it("loses nothing when masters die", async () => {
        await talk(async (users) => {
          // That of the messages between processes, and that of a mailbox.
          const channel = fanout === "classic" ? "socket.io" : `socket.io#/#${users[0].userID}#`;
          const mailbox = `{${users[1].userID}}`;
          await outage("kill the channel's master", users, () => shape.failover(channel));
          await outage("kill the mailbox's master", users, () => shape.failover(mailbox));
          await outage("replace the channel's master", users, () => shape.handover(channel));
        });
      });

      it("loses nothing when slots move", async () => {
        await talk(async (users) => {
          for (const key of ["socket.io", "socket.io#/#", `socket.io#/#${users[0].userID}#`, `{${users[1].userID}}`]) {
            await shape.move(key);
            await sleep(200);
          }
        });
      });
    });
  }
});

describe("Sentinel", () => {
  before(async () => {
    shape = await Sentinel.start();
    await launch();
  });
  afterEach(() => devices.splice(0).forEach((device) => device.close()));
  after(async () => {
    await quit().finally(() => shape?.stop());
  });
  contract();

  it("loses nothing when the primary dies", async () => {
    await talk((users) => outage("kill the primary", users, () => shape.failover()));
  });
});

describe("TLS, a user, a password and a database", () => {
  before(async () => {
    shape = await TLS.start();
    await launch();
  });
  afterEach(() => devices.splice(0).forEach((device) => device.close()));
  after(async () => {
    await quit().finally(() => shape?.stop());
  });
  contract();

  it("trusts nobody whom the system does not trust", async () => {
    const error = await start({ REDIS_URL: shape.url, REDIS_WAIT: "0s" }).then(
      (p) => p.stop("SIGKILL"),
      (error) => error,
    );
    assert.match(error?.message ?? "it started", /certificate/);
  });
});
