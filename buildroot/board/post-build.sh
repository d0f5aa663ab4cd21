#!/usr/bin/env bash
# post-build.sh TARGET: what the card image has from Debian or from its initramfs. Buildroot calls it.
set -euo pipefail
target=$1
card=$(dirname "$0")/../../image

# Where the partitions are mounted, see the script below.
mkdir -p "$target"/{overlay,data,home,tmp,boot/firmware} \
    "$target"/var/lib/{iwd,piparallel,piparallel-card} "$target/var/lib/systemd/timesync"

# There is no initramfs. The first program of a boot is the script of the card image's, which finds the system mounted at $rootmnt.
{
    cat <<-'INIT'
	#!/bin/sh
	mount -t proc proc /proc
	mount -t sysfs sysfs /sys
	rootmnt=/.

	# Without its first process the kernel starts again, after the seconds of "panic=".
	panic() {
	    echo "piparallel: $*"
	    exit 1
	}
	INIT
    sed '1,/^\. \/scripts\/functions$/d' "$card/initramfs/scripts/init-bottom/card"
    echo
    echo 'exec /sbin/init "$@"'
} >"$target/usr/lib/piparallel/init"
grep -q 'mount -t overlay' "$target/usr/lib/piparallel/init" || {
    echo "post-build.sh: image/initramfs/scripts/init-bottom/card has changed, nothing of it is left for Buildroot" >&2
    exit 1
}
chmod 755 "$target/usr/lib/piparallel/init"

# What Debian calls otherwise, or has and Buildroot has not.
rm -rf "$target/etc/systemd/system/sshd.service.d"
mv "$target/etc/systemd/system/ssh.service.d" "$target/etc/systemd/system/sshd.service.d"
# Only Debian's sshd takes a socket from systemd.
rm -f "$target/etc/systemd/system/ssh.socket"
sed -i 's/^enable ssh\.socket$/enable sshd.service/' "$target/usr/lib/systemd/system-preset/80-card.preset"
grep -q '^Include' "$target/etc/ssh/sshd_config" ||
    sed -i '1i Include /etc/ssh/sshd_config.d/*.conf' "$target/etc/ssh/sshd_config"
# Nothing reads etc/environment at login.
mkdir -p "$target/etc/profile.d"
sed 's/^/export /' "$target/etc/environment" >"$target/etc/profile.d/card.sh"

chmod 440 "$target/etc/sudoers.d/card"
