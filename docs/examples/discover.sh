# Asks an MCP server which revisions it speaks: sh discover.sh URL
curl --silent --fail-with-body "$1" \
    --header 'Content-Type: application/json' \
    --header 'Accept: application/json, text/event-stream' \
    --header 'MCP-Protocol-Version: 2026-07-28' \
    --header 'Mcp-Method: server/discover' \
    --data '{"jsonrpc": "2.0", "id": 1, "method": "server/discover", "params": {"_meta": {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {}}}}' |
    sed 's/.*"supportedVersions":\([^]]*]\).*/\1/'
echo
