# Loads the workspace's environment, which the agent keeps in memory only (/run is a tmpfs). The agent sets RIGBOX_ENV for a shell that
# already has it, together with the variables of one command, which take precedence.
if [ "${RIGBOX_ENV-}" = given ]; then
    unset RIGBOX_ENV
elif [ -r /run/rigbox/env ]; then
    set -a
    . /run/rigbox/env
    set +a
fi
