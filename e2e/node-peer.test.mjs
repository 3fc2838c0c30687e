// A Node server with @socket.io/redis-adapter, and a back-end with @socket.io/redis-emitter, beside Parley's processes:
// what can be seen from outside of rooms, broadcasts and requests between them, on the namespaces of the chat ("/") and of
// notify ("/socket"). PARLEY_URLS names the processes, REDIS_URL the Redis, FANOUT what they speak (README.md); with
// sharded there is no emitter, which has not learned it. The Node server lives in this process, so whatever would crash
// it fails the test.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { after, afterEach, before, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { createAdapter, createShardedAdapter } from "@socket.io/redis-adapter";
import { Emitter } from "@socket.io/redis-emitter";
import Redis from "ioredis";
import { Server } from "socket.io";

import { Device } from "./device.mjs";

const urls = (process.env.PARLEY_URLS ?? "").split(",");
const redisURL = process.env.REDIS_URL;
if (!urls[0] || !redisURL) {
  throw new Error("PARLEY_URLS has to name running servers, and REDIS_URL the Redis that they share; e2e/run sets both");
}
const sharded = process.env.FANOUT === "sharded";

const transports = ["websocket"];
const devices = [];
const clients = [new Redis(redisURL), new Redis(redisURL), new Redis(redisURL)];
const [pub, sub, backEnd] = clients;
const http = createServer();
const node = new Server(http, { adapter: sharded ? createShardedAdapter(pub, sub) : createAdapter(pub, sub, { requestsTimeout: 3_000 }) });
const emitter = new Emitter(backEnd);
let nodeURL;

before(async () => {
  for (const name of ["/", "/socket"]) {
    node.of(name).on("connection", (socket) => {
      socket.data.who = "node";
      socket.join([].concat(socket.handshake.auth.rooms ?? []));
    });
  }
  http.listen(0, "127.0.0.1");
  await once(http, "listening");
  nodeURL = `http://127.0.0.1:${http.address().port}`;
  // Both sides know of each other once both listen for requests.
  for (const name of ["/", "/socket"]) {
    for (const deadline = Date.now() + 10_000; (await node.of(name).adapter.serverCount()) <= urls.length; await sleep(20)) {
      assert.ok(Date.now() < deadline, `all listen for requests on ${name}`);
    }
  }
});

afterEach(() => {
  for (const device of devices.splice(0)) device.close();
});

after(async () => {
  await node.close();
  for (const client of clients) client.disconnect();
});

// Devices are spread over the processes.
function open(namespace, options) {
  const url = urls[devices.length % urls.length];
  const device = new Device(namespace, { url, transports, ...options });
  devices.push(device);
  return device;
}

async function person(username, options) {
  const device = open("", { auth: { username }, ...options });
  const [session] = await Promise.all([device.nth("session"), device.nth("users")]);
  return Object.assign(device, session);
}

async function atNode(namespace, rooms) {
  const device = open(namespace, { url: nodeURL, auth: { rooms } });
  await device.nth("connect");
  return device;
}

let users = 0;
const newUser = () => `peer-${++users}`;

async function subscriber(id) {
  const device = open("/socket", { query: { token: "t", id }, extraHeaders: { "x-told": "yes" } });
  await device.nth("connect");
  return device;
}

const until = async (what, condition) => {
  for (const deadline = Date.now() + 5_000; !(await condition()); await sleep(20)) assert.ok(Date.now() < deadline, `waited 5 s for: ${what}`);
};

// What a device gets after everything that was sent to it from there before.
async function fence(from, device) {
  const before = device.all("fence").length;
  from.to(device.socket.id).emit("fence");
  await device.nth("fence", before + 1);
}

