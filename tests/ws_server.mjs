// A WebSocket server on the `ws` package: answers each request with its own params, closes
// with 4321 when it is told to leave. Arguments: where the package is, and whether it
// compresses. Prints its port, then the code of every close that it receives.
import { createRequire } from "node:module";

const [path, compress] = process.argv.slice(2);
const { WebSocketServer } = createRequire(import.meta.url)(path);
const perMessageDeflate = compress === "true" ? { threshold: 10 } : false;
const server = new WebSocketServer({ host: "127.0.0.1", port: 0, perMessageDeflate });
server.on("listening", () => console.log(server.address().port));
server.on("connection", (socket) => {
  socket.ping("hello");
  socket.on("pong", (payload) => {
    const params = { payload: payload.toString(), extensions: socket.extensions };
    socket.send(JSON.stringify({ jsonrpc: "2.0", method: "pong", params }));
  });
  socket.on("message", (data) => {
    const { id, method, params } = JSON.parse(data);
    if (method === "leave") {
      socket.close(4321, "as you wish");
    } else {
      socket.send(JSON.stringify({ jsonrpc: "2.0", id, result: params }));
    }
  });
  socket.on("close", (code) => console.log(code));
});
