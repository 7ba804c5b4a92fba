// A server of fastmcp, the TypeScript framework, for the tests.
//
// node fastmcp_server.mjs stdio
// node fastmcp_server.mjs http PORT

import { FastMCP } from "fastmcp";
import { z } from "zod";

const server = new FastMCP({ name: "framed", version: "1.0.0" });

server.addTool({
  name: "add",
  description: "Add two numbers.",
  parameters: z.object({ a: z.number().int(), b: z.number().int().default(1) }),
  execute: async ({ a, b }) => String(a + b),
});

server.addTool({
  name: "count",
  description: "Report progress up to a number.",
  parameters: z.object({ to: z.number().int() }),
  execute: async ({ to }, { reportProgress }) => {
    for (let number = 1; number <= to; number++) await reportProgress({ progress: number, total: to });
    return "counted";
  },
});

server.addTool({
  name: "fail",
  description: "Fail.",
  execute: async () => {
    throw new Error("as it should");
  },
});

if (process.argv[2] === "stdio") {
  server.start({ transportType: "stdio" });
} else {
  const httpStream = { port: Number(process.argv[3]), endpoint: "/mcp", host: "127.0.0.1" };
  server.start({ transportType: "httpStream", httpStream });
}
