# A guest for boot tests: Debian's kernel (that for clouds has no 9p), an initrd made by hand, and a root file system. For tests to source, after lib.sh.
# make_guest_kernel: $guest/vmlinuz and $guest/initrd; kept beside the programs, as they take a while.
# make_guest_root DIR: a root whose /sbin/init runs /run-me and powers off.

guest=$(cd "$(dirname "$(command -v shrub)")/.." && pwd)/guest
# In the order in which they are loaded.
modules='virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk crc16 mbcache jbd2 crc32c_generic crc32c-intel ext4
  netfs fscache 9pnet 9pnet_virtio 9p'

need_guest() {
  for program in qemu-system-x86_64 busybox cpio mkfs.ext4 dpkg-deb; do need $program; done
  [ -s "$guest/initrd" ] || make_guest_kernel || {
    echo "SKIPPED: $(basename "$0"): no kernel for a guest could be downloaded" >&2
    exit 77
  }
}

make_guest_kernel() {
  (
    set -e
    mkdir -p "$guest" && cd "$guest"
    newest() { apt-cache depends linux-image-amd64 | awk '/Depends: linux-image/ { print $2; exit }'; }
    package=$(newest)
    [ -n "$package" ] || { apt-get -q update >/dev/null 2>&1 && package=$(newest); }  # no lists are here
    apt-get -q download "$package" >/dev/null 2>&1
    mkdir -p kernel
    dpkg-deb --fsys-tarfile "$package"_*.deb | tar -x -C kernel --wildcards './boot/vmlinuz-*' $(printf '*/%s.ko ' $modules)
    cp kernel/boot/vmlinuz-* vmlinuz
    mkdir -p ram/bin ram/modules ram/proc ram/sys ram/dev ram/root
    cp "$(command -v busybox)" ram/bin/busybox
    for module in $modules; do
      find kernel/lib/modules -name "$module.ko" -exec cp {} ram/modules/ \;
    done
    echo "$modules" >ram/order
    cat >ram/init <<'INIT'
#!/bin/busybox sh
bb=/bin/busybox
$bb mount -t devtmpfs dev /dev
for module in $($bb cat /order); do
  [ -f /modules/$module.ko ] && $bb insmod /modules/$module.ko
done
n=0
until [ -b /dev/vda ] || [ $n = 100 ]; do $bb sleep 0.1; n=$((n + 1)); done
$bb mount -t ext4 -o rw /dev/vda /root || { echo "no root file system"; $bb poweroff -f; }
exec $bb switch_root /root /sbin/init
INIT
    chmod +x ram/init
    (cd ram && find . | cpio -o -H newc 2>/dev/null | gzip -1) >initrd.new
    rm -rf kernel ram ./*.deb
    mv initrd.new initrd
  ) >&2
}

make_guest_root() { # DIR
  mkdir -p "$1/sbin" "$1/bin" "$1/proc" "$1/dev" "$1/data"
  cp "$(command -v busybox)" "$1/bin/busybox"
  cat >"$1/sbin/init" <<'INIT'
#!/bin/busybox sh
export PATH=/bin
for tool in sh cat mount sync sha256sum dd poweroff umount echo ls cp; do [ -e /bin/$tool ] || /bin/busybox ln -s busybox /bin/$tool; done
mount -t proc proc /proc
. /run-me
sync
mount -o remount,ro /
poweroff -f
INIT
  chmod +x "$1/sbin/init"
}