describe("from Node and the emitter to Parley", () => {
  for (const [name, from] of [...(sharded ? [] : [["the emitter", emitter]]), ["a Node server", node]]) {
    it(`${name} reaches a user's room, on both namespaces`, async () => {
      const [alice, bob] = [await person("alice"), await person("bob")];
      from.to(alice.userID).emit("news", 1, { b: [1.5, null, true, "é😀", 2 ** 40, -5], a: 1 }, Buffer.from([1, 2]));
      await alice.nth("news");
      const args = alice.log.find((e) => e.name === "news").args;
      assert.deepEqual(args.slice(0, 2), [1, { b: [1.5, null, true, "é😀", 2 ** 40, -5], a: 1 }]);
      assert.deepEqual(Buffer.from(args[2]), Buffer.from([1, 2]));
      from.to([alice.userID, bob.userID]).emit("both");
      from.to(bob.socket.id).emit("own id");
      await bob.nth("own id");
      await fence(from, alice);
      assert.deepEqual([alice, bob].map((d) => d.names().filter((n) => ["news", "both", "own id"].includes(n))), [["news", "both"], ["both", "own id"]]);

      const [u, v] = [newUser(), newUser()];
      const devices = [await subscriber(u), await subscriber(u), await subscriber(v)];
      from.of("/socket").to(u).emit("message", { event: "from outside", id: u });
      for (const device of devices.slice(0, 2)) assert.deepEqual(await device.nth("message"), { event: "from outside", id: u });
      await fence(from.of("/socket"), devices[2]);
      assert.deepEqual(devices.map((d) => d.all("message").length), [1, 1, 0]);
    });

    it(`${name} reaches everybody, except those it excepts`, async () => {
      const [alice, bob] = [await person("alice"), await person("bob")];
      const local = await atNode("/");
      from.emit("everybody", 1);
      from.except(bob.userID).emit("all but bob");
      from.except([alice.userID, bob.userID]).compress(false).emit("neither");
      await Promise.all([alice, bob].map((d) => fence(from, d)));
      await fence(from, local);
      const heard = (d) => d.names().filter((n) => ["everybody", "all but bob", "neither"].includes(n));
      assert.deepEqual([alice, bob, local].map(heard), [["everybody", "all but bob"], ["everybody"], ["everybody", "all but bob", "neither"]]);
      const other = await subscriber(newUser());
      from.of("/socket").emit("message", "all");
      assert.equal(await other.nth("message"), "all");
    });

    it(`${name} joins, leaves and disconnects Parley's sockets`, async () => {
      const id = newUser();
      const devices = [await subscriber(id), await subscriber(newUser())];
      const group = newUser();
      from.of("/socket").in(id).socketsJoin([group, "another"]);
      const rooms = async () => (await node.of("/socket").in(group).fetchSockets()).map((s) => s.id);
      await until("the join", async () => (await rooms()).includes(devices[0].socket.id));
      // What is sent to the room once the join is seen arrives: its subscription is there or in the way.
      await until("a word in the room", () => (from.of("/socket").to(group).emit("room", 1), devices[0].all("room").length));
      from.of("/socket").in(group).socketsLeave(group);
      await until("the leave", async () => (await rooms()).length === 0);
      await fence(from.of("/socket"), devices[0]);
      const before = devices[0].all("room").length;
      from.of("/socket").to(group).emit("room", 2);
      await fence(from.of("/socket"), devices[0]);
      assert.equal(devices[0].all("room").length, before);
      from.of("/socket").in("another").disconnectSockets();
      assert.equal(await devices[0].nth("disconnect"), "io server disconnect");

      const [alice, bob] = [await person("alice"), await person("bob")];
      from.in(alice.userID).disconnectSockets(true);
      await alice.nth("disconnect");
      assert.equal(await bob.match("user disconnected", (u) => u === alice.userID), alice.userID, "and the chat knows");
      await fence(from, bob);
      assert.deepEqual([devices[1], bob].map((d) => d.all("disconnect")), [[], []]);
    });
  }

  it("fetchSockets lists Parley's sockets with rooms, data and handshake", async () => {
    const id = newUser();
    const device = await subscriber(id);
    const alice = await person("alice", { extraHeaders: { "x-told": "yes" } });
    const local = await atNode("/", "here");
    for (const [nsp, d, room] of [["/socket", device, id], ["/", alice, alice.userID]]) {
      const [found, ...more] = await node.of(nsp).in(room).fetchSockets();
      assert.deepEqual(more, []);
      assert.equal(found.id, d.socket.id);
      assert.ok(found.rooms.has(room) && found.rooms.has(d.socket.id));
      assert.equal(found.handshake.headers["x-told"], "yes");
      assert.equal(typeof found.handshake.issued, "number");
      assert.equal(typeof found.handshake.query, "object");
      assert.equal(typeof found.data, "object");
      found.emit("to you", 1);
      assert.equal(await d.nth("to you"), 1);
    }
    const [{ data }] = await node.in(alice.userID).fetchSockets();
    assert.ok(JSON.stringify(data).includes(alice.userID), `the data names the user: ${JSON.stringify(Object.keys(data))}`);
    const all = await node.fetchSockets();
    assert.deepEqual([alice, local].filter((d) => !all.some((s) => s.id === d.socket.id)), []);
  });

  it("a Node broadcast collects Parley's acknowledgements", async () => {
    const [alice, bob] = [await person("alice"), await person("bob")];
    alice.socket.on("question", (n, answer) => answer({ alice: n }));
    bob.socket.on("question", (n, answer) => answer({ bob: n }));
    const answers = await node.timeout(3_000).to([alice.userID, bob.userID]).emitWithAck("question", 7);
    assert.deepEqual(answers.toSorted((a, b) => Object.keys(a)[0].localeCompare(Object.keys(b)[0])), [{ alice: 7 }, { bob: 7 }]);
  });
});

