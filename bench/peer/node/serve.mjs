// A Socket.IO server as its documentation has it, on Node or, with ENGINE=bun, on Bun's own engine.
import { Server } from "socket.io";

const port = Number(process.env.PORT ?? 3000);
const hostname = "127.0.0.1";

/** Returns a server that listens once start is called. */
export async function create(options = {}) {
  if (process.env.ENGINE === "bun") {
    const { Server: Engine } = await import("@socket.io/bun-engine");
    const io = new Server(options);
    const engine = new Engine({ path: "/socket.io/", pingInterval: 25_000, pingTimeout: 20_000 });
    io.bind(engine);
    return { io, start: () => Bun.serve({ port, hostname, idleTimeout: 60, ...engine.handler() }) };
  }
  const { createServer } = await import("node:http");
  const http = createServer();
  return { io: new Server(http, options), start: () => http.listen({ port, host: hostname, backlog: 4096 }) };
}
