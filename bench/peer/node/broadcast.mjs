// One event to every socket: "broadcast" [data] makes "event" [data].
import { create } from "./serve.mjs";

const { io, start } = await create();
io.on("connection", (socket) => {
  socket.on("broadcast", (data) => io.emit("event", data));
});
start();