describe("from Parley to Node", () => {
  it("Node's clients in a user's room get the user's private messages", async () => {
    const [alice, bob] = [await person("alice"), await person("bob")];
    const inRoom = await atNode("/", bob.userID);
    const outside = await atNode("/", "elsewhere");
    const ack = await alice.ask("private message", { content: { text: "hi é😀" }, to: bob.userID });
    const got = await inRoom.nth("private message");
    assert.deepEqual([got.content, got.from, got.to, got.id, got.at], [{ text: "hi é😀" }, alice.userID, bob.userID, ack.id, ack.at]);
    assert.equal(inRoom.log.find((e) => e.name === "private message").args.length, 1, "no offset");
    await bob.nth("private message");
    node.to(outside.socket.id).emit("fence");
    await outside.nth("fence");
    assert.deepEqual(outside.all("private message"), []);
    assert.equal(inRoom.all("private message").length, 1);
  });

  it("Node's clients hear who comes and goes", async () => {
    const local = await atNode("/");
    const alice = await person("alice");
    assert.deepEqual(await local.match("user connected", (u) => u.userID === alice.userID), {
      userID: alice.userID, username: "alice", connected: true, messages: [],
    });
    alice.close();
    await local.match("user disconnected", (id) => id === alice.userID);
  });

  it("Node's clients in a user's room get notifications", async () => {
    const id = newUser();
    const [own, local] = [await subscriber(id), await atNode("/socket", id)];
    own.emit("message", { event: "sendMessage" });
    assert.deepEqual(await local.nth("message"), await own.nth("message"));
  });

  it("nothing that a client of Parley says crashes Node or harms its clients", async () => {
    const [alice, bob] = [await person("alice"), await person("bob")];
    const local = await atNode("/", bob.userID);
    let deep = "x";
    for (let i = 0; i < 200; i++) deep = [deep];
    const odd = [null, 0, -0, 1e21, 5e-324, 2 ** 53 + 2, -(2 ** 63), "", "\ud800", "\u0000", [], {}, { __proto__: null, "": 1 }, { type: "Buffer", data: [1] },
      { _placeholder: true, num: 0 }, { _placeholder: true, num: 99 }, "x".repeat(70_000), Array(70_000).fill(0), deep, { constructor: { prototype: 1 } }, { toJSON: 1 }];
    let taken = 0;
    for (const content of odd) {
      const ack = await alice.ask("private message", { content, to: bob.userID });
      if (!ack.error) taken++;
    }
    for (const event of ["connect", "disconnect", "error", "newListener", "$#!", "", "constructor"]) {
      const vandal = await person("vandal");
      vandal.socket.io.engine.send(`2["${event}",{"content":1}]`); // which breaks the protocol, or is unknown
    }
    for (const to of ["#", "\u0000", "socket.io#/#", "*", bob.socket.id]) alice.emit("private message", { content: 1, to });
    await until(`${taken} messages at Node's client`, () => local.all("private message").length >= taken);
    await until(`${taken} messages at Parley's client`, () => bob.all("private message").length >= taken);
    assert.deepEqual(local.all("private message").map((m) => m.id), bob.all("private message").map((m) => m.id));
    for (const [i, m] of bob.all("private message").entries()) {
      // MessagePack's strings are UTF-8, which has no half of a character; sharded pub/sub carries JSON, which has.
      const [there, here] = [local.all("private message")[i], m].map((x) => JSON.stringify(x.content).replace("\\ud800", "\ufffd"));
      assert.equal(there, here);
    }
    assert.deepEqual([local, alice, bob].map((d) => d.all("disconnect")), [[], [], []]);
  });

  it("malformed requests and answers on the bus harm nobody", async () => {
    // Only what Node's own adapter survives: cluster.test.mjs has the rest, for Parley alone.
    const [alice, bob] = [await person("alice"), await person("bob")];
    const local = await atNode("/", bob.userID);
    for (const nsp of ["/", "/socket"]) {
      for (const name of [`socket.io-request#${nsp}#`, `socket.io-response#${nsp}#`]) {
        for (const body of ["", "{", "null", "[]", "{}", '{"type":99}', '{"type":0}', '{"requestId":"x","type":2}', '{"requestId":"nobody\'s","sockets":5}']) {
          await backEnd.publish(name, body);
        }
      }
      await backEnd.publish(`socket.io#${nsp}#no such room#`, "garbage");
      await backEnd.publish("message:outgoing_socket_message", "{");
    }
    node.to(alice.userID).emit("after");
    await alice.nth("after");
    await alice.ask("private message", { content: "after", to: bob.userID });
    await Promise.all([bob, local].map((d) => d.nth("private message")));
    assert.ok((await node.fetchSockets()).length >= 3);
    assert.deepEqual([alice, bob, local].map((d) => d.all("disconnect")), [[], [], []]);
  });
});
