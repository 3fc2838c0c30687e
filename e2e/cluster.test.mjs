// Several processes are one system: the official client against two of them, which PARLEY_URLS names, and others
// that are started and killed here. All share the Redis of REDIS_URL and speak FANOUT, and those two publish
// notifications (NOTIFY_BUS=classic).

import assert from "node:assert/strict";
import { after, afterEach, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import Redis from "ioredis";

import { Device } from "./device.mjs";
import { start } from "./process.mjs";

const [A, B] = (process.env.PARLEY_URLS ?? "").split(",");
const redisURL = process.env.REDIS_URL;
const fanout = process.env.FANOUT ?? "classic";
if (!A || !B || !redisURL) {
  throw new Error("PARLEY_URLS has to name two running servers, and REDIS_URL the Redis that they share; e2e/run sets both");
}

const LEASE = 11_000; // milliseconds after which a killed process' users are known to be gone: the lease, and one second
const transports = ["websocket"];
const devices = [];
const processes = [];

afterEach(async () => {
  for (const device of devices.splice(0)) device.close();
  await Promise.all(processes.splice(0).map((p) => p.stop("SIGKILL")));
});

async function connect(url, auth) {
  const device = new Device("", { url, transports, auth });
  devices.push(device);
  const [session, users] = await Promise.all([device.nth("session"), device.nth("users")]);
  Object.assign(device, session, { username: users.find((u) => u.userID === session.userID).username });
  return device;
}

const another = (url, device) => connect(url, { sessionID: device.sessionID });

async function say(from, to, content, id) {
  const ack = await from.ask("private message", { content, to: to.userID, ...(id && { id }) });
  assert.equal(ack.error, undefined, "the message is taken");
  return ack;
}

// A word that a device has got proves that whatever was sent to it before has been, or never will be.
async function fence(from, ...to) {
  const { id } = await say(from, to[0], "fence");
  await Promise.all(to.map((device) => device.match("private message", (m) => m.id === id)));
}

const contents = (device) => device.all("private message").map((m) => m.content);
const count = (device, event, userID) => device.all(event).filter((u) => (u.userID ?? u) === userID).length;
const listed = (device, user) => device.all("users").at(-1).find((u) => u.userID === user.userID);

describe("chat over two processes", () => {
  it("delivers to all devices of both users on both processes, but not to the sending one", async () => {
    const alice = [await connect(A, { username: "alice" })];
    const bob = [await connect(B, { username: "bob" })];
    alice.push(await another(B, alice[0]));
    bob.push(await another(A, bob[0]));
    const stranger = await connect(B, { username: "stranger" });
    const content = { text: "<b>hi</b> & \u2028 é 😀", list: [1, 1e21, null, "\\"] };
    const ack = await say(alice[0], bob[0], content, "chosen by the client");
    for (const device of [...bob, alice[1]]) {
      const { seq, ...message } = await device.nth("private message");
      assert.deepEqual(message, { content, from: alice[0].userID, to: bob[0].userID, id: ack.id, at: ack.at });
      assert.ok(Number.isInteger(seq));
    }
    assert.deepEqual(await say(alice[1], bob[1], content, "chosen by the client"), ack, "a retry on another process is the same message");
    await fence(bob[0], alice[0], alice[1]);
    await fence(alice[0], bob[0], bob[1]);
    await fence(bob[1], stranger);
    assert.deepEqual(contents(alice[0]), ["fence"], "no echo to the sending device");
    for (const device of bob) assert.deepEqual(contents(device).filter((c) => c !== "fence"), [content], "once");
    assert.deepEqual(contents(stranger), ["fence"], "no one else gets anything");
  });

  it("gives all devices the same order of 500 messages sent at once on both processes", async () => {
    const alice = [await connect(A, { username: "alice" })];
    const bob = [await connect(B, { username: "bob" })];
    alice.push(await another(B, alice[0]));
    bob.push(await another(A, bob[0]));
    const watchers = [await another(A, alice[0]), await another(B, alice[0]), await another(A, bob[0]), await another(B, bob[0])];
    const each = 125;
    const acks = new Map(); // by device: what it sent, with its number in its own user's mailbox
    const send = async (device, to, name) => {
      acks.set(device, await Promise.all(Array.from({ length: each }, (_, i) => say(device, to, i, `${name} ${i}`))));
    };
    await Promise.all([send(alice[0], bob[0], "a0"), send(alice[1], bob[0], "a1"), send(bob[0], alice[0], "b0"), send(bob[1], alice[0], "b1")]);
    const sequence = async (device) => {
      const own = acks.get(device) ?? [];
      await device.until("all messages", () => device.all("private message").length >= 4 * each - own.length);
      const got = device.all("private message");
      const order = got.map((m) => m.seq);
      assert.deepEqual(order, order.toSorted((x, y) => x - y), "messages arrive in the order of their numbers");
      const all = [...got, ...own].toSorted((x, y) => x.seq - y.seq);
      assert.deepEqual([all.length, new Set(all.map((m) => m.seq)).size, new Set(all.map((m) => m.id)).size], [500, 500, 500], "each once");
      return all.map((m) => `${m.seq} ${m.id}`);
    };
    for (const user of [[...alice, ...watchers.slice(0, 2)], [...bob, ...watchers.slice(2)]]) {
      const [first, ...others] = await Promise.all(user.map(sequence));
      for (const other of others) assert.deepEqual(other, first);
    }
  });

  it("has one roster and one presence", async () => {
    const alice = await connect(A, { username: "alice" });
    const bob = await connect(B, { username: "bob" });
    assert.deepEqual([listed(bob, alice).username, listed(bob, alice).connected], ["alice", true]);
    assert.deepEqual(await alice.match("user connected", (u) => u.userID === bob.userID), {
      userID: bob.userID, username: "bob", connected: true, messages: [],
    });
    const bob2 = await another(A, bob);
    await fence(bob2, alice);
    assert.equal(count(alice, "user connected", bob.userID), 1, "a further device is no arrival");
    bob.close();
    await fence(bob2, alice);
    await sleep(300);
    assert.equal(count(alice, "user disconnected", bob.userID), 0, "one of two devices may leave");
    bob2.close();
    await alice.match("user disconnected", (id) => id === bob.userID);
    const alice2 = await another(B, alice);
    assert.equal(listed(alice2, bob).connected, false);
    assert.equal(listed(alice2, alice).connected, true);
    await fence(alice2, alice);
    assert.equal(count(alice, "user disconnected", bob.userID), 1, "announced once");
  });

  it("keeps session and history everywhere", async () => {
    const alice = await connect(A, { username: "alice" });
    const bob = await connect(A, { username: "bob" });
    await say(alice, bob, "before");
    bob.close();
    await alice.match("user disconnected", (id) => id === bob.userID);
    await say(alice, bob, "meanwhile");
    const again = await another(B, bob);
    assert.deepEqual([again.sessionID, again.userID, again.username], [bob.sessionID, bob.userID, "bob"]);
    assert.deepEqual(listed(again, alice).messages.map((m) => m.content), ["before", "meanwhile"]);
    const page = await again.ask("history", { with: alice.userID, limit: 1 });
    assert.deepEqual([page.messages.map((m) => m.content), page.more], [["meanwhile"], true]);
  });

  it("recovers a connection on the other process: what was missed, each once, in order", async () => {
    const alice = await connect(A, { username: "alice" });
    const bob = await connect(A, { username: "bob" });
    await fence(alice, bob);
    const { id } = bob.socket;
    const expected = ["fence"];
    for (let i = 0; i < 6; i++) {
      await bob.cut();
      for (let j = 0; j < 3; j++) {
        await say(alice, bob, `${i} ${j}`);
        expected.push(`${i} ${j}`);
      }
      await bob.back(i % 2 ? A : B);
      assert.equal(bob.socket.recovered, true);
      assert.equal(bob.socket.id, id);
      await say(alice, bob, `${i} live`);
      expected.push(`${i} live`);
      await bob.match("private message", (m) => m.content === `${i} live`);
      assert.deepEqual(contents(bob), expected);
    }
  });

  it("settles the presence of a killed process' users within the lease, once", async () => {
    const C = await start({ REDIS_URL: redisURL, FANOUT: fanout });
    processes.push(C);
    const watching = [await connect(A, { username: "watcher" }), await connect(B, { username: "watcher" })];
    const dave = await connect(C.url, { username: "dave" });
    const erin = await connect(C.url, { username: "erin" });
    const erin2 = await another(A, erin);
    for (const device of watching) await device.match("user connected", (u) => u.userID === erin.userID);
    await say(watching[0], dave, "the last you hear");
    await C.stop("SIGKILL");
    const killed = Date.now();
    await say(watching[0], dave, "you are dead");
    for (const device of watching) {
      await device.match("user disconnected", (id) => id === dave.userID, LEASE - (Date.now() - killed));
    }
    console.log(`# offline for the others after ${Date.now() - killed} ms`);
    await sleep(2_000); // for a second announcement, which must not come
    await fence(erin2, ...watching.slice(0, 1));
    for (const device of watching) {
      assert.equal(count(device, "user disconnected", dave.userID), 1, "announced once");
      assert.equal(count(device, "user disconnected", erin.userID), 0, "who is elsewhere too is not offline");
    }
    const fresh = await connect(B, { username: "fresh" });
    assert.deepEqual([listed(fresh, dave).connected, listed(fresh, erin).connected], [false, true]);

    await dave.nth("disconnect");
    await dave.back(B);
    assert.equal(dave.all("session").at(-1).userID, dave.userID, "the same user, by pid or by session");
    for (const device of watching) await device.match("user connected", (u) => u.userID === dave.userID);
  });

  it("loses nothing when a process dies under load", async () => {
    const C = await start({ REDIS_URL: redisURL, FANOUT: fanout });
    processes.push(C);
    const bob = await connect(A, { username: "bob" });
    const senders = [await connect(C.url, { username: "sender" }), await connect(B, { username: "sender" })];
    const total = 150;
    const acked = [];
    const talk = async (device, name) => {
      for (let i = 0; i < total; i++) {
        const id = `${name} ${i}`;
        for (let taken = false; !taken; ) {
          if (!device.socket.connected) await device.back(B);
          taken = await say(device, bob, id, id).then(() => true, () => false);
        }
        acked.push(id);
        if (name === "doomed" && i === total / 3) await C.stop("SIGKILL");
      }
    };
    senders[0].socket.auth = { sessionID: senders[0].sessionID };
    await Promise.all([talk(senders[0], "doomed"), talk(senders[1], "well")]);
    await fence(senders[1], bob);
    const got = contents(bob).filter((c) => c !== "fence");
    assert.deepEqual(got.toSorted(), acked.toSorted(), "each acknowledged message once");
    for (const name of ["doomed", "well"]) {
      assert.deepEqual(got.filter((c) => c.startsWith(name)), Array.from({ length: total }, (_, i) => `${name} ${i}`));
    }
  });
});

describe("notify over two processes", () => {
  let users = 0;
  const newUser = () => `cluster-${++users}`;
  const redis = new Redis(redisURL);
  const bus = new Redis(redisURL);
  after(() => [redis, bus].forEach((c) => c.disconnect()));

  async function open(url, id) {
    const device = new Device("/socket", { url, transports, query: { token: "t", id } });
    devices.push(device);
    await device.nth("connect");
    return device;
  }
  const sent = (id) => ({ event: "message_sent", id, args: { message: `A message from user with id: ${id} has been send` } });
  const channel = "message:outgoing_socket_message";

  it("reaches every device of the user once, and the processes of the older application", async () => {
    const id = newUser();
    const published = [];
    await bus.subscribe(channel);
    bus.on("message", (_, text) => published.push(text));
    const own = [await open(A, id), await open(B, id), await open(B, id)];
    const other = await open(B, newUser());
    for (const device of own) device.emit("message", { event: "sendMessage", args: { ignored: true } });
    for (const device of own) await device.nth("message", own.length);
    await sleep(300); // for a double, which must not come
    for (const device of own) assert.deepEqual(device.all("message"), own.map(() => sent(id)));
    assert.deepEqual(other.all("message"), []);
    assert.equal(published.length, own.length);
    for (const text of published) {
      const { event, id: user, args } = JSON.parse(text);
      assert.deepEqual({ event, id: user, args }, sent(id));
    }
  });

  it("delivers what an older process publishes", async () => {
    const id = newUser();
    const own = [await open(A, id), await open(B, id)];
    const other = await open(A, newUser());
    const notification = { event: "from elsewhere", id, args: { deep: [1, { a: null }] } };
    await redis.publish(channel, JSON.stringify(notification));
    for (const device of own) assert.deepEqual(await device.nth("message"), notification);
    await sleep(200);
    for (const device of own) assert.equal(device.all("message").length, 1);
    assert.deepEqual(other.all("message"), []);
  });

  it("takes no harm from anything on the bus", async () => {
    const id = newUser();
    const own = [await open(A, id), await open(B, id)];
    const chat = [await connect(A, { username: "bystander" }), await connect(B, { username: "bystander" })];
    const texts = ["", "null", "[]", "{", "7", '"x"', "{}", '{"id":5}', '{"event":{},"id":[]}', `{"event":null,"id":"${id}"}`, "\xff\xfe", "[".repeat(5_000)];
    const packs = [
      "", "c1", "90", "91a1", "93a0c0c0", "93a17880c0", "93a17881a474797065ff80", "93a178c081a5726f6f6d7305", "df", "dfffffffff",
      "dd7fffffff", "c6ffffffff00", "93a17882a47479706502a3".repeat(3), "d9ff00", "92a178", "94a1788080c0",
    ].map((hex) => Buffer.from(hex, "hex"));
    for (const nsp of ["/", "/socket"]) {
      for (const name of [`socket.io#${nsp}#`, `socket.io#${nsp}#${id}#`, `socket.io#${nsp}#${chat[0].userID}#`, `socket.io-request#${nsp}#`, `socket.io-response#${nsp}#`]) {
        for (const body of [...packs, ...texts]) {
          await redis.publish(name, body);
          await redis.spublish(name, body);
        }
      }
      for (const type of [-1, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1e9, "x", null, {}]) {
        for (const rest of [{}, { requestId: 5 }, { requestId: "r" }, { requestId: "r", rooms: 5, sid: [], opts: 7, data: 7, packet: "x" }, { requestId: "r", opts: { rooms: [null], except: {} } }]) {
          await redis.publish(`socket.io-request#${nsp}#`, JSON.stringify({ type, ...rest }));
          await redis.spublish(`socket.io#${nsp}#`, JSON.stringify({ type, uid: "nobody", ...rest, data: rest }));
        }
      }
    }
    for (const text of texts) await redis.publish(channel, text);
    own[0].emit("message", { event: "sendMessage" });
    for (const device of own) assert.deepEqual(await device.match("message", (m) => m?.event === "message_sent"), sent(id));
    await fence(chat[0], chat[1]);
    await fence(chat[1], chat[0]);
    for (const device of [...own, ...chat]) assert.deepEqual(device.all("disconnect"), [], "nobody is cut off");
    for (const url of [A, B]) assert.equal(await fetch(`${url}/healthz`).then((r) => r.text()), "ok\n");
  });
});
