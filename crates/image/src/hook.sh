#!/bin/sh
# Steps that need mmdebstrap's chroot: the kernel's modules, the user, and the caches that the first boot would
# otherwise build. $1 is the root, KERNEL the meta package, WORK the folder for the results.
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

chroot "$root" groupadd --gid 1000 developer
# `*` disables the password. useradd's default `!` would lock the account, and an sshd without PAM then refuses its keys.
chroot "$root" useradd --uid 1000 --gid 1000 --groups sudo --create-home --shell /bin/bash --password '*' developer

chroot "$root" ldconfig
chroot "$root" journalctl --update-catalog
chroot "$root" systemd-sysusers
