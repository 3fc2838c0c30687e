// The two applications that Parley serves, as their Node servers do it: private messages on "/", after Socket.IO's
// example, and notifications on "/socket". With REDIS_URL, sessions and messages are in Redis and the adapter connects
// any number of processes.
//
// The example's clients ask for no acknowledgement. One that does is answered once the store has the message.
import { randomBytes } from "node:crypto";
import { create } from "./serve.mjs";
import { MemoryMessages, MemorySessions, RedisMessages, RedisSessions } from "./stores.mjs";

const shared = process.env.REDIS_URL !== undefined;
let sessions = new MemorySessions();
let messages = new MemoryMessages();
let options = {};
let publish = (text) => outgoing(text);

if (shared) {
  const { Redis } = await import("ioredis");
  const { createAdapter } = await import("@socket.io/redis-adapter");
  const redis = new Redis(process.env.REDIS_URL);
  sessions = new RedisSessions(redis);
  messages = new RedisMessages(redis);
  options = { adapter: createAdapter(redis, redis.duplicate()) };
  const channel = "message:outgoing_socket_message";
  const bus = redis.duplicate();
  bus.on("pmessage", (_pattern, _channel, text) => outgoing(text));
  await bus.psubscribe(channel);
  publish = (text) => redis.publish(channel, text);
}

const { io, start } = await create(options);
const randomID = () => randomBytes(8).toString("hex");

io.use(async (socket, next) => {
  const { sessionID, username } = socket.handshake.auth;
  const known = sessionID && (await sessions.find(sessionID));
  if (known) {
    Object.assign(socket, { sessionID, userID: known.userID, username: known.username });
    return next();
  }
  if (!username) return next(new Error("invalid username"));
  Object.assign(socket, { sessionID: randomID(), userID: randomID(), username });
  next();
});

io.on("connection", async (socket) => {
  const { sessionID, userID, username } = socket;
  sessions.save(sessionID, { userID, username, connected: true });
  socket.emit("session", { sessionID, userID });
  socket.join(userID);

  const [history, known] = await Promise.all([messages.of(userID), sessions.all()]);
  const byPeer = new Map();
  for (const message of history) {
    const peer = message.from === userID ? message.to : message.from;
    if (byPeer.has(peer)) byPeer.get(peer).push(message);
    else byPeer.set(peer, [message]);
  }
  socket.emit("users", known.map((s) => ({
    userID: s.userID, username: s.username, connected: s.connected, messages: byPeer.get(s.userID) ?? [],
  })));
  socket.broadcast.emit("user connected", { userID, username, connected: true, messages: [] });

  socket.on("private message", async ({ content, to }, ack) => {
    const message = { content, from: userID, to };
    socket.to(to).to(userID).emit("private message", message);
    const saved = messages.save(message);
    if (ack) {
      await saved;
      ack({});
    }
  });

  socket.on("disconnect", async () => {
    // As the contract's adapter did it, for all processes; allSockets of the current one knows its own only.
    const left = await io.in(userID).fetchSockets();
    if (left.length > 0) return;
    socket.broadcast.emit("user disconnected", userID);
    sessions.save(sessionID, { userID, username, connected: false });
  });
});

// Notifications.
const devices = new Map();
const notify = io.of("/socket");

notify.use((socket, next) => {
  const { token, id } = socket.handshake.query;
  if (!token) return next(new Error("Authorization failed, no token has been provided!"));
  socket.userID = id;
  next();
});

notify.on("connection", (socket) => {
  const id = socket.userID;
  devices.set(id, [...(devices.get(id) ?? []), socket]);
  socket.on("message", ({ event }, ack) => {
    handlers.get(event)?.(id);
    ack?.();
  });
  socket.on("disconnect", () => {
    const others = devices.get(id).filter((s) => s !== socket);
    if (others.length > 0) devices.set(id, others);
    else devices.delete(id);
  });
});

const handlers = new Map([
  ["sendMessage", (id) => dispatch(id, "message_sent", `A message from user with id: ${id} has been send`)],
  ["postUpdated", (id) => dispatch(id, "post_updated_notification", "A post you have been mentioned in has been updated")],
]);

function dispatch(id, event, message) {
  publish(JSON.stringify({ event, id, args: { message } }));
}

function outgoing(text) {
  const { event, id, args } = JSON.parse(text);
  for (const socket of devices.get(id) ?? []) socket.emit("message", { event, id, args });
}

start();
