// Goes through a table of RFC 6455 frames with an echoing app: node client.mjs PORT KEY, where `ws` is installed.
import assert from "node:assert/strict";
import { once } from "node:events";
import { createRequire } from "node:module";

const WebSocket = createRequire(process.cwd() + "/")("ws");
const [port, key] = process.argv.slice(2);
const limit = setTimeout(() => assert.fail("not in 30 s"), 30_000);

async function opened() {
  const client = new WebSocket(`ws://web.rigbox.localhost:${port}/ws`, {
    lookup: (_, options, found) => (options.all ? found(null, [{ address: "127.0.0.1", family: 4 }]) : found(null, "127.0.0.1", 4)),
    headers: { "X-Rigbox-Key": key, Host: "web.rigbox.localhost:7080" },
  });
  await once(client, "open");
  return client;
}

async function echoes(client, message, binary) {
  const [answer, isBinary] = await once(client, "message");
  assert.equal(isBinary, binary);
  assert.ok(Buffer.from(message).equals(answer), `${answer.length} bytes`);
}

const client = await opened();
for (const size of [0, 1, 125, 126, 127, 65535, 65536, 1 << 20]) {
  for (const message of ["\u00e4".repeat(size), Buffer.alloc(size, 255)]) {
    client.send(message);
    await echoes(client, message, typeof message !== "string");
  }
}
for (const [parts, binary] of [[["one", "", "two"], false], [["\0", "x".repeat(70000)], true]]) {
  parts.forEach((part, at) => client.send(part, { binary, fin: at === parts.length - 1 }));
  await echoes(client, parts.join(""), binary);
}
for (const payload of [Buffer.alloc(0), Buffer.alloc(125, 1)]) {
  client.ping(payload);
  const [answer] = await once(client, "pong");
  assert.ok(payload.equals(answer));
}
client.close();
await once(client, "close");
for (const [code, reason] of [[1000, ""], [1001, "going"], [3000, "\u00e4".repeat(61)], [4999, "x".repeat(123)]]) {
  const client = await opened();
  client.close(code, reason);
  const [said] = await once(client, "close");
  assert.equal(said, code);
}
clearTimeout(limit);
console.log("ok");
