// Takes a workspace through its life with openapi-fetch and the types that openapi-typescript generates: list, create, start, exec, app,
// delete.

import createClient from "openapi-fetch";
import type { components, paths } from "./api.js";

type Status = components["schemas"]["VmStatus"];
type ExecEvent = components["schemas"]["ExecEvent"];

declare const process: { argv: string[]; env: Record<string, string | undefined> };
const [url = "", name = ""] = process.argv.slice(2);
const headers = { Authorization: `Bearer ${process.env["RIGBOX_API_KEY"]}` };
const client = createClient<paths>({ baseUrl: url, headers });

function check(condition: boolean, what: unknown): asserts condition {
    if (!condition) throw new Error(JSON.stringify(what));
}

function take<T>(response: { data?: T; error?: unknown; response: Response }): T {
    check(response.data !== undefined, { status: response.response.status, error: response.error });
    return response.data;
}

async function names() {
    return take(await client.GET("/api/v1/workspaces")).vms.map((vm) => vm.name);
}

async function wait(id: string, status: Status, wanted: Status) {
    while (status !== wanted) {
        const params = { path: { id }, query: { wait_until_not: status, timeout_s: 60 } };
        const { vm } = take(await client.GET("/api/v1/workspaces/{id}", { params }));
        check(vm.status !== "failed", vm);
        status = vm.status;
    }
}

async function run(id: string, body: components["schemas"]["ExecRequest"]) {
    const response = await client.POST("/api/v1/workspaces/{id}/exec", { params: { path: { id } }, body, parseAs: "text" });
    let stdout = "";
    for (const line of take(response).trimEnd().split("\n")) {
        const event = JSON.parse(line) as ExecEvent;
        if ("data_b64" in event) {
            stdout += event.stream === "stdout" ? atob(event.data_b64) : "";
        } else {
            check("exit_code" in event && event.exit_code === 0, event);
        }
    }
    return stdout;
}

check(!(await names()).includes(name), "it exists already");
const created = await client.POST("/api/v1/workspaces", {
    params: { header: { "Idempotency-Key": name } },
    body: { name, ram_mb: 512 },
});
const { id, status } = take(created).vm;
check((await names()).includes(name), "it is not listed");
await wait(id, status, "provisioned");
const params = { path: { id } };
take(await client.POST("/api/v1/workspaces/{id}/env", { params, body: { env_vars: { GREETING: "hello" } } }));
const starting = take(await client.POST("/api/v1/workspaces/{id}/start", { params })).vm;
await wait(id, starting.status, "running");
check((await run(id, { command: 'echo "$GREETING"' })) === "hello\n", "command line");
check((await run(id, { command: ["printf", "%s", "a b"] })) === "a b", "arguments");
const { app } = take(await client.POST("/api/v1/apps", { body: { name: `app-${name}`, workspace_id: id, port: 8080 } }));
const { apps } = take(await client.GET("/api/v1/apps", { params: { query: { workspace_id: id } } }));
check(apps.length === 1 && apps[0]?.id === app.id, apps);
take(await client.DELETE("/api/v1/apps/{id}", { params: { path: { id: app.id } } }));
let last = take(await client.DELETE("/api/v1/workspaces/{id}", { params })).status;
for (;;) {
    const query = { wait_until_not: last, timeout_s: 60 };
    const { data, error } = await client.GET("/api/v1/workspaces/{id}", { params: { ...params, query } });
    if (error) {
        check(error.error.code === "not_found", error);
        break;
    }
    last = data.vm.status;
}
check(!(await names()).includes(name), "it is still listed");
console.log("ok");
