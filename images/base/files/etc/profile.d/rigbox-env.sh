# The workspace's environment, which the agent keeps in memory only (/run is no disk). RIGBOX_ENV is set by the agent for a
# shell that has all of it already, together with variables of one command, which must win.
if [ "${RIGBOX_ENV-}" = given ]; then
    unset RIGBOX_ENV
elif [ -r /run/rigbox/env ]; then
    set -a
    . /run/rigbox/env
    set +a
fi
