#!/usr/bin/env bash
# post-image.sh BINARIES: puts the card together, as BINARIES/sdcard.img. Buildroot calls it, with its variables in the environment.
set -euo pipefail
here=$(dirname "$0")
binaries=$1
work=$BUILD_DIR/card
rm -rf "$work"
mkdir -p "$work/root"

# The boot partition: what Buildroot made for it, and what the user edits.
cp "$here/../../image/boot/piparallel.toml" "$binaries/piparallel.toml"
kernel=Image
[ -e "$binaries/$kernel" ] || kernel=zImage
config=$binaries/rpi-firmware/config.txt
if [ "$kernel" = Image ] && [ -e "$config" ] && ! grep -q '^arm_64bit=' "$config"; then
    echo 'arm_64bit=1' >>"$config"
fi
(
    shopt -s nullglob
    cd "$binaries"
    for file in *.dtb rpi-firmware/*; do
        printf '\t\t\t"%s",\n' "$file"
    done
) >"$work/files"
sed -e "s|@KERNEL@|$kernel|" -e "/@FILES@/ { r $work/files" -e 'd }' "$here/genimage.cfg.in" >"$work/genimage.cfg"

# The data partition, with the directories that are mounted elsewhere. Under fakeroot they are root's.
mkdir -p "$work"/data/{home,iwd,piparallel,piparallel-card,ssh,timesync}
chmod 700 "$work"/data/{iwd,piparallel,piparallel-card,ssh}
rm -f "$binaries/data.ext4"
truncate -s 64M "$binaries/data.ext4"
# Room in its tables for growth to 256 GB.
"$HOST_DIR/bin/fakeroot" -- "$HOST_DIR/sbin/mkfs.ext4" -q -b 4096 -m 1 -L data -d "$work/data" -E resize=67108864 "$binaries/data.ext4"

genimage --rootpath "$work/root" --tmppath "$work/tmp" --inputpath "$binaries" --outputpath "$binaries" --config "$work/genimage.cfg"
