// Logs in by ssh2, as editors and build tools in JavaScript do: commands, files, a shell with a terminal. Says `ok`.

import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { once } from "node:events";
import { promisify } from "node:util";
import ssh2 from "ssh2";

const [host, port, username, key] = process.argv.slice(2);

async function ended(channel, input = "") {
    let [output, errors] = ["", ""];
    channel.on("data", (data) => (output += data));
    channel.stderr.on("data", (data) => (errors += data));
    const both = Promise.all([once(channel, "exit"), once(channel, "close")]);
    channel.end(input);
    const [[status, signal]] = await both;
    return { output, errors, status, signal };
}

async function commands(client) {
    const exec = promisify(client.exec).bind(client);
    const first = await ended(await exec("cat; echo err >&2; exit 7"), "in");
    assert.deepEqual(first, { output: "in", errors: "err\n", status: 7, signal: undefined });
    const several = await Promise.all([1, 2, 3].map(async (number) => ended(await exec(`exit ${number}`))));
    assert.deepEqual(several.map(({ status }) => status), [1, 2, 3]);
}

async function files(client) {
    const sftp = await promisify(client.sftp).call(client);
    const content = randomBytes(1_500_000);
    await promisify(sftp.writeFile).call(sftp, "from-ssh2", content);
    assert.ok(content.equals(await promisify(sftp.readFile).call(sftp, "from-ssh2")), "another file came back");
    await promisify(sftp.unlink).call(sftp, "from-ssh2");
    sftp.end();
}

async function shell(client) {
    const channel = await promisify(client.shell).call(client, { term: "xterm", cols: 80, rows: 24 });
    channel.setWindow(45, 123, 0, 0);
    // The echo of what is typed does not have the answer.
    const { output, status } = await ended(channel, "echo size=$(stty size | tr ' ' x)\nexit 5\n");
    assert.match(output, /size=45x123/);
    assert.equal(status, 5);
}

const client = new ssh2.Client();
client.connect({ host, port: Number(port), username, privateKey: readFileSync(key), readyTimeout: 60000 });
await once(client, "ready");
for (const test of [commands, files, shell]) {
    const started = Date.now();
    await test(client);
    console.error(`ssh2: ${test.name}: ${(Date.now() - started) / 1000} s`);
}
client.end();
await once(client, "close");
console.log("ok");
