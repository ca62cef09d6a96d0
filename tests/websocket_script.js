// What a program that has nothing but the standard WebSocket says to an MCP server: Node's
// own, or that of a web page. `URL_OF_SERVER` is put in; the script's value is what it found.
(async () => {
  const socket = new WebSocket("URL_OF_SERVER", ["mcp"]);
  const waiting = new Map();
  const notified = [];
  const opened = new Promise((resolve, reject) => {
    socket.onopen = resolve;
    socket.onerror = () => reject(new Error("no WebSocket"));
  });
  const closed = new Promise((resolve) => {
    socket.onclose = (event) => resolve({ code: event.code, clean: event.wasClean });
  });
  socket.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (message.method) {
      notified.push(message.method);
    } else {
      waiting.get(message.id)(message);
    }
  };
  function call(id, method, params) {
    const answered = new Promise((resolve) => waiting.set(id, resolve));
    socket.send(JSON.stringify({ jsonrpc: "2.0", id, method, params }));
    const lost = closed.then((event) => Promise.reject(new Error(`closed with ${event.code}`)));
    return Promise.race([answered, lost]);
  }

  try {
    await opened;
    const clientInfo = { name: "script", version: "1" };
    const greeting = await call(1, "initialize", {
      protocolVersion: "2025-11-25",
      capabilities: {},
      clientInfo,
    });
    socket.send(JSON.stringify({ jsonrpc: "2.0", method: "notifications/initialized" }));
    const sum = await call(2, "tools/call", { name: "add", arguments: { a: 1, b: 2 } });
    await call(3, "tools/call", {
      name: "slow",
      arguments: { seconds: 0.02, steps: 2 },
      _meta: { progressToken: "t" },
    });
    // Larger than what browsers and Node put into one frame.
    const text = "où ça? ".repeat(50000);
    const echoed = await call(4, "tools/call", { name: "echo", arguments: { text } });
    socket.close(4000, "enough");
    return {
      protocol: socket.protocol,
      extensions: socket.extensions,
      name: greeting.result.serverInfo.name,
      sum: sum.result.structuredContent,
      notified,
      echoed: echoed.result.content[0].text === text,
      closed: await closed,
    };
  } catch (error) {
    return { error: String(error), closed: await closed };
  }
})()
