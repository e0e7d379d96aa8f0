"""Takes a workspace through its life with the client that openapi-python-client generates: list, create, start, exec, app, delete."""

import base64
import json
import os
import sys

from rigbox_client import AuthenticatedClient
from rigbox_client.api.apps import create_app, delete_app, list_apps
from rigbox_client.api.environment import set_env_vars
from rigbox_client.api.exec_ import exec_command
from rigbox_client.api.files import read_file, write_file
from rigbox_client.api.workspaces import (
    create_workspace,
    delete_workspace,
    get_workspace,
    list_workspaces,
    start_workspace,
)
from rigbox_client.models import (
    ApiErrorBody,
    CreateAppRequest,
    CreateWorkspaceRequest,
    EnvVars,
    ExecExitEvent,
    ExecOutputEvent,
    ExecRequest,
    OutputStream,
    UpdateWorkspaceEnvRequest,
    VmStatus,
)
from rigbox_client.types import File

client = AuthenticatedClient(base_url=sys.argv[1], token=os.environ["RIGBOX_API_KEY"], timeout=120)
name = sys.argv[2]


def names():
    return [vm.name for vm in list_workspaces.sync(client=client).vms]


def wait(id, status, wanted):
    while status != wanted:
        vm = get_workspace.sync(id, client=client, wait_until_not=status, timeout_s=60).vm
        assert vm.status != VmStatus.FAILED, vm
        status = vm.status


def run(id, command):
    response = exec_command.sync_detailed(id, client=client, body=ExecRequest(command=command))
    assert response.status_code == 200, response
    *output, end = [json.loads(line) for line in response.content.splitlines()]
    assert ExecExitEvent.from_dict(end).exit_code == 0, end
    output = [ExecOutputEvent.from_dict(event) for event in output]
    return b"".join(base64.b64decode(event.data_b64) for event in output if event.stream == OutputStream.STDOUT)


assert name not in names()
vm = create_workspace.sync(client=client, body=CreateWorkspaceRequest(name=name, ram_mb=512), idempotency_key=name).vm
assert name in names()
wait(vm.id, vm.status, VmStatus.PROVISIONED)
variables = EnvVars.from_dict({"GREETING": "hello"})
set_env_vars.sync(vm.id, client=client, body=UpdateWorkspaceEnvRequest(env_vars=variables))
wait(vm.id, start_workspace.sync(vm.id, client=client).vm.status, VmStatus.RUNNING)
assert run(vm.id, 'echo "$GREETING"') == b"hello\n"
assert run(vm.id, ["printf", "%s", "a b"]) == b"a b"
content = bytes(range(256))
written = write_file.sync(vm.id, client=client, path="bytes", body=File(payload=content))
assert written.size == len(content), written
assert read_file.sync(vm.id, client=client, path="bytes").payload.read() == content
app = create_app.sync(client=client, body=CreateAppRequest(name=f"app-{name}", workspace_id=vm.id, port=8080)).app
assert [app.id] == [app.id for app in list_apps.sync(client=client, workspace_id=vm.id).apps]
delete_app.sync(app.id, client=client)
wait_from = delete_workspace.sync(vm.id, client=client).status
while not isinstance(gone := get_workspace.sync(vm.id, client=client, wait_until_not=wait_from, timeout_s=60), ApiErrorBody):
    wait_from = gone.vm.status
assert gone.error.code == "not_found", gone
assert name not in names()
print("ok")
