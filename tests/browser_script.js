// What a web page says to an MCP server, with nothing but fetch. `URL_OF_SERVER` is put in.
(async () => {
  const url = "URL_OF_SERVER";
  const accept = "application/json, text/event-stream";
  const modernKey = "io.modelcontextprotocol/";

  async function post(body, headers = {}) {
    const all = { "Content-Type": "application/json", Accept: accept, ...headers };
    return fetch(url, { method: "POST", headers: all, body: JSON.stringify(body) });
  }

  // The messages of an answer, whether it is JSON or a stream.
  async function messages(response) {
    if (response.headers.get("Content-Type").startsWith("application/json")) {
      return [await response.json()];
    }
    const text = await response.text();
    return text
      .split("\n\n")
      .map((block) => block.split("\n").filter((line) => line.startsWith("data:")))
      .map((lines) => lines.map((line) => line.slice(5).trim()).join("\n"))
      .filter((data) => data)
      .map((data) => JSON.parse(data));
  }

  async function legacy() {
    const clientInfo = { name: "page", version: "1" };
    const params = { protocolVersion: "2025-11-25", capabilities: {}, clientInfo };
    const opened = await post({ jsonrpc: "2.0", id: 1, method: "initialize", params });
    const session = opened.headers.get("Mcp-Session-Id");
    const [greeting] = (await messages(opened)).slice(-1);
    const headers = { "Mcp-Session-Id": session, "MCP-Protocol-Version": "2025-11-25" };
    const told = await post({ jsonrpc: "2.0", method: "notifications/initialized" }, headers);
    const call = { name: "slow", arguments: { seconds: 0.2, steps: 2 } };
    call._meta = { progressToken: "t" };
    const body = { jsonrpc: "2.0", id: 2, method: "tools/call", params: call };
    const streamed = await messages(await post(body, headers));
    const ended = await fetch(url, { method: "DELETE", headers });
    return {
      session: session !== null,
      name: greeting.result.serverInfo.name,
      told: told.status,
      methods: streamed.map((message) => message.method ?? "result"),
      ended: ended.status,
    };
  }

  async function modern() {
    const meta = {};
    meta[modernKey + "protocolVersion"] = "2026-07-28";
    meta[modernKey + "clientCapabilities"] = {};
    const params = { name: "add", arguments: { a: 1, b: 2 }, _meta: meta };
    const headers = {
      "MCP-Protocol-Version": "2026-07-28",
      "Mcp-Method": "tools/call",
      "Mcp-Name": "add",
    };
    const answer = await post({ jsonrpc: "2.0", id: 3, method: "tools/call", params }, headers);
    const [message] = await messages(answer);
    return message.result.structuredContent;
  }

  const found = {};
  for (const [name, act] of Object.entries({ legacy, modern })) {
    try {
      found[name] = await act();
    } catch (error) {
      found[name] = String(error);
    }
  }
  return found;
})()
