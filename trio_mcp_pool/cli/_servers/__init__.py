"""Two small MCP servers for the demo, the examples and a first try. Each is a real process and speaks real MCP."""
