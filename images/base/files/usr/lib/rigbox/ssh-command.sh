# Gives a command by SSH the environment of a login shell. bash reads /etc/bash.bashrc, and no profile, for a command that sshd runs.
if [ -n "${SSH_CLIENT-}" ] && [ -z "${PS1-}" ] && [ "${SHLVL-}" = 1 ] && ! shopt -q login_shell; then
    . /etc/profile
    [ ! -r ~/.profile ] || . ~/.profile
fi
