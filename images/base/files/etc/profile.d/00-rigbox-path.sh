# Sets the PATH of everything else in this VM (/etc/environment), where Debian's profile leaves root's programs out. The name sorts
# before rigbox-env.sh, so that a PATH in the workspace's environment counts.
PATH=/home/developer/.local/bin:/opt/python/bin:/opt/node/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
